"""Ensembles of whole texts: each text in proportion to f of what the members give it.

The oracle is f of the exponentials of the members' own exact log-probabilities of every text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, TableLM, constraints
from bytelm.errors import InvalidArgumentError
from evals.cost.lazy import p_value
from tests.support.tiny import byte_bpe_tokenizer

P_THRESHOLD = 1e-4
PROMPT = "the qu"
OPTIONS = ("a", "ab", "abc", "the", "quick", "el", "x y", "zebra")
WEIGHTS = [0.7, 0.3]

F: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mixture": lambda p: 0.7 * p[0] + 0.3 * p[1],
    "product": lambda p: p[0] ** 0.7 * p[1] ** 0.3,
    "minimum": lambda p: np.minimum(p[0], p[1]),
    "maximum": lambda p: np.maximum(p[0], p[1]),
    "power -1": lambda p: 1 / (0.7 / p[0] + 0.3 / p[1]),
    "power 0": lambda p: p[0] ** 0.7 * p[1] ** 0.3,
    "power 0.5": lambda p: (0.7 * p[0] ** 0.5 + 0.3 * p[1] ** 0.5) ** 2,
    "power 2": lambda p: (0.7 * p[0] ** 2 + 0.3 * p[1] ** 2) ** 0.5,
}
EXACT = [name for name in F if name not in ("maximum", "power 2")]


def member(seed: int, **more: Any) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", **more)
    return ByteLM(TableLM(tokenizer, seed=seed, order=1, temperature=2.0))


@pytest.fixture(scope="module")
def members() -> list[ByteLM]:
    return [member(2), member(3)]


def ensemble(members: list[Any], name: str, **more: Any) -> Ensemble:
    combine, _, power = name.partition(" ")
    options: dict[str, Any] = {"combine": combine, "level": "string"}
    if combine not in ("minimum", "maximum"):
        options["weights"] = WEIGHTS
    if power:
        options["power"] = float(power)
    return Ensemble(members, **{**options, **more})


def masses(members: list[Any], name: str) -> np.ndarray:
    """F of what the members give each option."""
    probs = np.zeros((2, len(OPTIONS)))
    for i, lm in enumerate(members):
        for at, option in enumerate(OPTIONS):
            goes_on = any(other != option and other.startswith(option) for other in OPTIONS)
            probs[i, at] = math.exp(lm.logprob(option, prefix=PROMPT, eot=goes_on))
    return np.asarray(F[name](probs))


def draws(lm: Ensemble, count: int, **more: Any) -> list[Any]:
    done: Any = lm.sample(PROMPT, constraint=constraints.choice(list(OPTIONS)), n=count, seed=7, max_bytes=20, **more)
    return list(done)


@pytest.mark.parametrize("name", F)
def test_particles_estimate_the_sum_of_f(members: list[ByteLM], name: str) -> None:
    """The mean of many estimates is the sum over all texts, by enumeration."""
    found = np.exp([done.particles.log_mass for done in draws(ensemble(members, name), 150, particles=4)])

    error = float(found.std() / math.sqrt(len(found)))
    whole = masses(members, name).sum()
    assert abs(found.mean() - whole) < 5 * error
    assert 0 < error < 0.2 * whole


@pytest.mark.parametrize("name", EXACT)
def test_exact_draws_are_in_proportion_to_f(members: list[ByteLM], name: str) -> None:
    """Chi-square against enumeration; the byte-level ensemble has another law."""
    expected = masses(members, name)
    texts = [done.text for done in draws(ensemble(members, name), 200, conditioning="exact")]

    drawn = np.array([OPTIONS.index(text) for text in texts])
    assert p_value(drawn, expected / expected.sum()) > P_THRESHOLD


def test_the_product_of_texts_is_not_the_product_of_bytes(members: list[ByteLM]) -> None:
    """Renormalised at each byte, another law comes out."""
    expected = masses(members, "product")
    bytewise = Ensemble(members, weights=WEIGHTS, combine="product")
    texts = [done.text for done in draws(bytewise, 200, conditioning="exact")]

    drawn = np.array([OPTIONS.index(text) for text in texts])
    assert p_value(drawn, expected / expected.sum()) < P_THRESHOLD


@pytest.mark.parametrize("name", ["product", "minimum"])
def test_no_constraint_is_needed(members: list[ByteLM], name: str) -> None:
    """Texts of one symbol, by both ways: each byte and the end of text in proportion to f of its probabilities."""
    probs = np.exp([lm.next_byte_logprobs(PROMPT) for lm in members])
    expected = F[name](probs)
    lm: Any = ensemble(members, name)

    for how in ({"conditioning": "exact"}, {"particles": 40}):
        found = lm.sample(PROMPT, n=200, seed=3, max_bytes=1, **how)
        drawn = np.array([256 if done.finish_reason == "eot" else done.bytes[0] for done in found])
        assert p_value(drawn, expected / expected.sum()) > P_THRESHOLD


def test_members_may_have_other_vocabularies_and_be_ensembles(members: list[ByteLM]) -> None:
    """A member whose mass is a product of its rows is drawn from byte by byte."""
    both = [member(5, special=("<|x|>",)), Ensemble(members, combine="mixture")]

    found = np.exp([done.particles.log_mass for done in draws(ensemble(both, "minimum"), 100, particles=4)])

    error = float(found.std() / math.sqrt(len(found)))
    assert abs(found.mean() - masses(both, "minimum").sum()) < 5 * error


def test_a_member_of_weight_0_does_not_count(members: list[ByteLM]) -> None:
    """It is not asked, and rules nothing out."""
    options: Any = {"constraint": constraints.choice(list(OPTIONS)), "particles": 3, "seed": 1, "n": 8}
    alone: Any = Ensemble(members[:1], combine="product", weights=[1], level="string").sample(PROMPT, **options)
    beside: Any = Ensemble(members, combine="product", weights=[1, 0], level="string").sample(PROMPT, **options)

    assert [done.bytes for done in alone] == [done.bytes for done in beside]


def test_a_text_has_no_probability_that_could_be_told(members: list[ByteLM]) -> None:
    """Rows, scores and searches are refused before a model runs; a completion has no log-probability."""
    lm = ensemble(members, "product")

    for ask in (
        lambda: lm.next_byte_logprobs(PROMPT),
        lambda: lm.state(PROMPT),
        lambda: lm.logprob("a", prefix=PROMPT),
        lambda: lm.byte_logprobs("a", prefix=PROMPT),
        lambda: lm.score("a", prefix=PROMPT),
        lambda: lm.likeliest(PROMPT),
        lambda: lm.explain("a", prefix=PROMPT),
    ):
        with pytest.raises(InvalidArgumentError, match="level='string'"):
            ask()
    for done in draws(lm, 3, particles=2):
        assert done.logprob is None


@pytest.mark.usefixtures("caller_errs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combine": "minimum"}, "pass level='string'"),
        ({"combine": "bayes", "level": "string"}, "already"),
        ({"combine": "power", "level": "string"}, "give power"),
        ({"combine": "power", "level": "string", "power": math.inf}, "finite"),
        ({"combine": "product", "level": "string", "power": 2}, "exponent of combine='power'"),
        ({"combine": "product", "level": "string", "weights": [1, -1]}, "negative"),
        ({"combine": "minimum", "level": "string", "weights": [1, 2]}, "has no weights"),
        ({"combine": "product", "level": "string", "weights": lambda text: [1, 1]}, "depend on the text"),
        ({"level": "bytes"}, "level"),
    ],
)
def test_what_cannot_be_is_an_error_at_once(members: list[ByteLM], options: dict[str, Any], message: str) -> None:
    """When the ensemble is made."""
    with pytest.raises(InvalidArgumentError, match=message):
        Ensemble(members, **options)


def test_draws_say_what_they_need(members: list[ByteLM]) -> None:
    """A text of a string-level ensemble is drawn exactly or by particles; the maximum by particles alone."""
    with pytest.raises(InvalidArgumentError, match="particles=N or conditioning='exact'"):
        ensemble(members, "product").sample(PROMPT)
    with pytest.raises(InvalidArgumentError, match="pass particles=N"):
        ensemble(members, "maximum").sample(PROMPT, conditioning="exact")
    with pytest.raises(InvalidArgumentError, match="pass particles=N"):
        ensemble(members, "product", weights=[0.5, 0.2]).sample(PROMPT, conditioning="exact")
    with pytest.raises(InvalidArgumentError, match="on a constraint"):
        Ensemble(members).sample(PROMPT, conditioning="exact")


def test_a_fingerprint_and_a_repr_say_the_level(members: list[ByteLM]) -> None:
    """Two ensembles that differ in it alone are told apart."""
    one, other = Ensemble(members, combine="product"), ensemble(members, "product", weights=None)

    assert one.fingerprint() != other.fingerprint()
    assert ensemble(members, "power 2").fingerprint() != ensemble(members, "power 0.5").fingerprint()
    assert "level='string'" in repr(other)
    assert "power=2.0" in repr(ensemble(members, "power 2"))
