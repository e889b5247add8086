"""The llama.cpp engine: on tiny files with known weights, and on the two packaged models."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.engines.llama_cpp.engine import LlamaCppLM, log_softmax
from bytelm.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    InvalidLogitsError,
    InvalidTypeError,
    ModelError,
    OutOfMemoryError,
    UnsupportedTokenizerError,
    VocabularyMismatchError,
)
from bytelm.packaged import PACKAGED, packaged_gguf
from bytelm.testing import RULES, check_engine
from bytelm.token_lm import Draw, TokenLM, TokenSampling, Usage
from bytelm.tokenizer.hard_texts import documents
from evals.cost.lazy import p_value
from tests.support.tiny_gguf import gemma_like, smollm_like

if importlib.util.find_spec("llama_cpp") is None and not os.environ.get("BYTELM_EXPECT_LLAMA_CPP"):
    pytest.skip(
        "llama-cpp-python is not installed (it compiles for a quarter of an hour): tox -e llama-cpp runs these",
        allow_module_level=True,
    )

KINDS = {"smollm": smollm_like, "gemma": gemma_like}
# Nats from transformers in float32, whose GELU is no table of half-precision numbers, as llama.cpp's is.
FAR = {"smollm": 2e-4, "gemma": 5e-3}
NEAR = {"smollm": 1e-5, "gemma": 1e-3}  # the same, from one order of summation to another


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text in which nothing is a special token, with none put before it."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    finally:
        backend.encode_special_tokens = before
    return ids


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Tiny files by kind, with the transformers model that went into each."""
    folder = tmp_path_factory.mktemp("gguf")
    found = {}
    for kind, make in KINDS.items():
        path = folder / f"{kind}.gguf"
        found[kind] = (path, make(path)[1])
    for layer in found["gemma"][1].model.layers:  # llama.cpp scales by the width of a head, which the file has
        layer.self_attn.scaling = 16**-0.5
    return found


Make = Callable[..., LlamaCppLM]


@pytest.fixture
def engine(made: dict[str, tuple[Path, Any]]) -> Iterator[Make]:
    """An engine on a tiny file: ``engine(kind, **options)``. float32 caches, so that only real mistakes show."""
    opened: list[LlamaCppLM] = []

    def make(kind: str = "smollm", **options: Any) -> LlamaCppLM:
        opened.append(LlamaCppLM(made[kind][0], **{"n_threads": 1, "type_k": 0, "type_v": 0, **options}))
        return opened[-1]

    yield make
    for lm in opened:
        lm.close()


def plain_rows(model: Any, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """The definition of a row, by transformers: a forward pass over the sequence alone, in float32."""
    import torch

    rows = []
    with torch.inference_mode():
        for sequence in sequences:
            logits = model(torch.tensor([list(sequence)]), use_cache=False).logits[0, -1]
            rows.append(torch.log_softmax(logits, -1).numpy())
    return np.stack(rows)


def requests(lm: LlamaCppLM, seed: int, calls: int) -> list[list[tuple[int, ...]]]:
    """Calls as decoding makes them: extensions, branches, steps back, old acquaintances, unrelated sequences."""
    rng = random.Random(seed)
    known: list[tuple[int, ...]] = [(5, 6, 7)]
    made = []
    for _ in range(calls):
        call = []
        for _ in range(rng.choice([1, 1, 2, 3, 5])):
            base = rng.choice(known[-12:]) if rng.random() < 0.95 else ()
            if rng.random() < 0.3:
                base = base[: rng.randint(0, len(base))]
            more = rng.choices(range(lm.vocab_size), k=rng.choice([0, 1, 1, 2, 4, 17]))
            call.append((*base, *more)[: lm.context_length] or (7,))
        known += call
        made.append(call)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"n_seq": 1}, {"n_seq": 2, "n_batch": 3}, {"n_seq": 7, "n_ctx": 256, "row_bytes": 0}],
    ids=str,
)
def test_rows_are_those_of_the_weights(
    engine: Make, made: dict[str, tuple[Path, Any]], kind: str, options: dict[str, Any]
) -> None:
    """Whatever is asked in whatever order, rows are those of transformers on the same weights, in float32."""
    lm = engine(kind, **options)
    far = 0.0

    for call in requests(lm, seed=1, calls=60):
        rows = lm.next_token_logprobs(call)
        far = max(far, float(np.abs(rows - plain_rows(made[kind][1], call)).max()))

    assert far <= FAR[kind]


