"""Whether a way leads from a place to one where the text may stop.

Theory of operation
    Breadth first. What a search finds holds for more than its start: if it arrives nowhere, no place that it has seen
    has a way; if it arrives, every place on its way has one. Both are remembered, so no place is searched from twice.

Cost
    At most `LIMIT` places. Real tokenizers need a few hundred; split patterns that look far ahead, several at once, can
    need more than a machine holds, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from bytelm.errors import UnsupportedTokenizerError

LIMIT: Final = 1 << 16

T = TypeVar("T")


def has_way(
    start: T, known: dict[T, bool], *, arrives: Callable[[T], bool], onward: Callable[[T], Iterable[T]]
) -> bool:
    """Whether some places that follow one another lead from ``start`` to one that arrives.

    Args:
        start: The first of them.
        known: For places searched before, whether there is a way. Grows.
        arrives: Whether a place needs no more.
        onward: The places that may follow.

    Raises:
        UnsupportedTokenizerError: More than `LIMIT` places can be reached.
    """
    if start in known:
        return known[start]
    if arrives(start):
        known[start] = True
        return True
    before: dict[T, T | None] = {start: None}
    for place in (queue := [start]):
        for after in onward(place):
            if after in before or not known.get(after, True):
                continue
            before[after] = place
            if known.get(after) or arrives(after):
                way: T | None = after
                while way is not None:
                    known[way] = True
                    way = before[way]
                return True
            queue.append(after)
        if len(queue) > LIMIT:
            raise UnsupportedTokenizerError(
                f"to decide whether a text can continue takes a search of more than {LIMIT} places: the split patterns "
                "of this tokenizer look too far ahead together"
            )
    known |= dict.fromkeys(queue, False)
    return False
