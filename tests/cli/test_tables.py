"""Bytes, probabilities and tables as a person reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bytelm.cli.tables import bar, columns, read_escapes, show_byte, show_bytes, show_prob


@given(st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
def test_what_is_shown_can_be_read_back(data: bytes) -> None:
    """Shown bytes are one printable line that `read_escapes` turns into the same bytes again."""
    shown = show_bytes(data)

    assert shown.isprintable()
    assert read_escapes(shown) == data


@given(st.integers(0, 255))
def test_a_byte_is_shown_as_a_literal(value: int) -> None:
    """Between b and the quotes Python reads the same byte."""
    assert eval("b" + show_byte(value)) == bytes([value])  # noqa: S307 - our own output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a\nb\t\r\\n\0", b"a\nb\t\r\\n\0"),
        (r"\xe2\x82", b"\xe2\x82"),
        (r"\u00e9\U0001F642", "é🙂".encode()),
        ("é\udce2", "é".encode() + b"\xe2"),
        ("", b""),
    ],
)
def test_escapes(text: str, expected: bytes) -> None:
    """The usual short escapes and those by number are read; bytes that are no text pass through."""
    assert read_escapes(text) == expected


@pytest.mark.parametrize("text", ["\\", r"\q", r"\x4", r"\xg0", r"\u12", r"\x 1", r"\ud800", r"\U00110000"])
def test_what_is_no_escape_is_refused(text: str) -> None:
    """An escape that is cut short, or that nobody knows, is an error and not a guess."""
    with pytest.raises(ValueError):
        read_escapes(text)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_a_bar_is_as_long_as_its_probability(p: float, q: float, width: int) -> None:
    """The greater probability has no shorter bar, 1 fills the width, and nothing exceeds it."""
    assert len(bar(min(p, q), width)) <= len(bar(max(p, q), width)) <= width
    assert bar(1.0, width) == "█" * width
    assert bar(0.0, width) == ""


def test_columns_line_up_where_characters_are_wide() -> None:
    """Wide characters count as two cells, so that the next column begins at the same place."""
    lines = columns([["你好", "x"], ["a", "y"]]).splitlines()

    assert [cell_len(line[: line.index(c)]) for line, c in zip(lines, "xy", strict=True)] == [6, 6]


WIDE = [["byte", "by tokens", "by token healing", "next"], ["'a'", "0.2500", "3.0e-07", "the cat sat on"]]


@pytest.mark.parametrize("room", [0, 80, 120])
def test_a_table_that_fits_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Where no width is known, and on a terminal that is wide enough, every row is one line."""
    monkeypatch.setenv("COLUMNS", str(room))

    assert columns([["a", bar(1.0)], ["bcd", bar(0.5)]]) == f"a    {'█' * 24}\nbcd  {'█' * 12}"
    assert columns(WIDE, right=[False, True]).splitlines()[1] == "'a'      0.2500  3.0e-07           the cat sat on"


def test_bars_shrink_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bars of a table get the same smaller scale; a text of blocks is no bar."""
    monkeypatch.setenv("COLUMNS", "20")

    assert columns([["█▏", bar(1.0)], ["bcd", bar(0.5)]]) == f"█▏   {'█' * 15}\nbcd  {'█' * 7}▌"


def test_words_wrap_then_and_numbers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of words go on below; a number stays in one piece."""
    monkeypatch.setenv("COLUMNS", "40")

    assert columns(WIDE, right=[False, True]).splitlines() == [
        "byte  by tokens  by token    next",
        "                 healing",
        "'a'      0.2500  3.0e-07     the cat sat",
        "                             on",
    ]


def test_rows_are_stacked_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers of a row do not fit side by side they stand one below the other, each with its heading."""
    monkeypatch.setenv("COLUMNS", "24")

    assert columns([*WIDE, ["'b'", "0.5000", "0.1", ""]], right=[False, True]).splitlines() == [
        "byte         'a'",
        "by tokens    0.2500",
        "by token     3.0e-07",
        "healing",
        "next         the cat sat",
        "             on",
        "",
        "byte              'b'",
        "by tokens         0.5000",
        "by token healing  0.1",
    ]


@given(
    st.lists(st.lists(st.text("ab 中█", max_size=30), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(30, 60),
)
def test_no_narrow_table_loses_a_character(rows: list[list[str]], room: int) -> None:
    """Whatever the cells hold, no line is wider than the terminal, and nothing but spaces is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(room))
        shown = columns(rows)

    assert all(cell_len(line) <= room for line in shown.splitlines())
    assert sorted(shown.replace(" ", "").replace("\n", "")) == sorted("".join(map("".join, rows)).replace(" ", ""))


@pytest.mark.parametrize(
    ("prob", "expected"), [(0.98765, "0.9877"), (4e-5, "4.0e-05"), (5e-5, "0.0001"), (0.0, "0.0000")]
)
def test_a_small_probability_does_not_round_to_nothing(prob: float, expected: str) -> None:
    """Four decimals where they show something, powers of ten below."""
    assert show_prob(prob) == expected
