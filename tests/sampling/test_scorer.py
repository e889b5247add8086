"""Scores by units, and rows along a text: against all texts enumerated, and against one row at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bytelm import ByteLM, ByteModel, Combine, Ensemble, ScoreBy, TableLM, WordSpace
from bytelm.cover.cover import Cover
from bytelm.cover.nodes import common_ancestor
from bytelm.errors import BytelmError, ContextOverflowError, InvalidArgumentError, UnreachablePrefixError
from bytelm.inference import text_scoring
from tests.support.oracle import Enumeration, HashLM
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer

LONG = "The quick brown fox said: 'I'm here.'\n\n    def naïve(x):\n        return x  # 12345 日本\n" * 3


@cache
def enumerated() -> tuple[ByteLM, HashLM, Enumeration]:
    """A model over a tokenizer whose tokens cross the ends of words on both sides, with all of its texts."""
    pieces = ["a", "Ġ", "Ã", "©", "Ã©", "Ġa", "aĠ", "aa", "aĠa"]
    merges = [("Ã", "©"), ("a", "a"), ("Ġ", "a"), ("a", "Ġ"), ("a", "Ġa")]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True)])
    model = HashLM(PreTrainedTokenizerFast(tokenizer_object=backend), len(pieces) + 1, frozenset({len(pieces)}))
    return ByteLM(model), model, Enumeration(backend, ("a", " ", "é"), 8)


def log_mass(prefix: bytes) -> float:
    _, model, everything = enumerated()
    return math.log(everything.mass(prefix, model))


def row_of(prefix: bytes) -> np.ndarray:
    _, model, everything = enumerated()
    return np.asarray(everything.next_bytes(prefix, model) / everything.mass(prefix, model))


UNITS: list[tuple[ScoreBy, WordSpace]] = [
    ("byte", "after"),
    ("character", "after"),
    ("token", "after"),
    ("word", "before"),
    ("word", "after"),
    ("word", "none"),
    ("line", "after"),
    ([(0, 1), (2, 3)], "after"),
]


@pytest.mark.parametrize("text", ["a aa", " éa ", "aa a", "éé a"])
@pytest.mark.parametrize(("by", "space"), UNITS, ids=str)
def test_units_are_differences_of_exact_prefix_masses(text: str, by: ScoreBy, space: WordSpace) -> None:
    """Log-probability, entropy and leak of each unit are those of the enumeration, and they sum to the text's."""
    lm, data = enumerated()[0], text.encode()

    score = lm.score(text, by=by, space=space)

    assert b"".join(row.bytes for row in score) == data
    for row in score:
        expected = log_mass(data[: row.end]) - log_mass(data[: row.start])
        probs = row_of(data[: row.start])
        shares = probs[probs > 0] / probs.sum()
        assert row.logprob == pytest.approx(expected, abs=1e-9)
        assert row.surprisal_bits == pytest.approx(-expected / math.log(2), abs=1e-9)
        assert row.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-9)
        assert row.leak == pytest.approx(1 - probs.sum(), abs=1e-9)
        assert data[row.start : row.end] == row.bytes
    assert score.logprob == pytest.approx(log_mass(data), abs=1e-9)


@pytest.mark.parametrize("cut", range(6))
def test_a_prefix_stands_before_the_units(cut: int) -> None:
    """Wherever it ends, inside a character too; offsets are those of the text alone."""
    lm, whole = enumerated()[0], "a éa".encode()
    prefix, data = whole[:cut], whole[cut:]

    score = lm.score(data, prefix=prefix, by="byte", eot=True)

    for row in score[:-1]:
        expected = log_mass(whole[: cut + row.end]) - log_mass(whole[: cut + row.start])
        assert row.logprob == pytest.approx(expected, abs=1e-9)
    assert score[-1][:6] == (None, b"", len(data), len(data), len(score[:-1]) - (cut < 3), len(score[:-1]) - (cut < 3))
    assert score[-1].logprob == pytest.approx(math.log(row_of(whole)[256]), abs=1e-9)
    assert score.logprob == pytest.approx(lm.logprob(data, prefix=prefix, eot=True), abs=1e-9)


