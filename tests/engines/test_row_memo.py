from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from bytelm.engines.row_memo import RowMemo, Rows, Tokens
from bytelm.errors import InvalidArgumentError

ROW_BYTES = 40


class Model:
    """What computes rows of ten float32: the row of (i,) is i everywhere. It keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[Tokens]] = []

    def __call__(self, sequences: list[Tokens]) -> Rows:
        self.asked.append(sequences)
        return {sequence: np.full(10, sequence[0], np.float32) for sequence in sequences}


def test_a_row_is_computed_once() -> None:
    """Rows come in the order asked, each computed once, and not again while it is remembered."""
    memo, model = RowMemo(1000), Model()

    first = memo.answer([(2,), (1,), (2,)], model)
    second = memo.answer([(3,), (1,)], model)

    assert np.array(first)[:, 0].tolist() == [2, 1, 2]
    assert np.array(second)[:, 0].tolist() == [3, 1]
    assert model.asked == [[(2,), (1,)], [(3,)]]
    assert memo.nbytes == 3 * ROW_BYTES


def test_the_least_recently_used_goes_first() -> None:
    """In a budget of three rows, a row that was asked for again outlives one that was not."""
    memo, model = RowMemo(3 * ROW_BYTES + 1), Model()
    memo.answer([(1,), (2,), (3,)], model)
    memo.answer([(1,)], model)
    memo.answer([(4,)], model)

    memo.answer([(1,), (3,), (4,)], model)
    assert len(model.asked) == 2
    memo.answer([(2,)], model)
    assert len(model.asked) == 3
    assert memo.nbytes == 3 * ROW_BYTES


@pytest.mark.parametrize(("budget", "kept"), [(0, 0), (ROW_BYTES - 1, 0), (2 * ROW_BYTES, 2)])
def test_a_call_of_more_than_the_budget(budget: int, kept: int) -> None:
    """A call may ask for more rows than are remembered: it has them all, and the last ones stay."""
    memo, model = RowMemo(budget), Model()

    assert np.array(memo.answer([(1,), (2,), (3,)], model))[:, 0].tolist() == [1, 2, 3]
    assert memo.nbytes == kept * ROW_BYTES


def test_a_pass_is_not_kept_for_one_of_its_rows() -> None:
    """A row that is a view into a whole pass is copied, so that the memory of the others is given back."""
    memo = RowMemo(ROW_BYTES)
    alive: list[weakref.ref[np.ndarray]] = []

    def compute(sequences: list[Tokens]) -> Rows:
        rows = np.zeros((100, 10), np.float32)
        alive.append(weakref.ref(rows))
        return dict.fromkeys(sequences, rows[7])

    memo.answer([(1,)], compute)
    gc.collect()

    assert alive[0]() is None
    assert memo.nbytes == ROW_BYTES


def test_clear() -> None:
    """A memo that was cleared knows nothing."""
    memo, model = RowMemo(1000), Model()
    memo.answer([(1,)], model)

    memo.clear()

    assert memo.nbytes == 0
    memo.answer([(1,)], model)
    assert len(model.asked) == 2


def test_nothing_asked() -> None:
    """No sequences at all is a mistake of the caller."""
    with pytest.raises(InvalidArgumentError, match="no sequences"):
        RowMemo(1000).answer([], Model())
