"""Tiny tokenizers and models, made in the process: nothing is downloaded, and every size is small and mostly prime.

Tokenizers are trained on `CORPUS` and are real transformers fast tokenizers of the two families that bytelm knows.
Models have random weights under a fixed seed. In float64 a model's own rounding is far below any tolerance of a test,
so a cache that is wrong in one position shows. Layers such as RMSNorm and rotary embedding compute in float32 whatever
the model's dtype is: `exact` swaps in float64 versions of the norms, so that the order of summation cannot show.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.viability.viability import Viability

KEPT: deque[Viability] = deque(maxlen=24)
"""The tables of the tokenizers that were asked for last: what one test had worked out, the next one has."""
CORPUS: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox does not.\n",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n",
    "Once upon a time there was a small model that knew only a few words.\n\n\nIt said: 'I'm here, you're there.'\n",
    "for i in range(10):\n\tprint(i, 2024, 31337, 3.14159)\n\n\n    # four spaces,  two  spaces,   three\n",
    "Zażółć gęślą jaźń. Привет, мир! 你好，世界。 naïve café — “quotes” … 🙂👍🏽\n",
    "the the there then them these this that thing think return returns returned import important\n",
)

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_bpe_tokenizer(
    *,
    vocab_size: int = 311,
    corpus: Iterable[str] = CORPUS,
    pre_tokenizer: str | None = "gpt2",
    bos: str | None = None,
    eos: str | None = "<|eot|>",
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    ignore_merges: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``vocab_size`` ids (at least 256 and the specials), trained on ``corpus``.

    Args:
        vocab_size: Ids in all.
        corpus: What the merges are learned from.
        pre_tokenizer: "gpt2", "llama3", "smollm2" (GPT-2's pattern after single digits), None (merges run over the
            whole text), or a regular expression whose matches are isolated.
        bos: Begin-of-text token, or None.
        eos: End-of-text token, or None.
        special: More special tokens; they get the lowest ids, after ``eos`` and ``bos``.
        added: Added tokens that are not special (matched in text before the merges); they come on top, at the end.
        ignore_merges: As in Llama 3: a whole pre-token that is in the vocabulary is taken whole.
    """
    specials = [*(token for token in (eos, bos) if token is not None), *special]
    tokenizer = Tokenizer(models.BPE())
    plain: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    match pre_tokenizer:
        case None:
            steps: Any = plain
        case "gpt2":
            steps = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        case "smollm2":
            steps = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                ]
            )
        case _:
            pattern = LLAMA3_PATTERN if pre_tokenizer == "llama3" else pre_tokenizer
            steps = pre_tokenizers.Sequence([_split(pattern), plain])
    tokenizer.pre_tokenizer = steps
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if ignore_merges:
        specification = json.loads(tokenizer.to_str())
        specification["model"]["ignore_merges"] = True
        tokenizer = Tokenizer.from_str(json.dumps(specification))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return _wrapped(tokenizer, bos_token=bos, eos_token=eos)


def sentencepiece_bpe_tokenizer(
    *,
    vocab_size: int = 431,
    corpus: Iterable[str] = CORPUS,
    prepend: bool = False,
    bos: str | None = "<s>",
    eos: str | None = "</s>",
    added: Sequence[str] = (),
    alphabet: int = 67,
) -> PreTrainedTokenizerFast:
    """A SentencePiece-style BPE with byte fallback: ``▁`` for a space, ``<0xXX>`` for what the vocabulary lacks.

    Args:
        vocab_size: Ids in all: specials, 256 bytes, characters and merges.
        corpus: What the merges are learned from.
        prepend: As in Llama 2: a hidden space stands in front of a text. Otherwise as in Gemma: none does.
        bos: Begin-of-text token, or None.
        eos: End-of-text token, or None.
        added: Added tokens that are not special, such as Gemma's runs of spaces and newlines.
        alphabet: How many characters the vocabulary holds; the others are spelled by bytes.
    """
    specials = ["<unk>", *(token for token in (bos, eos) if token is not None)]
    draft = Tokenizer(models.BPE(unk_token="<unk>"))
    draft.normalizer = normalizers.Replace(" ", "▁")
    if not prepend:  # Gemma splits at spaces; Llama 2 lets the merges run over the whole text
        draft.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    texts = list(corpus)
    # The trainer would break ties among the rarest by the order of a hash table, another in each process.
    characters = [c for c, _ in Counter("".join(texts).replace(" ", "▁")).most_common(alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 256 - len(added),
        special_tokens=specials,
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    draft.train_from_iterator(texts, trainer)
    model = json.loads(draft.to_str())["model"]
    trained = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *trained[len(specials) :]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[(left, right) for left, right in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    hidden = [normalizers.Prepend("▁")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*hidden, normalizers.Replace(" ", "▁")])
    if not prepend:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    strip = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return _wrapped(tokenizer, bos_token=bos, eos_token=eos, unk_token="<unk>")


def _split(pattern: str) -> Any:
    from tokenizers import Regex

    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _wrapped(tokenizer: Tokenizer, **names: str | None) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v is not None})
    with suppress(UnsupportedTokenizerError):
        tables = Viability.from_tokenizer(made)
        if tables in KEPT:
            KEPT.remove(tables)
        KEPT.append(tables)
    return made


