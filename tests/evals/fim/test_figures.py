"""Figures of completions, against their definitions and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.errors import InvalidArgumentError
from evals.fim.figures import check_k, figures, pass_at_k


def levenshtein(a: bytes, b: bytes) -> int:
    """The definition, by its recursion."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row, above = [i], row
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@given(st.binary(max_size=9), st.binary(min_size=1, max_size=9))
def test_figures_are_their_definitions(completion: bytes, middle: bytes) -> None:
    """On any bytes every figure is what its definition says."""
    found = figures(completion, middle)

    assert found["exact"] == (completion == middle)
    assert found["first_4"] == (completion[:4] == middle[:4] or completion[: len(middle)] == middle[:4])
    assert found["similarity"] == pytest.approx(
        1 - levenshtein(completion, middle) / max(len(completion), len(middle)), abs=1e-6
    )


def test_figures_by_hand() -> None:
    """A middle of twenty bytes with the first wrong byte in its eighteenth character."""
    found = figures(b"return a + b - c, d!", b"return a + b - c * d")

    assert found == {"exact": 0, "first_4": 1, "first_16": 1, "similarity": 0.85, "saved": 16, "saved_share": 0.8}


def test_short_middles_have_to_be_there_whole() -> None:
    """Of a middle of two bytes the first four are those two; what follows them is another question."""
    assert figures(b"ab", b"ab")["first_4"] == 1
    assert figures(b"abc", b"ab") | {"similarity": 0} == {
        "exact": 0, "first_4": 1, "first_16": 1, "similarity": 0, "saved": 2, "saved_share": 1.0
    }  # fmt: skip
    assert figures(b"a", b"ab")["first_4"] == 0
    assert figures(b"", b"ab")["saved"] == 0


def test_left_mode_compares_as_much_as_the_middle_has() -> None:
    """Without an end of its own a completion is right if it begins with the middle; if it is too short it is wrong."""
    assert figures(b"abc and on", b"abc", left=True)["exact"] == 1
    assert figures(b"abc and on", b"abc", left=True)["similarity"] == 1.0
    assert figures(b"abc and on", b"abc")["exact"] == 0
    assert figures(b"ab", b"abc", left=True)["exact"] == 0


def test_characters_are_saved_and_not_bytes() -> None:
    """Of é only the first byte right saves nothing; a middle that begins inside é saves it with its last byte."""
    assert figures(b"\xc3x", "éa".encode())["saved"] == 0
    assert figures("é".encode(), "éa".encode()) | {"similarity": 0, "first_16": 0, "first_4": 0, "exact": 0} == {
        "exact": 0, "first_4": 0, "first_16": 0, "similarity": 0, "saved": 1, "saved_share": 0.5
    }  # fmt: skip
    assert figures(b"\xa9", "é".encode()[1:])["saved"] == 1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_counts_subsets(k: int) -> None:
    """The estimate is the share of the subsets of k samples in which one passes."""
    passed = [True, False, False, True, False]
    share = np.mean([any(subset) for subset in combinations(passed, k)])

    assert pass_at_k([5], [2], k) == pytest.approx([share])


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range(k: int) -> None:
    """A k above the number of samples, or below 1, is refused with both numbers."""
    with pytest.raises(InvalidArgumentError, match=f"pass@{k} needs .* there are 5"):
        check_k([k], 5)
    with pytest.raises(InvalidArgumentError):
        pass_at_k([5, 7], [1, 1], k)
