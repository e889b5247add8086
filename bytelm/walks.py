"""Tokens walked through all levels of a pre-tokenizer at once.

Theory of operation
    The levels of a pre-tokenizer (added tokens first, then each split step inside the pieces of the one before) see
    the same bytes. Where a level cuts, every level below ends its piece and begins anew. So a place in the text is one node
    for each level, and between two cuts all levels walk independently.

    `settled` answers whether the claims of all levels can be made true by some text to come. Almost always the text may just
    end there, and then the answer is immediate; otherwise it is a search over the letters that the levels tell apart.

Cost
    Walking the whole vocabulary visits each distinct prefix of a token once, in numpy; the answer for a set of nodes is kept as
    bits. Few sets of nodes occur: a state of a split pattern is "inside a word", "after one line feed", and so on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.patterns import CODE_POINTS, NO_LETTER
from bytelm.splits import DEAD, Level
from bytelm.trie import Trie

INACTIVE: Final = -1  # a level below an added token: there is no piece to split
_KEPT: Final = 512
_WHOLE: Final = 3000  # ranges beyond this are answered for the whole vocabulary, once

Nodes = tuple[int, ...]
Move = Literal["any", "cut", "stay"]


@dataclass(frozen=True, slots=True)
class _Depth:
    """The distinct prefixes of one length: each one's parent and last byte, and the tokens that end there."""

    parent: Int64[np.ndarray, " prefixes"]
    byte: UInt8[np.ndarray, " prefixes"]
    ending: Int64[np.ndarray, " tokens"]
    at: Int64[np.ndarray, " tokens"]


