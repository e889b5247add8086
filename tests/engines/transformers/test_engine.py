from __future__ import annotations

import copy
import inspect
import math
import random
import textwrap
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytelm.engines.rows import checked_rows
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.engines.transformers.forward import log_softmax
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
from bytelm.token_lm import TokenLM, Usage
from tests.support.tiny import KINDS, byte_bpe_tokenizer, default_tokenizer, tiny_model

if TYPE_CHECKING:
    from bytelm import ByteLM

TOKENS = 311  # of the default tokenizer; the models have 317 columns
MODES = {
    "llama": "tree",
    "qwen3": "tree",
    "gpt2": "tree",
    "mistral": "tree",
    "gemma3": "tree",
    "phi3_longrope": "tree",
    "bloom": "chain",
    "gpt_neo": "chain",
    "mamba": "states",
    "jamba": "states",
    "lfm2": "states",
    "qwen3_next": "states",
}
# What transformers computes in float32 inside, whatever the dtype, differs by rounding.
TOLERANCE = {"bloom": 1e-5, "gpt_neo": 1e-4, "mamba": 2e-6, "jamba": 2e-6}


def engine(kind: str = "llama", *, overrides: dict[str, Any] | None = None, **options: Any) -> TransformersLM:
    return TransformersLM(tiny_model(kind, **(overrides or {})), default_tokenizer(), **options)


