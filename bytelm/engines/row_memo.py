"""The rows that were asked for lately, by their token sequences.

Rules
    A row is a function of its sequence alone. So a row that is here is not computed again, and forgetting one changes
    nothing. The least recently used rows are forgotten first.

Memory
    At most so many bytes of rows. A row that is a view into the rows of a whole pass is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from cachetools import LRUCache
from jaxtyping import Float

from bytelm.errors import InvalidArgumentError
from bytelm.token_lm import DeviceRow

Tokens = tuple[int, ...]
Row: TypeAlias = 'Float[np.ndarray, "vocab"] | DeviceRow'
Rows = dict[Tokens, Row]

ROW_BYTES: Final = 64 << 20


class RowMemo:
    """Rows by sequence, in a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._rows: LRUCache[Tokens, Row] = LRUCache(budget_bytes, getsizeof=lambda row: row.nbytes)

    def answer(self, asked: Sequence[Tokens], compute: Callable[[list[Tokens]], Rows]) -> list[Row]:
        """The row of each sequence, in the order given.

        Args:
            asked: Sequences, repeated ones too.
            compute: Called once with the sequences that are not here, each once; not at all when there are none.

        Raises:
            InvalidArgumentError: There are no sequences.
        """
        if not asked:
            raise InvalidArgumentError("no sequences: ask for at least one, such as [()]")
        rows = {sequence: self._rows[sequence] for sequence in asked if sequence in self._rows}
        if missing := [sequence for sequence in dict.fromkeys(asked) if sequence not in rows]:
            found = compute(missing)
            for sequence, row in found.items():
                rows[sequence] = row
                if row.nbytes <= self._rows.maxsize:
                    rows[sequence] = self._rows[sequence] = alone(row)
        return [rows[sequence] for sequence in asked]

    def clear(self) -> None:
        """Forget every row."""
        self._rows.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take now."""
        return int(self._rows.currsize)


def alone(row: Row) -> Row:
    """The same row, which keeps no other rows alive.

    >>> alone(np.zeros((2, 3))[0]).base is None
    True
    """
    if not isinstance(row, np.ndarray):
        return row.alone()
    return row if row.base is None else row.copy()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike, at the speed of comparing lists.

    >>> common((1, 2, 3), (1, 2, 4, 5))
    2
    """
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # alike before low, and not before high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
