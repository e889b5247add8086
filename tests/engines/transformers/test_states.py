"""Recurrent and hybrid models: rows by copies of the model's own memory."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.engines.transformers.states import STEP_COST, plan, size
from bytelm.token_lm import Usage
from tests.support.tiny import CORPUS, default_tokenizer, tiny_model

KINDS = ("mamba", "lfm2", "qwen3_next")
TOLERANCE = 1e-4  # of what these models compute in float32: scanned at once, or step by step
PROMPT = 351  # tokens


def long_model(kind: str) -> Any:
    return tiny_model(kind, **({} if kind == "mamba" else {"max_position_embeddings": 2011}))


def plain_row(model: Any, ids: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
    row: np.ndarray = torch.log_softmax(logits, -1).numpy()
    return row


def prompt_text() -> str:
    tokenizer = default_tokenizer()
    return str(tokenizer.decode(tokenizer("".join(CORPUS[:3]) * 9)["input_ids"][:PROMPT]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_feeds_little_more_than_generation(kind: str, temperature: float) -> None:
    """A prompt of 351 tokens and 100 bytes after it: at most three times the tokens of plain generation."""
    lm = ByteLM(long_model(kind), default_tokenizer())
    prompt = prompt_text()

    done = lm.sample(prompt, max_bytes=100, seed=2, temperature=temperature, stop=())

    tokens = len(default_tokenizer()(prompt + done.text)["input_ids"])
    assert tokens >= PROMPT
    assert done.usage.tokens_fed is not None
    assert done.usage.tokens_fed <= 3 * tokens


@pytest.mark.parametrize("kind", KINDS)
def test_rows_far_into_a_text(kind: str) -> None:
    """After hundreds of tokens, steps, branches and steps back have the rows of plain passes."""
    lm = TransformersLM(long_model(kind), default_tokenizer())
    ids = tuple(default_tokenizer()(prompt_text())["input_ids"])
    rng = random.Random(3)
    calls: list[list[tuple[int, ...]]] = [[ids[:-1], ids, (*ids[:-2], 7)], [ids[:300]]]
    calls += [[(*ids[: rng.randint(330, PROMPT)], *rng.choices(range(311), k=3))] for _ in range(6)]

    far = 0.0
    for call in calls:
        rows = lm.next_token_logprobs(call)
        far = max(far, *(float(np.abs(r - plain_row(lm.model, s)).max()) for s, r in zip(call, rows, strict=True)))

    assert lm.mode == "states"
    assert far <= TOLERANCE


def test_what_is_fed() -> None:
    """A prompt is fed once, a step and a branch cost their own tokens, and a step back to a stop costs nothing more."""
    lm = TransformersLM(long_model("lfm2"), default_tokenizer())
    ids = tuple(range(1, 61))

    def spent(*sequences: tuple[int, ...]) -> Usage:
        before = lm.usage.copy()
        lm.next_token_logprobs(sequences)
        return lm.usage.since(before)

    assert spent(ids[:-2], ids) == Usage(calls=3, tokens_fed=60)  # a pass to the first, then two steps
    assert spent((*ids, 70)) == Usage(calls=1, tokens_fed=1)
    assert spent((*ids[:-2], 71), (*ids, 70, 72), (*ids, 73)) == Usage(calls=3, tokens_fed=3)
    assert spent(ids[:40]) == Usage(calls=1, tokens_fed=40)  # nothing was kept near it


@pytest.mark.parametrize("budget", [0, 40_000])
def test_short_of_room(budget: int) -> None:
    """Copies that have no room are not kept, and rows are right."""
    lm = TransformersLM(long_model("qwen3_next"), default_tokenizer(), cache_budget_bytes=budget)
    rng = random.Random(4)
    ids: tuple[int, ...] = (1, 2, 3)

    for _ in range(12):
        ids = (*ids, *rng.choices(range(311), k=rng.choice([1, 2, 30])))
        call = [ids, (*ids[:-1], 5), ids[: len(ids) // 2]]
        rows = lm.next_token_logprobs(call)
        assert lm.cache_bytes <= budget
        for sequence, row in zip(call, rows, strict=True):
            assert np.abs(row - plain_row(lm.model, sequence)).max() <= TOLERANCE


def test_copies_are_counted() -> None:
    """What the copies of a memory take is what its tensors take."""
    shared = torch.zeros(3, 5)

    class Holder:
        def __init__(self) -> None:
            self.some = {0: shared, 1: None}
            self.more = [shared, (torch.zeros(7, dtype=torch.float64),)]

    assert size(Holder()) == 60 + 56


sequences = st.lists(st.integers(0, 1), min_size=1, max_size=40).map(tuple)


@given(asked=st.sets(sequences, min_size=1, max_size=9), kept=st.sets(sequences, max_size=9))
def test_a_plan_leads_everywhere(asked: set[tuple[int, ...]], kept: set[tuple[int, ...]]) -> None:
    """Every sequence that is asked for lies on a leg, behind its start; and what a leg starts from is there by then."""
    asked -= kept
    there = set(kept)
    covered: set[tuple[int, ...]] = set()
    for leg in plan(sorted(asked), kept):
        assert leg.start == leg.end[: len(leg.start)]
        assert not leg.start or leg.start in there
        assert not leg.start or len(leg.end) - len(leg.start) < STEP_COST
        covered |= {leg.end[:n] for n in range(len(leg.start) + 1, len(leg.end) + 1)}
        there.add(leg.end)

    assert asked <= covered
