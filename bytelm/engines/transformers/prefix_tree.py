"""Which token sequences have their keys and values in which cache slots: a radix tree over tokens.

Rules
    A *slot* is one position of the key-value store (`kv_cache.SlotStore`). A slot holds one token in one context.
    A *segment* is a run of tokens with their slots; its children continue it with different next tokens.
    A sequence's *path* is the slots of its tokens, in order. The tree holds each prefix once, whoever asked for it, so
    branches, rollbacks and samples of one prompt share what they have in common.

Invariant
    Children of a segment begin with different tokens, no segment but the root is empty, and no slot is in two segments.

Forgetting
    `evict` frees the tails that were used longest ago, and never what the present call uses (its stamp is the clock).
    `trim` frees side branches of a few tokens that nothing has asked for lately, and joins what then is one run again.
    Freed slots are garbage in the store until it is packed.

Cost
    Finding a sequence compares lists run by run, at the speed of C: tens of microseconds for thousands of tokens.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Int64

from bytelm.engines.row_memo import common

TWIG_TOKENS: Final = 8  # a leaf of at most so many tokens is a side branch: cheap to make again
TWIG_AGE: Final = 32  # calls after which a side branch that nobody asked for is dropped


@dataclass(slots=True, eq=False)
class Segment:
    """A run of tokens and their slots, below ``parent``."""

    parent: Segment | None
    tokens: list[int]
    slots: array[int]
    stamp: int
    children: dict[int, Segment] = field(default_factory=dict)


class PrefixTree:
    """All cached sequences.

    Attributes:
        clock: Number of the present call; everything that it uses carries this stamp.
        live: How many slots the tree holds.

    >>> tree = PrefixTree()
    >>> tree.insert(tree.root, [7, 8, 9], [0, 1, 2])
    >>> segment, matched = tree.find([7, 8, 5])
    >>> matched, tree.path(segment).tolist()
    (2, [0, 1])
    """

    def __init__(self) -> None:
        self.root = Segment(None, [], array("q"), 0)
        self.clock = 0
        self.live = 0

    def find(self, sequence: list[int]) -> tuple[Segment, int]:
        """The longest cached prefix: the segment that ends with it (cut there if need be), and its length in tokens."""
        segment, n = self.root, 0
        while n < len(sequence) and (child := segment.children.get(sequence[n])):
            used = common(child.tokens, sequence[n : n + len(child.tokens)])
            if used < len(child.tokens):
                self._split(child, used)
            segment, n = child, n + used
        above: Segment | None = segment
        while above is not None and above.stamp != self.clock:
            above.stamp = self.clock
            above = above.parent
        return segment, n

    def insert(self, segment: Segment, tokens: Sequence[int], slots: Sequence[int]) -> None:
        """Continue the prefix that ends with ``segment``; no child of it may begin with the first of ``tokens``."""
        if segment.parent is not None and not segment.children:
            segment.tokens.extend(tokens)
            segment.slots.extend(slots)
        else:
            segment.children[tokens[0]] = Segment(segment, list(tokens), array("q", slots), self.clock)
        self.live += len(tokens)

    def path(self, segment: Segment | None) -> Int64[np.ndarray, " depth"]:
        """The slots of the prefix that ends with ``segment``, first token first."""
        parts = []
        while segment is not None:
            parts.append(np.array(segment.slots, dtype=np.int64))
            segment = segment.parent
        return np.concatenate(parts[::-1])

    def slots(self) -> Int64[np.ndarray, " live"]:
        """Every slot that the tree holds, path by path, the latest used first."""
        parts = [np.array(segment.slots, dtype=np.int64) for segment in self._segments()]
        return np.concatenate(parts)

    def renumber(self, new: Int64[np.ndarray, " slots"]) -> None:
        """Replace every slot ``i`` by ``new[i]``."""
        for segment in self._segments():
            segment.slots = array("q", new[np.array(segment.slots, dtype=np.int64)].tobytes())

    def evict(self, n: int) -> int:
        """Free at least ``n`` slots, those used longest ago first; fewer only where the present call uses the rest."""
        leaves = [(s.stamp, id(s), s) for s in self._segments() if not s.children and s.parent is not None]
        heapq.heapify(leaves)
        freed = 0
        while leaves and freed < n:
            stamp, _, leaf = heapq.heappop(leaves)
            if stamp >= self.clock:
                break
            parent = leaf.parent
            if len(leaf.tokens) > n - freed:
                keep = len(leaf.tokens) - (n - freed)
                freed += len(leaf.tokens) - keep
                del leaf.tokens[keep:], leaf.slots[keep:]
                break
            freed += len(leaf.tokens)
            if parent is not None:
                del parent.children[leaf.tokens[0]]
                if not parent.children and parent.parent is not None:
                    heapq.heappush(leaves, (parent.stamp, id(parent), parent))
        self.live -= freed
        return freed

    def trim(self) -> None:
        """Drop side branches that nothing has asked for in the last `TWIG_AGE` calls, and join runs used together."""
        old = self.clock - TWIG_AGE
        for segment in list(self._segments())[::-1]:  # children before their parents
            parent = segment.parent
            if parent is None:
                continue
            twig = not segment.children and len(segment.tokens) <= TWIG_TOKENS and segment.stamp < old
            if twig and parent.stamp > segment.stamp:
                del parent.children[segment.tokens[0]]
                self.live -= len(segment.tokens)
            if len(segment.children) == 1:
                (child,) = segment.children.values()
                if child.stamp == segment.stamp:
                    _join(segment, child)

    def _segments(self) -> Iterator[Segment]:
        stack = [self.root]
        while stack:
            segment = stack.pop()
            yield segment
            stack.extend(sorted(segment.children.values(), key=lambda child: child.stamp))

    def _split(self, segment: Segment, at: int) -> None:
        """Cut a segment in two; the object keeps the upper part."""
        lower = Segment(segment, segment.tokens[at:], segment.slots[at:], segment.stamp)
        lower.children = segment.children
        for child in lower.children.values():
            child.parent = lower
        del segment.tokens[at:], segment.slots[at:]
        segment.children = {lower.tokens[0]: lower}


def _join(segment: Segment, child: Segment) -> None:
    """Take a segment's only child into it."""
    segment.tokens.extend(child.tokens)
    segment.slots.extend(child.slots)
    segment.children = child.children
    for grandchild in segment.children.values():
        grandchild.parent = segment
