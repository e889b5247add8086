"""A model that is changed while a ByteLM lives: what is said afterwards is what a ByteLM made afterwards says."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import pytest
import torch

from bytelm import ByteLM, Ensemble
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.engines.transformers.fingerprint import Fingerprint
from bytelm.errors import ModelChangedError
from tests.support.tiny import default_tokenizer, tiny_model

PREFIX = b"The do"


def two_adapters() -> Any:
    """A tiny model with two adapters, "a" (active) and "b"."""
    config: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj", "v_proj"],
        "r": 4,
        "init_lora_weights": False,
    }
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(**config, lora_dropout=0.5), "a")
        model.add_adapter("b", peft.LoraConfig(**config, lora_dropout=0.5))
    return model.double().eval()


def plain() -> Any:
    return tiny_model("llama")


def training_step(model: Any, **options: Any) -> None:
    """A step of an optimizer, as a training loop makes it between two samples."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, **options)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


def halved(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)


def replaced(model: Any) -> None:
    """Replaced twice, so that the second may lie where the first lay."""
    for factor in (3.0, 0.5):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * factor)


def loaded(model: Any, *, assign: bool) -> None:
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()}, assign=assign)


def steered(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output * 0.5)


def wrapped(model: Any) -> None:
    """Adapters that are put into a model after the ByteLM was made of it."""
    config: dict[str, Any] = {"target_modules": ["q_proj"], "r": 4, "init_lora_weights": False, "lora_dropout": 0.5}
    torch.manual_seed(2)
    peft.get_peft_model(model, peft.LoraConfig(**config)).double()


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "set_adapter": (two_adapters, lambda model: model.set_adapter("b")),
    "merge_adapter": (two_adapters, lambda model: model.merge_adapter(["b"])),
    "an adapter's scale": (
        two_adapters,
        lambda model: model.base_model.model.model.layers[0].self_attn.q_proj.scale_layer(3),
    ),
    "merge_and_unload": (two_adapters, lambda model: model.merge_and_unload()),
    "adapters in both": (two_adapters, lambda model: model.base_model.set_adapter(["a", "b"])),
    "get_peft_model": (plain, wrapped),
    "in place": (plain, halved),
    "through data": (plain, lambda model: [p.data.mul_(0.5) for p in model.parameters()]),
    "other data": (plain, lambda model: setattr(model.lm_head.weight, "data", model.lm_head.weight.data * 0.5)),
    "another parameter": (plain, replaced),
    "load_state_dict": (plain, lambda model: loaded(model, assign=False)),
    "load_state_dict with assign": (plain, lambda model: loaded(model, assign=True)),
    "float32": (plain, lambda model: model.float()),
    "a training step": (plain, training_step),
    "a fused training step": (plain, lambda model: training_step(model, fused=True)),
    "training of an adapter": (two_adapters, lambda model: training_step(model, fused=True)),
    "a hook": (plain, steered),
    "another attention": (plain, lambda model: model.set_attn_implementation("eager")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_change_all_is_computed_anew(name: str) -> None:
    """Rows, scores and the state of a text are what a fresh ByteLM says, whatever was cached before."""
    make, change = CHANGES[name]
    model = make()
    lm = ByteLM(model, default_tokenizer())
    state = lm.state(PREFIX).advance("g")
    before = lm.next_byte_logprobs(PREFIX)
    state.next_byte_logprobs()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(model)

    after = lm.next_byte_logprobs(PREFIX)
    fresh = ByteLM(model, default_tokenizer())
    assert np.array_equal(after, fresh.next_byte_logprobs(PREFIX))
    assert lm.logprob("g sleeps", prefix=PREFIX) == fresh.logprob("g sleeps", prefix=PREFIX)
    assert np.array_equal(state.next_byte_logprobs(), fresh.next_byte_logprobs(PREFIX + b"g"))
    assert np.array_equal(state.rollback(1).next_byte_logprobs(), after)
    if name not in ("another attention", "merge_and_unload"):
        assert np.abs(np.exp(before) - np.exp(after)).max() > 1e-9


@pytest.mark.parametrize("first", [False, True], ids=["first without", "first with"])
def test_rows_under_autocast_are_of_autocast(first: bool) -> None:
    """What was computed under torch.autocast is not what a call without it says, and the other way round."""
    model = plain().float()
    lm: Any = ByteLM(model, default_tokenizer())
    rows = {}

    for on in (first, not first):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            rows[on] = lm.next_byte_logprobs(PREFIX)
            assert lm.token_lm.mode == "tree"
            assert np.array_equal(rows[on], ByteLM(model, default_tokenizer()).next_byte_logprobs(PREFIX))
    assert np.abs(np.exp(rows[True]) - np.exp(rows[False])).max() > 1e-6


def test_a_text_begun_under_autocast_does_not_go_on_without() -> None:
    """Its rows would be of two models."""
    lm = ByteLM(plain().float(), default_tokenizer())
    with torch.autocast("cpu", torch.bfloat16):
        stream = lm.stream(PREFIX, max_bytes=100, seed=4)
        next(stream)

    with pytest.raises(ModelChangedError, match="autocast"):
        next(stream)


def test_weights_changed_under_autocast() -> None:
    """Autocast keeps weights that it has cast; neither our rows nor a training loop get them from one another."""
    model = plain().float()
    lm = ByteLM(model, default_tokenizer())

    with torch.autocast("cpu", torch.bfloat16):
        before = lm.next_byte_logprobs(PREFIX)
        training_step(model)
        after = lm.next_byte_logprobs(PREFIX)
    with torch.autocast("cpu", torch.bfloat16):
        fresh = ByteLM(model, default_tokenizer()).next_byte_logprobs(PREFIX)

    assert np.array_equal(after, fresh)
    assert np.abs(np.exp(before) - np.exp(after)).max() > 1e-4


def test_weights_without_a_counter() -> None:
    """A change is seen as well in what is made under inference_mode, where torch counts no writes, though frozen."""
    with torch.inference_mode():
        model = plain().requires_grad_(False)
        lm = ByteLM(model, default_tokenizer())
        lm.next_byte_logprobs(PREFIX)

        halved(model)

        fresh = ByteLM(model, default_tokenizer()).next_byte_logprobs(PREFIX)
    assert np.array_equal(lm.next_byte_logprobs(PREFIX), fresh)


def test_how_torch_computes_is_a_part_of_the_model() -> None:
    """The precision of products and the default dtype change rows, and both are seen."""
    seen = Fingerprint(plain())

    torch.set_float32_matmul_precision("medium")
    try:
        assert seen.changed()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen.changed()
    torch.set_default_dtype(torch.float64)
    try:
        assert seen.changed()
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen.changed()
    assert not seen.changed()


def test_an_adapter_is_switched_off_for_a_while() -> None:
    """Inside disable_adapter rows are the bare model's, and afterwards the adapted one's again."""
    model = two_adapters()
    lm = ByteLM(model, default_tokenizer())
    adapted = lm.next_byte_logprobs(PREFIX)

    with model.disable_adapter():
        off = lm.next_byte_logprobs(PREFIX)

    assert np.allclose(off, ByteLM(plain(), default_tokenizer()).next_byte_logprobs(PREFIX), atol=1e-9, rtol=0)
    assert np.array_equal(lm.next_byte_logprobs(PREFIX), adapted)


def test_virtual_tokens_are_switched_off_for_a_while() -> None:
    """The same of prompt tuning, where with the virtual tokens the mode and the room in the context change as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
        model = peft.get_peft_model(plain(), config).double()
    lm: Any = TransformersLM(model, default_tokenizer())
    assert (lm.mode, lm.context_length) == ("prefix", 206)

    with model.disable_adapter():
        row = lm.next_token_logprobs([(5, 6)])[0]
        assert (lm.mode, lm.context_length) == ("tree", 211)

    assert np.abs(row - TransformersLM(plain(), default_tokenizer()).next_token_logprobs([(5, 6)])[0]).max() <= 1e-9
    assert lm.refresh() is None
    assert (lm.mode, lm.context_length) == ("prefix", 206)


def test_a_stream_does_not_mix_two_models() -> None:
    """A completion that was begun before a change ends with an error that says so."""
    model = plain()
    lm = ByteLM(model, default_tokenizer())
    stream = lm.stream(PREFIX, max_bytes=100, seed=4)
    next(stream)

    halved(model)

    with pytest.raises(ModelChangedError, match="start it again"):
        next(stream)
    assert lm.stream(PREFIX, max_bytes=5, seed=4).__next__()


def test_rows_do_not_change_in_the_middle_of_a_sample() -> None:
    """A change from inside a sample, by a processor of logits, ends it with the same error."""
    model = plain()
    lm = ByteLM(model, default_tokenizer())

    def meddling(written: bytes, row: np.ndarray) -> np.ndarray:
        if len(written) == 3:
            halved(model)
        return row

    with pytest.raises(ModelChangedError):
        lm.sample(PREFIX, max_bytes=30, seed=1, logits_processor=meddling)


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_sees_what_changes_in_a_member(combine: Any) -> None:
    """What an ensemble remembers of a member, likelihoods too, is of the member as it is."""
    model, other = two_adapters(), ByteLM(tiny_model("gpt2", seed=1), default_tokenizer())
    both = Ensemble([ByteLM(model, default_tokenizer()), other], combine=combine)
    state = both.state(PREFIX)
    before = state.next_byte_logprobs()

    model.set_adapter("b")

    fresh = Ensemble([ByteLM(model, default_tokenizer()), other], combine=combine).state(PREFIX)
    assert np.allclose(both.next_byte_logprobs(PREFIX), fresh.next_byte_logprobs(), atol=1e-12, rtol=0)
    assert np.allclose(state.weights(), fresh.weights(), atol=1e-12, rtol=0)
    assert np.allclose(state.next_byte_logprobs(), fresh.next_byte_logprobs(), atol=1e-12, rtol=0)
    assert np.abs(np.exp(before) - np.exp(fresh.next_byte_logprobs())).max() > 1e-6


def test_other_columns_need_another_byte_lm() -> None:
    """A model that scores another number of tokens is no longer the one that the tokenizer was read for."""
    model = plain()
    lm = ByteLM(model, default_tokenizer())
    lm.next_byte_logprobs(PREFIX)

    model.resize_token_embeddings(331, mean_resizing=False)

    for _ in range(2):
        with pytest.raises(ModelChangedError, match="331 columns now, but had 317"):
            lm.next_byte_logprobs(PREFIX)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3_longrope", "mamba", "bloom"])
def test_running_a_model_is_no_change(kind: str) -> None:
    """Rows stay cached while the model runs, here and in the caller's own passes, also where it grows tables."""
    model = tiny_model(kind)
    lm: Any = TransformersLM(model, default_tokenizer())
    for length in (3, 40, 5, 41):
        lm.next_token_logprobs([tuple(range(length))])
    lm.next_token_logprobs([(1, 2, 3)])
    before = lm.usage.copy()

    lm.next_token_logprobs([(1, 2, 3)])
    if kind != "phi3_longrope":  # its own passes switch its table of positions
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, pad_token_id=0)
    lm.next_token_logprobs([(1, 2, 3)])

    assert lm.usage == before
    assert lm.revision == 0


