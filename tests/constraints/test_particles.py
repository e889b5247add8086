"""Weighted texts: what they estimate is unbiased, and many of them have the law of texts given the constraint.

The oracle is the exponential of the exact log-probability of every text that the constraint allows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, constraints
from bytelm.errors import BudgetError, ConstraintError, InvalidArgumentError
from tests.constraints.test_conditioned import OPTIONS, P_THRESHOLD, PROMPT, agreement, draws, law, model
from tests.support.tiny import byte_bpe_tokenizer

FORCED = ("abcabc", "abcq", "zebra crossing", "zebra", "é", "x")


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return ByteLM(model())


def mass(lm: Any, options: tuple[str, ...]) -> float:
    """The probability of all options, by the definition."""
    whole = 0.0
    for option in options:
        goes_on = any(other != option and other.startswith(option) for other in options)
        whole += math.exp(lm.logprob(option, prefix=PROMPT, eot=goes_on))
    return whole


def estimates(lm: Any, options: tuple[str, ...], *, particles: int, count: int) -> np.ndarray:
    found = draws(lm, options, count=count, particles=particles)
    return np.exp([done.particles.log_mass for done in found])


@pytest.mark.parametrize("options", [OPTIONS, FORCED])
@pytest.mark.parametrize("particles", [1, 6])
def test_the_estimate_of_the_mass_is_unbiased(lm: ByteLM, options: tuple[str, ...], particles: int) -> None:
    """Of one particle, and of several that are drawn anew by need: within five standard errors of the enumerated mass."""
    found = estimates(lm, options, particles=particles, count=300)

    error = float(found.std() / math.sqrt(len(found)))
    assert error > 0
    assert abs(found.mean() - mass(lm, options)) < 5 * error
    assert error < 0.2 * mass(lm, options)


def test_some_are_drawn_anew(lm: ByteLM) -> None:
    """Where the weights differ much, and not where they do not."""
    uneven = draws(lm, OPTIONS, count=20, particles=8)
    even = draws(lm, ("a",), count=5, particles=8)

    assert any(done.particles.resamplings for done in uneven)
    assert not any(done.particles.resamplings for done in even)


def test_weighted_texts_stand_for_the_law(lm: ByteLM) -> None:
    """All particles of many runs, each by its own weight, make the law; by their numbers alone they do not."""
    weighed, counted = np.zeros(len(OPTIONS)), np.zeros(len(OPTIONS))
    for done in draws(lm, OPTIONS, count=200, particles=8):
        scale = np.exp(done.particles.log_weights)
        for text, weight in zip(done.particles.texts, scale, strict=True):
            weighed[OPTIONS.index(text.decode())] += weight
            counted[OPTIONS.index(text.decode())] += 1
    expected = law(lm, OPTIONS)

    assert np.abs(weighed / weighed.sum() - expected).sum() / 2 < 0.06
    assert np.abs(counted / counted.sum() - expected).sum() / 2 > 0.12


def test_the_picked_text_comes_to_the_law_as_particles_grow(lm: ByteLM) -> None:
    """One particle has the law under the mask; a hundred have the exact one, up to chance."""
    expected = law(lm, OPTIONS)

    one = [done.text for done in draws(lm, OPTIONS, count=300, particles=1)]
    many = [done.text for done in draws(lm, OPTIONS, count=150, particles=40)]

    assert agreement(one, OPTIONS, expected) < P_THRESHOLD
    assert agreement(many, OPTIONS, expected) > P_THRESHOLD


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_is_weighed_by_its_own_rows(combine: Any) -> None:
    """Where the mass behind a forced run is not known without its rows, each byte is drawn."""
    both = Ensemble([ByteLM(model(2)), ByteLM(model(3))], combine=combine)

    found = estimates(both, FORCED, particles=4, count=120)

    error = float(found.std() / math.sqrt(len(found)))
    assert abs(found.mean() - mass(both, FORCED)) < 5 * error


def test_a_completion_says_what_it_is(lm: ByteLM) -> None:
    """Its own text among all, with its exact log-probability; weights, and what they are worth."""
    for done in draws(lm, FORCED, count=20, particles=5):
        goes_on = any(other != done.text and other.startswith(done.text) for other in FORCED)
        assert done.logprob == pytest.approx(lm.logprob(done.text, prefix=PROMPT, eot=goes_on), abs=1e-9)
        assert done.finish_reason == ("eot" if goes_on else "stop")
        told = done.particles
        assert len(told.texts) == len(told.log_weights) == 5
        assert done.bytes in told.texts
        assert told.weights.sum() == pytest.approx(1)
        assert told.effective_sample_size == pytest.approx(1 / (told.weights**2).sum())
        assert 1 <= told.effective_sample_size <= 5 + 1e-9


def test_a_single_particle_weighs_as_its_constraint_mass(lm: ByteLM) -> None:
    """One particle is a draw under the mask, and its weight is that draw's importance weight."""
    done = draws(lm, FORCED, count=20, particles=1)
    for each in done:
        goes_on = any(other != each.text and other.startswith(each.text) for other in FORCED)
        chance = math.exp(masked_logprob(lm, each.text, goes_on=goes_on))
        expected = math.exp(lm.logprob(each.text, prefix=PROMPT, eot=goes_on)) / chance
        assert math.exp(each.particles.log_weights[0]) == pytest.approx(expected, rel=1e-9)


