"""Which tokens begin with these bytes: the vocabulary in byte order.

Rules
    Tokens are sorted by their bytes (then by id), so the tokens that begin with a prefix are one range of *ranks*, and
    inside it the next byte only grows: a distribution over tokens becomes one over bytes by summing slices.
    A range's first ranks are the tokens that equal the prefix (several where ids share their bytes).
    A token may have two ranks: its own, and one with the bytes that it spells first in a text. After no sequence may
    both follow.
    Byte by byte, ranges are the nodes of a trie (`Branch`): each is made, and split by its next byte, when it is first
    asked for, and kept.

Cost
    A range is two binary searches, or one look at its branch; a split is linear in the range, in numpy, once.
    Branches of one token are not kept: so there are no more of them than tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.symbols import is_continuation


class PrefixIndex:
    """The tokens of a vocabulary in byte order.

    Args:
        token_bytes: The bytes of each id, or None.
        order: The ids that have bytes, sorted by them, where that is known already.
        first: What some of them spell as well, first in a text.

    Attributes:
        order: Token id at each rank.
        rank: Rank of each token id by its own bytes, -1 where the id spells nothing.
        own: Whether the bytes at a rank are the token's own.
        respelled: Whether some token has two ranks.
        spelled: Bytes at each rank, sorted.
        flat: The same, one after the other.
        offsets: Where those of each rank begin there; and, last, where all end.
        longest: Bytes of the longest token.
        missing: At each rank, how many bytes complete the character that the token ends inside of; 0 at its end.
        root: The branch of all tokens.

    >>> prefix_index = PrefixIndex([b"a", b"ab", None, b"b"])
    >>> prefix_index.range(b"a"), [int(i) for i in prefix_index.order]
    ((0, 2), [0, 1, 3])
    """

    __slots__ = (
        "flat",
        "lengths",
        "longest",
        "missing",
        "offsets",
        "order",
        "own",
        "rank",
        "respelled",
        "root",
        "spelled",
    )

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        order: Int32[np.ndarray, " _"] | None = None,
        *,
        first: Mapping[int, bytes] | None = None,
    ) -> None:
        ids = range(len(token_bytes)) if order is None else order.tolist()
        self.spelled: list[bytes] = [data for i in ids if (data := token_bytes[i]) is not None]
        if order is None or first:
            spelling = [i for i in ids if token_bytes[i] is not None]
            more = ((data, i) for i, data in (first or {}).items())
            pairs = sorted([*zip(self.spelled, spelling, strict=True), *more])
            order = np.fromiter((i for _, i in pairs), np.int32, len(pairs))
            self.spelled = [data for data, _ in pairs]
        self.order: Int32[np.ndarray, " tokens"] = order
        self.own: Bool[np.ndarray, " tokens"] = np.ones(len(order), np.bool_)
        for token, data in (first or {}).items():
            at = range(*self.range(data))
            self.own[next(rank for rank in at if order[rank] == token)] = False
        self.respelled = bool(first)
        self.rank: Int32[np.ndarray, " ids"] = np.full(len(token_bytes), -1, np.int32)
        self.rank[order[self.own]] = np.flatnonzero(self.own)
        self.lengths: Int32[np.ndarray, " tokens"] = np.fromiter(map(len, self.spelled), np.int32, len(order))
        self.longest = int(self.lengths.max(initial=0))
        self.flat: UInt8[np.ndarray, " total"] = np.frombuffer(b"".join(self.spelled), np.uint8)
        self.offsets: Int64[np.ndarray, " tokens+1"] = np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))
        self.root = Branch(self, 0, 0, len(order))
        self.missing = self._missing()

    def __len__(self) -> int:
        return len(self.spelled)

    def range(self, prefix: bytes, lo: int = 0, hi: int | None = None) -> tuple[int, int]:
        """The ranks ``lo:hi`` of the tokens that begin with ``prefix``, inside a range known to hold them."""
        hi = len(self.spelled) if hi is None else hi
        lo = bisect_left(self.spelled, prefix, lo, hi)
        after = prefix.rstrip(b"\xff")
        if after:
            hi = bisect_left(self.spelled, after[:-1] + bytes([after[-1] + 1]), lo, hi)
        return lo, hi

    def equal_to(self, data: bytes, lo: int, hi: int) -> int:
        """The end of the run of tokens at ``lo`` that are exactly ``data``, in a range of tokens that begin with it."""
        return self.longer_than(len(data), lo, hi)

    def longer_than(self, depth: int, lo: int, hi: int) -> int:
        """Where the tokens of more than ``depth`` bytes begin, in a range of tokens that have so many in common."""
        while lo < hi and len(self.spelled[lo]) == depth:
            lo += 1
        return lo

    def bytes_at(self, ranks: slice | Int64[np.ndarray, " n"], depth: int) -> UInt8[np.ndarray, " n"]:
        """The byte at ``depth`` of some tokens, all of which have to be longer than ``depth``."""
        column: UInt8[np.ndarray, " n"] = self.flat[self.offsets[:-1][ranks] + depth]
        return column

    def _missing(self) -> UInt8[np.ndarray, " tokens"]:
        """`bytelm.symbols.missing` of what is unfinished, for every token."""
        out = np.zeros(len(self), np.uint8)
        inside = np.ones(len(self), np.bool_)  # all bytes looked at so far go on a character
        for back in (1, 2, 3):
            at = np.flatnonzero(inside & (self.lengths >= back))
            byte = self.flat[self.offsets[at + 1] - back]
            size = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            out[at] = np.where((byte >= 0xC0) & (size > back), size - back, 0)
            inside[at] = is_continuation(byte)
        return out


class Branch:
    """The tokens that begin with some bytes: a node of the vocabulary's trie.

    Args:
        index: The vocabulary.
        depth: Bytes that the tokens have in common.
        lo: The first rank.
        hi: The end of the ranks.

    Attributes:
        lo: As given.
        longer: Where those begin that have more bytes; the ones before it are exactly these bytes.
        hi: As given.

    >>> branch = PrefixIndex([b"a", b"ab", None, b"b"]).root.below(ord("a"))
    >>> branch.lo, branch.longer, branch.hi, branch.parts[0]
    (0, 1, 2, b'b')
    """

    __slots__ = ("_below", "_depth", "_index", "_parts", "hi", "lo", "longer")

    def __init__(self, index: PrefixIndex, depth: int, lo: int, hi: int) -> None:
        self.lo, self.hi = lo, hi
        self.longer = index.longer_than(depth, lo, hi)
        self._index, self._depth = index, depth
        self._below: dict[int, Branch | None] = {}
        self._parts: tuple[bytes, Int64[np.ndarray, " parts"], Int64[np.ndarray, " parts"]] | None = None

    @property
    def parts(self) -> tuple[bytes, Int64[np.ndarray, " parts"], Int64[np.ndarray, " parts"]]:
        """The longer tokens by their next byte.

        Returns:
            The bytes that occur, ascending; the same as numbers; and where each one's tokens begin, from ``longer`` on.
        """
        if self._parts is None:
            column = self._index.bytes_at(slice(self.longer, self.hi), self._depth)
            starts = np.flatnonzero(np.append(True, column[1:] != column[:-1])[: len(column)])
            values = column[starts]
            self._parts = values.tobytes(), values.astype(np.int64), starts
        return self._parts

    def below(self, byte: int) -> Branch | None:
        """Those that go on with a byte; None if there are none."""
        try:
            return self._below[byte]
        except KeyError:
            found = self._find(byte)
        if found is None or found.hi - found.lo > 1:
            self._below[byte] = found
        return found

    def _find(self, byte: int) -> Branch | None:
        index, depth, first, hi = self._index, self._depth, self.longer, self.hi
        if hi - first <= 1:
            return Branch(index, depth + 1, first, hi) if hi > first and index.spelled[first][depth] == byte else None
        values, _, starts = self.parts
        at = values.find(byte)
        if at < 0:
            return None
        end = first + int(starts[at + 1]) if at + 1 < len(starts) else hi
        return Branch(index, depth + 1, first + int(starts[at]), end)


def unpacked(bits: UInt8[np.ndarray, " bytes"], lo: int, hi: int) -> Bool[np.ndarray, " n"]:
    """The ranks ``lo:hi`` of a mask of the vocabulary that is kept as packed bits.

    >>> unpacked(np.packbits([1, 0, 1]), 1, 3)
    array([False,  True])
    """
    first = lo >> 3
    return np.unpackbits(bits[first : (hi + 7) >> 3])[lo - 8 * first : hi - 8 * first].view(np.bool_)
