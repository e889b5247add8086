"""Whether some tokens to come make the hypotheses about a position right.

Theory of operation
    A token sequence is viable if it can go on. Where the text may end, or where a cut may follow, classes of characters
    decide (text_futures.py). Everywhere else the same pre-token goes on, and then the next token has to be unbroken
    with the last one. That happens
     - inside a character (GPT-2 merges E2 with 80, so a lone E2 is never followed by 80, whatever the pattern says);
     - where a hypothesis needs more of the pre-token (``'r`` in one piece needs an ``e``, and ``re`` is a token);
     - where a pre-token of merged tokens would be taken whole (tokenizer/ignore_merges.py).
    So a position is a vertex of a graph: the levels' states, the last token, the bytes its character still needs, and
    the word. It has a future if a walk over unbroken tokens leads to a position where the text may stop: end or be cut.
    Byte tokens of a sentencepiece vocabulary never merge and spell characters outside it: there, classes decide.

Cost
    Inside a character, classes of characters decide about nearly all positions: those that the character can become by
    tokens unbroken with the last one, and those after which the text may stop, or go on at all. The latter are bits of
    a number, kept for the states; most often the first tokens tried spell one of them. At a character's end a few
    tokens are tried one by one. For the rest, the tokens that lead from the states to where the text may stop are kept
    as bits, what may follow a token is kept as bits, and the answer is their conjunction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from bytelm.symbols import is_continuation, missing, unfinished
from bytelm.tokenizer.bpe import Merges
from bytelm.tokenizer.ignore_merges import IgnoreMerges
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.normal_forms import NormalForm
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.vocab_walk import ProductAutomaton, States
from bytelm.tokenizer.viability.search import has_way
from bytelm.tokenizer.viability.text_futures import TextFutures

_KEPT: Final = 512
_FEW: Final = 512  # tokens that are judged one by one: sorting them takes longer
_POSITIONS: Final = 1 << 18
_CONTINUATION: Final = bytes(byte for byte in range(256) if is_continuation(byte))

Bits = UInt8[np.ndarray, " bytes"]


class Position(NamedTuple):
    """A position inside a pre-token, after one of its tokens; ``partial`` begins its last character.

    Tokens that no merge reaches over the end of are one here: the same tokens may follow them. So are beginnings of a
    character behind them from which the levels go on alike.
    """

    states: States
    token: int
    partial: bytes
    word: bytes | None


@dataclass(frozen=True, slots=True)
class _NextTokens:
    """The tokens of a range that can be read from some states, as bits by rank from a multiple of eight on.

    Attributes:
        first: The first rank.
        stops: Tokens after which the text may stop.
        goes_on: Tokens after which the pre-token has to go on.
    """

    first: int
    stops: Bits
    goes_on: Bits


@dataclass(eq=False)
class TokenFutures:
    """Answers for positions of one vocabulary.

    Args:
        automaton: All levels of its pre-tokenizer.
        text_futures: What classes of characters decide.
        merges: Its merge trees.
        ignore_merges: Its pre-tokens that are taken whole.
        pieces: Which tokens, in byte order, merging can produce, byte tokens left out.
        by_bytes: Byte tokens spell the characters that the vocabulary lacks.
        form: The normal form, which has a say in what a character becomes; or None.
    """

    automaton: ProductAutomaton
    text_futures: TextFutures
    merges: Merges
    ignore_merges: IgnoreMerges
    pieces: Bool[np.ndarray, " tokens"]
    by_bytes: bool
    form: NormalForm | None

    def __post_init__(self) -> None:
        self._prefix_index = self.automaton.prefix_index
        first, last = self._prefix_index.range(b"\x80")[0], self._prefix_index.range(b"\xc0")[0]
        self._inside = first & ~7, min(last + 7 & ~7, len(self._prefix_index))  # tokens that begin inside a character
        self._known: dict[Position, bool] = {}
        self._free = -1  # the token that stands for all that no merge reaches over the end of
        self._partials: dict[tuple[States, int], bytes] = {}  # and the bytes for all from which the levels go on alike

    def has_future(self, states: States, token: int, partial: bytes, word: bytes | None = None) -> bool:
        """Whether the hypotheses after a token can come true.

        Args:
            states: Where it leads.
            token: The token.
            partial: The bytes of the character that it leaves unfinished, from this and earlier tokens.
            word: The pre-token so far, where a whole one begins so.
        """
        if partial and self.by_bytes:
            return self.text_futures.spelled_by_bytes(self.automaton.before_character(states), partial)
        position = self.position(states, token, partial, word)
        if self._can_stop(position):
            return True
        if partial and (known := self._by_classes(position)) is not None:
            return known
        if len(self._known) > _POSITIONS:
            self._known.clear()
            self._partials.clear()
        return has_way(position, self._known, arrives=self._can_stop_next, onward=self._next_positions)

    def position(self, states: States, token: int, partial: bytes, word: bytes | None) -> Position:
        """The position after a token."""
        if self.merges.merges_on(token):
            return Position(states, token, partial, word)
        if self._free < 0:
            self._free = token
        if partial and word is None and (self.form is None or self.form.ignores(partial)):
            partial = self._partials.setdefault((states, missing(partial)), partial)
        return Position(states, self._free, partial, word)

    def _can_stop(self, position: Position) -> bool:
        inside = position.partial and not self.automaton.cuts_characters
        if inside or self.ignore_merges.must_grow(position.word):
            return False
        return self.text_futures.can_stop(position.states)

    # --- inside a character ------------------------------------------------------------------------------------------

    def _by_classes(self, position: Position) -> bool | None:
        """Whether a position inside a character has a future, as far as the whole character's class decides it."""
        if self.automaton.cuts_characters:
            return None
        stop, alive = self.text_futures.classes_after(self.automaton.before_character(position.states))
        if position.word is None and self.becomes(self.text_futures, position.token, position.partial, stop):
            return True
        return None if self._classes_after(position.token, position.partial) & alive else False

    @kept()
    def becomes(self, futures: TextFutures, token: int, partial: bytes, classes: int) -> bool:
        """Whether tokens unbroken with a token make a character one of some classes and end where it does.

        Args:
            futures: Numbers the classes, which may leave out what text cannot contain.
            token: The token.
            partial: The bytes of the character so far.
            classes: As bits.
        """
        if not classes & futures.classes_begun(partial):
            return False
        needed = missing(partial)
        for following, data in self._completing(token, needed):
            if len(data) < needed:
                if self.becomes(futures, following, partial + data, classes):
                    return True
            elif len(data) == needed:
                with suppress(UnicodeDecodeError):
                    if classes & futures.class_of(ord((partial + data).decode())):
                        return True
        return False

    @kept()
    def _classes_after(self, token: int, partial: bytes) -> int:
        """The classes that a character can become by tokens unbroken with a token (or more), as bits."""
        needed, found = missing(partial), 0
        for _, data in self._completing(token, needed):
            if len(data) < needed:
                found |= self.text_futures.classes_begun(partial + data)
                continue
            with suppress(UnicodeDecodeError):
                found |= self.text_futures.class_of(ord((partial + data[:needed]).decode()))
        return found

    @kept()
    def _completing(self, token: int, needed: int) -> list[tuple[int, bytes]]:
        """The tokens unbroken with one that complete a character of so many more bytes, or begin to; their bytes."""
        follows = np.unpackbits(self._unbroken_inside(token), count=self._inside[1] - self._inside[0])
        ranks = self._inside[0] + np.flatnonzero(follows & np.logical_or(*self._ends_inside(needed)))
        return [(int(self._prefix_index.order[rank]), self._prefix_index.spelled[rank]) for rank in ranks.tolist()]

    @kept()
    def _ends_inside(self, needed: int) -> Bool[np.ndarray, "2 n"]:
        """Which tokens that begin inside a character complete it and end at one's end, and which of them do not yet."""
        found = np.zeros((2, self._inside[1] - self._inside[0]), np.bool_)
        for i, rank in enumerate(range(*self._inside)):
            data = self._prefix_index.spelled[rank]
            inside = len(data) - len(data.lstrip(_CONTINUATION))
            if self.pieces[rank] and (inside == needed or inside == len(data) < needed):
                found[int(inside < needed or self._prefix_index.missing[rank] > 0), i] = True
        return found

    # --- the next token ----------------------------------------------------------------------------------------------

    def _can_stop_next(self, position: Position) -> bool:
        """Whether one more token leads to where the text may stop."""
        if position.partial and (known := self._by_classes(position)) is not None:
            return known
        if self.text_futures.spelled_by_bytes(position.states) or any(map(self._can_stop, self.tried(position))):
            return True
        following = self._following(position.states, missing(position.partial))
        found = following.stops & self._unbroken(position)
        if position.word is None or not self.ignore_merges.deciding_ranks(position.word):
            return bool(found.any())
        ranks = following.first + np.flatnonzero(np.unpackbits(found))
        words = (self.ignore_merges.grow(position.word, self._prefix_index.spelled[rank]) for rank in ranks.tolist())
        return any(not self.ignore_merges.must_grow(word) for word in words)

    @cached_property
    def _ascii(self) -> list[tuple[int, bytes]]:
        """The ASCII characters that are tokens."""
        ranks = np.flatnonzero(self.pieces & (self._prefix_index.lengths == 1)).tolist()
        singles = [(int(self._prefix_index.order[rank]), self._prefix_index.spelled[rank]) for rank in ranks]
        return [(token, data) for token, data in singles if data < b"\x80"]

    def tried(self, position: Position) -> Iterator[Position]:
        """After each of the ASCII characters that, as tokens, are unbroken with the last one."""
        for token, data in () if position.partial else self._ascii:
            states = self.automaton.read(position.states, data)
            if states is not None and self.merges.unbroken(position.token, token):
                yield self.position(states, token, b"", self.ignore_merges.grow(position.word, data))

    def _next_positions(self, position: Position) -> Iterator[Position]:
        return (after for after, _ in self.following(position))

    def following(self, position: Position) -> Iterator[tuple[Position, bytes]]:
        """The positions after one more token, with its bytes."""
        if position.partial and self._by_classes(position) is False:
            return
        following = self._following(position.states, missing(position.partial))
        bits = (following.stops | following.goes_on) & self._unbroken(position)
        for rank in (following.first + np.flatnonzero(np.unpackbits(bits))).tolist():
            data = self._prefix_index.spelled[rank]
            states = self.automaton.read(position.states, data)
            if states is not None:
                word = self.ignore_merges.grow(position.word, data)
                partial = unfinished(position.partial + data)
                yield self.position(states, int(self._prefix_index.order[rank]), partial, word), data

    def _unbroken(self, position: Position) -> Bits:
        """What may follow the last token: of the whole vocabulary, or of the tokens that begin inside a character."""
        if position.partial:
            return self._unbroken_inside(position.token)
        return self.merges.unbroken_bits(position.token)

    @kept()
    def _unbroken_inside(self, token: int) -> Bits:
        first, last = self._inside
        return self.merges.unbroken_bits(token)[first >> 3 : last + 7 >> 3].copy()

    @kept(_KEPT)
    def _following(self, states: States, needed: int) -> _NextTokens:
        """What can be read from some states, where their character still needs so many bytes."""
        lo, hi = self._inside if needed else (0, len(self._prefix_index))
        ends = self.automaton.ends_of_tokens(states, lo, hi)
        alive = self.pieces[lo:hi].copy()
        for end in ends:
            alive &= end != DEAD
        whole = self._ends_inside(needed)[0] if needed else self._prefix_index.missing == 0
        if self.automaton.cuts_characters:
            whole = np.ones(hi - lo, np.bool_)
        stops = np.zeros(hi - lo, np.bool_)
        at = np.flatnonzero(alive & whole)
        if len(at) <= _FEW:
            every = zip(*(end[at].tolist() for end in ends), strict=True)
            stops[at] = np.fromiter(map(self.text_futures.can_stop, every), np.bool_, len(at))
            return _NextTokens(lo, np.packbits(stops), np.packbits(alive & ~stops))
        code = np.zeros(len(at), np.int64)
        for end in ends:
            if len(at) and int(end[at].min()) < int(end[at].max()):
                code = np.unique(code * (int(end.max()) + 1) + end[at], return_inverse=True)[1]
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
        reached = [tuple(int(end[i]) for end in ends) for i in at[first].tolist()]
        stops[at] = np.array([self.text_futures.can_stop(after) for after in reached], np.bool_)[code]
        return _NextTokens(lo, np.packbits(stops), np.packbits(alive & ~stops))