def plain_row(model: Any, sequence: Sequence[int]) -> np.ndarray:
    """The definition of a row: one forward pass over the sequence alone, without a cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(sequence)]), use_cache=False).logits[0, -1]
    row: np.ndarray = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1).numpy()
    return row


def requests(seed: int, calls: int, longest: int = 120) -> list[list[tuple[int, ...]]]:
    """Calls as decoding makes them: extensions, branches, steps back, old acquaintances, unrelated sequences."""
    rng = random.Random(seed)
    known: list[tuple[int, ...]] = [(1, 2, 3)]
    made = []
    for _ in range(calls):
        call = []
        for _ in range(rng.choice([1, 1, 2, 3, 5])):
            base = rng.choice(known[-12:]) if rng.random() < 0.95 else ()
            if rng.random() < 0.3:
                base = base[: rng.randint(0, len(base))]
            more = rng.choices(range(TOKENS), k=rng.choice([0, 1, 1, 2, 4, 23]))
            call.append((*base, *more)[:longest] or (7,))
        known += call
        made.append(call)
    return made


def farthest(lm: TransformersLM, calls: list[list[tuple[int, ...]]]) -> float:
    """The largest difference from the definition in any entry of any row."""
    far = 0.0
    for call in calls:
        rows = lm.next_token_logprobs(call)
        far = max(far, *(float(np.abs(r - plain_row(lm.model, s)).max()) for s, r in zip(call, rows, strict=True)))
    return far


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached(kind: str) -> None:
    """Whatever is asked in whatever order, rows are those of a plain forward pass, beyond the sliding window too."""
    lm = engine(kind)

    far = farthest(lm, requests(seed=1, calls=60))

    assert lm.mode == MODES[kind], lm.mode_reason
    assert far <= TOLERANCE.get(kind, 1e-9)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "mistral", "bloom"])
@pytest.mark.parametrize(
    "options",
    [
        {"cache_budget_bytes": 0},
        {"cache_budget_bytes": 60_000},
        {"prefill_chunk": 3},
        {"max_batch": 2, "prefill_chunk": 5, "cache_budget_bytes": 30_000},
    ],
    ids=str,
)
def test_cached_equals_uncached_when_short_of_room(kind: str, options: dict[str, Any]) -> None:
    """Eviction, packing and cutting into passes change no row."""
    lm = engine(kind, **options)

    far = farthest(lm, requests(seed=2, calls=60))

    assert far <= TOLERANCE.get(kind, 1e-9)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_cached_equals_uncached_with_eager_attention(kind: str) -> None:
    """Attention that adds its mask to the scores gives the same rows, in the same mode (its softmax is in float32)."""
    lm = engine(kind, overrides={"attn_implementation": "eager"})

    far = farthest(lm, requests(seed=3, calls=40))

    assert lm.mode == "tree"
    assert far <= 1e-5


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_many_unrelated_sequences(kind: str) -> None:
    """A batch of ragged streams, too many for one mask, is extended together, each in its own context."""
    lm = engine(kind)
    rng = random.Random(4)
    streams = [tuple(rng.choices(range(TOKENS), k=rng.randint(20, 40))) for _ in range(13)]
    calls = [streams]
    for _ in range(9):
        calls.append([(*stream, rng.randrange(TOKENS)) for stream in calls[-1]])
    before = lm.usage.copy()

    far = farthest(lm, calls)

    assert far <= 1e-9
    assert lm.usage.since(before) == Usage(calls=10, tokens_fed=sum(map(len, streams)) + 13 * 9)


ids = st.integers(0, 4)


@settings(max_examples=40)
@given(st.lists(st.lists(st.lists(ids, min_size=1, max_size=11), min_size=1, max_size=4), min_size=1, max_size=6))
def test_any_calls(calls: list[list[list[int]]]) -> None:
    """On a few tokens, where everything collides, any calls give the rows of plain forward passes."""
    lm = HYPOTHESIS_ENGINES["gemma3"]
    lm.clear_cache()

    assert farthest(lm, [[tuple(sequence) for sequence in call] for call in calls]) <= 1e-9


HYPOTHESIS_ENGINES = {"gemma3": engine("gemma3", cache_budget_bytes=15_000)}


def test_order_and_repetition() -> None:
    """Rows come in the order asked, one for each sequence, repetitions and prefixes included."""
    lm = engine()
    call = [(5, 6), (1,), (5, 6, 7), (5,), (5, 6), (1,)]

    rows = lm.next_token_logprobs(call)

    assert rows.shape == (6, 317)
    assert rows.dtype == np.float64
    assert np.array_equal(rows[0], rows[4])
    assert max(float(np.abs(row - plain_row(lm.model, s)).max()) for row, s in zip(rows, call, strict=True)) <= 1e-9


@pytest.fixture
def lm() -> TransformersLM:
    return engine()


def spent(lm: TransformersLM, *sequences: Sequence[int]) -> tuple[int, int]:
    """Calls and tokens that asking for these sequences costs."""
    before = lm.usage.copy()
    lm.next_token_logprobs(sequences)
    usage = lm.usage.since(before)
    return usage.calls, usage.tokens_fed


def test_construction_costs_nothing(lm: TransformersLM) -> None:
    """The comparison of modes at the construction is not counted, and leaves nothing in the cache."""
    assert lm.usage == Usage(calls=0, tokens_fed=0)
    assert lm.cache_bytes == 0


def test_a_step_feeds_one_token(lm: TransformersLM) -> None:
    """After a prefill, one token more is one token fed."""
    prompt = tuple(range(50))

    assert spent(lm, prompt) == (1, 50)
    assert spent(lm, (*prompt, 60)) == (1, 1)
    assert spent(lm, (*prompt, 60, 61)) == (1, 1)


def test_prefixes_are_free(lm: TransformersLM) -> None:
    """All prefixes of a sequence cost the one pass that the sequence costs."""
    prompt = tuple(range(30))

    assert spent(lm, *(prompt[:n] for n in range(1, 31))) == (1, 30)


def test_side_branches_ride_in_the_same_pass(lm: TransformersLM) -> None:
    """Branches of a prompt are fed with it in one pass, and what they share once."""
    prompt = tuple(range(30))

    assert spent(lm, prompt, (*prompt[:-1], 40), (*prompt[:-3], 41, 42), (*prompt[:-3], 41, 43)) == (1, 34)


def test_a_branch_that_was_left_is_still_there(lm: TransformersLM) -> None:
    """Coming back to a side branch, after others went on, feeds only what is new."""
    prompt = tuple(range(30))
    lm.next_token_logprobs([prompt])
    lm.next_token_logprobs([(*prompt, 40), (*prompt, 41)])
    lm.next_token_logprobs([(*prompt, 40, 50), (*prompt, 40, 51)])

    assert spent(lm, (*prompt, 41, 60)) == (1, 1)
    assert spent(lm, (*prompt, 40, 51, 61), (*prompt, 41, 60, 62)) == (1, 2)


def test_the_longest_sequence_lies_together(lm: TransformersLM) -> None:
    """Whatever the order they are asked in, the slots of the longest sequence are one run."""
    prompt = tuple(range(30))
    lm.next_token_logprobs([(*prompt[:20], 40), prompt[:25], prompt, (*prompt, 41), (*prompt[:28], 42, 43)])

    segment, _ = lm.tree.find([*prompt, 41])

    assert lm.tree.path(segment).tolist() == list(range(31))


def test_a_repeated_row_is_free(lm: TransformersLM) -> None:
    """A row that was just asked for costs no pass."""
    lm.next_token_logprobs([(1, 2, 3), (1, 2)])

    assert spent(lm, (1, 2), (1, 2, 3)) == (0, 0)


def test_a_row_inside_the_cache_feeds_one_token(lm: TransformersLM) -> None:
    """The row of a prefix that was fed, but not asked for, costs one token, however long what follows it."""
    prompt = tuple(range(50))
    lm.next_token_logprobs([prompt])

    assert spent(lm, prompt[:20]) == (1, 1)
    assert spent(lm, (*prompt, 60)) == (1, 1)


def test_samples_share_their_prompt(lm: TransformersLM) -> None:
    """A prompt of many samples is fed once, and each step of them is one pass."""
    prompt = tuple(range(30))
    samples = [(*prompt, 100 + i) for i in range(17)]
    first = spent(lm, *samples)

    second = spent(lm, *((*sample, 200) for sample in samples))

    assert (first, second) == ((1, 47), (1, 17))


def test_prefill_in_chunks() -> None:
    """A long prompt is fed in passes of the stated length, and no token twice."""
    lm = engine(prefill_chunk=16)

    assert spent(lm, tuple(range(50))) == (4, 50)


@pytest.mark.parametrize(("kind", "expected"), [("bloom", [(1, 10), (3, 4)]), ("mamba", [(1, 10), (4, 4)])])
def test_counters_in_the_slower_modes(kind: str, expected: list[tuple[int, int]]) -> None:
    """Chains take one pass for each branch, states one for each token, no cache feeds everything again."""
    lm = engine(kind)
    prompt = tuple(range(10))

    actual = [spent(lm, prompt), spent(lm, (*prompt, 20), (*prompt, 21, 22), (*prompt, 23))]

    assert actual == expected


def test_prefixes_are_free_without_a_cache() -> None:
    """Where there is no cache, the rows of prefixes are still read off one pass."""
    assert spent(engine("mamba"), *(tuple(range(n)) for n in range(1, 11))) == (1, 10)


def test_logits_are_computed_where_they_are_asked_for() -> None:
    """A prefill projects the asked positions onto the vocabulary, and no others."""
    lm = engine()
    widths: list[int] = []
    lm.model.lm_head.register_forward_hook(lambda _module, inputs, _output: widths.append(inputs[0].shape[-2]))
    lm.refresh()  # a hook is a change
    widths.clear()

    lm.next_token_logprobs([tuple(range(100)), tuple(range(99))])

    assert widths == [2]


def test_budget_bounds_what_is_kept() -> None:
    """After any call, keys, values and rows take no more than the budget, if what the call needs is far less."""
    budget = 200_000
    lm = engine(cache_budget_bytes=budget)
    rng = random.Random(5)

    sizes = []
    for _ in range(60):
        lm.next_token_logprobs([tuple(rng.choices(range(TOKENS), k=40))])
        sizes.append(lm.cache_bytes)

    assert budget / 2 < max(sizes) <= budget


def test_the_oldest_is_forgotten_first() -> None:
    """Under a budget for a few prompts, the one that is used again and again stays, and an old one goes."""
    lm = engine(cache_budget_bytes=120_000)
    rng = random.Random(6)
    kept, old, *others = [tuple(rng.choices(range(TOKENS), k=40)) for _ in range(12)]
    lm.next_token_logprobs([old])
    for i, other in enumerate(others):
        lm.next_token_logprobs([(*kept, i), other])

    assert spent(lm, (*kept, 100)) == (1, 1)
    assert spent(lm, (*old, 100)) == (1, 41)


def test_long_decoding_does_not_grow_with_its_dead_branches() -> None:
    """Side branches that nothing asks for again are dropped while decoding goes on."""
    lm = engine()
    sequence: tuple[int, ...] = (1,)
    for i in range(200):
        lm.next_token_logprobs([(*sequence, i), (*sequence, i + 1), (*sequence, i + 2)])
        sequence = (*sequence, i)

    assert lm.tree.live < 201 + 3 * 80
    assert spent(lm, (*sequence, 250)) == (1, 1)


def test_clear_cache(lm: TransformersLM) -> None:
    """A cleared cache holds nothing, and everything is fed again."""
    lm.next_token_logprobs([(1, 2, 3)])

    lm.clear_cache()

    assert lm.cache_bytes == 0
    assert spent(lm, (1, 2, 3, 4)) == (1, 4)


def test_rows_belong_to_the_caller(lm: TransformersLM) -> None:
    """Writing into the rows that were returned changes none that are returned later."""
    first = lm.next_token_logprobs([(1, 2)])
    expected = first.copy()
    first[:] = 0

    assert np.array_equal(lm.next_token_logprobs([(1, 2)]), expected)


def test_empty_sequence_is_bos() -> None:
    """The empty sequence stands for the tokenizer's BOS, where there is one."""
    tokenizer = byte_bpe_tokenizer(bos="<b>")
    lm = TransformersLM(tiny_model("llama"), tokenizer)

    rows = lm.next_token_logprobs([(), (tokenizer.bos_token_id,)])

    assert lm.start_id == tokenizer.bos_token_id == 1
    assert np.array_equal(rows[0], rows[1])
    assert np.abs(rows[0] - plain_row(lm.model, [1])).max() <= 1e-9


