r"""The units that a text is scored by: bytes, characters, words, lines, tokens, or regions that the caller names.

Rules
    Units follow one another and together are the whole text: no byte is in two of them, and none is in no unit. What
    lies between the units that were asked for is a unit without a number: white space between words, text between
    regions.

    A *character* is a code point of the text read as UTF-8. A byte that is part of no whole character, as at the cut
    end of a text, counts as one.
    A *word* is a run of characters that are no white space: what ``str.split`` returns. Punctuation belongs to the word
    that it touches. The white space belongs to the word in front of it (``space="after"``), to the word behind it
    (``"before"``), or is a unit of its own (``"none"``).
    A *line* ends with LF, which belongs to it; so does the CR before it.
    *Regions* are the texts that the whole text is made of, or pairs (start, end) of character offsets.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from bytelm.arguments import Text, bytes_of, integer, is_several, nearest, one_of, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError

UnitName: TypeAlias = Literal["byte", "character", "token", "word", "line"]
Regions: TypeAlias = Sequence[Text] | Sequence[tuple[int, int]]
ScoreBy: TypeAlias = UnitName | Regions
WordSpace: TypeAlias = Literal["after", "before", "none"]

# Python's \s and \S are what str.isspace says, and so what str.split splits at.
WORDS: Final = MappingProxyType({"after": r"\S+\s*|\s+", "before": r"\s*\S+|\s+", "none": r"\S+|\s+"})
LINES: Final = r"[^\n]*\n|[^\n]+"


class Unit(NamedTuple):
    """A part of a text.

    Attributes:
        number: Which of the units that were asked for, from 0; None for what lies between them.
        start: Its first byte.
        end: The byte after its last.
    """

    number: int | None
    start: int
    end: int


class Characters:
    """The characters of a text.

    Args:
        data: The text.

    Attributes:
        data: As given.
        text: With a stand-in for each byte that is part of no character.
        ends: How many bytes the text has up to each place between two characters.

    >>> Characters("né".encode()).ends, Characters(b"n\\xc3").at(2)
    ([0, 1, 3], 2)
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.text = data.decode("utf-8", "surrogateescape")
        lengths = (len(c.encode("utf-8", "surrogateescape")) for c in self.text)
        self.ends = [0, *itertools.accumulate(lengths)]
        self._places = {end: place for place, end in enumerate(self.ends)}

    def at(self, offset: int) -> int | None:
        """How many characters stand before a byte; None if it is inside one."""
        return self._places.get(offset)


def unit_name(by: object, space: object) -> str:
    """What units an argument ``by`` asks for: one of their names, or "region".

    Raises:
        InvalidArgumentError: No such unit, or a ``space`` where there are no words.
    """
    names = get_args(UnitName)
    if not is_several(by) and not (isinstance(by, str) and by in names):
        meant = nearest(by, names) if isinstance(by, str) else "give one of these"
        raise InvalidArgumentError(f"by is one of {', '.join(names)}, or a list of regions; got {shown(by)}; {meant}")
    name = by if isinstance(by, str) else "region"
    one_of("space", space, get_args(WordSpace))
    if name != "word" and space != "after":
        raise InvalidArgumentError(f"space={space!r} says where the white space of words goes; give by='word' with it")
    return name


def words(characters: Characters, space: WordSpace = "after") -> list[Unit]:
    """The words of a text, and white space that belongs to none.

    >>> text = " a cat sat. "
    >>> [text[start:end] for _, start, end in words(Characters(text.encode()))]
    [' ', 'a ', 'cat ', 'sat. ']
    >>> [text[start:end] for _, start, end in words(Characters(text.encode()), "before")]
    [' a', ' cat', ' sat.', ' ']
    """
    return _found(WORDS[space], characters)


def lines(characters: Characters) -> list[Unit]:
    r"""The lines of a text, each with its end.

    >>> lines(Characters(b"a\r\n\nb"))
    [Unit(number=0, start=0, end=3), Unit(number=1, start=3, end=4), Unit(number=2, start=4, end=5)]
    """
    return parts(characters.ends[found.end()] for found in re.finditer(LINES, characters.text))


