"""Where a model is to run, and in which number format: what was asked for, found to be possible before it is loaded."""

from __future__ import annotations

from typing import Any

import torch

from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError


def device_of(device: object) -> torch.device:
    """The device that is asked for, or for None a GPU if there is one.

    Raises:
        InvalidTypeError: It is no device and no name of one.
        InvalidArgumentError: torch has no such device, or there is none here.

    >>> device_of("cpu")
    device(type='cpu')
    >>> device_of("gpu")
    Traceback (most recent call last):
    bytelm.errors.InvalidArgumentError: device='gpu' is not a torch device; pass 'cpu', 'cuda' or 'cuda:1', ...
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str | torch.device):
        raise InvalidTypeError(
            f"device must be a name such as 'cpu' or 'cuda:1', not {type(device).__name__}: {device!r}"
        )
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InvalidArgumentError(
            f"device={device!r} is not a torch device; pass 'cpu', 'cuda' or 'cuda:1', or leave it out"
        ) from None
    if found.type == "cpu":
        return found
    try:
        there = int(torch.get_device_module(found.type).device_count())
    except (RuntimeError, AttributeError):
        there = 0
    if not there:
        raise InvalidArgumentError(
            f"device={str(device)!r} cannot be used: torch {torch.__version__} finds no {found.type} device here; pass "
            "device='cpu', or install a torch that is built for the device, and its driver"
        )
    if (found.index or 0) >= there:
        last = f"{found.type}:{there - 1}"
        raise InvalidArgumentError(f"device={str(device)!r} is not there; the last one here is {last!r}")
    return found


def dtype_of(dtype: object, device: torch.device) -> Any:
    """The torch dtype that is asked for, or "auto": the checkpoint's own. For None it is float32 on a CPU.

    Raises:
        InvalidTypeError: It is no dtype and no name of one.
        InvalidArgumentError: torch has no dtype of this name, or no weights can be loaded in it.

    >>> dtype_of("bfloat16", torch.device("cpu"))
    torch.bfloat16
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if not isinstance(dtype, str | torch.dtype):
        raise InvalidTypeError(
            f"dtype must be a torch dtype or its name, such as 'float32', not {type(dtype).__name__}: {shown(dtype)}"
        )
    if dtype == "auto":
        return dtype
    name = str(dtype).removeprefix("torch.")
    found = getattr(torch, name, None)
    advice = "pass 'float32', 'bfloat16', 'float16', 'float64' or 'auto'"
    if not isinstance(found, torch.dtype):
        raise InvalidArgumentError(f"dtype {name!r} is not a torch dtype; {advice}")
    if not found.is_floating_point:
        raise InvalidArgumentError(
            f"dtype {name!r} is not a floating-point format, which weights need; {advice}. For quantised weights give "
            "quantization_config=, or a GGUF file to engine='llama-cpp'"
        )
    return found
