"""The likeliest endings are those that enumeration finds, and what a search leaves open is bounded.

The oracle writes every text there can be as the sampler would end it, and sums the lemma's probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from bytelm import ByteLM, Endings, Ensemble, TableLM
from bytelm.ensemble.combine import Combine
from bytelm.errors import BytelmError, ContextOverflowError, ModelError
from bytelm.lemma import end_logprob, log_sum, prefix_logprob
from bytelm.sampling.likeliest import Search, Searching
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.writing import Writing
from bytelm.symbols import EOT
from tests.sampling.test_context_end import pair
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer
from tests.support.toy import Ids, Toy, drawn_rows


def alike(ids: Ids) -> np.ndarray:
    """Every token as likely as every other: many endings are equally likely."""
    return np.full(4, 0.25)


def leaky(ids: Ids) -> np.ndarray:
    weights = np.array([40, 1, 1, 3, 9, 1, 1, 0] if not ids else [9, 1, 2, 0, 0, 0, 3, 25])
    return np.asarray(weights / weights.sum())


def endless(ids: Ids) -> np.ndarray:
    """The text never ends by itself, and goes on with an a almost for certain."""
    return np.array([0.99, 0.01, 0.0])


TOYS = {
    "ties": Toy.of([b"a", b"b", b"ab", None], alike, eot_ids=[3]),
    "leaky": Toy.of([b"a", b"b", b"c", b"aa", b"ab", b"ac", None, None], leaky, eot_ids=[6]),
    "chain": Toy.of(
        [b"x", b"xx", b"xxx", b"a", b"xa", b"xxb", b"xxxa", None], drawn_rows(8, seed=2, spread=1.0), eot_ids=[7]
    ),
    "drawn": Toy.of(
        [b"a", b"b", b"ab", b"ba", b"aba", None, b"bb", None, b"a"],
        drawn_rows(9, seed=3, spread=0.7),
        eot_ids=[5, 7],
        viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
    ),
    "endless": Toy.of([b"a", b"b", None], endless, eot_ids=[2]),
}
STOPS: list[tuple[bytes, ...]] = [(), (b"b",), (b"ab",), (b"b", b"ab"), (b"aa", b"b"), (b"xa", b"xxb"), (b"aab", b"ba")]


def enumerated(toy: Toy, prefix: bytes, stops: Sequence[bytes], max_bytes: int) -> dict[tuple[bytes, bool], float]:
    """The probability of each ending, by its bytes and whether it is complete."""
    vocabulary, row = toy.vocabulary, toy.model.row
    viable, token_bytes = vocabulary.viable, vocabulary.token_bytes
    letters = sorted(set(b"".join(spelled or b"" for spelled in token_bytes)))
    found: dict[tuple[bytes, bool], list[float]] = defaultdict(list)

    def walk(text: bytes) -> None:
        writing = Writing(SamplingParams(stop=list(stops), max_bytes=max_bytes))
        for byte in text:
            writing.write(byte)
        if writing.finish_reason or writing.full:
            found[bytes(writing.bytes), writing.finish_reason == "stop"].append(
                prefix_logprob(prefix + text, token_bytes, viable, row)
            )
            return
        found[text, True].append(
            end_logprob(
                prefix + text, token_bytes, viable, row, canonical=vocabulary.canonical, eot_ids=toy.model.eot_ids
            )
        )
        for letter in letters:
            walk(text + bytes([letter]))

    walk(b"")
    before = prefix_logprob(prefix, token_bytes, viable, row)
    summed = {ending: log_sum(masses) - before for ending, masses in found.items()}
    return {ending: mass for ending, mass in summed.items() if mass > -math.inf}


def searched(toy: Toy, prefix: bytes, search: Search) -> Endings:
    found: Endings = toy.answer(Searching(toy.place(prefix), search).run())
    return found


@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize(
    ("name", "prefix"),
    [("ties", b""), ("leaky", b""), ("leaky", b"a"), ("chain", b""), ("chain", b"xx"), ("drawn", b""), ("drawn", b"a")],
)
def test_they_are_what_enumeration_finds(name: str, prefix: bytes, stops: tuple[bytes, ...]) -> None:
    """The n likeliest with their probabilities, those that are equally likely in the order of their bytes."""
    toy = TOYS[name]
    for max_bytes in (0, 1, 4):
        expected = sorted(
            enumerated(toy, prefix, stops, max_bytes).items(), key=lambda each: (-round(each[1], 9), each[0])
        )
        for n in (1, 3, 10_000):
            endings = searched(toy, prefix, Search(n, stops, max_bytes))

            assert [(ending.bytes, ending.complete) for ending in endings] == [key for key, _ in expected[:n]]
            np.testing.assert_allclose(
                [ending.logprob for ending in endings], [logprob for _, logprob in expected[:n]], atol=1e-11
            )
            assert endings.certified
            left = expected[n][1] if len(expected) > n else -math.inf
            assert left - 1e-9 <= endings.missing_logprob <= endings[-1].logprob + 1e-9


@pytest.mark.parametrize("name", ["chain", "drawn", "leaky"])
@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_a_search_that_is_ended_says_what_can_be_missing(name: str, calls: int) -> None:
    """What was found is right, the bound holds, and no more calls were made than were allowed."""
    toy = TOYS[name]
    expected = enumerated(toy, b"", (b"b",), 6)
    before = len(toy.model.asked)

    endings = searched(toy, b"", Search(6, (b"b",), 6, max_calls=calls, width=1))

    assert len(toy.model.asked) - before <= calls
    found = {(ending.bytes, ending.complete): ending.logprob for ending in endings}
    for key, logprob in found.items():
        assert logprob == pytest.approx(expected[key], abs=1e-11)
    missing = max(logprob for key, logprob in expected.items() if key not in found)
    assert missing <= endings.missing_logprob + 1e-9
    if endings.certified:
        assert len(found) == 6
        assert missing <= min(found.values()) + 1e-9


def test_a_limit_ends_a_search_that_would_not_end() -> None:
    """Of a text that never ends by itself and may be long, nothing is found, and the bound says so."""
    endings = searched(TOYS["endless"], b"", Search(2, (b"\n",), 10**6, max_calls=20))

    assert not endings.certified
    assert list(endings) == []
    assert endings.missing_logprob == pytest.approx(0, abs=0.3)
    assert endings.missing_logprob <= 0


def test_no_more_is_evaluated_than_bounds_make_necessary() -> None:
    """An ending of one long token that has most of the mass is certain after one row."""
    toy = Toy.of([b"h", b"e", b"hello ", b"j", None], lambda _: np.array([0.02, 0.02, 0.9, 0.05, 0.01]), eot_ids=[4])

    endings = searched(toy, b"", Search(1, (b" ",), 20))

    assert endings[0].bytes == b"hello"
    assert toy.model.asked == [((),)]


# ---- models and ensembles


def table(tokenizer: object, seed: int) -> ByteLM:
    return ByteLM(TableLM(tokenizer, order=2, temperature=2.0, seed=seed))


@pytest.fixture(scope="module")
def lms() -> list[ByteLM]:
    return [
        table(default_tokenizer(), 1),
        table(byte_bpe_tokenizer(vocab_size=277, pre_tokenizer="llama3"), 2),
        table(sentencepiece_bpe_tokenizer(prepend=True), 3),
    ]


def of_two_bytes(model: ByteLM | Ensemble, prefix: str, stop: str) -> list[tuple[bytes, bool, float]]:
    """All endings of at most two bytes, from rows alone."""
    stop_byte = stop.encode()[0]
    rows = {b"": model.next_byte_logprobs(prefix)}
    found: list[tuple[bytes, bool, float]] = []
    for byte in range(256):
        text = bytes([byte])
        if byte == stop_byte or rows[b""][byte] < -9:  # far below the best
            continue
        rows[text] = rows[b""][byte] + model.next_byte_logprobs([prefix.encode() + text])
        found += [(text + bytes([b]), False, rows[text][b]) for b in range(256) if b != stop_byte]
    found += [(text, True, np.logaddexp(row[stop_byte], row[EOT])) for text, row in rows.items()]
    return sorted(found, key=lambda each: -each[2])


@pytest.mark.parametrize("prefix", ["", "the qui", "naïve caf"])
@pytest.mark.parametrize("combine", [None, "mixture", "bayes", "product"])
def test_of_a_model_and_of_ensembles(lms: list[ByteLM], combine: Combine | None, prefix: str) -> None:
    """One model or several, however they are combined: the likeliest are those that rows give."""
    model = lms[0] if combine is None else Ensemble(lms, weights=[0.5, 0.2, 0.3], combine=combine)
    expected = of_two_bytes(model, prefix, "t")[:4]

    endings = model.likeliest(prefix, n=4, stop="t", max_bytes=2, max_calls=None)

    assert [(ending.bytes, ending.complete) for ending in endings] == [each[:2] for each in expected]
    np.testing.assert_allclose([ending.logprob for ending in endings], [each[2] for each in expected], atol=1e-9)
    assert endings.certified
    assert endings.usage.calls > 0


def test_an_ending_reads_like_a_completion(lms: list[ByteLM]) -> None:
    """A text after half a character shows all of it; what a sequence has, endings have."""
    prefix = "naïve caf".encode() + "é".encode()[:1]

    endings = lms[0].likeliest(prefix, n=40, stop=" ", max_bytes=1)

    assert ("é", "é".encode()[1:]) in [(ending.text, ending.bytes) for ending in endings]
    assert list(endings[:2]) == [endings[0], endings[1]]
    assert len(endings) == 40


def test_an_ensemble_of_one_is_its_member(lms: list[ByteLM]) -> None:
    alone, one = (each.likeliest("the ", n=3, stop=" ", max_bytes=3) for each in (lms[1], Ensemble([lms[1]])))

    assert [ending.bytes for ending in alone] == [ending.bytes for ending in one]
    np.testing.assert_allclose([ending.logprob for ending in alone], [ending.logprob for ending in one], atol=1e-9)


def test_a_text_is_cut_where_the_context_ends() -> None:
    """As `sample` ends there. A context of a few tokens: nothing is asked for that does not fit."""
    lm, unlimited = pair(4, seed=1)

    endings = lm.likeliest("the ", n=300, stop="e", max_bytes=50, max_calls=None)

    known = {(ending.bytes, ending.complete): ending.logprob for ending in endings}
    for drawn in lm.sample_batch(["the "] * 40, stop="e", max_bytes=50, seed=3, temperature=0.3):
        ending = (drawn.bytes, drawn.finish_reason != "length")
        if ending in known and drawn.finish_reason == "length":
            assert known[ending] == pytest.approx(unlimited.logprob(drawn.bytes, prefix="the "), abs=1e-9)
    assert any(not complete and len(text) < 50 for text, complete in known)
    with pytest.raises(ContextOverflowError):
        lm.likeliest("abcdefghij" * 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n must be at least 1; got 0"),
        ({"n": 2.5}, "n"),
        ({"max_bytes": -1}, "max_bytes must be at least 0; got -1"),
        ({"max_calls": 0}, "max_calls must be at least 1; got 0"),
        ({"stop": ""}, "stop"),
        ({"stop": 5}, "stop"),
        ({"progress": "yes"}, "progress"),
    ],
)
@pytest.mark.slow
def test_arguments_that_cannot_be(lms: list[ByteLM], options: dict[str, object], said: str) -> None:
    with pytest.raises(BytelmError, match=said):
        lms[0].likeliest("a", **options)  # type: ignore[arg-type]


def test_after_what_the_model_rules_out_nothing_is_likeliest() -> None:
    toy = Toy.of([b"a", b"b", b"bb", None], lambda _: np.array([1.0, 0.0, 0.0, 0.0]), eot_ids=[3])

    with pytest.raises(ModelError, match="probability 0"):
        searched(toy, b"b", Search(1, (), 3))
