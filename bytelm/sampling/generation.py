"""Drawing bytes: each one exactly from its distribution, with as few model calls as its certainty needs.

Rules
    A draw fixes one uniform number u and never another. Whatever is evaluated on the way, the symbol is a function of u
    alone whose pieces have the lengths of the exact probabilities: see bounds.py. (To draw afresh after each
    evaluation favours what was known first; the tests hold such a sampler and see it fail.)
    What is evaluated at a step depends on the text so far, never on u.
    A call that is needed anyway also asks for other nodes, if they hold more of the mass than an extra token costs on
    this engine (`RowReader.extra_token_cost`): with about that probability they would be asked for later.
    A prompt's nodes are all known beforehand: they are one request.
    Greedy bytes come by the token where one token decides them (greedy.py).

Numbers
    The distribution drawn from is the filtered one, without the leak (filters.py).
    ``Completion.logprob`` is ln P(bytes | prefix) by the lemma, of what was drawn and unfiltered: the difference of two
    log-masses, not a sum of roundings. What lazy evaluation left open of it is evaluated at the end, in one request at
    most, unless it is certain to change less than `NEGLIGIBLE` (inference/lazy.py).
    The random numbers of item i are a Philox stream keyed by (seed, i), so neither the batch nor its size changes a
    byte of it.

Does not
    Call a model: a step asks, and is told (inference/scheduler.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate_all, full_row, settled_log_mass
from bytelm.inference.scheduler import JobUsage, Step
from bytelm.sampling.completion import Completion, FinishReason
from bytelm.sampling.draw import draw, filled, processed, settled
from bytelm.sampling.greedy import greedy_bytes
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.stop_strings import StopScanner
from bytelm.sampling.text_stream import text_of
from bytelm.symbols import EOT, SYMBOLS, leak_of


@runtime_checkable
class Advancing(Protocol):
    """A place in a text that can be advanced: a `Frontier`, or an ensemble's place."""

    @property
    def prefix(self) -> bytes: ...  # noqa: D102
    def advance(self, data: bytes) -> Any: ...  # noqa: D102 - another of its kind


P = TypeVar("P", bound=Advancing)


