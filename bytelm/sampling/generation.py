"""Drawing bytes: each one exactly from its distribution, with as few model calls as its certainty needs.

Rules
    A draw fixes one uniform number u and never another. Whatever is evaluated on the way, the symbol is a function of u
    alone whose pieces have the lengths of the exact probabilities: see bounds.py. (To draw afresh after each
    evaluation favours what was known first; the tests hold such a sampler and see it fail.)
    What is evaluated at a step depends on the text so far, never on u.
    A call that is needed anyway also asks for other nodes, if they hold more of the mass than an extra token costs on
    the engine (`RowReader.extra_token_cost`): with about that probability they would be asked for later.
    A prompt's nodes are all known beforehand: they are one request.
    Where a token sequence that may spell the text no longer fits in the context, the text ends, for its length: the
    next byte would depend on a row that there is not. A byte adds one token to a sequence at most, so the text itself
    can still be scored.
    Several bytes come at once where the likely tokens decide them under the filters (sure_bytes.py), as far as a
    constraint allows them.
    Under a constraint (constrained.py) what is the only way on is written without a draw, and nodes that lead to no
    allowed symbol are not evaluated.

Numbers
    The distribution drawn from is the filtered one, without the leak (filters.py).
    ``Completion.logprob`` is ln P(bytes | prefix) by the lemma, of what was drawn and unfiltered: the difference of two
    log-masses, not a sum of roundings. What lazy evaluation left open of it is evaluated at the end, in one request at
    most, unless it is certain to change less than `NEGLIGIBLE` (inference/lazy.py).
    The random numbers of item i are a Philox stream keyed by (seed, i), so neither the batch nor its size changes a
    byte of it.

Does not
    Call a model: a step asks, and is told (inference/scheduler.py).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.errors import UnreachablePrefixError
from bytelm.inference.scheduler import Step, changed
from bytelm.sampling.completion import Completion
from bytelm.sampling.constrained import Allowed
from bytelm.sampling.draw import drawn, processed
from bytelm.sampling.params import SamplingParams, binding_of
from bytelm.sampling.place import Place
from bytelm.sampling.writing import PlacedGeneration
from bytelm.symbols import EOT


class ByteGeneration(PlacedGeneration):
    """A completion as it is drawn: one byte a step.

    It has the arguments and attributes of `PlacedGeneration`.

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
        self._sure = b""  # what is certain to come
        self._forced = False  # whether the constraint leaves nothing else
        self._binding = binding_of(params, self.prompt)
        self._chosen = 0.0  # under a constraint: ln of what the drawn symbols have of the allowed ones
        self._unread = b""  # what was written since the place
        self._leapt = False
        self._leak = 1.0  # of each row that what is certain came from, at most
        self._lone = params.lazy and params.filters.lone_share is not None
        self._end = place  # behind all that was drawn, a stop string included
        # Where a stop string began, the completion ends: so far back a place may be needed.
        self._recent: deque[Place] = deque(maxlen=self.scanner.longest + 1)

    def step(self) -> Step[None]:
        """Draw a symbol and append it; or end the completion."""
        if self.full:
            self.finish_reason = "length"
            return
        if not self._recent:
            yield from self.place.begin()
            self.place = self._end = self.place.copy()
            self._start = self.place.mass()[0]
            self._recent.append(self.place)
        if not self._sure:
            if self._binding is not None and self._binding.done:
                self.finish_reason = "stop"
                return
            if self.place.room() < 0:
                self.finish_reason = "length"
                return
            self._force()
        if self._sure:
            symbol = self._next_sure()
        else:
            done = len(self.bytes) / self.params.max_bytes
            symbol = yield from changed(self._draw(), lambda request: replace(request, done=done))
        if self._leapt:
            self.drew(self.place, least=0.0, most=self._leak)
        elif not self._forced:
            self.drew(self.place)
        if symbol == EOT:
            self.finish_reason = "eot"
            return
        self._advance(symbol)
        self._end = self.place
        if length := self.write(symbol):
            self.place = self._recent[-1 - length]
        elif self._binding is not None:
            self._binding.advance(symbol)
            if not self._sure and self._binding.done:
                self.finish_reason = "stop"

    def _force(self) -> None:
        """Take what the constraint leaves as the only way on, as far as it surely fits in the context."""
        if self._binding is not None:
            most = min(self.params.max_bytes - len(self.bytes), max(self.place.room(), 1))
            self._sure = self._binding.forced()[: int(most)]
            self._forced, self._leapt = bool(self._sure), False

    def _draw(self, uniform: Float64[np.ndarray, "1"] | None = None) -> Step[int]:
        """Draw a symbol; where it is certain, what is certain after it is taken without a draw.

        Args:
            uniform: The uniform number to draw by; None: a new one.
        """
        params, place, binding = self.params, self.place, self._binding
        uniform = self._uniform() if uniform is None else uniform
        if not params.lazy or params.logits_processor is not None:
            yield from place.evaluate_all()
        allowed = None if binding is None else binding.allowed()
        if params.logits_processor is not None:
            row, _ = yield from place.full_row()
            masses = processed(params.logits_processor, bytes(self.bytes), row)
            if binding is not None and not (masses := masses * allowed).any():
                raise binding.stuck("logits_processor forbids all that the constraint allows")
            probs = params.filters.apply(masses)
            return self._weighed(drawn(float(uniform[0]), probs), allowed)
        if self._lone:
            sure = yield from place.sure_bytes(params.filters)
            data = sure.data if binding is None else binding.cut(sure.data)
            self._leapt = 0 < len(data) <= place.room()
            if self._leapt:
                self._sure, self._leak = data[1:], sure.leak
                return data[0]
        symbols = yield from self._drawn(uniform, allowed)
        return self._weighed(int(symbols[0]), allowed)

    def _drawn(self, uniform: Float64[np.ndarray, "1"], allowed: Allowed | None) -> Step[Int64[np.ndarray, "1"]]:
        """The symbol of a uniform number at this place."""
        return self.place.draw(self.params.filters, uniform, self._random, allowed=allowed)

    def _uniform(self) -> Float64[np.ndarray, "1"]:
        return np.zeros(1) if self.params.filters.greedy else self._random.random(1)

    def _next_sure(self) -> int:
        """The next of the symbols that are certain; its uniform number is drawn, unless a constraint left it alone."""
        if not self._forced:
            self._uniform()
        symbol, self._sure = self._sure[0], self._sure[1:]
        return symbol

    def _weighed(self, symbol: int, allowed: Allowed | None) -> int:
        """A symbol that was drawn; under a constraint its share of what is allowed is noted, where all is evaluated."""
        if allowed is not None and self._weighs:
            known = self.place.envelope(allowed)[1].known
            self._chosen += math.log(known[symbol] / known.sum())
        return symbol

    @property
    def _weighs(self) -> bool:
        """Whether ``log_constraint_mass`` is told: all rows are evaluated, and drawn from as they are."""
        return not self.params.lazy and self.params.logits_processor is None

    def _advance(self, symbol: int) -> None:
        """Advance by the bytes that are certain together at once, unless a stop string may end the text among them."""
        self._unread += bytes([symbol])
        if self._sure and not self.scanner.longest and len(self.bytes) + 1 < self.params.max_bytes:
            return
        try:
            self.place = self.place.advance(self._unread)
        except UnreachablePrefixError as error:
            if self._binding is None:
                raise
            raise self._binding.stuck(f"the constraint leaves {self._unread!r} alone, and {error}") from None
        self._recent.append(self.place)
        self._unread = b""

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        done = yield from changed(self._scored(), lambda request: replace(request, done=1.0))
        if self._binding is None or not self._weighs:
            return done
        # P(all that was drawn) is the product of what was allowed at each step and of the shares in it.
        whole = yield from self._logprob(self._end)
        return replace(done, log_constraint_mass=whole - self._chosen)
