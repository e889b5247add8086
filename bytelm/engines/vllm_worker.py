"""What runs inside vLLM's own worker processes: it keeps the rows that vLLM computes anyway, until they are asked for.

Rules
    vLLM's sampler has the logits of a step, and of every sequence in it, in one tensor; a logits processor is shown it
    before anything is done to it. This one changes nothing. It copies the tensor, and notes which row is of which
    request and comes after how many drawn tokens: the key of a row. The log-probabilities of a row are taken when it is
    asked for.
    Of the workers that share a model's layers out among them only the first keeps anything; of those that share out the
    sequence of layers only the last samples.

Cost
    A copy of a step's logits. At most `KEEP_BYTES` of them; the oldest steps go first, so that a row which is asked for
    late is missing, and has to be computed anew. A copy takes the place of the one that goes: on a CPU memory that is
    new to the process takes three times as long to write as the copy.

Interfaces
    vLLM's documented ones: ``logits_processors``, ``worker_extension_cls``, ``SamplingParams.extra_args``. This module
    imports vLLM, so only vLLM's processes import it; vllm_rows.py speaks with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakSet

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from bytelm.engines.vllm_rows import REQUEST

KEEP_BYTES: Final = 256 << 20

Key: TypeAlias = tuple[str, int]


class _Steps:
    """The logits of the last steps.

    Args:
        budget_bytes: What they may take; the newest step stays, whatever it takes.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._steps: deque[tuple[dict[Key, int], torch.Tensor]] = deque()
        self._bytes = 0

    def keep(self, places: dict[Key, int], logits: torch.Tensor) -> None:
        """Keep a copy of a step: where in its logits the row of each key is."""
        copy: torch.Tensor | None = None
        while self._steps and self._bytes + logits.nbytes > self._budget:
            copy = self._steps.popleft()[1]
            self._bytes -= copy.nbytes
        if copy is None or len(copy) < len(logits) or copy[0].shape != logits[0].shape or copy.dtype != logits.dtype:
            copy = torch.empty_like(logits)
        copy[: len(logits)] = logits
        self._steps.append((places, copy))
        self._bytes += copy.nbytes

    def logprobs(self, key: Key) -> bytes | None:
        """The natural log-probabilities of a row, float32; None where it is not here."""
        for places, logits in reversed(self._steps):  # what a later step says stands: see `RowKeeper.apply`
            if (index := places.get(key)) is not None:
                row = logits[index].log_softmax(dim=-1, dtype=torch.float32)
                return row.cpu().numpy().tobytes()
        return None


# Those of the engines that live in this process; the keys of two of them differ.
KEPT: Final[WeakSet[_Steps]] = WeakSet()


class RowKeeper(LogitsProcessor):  # type: ignore[misc] # vLLM publishes no types to those who do without it
    """Keeps the rows of requests that carry a name of ours."""

    def __init__(self, _config: Any, _device: torch.device, _pinned: bool) -> None:  # noqa: FBT001 - vLLM's signature
        self._first = get_tensor_model_parallel_rank() == 0
        self._steps = _Steps(KEEP_BYTES)
        KEPT.add(self._steps)
        self._requests: dict[int, tuple[str, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """False: those that say True are left out where all is greedy, and are shown the logits late."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Note who is where in the batch; the lists of drawn tokens are vLLM's, and grow."""
        process_dict_updates(self._requests, batch_update, _named)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Keep a copy, change nothing.

        A prompt that is fed in parts has a row after each; they have the same key, and the last one is right.
        """
        if self._first and self._requests:
            places = {(name, len(drawn)): index for index, (name, drawn) in self._requests.items()}
            self._steps.keep(places, logits)
        return logits


def _named(params: Any, _prompt: list[int] | None, drawn: list[int]) -> tuple[str, list[int]] | None:
    name = (params.extra_args or {}).get(REQUEST)
    return None if name is None else (name, drawn)


class RowTeller:
    """What the workers can be asked for beside vLLM's own."""

    def bytelm_rows(self, keys: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The rows of some keys, as the bytes of float32 log-probabilities; None for what is not here."""
        return [_row((str(name), int(drawn))) for name, drawn in keys]


def _row(key: Key) -> bytes | None:
    return next((row for steps in KEPT if (row := steps.logprobs(key)) is not None), None)
