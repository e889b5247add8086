"""Intervals and tests of significance, against what is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evals.report.statistics import mean_of, pair_of


def test_the_mean_is_over_problems_and_its_interval_over_groups() -> None:
    """Nine alike in one group and one in another are two draws, not ten: the interval is as wide as can be."""
    found = mean_of([1.0] * 9 + [0.0], ["a"] * 9 + ["b"])

    assert (found.mean, found.low, found.high, found.n, found.groups) == (0.9, 0.0, 1.0, 10, 2)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of 300 samples of sixty groups of three alike, the 95 % interval holds the true mean 91 to 98 times of 100."""
    random = np.random.default_rng(5)
    groups = [str(i // 3) for i in range(180)]
    hits = 0
    for _ in range(300):
        found = mean_of(np.repeat(random.random(60) < 0.3, 3).astype(float).tolist(), groups)
        hits += found.low <= 0.3 <= found.high

    assert 0.91 <= hits / 300 <= 0.98


def test_one_group_has_no_interval() -> None:
    """Of one group nothing can be said beyond its mean."""
    found = mean_of([1.0, 0.0], ["a", "a"])

    assert found.mean == 0.5
    assert np.isnan(found.low)


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
