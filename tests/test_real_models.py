"""The two packaged models, whole: what must hold on a real model and cannot be seen on a toy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.inference.rows import RowStore
from evals.cost.prompts import PROMPTS

pytestmark = pytest.mark.slow

PROMPT = "def fibonacci(n):\n    ret"
TEXT = (
    'def mean(values):\n    """The arithmetic mean — of a list."""\n    total = 0\n\n\n    for v in values:\n'
    "        total += v\n    return total / len(values)\n\n\nprint(mean([1, 22, 333]))  # naïve 漢字\n"
)


@cache
def model(name: str) -> ByteLM:
    return ByteLM.from_pretrained(name)


def engine(lm: ByteLM) -> Any:
    return lm.token_lm


def generated(lm: ByteLM, text: str, tokens: int) -> str:
    """What the model itself writes after a text that ends with a token."""
    import torch

    ids = lm.tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = engine(lm).model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
    return lm.spell(out[0, ids.shape[1] :].tolist()).decode()


def test_a_word_that_the_prompt_cut_is_finished_as_the_model_would_have() -> None:
    """After ``ret`` come ``urn`` and what the model's own generation writes after ``return``."""
    lm = model("demo")
    written = lm.sample(PROMPT, temperature=0, max_bytes=43).text

    assert written == "urn n * fibonacci(n - 1) + fibonacci(n - 2)"
    assert ("urn" + generated(lm, PROMPT + "urn", 20)).startswith(written)


@pytest.mark.parametrize("name", ["demo", "demo-gemma"])
def test_cached_rows_are_the_uncached_ones(name: str) -> None:
    """Along 200 bytes, a state that is advanced and a model that has forgotten everything agree within 1e-5.

    In float64: in float32 the model's own arithmetic differs by as much between one pass and two.
    """
    lm = ByteLM.from_pretrained(name, dtype="float64")
    data = TEXT.encode()[:200]
    state = lm.state(data[:20])
    plain = ByteLM(TransformersLM(engine(lm).model, lm.tokenizer))
    worst = 0.0
    for n in range(20, len(data)):
        state = state.advance(data[n : n + 1])
        cached = state.next_byte_logprobs()
        if n % 15 == 0:
            engine(plain).clear_cache()
            plain._store = RowStore()
            fresh = plain.next_byte_logprobs(data[: n + 1])
            likely = cached > np.log(1e-6)
            worst = max(worst, float(np.abs(cached[likely] - fresh[likely]).max()))

    assert worst < 1e-5


@pytest.mark.parametrize("name", ["demo", "demo-gemma"])
def test_rows_scores_and_covers_tell_one_story(name: str) -> None:
    """A row's entry is the score of its byte, a row sums to one less the leak, and a cover to the prefix's probability."""
    lm = model(name)
    for prefix in ("", " ", "The capital of Fra", "a\n\n", "x = [1,  2]\n    ", "caf\u00e9"):
        row = lm.next_byte_logprobs(prefix)
        best = int(np.argmax(row[:256]))

        assert lm.logprob(bytes([best]), prefix=prefix) == pytest.approx(row[best], abs=1e-5)
        assert np.exp(row).sum() + lm.leak(prefix) == pytest.approx(1, abs=1e-6)
        if prefix:
            whole = np.logaddexp.reduce([item.logprob for item in lm.cover(prefix)])
            assert whole == pytest.approx(lm.logprob(prefix), abs=1e-4)
    text = "Paris is the capital. It’s big!\n"
    assert lm.byte_logprobs(text, prefix="In France, ").sum() == pytest.approx(
        lm.logprob(text, prefix="In France, "), abs=1e-4
    )


