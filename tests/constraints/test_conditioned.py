"""Texts that are drawn exactly given a constraint have the model's law of texts, restricted and normalised.

The oracle is the exponential of the exact log-probability of every text that the constraint allows; chi-square tests
have fixed seeds, and fail below p = 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, TableLM, constraints
from bytelm.errors import BudgetError, ConstraintError, InvalidArgumentError, ModelError
from evals.cost.lazy import p_value
from tests.support.tiny import byte_bpe_tokenizer

P_THRESHOLD = 1e-4
PROMPT = "the qu"
OPTIONS = ("a", "ab", "abc", "the", "quick", "é", "x y", "zebra")
DRAWS = 1_500


def model(seed: int = 2) -> TableLM:
    return TableLM(byte_bpe_tokenizer(eos="<|endoftext|>"), seed=seed, order=1, temperature=0.7)


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return ByteLM(model())


def law(lm: Any, options: Sequence[str], prompt: str = PROMPT) -> np.ndarray:
    """The model's probability of each option and then no more, given that it is one of them."""
    logprobs = []
    for option in options:
        goes_on = any(other != option and other.startswith(option) for other in options)
        logprobs.append(lm.logprob(option, prefix=prompt, eot=goes_on))
    probs = np.exp(np.array(logprobs) - max(logprobs))
    return np.asarray(probs / probs.sum())


def agreement(texts: Sequence[str], options: Sequence[str], expected: np.ndarray) -> float:
    """The p-value of drawn texts, each of which is one of the options."""
    return p_value(np.array([options.index(text) for text in texts]), expected)


def draws(lm: Any, options: Sequence[str], *, count: int = DRAWS, **more: Any) -> list[Any]:
    done = lm.sample(PROMPT, constraint=constraints.choice(options), n=count, seed=5, max_bytes=20, **more)
    return list(done)


@pytest.mark.parametrize("lazy", [True, False])
def test_texts_have_the_law_of_the_model_given_the_constraint(lm: ByteLM, lazy: bool) -> None:
    """One of several texts, of which some begin others; step by step they have another law."""
    expected = law(lm, OPTIONS)

    exact = [done.text for done in draws(lm, OPTIONS, conditioning="exact", lazy=lazy)]
    masked = [done.text for done in draws(lm, OPTIONS)]

    assert agreement(exact, OPTIONS, expected) > P_THRESHOLD
    assert agreement(masked, OPTIONS, expected) < P_THRESHOLD


@pytest.mark.parametrize("combine", ["mixture", "bayes"])
def test_an_ensemble_has_its_own_law(combine: Any) -> None:
    """Places of several models are drawn from by the same steps."""
    both = Ensemble([ByteLM(model(2)), ByteLM(model(3))], combine=combine)

    exact = [done.text for done in draws(both, OPTIONS, count=600, conditioning="exact")]

    assert agreement(exact, OPTIONS, law(both, OPTIONS)) > P_THRESHOLD


def test_a_completion_says_what_it_is(lm: ByteLM) -> None:
    """Its bytes, its exact log-probability and why it ended, whichever attempt it came from."""
    for done in draws(lm, OPTIONS, count=60, conditioning="exact"):
        goes_on = any(other != done.text and other.startswith(done.text) for other in OPTIONS)
        assert done.finish_reason == ("eot" if goes_on else "stop")
        expected = lm.logprob(done.text, prefix=PROMPT, eot=goes_on)
        assert done.logprob == pytest.approx(expected, abs=1e-9)
        assert done.log_constraint_mass is None


def test_a_text_ends_at_a_stop_string_and_for_its_length(lm: ByteLM) -> None:
    """A text that is cut is one of those whose beginning is allowed; what is returned stops before the stop string."""
    for done in draws(lm, ["abab", "abba"], count=40, conditioning="exact", stop="ba"):
        assert (done.text, done.finish_reason) == ("a", "stop") or done.text == "ab"
        assert done.logprob == pytest.approx(lm.logprob(done.text, prefix=PROMPT), abs=1e-9)
    letters = constraints.regex("[a-e]+")
    options: Any = {"constraint": letters, "conditioning": "exact", "seed": 1, "max_bytes": 2}
    cut: Any = lm.sample(PROMPT, n=40, **options)
    assert {len(done.bytes) for done in cut if done.finish_reason == "length"} == {2}
    assert all(set(done.text) <= set("abcde") for done in cut)


