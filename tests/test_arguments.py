"""Arguments: what is accepted, and the error for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.arguments import bytes_of, eot_ids_of, integer, number, seed_of, stops_of, tolerance_of
from bytelm.errors import InvalidArgumentError, InvalidTypeError


def test_numbers_of_any_kind_are_numbers() -> None:
    """Python's numbers and numpy's are accepted, and come back as Python's."""
    assert (number("x", 1), number("x", np.float32(0.5)), integer("x", np.int64(3))) == (1.0, 0.5, 3)
    assert type(integer("x", np.int64(3))) is int


@pytest.mark.parametrize("value", ["1", None, True, 1 + 2j, [1]])
def test_what_is_no_number_is_a_type_error(value: object) -> None:
    """The error names the argument, the type and the value; a bool is no number."""
    for check in (number, integer):
        with pytest.raises(InvalidTypeError, match=rf"top_k must be a .*number, not {type(value).__name__}"):
            check("top_k", value)
    with pytest.raises(InvalidTypeError):
        integer("n", 1.0)


def test_texts() -> None:
    """A str is UTF-8, bytes are themselves, and half of a surrogate pair is neither."""
    assert (bytes_of("é"), bytes_of(b"\xff")) == (b"\xc3\xa9", b"\xff")
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        bytes_of("a\ud83d")
    with pytest.raises(InvalidTypeError, match="a text must be str or bytes, not int"):
        bytes_of(3)


def test_stop_strings_are_one_or_several() -> None:
    """One text, or a list of texts of either kind."""
    assert stops_of(()) == ()
    assert stops_of("a") == (b"a",)
    assert stops_of(["é", b"b"]) == (b"\xc3\xa9", b"b")
    for wrong in (3, [3], None, {"a"}):
        with pytest.raises(InvalidTypeError):
            stops_of(wrong)
    for empty in ("", ["a", ""], b""):
        with pytest.raises(InvalidArgumentError, match="empty stop string"):
            stops_of(empty)


def test_seeds() -> None:
    """A seed is a whole number from 0; None is another one each time."""
    assert seed_of(0) == 0
    assert seed_of(None) != seed_of(None)
    with pytest.raises(InvalidArgumentError, match="-1"):
        seed_of(-1)
    with pytest.raises(InvalidTypeError):
        seed_of("1")


def test_tolerances_are_total_variations() -> None:
    """From 0 to below 1."""
    assert tolerance_of(0) == 0
    for wrong in (-1e-9, 1, float("nan")):
        with pytest.raises(InvalidArgumentError, match="tol"):
            tolerance_of(wrong)


def test_end_of_text_ids_are_columns() -> None:
    """Any collection of ids that the model has, empty too."""
    assert eot_ids_of([np.int64(2), 0, 2], 3) == frozenset({0, 2})
    assert eot_ids_of((), 3) == frozenset()
    with pytest.raises(InvalidArgumentError, match=r"\[-1, 3\] are not ids of the model"):
        eot_ids_of([3, -1, 1], 3)
    for wrong in (3, "a", ["a"], [1.5]):
        with pytest.raises(InvalidTypeError):
            eot_ids_of(wrong, 3)