def test_a_long_prompt_is_one_prefill() -> None:
    """20 kB: each token of the prompt goes through the model once, in chunks, before the first byte."""
    lm = model("demo")
    prompt = (TEXT * 200).encode()[:20_000].decode("utf-8", "ignore") + "    tot"
    completion = lm.sample(prompt, temperature=0, max_bytes=2)
    tokens = len(lm.tokenizer(prompt, add_special_tokens=False).input_ids)

    assert completion.text == "al"
    assert completion.usage.tokens_fed is not None
    assert completion.usage.tokens_fed <= tokens + 40
    assert completion.usage.calls <= tokens // 512 + 8


def test_a_prompt_of_4_kb_is_one_prefill_and_at_most_three_calls() -> None:
    """Before the first byte; and a byte that is typed after it feeds a few tokens again, not the prompt."""
    lm = model("demo")
    prompt = (TEXT * 50).encode()[:4_000].decode("utf-8", "ignore") + "    tot"
    tokens = len(lm.tokenizer(prompt, add_special_tokens=False).input_ids)
    engine(lm).clear_cache()
    first = lm.sample(prompt, temperature=0, max_bytes=1)

    assert first.text == "a"
    assert first.usage.calls <= -(-tokens // 512) + 3
    assert first.usage.tokens_fed is not None
    assert first.usage.tokens_fed <= tokens + 8

    state = lm.state(prompt)
    state.next_byte_logprobs()
    before = engine(lm).usage.copy()
    typed = state.advance("a")
    typed.next_byte_logprobs()
    lm.sample(prompt + "a", temperature=0, max_bytes=1)
    assert engine(lm).usage.since(before).tokens_fed <= 8


@pytest.mark.parametrize("temperature", [0, 1])
def test_ordinary_prompts_cost_at_most_1_15_calls_a_token(temperature: float) -> None:
    """English, code and other languages, prefill included; tokens fed at most 2.5 times those written and read."""
    lm = model("demo")
    calls = fed = tokens = read = 0
    for prompt in PROMPTS[:6]:
        engine(lm).clear_cache()
        done = lm.sample(prompt, temperature=temperature, max_bytes=120, seed=0)
        whole = (prompt.encode() + done.bytes).decode("utf-8", "ignore")
        calls += done.usage.calls
        fed += done.usage.tokens_fed or 0
        read += len(lm.viability.vocab.encode(prompt))
        tokens += len(lm.viability.vocab.encode(whole))

    assert calls <= 1.15 * (tokens - read)
    assert fed <= 2.5 * tokens


@pytest.mark.parametrize("name", ["demo", "demo-gemma"])
def test_exact_bytes_cost_about_a_call_a_token(name: str) -> None:
    """Greedy and drawn, the calls are at most 1.3 times the tokens of the text produced (a few short prompts)."""
    lm = model(name)
    for temperature in (0, 1):
        calls = tokens = 0
        for prompt in ("The capital of Fra", PROMPT, "Water boils at a temper"):
            done = lm.sample(prompt, temperature=temperature, max_bytes=60, seed=1)
            whole = (prompt.encode() + done.bytes).decode("utf-8", "ignore")
            calls += done.usage.calls
            tokens += len(lm.viability.vocab.encode(whole)) - len(lm.viability.vocab.encode(prompt))

        assert calls <= 1.3 * tokens + 3


def test_what_rides_along_is_for_the_engine_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a token costs as much as a call, fewer are fed, in about as many calls, and the greedy bytes are the same."""
    token_lm: Any = model("demo").token_lm
    monkeypatch.setattr(token_lm, "extra_token_cost", 1.0, raising=False)
    fed, calls, written = [], [], []
    for lm in (model("demo"), ByteLM(token_lm)):
        token_lm.clear_cache()
        before = token_lm.usage.copy()
        written.append([lm.sample(prompt, temperature=0, max_bytes=100).bytes for prompt in PROMPTS[:3]])
        spent = token_lm.usage.since(before)
        fed.append(spent.tokens_fed)
        calls.append(spent.calls)

    assert written[0] == written[1]
    assert fed[1] < 0.9 * fed[0]
    assert calls[1] < 1.1 * calls[0]
