r"""Exact draws from a model given that the text meets a constraint, by rejection that learns.

The law
    A text ends where the constraint is complete, with a stop string, with the end of text, or for its length. Among the
    texts that the constraint allows, up to there, each is drawn in proportion to its probability by the lemma, which is
    the exponential of `Completion.logprob`. (Drawing step by step under masks, constrained.py, has another law.)

Theory of operation
    An attempt draws symbols from the model's own rows. One that is not allowed, or that is leak, ends the attempt. So
    the texts of attempts that succeed have the law above, and the others are thrown away.
    What failed is not tried again. Let A(x) be an upper bound on the share of P(x) that is on allowed texts: 1 where
    nothing is known, and else Σ P(b | x) · A(x·b) over the allowed symbols b, from the row at x. Where A is known, the
    next attempt draws b with probability P(b | x) · A(x·b) / A(x). The product of these along a text y is
    P(y) / A(start), whatever A is: each attempt succeeds with a text in proportion to its probability.
    Each failure makes A known along its path, so the chance of the next attempt, P(constraint) / A(start), grows.

Cost
    The rows of each place that an attempt comes to for the first time; all of them in full along a path that failed.
    Places that are known cost no model call. They are kept with their rows until the text is drawn.

Source
    Constrained adaptive rejection sampling (arXiv:2510.01902), over bytes, where the rows are exact; the tree of bounds
    is adaptive rejection sampling (Gilks and Wild, 1992) on a trie.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from bytelm.errors import BudgetError
from bytelm.inference.scheduler import Step
from bytelm.sampling.completion import Completion
from bytelm.sampling.constrained import Binding
from bytelm.sampling.draw import drawn
from bytelm.sampling.params import SamplingParams, binding_for
from bytelm.sampling.place import Place
from bytelm.sampling.writing import PlacedGeneration, Writing
from bytelm.symbols import EOT


class _Visited:
    """A place that an attempt came to, and what is known of the texts through it.

    Args:
        place: There.
        binding: The constraint there.

    Attributes:
        place: As given.
        binding: As given.
        alive: A, the most that allowed texts can have of its mass.
        below: The places behind it, by symbol.
        probs: P(b | x) of the allowed symbols, 0 for the others; None until an attempt has failed behind it.
    """

    def __init__(self, place: Place, binding: Binding) -> None:
        self.place, self.binding = place, binding
        self.alive = 1.0
        self.below: dict[int, _Visited] = {}
        self.probs: Float64[np.ndarray, "257"] | None = None

    def after(self, symbol: int) -> _Visited:
        """The place behind a byte."""
        if (known := self.below.get(symbol)) is not None:
            return known
        binding = self.binding.copy()
        binding.advance(symbol)
        return _Visited(self.place.advance(bytes([symbol])), binding)

    def shares(self, probs: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
        """P(b | x) · A(x·b)."""
        shares = probs.copy()
        for symbol, known in self.below.items():
            shares[symbol] *= known.alive
        return shares

    def learn(self) -> Step[None]:
        """Evaluate the place, and bound what is behind it."""
        if self.probs is None:
            yield from self.place.evaluate_all()
            self.probs = np.exp(self.place.row()) * self.binding.allowed()
        self.alive = float(self.shares(self.probs).sum())


class ConditionedGeneration(PlacedGeneration):
    """A completion that is drawn exactly from the texts that its constraint allows. A step is an attempt.

    It has the arguments and attributes of `PlacedGeneration`. The params have no filters.

    Raises:
        ConstraintError: The prompt violates the constraint.
    """

    def __init__(
        self,
        place: Place,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(place, params, random, score)
        self._binding = binding_for(params, self.prompt)
        self._root: _Visited | None = None
        self._attempts = 0

    def step(self) -> Step[None]:
        """Try to draw the whole text.

        Raises:
            BudgetError: So many attempts as there may be have failed.
            ConstraintError: The model gives the allowed texts no probability.
        """
        if self._root is None:
            yield from self.place.begin()
            self._root = _Visited(self.place.copy(), self._binding)
            self._start = self._root.place.mass()[0]
        root, budget = self._root, self.params.budget
        if self._attempts == budget:
            raise BudgetError(
                f"{budget} attempts found no text that the constraint allows: at most {root.alive:.2g} of the "
                "probability is on such texts. Give a greater budget, a prompt that leads to them, or leave "
                "conditioning='exact' out"
            )
        self._attempts += 1
        yield from self._attempt(root)
        if root.alive == 0:
            raise root.binding.stuck("no text that is allowed has any probability")

    def _attempt(self, root: _Visited) -> Step[None]:
        """Draw a text. It is written if it is allowed; if not, what was found out is kept."""
        writing = Writing(self.params)
        path = [root]
        symbols: list[int] = []
        while writing.finish_reason is None:
            here = path[-1]
            if writing.full:
                writing.finish_reason = "length"
            elif here.binding.done:
                writing.finish_reason = "stop"
            elif here.place.room() < 0:
                writing.finish_reason = "length"
            else:
                symbol = yield from self._draw(here)
                if symbol < 0 or not here.binding.allowed()[symbol]:
                    yield from _learn(path, symbols)
                    return
                writing.drew(here.place)
                if symbol == EOT:
                    writing.finish_reason = "eot"
                else:
                    symbols.append(symbol)
                    path.append(here.after(symbol))
                    writing.write(symbol)
        self.bytes, self.leak = writing.bytes, writing.leak
        self.place = path[len(writing.bytes)].place
        self.finish_reason = writing.finish_reason

    def _draw(self, here: _Visited) -> Step[int]:
        """A symbol of the row, in proportion to what may be behind it; −1 for leak."""
        uniform = self._random.random(1)
        if here.probs is not None:
            shares = here.shares(here.probs) / here.alive
            return drawn(float(uniform[0]), shares)
        if not (here.place.lazy and self.params.lazy):
            yield from here.place.evaluate_all()
        found = yield from here.place.symbols(uniform)
        return int(found[0])

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        return (yield from self._scored())


def _learn(path: list[_Visited], symbols: list[int]) -> Step[None]:
    """Keep the places of an attempt that failed, and bound what is behind each, from the last to the first."""
    for here, symbol, behind in zip(path, symbols, path[1:], strict=False):
        here.below[symbol] = behind
    for here in reversed(path):
        yield from here.learn()
