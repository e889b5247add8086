"""What evals.cost.token_level computes of the two laws, against draws, and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM
from evals.cost import token_level
from evals.cost.lazy import p_value
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.tiny import default_tokenizer, tiny_model


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return ByteLM(TransformersLM(tiny_model("llama"), default_tokenizer(), max_batch=256))


@pytest.mark.parametrize("law", [{"top_p": 0.9}, {"temperature": 0.7, "top_k": 40}], ids=str)
def test_the_law_that_is_computed_is_the_one_that_is_drawn(lm: ByteLM, law: dict[str, Any]) -> None:
    """Chi-square of the first byte of 500 completions, those apart that begin with a token without bytes."""
    probs = token_level._next_byte(lm, "the quick bro", law)
    done = lm.sample("the quick bro", level="token", n=500, max_bytes=1, seed=1, **law)
    assert isinstance(done, list)
    symbols = np.array([c.bytes[0] if c.bytes else 256 if c.finish_reason == "eot" else 257 for c in done])

    assert p_value(symbols, np.array([*probs, max(1 - probs.sum(), 0.0)])) > P_THRESHOLD


def test_unfiltered_the_laws_differ_by_the_leak_at_most(lm: ByteLM) -> None:
    """At one byte: the leak of the place."""
    for prompt in ("the quick bro", "return n", "the "):
        assert token_level._distance(lm, prompt, {}) <= lm.leak(prompt) + 1e-6


def test_a_pair_writes_the_same(lm: ByteLM, capsys: pytest.CaptureFixture[str]) -> None:
    """Both methods are timed on as many tokens, and no difference is told."""
    mine, theirs, count = token_level._pair(lm, "the quick bro", 12, first=True)

    assert min(mine, theirs) > 0
    assert 1 < count <= 12
    assert capsys.readouterr().out == ""
