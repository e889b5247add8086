"""Which text a Unicode normal form would change: such text has no canonical sequence.

Rules
    The tokenizer's own normalizer is the judge, also of which characters can interact with their neighbours at all.
    Normal forms are closed under taking substrings (Unicode Annex 15), so a text is in normal form if and only if every
    stretch from one *inert* character to the next is: inert characters stand for themselves and never combine with, nor
    move before, what comes earlier. Nearly all characters are inert, and between them the check is a comparison.
    Marks have a combining class. In a text in normal form their classes grow from one *starter* (class 0) to the next.
    A mark moves before one of a higher class, and combines with the starter where no mark of its own class stands
    between. So of a text all that what follows can interact with is the last starter, and the first of the last marks
    that are of one class.
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
        behaviour: Code points with the same number interact alike, with what comes before them and what follows; 0 with
            neither.
    """

    def __init__(self, form: Form, prefix_index: PrefixIndex, forbidden: Bool[np.ndarray, " points"]) -> None:
        self.form = form
        self.prefix_index = prefix_index
        self._forbidden = forbidden
        self._normalizer = _normalizer(form)
        tables = _tables(form)
        self.inert, self.behaviour = tables.inert, tables.behaviour
        self._class_of, self._combines = tables.class_of, tables.combines

    @kept(1 << 16)
    def keeps(self, text: str) -> bool:
        """Whether the form leaves a short text as it is."""
        return self.apply(text) == text

    def apply(self, text: str) -> str:
        """The text in this form."""
        return str(self._normalizer.normalize_str(text))

    def window(self, text: str) -> str:
        """All of a text, which is in this form, that what follows can interact with: at most two characters."""
        first = ""
        for char in reversed(text):
            mark = self._class_of.get(ord(char))
            if mark is None:
                return char + first if self._combines[ord(char)] else first
            if not first or mark == self._class_of[ord(first)]:
                first = char
        return first

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
    def ignores(self, partial: bytes) -> bool:
        """Whether no character that begins so interacts with others: which of them it becomes makes no difference."""
        points = completions(partial)
        own = slice(points.start, points.stop)
        return bool(self.inert[own].all() and not self.behaviour[own].any())

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
    return _tables(form).changed


def _normalizer(form: str) -> Any:
    from tokenizers import normalizers

    return normalizers.NFC() if form == "NFC" else normalizers.NFD()


@dataclass(frozen=True, slots=True)
class _Tables:
    """What a form does with single code points and pairs.

    Attributes:
        changed: Those that it replaces by others.
        inert: Those that never interact with what comes before them.
        combines: Those that it may combine with what follows.
        class_of: Of the marks, their combining class, as a number of our own.
        behaviour: See `NormalForm`.
    """

    changed: Bool[np.ndarray, " points"]
    inert: Bool[np.ndarray, " points"]
    combines: Bool[np.ndarray, " points"]
    class_of: dict[int, int]
    behaviour: Int64[np.ndarray, " points"]


@lru_cache(maxsize=2)
def _tables(form: Form) -> _Tables:
    """Ask the normalizer about every code point beyond ASCII, all in one call, kept apart by line feeds."""
    points = [p for p in range(0x80, 0x40000) if p not in _SURROGATES] + list(range(0xE0000, 0xE1000))
    characters = list(map(chr, points))
    own, decomposed = _lines(form, characters), _lines("NFD", characters)
    changed, interacting, combines = np.zeros((3, CODE_POINTS), np.bool_)
    class_of = _combining_classes([char for char, parts in zip(characters, decomposed, strict=True) if parts == char])
    pairs = [(p, parts) for p, parts, alone in zip(points, decomposed, own, strict=True) if alone == chr(p) != parts]
    before: dict[int, set[int]] = {}  # what a code point is combined with in front of it
    after: dict[int, set[int]] = {}
    for (_, parts), first in zip(pairs, _lines(form, [parts[:-1] for _, parts in pairs]), strict=True):
        combines[ord(first)] = interacting[ord(parts[-1])] = True
        after.setdefault(ord(first), set()).add(ord(parts[-1]))
        before.setdefault(ord(parts[-1]), set()).add(ord(first))
    # Between a character and its own last mark another may move, and combine with what is left of it.
    marked = {p: parts for p, parts in pairs if ord(parts[-1]) in class_of}
    combines[list(marked)] = True
    for p, alone in zip(points, own, strict=True):
        changed[p] = alone != chr(p)
    interacting[list(class_of)] = True
    interacting |= changed
    behaviour = np.zeros(CODE_POINTS, np.int64)
    numbers: dict[Any, int] = {}
    for p in {*class_of, *before, *after, *marked}:
        key = (class_of.get(p), frozenset(before.get(p, ())), frozenset(after.get(p, ())), marked.get(p))
        behaviour[p] = numbers.setdefault(key, len(numbers) + 1)
    return _Tables(changed, ~interacting, combines, class_of, behaviour)


def _combining_classes(characters: list[str]) -> dict[int, int]:
    """Of the marks among some characters that stand for themselves, their combining classes, as they are ordered."""
    # A mark of class above 1 moves behind U+0334; one of class below 240 moves before U+0345.
    behind = _lines("NFD", [_HIGH_MARK + char for char in characters])
    ahead = _lines("NFD", [char + _LOW_MARK for char in characters])
    marks = [
        char
        for char, one, other in zip(characters, behind, ahead, strict=True)
        if one[0] == char or other[0] == _LOW_MARK or char in (_LOW_MARK, _HIGH_MARK)
    ]
    known: list[str] = []  # a mark of each class
    found: dict[int, int] = {}
    for mark in marks:
        orders = [_lines("NFD", [mark + other, other + mark]) for other in known]
        alike = (i for i, (one, other) in enumerate(orders) if one != other)
        found[ord(mark)] = next(alike, len(known))
        if found[ord(mark)] == len(known):
            known.append(mark)
    return found


def _lines(form: str, texts: list[str]) -> list[str]:
    lines: list[str] = _normalizer(form).normalize_str("\n".join(texts)).split("\n")
    return lines if texts else []
