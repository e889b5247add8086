"""Draws from ensembles are draws from their rows: lazily or in full, on toys where most is unevaluated.

As in sampling/test_generation.py every statistical test has a fixed seed and fails below p = 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pytest

from bytelm.ensemble.combine import Combine, combined, weights_of
from bytelm.ensemble.likelihoods import Likelihoods
from bytelm.ensemble.place import Combination, EnsemblePlace
from bytelm.inference.envelope import conditional
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate_all
from bytelm.inference.scheduler import Scheduler, Step
from bytelm.lemma import prefix_logprob
from bytelm.sampling.bounds import lower_bounds
from bytelm.sampling.completion import random_stream
from bytelm.sampling.draw import settled
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace, Place
from bytelm.symbols import SYMBOLS
from evals.cost.lazy import p_value
from tests.sampling.test_generation import DRAWS, FILTERS, P_THRESHOLD, TOYS, exact_row, random_toy
from tests.support.toy import Toy

T = TypeVar("T")
ABC = [TOYS[name][0] for name in ("ties", "rare", "leaky")]  # all spell a, b and c, from the empty text on
WEIGHTS = {"mixture": [0.5, 0.3, 0.2], "bayes": [0.5, 0.3, 0.2], "product": [1.0, 0.5, -0.4]}
CONTRAST, ALPHA = [1.0, 0.5, -0.4], 0.3
COMBINES: list[Combine] = ["mixture", "bayes", "product"]


def answer(step: Step[T]) -> T:
    return Scheduler(ABC[0].model).run_one(step).result


def log_mass(toy: Toy, text: bytes) -> float:
    return prefix_logprob(text, toy.vocabulary.token_bytes, toy.vocabulary.viable, toy.model.row)


class Known(Likelihoods):
    """The toys' likelihoods, by lemma.py."""

    def __init__(self, toys: Sequence[Toy]) -> None:
        super().__init__([])
        self.toys = toys

    def of(self, i: int, prompt: object, text: bytes) -> Step[float]:
        yield from ()
        return log_mass(self.toys[i], text)


def joint_of(
    toys: Sequence[Toy], combine: Combine, weights: Sequence[float], prefix: bytes = b"", *, alpha: float = 0.0
) -> EnsemblePlace:
    combination = Combination(combine, weights_of(weights, len(toys), combine), alpha, Known(toys), (None,) * len(toys))
    return EnsemblePlace({i: toy.place(prefix) for i, toy in enumerate(toys)}, combination, prefix)


def lazy_joint(combine: Combine) -> EnsemblePlace:
    """After "a", of which only the place before it is evaluated."""
    joint = joint_of(ABC, combine, WEIGHTS[combine])
    answer(joint.begin())
    return joint.copy().advance(b"a")


def nested_joint() -> EnsemblePlace:
    """A mixture of one toy with bayes of two, and with a product of two; likewise lazy."""
    members: dict[int, Place] = {
        0: ABC[0].place(),
        1: joint_of(ABC[1:], "bayes", [0.5, 0.5]),
        2: joint_of(ABC[:2], "product", [0.7, 0.5]),
    }
    mixture = Combination("mixture", np.array([0.3, 0.4, 0.3]), 0.0, Known([]), (None,) * 3)
    joint = EnsemblePlace(members, mixture, b"")
    answer(joint.begin())
    return joint.copy().advance(b"a")


def formula(combine: Combine, weights: Sequence[float], toys: Sequence[Toy], text: bytes) -> np.ndarray:
    """The ensemble's row by lemma.py and the formula; a toy that rules the text out says nothing."""
    likelihoods = np.array([log_mass(toy, text) for toy in toys])
    with np.errstate(divide="ignore"):
        rows = np.log([exact_row(toy, text) for toy in toys])
    rows[np.isneginf(likelihoods)] = -np.inf
    return np.asarray(np.exp(combined(combine, weights_of(weights, len(toys), combine), rows, likelihoods, alpha=0.0)))


def exact(combine: Combine, text: bytes) -> np.ndarray:
    return formula(combine, WEIGHTS[combine], ABC, text)


