"""What was written after a prefix, and the random numbers that it was drawn with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import shown
from bytelm.inference.job_usage import JobUsage
from bytelm.pictures.document import FRAME_HEIGHT, Section, document, framed
from bytelm.pictures.values import Written

FinishReason: TypeAlias = Literal["eot", "stop", "length"]
LINE: Final = 80  # characters of a line in a notebook, about
LINE_HEIGHT: Final = 24  # CSS pixels
BOX_HEIGHT: Final = 180  # of all but the text


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Weighted texts, one of which was picked (particles.py).

    The weights approach the law of texts given the constraint as their number grows. A single text stands for it only
    together with its weight. Several may be the same, or begin alike.

    Attributes:
        texts: What each particle wrote.
        log_weights: The logarithm of each one's weight; −∞ for one that found nothing allowed.
        resamplings: How often the particles were drawn anew from among themselves.
    """

    texts: tuple[bytes, ...]
    log_weights: Float64[np.ndarray, " particles"]
    resamplings: int

    def __repr__(self) -> str:
        with np.errstate(invalid="ignore"):  # no particle found anything allowed
            worth = f"worth {self.effective_sample_size:.1f} of equal weight"
        return f"Particles({len(self.texts)} texts, {worth}, log_mass={self.log_mass:.4f})"

    @property
    def weights(self) -> Float64[np.ndarray, " particles"]:
        """The weights over their sum."""
        weights: Float64[np.ndarray, " particles"] = np.exp(self.log_weights - self.log_weights.max())
        weights /= weights.sum()
        return weights

    @property
    def effective_sample_size(self) -> float:
        """How many particles of equal weight are worth as much: 1 / Σ w², from 1 to their number.

        It is of the weights alone. Where the particles were drawn anew, copies begin alike, and they are worth less.
        """
        return float(1 / np.square(self.weights).sum())

    @property
    def log_mass(self) -> float:
        """The logarithm of an estimate of the probability of all texts that are allowed. The estimate is unbiased.

        In an ensemble with ``level="string"``: of what it gives to all texts together.
        """
        return float(np.logaddexp.reduce(self.log_weights)) - float(np.log(len(self.log_weights)))


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion: the text after a prefix.

    Attributes:
        text: The bytes as text. If the prefix ends inside a character, that character comes first. If the bytes end
            inside one, which ``max_bytes`` can cause, the incomplete character is left out. Bytes that are not UTF-8
            show as U+FFFD.
        bytes: The new bytes alone, all of them.
        logprob: ln P(bytes | prefix), and of the end of text too where it ended there. None with ``level="token"``: it
            is not computed. `ByteModel.logprob` of the bytes after the prefix is it. None in an ensemble with
            ``level="string"``: the sum over all texts, by which to divide, is not known.
        finish_reason: ``"eot"``; ``"stop"``: at a stop string, or where the constraint allows nothing more; or
            ``"length"``: at ``max_bytes``, or where the model's context ends.
        usage: Its cost.
        log_constraint_mass: Under a constraint, ln Π Sₜ over the steps, Sₜ being the probability of what was allowed at
            step t: the importance weight by which texts of `sample` at temperature 1 stand for the model's own. For
            that all rows have to be evaluated: None without ``lazy=False``, and with a ``logits_processor``.
        particles: With ``particles=N``, all of them. This text is one, picked by the weights.
    """

    text: str
    bytes: bytes
    logprob: float | None
    finish_reason: FinishReason
    usage: JobUsage
    log_constraint_mass: float | None = None
    particles: Particles | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        logprob = "not computed" if self.logprob is None else f"{self.logprob:.4f}"
        facts = f"{len(self.bytes)} bytes, logprob={logprob}, finish_reason={self.finish_reason!r}"
        return f"Completion({shown(self.text)}, {facts})"

    def _repr_html_(self) -> str:
        lines = sum(1 + len(line) // LINE for line in self.text.split("\n"))
        height = min(BOX_HEIGHT + LINE_HEIGHT * lines, FRAME_HEIGHT)
        return framed(document("bytelm: completion", [Section("Completion", picture_of(self))]), height=height)


def picture_of(completion: Completion) -> Written:
    """A completion as a picture shows it."""
    ends = {"eot": "the text ended", "stop": "stopped", "length": "cut at the length"}
    facts = [f"{len(completion.bytes)} bytes", ends[completion.finish_reason]]
    if completion.logprob is not None:
        facts.append(f"log-probability {completion.logprob:.4f} ({0.0 - completion.logprob / math.log(2):.2f} bits)")
    usage = completion.usage
    facts.append(f"{usage.calls} model call{'' if usage.calls == 1 else 's'}")
    if usage.tokens_fed is not None:
        facts.append(f"{usage.tokens_fed} tokens fed")
    if usage.largest_leak is not None:
        facts.append(f"largest leak seen {usage.largest_leak:.2g}")
    if completion.particles is not None:
        facts.append(f"picked from {len(completion.particles.texts)} particles")
    return Written(completion.text, facts)


def random_stream(seed: int, index: int) -> np.random.Generator:
    """The random numbers of one item: a function of the seed and of its place alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
