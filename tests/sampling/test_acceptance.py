"""What bounds decide about a drafted symbol is what the law itself would decide, however late it becomes known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bytelm.inference.scheduler import Step
from bytelm.sampling.acceptance import checked, lacking
from bytelm.sampling.drafter import Proposal
from bytelm.symbols import SYMBOLS

GRID = 200


class Given(np.random.Generator):
    """Random numbers that are given."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = list(numbers)

    def random(self, size: int | None = None) -> Any:  # type: ignore[override] # what draws ask for
        number = self.numbers.pop(0)
        return number if size is None else np.full(size, number)


class Law:
    """A law that becomes known in stages."""

    def __init__(self, stages: list[np.ndarray]) -> None:
        self.stages = stages
        self.stage = 0

    def decide(self, proposal: Proposal, *numbers: float) -> tuple[tuple[int, bool] | None, int]:
        """The symbol, whether it was accepted, and how many stages that took."""
        self.stage = 0

        def more() -> Step[None]:
            self.stage += 1
            yield from ()

        step = checked(
            proposal,
            Given(*numbers),
            lower=lambda: self.stages[self.stage],
            complete=lambda: self.stage == len(self.stages) - 1,
            more=more,
        )
        with pytest.raises(StopIteration) as end:
            next(step)
        found: tuple[int, bool] | None = end.value.value
        return found, self.stage


def distribution(weights: np.ndarray) -> np.ndarray:
    probs = np.zeros(SYMBOLS)
    probs[: len(weights)] = weights / weights.sum()
    return probs


def cases() -> list[tuple[np.ndarray, np.ndarray, Law]]:
    """Laws P and Q on six symbols, where some have no probability, and P in stages."""
    found = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        law, drafted = (distribution(random.random(6) ** 3 * (random.random(6) < 0.8) + 1e-3) for _ in range(2))
        law[3] = drafted[3] = 0.0
        law, drafted = law / law.sum(), drafted / drafted.sum()
        shares = np.sort(random.random((3, SYMBOLS)), axis=0)
        found.append((law, drafted, Law([np.zeros(SYMBOLS), *(share * law for share in shares), law])))
    return found


@pytest.mark.parametrize(("law", "drafted", "known"), cases())
def test_a_symbol_has_the_law(law: np.ndarray, drafted: np.ndarray, known: Law) -> None:
    """Accepted as often as P / Q says, and otherwise drawn from what Q lacks, from whatever stage on that was decided."""
    middles = (np.arange(GRID) + 0.5) / GRID
    beyond = np.maximum(law - drafted, 0.0)
    stages = set()
    for symbol in np.flatnonzero(drafted).tolist():
        proposal = Proposal(symbol, drafted)
        accepted = []
        for first in middles:
            decided, stage = known.decide(proposal, first, 0.5)
            assert decided is not None
            accepted.append(decided == (symbol, True))
            stages.add(stage)
        assert np.mean(accepted) == pytest.approx(min(1.0, law[symbol] / drafted[symbol]), abs=1 / GRID)
        rejected = middles[~np.array(accepted)]
        for first in rejected[[0, len(rejected) // 2, -1]] if len(rejected) else []:
            drawn = [known.decide(proposal, first, second)[0] for second in middles]
            counts = np.bincount([each[0] for each in drawn if each is not None], minlength=SYMBOLS) / GRID
            assert counts == pytest.approx(beyond / beyond.sum(), abs=1.5 / GRID)
    assert len(stages) > 2


def test_certain_drafts_need_little() -> None:
    """A rejection is seen as soon as the rest cannot save the symbol, and an acceptance as soon as enough is known."""
    law = distribution(np.array([0.9, 0.1]))
    known = Law([np.zeros(SYMBOLS), 0.9 * law, law])
    certain = distribution(np.array([1.0])), distribution(np.array([0.0, 1.0]))

    assert known.decide(Proposal(0, certain[0]), 0.5) == ((0, True), 1)
    assert known.decide(Proposal(1, certain[1]), 0.5, 0.3) == ((0, False), 1)
    assert known.decide(Proposal(1, certain[1]), 0.15, 0.3) == ((0, False), 2)


def test_where_nothing_can_follow_nothing_is_decided() -> None:
    assert Law([np.zeros(SYMBOLS)]).decide(Proposal(0, distribution(np.array([1.0]))), 0.5)[0] is None


def test_the_bounds_on_what_is_lacking_hold() -> None:
    """They grow towards it, and are it in the end; where both laws are alike, rounding leaves one of them."""
    for law, drafted, known in cases():
        beyond = np.maximum(law - drafted, 0.0)
        for stage in known.stages[:-1]:
            assert (lacking(stage, drafted, complete=False) <= beyond / beyond.sum() + 1e-12).all()
        assert lacking(law, drafted, complete=True) == pytest.approx(beyond / beyond.sum())
        assert lacking(law, law, complete=True) == pytest.approx(law)