def exact_nested(text: bytes) -> np.ndarray:
    rows = [exact_row(toy, text) for toy in ABC]
    masses = np.exp([log_mass(toy, text) for toy in ABC])
    bayes = (masses[1] * rows[1] + masses[2] * rows[2]) / (masses[1] + masses[2])
    product = rows[0] ** 0.7 * rows[1] ** 0.5
    return np.asarray(0.3 * rows[0] + 0.4 * bayes + 0.3 * product / product.sum())


def contrast_joint() -> EnsemblePlace:
    """The product with the plausibility mask; as lazy."""
    joint = joint_of(ABC, "product", CONTRAST, alpha=ALPHA)
    answer(joint.begin())
    return joint.copy().advance(b"a")


def exact_contrast(text: bytes) -> np.ndarray:
    """By definition: the ratio, of symbols with at least ALPHA of what the first two give their likeliest together."""
    first, second, third = (exact_row(toy, text) for toy in ABC)
    there = (first > 0) & (second > 0) & (third > 0)
    positive = np.where(there, first ** (2 / 3) * second ** (1 / 3), 0.0)
    kept = there & (positive >= ALPHA * positive.max())
    row = np.where(kept, first * second**0.5 * np.where(there, third, 1.0) ** -0.4, 0.0)
    assert 1 < kept.sum() < there.sum()
    return np.asarray(row / row.sum())


CASES = [*COMBINES, "contrast", "nested"]


def case(name: str) -> tuple[EnsemblePlace, np.ndarray]:
    if name == "nested":
        return nested_joint(), exact_nested(b"a")
    if name == "contrast":
        return contrast_joint(), exact_contrast(b"a")
    return lazy_joint(name), exact(name, b"a")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_lazy_and_the_bounds_hold(name: str) -> None:
    """Most is open when the byte is drawn; low ≤ p ≤ high, and Σ (p − low) ≤ rest; evaluated, the row is the formula."""
    joint, row = case(name)
    bounds = joint.bounds()

    assert bounds.rest > 0.2
    assert (bounds.low <= row + 1e-12).all()
    assert (row <= bounds.high + 1e-12).all()
    assert row.sum() - bounds.low.sum() <= bounds.rest + 1e-12
    np.testing.assert_allclose(np.exp(answer(joint.full_row())[0]), row, atol=1e-12)


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_lazy_draws_are_the_filtered_row(name: str, filters: Filters) -> None:
    """50,000 draws that begin with most unevaluated have the distribution of the full evaluation."""
    joint, row = case(name)
    random = np.random.default_rng(1)

    symbols = answer(joint.draw(filters, random.random(DRAWS), random))

    assert p_value(symbols, filters.apply(row)) > P_THRESHOLD


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
@pytest.mark.parametrize("name", ["bayes", "product", "contrast"])
def test_the_pieces_of_the_unit_interval_have_the_exact_lengths(name: str, filters: Filters) -> None:
    """Where a draw is a function of its uniform number alone, each symbol has its probability on a fine grid."""
    joint, row = case(name)
    grid = (np.arange(DRAWS) + 0.5) / DRAWS

    symbols = answer(joint.draw(filters, grid, np.random.default_rng(1)))

    lengths = np.bincount(symbols, minlength=SYMBOLS) / DRAWS
    np.testing.assert_allclose(lengths, filters.apply(row), atol=30 / DRAWS)


def drawn_afresh(joint: EnsemblePlace, random: np.random.Generator) -> np.ndarray:
    """The mutant: what fell on the unknown is drawn again once more is known."""
    symbols = np.full(DRAWS, -1)
    while (open_ := symbols < 0).any():
        bounds = lower_bounds(joint.envelope()[1], Filters())
        symbols[open_] = settled(random.random(int(open_.sum())), np.zeros(SYMBOLS), bounds)
        if not joint.complete:
            answer(joint.evaluate())
    return symbols


def leak_ignored(joint: EnsemblePlace, random: np.random.Generator) -> np.ndarray:
    """Another mutant: a member that was drawn is drawn from until it says something."""
    drawn = random.choice(3, DRAWS, p=joint.weights)
    answer(joint.evaluate_all())
    rows = [np.exp(member.row()) for member in joint.members.values()]
    symbols = np.zeros(DRAWS, np.int64)
    for i, row in enumerate(rows):
        symbols[drawn == i] = random.choice(SYMBOLS, int((drawn == i).sum()), p=row / row.sum())
    return symbols


