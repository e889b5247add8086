"""A text on coloured ground, in a terminal: surprisal as heat, and who of an ensemble drove each byte.

Rules
    Colours are for people: they are printed where standard output is a terminal that has them (rich decides, by
    NO_COLOR and TERM too), and elsewhere nothing is. The tables hold the same in numbers.
    What does not print is an escape, as in the tables. A line of the text ends a line of the terminal, and longer ones
    are folded at its width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from bytelm.cli.tables import show_bytes
from bytelm.inference.score import Score

COOL: Final = (238, 238, 233)  # the colours are those of the pictures (pictures/page/look.css)
HOT: Final = (238, 130, 82)
HOTTEST: Final = 12.0  # bits from which on the colour is the same
MEMBERS: Final = ("#a9d0f5", "#f7c48d", "#b7dfb0", "#e3b9e6", "#f2e28b", "#d5d5d5")


def print_surprisal(score: Score, *, name: str = "", console: Console | None = None) -> None:
    """Print a score's text, each unit on the colour of its surprisal.

    Args:
        score: The score.
        name: What to print in front.
        console: Where to; standard output if not given.
    """
    _print(((row.bytes, heat(row.surprisal_bits)) for row in score), name, console)


def print_driven(text: bytes, drivers: Sequence[int], *, console: Console | None = None) -> None:
    """Print a text, each byte on the colour of the member that drove it.

    Args:
        text: The text.
        drivers: For each byte its member.
        console: Where to; standard output if not given.
    """
    runs = itertools.groupby(zip(text, drivers, strict=True), key=lambda pair: pair[1])
    _print(((bytes(byte for byte, _ in run), member_colour(driver)) for driver, run in runs), "", console)


def heat(bits: float) -> str:
    """The colour of a surprisal.

    >>> heat(0.0), heat(float("inf"))
    ('rgb(238,238,233)', 'rgb(238,130,82)')
    """
    share = min(bits / HOTTEST, 1.0) if math.isfinite(bits) else 1.0
    return "rgb({},{},{})".format(*(round(a + (b - a) * share) for a, b in zip(COOL, HOT, strict=True)))


def member_colour(member: int) -> str:
    """The colour of a member of an ensemble."""
    return MEMBERS[member % len(MEMBERS)]


def _print(parts: Iterable[tuple[bytes, str]], name: str, console: Console | None) -> None:
    out = Console(highlight=False) if console is None else console
    if not (out.is_terminal and out.color_system):
        return
    text = Text(f"{name}\n" if name else "", overflow="fold")
    for data, colour in parts:
        for line in data.splitlines(keepends=True):
            text.append(show_bytes(line), style=f"black on {colour}")
            text.append("\n" if line.endswith(b"\n") else "")
    out.print(text)
    out.print()
