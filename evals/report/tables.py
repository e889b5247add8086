"""Tables on standard output: one look for all evaluations.

Rules
    Where standard output is no terminal, a line has 120 columns: the pages of docs/ show such output.
    The title and the first columns stand on the left; numbers stand on the right.
    The command that made a result is printed as one line, so that it can be copied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from evals.report.statistics import LEAST

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS: Final = 120


def console() -> Console:
    """A console on standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else COLUMNS)


def table(title: str, columns: Iterable[str], *, left: int = 1) -> Table:
    """An empty table; ``left``: how many of its columns are words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place < left else "right")
    return made


def print_line(text: str) -> None:
    """Print a text as one line, however long it is, and as it is: a command, an error."""
    console().print(text, soft_wrap=True, highlight=False, markup=False)


def note_too_few(summary: Any, groups: str) -> None:
    """Say why means of a summary stand without an interval, if there are any; ``groups``: what means are over."""
    if _has_too_few(summary):
        print_line(f"Means over fewer than {LEAST} {groups} have no interval: they are too few to say.")


def _has_too_few(found: Any) -> bool:
    if isinstance(found, Mapping):
        return found.get("groups", LEAST) < LEAST or any(map(_has_too_few, found.values()))
    return isinstance(found, list) and any(map(_has_too_few, found))


def interval(mean: Mapping[str, float], scale: int = 1, sign: str = "", digits: int = 1) -> str:
    """A mean with its interval, as tables show it; a mean over too few groups has none, and `note_too_few` says so.

    >>> interval({"mean": 0.25, "low": 0.125, "high": 0.5, "groups": 8}, 100)
    '25.0 [12.5, 50.0]'
    """
    value, low, high = (f"{scale * mean[name]:{sign}.{digits}f}" for name in ("mean", "low", "high"))
    return value if mean["groups"] < LEAST else f"{value} [{low}, {high}]"