@contextlib.contextmanager
def failing(lm: LlamaCppLM) -> Iterator[None]:
    """A call of llama.cpp fails, with its tokens in the cache."""
    decode = lm.context.decode

    def fail(*arguments: Any) -> Any:
        decode(*arguments)
        raise ModelError("llama.cpp failed")

    monkey: Any = lm.context
    monkey.decode = fail
    try:
        yield
    finally:
        monkey.decode = decode


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_contract(engine: Make, kind: str, rule: str) -> None:
    """The engine keeps the contract, with few sequence ids and small batches."""
    lm = engine(kind, n_seq=5, n_batch=4, row_bytes=20_000)

    def make() -> LlamaCppLM:
        lm.clear_cache()
        return lm

    report = check_engine(make, tolerance=NEAR[kind], failing=failing, rules=[rule])

    assert not report.findings[0].skipped


def spent(lm: LlamaCppLM, *sequences: Sequence[int]) -> tuple[int, int]:
    """Calls and tokens that asking for these sequences costs."""
    before = lm.usage.copy()
    lm.next_token_logprobs(sequences)
    usage = lm.usage.since(before)
    return usage.calls, usage.tokens_fed


def test_what_is_shared_is_fed_once(engine: Make) -> None:
    """A prompt is fed once; steps and side branches feed what is new, all in one call; a known row costs nothing."""
    lm = engine(n_batch=32)
    prompt = tuple(range(10, 36))

    assert lm.usage == Usage(0, 0)
    assert spent(lm, prompt, (*prompt[:-1], 50), (*prompt[:-3], 51, 52), (*prompt[:-3], 51, 53)) == (1, 30)
    assert spent(lm, (*prompt, 60)) == (1, 1)
    assert spent(lm, (*prompt, 60, 61), (*prompt, 62), (*prompt, 60, 61)) == (1, 2)
    assert spent(lm, (*prompt[:-3], 51, 53, 70)) == (1, 1)
    assert spent(lm, (*prompt, 60, 61), prompt) == (0, 0)
    lm.clear_cache()
    assert spent(lm, prompt) == (1, 26)


def test_batches_are_cut(engine: Make) -> None:
    """No call has more tokens than n_batch."""
    assert spent(engine(n_batch=7), range(30)) == (5, 30)


@pytest.mark.parametrize(
    ("same", "n_batch", "extra_token_cost"), [(32, 32, 1.0), (7, 7, 1.0), (4, 3, 1.0), (2, 2, 1.0), (1, 2, 1e-3)]
)
def test_calls_have_no_more_tokens_than_leave_a_row_the_same(
    engine: Make, monkeypatch: pytest.MonkeyPatch, same: int, n_batch: int, extra_token_cost: float
) -> None:
    """A probe finds out up to how many tokens of a call a row is the one of a lone token; none is alone if there are none.

    It costs nothing that is counted, and what the caller wants is not probed.
    """
    from bytelm.engines.llama_cpp import context as llama_context

    decode = llama_context.Context.decode

    def by_number(self: Any, tokens: Sequence[int], *arguments: Any) -> Any:
        rows = decode(self, tokens, *arguments)
        return rows + np.arange(rows.shape[1], dtype=np.float32) * 1e-6 * (len(tokens) > same)

    monkeypatch.setattr(llama_context.Context, "decode", by_number)

    assert (engine().n_batch, engine().extra_token_cost) == (n_batch, extra_token_cost)
    assert (engine(n_batch=9).n_batch, engine(n_batch=9).extra_token_cost) == (9, 1.0)
    assert engine().usage == Usage(0, 0)


def test_a_full_cache_makes_room(engine: Make, made: dict[str, tuple[Path, Any]]) -> None:
    """Where the cache is full, old lines go, and a call that is too large for it is answered in parts."""
    lm = engine(n_ctx=64, n_seq=40)
    rng = random.Random(2)
    calls = [[tuple(rng.choices(range(256), k=50)) for _ in range(n)] for n in (1, 3, 17, 2)]

    far = max(float(np.abs(lm.next_token_logprobs(call) - plain_rows(made["smollm"][1], call)).max()) for call in calls)

    assert far <= 2e-4


