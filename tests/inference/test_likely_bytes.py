"""bytelm/inference/likely_bytes.py against the lemma: what it says of masses holds, and is nearly all where rows are peaked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bytelm.engines.device_rows import Shelf
from bytelm.engines.rows import ROW_TOLERANCE
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all
from bytelm.inference.likely_bytes import LikelyBytes, likely_bytes
from bytelm.inference.rows import RowReader
from bytelm.lemma import next_byte_logprobs, prefix_logprob
from bytelm.symbols import EOT
from bytelm.tokenizer.prefix_index import PrefixIndex
from tests.support.toy import Toy, drawn_rows

# Id 5 ends a text, and id 9 spells nothing.
TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", b"c", b"bb", b"abab", b"c", None, *(b"%c" % c for c in range(100, 120)))


def toy(seed: int) -> Toy:
    return Toy.of(
        TOKENS,
        drawn_rows(len(TOKENS), seed=seed, spread=6.0),
        eot_ids=[5],
        viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
    )


def at_random(seed: int, *, device: bool) -> Iterator[tuple[Toy, Frontier, float]]:
    """Frontiers of texts, evaluated as far as it happened; and what ln P of a text is more than in their masses."""
    random, shelf = np.random.default_rng(seed), Shelf([5])
    for number in range(80):
        t = toy(1000 * seed + number)
        text = bytes(random.choice([97, 98], size=random.integers(1, 6)).tolist())
        frontier = t.frontier(text[:1])
        if device:
            read = frontier.reader.read

            def far(row: Any, **how: Any) -> Any:
                (there,) = shelf.rows(torch.tensor(np.asarray(row))[None])
                return read(there, **how)  # noqa: B023

            frontier.reader.read = far  # type: ignore[method-assign]
        t.answer(evaluate_all(frontier))
        parts = t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row
        start = prefix_logprob(text[:1], *parts) - frontier.log_mass()
        for byte in text[1:]:
            frontier = frontier.advance(bytes([byte]))
            if random.random() < 0.5:
                t.answer(evaluate(frontier, frontier.missing(1.0)))
        yield t, frontier, start


def masses(t: Toy, text: bytes) -> tuple[float, np.ndarray]:
    """P of a text, and of it with each symbol, by the lemma."""
    parts = t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row
    mass = math.exp(prefix_logprob(text, *parts))
    with np.errstate(divide="ignore"):
        row = next_byte_logprobs(text, *parts, canonical=t.vocabulary.canonical, eot_ids=t.model.eot_ids)
        return mass, mass * np.exp(row)


def held(t: Toy, ahead: LikelyBytes, text: bytes, start: float) -> float:
    """How much of P of a text is known; after seeing that all that is said of it holds."""
    unit = math.exp(ahead.log_unit + start)
    mass, exact = masses(t, text)
    slack = 1e-9 * mass
    assert (ahead.known * unit <= exact + slack).all()
    assert (exact <= (ahead.known + ahead.open) * unit + slack)[:EOT].all()
    assert mass <= ahead.total * unit + slack
    assert mass <= math.exp(ahead.log_total + start) + slack
    assert 0 <= ahead.front <= ahead.open
    return float(ahead.known.sum() * unit / mass)


@pytest.mark.parametrize("device", [False, True])
def test_masses_lie_within_what_is_known_and_what_is_open(device: bool) -> None:
    """At random frontiers, and after more bytes, as far as tokens show any."""
    shares, deep, fronts = [], 0, 0
    for t, frontier, start in at_random(0, device=device):
        ahead, text = likely_bytes(frontier), frontier.prefix
        fronts += ahead.front > 0
        if frontier.complete:
            mass, exact = masses(t, text)
            assert ahead.eot * math.exp(ahead.log_unit + start) == pytest.approx(exact[EOT], abs=1e-6 * mass)
        shares.append(held(t, ahead, text, start))
        for byte in ahead.heaviest()[1]:
            ahead, text, deep = ahead.after(byte), text + bytes([byte]), deep + 1
            held(t, ahead, text, start)

    assert deep > 20
    assert fronts > 10
    assert sum(share > 0.5 for share in shares) > 5


def test_what_a_token_has_that_ends_is_open_from_there_on() -> None:
    """After a, what the token a has may go on with any byte."""

    def row(ids: Any) -> Any:
        probs = np.full(len(TOKENS), 0.001)
        if ids == (1,):
            probs[[0, 2, 7]] = 0.35, 0.3, 0.3  # a, ab and abab
        else:
            probs[1 if not ids else 8] = 10.0
        return probs / probs.sum()

    t = Toy.of(TOKENS, row, eot_ids=[5])
    frontier = t.frontier(b"b")
    t.answer(evaluate_all(frontier))
    start = prefix_logprob(b"b", t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row) - frontier.log_mass()

    ahead = likely_bytes(frontier).after(ord("a"))

    assert held(t, ahead, b"ba", start) < 0.7
    assert ahead.open > 0.3 * ahead.total


def test_the_heaviest_token_is_that_of_the_text() -> None:
    """Its bytes follow the text, and have what it has of P at least."""
    seen = 0
    for t, frontier, start in at_random(1, device=False):
        ahead = likely_bytes(frontier)
        mass, data = ahead.heaviest()
        if mass == 0:
            continue
        seen += 1
        assert math.exp(ahead.log_unit + start) * mass <= masses(t, frontier.prefix + data)[0] * (1 + 1e-9)
        if len(data) > 1:
            assert ahead.after(data[0]).heaviest()[0] == mass
    assert seen > 30


def test_the_likely_ranks_of_a_row() -> None:
    """Those above the limit, in byte order; ends, what spells nothing and padding are not among them, nor in the rest."""
    reader = RowReader(PrefixIndex([b"b", None, b"a", b"c"]), vocab_size=100, eot_ids=[3])
    probs = np.full(100, 0.001)
    probs[[0, 1, 2, 3, 99]] = 0.2, 0.1, 0.3, 0.2, 0.1
    probs[4:99] *= 0.1 / probs[4:99].sum()

    ranks, likely, rest = reader.read(np.log(probs)).likely_ranks

    assert ranks.tolist() == [0, 1]
    assert likely == pytest.approx([0.3, 0.2])
    assert rest == pytest.approx(0.1 + ROW_TOLERANCE)
    assert reader.least_likely == pytest.approx(math.exp(2) / 100)


def test_a_row_after_the_root_is_open_where_tokens_have_two_spellings() -> None:
    """A likely token would be looked for at its own rank alone."""
    t = toy(0)
    frontier = t.frontier(b"a")
    t.answer(evaluate_all(frontier))
    plain = likely_bytes(frontier)

    frontier.reader.prefix_index.respelled = True
    careful = likely_bytes(frontier)

    assert careful.open > plain.open
    assert (careful.known <= plain.known).all()
