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
    Greedy bytes come by the token where one token decides them (greedy.py).

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

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bytelm.inference.scheduler import JobUsage, Step, changed
from bytelm.sampling.completion import Completion
from bytelm.sampling.draw import filled, processed, settled
from bytelm.sampling.greedy import HALF
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import Place
from bytelm.sampling.writing import Writing
from bytelm.symbols import EOT, SYMBOLS


class ByteGeneration(Writing):
    """A completion as it is drawn: one byte a step.

    Args:
        place: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        params: How to draw, and when to end.
        random: The item's random numbers.
        score: Finds ln P of bytes after the prompt, and with a flag of the end of text after them; it is asked where
            the place cannot tell.

    Attributes:
        place: At the end of the text so far.
        prompt: The prompt's bytes.
    """

    def __init__(
        self,
        place: Place,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(params)
        self.place = place
        self.prompt = place.prefix
        self.params = params
        self._random = random
        self._score = score
        self._start = 0.0
        self._sure = b""  # what is certain to come
        self._unread = b""  # what was written since the place
        self._leapt = False
        # Where a stop string began, the completion ends: so far back a place may be needed.
        self._recent: deque[Place] = deque(maxlen=self.scanner.longest + 1)

    def step(self) -> Step[None]:
        """Draw a symbol and append it; or end the completion."""
        if self.full:
            self.finish_reason = "length"
            return
        if not self._recent:
            yield from self.place.begin()
            self.place = self.place.copy()
            self._start = self.place.mass()[0]
            self._recent.append(self.place)
        if not self._sure and self.place.room() < 0:
            self.finish_reason = "length"
            return
        done = len(self.bytes) / self.params.max_bytes
        symbol = yield from changed(self._draw(), lambda request: replace(request, done=done))
        if self._leapt:
            self.drew(self.place, least=0.0, most=1.0 - HALF)  # one token has more, of each of its bytes' rows
        else:
            self.drew(self.place)
        if symbol == EOT:
            self.finish_reason = "eot"
            return
        self._advance(symbol)
        if length := self.write(symbol):
            self.place = self._recent[-1 - length]

    def _draw(self) -> Step[int]:
        """Draw a symbol."""
        params, place = self.params, self.place
        uniform = np.zeros(1) if params.filters.greedy else self._random.random(1)
        if not params.lazy or params.logits_processor is not None:
            yield from place.evaluate_all()
        if params.logits_processor is not None:
            row, _ = yield from place.full_row()
            probs = params.filters.apply(processed(params.logits_processor, bytes(self.bytes), row))
            return int(filled(settled(uniform, np.zeros(SYMBOLS), probs), probs)[0])
        if not self._sure and params.filters.greedy and params.lazy:
            sure = yield from place.sure_bytes()
            self._sure = sure if len(sure) <= place.room() else b""
        self._leapt = bool(self._sure)
        if self._sure:
            symbol, self._sure = self._sure[0], self._sure[1:]
            return symbol
        return int((yield from place.draw(params.filters, uniform, self._random))[0])

    def _advance(self, symbol: int) -> None:
        """Advance by the bytes that are certain together at once, unless a stop string may end the text among them."""
        self._unread += bytes([symbol])
        if self._sure and not self.scanner.longest and len(self.bytes) + 1 < self.params.max_bytes:
            return
        self.place = self.place.advance(self._unread)
        self._recent.append(self.place)
        self._unread = b""

    def run(self) -> Step[Completion]:
        """The whole completion. Its usage holds only the leak: the rest is the scheduler's to know."""
        while self.finish_reason is None:
            yield from self.step()
        return (yield from self.completion())

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        logprob = yield from changed(self._logprob(), lambda request: replace(request, done=1.0))
        least, most = self.leak or (None, None)
        return self.written(logprob, self.prompt, JobUsage(largest_leak=least, largest_leak_bound=most))

    def _logprob(self) -> Step[float]:
        ended = self.ending == "eot"
        if not self.bytes and not ended:
            return 0.0
        if self.place.lost_mass:
            return (yield from self._score(bytes(self.bytes), ended))
        return (yield from self.place.measured(end=ended)) - self._start