def test_a_state_that_cannot_be_stepped_back(engine: Make, made: dict[str, tuple[Path, Any]]) -> None:
    """Where the cache is no list of tokens, each sequence is fed from its first token on, and the rows are the same."""
    lm = engine()
    lm.mode = "whole"  # type: ignore[misc]
    call = [(5, 6, 7), (5, 6), (5, 6, 8)]

    assert np.abs(lm.next_token_logprobs(call) - plain_rows(made["smollm"][1], call)).max() <= 2e-4
    assert lm.usage == Usage(3, 8)


def test_threads_take_turns(engine: Make) -> None:
    """Threads that share an engine have the rows that one thread has."""
    lm = engine()
    sequences = [tuple(range(i, i + 12)) for i in range(24)]
    expected = [lm.next_token_logprobs([sequence])[0] for sequence in sequences]
    lm.clear_cache()
    found: dict[int, np.ndarray] = {}

    def run(start: int) -> None:
        for i in range(start, 24, 4):
            found[i] = lm.next_token_logprobs([sequences[i]])[0]

    threads = [threading.Thread(target=run, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(float(np.abs(found[i] - expected[i]).max()) for i in range(24)) <= 1e-5


# ---- the tokenizer


def test_the_tokenizer_is_the_files(engine: Make) -> None:
    """Special tokens, ends and the start symbol are those of the file; no text becomes a control token."""
    smollm, gemma = engine("smollm"), engine("gemma")

    assert isinstance(smollm, TokenLM)
    assert (smollm.vocab_size, smollm.eot_ids, smollm.start_id) == (261, frozenset({0, 1}), 0)
    assert (gemma.eot_ids, gemma.start_id) == (frozenset({1}), 2)
    assert smollm.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert gemma.tokenizer("ab").input_ids[0] == 2, "BOS goes before a text"
    assert plain_ids(gemma.tokenizer, "<bos>") == gemma.context.tokenize(b"<bos>")


def hostile(lm: LlamaCppLM, count: int) -> list[str]:
    """Distinct texts that tokenizers disagree about, the special tokens of this one among them."""
    added = [token.content for token in lm.tokenizer.added_tokens_decoder.values()][:200]
    found: dict[str, None] = {}
    for document in documents(7, added):
        found[document.decode("utf-8", "ignore")] = None
        if len(found) == count:
            return list(found)
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_is_llama_cpps(engine: Make, kind: str) -> None:
    """The rebuilt tokenizer splits texts as llama.cpp does."""
    lm = engine(kind)

    wrong = [text for text in hostile(lm, 500) if plain_ids(lm.tokenizer, text) != lm.context.tokenize(text.encode())]

    assert wrong == []


def test_a_tokenizer_that_differs_is_refused(
    made: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is lost, as transformers loses SmolLM2's single digits, is found out at the construction."""
    from bytelm.tokenizer.gguf.pre_tokenizers import STEPS

    monkeypatch.setitem(STEPS, "smollm", STEPS["gpt-2"])

    with pytest.raises(
        UnsupportedTokenizerError, match=r"rebuilt from smollm\.gguf differs from llama\.cpp's.*tokenizer="
    ):
        LlamaCppLM(made["smollm"][0], n_threads=1)


def test_a_tokenizer_that_is_given_is_used(engine: Make, made: dict[str, tuple[Path, Any]]) -> None:
    """A given tokenizer is taken as it is; one of another model is refused."""
    from tests.support.tiny import default_tokenizer

    own = engine("smollm").tokenizer

    assert engine("smollm", tokenizer=own).tokenizer is own
    with pytest.raises(VocabularyMismatchError, match="261 columns"):
        engine("smollm", tokenizer=default_tokenizer(), eot_ids=[0])


# ---- what is refused


def test_a_context_that_overflows(engine: Make) -> None:
    """A sequence longer than n_ctx, or than the model was trained with, is refused; what is in the cache stays."""
    small, trained = engine(n_ctx=20), engine(n_ctx=500)

    assert (small.context_length, trained.context_length) == (20, 64)
    small.next_token_logprobs([range(20)])
    with pytest.raises(ContextOverflowError, match=r"21 tokens does not fit in the model's context of 20.*n_ctx"):
        small.next_token_logprobs([(1,), range(21)])
    assert spent(small, range(20)) == (0, 0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_ctx": 0}, InvalidArgumentError, "n_ctx must be at least 1, not 0"),
        ({"n_seq": 255}, InvalidArgumentError, "n_seq must be at most 254"),
        ({"row_bytes": -1}, InvalidArgumentError, "row_bytes.*-1"),
        ({"n_outputs_max": 3}, InvalidArgumentError, "unknown option 'n_outputs_max'.*flash_attn_type.*n_gpu_layers"),
        ({"n_gpu_layers": "all"}, InvalidArgumentError, "does not take 'all' for n_gpu_layers"),
        ({"eot_ids": [261]}, InvalidArgumentError, r"eot_ids \[261\]"),
        ({"start_id": 261}, InvalidArgumentError, "start_id 261"),
    ],
)
def test_bad_options(engine: Make, options: dict[str, Any], error: type[Exception], words: str) -> None:
    """An option that cannot be is refused with its value, before the process can be ended by it."""
    with pytest.raises(error, match=words):
        engine(**options)


@pytest.mark.usefixtures("caller_errs")
def test_bad_sequences(engine: Make) -> None:
    """Text in place of ids, and no sequences at all, are errors of the caller."""
    lm = engine()

    with pytest.raises(InvalidTypeError, match="not text"):
        lm.next_token_logprobs(["ab"])  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match="no sequences"):
        lm.next_token_logprobs([])


def test_a_model_that_was_closed(engine: Make) -> None:
    """Its memory is given back: to ask it is an error, and to close it again is none."""
    lm = engine()
    lm.next_token_logprobs([(5, 6)])
    lm.close()

    with pytest.raises(ModelError, match="closed"):
        lm.next_token_logprobs([(5, 7)])
    with pytest.raises(ModelError, match="closed"):
        lm.clear_cache()
    lm.close()


def test_bad_files(tmp_path: Path, made: dict[str, tuple[Path, Any]]) -> None:
    """A file that is missing or damaged is a ModelError with llama.cpp's own words."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(made["smollm"][0].read_bytes()[:20_000])

    with pytest.raises(ModelError, match="no file"):
        LlamaCppLM(tmp_path / "missing.gguf")
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*damaged\.gguf.*: .*[a-z]"):
        LlamaCppLM(damaged)


def test_a_cache_that_memory_does_not_hold(
    engine: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where llama.cpp can make no cache, the error names n_ctx, and nothing is printed."""
    import llama_cpp

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", lambda *_: None)

    with pytest.raises(OutOfMemoryError, match=r"cannot make a cache of 50 tokens.*smaller n_ctx"):
        engine(n_ctx=50)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_logits(engine: Make, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Logits that are no numbers are an error, and what was fed is forgotten."""
    lm = engine()
    decode = lm.context.decode
    lm.next_token_logprobs([(1, 2, 3)])

    def broken(*arguments: Any) -> Any:
        rows = decode(*arguments)
        assert rows is not None
        return np.full_like(rows, value)

    with monkeypatch.context() as patch, pytest.raises(InvalidLogitsError, match="NaN"):
        patch.setattr(lm.context, "decode", broken)
        lm.next_token_logprobs([(1, 2, 3, 4)])
    assert spent(lm, (1, 2, 3, 4)) == (1, 4)


def test_log_softmax() -> None:
    """Rows are normalised in float32 whatever the logits, -inf among them."""
    logits = np.array([[1e4, 1e4, -np.inf], [-3e4, 0.0, 0.0]], np.float32)

    actual = np.exp(log_softmax(logits))

    assert actual.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]


# ---- behind ByteLM


def test_bytes(made: dict[str, tuple[Path, Any]]) -> None:
    """A GGUF file is a byte model: rows sum to 1 less the leak, and samples are scored as they were drawn."""
    lm = ByteLM.from_pretrained(made["gemma"][0], engine="llama-cpp", n_threads=1)

    written = lm.sample("ab a", max_bytes=6, seed=1)

    assert 0 < np.exp(lm.next_byte_logprobs("ab a")).sum() <= 1 + 1e-6
    if written.finish_reason == "length":
        assert lm.byte_logprobs(written.bytes, prefix="ab a").sum() == pytest.approx(
            lm.logprob(written.bytes, prefix="ab a"), abs=1e-3
        )


# ---- the packaged models


@pytest.fixture(scope="module", params=["demo", "demo-gemma"])
def real(request: pytest.FixtureRequest) -> Iterator[LlamaCppLM]:
    """A packaged model, as its GGUF file is."""
    model = PACKAGED[request.param]
    lm = LlamaCppLM(packaged_gguf(request.param), n_ctx=2048, n_threads=1, eot_ids=getattr(model, "eos_ids", None))
    yield lm
    lm.close()


@pytest.mark.slow
def test_the_tokenizers_of_real_models_are_llama_cpps(real: LlamaCppLM) -> None:
    """On 6,000 hostile texts, the rebuilt tokenizer splits as llama.cpp does."""
    texts = hostile(real, 6000)

    wrong = [text for text in texts if plain_ids(real.tokenizer, text) != real.context.tokenize(text.encode())]

    assert wrong == []


TEXT = (
    'def mean(values):\n    """The arithmetic mean — of a list."""\n    total = 0\n\n\n    for v in values:\n'
    "        total += v\n    return total / len(values)\n\n\nprint(mean([1, 22, 333]))  # naïve 漢字\n"
)


@pytest.mark.slow
def test_cached_rows_are_the_uncached_ones(real: LlamaCppLM) -> None:
    """Along 150 bytes, a state that is advanced and an engine that has forgotten everything agree within 1e-4 nats."""
    lm = ByteLM(real)
    real.clear_cache()
    data = TEXT.encode()[:150]
    state = lm.state(data[:20])
    cached: dict[int, np.ndarray] = {}
    for n in range(20, len(data)):
        state = state.advance(data[n : n + 1])
        row = state.next_byte_logprobs()
        if n % 13 == 0:
            cached[n + 1] = row
    worst = 0.0
    for n, row in cached.items():
        real.clear_cache()
        fresh = ByteLM(real).next_byte_logprobs(data[:n])
        with np.errstate(invalid="ignore"):
            worst = max(worst, float(np.where(row == fresh, 0.0, np.abs(row - fresh)).max()))

    assert worst < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"n_batch": 1}])
def test_rows_at_the_end_of_a_full_cache(options: dict[str, Any]) -> None:
    """Sequences as long as the cache, and their branches: the same rows in whatever order they are asked for."""
    lm = LlamaCppLM(packaged_gguf("demo"), n_ctx=96, n_threads=1, row_bytes=0, **options)
    rng = random.Random(4)
    whole = tuple(rng.choices(range(lm.vocab_size), k=96))
    asked = [whole[:-1], whole, (*whole[:-2], 7, 8), whole[:50], (*whole[:50], 9), (*whole[:95], 5)]
    alone = {}
    for sequence in asked:
        lm.clear_cache()
        alone[sequence] = lm.next_token_logprobs([sequence])[0]
    lm.clear_cache()
    for _ in range(3):
        call = rng.sample(asked, k=3)
        rows = lm.next_token_logprobs(call)

        assert max(float(np.abs(row - alone[sequence]).max()) for row, sequence in zip(rows, call, strict=True)) < 1e-4
    lm.close()


@pytest.mark.slow
def test_contract_of_real_models(real: LlamaCppLM) -> None:
    """The packaged models keep the contract within 1e-4 nats in every entry."""

    def make() -> LlamaCppLM:
        real.clear_cache()
        return real

    assert check_engine(make, tolerance=1e-4, failing=failing).difference < 1e-4


@pytest.mark.slow
def test_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """The evaluation of what bytes cost on llama.cpp runs, and its table has all methods."""
    from evals.cost.llama_cpp import METHODS, main

    assert main(["--bytes", "9", "--limit", "1", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == [*METHODS]
    assert all(row["ms_per_byte"] > 0 for row in rows)


# ---- drawing


def drawn(lm: LlamaCppLM, count: int, most: int = 1, **sampling: Any) -> list[list[int]]:
    """Tokens that are drawn after (5, 6, 7), each time from another seed."""
    lines: list[list[int]] = [[] for _ in range(count)]
    how: dict[str, Any] = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "eot_ids": frozenset(),
        "options": {},
    }

    def draw(seed: int) -> Draw:
        def take(token: int, _: float) -> bool:
            lines[seed].append(token)
            return True

        return Draw((5, 6, 7), seed, most, take, TokenSampling(**{**how, **sampling}))

    waiting = [draw(seed) for seed in range(count)]
    lm.draw_tokens(lambda: [waiting.pop(0) for _ in range(len(waiting))])
    return lines


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7, "temperature": 1.5}, {"min_p": 0.2}]
)
def test_llama_cpp_s_own_sampler_has_its_law(engine: Make, sampling: dict[str, Any]) -> None:
    """Chi-square of 1,500 tokens against the row after llama.cpp's filters, with the temperature after them."""
    lm = engine()
    probs = np.exp(lm.next_token_logprobs([(5, 6, 7)])[0].astype(np.float64))
    order = np.argsort(-probs)
    if "top_k" in sampling:
        probs[order[sampling["top_k"] :]] = 0
    if "top_p" in sampling:
        probs[order[np.cumsum(probs[order]) - probs[order] >= sampling["top_p"]]] = 0
    if "min_p" in sampling:
        probs[probs < sampling["min_p"] * probs.max()] = 0
    probs **= 1 / sampling.get("temperature", 1.0)
    tokens = np.array([line[0] for line in drawn(lm, 1500, **sampling)])

    assert p_value(tokens, probs / probs.sum()) > 1e-4


def test_options_of_llama_cpp_s_sampler(engine: Make) -> None:
    """Penalties, a bias and a grammar decide what is written; what is no option is refused by name."""
    lm = engine()
    greedy = drawn(lm, 1, 12, temperature=0.0)[0]
    row = lm.next_token_logprobs([(5, 6, 7)])[0]
    assert greedy[0] == int(row.argmax())
    second = int(np.argsort(-row)[1])
    assert drawn(lm, 1, 1, temperature=0.0, options={"logit_bias": {greedy[0]: -100.0}})[0] == [second]
    apart = drawn(lm, 1, 12, temperature=0.0, options={"presence_penalty": 100.0, "penalty_last_n": -1})[0]
    assert len({5, 6, 7, *apart}) == 15
    bound = ByteLM(lm).sample("the ", level="token", seed=2, engine_options={"grammar": 'root ::= "ab" "c"+'})
    assert bound.bytes.startswith(b"abc")
    assert set(bound.bytes[2:]) == {ord("c")}
    for more in (
        {"mirostat": 2},
        {"mirostat": 1},
        {"xtc_probability": 0.5},
        {"dry_multiplier": 0.8},
        {"typical_p": 0.9},
    ):
        assert drawn(lm, 3, 8, options=more) == drawn(lm, 3, 8, options=more)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"repeat_penalti": 1}, "did you mean repeat_penalty"),
        ({"grammar": "root ::= ("}, "grammar"),
    ]
    for options, words in [*wrong, ({"mirostat": 3}, "0 .off., 1 or 2"), ({"logit_bias": {10**6: 1}}, "ids are")]:
        with pytest.raises(InvalidArgumentError, match=words):
            ByteLM(lm).sample("the ", level="token", engine_options=options)


def test_level_token_on_llama_cpp(engine: Make) -> None:
    """Greedily it is llama.cpp's likeliest tokens after the likeliest member; a stream has the same; seeds decide."""
    model = ByteLM(engine())
    for prompt in ("the quick bro", "return n"):
        ids = [*model.cover(prompt)[0].token_ids]
        for _ in range(20):
            ids.append(int(model.token_lm.next_token_logprobs([ids])[0].argmax()))
            if ids[-1] in model.eot_ids:
                break
        done = model.sample(prompt, level="token", temperature=0, max_bytes=20)
        assert done.bytes == model.spell(ids)[len(prompt) :][:20]
        assert "".join(model.stream(prompt, level="token", temperature=0, max_bytes=20)) == done.text
    batch = model.sample_batch(["the ", "return n"] * 3, level="token", seed=1, max_bytes=20)
    alone = model.sample("the ", level="token", seed=1, max_bytes=20)
    assert alone.bytes == batch[0].bytes
    assert len({c.bytes for c in batch}) > 3
