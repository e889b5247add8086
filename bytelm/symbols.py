"""The 257 symbols of a byte model: the 256 bytes, and the end of text. And where UTF-8 characters begin among bytes."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float64

SYMBOLS: Final = 257  # the 256 bytes and the end of text


EOT: Final = 256


TIE: Final = 1e-12  # sums of probabilities that differ by less, relative to their size, count as equal


def leak_of(logprobs: Float64[np.ndarray, "257"]) -> float:
    """What a row's probabilities lack of 1: the mass that is on no symbol."""
    return max(0.0, 1.0 - float(np.exp(logprobs).sum()))


CONTINUATIONS: Final = range(0x80, 0xC0)


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


def completions(partial: bytes) -> range:
    """The code points of the characters whose UTF-8 form begins with these bytes (a lead byte first, not all of them).

    >>> completions("é".encode()[:1])
    range(192, 256)
    >>> len(completions(b"\\xf9"))  # begins no character
    0
    """
    size = len(partial) + missing(partial)
    low = partial[0] & (0xFF >> size)
    for byte in partial[1:]:
        low = low << 6 | byte & 0x3F
    shift = 6 * missing(partial)
    return range(max(low << shift, {2: 0x80, 3: 0x800, 4: 0x10000}[size]), min((low + 1) << shift, 0x110000))


def unfinished(data: bytes) -> bytes:
    """The bytes at the end of some text that begin a character without completing it.

    >>> unfinished("é".encode() + "é".encode()[:1])
    b'\\xc3'
    """
    for back in range(1, min(3, len(data)) + 1):
        tail = data[-back:]
        if not is_continuation(tail[0]):
            return tail if tail[0] >= 0xC0 and missing(tail) > 0 else b""
    return b""


def missing(partial: bytes) -> int:
    """How many bytes complete a character of which these are the first; 0 for none.

    >>> missing(b"\\xf0\\x9f"), missing(b"")
    (2, 0)
    """
    return (2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4) - len(partial) if partial else 0
