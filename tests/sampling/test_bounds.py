"""Lower bounds on the drawing distribution, against every kind of distribution that they allow for."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.inference.envelope import Envelope
from bytelm.sampling.bounds import acceptance, lower_bounds, passing
from bytelm.sampling.filters import Filters
from bytelm.symbols import EOT, SYMBOLS

FILTERS = [
    Filters(),
    Filters(temperature=0),
    Filters(temperature=0.3),
    Filters(temperature=0.7),
    Filters(temperature=1.7),
    Filters(temperature=5),
    Filters(top_k=1),
    Filters(top_k=3),
    Filters(top_k=4, temperature=1.5),
    Filters(top_p=0.6),
    Filters(top_p=0.95),
    Filters(top_p=0.9, temperature=0.6),
    Filters(top_p=0.9, temperature=1.4),
    Filters(min_p=0.05),
    Filters(min_p=0.4, temperature=0.8),
    Filters(min_p=0.2, temperature=2),
    Filters(temperature=0.8, top_k=5, top_p=0.9, min_p=0.1),
    Filters(temperature=1.2, top_k=2, top_p=0.7, min_p=0.3),
]
USED = [*range(5), 200, EOT]  # the symbols that have any mass: few, so that the filters cut among them


class Case:
    """Known masses, and nodes with a weight and a reach each."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.known = np.zeros(SYMBOLS)
        shape = random.choice([0.2, 1.0, 5.0])
        self.known[USED] = random.dirichlet(np.full(len(USED), shape)) * (random.random(len(USED)) < 0.8)
        if random.random() < 0.2:  # ties
            self.known[USED[:3]] = 0.25
        self.weights = random.random(random.integers(1, 4)) * random.choice([1e-4, 0.02, 0.2, 3.0])
        self.reaches = []
        for _ in self.weights:
            reach = np.zeros(SYMBOLS, np.bool_)
            reach[random.choice(USED, size=random.integers(1, len(USED) + 1), replace=False)] = True
            self.reaches.append(np.ones(SYMBOLS, np.bool_) if random.random() < 0.3 else reach)

    @property
    def envelope(self) -> Envelope:
        extra, elsewhere = np.zeros(SYMBOLS), np.zeros(SYMBOLS)
        for weight, reach in zip(self.weights, self.reaches, strict=True):
            extra += weight * reach
            elsewhere += weight * (reach.sum() > reach)
        return Envelope(self.known, extra, elsewhere, float(self.weights.sum()))

    def truth(self) -> np.ndarray:
        """Masses that the nodes can pay for: all on one symbol, spread out, or partly leaked."""
        masses = self.known.copy()
        for weight, reach in zip(self.weights, self.reaches, strict=True):
            reached = [symbol for symbol in USED if reach[symbol]]
            if not reached:
                continue
            match self.random.integers(4):
                case 0:
                    masses[self.random.choice(reached)] += weight
                case 1:
                    masses[reached] += weight / len(reached)
                case 2:
                    masses[reached] += weight * self.random.random() * self.random.dirichlet(np.ones(len(reached)))
                case _:
                    masses[self.random.choice(reached)] += weight * self.random.random()
        return masses


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_bounds_hold_for_all_that_nodes_can_pay_for(filters: Filters) -> None:
    """No symbol has less than its bound, whatever the unevaluated nodes turn out to hold."""
    random = np.random.default_rng(7)
    tight = 0
    for _ in range(80):
        case = Case(random)
        bounds = lower_bounds(case.envelope, filters)
        for _ in range(12):
            masses = case.truth()
            if masses.any():
                slack = filters.apply(masses) - bounds
                assert slack.min() >= -1e-12
        tight += bounds.sum() > 0

    assert tight > 15  # the bounds are not simply 0


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_what_passes_holds_for_all_that_nodes_can_pay_for(filters: Filters) -> None:
    """What certainly passes is kept, and what cannot pass is not, whatever the unevaluated nodes turn out to hold."""
    random = np.random.default_rng(8)
    told = 0
    for _ in range(80):
        case = Case(random)
        certain, possible = passing(case.envelope, filters)
        assert (certain <= possible).all()
        for _ in range(12):
            masses = case.truth()
            if masses.any():
                kept = filters.apply(masses) > 0
                assert kept[certain].all()
                assert possible[kept].all()
        told += bool((certain == possible)[USED].any())
        known = Envelope(case.known, np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)
        if case.known.any():
            for kept in passing(known, filters):
                np.testing.assert_array_equal(kept, filters.apply(case.known) > 0)

    assert told > 15


