"""Rows that stay in vLLM's worker, and what is asked of them there.

Rules
    The worker keeps a row under a name for as long as there is a `KeptRow` of that name here. Its likely tokens come
    when it is asked for; each other question is a call to the workers, which the row answers on its device
    (../device_rows.py). Names that are not needed any more go with the next call that asks for rows.
    What is sent are texts, numbers, and arrays as their bytes: vLLM's calls carry these as they are.

Cost
    A question is a message to another process and back, and a row is asked twice or so: little travels, and it is no
    faster (docs/engines_vllm.md).
"""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from bytelm.engines.device_rows import OfArrays, Shelf, TorchRow
from bytelm.errors import ModelError
from bytelm.token_lm import Likely

Key: TypeAlias = tuple[str, int]  # a request, and how many tokens were drawn before the row


class RowServer:
    """The rows and orders that a worker keeps for those that ask."""

    def __init__(self) -> None:
        self._shelf = Shelf()
        self._rows: dict[str, TorchRow] = {}
        self._orders: dict[str, Int64[np.ndarray, " tokens"]] = {}

    def rows(
        self, names: Sequence[str], logits: Float32[torch.Tensor, "n vocab"], asked: Sequence[int]
    ) -> list[list[bytes] | None]:
        """Keep rows; what comes of each: the bytes of some ids (int32) and their log-probabilities (float32).

        Args:
            names: What each is kept as.
            logits: Not normalised.
            asked: Ids that come with the likely ones.

        Returns:
            None for a row that is not kept, as it is no distribution.
        """
        found: list[list[bytes] | None] = []
        block = logits.double().log_softmax(dim=-1).float()
        fine = logits.amax(dim=-1).isfinite().tolist()
        for name, row, good in zip(names, self._shelf.rows(block, asked), fine, strict=True):
            if good:
                self._rows[name] = row.alone()
            found.append([row.likely.ids.tobytes(), row.likely.logprobs.tobytes()] if good else None)
        return found

    def __len__(self) -> int:
        """How many rows and orders there are."""
        return len(self._rows) + len(self._orders)

    def drop(self, names: Sequence[str]) -> None:
        """Forget rows and orders."""
        for name in names:
            self._rows.pop(name, None)
            self._orders.pop(name, None)

    def order(self, name: str, ids: bytes) -> None:
        """Keep token ids (int32) by rank."""
        self._orders[name] = np.frombuffer(ids, np.int32).astype(np.int64)

    def answer(self, name: str, question: str, *args: Any) -> bytes | None:
        """What a row says, as the bytes of an array; None where it is not here."""
        if (row := self._rows.get(name)) is None:
            return None
        if question == "whole":
            return np.asarray(row).tobytes()
        if question == "entries":
            return row.entries(np.frombuffer(args[0], np.int32)).tobytes()
        if question == "drawn":
            return np.array(row.drawn(*args)).tobytes()
        order, lo, hi, *others = args
        if question == "ranked":
            return row.ranked(self._orders[order], lo, hi).tobytes()
        bits, starts = others
        mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=hi - lo).astype(np.bool_)
        return row.sums(self._orders[order], lo, hi, mask, np.frombuffer(starts, np.int64)).tobytes()


