"""Cursors: places in bytes, windows and stop strings, each against its definition read character by character."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.cli.cursor import (
    STOPS,
    StopAt,
    Unit,
    check_text,
    default_window,
    offset_at,
    place,
    window,
    with_line_ends_of,
)
from bytelm.errors import InvalidArgumentError
from bytelm.sampling.stop_strings import StopScanner

# Line ends of both kinds, a CR alone, a tab, characters of one to four bytes, one that is two code points, a BOM inside.
TEXT = st.text(st.sampled_from("a\t \n\r\u00e9\u4e2d\U0001f642\u0301\ufeff"), max_size=24).map(str.encode)
TEXTS = st.one_of(TEXT, TEXT.map(lambda data: data.replace(b"\n", b"\r\n")), TEXT.map(lambda d: codecs.BOM_UTF8 + d))


def places(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Line, column and offset of every place in a text, by walking over its characters."""
    text = data.decode()
    start = 1 if text.startswith("\ufeff") else 0
    line, column = 1, 1
    for index in range(start, len(text) + 1):
        inside_an_end = text[index - 1 : index + 1] == "\r\n" and index > 0
        if not inside_an_end:
            yield line, column, len(text[:index].encode())
        if text[index : index + 1] == "\n":
            line, column = line + 1, 1
        else:
            column += 1


@given(TEXTS)
def test_every_place_has_its_offset(data: bytes) -> None:
    """Lines and columns count as the walk does, and one beyond is refused with what there is."""
    found = list(places(data))
    last: dict[int, int] = {}
    for line, column, offset in found:
        assert offset_at(data, line, column) == offset
        last[line] = column
    for line, column in last.items():
        with pytest.raises(InvalidArgumentError, match=f"last column is {column}$"):
            offset_at(data, line, column + 1)
    with pytest.raises(InvalidArgumentError, match=rf"which has {len(last)} lines? \({len(data)} bytes\)"):
        offset_at(data, len(last) + 1, 1)


@pytest.mark.parametrize(
    ("data", "line", "column", "expected"),
    [
        (b"", 1, 1, 0),
        (b"ab", 1, 3, 2),
        (b"ab\n", 2, 1, 3),
        (b"a\r\n\tb\r\n", 1, 2, 1),
        (b"a\r\n\tb\r\n", 2, 2, 4),
        ("é🙂x".encode(), 1, 3, 6),
        (codecs.BOM_UTF8 + b"ab", 1, 1, 3),
        (b"a\rb", 1, 4, 3),
        (b"a\r", 1, 3, 2),
    ],
)
def test_places_by_hand(data: bytes, line: int, column: int, expected: int) -> None:
    """Where editors show the cursor: behind a BOM, before CRLF, a tab as one column, a CR alone as a character."""
    assert offset_at(data, line, column) == expected


@given(TEXTS, st.sampled_from([("byte", "utf-8", 1), ("utf-16", "utf-16-le", 2)]))
def test_a_column_may_count_in_other_units(data: bytes, counted: tuple[Unit, str, int]) -> None:
    """A column in bytes or in UTF-16 units is one more than what the line before the place takes of them."""
    unit, codec, size = counted
    columns: dict[int, set[int]] = {}
    for line, column, offset in places(data):
        text = data[:offset].decode()
        before = text[len(text) - (column - 1) :]
        here = len(before.encode(codec)) // size + 1
        assert offset_at(data, line, here, unit=unit) == offset
        columns.setdefault(line, set()).add(here)
    for line, there in columns.items():
        for column in range(1, max(there) + 1):
            if column not in there:
                with pytest.raises(InvalidArgumentError, match=f"column {column}, counted in .* is inside a character"):
                    offset_at(data, line, column, unit=unit)
        with pytest.raises(InvalidArgumentError, match=f"its last column is {max(there)}$"):
            offset_at(data, line, max(there) + 1, unit=unit)


@pytest.mark.parametrize(
    "text", ["", "3", "3:", ":3", "0:1", "1:0", "-1:2", "1:2:3", "a:b", "1.5:2", "1:" + "9" * 5000]
)
def test_what_is_no_place(text: str) -> None:
    """LINE:COLUMN, both from 1, and nothing else."""
    with pytest.raises(InvalidArgumentError, match="LINE:COLUMN"):
        place(text)


def test_what_is_no_text() -> None:
    """NUL and bytes that are not UTF-8 are told with their place and the size; anything else is text."""
    check_text("\ufeffa\r\n\té🙂".encode(), "x")
    check_text("aé".encode()[:2], "x", cut=True)
    with pytest.raises(InvalidArgumentError, match=r"^x is not text: byte 1 of its 2 is 0xC3"):
        check_text("aé".encode()[:2], "x")
    with pytest.raises(InvalidArgumentError, match=r"^x is not text: byte 0 of its 2 is 0xA9"):
        check_text("éa".encode()[1:], "x", cut=True)
    with pytest.raises(InvalidArgumentError, match=r"^x is not text: byte 1 of its 4 is NUL"):
        check_text("ab".encode("utf-16-le"), "x")
    with pytest.raises(InvalidArgumentError, match=r"^x is not text: byte 3 of its 5 is 0xE9"):
        check_text("cafés".encode("latin-1"), "x")


# ---- the window


def best_cut(choices: list[bytes], whole: bytes, *, lines: list[bytes]) -> bytes:
    """The longest of the sides that may stay: all of it, else one cut at a line, else one cut at a character."""
    if whole in choices:
        return whole
    return max([side for side in lines if side in choices] or choices, key=len)