def parts(ends: Iterable[int]) -> list[Unit]:
    """The units that end at these bytes, all of them numbered.

    >>> parts([2, 3])
    [Unit(number=0, start=0, end=2), Unit(number=1, start=2, end=3)]
    """
    return [Unit(number, start, end) for number, (start, end) in enumerate(itertools.pairwise([0, *ends]))]


def regions(characters: Characters, given: Iterable[Any]) -> list[Unit]:
    """The regions of a text, and what lies between them.

    Args:
        characters: Of the text.
        given: The texts that it is made of, or pairs (start, end) of character offsets, in order.

    Raises:
        InvalidArgumentError: They are not the text's, they overlap, or one of them is empty.
        InvalidTypeError: They are neither.

    >>> regions(Characters(b"the cat sat"), ["the ", "cat sat"])
    [Unit(number=0, start=0, end=4), Unit(number=1, start=4, end=11)]
    >>> regions(Characters(b"the cat sat"), [(4, 7)])
    [Unit(number=None, start=0, end=4), Unit(number=0, start=4, end=7), Unit(number=None, start=7, end=11)]
    """
    several = list(given)
    if not several:
        raise InvalidArgumentError("by is an empty list of regions; give at least one, or one of the names of units")
    if all(isinstance(each, str | bytes) for each in several):
        return _joined(characters, [bytes_of(each, f"region {i}") for i, each in enumerate(several)])
    found: list[Unit] = []
    length, before = len(characters.ends) - 1, 0
    for number, each in enumerate(several):
        start, end = _pair(each, number)
        if not 0 <= start < end <= length:
            raise InvalidArgumentError(
                f"region {number} is {start, end}, and a region of this text of {length} characters is (start, end) "
                f"with 0 <= start < end <= {length}"
            )
        if start < before:
            raise InvalidArgumentError(
                f"region {number} is {start, end}, and begins before region {number - 1} ends, at character {before}; "
                "give regions in order, without overlap"
            )
        found += [Unit(None, characters.ends[before], characters.ends[start])] if start > before else []
        found.append(Unit(number, characters.ends[start], characters.ends[end]))
        before = end
    return [*found, Unit(None, characters.ends[before], characters.ends[-1])] if before < length else found


def _found(pattern: str, characters: Characters) -> list[Unit]:
    """The matches of a pattern, numbered but for those of white space alone."""
    units: list[Unit] = []
    count = 0
    for found in re.finditer(pattern, characters.text):
        word = not found[0].isspace()
        units.append(Unit(count if word else None, characters.ends[found.start()], characters.ends[found.end()]))
        count += word
    return units


def _joined(characters: Characters, texts: list[bytes]) -> list[Unit]:
    """Regions that are the text when they are joined."""
    if b"" in texts:
        raise InvalidArgumentError(f"region {texts.index(b'')} is empty; leave it out")
    data, joined = characters.data, b"".join(texts)
    if joined != data:
        ends = list(itertools.accumulate(map(len, texts)))
        at = next(
            (i for i, (a, b) in enumerate(zip(data, joined, strict=False)) if a != b), min(len(data), len(joined))
        )
        number = min(sum(end <= at for end in ends), len(texts) - 1)
        raise InvalidArgumentError(
            f"the regions joined are not the text: they differ from byte {at} on, in region {number}, where the text "
            f"has {shown(data[at : at + 20])} and the regions have {shown(joined[at : at + 20])}. Spaces "
            "belong to regions too; pairs (start, end) of character offsets may leave some out"
        )
    return parts(itertools.accumulate(map(len, texts)))


def _pair(each: object, number: int) -> tuple[int, int]:
    pair = list(each) if is_several(each) else []
    if len(pair) != 2:
        raise InvalidTypeError(
            f"region {number} is {shown(each)}; regions are the texts that join to the whole text, or pairs (start, "
            "end) of character offsets"
        )
    start, end = (integer(f"an end of region {number}", value) for value in pair)
    return start, end
