r"""Texts of an ensemble in bayes, each drawn from one member at a time: with the law of the bytes, exact.

Theory of operation
    With weights that stay the same, bayes is a mixture of whole texts. With πᵢ(x) for a member's posterior after x,

        P(b | x) = Σ πᵢ(x) Pᵢ(b | x).

    At temperature 1, with nothing else done to the distribution, draw a member by π(x) at the prompt x, and b from that
    member alone. Given b, which member it was has the posterior π(x·b). So the same member draws the next byte too, and
    all that follow, by the token (sampling/token_draws.py).

    What is left is the leak, with ℓᵢ(x) for that of a member. The sampler of bytes draws b from P(b | x) / (1 − ρ(x)),
    where ρ(x) = Σ πᵢ(x) ℓᵢ(x). So where the member draws leak, a symbol is drawn from just that distribution, and a
    member anew by the posterior after it. After x, byte b then comes with

        P(b | x) + ρ(x) · P(b | x) / (1 − ρ(x))  =  P(b | x) / (1 − ρ(x)),

    and who draws what follows it has the posterior, either way.

Numbers
    ``Completion.logprob`` is ln P(bytes | prefix) of the ensemble: it takes a score by every member.

Cost
    The calls of one member alone, and of the score at the end. The other members are asked at the prompt, and at leak.

The end of a context
    A text ends for its length where the sampler's does: at the first byte after which some member has a node of more
    tokens than its context. A byte adds one token to a sequence at most. So from where that can be, the places of all
    members are taken along to see it; nothing is evaluated for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np

from bytelm.ensemble.place import EnsemblePlace
from bytelm.errors import ModelError
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Step, changed
from bytelm.sampling.completion import Completion
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.posterior import picked
from bytelm.sampling.row_draws import RowDraws
from bytelm.sampling.writing import Generation
from bytelm.symbols import EOT


def draws_members(place: EnsemblePlace, params: SamplingParams) -> bool:
    """Whether completions of an ensemble can be drawn from one member at a time.

    Args:
        place: At the end of the prompt.
        params: How to draw.
    """
    if not (place.bayes and not place.chained and params.plain and params.by_token):
        return False
    return all(isinstance(member, ModelPlace) for _, member in place.asked())


class MemberDraws(Generation):
    """A completion of an ensemble in bayes that is drawn from one member at a time.

    Args:
        place: At the end of the prompt; completions may share it. See `draws_members`.
        params: When to end; nothing is done to the distribution.
        random: The item's random numbers.
        score: Finds ln P of bytes after the prompt, and with a flag of the end of text after them.

    Attributes:
        redrawn: How often a token was leak.
    """

    place: EnsemblePlace

    def __init__(
        self,
        place: EnsemblePlace,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(params)
        self.finish_reason = None if params.max_bytes else "length"
        self.place = place
        self.prompt = place.prefix
        self.params = params
        self.redrawn = 0
        self._random = random
        self._score = score
        self._drawer: RowDraws | None = None  # writes what the member draws
        self._taken = 0  # bytes of that which are written here
        self._room = 0.0  # bytes that certainly fit in each context
        self._edge: EnsemblePlace | None = None  # beyond these, the place of the text so far

    def step(self) -> Step[None]:
        """Draw a token and append its bytes; or find out whose."""
        done = len(self.bytes) / self.params.max_bytes
        return changed(self._step(), lambda request: replace(request, done=done))

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        written, ended = bytes(self.bytes), self.ending == "eot"
        step = changed(self._score(written, ended), lambda request: replace(request, done=1.0))
        logprob = (yield from step) if written or ended else 0.0
        seen = None if self.leak is None else self.leak[0]
        return self.written(logprob, self.prompt, JobUsage(largest_leak=seen, redrawn=self.redrawn))

    def _step(self) -> Step[None]:
        if self._drawer is None:
            yield from self.place.begin()
            self._room = self.place.room()
            if self._room < 0:
                self.finish_reason = "length"
                return
            self._drawer = yield from self._drawn(self.place.copy())
            self.place = self.place.bare()  # its rows may be many
        yield from self._drawer.step()
        self._write(bytes(self._drawer.bytes[self._taken :]))
        if self.finish_reason is None and self._drawer.redrawn:
            yield from self._redraw()
        elif self.finish_reason is None:
            self._taken = len(self._drawer.bytes)
            self.finish_reason = self._drawer.finish_reason

    def _write(self, data: bytes) -> None:
        for byte in data:
            self.write(byte)
            if self.finish_reason is None and len(self.bytes) > self._room:
                edge = self._edge or self.place
                self._edge = edge.advance(bytes(self.bytes[len(edge.prefix) - len(self.prompt) :]))
                if self._edge.room() < 0:
                    self.finish_reason = "length"
            if self.finish_reason is not None:
                return

    def _redraw(self) -> Step[None]:
        """Draw the next symbol from the whole row, and a member for what follows it."""
        self.redrawn += 1
        here = self.place.advance(bytes(self.bytes)) if self.bytes else self.place.copy()
        symbol = int((yield from here.draw(Filters(), self._random.random(1), self._random))[0])
        self.drew(here)
        if symbol == EOT:
            self.finish_reason = "eot"
            return
        self._write(bytes([symbol]))
        if self.finish_reason is None:
            self._drawer = yield from self._drawn(here.advance(bytes([symbol])))

    def _drawn(self, place: EnsemblePlace) -> Step[RowDraws]:
        """Draw a member by its posterior at a place; what writes its text from there."""
        yield from place.measured(end=False)
        shares = np.exp(place.log_shares())
        if not shares.any():
            raise ModelError(f"after {place.prefix[-40:]!r} {place.silent}")
        member = place.members[picked(shares, self._random.random())]
        own, self._taken = replace(self.params, stop=(), max_bytes=self.left), 0
        return RowDraws(cast("ModelPlace", member), own, self._random)