def test_a_complete_text_has_ended_though_the_context_is_full() -> None:
    """Whichever way it is drawn: the context ends a text that could go on, and no other."""
    for length in range(1, 6):
        table: Any = model()
        table.context_length = length
        for conditioning in ("step", "exact"):
            done: Any = ByteLM(table).sample(
                "a", constraint=constraints.regex("[ab]{3}"), conditioning=conditioning, n=4, seed=1
            )
            found = {(each.finish_reason, len(each.bytes)) for each in done}
            assert found == ({("stop", 3)} if length > 2 else {("length", length)})


def test_what_failed_is_not_tried_again(lm: ByteLM) -> None:
    """A long text that is nearly impossible is found after about one attempt for each of its bytes."""
    unlikely = "qzxvkjqzxv"

    done = lm.sample(PROMPT, constraint=constraints.choice([unlikely]), conditioning="exact", seed=3, budget=30)

    assert done.text == unlikely
    assert done.logprob == pytest.approx(lm.logprob(unlikely, prefix=PROMPT), abs=1e-9)
    assert done.logprob is not None
    assert done.logprob < math.log(1e-9)


def test_a_budget_ends_the_search(lm: ByteLM) -> None:
    """With the bound on the probability of all allowed texts, which falls with each attempt."""
    with pytest.raises(BudgetError, match=r"at most .* of the probability") as caught:
        lm.sample(PROMPT, constraint=constraints.choice(["qzxvkjqzxv"]), conditioning="exact", seed=3, budget=2)

    assert "2 attempts" in str(caught.value)


def test_the_same_seed_gives_the_same_texts_in_any_company(lm: ByteLM) -> None:
    """An item's attempts are a function of its own random numbers."""
    many = draws(lm, OPTIONS, count=8, conditioning="exact")

    assert [done.bytes for done in draws(lm, OPTIONS, count=3, conditioning="exact")] == [
        done.bytes for done in many[:3]
    ]


def test_impossible_texts_are_an_error() -> None:
    """Where no allowed text has any probability."""
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>")

    class OnlyA(TableLM):
        def next_token_logprobs(self, sequences: Any) -> Any:
            rows = np.full((len(sequences), self.vocab_size), -np.inf)
            rows[:, tokenizer.convert_tokens_to_ids("a")] = 0.0
            return rows

    lm = ByteLM(OnlyA(tokenizer, seed=0))
    with pytest.raises((ConstraintError, ModelError), match="probability"):
        lm.sample("a", constraint=constraints.choice(["b"]), conditioning="exact")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": 0.5}, "temperature 1"),
        ({"top_p": 0.9}, "top_p"),
        ({"logits_processor": lambda _, row: row}, "logits_processor"),
        ({"constraint": None}, "give one"),
        ({"budget": 0}, "budget must be 1"),
        ({"level": "token"}, "level"),
    ],
)
def test_what_cannot_be_drawn_so_is_refused(lm: ByteLM, more: dict[str, Any], said: str) -> None:
    """Before any model runs."""
    given: dict[str, Any] = {"constraint": constraints.choice(["a"]), "conditioning": "exact"}
    with pytest.raises(InvalidArgumentError, match=said):
        lm.sample(PROMPT, **(given | more))


def test_a_stream_gives_the_text_at_once(lm: ByteLM) -> None:
    """No byte is settled before the last attempt; the text is what `sample` draws."""
    options: Any = {"constraint": constraints.choice(OPTIONS), "conditioning": "exact", "seed": 9}
    done = lm.sample(PROMPT, **options)

    stream = lm.stream(PROMPT, **options)

    assert list(stream) == [done.text]
    assert stream.completion.logprob == done.logprob
    assert stream.completion.finish_reason == done.finish_reason
