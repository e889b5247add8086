"""A model's rows as the byte layer uses them: probabilities of spellable tokens in byte order, and of the end of text.

Rules
    A row is turned once, when its masses are first asked for: exponentials, put in byte order, so that the tokens that
    begin with some bytes are a slice of it. The ids that end a text become one number; special tokens that do not are
    dropped, and are part of the leak.
    Logarithms in float32 become probabilities in float32, whose rounding is less than their own, unless one of them is
    too small for it: no token may become impossible. Sums are in float64.

Cost
    One gather and one exponential of the vocabulary; 8 bytes a token (16 where rows are float64).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from cachetools import LRUCache
from jaxtyping import Float, Float64, Int32, Int64

from bytelm.errors import VocabularyMismatchError
from bytelm.token_lm import EXTRA_TOKEN_COST
from bytelm.tokenizer.prefix_index import PrefixIndex

STORE_BYTES: Final = 128 * 2**20
LEAST_LOGPROB: Final = -80.0  # float32 has full precision down to exp(-87)


class Row:
    """What a model says after a node: of the spellable tokens in byte order, and of the end of text.

    Args:
        reader: Of its tokenizer.
        logprobs: By token id; not to be written to any more.

    Attributes:
        logprobs: As given.
        eot: The probability that the text ends.
    """

    __slots__ = ("_probs", "_reader", "_wide", "eot", "logprobs")

    def __init__(self, reader: RowReader, logprobs: Float[np.ndarray, " vocab"]) -> None:
        self._reader = reader
        self._probs: Float[np.ndarray, " tokens"] | None = None
        self._wide: bool | None = None
        self.logprobs = logprobs
        self.eot = reader.eot(logprobs)

    @property
    def probs(self) -> Float[np.ndarray, " tokens"]:
        """Probabilities of the spellable tokens in byte order, made when they are first asked for."""
        if self._probs is None:
            self._probs = self.some_probs(0, len(self._reader.order))
        return self._probs

    def some_probs(self, lo: int, hi: int) -> Float[np.ndarray, " n"]:
        """The same of a range of ranks."""
        if self._probs is not None:
            return self._probs[lo:hi]
        if self._wide is None:
            self._wide = too_small(self.logprobs)
        probs = self._reader.probs(self.logprobs, lo, hi, wide=self._wide)
        if hi - lo == len(self._reader.order):
            self._probs = probs
        return probs

    @property
    def nbytes(self) -> int:
        """What it takes, once its probabilities are made."""
        return 2 * self.logprobs.nbytes

    def logprob(self, token_id: int) -> float:
        """The log-probability of a token, as a part of a text."""
        return self._reader.logprob(self.logprobs, token_id)

    def likeliest(self) -> int:
        """The likeliest of all ids."""
        return int(self.logprobs.argmax())

    def likeliest_after(self, data: bytes) -> int | None:
        """The likeliest of the tokens that begin with some bytes and go on; None where that takes more than a look."""
        index = self._reader.prefix_index
        lo, hi = index.range(data)
        lo = index.longer_than(len(data), lo, hi)
        if self._probs is not None:
            return int(self._reader.order[lo + self._probs[lo:hi].argmax()]) if lo < hi else None
        token = self.likeliest()
        return token if token < len(index.rank) and lo <= index.rank[token] < hi else None  # columns may be padding


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
        self._order = order.astype(np.intp)  # numpy gathers by these twice as fast
        self.vocab_size = vocab_size
        self.extra_token_cost = extra_token_cost
        self.eot_ids = np.array(sorted(eot_ids), np.int64)
        self.everything: Float64[np.ndarray, " tokens"] = np.ones(len(order))
        self.ends = frozenset(self.eot_ids.tolist())
        self._ends: list[int] = np.flatnonzero(np.isin(order, self.eot_ids)).tolist()

    def read(self, row: Float[np.ndarray, " vocab"]) -> Row:
        """Read one row of natural log-probabilities, by token id; it is not to be written to any more."""
        # A view would keep the rows of a whole call alive.
        block: Any = row.base
        return Row(self, row if block is None or getattr(block, "nbytes", 0) == row.nbytes else row.copy())

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
        probs = row.take(self._order[lo:hi])
        if too_small(row) if wide is None else wide:
            probs = probs.astype(np.float64, copy=False)
        np.exp(probs, out=probs)
        for rank in self._ends:
            if lo <= rank < hi:
                probs[rank - lo] = 0.0
        return probs

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