class RowClient:
    """What the workers keep for one engine, as it is asked for from here.

    Args:
        call: Asks all workers, as vLLM's ``LLM.collective_rpc`` does; from any thread.
        columns: Of a row.
        asked: Ids that are asked for of each row.

    Attributes:
        moved_bytes: What went to the workers and came from them, names and numbers aside.
        questions: How often a row was asked.
    """

    def __init__(self, call: Callable[..., list[Any]], columns: int, asked: Sequence[int]) -> None:
        self.moved_bytes = 0
        self.questions = 0
        self.columns = columns
        self._call = call
        self._asked = list(asked)
        self._mine = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._dropped: deque[str] = deque()
        self._orders = OfArrays()

    def rows(self, keys: Sequence[Key], tokens: Sequence[int]) -> list[KeptRow | None]:
        """Have rows kept; None for one that no worker has.

        Args:
            keys: Which.
            tokens: Ids whose entries come along.
        """
        dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
        names = [self._name() for _ in keys]
        by_worker = self._call("bytelm_keep", (keys, names, [*self._asked, *tokens], dropped))
        rows: list[KeptRow | None] = []
        for name, *answers in zip(names, *by_worker, strict=True):
            if (found := next(filter(None, answers), None)) is None:
                rows.append(None)
                continue
            self.moved_bytes += sum(map(len, found))
            likely = Likely(np.frombuffer(found[0], np.int32), np.frombuffer(found[1], np.float32))
            rows.append(row := KeptRow(name, likely, self))
            self._drop_with(row, name)
        return rows

    def ask(self, name: str, question: str, *args: Any) -> bytes:
        """What a row says, as the bytes of an array.

        Raises:
            ModelError: It is gone, or vLLM failed.
        """
        answers = self._call("bytelm_ask", (name, question, args))
        if (found := next((answer for answer in answers if answer is not None), None)) is None:
            raise ModelError("vLLM's workers have lost a row that they were to keep; clear_cache() makes all anew")
        self.questions += 1
        self.moved_bytes += len(found) + sum(len(each) for each in args if isinstance(each, bytes))
        data: bytes = found
        return data

    def order(self, order: Int64[np.ndarray, " tokens"]) -> str:
        """The name of token ids by rank, which the workers keep for as long as the array is in use."""
        name: str = self._orders.get(order, lambda: self._sent(order))
        return name

    def _sent(self, order: Int64[np.ndarray, " tokens"]) -> str:
        name, ids = self._name(), order.astype(np.int32).tobytes()
        self._call("bytelm_order", (name, ids))
        self.moved_bytes += len(ids)
        self._drop_with(order, name)
        return name

    def _drop_with(self, holder: Any, name: str) -> None:
        """Have the workers forget a name when there is nobody left who can ask for it."""
        weakref.finalize(holder, self._dropped.append, name).atexit = False

    def _name(self) -> str:
        return f"{self._mine}-{next(self._numbers)}"


class KeptRow:
    """A `bytelm.token_lm.DeviceRow` that is in a worker.

    Args:
        name: Under which it is kept.
        likely: What came of it.
        client: Of its engine.
    """

    __slots__ = ("__weakref__", "_client", "_name", "likely")

    def __init__(self, name: str, likely: Likely, client: RowClient) -> None:
        self._name = name
        self._client = client
        self.likely = likely

    @property
    def nbytes(self) -> int:  # noqa: D102 - as in `DeviceRow`, like all below
        return 4 * self._client.columns

    def __len__(self) -> int:
        return self._client.columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> Float[np.ndarray, " vocab"]:
        del copy
        row = np.frombuffer(self._client.ask(self._name, "whole"), np.float32)
        return row if dtype is None else row.astype(dtype, copy=False)

    def alone(self) -> KeptRow:  # noqa: D102
        return self

    def entries(  # noqa: D102
        self, ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, " n"]:
        return np.frombuffer(self._client.ask(self._name, "entries", ids.astype(np.int32).tobytes()), np.float32)

    def ranked(self, order: Int64[np.ndarray, " tokens"], lo: int, hi: int) -> Float32[np.ndarray, " n"]:  # noqa: D102
        return np.frombuffer(self._client.ask(self._name, "ranked", self._client.order(order), lo, hi), np.float32)

    def drawn(self, uniform: float) -> tuple[int, float]:  # noqa: D102
        token, logprob = np.frombuffer(self._client.ask(self._name, "drawn", uniform), np.float64).tolist()
        return int(token), logprob

    def sums(  # noqa: D102
        self,
        order: Int64[np.ndarray, " tokens"],
        lo: int,
        hi: int,
        mask: Bool[np.ndarray, " n"],
        starts: Int64[np.ndarray, " parts"],
    ) -> Float64[np.ndarray, " parts"]:
        args = self._client.order(order), lo, hi, np.packbits(mask).tobytes(), starts.astype(np.int64).tobytes()
        return np.frombuffer(self._client.ask(self._name, "sums", *args), np.float64)
