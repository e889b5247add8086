r"""Bytes, probabilities and tables as a person reads them in a terminal.

Rules
    A byte is shown as Python shows it between quotes: ``'e'``, ``'\n'``, ``'\xe2'``. A string of bytes is shown as text
    where it is text, with escapes for what does not print and for the bytes of characters that are cut.
    A bar is as long as its probability, on a scale where a full bar is 1, in eighths of a column.
    A table that is wider than the terminal gets a smaller scale for its bars, then none; then its cells take several
    lines. Where there is no terminal, and COLUMNS does not say how wide, it is as wide as it is.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bytelm.inference.cover_list import left_out
from bytelm.inference.scoring import CoverItem
from bytelm.lemma import log_sum
from bytelm.symbols import EOT

BAR_WIDTH: Final = 24
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_ESCAPE: Final = re.compile(
    rb"\\(?:([ntr0\\])|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|(.[\x80-\xbf]*[\da-fA-F]{0,8}|))", re.DOTALL
)
_NUMBER: Final = re.compile(r"[-+]?\d[\d.]*(e[-+]\d+)?|")
_LEAST_WIDTH: Final = 8  # of a column of words
_ESCAPED: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"\\": b"\\", b"0": b"\0"}
_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def show_byte(value: int) -> str:
    r"""One byte in quotes, or "end of text" for 256.

    >>> print(show_byte(101), show_byte(10), show_byte(0xE2), show_byte(256))
    'e' '\n' '\xe2' end of text
    """
    if value == EOT:
        return "end of text"
    return repr(chr(value)) if value < 0x80 else f"'\\x{value:02x}'"


def show_bytes(data: bytes) -> str:
    r"""Bytes as text on one line.

    >>> print(show_bytes("né\n".encode() + b"\xe2\x82"))
    né\n\xe2\x82
    """
    shown = []
    for c in data.decode("utf-8", errors="surrogateescape"):
        if 0xDC80 <= ord(c) <= 0xDCFF:  # how surrogateescape keeps a byte that is not UTF-8
            shown.append(f"\\x{ord(c) - 0xDC00:02x}")
        elif c in _SHORT:
            shown.append(_SHORT[c])
        elif c.isprintable():
            shown.append(c)
        else:
            shown.append("".join(f"\\x{b:02x}" for b in c.encode()))
    return "".join(shown)


def read_escapes(text: str) -> bytes:
    r"""The bytes of an argument in which ``\n``, ``\t``, ``\r``, ``\\``, ``\0``, ``\xNN`` and ``\uNNNN`` are escapes.

    Raises:
        ValueError: An escape that is none of these.

    >>> read_escapes(r"ret\n\xe2")
    b'ret\n\xe2'
    """

    def value(found: re.Match[bytes]) -> bytes:
        simple, byte, short, long, other = found.groups()
        if other is not None:
            raise ValueError(f"\\{other.decode(errors='replace')} is not an escape; write \\\\ for a backslash")
        if point := short or long:
            return chr(int(point, 16)).encode()
        return _ESCAPED[simple] if simple else bytes.fromhex(byte.decode())

    return _ESCAPE.sub(value, os.fsencode(text))  # the bytes that the shell passed


def first_escape(text: str) -> str:
    r"""The first escape in an argument that `read_escapes` would read as another character; "" if there is none.

    >>> print(first_escape(r"\alpha, f(n):\n"))
    \n
    """
    found = (match for match in _ESCAPE.finditer(os.fsencode(text)) if match[5] is None and match[1] != b"\\")
    return next((match[0].decode() for match in found), "")


class Bar(str):
    """A cell with a bar at its end, which a narrow table may shorten."""

    __slots__ = ()


def bar(prob: float, width: int = BAR_WIDTH) -> Bar:
    """A bar for a probability between 0 and 1.

    >>> bar(0.5, 4), bar(0.0, 4), bar(1.0, 4), bar(0.28, 4)
    ('██', '', '████', '█▏')
    """
    return Bar(_blocks(round(min(max(prob, 0.0), 1.0) * width * 8)))


def _blocks(eighths: int) -> str:
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _scaled(cell: str, scale: float) -> str:
    """A cell, and if it is a bar, on a smaller scale."""
    if not isinstance(cell, Bar):
        return cell
    text = cell.rstrip(_EIGHTHS[1:])
    eighths = sum(map(_EIGHTHS.index, cell[len(text) :]))
    return text + _blocks(round(eighths * scale)) if scale else text.rstrip()


def show_prob(prob: float) -> str:
    """A probability with four decimals; a smaller one in powers of ten.

    >>> show_prob(0.25), show_prob(0.0), show_prob(3e-7)
    ('0.2500', '0.0000', '3.0e-07')
    """
    return f"{prob:.4f}" if prob == 0 or prob >= 0.00005 else f"{prob:.1e}"


def columns(rows: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """Rows of cells as lines of aligned columns, two spaces apart; ``right`` tells which are flush right.

    >>> print(columns([["a", "1"], ["bcd", "22"]], right=[False, True]))
    a     1
    bcd  22
    """
    table = [list(row) for row in rows]
    flags = [*right, *([False] * (max(map(len, table), default=0) - len(right)))]
    room = shutil.get_terminal_size((0, 0)).columns or sys.maxsize
    for eighth in range(8, -1, -1):
        lines = _lines([[_scaled(cell, eighth / 8) for cell in row] for row in table], flags)
        if max(map(cell_len, lines), default=0) <= room:
            return "\n".join(lines)
    return _narrow([[_scaled(cell, 0) for cell in row] for row in table], flags, room)


def _lines(table: Sequence[Sequence[str]], flags: Sequence[bool]) -> list[str]:
    """A line for each row."""
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = []
        for cell, width, flag in zip(row, widths, flags, strict=True):
            padding = " " * (width - cell_len(cell))
            cells.append(padding + cell if flag else cell + padding)
        lines.append("  ".join(cells).rstrip())
    return lines


def _narrow(table: Sequence[Sequence[str]], flags: Sequence[bool], room: int) -> str:
    """A table with cells of several lines; where its numbers do not fit side by side, a block of lines for each row."""
    parts = list(zip(*table, strict=True))
    shown = [number for number, column in enumerate(parts) if any(column)]
    numeric = [len(table) > 1 and all(map(_NUMBER.fullmatch, parts[number][1:])) for number in shown]
    widths = [max(map(cell_len, parts[number])) for number in shown]
    least = [
        max(map(cell_len, parts[number][1:])) if numbers else min(width, _LEAST_WIDTH)
        for number, numbers, width in zip(shown, numeric, widths, strict=True)
    ]
    while sum(widths) + 2 * len(widths) - 2 > room:
        wide = [number for number, width in enumerate(widths) if width > least[number]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    else:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for number, width in zip(shown, widths, strict=True):
            grid.add_column(justify="right" if flags[number] else "left", overflow="fold", width=width)
        for row in table:
            grid.add_row(*(Text(row[number]) for number in shown))
        console = Console(width=room, file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(grid)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())
    head, *body = table
    if not any(numbers and not _NUMBER.fullmatch(head[number]) for number, numbers in zip(shown, numeric, strict=True)):
        return "\n".join(_lines(table, flags))
    return "\n\n".join(columns((head[number], row[number]) for number in shown if row[number]) for row in body)


def show_cover(cover: Sequence[CoverItem], spelled: Sequence[Sequence[str]], *, total: float, length: int) -> str:
    """A table of a cover's likeliest members, of the others, and of their sum.

    Args:
        cover: The members, likeliest first.
        spelled: The tokens of the first of them, as they are shown.
        total: The log-probability of the text.
        length: Its bytes.
    """
    hidden = left_out([item.token_ids for item in cover[: len(spelled)]])
    rows = [["log P", "share", "", "tokens"]]
    for item, pieces in zip(cover, spelled, strict=False):
        share = math.exp(item.logprob - total)
        line = ("… " if hidden else "") + "|".join(pieces[hidden:])
        rows.append([f"{item.logprob:.4f}", show_prob(share), bar(share, 12), line])
    others = cover[len(spelled) :]
    if others:
        logprob = log_sum(item.logprob for item in others)
        rows.append([f"{logprob:.4f}", show_prob(math.exp(logprob - total)), "", f"{len(others)} other sequences"])
    added = log_sum(item.logprob for item in cover)
    rows.append([f"{added:.4f}", show_prob(math.exp(added - total)), "", f"sum of all {len(cover)}"])
    rows.append([f"{total:.4f}", "", "", f"log P of the {length} bytes"])
    return columns(rows, right=[True, True])
