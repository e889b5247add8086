"""Progress bars on standard error, which vanish when the work is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")


def tracked(items: Iterable[T], what: str, *, total: int | None = None, hidden: bool = False) -> Iterator[T]:
    """The items one by one, with a bar that moves on with each.

    Args:
        items: What is worked through.
        what: The word in front of the bar.
        total: How many items there are, where that is not known from them.
        hidden: Show no bar.
    """
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, total=total, console=Console(stderr=True), transient=True, disable=hidden)


def bar(*columns: ProgressColumn | str) -> Progress:
    """A bar with columns of the caller's choice."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)
