"""bytelm/sampling/sure_bytes.py against the lemma: what it calls certain is what the exact rows have, and masses are not summed for it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all
from bytelm.inference.likely_bytes import likely_bytes
from bytelm.inference.rows import RowReader
from bytelm.lemma import next_byte_logprobs, prefix_logprob
from bytelm.sampling.completion import random_stream
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.sure_bytes import LEEWAY, Sure, certain_bytes, lone_token, sure_bytes
from bytelm.symbols import EOT
from tests.support.toy import Ids, Toy, drawn_rows

TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb", b"abab", b"c")
MANY = (*TOKENS, *(b"%c" % c for c in range(100, 200)))  # with others, of which none is likely


def toy(seed: int, *, spread: float = 8.0) -> Toy:
    return Toy.of(
        TOKENS,
        drawn_rows(len(TOKENS), seed=seed, spread=spread),
        eot_ids=[5],
        viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
    )


def exact(t: Toy, prefix: bytes) -> np.ndarray:
    """The next-byte distribution."""
    parts = t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row
    return np.array(next_byte_logprobs(prefix, *parts, canonical=t.vocabulary.canonical, eot_ids=t.model.eot_ids))


FILTERS = [
    Filters(temperature=0),
    Filters(top_k=1),
    Filters(top_p=0.6),
    Filters(top_p=0.3, temperature=0.5),
    Filters(min_p=0.7),
    Filters(min_p=0.4, top_p=0.9, top_k=3),
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("limited", [False, True])
def test_what_is_certain_is_all_that_the_filters_keep(filters: Filters, limited: bool) -> None:
    """On random toys, however much is evaluated: of each certain byte, one by one, the exact filtered row is 1."""
    random, certain, open_ = np.random.default_rng(0), 0, 0
    for seed in range(200):
        t = toy(seed)
        text = bytes(random.choice([97, 98], size=random.integers(1, 6)).tolist())
        frontier = t.frontier(text[:1])
        t.answer(evaluate_all(frontier))
        for byte in text[1:]:
            if limited:
                frontier.known()  # what follows is then limited by the masses
            frontier = frontier.advance(bytes([byte]))
            if random.random() < 0.5:
                t.answer(evaluate(frontier, frontier.missing(1.0)))
        parts = t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row
        anchor = prefix_logprob(text[:1], *parts) - t.answer(mass_after(t, text[:1]))
        data, leak, log_most = t.answer(sure_bytes(frontier, filters))
        assert log_most >= prefix_logprob(text + data, *parts) - anchor - 1e-9
        open_ += not data
        assert not data or frontier.advance(data).limit == log_most
        for i, byte in enumerate(data):
            certain += 1
            with np.errstate(divide="ignore"):
                row = np.exp(exact(t, text + data[:i]))
            assert filters.apply(row)[byte] == pytest.approx(1.0, abs=1e-12), (seed, text, data, i)
            assert leak >= 1 - row.sum() - 1e-9

    assert certain > 20
    assert open_ > 10


def alone(frontier: Frontier) -> Sure:
    """What one token with more than half makes certain."""
    log_most = min(frontier.limit, likely_bytes(frontier).log_total)
    return lone_token(frontier, log_most, math.log(0.5 * LEEWAY))


def test_bytes_are_certain_that_no_token_has_alone() -> None:
    """Greedily: of a and b, a by two tokens; after it b by one of these, and what comes then is open."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(MANY), 1e-5)
        probs[[2, 7, 1]] = 0.3, 0.25, 0.4
        return probs / probs.sum()

    t = Toy.of(MANY, row, eot_ids=[5])
    frontier = t.frontier(b"c")
    t.answer(evaluate_all(frontier))

    assert alone(frontier).data == b""
    assert t.answer(sure_bytes(frontier, Filters(temperature=0))).data == b"ab"
    assert t.answer(sure_bytes(frontier, Filters(top_p=0.5))).data == b"ab"
    assert t.answer(sure_bytes(frontier, Filters(top_p=0.6))).data == b""


