"""The key-value store: slots that any number of sequences share, seen by the model as an ordinary cache.

Rules
    Each layer keeps one tensor of keys and one of values, [1, heads, slots, width]. New tokens are written to
    consecutive slots at the top. What a pass reads is a `Read`: a range of slots, a list of slots in a stated order, or
    one list for each row of the batch. Every layer keeps every key, also where the model attends to a window only:
    the window is the attention mask's business, so stepping back never meets a key that was dropped.

Traps
    A masked slot still takes part in the arithmetic with weight 0, and 0 × NaN is NaN: slots begin as zeros.
    `Cache.crop` of transformers is not used: nothing is ever cropped, a slot is only no longer read.

Memory
    The store grows by half. Packing (on growth, or when the top is reached) copies the live slots together, path by
    path, layer after layer, so that it needs one more layer at a time and not one more store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from transformers.cache_utils import Cache, CacheLayerMixin

Slots = Int64[np.ndarray, " _"]


@dataclass(slots=True)
class Read:
    """Which slots a pass writes and reads.

    Attributes:
        start: First slot of the new tokens; they go to the slots from here on, row after row of the batch.
        index: None: the range ``start - past : start + new`` itself. One axis: these slots, in this order, for
            all rows. Two axes: those of each row.
        width: How many slots each query reads, new ones included.
        first: First slot of the range, where ``index`` is None.
    """

    start: int
    width: int
    first: int = 0
    index: Int64[np.ndarray, "..."] | None = None
    _on_device: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def index_on(self, device: torch.device) -> torch.Tensor:
        """The index as a flat tensor on a layer's device, copied there once for each pass."""
        if device not in self._on_device and self.index is not None:
            self._on_device[device] = torch.from_numpy(np.ascontiguousarray(self.index).reshape(-1)).to(device)
        return self._on_device[device]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values."""

    is_sliding = False
    is_croppable = False

    def __init__(self, store: SlotStore) -> None:
        CacheLayerMixin.__init__(self)
        self.keys: Any = None  # a tensor once it is initialised
        self.values: Any = None
        self._store = store

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make the tensors, in the shapes of the first keys and values seen."""
        capacity = self._store.capacity
        self.keys = key_states.new_zeros((1, key_states.shape[1], capacity, key_states.shape[-1]))
        self.values = value_states.new_zeros((1, value_states.shape[1], capacity, value_states.shape[-1]))
        self.is_initialized = True

    def update(
        self,
        key_states: Float[torch.Tensor, "batch heads new width"],
        value_states: Float[torch.Tensor, "batch heads new value_width"],
        *args: Any,  # noqa: ARG002 - transformers' signature
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values, and return what the pass reads: [batch, heads, width, ...]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._exchange(self.keys, key_states), self._exchange(self.values, value_states)

    def _exchange(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        batch, heads, length, width = new.shape
        read = self._store.read
        rows = new.transpose(0, 1).reshape(1, heads, batch * length, width)
        kept[:, :, read.start : read.start + batch * length] = rows
        if read.index is None:
            return kept[:, :, read.first : read.first + read.width].expand(batch, -1, -1, -1)
        index = read.index_on(kept.device)
        if read.index.ndim == 1:
            return kept.index_select(2, index).expand(batch, -1, -1, -1)
        return kept[0].index_select(1, index).view(heads, batch, read.width, width).transpose(0, 1)

    def get_seq_length(self) -> int:
        """How many tokens came before this pass, as the model counts."""
        return self._store.past

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Keys that a query sees, and the place of the first: what a model that makes its own mask asks."""
        length = query_length if isinstance(query_length, int) else query_length.shape[0]  # before transformers 5.3
        return self._store.past + length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.10

    def pack(self, source: Slots, capacity: int) -> None:
        """Move the ``source`` slots to the front of a store of ``capacity`` slots."""
        if self.is_initialized:
            self.keys = _packed(self.keys, source, capacity)
            self.values = _packed(self.values, source, capacity)


def _packed(kept: torch.Tensor, source: Slots, capacity: int) -> torch.Tensor:
    heads, width = kept.shape[1], kept.shape[3]
    moved = kept.new_zeros((1, heads, capacity, width))
    if len(source):
        moved[:, :, : len(source)] = kept.index_select(2, torch.from_numpy(source).to(kept.device))
    return moved


class SlotStore:
    """All layers' keys and values by slot, and what the present pass reads of them.

    Attributes:
        cache: What is passed to the model as ``past_key_values``.
        capacity: Slots that there are.
        top: First slot that has never been written since the last packing.
        positions: Position in its sequence of the token in each slot.
        read: What the present pass writes and reads.
        past: Tokens before the present pass, as the model counts.
    """

    def __init__(self) -> None:
        self.capacity = 0
        self.top = 0
        self.read = Read(start=0, width=0)
        self.past = 0
        self.positions: Slots = np.zeros(0, np.int64)
        make_layer: Any = lambda: SlotLayer(self)  # noqa: E731 - transformers calls it as it would a class
        self.cache: Any = Cache(layer_class_to_replicate=make_layer)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot over all layers; 0 before the first pass."""
        layers = [layer for layer in self.cache.layers if layer.is_initialized]
        tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return sum(int(tensor.element_size()) * tensor.shape[1] * tensor.shape[3] for tensor in tensors)

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values take."""
        return self.slot_bytes * self.capacity

    def gathered(self, index: Int64[np.ndarray, "batch length"]) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """Copies of the keys and values in some slots, [batch, heads, length, ...]; None of a layer without any."""
        found: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for layer in self.cache.layers:
            if not layer.is_initialized:
                found.append(None)
                continue
            slots = torch.from_numpy(index).to(layer.keys.device)
            found.append((layer.keys[0][:, slots].transpose(0, 1), layer.values[0][:, slots].transpose(0, 1)))
        return found

    def pack(self, source: Slots, capacity: int) -> None:
        """Keep the ``source`` slots, in this order, in a store of ``capacity`` slots."""
        for layer in self.cache.layers:
            layer.pack(source, capacity)
        positions = np.zeros(capacity, np.int64)
        positions[: len(source)] = self.positions[source]
        self.positions, self.capacity, self.top = positions, capacity, len(source)


def visibility(
    parents: Int64[np.ndarray, " items"],
    columns: Int64[np.ndarray, " items"],
    paths: list[Slots | None],
    width: int,
) -> Bool[np.ndarray, "items width"]:
    """Which columns each new token sees: those of the path it continues, and its own.

    Args:
        parents: Row of the token that each continues, or -1 where that is no row of this mask.
        columns: The column of each token itself.
        paths: The columns of the path that each continues; None where ``parents`` names a row.
        width: Columns in all.

    >>> visibility(np.array([-1, 0, 0]), np.array([2, 3, 4]), [np.array([0, 1]), None, None], 5).astype(int).tolist()
    [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    """
    seen = np.zeros((len(parents), width), np.bool_)
    for i, (parent, path) in enumerate(zip(parents.tolist(), paths, strict=True)):
        if path is None:
            seen[i] = seen[parent]
        else:
            seen[i, path] = True
        seen[i, columns[i]] = True
    return seen
