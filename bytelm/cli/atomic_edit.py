"""A file that is changed in place: whole, or not at all.

Rules
    What a file is to hold is written beside it, flushed to the disk, and renamed over it: whoever opens the file finds
    the old text or the new one, and whatever fails leaves the old one.
    The new file has the mode of the old one, and its owner and extended attributes (access lists too) where the system
    lets us give them. A symbolic link stays one: the file that it leads to is replaced. Other hard links keep the old
    text.
    A file that nobody may write is not replaced, though its folder would allow it, and though we be root.
    A file that someone has changed since it was read is not replaced.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from bytelm.errors import FileWriteError
from bytelm.pictures.whole_file import beside

OURS: Final = 0o600  # until the file has the rights of the one that it replaces


def writable(path: Path) -> Path:
    """The file that a path leads to, found to be one that may be replaced.

    Raises:
        FileWriteError: It may not be written, or no file may be made beside it.
    """
    try:
        target = path.resolve()
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise FileWriteError(f"cannot change {path}: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(mode):
        raise FileWriteError(f"cannot change {path} in place: it is not a regular file")
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(target, os.W_OK):
        raise FileWriteError(f"cannot change {path}: it is read-only; make it writable, or leave --in-place out")
    if not os.access(target.parent, os.W_OK):
        raise FileWriteError(
            f"cannot change {path}: new text is written beside it first, and the folder {target.parent} is read-only"
        )
    return target


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Put one content in the place of another.

    Args:
        path: The file.
        old: What it held when it was read.
        new: Its new bytes.

    Raises:
        FileWriteError: It cannot be written, or it holds something else by now. It is as it was.
    """
    target = writable(path)
    try:
        with beside(target, new, mode=OURS) as other:
            shutil.copystat(target, other)  # extended attributes, and the times
            os.utime(other)
            _dress(other, target.stat())
            if target.read_bytes() != old:
                raise FileWriteError(
                    f"{path} was changed while the model ran, so nothing was written: run the command again"
                )
            other.replace(target)
    except OSError as error:
        if isinstance(error, FileWriteError):
            raise
        failure = FileWriteError(f"cannot change {path}; it is unchanged: {error.strerror or error}")
        failure.errno = error.errno
        raise failure from error


def _dress(path: Path, model: os.stat_result) -> None:
    """Give a file another's owner, group and mode; without the owner or the group, not the rights that were theirs."""
    mode = stat.S_IMODE(model.st_mode)
    if hasattr(os, "chown"):
        # The group may be ours to give where the owner is not.
        for owner, group, theirs in ((-1, model.st_gid, stat.S_ISGID | stat.S_IRWXG), (model.st_uid, -1, stat.S_ISUID)):
            try:
                os.chown(path, owner, group)
            except OSError:
                mode &= ~theirs
    path.chmod(mode)
