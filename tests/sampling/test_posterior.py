"""Members of covers, drawn by shares and by walks, against the lemma's terms: one distribution, whatever way was drawn before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bytelm.cover.nodes import path_down
from bytelm.errors import ModelError
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all
from bytelm.lemma import cover
from bytelm.sampling import posterior as members
from bytelm.sampling.posterior import CoverMember, at_temperature, by_bounds, by_shares, by_walks
from evals.cost.lazy import p_value
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.toy import Ids, Toy, drawn_rows

TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb", b"abab", b"baa", b"aaab")
DRAWS = 700


def toy(spread: float = 1.0) -> Toy:
    return Toy.of(
        TOKENS,
        drawn_rows(len(TOKENS), seed=3, spread=spread),
        eot_ids=[5],
        viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
    )


def posterior(t: Toy, prefix: bytes) -> dict[Ids, float]:
    """Each member's probability, from the lemma: the cover that it enumerates."""
    weights = {}
    for ids in cover(prefix, TOKENS, t.vocabulary.viable):
        weights[ids] = math.exp(sum(t.model.row(ids[:i])[token] for i, token in enumerate(ids)))
    return {ids: weight / sum(weights.values()) for ids, weight in weights.items()}


def ways(t: Toy, prefix: bytes) -> list[dict[Any, float]]:
    """The ways to each of the nodes, from the root, and their log-weights."""
    whole = t.frontier(prefix)
    t.answer(evaluate_all(whole))
    root = t.vocabulary.node(())
    return [
        {
            node: float(sum(t.model.row(node.token_ids[:i])[token] for i, token in enumerate(node.token_ids)))
            for node in path_down(root, leaf)
        }
        for leaf in whole.nodes
    ]


def along(t: Toy, prefix: bytes, way: Mapping[Any, float]) -> Frontier:
    """A frontier of which nothing is known but the way."""
    return Frontier(t.vocabulary.cover(prefix), context=(), reader=t.reader, weights=dict(way))


def ids_of(member: CoverMember) -> Ids:
    return (*member.node.token_ids, *(() if member.token is None else (member.token,)))


def fit(drawn: list[CoverMember], probs: dict[Ids, float]) -> float:
    places = {ids: i for i, ids in enumerate(probs)}
    assert all(ids_of(member) in places for member in drawn)
    return p_value(np.array([places[ids_of(member)] for member in drawn]), np.array([*probs.values()]))


@pytest.mark.parametrize("temperature", [0.5, 1, 3.0])
@pytest.mark.parametrize("prefix", [b"ba", b"aab", b"abab", b"baabab"])
def test_members_at_a_temperature(prefix: bytes, temperature: float) -> None:
    """Chi-square against the lemma's terms to the power 1/T; each has its log-weight and its tokens."""
    t, random = toy(), np.random.default_rng(2)
    probs = {ids: prob ** (1 / temperature) for ids, prob in posterior(t, prefix).items()}
    drawn = [t.answer(at_temperature(t.frontier(prefix), temperature, random)) for _ in range(DRAWS)]

    assert fit(drawn, {ids: power / sum(probs.values()) for ids, power in probs.items()}) > P_THRESHOLD
    off = set()  # log-weights are relative to one node
    for member in drawn[:40]:
        ids = ids_of(member)
        assert member.token_ids == ids
        expected = sum(t.model.row(ids[:i])[token] for i, token in enumerate(ids))
        off.add(round(member.log_weight + member.logprob - expected, 9))
    assert len(off) == 1


@pytest.mark.parametrize("prefix", [b"a", b"ba", b"aab", b"abab", b"aaba", b"baabab"])
def test_at_temperature_0_it_is_the_likeliest_member(prefix: bytes) -> None:
    """By the lemma's terms; no random number is drawn."""
    t = toy()
    probs = posterior(t, prefix)
    random = np.random.default_rng(3)
    before = random.bit_generator.state

    assert ids_of(t.answer(at_temperature(t.frontier(prefix), 0, random))) == max(probs, key=probs.__getitem__)
    assert random.bit_generator.state == before


@pytest.mark.parametrize("prefix", [b"a", b"ba", b"aab", b"abab", b"aaba", b"baabab"])
def test_shares_have_the_posterior(prefix: bytes) -> None:
    """Chi-square of members drawn by shares, and each one's log-weights."""
    t, random = toy(), np.random.default_rng(1)
    drawn = [t.answer(by_shares(t.frontier(prefix), random)) for _ in range(DRAWS)]

    assert fit(drawn, posterior(t, prefix)) > P_THRESHOLD


