"""The public contract of ByteLM, over real tiny tokenizers and toy models. Exactness itself: test_exactness.py."""

from __future__ import annotations

import codecs
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Completion, TableLM
from bytelm.errors import (
    BytelmError,
    ContextOverflowError,
    InvalidArgumentError,
    InvalidLogitsError,
    UnreachablePrefixError,
    VocabularyMismatchError,
)
from evals.cost.lazy import p_value
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer, tiny_model

# Some of the texts spell special tokens, and are meant as text.
pytestmark = pytest.mark.filterwarnings("ignore::bytelm.errors.BytelmWarning")

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level": default_tokenizer,
    "sentencepiece": lambda: sentencepiece_bpe_tokenizer(prepend=True),
}
TEXTS = [
    "",
    " ",
    "the",
    "the quick bro",
    "a\n\n  b",
    "naïve caf",
    "你好",
    "x = 12345",
    "I'm",
    "<|eot|> </s>",
    "return\n",
]


def table(tokenizer: Any = None, **options: Any) -> TableLM:
    """A drawn model that is sharp, a Markov chain, and so cheap."""
    return TableLM(default_tokenizer() if tokenizer is None else tokenizer, **{"seed": 3, "order": 2, **options})


@pytest.fixture(scope="module", params=TOKENIZERS)
def lm(request: pytest.FixtureRequest) -> ByteLM:
    """A byte model of each family."""
    return ByteLM(table(TOKENIZERS[request.param]()))


@pytest.fixture(scope="module")
def byte_lm() -> ByteLM:
    """A byte model of the byte-level family, whose rows are not too sharp to sample from."""
    return ByteLM(table(temperature=2.0))


# ---- scores agree with one another


@pytest.mark.parametrize("text", TEXTS)
def test_scores_agree(lm: ByteLM, text: str) -> None:
    """Rows chained byte by byte, byte_logprobs, logprob, the cover and a state say the same."""
    data = text.encode()
    chained = [float(lm.next_byte_logprobs(data[:i])[data[i]]) for i in range(len(data))]
    total = lm.logprob(text)
    state, walked = lm.state(b""), 0.0
    for byte in data:
        walked += float(state.next_byte_logprobs()[byte])
        state = state.advance(bytes([byte]))

    np.testing.assert_allclose(lm.byte_logprobs(text), chained, atol=1e-9)
    assert total == pytest.approx(sum(chained), abs=1e-9)
    assert total == pytest.approx(walked, abs=1e-9)
    assert math.log(math.fsum(math.exp(item.logprob) for item in lm.cover(text))) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("cut", [0, 1, 5, 9])
def test_a_score_after_a_prefix_is_a_difference(lm: ByteLM, cut: int) -> None:
    """Ln P(text | prefix) = ln P(prefix text) − ln P(prefix), and the end adds the row's last entry."""
    text = b"the quick fox"
    after = lm.logprob(text[cut:], prefix=text[:cut])

    assert after == pytest.approx(lm.logprob(text) - lm.logprob(text[:cut]), abs=1e-9)
    assert lm.byte_logprobs(text[cut:], prefix=text[:cut]).sum() == pytest.approx(after, abs=1e-9)
    assert lm.logprob(text[cut:], prefix=text[:cut], eot=True) == pytest.approx(
        after + float(lm.next_byte_logprobs(text)[256]), abs=1e-9
    )


def test_the_cover_spells_the_prefix_largest_first(lm: ByteLM) -> None:
    """Each member spells the prefix and goes on only within its last token."""
    items = lm.cover("the qui")
    dummy_prefix = lm.viability.vocab.dummy_prefix

    assert [item.logprob for item in items] == sorted((item.logprob for item in items), reverse=True)
    assert len({item.token_ids for item in items}) == len(items)
    for item in items:
        assert lm.spell(item.token_ids).startswith(dummy_prefix + b"the qui")
        assert not lm.spell(item.token_ids[:-1]).startswith(dummy_prefix + b"the qui")


def test_rows_leak_what_is_lost(lm: ByteLM) -> None:
    """A row sums to 1 less the leak, which is no less than 0."""
    row = lm.next_byte_logprobs("the")

    assert row.shape == (257,)
    assert row.dtype == np.float64
    assert 0 < lm.leak("the") < 1
    assert np.exp(row).sum() + lm.leak("the") == pytest.approx(1, abs=1e-12)


