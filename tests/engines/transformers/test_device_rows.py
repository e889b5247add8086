"""The transformers engine with rows that stay on its device: texts are the same, and little travels.

On the CPU device: the operations are the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bytelm import ByteLM, Ensemble, constraints
from bytelm.engines.device_rows import TorchRow
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import InvalidLogitsError
from bytelm.token_lm import abilities_of
from tests.support.tiny import default_tokenizer, exact, tiny_model


def engine(kind: str = "llama", *, device_rows: bool | None = None, model: Any = None) -> TransformersLM:
    return TransformersLM(model or exact(tiny_model(kind)), default_tokenizer(), device_rows=device_rows)


class Fetched(TorchRow):
    """A row that says when all of it is asked for."""

    whole: ClassVar[list[int]] = []

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        self.whole.append(1)
        return super().__array__(dtype, copy)


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


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0}, {"top_p": 0.9}, {"temperature": 1.5}])
def test_no_whole_row_travels(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """However a text is drawn: from the prompt's row to the last, and for its log-probability."""
    monkeypatch.setattr("bytelm.engines.device_rows.TorchRow", Fetched)
    lm = ByteLM(engine(device_rows=True))
    Fetched.whole.clear()
    done = lm.sample("a ", max_bytes=100, seed=1, **options)

    assert done.usage.rows > 20
    assert lm.token_lm.moved_bytes > 0  # type: ignore[attr-defined]
    assert lm.token_lm.row_questions < 3 * done.usage.rows  # type: ignore[attr-defined] # most come along
    assert not Fetched.whole
    lm.token_lm.next_token_logprobs([(1,)])
    assert Fetched.whole


def test_nothing_is_counted_in_memory() -> None:
    """On the CPU rows are in memory, unless it is asked for otherwise."""
    lm = engine()
    ByteLM(lm).sample("the ", max_bytes=20, seed=0)

    assert lm.device_rows is False
    assert lm.moved_bytes == lm.row_questions == 0


# ---- the engine


def test_the_rows_of_a_pass_are_not_kept_for_one() -> None:
    """What is remembered, and what is handed out, has memory of its own."""
    lm = engine(device_rows=True)
    rows = lm.next_token_rows([(1, 2, 3), (1, 2, 4), (1, 2)])

    for row in rows:
        assert row.alone() is row  # type: ignore[union-attr]
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
