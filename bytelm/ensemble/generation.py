"""A completion of an ensemble."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bytelm.ensemble.draw import ensemble_draw, ensemble_row
from bytelm.ensemble.place import EnsemblePlace
from bytelm.inference.scheduler import Step
from bytelm.sampling.completion import Settings
from bytelm.sampling.generation import ByteGeneration
from bytelm.symbols import EOT


class EnsembleGeneration(ByteGeneration[EnsemblePlace]):
    """A completion of an ensemble.

    Args:
        prompt: At the end of the prompt.
        settings: How to draw, and when to end.
        random: The item's random numbers.
        score: Finds ln P of bytes after the prompt, and with a flag of the end of text after them.
    """

    def __init__(
        self,
        prompt: EnsemblePlace,
        settings: Settings,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(prompt, settings, random)
        self._score = score
        self._start = 0.0

    def _begin(self) -> Step[None]:
        yield from self.frontier.begin()
        self.frontier = self.frontier.copy()
        self._start = self.frontier.mass()[0]

    def _draw(self) -> Step[int]:
        settings, joint = self.settings, self.frontier
        uniform = np.zeros(1) if settings.filters.greedy else self._random.random(1)
        if not settings.lazy or settings.logits_processor is not None:
            yield from joint.evaluate_all()
        if settings.logits_processor is not None:
            row, _ = yield from ensemble_row(joint)
            return self._drawn(settings.logits_processor, row, uniform)
        symbols = yield from ensemble_draw(joint, settings.filters, uniform, self._random)
        return int(symbols[0])

    def _note_leak(self) -> None:
        if self.frontier.complete:
            leak = max(0.0, 1 - float(np.exp(self.frontier.row()).sum()))
            self.largest_leak = max(leak, self.largest_leak or 0.0)

    def score(self) -> Step[float]:
        """Log-probability of what was drawn, after the last step."""
        joint, eot = self.frontier, self.finish_reason == "eot"
        if not self.bytes and not eot:
            return 0.0
        if not joint.chained:
            return (yield from joint.measured(end=eot)) - self._start
        if joint.chain is None or (eot and not joint.complete):
            return (yield from self._score(bytes(self.bytes), eot))
        return joint.chain + (float(joint.row()[EOT]) if eot else 0.0) - self._start
