"""Rows that stay with vLLM's worker, with a stand-in for vLLM: texts are the same, and no whole row travels."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.errors import InvalidLogitsError, ModelError
from bytelm.token_lm import Draw
from tests.engines.vllm.stand_in import Forgetful, Mixed, engine, engine_with_a_process, install


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `vllm`, put in the place of the real one."""
    return install(monkeypatch)


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.95},
    {"top_p": 0.9},
    {"top_k": 40},
    {"temperature": 1.3},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_same_texts(options: dict[str, Any]) -> None:
    """Bytes, log-probabilities, steps and rows; a question is asked now and then, and whole rows stay."""
    lms = [engine(device_rows=device_rows) for device_rows in (False, True)]
    here, there = (
        [ByteLM(lm).sample("the ", max_bytes=30, seed=seed, engine_draws=False, **options) for seed in range(3)]
        for lm in lms
    )

    assert [one.bytes for one in there] == [one.bytes for one in here]
    assert [one.logprob for one in there] == pytest.approx([one.logprob for one in here], abs=1e-4)
    assert [one.usage.rows for one in there] == [one.usage.rows for one in here]
    whole, staying = lms
    assert whole.usage == staying.usage
    assert (whole.row_questions, whole.llm.asked) == (0, [])
    assert "whole" not in staying.llm.asked
    assert staying.row_questions == len(staying.llm.asked) > 0
    assert staying.moved_bytes > 0
    assert whole.moved_bytes > 0 == whole.moved_bytes % (4 * 313)


def test_a_row_answers_in_the_worker_as_in_memory() -> None:
    """Entries, ranges, draws, sums and all of it; the order is sent once."""
    lm = engine(device_rows=True)
    sequence = (7, 8)
    (row,) = lm.next_token_rows([sequence])
    lm._memo.clear()
    (whole,) = lm.next_token_logprobs([sequence])
    order = np.random.default_rng(0).permutation(313)
    mask, starts = np.arange(200) % 3 > 0, np.array([0, 20, 150])
    ids = np.array([5, 311, 0])

    assert len(row) == 313
    assert row.nbytes == 4 * 313
    np.testing.assert_allclose(np.asarray(row), whole, atol=2e-6)
    np.testing.assert_allclose(row.entries(ids), whole[ids], atol=2e-6)
    np.testing.assert_allclose(row.ranked(order, 50, 250), whole[order[50:250]], atol=2e-6)
    expected = np.add.reduceat(np.exp(whole[order[50:250]].astype(np.float64)) * mask, starts)
    moved = lm.moved_bytes
    np.testing.assert_allclose(row.sums(order, 50, 250, mask, starts), expected, rtol=1e-5)
    assert lm.moved_bytes - moved == 25 + 3 * 8 + 3 * 8
    token, logprob = row.drawn(0.999)
    assert logprob == pytest.approx(whole[token], abs=2e-6)
    assert set(row.likely.ids.tolist()) >= set(lm.eot_ids)


def test_what_is_not_needed_is_dropped() -> None:
    """The worker forgets rows, and the tokens by rank, when there is nobody left to ask about them."""
    lm = engine(device_rows=True)
    byte_lm = ByteLM(lm)
    byte_lm.sample("the ", max_bytes=20, seed=0, temperature=0)
    assert len(lm.llm.row_server) > 10
    del byte_lm
    lm.clear_cache()
    gc.collect()
    lm.next_token_rows([(1, 2)])

    assert len(lm.llm.row_server) == 1


@pytest.mark.parametrize("memory", [Forgetful, Mixed])
def test_a_worker_that_keeps_no_rows_or_others(memory: type[dict[Any, Any]]) -> None:
    """What does not agree with what vLLM said is asked for in vLLM's own way."""
    lm, plain = engine(device_rows=True), engine()
    lm.llm.llm_engine.kept = memory()
    asked = [(1,), (2, 3), (4, 5, 6)]

    rows = [np.asarray(row) for row in lm.next_token_rows(asked)]

    np.testing.assert_allclose(rows, plain.next_token_logprobs(asked), atol=1e-5)


def test_while_vllm_draws_whole_rows_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question would wait for a step of all that is being drawn. Texts are the same all the same."""
    lm, _ = engine_with_a_process(monkeypatch, device_rows=True)
    found: list[Any] = []

    drawn: list[int] = []

    def more() -> list[Draw]:
        if drawn:
            found.extend(lm.next_token_rows([(len(drawn), 3)]))
            return []
        return [Draw((7, 8), 1, 30, lambda token, _: not drawn.append(token))]  # type: ignore[func-returns-value]

    lm.draw_tokens(more)
    assert len(found) > 5
    under_way = found[:-1]  # the last one is asked for when all is done
    found.extend(lm.next_token_rows([(5, 5)]))

    assert all(isinstance(row, np.ndarray) for row in under_way)
    assert not isinstance(found[-1], np.ndarray)
    prompts = ["the ", "return n", "a", "def "]
    here, there = (ByteLM(each).sample_batch(prompts, max_bytes=12, seed=1) for each in (engine(), lm))
    assert [one.bytes for one in there] == [one.bytes for one in here]


def test_a_row_that_the_worker_lost() -> None:
    """It is said, and what to do."""
    lm = engine(device_rows=True)
    (row,) = lm.next_token_rows([(7, 8)])
    lm.llm.row_server.drop([row._name])

    with pytest.raises(ModelError, match="clear_cache"):
        row.drawn(0.5)


def test_vllm_may_fail_when_a_row_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere, in an error of bytelm's."""
    lm = engine(device_rows=True)
    (row,) = lm.next_token_rows([(7, 8)])

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(lm.llm, "collective_rpc", fails)
    with pytest.raises(ModelError, match="a row that it kept: RuntimeError: a kernel failed"):
        np.asarray(row)


def test_a_row_that_is_none_is_not_kept() -> None:
    """Of a model that overflows vLLM is asked in its own way, which says what is wrong."""
    lm = engine(device_rows=True)
    lm.llm.llm_engine.extra = np.nan

    with pytest.raises(InvalidLogitsError, match="NaN"):
        lm.next_token_rows([(7, 8)])
