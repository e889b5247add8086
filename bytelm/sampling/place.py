"""A byte model at a place in a text that it writes together with others.

Setting
    A `Place` is a byte model at the end of a text, with what is known of it there. A `ModelPlace` is a frontier; an
    ensemble's place (ensemble/place.py) holds the places of its members. A place has a *mass*: P of the text so far, in
    logarithms, on a scale of its own that stays the same as the place is advanced.

Rules
    A place that cannot spell what the others wrote gives it probability 0 from there on; nothing is raised.
    `advance`, `copy` and `bare` return another place. Steps (`begin`, `evaluate`, …) add to what is known of this one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.errors import UnreachablePrefixError
from bytelm.inference.envelope import Bounds, Envelope, conditional
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all, settled_log_mass
from bytelm.inference.scheduler import Step, on
from bytelm.lemma import log_sum
from bytelm.sampling.draw import settle
from bytelm.symbols import SYMBOLS
from bytelm.token_lm import TokenLM, abilities_of

NOTHING: Final = Bounds(np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)


class Place(ABC):
    """A byte model at a place in a text, beside others."""

    lazy: bool = True
    """Whether it can be drawn from before all is evaluated."""
    chained: bool = False
    """Whether its mass is a product of rows, so that each of them is needed."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether its row is known."""

    @property
    def lost_mass(self) -> bool:
        """Whether its mass can no longer be told from the rows that were evaluated."""
        return False

    @abstractmethod
    def advance(self, data: bytes) -> Place:
        """The same model after more bytes."""

    @abstractmethod
    def copy(self) -> Place:
        """The same place, to be evaluated on its own."""

    @abstractmethod
    def bare(self) -> Place:
        """The same place without its rows."""

    def begin(self) -> Step[None]:
        """Evaluate the place in full: a completion begins here."""
        yield from self.evaluate_all()

    @abstractmethod
    def evaluate(self) -> Step[None]:
        """Evaluate what its row depends on most."""

    @abstractmethod
    def evaluate_all(self) -> Step[None]:
        """Evaluate all."""

    @abstractmethod
    def mass(self) -> tuple[float, float]:
        """The least and the most that the log-probability of the text so far can be."""

    @abstractmethod
    def measured(self, *, end: bool) -> Step[float]:
        """The log-probability of the text so far, with ``end`` of its end too; evaluates what that needs."""

    @abstractmethod
    def row(self) -> Float64[np.ndarray, "257"]:
        """Its row, once all is evaluated; −∞ throughout where it gives the text probability 0."""

    @abstractmethod
    def envelope(self) -> tuple[float, Envelope]:
        """What is known of the masses of the text with each symbol, and the logarithm of their unit."""

    @abstractmethod
    def bounds(self) -> Bounds:
        """What is known of its row."""

    @abstractmethod
    def room(self) -> float:
        """How many more tokens fit in the context; infinite where there is no limit."""

    def symbols(self, uniforms: Float64[np.ndarray, " n"]) -> Step[Int64[np.ndarray, " n"]]:
        """For each uniform number the symbol that it is under this place's own row; −1 beyond the row's sum."""
        found, _ = yield from settle(
            uniforms, lower=lambda: self.bounds().low, complete=lambda: self.complete, more=self.evaluate
        )
        return found


class ModelPlace(Place):
    """One tokenized model at a place in a text.

    Args:
        frontier: There; None where the model cannot spell the text.
        token_lm: Its engine.
    """

    def __init__(self, frontier: Frontier | None, token_lm: TokenLM) -> None:
        self.frontier = frontier
        self.token_lm = token_lm

    @property
    def complete(self) -> bool:  # noqa: D102 - as in `Place`
        return self.frontier is None or self.frontier.complete

    def advance(self, data: bytes) -> ModelPlace:  # noqa: D102
        if self.frontier is None:
            return self
        try:
            return ModelPlace(self.frontier.advance(data), self.token_lm)
        except UnreachablePrefixError:
            return ModelPlace(None, self.token_lm)

    def copy(self) -> ModelPlace:  # noqa: D102
        return self if self.frontier is None else ModelPlace(self.frontier.copy(), self.token_lm)

    def bare(self) -> ModelPlace:  # noqa: D102
        return self if self.frontier is None else ModelPlace(self.frontier.bare(), self.token_lm)

    def evaluate(self) -> Step[None]:  # noqa: D102
        if self.frontier is not None:
            nodes = self.frontier.missing(self.frontier.reader.extra_token_cost)
            yield from on(self.token_lm, evaluate(self.frontier, nodes))

    def evaluate_all(self) -> Step[None]:  # noqa: D102
        if self.frontier is not None:
            yield from on(self.token_lm, evaluate_all(self.frontier))

    def mass(self) -> tuple[float, float]:  # noqa: D102
        if self.frontier is None:
            return -math.inf, -math.inf
        least = self.frontier.log_mass()
        return least, least if self.frontier.complete else log_sum([least, self.frontier.log_bound("mass")])

    def measured(self, *, end: bool) -> Step[float]:  # noqa: D102
        if self.frontier is None:
            return -math.inf
        return (yield from on(self.token_lm, settled_log_mass(self.frontier, ended=end)))

    def row(self) -> Float64[np.ndarray, "257"]:  # noqa: D102
        return np.full(SYMBOLS, -np.inf) if self.frontier is None else self.frontier.logprobs()

    def envelope(self) -> tuple[float, Envelope]:  # noqa: D102
        if self.frontier is None:
            return 0.0, NOTHING.envelope()
        scale = self.frontier.known()[0]
        return (scale, self.frontier.envelope()) if scale > -math.inf else (0.0, NOTHING.envelope())

    def bounds(self) -> Bounds:  # noqa: D102
        if self.frontier is None:
            return NOTHING
        scale, envelope = self.envelope()
        least, most = self.mass()
        return conditional(envelope, math.exp(min(least - scale, 700.0)), math.exp(min(most - scale, 700.0)))

    def room(self) -> float:  # noqa: D102
        size = abilities_of(self.token_lm).context_length
        return math.inf if size is None or self.frontier is None else size - self.frontier.most_tokens
