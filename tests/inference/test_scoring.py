"""Scores of texts, against the lemma summed term by term."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.errors import InvalidArgumentError
from bytelm.inference import scoring
from bytelm.inference.room import token_ends, windows
from bytelm.inference.scheduler import Step
from bytelm.inference.scoring import CoverItem, cover_items, in_turn, text_logprob
from bytelm.inference.text_scoring import ModelScoring, Piece
from bytelm.lemma import cover, end_logprob, prefix_logprob, sequence_logprob
from tests.support.tiny import byte_bpe_tokenizer
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


def byte_logprobs(t: Toy, text: bytes, prefix: bytes = b"", window: int = 1024) -> np.ndarray:
    scoring = ModelScoring([Piece(lambda: t.vocabulary.cover(prefix), (), len(text))], t.reader, t.model)
    return np.asarray(t.answer(scoring.all_logprobs(text, window=window)))


def log_mass(t: Toy, prefix: bytes) -> float:
    return prefix_logprob(prefix, TOKENS, t.vocabulary.viable, t.model.row)


@pytest.mark.parametrize("cut", range(len(TEXT)))
def test_logprob_is_the_difference_of_two_masses(cut: int) -> None:
    """Ln P(text | prefix) wherever the prefix ends, with the end of text after it or without."""
    t = toy()
    start = t.vocabulary.cover(TEXT[:cut])
    ended = end_logprob(TEXT, TOKENS, t.vocabulary.viable, t.model.row, canonical=t.vocabulary.canonical, eot_ids=[5])

    open_, closed = (
        t.answer(text_logprob(start, TEXT[cut:], context=(), reader=t.reader, eot=eot)) for eot in (False, True)
    )

    assert open_ == pytest.approx(log_mass(t, TEXT) - log_mass(t, TEXT[:cut]), abs=1e-10)
    assert closed == pytest.approx(ended - log_mass(t, TEXT[:cut]), abs=1e-10)


def test_the_end_right_after_the_prefix() -> None:
    """An empty text has probability 1, and with the end of text that of the end."""
    t = toy()
    for prefix in (b"", b"ab"):
        start = t.vocabulary.cover(prefix)
        ended = end_logprob(
            prefix, TOKENS, t.vocabulary.viable, t.model.row, canonical=t.vocabulary.canonical, eot_ids=[5]
        )

        assert t.answer(text_logprob(start, b"", context=(), reader=t.reader)) == 0
        assert t.answer(text_logprob(start, b"", context=(), reader=t.reader, eot=True)) == pytest.approx(
            ended - log_mass(t, prefix), abs=1e-12
        )


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_byte_logprobs_are_differences_at_each_cut(window: int, cut: int) -> None:
    """Each byte's number is exact, whatever the window in which covers are kept."""
    t = toy()
    masses = [log_mass(t, TEXT[:n]) for n in range(cut, len(TEXT) + 1)]
    actual = byte_logprobs(t, TEXT[cut:], TEXT[:cut], window=window)

    np.testing.assert_allclose(actual, np.diff(masses), atol=1e-10)


def test_rows_are_asked_for_once_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node of a window is in one request, or in as many as a call may hold rows; the numbers are the same."""
    t = toy()
    whole = byte_logprobs(t, TEXT)
    (asked,) = t.model.asked
    assert len(asked) == len(set(asked))
    monkeypatch.setattr(scoring, "rows_in", lambda vocab_size: 3)
    t.model.asked.clear()

    chunked = byte_logprobs(t, TEXT)

    np.testing.assert_array_equal(whole, chunked)
    assert max(map(len, t.model.asked)) == 3
    assert sorted(sum(t.model.asked, ())) == sorted(asked)


def test_a_logprob_asks_for_no_more_than_the_way_there() -> None:
    """Only the sequences that lead to the nodes of the two ends are asked for, not the nodes in between."""
    t = toy()
    t.answer(text_logprob(t.vocabulary.cover(), TEXT, context=(), reader=t.reader))
    (asked,) = t.model.asked
    ends = [*t.vocabulary.cover(TEXT).nodes, *t.vocabulary.cover().nodes]

    assert set(asked) <= {node.token_ids[:k] for node in ends for k in range(node.depth + 1)}


@pytest.mark.parametrize("prefix", [b"a", b"ab", b"abab", b"aabb"])
def test_members_are_the_cover_with_its_probabilities(prefix: bytes) -> None:
    """Every member of the lemma's cover, each with the log-probability of its sequence, and no other."""
    t = toy()
    expected = {ids: sequence_logprob(ids, t.model.row) for ids in cover(prefix, TOKENS, t.vocabulary.viable)}

    found = t.answer(cover_items(t.vocabulary.cover(prefix), context=(), reader=t.reader))

    assert {item.token_ids: item.logprob for item in found} == pytest.approx(expected, abs=1e-12)
    assert len(found) == len(expected)


