"""A model's rows as the byte layer uses them: probabilities of spellable tokens in byte order, and of the end of text.

Rules
    A row is turned once, when its masses are first asked for: exponentials, put in byte order, so that the tokens that
    begin with some bytes are a slice of it. The ids that end a text become one number; special tokens that do not are
    dropped, and are part of the leak.
    Logarithms in float32 become probabilities in float32, whose rounding is less than their own, unless one of them is
    too small for it: no token may become impossible. Sums are in float64.

    A row may stay on the device where it was computed (`FarRow`). Then each question of it is answered there, in
    float64.

Cost
    One gather and one exponential of the vocabulary; 8 bytes a token (16 where rows are float64).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Float, Float64, Int32, Int64

from bytelm.cover.nodes import RankedArray
from bytelm.engines.rows import ROW_TOLERANCE, drawn_token, least_likely, likely_drawn, likely_entries, likely_of
from bytelm.errors import VocabularyMismatchError
from bytelm.token_lm import EXTRA_TOKEN_COST, DeviceRow, Likely
from bytelm.tokenizer.prefix_index import PrefixIndex

STORE_BYTES: Final = 128 * 2**20
SHORT: Final = 1024  # ranks of a row elsewhere that are sooner fetched than asked about
LEAST_LOGPROB: Final = -80.0  # float32 has full precision down to exp(-87)

Given: TypeAlias = 'Float[np.ndarray, "vocab"] | DeviceRow'


class LikelyRanks(NamedTuple):
    """The likely tokens of a row that spell something and do not end a text.

    Attributes:
        ranks: Ascending.
        probs: Theirs.
        rest: What all other ids have together is no more, but for the likely ones that spell nothing or end a text.
    """

    ranks: Int64[np.ndarray, " n"]
    probs: Float64[np.ndarray, " n"]
    rest: float


class Row(ABC):
    """What a model says after a node: of the spellable tokens in byte order, and of the end of text.

    Args:
        reader: Of its tokenizer.
        given: The row, by token id; not to be written to any more.

    Attributes:
        given: As given.
    """

    __slots__ = ("_eot", "_likeliest", "_ranks", "_reader", "given")

    def __init__(self, reader: RowReader, given: Given) -> None:
        self._reader = reader
        self._eot: float | None = None
        self._likeliest: int | None = None
        self._ranks: LikelyRanks | None = None
        self.given = given

    @property
    def eot(self) -> float:
        """The probability that the text ends."""
        if self._eot is None:
            self._eot = float(np.exp(self._entries(self._reader.eot_ids)).sum())
        return self._eot

    @property
    def nbytes(self) -> int:
        """What it takes, wherever it is."""
        return self.given.nbytes

    def logprob(self, token_id: int) -> float:
        """The log-probability of a token, as a part of a text."""
        return -math.inf if token_id in self._reader.ends else float(self._entries(np.array([token_id]))[0])

    @property
    @abstractmethod
    def likely(self) -> Likely:
        """Its likely tokens, and perhaps some others, by id."""

    @property
    def likely_ranks(self) -> LikelyRanks:
        """The same by rank."""
        if self._ranks is None:
            likely = self.likely
            probs = np.exp(likely.logprobs, dtype=np.float64)
            rest = max(1.0 - float(probs.sum()), 0.0) + ROW_TOLERANCE
            ranks = self._reader.rank_of[likely.ids]
            order = ranks.argsort()
            order = order[ranks.searchsorted(0, sorter=order) :]
            self._ranks = LikelyRanks(ranks[order], probs[order], rest)
        return self._ranks

    def likeliest(self) -> int:
        """The likeliest of all ids."""
        if self._likeliest is None:
            self._likeliest = self._found_likeliest()
        return self._likeliest

    @abstractmethod
    def likeliest_after(self, data: bytes) -> int | None:
        """The likeliest of the tokens that begin with some bytes and go on; None where that takes more than a look."""

    @abstractmethod
    def drawn(self, uniform: float) -> tuple[int, float]:
        """The token of all ids on which a uniform number falls, and its log-probability."""

    @abstractmethod
    def some_probs(self, lo: int, hi: int) -> Float[np.ndarray, " n"]:
        """The probabilities of a range of ranks."""

    @abstractmethod
    def sums(
        self, lo: int, hi: int, mask: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " parts"]
    ) -> Float64[np.ndarray, " parts"]:
        """The summed probabilities of parts of a range of ranks, as in `bytelm.cover.nodes.Ranked`."""

    @abstractmethod
    def _entries(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]: ...

    @abstractmethod
    def _found_likeliest(self) -> int: ...


class ArrayRow(Row):
    """A row in memory."""

    __slots__ = ("_likely", "_probs", "_wide")

    given: Float[np.ndarray, " vocab"]

    def __init__(self, reader: RowReader, given: Float[np.ndarray, " vocab"]) -> None:
        super().__init__(reader, given)
        self._probs: Float[np.ndarray, " tokens"] | None = None
        self._wide: bool | None = None
        self._likely: Likely | None = None

    @property
    def nbytes(self) -> int:
        """What it takes, once its probabilities are made."""
        return 2 * self.given.nbytes

    @property
    def probs(self) -> Float[np.ndarray, " tokens"]:
        """Probabilities of the spellable tokens in byte order, made when they are first asked for."""
        if self._probs is None:
            self._probs = self.some_probs(0, len(self._reader.order))
        return self._probs

    def some_probs(self, lo: int, hi: int) -> Float[np.ndarray, " n"]:  # noqa: D102 - as in `Row`
        if self._probs is not None:
            return self._probs[lo:hi]
        if self._wide is None:
            self._wide = too_small(self.given)
        probs = self._reader.probs(self.given, lo, hi, wide=self._wide)
        if hi - lo == len(self._reader.order):
            self._probs = probs
        return probs

    def sums(  # noqa: D102 - as in `Row`
        self, lo: int, hi: int, mask: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " parts"]
    ) -> Float64[np.ndarray, " parts"]:
        return RankedArray(self.some_probs(lo, hi), lo).sums(lo, hi, mask, starts)

    @property
    def likely(self) -> Likely:  # noqa: D102
        if self._likely is None:
            self._likely = likely_of(self.given)
        return self._likely

    def drawn(self, uniform: float) -> tuple[int, float]:  # noqa: D102
        token = drawn_token(uniform, self.given, self.likely)
        return token, float(self.given[token])

    def _entries(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        found: Float64[np.ndarray, " n"] = self.given[ids].astype(np.float64)
        return found

    def logprob(self, token_id: int) -> float:  # noqa: D102
        return self._reader.logprob(self.given, token_id)

    def _found_likeliest(self) -> int:
        return int(self.given.argmax())

    def likeliest_after(self, data: bytes) -> int | None:  # noqa: D102
        index = self._reader.prefix_index
        lo, hi = self._reader.longer(data)
        if self._probs is not None:
            return int(self._reader.order[lo + self._probs[lo:hi].argmax()]) if lo < hi else None
        token = self.likeliest()
        return token if token < len(index.rank) and lo <= index.rank[token] < hi else None  # columns may be padding


class FarRow(Row):
    """A row that stays where it was computed: what its likely tokens do not answer is asked there."""

    __slots__ = ("_fetched", "_first")

    given: DeviceRow

    def __init__(self, reader: RowReader, given: DeviceRow) -> None:
        super().__init__(reader, given)
        self._first = 0
        self._fetched: Float64[np.ndarray, " n"] = np.empty(0)  # probabilities from that rank on

    def some_probs(self, lo: int, hi: int) -> Float64[np.ndarray, " n"]:  # noqa: D102 - as in `Row`
        if not self._has(lo, hi):
            probs: Float64[np.ndarray, " n"] = np.exp(self.given.ranked(self._reader.ranked, lo, hi), dtype=np.float64)
            self._reader.clear_ends(probs, lo)
            self._first, self._fetched = lo, probs
        return self._fetched[lo - self._first : hi - self._first]

    def _has(self, lo: int, hi: int) -> bool:
        return self._first <= lo <= hi <= self._first + len(self._fetched)

    def sums(  # noqa: D102
        self, lo: int, hi: int, mask: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " parts"]
    ) -> Float64[np.ndarray, " parts"]:
        # What begins with more of a word is asked for next, so a short range comes whole.
        if hi - lo <= SHORT or self._has(lo, hi):
            return RankedArray(self.some_probs(lo, hi), lo).sums(lo, hi, mask, starts)
        return self.given.sums(self._reader.ranked, lo, hi, self._reader.spells(lo, hi, mask), starts)

    @property
    def likely(self) -> Likely:  # noqa: D102
        return self.given.likely

    def drawn(self, uniform: float) -> tuple[int, float]:  # noqa: D102
        return likely_drawn(uniform, self.given.likely, len(self.given)) or self.given.drawn(uniform)

    def likeliest_after(self, data: bytes) -> int | None:  # noqa: D102
        rank, likely = self._reader.prefix_index.rank, self.given.likely
        lo, hi = self._reader.longer(data)
        ids = likely.ids[: np.searchsorted(likely.ids, len(rank))]  # columns may be padding
        inside = np.flatnonzero((lo <= rank[ids]) & (rank[ids] < hi))
        token = int(ids[inside[likely.logprobs[inside].argmax()]]) if len(inside) else None
        return None if token in self._reader.ends else token

    def _entries(self, ids: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        found = likely_entries(self.given.likely, ids)
        return self.given.entries(ids).astype(np.float64) if found is None else found

    def _found_likeliest(self) -> int:
        likely = self.given.likely
        # A row that is nearly flat has no likely tokens.
        flat = likely.logprobs.max(initial=-np.inf) <= least_likely(len(self.given))
        return int(np.asarray(self.given).argmax() if flat else likely.ids[likely.logprobs.argmax()])


class RowReader:
    """Turns a model's rows into `Row` s.

    Args:
        prefix_index: The spellable tokens, in byte order.
        vocab_size: Columns of a row; may exceed the vocabulary.
        eot_ids: The ids that end a text. One of them that also spells something counts as the end alone.
        extra_token_cost: The share of the mass from which a node is evaluated along with another that is needed: what a
            token more in a call costs, beside a call of its own.

    Raises:
        VocabularyMismatchError: A token has no column.
    """

    def __init__(
        self,
        prefix_index: PrefixIndex,
        *,
        vocab_size: int,
        eot_ids: Iterable[int],
        extra_token_cost: float = EXTRA_TOKEN_COST,
    ) -> None:
        order = prefix_index.order
        if len(order) and int(order.max()) >= vocab_size:
            raise VocabularyMismatchError(
                f"the tokenizer has a token with id {int(order.max())}, and the model has columns for ids below "
                f"{vocab_size}: they do not belong together. Pass the tokenizer that came with the model"
            )
        self.prefix_index = prefix_index
        self.order: Int32[np.ndarray, " tokens"] = order
        self.ranked: Int64[np.ndarray, " tokens"] = order.astype(np.int64)  # numpy gathers by these twice as fast
        self.vocab_size = vocab_size
        self.extra_token_cost = extra_token_cost
        self.eot_ids = np.array(sorted(eot_ids), np.int64)
        self.everything = RankedArray(np.ones(len(order)))
        self.ends = frozenset(self.eot_ids.tolist())
        # Rank by id; none where an id spells nothing, or is the end of text alone.
        self.rank_of: Int64[np.ndarray, " ids"] = np.full(vocab_size, -1, np.int64)
        spelling = prefix_index.rank[:vocab_size]
        self.rank_of[: len(spelling)] = spelling
        self.rank_of[self.eot_ids] = -1
        self.least_likely = math.exp(least_likely(vocab_size))
        self._ends: list[int] = np.flatnonzero(np.isin(order, self.eot_ids)).tolist()

    def read(self, row: Given, *, brief: bool = False) -> Row:
        """Read one row of natural log-probabilities, by token id; it is not to be written to any more.

        Args:
            row: In memory, or where it was computed.
            brief: Whether it is soon let go of: it may then keep the rows of a whole call alive, of which it is one.
        """
        if not isinstance(row, np.ndarray):
            return FarRow(self, row)
        block: Any = row.base
        alone = brief or block is None or getattr(block, "nbytes", 0) == row.nbytes
        return ArrayRow(self, row if alone else row.copy())

    def longer(self, data: bytes) -> tuple[int, int]:
        """The ranks of the tokens that begin with some bytes and go on."""
        lo, hi = self.prefix_index.range(data)
        return self.prefix_index.longer_than(len(data), lo, hi), hi

    def spells(self, lo: int, hi: int, mask: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """A mask of the ranks ``lo:hi`` without the tokens that count as the end of text alone."""
        if ends := [rank - lo for rank in self._ends if lo <= rank < hi]:
            mask = mask.copy()
            mask[ends] = False
        return mask

    def probs(
        self, row: Float[np.ndarray, " vocab"], lo: int = 0, hi: int | None = None, *, wide: bool | None = None
    ) -> Float[np.ndarray, " n"]:
        """Probabilities of the spellable tokens in byte order.

        Args:
            row: Natural log-probabilities, by token id.
            lo: The first rank.
            hi: The end of the ranks; that of all if not given.
            wide: Whether they are to have double precision; where the row needs it (`too_small`) if not given.
        """
        lo, hi, _ = slice(lo, hi).indices(len(self.order))
        probs = row.take(self.ranked[lo:hi])
        if too_small(row) if wide is None else wide:
            probs = probs.astype(np.float64, copy=False)
        np.exp(probs, out=probs)
        self.clear_ends(probs, lo)
        return probs

    def clear_ends(self, probs: Float[np.ndarray, " n"], lo: int) -> None:
        """Give nothing to the tokens that count as the end of text alone, in probabilities from the rank ``lo`` on."""
        for rank in self._ends:
            if lo <= rank < lo + len(probs):
                probs[rank - lo] = 0.0

    def eot(self, row: Float[np.ndarray, " vocab"]) -> float:
        """The probability of the end of text in a row as the model gave it."""
        return float(np.exp(row[self.eot_ids].astype(np.float64)).sum())

    def logprob(self, row: Float[np.ndarray, " vocab"], token_id: int) -> float:
        """The log-probability of one token in a row as the model gave it, as a part of a text."""
        return -math.inf if token_id in self.ends else float(row[token_id])

    def logprobs(
        self, row: Float[np.ndarray, " vocab"], token_ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """The log-probabilities of tokens in a row as the model gave it, as parts of a text."""
        return np.where(np.isin(token_ids, self.eot_ids), -np.inf, row[token_ids].astype(np.float64))


def too_small(row: Float[np.ndarray, " n"]) -> bool:
    """Whether a probability is too small for full precision in float32, and not 0.

    >>> too_small(np.array([-0.1, -200.0], np.float32)), too_small(np.array([0.0, -np.inf], np.float32))
    (True, False)
    """
    if row.min(initial=0.0) >= LEAST_LOGPROB:
        return False
    return bool(row.min(initial=0.0, where=row > -np.inf) < LEAST_LOGPROB)


class RowStore(LRUCache[object, Row]):
    """Rows by node, the least recently used evicted when they exceed a number of bytes."""

    def __init__(self, max_bytes: int = STORE_BYTES) -> None:
        super().__init__(max_bytes, getsizeof=lambda row: row.nbytes)

    def put(self, node: object, row: Row) -> None:
        """Keep a row, where one fits; older ones make room."""
        if row.nbytes <= self.maxsize:
            self[node] = row
