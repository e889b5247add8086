"""What a completion tells of the mass that its rows lost: bounds on the largest leak, and a warning above half."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from bytelm import ByteLM, Completion, Ensemble, LeakWarning, TableLM
from bytelm.sampling.params import SamplingParams
from tests.sampling.test_engine_draws import Drawing, by_hand
from tests.sampling.test_generation import exact_row
from tests.support.tiny import byte_bpe_tokenizer
from tests.support.toy import Toy

SPECIAL = "<|im_end|>"
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"lazy": False},
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 1.3, "top_p": 0.9},
    {"logits_processor": lambda so_far, row: row},
]


def leaky(share: float = 0.999) -> ByteLM:
    """A model that writes "the end", and there puts a share on a special token that does not end its text."""
    tokenizer = byte_bpe_tokenizer(special=(SPECIAL,))
    ids = tokenizer("the end of it all").input_ids
    lost, size = tokenizer.get_vocab()[SPECIAL], len(tokenizer)
    turn = len(tokenizer("the end").input_ids)

    def row(context: tuple[int, ...]) -> np.ndarray:
        probs = np.full(size, 1e-7)
        at = len(context)
        probs[ids[min(at, len(ids) - 1)]] = 1.0
        if at == turn:
            probs *= (1 - share) / probs.sum()
            probs[lost] = share
        total: float = probs.sum()
        return np.asarray(probs / total)

    return ByteLM(TableLM(tokenizer, table=row))


def told(lm: Any, **options: Any) -> tuple[Completion, list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return lm.sample("the", **{"max_bytes": 9, "seed": 1, **options}), caught


def truth(lm: Any, done: Completion) -> float:
    """The largest leak of the rows at the bytes that were drawn, by their full rows."""
    steps = len(done.bytes) + (done.finish_reason == "eot")
    leaks: list[float] = [lm.leak(b"the" + done.bytes[:n]) for n in range(steps)]
    return max(leaks)


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_largest_leak_is_within_its_bounds_and_warned_of(options: dict[str, Any]) -> None:
    """Nearly all of the mass is lost after the prompt, however bytes are drawn: it is told, and warned of once."""
    lm = leaky()
    done, caught = told(lm, **options)
    usage, exact = done.usage, truth(lm, done)

    assert usage.largest_leak is not None
    assert 0.99 < usage.largest_leak <= exact + 1e-9
    if not SamplingParams(**options).by_token:
        assert usage.largest_leak_bound is not None
        assert exact <= usage.largest_leak_bound + 1e-9
    else:  # tokens are drawn, and a row that loses none of them is not summed
        assert usage.largest_leak_bound is None
        assert usage.redrawn
    (warning,) = caught
    assert warning.category is LeakWarning
    assert "eot_ids" in str(warning.message)
    assert f"id {lm.tokenizer.get_vocab()[SPECIAL]}" in str(warning.message)


def test_streams_batches_and_ensembles_tell_it_too() -> None:
    """The usage of a stream's completion, and of an ensemble's; with the token as an end nothing is lost."""
    lm = leaky()
    stream = lm.stream("the", max_bytes=9, seed=1)
    with pytest.warns(LeakWarning, match=r"of the probability"):
        "".join(stream)
    assert stream.completion.usage.largest_leak == lm.sample("the", max_bytes=9, seed=1).usage.largest_leak
    for combine in ("mixture", "bayes"):
        both = Ensemble([lm, leaky(0.8)], combine=combine)
        done, caught = told(both)
        seen, bound = done.usage.largest_leak, done.usage.largest_leak_bound
        assert seen is not None
        assert 0.5 < seen <= truth(both, done) + 1e-9
        assert (bound is None) == (combine == "bayes")  # where a member draws tokens
        assert bound is None or truth(both, done) <= bound + 1e-9
        assert [warning.category for warning in caught] == [LeakWarning]
    ended = ByteLM(lm.token_lm, eot_ids=[lm.tokenizer.get_vocab()[SPECIAL]])
    done, caught = told(ended, lazy=False)
    assert (done.finish_reason, caught) == ("eot", [])
    assert done.usage.largest_leak is not None
    assert done.usage.largest_leak < 1e-4


@pytest.mark.parametrize("options", [each for each in OPTIONS if not SamplingParams(**each).by_token])
def test_less_than_half_is_told_without_a_warning(options: dict[str, Any]) -> None:
    """Bounds hold at every leak, and where each row is evaluated they are one number."""
    lm = leaky(0.4)
    done, caught = told(lm, **options)
    low, high, exact = done.usage.largest_leak, done.usage.largest_leak_bound, truth(lm, done)

    assert caught == []
    assert low is not None
    assert high is not None
    assert low <= exact + 1e-9
    assert exact <= high + 1e-9
    if not options.get("lazy", True) or "logits_processor" in options:
        assert low == pytest.approx(high, abs=1e-12) == pytest.approx(exact, abs=1e-9)


def test_an_engine_that_draws_leak_again_and_again_is_warned_of() -> None:
    """The row that is then drawn from is seen; where none is, the count of tokens drawn again tells."""
    lm = ByteLM(Drawing(PreTrainedTokenizerFast(tokenizer_object=by_hand()), 5, frozenset({3})))

    class Lost(Drawing):
        def row(self, ids: Any) -> np.ndarray:
            with np.errstate(divide="ignore"):
                return np.log([0.004, 0.003, 0.002, 0.001, 0.99])

    lost = ByteLM(Lost(PreTrainedTokenizerFast(tokenizer_object=by_hand()), 5, frozenset({3})))
    with pytest.warns(LeakWarning):
        done = lost.sample("b", max_bytes=3, seed=1, engine_draws=True)
    assert done.usage.redrawn > 1
    assert done.usage.largest_leak == pytest.approx(0.99, abs=0.01)
    assert lm.sample("b", max_bytes=3, seed=1, engine_draws=True).usage.largest_leak_bound is None


@pytest.mark.parametrize("greedy", [False, True])
def test_a_row_that_is_not_evaluated_in_full_counts_too(greedy: bool) -> None:
    """Where an unlikely token sequence is left unevaluated, the leak of the likely one is certain all the same."""

    def row(ids: tuple[int, ...]) -> list[float]:
        match ids:
            case ():
                return [1e-5, 1e-5, 1 - 2e-5, 0, 0]
            case (2,):
                return [6e-4, 2e-4, 1e-4, 1e-4, 0.999]
            case _:
                return [0.3, 0.3, 0.3, 0.1, 0]

    toy = Toy.of([b"a", b"b", b"ab", None, None], row, eot_ids=[3])
    params = SamplingParams(max_bytes=3, temperature=0 if greedy else 1)
    with pytest.warns(LeakWarning, match="likeliest token there is id 4"):
        done = toy.answer(toy.generation(b"", params, np.random.default_rng(1)).run())

    assert done.bytes[:2] == b"ab"
    exact = 1 - exact_row(toy, b"ab").sum()
    assert done.usage.largest_leak is not None
    assert done.usage.largest_leak_bound is not None
    assert 0.99 < done.usage.largest_leak <= exact + 1e-9 <= done.usage.largest_leak_bound + 2e-9
    assert done.usage.largest_leak < exact - 1e-9  # a bound: the other sequence was not asked for
