"""Whether the claims about a place can come true: some text to come makes all of them right.

Theory of operation
    A token sequence is viable if it can be gone on with. Where the text may end, or where a cut may follow, no token
    is asked: what is encoded after a cut leaves everything before it alone, so any text to come that makes the claims
    right will do, and a search over the letters that the levels tell apart finds it. Everywhere else the same
    pre-token goes on, and then the next token has to be unbroken with the last one. That happens
     - inside a character (GPT-2 merges E2 with 80, so a lone E2 is never followed by 80, whatever the pattern says);
     - where a claim needs more of the pre-token (``'r`` in one piece needs an ``e``, and ``re`` is a token);
     - where a pre-token of merged tokens would be taken whole (wholes.py).
    So a place is a vertex of a graph: the levels' nodes, the last token, the bytes its character still needs, and the
    word. It is settled if a walk over unbroken tokens leads to a place where the text may end or a cut may follow.
    Byte tokens of a sentencepiece vocabulary never merge and spell characters outside it: for them letters decide.

Cost
    Nearly always one step suffices. For each set of nodes, the tokens that lead to a place where the text may stop
    are kept as bits; what may follow a token is kept as bits; the answer is their conjunction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16

from bytelm.letters import CODE_POINTS, NO_LETTER, compact
from bytelm.merges import Merges
from bytelm.splits import DEAD
from bytelm.trie import completions, missing, unfinished
from bytelm.walks import INACTIVE, Nodes, Walker, ended
from bytelm.wholes import Wholes

_KEPT: Final = 512
_PLACES: Final = 1 << 18
_WHOLE: Final = 3000  # ranges beyond this are answered for the whole vocabulary, once
_TRIED: Final = 8  # followers tried one by one before all are asked at once

Bits = UInt8[np.ndarray, " bytes"]


class Place(NamedTuple):
    """A place inside a pre-token, after one of its tokens; ``missing`` bytes complete its last character."""

    nodes: Nodes
    token: int
    missing: int
    word: bytes | None


@dataclass(frozen=True, slots=True)
class _Onward:
    """Where the tokens of a range lead from some nodes, as bits by rank from a multiple of eight on.

    Attributes:
        first: The first rank.
        stops: Tokens after which the text may end or be cut.
        runs: Tokens after which the pre-token has to go on.
        tried: Some ranks of `stops`.
    """

    first: int
    stops: Bits
    runs: Bits
    tried: tuple[int, ...]


class Futures:
    """Answers for places of one vocabulary.

    Args:
        walker: All levels of its pre-tokenizer.
        merges: Its merge trees.
        wholes: Its pre-tokens that are taken whole.
        outside: Code points that byte tokens spell; None for a byte-level vocabulary.
        pieces: Which tokens, in trie order, merging can produce, byte tokens left out.
    """

    def __init__(
        self,
        walker: Walker,
        merges: Merges,
        wholes: Wholes,
        *,
        outside: Bool[np.ndarray, " points"] | None,
        pieces: Bool[np.ndarray, " tokens"],
    ) -> None:
        self.walker = walker
        self._trie = walker.trie
        self._merges = merges
        self._wholes = wholes
        self._outside = outside
        self._pieces = pieces
        self._inside = self._trie.range(b"\x80")[0], self._trie.range(b"\xc0")[0]
        self._settled: dict[Place, bool] = {}
        self._readable: dict[Nodes, bool] = {}
        self._cuttable: dict[Nodes, bool] = {}
        self._byte_spelled: dict[tuple[Nodes, bytes], bool] = {}
        self._onward: OrderedDict[tuple[Nodes, int], _Onward] = OrderedDict()
        self._inside_unbroken: dict[int, Bits] = {}
        self._fits: OrderedDict[tuple[Nodes, bytes], Bits] = OrderedDict()
        self._sealed_fits: dict[Nodes, Bool[np.ndarray, " n"]] = {}
        self._added_fits: dict[tuple[Nodes | None, int], Bool[np.ndarray, " n"]] = {}
        self._joint, self._letters = self._joint_letters()

    # --- one place ---------------------------------------------------------------------------------------------------

    def ends(self, nodes: Nodes) -> bool:
        """Whether the text may end here."""
        return ended(self.walker.levels, nodes)

    def stops(self, nodes: Nodes) -> bool:
        """Whether the text may end at these nodes, which are at a character's end, or a cut may follow."""
        if self.ends(nodes):
            return True
        known = self._cuttable.get(nodes)
        if known is None:
            known = self._cuttable[nodes] = any(map(self._reads_on, self.walker.cuts(nodes)))
        return known

    def settled(self, nodes: Nodes, token: int, partial: bytes, word: bytes | None = None) -> bool:
        """Whether the claims after a token can come true.

        Args:
            nodes: Where it leads.
            token: The token.
            partial: The bytes of the character that it leaves unfinished, from this and earlier tokens.
            word: The pre-token so far, where a whole one begins so.
        """
        if partial and self._outside is not None:
            return self._spelled_by_bytes(nodes, partial)
        place = Place(nodes, token, missing(partial), word)
        if self._may_stop(place):
            return True
        known = self._settled.get(place)
        if known is None:
            if len(self._settled) > _PLACES:
                self._settled.clear()
            known = self._settled[place] = self._goes_on(place)
        return known

    def _may_stop(self, place: Place) -> bool:
        return not place.missing and not self._wholes.must_grow(place.word) and self.stops(place.nodes)

    def _goes_on(self, start: Place) -> bool:
        """Whether unbroken tokens lead from a place to one where the text may stop, depth first."""
        seen, stack = {start}, [start]
        while stack:
            place = stack.pop()
            if self._stops_next(place) or (self._outside is not None and self._spelled_by_bytes(place.nodes)):
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

    def _stops_next(self, place: Place) -> bool:
        """Whether one more token leads to where the text may stop."""
        onward = self._onward_from(place.nodes, place.missing)
        order, close = self._trie.order, self._close(place)
        for rank in onward.tried:
            if rank not in close and self._merges.unbroken(place.token, int(order[rank])):
                return True
        found = onward.stops & self._unbroken(place, onward)
        if not close:
            return bool(found.any())
        ranks = onward.first + np.flatnonzero(np.unpackbits(found))
        spelled = self._trie.spelled
        return any(not self._wholes.must_grow(self._wholes.grow(place.word, spelled[rank])) for rank in ranks.tolist())

    def _runs_next(self, place: Place) -> Iterator[Place]:
        """The places after one more token; at none of them may the text stop."""
        onward = self._onward_from(place.nodes, place.missing)
        follows = (onward.stops | onward.runs) & self._unbroken(place, onward)
        for rank in (onward.first + np.flatnonzero(np.unpackbits(follows))).tolist():
            data = self._trie.spelled[rank]
            nodes = self.walker.walk(place.nodes, data)
            if nodes is not None:
                word = self._wholes.grow(place.word, data)
                yield Place(nodes, int(self._trie.order[rank]), self._left(rank, place.missing), word)

    def _close(self, place: Place) -> frozenset[int]:
        return frozenset() if place.word is None else self._wholes.close(place.word)

    def _unbroken(self, place: Place, onward: _Onward) -> Bits:
        if not place.missing:
            return self._merges.unbroken_bits(place.token)
        if place.token not in self._inside_unbroken:
            first = onward.first >> 3
            kept = self._merges.unbroken_bits(place.token)[first : first + len(onward.stops)]
            self._inside_unbroken[place.token] = kept.copy()
        return self._inside_unbroken[place.token]

    def _onward_from(self, nodes: Nodes, needed: int) -> _Onward:
        key = nodes, needed
        known = self._onward.get(key)
        if known is not None:
            self._onward.move_to_end(key)
            return known
        lo, hi = self._inside if needed else (0, len(self._trie))
        lo, hi = lo & ~7, min(hi + 7 & ~7, len(self._trie))
        ends = self.walker.landings(nodes, lo, hi)
        alive = self._pieces[lo:hi].copy()
        for end in ends:
            alive &= end != DEAD
        stops = np.zeros(hi - lo, np.bool_)
        at = np.flatnonzero(alive)
        landed: dict[Nodes, bool] = {}
        for i, *places in zip(at.tolist(), *(end[at].tolist() for end in ends), strict=True):
            if not self._left(lo + i, needed):
                after = tuple(places)
                if after not in landed:
                    landed[after] = self.stops(after)
                stops[i] = landed[after]
        good = lo + np.flatnonzero(stops)
        tried = good[:: max(1, len(good) // _TRIED)][:_TRIED]
        made = _Onward(lo, np.packbits(stops), np.packbits(alive & ~stops), tuple(tried.tolist()))
        self._onward[key] = made
        if len(self._onward) > _KEPT:
            self._onward.popitem(last=False)
        return made

    def _left(self, rank: int, needed: int) -> int:
        """How many bytes the last character needs after a token that comes where it needs ``needed``."""
        data = self._trie.spelled[rank]
        return missing(unfinished(data)) if len(data) >= needed else needed - len(data)

    # --- letters -----------------------------------------------------------------------------------------------------

    def _spelled_by_bytes(self, nodes: Nodes, partial: bytes = b"") -> bool:
        """Whether byte tokens can go on, with a character that the vocabulary lacks, and the text after it any."""
        if self._outside is None:
            return False
        key = nodes, partial
        if key not in self._byte_spelled:
            points = completions(partial) if partial else range(CODE_POINTS)
            own = self._joint[points.start : points.stop][self._outside[points.start : points.stop]]
            letters = set(np.flatnonzero(np.bincount(own)).tolist()) - {NO_LETTER}
            reached = (self._read(nodes, letter) for letter in letters)
            self._byte_spelled[key] = any(after is not None and self._reads_on(after) for after in reached)
        return self._byte_spelled[key]

    def _reads_on(self, nodes: Nodes) -> bool:
        """Whether some text to come makes the claims right, as far as letters decide it."""
        if nodes not in self._readable:
            self._readable[nodes] = self._search(nodes)
        return self._readable[nodes]

    def _search(self, start: Nodes) -> bool:
        seen, queue = {start}, [start]
        for nodes in queue:
            if self.ends(nodes):
                return True
            options = [*self.walker.cuts(nodes)] if INACTIVE in nodes else [nodes, *self.walker.cuts(nodes)]
            for option in options:
                for letter in range(len(self._letters)):
                    after = self._read(option, letter)
                    if after is not None and after not in seen:
                        seen.add(after)
                        queue.append(after)
        return False

    def _read(self, nodes: Nodes, letter: int) -> Nodes | None:
        """The nodes after one character, given by the letter that it is to all levels together."""
        out = []
        for level, node, own in zip(self.walker.levels, nodes, self._letters[letter], strict=True):
            after = level.after(node, own)
            if after == DEAD:
                return None
            out.append(after)
        return tuple(out)

    def _joint_letters(self) -> tuple[UInt16[np.ndarray, " points"], list[tuple[int, ...]]]:
        """What each code point is to all levels together, and that letter's letter on each level."""
        levels = self.walker.levels
        key = np.zeros(CODE_POINTS, np.int64)
        for level in levels:
            own = np.where(level.letter == NO_LETTER, 0, level.letter + 1).astype(np.int64)
            key = compact(key * (int(own.max()) + 1) + own)[1]
        values, joint = compact(key)
        example = np.zeros(len(values), np.int64)
        example[joint] = np.arange(CODE_POINTS)
        letters = [tuple(int(level.letter[p]) for level in levels) for p in example.tolist()]
        table = np.array([NO_LETTER if NO_LETTER in own else i for i, own in enumerate(letters)], np.uint16)
        return table[joint], letters

    # --- all tokens --------------------------------------------------------------------------------------------------

    def fits(self, nodes: Nodes, partial: bytes, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks can stand here with no cut inside them: words and the last pair apart."""
        key = (nodes, partial)
        if hi - lo <= _WHOLE and key not in self._fits:
            return self._judge(self.walker.landings(nodes, lo, hi), partial, lo)
        bits = self._fits.get(key)
        if bits is None:
            ends = self.walker.landings(nodes, 0, len(self._trie))
            bits = self._fits[key] = np.packbits(self._judge(ends, partial, 0))
            if len(self._fits) > _KEPT:
                self._fits.popitem(last=False)
        else:
            self._fits.move_to_end(key)
        first = lo >> 3
        return np.unpackbits(bits[first : (hi + 7) >> 3])[lo - 8 * first : hi - 8 * first].astype(np.bool_)

    def _judge(self, ends: list[Int32[np.ndarray, " n"]], partial: bytes, lo: int) -> Bool[np.ndarray, " n"]:
        alive = np.ones(len(ends[0]), np.bool_)
        sure = np.ones(len(ends[0]), np.bool_)
        for level, end in zip(self.walker.levels, ends, strict=True):
            alive &= end != DEAD
            may_end = np.zeros(int(end.max(initial=0)) + 1, np.bool_)
            used = np.flatnonzero(np.bincount(end))
            may_end[used] = [level.ends(node) for node in used.tolist()]
            sure &= may_end[end]
        out = alive & sure
        for i in np.flatnonzero(alive & ~sure).tolist():
            nodes = tuple(int(end[i]) for end in ends)
            rest = unfinished(partial + self._trie.spelled[lo + i])
            out[i] = self.settled(nodes, int(self._trie.order[lo + i]), rest)
        return out

    def sealed_fits(self, nodes: Nodes, ranks: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of these tokens (always the same, by rank) can stand here as whole pre-tokens."""
        known = self._sealed_fits.get(nodes)
        if known is None:
            ends = ((self.walker.walk(nodes, self._trie.spelled[rank])) for rank in ranks.tolist())
            known = np.array([after is not None and self.stops(after) for after in ends], np.bool_)
            self._sealed_fits[nodes] = known
        return known

    def added_fits(self, nodes: Nodes | None, at: int, ranks: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of the added tokens of level ``at`` (all of them, by rank) can stand here."""
        key = (nodes, at)
        known = self._added_fits.get(key)
        if known is None:
            known = np.zeros(len(ranks), np.bool_)
            for i in np.flatnonzero(self.walker.added_alive(nodes, at, ranks)).tolist():
                rank = int(ranks[i])
                after = self.walker.added(nodes, at, self._trie.spelled[rank], int(self._trie.order[rank]))
                known[i] = after is not None and self.stops(after)
            self._added_fits[key] = known
        return known
