"""Units of a text: each is what its definition says, and together they are the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.errors import BytelmError, InvalidArgumentError, InvalidTypeError
from bytelm.inference.units import Characters, Unit, WordSpace, lines, regions, unit_name, words

SPACES: list[WordSpace] = ["before", "after", "none"]
# What str.split splits at, what it does not, and what UTF-8 cuts in pieces.
texts = st.text(st.sampled_from("ab. \t\n\r\x1c\x85\xa0\u2003\u200bé日🙂"), max_size=12)


def spelled(data: bytes, units: list[Unit]) -> list[bytes]:
    assert [unit.start for unit in units] == [0, *(unit.end for unit in units)][: len(units)]
    assert not units or units[-1].end == len(data)
    assert [unit.number for unit in units if unit.number is not None] == list(
        range(sum(unit.number is not None for unit in units))
    )
    return [data[unit.start : unit.end] for unit in units]


@pytest.mark.parametrize("space", SPACES)
@given(texts)
def test_words_are_those_of_split(space: WordSpace, text: str) -> None:
    """The numbered units without their white space are ``text.split()``; the space is where it was asked for."""
    units = words(Characters(text.encode()), space)
    parts = [part.decode() for part in spelled(text.encode(), units)]
    numbered = [part for part, unit in zip(parts, units, strict=True) if unit.number is not None]
    others = [part for part, unit in zip(parts, units, strict=True) if unit.number is None]

    assert [part.strip() for part in numbered] == text.split()
    assert all(part.isspace() for part in others)
    for part in numbered:
        assert space == "before" or part == part.lstrip()
        assert space == "after" or part == part.rstrip()
    lead, tail = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
    expected = {"before": tail > 0, "after": lead > 0 and text.strip() != "", "none": None}[space]
    if space == "none":
        assert "".join(others) == "".join(c for c in text if c.isspace())
    elif text.strip():
        assert others == ([text[len(text) - tail :] if space == "before" else text[:lead]] if expected else [])


@given(texts)
def test_lines_are_cut_behind_line_feeds(text: str) -> None:
    """Each line but the last ends with LF, and none has another."""
    parts = spelled(text.encode(), lines(Characters(text.encode())))

    assert parts == [part for part in text.encode().replace(b"\n", b"\n|").split(b"|") if part]


@given(texts)
def test_characters_are_those_of_str(text: str) -> None:
    """A place between two code points has their number, a place inside one has none."""
    data, characters = text.encode(), Characters(text.encode())

    for at in range(len(data) + 1):
        try:
            expected = len(data[:at].decode())
        except UnicodeDecodeError:
            assert characters.at(at) is None
        else:
            assert characters.at(at) == expected


def test_a_byte_of_no_character_counts_as_one() -> None:
    """The cut ends of a text: a byte that continues nothing, and two that are continued by nothing."""
    characters = Characters(b"\xa9 a\xe2\x82")

    assert [characters.at(n) for n in range(6)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (["caf", "é", " au"], [(0, 0, 3), (1, 3, 5), (2, 5, 8)]),
        ([b"caf\xc3", b"\xa9 au"], [(0, 0, 4), (1, 4, 8)]),
        (["café", b" au"], [(0, 0, 5), (1, 5, 8)]),
        ([(3, 4), (5, 7)], [(None, 0, 3), (0, 3, 5), (None, 5, 6), (1, 6, 8)]),
        ([(0, 4), (4, 7)], [(0, 0, 5), (1, 5, 8)]),
        ([[1, 2]], [(None, 0, 1), (0, 1, 2), (None, 2, 8)]),
    ],
)
def test_regions_are_texts_or_offsets(given_: Any, expected: list[tuple[int | None, int, int]]) -> None:
    """Texts that join to the text, or pairs of character offsets; what no pair names is a unit without a number."""
    assert regions(Characters("café au".encode()), given_) == expected


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ([], InvalidArgumentError, "empty list of regions"),
        (["caf", "é au lait"], InvalidArgumentError, r"region 1, where the text has b'' .* b' lait'"),
        (["cafe", " au"], InvalidArgumentError, r"from byte 3 on, in region 0.*b'\\xc3"),
        (["café", "au"], InvalidArgumentError, "from byte 5 on, in region 1"),
        (["café "], InvalidArgumentError, "from byte 6 on, in region 0.*b'au'"),
        (["café", "", " au"], InvalidArgumentError, "region 1 is empty"),
        ([(0, 3), (2, 4)], InvalidArgumentError, r"region 1 is \(2, 4\), and begins before region 0 ends"),
        ([(4, 7), (0, 4)], InvalidArgumentError, "in order"),
        ([(0, 3), (0, 3)], InvalidArgumentError, "without overlap"),
        ([(2, 2)], InvalidArgumentError, "start < end"),
        ([(0, 8)], InvalidArgumentError, "7 characters"),
        ([(-1, 2)], InvalidArgumentError, "0 <= start"),
        ([(0, 1, 2)], InvalidTypeError, "region 0"),
        (["caf", (3, 4)], InvalidTypeError, "region 0"),
        ([(0.0, 3)], InvalidTypeError, "whole number"),
        ([None], InvalidTypeError, "region 0"),
    ],
)
def test_regions_that_cannot_be(given_: Any, error: type[BytelmError], message: str) -> None:
    """Regions that overlap, are empty, lie outside or are another text: which one, and what it is."""
    with pytest.raises(error, match=message):
        regions(Characters("café au".encode()), given_)


def test_names_of_units() -> None:
    """A name is told from regions, and a wrong one is answered with the nearest."""
    assert [unit_name(by, "after") for by in ("word", ["a"], [(0, 1)])] == ["word", "region", "region"]
    assert unit_name("word", "before") == "word"
    for by, space, message in [
        ("words", "after", "did you mean word"),
        (b"word", "after", "by is one of"),
        (None, "after", "by is one of"),
        ("word", "behind", "space is one of after, before, none"),
        ("byte", "before", "give by='word' with it"),
        (["a"], "none", "give by='word' with it"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            unit_name(by, space)