@pytest.mark.parametrize("name", CASES)
def test_a_sampler_that_draws_afresh_fails(name: str) -> None:
    """It favours what was known first, and the tests above would see it."""
    joint, row = case(name)

    assert p_value(drawn_afresh(joint, np.random.default_rng(2)), row) < P_THRESHOLD


def test_a_sampler_that_forgets_the_leak_fails() -> None:
    """To stay with the member that was drawn is another mixture, where members leak differently."""
    joint, row = case("mixture")

    assert p_value(leak_ignored(joint, np.random.default_rng(2)), row) < P_THRESHOLD


@pytest.mark.parametrize("name", COMBINES)
def test_two_byte_strings_have_the_product_of_their_rows(name: Combine) -> None:
    """A second symbol drawn lazily after the first: what was left open before does no harm."""
    joint, row = lazy_joint(name), exact(name, b"a")
    random = np.random.default_rng(3)
    first = answer(joint.copy().draw(Filters(), random.random(DRAWS), random))
    for symbol in (97, 98, 99):
        lazy = lazy_joint(name).advance(bytes([symbol]))
        after = exact(name, b"a" + bytes([symbol]))
        symbols = answer(lazy.draw(Filters(), random.random(DRAWS), random))

        assert p_value(symbols, after) > P_THRESHOLD
    assert p_value(first, row) > P_THRESHOLD


def chained(combine: Combine, toys: Sequence[Toy], text: bytes, eot: bool) -> Step[float]:
    """Ln P of a text after "a", row by row."""
    yield from ()
    symbols = [*text, 256] if eot else [*text]
    rows = [formula(combine, [0.6, 0.4], toys, b"a" + text[:i]) for i in range(len(symbols))]
    return float(np.log([row[symbol] for row, symbol in zip(rows, symbols, strict=True)]).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINES)
@pytest.mark.parametrize("filters", [{"temperature": 0}, {"top_k": 3}, {}], ids=repr)
def test_completions_are_the_same_lazily_and_in_full(name: Combine, filters: dict[str, Any]) -> None:
    """Greedy bytes are the same, in fewer rows; any completion's log-probability is its score."""
    rows = {True: 0, False: 0}
    for seed in range(12):
        toys = [random_toy(seed), random_toy(seed + 40)]
        found = {}
        for lazy in (True, False):
            joint = joint_of(toys, name, [0.6, 0.4], b"a")

            score = partial(chained, name, toys)
            params = SamplingParams(**filters, max_bytes=5, lazy=lazy)
            outcome = Scheduler(toys[0].model).run_one(
                ByteGeneration(joint, params, random_stream(seed, 0), score).run()
            )
            found[lazy] = outcome.result
            rows[lazy] += outcome.usage.rows
            expected = answer(score(outcome.result.bytes, outcome.result.finish_reason == "eot"))
            assert outcome.result.logprob == pytest.approx(expected, abs=1e-9)
        if filters.get("temperature") == 0:
            assert found[True].bytes == found[False].bytes
            assert found[True].finish_reason == found[False].finish_reason
    assert rows[True] < rows[False]


def test_bounds_of_a_conditional_probability() -> None:
    """P(x) is only bounded too: the bounds hold for whatever the truth may be, and close when all is known."""
    for name in TOYS:
        toy, known, ahead = TOYS[name]
        frontier: Frontier = toy.frontier(known)
        toy.answer(evaluate_all(frontier))
        solo = ModelPlace(frontier.advance(ahead), toy.model)
        row = exact_row(toy, known + ahead)
        bounds = solo.bounds()

        assert (bounds.low <= row + 1e-12).all()
        assert (row <= bounds.high + 1e-12).all()
        assert row.sum() <= bounds.low.sum() + bounds.rest + 1e-12
        answer(solo.evaluate_all())
        assert solo.bounds().rest == 0
        np.testing.assert_allclose(solo.bounds().low, row, atol=1e-12)
        assert not conditional(solo.envelope()[1], 0.0, 0.0).high.any()
