"""Weights, bounds and masses of boundary nodes, against sums over the cover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bytelm.cover.nodes import common_ancestor
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all, full_row
from bytelm.inference.rows import RowStore
from bytelm.lemma import cover, end_logprob, prefix_logprob, sequence_logprob
from tests.support.toy import Toy, drawn_rows

TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb", b"abab")


def toy(seed: int = 1) -> Toy:
    return Toy.of(
        TOKENS,
        drawn_rows(len(TOKENS), seed=seed),
        eot_ids=[5],
        viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
        canonical=lambda ids: ids[-1:] != (0,),
    )


@pytest.mark.parametrize("prefix", [b"", b"a", b"ab", b"aab", b"abab", b"baabab"])
def test_masses_are_the_lemmas(prefix: bytes) -> None:
    """Relative to the root, the log-masses are ln P(x) and ln P(x, end of text)."""
    t = toy()
    frontier = Frontier(t.vocabulary.cover(prefix), context=(), reader=t.reader, weights={t.vocabulary.node(()): 0.0})
    t.answer(evaluate_all(frontier))
    parts = TOKENS, t.vocabulary.viable, t.model.row
    end = end_logprob(prefix, *parts, canonical=t.vocabulary.canonical, eot_ids=[5])

    assert frontier.log_mass() == pytest.approx(prefix_logprob(prefix, *parts), abs=1e-12)
    assert frontier.log_end_mass() == pytest.approx(end, abs=1e-12)
    assert frontier.complete
    assert frontier.log_bound() == -math.inf


def test_weights_follow_a_text_as_it_grows() -> None:
    """Advancing byte by byte, evaluated or not in between, gives the weights of an evaluation from the beginning."""
    t = toy()
    random = np.random.default_rng(0)
    text = b"abaababba"
    for _ in range(20):
        frontier = t.frontier(b"")
        for byte in text:
            if random.random() < 0.4:
                t.answer(evaluate_all(frontier))
            elif random.random() < 0.5 and (nodes := frontier.missing(1.0)):
                t.answer(evaluate(frontier, nodes))
            frontier = frontier.advance(bytes([byte]))
        t.answer(evaluate_all(frontier))

        for node in frontier.nodes:
            assert frontier.weights[node] == pytest.approx(sequence_logprob(node.token_ids, t.model.row), abs=1e-12)


def test_what_is_missing_comes_parents_first_and_heaviest_at_least() -> None:
    """A request holds the heaviest front node, all below it, and those that hold a share; nothing that is known."""
    t = toy(2)
    frontier = t.frontier(b"")
    t.answer(evaluate_all(frontier))
    for byte in b"aab":
        frontier = frontier.advance(bytes([byte]))
    everything, heaviest = frontier.missing(), frontier.missing(1.0)

    assert set(heaviest) < set(everything)
    assert [node.depth for node in everything] == sorted(node.depth for node in everything)
    assert all(frontier.row(node) is None for node in everything)
    tops = {node: frontier.weights[node] for node in everything if node in frontier.weights}
    assert max(tops, key=tops.__getitem__) in heaviest
    assert set(frontier.missing(1e-12)) == set(everything)


def test_reach_is_what_viable_tokens_spell_next() -> None:
    """A node with a leftover can only bring the bytes that its tokens have next; a node without one, anything."""
    t = toy()
    frontier = t.frontier(b"")
    for byte in b"ab":
        frontier = frontier.advance(bytes([byte]))
    # Nothing is evaluated: all hangs on the root. Of its nodes [a]'s b and [ab], [ab] may go anywhere.
    assert frontier.envelope()[1].extra.min() == 1
    root = t.vocabulary.node(())

    reached = frontier._reached([root])

    assert np.flatnonzero(reached).tolist() == [97]  # abab


def test_a_frontier_keeps_the_rows_of_its_own_nodes_alone() -> None:
    """Rows of nodes that are gone are let go, those of nodes that live on are shared with the next frontier."""
    t = toy()
    frontier = t.frontier(b"")
    for byte in b"abababab":
        t.answer(evaluate_all(frontier))
        frontier = frontier.advance(bytes([byte]))

        assert set(frontier.rows) <= {*frontier.nodes, *(node.parent for node in frontier.nodes)}


@pytest.mark.parametrize("budget", [0, 100, 10**6])
def test_an_evicted_row_is_asked_for_again_and_no_answer_changes(budget: int) -> None:
    """With a store of any size the rows of a text are the same, on the way there and on the way back."""
    t = toy()
    store = RowStore(budget)
    text = b"abaabab"
    expected = [t.answer(full_row(t.frontier(text[:n])))[0] for n in range(len(text) + 1)]
    frontiers = [Frontier(t.vocabulary.cover(b""), context=(), reader=t.reader, store=store)]
    for byte in text:
        t.answer(evaluate_all(frontiers[-1]))
        frontiers.append(frontiers[-1].advance(bytes([byte])))
    t.answer(evaluate_all(frontiers[-1]))
    t.model.asked.clear()
    for n in range(len(text), -1, -1):
        light = Frontier(frontiers[n].cover, context=(), reader=t.reader, weights=frontiers[n].weights, store=store)

        np.testing.assert_allclose(t.answer(full_row(light))[0], expected[n], atol=1e-12)

    assert t.model.asked == [] if budget == 10**6 else len(t.model.asked) > 3
    assert store.currsize <= budget


def test_the_common_ancestor_is_the_deepest() -> None:
    """It is the longest sequence that all begin with, which may be one of them."""
    node = toy().vocabulary.node

    assert common_ancestor([node((3, 0, 1)), node((3, 0, 4, 4)), node((3, 0))]) is node((3, 0))
    assert common_ancestor([node((3, 0, 1)), node((3, 0, 4, 4))]) is node((3, 0))
    assert common_ancestor([node((3,)), node((0, 0))]) is node(())


def test_every_cover_member_is_counted_once() -> None:
    """The members that go beyond the prefix and those that end with it make up P(x)."""
    t = toy()
    members = cover(b"ab", TOKENS, t.vocabulary.viable)
    longer = [ids for ids in members if t.vocabulary.spell(ids) != b"ab"]

    assert longer
    assert len(longer) < len(members)


def test_a_mass_needs_fewer_rows_than_the_next_byte() -> None:
    """P(x) takes a node that spells just x by its weight: its row is for what comes after."""
    t = toy()
    frontier = t.frontier(b"")
    t.answer(evaluate_all(frontier))
    frontier = frontier.advance(b"a")
    spelled = [node for node in frontier.nodes if not frontier.cover.leftover(node)]

    assert spelled
    assert set(frontier.missing(purpose="row")) >= set(spelled)
    assert not set(frontier.missing(purpose="mass")) & set(spelled)
    assert set(frontier.missing(purpose="end")) == {n for n in frontier.cover.ending if frontier.row(n) is None}