@pytest.mark.parametrize("prefix", [b"a", b"ba", b"aab", b"abab", b"aaba", b"baabab"])
def test_bounds_on_shares_have_the_posterior(prefix: bytes) -> None:
    """So do members drawn by bounds, whatever is known; mostly not all of P(x) is evaluated for one."""
    t, random = toy(), np.random.default_rng(4)
    drawn, rows = [], []
    for i in range(DRAWS):
        frontier = t.frontier(prefix)
        t.answer(evaluate(frontier, frontier.missing()[: i % 3]))
        drawn.append(t.answer(by_bounds(frontier, random)))
        rows.append(len(frontier.missing(purpose="mass")))

    assert fit(drawn, posterior(t, prefix)) > P_THRESHOLD
    assert len(prefix) < 4 or np.mean(np.array(rows) > 0) > 0.1


@pytest.mark.parametrize("prefix", [b"a", b"aab", b"abab", pytest.param(b"baabab", marks=pytest.mark.slow)])
def test_walks_have_the_posterior_whatever_way_was_drawn(prefix: bytes) -> None:
    """So do walks, along the way to each node; the log-weights are sums along the sequence."""
    t = toy()
    probs = posterior(t, prefix)
    for i, way in enumerate(ways(t, prefix)[::3]):
        random = np.random.default_rng(20 + i)
        drawn = [t.answer(by_walks(along(t, prefix, way), way, random)) for _ in range(DRAWS)]

        assert fit(drawn, probs) > P_THRESHOLD, [*way]
        for member in drawn[:50]:
            ids = ids_of(member)
            total = sum(t.model.row(ids[:j])[token] for j, token in enumerate(ids))
            assert member.log_weight + member.logprob == pytest.approx(total, abs=1e-9)


@pytest.mark.slow
def test_what_happens_to_be_known_changes_no_draw() -> None:
    """The same random numbers draw the same members, with all rows known or none."""
    t = toy()
    for way in ways(t, b"baabab"):
        known = along(t, b"baabab", way)
        t.answer(evaluate_all(known))
        for seed in range(60):
            fresh = t.answer(by_walks(along(t, b"baabab", way), way, np.random.default_rng(seed)))

            assert ids_of(t.answer(by_walks(known, way, np.random.default_rng(seed)))) == ids_of(fresh)


@pytest.mark.parametrize("prefix", [b"aab", b"abab", b"baabab"])
def test_rows_asked_for_at_once_change_no_draw(prefix: bytes) -> None:
    """The same members by the same random numbers, and never more than one request."""
    t = toy()
    for way in ways(t, prefix)[::3]:
        for seed in range(20):
            draws = []
            for at_once in (False, True):
                t.model.asked.clear()
                step = by_walks(along(t, prefix, way), way, np.random.default_rng(seed), at_once=at_once)
                draws.append(ids_of(t.answer(step)))
            assert draws[0] == draws[1]
            assert len(t.model.asked) <= 1


def test_walks_ask_for_fewer_rows() -> None:
    """A walk that keeps to the way needs none; on the average it takes fewer than shares do."""
    t = toy(spread=4.0)
    shares: list[int] = []
    walks: list[int] = []
    for prefix in (b"aab", b"abab", b"aaba", b"baabab"):
        probs = posterior(t, prefix)
        likeliest = max(probs, key=probs.__getitem__)
        way = max(ways(t, prefix), key=lambda way: sum(node.token_ids == likeliest[: node.depth] for node in way))
        for seed in range(50):
            for rows, draw in (
                (shares, by_shares(along(t, prefix, way), np.random.default_rng(seed))),
                (walks, by_walks(along(t, prefix, way), way, np.random.default_rng(seed))),
            ):
                t.model.asked.clear()
                t.answer(draw)
                rows.append(sum(map(len, t.model.asked)))

    assert sum(walks) < 0.75 * sum(shares)
    assert min(walks) == 0


def test_walks_that_lead_nowhere_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries it is drawn by shares: a prefix of which nothing comes is an error there."""
    t = Toy.of(TOKENS, lambda ids: np.eye(len(TOKENS))[5], eot_ids=[5])
    way: dict[Any, float] = {t.vocabulary.node(()): 0.0}
    with pytest.raises(ModelError, match="probability 0"):
        t.answer(by_walks(along(t, b"ab", way), way, np.random.default_rng(0)))

    t = toy()
    monkeypatch.setattr(members, "TRIES", 0)
    random = np.random.default_rng(1)
    drawn = [t.answer(by_walks(along(t, b"ab", way), way, random)) for way in ways(t, b"ab")[:1] for _ in range(DRAWS)]
    assert fit(drawn, posterior(t, b"ab")) > P_THRESHOLD