def test_empty_sequence_without_bos() -> None:
    """Without a BOS the empty sequence stands for an EOT id or the id given; with neither, it is refused."""
    bare = byte_bpe_tokenizer(eos=None)
    model = tiny_model("llama")
    model.config.eos_token_id = model.generation_config.eos_token_id = None

    assert TransformersLM(model, default_tokenizer()).start_id == default_tokenizer().eos_token_id
    assert TransformersLM(model, bare, eot_ids=[9, 5]).start_id == 5
    assert TransformersLM(model, bare, start_id=3).start_id == 3
    with pytest.raises(InvalidArgumentError, match="start_id="):
        TransformersLM(model, bare).next_token_logprobs([()])


def test_eot_ids_are_all_that_are_named() -> None:
    """EOT ids are the union of what the two configurations and the tokenizer name, where they are columns."""
    model = tiny_model("llama", eos_token_id=312)
    model.generation_config.eos_token_id = [313, 314, 999]

    lm = TransformersLM(model, default_tokenizer())

    assert lm.eot_ids == {312, 313, 314, default_tokenizer().eos_token_id}
    assert TransformersLM(model, default_tokenizer(), eot_ids=[2]).eot_ids == {2}


def test_the_context_of_a_model_of_more_than_text() -> None:
    """A model of images and text says in the configuration of its text part how long a sequence may be."""
    text = SimpleNamespace(max_position_embeddings=7)

    assert traits.context_length(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))) == 7


