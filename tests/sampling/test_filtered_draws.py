"""Completions drawn by the token under filters: against all texts enumerated, on toy models that leak."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bytelm import ByteLM, Completion, SamplingParams, TableLM
from bytelm.errors import UnsupportedTokenizerError
from bytelm.inference.envelope import Envelope
from bytelm.sampling.bounds import acceptance, surely_kept
from bytelm.sampling.filtered_draws import FilteredDraws
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.row_draws import RowDraws
from bytelm.symbols import SYMBOLS
from tests.sampling.test_engine_draws import few, fit, texts_of, written
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.oracle import Enumeration, HashLM, depth_for
from tests.support.strategies import Toy, byte_level, sentencepiece
from tests.support.tiny import default_tokenizer
from tests.test_exactness import allowed_ids

FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.76},
    {"top_p": 0.9},
    {"top_k": 3},
    {"min_p": 0.3},
    {"top_k": 3, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.5},
    {"temperature": 0.8, "top_p": 0.9},
]
by_filters = pytest.mark.parametrize("options", FILTERS, ids=str)
COUNT = 2000


@pytest.fixture(scope="module")
def leaky() -> tuple[ByteLM, HashLM, Enumeration]:
    """Tokens of up to three of three letters, an end, and a special token that ends nothing, which is leak."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "ca": 4, "abc": 5, "bb": 6}
    backend = Tokenizer(models.BPE(vocab, [("a", "b"), ("c", "a"), ("ab", "c"), ("b", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<other>", special=True)])
    model = HashLM(PreTrainedTokenizerFast(tokenizer_object=backend), 9, frozenset({7}))
    return ByteLM(model), model, Enumeration(backend, ("a", "b", "c"), 8)


def texts(
    everything: Enumeration, model: HashLM, prefix: bytes, filters: Filters, length: int = 3
) -> dict[tuple[int, ...], float]:
    """The probability of each text of so many symbols after a prefix, each drawn from the filtered exact row."""
    return texts_of(lambda text: filters.apply(everything.next_bytes(prefix + text, model)), length)


def drawn(lm: ByteLM, prefix: bytes, **options: Any) -> list[Any]:
    return lm.sample_batch([prefix] * COUNT, **{"max_bytes": 3, "seed": 1, **options})


@by_filters
@pytest.mark.parametrize("prefix", [b"", b"a", b"ca"])
def test_texts_are_distributed_as_the_enumeration_says(
    leaky: tuple[ByteLM, HashLM, Enumeration], prefix: bytes, options: dict[str, Any]
) -> None:
    """Chi-square of 2,000 completions against all texts of three bytes that the filters keep; none other is written."""
    lm, model, everything = leaky
    completions = drawn(lm, prefix, **options)

    assert fit(completions, texts(everything, model, prefix, Filters(**options))) > P_THRESHOLD
    assert sum(c.usage.redrawn > 0 for c in completions) > 200


@pytest.mark.parametrize("mistake", ["all kept", "drawn from all", "any member", "not tempered"])
def test_the_chi_square_sees_a_wrong_treatment_of_what_is_left_out(
    leaky: tuple[ByteLM, HashLM, Enumeration], mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To keep all, to draw anew from all bytes, to go on from any node, or to keep what temperature makes rarer."""
    lm, model, everything = leaky
    kind: Any = FilteredDraws

    def keeps(self: Any, symbol: int) -> Any:
        yield from ()
        return True

    def redraw(self: Any) -> Any:
        self.params = replace(self.params, top_p=None)
        yield from real(self)
        self.params = replace(self.params, top_p=0.8)

    def find(self: Any) -> Any:
        yield from ()
        self._node = self._here.nodes[-1]

    real = kind._redraw
    wrongs = {"all kept": ("_keeps", keeps), "drawn from all": ("_redraw", redraw), "any member": ("_find", find)}
    options: dict[str, Any] = {"top_p": 0.8}
    if mistake == "not tempered":
        options = {"temperature": 0.7}
        monkeypatch.setattr("bytelm.sampling.place.acceptance", lambda *_: (1.0, 1.0))
    else:
        monkeypatch.setattr(kind, *wrongs[mistake])
    expected = texts(everything, model, b"ca", Filters(**options))
    completions = drawn(lm, b"ca", **options)

    assert any(written(c) not in expected for c in completions) or fit(completions, expected) < P_THRESHOLD


@by_filters
def test_a_symbol_with_more_than_the_share_is_kept(options: dict[str, Any]) -> None:
    """On 3,000 distributions each, ties among them; and a symbol with a little less can fall out."""
    random, filters = np.random.default_rng(1), Filters(**options)
    share, nearest = filters.kept_share, 0.0
    nothing = np.zeros(SYMBOLS)
    for _ in range(3000):
        masses = np.zeros(SYMBOLS)
        size = random.integers(1, 9)
        masses[random.choice(SYMBOLS, size, replace=False)] = random.dirichlet(np.full(size, random.choice([0.3, 3.0])))
        if random.random() < 0.3:
            masses[masses > 0] = 1 / size
        kept = filters.apply(masses) > 0
        for symbol in np.flatnonzero(masses > share * (1 + 1e-9)).tolist():
            assert kept[symbol]
            assert acceptance(Envelope(masses, nothing, nothing, 0.0), filters.temperature, symbol) == (1.0, 1.0)
        nearest = max(nearest, masses[~kept].max())

    assert filters.temperature < 1 or nearest > 0.85 * share


@by_filters
def test_what_a_quick_look_calls_kept_is_kept_whatever_gets_the_rest(options: dict[str, Any]) -> None:
    """On 3,000 distributions each, wherever the rest goes; at temperature 1 it sees what is so more often than not."""
    random, filters, seen, missed = np.random.default_rng(2), Filters(**options), 0, 0
    for _ in range(3000):
        known, size = np.zeros(SYMBOLS), int(random.integers(1, 9))
        some = random.choice(SYMBOLS, size, replace=False)
        known[some] = random.dirichlet(np.full(size, random.choice([0.3, 3.0])))
        rest, symbol = float(random.choice([0.001, 0.03])), int(random.choice(some))
        sees = surely_kept(known, rest, filters, symbol)
        seen += sees
        missed += not sees and filters.apply(known)[symbol] > 0
        for where in ([], [int(known.argmax())], [int(random.choice(some))], [0], [*some], [*range(SYMBOLS)]):
            others = [other for other in where if other != symbol]
            masses = known.copy()
            masses[others] += rest / max(len(others), 1)
            assert not sees or filters.apply(masses)[symbol] > 0

    assert seen > missed if filters.temperature == 1 else not seen


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"top_p": 0.9}, FilteredDraws),
        ({"top_k": 40, "min_p": 0.1}, FilteredDraws),
        ({"top_p": 1, "min_p": 0}, RowDraws),
        ({"top_p": 0.7}, ByteGeneration),
        ({"top_k": 2}, ByteGeneration),
        ({"min_p": 0.5}, ByteGeneration),
        ({"top_p": 0.9, "temperature": 0.8}, FilteredDraws),
        ({"temperature": 0.5}, FilteredDraws),
        ({"temperature": 0.4}, ByteGeneration),
        ({"temperature": 1.1}, ByteGeneration),
        ({"top_p": 0.9, "lazy": False}, ByteGeneration),
        ({"top_p": 0.9, "logits_processor": lambda so_far, row: row}, ByteGeneration),
    ],
)
def test_when_tokens_are_drawn(options: dict[str, Any], kind: type) -> None:
    """At temperature 1, where the filters keep most; a stream and a batch write the same."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))

    assert isinstance(lm.begin("the ", SamplingParams(**options)), kind)
    one = lm.sample("the ", max_bytes=40, seed=1, **options)
    assert "".join(lm.stream("the ", max_bytes=40, seed=1, **options)) == one.text
    assert lm.sample_batch(["the ", "x"], max_bytes=40, seed=1, **options)[0].bytes == one.bytes


def check_logprob(lm: ByteLM, done: Completion) -> None:
    expected = lm.logprob(done.bytes, prefix="the ", eot=done.finish_reason == "eot")
    assert done.logprob == pytest.approx(expected, abs=1e-9)


@by_filters
def test_numbers_and_ends(options: dict[str, Any]) -> None:
    """The log-probability is that of the text; stop strings and the most bytes end it as they do by bytes."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    for seed in range(12):
        whole = lm.sample("the ", max_bytes=60, seed=seed, **options)
        check_logprob(lm, whole)
        for start, size in ((7, 3), (20, 1), (31, 4)):
            stop = whole.bytes[start : start + size]
            if len(stop) < size:
                continue
            done = lm.sample("the ", max_bytes=60, seed=seed, stop=stop, **options)
            assert (done.bytes, done.finish_reason) == (whole.bytes[: whole.bytes.index(stop)], "stop")
            check_logprob(lm, done)
        for most in (0, 1, 5, 30):
            done = lm.sample("the ", max_bytes=most, seed=seed, **options)
            assert done.bytes == whole.bytes[:most]
            check_logprob(lm, done)


def test_a_token_takes_one_row() -> None:
    """A row a token, some at the ends, and a few where a byte is left out or a token is leak."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2, eot_ids=[]))
    done = lm.sample("the ", max_bytes=300, seed=1, top_k=200)
    tokens = len(lm.token_ends(lm.prompt("the "), done.bytes))

    assert done.usage.rows <= 1.3 * tokens + 3 * (done.usage.redrawn + 2)


@few
@given(st.one_of(byte_level(), sentencepiece()), st.integers(0, 2), st.sampled_from(FILTERS))
def test_any_tokenizer(toy: Toy, seed: int, options: dict[str, Any]) -> None:
    """Whatever the merges, splits, added tokens and hidden spaces: the next bytes have the filtered exact law."""
    ids = toy.backend.get_vocab()
    model = HashLM(
        toy.fast,
        max(ids.values()) + 1 + seed,
        frozenset({ids["<end>"]}),
        None if toy.total else allowed_ids(toy),
    )
    try:
        lm = ByteLM(model)
    except UnsupportedTokenizerError:
        assume(False)
    depth = depth_for(toy.alphabet, 4000)
    everything = Enumeration(toy.backend, toy.alphabet, depth)
    room = depth - 4 - toy.longest  # as far as the enumeration is exact
    prefixes = [p for p in everything.prefixes(3) if len(p.decode(errors="replace")) + 1 <= room]
    prefixes = [p for p in prefixes if everything.mass(p, model) > 0]
    for prefix in prefixes[:: max(1, len(prefixes) // 3)][:3]:
        completions = lm.sample_batch([prefix] * 120, max_bytes=1, seed=seed, **options)

        assert fit(completions, texts(everything, model, prefix, Filters(**options), 1)) > 1e-6, (prefix, toy.what)