def test_a_token_is_a_token_of_the_tokenizer() -> None:
    """The units are the bytes that the tokenizer's own ids spell, but for a hidden space; a prefix may cut one."""
    for tokenizer in (default_tokenizer(), sentencepiece_bpe_tokenizer(prepend=True)):
        lm = ByteLM(TableLM(tokenizer, seed=3, order=2))
        ids = lm.viability.vocab.encode(LONG)
        hidden = len(lm.spell(ids)) - len(LONG.encode())
        ends = [end - hidden for _, end in lm.byte_spans(ids) if end > hidden]

        assert [row.end for row in lm.score(LONG, by="token")] == ends
        cut = ends[3] - 1
        assert [row.end + cut for row in lm.score(LONG.encode()[cut:], prefix=LONG.encode()[:cut], by="token")] == ends[
            3:
        ]
        inside = lm.score("né".encode()[:2], by="token")
        assert b"".join(row.bytes for row in inside) == "né".encode()[:2]


def test_spans_are_what_tokens_spell() -> None:
    """One after the other, each with its own bytes; a special token and a hole have none."""
    lm = ByteLM(TableLM(default_tokenizer(), vocab_size=400))
    ids = [*lm.viability.vocab.encode("the café"), 0, 399, *lm.viability.vocab.encode(" x")]
    spans = lm.byte_spans(ids)

    assert [lm.spell(ids)[start:end] for start, end in spans] == [lm.spell([i]) for i in ids]
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert lm.spell([0, 399]) == b""
    assert lm.byte_spans([]) == []
    with pytest.raises(InvalidArgumentError, match="0 or more"):
        lm.byte_spans([-1])


def test_regions_of_a_sentence() -> None:
    """Texts that join to it, or offsets of a critical region; both have the bytes' sums."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    logprobs = lm.byte_logprobs("the café sat")

    texts: list[str | bytes] = ["the ", "café", b" sat"]
    joined = lm.score("the café sat", by=texts)
    critical = lm.score("the café sat", by=[(4, 8)])

    assert [row.logprob for row in joined] == pytest.approx(
        [logprobs[:4].sum(), logprobs[4:9].sum(), logprobs[9:].sum()]
    )
    assert [row.number for row in critical] == [None, 0, None]
    assert critical[1] == joined[1]._replace(number=0)
    assert (joined.by, critical.by) == ("region", "region")


def test_regions_of_a_text_that_is_normalised() -> None:
    """A region that is a text is read as the text is."""
    from tokenizers import normalizers

    tokenizer = byte_bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    lm = ByteLM(TableLM(tokenizer, order=2), normalize=True)

    score = lm.score("cafe\u0301 sat", by=["cafe\u0301", " sat"])

    assert score.text == "café sat".encode()
    assert [row.text for row in score] == ["café", " sat"]


# ---- rows along a text


def table(tokenizer: Any, seed: int) -> ByteLM:
    return ByteLM(TableLM(tokenizer, seed=seed, order=2, temperature=2.0))


@cache
def three() -> list[ByteLM]:
    return [
        table(default_tokenizer(), 1),
        table(byte_bpe_tokenizer(vocab_size=277, pre_tokenizer="llama3"), 2),
        table(sentencepiece_bpe_tokenizer(prepend=True), 3),
    ]


def byte_models() -> list[ByteModel[Any, Any]]:
    combines: list[Combine] = ["mixture", "bayes", "product"]
    return [*three()[::2], *(Ensemble(three(), combine=combine, weights=[2, 1, 1]) for combine in combines)]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("prefix", ["", "well, 'I"])
def test_every_row_is_the_row_of_its_place(number: int, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row i is `next_byte_logprobs` after the first i bytes, wherever a window of the text ends."""
    model, data = byte_models()[number], "the naïve\n\n  fox 12".encode()
    monkeypatch.setattr(text_scoring.TextScoring.all_rows, "__kwdefaults__", {"window": 7})

    rows = model.next_byte_rows(data, prefix=prefix)

    assert rows.shape == (len(data) + 1, 257)
    for at, row in enumerate(rows):
        expected = model.next_byte_logprobs(prefix.encode() + data[:at])
        np.testing.assert_allclose(np.exp(row), np.exp(expected), atol=1e-12)
        np.testing.assert_allclose(row, expected, atol=1e-12 * max(1.0, np.abs(expected[expected > -np.inf]).max()))