def test_it_is_a_token_lm(lm: TransformersLM) -> None:
    """The engine satisfies the protocol, and its rows the check that other engines have to pass."""
    assert isinstance(lm, TokenLM)
    assert checked_rows(lm.next_token_logprobs([(), (1,)]), 2, lm.vocab_size) is not None


def test_logits_wider_than_the_vocabulary() -> None:
    """Columns are the model's, also where they are more than the tokenizer's ids."""
    lm = engine(overrides={"vocab_size": 331})

    assert lm.vocab_size == 331
    assert lm.next_token_logprobs([(330,)]).shape == (1, 331)


def test_rows_of_a_wide_vocabulary_sum_to_one() -> None:
    """In float32 too, with as many columns as Gemma has: their sum must not be made in the order of the columns."""
    logits = torch.randn(12, 262_144, generator=torch.Generator().manual_seed(0)) * 3 + 100

    rows = log_softmax(logits).numpy()

    assert rows.dtype == np.float32
    assert float(np.abs(np.log(np.exp(rows).sum(axis=1, dtype=np.float64))).max()) <= 1e-6
    exact = logits.double() - logits.double().logsumexp(-1, keepdim=True)
    assert float(np.abs(rows - exact.numpy()).max()) <= 2e-6


def test_a_special_id_beyond_the_columns() -> None:
    """A tokenizer may have a special token that the model has no column for; text cannot ask for it."""
    tokenizer = byte_bpe_tokenizer(vocab_size=311)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    lm = TransformersLM(tiny_model("llama", vocab_size=311), tokenizer)

    with pytest.raises(VocabularyMismatchError, match="id 311 is beyond the model's 311"):
        lm.next_token_logprobs([(1, 311)])


