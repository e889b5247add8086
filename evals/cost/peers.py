"""Other programs that complete text by bytes, on a model that is already loaded or on rows, for evals/cost.

A peer is a method if it can be imported. None is a dependency of this project.
    *genlm-bytes*: pip install genlm-bytes. Its README's settings: a beam of 5, candidates below 0.05 pruned.
    *genlm-bytes, unpruned*: the same beam and nothing pruned.
ByteSampler (Hayase et al.) needs transformers 4 and cannot run on a model of transformers 5, so it is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float64

EOS: Final = 257  # its column of the end of text; 256 is the end of a token


class GenlmBytes:
    """genlm-bytes: a beam of tokenizations, one model call at a time, through asyncio.

    Args:
        model: Of transformers; or a function from token ids to the row after them, natural logs.
        tokenizer: Of transformers, the model's own.
        beam: Tokenizations that are followed.
        prune: The least share of the mass that keeps one of them.
    """

    def __init__(self, model: Any, tokenizer: Any, *, beam: int = 5, prune: float = 0.05) -> None:
        from genlm.backend.llm import AsyncTransformer
        from genlm.bytes import BeamParams, ByteBeamState
        from torch.nn import Module

        if tokenizer.bos_token_id is None:
            raise ValueError("genlm-bytes starts every text with BOS, and this tokenizer has no BOS")
        self._loop = asyncio.Runner()
        self._lm = AsyncTransformer(model, tokenizer) if isinstance(model, Module) else _on_rows(model, tokenizer)
        ends = [tokenizer.eos_token.encode()]
        params = BeamParams(K=beam, prune_threshold=prune, eos_byte_strings=ends)
        self._empty = self._loop.run(ByteBeamState.initial(self._lm, params))

    def complete(self, prompt: bytes, size: int) -> bytes:
        """Greedy bytes; the end of text is not taken."""
        return self._loop.run(self._complete(prompt, size))

    def next_byte_logprobs(self, prompt: bytes) -> Float64[np.ndarray, "257"]:
        """Its distribution after a prompt, the end of text last."""
        return self._loop.run(self._row(prompt))

    async def _complete(self, prompt: bytes, size: int) -> bytes:
        self._lm.clear_cache()
        state, written = await self._empty.prefill(prompt), bytearray()
        while len(written) < size:
            row = (await state.logp_next()).ps
            written.append(int(np.argmax(row[:256])))
            state = await (state.prune() << written[-1])
        return bytes(written)

    async def _row(self, prompt: bytes) -> Float64[np.ndarray, "257"]:
        self._lm.clear_cache()
        row = (await (await self._empty.prefill(prompt)).logp_next()).ps
        return np.append(row[:256], row[EOS]).astype(np.float64)


def _on_rows(row: Callable[[Sequence[int]], Float[np.ndarray, " vocab"]], tokenizer: Any) -> Any:
    """A language model of genlm's, whose rows a function gives."""
    import torch
    from genlm.backend.llm import AsyncLM

    class OnRows(AsyncLM):  # type: ignore[misc, unused-ignore]  # genlm has no types, and may not be installed
        def next_token_logprobs_sync(self, token_ids: Sequence[int], lora_name: str | None = None) -> torch.Tensor:
            del lora_name
            return torch.from_numpy(row(token_ids))

        async def next_token_logprobs(self, token_ids: Sequence[int], lora_name: str | None = None) -> torch.Tensor:
            return self.next_token_logprobs_sync(token_ids, lora_name)

    return OnRows(tokenizer)


def installed_peers() -> dict[str, Callable[[Any, Any], Any]]:
    """What makes a peer's completer from a model and its tokenizer, for each peer that can be imported."""
    if find_spec("genlm") is None or find_spec("genlm.bytes") is None:
        return {}
    return {
        "genlm-bytes": GenlmBytes,
        "genlm-bytes-unpruned": lambda model, tokenizer: GenlmBytes(model, tokenizer, prune=0.0),
    }