def test_tol_is_a_bound_on_the_whole_row(lm: ByteLM) -> None:
    """With a tolerance the row may differ, by no more than it."""
    exact, near = lm.next_byte_logprobs("the quic"), lm.next_byte_logprobs("the quic", tol=0.2)

    assert np.abs(np.exp(exact) - np.exp(near)).sum() / 2 <= 0.2


# ---- any prefix


@pytest.mark.parametrize(
    "prefix",
    [b"", b" ", b"nospaceatall", "né".encode()[:2], "🙂".encode()[:3], b"<|eot|>", b"</s><s>", b"\n\n \n", b"''''"],
)
def test_any_prefix_goes_on(lm: ByteLM, prefix: bytes) -> None:
    """Empty, spaces, cut inside a character, spelling special tokens: bytes come, and score as they were drawn."""
    completion = lm.sample(prefix, max_bytes=6, seed=1)

    assert completion.logprob == pytest.approx(
        lm.logprob(completion.bytes, prefix=prefix, eot=completion.finish_reason == "eot"), abs=1e-9
    )


def test_text_that_spells_a_special_token_is_text(lm: ByteLM) -> None:
    """Its cover holds no special token, and it does not end the text."""
    special = lm.viability.vocab.special_ids

    assert all(special.isdisjoint(item.token_ids) for item in lm.cover("<|eot|></s>")[:50])


@pytest.mark.parametrize(("prefix", "position"), [(b"ab\xff", 2), (b"\xe9\xe9", 1), ("é".encode() + b"\x80", 2)])
def test_bytes_that_nothing_spells_are_an_error_that_says_where(lm: ByteLM, prefix: bytes, position: int) -> None:
    """Every method raises the same error, with the position of the first byte that cannot be spelled."""
    calls: list[Callable[[], object]] = [
        lambda: lm.next_byte_logprobs(prefix),
        lambda: lm.sample(prefix),
        lambda: lm.sample_batch(["fine", prefix]),
        lambda: lm.stream(prefix),
        lambda: lm.logprob("a", prefix=prefix),
        lambda: lm.byte_logprobs(prefix),
        lambda: lm.cover(prefix),
        lambda: lm.state(prefix),
        lambda: lm.state(b"").advance(prefix),
    ]
    for call in calls:
        with pytest.raises(UnreachablePrefixError) as caught:
            call()

        assert caught.value.position == position


def test_segments_are_hard_boundaries(byte_lm: ByteLM) -> None:
    """A token given by id is fed as it is, and all that is asked for after it begins with what stands before."""
    tokenizer = byte_lm.tokenizer
    eot = tokenizer.eos_token_id
    context = (*tokenizer("the dog").input_ids, eot)
    asked: list[tuple[int, ...]] = []

    class Noting(TableLM):
        def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
            asked.extend(tuple(sequence) for sequence in sequences)
            return super().next_token_logprobs([(0,) * 3] * len(sequences))

    ByteLM(Noting(tokenizer, seed=3, order=2)).next_byte_logprobs(["the dog", eot, "the d"])

    assert asked
    assert all(sequence[: len(context)] == context for sequence in asked)
    assert {tokenizer.decode(sequence[len(context) :]) for sequence in asked} <= {"the d"[:n] for n in range(6)}


def test_a_long_prompt_is_one_call(byte_lm: ByteLM) -> None:
    """A prompt of 2 kB needs the rows of its last nodes alone, in one call."""
    prompt = ("the quick brown fox jumps over the lazy dog. " * 50)[:2_000]
    before = byte_lm.token_lm.usage.copy()  # type: ignore[attr-defined]

    byte_lm.next_byte_logprobs(prompt)

    spent = byte_lm.token_lm.usage.since(before)  # type: ignore[attr-defined]
    assert spent.calls == 1
    assert spent.tokens_fed < 12


