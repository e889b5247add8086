r"""A cursor in a text: which byte it stands before, what around it a model is given, and what ends a line there.

Rules
    A text is UTF-8 and holds no NUL. Nothing here changes a byte of it.
    A line ends with LF or with CRLF; a CR by itself is a character of its line. What follows the last line end is a
    line too, though it may be empty. Lines count from 1.
    Columns count the characters of a line, its end left out, from 1: column 1 is before the first, and the one after
    the last is at the line's end. A character is a code point, and a tab is one. A byte order mark is none: column 1 of
    a text that begins with one is behind it, as in editors. Columns may count bytes instead, as Vim's do, or UTF-16
    units, as those of the language server protocol do (from 0): one that is inside a character is refused.
    So every line and column is a place between two characters. Only an offset in bytes can be inside one.

The window
    What is longer than the model's context is cut at its far ends, at starts of lines where there are any: the
    beginning of the prefix, the end of the suffix. Each side gets half of the window, and what the other leaves.

Does not
    Know that a cut leaves brackets open, or what else a language would cut at.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError
from bytelm.symbols import character_from, character_until

Unit: TypeAlias = Literal["byte", "utf-16", "character"]
StopAt: TypeAlias = Literal["newline", "blank-line", "eot"]

# A stop string may begin with a CR that belongs to the line end: of those that end together, the longest counts.
STOPS: Final[Mapping[StopAt, tuple[bytes, ...]]] = MappingProxyType(
    {
        "newline": (b"\n", b"\r\n"),
        "blank-line": (b"\n\n", b"\n\r\n", b"\r\n\n", b"\r\n\r\n"),
        "eot": (),
    }
)

SPARE_TOKENS: Final = 32  # for BOS, sentinels, hidden spaces, and a last token that goes beyond the text


# What encodes each unit in so many bytes, and what several of them are called.
_UNITS: Final[Mapping[Unit, tuple[str, int, str]]] = MappingProxyType(
    {
        "byte": ("utf-8", 1, "bytes"),
        "utf-16": ("utf-16-le", 2, "UTF-16 units"),
        "character": ("utf-32-le", 4, "characters"),
    }
)


def check_text(data: bytes, name: str, *, cut: bool = False) -> None:
    """See that data are text.

    Args:
        data: All of it.
        name: What errors call it.
        cut: Whether the last character may be cut short, as a cursor's may.

    Raises:
        InvalidArgumentError: It holds a NUL, or is not UTF-8.
    """
    if (nul := data.find(0)) >= 0:
        raise InvalidArgumentError(
            f"{name} is not text: byte {nul} of its {len(data)} is NUL; give UTF-8 (if it is UTF-16, convert it)"
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{name} is not text: byte {error.start} of its {len(data)} is 0x{data[error.start]:02X}, which is no "
            "UTF-8 there; convert it to UTF-8"
        ) from None


def offset_at(data: bytes, line: int, column: int, *, unit: Unit = "character", name: str = "the text") -> int:
    r"""The offset in bytes of a line and a column.

    Args:
        data: The text.
        line: From 1.
        column: From 1.
        unit: What a column counts.
        name: What errors call the text.

    Raises:
        InvalidArgumentError: There is no such line, it has no such column, or the column is inside a character.

    >>> offset_at("a\r\né b\n".encode(), 2, 2), offset_at("a\r\né b\n".encode(), 2, 3, unit="byte")
    (5, 5)
    """
    lines = data.split(b"\n")
    if not 1 <= line <= len(lines):
        raise InvalidArgumentError(
            f"line {line} is beyond the end of {name}, which has {len(lines)} line{'s' * (len(lines) > 1)} "
            f"({len(data)} bytes)"
        )
    before = sum(len(each) + 1 for each in lines[: line - 1])
    here = lines[line - 1]
    if line < len(lines):  # the last one has no line end that a CR could belong to
        here = here.removesuffix(b"\r")
    if line == 1 and here.startswith(codecs.BOM_UTF8):
        before, here = len(codecs.BOM_UTF8), here[len(codecs.BOM_UTF8) :]
    codec, size, units = _UNITS[unit]
    encoded = here.decode().encode(codec)
    length = len(encoded) // size
    counted = f"column {column}, counted in {units} (--unit),"
    if not 1 <= column <= length + 1:
        raise InvalidArgumentError(
            f"{counted} is beyond the end of line {line} of {name}, which has {length}: its last column is {length + 1}"
        )
    left = encoded[: (column - 1) * size]
    try:
        return before + len(left.decode(codec).encode())
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{counted} is inside a character of line {line} of {name}, which begins at column "
            f"{error.start // size + 1}"
        ) from None


def place(text: str) -> tuple[int, int]:
    """Read LINE:COLUMN.

    Raises:
        InvalidArgumentError: It is something else.

    >>> place("12:5")
    (12, 5)
    """
    line, _, column = text.partition(":")
    short = len(text) < 40  # Python reads no number of thousands of digits
    if not (short and line.isdecimal() and column.isdecimal() and int(line) and int(column)):
        raise InvalidArgumentError(f"a place is LINE:COLUMN, such as 12:5, both from 1; got {shown(text)}")
    return int(line), int(column)


def window(prefix: bytes, suffix: bytes, size: int | None) -> tuple[bytes, bytes]:
    r"""The parts of the two sides of a cursor that a model is given: at most this many bytes together.

    Args:
        prefix: The text before the cursor.
        suffix: The text after it.
        size: How many bytes at most; None for all.

    Returns:
        An end of the prefix and a beginning of the suffix. A side that is cut is cut where a line starts; within the
        cursor's own line, or where no line starts in what may stay, where a character starts.

    >>> window(b"one\ntwo\nthr", b"ee\nfour\nfive\n", 16)
    (b'two\nthr', b'ee\nfour\n')
    """
    if size is None or len(prefix) + len(suffix) <= size:
        return prefix, suffix
    before = min(len(prefix), max(size - size // 2, size - len(suffix)))
    return _last(prefix, before), _first(suffix, size - before)


def _last(prefix: bytes, size: int) -> bytes:
    """The longest end that is no longer than this and begins with a line, or else with a character."""
    start = len(prefix) - size
    if start <= 0:
        return prefix
    newline = prefix.find(b"\n", start - 1)
    if 0 <= newline < len(prefix) - 1:
        return prefix[newline + 1 :]
    return prefix[character_from(prefix, start) :]


def _first(suffix: bytes, size: int) -> bytes:
    """The longest beginning that is no longer than this and ends with a line, or else with a character."""
    if size >= len(suffix):
        return suffix
    if newline := suffix.rfind(b"\n", 0, size) + 1:
        return suffix[:newline]
    return suffix[: character_until(suffix, size)]


def with_line_ends_of(text: bytes, written: bytes) -> bytes:
    r"""The written text, with CRLF line ends if all line ends of a text are CRLF.

    A model that was trained on LF writes LF, and a file of one kind of line ends is to stay one. A CR at the end is a
    line end that was cut short, and is left out there.

    >>> with_line_ends_of(b"a\r\nb", b"c\nd\r\n"), with_line_ends_of(b"a\r\nb\n", b"c\n")
    (b'c\r\nd\r\n', b'c\n')
    """
    ends = text.count(b"\n")
    if not ends or text.count(b"\r\n") < ends:
        return written
    return written.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def default_window(context_length: int | None, max_bytes: int) -> int | None:
    """How many bytes around a cursor surely fit in a model's context, with a completion of ``max_bytes``.

    A token spells at least a byte, so bytes are counted as if each were a token. A completion longer than half of the
    context seldom comes to its end: it does not take more than that half from the window.

    Args:
        context_length: Tokens that the model takes; None if there is no limit.
        max_bytes: The longest completion.
    """
    if context_length is None:
        return None
    return max(context_length - max_bytes - SPARE_TOKENS, context_length // 2, 1)
