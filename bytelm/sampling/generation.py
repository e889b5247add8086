"""Drawing bytes: each one exactly from its distribution, with as few model calls as its certainty needs.

Rules
    A draw fixes one uniform number u and never another. Whatever is evaluated on the way, the symbol is a function of u
    alone whose pieces have the lengths of the exact probabilities: see bounds.py. (To draw afresh after each
    evaluation favours what was known first; the tests hold such a sampler and see it fail.)
    What is evaluated at a step depends on the text so far, never on u.
    When a call is needed anyway, what is unknown of so much of the mass rides along in it as is worth its cost on this
    engine (`RowReader.extra_token_cost`): it would be asked for later with about that probability.
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

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float64

from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate_all, full_row, settled_log_mass
from bytelm.inference.scheduler import JobUsage, Step
from bytelm.sampling.completion import Completion, FinishReason, LogitsProcessor, Settings
from bytelm.sampling.draw import draw, processed, settled
from bytelm.sampling.greedy import greedy_bytes
from bytelm.sampling.stop_strings import StopScanner
from bytelm.sampling.text_stream import text_of
from bytelm.symbols import EOT, SYMBOLS


@runtime_checkable
class Place(Protocol):
    """A place in a text: a `Frontier`, or those of an ensemble's members."""

    @property
    def prefix(self) -> bytes: ...  # noqa: D102
    def advance(self, data: bytes) -> Any: ...  # noqa: D102 - another of its kind


P = TypeVar("P", bound=Place)


class ByteGeneration(ABC, Generic[P]):
    """A completion as it is drawn: one byte a step.

    Args:
        prompt: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        settings: How to draw, and when to end.
        random: The item's random numbers.
    """

    def __init__(self, prompt: P, settings: Settings, random: np.random.Generator) -> None:
        self.frontier = prompt
        self.prompt = prompt.prefix
        self.settings = settings
        self.bytes = bytearray()
        self.finish_reason: FinishReason | None = None
        self.largest_leak: float | None = None
        self._random = random
        self._scanner = StopScanner(settings.stops)
        # Where a stop string began, the completion ends: so far back a frontier may be needed.
        self._recent: deque[P] = deque(maxlen=self._scanner.longest + 1)

    @abstractmethod
    def _begin(self) -> Step[None]:
        """Evaluate the prompt."""

    @abstractmethod
    def _draw(self) -> Step[int]:
        """Draw a symbol."""

    @abstractmethod
    def _note_leak(self) -> None: ...

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
        if len(self.bytes) >= self.settings.max_bytes:
            self.finish_reason = "length"
            return
        if not self._recent:
            yield from self._begin()
            self._recent.append(self.frontier)
        symbol = yield from self._draw()
        self._note_leak()
        if symbol == EOT:
            self.finish_reason = "eot"
            return
        self.bytes.append(symbol)
        self._advance(symbol)
        if length := self._scanner.push(symbol):
            del self.bytes[len(self.bytes) - length :]
            self.frontier = self._recent[-1 - length]
            self.finish_reason = "stop"
        elif len(self.bytes) >= self.settings.max_bytes:
            self.finish_reason = "length"

    def _drawn(
        self, processor: LogitsProcessor, row: Float64[np.ndarray, "257"], uniform: Float64[np.ndarray, "1"]
    ) -> int:
        """The symbol of a uniform number in what a processor makes of a row."""
        probs = self.settings.filters.apply(processed(processor, bytes(self.bytes), row))
        symbol = int(settled(uniform, np.zeros(SYMBOLS), probs)[0])
        return symbol if symbol >= 0 else int(np.flatnonzero(probs)[-1])

    def run(self) -> Step[Completion]:
        """The whole completion; its usage holds only the leak, the rest is the scheduler's to know."""
        while self.finish_reason is None:
            yield from self.step()
        logprob = yield from self.score()
        usage = JobUsage(largest_leak=self.largest_leak)
        written = bytes(self.bytes)
        return Completion(text_of(written, self.prompt), written, logprob, self.finish_reason, usage)


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

    def _draw(self) -> Step[int]:
        if self._sure:
            return self._pop(self._sure)
        settings = self.settings
        uniform = np.zeros(1) if settings.filters.greedy else self._random.random(1)
        if not settings.lazy or settings.logits_processor is not None:
            yield from evaluate_all(self.frontier)
        if settings.logits_processor is not None:
            row, _ = yield from full_row(self.frontier)
            return self._drawn(settings.logits_processor, row, uniform)
        done = len(self.bytes) / settings.max_bytes
        if settings.filters.greedy and settings.lazy and (sure := (yield from greedy_bytes(self.frontier, done))):
            self._leapt = True
            return self._pop(sure)
        self._leapt = False
        symbols = yield from draw(self.frontier, settings.filters, uniform, done)
        return int(symbols[0])

    def _pop(self, sure: bytes) -> int:
        self._sure = sure[1:]
        return sure[0]

    def _advance(self, symbol: int) -> None:
        """Advance by the bytes that are certain together at once, unless a stop string may end the text among them."""
        self._unread += bytes([symbol])
        if self._sure and not self._scanner.longest and len(self.bytes) < self.settings.max_bytes:
            return
        self.frontier = self.frontier.advance(self._unread)
        self._recent.append(self.frontier)
        self._unread = b""

    def _note_leak(self) -> None:
        if not self._leapt and self.frontier.complete:
            scale, known = self.frontier.known()
            leak = max(0.0, 1 - math.exp(scale - self.frontier.log_mass()) * float(known.sum()))
            self.largest_leak = max(leak, self.largest_leak or 0.0)

    def score(self) -> Step[float]:
        """Log-probability of what was drawn, after the last step."""
        if self._log_start is None or (not self.bytes and self.finish_reason != "eot"):
            return 0.0
        return (yield from settled_log_mass(self.frontier, ended=self.finish_reason == "eot")) - self._log_start