@pytest.mark.parametrize("temperature", [0.3, 0.8, 0.99, 1])
def test_acceptance_is_within_its_bounds(temperature: float) -> None:
    """Whatever the unevaluated nodes hold; and they meet where nothing is unknown."""
    random = np.random.default_rng(9)
    told = 0
    for _ in range(80):
        case = Case(random)
        for symbol in USED:
            least, most = acceptance(case.envelope, temperature, symbol)
            told += most - least < 0.5
            for _ in range(4):
                masses = case.truth()
                if masses.any():
                    exact = (masses[symbol] / masses.max()) ** (1 / temperature - 1)
                    assert least * (1 - 1e-9) <= exact <= most * (1 + 1e-9)
            if case.known.any():
                known = Envelope(case.known, np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)
                assert acceptance(known, temperature, symbol) == pytest.approx(
                    [(case.known[symbol] / case.known.max()) ** (1 / temperature - 1)] * 2
                )

    assert told > 100


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_bounds_are_the_distribution_when_nothing_is_unknown(filters: Filters) -> None:
    """With U = 0 the bounds are the filtered row itself."""
    known = np.zeros(SYMBOLS)
    known[USED] = [0.3, 0.1, 0.05, 0.2, 0.01, 0.04, 0.2]

    actual = lower_bounds(Envelope(known, np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0), filters)

    np.testing.assert_array_equal(filters.apply(known), actual)


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_bounds_come_near_as_the_unknown_shrinks(filters: Filters) -> None:
    """With little unknown nearly every draw is settled, unless a filter's edge is too close to call."""
    random = np.random.default_rng(11)
    sums = []
    for _ in range(60):
        case = Case(random)
        if case.known.any() and len(set(case.known[case.known > 0])) == (case.known > 0).sum():
            case.weights = np.full(len(case.weights), 1e-9 ** max(1, filters.temperature))
            sums.append(lower_bounds(case.envelope, filters).sum())

    assert np.mean(np.array(sums) > 0.98) > 0.9


def test_temperature_one_is_settled_as_often_as_by_rejection() -> None:
    """At temperature 1 the bounds sum to ΣK / (ΣK + U) when every node reaches every symbol."""
    known = np.zeros(SYMBOLS)
    known[USED] = 0.1
    everywhere = np.full(SYMBOLS, 0.3)

    actual = lower_bounds(Envelope(known, everywhere, everywhere, 0.3), Filters())

    assert pytest.approx(0.7 / 1.0) == actual.sum()


def test_a_node_that_reaches_one_symbol_need_not_be_asked_about_it() -> None:
    """Mass that can only go to the leader does not put the leader in doubt."""
    known, extra, elsewhere = np.zeros(SYMBOLS), np.zeros(SYMBOLS), np.full(SYMBOLS, 0.5)
    known[65], known[66] = 0.6, 0.4
    extra[65], elsewhere[65] = 0.5, 0.0

    assert lower_bounds(Envelope(known, extra, elsewhere, 0.5), Filters(temperature=0))[65] == 1
    assert pytest.approx(0.6) == lower_bounds(Envelope(known, extra, elsewhere, 0.5), Filters())[65]


def test_greedy_is_not_certain_of_a_tie() -> None:
    """A leader that could be drawn level with is not certain, though the tie might go its way."""
    known = np.zeros(SYMBOLS)
    known[65], known[66] = 0.5, 0.4
    for unknown, certain in ((0.1, 0), (0.0999, 1)):
        extra = np.full(SYMBOLS, unknown)

        assert certain == lower_bounds(Envelope(known, extra, extra, unknown), Filters(temperature=0)).sum()