def masked_logprob(lm: ByteLM, text: str, *, goes_on: bool) -> float:
    """The log-probability of a text of `FORCED` to be drawn under the mask, from rows alone."""
    state = constraints.choice(list(FORCED)).state()
    total, before = 0.0, PROMPT.encode()
    for symbol in [*text.encode(), *([256] if goes_on else [])]:
        allowed = np.asarray(state.allowed())
        row = np.exp(lm.next_byte_logprobs(before)) * allowed
        total += math.log(row[symbol] / row.sum())
        if symbol < 256:
            state.advance(bytes([symbol]))
            before += bytes([symbol])
    return total


def test_texts_end_at_stop_strings_and_for_their_length(lm: ByteLM) -> None:
    """As elsewhere: before the stop string, and at the most bytes; forced runs end there too."""
    for done in draws(lm, ["abab", "abba"], count=20, particles=4, stop="ba"):
        assert (done.text, done.finish_reason) == ("a", "stop") or done.text == "ab"
        assert done.logprob == pytest.approx(lm.logprob(done.text, prefix=PROMPT), abs=1e-9)
    cut: Any = lm.sample(
        PROMPT, constraint=constraints.choice(["abcabc", "zebra"]), particles=4, n=9, seed=1, max_bytes=3
    )
    assert {(done.text, done.finish_reason) for done in cut} <= {("abc", "length"), ("zeb", "length")}


def test_the_context_ends_a_text_as_elsewhere() -> None:
    """A complete text has ended, though the context is full."""
    for length in range(1, 6):
        table: Any = model()
        table.context_length = length
        done: Any = ByteLM(table).sample("a", constraint=constraints.choice(["aba", "bab"]), particles=3, n=3, seed=1)
        assert {each.finish_reason for each in done} <= {"stop", "length"}
        assert all(len(each.bytes) == 3 for each in done if each.finish_reason == "stop")


def test_the_same_seed_gives_the_same_texts_in_any_company(lm: ByteLM) -> None:
    """An item's particles are a function of its own random numbers; a stream gives the text at its end."""
    many = draws(lm, OPTIONS, count=6, particles=5)

    assert [done.bytes for done in draws(lm, OPTIONS, count=2, particles=5)] == [done.bytes for done in many[:2]]
    stream = lm.stream(PROMPT, constraint=constraints.choice(list(OPTIONS)), particles=5, seed=5, max_bytes=20)
    assert "".join(stream) == many[0].text
    assert stream.completion.particles is not None


def test_where_nothing_allowed_is_possible_that_is_an_error(lm: ByteLM) -> None:
    """No particle is left; the message says where the last one came to."""
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>")

    class OnlyA(type(model())):  # type: ignore[misc]
        def next_token_logprobs(self, sequences: Any) -> Any:
            rows = np.full((len(sequences), self.vocab_size), -np.inf)
            rows[:, tokenizer.convert_tokens_to_ids("a")] = 0.0
            return rows

    with pytest.raises(BudgetError, match=r"none of 3 particles .* Give more"):
        ByteLM(OnlyA(tokenizer, seed=1)).sample("a", constraint=constraints.choice(["ab"]), particles=3)


@pytest.mark.usefixtures("caller_errs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "from 1 to"),
        ({"particles": 3, "temperature": 0.5}, "temperature 1"),
        ({"particles": 3, "top_k": 4}, "particles=3 is of the model's own law"),
        ({"particles": 3, "conditioning": "exact"}, "give one of them"),
        ({"particles": 3, "constraint": None}, "is on a constraint"),
    ],
)
def test_what_cannot_be_is_an_error_at_once(lm: ByteLM, options: dict[str, Any], message: str) -> None:
    """Before the model runs."""
    with pytest.raises(InvalidArgumentError, match=message):
        lm.sample(PROMPT, **{"constraint": constraints.choice(["a"]), **options})


def test_a_prefix_that_violates_the_constraint_is_an_error(lm: ByteLM) -> None:
    """As without particles."""
    with pytest.raises(ConstraintError, match="violates"):
        lm.sample("zz", constraint=constraints.choice(["abc"], of="text"), particles=3)
