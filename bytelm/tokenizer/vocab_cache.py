"""The big tables of a tokenizer, kept on disk: its pieces, its merges and the bytes of its tokens.

Rules
    The key is a hash of all that the tokenizer says of itself (``to_str()``), so one that was changed in memory is
    another one, and of how it is read. What does not read back whole is read from the tokenizer again, and written
    again.

Cost
    Parsing the JSON of 262,144 pieces and 514,906 merges takes seconds, reading the arrays a tenth of one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int32

from bytelm.tokenizer.disk_cache import cache_folder, read_arrays, write_arrays

_VERSION: Final = 3


@dataclass(frozen=True)
class Tables:
    """What is big about a tokenizer.

    Attributes:
        spec: All the rest of its specification.
        pieces: Token string to id.
        merges: For each merge, in rank order, the ids of its left part, its right part and its result.
        token_bytes: The bytes of each id, or None.
        order: The ids that have bytes, in the order of their bytes (equal ones by id).
    """

    spec: dict[str, Any]
    pieces: dict[str, int]
    merges: Int32[np.ndarray, "merges 3"]
    token_bytes: tuple[bytes | None, ...]
    order: Int32[np.ndarray, " tokens"]


def path_of(specification: str, *read_by: str) -> Path | None:
    """Where the tables of a tokenizer are kept, read by some rule; None where nothing can be."""
    folder = cache_folder("tokenizers")
    digest = hashlib.sha256(f"{_VERSION} {read_by} ".encode() + specification.encode()).hexdigest()
    return folder / f"{digest[:32]}.npz" if folder else None


def load_tables(path: Path | None) -> Tables | None:
    """The kept tables, or None."""
    if (arrays := read_arrays(path)) is None:
        return None
    try:
        names = _cut(arrays["names"].tobytes().decode(), arrays["name_ends"])
        spelled = _cut(arrays["bytes"].tobytes(), arrays["byte_ends"])
        token_bytes: list[bytes | None] = [None] * int(arrays["size"])
        for i, data in zip(arrays["order"].tolist(), spelled, strict=True):
            token_bytes[i] = data
        return Tables(
            spec=json.loads(arrays["spec"].tobytes()),
            pieces=dict(zip(names, arrays["ids"].tolist(), strict=True)),
            merges=arrays["merges"],
            token_bytes=tuple(token_bytes),
            order=arrays["order"],
        )
    except (ValueError, KeyError, IndexError):
        return None


def keep_tables(path: Path | None, tables: Tables) -> None:
    """Write the tables, atomically."""
    spelled = [data for i in tables.order.tolist() if (data := tables.token_bytes[i]) is not None]
    write_arrays(
        path,
        spec=np.frombuffer(json.dumps(tables.spec).encode(), np.uint8),
        names=np.frombuffer("".join(tables.pieces).encode(), np.uint8),
        name_ends=_ends(list(tables.pieces)),
        ids=np.fromiter(tables.pieces.values(), np.int32, len(tables.pieces)),
        merges=tables.merges,
        bytes=np.frombuffer(b"".join(spelled), np.uint8),
        byte_ends=_ends(spelled),
        order=tables.order,
        size=np.array(len(tables.token_bytes)),
    )


def _ends(parts: list[Any]) -> Int32[np.ndarray, " parts"]:
    return np.cumsum(np.fromiter(map(len, parts), np.int32, len(parts)), dtype=np.int32)


def _cut(whole: Any, ends: Int32[np.ndarray, " parts"]) -> list[Any]:
    """The parts of a string, given where each one ends."""
    if len(whole) != (int(ends[-1]) if len(ends) else 0):
        raise ValueError(f"{len(whole)} characters where the parts end at {ends[-1:]}")
    return [whole[a:b] for a, b in pairwise([0, *ends.tolist()])]
