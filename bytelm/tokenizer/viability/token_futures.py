"""Whether the claims about a place can come true: some tokens to come make all of them right.

Theory of operation
    A token sequence is viable if it can be gone on with. Where the text may end, or where a cut may follow, letters
    decide (text_futures.py). Everywhere else the same pre-token goes on, and then the next token has to be unbroken
    with the last one. That happens
     - inside a character (GPT-2 merges E2 with 80, so a lone E2 is never followed by 80, whatever the pattern says);
     - where a claim needs more of the pre-token (``'r`` in one piece needs an ``e``, and ``re`` is a token);
     - where a pre-token of merged tokens would be taken whole (tokenizer/ignore_merges.py).
    So a place is a vertex of a graph: the levels' nodes, the last token, the bytes its character still needs, and the
    word. It is settled if a walk over unbroken tokens leads to a place where the text may stop: end or be cut.
    Byte tokens of a sentencepiece vocabulary never merge and spell characters outside it: for them letters decide.

Cost
    Inside a character letters settle nearly all places: those that the character can become by tokens unbroken with
    the last one, and those after which the claims may stop, or live at all. Both are bits of a number, the first kept
    for the token and the second for the claims. At a character's end a few tokens are tried one by one. For the rest
    the tokens that lead from a set of nodes to where the text may stop are kept as bits, what may follow a token is
    kept as bits, and the answer is their conjunction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from bytelm.tokenizer.bpe import Merges
from bytelm.tokenizer.ignore_merges import IgnoreMerges
from bytelm.tokenizer.prefix_index import missing, unfinished
from bytelm.tokenizer.split.automaton import DEAD
from bytelm.tokenizer.split.vocab_walk import Nodes, Walker
from bytelm.tokenizer.viability.text_futures import TextFutures

_KEPT: Final = 512
_PLACES: Final = 1 << 18
_CONTINUATION: Final = bytes(range(0x80, 0xC0))

Bits = UInt8[np.ndarray, " bytes"]


class Place(NamedTuple):
    """A place inside a pre-token, after one of its tokens; ``partial`` begins its last character."""

    nodes: Nodes
    token: int
    partial: bytes
    word: bytes | None


@dataclass(frozen=True, slots=True)
class _Onward:
    """Where the tokens of a range lead from some nodes, as bits by rank from a multiple of eight on.

    Attributes:
        first: The first rank.
        stops: Tokens after which the text may stop.
        runs: Tokens after which the pre-token has to go on.
    """

    first: int
    stops: Bits
    runs: Bits


class TokenFutures:
    """Answers for places of one vocabulary.

    Args:
        walker: All levels of its pre-tokenizer.
        readings: What letters decide.
        merges: Its merge trees.
        whole_pre_tokens: Its pre-tokens that are taken whole.
        pieces: Which tokens, in trie order, merging can produce, byte tokens left out.
        by_bytes: Byte tokens spell the characters that the vocabulary lacks.
    """

    def __init__(
        self,
        walker: Walker,
        readings: TextFutures,
        merges: Merges,
        whole_pre_tokens: IgnoreMerges,
        *,
        pieces: Bool[np.ndarray, " tokens"],
        by_bytes: bool,
    ) -> None:
        self._walker = walker
        self._readings = readings
        self._trie = walker.prefix_index
        self._merges = merges
        self._wholes = whole_pre_tokens
        self._pieces = pieces
        self._by_bytes = by_bytes
        first, last = self._trie.range(b"\x80")[0], self._trie.range(b"\xc0")[0]
        self._inside = first & ~7, min(last + 7 & ~7, len(self._trie))
        self._settled: dict[Place, bool] = {}
        self._onward: OrderedDict[tuple[Nodes, int], _Onward] = OrderedDict()
        self._after_inside: dict[int, Bits] = {}
        self._inside_ends: dict[int, tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]] = {}
        self._becomes: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._singles: list[tuple[int, bytes]] | None = None

    def settled(self, nodes: Nodes, token: int, partial: bytes, word: bytes | None = None) -> bool:
        """Whether the claims after a token can come true.

        Args:
            nodes: Where it leads.
            token: The token.
            partial: The bytes of the character that it leaves unfinished, from this and earlier tokens.
            word: The pre-token so far, where a whole one begins so.
        """
        if partial and self._by_bytes:
            return self._readings.spelled_by_bytes(self._walker.before_character(nodes), partial)
        place = Place(nodes, token, partial, word)
        if self._may_stop(place):
            return True
        known = self._by_letters(place) if partial else None
        if known is None:
            known = self._settled.get(place)
        if known is None:
            if len(self._settled) > _PLACES:
                self._settled.clear()
            known = self._settled[place] = self._goes_on(place)
        return known

    def _may_stop(self, place: Place) -> bool:
        return not place.partial and not self._wholes.must_grow(place.word) and self._readings.stops(place.nodes)

    def _goes_on(self, start: Place) -> bool:
        """Whether unbroken tokens lead from a place to one where the text may stop, depth first."""
        seen, stack = {start}, [start]
        while stack:
            place = stack.pop()
            if self._stops_next(place):
                self._settled[place] = True
                return True
            for after in self._runs_next(place):
                if self._settled.get(after):
                    return True
                if after not in seen and after not in self._settled:
                    seen.add(after)
                    stack.append(after)
        self._settled |= dict.fromkeys(seen, False)
        return False

    # --- inside a character ------------------------------------------------------------------------------------------

    def _by_letters(self, place: Place) -> bool | None:
        """Whether a place inside a character is settled, as far as the letters of the whole character decide it."""
        whole, some = self._letters_after(place.token, place.partial)
        stop, alive = self._readings.letters(self._walker.before_character(place.nodes))
        if whole & stop and place.word is None:
            return True
        return None if some & alive else False

    def _letters_after(self, token: int, partial: bytes) -> tuple[int, int]:
        """The letters that a character can become after a token, as bits.

        Returns:
            Those that an unbroken token spells to the character's end and no further, and those that any unbroken
            tokens can spell (or more).
        """
        key = token, partial
        if key not in self._becomes:
            needed = missing(partial)
            whole = some = 0
            follows = np.unpackbits(self._unbroken(token, inside=True), count=self._inside[1] - self._inside[0])
            for i in np.flatnonzero(follows & np.logical_or(*self._ends_inside(needed))).tolist():
                data = self._trie.spelled[self._inside[0] + i]
                if len(data) < needed:
                    some |= self._readings.letters_begun(partial + data)
                    continue
                try:
                    point = ord((partial + data[:needed]).decode())
                except UnicodeDecodeError:
                    continue
                letter = self._readings.letter(point)
                some |= letter
                whole |= letter if len(data) == needed else 0
            self._becomes[key] = whole, some
        return self._becomes[key]

    def _ends_inside(self, needed: int) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Which tokens that begin inside a character complete it and end at one's end, and which of them do not yet."""
        if needed not in self._inside_ends:
            fits = np.zeros((2, self._inside[1] - self._inside[0]), np.bool_)
            for i, rank in enumerate(range(*self._inside)):
                data = self._trie.spelled[rank]
                inside = len(data) - len(data.lstrip(_CONTINUATION))
                if self._pieces[rank] and (inside == needed or inside == len(data) < needed):
                    fits[int(inside < needed or self._trie.left[rank] > 0), i] = True
            self._inside_ends[needed] = fits[0], fits[1]
        return self._inside_ends[needed]

    # --- the next token ----------------------------------------------------------------------------------------------

    def _stops_next(self, place: Place) -> bool:
        """Whether one more token leads to where the text may stop."""
        if place.partial and (known := self._by_letters(place)) is not None:
            return known
        if self._readings.spelled_by_bytes(place.nodes) or any(map(self._may_stop, self._tried(place))):
            return True
        onward = self._onward_from(place.nodes, place.partial)
        found = onward.stops & self._unbroken(place.token, inside=bool(place.partial))
        if place.word is None or not self._wholes.close(place.word):
            return bool(found.any())
        ranks = onward.first + np.flatnonzero(np.unpackbits(found))
        words = (self._wholes.grow(place.word, self._trie.spelled[rank]) for rank in ranks.tolist())
        return any(not self._wholes.must_grow(word) for word in words)

    def _tried(self, place: Place) -> Iterator[Place]:
        """After each of the ASCII characters that, as tokens, are unbroken with the last one."""
        if place.partial:
            return
        if self._singles is None:
            ranks = np.flatnonzero(self._pieces & (self._trie.lengths == 1)).tolist()
            singles = [(int(self._trie.order[rank]), self._trie.spelled[rank]) for rank in ranks]
            self._singles = [(token, data) for token, data in singles if data < b"\x80"]
        for token, data in self._singles:
            if self._merges.unbroken(place.token, token):
                nodes = self._walker.walk(place.nodes, data)
                if nodes is not None:
                    yield Place(nodes, token, b"", self._wholes.grow(place.word, data))

    def _runs_next(self, place: Place) -> Iterator[Place]:
        """The places after one more token; at none of them may the text stop."""
        if place.partial and self._by_letters(place) is False:
            return
        onward = self._onward_from(place.nodes, place.partial)
        follows = (onward.stops | onward.runs) & self._unbroken(place.token, inside=bool(place.partial))
        for rank in (onward.first + np.flatnonzero(np.unpackbits(follows))).tolist():
            data = self._trie.spelled[rank]
            nodes = self._walker.walk(place.nodes, data)
            if nodes is not None:
                word = self._wholes.grow(place.word, data)
                yield Place(nodes, int(self._trie.order[rank]), unfinished(place.partial + data), word)

    def _unbroken(self, token: int, *, inside: bool) -> Bits:
        """What may follow a token: of the whole vocabulary, or of the tokens that begin inside a character."""
        if not inside:
            return self._merges.unbroken_bits(token)
        if token not in self._after_inside:
            first, last = self._inside
            self._after_inside[token] = self._merges.unbroken_bits(token)[first >> 3 : last + 7 >> 3].copy()
        return self._after_inside[token]

    def _onward_from(self, nodes: Nodes, partial: bytes) -> _Onward:
        key = nodes, missing(partial)
        known = self._onward.get(key)
        if known is not None:
            self._onward.move_to_end(key)
            return known
        lo, hi = self._inside if partial else (0, len(self._trie))
        ends = self._walker.landings(nodes, lo, hi)
        alive = self._pieces[lo:hi].copy()
        for end in ends:
            alive &= end != DEAD
        whole = self._ends_inside(key[1])[0] if partial else self._trie.left == 0
        stops = np.zeros(hi - lo, np.bool_)
        at = np.flatnonzero(alive & whole)
        code = np.zeros(len(at), np.int64)
        for end in ends:
            if len(at) and int(end[at].min()) < int(end[at].max()):
                code = np.unique(code * (int(end.max()) + 1) + end[at], return_inverse=True)[1]
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
        landed = [tuple(int(end[i]) for end in ends) for i in at[first].tolist()]
        stops[at] = np.array([self._readings.stops(after) for after in landed], np.bool_)[code]
        made = self._onward[key] = _Onward(lo, np.packbits(stops), np.packbits(alive & ~stops))
        if len(self._onward) > _KEPT:
            self._onward.popitem(last=False)
        return made
