"""A model's rows as the byte layer uses them: probabilities of spellable tokens in byte order, and of the end of text.

Rules
    A row is turned once, when it arrives: exponentials in float64, put in trie order, so that the tokens that begin
    with some bytes are a slice of it. The ids that end a text become one number; special tokens that do not are
    dropped, and are part of the leak.

Cost
    One gather and one exponential of the vocabulary, and 8 bytes for each spellable token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64

from bytelm.errors import VocabularyMismatchError
from bytelm.token_lm import RIDE
from bytelm.trie import Trie

STORE_BYTES: Final = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """What a model says after a node: probabilities of the spellable tokens in trie order, and of the end of text."""

    probs: Float64[np.ndarray, " tokens"]
    eot: float


class RowReader:
    """Turns a model's rows into `Row` s.

    Args:
        trie: The spellable tokens, in byte order.
        vocab_size: Columns of a row; may exceed the vocabulary.
        eot_ids: The ids that end a text. One of them that also spells something counts as the end alone.
        ride: The share of the mass from which a node is evaluated along with another that is needed: what a token more
            in a call costs, beside a call of its own.

    Raises:
        VocabularyMismatchError: A token has no column.
    """

    def __init__(self, trie: Trie, *, vocab_size: int, eot_ids: Iterable[int], ride: float = RIDE) -> None:
        order = trie.order
        if len(order) and int(order.max()) >= vocab_size:
            raise VocabularyMismatchError(
                f"the tokenizer has a token with id {int(order.max())}, and the model has columns for ids below "
                f"{vocab_size}: they do not belong together. Pass the tokenizer that came with the model"
            )
        self.trie = trie
        self.order: Int32[np.ndarray, " tokens"] = order
        self.vocab_size = vocab_size
        self.ride = ride
        self.eot_ids = np.array(sorted(eot_ids), np.int64)
        self.everything: Float64[np.ndarray, " tokens"] = np.ones(len(order))
        self._rank: Int64[np.ndarray, " vocab"] = np.full(vocab_size, -1, np.int64)
        self._rank[order] = np.arange(len(order))
        self._ends = self._rank[self.eot_ids]
        self._ends = self._ends[self._ends >= 0]

    def read(self, row: Float[np.ndarray, " vocab"], *, ranks: tuple[int, int] | None = None) -> Row:
        """Read one row of natural log-probabilities.

        Args:
            row: By token id.
            ranks: Read only the tokens of these ranks, where no others are asked about; the others are 0.
        """
        lo, hi = (0, len(self.order)) if ranks is None else ranks
        probs = np.zeros(len(self.order))
        probs[lo:hi] = row[self.order[lo:hi]]
        np.exp(probs[lo:hi], out=probs[lo:hi])
        probs[self._ends] = 0.0
        return Row(probs, float(np.exp(row[self.eot_ids].astype(np.float64)).sum()))

    def logprobs(
        self, row: Float[np.ndarray, " vocab"], token_ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """The log-probabilities of tokens in a row as the model gave it, as parts of a text."""
        return np.where(np.isin(token_ids, self.eot_ids), -np.inf, row[token_ids].astype(np.float64))

    def prob(self, row: Row, token_id: int) -> float:
        """The probability of a token in a row."""
        return float(row.probs[self._rank[token_id]])


class RowStore:
    """Rows by node, the least recently used evicted when they exceed a number of bytes."""

    def __init__(self, max_bytes: int = STORE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[object, Row] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, node: object) -> Row | None:
        """The row of a node, if it is still here."""
        row = self._rows.get(node)
        if row is not None:
            self._rows.move_to_end(node)
        return row

    def put(self, node: object, row: Row) -> None:
        """Keep a row; older ones make room."""
        if node not in self._rows:
            self._bytes += row.probs.nbytes
        self._rows[node] = row
        self._rows.move_to_end(node)
        while self._bytes > self.max_bytes and self._rows:
            self._bytes -= self._rows.popitem(last=False)[1].probs.nbytes
