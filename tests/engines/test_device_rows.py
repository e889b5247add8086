"""Rows on a torch device answer as arrays do, and little travels. On the CPU device: the operations are the same on all."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bytelm.engines.device_rows import Shelf, TorchRow
from bytelm.engines.rows import drawn_token, least_likely
from bytelm.inference.rows import ArrayRow, FarRow, RowReader
from bytelm.token_lm import Likely
from bytelm.tokenizer.prefix_index import PrefixIndex

SIZES = [1, 7, 8, 300, 5000]


def row_of(size: int, *, spread: float, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    random = np.random.default_rng(seed + size)
    logits = random.normal(0, spread, size)
    logits[random.random(size) < 0.2] = -np.inf
    logits[size // 2] = 1.0
    row: np.ndarray = (logits - np.logaddexp.reduce(logits)).astype(dtype)
    return row


def far(row: np.ndarray, shelf: Shelf | None = None) -> TorchRow:
    return (shelf or Shelf()).rows(torch.from_numpy(row)[None])[0]


def reader_of(size: int, eot_ids: list[int] | None = None) -> RowReader:
    """Of a tokenizer whose ids spell what their numbers are."""
    return RowReader(PrefixIndex([str(i).encode() for i in range(size)]), vocab_size=size, eot_ids=eot_ids or [])


# ---- one row


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0])
def test_a_number_falls_on_the_same_token(size: int, spread: float) -> None:
    """That of `drawn_token`, at random numbers, among the likely tokens and beyond, and at both ends."""
    row, random = row_of(size, spread=spread), np.random.default_rng(size)
    there = far(row)
    likely = float(np.exp(row[row > least_likely(size)]).sum())
    numbers = [*random.random(40), *(likely + (1 - likely) * random.random(20)), 0.0, np.nextafter(1.0, 0.0)]
    for uniform in (min(float(number), np.nextafter(1.0, 0.0)) for number in numbers):
        for token, logprob in (there.drawn(uniform), FarRow(reader_of(size), there).drawn(uniform)):
            assert token == drawn_token(uniform, row)
            assert logprob == row[token] > -np.inf


def test_a_number_beyond_all_is_the_last_token_that_has_any() -> None:
    """Rounding may leave a row with less than 1, here and there."""
    row = np.full(300, -np.inf, np.float32)
    row[[7, 9]] = np.log([0.5, 0.4999])

    assert drawn_token(0.99995, row) == 9
    assert far(row).drawn(0.99995)[0] == 9
    assert FarRow(reader_of(300), far(row)).drawn(0.99995)[0] == 9


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_summed_under_a_mask(size: int) -> None:
    """In any range and any parts, within 1e-12 of the sums by definition; entries and ranges are the row's own."""
    row, random = row_of(size, spread=4.0, dtype=np.float32), np.random.default_rng(size)
    there, order = far(row), random.permutation(size)
    probs = np.exp(row.astype(np.float64))[order]
    for _ in range(30):
        lo, hi = sorted(random.integers(0, size + 1, 2).tolist())
        if lo == hi:
            continue
        mask = random.random(hi - lo) < 0.7
        starts = np.unique([0, *random.integers(0, hi - lo, 5)])
        ends = [*starts[1:], hi - lo]
        expected = [(probs[lo:hi] * mask)[a:b].sum() for a, b in zip(starts, ends, strict=True)]

        np.testing.assert_allclose(there.sums(order, lo, hi, mask, starts), expected, rtol=1e-12)
        np.testing.assert_array_equal(there.ranked(order, lo, hi), row[order[lo:hi]])
    np.testing.assert_array_equal(there.entries(order), row[order])
    np.testing.assert_array_equal(np.asarray(there), row)


def test_the_likely_tokens_come_with_a_row() -> None:
    """All above e² times the mean, and the ids that are asked for of each row; of every row of a pass its own."""
    block = np.stack([row_of(300, spread=2.0, seed=seed, dtype=np.float32) for seed in range(3)])
    shelf = Shelf([7, 290])
    rows = shelf.rows(torch.from_numpy(block))
    for row, there in zip(block, rows, strict=True):
        ids = sorted({*np.flatnonzero(np.exp(row.astype(np.float64)) > np.e**2 / 300).tolist(), 7, 290})

        assert 3 < len(ids) < 100
        assert there.likely.ids.tolist() == ids
        np.testing.assert_array_equal(there.likely.logprobs, row[ids])
    assert shelf.moved_bytes == sum(8 * len(there.likely.ids) + 8 for there in rows)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.5, 4.0])
