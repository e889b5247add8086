"""Intervals and tests of significance, against what is known by hand."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from evals.report.statistics import mean_of, pair_of
from evals.report.tables import interval, note_too_few


def test_the_mean_is_over_problems_and_its_interval_over_groups() -> None:
    """Nine alike in one group beside five alone are six draws, not fourteen: a third of the resamples lack the nine."""
    found = mean_of([1.0] * 9 + [0.0] * 5, ["a"] * 9 + list("bcdef"))

    assert (found.mean, found.low, found.high, found.n, found.groups) == (9 / 14, 0.0, 0.9, 14, 6)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of 300 samples of sixty groups of three alike, the 95 % interval holds the true mean 91 to 98 times of 100."""
    random = np.random.default_rng(5)
    groups = [str(i // 3) for i in range(180)]
    hits = 0
    for _ in range(300):
        found = mean_of(np.repeat(random.random(60) < 0.3, 3).astype(float).tolist(), groups)
        hits += found.low <= 0.3 <= found.high

    assert 0.91 <= hits / 300 <= 0.98


@pytest.mark.parametrize("groups", range(1, 8))
def test_too_few_groups_have_no_interval(groups: int) -> None:
    """Of fewer than six groups nothing is said beyond their mean, in numbers and in tables; and tables say why."""
    found = mean_of([1.0, 0.0] * groups, [str(i // 2) for i in range(2 * groups)])

    assert found.mean == 0.5
    assert np.isnan([found.low, found.high]).tolist() == [groups < 6] * 2
    assert ("[" in interval(asdict(found))) == (groups >= 6)


def test_tables_say_why_there_is_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever in a summary a mean is over too few groups; and not a word if none is."""
    few, enough = (asdict(mean_of([1.0] * n, list("abcdefgh"[:n]))) for n in (2, 8))
    note_too_few({"rows": [{"mean": enough}]}, "tasks")
    assert capsys.readouterr().out == ""

    note_too_few({"rows": [{"mean": enough}, {"mean": few}]}, "tasks")
    assert "fewer than 6 tasks" in capsys.readouterr().out


def test_mcnemar_by_hand() -> None:
    """Five pairs of six differ, all one way: 2 / 2⁵. Pairs that are alike say nothing."""
    pair = pair_of([1] * 5 + [1], [0] * 5 + [1], list("abcdef"), binary=True)

    assert (pair.better, pair.worse, pair.test, pair.p) == (5, 0, "McNemar, exact", 0.0625)
    assert pair.difference.mean == pytest.approx(5 / 6)
    assert pair_of([1, 0], [1, 0], ["a", "b"], binary=True).p == 1.0


def test_wilcoxon_by_hand() -> None:
    """Five positive differences of different sizes: 2 / 2⁵."""
    pair = pair_of([0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 5, list("abcde"), binary=False)

    assert pair.test == "Wilcoxon signed rank"
    assert pair.p == pytest.approx(0.0625)
    assert pair_of([0.5, 0.5], [0.5, 0.5], ["a", "b"], binary=False).p == 1.0
