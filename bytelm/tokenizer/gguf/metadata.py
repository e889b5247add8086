"""What a GGUF file says of itself: the key-value pairs before its tensors.

Rules
    Only the pairs are read, in one pass; a tensor never is. Strings are UTF-8; what is not becomes U+FFFD.
    The reader of the package `gguf` makes an object for each element of an array: 15 s for a vocabulary of 262,144
    tokens, where this takes a fraction of one.

Source
    The layout is that of ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

_STRING, _ARRAY = 8, 9
_NUMBERS: Final = dict(
    zip((*range(8), 10, 11, 12), ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "?", "u8", "i8", "f8"), strict=True)
)


def read_metadata(path: Path, prefix: str = "") -> dict[str, Any]:
    """The pairs of a file whose keys begin with a prefix: numbers, strings, and lists of them.

    Raises:
        ValueError: It is no GGUF file of version 2 or 3, or ends too early.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            data = None
        if data is None or data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        with data:
            try:
                return _pairs(data, prefix)
            except (struct.error, KeyError) as error:
                raise ValueError(f"its key-value pairs are damaged ({error!r})") from error


def _pairs(data: mmap.mmap, prefix: str) -> dict[str, Any]:
    version, _, count = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise ValueError(f"it is of version {version}; 2 and 3 are known")
    found: dict[str, Any] = {}
    at = 24
    for _ in range(count):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        value, at = _value(data, at + 4, kind, wanted=key.startswith(prefix))
        if key.startswith(prefix):
            found[key] = value
    return found


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + size
    if end > len(data):
        raise struct.error("a string goes beyond the end of the file")
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value(data: mmap.mmap, at: int, kind: int, *, wanted: bool) -> tuple[Any, int]:
    """The value at a place, and where it ends."""
    if kind == _STRING:
        return _string(data, at)
    if kind != _ARRAY:
        dtype = np.dtype("<" + _NUMBERS[kind])
        return np.frombuffer(_slice(data, at, dtype.itemsize), dtype)[0].item(), at + dtype.itemsize
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner not in (_STRING, _ARRAY):
        dtype = np.dtype("<" + _NUMBERS[inner])
        size = dtype.itemsize * count
        return np.frombuffer(_slice(data, at, size), dtype).tolist() if wanted else None, at + size
    items = []
    for _ in range(count):
        item, at = _value(data, at, inner, wanted=wanted)
        items.append(item)
    return items, at


def _slice(data: mmap.mmap, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise struct.error("a value goes beyond the end of the file")
    return data[at : at + size]
