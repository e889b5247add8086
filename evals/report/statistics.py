"""Means with intervals, and two methods compared in pairs.

Means and intervals
    95 %, by the percentile bootstrap over groups, seeded. Problems of one task are alike, so whole tasks are drawn with
    replacement; the mean is over the problems of the tasks drawn. Fewer than `LEAST` groups have no interval: of two or
    three the bootstrap says no more than the least and the greatest of them, and of five that all agree no two-sided
    test is below p = 0.05 (2 / 2⁵).
Pairs
    Two methods on the same problems and samples. McNemar's exact test for right and wrong (scipy.stats.binomtest on
    the pairs that differ), Wilcoxon's signed rank test for other numbers (scipy.stats.wilcoxon). Both tests assume
    independent pairs; the interval of the difference is over groups, as above. P-values are not corrected for multiple
    comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float64

RESAMPLES: Final = 9999
LEAST: Final = 6  # groups of an interval


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % interval, which is NaN where there are fewer than `LEAST` groups.

    Attributes:
        mean: Over problems.
        low: Lower end.
        high: Upper end.
        n: Problems.
        groups: Groups of problems.
    """

    mean: float
    low: float
    high: float
    n: int
    groups: int


def mean_of(values: Sequence[float], groups: Sequence[str], *, seed: int = 0) -> Mean:
    """The mean of some values, and its interval over groups.

    >>> mean_of([1.0, 1.0, 1.0], ["a", "b", "b"])
    Mean(mean=1.0, low=nan, high=nan, n=3, groups=2)
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    places = [names[name] for name in groups]
    sums = np.bincount(places, weights=np.asarray(values, np.float64), minlength=len(names))
    counts = np.bincount(places, minlength=len(names))
    return replace(ratio_of(sums.tolist(), counts.tolist(), seed=seed), n=len(values))


def ratio_of(amounts: Sequence[float], sizes: Sequence[float], *, seed: int = 0) -> Mean:
    """The sum of some amounts over the sum of some sizes, one of each for a group, and its interval over groups.

    >>> ratio_of([2.0, 4.0] * 3, [1.0, 2.0] * 3)
    Mean(mean=2.0, low=2.0, high=2.0, n=6, groups=6)
    """
    sums, counts = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
    mean = float(sums.sum() / counts.sum()) if len(sums) else math.nan
    if len(sums) < LEAST:
        return Mean(mean, math.nan, math.nan, len(sums), len(sums))
    drawn = _resampled(len(sums), seed)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return Mean(mean, float(low), float(high), len(sums), len(sums))


@lru_cache(maxsize=8)
def _resampled(groups: int, seed: int) -> Float64[np.ndarray, "resamples groups"]:
    """How often each group is in each of the resamples, which are drawn with replacement."""
    random = np.random.default_rng(seed)
    return random.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods on the same problems.

    Attributes:
        difference: First less second, with its interval.
        better: Pairs in which the first has the greater value.
        worse: Pairs in which it has the smaller.
        test: The name of the test.
        p: Its p-value, two-sided.
    """

    difference: Mean
    better: int
    worse: int
    test: str
    p: float


def pair_of(first: Sequence[float], second: Sequence[float], groups: Sequence[str], *, binary: bool) -> Pair:
    """Compare two methods, value by value.

    >>> pair_of([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], list("abcdef"), binary=True).p
    0.0625
    """
    from scipy.stats import binomtest, wilcoxon

    differences: Float64[np.ndarray, " n"] = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    if binary:
        name, p = "McNemar, exact", binomtest(better, better + worse).pvalue if better + worse else 1.0
    else:
        name, p = "Wilcoxon signed rank", float(wilcoxon(differences).pvalue) if better + worse else 1.0
    return Pair(mean_of(differences.tolist(), groups), better, worse, name, float(p))