@cache
def default_tokenizer() -> PreTrainedTokenizerFast:
    """`byte_bpe_tokenizer` with its defaults, trained once for each process. Do not change it."""
    return byte_bpe_tokenizer()


def tiny_model(kind: str, *, vocab_size: int = 317, dtype: Any = None, seed: int = 0, **overrides: Any) -> Any:
    """A random two-layer model of the named kind (a key of `KINDS`), in eval mode, float64 unless ``dtype`` is given.

    Weights are wide (standard deviation 0.3), so that its rows are sharp and every token in the context matters.
    ``overrides`` go to the configuration.
    """
    import torch
    import transformers

    config_class, sizes = KINDS[kind]
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = getattr(transformers, config_class)(**{"vocab_size": vocab_size, **special, **sizes, **overrides})
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.5 if "embed" in name or "wte" in name else 0.3)
    torch.random.set_rng_state(generator_state)
    dtype = torch.float64 if dtype is None else dtype
    model = model.to(dtype).eval()
    return exact(model) if dtype is torch.float64 else model


def exact(model: Any) -> Any:
    """The same model with norms that compute in the model's dtype: transformers' own round to float32."""
    import types

    import torch

    def rms_norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        eps = getattr(self, "variance_epsilon", None) or self.eps
        hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
        scaled: torch.Tensor = hidden * (1 + self.weight if "Gemma" in type(self).__name__ else self.weight)
        return scaled

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight"):
            module.forward = types.MethodType(rms_norm, module)
    return model


_LLAMA_LIKE = {
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 211,
}
_GPT2_SIZES = {"n_embd": 22, "n_layer": 2, "n_head": 2, "n_positions": 211}
WINDOW = 7

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", _LLAMA_LIKE),
    "gpt2": ("GPT2Config", _GPT2_SIZES),  # learned absolute positions
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": WINDOW}),  # every layer slides
    "gemma3": (  # one layer slides, one does not
        "Gemma3TextConfig",
        {
            **_LLAMA_LIKE,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
    ),
    "phi3_longrope": (  # past 20 tokens every position is another one
        "Phi3Config",
        {
            **_LLAMA_LIKE,
            "original_max_position_embeddings": 20,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [3.0] * 4,
                "original_max_position_embeddings": 20,
            },
        },
    ),
    "bloom": ("BloomConfig", {"hidden_size": 24, "n_layer": 2, "n_head": 3}),  # positions by attention bias
    "gpt_neo": (  # a window inside the attention layer, that no mask from outside can express
        "GPTNeoConfig",
        {
            "hidden_size": 22,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 211,
            "intermediate_size": 37,
        },
    ),
    "mamba": ("MambaConfig", {"hidden_size": 22, "num_hidden_layers": 2, "state_size": 5}),  # recurrent
    "jamba": (  # attention and recurrent layers in turn
        "JambaConfig",
        {
            **_LLAMA_LIKE,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 1,
            "num_experts_per_tok": 1,
            "mamba_d_state": 5,
            "mamba_expand": 1,
            "mamba_dt_rank": 3,
        },
    ),
    "lfm2": (  # attention and short convolutions in turn
        "Lfm2Config",
        {
            **_LLAMA_LIKE,
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "block_ff_dim": 37,
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "qwen3_next": (  # attention and gated delta rules in turn, no experts
        "Qwen3NextConfig",
        {
            **_LLAMA_LIKE,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 5,
            "mlp_only_layers": [0, 1],
        },
    ),
}