def test_what_came_answers_as_the_row_would(spread: float) -> None:
    """The likeliest token, entries, and sums of short and long ranges; of flat rows too, of which nothing came."""
    size = 3000
    row, random = row_of(size, spread=spread), np.random.default_rng(0)
    reader = reader_of(size, [17])
    here, there = ArrayRow(reader, row), reader.read(far(row, Shelf([17])))
    assert isinstance(there, FarRow)
    assert there.likeliest() == here.likeliest()
    assert there.eot == pytest.approx(here.eot, rel=1e-12)
    for token in random.integers(0, size, 50).tolist():
        assert there.logprob(token) == here.logprob(token)
    for _ in range(60):
        lo, hi = sorted(random.integers(0, size + 1, 2).tolist())
        hi = min(hi, lo + int(random.choice([3, 40, 5000])))
        if lo == hi:
            continue
        asked = lo, hi, random.random(hi - lo) < 0.7, np.unique([0, *random.integers(0, hi - lo, 5)])

        np.testing.assert_allclose(there.sums(*asked), here.sums(*asked), rtol=1e-12)
        np.testing.assert_allclose(there.some_probs(lo, hi), here.some_probs(lo, hi), rtol=1e-12)
    likely = np.flatnonzero(row > least_likely(size))
    for data in (b"1", b"17", b"299", b"2999"):
        after = [token for token in likely.tolist() if str(token).encode().startswith(data) and token != int(data)]
        best = max(after, key=row.__getitem__, default=None)
        assert there.likeliest_after(data) == (None if best == 17 else best)


def test_both_kinds_of_row_answer_alike() -> None:
    """Where an end symbol spells something, as everywhere: the same probabilities, ends, sums and likeliest tokens."""
    tokens = (b"b", None, b"a", b"ab", None, b"a", b"abc", b"ba")
    reader = RowReader(PrefixIndex(tokens), vocab_size=9, eot_ids=[1, 3])
    logprobs = row_of(9, spread=1.0)
    here, there = ArrayRow(reader, logprobs), reader.read(far(logprobs, Shelf([1])))
    everything = 0, len(reader.order), np.ones(len(reader.order), np.bool_), np.array([0, 4])

    assert isinstance(there, FarRow)
    assert there.eot == pytest.approx(here.eot, rel=1e-12)
    np.testing.assert_allclose(there.some_probs(1, 5), here.some_probs(1, 5), rtol=1e-12)
    np.testing.assert_allclose(there.sums(*everything), here.sums(*everything), rtol=1e-12)
    assert [there.logprob(i) for i in range(8)] == [here.logprob(i) for i in range(8)]
    assert there.likeliest() == here.likeliest()
    assert here.likeliest_after(b"b") == 7
    assert there.likeliest_after(b"b") in (7, None)  # None: with nine columns no token is a likely one
    assert there.likeliest_after(b"abc") is None


def test_what_travels_is_the_question_and_the_answer() -> None:
    """A draw is two numbers. Sums are a bit for each rank, and two numbers for each part; the order is sent once."""
    row, order = row_of(5000, spread=4.0, dtype=np.float32), np.arange(5000)
    shelf = Shelf()
    there = far(row, shelf)

    def travelled(ask: Callable[[], Any]) -> int:
        before = shelf.moved_bytes
        ask()
        return shelf.moved_bytes - before

    def sums() -> Any:
        return there.sums(order, 8, 4008, np.ones(4000, np.bool_), np.array([0, 100, 200]))

    assert travelled(lambda: there.drawn(0.3)) == 16
    assert travelled(lambda: there.entries(np.array([1, 2, 3]))) == 3 * 8
    assert travelled(sums) == order.nbytes + 500 + 3 * 16
    assert travelled(sums) == 500 + 3 * 16
    assert travelled(lambda: there.ranked(order, 5, 400)) == 395 * 4
    assert travelled(lambda: np.asarray(there)) == row.nbytes


def test_everything_is_computed_where_the_row_is() -> None:
    """On torch's device without memory, which refuses to work with tensors that are elsewhere."""

    class Nowhere(Shelf):
        shapes: ClassVar[list[tuple[int, ...]]] = []

        def down(self, tensor: torch.Tensor) -> Any:
            assert tensor.device.type == "meta"
            self.shapes.append(tuple(tensor.shape))
            return np.zeros(tensor.shape)

    nothing = Likely(np.empty(0, np.int32), np.empty(0, np.float32))
    there = TorchRow(torch.empty(5000, device="meta"), nothing, Nowhere())
    order = np.arange(5000)
    there.drawn(0.3)
    there.ranked(order, 5, 400)
    there.entries(np.array([1, 2, 3]))
    there.sums(order, 5, 4005, np.ones(4000, np.bool_), np.array([0, 7, 9, 10]))

    assert Nowhere.shapes == [(2,), (395,), (3,), (4,)]


def test_an_order_is_kept_as_long_as_it_is_in_use() -> None:
    """Other arrays, one after the other and perhaps at the same address, are other orders, and nothing keeps them."""
    shelf = Shelf()
    there = far(row_of(50, spread=1.0), shelf)
    before = shelf.moved_bytes
    for token in (3, 4, 5):
        order = np.full(50, token)
        alive = weakref.ref(order)

        np.testing.assert_array_equal(there.ranked(order, 0, 1), np.asarray(there)[[token]])
        del order
        assert alive() is None
    assert shelf.moved_bytes - before == 3 * (50 * 8 + 8 + 50 * 8)


def test_a_row_alone_keeps_no_others() -> None:
    """It has memory of its own, and what came of it."""
    block = torch.zeros(4, 10)
    one = Shelf([3]).rows(block)[2].alone()
    block += 1

    assert one.alone() is one
    assert not np.asarray(one).any()
    assert one.likely.ids.tolist() == [*range(10)]
