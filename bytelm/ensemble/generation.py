"""A completion of an ensemble."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from bytelm.ensemble.draw import ensemble_draw, ensemble_row
from bytelm.ensemble.place import EnsemblePlace
from bytelm.inference.scheduler import Step
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.params import SamplingParams
from bytelm.symbols import EOT


class EnsembleGeneration(ByteGeneration[EnsemblePlace]):
    """A completion of an ensemble.

    Args:
        prompt: At the end of the prompt.
        params: How to draw, and when to end.
        random: The item's random numbers.
        score: Finds ln P of bytes after the prompt, and with a flag of the end of text after them.
    """

    def __init__(
        self,
        prompt: EnsemblePlace,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(prompt, params, random)
        self._score = score
        self._start = 0.0

    def _begin(self) -> Step[None]:
        yield from self.frontier.begin()
        self.frontier = self.frontier.copy()
        self._start = self.frontier.mass()[0]

    def _evaluate_all(self) -> Step[None]:
        yield from self.frontier.evaluate_all()

    def _full_row(self) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
        return (yield from ensemble_row(self.frontier))

    def _symbol(self, uniform: Float64[np.ndarray, "1"]) -> Step[int]:
        return int((yield from ensemble_draw(self.frontier, self.params.filters, uniform, self._random))[0])

    def _row(self) -> Float64[np.ndarray, "257"] | None:
        return self.frontier.row() if self.frontier.complete else None

    def score(self) -> Step[float]:
        """Log-probability of what was drawn, after the last step."""
        place, eot = self.frontier, self.finish_reason == "eot"
        if not self.bytes and not eot:
            return 0.0
        if not place.chained:
            return (yield from place.measured(end=eot)) - self._start
        if place.chain is None or (eot and not place.complete):
            return (yield from self._score(bytes(self.bytes), eot))
        return place.chain + (float(place.row()[EOT]) if eot else 0.0) - self._start
