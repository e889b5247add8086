"""The engines by name, and where each finds a packaged model."""

from __future__ import annotations

import os
from typing import Any, Final, Literal, get_args

from bytelm.arguments import fspath, integer, one_of
from bytelm.errors import InvalidArgumentError
from bytelm.packaged import PACKAGED, PackagedModel, is_packaged, packaged_directory, packaged_gguf
from bytelm.token_lm import TokenLM

Engine = Literal["transformers", "llama-cpp", "vllm", "vllm-server"]
ENGINES: Final[tuple[str, ...]] = get_args(Engine)
# Options that an engine does not take, and what to use instead.
_NOT_TAKEN: Final = {
    "llama-cpp": (
        ("device", "dtype"),
        "a GGUF file has its number format, and n_gpu_layers= says how many layers go to the GPU",
    ),
    "vllm": (
        ("device", "gguf_file"),
        "it runs where it was built for, and tensor_parallel_size= says on how many GPUs; GGUF files are llama.cpp's",
    ),
    "vllm-server": (
        ("device", "dtype", "gguf_file", "context_length"),
        "the server was told where and how its model runs",
    ),
}
# What `context_length` is called, and by how much it is more than the longest sequence.
_LENGTHS: Final = {"llama-cpp": ("n_ctx", 0), "vllm": ("max_model_len", 1)}


def load_engine(
    engine: str,
    name: str,
    *,
    device: Any = None,
    dtype: Any = None,
    gguf_file: str | None = None,
    context_length: int | None = None,
    progress: bool = False,
    **options: Any,
) -> TokenLM:
    """Load a model into the engine of this name, with the options of its ``load``, and ``context_length``.

    Only transformers has progress bars to show.

    Raises:
        InvalidArgumentError: There is no such engine, or it does not take an option.
        MissingDependencyError: The engine is not installed.
        ModelError: The model cannot be loaded.
        DownloadError: A packaged model cannot be fetched.
    """
    one_of("engine", engine, ENGINES)
    given = {"device": device, "dtype": dtype, "gguf_file": gguf_file, "context_length": context_length}
    given = {key: value for key, value in given.items() if value is not None}
    kinds, why = _NOT_TAKEN.get(engine, ((), ""))
    if refused := [key for key in given if key in kinds]:
        raise InvalidArgumentError(f"the engine {engine!r} takes no {' or '.join(refused)}: {why}")
    if context_length is not None and engine in _LENGTHS:
        own, more = _LENGTHS[engine]
        given[own] = integer("context_length", given.pop("context_length")) + more
    options |= given
    if engine == "transformers":
        from bytelm.engines.transformers import engine as transformers

        return transformers.load(_folder(name), progress=progress, **options)
    if engine == "llama-cpp":
        from bytelm.engines.llama_cpp import engine as llama_cpp
        from bytelm.engines.llama_cpp.context import library

        model = PACKAGED.get(name)
        if model is None:
            return llama_cpp.load(name, **options)
        library()  # before the model is fetched
        ends = model.eos_ids if isinstance(model, PackagedModel) else None
        return llama_cpp.load(packaged_gguf(name), **{"eot_ids": ends, **options})
    if engine == "vllm":
        from bytelm.engines.vllm import engine as vllm

        vllm.library()  # before the model is fetched
        return vllm.load(_folder(name), **options)
    from bytelm.engines.vllm_server import engine as vllm_server

    return vllm_server.VllmServerLM(name, **options)


def engine_of(model: Any, tokenizer: Any, *, context_length: int | None = None) -> TokenLM:
    """The engine that `bytelm.ByteLM`'s first argument is, wraps or names.

    Raises:
        InvalidArgumentError: An engine that is made already is given a context length.
        ModelError: The model cannot be loaded, or is no causal language model.
    """
    if isinstance(model, TokenLM):
        if context_length is not None:
            raise InvalidArgumentError(
                f"context_length={context_length!r} has no effect on a {type(model).__name__} that is made already; "
                "give it where you make that"
            )
        return model
    from bytelm.engines.transformers import engine as transformers

    if isinstance(model, str | os.PathLike):
        return transformers.load(fspath("model", model), context_length=context_length)
    return transformers.TransformersLM(model, tokenizer, context_length=context_length)


def _folder(name: str) -> str:
    return str(packaged_directory(name)) if is_packaged(name) else name
