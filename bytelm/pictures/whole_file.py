"""A file that is written whole, or not at all.

Rules
    What a file is to hold is written beside it, flushed to the disk, and renamed over it: whoever opens the file finds
    the old text or the new one, and whatever fails leaves the old one.
    A file that is there keeps its mode. A symbolic link stays one: the file that it leads to is replaced. What is no
    regular file, such as a pipe or /dev/stdout, is written to.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final

from bytelm.errors import FileWriteError

NEW: Final = 0o666  # less what the user's mask takes away


@contextlib.contextmanager
def beside(target: Path, data: bytes, *, mode: int = NEW) -> Iterator[Path]:
    """A file next to another with these bytes, on the disk. It is removed at the end, unless it was renamed.

    Args:
        target: The other.
        data: What it holds.
        mode: Its rights.
    """
    path = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_file(path: str | PathLike[str], content: str | bytes) -> None:
    """Write a file.

    Args:
        path: Where.
        content: Bytes, or a text, which is written as UTF-8.

    Raises:
        FileWriteError: It cannot be written; what was there is as it was.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    try:
        target = Path(path).resolve()
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            target.write_bytes(data)
            return
        with beside(target, data) as new:
            if mode is not None:
                new.chmod(stat.S_IMODE(mode))
            new.replace(target)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL; RuntimeError: a loop of links
        failure = FileWriteError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
        failure.errno = getattr(error, "errno", None)
        raise failure from error
