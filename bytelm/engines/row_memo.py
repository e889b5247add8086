"""Rows of an engine whose cache is out of reach: made normal as they come, and the last of them kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float32

from bytelm.token_lm import checked_rows

ROW_BYTES: Final = 64 << 20

Tokens: TypeAlias = tuple[int, ...]
Row: TypeAlias = Float32[np.ndarray, " vocab"]


class RowMemo:
    """Rows by sequence, the least recently used forgotten first.

    Args:
        row_bytes: What they may take.
        columns: Of a row.
    """

    def __init__(self, row_bytes: int, columns: int) -> None:
        self._most = row_bytes // (4 * columns)
        self._rows: OrderedDict[Tokens, Row] = OrderedDict()

    def rows(
        self, asked: Sequence[Tokens], compute: Callable[[list[Tokens]], Iterable[Row]]
    ) -> Float32[np.ndarray, "n vocab"]:
        """The rows of some sequences, those that are not here by one call of ``compute`` for all of them."""
        found: dict[Tokens, Row] = {}
        for sequence in asked:
            if sequence in self._rows:
                self._rows.move_to_end(sequence)
                found[sequence] = self._rows[sequence]
        missing = [sequence for sequence in dict.fromkeys(asked) if sequence not in found]
        if missing:
            found.update(zip(missing, compute(missing), strict=True))
        for sequence in missing[max(len(missing) - self._most, 0) :]:
            self._rows[sequence] = found[sequence]
        while len(self._rows) > self._most:
            self._rows.popitem(last=False)
        return np.stack([found[sequence] for sequence in asked])

    def clear(self) -> None:
        """Forget all."""
        self._rows.clear()


def normalised(row: Row) -> Row:
    """A row whose sum is 1 to the last bits: float32 sums over a vocabulary are off by up to 1e-4.

    Raises:
        InvalidLogitsError: It is no row of log-probabilities.
    """
    checked_rows(row[None], 1, len(row), tolerance=1e-2)
    exact: Row = row - np.float32(np.log(np.exp(row).sum(dtype=np.float64)))
    return exact