def test_a_tokenizer_of_another_model() -> None:
    """A tokenizer whose ordinary ids exceed the columns is refused, with how many there are and the largest."""
    with pytest.raises(VocabularyMismatchError, match=r"8 ordinary token.* 303 columns, up to id 310"):
        TransformersLM(tiny_model("llama", vocab_size=303), default_tokenizer())


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bloom", "mamba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision(kind: str, dtype: torch.dtype) -> None:
    """A bfloat16 or float16 model gives normalised float32 rows, and is cached as a float64 one is."""
    lm = engine(kind, overrides={"dtype": dtype})
    tolerance = 1e-4 if dtype is torch.float32 else 0.5  # of log-probabilities down to about -15

    far = farthest(lm, requests(seed=7, calls=10, longest=60))

    rows = lm.next_token_logprobs([(1, 2)])
    assert lm.mode == MODES[kind], lm.mode_reason
    assert rows.dtype == np.float32
    assert abs(np.logaddexp.reduce(rows[0].astype(np.float64))) < 1e-5
    assert far <= tolerance
    assert next(lm.model.parameters()).dtype is dtype


def test_training_mode_is_left_as_it_was() -> None:
    """A model in training mode, dropout and all, is evaluated without it, and is in training mode afterwards."""
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = plain_row(model, (1, 2, 3))
    model.train()
    model.transformer.h[0].eval()
    before = {name: module.training for name, module in model.named_modules()}

    lm = TransformersLM(model, default_tokenizer())
    row = lm.next_token_logprobs([(1, 2, 3)])[0]

    assert np.abs(row - expected).max() <= 1e-9
    assert {name: module.training for name, module in model.named_modules()} == before


def test_the_model_is_left_as_it_was() -> None:
    """No parameter, no configuration and no hook of the model is changed."""
    model = tiny_model("gemma3")
    config, weights = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.state_dict())

    TransformersLM(model, default_tokenizer()).next_token_logprobs([tuple(range(20))])

    assert model.config.to_dict() == config
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("cache", ["static", "quantized", "hybrid", "offloaded", "sliding_window"])
def test_the_configured_cache_is_not_used(cache: str) -> None:
    """A cache that generation is configured for, of a kind that cannot be cropped, has no part in this."""
    model = tiny_model("gemma3")
    model.generation_config.cache_implementation = cache
    model.config.use_cache = False

    lm = TransformersLM(model, default_tokenizer())

    assert lm.mode == "tree"
    assert farthest(lm, requests(seed=8, calls=10)) <= 1e-9


def test_a_cache_that_lies_is_found_out() -> None:
    """A model whose cached passes give other rows than plain ones is run without a cache."""
    model = tiny_model("llama")
    forward = model.forward

    def forgetful(*args: Any, use_cache: bool = False, past_key_values: Any = None, **kwargs: Any) -> Any:
        return forward(*args, use_cache=False, **{**kwargs, "position_ids": None, "attention_mask": None})

    model.forward = forgetful

    lm = TransformersLM(model, default_tokenizer())

    assert lm.mode == "prefix"
    assert farthest(lm, requests(seed=9, calls=10)) <= 1e-9


