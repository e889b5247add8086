"""Rows fetched from vLLM's workers, which keep those of the last steps (worker.py).

Theory of operation
    What vLLM tells of log-probabilities comes out of its sampler. For one whole row it sorts the vocabulary, and that
    for every sequence of the step; then it sends all of those rows. The workers have had the rows all along, and a call
    to them costs what one row weighs.
    So a request carries a name, and its rows are asked for by it: (name, tokens drawn before the row). That holds for a
    sequence that is fed for its row, and for every row along a sequence that vLLM is drawing: those have been computed
    already, and cost no step and no token. What travels is the whole row, or its likely tokens alone, where the row
    stays with the worker and is asked there (kept_rows.py).

Invariant
    A kept row is believed only where it agrees with what vLLM said in its own way: it gives the token that vLLM drew
    after it the log-probability that came with that token. What does not agree, or is kept no longer, is asked for in
    the usual way. So a change in vLLM's ways makes rows slower, not wrong.

Cost
    A call to the workers is answered between two steps: where tokens are being drawn, after a step at most.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bytelm.engines.row_memo import Row, Rows, Tokens
from bytelm.engines.rows import likely_entries, normalised
from bytelm.engines.vllm.kept_rows import RowClient

REQUEST: Final = "bytelm_request"  # under which a name is in ``SamplingParams.extra_args``
KEEPER: Final = "RowKeeper"
OPTIONS: Final = {
    "logits_processors": [f"bytelm.engines.vllm.worker:{KEEPER}"],
    "worker_extension_cls": "bytelm.engines.vllm.worker.RowTeller",
}
AGREE: Final = 1e-3  # how far two ways to the same log-probability may be apart, in nats
TRAILS: Final = 1024  # sequences drawn along that are remembered; the workers forget sooner


@dataclass(slots=True)
class Trail:
    """A sequence that vLLM draws along: its start, and the tokens and log-probabilities so far."""

    name: str
    start: Tokens
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def extra_args(self) -> dict[str, str]:
        """Of vLLM's ``SamplingParams``: how the workers know the request."""
        return {REQUEST: self.name}

    def add(self, token: int, logprob: float) -> None:
        """Note a token that was drawn."""
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def follows(self, sequence: Tokens) -> bool:
        """Whether vLLM drew a token after exactly this sequence here."""
        drawn = len(sequence) - len(self.start)
        return (
            0 <= drawn < len(self.tokens)
            # The last token first: many trails may begin with one long prompt.
            and (not drawn or sequence[-1] == self.tokens[drawn - 1])
            and sequence[: len(self.start)] == self.start
            and sequence[len(self.start) :] == tuple(self.tokens[:drawn])
        )


class WorkerRows:
    """The rows that the workers of one engine keep.

    Args:
        call: Asks all workers, as vLLM's ``LLM.collective_rpc`` does. None: they keep nothing.
        client: Asks them about rows that stay there; None where rows always travel.

    Attributes:
        there: Whether they keep anything.
        moved_bytes: What whole rows took that were fetched.
    """

    def __init__(self, call: Callable[..., list[Any]] | None, client: RowClient | None = None) -> None:
        self._call = call
        self._client = client
        self._stay = False
        self.there = call is not None
        self.moved_bytes = 0
        self._mine = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._trails: deque[Trail] = deque(maxlen=TRAILS)

    def new_trail(self, start: Tokens) -> Trail:
        """A record, under a name that no other request has; whoever is told of tokens adds them."""
        return Trail(f"{self._mine}-{next(self._numbers)}", start)

    def remember(self, trail: Trail) -> None:
        """Let `along` find what is drawn on a trail."""
        self._trails.append(trail)

    def clear(self) -> None:
        """Forget what was drawn."""
        self._trails.clear()

    @contextlib.contextmanager
    def staying(self, *, stay: bool) -> Iterator[None]:
        """Whether rows stay with the workers that are fetched meanwhile."""
        before, self._stay = self._stay, stay and self._client is not None
        try:
            yield
        finally:
            self._stay = before

    def along(self, sequences: Iterable[Tokens]) -> Rows:
        """The rows of those sequences after which a token was drawn lately."""
        found: dict[Tokens, Trail] = {}
        for sequence in sequences:
            for trail in reversed(self._trails):
                if trail.follows(sequence):
                    found[sequence] = trail
                    break
        return self.rows(found)

    def rows(self, trails: Mapping[Tokens, Trail]) -> Rows:
        """The rows of sequences, each with the trail that has a token after it; without those that are gone."""
        if not trails or self._call is None:
            return {}
        places = [len(sequence) - len(trail.start) for sequence, trail in trails.items()]
        keys = [(trail.name, place) for trail, place in zip(trails.values(), places, strict=True)]
        tokens = [trail.tokens[place] for trail, place in zip(trails.values(), places, strict=True)]
        found: Sequence[Row | None]
        if self._stay and self._client is not None:
            found = self._client.rows(keys, tokens)
        else:
            found = self._whole(self._call("bytelm_rows", (keys,)))
        return {
            sequence: row
            for (sequence, trail), place, token, row in zip(trails.items(), places, tokens, found, strict=True)
            if row is not None and abs(_entry(row, token) - trail.logprobs[place]) <= AGREE
        }

    def _whole(self, by_worker: list[Any]) -> list[Row | None]:
        rows: list[Row | None] = []
        for answers in zip(*by_worker, strict=True):
            data = next(filter(None, answers), None)
            self.moved_bytes += len(data or b"")
            rows.append(None if data is None else normalised(np.frombuffer(data, np.float32).copy()))
        return rows


def _entry(row: Row, token: int) -> float:
    """The log-probability of a token, which came with the row if the row did not."""
    if isinstance(row, np.ndarray):
        return float(row[token])
    entries = likely_entries(row.likely, np.array([token]))
    return math.nan if entries is None else float(entries[0])
