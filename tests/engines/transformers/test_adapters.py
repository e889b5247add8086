from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import peft
import pytest
import torch

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import ModelError
from bytelm.lemma import log_sum
from tests.support.tiny import default_tokenizer, tiny_model

VIRTUAL = 5
PROMPTS: dict[str, Any] = {
    "prompt tuning": ("PromptTuningConfig", {"num_virtual_tokens": VIRTUAL}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": VIRTUAL, "encoder_hidden_size": 16}),
    "prefix tuning": ("PrefixTuningConfig", {"num_virtual_tokens": VIRTUAL}),
    "projected prefix": (
        "PrefixTuningConfig",
        {"num_virtual_tokens": VIRTUAL, "prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "CPT": ("CPTConfig", {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]}),
}
TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
WEIGHTS: dict[str, Any] = {
    "LoRA": ("LoraConfig", TARGETS),
    "DoRA": ("LoraConfig", {**TARGETS, "use_dora": True}),
    "activated LoRA": ("LoraConfig", {**TARGETS, "alora_invocation_tokens": [7, 8]}),
    "AdaLoRA": ("AdaLoraConfig", {**TARGETS, "total_step": 10}),
    "IA3": ("IA3Config", {**TARGETS, "feedforward_modules": []}),
    "VeRA": ("VeraConfig", {**TARGETS, "r": 4}),
    "OFT": ("OFTConfig", {**TARGETS, "oft_block_size": 8}),
    "BOFT": ("BOFTConfig", {**TARGETS, "boft_block_size": 8}),
    "LoHa": ("LoHaConfig", TARGETS),
    "LoKr": ("LoKrConfig", TARGETS),
    "layer norms": ("LNTuningConfig", {"target_modules": ["norm"]}),
    "FourierFT": ("FourierFTConfig", {**TARGETS, "n_frequency": 10}),
    "trainable tokens": ("TrainableTokensConfig", {"target_modules": ["embed_tokens"], "token_indices": [6, 7]}),
    "adaption prompt": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 2}),
}


def config_of(name: str) -> Any:
    class_name, options = {**PROMPTS, **WEIGHTS}[name]
    return getattr(peft, class_name)(task_type="CAUSAL_LM", **options)


def adapted(config: Any, *, kind: str = "llama") -> Any:
    """A tiny model with an adapter that is far from doing nothing."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model(kind), config).double().eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def plain_row(model: Any, sequence: Sequence[int]) -> np.ndarray:
    """The definition of a row: the last of one pass over the sequence alone, without a cache."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(sequence)]), use_cache=False).logits[0, -1]
    row: np.ndarray = torch.log_softmax(logits.double(), -1).numpy()
    return row


def calls_of(seed: int) -> list[list[tuple[int, ...]]]:
    """A prompt, its prefixes, branches and unrelated sequences; with the tokens that switch an activated LoRA on."""
    rng = random.Random(seed)
    prompt = tuple(rng.choices(range(9, 300), k=9))
    branch = (*prompt[:4], 7, 8, 11)
    return [
        [prompt],
        [prompt[:3], prompt[:1], (*prompt, 6)],
        [branch, (*branch, 12, 7, 8, 13), (*branch, 12), (6, 7), (*prompt, 6, 7, 8)],
        [branch[:5], branch[:6], tuple(rng.choices(range(300), k=14))],
    ]


@pytest.mark.parametrize("name", [*PROMPTS, *WEIGHTS])
def test_rows_are_the_adapted_models_own(name: str) -> None:
    """Whatever the method, each row is the last one of the adapted model's own pass over the sequence."""
    model = adapted(config_of(name))
    lm = TransformersLM(model, default_tokenizer())

    far = 0.0
    for call in calls_of(3):
        rows = lm.next_token_logprobs(call)
        far = max(far, *(float(np.abs(r - plain_row(model, s)).max()) for r, s in zip(rows, call, strict=True)))

    assert far <= 1e-9, lm.mode_reason
    assert np.abs(plain_row(model, (6, 7, 8)) - plain_row(tiny_model("llama"), (6, 7, 8))).max() > 0.01


@pytest.mark.parametrize("kind", ["gpt2", "gemma3"])
@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning"])
def test_virtual_tokens_on_other_models(name: str, kind: str) -> None:
    """With learned positions, and with sliding windows, virtual tokens stand in front of each sequence too."""
    model = adapted(config_of(name), kind=kind)
    lm = TransformersLM(model, default_tokenizer())

    for call in calls_of(4):
        for row, sequence in zip(lm.next_token_logprobs(call), call, strict=True):
            assert np.abs(row - plain_row(model, sequence)).max() <= 1e-9


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning", "LoRA"])
def test_bytes_of_an_adapted_model(name: str) -> None:
    """The next byte's probabilities are those of the adapted model's own rows over the cover, by definition."""
    model = adapted(config_of(name))
    lm = ByteLM(model, default_tokenizer())
    prefix = b"The do"

    row = lm.next_byte_logprobs(prefix)

    before = log_sum([sequence_logprob(model, item.token_ids) for item in lm.cover(prefix)])
    for byte in b"gt":
        mass = log_sum([sequence_logprob(model, item.token_ids) for item in lm.cover(prefix + bytes([byte]))])
        assert row[byte] == pytest.approx(mass - before, abs=1e-9)


def sequence_logprob(model: Any, token_ids: Sequence[int]) -> float:
    """Ln P of tokens; what stands for the empty sequence is the id 0."""
    return float(sum(plain_row(model, token_ids[:n] or (0,))[token_ids[n]] for n in range(len(token_ids))))


def test_virtual_tokens_take_up_the_context() -> None:
    """What the model has positions for is shared with the virtual tokens."""
    lm = TransformersLM(adapted(config_of("prompt tuning"), kind="gpt2"), default_tokenizer())

    assert lm.context_length == 211 - VIRTUAL
    assert lm.next_token_logprobs([tuple(range(211 - VIRTUAL))]).shape == (1, 317)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (
            peft.MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, num_tasks=2),
            "MULTITASK_PROMPT",
        ),
        (peft.PolyConfig(task_type="CAUSAL_LM", n_tasks=2, n_splits=1, **TARGETS), "POLY"),
        (peft.LilyConfig(task_type="CAUSAL_LM", **TARGETS), "LILY"),
    ],
)
def test_methods_that_are_no_language_models_alone(config: Any, method: str) -> None:
    """A method that wants a task with each call, or that looks ahead, is refused by its name."""
    with pytest.raises(ModelError, match=rf"with its adapter \({method}"):
        TransformersLM(adapted(config), default_tokenizer())