@pytest.mark.parametrize(("lost", "data"), [(0.2, b"ab"), (0.6, b"")])
def test_nothing_is_certain_where_a_leak_is_to_be_warned_of(lost: float, data: bytes) -> None:
    """What may be left of a row is shown exactly there: `LeakWarning`."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(MANY), 1e-5)
        probs[[2, 7, 1]] = 0.5 * (1 - lost), 0.3 * (1 - lost), 0.1 * (1 - lost)
        probs[-1] = lost
        return probs / probs.sum()

    t = Toy.of((*MANY[:-1], None), row, eot_ids=[5])
    frontier = t.frontier(b"c")
    t.answer(evaluate_all(frontier))

    assert certain_bytes(likely_bytes(frontier), Filters(temperature=0)).data[:2] == data


def test_a_node_that_decides_is_evaluated_before_masses_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what flows through it can make another byte the likeliest, whatever the other tokens of known rows are."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(MANY), 1e-5)
        if ids == (8,):
            probs[[0, 2, 4]] = 0.38, 0.22, 0.19  # a, ab and aab: no one has half of what begins with a
        else:
            probs[8] = 1.0
        return probs / probs.sum()

    t = Toy.of(MANY, row, eot_ids=[5])
    frontier = t.frontier(b"c")
    t.answer(evaluate_all(frontier))
    frontier = frontier.advance(b"a")
    monkeypatch.setattr(type(frontier), "known", lambda self: pytest.fail("masses were summed"))

    assert t.answer(sure_bytes(frontier, Filters(temperature=0))).data == b"c"
    assert frontier.complete


def mass_after(t: Toy, prefix: bytes) -> Any:
    """The log-mass of a prefix on the scale of a frontier that begins there."""
    frontier = t.frontier(prefix)
    yield from evaluate_all(frontier)
    return frontier.log_mass()


@pytest.mark.parametrize(
    "filters", [Filters(), Filters(top_k=2), Filters(top_p=1), Filters(temperature=1.5, top_p=0.5)]
)
def test_some_filters_leave_no_symbol_alone_for_its_share(filters: Filters) -> None:
    """Where one of two symbols may be drawn whatever the other has, or heat evens shares out before they are cut."""
    assert filters.lone_share is None


@pytest.mark.parametrize(("likely", "data"), [(2, b"ab"), (5, b""), (1, b"")])
def test_an_end_and_what_may_not_follow_are_not_certain(likely: int, data: bytes) -> None:
    """A text may end with more than half, and a model may leak it."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(TOKENS), 0.02)
        probs[likely if ids else 0] = 1 - 0.02 * (len(TOKENS) - 1)
        return probs

    t = Toy.of(TOKENS, row, eot_ids=[5], viable=lambda ids: (0, 1) not in itertools.pairwise(ids))
    frontier = t.frontier(b"a")
    t.answer(evaluate_all(frontier))

    assert alone(frontier).data == data
    assert certain_bytes(likely_bytes(frontier), Filters(temperature=0)).data == data
    if likely != 1:
        assert exact(t, b"a").argmax() == (EOT if likely == 5 else data[0])


def test_a_token_is_certain_from_inside_too() -> None:
    """After the first byte, which several tokens share, one has nearly all of what is left."""

    def row(ids: Ids) -> Any:
        return [0.05, 0.35, 0.05, 0.05, 0.05, 0.05, 0.02, 0.33, 0.05]  # b alone, and abab, which a, ab and aab rival

    t = Toy.of(TOKENS, row, eot_ids=[5])
    frontier = t.frontier(b"b")
    t.answer(evaluate_all(frontier))
    assert alone(frontier).data == b""

    frontier.known()
    inside = frontier.advance(b"a")

    assert inside.row(frontier.cover.nodes[-1]) is not None
    assert alone(inside).data == b"bab"


@pytest.mark.parametrize("stops", [(), (b"bb",)])
def test_masses_of_the_vocabulary_are_not_summed(stops: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one token has nearly all, a greedy text is written without; the same text, also where it may be stopped."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(TOKENS), 0.005)
        probs[[7, 8, 4][len(ids) % 3]] = 1 - 0.005 * (len(TOKENS) - 1)
        return probs

    whole: list[int] = []
    plain = RowReader.probs

    def counted(self: RowReader, *arguments: Any, **how: Any) -> Any:
        probs = plain(self, *arguments, **how)
        whole.append(len(probs) == len(self.order))
        return probs

    monkeypatch.setattr(RowReader, "probs", counted)
    texts = {}
    for lazy in (True, False):
        t = Toy.of(TOKENS, row, eot_ids=[5])
        whole.clear()
        params = SamplingParams(temperature=0, max_bytes=21, lazy=lazy, stop=stops)
        texts[lazy] = t.answer(t.generation(b"c", params, random_stream(0, 0)).run())
        assert sum(whole) <= 2 if lazy else sum(whole) > 6

    assert texts[True].bytes == texts[False].bytes == b"caab" + 2 * b"ababcaab" + b"a"
    assert texts[True].logprob == pytest.approx(texts[False].logprob, abs=1e-9)
