"""Contrastive products: only what the positive side finds plausible has any probability, by a definition in full rows.

Draws that begin with most unevaluated: test_place.py, where "contrast" is one of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Completion, Ensemble
from bytelm.ensemble.combine import normalised, product_envelope
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.inference.envelope import Bounds
from tests.ensemble.test_model import COMBINES, PREFIXES, TEXT, letters_of, table, three_members
from tests.support.tiny import default_tokenizer

WEIGHTS = [[1, -1, 0], [3, -1, -0.5], [1, 1, -1], [0.5, -2, 1.5]]


@pytest.fixture(scope="module")
def lms() -> list[ByteLM]:
    return three_members()


def defined(rows: Sequence[np.ndarray], weights: Sequence[float], alpha: float) -> np.ndarray:
    """The product of the members' rows (probabilities), symbol by symbol, as the documentation defines it."""
    total = sum(weight for weight in weights if weight > 0)
    score, side = [], []
    for symbol in range(257):
        given = [(weight, float(row[symbol])) for weight, row in zip(weights, rows, strict=True) if weight != 0]
        if any(p == 0 for _, p in given):
            score.append(0.0)
            side.append(0.0)
            continue
        score.append(math.prod(p**weight for weight, p in given))
        side.append(math.prod(p ** (weight / total) for weight, p in given if weight > 0))
    if alpha and min(weights) < 0 < total:
        score = [s if g >= alpha * max(side) else 0.0 for s, g in zip(score, side, strict=True)]
    return np.array(score) / sum(score)


def after(lms: Sequence[ByteLM], text: str | bytes) -> list[np.ndarray]:
    return [np.exp(lm.next_byte_logprobs(text)) for lm in lms]


@pytest.mark.parametrize("weights", WEIGHTS, ids=repr)
def test_rows_are_the_definition(lms: list[ByteLM], weights: list[float]) -> None:
    """A tenth of the likeliest by default; any other share; and 0 keeps all, as it was without a mask."""
    for prefix in PREFIXES:
        rows = after(lms, prefix)
        default = np.exp(Ensemble(lms, weights=weights, combine="product").next_byte_logprobs(prefix))
        np.testing.assert_allclose(default, defined(rows, weights, 0.1), atol=1e-12)
        assert (default == 0).any()
        for alpha in (0, 0.02, 0.5, 1):
            ensemble = Ensemble(lms, weights=weights, combine="product", alpha=alpha)
            expected = defined(rows, weights, alpha)
            np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(prefix)), expected, atol=1e-12)


def test_a_byte_that_both_sides_find_hopeless_is_not_written() -> None:
    """1e-9 against 1e-15 is the largest ratio; 0.3 against 0.2 is the largest of those that are plausible."""
    lms = letters_of({"a": 0.7, "c": 0.3 - 1e-9, "b": 1e-9}, {"a": 0.8, "c": 0.2 - 1e-15, "b": 1e-15})
    written = []
    for ensemble in (
        Ensemble(lms, weights=[1, -1], combine="product"),
        Ensemble(lms, weights=[1, -1], combine="product", alpha=0),
    ):
        done = ensemble.sample("", temperature=0, max_bytes=6)
        assert isinstance(done, Completion)
        written.append(done.bytes)

    assert written == [b"cccccc", b"bbbbbb"]


def test_without_a_negative_weight_alpha_makes_no_difference(lms: list[ByteLM]) -> None:
    """In no formula; nor where no weight is positive, as there is no positive side."""
    for combine in COMBINES:
        plain, strict = (Ensemble(lms, weights=[2, 0, 1], combine=combine, alpha=alpha) for alpha in (0, 1))
        np.testing.assert_array_equal(plain.next_byte_logprobs("the"), strict.next_byte_logprobs("the"))
        assert plain.description() == strict.description()
    plain, strict = (Ensemble(lms, weights=[-1, 0, -1], combine="product", alpha=alpha) for alpha in (0, 1))
    np.testing.assert_array_equal(plain.next_byte_logprobs("the"), strict.next_byte_logprobs("the"))


def test_weights_that_depend_on_the_text(lms: list[ByteLM]) -> None:
    """The mask is on where a weight is negative."""

    def weights(text: bytes) -> list[float]:
        return [1, -1, 0] if len(text) % 2 else [1, 1, 0]

    ensemble = Ensemble(lms, weights=weights, combine="product")
    for prefix in ("the", "the "):
        expected = defined(after(lms, prefix), weights(prefix.encode()), 0.1)
        np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(prefix)), expected, atol=1e-12)


def test_the_end_of_text_is_judged_as_a_byte_is() -> None:
    """It is left out where it is implausible, and left alone where it alone is plausible."""

    def row(*ends: float) -> list[float]:
        lms = letters_of(*({"a": (1 - end) / 2, "b": (1 - end) / 2, "": end} for end in ends))
        ensemble = Ensemble(lms, weights=[1, -1], combine="product")
        found: list[float] = np.exp(ensemble.next_byte_logprobs(""))[[97, 98, 256]].round(12).tolist()
        return found

    assert row(0.04, 1e-9) == [0.5, 0.5, 0]
    assert row(0.98, 0.98) == [0, 0, 1]
    assert row(0.04, 1 - 1e-9) == [0.5, 0.5, 0]


def test_what_a_member_rules_out_is_not_compared_with() -> None:
    """A weak member without an end of text rules the end out; what is plausible is so among the bytes that are left."""
    lms = letters_of({"a": 0.02, "b": 0.001, "": 0.979}, {"a": 0.5, "b": 0.5})
    row = np.exp(Ensemble(lms, weights=[1, -1], combine="product").next_byte_logprobs(""))

    assert row[[97, 98, 256]].tolist() == [1, 0, 0]


