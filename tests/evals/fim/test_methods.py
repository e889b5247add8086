"""The four methods on one prompt: the token-level ones token by token, ends, costs, and what cannot be taken."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.byte_lm.fingerprint import digest_of_model
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import InvalidArgumentError, NoInfillFormatError, UnreachablePrefixError
from bytelm.healing import Healing, completer_of, infill_completer
from evals.fim.methods import DEFAULT_METHODS as METHODS
from evals.fim.methods import HEALING, Filler, Method, Settings, Spent, Written, seed_of
from evals.fim.problems import Problem
from tests.fim.test_formats import (
    LLAMA_LIKE,
    ORDERS,
    PUBLISHED,
    TOKENIZERS,
    P,
    S,
    encoded,
    id_of,
    model_of,
    published_ids,
)
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model
from tests.test_healing import EOT, S_RET, FakeLM, N, T, U, byte_level

SPM = [name for name, form in PUBLISHED.items() if form["spm"] and form["spm"][-1] == "P"]
PSM = [name for name, mode in ORDERS if mode == "psm"]


@pytest.mark.parametrize(("name", "mode"), ORDERS)
def test_tokens_go_on_from_the_published_prompt(name: str, mode: Any) -> None:
    """Without healing the first row asked for is that after the published prompt, token by token."""
    model, lm = model_of(name)
    completer, prompt = infill_completer(lm, P, S, mode=mode, carry="none")

    completer.sample(prompt, max_bytes=1)

    assert model.seen[0] == published_ids(name, mode)


@pytest.mark.parametrize("name", SPM)
def test_in_spm_healing_takes_back_the_end_of_the_prefix(name: str) -> None:
    """The last token of the prefix is taken away and written again; what the completion adds comes after it."""
    model, lm = model_of(name)
    completer, prompt = infill_completer(lm, P, S, mode="spm")

    done = completer.sample(prompt, healing="one", max_bytes=5)

    last = encoded(name, P, opens=True)[-1]
    assert model.seen[0] == published_ids(name, "spm")[:-1]
    assert done.backed_up == completer.vocab.token_bytes[last]
    assert lm.spell(done.token_ids)[: len(done.backed_up) + 5] == done.backed_up + done.bytes


@pytest.mark.parametrize("name", PSM)
def test_in_psm_there_is_nothing_to_heal(name: str) -> None:
    """After a sentinel the three token-level methods are one, where nothing is carried."""
    _, lm = model_of(name)
    completer, prompt = infill_completer(lm, P, S, mode="psm", carry="none")
    ways: tuple[Healing, ...] = ("none", "one", "many")

    drawn = [completer.sample(prompt, healing=way, temperature=1.0, seed=3, max_bytes=9) for way in ways]

    assert prompt == b""
    assert drawn[0] == drawn[1] == drawn[2]
    row = completer.next_byte_logprobs(prompt)
    for way in ways[1:]:
        np.testing.assert_array_equal(completer.next_byte_logprobs(prompt, healing=way), row)


@pytest.mark.parametrize("name", PSM)
def test_in_psm_healing_takes_back_the_end_of_the_carried_line(name: str) -> None:
    """The last token of what is carried is taken away and written again."""
    model, lm = model_of(name)
    completer, prompt = infill_completer(lm, "x\n  ret", S, mode="psm")

    done = completer.sample(prompt, healing="one", max_bytes=5)

    assert prompt == b"  ret"
    assert done.backed_up
    assert model.seen[0] == (*published_ids(name, "psm", "x\n", S), *encoded(name, "  ret", opens=False)[:-1])


@pytest.mark.parametrize("name", [name for name in SPM if name in LLAMA_LIKE])
@pytest.mark.parametrize("prefix", ["", "x", " x", "a b"])
def test_the_hidden_space_is_written_once(name: str, prefix: str) -> None:
    """Where a tokenizer hides a space before a text, the prefix in SPM has it, and the middle has none of its own."""
    model, lm = model_of(name)
    completer, prompt = infill_completer(lm, prefix, S, mode="spm")

    completer.sample(prompt, max_bytes=1)

    expected = published_ids(name, "spm", prefix) if prefix else (*published_ids(name, "spm", ""), id_of(name, "▁"))
    assert model.seen[0] == expected


@pytest.mark.parametrize("name", [name for name in PSM if name in LLAMA_LIKE])
def test_a_space_that_begins_a_middle_is_kept(name: str) -> None:
    """A token with a leading space spells it where the middle begins after a sentinel: nothing hides it there."""
    prompt_ids = published_ids(name, "psm")
    piece = encoded(name, " the", opens=False)[0]
    model = TableLM(TOKENIZERS[name], table=lambda ids: {piece: 1.0} if len(ids) == len(prompt_ids) else {2: 1.0})
    completer, prompt = infill_completer(ByteLM(model), P, S, mode="psm", carry="none")

    assert completer.sample(prompt, max_bytes=1).bytes == b" "


@pytest.mark.parametrize(("name", "end"), [(name, end) for name in PUBLISHED for end in PUBLISHED[name]["ends"]])
@pytest.mark.parametrize("healing", ["none", "one"])
def test_every_end_of_a_middle_ends_tokens_too(name: str, end: str, healing: Healing) -> None:
    """Whichever end of the format the model writes, the token-level completion ends there."""
    mode: Any = "spm" if PUBLISHED[name]["spm"] else "psm"
    prompt_ids = published_ids(name, mode, "x", S)

    def written(ids: tuple[int, ...]) -> dict[int, float]:
        return {prompt_ids[len(ids)]: 1.0} if len(ids) < len(prompt_ids) else {id_of(name, end): 1.0}

    lm = ByteLM(TableLM(TOKENIZERS[name], table=written, eot_ids=()))
    completer, prompt = infill_completer(lm, "x", S, mode=mode, carry="none")
    done = completer.sample(prompt, healing=healing)

    assert (done.bytes, done.finish_reason) == (b"", "eot")


def test_left_is_completer_of_the_model() -> None:
    """In left mode the method is that of `completer_of`, on the prefix."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    completer, prompt = infill_completer(lm, P, S, mode="left")

    for healing in ("none", "one", "many"):
        expected = completer_of(lm).sample(P, healing=healing, temperature=1.0, seed=2, max_bytes=12)
        assert completer.sample(prompt, healing=healing, temperature=1.0, seed=2, max_bytes=12) == expected