class ByteGeneration(ABC, Generic[P]):
    """A completion as it is drawn: one byte a step.

    Args:
        prompt: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        params: How to draw, and when to end.
        random: The item's random numbers.
    """

    def __init__(self, prompt: P, params: SamplingParams, random: np.random.Generator) -> None:
        self.frontier = prompt
        self.prompt = prompt.prefix
        self.params = params
        self.bytes = bytearray()
        self.finish_reason: FinishReason | None = None
        self.largest_leak: float | None = None
        self._random = random
        self._scanner = StopScanner(params.stops)
        # Where a stop string began, the completion ends: so far back a frontier may be needed.
        self._recent: deque[P] = deque(maxlen=self._scanner.longest + 1)

    @abstractmethod
    def _begin(self) -> Step[None]:
        """Evaluate the prompt."""

    @abstractmethod
    def _evaluate_all(self) -> Step[None]:
        """Evaluate all of the place."""

    @abstractmethod
    def _full_row(self) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
        """The row at the place."""

    @abstractmethod
    def _symbol(self, uniform: Float64[np.ndarray, "1"]) -> Step[int]:
        """The symbol of a uniform number."""

    @abstractmethod
    def _row(self) -> Float64[np.ndarray, "257"] | None:
        """The row that was drawn from, if all of it is known."""

    def _advance(self, symbol: int) -> None:
        self.frontier = self.frontier.advance(bytes([symbol]))
        self._recent.append(self.frontier)

    @abstractmethod
    def score(self) -> Step[float]:
        """Log-probability of what was drawn, after the last step."""

    @property
    def held(self) -> int:
        """How many of the last bytes may turn out to be the beginning of a stop string."""
        return 0 if self.finish_reason else self._scanner.held

    def step(self) -> Step[None]:
        """Draw a symbol and append it; or end the completion."""
        if len(self.bytes) >= self.params.max_bytes:
            self.finish_reason = "length"
            return
        if not self._recent:
            yield from self._begin()
            self._recent.append(self.frontier)
        symbol = yield from self._draw()
        if (row := self._row()) is not None:
            self.largest_leak = max(leak_of(row), self.largest_leak or 0.0)
        if symbol == EOT:
            self.finish_reason = "eot"
            return
        self.bytes.append(symbol)
        self._advance(symbol)
        if length := self._scanner.push(symbol):
            del self.bytes[len(self.bytes) - length :]
            self.frontier = self._recent[-1 - length]
            self.finish_reason = "stop"
        elif len(self.bytes) >= self.params.max_bytes:
            self.finish_reason = "length"

    def _draw(self) -> Step[int]:
        """Draw a symbol."""
        params = self.params
        uniform = np.zeros(1) if params.filters.greedy else self._random.random(1)
        if not params.lazy or params.logits_processor is not None:
            yield from self._evaluate_all()
        if params.logits_processor is None:
            return (yield from self._symbol(uniform))
        row, _ = yield from self._full_row()
        probs = params.filters.apply(processed(params.logits_processor, bytes(self.bytes), row))
        return int(filled(settled(uniform, np.zeros(SYMBOLS), probs), probs)[0])

    def run(self) -> Step[Completion]:
        """The whole completion. Its usage holds only the leak: the rest is the scheduler's to know."""
        while self.finish_reason is None:
            yield from self.step()
        return (yield from self.completion(self.finish_reason))

    def completion(self, finish_reason: FinishReason) -> Step[Completion]:
        """What was written, scored."""
        logprob = yield from self.score()
        written = bytes(self.bytes)
        usage = JobUsage(largest_leak=self.largest_leak)
        return Completion(text_of(written, self.prompt), written, logprob, finish_reason, usage)


class ModelGeneration(ByteGeneration[Frontier]):
    """A completion of one byte model."""

    _log_start: float | None = None
    _sure: bytes = b""  # what is certain to come
    _unread: bytes = b""  # what was written since the frontier
    _leapt = False

    def _begin(self) -> Step[None]:
        """Evaluate the prompt."""
        yield from evaluate_all(self.frontier)
        self.frontier = self.frontier.copy()
        self._log_start = self.frontier.log_mass()

    def _evaluate_all(self) -> Step[None]:
        yield from evaluate_all(self.frontier)

    def _full_row(self) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
        return (yield from full_row(self.frontier))

    def _symbol(self, uniform: Float64[np.ndarray, "1"]) -> Step[int]:
        if self._sure:
            return self._pop(self._sure)
        params = self.params
        done = len(self.bytes) / params.max_bytes
        if params.filters.greedy and params.lazy and (sure := (yield from greedy_bytes(self.frontier, done))):
            self._leapt = True
            return self._pop(sure)
        self._leapt = False
        symbols = yield from draw(self.frontier, params.filters, uniform, done)
        return int(symbols[0])

    def _pop(self, sure: bytes) -> int:
        self._sure = sure[1:]
        return sure[0]

    def _advance(self, symbol: int) -> None:
        """Advance by the bytes that are certain together at once, unless a stop string may end the text among them."""
        self._unread += bytes([symbol])
        if self._sure and not self._scanner.longest and len(self.bytes) < self.params.max_bytes:
            return
        self.frontier = self.frontier.advance(self._unread)
        self._recent.append(self.frontier)
        self._unread = b""

    def _row(self) -> Float64[np.ndarray, "257"] | None:
        return self.frontier.logprobs() if self.frontier.complete and not self._leapt else None

    def score(self) -> Step[float]:
        """Log-probability of what was drawn, after the last step."""
        if self._log_start is None or (not self.bytes and self.finish_reason != "eot"):
            return 0.0
        return (yield from settled_log_mass(self.frontier, ended=self.finish_reason == "eot")) - self._log_start
