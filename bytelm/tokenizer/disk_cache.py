"""The folder on disk where what was computed once is kept, and how a file is written whole or not at all.

Rules
    ``BYTELM_CACHE`` names the folder; without it, the platform's cache folder. It can be deleted at any time.
    A file appears whole or not at all (`writing`), so two processes at once are safe.
    A cached value that cannot be read or written is no error: it is computed again. A value begins with its sha256, so
    what a disk has lost or changed is noticed and made anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

import numpy as np

from bytelm.errors import BytelmError, CacheWriteError

_DIGEST: Final = 32  # bytes of a sha256


def cache_root() -> Path:
    """The folder that holds all that is kept."""
    import platformdirs

    return Path(os.environ.get("BYTELM_CACHE") or platformdirs.user_cache_dir("bytelm")).expanduser().absolute()


def cache_folder(kind: str) -> Path | None:
    """The folder for one kind of cached values, made if needed; None if it cannot be made."""
    folder = cache_root() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def read_bytes(path: Path | None) -> bytes | None:
    """A cached value, or None where there is none, or it is damaged."""
    try:
        kept = path.read_bytes() if path else b""
    except OSError:
        return None
    digest, data = kept[:_DIGEST], kept[_DIGEST:]
    return data if hashlib.sha256(data).digest() == digest else None


def write_bytes(path: Path | None, data: bytes) -> None:
    """Keep a value; if the disk is full or read-only, it is not kept."""
    if path:
        with suppress(CacheWriteError), writing(path) as file:
            file.write(hashlib.sha256(data).digest() + data)


def read_arrays(path: Path | None) -> dict[str, np.ndarray] | None:
    """The arrays of a cached file, by name; None if there is none, or it is damaged."""
    if (kept := read_bytes(path)) is None:
        return None
    try:
        with np.load(io.BytesIO(kept), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
        return None


def write_arrays(path: Path | None, **arrays: np.ndarray) -> None:
    """Keep arrays, as `write_bytes` keeps bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole, on the disk, when the block ends; after any error everything is as it was.

    Raises:
        CacheWriteError: The operating system refuses (a full disk, no permission), here or in the block. Its ``errno``
            is the system's.
    """
    beside = path.with_name(f".writing-{uuid4().hex}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if not isinstance(error, OSError) or isinstance(error, BytelmError):
            raise
        failure = CacheWriteError(f"cannot write {path}: {error}. Free some space, or choose another folder")
        failure.errno = error.errno
        raise failure from error