def test_bad_modes_are_infills_own_errors() -> None:
    """A model without the tokens, and an order that a format does not have, are refused as `infill` refuses them."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=3))
    with pytest.raises(NoInfillFormatError, match="mode='left'"):
        infill_completer(lm, P, S)
    with pytest.raises(InvalidArgumentError, match="no spm order"):
        infill_completer(model_of("granite")[1], P, S, mode="spm")
    with pytest.raises(UnreachablePrefixError):
        infill_completer(model_of("starcoder")[1], b"caf\xc3", S, mode="psm", carry="none")


# ---- with their costs


@pytest.fixture(scope="module")
def filler() -> Filler:
    """A tiny Llama with StarCoder's sentinels."""
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=names)
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=400)
    return Filler(TransformersLM(model, tokenizer))


def spent(written: Written) -> Spent:
    """Its cost, which was counted."""
    assert written.cost is not None
    return written.cost


PROBLEM = Problem("task/1", "task", P.encode(), b"urn x", S.encode())


@pytest.mark.parametrize("mode", ["spm", "psm", "left"])
@pytest.mark.parametrize("method", METHODS)
def test_a_filler_writes_what_the_methods_do(filler: Filler, method: Method, mode: Any) -> None:
    """Each method is the public one with its options and the seed of the sample, and its cost is the engine's."""
    settings = Settings(mode=mode, temperature=1.0, max_bytes=8, stops=("e",), seed=5)
    options: dict[str, Any] = {"temperature": 1.0, "max_bytes": 8, "stop": ["e"], "seed": seed_of(5, "task/1", 2)}

    written = filler.complete(PROBLEM, method, settings, sample=2)
    filler.clocked.restart()
    before = filler.clocked.usage.copy()
    if method == "byte":
        done: Any = filler.lm.infill(P, S, mode=mode, **options)
    else:
        completer, prompt = infill_completer(filler.lm, P, S, mode=mode)
        done = completer.sample(prompt, healing=HEALING[method], **options)
    used = filler.clocked.usage.since(before)

    assert (written.completion, written.finish) == (done.bytes, done.finish_reason)
    cost = spent(written)
    assert (cost.calls, cost.fed) == (used.calls, used.tokens_fed)
    assert 0 < cost.first_s <= cost.seconds


