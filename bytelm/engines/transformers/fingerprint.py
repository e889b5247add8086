"""Whether a model still computes what it computed: a cheap look at all that its modules hold.

Rules
    Looked at are the attributes of each module and of the configurations, and what lists and dictionaries among them
    hold: submodules, parameters, buffers, hooks, a ``forward`` that was replaced, the switches and scales of adapters.
    They are compared by identity; tensors also by the address of their values, and by the counter that torch raises
    when an operation writes to them.
    How torch computes in this thread is a part of what the model computes: autocast, the default dtype, the precision
    of products. So a text that was begun under autocast does not go on without it.
    What a model changes in itself while it runs (a table of positions that grows, weights that are fetched from the
    disk) is no change: `settle` is called after each call of ours.

Traps
    Some writes raise no counter: fused optimizers, ``parameter.data.add_()``, numpy. So a few values of some trainable
    parameters are compared too, which no step of an optimizer leaves alone. A write past torch to other values is not
    seen: `clear_cache` is for that.
    An object's identity may be used again once it is gone. So what is no tensor is held on to; a tensor is not, lest
    weights that were replaced stay in memory, and one that is gone counts as a change.

Cost
    Less than a tenth of a pass over one token on a CPU, for a model of 30 layers; a test sees to that. To take what is
    there anew costs as much as ten looks, and is done only after a change.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import torch

# torch describes this counter in its notes on autograd, and has no other name for it.
_VERSION: Final = attrgetter("_version")
_CAST_ON: Final = ("cpu", "cuda", "xpu", "mps")  # kinds of devices
_SAMPLED: Final = 32  # tensors of which some values are compared


class Fingerprint:
    """What a model's modules held when it was last looked at.

    Attributes:
        modules: All of them.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._take()

    def changed(self) -> bool:
        """Whether anything is another than it was; what is there now is what later looks are compared with."""
        if self._same() and self._values() == self._sampled_values:
            return False
        self._take()
        return True

    def settle(self) -> None:
        """Take what is there now for what was there."""
        if not self._same():
            self._take()

    def _take(self) -> None:
        self._computing = computing()
        self.modules = [*self._model.modules()]
        configs = {id(config): config for module in self.modules if (config := getattr(module, "config", None))}
        self._spaces = [vars(each) for each in (*self.modules, *configs.values()) if hasattr(each, "__dict__")]
        attributes = [*chain.from_iterable(map(dict.values, self._spaces))]
        boxes = [box for box in attributes if isinstance(box, dict | list)]
        self._sizes = [*map(len, boxes)]
        self._boxes = boxes
        self._dicts = [box for box in boxes if isinstance(box, dict) and box]
        self._lists = [box for box in boxes if isinstance(box, list) and box]
        objects = [*attributes, *self._held_in_boxes()]
        self._ids = [*map(id, objects)]
        self._kept = [each for each in objects if not isinstance(each, torch.Tensor)]
        tensors = {id(each): each for each in objects if isinstance(each, torch.Tensor)}
        self._tensors = [*map(weakref.ref, tensors.values())]
        self._marks = [*map(_mark, tensors.values())]
        trained = [each for each in tensors.values() if _readable(each)]
        self._sampled = [*map(weakref.ref, trained[:: max(len(trained) // _SAMPLED, 1)])]
        self._sampled_values = self._values()

    def _held_in_boxes(self) -> Iterable[object]:
        return chain(chain.from_iterable(map(dict.values, self._dicts)), chain.from_iterable(self._lists))

    def _same(self) -> bool:
        if computing() != self._computing or [*map(len, self._boxes)] != self._sizes:
            return False
        attributes = chain.from_iterable(map(dict.values, self._spaces))
        if [*map(id, chain(attributes, self._held_in_boxes()))] != self._ids:
            return False
        tensors = [ref() for ref in self._tensors]
        return [tensor if tensor is None else _mark(tensor) for tensor in tensors] == self._marks

    def _values(self) -> list[int]:
        """A value from the middle of some parameters, as bytes: NaN is not equal to itself."""
        tensors = [tensor for ref in self._sampled if (tensor := ref()) is not None]
        parts: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        with torch.no_grad():
            for tensor in tensors:
                middle = tensor.storage_offset() + tensor.numel() // 2
                parts.setdefault((tensor.device, tensor.dtype), []).append(tensor.as_strided((1,), (1,), middle))
            return [byte for part in parts.values() for byte in torch.cat(part).view(torch.uint8).tolist()]


def computing() -> tuple[object, ...]:
    """How torch computes in this thread, beyond what a model holds."""
    return casting(), torch.get_default_dtype(), torch.get_float32_matmul_precision()


def casting() -> tuple[object, ...]:
    """The kinds of devices on which torch computes in 16 bits of its own accord (autocast), and in which."""
    return tuple((on, torch.get_autocast_dtype(on)) for on in _CAST_ON if torch.is_autocast_enabled(on))


def _mark(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's values are, and how often they were written to, as far as it tells."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # of a class of its own, which has no address
        address = 0
    return address, 0 if tensor.is_inference() else int(_VERSION(tensor))


def _readable(tensor: Any) -> bool:
    return bool(
        (tensor.requires_grad or tensor.is_inference())
        and tensor.numel()
        and tensor.is_contiguous()
        and tensor.device.type != "meta"
    ) and type(tensor) in (torch.Tensor, torch.nn.Parameter)
