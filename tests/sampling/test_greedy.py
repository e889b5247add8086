"""bytelm/sampling/greedy.py against the lemma: what it calls certain is what the exact rows have, and masses are not summed for it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from bytelm.inference.lazy import evaluate, evaluate_all
from bytelm.inference.rows import RowReader
from bytelm.lemma import next_byte_logprobs, prefix_logprob, sequence_logprob
from bytelm.sampling.completion import random_stream
from bytelm.sampling.greedy import HALF, decisive, sure_bytes
from bytelm.sampling.params import SamplingParams
from bytelm.symbols import EOT
from tests.support.toy import Ids, Toy, drawn_rows

TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb", b"abab", b"c")


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


def test_what_is_sure_is_greedy() -> None:
    """On random toys, however much is evaluated: a share is never more than it is, and sure bytes lead one by one."""
    random, sure, unsure = np.random.default_rng(0), 0, 0
    for seed in range(200):
        t = toy(seed)
        text = bytes(random.choice([97, 98], size=random.integers(1, 6)).tolist())
        frontier = t.frontier(text[:1])
        t.answer(evaluate_all(frontier))
        for byte in text[1:]:
            frontier = frontier.advance(bytes([byte]))
            if random.random() < 0.5:
                t.answer(evaluate(frontier, frontier.missing(1.0)))
        if (found := decisive(frontier)) is None:
            continue
        node, share = found
        parts = t.vocabulary.token_bytes, t.vocabulary.viable, t.model.row
        truth = sequence_logprob(node.token_ids, t.model.row) - prefix_logprob(text, *parts)
        assert HALF < share <= math.exp(truth) * (1 + 1e-9)
        if frontier.row(node) is None:
            assert sure_bytes(frontier, node, share) == b""
            t.answer(evaluate(frontier, frontier.missing(1.0)))
        data = sure_bytes(frontier, node, share)
        unsure += not data
        for i, byte in enumerate(data):
            sure += 1
            row = exact(t, text + data[:i])
            assert row[byte] - math.log(0.5) > np.logaddexp.reduce(row), (seed, text, data, i)
            assert row.argmax() == byte

    assert sure > 50
    assert unsure > 10


@pytest.mark.parametrize(("likely", "share"), [(2, b"ab"), (5, b""), (1, b"")])
def test_an_end_and_what_may_not_follow_are_not_sure(likely: int, share: bytes) -> None:
    """A text may end with more than half, and a model may leak it."""

    def row(ids: Ids) -> Any:
        probs = np.full(len(TOKENS), 0.02)
        probs[likely if ids else 0] = 1 - 0.02 * (len(TOKENS) - 1)
        return probs

    t = Toy.of(TOKENS, row, eot_ids=[5], viable=lambda ids: (0, 1) not in itertools.pairwise(ids))
    frontier = t.frontier(b"a")
    t.answer(evaluate_all(frontier))
    found = decisive(frontier)

    assert found is not None
    assert sure_bytes(frontier, *found) == share
    if likely != 1:
        assert exact(t, b"a").argmax() == (EOT if likely == 5 else share[0])


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
