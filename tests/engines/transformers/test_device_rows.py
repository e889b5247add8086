"""Rows that stay on a device: they answer as arrays do, texts are the same, and little travels.

On the CPU device: the operations are the same on every device.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bytelm import ByteLM, Ensemble, constraints
from bytelm.engines.rows import drawn_token, least_likely
from bytelm.engines.transformers.device_rows import Shelf, TorchRow
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import InvalidLogitsError
from bytelm.inference.rows import ArrayRow, FarRow, RowReader
from bytelm.token_lm import abilities_of
from bytelm.tokenizer.prefix_index import PrefixIndex
from tests.support.tiny import default_tokenizer, exact, tiny_model

SIZES = [1, 7, 8, 300, 5000]


def row_of(size: int, *, spread: float, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    random = np.random.default_rng(seed + size)
    logits = random.normal(0, spread, size)
    logits[random.random(size) < 0.2] = -np.inf
    logits[size // 2] = 1.0
    row: np.ndarray = (logits - np.logaddexp.reduce(logits)).astype(dtype)
    return row


def engine(kind: str = "llama", *, device_rows: bool | None = None, model: Any = None) -> TransformersLM:
    return TransformersLM(model or exact(tiny_model(kind)), default_tokenizer(), device_rows=device_rows)


class Fetched(TorchRow):
    """A row that says when all of it is asked for."""

    whole: ClassVar[list[int]] = []

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self.whole.append(1)
        return super().__array__(dtype, copy)


# ---- one row


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0])
def test_a_number_falls_on_the_same_token(size: int, spread: float) -> None:
    """That of `drawn_token`, at random numbers, among the likely tokens and beyond, and at both ends."""
    row, random = row_of(size, spread=spread), np.random.default_rng(size)
    there = TorchRow(torch.from_numpy(row), Shelf())
    likely = float(np.exp(row[row > least_likely(size)]).sum())
    numbers = [*random.random(40), *(likely + (1 - likely) * random.random(20)), 0.0, np.nextafter(1.0, 0.0)]
    for uniform in map(float, numbers):
        token, logprob = there.drawn(min(uniform, np.nextafter(1.0, 0.0)))

        assert token == drawn_token(min(uniform, np.nextafter(1.0, 0.0)), row)
        assert logprob == row[token] > -np.inf


def test_a_number_beyond_all_is_the_last_token_that_has_any() -> None:
    """Rounding may leave a row with less than 1, here and there."""
    row = np.full(300, -np.inf, np.float32)
    row[[7, 9]] = np.log([0.5, 0.4999])

    assert drawn_token(0.99995, row) == 9
    assert TorchRow(torch.from_numpy(row), Shelf()).drawn(0.99995)[0] == 9


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_summed_under_a_mask(size: int) -> None:
    """In any range and any parts, within 1e-12 of the sums by definition; so are entries, and the likeliest."""
    row, random = row_of(size, spread=4.0, dtype=np.float32), np.random.default_rng(size)
    there, order = TorchRow(torch.from_numpy(row), Shelf()), random.permutation(size)
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
        assert there.likeliest(order, lo, hi) == order[lo + probs[lo:hi].argmax()]
    assert there.likeliest() == row.argmax()
    np.testing.assert_array_equal(there.entries(order), row[order].astype(np.float64))
    np.testing.assert_array_equal(np.asarray(there), row)


def test_both_kinds_of_row_answer_alike() -> None:
    """Where an end symbol spells something, as everywhere: the same probabilities, ends, sums and likeliest tokens."""
    tokens = (b"b", None, b"a", b"ab", None, b"a", b"abc", b"ba")
    reader = RowReader(PrefixIndex(tokens), vocab_size=9, eot_ids=[1, 3])
    logprobs = row_of(9, spread=1.0)
    here, there = ArrayRow(reader, logprobs), reader.read(TorchRow(torch.from_numpy(logprobs), Shelf()))
    everything = 0, len(reader.order), np.ones(len(reader.order), np.bool_), np.array([0, 4])

    assert isinstance(there, FarRow)
    assert there.eot == pytest.approx(here.eot, rel=1e-12)
    np.testing.assert_allclose(there.some_probs(1, 5), here.some_probs(1, 5), rtol=1e-12)
    np.testing.assert_allclose(there.sums(*everything), here.sums(*everything), rtol=1e-12)
    assert [there.logprob(i) for i in range(8)] == [here.logprob(i) for i in range(8)]
    assert there.likeliest() == here.likeliest()
    assert {there.likeliest_after(b"b"), here.likeliest_after(b"b")} == {7}
    assert there.likeliest_after(b"abc") is None


# ---- texts


def settings() -> list[dict[str, Any]]:
    return [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 1.0, "n": 3},
        {"temperature": 0.8, "top_p": 0.95},
        {"top_p": 0.9},
        {"top_k": 40},
        {"min_p": 0.1},
        {"temperature": 1.3},
        {"temperature": 1.0, "lazy": False},
        {"temperature": 1.0, "constraint": constraints.regex("[a-z ]{1,30}")},
    ]


@pytest.mark.parametrize("options", settings(), ids=[str(i) for i in range(len(settings()))])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_the_same_texts(kind: str, options: dict[str, Any]) -> None:
    """With rows on the device and in memory, for the same seeds: bytes, log-probabilities and calls."""
    model = exact(tiny_model(kind))
    told = []
    for device_rows in (False, True):
        lm = ByteLM(engine(model=model, device_rows=device_rows))
        found = [lm.sample("the ", max_bytes=40, seed=seed, **options) for seed in range(3)]
        told.append([each for one in found for each in (one if isinstance(one, list) else [one])])
    here, there = told

    assert [one.bytes for one in there] == [one.bytes for one in here]
    assert [one.logprob for one in there] == pytest.approx(
        [one.logprob for one in here],
        abs=1e-5 if kind == "mamba" else 1e-9,  # its rows are float32
    )
    assert [one.usage.calls for one in there] == [one.usage.calls for one in here]
    assert [one.usage.rows for one in there] == [one.usage.rows for one in here]


def test_whatever_else_is_asked() -> None:
    """Scores, rows, covers, streams, batches, infills and ensembles give what they give with rows in memory."""
    model = exact(tiny_model("llama"))
    here, there = (ByteLM(engine(model=model, device_rows=device_rows)) for device_rows in (False, True))
    for lm in (here, there):
        assert (abilities_of(lm.token_lm).row_keeper is not None) == (lm is there)
    other = ByteLM(engine("gpt2"))

    def both(ask: Any) -> Any:
        return ask(here), ask(there)

    for a, b in (
        both(lambda lm: [lm.logprob("the fibonacci")]),
        both(lambda lm: lm.next_byte_logprobs("def fib")),
        both(lambda lm: [lm.sample("th", max_bytes=20, seed=1, temperature=0).logprob]),
        both(lambda lm: [Ensemble([lm, other]).sample("th", max_bytes=20, seed=1).logprob]),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    for a, b in (
        both(lambda lm: [one.bytes for one in lm.sample_batch(["the ", "def "], max_bytes=30, seed=2)]),
        both(lambda lm: "".join(lm.stream("the ", max_bytes=30, seed=2))),
        both(lambda lm: lm.infill("def ", "return n", max_bytes=20, seed=3, mode="left").bytes),
        both(lambda lm: Ensemble([lm, other], combine="product").sample("th", max_bytes=20, seed=1).bytes),
        both(lambda lm: str(lm.cover("the fib"))),
    ):
        assert a == b


# ---- what travels


def test_what_travels_is_the_question_and_the_answer() -> None:
    """A draw is two numbers. Sums are a bit for each rank, and two numbers for each part; the order is sent once."""
    row, order = row_of(5000, spread=4.0, dtype=np.float32), np.arange(5000)
    shelf = Shelf()
    there = TorchRow(torch.from_numpy(row), shelf)

    def travelled(ask: Callable[[], Any]) -> int:
        before = shelf.moved_bytes
        ask()
        return shelf.moved_bytes - before

    def sums() -> Any:
        return there.sums(order, 8, 4008, np.ones(4000, np.bool_), np.array([0, 100, 200]))

    assert travelled(lambda: there.drawn(0.3)) == 16
    assert travelled(there.likeliest) == 8
    assert travelled(lambda: there.entries(np.array([1, 2, 3]))) == 3 * 16
    assert travelled(sums) == order.nbytes + 500 + 3 * 16
    assert travelled(sums) == 500 + 3 * 16
    assert travelled(lambda: there.likeliest(order, 5, 4000)) == 8
    assert travelled(lambda: np.asarray(there)) == row.nbytes


def test_everything_is_computed_where_the_row_is() -> None:
    """On torch's device without memory, which refuses to work with tensors that are elsewhere."""

    class Nowhere(Shelf):
        shapes: ClassVar[list[tuple[int, ...]]] = []

        def down(self, tensor: torch.Tensor) -> Any:
            assert tensor.device.type == "meta"
            self.shapes.append(tuple(tensor.shape))
            return np.zeros(tensor.shape)

    there = TorchRow(torch.empty(5000, device="meta"), Nowhere())
    order = np.arange(5000)
    there.drawn(0.3)
    there.likeliest()
    there.likeliest(order, 5, 400)
    there.entries(np.array([1, 2, 3]))
    there.sums(order, 5, 4005, np.ones(4000, np.bool_), np.array([0, 7, 9, 10]))

    assert Nowhere.shapes == [(2,), (), (), (3,), (4,)]