def test_nan_is_no_change() -> None:
    """A parameter that holds NaN where nothing reads it is the same parameter at the next look."""
    layer = torch.nn.Linear(3, 4)
    torch.nn.init.constant_(layer.weight, np.nan)
    seen = Fingerprint(layer)

    assert not seen.changed()


def test_clear_cache_clears_all() -> None:
    """What no look can see is asked for anew after clear_cache: of a model, its infillers, and an ensemble's members."""
    model = plain()
    lm, other = ByteLM(model, default_tokenizer()), ByteLM(tiny_model("gpt2"), default_tokenizer())
    both = Ensemble([lm, other], combine="bayes")
    both.next_byte_logprobs(PREFIX)
    model.lm_head.weight.detach().numpy()[:200, 5:8] *= 0.5

    both.clear_cache()

    fresh = Ensemble([ByteLM(model, default_tokenizer()), other], combine="bayes")
    assert np.allclose(both.next_byte_logprobs(PREFIX), fresh.next_byte_logprobs(PREFIX), atol=1e-12, rtol=0)
    assert np.array_equal(lm.next_byte_logprobs(PREFIX), fresh.members[0].next_byte_logprobs(PREFIX))


def test_replaced_weights_are_not_held() -> None:
    """A look holds no tensor that the model has let go of."""
    model = plain()
    seen = Fingerprint(model)
    old = weakref.ref(model.lm_head.weight)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())

    assert old() is None
    assert seen.changed()
    assert not seen.changed()


@pytest.mark.slow
def test_a_look_costs_little(smollm2: ByteLM) -> None:
    """On a model of 30 layers a look takes less than a tenth of a pass over one token."""
    lm: Any = smollm2.token_lm
    seen = Fingerprint(lm.model)

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(15):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        return sorted(times)[len(times) // 2]

    with torch.inference_mode():
        step = seconds(lambda: lm.model(torch.tensor([[5]])))

    assert not seen.changed()
    assert seconds(seen.changed) < step / 10
