"""What bytelm keeps in its cache folder, and how that is removed without touching anything else.

Rules
    Only what bytelm wrote is listed and removed. A value is known by its name, which is a hash, or by the sha256 that
    it begins with. A model's folder is known by its name and by the sums in its manifest, and only the files that the
    manifest names are its own. Symbolic links, and whatever else lies there, stay.
    A model is removed under the lock of its folder, so none goes away while another process builds it. The manifest
    goes last: a model of which a part was removed is recognised, and built again or removed the next time.
    The empty lock files stay, since a process that waits at one would not notice that it is gone.

Cost
    A look at the names of all files, and the manifests of the models. Values are read where their name is no hash.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final

from bytelm.errors import CacheWriteError
from bytelm.tokenizer.disk_cache import cache_root, read_bytes

MODELS: Final = "models"
KINDS: Final = MappingProxyType(
    {
        MODELS: "packaged models, converted",
        "tokenizers": "tables of tokenizers",
        "merge-trees": "how tokens are merged",
        "char-classes": "classes of characters in patterns",
        "benchmarks": "problems of evaluations",
    }
)
_MANIFEST: Final = "manifest.json"
_VALUE: Final = re.compile(r"[0-9a-f]{32}\.(npz|bin)|\.writing-[0-9a-f]{32}")
_FOLDER: Final = re.compile(r"[a-z0-9-]+-(?P<sum>[0-9a-f]{12})-(gguf-)?v\d+")
_LEFTOVER: Final = re.compile(rf"\.(?P<target>{_FOLDER.pattern})\.\w+\.tmp")


@dataclass(frozen=True, slots=True)
class Cached:
    """One thing that bytelm keeps.

    Attributes:
        kind: A key of `KINDS`.
        path: The file of a value, or the folder of a model.
        files: Its files; the manifest of a model last.
        lock: The file that whoever writes or removes a model holds; None for a value.
    """

    kind: str
    path: Path
    files: tuple[Path, ...]
    lock: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.files if path.is_file())


def cached() -> list[Cached]:
    """What bytelm keeps in its cache folder, by kind and name.

    Raises:
        CacheWriteError: The folder cannot be read.
    """
    try:
        return [*_models(), *_values()]
    except OSError as error:
        raise _failure("read", error) from error


def remove(thing: Cached) -> None:
    """Remove one thing from the cache; what another process removed meanwhile is no error.

    Raises:
        CacheWriteError: It cannot be removed, or another process is writing it.
    """
    from filelock import FileLock, Timeout

    try:
        if thing.lock is None:
            thing.path.unlink(missing_ok=True)
            return
        with FileLock(thing.lock, timeout=0):
            if _LEFTOVER.fullmatch(thing.path.name) and thing.path.exists():
                shutil.rmtree(thing.path)
            for path in thing.files:
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds files of someone else
                thing.path.rmdir()
    except Timeout:
        raise CacheWriteError(
            f"another process is building {thing.path.name}, so it cannot be removed; try again when that is done"
        ) from None
    except OSError as error:
        raise _failure("remove", error) from error


def _models() -> Iterator[Cached]:
    for path in _entries(MODELS):
        if path.is_symlink() or not path.is_dir():
            continue
        if leftover := _LEFTOVER.fullmatch(path.name):
            files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
            yield Cached(MODELS, path, tuple(files), path.with_name(f".{leftover['target']}.lock"))
        elif files := _files_of(path):
            yield Cached(MODELS, path, tuple(files), path.with_name(f".{path.name}.lock"))


def _files_of(folder: Path) -> list[Path]:
    """The files of a model's folder, the manifest last; none if bytelm did not write it."""
    named = _FOLDER.fullmatch(folder.name)
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if named is None or not manifest["source_sha256"].startswith(named["sum"]):
            return []
        names = [name for name in manifest["files"] if PurePath(name).name == name]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no manifest, or anything but one
        return []
    files = [folder / name for name in [*sorted(names), _MANIFEST]]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def _values() -> Iterator[Cached]:
    for kind in KINDS:
        for path in _entries(kind):
            if path.is_symlink() or not path.is_file() or kind == MODELS:
                continue
            if _VALUE.fullmatch(path.name) or (kind == "benchmarks" and read_bytes(path) is not None):
                yield Cached(kind, path, (path,))


def _entries(kind: str) -> list[Path]:
    folder = cache_root() / kind
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _failure(what: str, error: OSError) -> CacheWriteError:
    failure = CacheWriteError(f"cannot {what} {error.filename or cache_root()}: {error.strerror or error}")
    failure.errno = error.errno
    return failure