def test_an_order_is_kept_as_long_as_it_is_in_use() -> None:
    """Other arrays, one after the other and perhaps at the same address, are other orders, and nothing keeps them."""
    shelf = Shelf()
    there = TorchRow(torch.from_numpy(row_of(50, spread=1.0)), shelf)
    for token in (3, 4, 5):
        order = np.full(50, token)
        alive = weakref.ref(order)

        assert there.likeliest(order, 0, 1) == token
        del order
        assert alive() is None
    assert shelf.moved_bytes == 3 * (50 * 8 + 8)


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0}, {"top_p": 0.9}, {"temperature": 1.5}])
def test_no_whole_row_travels(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However a text is drawn: from the prompt's row to the last, and for its log-probability."""
    monkeypatch.setattr("bytelm.engines.transformers.forward.TorchRow", Fetched)
    lm = ByteLM(engine(device_rows=True))
    Fetched.whole.clear()
    done = lm.sample("a ", max_bytes=100, seed=1, **options)

    assert done.usage.rows > 20
    assert lm.token_lm.moved_bytes > 0  # type: ignore[attr-defined]
    assert not Fetched.whole
    lm.token_lm.next_token_logprobs([(1,)])
    assert Fetched.whole


def test_nothing_is_counted_in_memory() -> None:
    """On the CPU rows are in memory, unless it is asked for otherwise."""
    lm = engine()
    ByteLM(lm).sample("the ", max_bytes=20, seed=0)

    assert lm.device_rows is False
    assert lm.moved_bytes == 0


# ---- the engine


def test_the_rows_of_a_pass_are_not_kept_for_one() -> None:
    """What is remembered, and what is handed out, has memory of its own."""
    lm = engine(device_rows=True)
    rows = lm.next_token_rows([(1, 2, 3), (1, 2, 4), (1, 2)])

    for row in rows:
        assert row.alone() is row  # type: ignore[union-attr]
    block = torch.zeros(4, 10)
    one = TorchRow(block[2], Shelf()).alone()
    block += 1
    assert not np.asarray(one).any()
    assert [row.nbytes for row in rows] == [8 * lm.vocab_size] * 3


def test_whole_rows_are_the_same() -> None:
    """`next_token_logprobs` fetches them."""
    model = exact(tiny_model("llama"))
    here, there = (engine(model=model, device_rows=device_rows) for device_rows in (False, True))
    asked = [(1, 2, 3), (1,), ()]

    np.testing.assert_allclose(there.next_token_logprobs(asked), here.next_token_logprobs(asked), atol=1e-12)


def test_who_answers_otherwise_is_believed() -> None:
    """A subclass, or an object, whose `next_token_logprobs` was replaced is asked for that."""

    class Flat(TransformersLM):
        def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
            return np.full((len(sequences), self.vocab_size), -np.log(self.vocab_size))

    flat = Flat(exact(tiny_model("llama")), default_tokenizer(), device_rows=True)
    replaced = engine(device_rows=True)
    replaced.next_token_logprobs = flat.next_token_logprobs  # type: ignore[method-assign]

    for lm in (flat, replaced):
        assert abilities_of(lm).row_keeper is None
        row, exact_row = (np.exp(ByteLM(each).next_byte_logprobs("")) for each in (lm, flat))
        np.testing.assert_allclose(row, exact_row, rtol=1e-9)
        assert len({*row[97:123].round(12)}) < 26  # each byte has as much as there are tokens that begin with it


def test_a_broken_row_is_refused_there_too() -> None:
    """A model that gives NaN is told of, and nothing of it is drawn."""
    model = exact(tiny_model("llama"))
    lm = engine(model=model, device_rows=True)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[5] = float("nan")

    with pytest.raises(InvalidLogitsError, match="NaN"):
        lm.next_token_rows([(1, 2)])


def test_params_hold_for_far_rows() -> None:
    """Stop strings and the end of a text work as ever."""
    model = exact(tiny_model("llama"))
    here, there = (
        ByteLM(engine(model=model, device_rows=device_rows)).sample("th", max_bytes=60, stop=["e"], seed=4)
        for device_rows in (False, True)
    )

    assert (there.bytes, there.finish_reason) == (here.bytes, here.finish_reason)