class Walker:
    """All levels of one pre-tokenizer over one vocabulary.

    Args:
        levels: Outermost first.
        trie: The vocabulary in byte order.
        outside: Code points that only byte tokens spell, where byte tokens spell but those; None if bytes are free.
    """

    def __init__(self, levels: Sequence[Level], trie: Trie, *, outside: Bool[np.ndarray, " points"] | None) -> None:
        self.levels = tuple(levels)
        self.trie = trie
        self.outside = outside
        self._depths = self._prefixes()
        self._kept: OrderedDict[tuple[Nodes, bytes], np.ndarray] = OrderedDict()
        self._settled: dict[tuple[Nodes, bytes, Move], bool] = {}
        self._letters = self._joint_letters(np.arange(CODE_POINTS))

    def start(self, *, bare: bool) -> Nodes:
        """The nodes at the beginning of a text; ``bare``: what a text has to begin with does not apply."""
        return tuple(level.start_bare if bare else level.start for level in self.levels)

    # --- one token ---------------------------------------------------------------------------------------------------

    def walk(self, nodes: Nodes, data: bytes) -> Nodes | None:
        """The nodes after some bytes with no cut among them; None where that cannot be."""
        out = []
        for level, node in zip(self.levels, nodes, strict=True):
            for byte in data:
                node = level.next(node, byte)
                if node == DEAD:
                    return None
            out.append(node)
        return tuple(out)

    def cuts(self, nodes: Nodes) -> Iterator[Nodes]:
        """The ways to claim a cut at a character's end: at one level, with those below beginning anew."""
        for at, (level, node) in enumerate(zip(self.levels, nodes, strict=True)):
            if node == INACTIVE:
                return
            after = level.cut(node)
            below = nodes[at + 1 :]
            if after != DEAD and all(n == INACTIVE or lv.ends(n) for lv, n in zip(self.levels[at + 1 :], below, strict=True)):
                yield (*nodes[:at], after, *(lv.start_bare for lv in self.levels[at + 1 :]))

    def added(self, nodes: Nodes | None, at: int, data: bytes, tag: int) -> Nodes | None:
        """The nodes after an added token matched at level ``at``; ``nodes`` is None at the beginning of a text."""
        level = self.levels[at]
        if nodes is None:
            node = level.start_added
            above: Nodes = tuple(lv.start_bare for lv in self.levels[:at])
        else:
            if nodes[at] == INACTIVE:
                return None
            below = zip(self.levels[at + 1 :], nodes[at + 1 :], strict=True)
            if not all(n == INACTIVE or lv.ends(n) for lv, n in below):
                return None
            node, above = level.cut(nodes[at], added=True), nodes[:at]
        for byte in data:
            if node == DEAD:
                return None
            node = level.next(node, byte)
        node = level.emit(node, tag) if node != DEAD else DEAD
        if node == DEAD:
            return None
        walked = []
        for lv, start in zip(self.levels[:at], above, strict=True):
            for byte in data:
                start = lv.next(start, byte) if start != DEAD else DEAD
            if start == DEAD:
                return None
            walked.append(start)
        return (*walked, node, *([INACTIVE] * (len(self.levels) - at - 1)))

    # --- can the claims come true? -----------------------------------------------------------------------------------

    def ends(self, nodes: Nodes) -> bool:
        """Whether the text may end here."""
        return all(node == INACTIVE or level.ends(node) for level, node in zip(self.levels, nodes, strict=True))

    def settled(self, nodes: Nodes, partial: bytes = b"", move: Move = "any") -> bool:
        """Whether some text to come makes every claim true.

        Args:
            nodes: The place.
            partial: The bytes of a character not yet complete.
            move: What has to come next: ``cut`` a cut (or the end), ``stay`` more of the same piece.
        """
        if not partial and move != "stay" and self.ends(nodes):
            return True
        key = (nodes, partial, move)
        known = self._settled.get(key)
        if known is None:
            known = self._settled[key] = self._search(nodes, partial, move)
        return known

    def _search(self, nodes: Nodes, partial: bytes, move: Move) -> bool:
        if partial:
            completions = (data[len(partial) :] for data in self._completions(partial))
            after = (self.walk(nodes, data) for data in completions)
            return any(end is not None and self.settled(end) for end in after)
        seen: set[Nodes] = set()
        frontier = [nodes]
        while frontier:
            reached: list[Nodes] = []
            for place in frontier:
                options = [] if move == "cut" or INACTIVE in place else [place]
                if move != "stay":
                    options += self.cuts(place)
                for option in options:
                    for data in self._letters:
                        after = self.walk(option, data)
                        if after is not None and after not in seen:
                            if self.ends(after):
                                return True
                            seen.add(after)
                            reached.append(after)
            frontier, move = reached, "any"
        return False

    def _completions(self, partial: bytes) -> list[bytes]:
        lead, size = partial[0], 2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4  # noqa: PLR2004 - UTF-8 leads
        low = lead & (0x7F >> size)
        for byte in partial[1:]:
            low = low << 6 | byte & 0x3F
        shift = 6 * (size - len(partial))
        first = max(low << shift, {2: 0x80, 3: 0x800, 4: 0x10000}[size])
        points = np.arange(first, min((low + 1) << shift, CODE_POINTS))
        if self.outside is not None:
            points = points[self.outside[points]]
        return self._joint_letters(points)

    def _joint_letters(self, points: Int64[np.ndarray, " n"]) -> list[bytes]:
        """One character, as bytes, of each kind that some level tells from the others."""
        points = points[self.levels[0].letter[points] != NO_LETTER]
        key = np.zeros(len(points), np.int64)
        for level in self.levels:
            key = np.unique(key * 65536 + level.letter[points], return_inverse=True)[1].astype(np.int64)
        chosen = points[np.unique(key, return_index=True)[1]]
        return [chr(p).encode() for p in chosen.tolist()]

    # --- all tokens --------------------------------------------------------------------------------------------------

    def fits(self, nodes: Nodes, partial: bytes, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks can stand here with no cut inside them (bytes and cuts alone)."""
        key = (nodes, partial)
        if hi - lo <= _WHOLE and key not in self._kept:
            ends = [self._walk_range(level, node, lo, hi) for level, node in zip(self.levels, nodes, strict=True)]
            return self._judge(ends, partial, lo)
        bits = self._kept.get(key)
        if bits is None:
            ends = [self.walk_all(level, node) for level, node in zip(self.levels, nodes, strict=True)]
            bits = self._kept[key] = np.packbits(self._judge(ends, partial, 0))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        first = lo >> 3
        return np.unpackbits(bits[first : (hi + 7) >> 3])[lo - 8 * first : hi - 8 * first].astype(np.bool_)

    def _judge(self, ends: list[Int32[np.ndarray, " n"]], partial: bytes, lo: int) -> Bool[np.ndarray, " n"]:
        alive = np.ones(len(ends[0]), np.bool_)
        sure = np.ones(len(ends[0]), np.bool_)
        for level, end in zip(self.levels, ends, strict=True):
            alive &= end != DEAD
            may_end = np.zeros(int(end.max(initial=0)) + 1, np.bool_)
            used = np.flatnonzero(np.bincount(end))
            may_end[used] = [level.ends(node) for node in used.tolist()]
            sure &= may_end[end]
        out = alive & sure
        for i in np.flatnonzero(alive & ~sure).tolist():
            out[i] = self.settled(tuple(int(end[i]) for end in ends), unfinished(partial + self.trie.spelled[lo + i]))
        return out

    def _walk_range(self, level: Level, node: int, lo: int, hi: int) -> Int32[np.ndarray, " n"]:
        state = np.full(hi - lo, node, np.int32)
        lengths = self.trie.lengths[lo:hi]
        # All tokens of a range usually begin alike: walk the common part once.
        shared = _common(self.trie.spelled[lo], self.trie.spelled[hi - 1]) if hi > lo else 0
        if shared:
            for byte in self.trie.spelled[lo][:shared]:
                node = level.next(node, byte) if node != DEAD else DEAD
            state[:] = node
        depth = shared
        active = np.flatnonzero((lengths > depth) & (state != DEAD))
        while len(active):
            state[active] = self._step(level, state[active], self.trie.columns(lo + active, depth))
            depth += 1
            active = active[(lengths[active] > depth) & (state[active] != DEAD)]
        return state

    def walk_all(self, level: Level, node: int) -> Int32[np.ndarray, " tokens"]:
        """The node at the end of every token, in trie order."""
        out = np.zeros(len(self.trie), np.int32)
        state = np.array([node], np.int32)
        for depth in self._depths:
            state = self._step(level, state[depth.parent], depth.byte)
            out[depth.ending] = state[depth.at]
        return out

    @staticmethod
    def _step(level: Level, state: Int32[np.ndarray, " n"], byte: UInt8[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        after = level.table[state, byte]
        unknown = np.flatnonzero(after < 0)
        if len(unknown):
            for key in np.unique(state[unknown].astype(np.int64) << 8 | byte[unknown]).tolist():
                level.next(key >> 8, key & 0xFF)
            after = level.table[state, byte]
        return after

    def _prefixes(self) -> list[_Depth]:
        trie, depths = self.trie, []
        group = np.zeros(len(trie), np.int64)
        alive = np.flatnonzero(trie.lengths > 0)
        depth = 0
        while len(alive):
            parent, byte = group[alive], trie.columns(alive, depth)
            new = np.concatenate(([True], (parent[1:] != parent[:-1]) | (byte[1:] != byte[:-1])))
            group[alive] = np.cumsum(new) - 1
            first = np.flatnonzero(new)
            depth += 1
            ending = alive[trie.lengths[alive] == depth]
            depths.append(_Depth(parent[first], byte[first], ending, group[ending]))
            alive = alive[trie.lengths[alive] > depth]
        return depths


def unfinished(data: bytes) -> bytes:
    """The bytes at the end of some text that begin a character without completing it.

    >>> unfinished("é".encode() + "é".encode()[:1])
    b'\\xc3'
    """
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # noqa: PLR2004 - a lead byte
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4  # noqa: PLR2004
            return data[-back:] if size > back else b""
        if byte < 0x80:  # noqa: PLR2004 - a whole character
            return b""
    return b""


def _common(a: bytes, b: bytes) -> int:
    size = min(len(a), len(b))
    for i in range(size):
        if a[i] != b[i]:
            return i
    return size
