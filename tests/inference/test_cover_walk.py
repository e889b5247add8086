"""Covers along a text, against the lemma's cover at each place and the vocabulary's own predicate."""

from __future__ import annotations

import itertools
import math

import pytest

from bytelm.inference.cover_walk import CoverView, cover_views
from bytelm.lemma import cover, prefix_logprob, sequence_logprob
from tests.support.toy import Toy, drawn_rows

TOKENS = (b"a", b"b", b"ab", b"ba", b"aab", None, b"bb", b"abab")
TEXT = b"abaabbabab"


def toy() -> Toy:
    return Toy.of(
        TOKENS,
        drawn_rows(len(TOKENS), seed=6),
        eot_ids=[5],
        viable=lambda ids: not {(0, 1), (1, 1)} & set(itertools.pairwise(ids)),
    )


def views(t: Toy, top: int, first: int = 0) -> list[CoverView]:
    covers = [t.vocabulary.cover(TEXT[:end]) for end in range(first, len(TEXT) + 1)]
    found: list[CoverView] = t.answer(cover_views(covers, context=(), reader=t.reader, top=top))
    return found


@pytest.mark.parametrize("first", [0, 4])
def test_each_view_is_the_cover_at_its_place(first: int) -> None:
    """All members with their probabilities, their sum, and the likeliest first; from wherever the walk begins."""
    t = toy()

    for end, view in enumerate(views(t, top=100, first=first), start=first):
        assert view.prefix == TEXT[:end]
        expected = {ids: sequence_logprob(ids, t.model.row) for ids in cover(TEXT[:end], TOKENS, t.vocabulary.viable)}
        found = {item.token_ids: item.logprob for item in view.items}
        assert found == pytest.approx(expected, abs=1e-12) if end else found == {(): 0.0}
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert view.logprob == pytest.approx(prefix_logprob(TEXT[:end], TOKENS, t.vocabulary.viable, t.model.row))
        assert view.others == 0


def test_the_others_are_counted_and_summed() -> None:
    """With fewer members told one by one these are the likeliest, and the sum is still that of all."""
    t = toy()

    for few, every in zip(views(t, top=2), views(t, top=100), strict=True):
        assert few.items == every.items[:2]
        assert few.others == len(every.items) - len(few.items)
        assert few.logprob == pytest.approx(every.logprob, abs=1e-12)


def test_unreachable_tokens_are_those_that_no_text_has() -> None:
    """Behind each node: the tokens that begin with its leftover and may not follow, how many, and their mass."""
    t = toy()
    met = 0
    for view in views(t, top=1)[1:]:
        expected: dict[tuple[int, ...], tuple[int, float]] = {}
        at = t.vocabulary.cover(view.prefix)
        for node in at.nodes:
            rest = at.leftover(node)
            out = [
                token
                for token, spelled in enumerate(TOKENS)
                if rest and spelled and spelled.startswith(rest) and not t.vocabulary.viable((*node.token_ids, token))
            ]
            if out:
                mass = math.fsum(math.exp(sequence_logprob((*node.token_ids, token), t.model.row)) for token in out)
                expected[node.token_ids] = len(out), math.log(mass)
        found = {each.token_ids: (each.tokens, each.logprob) for each in view.unreachable}
        assert found.keys() == expected.keys()
        for ids, (tokens, logprob) in expected.items():
            assert found[ids][0] == tokens
            assert found[ids][1] == pytest.approx(logprob)
        met += len(expected)
    assert met > 3


def test_a_row_is_asked_for_once() -> None:
    """The walk asks for each sequence once, and for none that no cover needs."""
    t = toy()
    views(t, top=3)
    asked = [ids for call in t.model.asked for ids in call]
    needed = {
        node.token_ids[:k]
        for end in range(1, len(TEXT) + 1)
        for node in t.vocabulary.cover(TEXT[:end]).nodes
        for k in range(node.depth + 1)
    }

    assert len(asked) == len(set(asked))
    assert set(asked) <= needed