def test_a_text_beyond_the_context_is_scored_in_pieces(lm: ByteLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stride each piece is scored after what fits before it; a text that fits is scored as a whole."""
    text, prefix = b"the quick brown fox jumps over the lazy dog. " * 2, b"well, "
    whole = lm.logprob(text, prefix=prefix, eot=True)
    assert lm.logprob(text, prefix=prefix, eot=True, stride=8) == pytest.approx(whole)

    monkeypatch.setattr(lm.token_lm, "context_length", 24, raising=False)
    pieces = lm.pieces(lm.prompt(prefix), text, 8)
    by_hand = [lm.logprob(piece, prefix=[*prompt.context, prompt.text]) for prompt, piece in pieces]

    assert len(pieces) > 2
    assert b"".join(piece for _, piece in pieces) == text
    assert lm.logprob(text, prefix=prefix, stride=8) == pytest.approx(sum(by_hand), abs=1e-9)
    assert lm.byte_logprobs(text, prefix=prefix, stride=8).sum() == pytest.approx(sum(by_hand), abs=1e-9)
    with pytest.raises(InvalidArgumentError, match="stride"):
        lm.logprob(text, prefix=prefix, stride=0)


# ---- completions


def test_the_same_seed_is_the_same_bytes(byte_lm: ByteLM) -> None:
    """Alone, of n, in a ragged batch, and as a stream."""
    prompts = ["the ", "", "return n", "naïve", "the "]
    options: dict[str, Any] = {"max_bytes": 12, "seed": 11, "temperature": 0.9}
    batch = byte_lm.sample_batch(prompts, **options)
    several = byte_lm.sample("the ", n=5, **options)
    assert isinstance(several, list)

    assert several[0].bytes == batch[0].bytes == byte_lm.sample("the ", **options).bytes
    assert several[4].bytes == batch[4].bytes
    assert batch[0].bytes != batch[4].bytes
    assert "".join(byte_lm.stream("the ", **options)) == batch[0].text
    for mine, theirs in zip(byte_lm.sample_batch(prompts[:3], **options), batch, strict=False):
        assert (mine.bytes, mine.finish_reason) == (theirs.bytes, theirs.finish_reason)
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-12)
    assert byte_lm.sample("the ", max_bytes=12).bytes != byte_lm.sample("the ", max_bytes=12).bytes


def test_lazy_sampling_calls_less(byte_lm: ByteLM) -> None:
    """A completion takes fewer calls than bytes, and its usage is what the engine counted."""
    before = byte_lm.token_lm.usage.copy()  # type: ignore[attr-defined]
    completion = ByteLM(table(temperature=0.5)).sample("the quick ", max_bytes=40, temperature=0)
    counted = byte_lm.sample("the quick ", max_bytes=40, seed=3)
    spent = byte_lm.token_lm.usage.since(before)  # type: ignore[attr-defined]

    assert completion.usage.calls < 0.8 * len(completion.bytes)
    assert (counted.usage.calls, counted.usage.tokens_fed) == (spent.calls, spent.tokens_fed)
    assert counted.usage.largest_leak is not None


def test_samples_are_distributed_as_the_rows_say(byte_lm: ByteLM) -> None:
    """Chi-square of 300 completions of two bytes, drawn together, against products of rows."""
    completions = byte_lm.sample("the qu", n=300, max_bytes=2, temperature=0.8, top_k=3, seed=2)
    assert isinstance(completions, list)
    found = [(*c.bytes, *([256] if c.finish_reason == "eot" else [])) for c in completions]
    probs: dict[tuple[int, ...], float] = {}

    def top(prefix: bytes) -> dict[int, float]:
        masses = np.exp(byte_lm.next_byte_logprobs(prefix) / 0.8)
        kept = np.argsort(-masses)[:3]
        return dict(zip(kept.tolist(), (masses[kept] / masses[kept].sum()).tolist(), strict=True))

    for first, p in top(b"the qu").items():
        if first == 256:
            probs[(256,)] = p
            continue
        for second, q in top(b"the qu" + bytes([first])).items():
            probs[first, second] = p * q
    codes = {symbols: code for code, symbols in enumerate(probs)}

    assert p_value(np.array([codes[symbols] for symbols in found]), np.array(list(probs.values()))) > P_THRESHOLD


@pytest.mark.parametrize("stop", ["e", ["zzz", "he"], "the qu", b"\n"])
def test_stop_strings_end_a_completion_before_them(byte_lm: ByteLM, stop: Any) -> None:
    """Cut where the first one ends, not part of the text; the stream says the same."""
    stops = [s.encode() if isinstance(s, str) else s for s in ([stop] if isinstance(stop, str | bytes) else stop)]
    for seed in range(3):
        plain = byte_lm.sample("the q", max_bytes=25, seed=seed).bytes
        ends = [i for i in range(len(plain) + 1) if any(plain[:i].endswith(s) for s in stops)]
        length = max((len(s) for s in stops if ends and plain[: ends[0]].endswith(s)), default=0)
        expected = plain[: ends[0] - length] if ends else plain

        completion = byte_lm.sample("the q", max_bytes=25, seed=seed, stop=stop)

        assert completion.bytes == expected
        assert (completion.finish_reason == "stop") == bool(ends)
        assert "".join(byte_lm.stream("the q", max_bytes=25, seed=seed, stop=stop)) == completion.text
        assert completion.logprob == pytest.approx(
            byte_lm.logprob(expected, prefix="the q", eot=completion.finish_reason == "eot"), abs=1e-9
        )


def test_a_stream_holds_back_what_may_be_a_stop() -> None:
    """No piece holds the beginning of a stop string that is then completed, nor half a character."""
    loop = "abé\n日 ab\n\nend"
    tokenizer = default_tokenizer()
    ids = tokenizer(loop).input_ids

    def written(context: tuple[int, ...]) -> dict[int, float]:
        return {ids[len(context) % len(ids)]: 1.0}

    lm = ByteLM(table(tokenizer, table=written, order=None))
    pieces = list(lm.stream("", temperature=0, stop=["\n\nend", "zz"], max_bytes=40))

    assert "".join(pieces) == "abé\n日 ab"
    assert all(piece and "\ufffd" not in piece for piece in pieces)
    stream = lm.stream("", temperature=0, max_bytes=3)  # cut inside é
    assert (list(stream), stream.completion.text, stream.completion.bytes) == (["a", "b"], "ab", b"ab\xc3")
    assert lm.sample("", temperature=0, max_bytes=3).text == "ab"


def test_a_character_cut_by_the_prompt_is_completed(byte_lm: ByteLM) -> None:
    """The text of a completion begins with the character that the prompt began."""
    cut = "naïve".encode()[:3]
    completion = byte_lm.sample(cut, max_bytes=5, seed=0)

    assert 0x80 <= completion.bytes[0] < 0xC0
    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(cut + completion.bytes)  # of what is complete
    assert completion.text == whole[2:]
    assert "".join(byte_lm.stream(cut, max_bytes=5, seed=0)) == completion.text


def test_several_end_symbols_end_a_text() -> None:
    """Each id that ends a text counts, and no other special token does."""
    tokenizer = byte_bpe_tokenizer(special=("<|im_end|>", "<|pad|>"))
    vocabulary = tokenizer.get_vocab()
    ends, pad = [vocabulary["<|eot|>"], vocabulary["<|im_end|>"]], vocabulary["<|pad|>"]
    a = tokenizer("a").input_ids[0]
    model = table(tokenizer, table={(): {a: 1.0}, (a,): {a: 0.5, ends[0]: 0.2, ends[1]: 0.1, pad: 0.2}}, order=1)
    lm = ByteLM(model, eot_ids=ends)

    assert math.exp(lm.next_byte_logprobs("a")[256]) == pytest.approx(0.3)
    assert lm.leak("a") == pytest.approx(0.2)
    assert math.exp(ByteLM(model, eot_ids=[ends[1]]).next_byte_logprobs("a")[256]) == pytest.approx(0.1)
    assert ByteLM(model, eot_ids=[]).next_byte_logprobs("a")[256] == -np.inf
    reasons = [c.finish_reason for c in lm.sample_batch(["a"] * 20, max_bytes=2, seed=1)]
    assert set(reasons) == {"eot", "length"}


def test_padded_logits_and_no_bos() -> None:
    """Columns beyond the vocabulary are leak; a tokenizer without BOS begins with the empty sequence."""
    tokenizer = byte_bpe_tokenizer(eos=None)
    size = max(tokenizer.get_vocab().values()) + 1
    lm = ByteLM(table(tokenizer, vocab_size=size + 100, temperature=0.2))

    assert lm.eot_ids == frozenset()
    assert 0 < lm.leak("") < 1
    assert lm.next_byte_logprobs("")[256] == -np.inf
    assert lm.sample("", max_bytes=5, seed=0).finish_reason == "length"


def test_bos_stands_in_front_unless_turned_off() -> None:
    """What the tokenizer puts before a text is context; bos=False, or an id in front, leaves it out."""
    from tests.cover.test_prefix import BOS, LLAMA

    lm, bare = ByteLM(table(LLAMA)), ByteLM(table(LLAMA), bos=False)

    np.testing.assert_array_equal(lm.next_byte_logprobs("the"), bare.next_byte_logprobs([BOS, "the"]))
    np.testing.assert_array_equal(lm.next_byte_logprobs("the"), lm.next_byte_logprobs([BOS, "the"]))
    assert not np.array_equal(lm.next_byte_logprobs("the"), bare.next_byte_logprobs("the"))


def test_a_logits_processor_constrains(byte_lm: ByteLM) -> None:
    """It is asked before each byte, and a stream obeys it as a sample does."""

    def digits(so_far: bytes, row: np.ndarray) -> np.ndarray:
        return np.where([chr(symbol).isdigit() and symbol < 128 for symbol in range(257)], row, -np.inf)

    completion = byte_lm.sample("12", max_bytes=5, seed=4, logits_processor=digits)

    assert completion.bytes.isdigit()
    assert "".join(byte_lm.stream("12", max_bytes=5, seed=4, logits_processor=digits)) == completion.text


# ---- what goes wrong


class Broken(TableLM):
    """A model whose rows go wrong once a sequence is long enough."""

    longest = 4
    value = np.nan

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        rows = super().next_token_logprobs(sequences)
        for row, sequence in zip(rows, sequences, strict=True):
            if len(sequence) >= self.longest:
                row[3] = self.value
        return rows


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_are_an_error(value: float) -> None:
    """NaN or infinite logits rise as an error, and what was finished is with it."""
    model = Broken(default_tokenizer(), seed=3, order=2)
    model.value = value
    lm = ByteLM(model)

    with pytest.raises(InvalidLogitsError) as caught:
        lm.sample_batch(["t", "the quick brown fox jumps over", "t"], max_bytes=1, seed=0)

    assert set(caught.value.finished) == set()  # type: ignore[attr-defined]  # all were in the first call
    model.longest = 8
    with pytest.raises(InvalidLogitsError) as caught:
        lm.sample_batch(["t", "th", "return n"], max_bytes=30, seed=0, stop=["e", "a", "o", " "])
    finished = caught.value.finished  # type: ignore[attr-defined]
    assert all(isinstance(completion, Completion) for completion in finished.values())
    assert any("completions were finished" in note for note in getattr(caught.value, "__notes__", [])) == bool(finished)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": math.nan}, "temperature"),
    ({"top_k": 0}, "top_k"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 2}, "top_p"),
    ({"min_p": -1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"max_bytes": -1}, "max_bytes"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", b""]}, "stop"),
    ({"seed": -1}, "seed"),
]


@pytest.mark.parametrize(("options", "name"), BAD)
def test_arguments_out_of_range_are_refused_before_any_call(options: dict[str, Any], name: str) -> None:
    """Each method that completes refuses them with an error that names the argument, and no model runs."""
    lm = ByteLM(table())
    for method in (lm.sample, lm.stream, lambda prefix, **given: lm.sample_batch([prefix], **given)):
        with pytest.raises(InvalidArgumentError, match=name):
            method("a", **options)

    assert lm.token_lm.usage.calls == 0  # type: ignore[attr-defined]


def test_other_bad_arguments(byte_lm: ByteLM) -> None:
    """Empty batches, n below 1, tolerances, ids that do not exist, unknown options."""
    cases: list[tuple[type[Exception], Callable[[], object]]] = [
        (InvalidArgumentError, lambda: byte_lm.sample_batch([])),
        (InvalidArgumentError, lambda: byte_lm.sample("a", n=0)),
        (InvalidArgumentError, lambda: byte_lm.next_byte_logprobs("a", tol=1.0)),
        (InvalidArgumentError, lambda: byte_lm.next_byte_logprobs([10**6, "a"])),
        (InvalidArgumentError, lambda: ByteLM(table(), eot_ids=[10**6])),
        (InvalidArgumentError, lambda: ByteLM.from_pretrained("demo", engine="abacus")),
        (TypeError, lambda: byte_lm.sample("a", temprature=1)),  # type: ignore[call-overload]
        (TypeError, lambda: byte_lm.sample(3)),  # type: ignore[call-overload]
        (TypeError, lambda: byte_lm.sample("a", max_bytes="3")),  # type: ignore[call-overload]
        (TypeError, lambda: byte_lm.sample_batch("abc")),
        (TypeError, lambda: byte_lm.logprob(3)),  # type: ignore[arg-type]
        (TypeError, lambda: byte_lm.state("a").advance(3)),  # type: ignore[arg-type]
    ]
    for error, call in cases:
        with pytest.raises(error):
            call()


def test_without_the_type_checker_of_the_tests_errors_are_our_own() -> None:
    """A user, who has no beartype in the way, meets bytelm's errors for wrong types."""
    code = """
from bytelm import ByteLM, BytelmError, TableLM
from tests.support.tiny import default_tokenizer
lm = ByteLM(TableLM(default_tokenizer(), order=1))
calls = [
    lambda: lm.sample(3), lambda: lm.sample(["a", None]), lambda: lm.sample("a", max_bytes="3"),
    lambda: lm.sample("a", temperature="hot"), lambda: lm.sample("a", stop=3), lambda: lm.sample("a", n="2"),
    lambda: lm.sample("a", seed="x"), lambda: lm.sample_batch("abc"), lambda: lm.sample_batch(3),
    lambda: lm.logprob(3), lambda: lm.logprob("a", prefix=3), lambda: lm.state("a").advance(3),
    lambda: lm.state("a").rollback("1"), lambda: lm.next_byte_logprobs("a", tol="x"),
    lambda: ByteLM(TableLM(default_tokenizer()), eot_ids=3), lambda: lm.sample("a", logits_processor=3),
]
for number, call in enumerate(calls):
    try:
        call()
        print(number, "was accepted")
    except BytelmError as error:
        assert isinstance(error, TypeError), error
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (0, ""), run.stderr


def test_a_tokenizer_of_another_model_is_refused() -> None:
    """More tokens than columns is a mismatch, at the construction."""
    with pytest.raises(VocabularyMismatchError):
        ByteLM(table(vocab_size=200))


def test_an_unknown_model_is_an_error_of_ours() -> None:
    """What is no model, and a path that holds none, are refused."""
    for model in (3, "/no/such/model/anywhere"):
        with pytest.raises(BytelmError):
            ByteLM(model)


def test_a_transformers_model_that_is_loaded_is_taken_as_it_is() -> None:
    """ByteLM(model, tokenizer) runs it, and its rows are those of its TokenLM."""
    tokenizer = default_tokenizer()
    model = tiny_model("llama", vocab_size=317)
    lm = ByteLM(model, tokenizer)

    assert lm.token_lm.model is model  # type: ignore[attr-defined]
    np.testing.assert_array_equal(ByteLM(lm.token_lm).next_byte_logprobs("the"), lm.next_byte_logprobs("the"))
    lazy = lm.sample("the qu", max_bytes=12, temperature=0)
    chained = b""
    while len(chained) < 12 and (symbol := int(lm.next_byte_logprobs(b"the qu" + chained).argmax())) < 256:
        chained += bytes([symbol])
    assert lazy.bytes == chained


def test_names_are_exported_lazily() -> None:
    """Every name of the package can be had from it, and no other."""
    import bytelm

    exported = {name: getattr(bytelm, name) for name in bytelm.__all__}

    assert {value.__name__ for value in exported.values() if isinstance(value, type)} <= set(bytelm.__all__)
    assert set(bytelm.__all__) <= set(dir(bytelm))
    with pytest.raises(AttributeError, match="no attribute 'Bytes'"):
        bytelm.Bytes  # noqa: B018


def test_every_order_of_asking_is_the_same(byte_lm: ByteLM) -> None:
    """Rows do not depend on what was asked before."""
    prefixes = ["the", "the quick", "a", "the q", ""]
    rows = {prefix: byte_lm.next_byte_logprobs(prefix) for prefix in prefixes}
    for first, second in itertools.permutations(prefixes, 2):
        byte_lm.next_byte_logprobs(first)
        np.testing.assert_array_equal(byte_lm.next_byte_logprobs(second), rows[second])


def test_a_real_engine_scores_a_text_beyond_its_context() -> None:
    """Without a stride the engine refuses; with one no piece is too long, and the pieces add up."""
    from bytelm.engines.transformers.engine import TransformersLM

    model = tiny_model("llama", vocab_size=320, max_position_embeddings=64)
    subject = ByteLM(TransformersLM(model, byte_bpe_tokenizer()))
    text = b"def f(x):\n    return x  # 0123456789\n\n" * 12
    with pytest.raises(ContextOverflowError, match="stride"):
        subject.logprob(text)

    assert subject.byte_logprobs(text, stride=40).sum() == pytest.approx(subject.logprob(text, stride=40), abs=1e-6)
