"""Tiny GGUF files with random weights, of the two kinds that come packaged, and the models that went into them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def bytes_as_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def write_gguf(path: Path, architecture: str, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """A GGUF file with these fields and float32 tensors."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    for name, value in settings.items():
        key = name.replace("ARCH", architecture)
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def gguf_pairs(spec: dict[str, Any], pre: str, model: str = "gpt2") -> dict[str, Any]:
    """What a GGUF file says of a tokenizer.json: its lists, and the name of a pre-tokenizer."""
    tokens = dict.fromkeys(range(max(spec["model"]["vocab"].values()) + 1), "")
    tokens |= {token_id: token for token, token_id in spec["model"]["vocab"].items()}
    tokens |= {token["id"]: token["content"] for token in spec["added_tokens"]}
    added = {token["id"]: 3 if token["special"] else 4 for token in spec["added_tokens"]}
    in_order = [tokens.get(i) or f"[PAD{i}]" for i in range(max(tokens) + 1)]
    kinds = [added.get(i, 1 if tokens.get(i) else 5) for i in range(len(in_order))]
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"])
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": in_order,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": list(merges),
    }


def gguf_tensors(model: Any, *, heads: dict[str, int], norm_offset: float) -> dict[str, np.ndarray]:
    """The weights of a transformers model under llama.cpp's names and in its layout."""
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if norm_offset else "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "model.layers": "blk",
    }
    tensors = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = weight.numpy()
        short = name
        for theirs, ours in names.items():
            short = short.replace(theirs, ours)
        if "norm" in short:
            array = array + norm_offset
        for part, count in heads.items():  # llama.cpp interleaves the halves of each rotary head
            if f"{part}.weight" in short:
                array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        tensors[short] = array
    return tensors


def random_model(config: Any) -> Any:
    """A model of this configuration with weights from a fixed seed, its norms included."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(0.5, 0.1)
    return model


def _changed(settings: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    found = settings | {f"tokenizer.ggml.{name}": value for name, value in changed.items()}
    return {name: value for name, value in found.items() if value is not None}


def smollm_like(
    path: Path, reserved: Sequence[str] = (), *, eos: str = "<|im_end|>", **changed: Any
) -> tuple[bytes, Any]:
    """A GGUF file that is SmolLM2 in kind, with more special tokens if wanted, and the model that went into it.

    ``eos`` is what the file says ends a text. Fields of its tokenizer can be changed: ``pre="falcon"``; None leaves one
    out.
    """
    from transformers import LlamaConfig

    tokens = ["<|endoftext|>", "<|im_end|>", *reserved, *bytes_as_letters(), "Ġa", "11", "ab"]
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = random_model(config)
    settings = {
        "ARCH.block_count": 2,
        "ARCH.context_length": 64,
        "ARCH.embedding_length": 48,
        "ARCH.feed_forward_length": 40,
        "ARCH.attention.head_count": 6,
        "ARCH.attention.head_count_kv": 2,
        "ARCH.rope.freq_base": 10000.0,
        "ARCH.rope.dimension_count": 8,
        "ARCH.attention.layer_norm_rms_epsilon": 1e-5,
        "ARCH.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": ["Ġ a", "1 1", "a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": tokens.index(eos),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }
    tensors = gguf_tensors(model, heads={"attn_q": 6, "attn_k": 2}, norm_offset=0.0)
    return write_gguf(path, "llama", _changed(settings, changed), tensors), model


def gemma_like(path: Path, **changed: Any) -> tuple[bytes, Any]:
    """A GGUF file that is Gemma 3 in kind, and the model that went into it; fields as in `smollm_like`."""
    from transformers import Gemma3TextConfig

    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>"]
    defined = ["  ", "   ", "\n", "\n\n", "<b>"]
    pieces = ["ab", "▁a", "bab", "a", "b", "▁"]
    tokens = [*controls, *defined, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    config = Gemma3TextConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        sliding_window=8,
        query_pre_attn_scalar=256,  # the file cannot say: it is the default
        rope_parameters={
            "full_attention": {"rope_theta": 1_000_000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
        },
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = random_model(config)
    settings = {
        "ARCH.block_count": 6,
        "ARCH.context_length": 64,
        "ARCH.embedding_length": 32,
        "ARCH.feed_forward_length": 40,
        "ARCH.attention.head_count": 4,
        "ARCH.attention.head_count_kv": 1,
        "ARCH.attention.key_length": 16,
        "ARCH.attention.value_length": 16,
        "ARCH.attention.sliding_window": 8,
        "ARCH.rope.freq_base": 1_000_000.0,
        "ARCH.attention.layer_norm_rms_epsilon": 1e-6,
        "ARCH.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [4] * 5 + [6] * 256 + [1] * 6,
        "tokenizer.ggml.scores": [-1000.0] * 10 + [0.0] * 256 + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }
    tensors = gguf_tensors(model, heads={}, norm_offset=1.0)
    return write_gguf(path, "gemma3", _changed(settings, changed), tensors), model
