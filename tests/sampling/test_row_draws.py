"""Completions whose tokens are drawn from rows: what they ask for, how a token is drawn, and when tokens are drawn at all.

That their texts have the right distribution is in test_engine_draws.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, SamplingParams, TableLM
from bytelm.engines.rows import BLOCK, PART, drawn_token, least_likely
from bytelm.sampling.row_draws import KEPT
from evals.cost.lazy import p_value
from tests.support.tiny import default_tokenizer


@pytest.fixture
def lm() -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), seed=3, order=2, eot_ids=[]))


def test_a_token_takes_one_row(lm: ByteLM) -> None:
    """One call a token and a handful at the ends, however long the text is; leak takes a few more."""
    calls: list[int] = []
    asked = lm.token_lm.next_token_logprobs

    def counted(sequences: Any) -> Any:
        calls.append(len(sequences))
        return asked(sequences)

    lm.token_lm.next_token_logprobs = counted  # type: ignore[method-assign]
    done = lm.sample("the ", max_bytes=300, seed=1)
    tokens = len(lm.token_ends(lm.prompt("the "), done.bytes))

    assert done.usage.calls == len(calls)
    assert done.usage.rows <= 1.3 * tokens + 3 * (done.usage.redrawn + 2)  # a text may be spelled by more tokens
    assert calls[0] > 1, "the prompt's rows are one request"


def test_rows_of_a_short_text_are_not_asked_for_twice(lm: ByteLM) -> None:
    """A byte takes no call beside the prompt's; where it is scored, the prompt's rows are still there."""
    for prompt in ("the ", "retur", "na"):
        for seed in range(8):
            done = lm.sample(prompt, max_bytes=1, seed=seed)

            assert done.usage.redrawn or done.usage.calls == 1
            assert done.logprob == pytest.approx(lm.logprob(done.bytes, prefix=prompt), abs=1e-9)


def test_few_rows_are_kept(lm: ByteLM) -> None:
    """After the prompt and some tokens neither the prompt's rows nor those of all tokens are held on to."""
    generation: Any = lm.begin("the ", SamplingParams(max_bytes=200, seed=1))
    for _ in range(30):
        lm.answer(generation.step())

    assert len(generation._rows) <= KEPT + 1
    for frontier in (generation._prompt, generation._place, generation.place.frontier):
        assert not frontier.rows


@pytest.mark.parametrize(
    "changed", [{"temperature": 0.9}, {"top_p": 0.6}, {"top_k": 2}, {"min_p": 0.5}, {"lazy": False}]
)
def test_tokens_are_drawn_where_nothing_is_done_to_the_distribution(lm: ByteLM, changed: dict[str, Any]) -> None:
    """In samples, batches and streams alike; elsewhere bytes are."""
    plain = lm.sample("the ", max_bytes=60, seed=1)

    assert lm.sample_batch(["the ", "x"], max_bytes=60, seed=1)[0].bytes == plain.bytes
    assert "".join(lm.stream("the ", max_bytes=60, seed=1)) == plain.text
    assert lm.sample("the ", max_bytes=60, seed=1, top_p=1, min_p=0).bytes == plain.bytes
    assert lm.sample("the ", max_bytes=60, seed=1, **changed).bytes != plain.bytes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3, BLOCK, BLOCK + 1, PART - 1, 2 * PART + 777])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])  # with 0 and 0.5 hardly a token has e² times the mean
def test_a_number_falls_on_the_token_that_the_running_sum_says(size: int, dtype: Any, spread: float) -> None:
    """Against the cumulative sum of all, the likely ones first; tokens without probability are none."""
    random = np.random.default_rng(size)
    logits = random.normal(0, spread, size)
    logits[random.random(size) < 0.3] = -np.inf
    logits[size // 2] = 1.0
    row = (logits - np.logaddexp.reduce(logits)).astype(dtype)
    probs = np.exp(row.astype(np.float64))
    order = np.argsort(row <= least_likely(size), kind="stable")
    edges = np.cumsum(probs[order])
    likely = edges[np.count_nonzero(row > least_likely(size)) - 1] if spread == 3.0 else 0.0

    numbers = [*random.random(50), *(likely + (1 - likely) * random.random(20)), 0.0, 0.5, np.nextafter(1.0, 0.0)]
    for uniform in numbers:
        token = drawn_token(float(uniform), row)
        at = int(np.flatnonzero(order == token)[0])

        assert row[token] > -np.inf
        assert edges[at] - probs[token] - 1e-6 <= uniform <= edges[at] + 1e-6


def test_tokens_come_with_their_probabilities() -> None:
    """Chi-square of 20,000 draws from a row of more than one block."""
    random = np.random.default_rng(0)
    probs = random.dirichlet(np.full(2 * BLOCK + 10, 0.5))
    row = np.log(probs)
    tokens = np.array([drawn_token(uniform, row) for uniform in random.random(20_000)])

    assert p_value(tokens, probs) > 1e-4
    assert p_value(np.minimum(tokens + 1, len(probs) - 1), probs) < 1e-4
