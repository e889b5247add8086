"""Characters that are cut short: which classes a UTF-8 character can still be of, by its first bytes.

Theory of operation
    The automata read bytes, and patterns speak of whole characters. A lead byte begins a range of code points, and each
    byte after it narrows the range, until one code point is left. Beginnings after which the same bytes lead to the
    same classes are one, so that the states inside a character stay few.

Cost
    Each beginning is worked out once, from a slice of the table of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from bytelm.symbols import completions, is_continuation, missing
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.split.char_classes import NO_CLASS


@dataclass(frozen=True, slots=True)
class Partial:
    """The beginning of a UTF-8 character: how many bytes are missing and the classes of all its completions.

    Attributes:
        missing: Bytes that complete it.
        first: The first code point that it can become.
        last: The last one.
        key: Equal for beginnings with the same completions.
        classes: What classes the whole character can be of.
    """

    missing: int
    first: int
    last: int
    key: bytes
    classes: tuple[int, ...]


class Utf8:
    """The beginnings of characters, for one table of classes; those with the same completions are one."""

    def __init__(self, class_of: UInt16[np.ndarray, " points"]) -> None:
        self.class_of = class_of

    def next(self, begun: Partial | None, byte: int) -> Partial | int | None:
        """The character that is begun after one more byte, or its class if it is whole; None if there is none."""
        if begun:
            return self._inner(begun, byte)
        return int(self.class_of[byte]) if byte < 0x80 else self._lead(byte)

    @kept()
    def _lead(self, byte: int) -> Partial | None:
        """The character that a lead byte begins."""
        points = completions(bytes([byte])) if byte >= 0xC0 else range(0)
        return self._partial(missing(bytes([byte])), points.start, points.stop - 1) if points else None

    def _inner(self, partial: Partial, byte: int) -> Partial | int | None:
        """After one more byte: a longer beginning, or the class of the whole character (`NO_CLASS`: none)."""
        if not is_continuation(byte):
            return None
        shift = 6 * (partial.missing - 1)
        origin = partial.first >> 6 * partial.missing << 6 * partial.missing
        first = origin + ((byte & 0x3F) << shift)
        if not shift:
            return int(self.class_of[first]) if partial.first <= first <= partial.last else None
        low, high = max(first, partial.first), min(first + (1 << shift) - 1, partial.last)
        return self._partial(partial.missing - 1, low, high) if low <= high else None

    @kept()
    def _partial(self, missing: int, first: int, last: int) -> Partial | None:
        inside = self.class_of[first : last + 1]
        if not (inside != NO_CLASS).any():
            return None
        origin = first >> 6 * missing << 6 * missing
        key = f"{missing},{first - origin},{last - origin},".encode() + inside.tobytes()
        classes = tuple(c for c in np.unique(inside).tolist() if c != NO_CLASS)
        return Partial(missing, first, last, key, classes)
