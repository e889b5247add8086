"""Tokens walked through all levels of a pre-tokenizer at once.

Theory of operation
    The levels of a pre-tokenizer (added tokens first, then each split step inside the pieces of the one before) see
    the same bytes. Where a level cuts, every level below ends its piece and begins anew. So a place in the text is
    one node for each level, and between two cuts all levels walk independently.

Cost
    Walking the whole vocabulary visits distinct prefixes of its tokens, in numpy, and only those where the walk has
    not met the one before it on the same level: two walks that meet go on alike, and most meet after a character or
    two. Few sets of nodes occur: a state of a split pattern is "inside a word", "after one line feed", and so on. They
    differ mostly on one level, so each level's walks are kept, those used last and within a stated size. For the same
    reason one token is walked by steps that were mostly taken before: a look-up a byte, for all levels together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.split.automaton import DEAD, Level

INACTIVE: Final = -1  # a level below an added token: there is no piece to split
WHOLE: Final = 3000  # ranges beyond this are answered for the whole vocabulary, once
_KEPT_BYTES: Final = 1 << 25
_STEPS: Final = 1 << 16  # that are remembered: 20 MB

Nodes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Depth:
    """The distinct prefixes of one length: each one's parent and last byte, and the tokens that end there."""

    parent: Int64[np.ndarray, " prefixes"]
    byte: UInt8[np.ndarray, " prefixes"]
    ending: Int64[np.ndarray, " tokens"]
    at: Int64[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True)
class _Walk:
    """Strings to walk, and where one level's last walk over them led. The next one follows it only where they differ.

    Attributes:
        depths: Their distinct prefixes by length.
        states: The node after each of these prefixes. Changes.
        ends: The node at the end of every token, dead for those that are not among the strings. Changes.
    """

    depths: list[_Depth]
    states: list[Int32[np.ndarray, " _"]]  # of different lengths
    ends: Int32[np.ndarray, " tokens"]


