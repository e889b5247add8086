r"""The members of an ensemble at one place in a text, each with what is known of it.

Setting
    A *voice* is a byte model at a place: a `ModelPlace` is a frontier, a `EnsemblePlace` several voices and the formula
    that combines them (combine.py). All of them are at the same place of the text that they write together, each behind
    its own prompt. A voice has a *mass*, P of the text so far, in logarithms on a scale of its own that stays the same
    as long as it is advanced; what `bayes` needs are masses relative to where its text began, its `zeros`. The mass of
    a `EnsemblePlace` is a sum over its members' masses in bayes with fixed weights, and otherwise a product of its
    rows, the `chain`.

Does not
    Combine in bayes what is known in part of a member whose mass is a chain: in such an ensemble every row is evaluated
    in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.ensemble.combine import (
    Bounds,
    Combine,
    WeightsAt,
    combined,
    conditional,
    log_shares,
    mixed,
    normalised,
    product_envelope,
    weights_at,
)
from bytelm.errors import ModelError, UnreachablePrefixError
from bytelm.inference.envelope import Envelope
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all, settled_log_mass
from bytelm.inference.scheduler import Step, on, together
from bytelm.lemma import log_sum
from bytelm.symbols import EOT, SYMBOLS
from bytelm.token_lm import TokenLM

NOTHING: Final = Bounds(np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)


class ModelPlace:
    """One byte model at a place in a text.

    Args:
        frontier: There; None where the model cannot spell the text.
        token_lm: Its engine.
    """

    lazy = True
    chained = False

    def __init__(self, frontier: Frontier | None, token_lm: TokenLM) -> None:
        self.frontier = frontier
        self.token_lm = token_lm

    @property
    def complete(self) -> bool:
        """Whether its row is known."""
        return self.frontier is None or self.frontier.complete

    def advance(self, data: bytes) -> ModelPlace:
        """The same model after more bytes."""
        if self.frontier is None:
            return self
        try:
            return ModelPlace(self.frontier.advance(data), self.token_lm)
        except UnreachablePrefixError:
            return ModelPlace(None, self.token_lm)

    def copy(self) -> ModelPlace:
        """The same, to be evaluated on its own."""
        return ModelPlace(None if self.frontier is None else self.frontier.copy(), self.token_lm)

    def bare(self) -> ModelPlace:
        """The same without its rows."""
        at = self.frontier
        if at is None:
            return self
        bare = Frontier(at.cover, context=at.context, reader=at.reader, weights=at.weights, store=at.store)
        return ModelPlace(bare, self.token_lm)

    def begin(self) -> Step[None]:
        """Evaluate the place in full: it is where a completion begins."""
        yield from self.evaluate_all()

    def evaluate(self) -> Step[None]:
        """Evaluate what its row depends on most."""
        if self.frontier is not None:
            nodes = self.frontier.missing(self.frontier.reader.extra_token_cost)
            yield from on(self.token_lm, evaluate(self.frontier, nodes))

    def evaluate_all(self) -> Step[None]:
        """Evaluate all."""
        if self.frontier is not None:
            yield from on(self.token_lm, evaluate_all(self.frontier))

    def mass(self) -> tuple[float, float]:
        """The logarithm of the probability of the text so far: no less than this, and no more."""
        if self.frontier is None:
            return -math.inf, -math.inf
        least = self.frontier.log_mass()
        return least, least if self.frontier.complete else log_sum([least, self.frontier.log_bound("mass")])

    def measured(self, *, end: bool) -> Step[float]:
        """The logarithm of the probability of the text so far, with ``end`` of its end there, all evaluated for it."""
        if (frontier := self.frontier) is None:
            return -math.inf
        return (yield from on(self.token_lm, settled_log_mass(frontier, ended=end)))

    def row(self) -> Float64[np.ndarray, "257"]:
        """Its row, once all is evaluated; −∞ throughout where it gives the text probability 0."""
        if self.frontier is None or self.frontier.log_mass() == -math.inf:
            return np.full(SYMBOLS, -np.inf)
        scale, known = self.frontier.known()
        with np.errstate(divide="ignore"):
            row: Float64[np.ndarray, "257"] = np.log(known) + (scale - self.frontier.log_mass())
        return row

    def envelope(self) -> tuple[float, Envelope]:
        """What is known of the masses of the text with each symbol, and the logarithm of their unit."""
        if self.frontier is None:
            return 0.0, NOTHING.envelope()
        scale = self.frontier.known()[0]
        return (scale, self.frontier.envelope()) if scale > -math.inf else (0.0, NOTHING.envelope())

    def bounds(self) -> Bounds:
        """What is known of its row."""
        if self.frontier is None:
            return NOTHING
        scale, envelope = self.envelope()
        least, most = self.mass()
        return conditional(envelope, math.exp(min(least - scale, 700.0)), math.exp(min(most - scale, 700.0)))


@dataclass(frozen=True, slots=True)
class Combination:
    """How an ensemble combines its members.

    Attributes:
        combine: The formula.
        weights: Of the members after a text, or after any.
        likelihood: For a member by its place, a step that finds ln P of the text from its beginning on; for bayes.
    """

    combine: Combine
    weights: WeightsAt
    likelihood: Callable[[int, bytes], Step[float]]


class EnsemblePlace:
    """Several voices as one.

    Args:
        voices: The members at this place.
        score: How they are combined.
        text: What they have written together so far, or were given together.
        zeros: For bayes: the mass of each voice where the text began.
        chain: ln P of what was written since the first evaluation, as a sum over its rows; None if it is not known.
    """

    def __init__(
        self,
        voices: Sequence[ModelPlace | EnsemblePlace],
        score: Combination,
        text: bytes,
        *,
        zeros: tuple[float, ...] | None = None,
        chain: float | None = 0.0,
    ) -> None:
        self.voices = tuple(voices)
        self.score = score
        self.prefix = text
        self.weights = weights_at(score.weights, text)
        self.zeros = zeros
        self.chain = chain
        self.bayes = score.combine == "bayes"
        self.chained = not self.bayes or callable(score.weights)
        # Whether it can be drawn from before all is evaluated.
        self.lazy: bool = all(voice.lazy and not (self.bayes and voice.chained) for voice in self.voices)

    def _asked(self) -> list[tuple[int, ModelPlace | EnsemblePlace]]:
        return [(i, voice) for i, voice in enumerate(self.voices) if self.weights[i] != 0]

    @property
    def complete(self) -> bool:
        """Whether its row is known."""
        return (not self.bayes or self.zeros is not None) and all(voice.complete for _, voice in self._asked())

    def advance(self, data: bytes) -> EnsemblePlace:
        """The same ensemble after more bytes."""
        chain = None
        if self.chained and self.chain is not None and len(data) == 1 and self.complete:
            chain = self.chain + float(self.row()[data[0]])
        voices = tuple(voice.advance(data) for voice in self.voices)
        lost = any(isinstance(voice, EnsemblePlace) and voice.unchained for voice in voices)
        return EnsemblePlace(voices, self.score, self.prefix + data, zeros=None if lost else self.zeros, chain=chain)

    @property
    def unchained(self) -> bool:
        """Whether its mass is not to be had from the rows that were evaluated."""
        return self.chain is None if self.chained else self.zeros is None

    def copy(self) -> EnsemblePlace:
        """The same, to be evaluated on its own."""
        return self._with(tuple(voice.copy() for voice in self.voices))

    def bare(self) -> EnsemblePlace:
        """The same without its rows."""
        return self._with(tuple(voice.bare() for voice in self.voices))

    def _with(self, voices: tuple[ModelPlace | EnsemblePlace, ...]) -> EnsemblePlace:
        return EnsemblePlace(voices, self.score, self.prefix, zeros=self.zeros, chain=self.chain)

    def begin(self) -> Step[None]:
        """Evaluate the place in full, and for bayes what led to it; a chain that is not known begins here."""
        # Weights that depend on the text may ask a member later: its likelihood counts from here all the same.
        asked = list(enumerate(self.voices)) if self.bayes and callable(self.score.weights) else self._asked()
        yield from together([voice.begin() for _, voice in asked])
        if self.chain is None:
            self.chain = 0.0
        if self.bayes and self.zeros is None:
            zeros = [0.0] * len(self.voices)
            spoken: list[float] = [0.0] * len(asked)
            if self.prefix:
                spoken = yield from together([self.score.likelihood(i, self.prefix) for i, _ in asked])
            for (i, voice), likelihood in zip(asked, spoken, strict=True):
                # Where the text is impossible it stays so: any zero will do.
                zeros[i] = voice.mass()[0] - likelihood if likelihood > -math.inf else math.inf
            self.zeros = tuple(zeros)

    def evaluate(self) -> Step[None]:
        """Evaluate the member that leaves most open."""
        if self.bayes and self.zeros is None:
            yield from self.begin()
            return
        open_ = [(i, voice) for i, voice in self._asked() if not voice.complete]
        if self.bayes:
            shares = np.exp(self.log_shares())
        else:
            shares = np.abs(self.weights)
        if open_:
            _, voice = max(open_, key=lambda each: float(shares[each[0]]) * each[1].bounds().rest)
            yield from voice.evaluate()

    def evaluate_all(self) -> Step[None]:
        """Evaluate all."""
        if self.bayes and self.zeros is None:
            yield from self.begin()
        else:
            yield from together([voice.evaluate_all() for _, voice in self._asked()])

    # ---- what is known

    def likelihoods(self, *, most: bool = False) -> Float64[np.ndarray, " members"]:
        """Ln P of the text so far, for each member in bayes; 0 elsewhere."""
        likelihoods = np.zeros(len(self.voices))
        if self.bayes and self.zeros is not None:
            for i, voice in self._asked():
                mass = voice.mass()[most]
                likelihoods[i] = mass - self.zeros[i] if mass > -math.inf else -math.inf
        return likelihoods

    def log_shares(self) -> Float64[np.ndarray, " members"]:
        """Ln of the weights, or of the posterior weights as far as they are known."""
        return log_shares(self.score.combine, np.abs(self.weights), self.likelihoods())

    def mass(self) -> tuple[float, float]:
        """The logarithm of the probability of the text so far: no less than this, and no more."""
        if self.chained:
            if self.chain is None:
                raise ModelError("the mass of an ensemble was asked for before its rows: its evaluation is broken")
            return self.chain, self.chain
        with np.errstate(divide="ignore"):
            weights = np.log(self.weights)
        least, most = (log_sum((weights + self.likelihoods(most=most)).tolist()) for most in (False, True))
        return least, least if self.complete else most

    def measured(self, *, end: bool) -> Step[float]:
        """The logarithm of the probability of the text so far, with ``end`` of its end there, all evaluated for it."""
        if self.chained or not self.lazy or self.zeros is None:
            yield from self.evaluate_all()
            return self.mass()[0] + (float(self.row()[EOT]) if end else 0.0)
        asked = self._asked()
        masses = yield from together([voice.measured(end=end) for _, voice in asked])
        return log_sum(
            math.log(self.weights[i]) + mass - self.zeros[i]
            for (i, _), mass in zip(asked, masses, strict=True)
            if mass > -math.inf
        )

    def row(self) -> Float64[np.ndarray, "257"]:
        """Its row, once all is evaluated; −∞ throughout where it gives the text probability 0."""
        rows = np.full((len(self.voices), SYMBOLS), -np.inf)
        for i, voice in self._asked():
            rows[i] = voice.row()
        return combined(self.score.combine, self.weights, rows, self.likelihoods())

    def envelope(self) -> tuple[float, Envelope]:
        """What is known of its masses, and the logarithm of their unit (for a product: in any unit)."""
        if not self.bayes:
            if self.score.combine == "product":
                return self.chain or 0.0, product_envelope(
                    self.weights, [self._bounds(i) for i in range(len(self.voices))]
                )
            return self.chain or 0.0, self.bounds().envelope()
        parts = []
        for i, voice in self._asked():
            scale, envelope = voice.envelope()
            zero = 0.0 if self.zeros is None else self.zeros[i]
            parts.append((math.log(self.weights[i]) + scale - zero, envelope))
        top = max((log_unit for log_unit, envelope in parts if _some(envelope)), default=-math.inf)
        top = top if top > -math.inf else 0.0
        known, extra, elsewhere, unknown = np.zeros(SYMBOLS), np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0
        for log_unit, envelope in parts:
            if _some(envelope) and (unit := math.exp(min(log_unit - top, 0.0))) > 0:
                known += unit * envelope.known
                extra += unit * envelope.extra
                elsewhere += unit * envelope.elsewhere
                unknown += unit * envelope.unknown
        return top, Envelope(known, extra, elsewhere, unknown)

    def bounds(self) -> Bounds:
        """What is known of its row."""
        if self.complete:
            probs = np.exp(self.row())
            return Bounds(probs, probs, 0.0)
        match self.score.combine:
            case "mixture":
                return mixed(self.weights, [self._bounds(i) for i in range(len(self.voices))])
            case "product":
                return normalised(self.envelope()[1])
            case "bayes":
                if self.zeros is None:
                    return Bounds(np.zeros(SYMBOLS), np.ones(SYMBOLS), 1.0)
                (scale, envelope), (least, most) = self.envelope(), self.mass()
                return conditional(envelope, math.exp(least - scale), math.exp(most - scale))

    def _bounds(self, i: int) -> Bounds:
        return self.voices[i].bounds() if self.weights[i] != 0 else NOTHING


def _some(envelope: Envelope) -> bool:
    return bool(envelope.unknown > 0 or envelope.known.any())
