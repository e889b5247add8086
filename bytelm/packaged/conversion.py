"""From a GGUF file to an ordinary model folder: float32 weights, configuration, and a tokenizer that is right.

transformers dequantises the weights. The tokenizer is built here, from the file's own lists of tokens, kinds, scores
and merges: the conversion in transformers 5 loses SmolLM2's step of single digits, Gemma's added tokens for runs of
spaces, and the order of Gemma's merges, and a tokenizer that disagrees with its model makes every probability wrong
without an error.

SmolLM2 ("gpt2", "smollm")
    The merges are in the file. Before them: each digit alone, then GPT-2's pattern, then bytes as letters.

Gemma ("llama", "default")
    The file has scores in place of merges. SentencePiece joins the neighbours whose piece has the highest score. As a
    list of merges: every cut of every piece into two pieces, by falling score of the whole, then by falling length of
    the left part. User-defined pieces (runs of spaces, newlines and tabs, HTML tags) come first: their score is 0 in
    the original model, which the file does not keep. What comes out equals Google's published list line by line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bytelm.errors import ModelError
from bytelm.packaged.table import PackagedModel

# Kinds of token in a GGUF file.
_CONTROL, _USER_DEFINED = 3, 4
_CONSTRAINTS = "try the versions in bytelm's constraints.txt"


def convert(gguf: Path, folder: Path, model: PackagedModel) -> None:
    """Write weights, configuration and tokenizer of a GGUF file as a model folder.

    Raises:
        ModelError: The installed libraries do not understand the file.
        OSError: The folder cannot be written.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(gguf).fields
        metadata = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
        files = {"tokenizer.json": tokenizer_json(metadata, model), "tokenizer_config.json": _settings(metadata)}
        with contextlib.redirect_stderr(io.StringIO()):  # transformers would draw progress bars of its own
            weights = _load_weights(gguf, model)
    except Exception as error:
        raise ModelError(
            f"cannot convert {model.title}: {type(error).__name__}: {error}. The file is the expected one, so the "
            f"installed transformers or gguf is the likely cause: {_CONSTRAINTS}"
        ) from error
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    with saving(folder), contextlib.redirect_stderr(io.StringIO()):
        weights.save_pretrained(folder)


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Where weights are written: the errors of safetensors are its own, and become those of the system."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder)) from error


def _load_weights(gguf: Path, model: PackagedModel) -> Any:
    """The model of a GGUF file, dequantised to float32, as an object that can be saved."""
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if hasattr(transformers, "GgufConfig"):  # where it exists, weights may stay packed unless told
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, **options)
    # A model that was loaded from GGUF refuses to be saved: its weights move to one that knows nothing of its origin.
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    config = type(loaded.config).from_dict(settings)
    config.name_or_path = model.title
    config.eos_token_id = model.eos_ids[0] if len(model.eos_ids) == 1 else list(model.eos_ids)
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    plain.generation_config = transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return plain


def _settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer_config.json of a GGUF file."""
    settings: dict[str, Any] = {
        # Under the name of a model's own tokenizer class, transformers 5 replaces the steps of tokenizer.json.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token_id = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        settings[f"{ours}_token"] = None if token_id is None else metadata["tokenizer.ggml.tokens"][token_id]
    return {key: value for key, value in settings.items() if value is not None}


def tokenizer_json(metadata: Mapping[str, Any], model: PackagedModel) -> dict[str, Any]:
    """The tokenizer.json of a GGUF file.

    Args:
        metadata: The fields of the file that begin with ``tokenizer.``.
        model: Says which tokens are special.

    Raises:
        ValueError: The file's tokenizer is of a kind that is not known here.
    """
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    family = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if family == ("gpt2", "smollm"):
        tokens = list(metadata["tokenizer.ggml.tokens"])
        steps = _byte_level_steps(metadata, tokens)
    elif family == ("llama", "default"):
        # The file spells user-defined runs of spaces as they look, the tokenizer as its normaliser leaves them.
        pairs = zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True)
        tokens = [token.replace(" ", "▁") if kind == _USER_DEFINED else token for token, kind in pairs]
        steps = _sentencepiece_steps(metadata, tokens)
    else:
        raise ValueError(f"the tokenizer is of the unknown kind {family}")
    added = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL if model.special is None else token in model.special,
        }
        for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {_CONTROL, _USER_DEFINED}
    ]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **steps}


def _byte_level_steps(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """What SmolLM2's tokenizer does to text between its added tokens."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    merges = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": _start_of_text(metadata, tokens),
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {**_bpe(tokens, merges), "continuing_subword_prefix": "", "end_of_word_suffix": ""},
    }


def _sentencepiece_steps(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """What Gemma's tokenizer does to text between its added tokens."""
    kinds = metadata["tokenizer.ggml.token_type"]
    pairs = zip(metadata["tokenizer.ggml.scores"], kinds, strict=True)
    merges = merges_of_scores(tokens, [0.0 if kind == _USER_DEFINED else score for score, kind in pairs])
    to_space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        # It never splits, as the normaliser leaves no space; it is part of the published tokenizer.
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _start_of_text(metadata, tokens),
        "decoder": {"type": "Sequence", "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            **_bpe(tokens, merges),
            "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _bpe(tokens: Sequence[str], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: token_id for token_id, token in enumerate(tokens)},
        "merges": merges,
    }


def _start_of_text(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """The step that puts the start symbol before a text, if the model has it so."""
    start: list[str] = []
    special: dict[str, Any] = {}
    if metadata.get("tokenizer.ggml.add_bos_token"):
        bos_id = metadata["tokenizer.ggml.bos_token_id"]
        start = [tokens[bos_id]]
        special = {tokens[bos_id]: {"id": tokens[bos_id], "ids": [bos_id], "tokens": start}}

    def text(name: str, type_id: int) -> list[dict[str, Any]]:
        symbols = [{"SpecialToken": {"id": token, "type_id": type_id}} for token in start]
        return [*symbols, {"Sequence": {"id": name, "type_id": type_id}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": special,
    }


def merges_of_scores(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """The merges by which BPE joins what SentencePiece joins by score, first merge first.

    >>> merges_of_scores(["a", "b", "ab", "aba"], [-9.0, -9.0, -2.0, -1.0])
    [['ab', 'a'], ['a', 'b']]
    """
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    cuts: list[tuple[float, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        cuts += [(score, left, right) for left, right in pairs]
    cuts.sort(key=lambda cut: (cut[0], len(cut[1]), len(cut[2])), reverse=True)
    return [[left, right] for _, left, right in cuts]