def test_scores_states_and_explanations_know_the_mask(lms: list[ByteLM]) -> None:
    """An implausible byte has −∞ everywhere, and so has a text that holds it; what follows it is the product again."""
    weights = [1, -1, 0]
    ensemble = Ensemble(lms, weights=weights, combine="product")
    chained = [float(np.log(defined(after(lms, TEXT[:i]), weights, 0.1) + 1e-300)[TEXT[i]]) for i in range(len(TEXT))]
    chained = [value if value > -600 else -math.inf for value in chained]

    assert -math.inf in chained
    assert max(chained) > -math.inf
    np.testing.assert_allclose(ensemble.byte_logprobs(TEXT), chained, atol=1e-9)
    assert ensemble.logprob(TEXT) == -math.inf
    told = ensemble.explain(TEXT)
    np.testing.assert_allclose(told.logprobs, chained, atol=1e-9)
    np.testing.assert_allclose(np.exp(told.rows[5]), defined(after(lms, TEXT[:5]), weights, 0.1), atol=1e-12)
    state = ensemble.state("")
    for byte, value in zip(TEXT, chained, strict=True):
        assert state.next_byte_logprobs()[byte] == pytest.approx(value, abs=1e-9)
        state = state.advance(bytes([byte]))


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 1.3, "top_p": 0.95}], ids=repr)
def test_completions_are_plausible_and_scored_as_drawn(lms: list[ByteLM], options: dict[str, Any]) -> None:
    """Lazily drawn bytes are those of full rows, each of them plausible, and the log-probability is their score."""
    ensemble = Ensemble(lms, weights=[1.5, -0.5, 0], combine="product")
    for seed in range(3):
        done, full = (
            ensemble.sample("the qui", max_bytes=5, seed=seed, logits_processor=each, **options)
            for each in (None, lambda _, row: row)
        )
        assert isinstance(done, Completion)
        assert done.logprob is not None
        assert done.logprob > -math.inf
        score = ensemble.logprob(done.bytes, prefix="the qui", eot=done.finish_reason == "eot")
        assert done.logprob == pytest.approx(score, abs=1e-9)
        if options:  # with these, a draw is a function of its uniform number and the row alone
            assert done.bytes == full.bytes


def test_it_nests_infills_and_is_described(lms: list[ByteLM]) -> None:
    """As a member, behind a cursor and in a fingerprint the product has its alpha."""
    inner, other = (Ensemble(lms[:2], weights=[1, -1], combine="product", alpha=alpha) for alpha in (0.3, 0))
    contrast = defined(after(lms[:2], "the"), [1, -1], 0.3)
    mixture = 0.5 * contrast + 0.5 * after(lms, "the")[2]

    np.testing.assert_allclose(np.exp(Ensemble([inner, lms[2]]).next_byte_logprobs("the")), mixture, atol=1e-12)
    assert inner.description() != other.description()
    done = inner.infill("the f", "ox", mode="left", max_bytes=4, seed=2)
    assert done == inner.sample("the f", max_bytes=4, seed=2)
    assert done != other.sample("the f", max_bytes=4, seed=2)


def test_bounds_hold_whatever_the_members_turn_out_to_be() -> None:
    """Random rows, zeros among them, of which random parts are known: the product lies within its bounds."""
    random = np.random.default_rng(5)
    weights = np.array([1.2, 0.4, -0.7])
    decided = 0
    for _ in range(60):
        rows, bounds = [], []
        for _ in range(3):
            row = np.zeros(257)
            row[:12] = random.dirichlet([0.5] * 12) * random.choice([0.0, 1.0], 12, p=[0.1, 0.9])
            open_ = random.choice([0.0, 1e-12, 1e-3, 0.1, 1.0])
            low = row * (1 - open_ * random.random(257))
            rest = float((row - low).sum()) * 1.01
            high = np.where(np.arange(257) < 12, np.minimum(low + rest, 1.0), 0.0)
            rows.append(row)
            bounds.append(Bounds(low, high if rest else low, rest))
        if not (np.min(rows, axis=0) > 0).any():
            continue
        for alpha in (0.1, 0.5, 1.0):
            expected = defined(rows, weights.tolist(), alpha)
            found = normalised(product_envelope(weights, bounds, alpha=alpha))
            assert (found.low <= expected + 1e-9).all()
            assert (expected <= found.high + 1e-9).all()
            assert expected.sum() - found.low.sum() <= found.rest + 1e-9
            decided += found.low.sum() > 0.5
    assert decided > 60


@pytest.mark.parametrize(
    ("alpha", "error"),
    [
        (-0.1, InvalidArgumentError),
        (1.5, InvalidArgumentError),
        (math.nan, InvalidArgumentError),
        ("1", InvalidTypeError),
    ],
)
def test_an_alpha_that_cannot_be(lms: list[ByteLM], alpha: Any, error: type[Exception]) -> None:
    """It is refused when the ensemble is made."""
    with pytest.raises(error, match="alpha must be"):
        Ensemble(lms, combine="product", alpha=alpha)


def test_default_tokenizers_are_as_they_were() -> None:
    """Nothing above depends on one vocabulary: the same member twice, one against the other, is uniform on the plausible."""
    lm = ByteLM(table(default_tokenizer(), seed=4))
    row = np.exp(Ensemble([lm, lm], weights=[1, -1], combine="product").next_byte_logprobs("the"))
    own = after([lm], "the")[0]

    np.testing.assert_allclose(row, (own >= 0.1 * own.max()) / (own >= 0.1 * own.max()).sum(), atol=1e-12)
