"""The rule of an engine that draws tokens itself: what it tells is what it drew, and it drew it from its rows.

Rules
    Some sequences are drawn along side by side. One is done with after a token, one goes on to the engine's own limit,
    one is left for another where the engine asks each step, and one is known only when the engine asks again.
    Each token's log-probability is compared with the right row's. A seed draws the same tokens alone as in company.
    Of many first tokens drawn after one sequence, those of its likeliest half come as often as the row says.

Cost
    Some 300 tokens, nearly all of them first ones, and rows of ten short sequences.

Does not
    Test the draws further. Another temperature shows in that half; a single token that never comes does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from bytelm.testing.engine_trial import BrokenRuleError, EngineTrial, Tokens, UncheckedRuleError
from bytelm.token_lm import Draw, TokenDrawer

MOST: Final = 3  # tokens after a sequence
DRAWS: Final = 256
SIGMAS: Final = 4.0
ROUNDING: Final = 1e-5  # nats: engines that have rows in float64 may tell what they draw in float32


class _Line:
    """A sequence, and what is drawn after it.

    Args:
        sequence: Token ids.
        seed: Of the draws.
        most: Tokens after which it is done with; the engine's own limit is `MOST`.
        then: What is begun in its place.
    """

    def __init__(self, sequence: Tokens, seed: int, most: int = MOST + 1, then: _Line | None = None) -> None:
        self.sequence = sequence
        self.seed = seed
        self.most = most
        self.then = then
        self.told: list[tuple[int, float]] = []

    @property
    def tokens(self) -> Tokens:
        return tuple(token for token, _ in self.told)

    def draw(self) -> Draw:
        return Draw(self.sequence, self.seed, MOST, self._take)

    def _take(self, token: int, logprob: float) -> bool | Draw:
        self.told.append((token, float(logprob)))
        if len(self.told) == self.most and self.then is not None:
            return self.then.draw()
        return len(self.told) < self.most

    def check(self, trial: EngineTrial) -> None:
        """Find that as much was told as is due, and that it is right."""
        due = min(self.most, MOST)
        if len(self.told) != due:
            raise BrokenRuleError(f"after {self.sequence} take is due {due} token(s), and was told {len(self.told)}")
        for place, (token, logprob) in enumerate(self.told):
            sequence = (*self.sequence, *self.tokens[:place])
            if not 0 <= token < trial.vocab_size:
                raise BrokenRuleError(
                    f"id {token} was drawn after {sequence}, and the columns are 0..{trial.vocab_size - 1}"
                )
            right = float(trial.right(sequence)[token])
            trial.difference = max(trial.difference, abs(logprob - right))
            if not abs(logprob - right) <= max(trial.tolerance, ROUNDING):
                raise BrokenRuleError(
                    f"id {token} was drawn after {sequence}, and told with log-probability {logprob:.6g} "
                    f"where {right:.6g} is right"
                )


def drawing(trial: EngineTrial) -> None:
    """Check what an engine draws.

    Raises:
        BrokenRuleError: It is not what its rows say, or is told otherwise than agreed.
        UncheckedRuleError: The engine draws no tokens.
    """
    engine: Any = trial.make()
    if not isinstance(engine, TokenDrawer):
        raise UncheckedRuleError("the engine does not draw tokens itself")
    if not isinstance(engine.draws_by_default, bool):
        raise BrokenRuleError(f"hands_over is True or False, not {engine.draws_by_default!r}")
    starts = [trial.drawn(2) for _ in range(5)]
    row = trial.right(starts[0])
    engine = trial.make()
    other, late = _Line(starts[3], 2**63 - 1), _Line(starts[4], 3, 2)
    each_step = bool(getattr(engine, "asks_each_step", False))
    first = [_Line(starts[0], 0), _Line(starts[1], 1, 1), _Line(starts[2], 2, 2, other if each_step else None)]
    _run(engine, first, late)
    for line in (*first, late, *([other] if each_step else [])):
        line.check(trial)

    engine, alone = trial.make(), _Line(starts[0], 0)
    _run(engine, [alone])
    if alone.tokens != first[0].tokens:
        raise BrokenRuleError(f"seed 0 drew {alone.tokens} after {starts[0]} alone, and {first[0].tokens} in company")

    lines = [_Line(starts[0], seed, 1) for seed in range(DRAWS)]
    _run(engine, lines)
    order = np.argsort(-row, kind="stable")
    reached = np.cumsum(np.exp(row[order].astype(np.float64)))
    half = int(np.searchsorted(reached, 0.5)) + 1
    share = min(float(reached[half - 1]), 1.0)
    likeliest = set(order[:half].tolist())
    hits = sum(token in likeliest for line in lines for token in line.tokens)
    if abs(hits - DRAWS * share) > SIGMAS * math.sqrt(DRAWS * share * (1 - share)) + 1:
        raise BrokenRuleError(
            f"{hits} of {DRAWS} tokens drawn after {starts[0]} are among the {half} likeliest, "
            f"where their probability is {share:.3f}"
        )


def _run(engine: TokenDrawer, lines: Sequence[_Line], late: _Line | None = None) -> None:
    """Draw along some sequences, and along one that is known only when the engine asks again, after a look at a row."""
    waiting = [lines, *([] if late is None else [[late]])]

    def more() -> Iterator[Draw]:
        for line in waiting.pop(0) if waiting else ():
            if line is late:
                rows: Any = engine
                rows.next_token_logprobs([line.sequence])
            yield line.draw()

    engine.draw_tokens(more)
