"""What runs inside vLLM's own worker processes: it keeps the rows that vLLM computes anyway, until they are asked for.

Rules
    vLLM's sampler has the logits of a step, and of every sequence in it, in one tensor; a logits processor is shown it
    before anything is done to it. This one changes nothing. It copies the tensor, and notes which row is of which
    request and comes after how many drawn tokens: the key of a row. The log-probabilities of a row are taken when it is
    asked for; or the row stays here, and is asked (kept_rows.py).
    Of the workers that share a model's layers out among them only the first keeps anything; of those that share out the
    sequence of layers only the last samples.

Cost
    A copy of a step's logits, into memory that is there from the start (`KEEP_BYTES` of it): on a CPU memory that is
    new to the process takes twenty times as long to write. The oldest rows go first, so that a row which is asked for
    late is missing, and has to be computed anew.

Interfaces
    vLLM's documented ones: ``logits_processors``, ``worker_extension_cls``, ``SamplingParams.extra_args``. This module
    imports vLLM, so only vLLM's processes import it; rows.py speaks with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from bytelm.engines.vllm.kept_rows import Key, RowServer
from bytelm.engines.vllm.rows import REQUEST

KEEP_BYTES: Final = 256 << 20


class Ring:
    """The logits of the last rows, in memory that is taken and written to once, at the start.

    Args:
        columns: Of a row.
        device: Where they are.
    """

    def __init__(self, columns: int, device: torch.device) -> None:
        # Of zeros there would be no memory yet.
        self._rows = torch.ones((max(1, KEEP_BYTES // (4 * columns)), columns), dtype=torch.float32, device=device)
        self._keys: list[Key | None] = [None] * len(self._rows)
        self._places: dict[Key, int] = {}
        self._next = 0

    def keep(self, places: dict[Key, int], logits: torch.Tensor) -> None:
        """Keep a copy of a step: where in its logits the row of each key is. What a later step says of a key stands."""
        count, end = len(logits), len(self._rows)
        if count > end or logits.shape[1] != self._rows.shape[1]:
            return  # these are computed anew
        first = self._next if self._next + count <= end else 0
        self._next = first + count
        for place in range(first, self._next):
            if (gone := self._keys[place]) is not None and self._places.get(gone) == place:
                del self._places[gone]
            self._keys[place] = None
        self._rows[first : self._next] = logits
        for key, index in places.items():
            self._keys[first + index] = key
            self._places[key] = first + index

    def logits(self, key: Key) -> torch.Tensor | None:
        """The logits of a row, to be read before the next step; None where it is not here."""
        place = self._places.get(key)
        return None if place is None else self._rows[place]


# Those of the engines that live in this process; the keys of two of them differ.
KEPT: Final[WeakSet[Ring]] = WeakSet()
SERVER: Final = RowServer()


class RowKeeper(LogitsProcessor):  # type: ignore[misc] # vLLM publishes no types to those who do without it
    """Keeps the rows of requests that carry a name of ours."""

    def __init__(self, config: Any, device: torch.device, _pinned: bool) -> None:  # noqa: FBT001 - vLLM's signature
        self._ring: Ring | None = None
        if get_tensor_model_parallel_rank() == 0:
            self._ring = Ring(config.model_config.get_vocab_size(), device)
            KEPT.add(self._ring)
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
        if self._ring is not None and self._requests:
            places = {(name, len(drawn)): index for index, (name, drawn) in self._requests.items()}
            self._ring.keep(places, logits)
        return logits


def _named(params: Any, _prompt: list[int] | None, drawn: list[int]) -> tuple[str, list[int]] | None:
    name = (params.extra_args or {}).get(REQUEST)
    return None if name is None else (name, drawn)


class RowTeller:
    """What the workers can be asked for beside vLLM's own."""

    def bytelm_rows(self, keys: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The rows of some keys, as the bytes of float32 log-probabilities; None for what is not here."""
        rows = [_logits(key) for key in keys]
        return [None if row is None else row.log_softmax(dim=-1).cpu().numpy().tobytes() for row in rows]

    def bytelm_keep(
        self, keys: Sequence[Sequence[Any]], names: Sequence[str], asked: Sequence[int], dropped: Sequence[str]
    ) -> list[list[bytes] | None]:
        """Keep the rows of some keys under names; what comes of each (`RowServer.rows`), None for what is not here."""
        SERVER.drop(dropped)
        here = {name: row for name, key in zip(names, keys, strict=True) if (row := _logits(key)) is not None}
        kept = SERVER.rows([*here], torch.stack([*here.values()]), asked) if here else []
        came = dict(zip(here, kept, strict=True))
        return [came.get(name) for name in names]

    def bytelm_order(self, name: str, ids: bytes) -> None:
        """Keep token ids by rank."""
        SERVER.order(name, ids)

    def bytelm_ask(self, name: str, question: str, args: Sequence[Any]) -> bytes | None:
        """What a row says (`RowServer.answer`); None where it is not here."""
        return SERVER.answer(name, question, *args)


def _logits(key: Sequence[Any]) -> torch.Tensor | None:
    name, drawn = key
    return next((row for ring in KEPT if (row := ring.logits((str(name), int(drawn)))) is not None), None)