@given(st.one_of(TEXTS, st.text("ab\n\u00e9", min_size=6, max_size=16).map(str.encode)), st.data())
def test_the_window_is_the_definition(data: bytes, draw: st.DataObject) -> None:
    """Each side is the longest that its share allows, cut at a line where one begins inside it, else at a character."""
    starts = [len(data.decode()[:i].encode()) for i in range(len(data.decode()) + 1)]
    cursor = draw.draw(st.sampled_from(starts))
    prefix, suffix = data[:cursor], data[cursor:]
    size = draw.draw(st.integers(1, len(data) + 2))

    left, right = window(prefix, suffix, size)

    if len(data) <= size:
        assert (left, right) == (prefix, suffix)
        return
    half, other = size - size // 2, size // 2
    share = max(half, size - len(suffix))  # what the suffix does not need is the prefix's, and the other way round
    ends = [prefix[i:] for i in starts if i <= cursor and cursor - i <= share]
    at_lines = [prefix[i:] for i in starts if 0 < i < cursor and prefix[i - 1 : i] == b"\n"]
    assert left == best_cut(ends, prefix, lines=at_lines)
    room = max(other, size - len(prefix))
    beginnings = [suffix[: i - cursor] for i in starts if i >= cursor and i - cursor <= room]
    before_lines = [suffix[: i - cursor] for i in starts if i > cursor and data[i - 1 : i] == b"\n"]
    assert right == best_cut(beginnings, suffix, lines=before_lines)


@pytest.mark.parametrize(
    ("size", "left", "right"),
    [(22, b"one\ntwo\nthr", b"ee\nfour\n"), (14, b"two\nthr", b"ee\n"), (13, b"two\nthr", b"ee\n"), (5, b"thr", b"ee")],
)
def test_windows_by_hand(size: int, left: bytes, right: bytes) -> None:
    """A line that fits to the byte stays, one that is a byte too long goes."""
    assert window(b"one\ntwo\nthr", b"ee\nfour\nfive\n", size) == (left, right)


@given(TEXTS, st.integers(0, 100), st.integers(1, 60))
def test_a_window_is_a_part_around_the_cursor(data: bytes, cursor: int, size: int) -> None:
    """Wherever the cursor is, inside a character too, what is shown touches it and is no longer than was asked for."""
    prefix, suffix = data[:cursor], data[cursor:]

    left, right = window(prefix, suffix, size)

    assert prefix.endswith(left)
    assert suffix.startswith(right)
    assert len(left) + len(right) <= size or (left, right) == (prefix, suffix)


def test_no_window_is_the_whole() -> None:
    """A model without a limit is shown everything."""
    assert window(b"a\n" * 9, b"b\n" * 9, None) == (b"a\n" * 9, b"b\n" * 9)


def test_the_default_window_fits() -> None:
    """Bytes are counted as tokens, the completion and half of the context at most are taken from them."""
    assert default_window(None, 256) is None
    assert 7800 < (default_window(8192, 256) or 0) <= 8192 - 256
    assert default_window(8192, 100_000) == 4096
    assert default_window(1, 1) == 1


# ---- line ends


@given(TEXTS, TEXTS)
def test_a_file_of_one_kind_of_line_ends_stays_one(text: bytes, written: bytes) -> None:
    """Where every LF of the text has its CR, so has every LF that is put in; else, and otherwise, nothing changes."""
    kinds = {line.endswith(b"\r") for line in text.split(b"\n")[:-1]}

    actual = with_line_ends_of(text, written)

    if kinds == {True}:
        assert all(line.endswith(b"\r") for line in actual.split(b"\n")[:-1])
        assert actual.endswith(b"\r") == written.endswith(b"\r\r")  # of a line end that was cut short is one CR
        assert actual.replace(b"\r\n", b"\n") == written.removesuffix(b"\r").replace(b"\r\n", b"\n")
    else:
        assert actual == written


# ---- where a completion stops


def stopped(written: bytes, stop_at: StopAt) -> bytes:
    """What is left of a completion by the scanner of the library."""
    scanner = StopScanner(STOPS[stop_at])
    for end, byte in enumerate(written, start=1):
        if length := scanner.push(byte):
            return written[: end - length]
    return written


def by_lines(written: bytes, stop_at: StopAt) -> bytes:
    """The same by its words: the first line, or the lines before the first empty one, without its end."""
    ended = [line.removesuffix(b"\r") for line in written.split(b"\n")[:-1]]
    if stop_at == "newline":
        return ended[0] if ended else written
    for number in itertools.count(1):
        if number >= len(ended):
            return written
        if not ended[number]:
            end = len(b"\n".join(written.split(b"\n")[:number]))
            return written[:end].removesuffix(b"\r")
    raise AssertionError


@pytest.mark.parametrize("stop_at", ["newline", "blank-line"])
@given(written=st.text("a \r\n\n", max_size=12).map(str.encode))
def test_the_stop_strings_are_the_ends_of_lines(stop_at: StopAt, written: bytes) -> None:
    """However lines end, the completion stops before the first line end, or before the first empty line."""
    assert stopped(written, stop_at) == by_lines(written, stop_at)


@pytest.mark.parametrize(
    ("stop_at", "written", "expected"),
    [
        ("newline", b"a\nb", b"a"),
        ("newline", b"a\r\nb", b"a"),
        ("newline", b"\r\nb", b""),
        ("newline", b"a\rb\n", b"a\rb"),
        ("blank-line", b"a\n\nb", b"a"),
        ("blank-line", b"a\r\n\r\nb", b"a"),
        ("blank-line", b"a\n \nb\n\n", b"a\n \nb"),
        ("blank-line", b"\n\nb", b""),
        ("eot", b"a\n\n\r\n\r\n", b"a\n\n\r\n\r\n"),
    ],
)
def test_stops_by_hand(stop_at: StopAt, written: bytes, expected: bytes) -> None:
    """LF and CRLF are both kept out; a line of spaces is not empty."""
    assert stopped(written, stop_at) == expected
