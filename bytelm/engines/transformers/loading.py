"""A model and its tokenizer, from a directory or a hub: with one clear error for everything that can be wrong.

Traps
    transformers discards the ``pre_tokenizer`` of a tokenizer.json for some tokenizer classes and puts its own in its
    place; the ids are then not those that the model was trained on, and every probability is wrong without an error.
    Where the two differ, the file wins, and a warning says so.
    The conversion of a GGUF file's tokenizer is known to lose steps: a tokenizer.json beside it is used instead.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bytelm.arguments import fspath, path_of
from bytelm.engines.ids import check_tokenizer
from bytelm.engines.transformers.placement import device_of, dtype_of
from bytelm.engines.transformers.silence import without_bars
from bytelm.errors import BytelmError, InvalidArgumentError, ModelError
from bytelm.tokenizer.tokenizer_json import check_ids

# What may be passed on to from_pretrained: where to look, and how to place the weights.
WHERE: Final = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
OPTIONS: Final = (
    *(*WHERE, "attn_implementation", "device_map", "max_memory", "offload_folder"),
    *("quantization_config", "use_safetensors", "variant"),
)
_STEPS: Final = ("normalizer", "pre_tokenizer", "decoder")


def load_model(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: Any = None,
    gguf_file: str | None = None,
    progress: bool = False,
    engine_options: Sequence[str] = (),
    **options: Any,
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Load a causal language model and its fast tokenizer; see `transformers.load` for the arguments."""
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"unknown option(s) {', '.join(unknown)}; there are {', '.join(sorted({*OPTIONS, *engine_options}))}"
        )
    target = device_of(device)
    dtype = dtype_of(dtype, target)
    gguf_file = None if gguf_file is None else fspath("gguf_file", gguf_file)
    name = _place(str(name_or_path), gguf_file)
    options.setdefault("trust_remote_code", False)  # else transformers asks on standard input
    where = {key: value for key, value in options.items() if key in WHERE}
    if gguf_file is not None:
        options["gguf_file"] = gguf_file
    try:
        with contextlib.nullcontext() if progress else without_bars():
            tokenizer = _load_tokenizer(name, gguf_file, where)
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
        model, report = loaded
        made_up = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if made_up:
            raise ModelError(
                f"the weights of {name!r} lack {len(made_up)} of the model's parameters, such as {made_up[0]}, "
                "which would be drawn at random; fetch the files again"
            )
        if "device_map" not in options and "quantization_config" not in options:
            model = model.to(target)
    except BytelmError:
        raise
    except Exception as error:  # every library below has errors of its own
        raise ModelError(
            f"{name!r} could not be loaded: {type(error).__name__}: {str(error).strip()[:500]}; "
            "the files may be incomplete or damaged (fetch them again), or hold no causal language model"
        ) from error
    return model.eval(), tokenizer


def load_tokenizer(name_or_path: str | Path, **where: Any) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a directory or a model hub, as its tokenizer.json says.

    Args:
        name_or_path: A directory, or a hub id.
        where: Options of transformers' ``from_pretrained``: see `WHERE`.

    Raises:
        ModelError: There is none.
        UnsupportedTokenizerError: It has no fast form.
    """
    name = str(name_or_path)
    where.setdefault("trust_remote_code", False)
    path = path_of("the tokenizer", name)
    place = str(path) if path.is_dir() else _place(name, None)
    try:
        with without_bars():
            tokenizer: PreTrainedTokenizerFast = _load_tokenizer(place, None, where)
    except BytelmError:
        raise
    except Exception as error:  # every library below has errors of its own
        raise ModelError(
            f"no tokenizer could be loaded from {name!r}: {type(error).__name__}: {str(error).strip()[:500]}"
        ) from error
    return tokenizer


def _place(name: str, gguf_file: str | None) -> str:
    """The directory or hub id that a name means; a path that is no model directory is never taken for a hub id."""
    path = path_of("the model", name)
    if path.is_dir():
        needed = gguf_file or "config.json"
        if not path_of("the file", path / needed).is_file():
            raise ModelError(f"the directory {name!r} has no {needed}: it is not a model, or only part of one")
        return str(path)
    if path.exists():
        raise ModelError(
            f"{name!r} is a file; give the directory, and gguf_file= for a GGUF file in it, or engine='llama-cpp'"
        )
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "\\" in name or not name.strip():
        raise ModelError(f"there is no directory {name!r}; give a model directory, or a hub id such as 'owner/name'")
    return name


def _load_tokenizer(name: str, gguf_file: str | None, where: dict[str, Any]) -> Any:
    written = _tokenizer_json(name, where)
    if written is None and gguf_file is not None:
        warnings.warn(
            f"the tokenizer of {gguf_file} is converted from the GGUF file, which is known to lose steps; "
            "put the model's tokenizer.json beside it",
            stacklevel=4,
        )
        where = {**where, "gguf_file": gguf_file}
    tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
    check_tokenizer(tokenizer)
    if written is not None:
        running = json.loads(tokenizer.backend_tokenizer.to_str())
        changed = [step for step in _STEPS if running.get(step) != written.get(step)]
        if changed:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(name, **where)
            warnings.warn(
                f"transformers replaces the {' and '.join(changed)} of {name}'s tokenizer.json; the file is used",
                stacklevel=4,
            )
    return tokenizer


def _tokenizer_json(name: str, where: dict[str, Any]) -> dict[str, Any] | None:
    """The tokenizer.json at a place, with every default written out, or None where there is none."""
    from tokenizers import Tokenizer
    from transformers.utils.hub import cached_file

    where = {key: value for key, value in where.items() if key != "trust_remote_code"}
    file = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **where)
    if file is None:
        return None
    backend = Tokenizer.from_file(file)
    check_ids(backend)
    content: dict[str, Any] = json.loads(backend.to_str())
    return content