@pytest.mark.parametrize("mode", ["spm", "psm", "left"])
def test_the_method_likeliest(filler: Filler, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the likeliest middle of all, at its cost; what it could not find within its calls is empty."""
    settings = Settings(mode=mode, max_bytes=2, stops=("e",))
    (best,) = filler.lm.infill_likeliest(P, S, mode=mode, n=1, stop="e", max_bytes=2)

    written = filler.complete(PROBLEM, "likeliest", settings)

    assert (written.completion, written.finish) == (best.bytes, "stop" if best.complete else "length")
    assert spent(written).calls > 0
    monkeypatch.setattr("evals.fim.methods.MOST_CALLS", 1)
    cut = filler.complete(PROBLEM, "likeliest", Settings(mode=mode, max_bytes=60))
    assert (cut.completion, cut.finish, spent(cut).calls) == (b"", "spent", 1)


def test_the_cost_does_not_depend_on_what_ran_before(filler: Filler) -> None:
    """The same completion twice costs the same, as the cache is emptied; its tokens are those of the text."""
    settings = Settings(mode="spm", max_bytes=12)
    first, second = (filler.complete(PROBLEM, "byte", settings) for _ in range(2))

    assert first.completion == second.completion
    assert (spent(first).calls, spent(first).fed) == (spent(second).calls, spent(second).fed)
    encode = filler.lm.viability.vocab.encode
    assert spent(first).tokens == len(encode(first.completion.decode("utf-8", "ignore")))


def test_the_tokens_of_a_completion_are_its_own() -> None:
    """After "n re" comes "t": one token and the end, two calls; of "n ret" there are fewer tokens than of "n re"."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    filler = Filler(FakeLM(tokenizer, 16, [EOT], lambda ids: {EOT: 1.0} if ids[-1] == T else {T: 1.0}))
    encode = filler.lm.viability.vocab.encode
    assert (len(encode("n re")), len(encode("n ret"))) == (3, 2)

    written = filler.complete(Problem("a", "a", b"n re", b"t", b""), "token", Settings(mode="left"))

    assert (written.completion, written.finish) == (b"t", "eot")
    assert (spent(written).tokens, spent(written).calls) == (1, 2)


def test_where_nothing_is_counted_the_methods_share_a_prompt(filler: Filler) -> None:
    """They write the same, the prompt is fed once, and another problem begins from an empty cache."""
    settings = Settings(mode="spm", max_bytes=12)
    alone = {method: filler.complete(PROBLEM, method, settings) for method in METHODS}
    other = replace(PROBLEM, id="task/2")
    before = filler.clocked.usage.copy()
    shared = {method: filler.complete(other, method, settings, counted=False) for method in METHODS}
    used = filler.clocked.usage.since(before).tokens_fed

    assert {method: done.completion for method, done in shared.items()} == {
        method: done.completion for method, done in alone.items()
    }
    assert all(done.cost is None for done in shared.values())
    prompt = len(filler.lm.viability.vocab.encode(P + S))
    assert prompt < used < sum(spent(done).fed for done in alone.values()) - 2 * prompt
    before = filler.clocked.usage.copy()
    filler.complete(PROBLEM, "token", settings, counted=False)
    assert filler.clocked.usage.since(before).tokens_fed == spent(alone["token"]).fed


def test_tokens_use_the_engines_cache(filler: Filler) -> None:
    """A token-level completion feeds its prompt once: as many tokens as prompt and completion have."""
    written = filler.complete(PROBLEM, "token", Settings(mode="left", max_bytes=30))

    assert spent(written).fed < len(filler.lm.viability.vocab.encode(P)) + 31
    assert spent(written).calls <= 31


def test_a_stop_that_belongs_to_the_middle_is_put_back() -> None:
    """`closing` ends a completion and is part of it; a completion that ends for another reason does not have it."""
    tokenizer = default_tokenizer()
    newline, letter = tokenizer.encode("\n")[0], tokenizer.encode("a")[0]
    filler = Filler(TableLM(tokenizer, table=lambda ids: {letter if len(ids) % 5 else newline: 1.0}))
    problem = Problem("a", "a", b"aa", b"a\n", b"")

    for method in METHODS:
        assert filler.complete(problem, method, Settings(mode="left", closing="\n")).completion.endswith(b"\n")
        cut = filler.complete(problem, method, Settings(mode="left", closing="\n", max_bytes=1))
        assert (cut.completion, cut.finish) == (b"a", "length")


def test_what_a_method_cannot_take_is_refused() -> None:
    """Inside a character tokens cannot go on, and PSM without a carried line has no prompt: an empty completion that says so."""
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"))
    filler = Filler(TableLM(tokenizer, seed=1))
    inside = Problem("a", "a", b"caf\xc3", b"\xa9", b"\n")
    for carry in ("line", "none"):
        refused = {
            (mode, method)
            for mode in ("left", "spm", "psm")
            for method in METHODS
            if filler.complete(inside, method, Settings(mode=mode, carry=carry, max_bytes=2)).finish == "refused"
        }
        in_psm = METHODS if carry == "none" else ("token",)
        assert refused == {("left", "token"), ("spm", "token"), *(("psm", method) for method in in_psm)}


def test_the_first_byte_is_settled_by_the_call_that_goes_beyond_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Healing that writes " ret" again and then "u" has its first byte after the second call; tokens after the first."""
    ticks = count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))

    def rows(ids: tuple[int, ...]) -> dict[int, float]:
        return {S_RET: 1.0} if ids in ((), (N,)) else {U: 1.0}

    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    filler = Filler(FakeLM(tokenizer, 16, [0], rows))
    problem = Problem("a", "a", b"n ret", b"urn", b"")
    settings = Settings(mode="left", max_bytes=3)

    # One tick at the start, one after each call, one at the end.
    assert spent(filler.complete(problem, "token", settings)).first_s == 1
    assert spent(filler.complete(problem, "heal", settings)).first_s == 2
    assert spent(filler.complete(problem, "heal", settings)).seconds == 5


def test_formats_are_named_with_their_order(filler: Filler) -> None:
    """The record says which format and which order a mode came to; a model without one is told of left."""
    assert [filler.format_name(mode) for mode in ("auto", "spm", "psm", "left")] == [
        "starcoder spm",
        "starcoder spm",
        "starcoder psm",
        "left",
    ]
    carried = [filler.format_name(mode, "line") for mode in ("spm", "psm", "left")]
    assert carried == ["starcoder spm", "starcoder psm+line", "left"]
    with pytest.raises(NoInfillFormatError, match="mode='left'"):
        Filler(TableLM(default_tokenizer(), seed=0)).format_name("auto")


def test_seeds_are_of_the_problem_and_the_sample() -> None:
    """No two of seed, problem and sample share a seed, and it is the same in every process."""
    seeds = {seed_of(seed, problem, sample) for seed in range(3) for problem in "ab" for sample in range(3)}

    assert len(seeds) == 18
    assert seed_of(0, "a", 0) == 58603324993478470


def test_fingerprints_tell_models_apart() -> None:
    """The same weights have the same fingerprint, other weights or another dtype another one; a table has none."""
    import torch

    one, same, other = (tiny_model("gpt2", seed=seed) for seed in (0, 0, 1))
    half = tiny_model("gpt2", dtype=torch.bfloat16)

    assert digest_of_model(one) == digest_of_model(same)
    assert len({digest_of_model(model) for model in (one, other, half)}) == 3
    assert digest_of_model(TableLM(default_tokenizer())) is None
