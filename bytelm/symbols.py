"""The 257 symbols of a byte model: the 256 bytes, and the end of text. And where UTF-8 characters begin among bytes."""

from __future__ import annotations

from typing import Final

SYMBOLS: Final = 257  # the 256 bytes and the end of text


EOT: Final = 256


TIE: Final = 1e-12  # sums of probabilities that differ by less, relative to their size, count as equal


def is_continuation(byte: int) -> bool:
    """Whether a byte lies inside a UTF-8 character: characters begin with other bytes."""
    return byte & 0xC0 == 0x80


def character_from(text: bytes, at: int) -> int:
    """The first place at or after ``at`` where no character is cut: one begins there, or the text ends.

    >>> character_from("aé".encode(), 1), character_from("aé".encode(), 2)
    (1, 3)
    """
    while at < len(text) and is_continuation(text[at]):
        at += 1
    return at


def character_until(text: bytes, at: int) -> int:
    """The last place at or before ``at`` where no character is cut: one begins there, or the text begins or ends.

    >>> character_until("aé".encode(), 2), character_until("aé".encode(), 3)
    (1, 3)
    """
    while 0 < at < len(text) and is_continuation(text[at]):
        at -= 1
    return at