def test_the_cover_of_nothing_is_the_empty_sequence() -> None:
    """It has probability 1, and needs no model."""
    t = toy()

    assert t.answer(cover_items(t.vocabulary.cover(), context=(), reader=t.reader)) == [CoverItem((), 0.0)]
    assert t.model.asked == []


def test_a_text_that_the_model_rules_out_is_minus_infinity() -> None:
    """Where the model gives a byte no mass its logprob is -inf, and so is that of every byte after it."""
    t = Toy.of([b"a", b"b", b"aa"], lambda ids: [0.5, 0, 0.5])
    actual = byte_logprobs(t, b"aba")

    assert actual[1:].tolist() == [-np.inf, -np.inf]
    assert actual[0] == pytest.approx(0)


@pytest.mark.parametrize(("stride", "room"), [(1, 4), (3, 5), (4, 6), (2, 100)])
def test_windows_share_out_a_text(stride: int, room: int) -> None:
    """Every byte is in one piece, in order; a piece and its history fit, and no longer history that begins at a token would."""
    t = toy()
    whole = t.vocabulary.cover(TEXT)
    ends = token_ends(whole)
    cuts = windows(whole, first=2, stride=stride, room=room)

    assert ends[-1] == len(TEXT)
    assert [start for _, start, _ in cuts] == [2, *(end for _, _, end in cuts[:-1])]
    assert cuts[-1][2] == len(TEXT)
    assert all(end - start <= stride for _, start, end in cuts[1:])
    for history, _, end in cuts:
        held = sum(history < e for e in ends) - sum(end <= e for e in ends) + 1
        assert held <= room
        assert history == 0 or held == room
    assert len(cuts) == 1 or room < 100


def test_a_stride_that_does_not_fit_is_an_error() -> None:
    """The message says what would."""
    with pytest.raises(InvalidArgumentError, match="at most about"):
        windows(toy().vocabulary.cover(TEXT), first=0, stride=9, room=1)


def test_steps_in_turn_are_one_step() -> None:
    """Their results come in order, and the share that is done only grows."""
    t = toy()
    steps = [text_logprob(t.vocabulary.cover(TEXT[:k]), TEXT[k:], context=(), reader=t.reader) for k in (0, 3, 6)]
    seen: list[float] = []
    whole = in_turn(steps, count=3)

    def watched() -> Step[list[float]]:
        rows = None
        while True:
            try:
                request = whole.send(rows)
            except StopIteration as end:
                return list(end.value)
            seen.append(request.done)
            rows = yield request

    assert t.answer(watched()) == pytest.approx([log_mass(t, TEXT) - log_mass(t, TEXT[:k]) for k in (0, 3, 6)])
    assert seen == sorted(seen)
    assert seen[-1] < 1


def test_memory_grows_with_a_text_and_not_with_its_square() -> None:
    """Each row along a text has a sequence of its own; few of them are there at a time."""

    def peak(size: int) -> int:
        lm = ByteLM(TableLM(byte_bpe_tokenizer(eos="<|endoftext|>"), seed=3, order=1))
        lm.logprob("ab")
        tracemalloc.start()
        try:
            lm.logprob(("ab c" * size)[:size])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(3000) < 2.5 * peak(1500)
