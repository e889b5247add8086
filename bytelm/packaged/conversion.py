"""From a GGUF file to an ordinary model folder: float32 weights, configuration, and a tokenizer that is right.

transformers dequantises the weights. The tokenizer comes from `bytelm.tokenizer.gguf.tokenizer`, not from transformers,
whose own conversion loses steps.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bytelm.errors import ModelError
from bytelm.packaged.table import PackagedModel
from bytelm.tokenizer.gguf.metadata import read_metadata
from bytelm.tokenizer.gguf.tokenizer import named_tokens, tokenizer_json

_CONSTRAINTS = "try the versions in bytelm's constraints.txt"


def convert(gguf: Path, folder: Path, model: PackagedModel) -> None:
    """Write weights, configuration and tokenizer of a GGUF file as a model folder.

    Raises:
        ModelError: The installed libraries do not understand the file.
        OSError: The folder cannot be written.
    """
    try:
        metadata = read_metadata(gguf, "tokenizer.")
        tokenizer = tokenizer_json(metadata, special=model.special, published=True)
        files = {"tokenizer.json": tokenizer, "tokenizer_config.json": _settings(metadata)}
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

    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "trust_remote_code": False}
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
        **named_tokens(metadata),
    }
    return {key: value for key, value in settings.items() if value is not None}
