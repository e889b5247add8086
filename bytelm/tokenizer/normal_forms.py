"""Which text a Unicode normal form would change: such text has no canonical sequence.

Rules
    The tokenizer's own normalizer is the judge, also of which characters can interact with their neighbours at all.
    Normal forms are closed under taking substrings (Unicode Annex 15), so a text is in normal form if and only if every
    stretch from one *inert* character to the next is: inert characters stand for themselves and never combine with, nor
    move before, what comes earlier. Nearly all characters are inert, and between them the check is a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Int64

from bytelm.symbols import completions, is_continuation, unfinished
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.split.char_classes import CODE_POINTS

Form = Literal["NFC", "NFD"]

_SURROGATES: Final = range(0xD800, 0xE000)
_LOW_MARK: Final = "\u0334"  # canonical combining class 1, the lowest
_HIGH_MARK: Final = "\u0345"  # canonical combining class 240, the highest


class NormalForm:
    """One normal form as the tokenizer applies it, over one vocabulary.

    Attributes:
        form: ``NFC`` or ``NFD``.
        inert: Code points that never interact with what comes before them.
    """

    def __init__(self, form: Form, prefix_index: PrefixIndex, forbidden: Bool[np.ndarray, " points"]) -> None:
        self.form = form
        self.prefix_index = prefix_index
        self._forbidden = forbidden
        self._normalizer = _normalizer(form)
        self.inert = _tables(form)[1]

    @kept(1 << 16)
    def keeps(self, text: str) -> bool:
        """Whether the form leaves a short text as it is."""
        return self.apply(text) == text

    def apply(self, text: str) -> str:
        """The text in this form."""
        return str(self._normalizer.normalize_str(text))

    def window(self, text: str) -> str:
        """The end of a text from its last inert character on: all that what follows can interact with."""
        for at in range(len(text) - 1, -1, -1):
            if self.inert[ord(text[at])]:
                return text[at:]
        return text

    def keeps_with(self, tail: str, text: str, partial: bytes) -> bool:
        """Whether the normal form leaves ``tail + text`` alone and some completion of ``partial`` after it."""
        if text and not self.keeps(tail + text):
            return False
        if not partial:
            return True
        window = self.window(tail + text)
        free, others = self._completed(partial)
        return free or any(self.keeps(window + char) for char in others)

    @kept()
    def _completed(self, partial: bytes) -> tuple[bool, tuple[str, ...]]:
        """Whether some completion of a character is inert, and if none is, all completions."""
        chars = self._completions(partial)
        free = any(self.inert[ord(char)] for char in chars)
        return free, () if free else tuple(chars)

    def _completions(self, partial: bytes) -> list[str]:
        points = np.array(completions(partial), np.int64)
        points = points[~self._forbidden[points]]
        inert = points[self.inert[points]]
        return [chr(p) for p in (inert[:1] if len(inert) else points).tolist()]

    @cached_property
    def _interacting(self) -> _Interacting:
        """The tokens that a normal form may combine with what comes before them, or that it changes by themselves."""
        ranks, heads, plain = [], [], []
        for rank, data in enumerate(self.prefix_index.spelled):
            if data.isascii():
                continue
            rest = unfinished(data)
            text = data[: len(data) - len(rest)].decode("utf-8", "replace")
            head = next((i for i, char in enumerate(text) if self.inert[ord(char)]), len(text))
            inside = is_continuation(data[0])
            if rest or head or inside or not self.keeps(text):
                ranks.append(rank)
                heads.append(text[:head])
                # After an inert character the token is on its own: all that depends on the place is its head.
                plain.append(not inside and (head < len(text) or not rest) and self.keeps_with("", text, rest))
        distinct = {head: i for i, head in enumerate(dict.fromkeys(heads))}
        return _Interacting(
            np.array(ranks, np.int64),
            np.array([distinct[h] for h in heads], np.int64),
            np.array(plain, np.bool_),
            tuple(distinct),
        )

    def narrow(self, out: Bool[np.ndarray, " n"], lo: int, hi: int, *, tail: str, partial: bytes) -> None:
        """Strike out, of the tokens ``lo:hi``, those that the form would change after ``tail`` and ``partial``."""
        interacting = self._interacting
        first, last = np.searchsorted(interacting.ranks, (lo, hi))
        places = interacting.ranks[first:last] - lo
        asked = out[places]
        if not partial and asked.sum() > 16:  # below this, asking one by one is faster
            easy = asked & interacting.plain[first:last]
            out[places[easy]] = self._heads_kept(tail)[interacting.head[first:last][easy]]
            asked &= ~easy
        for place in places[asked].tolist():
            whole = partial + self.prefix_index.spelled[lo + place]
            rest = unfinished(whole)
            text = whole[: len(whole) - len(rest)].decode("utf-8", "replace")
            out[place] = self.keeps_with(tail, text, rest)

    @kept(1 << 12)
    def _heads_kept(self, tail: str) -> Bool[np.ndarray, " heads"]:
        return np.array(
            [not head or self.apply(tail + head) == tail + head for head in self._interacting.heads], np.bool_
        )


@dataclass(frozen=True, slots=True)
class _Interacting:
    """Tokens that need a look.

    Attributes:
        ranks: Their ranks.
        head: Which of ``heads`` each one begins with: its characters before the first inert one.
        plain: Whether the head is all that depends on the place.
        heads: The distinct heads.
    """

    ranks: Int64[np.ndarray, " n"]
    head: Int64[np.ndarray, " n"]
    plain: Bool[np.ndarray, " n"]
    heads: tuple[str, ...]


def changed_points(form: Form) -> Bool[np.ndarray, " points"]:
    """The code points that a form replaces by others."""
    return _tables(form)[0]


def _normalizer(form: str) -> Any:
    from tokenizers import normalizers

    return normalizers.NFC() if form == "NFC" else normalizers.NFD()


@lru_cache(maxsize=2)
def _tables(form: str) -> tuple[Bool[np.ndarray, " points"], Bool[np.ndarray, " points"]]:
    """Ask the normalizer about every code point beyond ASCII, all in one call, kept apart by line feeds."""
    points = [p for p in range(0x80, 0x40000) if p not in _SURROGATES] + list(range(0xE0000, 0xE1000))
    own = _lines(form, [chr(p) for p in points])
    changed = np.zeros(CODE_POINTS, np.bool_)
    interacting = np.zeros(CODE_POINTS, np.bool_)
    after = _lines(form, [_HIGH_MARK + chr(p) for p in points])
    before = _lines(form, [chr(p) + _LOW_MARK for p in points])
    decomposed = _lines("NFD", [chr(p) for p in points])
    for p, alone, behind, ahead, parts in zip(points, own, after, before, decomposed, strict=True):
        char = chr(p)
        changed[p] = alone != char
        # A mark of class above 1 moves behind U+0334; one of class below 240 moves before U+0345.
        moves = len(parts) == 1 and (behind[:1] == char != _HIGH_MARK or ahead[:1] == _LOW_MARK != char)
        interacting[p] = moves or changed[p] or char in (_LOW_MARK, _HIGH_MARK)
        for part in parts[1:]:
            interacting[ord(part)] = True
    return changed, ~interacting


def _lines(form: str, texts: list[str]) -> list[str]:
    lines: list[str] = _normalizer(form).normalize_str("\n".join(texts)).split("\n")
    return lines