def test_masks_that_are_ignored_are_found_out() -> None:
    """A model that takes a mask and does not heed it is run branch by branch."""
    model = tiny_model("llama")
    forward = model.forward

    def heedless(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = heedless

    lm = TransformersLM(model, default_tokenizer())

    assert lm.mode == "chain"
    assert farthest(lm, requests(seed=10, calls=10)) <= 1e-9


def test_a_window_that_cannot_be_read_is_not_guessed() -> None:
    """Where a model slides, but not by transformers' own masks, it makes its own."""
    assert engine("llama", overrides={"sliding_window": 7}).mode == "chain"


def poisoned(value: float) -> tuple[TransformersLM, Callable[[], None]]:
    """An engine whose model gives a bad logit from now on, and what mends it."""
    lm = engine()
    handle = lm.model.lm_head.register_forward_hook(lambda _m, _i, out: out.index_fill(-1, torch.tensor([5]), value))
    return lm, handle.remove


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_logits(value: float) -> None:
    """NaN and infinite logits are an error, after which the engine is as good as new."""
    lm, mend = poisoned(value)

    with pytest.raises(InvalidLogitsError, match="row 0"):
        lm.next_token_logprobs([(1, 2, 3)])
    mend()

    assert np.abs(lm.next_token_logprobs([(1, 2, 3)])[0] - plain_row(lm.model, (1, 2, 3))).max() <= 1e-9


def test_a_damaged_model() -> None:
    """A model that gives NaN from the start is refused at the construction."""
    model = tiny_model("llama")
    torch.nn.init.constant_(model.model.norm.weight, math.nan)

    with pytest.raises(InvalidLogitsError, match="NaN"):
        TransformersLM(model, default_tokenizer())


def test_minus_infinity_is_a_probability() -> None:
    """A logit of -inf is a token that cannot follow."""
    lm, _ = poisoned(-math.inf)

    row = lm.next_token_logprobs([(1, 2, 3)])[0]

    assert row[5] == -math.inf
    assert abs(np.logaddexp.reduce(row)) < 1e-9


def test_a_failure_leaves_no_half_written_cache(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a pass fails, what it was to have written is not believed to be there."""
    lm.next_token_logprobs([(1, 2)])
    with monkeypatch.context() as patch:
        mlp = type(lm.model.model.layers[0].mlp)
        patch.setattr(mlp, "forward", lambda _, hidden: hidden[:, :, :3])  # layer 1 writes nothing
        with pytest.raises(ModelError, match="the model failed on 1 x 2 tokens"):
            lm.next_token_logprobs([(1, 2, 3, 4)])

    assert np.abs(lm.next_token_logprobs([(1, 2, 3, 4)])[0] - plain_row(lm.model, (1, 2, 3, 4))).max() <= 1e-9


def test_memory_that_runs_out(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that fails is an error of its own, which says what to make smaller; then the engine goes on."""
    for failure in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ):
        with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError, match=r"1 x 3 tokens.*max_batch"):
            mlp = type(lm.model.model.layers[0].mlp)
            patch.setattr(mlp, "forward", lambda *_, failure=failure: _raised(failure))
            lm.next_token_logprobs([(1, 2, 3)])

    assert np.abs(lm.next_token_logprobs([(1, 2, 3)])[0] - plain_row(lm.model, (1, 2, 3))).max() <= 1e-9


def _raised(failure: Exception) -> None:
    raise failure


def test_context_overflow(lm: TransformersLM) -> None:
    """A sequence longer than the context is refused before anything runs, with both lengths; one as long is not."""
    assert lm.context_length == 211
    before = lm.usage.copy()
    with pytest.raises(ContextOverflowError, match=r"212 tokens.* context of 211"):
        lm.next_token_logprobs([(1,), tuple(range(212))])

    assert lm.usage == before
    assert lm.next_token_logprobs([tuple(range(211))]).shape == (1, 317)


