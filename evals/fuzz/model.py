"""A model of tokens whose rows are a hash of the tokens before: float64, the same everywhere, wrong nowhere by chance.

Rules
    The row after a sequence depends on all of it. Tokens outside ``allowed`` have no probability: the definition tries
    only texts of some bytes, and what other bytes would spell must not count.
Cost
    A hash of a tuple and a dozen numpy calls a row, kept. ``seconds`` is what the model took, so that bytelm's own
    time can be told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

Ids = tuple[int, ...]

_MASK = 2**64 - 1
_STEP, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class HashLM:
    """A toy model, as bytelm takes one (`bytelm.TokenLM`).

    Args:
        tokenizer: What it is a model of.
        vocab_size: Columns of a row.
        eot_ids: The ids that end a text.
        allowed: The ids that have any mass, beside those.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eot_ids: frozenset[int], allowed: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eot_ids = eot_ids
        self.seconds = 0.0
        self._columns = np.arange(1, vocab_size + 1, dtype=np.uint64) * _STEP
        self._barred = np.array([i not in allowed and i not in eot_ids for i in range(vocab_size)])
        self._rows: dict[Ids, np.ndarray] = {}
        self._logprobs: dict[Ids, float] = {(): 0.0}

    def row(self, ids: Ids) -> np.ndarray:
        """Natural log-probabilities of the token after a sequence."""
        if ids not in self._rows:
            # splitmix64 of the sequence's hash, which Python keeps the same for tuples of integers.
            mixed = self._columns + np.uint64(hash((len(ids), *ids)) & _MASK)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
            scores = 5.0 * ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53
            scores[self._barred] = -np.inf
            self._rows[ids] = scores - np.logaddexp.reduce(scores)
        return self._rows[ids]

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """The rows of several sequences."""
        found = []
        for ids in sequences:  # made as they are read, by bytelm
            start = time.process_time()
            found.append(self.row(tuple(map(int, ids))))
            self.seconds += time.process_time() - start
        return np.stack(found)

    def logprob(self, ids: Ids) -> float:
        """Log P(ids): the chain rule."""
        known = len(ids)
        while ids[:known] not in self._logprobs:
            known -= 1
        total = self._logprobs[ids[:known]]
        for k in range(known, len(ids)):
            total += float(self.row(ids[:k])[ids[k]])
            self._logprobs[ids[: k + 1]] = total
        return total


def log_sum(logs: Collection[float]) -> float:
    """The log of a sum of probabilities, given as logs; -inf of none."""
    top = max(logs, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(each - top) for each in logs))
