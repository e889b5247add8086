"""Which characters text can contain, and which of them only byte tokens spell.

Rules
    A character is *forbidden* if no text with it comes back from encoding and decoding: surrogates, ``▁`` where it
    stands for a space, characters that a normal form replaces, and those with a byte that a byte-level vocabulary
    lacks. In a sentencepiece vocabulary byte tokens spell the characters that are no piece of their own, and only
    those.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from bytelm.tokenizer.normal_forms import changed_points
from bytelm.tokenizer.split.char_classes import CODE_POINTS
from bytelm.tokenizer.vocab import SPACE_MARK, Vocab


def forbidden_points(vocab: Vocab) -> Bool[np.ndarray, " points"]:
    """The code points that text of this tokenizer cannot contain."""
    forbidden = np.zeros(CODE_POINTS, np.bool_)
    forbidden[0xD800:0xE000] = True
    if vocab.family == "sentencepiece" and SPACE_MARK in vocab.pieces:
        forbidden[ord(SPACE_MARK)] = True
    if vocab.form:
        forbidden |= changed_points(vocab.form)
    if missing := vocab.missing_bytes:
        forbidden |= spelled_with(missing)
    return forbidden


def outside_points(vocab: Vocab, forbidden: Bool[np.ndarray, " points"]) -> Bool[np.ndarray, " points"] | None:
    """The code points that byte tokens spell; None for a byte-level vocabulary, which has no such tokens."""
    if vocab.family == "byte-level":
        return None
    outside = ~forbidden
    outside[[ord(piece) for piece in vocab.pieces if len(piece) == 1]] = False
    outside[0x20] &= SPACE_MARK not in vocab.pieces
    return outside


def spelled_with(missing: frozenset[int]) -> Bool[np.ndarray, " points"]:
    """The code points whose UTF-8 form has one of these bytes."""
    absent = np.array([b in missing for b in range(256)])
    points = np.arange(CODE_POINTS)
    out = np.zeros(CODE_POINTS, np.bool_)
    for low, high, size in ((0, 0x80, 1), (0x80, 0x800, 2), (0x800, 0x10000, 3), (0x10000, CODE_POINTS, 4)):
        p = points[low:high]
        lead = p if size == 1 else 0x100 - (0x100 >> size) | p >> 6 * (size - 1)
        found = absent[lead]
        for back in range(size - 1):
            found = found | absent[0x80 | p >> 6 * back & 0x3F]
        out[low:high] = found
    return out
