from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import ModelError
from tests.support.tiny import default_tokenizer, tiny_model

SIZES: dict[str, Any] = {
    "vocab_size": 317,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "max_position_embeddings": 211,
    "pad_token_id": 0,
}
XL: dict[str, Any] = {"vocab_size": 317, "d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 37}
XLM: dict[str, Any] = {"vocab_size": 317, "emb_dim": 24, "n_layers": 2, "n_heads": 3}


def made(name: str, config: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    """A model of this class as transformers makes it, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(**(sizes or SIZES)))
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "config", "sizes"),
    [
        ("RobertaForCausalLM", "RobertaConfig", {}),
        ("BertLMHeadModel", "BertConfig", {}),
        ("XLMWithLMHeadModel", "XLMConfig", XLM),
        ("XLNetLMHeadModel", "XLNetConfig", XL),
    ],
)
def test_a_model_that_sees_both_ways_is_refused(name: str, config: str, sizes: Any, dtype: torch.dtype) -> None:
    """A language model in which later tokens change earlier rows is refused by name, whatever its class is called."""
    with pytest.raises(ModelError, match=rf"{name} .*AutoModelForCausalLM"):
        TransformersLM(made(name, config, dtype, **sizes), default_tokenizer())


@pytest.mark.parametrize("name", ["RobertaForCausalLM", "BertLMHeadModel"])
def test_the_same_class_as_a_decoder_is_taken(name: str) -> None:
    """With is_decoder=True such a model looks back only, and is a causal language model."""
    config = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "Config"

    model = made(name, config, **SIZES, is_decoder=True)

    assert TransformersLM(model, default_tokenizer(), eot_ids=[0]).vocab_size == 317


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("RobertaForMaskedLM", "RobertaConfig"),
        ("ModernBertForMaskedLM", "ModernBertConfig"),
        ("BertForPreTraining", "BertConfig"),
        ("BertForNextSentencePrediction", "BertConfig"),
        ("ElectraForPreTraining", "ElectraConfig"),
        ("LlamaForSequenceClassification", "LlamaConfig"),
        ("LlamaForTokenClassification", "LlamaConfig"),
        ("LlamaForQuestionAnswering", "LlamaConfig"),
        ("RobertaForMultipleChoice", "RobertaConfig"),
        ("LlamaModel", "LlamaConfig"),
    ],
)
def test_other_heads_are_refused(name: str, config: str) -> None:
    """A model with another head than that of the next token is refused by its name, with what to pass."""
    with pytest.raises(ModelError, match=rf"{name} .*AutoModelForCausalLM"):
        TransformersLM(made(name, config), default_tokenizer())


def test_a_head_that_nobody_knows_is_refused_by_what_it_returns() -> None:
    """A class of another name that gives a row for each text, and not for each token, is refused as well."""

    class LlamaJudge(transformers.LlamaForSequenceClassification):
        pass

    judge: Any = LlamaJudge
    with pytest.raises(ModelError, match=r"LlamaJudge returns logits of shape \(1, 2\).*AutoModelForCausalLM"):
        TransformersLM(judge(transformers.LlamaConfig(**SIZES)).eval(), default_tokenizer())


def test_a_saved_masked_model_is_refused(tmp_path: Path) -> None:
    """A folder of a masked language model loads as one that claims to be causal; its behaviour is what refuses it."""
    made("RobertaForMaskedLM", "RobertaConfig").save_pretrained(tmp_path)
    default_tokenizer().save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=r"RobertaForCausalLM is not a causal language model.*is_decoder=True"):
        ByteLM.from_pretrained(tmp_path)


def test_a_causal_class_that_looks_ahead_is_found_out() -> None:
    """No name says it: a later token changes an earlier row, if only by a little."""
    model = tiny_model("llama")
    norm = model.model.norm.forward

    def mean_of_all(hidden: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = norm(hidden)
        return scaled + 0.01 * scaled.mean(1, keepdim=True)

    model.model.norm.forward = mean_of_all

    with pytest.raises(ModelError, match="LlamaForCausalLM is not a causal language model"):
        TransformersLM(model, default_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_of_the_last_bits_is_no_look_ahead(dtype: torch.dtype) -> None:
    """Where later tokens decide only in which order something is summed, the model stays causal."""
    model = tiny_model("llama", dtype=dtype)
    norm = model.model.norm.forward
    unit = torch.finfo(dtype).eps

    def shaken(hidden: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = norm(hidden)
        return scaled * (1 + unit * torch.sign(scaled.sum()))

    model.model.norm.forward = shaken

    assert TransformersLM(model, default_tokenizer()).vocab_size == 317
