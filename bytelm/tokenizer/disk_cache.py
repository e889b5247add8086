"""The folder on disk where what was computed once is kept.

Rules
    ``BYTELM_CACHE`` names it, else the platform's cache folder. Whatever is in it can be deleted at any time.
    A file appears whole or not at all (written beside its place, then renamed), so two processes at once are safe.
    A cache that cannot be read or written is no error: the value is computed again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """The folder for one kind of cached values, made if need be; None where it cannot be made."""
    import platformdirs

    root = os.environ.get("BYTELM_CACHE") or platformdirs.user_cache_dir("bytelm")
    folder = Path(root).expanduser() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def read_bytes(path: Path | None) -> bytes | None:
    """The content of a cached file, or None."""
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_bytes(path: Path | None, data: bytes) -> None:
    """Keep a value, atomically; a full or read-only disk is passed over."""
    if path is None:
        return
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
