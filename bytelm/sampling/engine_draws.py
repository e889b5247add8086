"""Completions whose tokens the engine draws itself, at its own full speed.

Theory of operation
    token_draws.py has the law. Here the engine goes on by itself from a member of the cover, as it always does, until a
    token is leak or the text ends; engine_batch.py runs many at once.

Cost
    Rows at the prompt's end and at the text's end, a handful each; between them, the engine's own generation. After
    leak a row more, or none. An engine that takes new sequences at any time goes on with the others meanwhile.

Seeds
    The engine is given a seed for each completion, a function of (seed, i). Its draws are its own: not those of the
    sampler, nor of another engine. Where its arithmetic depends on what runs beside a sequence, as on a GPU, a draw may
    now and then fall on the other side of a boundary. After leak it is given another one.
"""

from __future__ import annotations

import numpy as np

from bytelm.engines.rows import drawn_token
from bytelm.inference.scheduler import Request, Step, on
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.token_draws import TokenDraws
from bytelm.tokenizer.viability.viability import Viability


class EngineDraws(TokenDraws):
    """A completion of one byte model whose tokens its engine draws; it has the arguments of `TokenDraws`.

    Attributes:
        seed: Of the engine's draws until the next leak.
    """

    sampling = None  # the engine draws from its rows as they are

    def __init__(
        self,
        place: ModelPlace,
        viability: Viability,
        params: SamplingParams,
        random: np.random.Generator,
        *,
        at_once: bool = False,
    ) -> None:
        super().__init__(place, viability, params, random, at_once=at_once)
        self.seed = self._new_seed()

    # ---- what the engine is asked

    @property
    def room(self) -> int:
        """Tokens that it may need, at most."""
        left = self._context + 1 - len(self.sequence)
        return min(self.params.max_bytes - len(self.bytes) + len(self._rest), left)

    @property
    def guess(self) -> tuple[int, ...]:
        """What the engine is likely to go on from after leak, before it is known; empty where nothing is."""
        leaked = self.redrawn and not self._goes_on and self.finish_reason is None
        return self.sequence if leaked and self._leaked_at != len(self.bytes) else ()

    def take(self, token: int, logprob: float) -> bool:
        """As in `TokenDraws`."""
        before = self.redrawn
        goes_on = super().take(token, logprob)
        if self.redrawn > before:
            self.seed = self._new_seed()
        return goes_on

    def _new_seed(self) -> int:
        return int(self._random.integers(2**63))

    def stop(self) -> None:
        """Nothing: the engine ends none of these by itself."""

    # ---- steps

    def next(self) -> Step[Completion | None]:
        """Draw what the engine is to go on from; or, where the text has ended, the completion."""
        return on(self._token_lm, self._next(), self._since)

    def _next(self) -> Step[Completion | None]:
        while self.finish_reason is None and not (self._goes_on and self.sequence):
            yield from self._begin() if not self._goes_on else self._draw_first()
        return (yield from self._completed()) if self.finish_reason else None

    def _draw_first(self) -> Step[None]:
        """Draw the first token of all as the engine would, from the row after no token: it has to be given one."""
        (row,) = yield Request(((),))
        token = drawn_token(self._random.random(), row)
        self.take(token, float(row[token]))
