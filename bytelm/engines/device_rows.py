"""Rows that stay on a torch device, and answer there what the byte layer asks of them.

Rules
    The same operations of torch run on every device. Sums and exponentials are in float64.
    With the rows of a pass come their likely tokens (engines/rows.py), in one piece: most draws, and most of the
    entries that are asked for, are among these, and need no question.
    What travels is the likely tokens, a mask or some ids on the way there, and the answer on the way back: never a row,
    unless all of it is asked for. `Shelf` counts it.
    A byte model's tokens in byte order are sent once, and kept for as long as it is in use.

Cost
    A question is some small kernels, and waits for its answer. Beside the copy of a whole row and its sums in memory
    that pays the more, the larger the vocabulary is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64

from bytelm.engines.rows import least_likely
from bytelm.token_lm import Likely


class OfArrays:
    """What was made of arrays, for as long as each of them is in use. They are known by identity."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[weakref.ref[Any], Any]] = {}

    def get(self, array: np.ndarray, make: Callable[[], Any], where: Hashable = None) -> Any:
        """What was made of an array for a place; made now if it is the first time."""
        key = id(array), where
        if key not in self._made:
            made = make()
            self._made[key] = weakref.ref(array, lambda _: self._made.pop(key, None)), made
        return self._made[key][1]


class Shelf:
    """What the rows of one engine have in common.

    Args:
        asked: Ids that are asked for of each row: they come with its likely tokens.

    Attributes:
        moved_bytes: How much has travelled, both ways.
        questions: How often a row was asked, and its answer waited for.
    """

    def __init__(self, asked: Iterable[int] = ()) -> None:
        self.moved_bytes = 0
        self.questions = 0
        self._asked = sorted(asked)
        self._orders = OfArrays()

    def up(self, array: Any, device: torch.device) -> torch.Tensor:
        """An array, on a device."""
        self.moved_bytes += array.nbytes
        return torch.tensor(array, device=device)  # a copy on the CPU device too: it keeps no array alive

    def down(self, tensor: torch.Tensor) -> Any:
        """A tensor, in memory."""
        self.moved_bytes += tensor.nbytes
        return tensor.cpu().numpy()

    def answer(self, tensor: torch.Tensor) -> Any:
        """What a row was asked for, in memory."""
        self.questions += 1
        return self.down(tensor)

    def order(self, order: Int64[np.ndarray, " tokens"], device: torch.device) -> Int64[torch.Tensor, " tokens"]:
        """The tokens by rank, on a device; kept there for as long as the array is in use."""
        there: Int64[torch.Tensor, " tokens"] = self._orders.get(order, lambda: self.up(order, device), device)
        return there

    def rows(self, block: Float[torch.Tensor, "n vocab"], asked: Iterable[int] = ()) -> list[TorchRow]:
        """The rows of a pass.

        Args:
            block: Natural logs, normalised; not to be written to any more.
            asked: More ids that are asked for of each.
        """
        with torch.inference_mode():
            coming = block > least_likely(block.shape[1])
            coming[:, [*self._asked, *asked]] = True
            counts, ids, logprobs = coming.sum(1), coming.nonzero()[:, 1].int(), block[coming]
        ends = np.cumsum(self.down(counts))[:-1]
        parts = zip(block, np.split(self.down(ids), ends), np.split(self.down(logprobs), ends), strict=True)
        return [TorchRow(row, Likely(*likely), self) for row, *likely in parts]


class TorchRow:
    """A `bytelm.token_lm.DeviceRow` that is a tensor.

    Args:
        logprobs: Natural logs, normalised; not to be written to any more.
        likely: What came of it.
        shelf: That of its engine.
    """

    __slots__ = ("_logprobs", "_shelf", "likely")

    def __init__(self, logprobs: Float[torch.Tensor, " vocab"], likely: Likely, shelf: Shelf) -> None:
        self._logprobs = logprobs
        self._shelf = shelf
        self.likely = likely

    @property
    def nbytes(self) -> int:  # noqa: D102 - as in `DeviceRow`, like all below
        return self._logprobs.nbytes

    def __len__(self) -> int:
        return len(self._logprobs)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Float[np.ndarray, " vocab"]:
        del copy  # what comes from a device is one
        row: Float[np.ndarray, " vocab"] = self._shelf.answer(self._logprobs)
        return row if dtype is None else row.astype(dtype, copy=False)

    def alone(self) -> TorchRow:
        """The same row, which keeps no other rows alive."""
        whole = self._logprobs.untyped_storage().nbytes() == self.nbytes
        return self if whole else TorchRow(self._logprobs.clone(), self.likely, self._shelf)

    def entries(  # noqa: D102
        self, ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        with torch.inference_mode():
            found = self._logprobs[self._up(ids.astype(np.int32))]
        entries: Float[np.ndarray, " n"] = self._shelf.answer(found)
        return entries

    def ranked(self, order: Int64[np.ndarray, " tokens"], lo: int, hi: int) -> Float[np.ndarray, " n"]:  # noqa: D102
        with torch.inference_mode():
            found = self._logprobs[self._shelf.order(order, self._logprobs.device)[lo:hi]]
        entries: Float[np.ndarray, " n"] = self._shelf.answer(found)
        return entries

    def drawn(self, uniform: float) -> tuple[int, float]:  # noqa: D102
        with torch.inference_mode():
            probs, likely = self._logprobs.double().exp(), self._logprobs > least_likely(len(self))
            first = torch.where(likely, probs, 0.0).cumsum(0)
            then = torch.where(likely, 0.0, probs).cumsum(0)
            below, others = first[-1:], then[-1:]
            share = (uniform - below) / (1.0 - below) * others
            # Where rounding took from a sum that is 1, and there are no others, it is the last of the likely ones.
            in_first = torch.searchsorted(first, torch.full_like(below, uniform), right=True)
            in_first = torch.minimum(in_first, torch.searchsorted(first, below))
            in_then = torch.searchsorted(then, share, right=True)
            token = torch.where((uniform < below) | (others == 0), in_first, in_then)
            answer = torch.cat([token.double(), self._logprobs[token].double()])
        number, logprob = self._shelf.answer(answer).tolist()
        return int(number), logprob

    def sums(  # noqa: D102
        self,
        order: Int64[np.ndarray, " tokens"],
        lo: int,
        hi: int,
        mask: Bool[np.ndarray, " n"],
        starts: Int64[np.ndarray, " parts"],
    ) -> Float64[np.ndarray, " parts"]:
        device = self._logprobs.device
        with torch.inference_mode():
            ids = self._shelf.order(order, device)[lo:hi]
            bits = self._up(np.packbits(mask))[:, None] >> torch.arange(7, -1, -1, device=device, dtype=torch.uint8)
            masses = self._logprobs[ids].double().exp() * (bits & 1).flatten()[: hi - lo]
            part = torch.searchsorted(self._up(starts), torch.arange(hi - lo, device=device), right=True) - 1
            found = torch.zeros(len(starts), dtype=torch.float64, device=device).index_add_(0, part, masses)
        sums: Float64[np.ndarray, " parts"] = self._shelf.answer(found)
        return sums

    def _up(self, array: Any) -> torch.Tensor:
        return self._shelf.up(array, self._logprobs.device)
