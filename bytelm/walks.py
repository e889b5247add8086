"""Tokens walked through all levels of a pre-tokenizer at once.

Theory of operation
    The levels of a pre-tokenizer (added tokens first, then each split step inside the pieces of the one before) see
    the same bytes. Where a level cuts, every level below ends its piece and begins anew. So a place in the text is
    one node for each level, and between two cuts all levels walk independently.

    `settled` answers whether the claims of all levels can be made true by some text to come. Almost always the text
    may just end there, and then the answer is immediate; otherwise it is a search over the letters that the levels
    tell apart.

Cost
    Walking the whole vocabulary visits each distinct prefix of a token once, in numpy; the answer for a set of nodes
    is kept as bits. Few sets of nodes occur: a state of a split pattern is "inside a word", "after one line feed",
    and so on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16

from bytelm.completions import Completions
from bytelm.letters import CODE_POINTS, NO_LETTER, compact
from bytelm.splits import DEAD, Level
from bytelm.trie import Trie, unfinished

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
        ordinary: Which tokens, in trie order, can come out of merging (or whole pre-tokens).
        completions: How unfinished characters go on.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        trie: Trie,
        *,
        ordinary: Bool[np.ndarray, " tokens"],
        completions: Completions,
    ) -> None:
        self.levels = tuple(levels)
        self.trie = trie
        self.completions = completions
        self._ordinary = ordinary
        self._depths = self._prefixes(np.flatnonzero(ordinary))
        self._kept: OrderedDict[tuple[Nodes, bytes], np.ndarray] = OrderedDict()
        self._settled: dict[tuple[Nodes, frozenset[int] | None, Move], bool] = {}
        self._joint, self._letters = self._joint_letters()
        self._added: dict[int, list[_Depth]] = {}
        self._added_known: dict[tuple[int, Nodes, int], Bool[np.ndarray, " n"]] = {}

    def start(self, *, bare: bool) -> Nodes:
        """The nodes at the beginning of a text; ``bare``: what a text has to begin with does not apply."""
        return tuple(level.start_bare if bare else level.start for level in self.levels)

    # --- one token ---------------------------------------------------------------------------------------------------

    def walk(self, nodes: Nodes, data: bytes) -> Nodes | None:
        """The nodes after some bytes with no cut among them; None where that cannot be."""
        out = []
        for level, node in zip(self.levels, nodes, strict=True):
            at = node
            for byte in data:
                at = level.next(at, byte)
                if at == DEAD:
                    return None
            out.append(at)
        return tuple(out)

    def cuts(self, nodes: Nodes) -> Iterator[Nodes]:
        """The ways to claim a cut at a character's end: at one level, with those below beginning anew."""
        for at, (level, node) in enumerate(zip(self.levels, nodes, strict=True)):
            if node == INACTIVE:
                return
            after = level.cut(node)
            below = nodes[at + 1 :]
            if after != DEAD and all(
                n == INACTIVE or lv.ends(n) for lv, n in zip(self.levels[at + 1 :], below, strict=True)
            ):
                yield (*nodes[:at], after, *(lv.start_bare for lv in self.levels[at + 1 :]))

    def added(self, nodes: Nodes | None, at: int, data: bytes, tag: int) -> Nodes | None:
        """The nodes after an added token matched at level ``at``; ``nodes`` is None at the beginning of a text."""
        level = self.levels[at]
        if nodes is None:
            node = level.start_added
            above: Nodes = tuple(lv.start_bare for lv in self.levels[:at])
        else:
            node, above = self._cut_for_added(nodes, at)
        for byte in data:
            if node == DEAD:
                return None
            node = level.next(node, byte)
        node = level.emit(node, tag) if node != DEAD else DEAD
        if node == DEAD:
            return None
        walked = []
        for lv, start in zip(self.levels[:at], above, strict=True):
            place = start
            for byte in data:
                place = lv.next(place, byte) if place != DEAD else DEAD
            if place == DEAD:
                return None
            walked.append(place)
        return (*walked, node, *([INACTIVE] * (len(self.levels) - at - 1)))

    # --- can the claims come true? -----------------------------------------------------------------------------------

    def ends(self, nodes: Nodes) -> bool:
        """Whether the text may end here."""
        return all(node == INACTIVE or level.ends(node) for level, node in zip(self.levels, nodes, strict=True))

    def settled(self, nodes: Nodes, token: int = -1, partial: bytes = b"", move: Move = "any") -> bool:
        """Whether some text to come makes every claim true.

        Args:
            nodes: The place.
            token: The last token, where it leaves a character unfinished.
            partial: The bytes of that character so far.
            move: What has to come next: ``cut`` a cut (or the end), ``stay`` more of the same piece.
        """
        if not partial and move != "stay" and self.ends(nodes):
            return True
        completed = self.completions.letters(token, partial, self._joint) if partial else None
        key = (nodes, completed, move)
        known = self._settled.get(key)
        if known is None:
            known = self._settled[key] = self._search(nodes, completed, move)
        return known

    def _search(self, nodes: Nodes, completed: frozenset[int] | None, move: Move) -> bool:
        if completed is not None:
            return any((end := self._read(nodes, letter)) is not None and self.settled(end) for letter in completed)
        seen: set[Nodes] = set()
        frontier = [nodes]
        while frontier:
            reached: list[Nodes] = []
            for place in frontier:
                options = [] if move == "cut" or INACTIVE in place else [place]
                if move != "stay":
                    options += self.cuts(place)
                for option in options:
                    for letter in range(len(self._letters)):
                        after = self._read(option, letter)
                        if after is not None and after not in seen:
                            if self.ends(after):
                                return True
                            seen.add(after)
                            reached.append(after)
            frontier, move = reached, "any"
        return False

    def _read(self, nodes: Nodes, letter: int) -> Nodes | None:
        """The nodes after one character, given by the letter that it is to all levels together."""
        out = []
        for level, node, own in zip(self.levels, nodes, self._letters[letter], strict=True):
            after = level.after(node, own)
            if after == DEAD:
                return None
            out.append(after)
        return tuple(out)

    def _joint_letters(self) -> tuple[UInt16[np.ndarray, " points"], list[tuple[int, ...]]]:
        """What each code point is to all levels together, and that letter's letter on each level."""
        key = np.zeros(CODE_POINTS, np.int64)
        for level in self.levels:
            own = np.where(level.letter == NO_LETTER, 0, level.letter + 1).astype(np.int64)
            key = compact(key * (int(own.max()) + 1) + own)[1]
        values, joint = compact(key)
        example = np.zeros(len(values), np.int64)
        example[joint] = np.arange(CODE_POINTS)
        letters = [tuple(int(level.letter[p]) for level in self.levels) for p in example.tolist()]
        table = np.array([NO_LETTER if NO_LETTER in own else i for i, own in enumerate(letters)], np.uint16)
        return table[joint], letters

    # --- all tokens --------------------------------------------------------------------------------------------------

    def fits(self, nodes: Nodes, partial: bytes, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks can stand here with no cut inside them (bytes and cuts alone)."""
        key = (nodes, partial)
        if hi - lo <= _WHOLE and key not in self._kept:
            ends = [self._walk_range(level, node, lo, hi) for level, node in zip(self.levels, nodes, strict=True)]
            return self._judge(ends, partial, lo)
        bits = self._kept.get(key)
        if bits is None:
            ends = [self._walk_all(level, node, self._depths) for level, node in zip(self.levels, nodes, strict=True)]
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
            nodes = tuple(int(end[i]) for end in ends)
            out[i] = self.settled(nodes, int(self.trie.order[lo + i]), unfinished(partial + self.trie.spelled[lo + i]))
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
        state[~self._ordinary[lo:hi]] = DEAD
        active = np.flatnonzero((lengths > depth) & (state != DEAD))
        while len(active):
            state[active] = self._step(level, state[active], self.trie.columns(lo + active, depth))
            depth += 1
            active = active[(lengths[active] > depth) & (state[active] != DEAD)]
        return state

    def _walk_all(self, level: Level, node: int, depths: list[_Depth]) -> Int32[np.ndarray, " tokens"]:
        """The node at the end of every token of a set of prefixes, in trie order; dead for the other tokens."""
        out = np.zeros(len(self.trie), np.int32)
        state = np.array([node], np.int32)
        for depth in depths:
            state = self._step(level, state[depth.parent], depth.byte)
            out[depth.ending] = state[depth.at]
        return out

    @staticmethod
    def _step(level: Level, state: Int32[np.ndarray, " n"], byte: UInt8[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        after: Int32[np.ndarray, " n"] = level.table[state, byte]
        unknown = np.flatnonzero(after < 0)
        if len(unknown):
            for key in set((state[unknown].astype(np.int64) << 8 | byte[unknown]).tolist()):
                level.next(key >> 8, key & 0xFF)
            after = level.table[state, byte]
        return after

    def added_fits(self, nodes: Nodes | None, at: int, ranks: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of the added tokens of level ``at`` (all of them, by rank) can stand here: `added` for many at once."""
        level = self.levels[at]
        node, above = (level.start_added, ()) if nodes is None else self._cut_for_added(nodes, at)
        key = (node, above, at)
        known = self._added_known.get(key)
        if known is None:
            known = np.zeros(len(ranks), np.bool_)
            if at not in self._added:
                self._added[at] = self._prefixes(ranks)
            if node != DEAD:
                states = self._walk_all(level, node, self._added[at])[ranks]
                for i in np.flatnonzero(states != DEAD).tolist():
                    rank = int(ranks[i])
                    after = self.added(nodes, at, self.trie.spelled[rank], int(self.trie.order[rank]))
                    known[i] = after is not None and self.settled(after)
            self._added_known[key] = known
        return known

    def _cut_for_added(self, nodes: Nodes, at: int) -> tuple[int, Nodes]:
        """Where an added token of level ``at`` begins: that level's node, and those of the levels above."""
        if nodes[at] == INACTIVE:  # right after an added token of a level above
            last = max(i for i in range(at) if nodes[i] != INACTIVE)
            after = self.levels[last].cut(nodes[last])
            above = (*nodes[:last], after, *(level.start_bare for level in self.levels[last + 1 : at]))
            return (DEAD if after == DEAD else self.levels[at].start_added), above
        below = zip(self.levels[at + 1 :], nodes[at + 1 :], strict=True)
        if not all(n == INACTIVE or lv.ends(n) for lv, n in below):  # their pieces end here
            return DEAD, nodes[:at]
        return self.levels[at].cut(nodes[at], added=True), nodes[:at]

    def _prefixes(self, alive: Int64[np.ndarray, " n"]) -> list[_Depth]:
        """The distinct prefixes of some tokens, by length."""
        trie, depths = self.trie, []
        group = np.zeros(len(trie), np.int64)
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


def _common(a: bytes, b: bytes) -> int:
    size = min(len(a), len(b))
    for i in range(size):
        if a[i] != b[i]:
            return i
    return size