@pytest.mark.parametrize(
    ("sequences", "error", "words"),
    [
        ([], InvalidArgumentError, "no sequences"),
        ([(1, -1)], InvalidArgumentError, "-1"),
        ([(1, 317)], VocabularyMismatchError, "id 317"),
        (["text"], InvalidTypeError, "'text'"),
        ([b"text"], InvalidTypeError, "b'text'"),
        ([3], InvalidTypeError, "3"),
        ([("a",)], InvalidTypeError, "'a'"),
    ],
)
def test_bad_sequences(lm: TransformersLM, sequences: Any, error: type[Exception], words: str) -> None:
    """What is no list of sequences of ids is refused before the model runs, with the value."""
    ask = inspect.unwrap(TransformersLM.next_token_logprobs)  # the type checker of the tests would be first

    with pytest.raises(error, match=words):
        ask(lm, sequences)

    assert lm.usage.calls == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch.*0"),
        ({"prefill_chunk": 0}, "prefill_chunk.*0"),
        ({"cache_budget_bytes": -1}, "cache_budget_bytes.*-1"),
        ({"eot_ids": [317]}, "eot_ids.*317"),
        ({"start_id": -2}, "start_id.*-2"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    """An option out of range is refused at the construction, with its value."""
    with pytest.raises(InvalidArgumentError, match=words):
        engine(**options)


def test_bad_models_and_tokenizers() -> None:
    """What is no causal model of transformers, or no fast tokenizer, is refused by name."""
    from transformers import BertTokenizerLegacy, T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"d_model": 8, "d_kv": 4, "d_ff": 7, "num_layers": 1, "num_heads": 2, "vocab_size": 317}
    with pytest.raises(InvalidTypeError, match="str"):
        TransformersLM("model", default_tokenizer())
    with pytest.raises(InvalidTypeError, match="object"):
        TransformersLM(tiny_model("llama"), object())
    with pytest.raises(ModelError, match="encoder-decoder"):
        TransformersLM(T5ForConditionalGeneration(T5Config(**sizes)), default_tokenizer())
    with pytest.raises(UnsupportedTokenizerError, match="slow"):
        TransformersLM(tiny_model("llama"), BertTokenizerLegacy)


def test_threads_take_turns(lm: TransformersLM) -> None:
    """Rows asked for from several threads at once are right."""
    far: list[float] = []
    threads = [
        threading.Thread(target=lambda seed=seed: far.append(farthest(lm, requests(seed, calls=12))))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(far) == 3
    assert max(far) <= 1e-9


def along_a_text(lm: Any, tokens: tuple[int, ...], steps: int) -> tuple[float, float]:
    """Read the last ``steps`` tokens one by one, with a side branch at every other step, against one plain pass.

    Returns the largest difference in a log-probability above -20, and the largest total variation.
    """
    lm.clear_cache()
    with torch.inference_mode():
        logits = lm.model(torch.tensor([tokens]), use_cache=False).logits[0]
    expected = torch.log_softmax(logits.double(), -1).numpy()
    apart = variation = 0.0
    for n in range(len(tokens) - steps + 1, len(tokens) + 1):
        side = (*tokens[: n - 1], tokens[n - 1] - 1)
        row = lm.next_token_logprobs([tokens[:n], side] if n % 2 else [tokens[:n]])[0]
        apart = max(apart, float(np.abs(row - expected[n - 1])[expected[n - 1] > -20].max()))
        variation = max(variation, float(np.abs(np.exp(row) - np.exp(expected[n - 1])).sum()) / 2)
    return apart, variation


def real(name: str, request: pytest.FixtureRequest) -> tuple[Any, tuple[int, ...]]:
    byte_lm: ByteLM = request.getfixturevalue(name)
    lm: Any = byte_lm.token_lm
    return lm, tuple(lm.tokenizer(inspect.getsource(textwrap))["input_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_real_models(name: str, request: pytest.FixtureRequest) -> None:
    """On a real model, 200 steps give the distributions of a plain pass, as far as float32 tells: 1e-5 in probability.

    Plain passes over texts of different lengths, and transformers' own cache, are as far apart (1e-4 in the least
    likely logarithms): what float32 leaves open is not the cache's.
    """
    lm, tokens = real(name, request)
    before = lm.usage.copy()

    apart, variation = along_a_text(lm, tokens[:260], steps=200)

    assert lm.mode == "tree"
    assert variation <= 2e-5
    assert apart <= 3e-4
    assert lm.usage.since(before) == Usage(calls=200, tokens_fed=61 + 199 + 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_real_models_in_float64(name: str, request: pytest.FixtureRequest) -> None:
    """In float64, 60 steps of a real model give the log-probabilities of a plain pass within 1e-9."""
    lm, tokens = real(name, request)
    exact = TransformersLM(copy.deepcopy(lm.model).double(), lm.tokenizer)

    apart, _ = along_a_text(exact, tokens[:120], steps=60)

    assert exact.mode == "tree"
    assert apart <= 1e-9
