"""Which tokens may stand side by side inside one pre-token: BPE read off its merge trees.

Theory of operation
    BPE merges pairs in order of rank, the leftmost first among equals. Each token it can reach has one *derivation*, a
    binary tree. Down the right side of a token's tree stands its *right spine* a = a₀, a₁ (the right part of a₀), …;
    its left spine likewise. A token's *phase* is the largest rank in its tree: while BPE works through its ranks from
    the lowest, the token appears in that phase. (Usually the phase is the rank of its own merge. Conversions from
    SentencePiece and tiktoken also list merges whose parts come later than they do: such a merge happens at once when
    its parts are there, still in the phase that completed them. Gemma's runs of spaces are made so.) A piece on a
    spine lives from its phase until the phase of the merge that consumes it.

    Two neighbours a, b are *broken* if and only if some merge (aᵢ, bⱼ) would come first. Its phase q is the latest of
    its rank ρ and the phases of aᵢ and bⱼ. It comes first if both pieces live beyond q. Where one of them is consumed
    in phase q itself:
     - a's own merges lie to the left of the boundary, b's to its right, and within a phase the left one goes first;
     - a merge of smaller rank than the phase goes as soon as its parts are there, the smallest rank first.
    A sequence of reachable tokens inside one pre-token is what BPE makes of its bytes if and only if no neighbours
    are broken.

Cost
    All neighbours of a token that are broken: over its right spine and the merges of each piece, the suffix of a
    sorted list. A few numpy gathers, kept (as bits) for the tokens used last.

Source
    That neighbours decide is Berglund and van der Merwe's result on tokenization with merge lists (2023); reading it
    off the spines, and phases, are ours.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.tokenizer.disk_cache import cache_folder, read_arrays, write_arrays
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.prefix_index import PrefixIndex, unpacked
from bytelm.tokenizer.vocab import Vocab

FOREVER: Final = 1 << 30
_STRIDE: Final = 1 << 31
_KEPT_BYTES: Final = 1 << 25
_UNREACHED: Final = -2
_TREES_VERSION: Final = 3

Trees = Int64[np.ndarray, "4 ids"]  # phase, rank, left part, right part; phase -2 where BPE does not reach the token


class Merges:
    """The merge trees of a vocabulary.

    Args:
        size: Number of ids.
        base: Ids of the pieces that BPE begins with.
        merges: ``(left id, right id, result id)`` in rank order.
        lengths: Length of each id's spelling, in the pieces that merging counts.
        prefix_index: The vocabulary in byte order.
        trees: The derivations, where they are already known.

    Attributes:
        reachable: Whether BPE on a token's own spelling gives the token, per id.
        trees: The derivations, for keeping.
    """

    def __init__(
        self,
        *,
        size: int,
        base: Iterable[int],
        merges: Int32[np.ndarray, "merges 3"],
        lengths: Sequence[int] | Int64[np.ndarray, " ids"],
        prefix_index: PrefixIndex,
        trees: Trees | None = None,
    ) -> None:
        self.size = size
        self.prefix_index = prefix_index
        self._sort(merges)
        self.trees = self._derive(base, merges, np.asarray(lengths)) if trees is None else trees
        self.phase, self.rank, self.left, self.right = self.trees
        self.reachable: Bool[np.ndarray, " ids"] = self.phase > _UNREACHED
        self._reachable_ranks = self.reachable[prefix_index.order] & prefix_index.own
        self._columns: tuple[Sequence[int], ...] = tuple(array("q", row.tobytes()) for row in self.trees)
        self._index()
        self._bits: LRUCache[int, UInt8[np.ndarray, " bytes"]] = LRUCache(_KEPT_BYTES, lambda bits: bits.nbytes)

    def _sort(self, merges: Int32[np.ndarray, "merges 3"]) -> None:
        """The merges by their left parts, then by their right parts: as arrays, and for looking up one by one."""
        keys = merges[:, 0].astype(np.int64) * self.size + merges[:, 1]
        order = np.argsort(keys, kind="stable")
        # Of a pair that is listed twice the later rank counts, as in the library.
        order = order[np.append(np.diff(keys[order]) != 0, True)[: len(order)]]
        first = merges[order, 0]
        self._cross_rank, self._cross_other = order, merges[order, 1].astype(np.int64)
        self._cross_start = np.searchsorted(first, np.arange(self.size + 1))
        self._cross_first = first.astype(np.int64)
        self._starts, self._others, self._ranks = (
            array("q", values.tobytes()) for values in (self._cross_start, self._cross_other, self._cross_rank)
        )

    def _derive(
        self, base: Iterable[int], merges: Int32[np.ndarray, "merges 3"], lengths: Int64[np.ndarray, " ids"]
    ) -> Trees:
        """The derivation of each token: of the merges that spell it, the one before which nothing crosses."""
        phase, rank, left, right = ([_UNREACHED] * self.size, [-1] * self.size, [-1] * self.size, [-1] * self.size)
        self._columns = (phase, rank, left, right)
        for i in base:
            phase[i] = -1
        results = merges[self._cross_rank, 2]
        # Shorter tokens first, and of one token's merges the earliest.
        order = np.lexsort((self._cross_rank, lengths[results]))
        columns = (self._cross_rank, self._cross_first, self._cross_other, results)
        for at, a, b, result in zip(*(column[order].tolist() for column in columns), strict=True):
            if phase[result] > _UNREACHED or phase[a] == _UNREACHED or phase[b] == _UNREACHED:
                continue
            if not self._crossed(a, b, direct=False):
                phase[result], rank[result] = max(at, phase[a], phase[b]), at
                left[result], right[result] = a, b
        return np.array([phase, rank, left, right], np.int64)

    def _crossed(self, a: int, b: int, *, direct: bool) -> bool:
        """Whether a merge across the boundary of a·b comes before what makes a and b.

        ``direct``: the merge of a and b themselves counts.
        """
        phases, ranks, left, right = self._columns
        starts, others = self._starts, self._others
        # b's left spine: the piece, the phase and rank of the merge that consumes it, the phase of its partner there.
        ends: list[tuple[int, int, int, int]] = []
        piece, gone, by, partner = b, FOREVER, FOREVER, FOREVER
        while piece >= 0:
            ends.append((piece, gone, by, partner))
            gone, by, piece, whole = phases[piece], ranks[piece], left[piece], piece
            partner = phases[right[whole]] if piece >= 0 else 0
        piece, gone, by = a, FOREVER, FOREVER
        while piece >= 0:
            lo, hi = starts[piece], starts[piece + 1]
            for other, other_gone, other_by, other_partner in ends if lo < hi else ():
                at = bisect_left(others, other, lo, hi)
                if at == hi or others[at] != other or (not direct and piece == a and other == b):
                    continue
                cross = self._ranks[at]
                q = max(cross, phases[piece], phases[other])
                if q > gone or q > other_gone:
                    continue
                if q == gone and not (phases[piece] == q > max(cross, phases[other]) and cross < by):
                    continue
                if q == other_gone and phases[other] == q > cross and other_partner < q and cross > other_by:
                    continue
                return True
            gone, by, piece = phases[piece], ranks[piece], right[piece]
        return False

    def _index(self) -> None:
        """The sorted lists behind `broken`: tokens by the pieces of their left spines, merges by their left piece."""
        tokens = self.prefix_index.order[self._reachable_ranks].astype(np.int64)
        piece, owner = tokens, self.prefix_index.rank[tokens].astype(np.int64)
        gone, by, partner = (np.full(len(tokens), FOREVER, np.int64) for _ in range(3))
        rows = []
        while len(piece):
            rows.append(np.stack([piece, gone, by, partner, owner]))
            inner = self.left[piece] >= 0
            whole, owner = piece[inner], owner[inner]
            piece, gone, by, partner = (
                self.left[whole],
                self.phase[whole],
                self.rank[whole],
                self.phase[self.right[whole]],
            )
        spine = np.concatenate(rows, axis=1) if rows else np.zeros((5, 0), np.int64)
        keys = spine[0] * _STRIDE + spine[1]
        order = np.argsort(keys)  # several times as fast as a sort by two keys
        self._spine_key = keys[order]
        self._spine_by, self._spine_partner, self._spine_owner = (spine[i, order].astype(np.int32) for i in (2, 3, 4))
        parts = np.maximum(self.phase[self._cross_first], self.phase[self._cross_other])
        self._cross_phase = np.maximum(self._cross_rank, parts)

    def unbroken(self, a: int, b: int) -> bool:
        """Whether ``b`` may follow ``a`` inside one pre-token; both have to be reachable."""
        return not self._crossed(a, b, direct=True)

    @kept()
    def merges_on(self, a: int) -> bool:
        """Whether a merge may reach over the end of ``a``; if none does, every reachable token may follow."""
        piece = a
        while piece >= 0 and self._starts[piece] == self._starts[piece + 1]:
            piece = self._columns[3][piece]
        return piece >= 0

    def unbroken_range(self, a: int, lo: int, hi: int) -> Bool[np.ndarray, " n"]:
        """Which tokens of a range of ranks may follow ``a`` inside one pre-token (only reachable ones may)."""
        if hi - lo <= 16 and a not in self._bits:
            ids = self.prefix_index.order[lo:hi].tolist()
            return np.array([self._columns[0][t] > _UNREACHED and self.unbroken(a, t) for t in ids], np.bool_)
        return unpacked(self.unbroken_bits(a), lo, hi)

    def unbroken_bits(self, a: int) -> UInt8[np.ndarray, " bytes"]:
        """`unbroken_range` for the whole vocabulary, as packed bits."""
        bits: UInt8[np.ndarray, " bytes"] | None = self._bits.get(a)
        if bits is None:
            bits = self._bits[a] = np.packbits(~self._broken(a) & self._reachable_ranks)
        return bits

    def _broken(self, a: int) -> Bool[np.ndarray, " tokens"]:
        """In byte order, the tokens that may not follow ``a``: the rule of `_crossed` for all of them at once."""
        phases, ranks, _, right = self._columns
        out = np.zeros(len(self.prefix_index), np.bool_)
        piece, gone, by = a, FOREVER, FOREVER
        while piece >= 0:
            span = slice(self._cross_start[piece], self._cross_start[piece + 1])
            cross, other, q = self._cross_rank[span], self._cross_other[span], self._cross_phase[span]
            own = phases[piece]
            lives = (q < gone) | ((q == gone) & (own == q) & (cross < q) & (self.phase[other] < q) & (cross < by))
            cross, other, q = cross[lives], other[lives], q[lives]
            late = (self.phase[other] == q) & (cross < q)  # made in phase q: its own next merge may be quicker
            base = other * _STRIDE
            beyond = np.searchsorted(self._spine_key, base + q, side="right")
            starts = np.where(late, beyond, np.searchsorted(self._spine_key, base + q))
            counts = np.searchsorted(self._spine_key, base + FOREVER, side="right") - starts
            total = int(counts.sum())
            if total:
                shift = np.repeat(starts - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
                out[self._spine_owner[np.arange(total) + shift]] = True
            for i in np.flatnonzero(late):
                same = slice(np.searchsorted(self._spine_key, base[i] + q[i]), beyond[i])
                first = (self._spine_partner[same] >= q[i]) | (cross[i] <= self._spine_by[same])
                out[self._spine_owner[same][first]] = True
            gone, by, piece = own, ranks[piece], right[piece]
        return out


def read_merges(vocab: Vocab, prefix_index: PrefixIndex) -> Merges:
    """The merge trees, from disk where this vocabulary was read before."""
    names, ids = list(vocab.pieces), np.fromiter(vocab.pieces.values(), np.int64, len(vocab.pieces))
    sizes = np.fromiter(map(len, names), np.int64, len(names))
    lengths = np.zeros(len(vocab), np.int64)
    lengths[ids] = sizes
    # A byte-level text reaches BPE in the byte alphabet alone.
    base = [int(ids[at]) for at in np.flatnonzero(sizes == 1) if vocab.spell_piece(names[at])] + [*vocab.byte_ids]
    digest = hashlib.sha256(repr((_TREES_VERSION, len(vocab), base)).encode())
    digest.update(vocab.merges.tobytes())
    folder = cache_folder("merge-trees")
    path = folder / f"{digest.hexdigest()[:32]}.npz" if folder else None
    known = (read_arrays(path) or {}).get("trees")
    trees = None if known is None or known.shape != (4, len(vocab)) else known.astype(np.int64)
    merges = Merges(
        size=len(vocab), base=base, merges=vocab.merges, lengths=lengths, prefix_index=prefix_index, trees=trees
    )
    if trees is None:
        write_arrays(path, trees=merges.trees.astype(np.int32))
    return merges
