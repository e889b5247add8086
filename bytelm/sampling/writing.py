"""A text as it is written, byte by byte, up to where it ends."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from bytelm.errors import LeakWarning, NotFinishedError
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Step
from bytelm.sampling.completion import Completion, FinishReason
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.stop_strings import StopScanner
from bytelm.sampling.text_stream import text_of

if TYPE_CHECKING:
    from bytelm.sampling.place import Place

WARNED: Final = 0.5  # a leak above it is warned of


class Writing:
    """What is written of a completion.

    Args:
        params: When to end.

    Attributes:
        bytes: What is written so far.
        finish_reason: None while it goes on.
        scanner: Looks for stop strings.
        leak: The largest leak of the rows that were drawn from, at least and at most; None before the first.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.bytes = bytearray()
        self.finish_reason: FinishReason | None = None
        self.scanner = StopScanner(params.stops)
        self._max_bytes = params.max_bytes
        self.leak: tuple[float, float] | None = None

    @property
    def full(self) -> bool:
        """Whether there are as many bytes as there may be."""
        return self.left <= 0

    @property
    def left(self) -> int:
        """How many bytes may still be written."""
        return self._max_bytes - len(self.bytes)

    @property
    def ending(self) -> FinishReason:
        """Why it ended.

        Raises:
            NotFinishedError: It has not.
        """
        if self.finish_reason is None:
            raise self.unfinished()
        return self.finish_reason

    def unfinished(self) -> NotFinishedError:
        """What to raise where it has not ended."""
        return NotFinishedError(
            f"the completion has not ended: {len(self.bytes)} bytes are written so far; take all pieces of a "
            "stream first, for one by ''.join(stream)"
        )

    @property
    def held(self) -> int:
        """How many of the last bytes may turn out to be the beginning of a stop string."""
        return 0 if self.finish_reason else self.scanner.held

    def settled(self, shown: int) -> bytes:
        """The bytes after so many that nothing will take back."""
        return bytes(self.bytes[shown : max(shown, len(self.bytes) - self.held)])

    def drew(self, place: Place, *, least: float | None = None, most: float | None = None) -> None:
        """Note the leak of a row that was drawn from, and warn of the first that lost more than half.

        Args:
            place: Where.
            least: A lower bound on the leak, if the place is not to be asked.
            most: An upper bound.
        """
        if least is None or most is None:
            least, most = place.leak()
        before = self.leak or (0.0, 0.0)
        self.leak = max(before[0], least), max(before[1], most)
        if least > WARNED >= before[0]:
            warnings.warn(
                f"after {place.prefix[-40:]!r} {least:.0%} of the probability is on tokens that are not text there and "
                f"do not end the text{place.likeliest()}: the completion continues with the rest. If such a token ends "
                "the model's text, pass its id in eot_ids",
                LeakWarning,
                stacklevel=2,
            )

    def write(self, byte: int) -> int:
        """Append a byte, and see whether the text ends there; the length of a stop string that was taken off, or 0."""
        self.bytes.append(byte)
        length = self.scanner.push(byte)
        if length:
            del self.bytes[len(self.bytes) - length :]
            self.finish_reason = "stop"
        elif self.full:
            self.finish_reason = "length"
        return length

    def written(self, logprob: float | None, prompt: bytes, usage: JobUsage) -> Completion:
        """The completion, once it has ended.

        Args:
            logprob: Of it; None where it is not computed.
            prompt: The text before it.
            usage: Its cost.
        """
        written = bytes(self.bytes)
        return Completion(text_of(written, prompt), written, logprob, self.ending, usage)


class Generation(Writing, ABC):
    """A completion as it is drawn, step by step.

    Attributes:
        place: Where it is, as far as a place is kept; that of the prompt to begin with.
        prompt: The prompt's bytes.
        params: How to draw, and when to end.
    """

    place: Place
    prompt: bytes
    params: SamplingParams

    @abstractmethod
    def step(self) -> Step[None]:
        """Go on with it, or end it."""

    @abstractmethod
    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step. Its usage holds only what it saw itself, such as leak."""

    def run(self) -> Step[Completion]:
        """The whole completion."""
        while self.finish_reason is None:
            yield from self.step()
        return (yield from self.completion())


class PlacedGeneration(Generation):
    """A completion whose place is taken along with what is written.

    Args:
        place: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        params: How to draw, and when to end.
        random: The item's random numbers.
        score: Finds ln P of bytes after the prompt, and with a flag of the end of text after them; it is asked where
            the place cannot tell.

    Attributes:
        place: At the end of what is written so far.
    """

    def __init__(
        self,
        place: Place,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(params)
        self.place = place
        self.prompt = place.prefix
        self.params = params
        self._random = random
        self._score = score
        self._start = 0.0  # the prompt's log-mass, once a step has evaluated its place

    def _logprob(self, place: Place) -> Step[float]:
        """Ln P of what is written up to a place, and of the end of text where it ended so."""
        written, ended = place.prefix[len(self.prompt) :], self.ending == "eot"
        if not written and not ended:
            return 0.0
        if place.lost_mass:
            return (yield from self._score(written, ended))
        return (yield from place.measured(end=ended)) - self._start

    def _scored(self) -> Step[Completion]:
        """What was written, with its log-probability, where that can be told, and its leak."""
        logprob = (yield from self._logprob(self.place)) if self.place.normalised else None
        least, most = self.leak or (None, None)
        return self.written(logprob, self.prompt, JobUsage(largest_leak=least, largest_leak_bound=most))
