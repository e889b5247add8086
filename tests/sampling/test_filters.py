"""Temperature, top-k, top-p and min-p on rows that can be worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bytelm.errors import InvalidArgumentError
from bytelm.sampling.filters import Filters, powers, ranked
from bytelm.symbols import EOT, SYMBOLS


def row(**masses: float) -> np.ndarray:
    """A row with these masses on these bytes; ``eot`` is the end of text."""
    found = np.zeros(SYMBOLS)
    for name, mass in masses.items():
        found[EOT if name == "eot" else ord(name)] = mass
    return found


HALVES = row(a=0.5, b=0.25, c=0.125, d=0.0625, eot=0.0625)

BY_HAND: list[tuple[str, np.ndarray, dict[str, Any], np.ndarray]] = [
    ("as it is", HALVES, {}, HALVES),
    ("a leak of a half is taken out", HALVES / 2, {}, HALVES),
    ("greedy", HALVES, {"temperature": 0}, row(a=1)),
    ("greedy takes the lower of two", row(b=0.5, a=0.5), {"temperature": 0}, row(a=1)),
    ("greedy may end", row(a=0.2, eot=0.3), {"temperature": 0}, row(eot=1)),
    # squares: 64, 16, 4, 1, 1 of 86
    ("temperature 1/2 squares", HALVES, {"temperature": 0.5}, row(a=64, b=16, c=4, d=1, eot=1) / 86),
    # roots of 16, 4, 1: 4, 2, 1 of 7
    ("temperature 2 takes roots", row(a=16, b=4, c=1), {"temperature": 2}, row(a=4, b=2, c=1) / 7),
    ("top-k keeps the likeliest", HALVES, {"top_k": 2}, row(a=2, b=1) / 3),
    ("top-k cuts a tie at the lower symbol", HALVES, {"top_k": 4}, row(a=8, b=4, c=2, d=1) / 15),
    ("top-k of more than there is", HALVES, {"top_k": 300}, HALVES),
    ("top-k of 1 is greedy", row(b=0.5, a=0.5), {"top_k": 1}, row(a=1)),
    ("top-p that one symbol holds exactly", HALVES, {"top_p": 0.5}, row(a=1)),
    ("top-p takes in the one that crosses", HALVES, {"top_p": 0.51}, row(a=2, b=1) / 3),
    ("top-p keeps one at least", HALVES, {"top_p": 1e-9}, row(a=1)),
    ("top-p is of what is left without the leak", HALVES / 2, {"top_p": 0.5}, row(a=1)),
    ("top-p of 1 keeps all", HALVES, {"top_p": 1.0}, HALVES),
    ("min-p is a share of the likeliest", HALVES, {"min_p": 0.25}, row(a=4, b=2, c=1) / 7),
    ("min-p of 1 keeps ties", row(a=0.3, b=0.3, c=0.2), {"min_p": 1}, row(a=1, b=1) / 2),
    # After top-k 2: a 2/3, b 1/3; so a alone holds 0.6. Of the whole it holds only 0.5.
    ("top-p is of what top-k keeps", HALVES, {"top_k": 2, "top_p": 0.6}, row(a=1)),
    # Squared: a holds 64/86 = 0.744; b crosses 0.8.
    ("top-p is of the tempered row", HALVES, {"temperature": 0.5, "top_p": 0.74}, row(a=1)),
    # Squared: b is 1/4 of a, c 1/16.
    ("min-p is of the tempered row", HALVES, {"temperature": 0.5, "min_p": 0.2}, row(a=4, b=1) / 5),
]


@pytest.mark.parametrize(("masses", "options", "expected"), [case[1:] for case in BY_HAND], ids=[c[0] for c in BY_HAND])
def test_rows_by_hand(masses: np.ndarray, options: dict[str, Any], expected: np.ndarray) -> None:
    """The filtered row is the one worked out on paper."""
    np.testing.assert_allclose(Filters(**options).apply(masses), expected, atol=1e-15)


def test_ties_do_not_depend_on_rounding() -> None:
    """Masses that differ by less than sums are rounded by are tied, whichever way they differ."""
    for noise in (-1e-16, 0.0, 1e-16):
        masses = row(a=0.3, b=0.3 + noise, c=0.3 - noise, d=0.1)

        assert [ord("a"), ord("b"), ord("c"), ord("d")] == ranked(masses)[:4].tolist()
        assert Filters(top_k=2).apply(masses)[ord("c")] == 0


def test_extreme_temperatures_do_not_overflow() -> None:
    """A very low temperature is greedy, a very high one even over what has any mass."""
    np.testing.assert_allclose(Filters(temperature=1e-300).apply(HALVES), row(a=1))
    np.testing.assert_allclose(
        Filters(temperature=1e300).apply(HALVES), row(a=0.2, b=0.2, c=0.2, d=0.2, eot=0.2), atol=1e-12
    )
    assert powers(np.array([0.0, 0.5, 1.0]), 1e-310).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"min_p": math.nan},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """Each error names the argument and its value."""
    ((name, value),) = options.items()

    with pytest.raises(InvalidArgumentError, match=f"{name} must be .*{value}"):
        Filters(**options)


@pytest.mark.parametrize("options", [{"temperature": "1"}, {"top_k": 2.5}, {"top_k": True}, {"top_p": "x"}])
def test_wrong_types_are_refused(options: dict[str, Any]) -> None:
    """What is no number is a TypeError."""
    with pytest.raises(TypeError):
        Filters(**options)
