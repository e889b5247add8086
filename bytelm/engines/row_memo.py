"""The rows that were asked for lately, by their token sequences.

Rules
    A row is a function of its sequence alone, so one that is here is not computed again, and forgetting one changes
    nothing. Those used least recently are forgotten first.

Memory
    At most so many bytes of rows. A row that is a view into those of a whole pass is copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from bytelm.errors import InvalidArgumentError

Tokens = tuple[int, ...]
Row = Float[np.ndarray, " vocab"]
Rows = dict[Tokens, Row]

ROW_BYTES: Final = 64 << 20


class RowMemo:
    """Rows by sequence, in a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._rows: OrderedDict[Tokens, Row] = OrderedDict()

    def answer(self, asked: Sequence[Tokens], compute: Callable[[list[Tokens]], Rows]) -> Float[np.ndarray, "n vocab"]:
        """The row of each sequence, in the order given.

        Args:
            asked: Sequences, repeated ones too.
            compute: Called once with the sequences that are not here, each once; not at all when there are none.

        Raises:
            InvalidArgumentError: There are no sequences.
        """
        if not asked:
            raise InvalidArgumentError("no sequences: ask for at least one, such as [()]")
        rows: Rows = {}
        for sequence in asked:
            if sequence in self._rows:
                self._rows.move_to_end(sequence)
                rows[sequence] = self._rows[sequence]
        if missing := [sequence for sequence in dict.fromkeys(asked) if sequence not in rows]:
            found = compute(missing)
            self._remember(found)
            rows |= found
        return np.stack([rows[sequence] for sequence in asked])

    def clear(self) -> None:
        """Forget every row."""
        self._rows.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take now."""
        return sum(row.nbytes for row in self._rows.values())

    def _remember(self, rows: Rows) -> None:
        most = self.budget_bytes // next(iter(rows.values())).nbytes
        for sequence in list(rows)[max(len(rows) - most, 0) :]:
            row = rows[sequence]
            self._rows[sequence] = row if row.base is None else row.copy()
        while len(self._rows) > most:
            self._rows.popitem(last=False)