@pytest.mark.parametrize("number", range(5))
def test_a_score_says_what_the_rows_say(number: int) -> None:
    """An ensemble's score too, in its own windows; its leak is its rows' leak, which in a product is 0."""
    model, data = byte_models()[number], "the naïve\n\n  fox 12".encode()
    rows = np.exp(model.next_byte_rows(data, prefix="a"))

    score = model.score(data, prefix="a", eot=True)

    np.testing.assert_allclose([row.logprob for row in score], np.log(rows[range(len(rows)), [*data, 256]]), atol=1e-9)
    np.testing.assert_allclose([row.leak for row in score], np.maximum(1 - rows.sum(axis=1), 0), atol=1e-9)
    assert score.logprob == pytest.approx(model.logprob(data, prefix="a", eot=True), abs=1e-9)
    words = model.score(data, prefix="a", by="word", eot=True)
    assert words.logprob == pytest.approx(score.logprob, abs=1e-9)


@pytest.mark.parametrize("window", [1, 7, 12])
def test_a_score_in_windows_is_the_same(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a window ends, inside a word or with the text, and with the end of text in the last."""
    lm, data = three()[0], LONG.encode()[:48]
    expected = [lm.score(data, by=by, eot=True) for by in ("byte", "word")]
    monkeypatch.setattr(text_scoring.TextScoring.all_readings, "__kwdefaults__", {"eot": False, "window": window})

    for score in expected:
        for row, other in zip(lm.score(data, by=score.by, eot=True), score, strict=True):
            assert row[:6] == other[:6]
            np.testing.assert_allclose(row[6:], other[6:], atol=1e-9)


class Recorder(TableLM):
    """Remembers what it was asked."""

    asked: list[tuple[tuple[int, ...], ...]]

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.asked.append(tuple(tuple(ids) for ids in sequences))
        return super().next_token_logprobs(sequences)


def asked_by(number: int, ask: Callable[[ByteLM], object]) -> list[tuple[tuple[int, ...], ...]]:
    """The calls of a fresh model, and the sequences of each."""
    table = Recorder(three()[number].tokenizer, order=2)
    table.asked = []
    ask(ByteLM(table))
    return table.asked


def needed(lm: ByteLM, places: Sequence[int]) -> set[tuple[int, ...]]:
    """All sequences after which a row is needed where the next byte is asked for at some places of `LONG`, and no other.

    They are the nodes of the covers there, and what leads to them from the nodes that the text begins with.
    """
    cover = Cover.empty(lm.viability)
    start = common_ancestor((*cover.nodes, *cover.ending)).depth
    found: set[tuple[int, ...]] = set()
    for at, byte in enumerate([*LONG.encode(), None]):
        if at in places:
            for node in {*cover.nodes, *cover.ending}:
                found |= {node.token_ids[:k] for k in range(start, node.depth + 1)}
        if byte is not None:
            cover = cover.advance(bytes([byte]))
    return {(*lm.prompts.bos_ids, *ids) for ids in found}


@pytest.mark.parametrize("number", range(3))
def test_rows_ask_for_each_node_once_and_in_one_call(number: int) -> None:
    """No exact rows can do with less: each place has a node of its own, the tokens of the text up to there."""
    (asked,) = asked_by(number, lambda lm: lm.next_byte_rows(LONG))

    assert len(asked) == len(set(asked))
    assert set(asked) == needed(three()[number], range(len(LONG.encode()) + 1))


@pytest.mark.parametrize("number", range(3))
def test_a_score_asks_for_the_ends_of_its_units_alone(number: int) -> None:
    """By words that is little more than what the text as a whole costs, and less than its bytes one by one."""
    lm = three()[number]
    starts = [row.start for row in lm.score(LONG, by="word")]
    (words,) = asked_by(number, lambda lm: lm.score(LONG, by="word", eot=True))
    (text,), (each,) = (
        asked_by(number, ask) for ask in (lambda lm: lm.logprob(LONG), lambda lm: lm.byte_logprobs(LONG))
    )

    assert len(words) == len(set(words))
    assert set(words) == needed(lm, [*starts, len(LONG.encode())])
    (without,) = asked_by(number, lambda lm: lm.score(LONG, by="word"))
    whole = (*lm.prompts.bos_ids, *lm.viability.vocab.encode(LONG))
    assert (whole in words, whole in without) == (True, False)
    assert len(text) <= len(words) <= 1.2 * len(text)
    assert len(words) < len(each)


def test_rows_after_what_cannot_be_are_nothing() -> None:
    """Behind a byte of probability 0 a row has no mass, and a score no entropy."""
    tokenizer = default_tokenizer()
    a: Any = tokenizer.convert_tokens_to_ids("a")
    lm = ByteLM(TableLM(tokenizer, table=lambda _: {a: 1.0}, eot_ids=[0]))

    rows = lm.next_byte_rows("aba")
    score = lm.score("aba")

    assert rows[0, ord("a")] == pytest.approx(0)
    assert np.isneginf(rows[2:]).all()
    assert [row.logprob for row in score][1:] == [-math.inf, -math.inf]
    assert [math.isnan(row.entropy_bits) for row in score] == [False, False, True]
    assert score.logprob == -math.inf


# ---- what is refused


class Silent(TableLM):
    """A model that may not be run."""

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        pytest.fail("the model was run")


BAD: list[tuple[Callable[[Any], object], type[BytelmError], str]] = [
    (lambda lm: lm.score(""), InvalidArgumentError, "the text is empty"),
    (lambda lm: lm.score("the cat", by="words"), InvalidArgumentError, "did you mean word"),
    (lambda lm: lm.score("the cat", by="line", space="none"), InvalidArgumentError, "by='word'"),
    (lambda lm: lm.score("the cat", by=[(0, 3), (2, 5)]), InvalidArgumentError, "overlap"),
    (lambda lm: lm.score("the cat", by=["the", "cat"]), InvalidArgumentError, "not the text"),
    (lambda lm: lm.score("the cat", stride=0), InvalidArgumentError, "stride"),
    (lambda lm: lm.score(b"x" * 30, stride=40), InvalidArgumentError, "a stride of 40 bytes"),
    (lambda lm: lm.score("the cat sat on the mat and on the dog"), ContextOverflowError, "give a stride"),
    (lambda lm: lm.next_byte_rows("the cat sat on the mat and on the dog"), ContextOverflowError, "give a stride"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_before_the_model_runs(
    call: Callable[[Any], object], error: type[BytelmError], message: str
) -> None:
    silent = Silent(default_tokenizer())
    silent.context_length = 12  # type: ignore[attr-defined]
    models: list[Any] = [ByteLM(silent), Ensemble([ByteLM(silent)])]
    for model in models:
        with pytest.raises(error, match=message):
            call(model)


def test_the_end_of_a_text_takes_a_row_more() -> None:
    """A text that just fits has no room for its end, and that is said before the model runs."""
    lm = table(default_tokenizer(), 1)
    lm.token_lm.context_length = len(lm.viability.vocab.encode("the 77")) - 1  # type: ignore[attr-defined]

    assert lm.score("the 77").logprob == pytest.approx(lm.logprob("the 77"))
    calls: list[Callable[[], object]] = [lambda: lm.score("the 77", eot=True), lambda: lm.next_byte_rows("the 77")]
    for call in calls:
        with pytest.raises(ContextOverflowError, match="does not fit"):
            call()


def test_a_binary_text_is_refused_before_the_model_runs() -> None:
    """However far behind the first window its bad byte is: which byte, in which line."""
    data = b"the cat\n" * 300 + b"\xff" + b"the dog"
    lm = ByteLM(Silent(default_tokenizer()))
    calls: list[Callable[[], object]] = [
        lambda: lm.score(data, by="word"),
        lambda: lm.next_byte_rows(data),
        lambda: lm.byte_logprobs(data),
    ]
    for call in calls:
        with pytest.raises(UnreachablePrefixError, match="line 301") as caught:
            call()
        assert caught.value.position == 2400


def test_an_ensemble_has_no_tokens() -> None:
    with pytest.raises(InvalidArgumentError, match="by='token' is for one model"):
        Ensemble(three()[:1]).score("the cat", by="token")


def test_a_text_beyond_the_context_is_scored_in_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes have what `byte_logprobs` gives them in the same pieces, by rows and by units."""
    lm = table(default_tokenizer(), 1)
    monkeypatch.setattr(lm.token_lm, "context_length", 40, raising=False)
    logprobs = lm.byte_logprobs(LONG, stride=20)
    ends = list(itertools.accumulate(len(piece) for _, piece in lm.pieces(lm.prompt(""), LONG.encode(), 20)))

    score = lm.score(LONG, by="line", stride=20)
    rows = lm.next_byte_rows(LONG, stride=20)

    assert len(ends) > 3
    np.testing.assert_allclose(rows[range(len(logprobs)), list(LONG.encode())], logprobs, atol=1e-9)
    assert [row.logprob for row in score] == pytest.approx([logprobs[r.start : r.end].sum() for r in score], abs=1e-9)


@pytest.mark.slow
def test_rows_along_a_text_on_a_real_model(smollm2: ByteLM) -> None:
    """In float32 each row is that of its place to 1e-5; words cost less than bytes, and rows hardly more than one a byte."""
    text = "The old man the boat. Naïve “quotes”,\n\n    and 12345 tabs\tin return x\n".encode()
    usage: Any = smollm2.abilities.usage
    spent = {}
    calls: dict[str, Callable[[], Any]] = {
        "text": lambda: smollm2.logprob(text),
        "words": lambda: smollm2.score(text, by="word"),
        "bytes": lambda: smollm2.byte_logprobs(text),
        "rows": lambda: smollm2.next_byte_rows(text),
    }
    found: dict[str, Any] = {}
    for name, call in calls.items():
        smollm2.clear_cache()
        before = usage.copy()
        found[name] = call()
        spent[name] = usage.since(before)

    rows = found["rows"]
    for at in range(0, len(text) + 1, 3):
        expected = smollm2.next_byte_logprobs(text[:at])
        np.testing.assert_allclose(np.exp(rows[at]), np.exp(expected), atol=1e-5)
        likely = expected > math.log(1e-6)
        np.testing.assert_allclose(rows[at][likely], expected[likely], atol=1e-3)
    for row in found["words"]:
        assert row.logprob == pytest.approx(
            smollm2.logprob(text[: row.end]) - smollm2.logprob(text[: row.start]), abs=1e-3
        )
    assert found["words"].logprob == pytest.approx(found["text"], abs=1e-3)
    assert spent["rows"].tokens_fed <= 1.3 * (len(text) + 1)  # and one for each place is the least
    assert spent["words"].tokens_fed <= 0.8 * spent["bytes"].tokens_fed
    assert spent["words"].calls == spent["text"].calls == 1
