"""What was written after a prefix, and the random numbers that it was drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from bytelm.inference.scheduler import JobUsage

FinishReason: TypeAlias = Literal["eot", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What was written after a prefix.

    Attributes:
        text: The bytes as text. Where the prefix ends inside a character, that character comes first. Where the bytes
            end inside one, as ``max_bytes`` may have it, the part of it is left out: a text splits no character. Bytes
            that are not UTF-8 show as U+FFFD.
        bytes: The new bytes alone, all of them.
        logprob: ln P(bytes | prefix), and of the end of text too where it ended there. None with ``level="token"``: it
            is not computed. `ByteModel.logprob` of the bytes after the prefix is it.
        finish_reason: ``"eot"``; ``"stop"``: at a stop string, or where the constraint allows nothing more; or
            ``"length"``: at ``max_bytes``, or where the model's context ends.
        usage: What it cost.
        log_constraint_mass: Under a constraint, ln Π Sₜ over the steps, Sₜ being the probability of what was allowed at
            step t: the importance weight by which texts of `sample` at temperature 1 stand for the model's own. For
            that all rows have to be evaluated: None without ``lazy=False``, and with a ``logits_processor``.
    """

    text: str
    bytes: bytes
    logprob: float | None
    finish_reason: FinishReason
    usage: JobUsage
    log_constraint_mass: float | None = None


def random_stream(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one item: a function of the seed and of its place alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
