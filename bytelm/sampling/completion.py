"""How a completion is drawn, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, integer
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.inference.scheduler import JobUsage
from bytelm.sampling.filters import Filters

FinishReason: TypeAlias = Literal["eot", "stop", "length"]


LogitsProcessor: TypeAlias = Callable[[bytes, Float64[np.ndarray, "257"]], Float64[np.ndarray, "257"]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a completion is drawn, and when it ends.

    Attributes:
        filters: What is done to each distribution.
        max_bytes: Bytes, at most.
        stops: Byte strings that end the completion and are no part of it.
        logits_processor: Changes each row of log-probabilities; needs every row in full.
        lazy: Whether to evaluate only what a draw depends on; the distribution is the same.
    """

    filters: Filters = Filters()  # noqa: RUF009 - immutable
    max_bytes: int = 256
    stops: tuple[bytes, ...] = ()
    logits_processor: LogitsProcessor | None = None
    lazy: bool = True

    def __post_init__(self) -> None:
        if integer("max_bytes", self.max_bytes) < 0:
            raise InvalidArgumentError(f"max_bytes must be 0 or more; got {self.max_bytes}")
        if self.logits_processor is not None and not callable(self.logits_processor):
            raise InvalidTypeError(
                f"logits_processor must be a function of the bytes so far and a row; got {self.logits_processor!r}"
            )


@dataclass(frozen=True, slots=True)
class Completion:
    """What was written after a prefix.

    Attributes:
        text: The bytes as text. Where the prefix ends inside a character, that character comes first; bytes that are
            not UTF-8 show as U+FFFD.
        bytes: The new bytes alone.
        logprob: ln P(bytes | prefix), and of the end of text too where it ended there.
        finish_reason: ``"eot"``, ``"stop"`` or ``"length"``.
        usage: What it cost.
    """

    text: str
    bytes: bytes
    logprob: float
    finish_reason: FinishReason
    usage: JobUsage


class StreamOptions(TypedDict, total=False):
    """The options of `ByteLM.stream`, for type checkers."""

    max_bytes: int
    temperature: Number
    top_k: int | None
    top_p: Number | None
    min_p: Number | None
    stop: Text | Sequence[Text]
    seed: int | None
    logits_processor: LogitsProcessor | None


class SampleOptions(StreamOptions, total=False):
    """The options of `ByteLM.sample`, for type checkers."""

    engine_draws: bool | None


def random_stream(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one item: a function of the seed and of its place alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