class Walker:
    """All levels of one pre-tokenizer over one vocabulary.

    Args:
        levels: Outermost first.
        prefix_index: The vocabulary in byte order.
        ordinary: Which tokens, in trie order, can come out of merging (or whole pre-tokens).
    """

    def __init__(
        self, levels: Sequence[Level], prefix_index: PrefixIndex, *, ordinary: Bool[np.ndarray, " tokens"]
    ) -> None:
        self.levels = tuple(levels)
        self.prefix_index = prefix_index
        self._ordinary = ordinary
        self._depths = self._prefixes(np.flatnonzero(ordinary))
        # Whoever walks takes the last walk out, and puts it back whole: an interruption or another thread finds none.
        self._walks: dict[int, _Walk] = {}
        self._added: dict[int, _Walk] = {}
        self._walked: OrderedDict[tuple[int, int], Int32[np.ndarray, " tokens"]] = OrderedDict()
        self._steps: dict[tuple[Nodes, int], Nodes | None] = {}
        self._cuts: dict[Nodes, tuple[Nodes, ...]] = {}

    def start(self, *, bare: bool) -> Nodes:
        """The nodes at the beginning of a text; ``bare``: what a text has to begin with does not apply."""
        return tuple(level.start_bare if bare else level.start for level in self.levels)

    # --- one token ---------------------------------------------------------------------------------------------------

    def walk(self, nodes: Nodes, data: bytes) -> Nodes | None:
        """The nodes after some bytes with no cut among them; None where that cannot be."""
        steps = self._steps
        for byte in data:
            try:
                after = steps[nodes, byte]
            except KeyError:
                after = self._read(nodes, byte)
            if after is None:
                return None
            nodes = after
        return nodes

    def _read(self, nodes: Nodes, byte: int) -> Nodes | None:
        """A step that was not taken before."""
        if len(self._steps) >= _STEPS:
            self._steps.clear()
        out = tuple(level.next(node, byte) for level, node in zip(self.levels, nodes, strict=True))
        after = self._steps[nodes, byte] = None if DEAD in out else out
        return after

    def before_character(self, nodes: Nodes) -> Nodes:
        """Where the levels stood before the character that these nodes are inside of, with no cut before it."""
        return tuple(level.origin(node) for level, node in zip(self.levels, nodes, strict=True))

    def cuts(self, nodes: Nodes) -> tuple[Nodes, ...]:
        """The ways to claim a cut at a character's end: at one level, with those below beginning anew."""
        known = self._cuts.get(nodes)
        if known is None:
            if len(self._cuts) >= _STEPS:
                self._cuts.clear()
            known = self._cuts[nodes] = tuple(self._cut(nodes))
        return known

    def _cut(self, nodes: Nodes) -> Iterator[Nodes]:
        for at, (level, node) in enumerate(zip(self.levels, nodes, strict=True)):
            if node == INACTIVE:
                return
            after = level.cut(node)
            if after != DEAD and ended(self.levels[at + 1 :], nodes[at + 1 :]):
                yield (*nodes[:at], after, *(lv.start_bare for lv in self.levels[at + 1 :]))

    def onward(self, nodes: Nodes) -> Iterator[Nodes]:
        """The ways to claim a cut, where ordinary text follows it or the beginning of an added token.

        Added tokens are left out where no match can be waiting for one. A single word stays text because a word
        character follows, and an added token may begin with that; for all other claims the end of the text will do.
        """
        yield from self.cuts(nodes)
        for at, level in enumerate(self.levels):
            if not level.added or not level.threads.pattern.looks_behind:
                continue
            below = [INACTIVE] * (len(self.levels) - at - 1)
            node, above = self.before_added(nodes, at)
            if node != DEAD:
                yield (*above, node, *below)
            for done in level.emissions(nodes[at]) if nodes[at] != INACTIVE else ():
                yield from self.onward((*nodes[:at], done, *below))

    def added(self, nodes: Nodes | None, at: int, data: bytes, tag: int) -> Nodes | None:
        """The nodes after an added token matched at level ``at``; ``nodes`` is None at the beginning of a text."""
        node, above = self.before_added(nodes, at)
        for byte in data:
            if node == DEAD:
                return None
            node = self.levels[at].next(node, byte)
        return self.after_added(node, above, at, data, tag)

    def before_added(self, nodes: Nodes | None, at: int) -> tuple[int, Nodes]:
        """Where an added token of level ``at`` begins: that level's node (dead: it cannot), and the nodes above."""
        if nodes is None:
            return self.levels[at].start_added, tuple(lv.start_bare for lv in self.levels[:at])
        if nodes[at] == INACTIVE:  # right after an added token of a level above
            last = max(i for i in range(at) if nodes[i] != INACTIVE)
            after = self.levels[last].cut(nodes[last])
            above = (*nodes[:last], after, *(level.start_bare for level in self.levels[last + 1 : at]))
            return (DEAD if after == DEAD else self.levels[at].start_added), above
        if not ended(self.levels[at + 1 :], nodes[at + 1 :]):  # their pieces end here
            return DEAD, nodes[:at]
        return self.levels[at].cut(nodes[at], added=True), nodes[:at]

    def after_added(self, node: int, above: Nodes, at: int, data: bytes, tag: int) -> Nodes | None:
        """The nodes after an added token, from the node that its bytes lead to and those of the levels above before."""
        node = self.levels[at].emit(node, tag) if node != DEAD else DEAD
        walked = []
        for level, start in zip(self.levels[:at], above, strict=True):
            place = start
            for byte in data:
                place = level.next(place, byte) if place != DEAD else DEAD
            walked.append(place)
        if node == DEAD or DEAD in walked:
            return None
        return (*walked, node, *([INACTIVE] * (len(self.levels) - at - 1)))

    # --- all tokens --------------------------------------------------------------------------------------------------

    def landings(self, nodes: Nodes, lo: int, hi: int) -> list[Int32[np.ndarray, " n"]]:
        """For each level, the node at the end of every token of a range of ranks, with no cut inside the tokens."""
        return [self._landing(at, node, lo, hi) for at, node in enumerate(nodes)]

    def _landing(self, at: int, node: int, lo: int, hi: int) -> Int32[np.ndarray, " n"]:
        known = self._walked.get((at, node))
        if known is None:
            if hi - lo <= WHOLE:
                return self._walk_range(self.levels[at], node, lo, hi)
            walk = self._walks.pop(at, None) or self._walk(self._depths)
            known = self._walked[at, node] = self._walk_all(walk, self.levels[at], node)
            self._walks[at] = walk
            if len(self._walked) * known.nbytes > _KEPT_BYTES:
                self._walked.popitem(last=False)
        else:
            self._walked.move_to_end((at, node))
        return known[lo:hi]

    def _walk_range(self, level: Level, node: int, lo: int, hi: int) -> Int32[np.ndarray, " n"]:
        state = np.full(hi - lo, node, np.int32)
        lengths = self.prefix_index.lengths[lo:hi]
        # All tokens of a range usually begin alike: walk the common part once.
        shared = _common(self.prefix_index.spelled[lo], self.prefix_index.spelled[hi - 1]) if hi > lo else 0
        if shared:
            for byte in self.prefix_index.spelled[lo][:shared]:
                node = level.next(node, byte) if node != DEAD else DEAD
            state[:] = node
        depth = shared
        state[~self._ordinary[lo:hi]] = DEAD
        active = np.flatnonzero((lengths > depth) & (state != DEAD))
        while len(active):
            state[active] = self._step(level, state[active], self.prefix_index.columns(lo + active, depth))
            depth += 1
            active = active[(lengths[active] > depth) & (state[active] != DEAD)]
        return state

    def _walk_all(self, walk: _Walk, level: Level, node: int) -> Int32[np.ndarray, " tokens"]:
        """The node at the end of every token of a walk's strings, in trie order; dead for the other tokens."""
        before, changed = np.array([node], np.int32), np.ones(1, np.bool_)
        for depth, state in zip(walk.depths, walk.states, strict=True):
            at = np.flatnonzero(changed[depth.parent])
            after = self._step(level, before[depth.parent[at]], depth.byte[at])
            differ = after != state[at]
            at = at[differ]
            if not len(at):
                break
            state[at] = after[differ]
            before, changed = state, np.zeros(len(state), np.bool_)
            changed[at] = True
            ends = changed[depth.at]
            walk.ends[depth.ending[ends]] = state[depth.at[ends]]
        return walk.ends.copy()

    @staticmethod
    def _step(level: Level, state: Int32[np.ndarray, " n"], byte: UInt8[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        after: Int32[np.ndarray, " n"] = level.table[state, byte]
        unknown = np.flatnonzero(after < 0)
        if len(unknown):
            for key in set((state[unknown].astype(np.int64) << 8 | byte[unknown]).tolist()):
                level.next(key >> 8, key & 0xFF)
            after = level.table[state, byte]
        return after

    def added_ends(self, node: int, at: int, ranks: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """Where each of the added tokens of level ``at`` (all of them, by rank) leads to on that level, from a node."""
        if node == DEAD:
            return np.zeros(len(ranks), np.int32)
        walk = self._added.pop(at, None) or self._walk(self._prefixes(ranks))
        ends: Int32[np.ndarray, " n"] = self._walk_all(walk, self.levels[at], node)[ranks]
        self._added[at] = walk
        return ends

    def _walk(self, depths: list[_Depth]) -> _Walk:
        """Before the first walk: from a dead node."""
        states = [np.zeros(len(depth.byte), np.int32) for depth in depths]
        return _Walk(depths, states, np.zeros(len(self.prefix_index), np.int32))

    def _prefixes(self, alive: Int64[np.ndarray, " n"]) -> list[_Depth]:
        """The distinct prefixes of some tokens, by length."""
        prefix_index, depths = self.prefix_index, []
        group = np.zeros(len(prefix_index), np.int64)
        depth = 0
        while len(alive):
            parent, byte = group[alive], prefix_index.columns(alive, depth)
            new = np.concatenate(([True], (parent[1:] != parent[:-1]) | (byte[1:] != byte[:-1])))
            group[alive] = np.cumsum(new) - 1
            first = np.flatnonzero(new)
            depth += 1
            ending = alive[prefix_index.lengths[alive] == depth]
            depths.append(_Depth(parent[first], byte[first], ending, group[ending]))
            alive = alive[prefix_index.lengths[alive] > depth]
        return depths


def ended(levels: Sequence[Level], nodes: Nodes) -> bool:
    """Whether the pieces of these levels may all end at their nodes."""
    return all(node == INACTIVE or level.ends(node) for level, node in zip(levels, nodes, strict=True))


def _common(a: bytes, b: bytes) -> int:
    size = min(len(a), len(b))
    for i in range(size):
        if a[i] != b[i]:
            return i
    return size
