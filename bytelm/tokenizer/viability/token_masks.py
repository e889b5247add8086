"""Which tokens of the vocabulary can stand at a place, all at once.

Theory of operation
    A token can stand where no level dies on its bytes and the claims after it can come true. After nearly all tokens
    every level may end, which is seen from the nodes they lead to; the rest are asked one by one (token_futures.py).
    Whole pre-tokens and added tokens need a cut after them, for which letters decide (text_futures.py).

Cost
    A whole vocabulary is judged once for each set of nodes, and kept as bits; small ranges are judged when asked for.
    What an added token leads to depends on where its own level cuts, and on no level below: it is kept by that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.tokenizer.prefix_index import unfinished
from bytelm.tokenizer.split.automaton import DEAD
from bytelm.tokenizer.split.vocab_walk import WHOLE, Nodes, Walker
from bytelm.tokenizer.viability.text_futures import TextFutures
from bytelm.tokenizer.viability.token_futures import TokenFutures

_KEPT: Final = 512


class TokenMasks:
    """Answers for the tokens of one vocabulary.

    Args:
        walker: All levels of its pre-tokenizer.
        readings: What letters decide.
        futures: What tokens decide.
    """

    def __init__(self, walker: Walker, readings: TextFutures, futures: TokenFutures) -> None:
        self._walker = walker
        self._readings = readings
        self._futures = futures
        self._trie = walker.prefix_index
        self._ordinary: OrderedDict[tuple[Nodes, bytes], UInt8[np.ndarray, " bytes"]] = OrderedDict()
        self._sealed: dict[Nodes, Bool[np.ndarray, " n"]] = {}
        self._added: dict[tuple[int, int, Nodes], Bool[np.ndarray, " n"]] = {}
        self._last_added: dict[tuple[int, Nodes], tuple[Int32[np.ndarray, " n"], Bool[np.ndarray, " n"]]] = {}

    def ordinary(self, nodes: Nodes, partial: bytes, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks can stand here with no cut inside them: words and the last pair apart."""
        key = (nodes, partial)
        if hi - lo <= WHOLE and key not in self._ordinary:
            return self._judge(self._walker.landings(nodes, lo, hi), partial, lo)
        bits = self._ordinary.get(key)
        if bits is None:
            ends = self._walker.landings(nodes, 0, len(self._trie))
            bits = self._ordinary[key] = np.packbits(self._judge(ends, partial, 0))
            if len(self._ordinary) > _KEPT:
                self._ordinary.popitem(last=False)
        else:
            self._ordinary.move_to_end(key)
        first = lo >> 3
        return np.unpackbits(bits[first : (hi + 7) >> 3])[lo - 8 * first : hi - 8 * first].astype(np.bool_)

    def _judge(self, ends: list[Int32[np.ndarray, " n"]], partial: bytes, lo: int) -> Bool[np.ndarray, " n"]:
        alive = np.ones(len(ends[0]), np.bool_)
        sure = np.ones(len(ends[0]), np.bool_)
        for level, end in zip(self._walker.levels, ends, strict=True):
            alive &= end != DEAD
            may_end = np.zeros(int(end.max(initial=0)) + 1, np.bool_)
            used = np.flatnonzero(np.bincount(end))
            may_end[used] = [level.ends(node) for node in used.tolist()]
            sure &= may_end[end]
        out = alive & sure
        for i in np.flatnonzero(alive & ~sure).tolist():
            nodes = tuple(int(end[i]) for end in ends)
            rest = unfinished(partial + self._trie.spelled[lo + i])
            out[i] = self._futures.settled(nodes, int(self._trie.order[lo + i]), rest)
        return out

    def sealed(self, nodes: Nodes, ranks: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of these tokens (always the same, by rank) can stand here as whole pre-tokens."""
        known = self._sealed.get(nodes)
        if known is None:
            ends = (self._walker.walk(nodes, self._trie.spelled[rank]) for rank in ranks.tolist())
            known = np.array([after is not None and self._readings.stops(after) for after in ends], np.bool_)
            self._sealed[nodes] = known
        return known

    def added(self, nodes: Nodes | None, at: int, ranks: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of the added tokens of level ``at`` (all of them, by rank) can stand here."""
        node, above = self._walker.before_added(nodes, at)
        known = self._added.get((at, node, above))
        if known is None:
            # Wherever an added token begins, its bytes mostly lead to the same node, and so to the same answer.
            ends = self._walker.added_ends(node, at, ranks)
            last, known = self._last_added.get((at, above), (np.zeros_like(ends), np.zeros(len(ends), np.bool_)))
            known = known.copy()
            for i in np.flatnonzero(ends != last).tolist():
                rank, end = int(ranks[i]), int(ends[i])
                data, token = self._trie.spelled[rank], int(self._trie.order[rank])
                after = self._walker.after_added(end, above, at, data, token)
                known[i] = after is not None and self._readings.stops(after)
            self._last_added[at, above] = ends, known
            self._added[at, node, above] = known
        return known
