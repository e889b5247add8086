"""Linear layers on a few rows, as the product that the processor does fastest.

Why
    A step feeds one to eight tokens. For so few rows, ``x @ Wᵀ`` as PyTorch calls it is several times slower on some
    processors than ``(W @ xᵀ)ᵀ``, which reads the weights once at full memory speed: on two cores of an AMD EPYC, a
    pass of a model of Gemma-3-270m's shape over two rows took 135 ms the one way and 52 ms the other, and over one row
    83 ms and 40 ms (as two equal rows).
    The numbers agree but for rounding.

How
    A `TorchFunctionMode`, in force only inside the engine's own forward passes: the model is not touched. Which numbers
    of rows gain is measured once, on the model's own weights, in under a second; where none does, nothing is done.

Does not
    Concern GPUs, quantised weights, or anything but float32 on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

SIZES: Final = (1, 2, 4, 8)
GAIN: Final = 1.1  # a number of rows is rerouted only where that is faster by so much
_ROUNDS: Final = 4
_SAMPLE_BYTES: Final = 48 << 20  # of weights that the measurement reads: more than a processor's cache holds


class ThinLinear(TorchFunctionMode):
    """Reroutes `torch.nn.functional.linear` for inputs of few rows.

    Args:
        sizes: The numbers of rows to reroute.

    >>> layer, x = torch.nn.Linear(5, 3), torch.randn(2, 1, 5)
    >>> with torch.inference_mode(), ThinLinear({2}):
    ...     rerouted = layer(x)
    >>> torch.allclose(rerouted, layer(x), atol=1e-6)
    True
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        self.sizes = frozenset(sizes)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do ``func``, or the same product in the other order."""
        if func is linear and not kwargs and _plain(args[1]) and _plain(args[0]):
            x, weight = args[0], args[1]
            if x.shape[-1] and x.numel() // x.shape[-1] in self.sizes:
                return _thin(x, weight, args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))


def _plain(tensor: Any) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.dtype is torch.float32


def _thin(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    n = rows.shape[0]
    if n == 1:
        rows = rows.expand(2, -1).contiguous()  # one column would be a matrix-vector product again
    y = torch.mm(weight, rows.t()).t()[:n].reshape(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


def gaining_sizes(model: torch.nn.Module) -> frozenset[int]:
    """The numbers of rows up to 8 for which the other order is faster here, on this model's weights."""
    weights: list[torch.Tensor] = []
    for module in model.modules():
        if type(module) is torch.nn.Linear and _plain(module.weight) and module.weight.device.type == "cpu":
            weights.append(module.weight.data[: _SAMPLE_BYTES // (4 * module.in_features)])
        if sum(weight.nbytes for weight in weights) > _SAMPLE_BYTES:
            break
    else:
        return frozenset()  # too small a model to gain, or none of float32 on the CPU
    gaining: set[int] = set()
    with torch.inference_mode():
        for smaller, size in pairwise((0, *SIZES)):
            inputs = [torch.zeros(size, weight.shape[1]) for weight in weights]
            plain = thin = float("inf")
            for _ in range(_ROUNDS):  # in turn, so that other programs disturb both
                plain = min(plain, _seconds(linear, inputs, weights))
                thin = min(thin, _seconds(lambda x, weight: _thin(x, weight, None), inputs, weights))
            if plain > GAIN * thin:
                gaining.update(range(smaller + 1, size + 1))
    return frozenset(gaining)


def _seconds(product: Callable[..., Any], inputs: list[torch.Tensor], weights: list[torch.Tensor]) -> float:
    begin = time.thread_time()  # and not of the clock on the wall: other programs may be running
    for x, weight in zip(inputs, weights, strict=True):
        product(x, weight)
    return time.thread_time() - begin
