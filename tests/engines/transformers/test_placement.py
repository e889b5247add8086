"""Devices and number formats that cannot be: what is wrong, and what to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bytelm import ByteLM
from bytelm.engines.transformers.placement import device_of, dtype_of
from bytelm.errors import BytelmError, InvalidArgumentError, InvalidTypeError

CPU = torch.device("cpu")


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing but a CPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_devices")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(device: str) -> None:
    """A GPU where torch finds none is refused with the reason and what to pass, before a file is looked for."""
    with pytest.raises(InvalidArgumentError, match=r"device='cuda.*torch \S+ finds no cuda device.*device='cpu'"):
        ByteLM.from_pretrained("/no/such/folder", device=device)


def test_one_of_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a device is looked at too."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert str(device_of("cuda:1")) == "cuda:1"
    with pytest.raises(InvalidArgumentError, match="'cuda:2' is not there; the last one here is 'cuda:1'"):
        device_of("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", ""])
def test_a_device_that_is_none(device: str) -> None:
    """A word that names no device is refused with words that do."""
    with pytest.raises(InvalidArgumentError, match=f"device='{device}'.*pass.*'cpu'"):
        device_of(device)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("int7", "'int7' is no.*pass 'float32'"),  # some releases of torch have it
        ("fp16", "'fp16' is not a torch dtype; pass 'float32'"),
        ("nn", "'nn' is not a torch dtype"),
        ("int8", "'int8' is not a floating-point format.*quantization_config="),
        (torch.int64, "'int64' is not a floating-point format"),
    ],
    ids=str,
)
def test_a_dtype_that_holds_no_weights(dtype: Any, words: str) -> None:
    """What is no floating-point format of torch's is refused with those that are, before a file is looked for."""
    with pytest.raises(InvalidArgumentError, match=words):
        ByteLM.from_pretrained("/no/such/folder", dtype=dtype)


def test_what_is_neither_device_nor_dtype() -> None:
    """A value of another type is refused with the type."""
    with pytest.raises(InvalidTypeError, match=r"device must be a name such as 'cpu' or 'cuda:1', not float: 7\.0"):
        device_of(7.0)
    with pytest.raises(
        InvalidTypeError, match=r"dtype must be a torch dtype or its name, such as 'float32', not int: 16"
    ):
        dtype_of(16, CPU)


@pytest.mark.usefixtures("no_devices")
def test_what_is_taken() -> None:
    """Names and torch's own objects; nothing means float32 on a CPU."""
    devices = [device_of(None), device_of("cpu"), device_of(CPU)]
    dtypes = [dtype_of(given, CPU) for given in (None, "auto", "bfloat16", torch.float16, "torch.float64")]

    assert devices == [CPU] * 3
    assert dtypes == [torch.float32, "auto", torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.usefixtures("no_devices")
@pytest.mark.parametrize("options", [["--device", "cuda"], ["--dtype", "int7"]], ids=str)
def test_the_command_line_says_so_in_one_line(options: list[str], tmp_path: Path, capfd: Any) -> None:
    """A command refuses them as the library does: one line, and no traceback."""
    from bytelm.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["next", "-m", str(tmp_path), *options, "The"])

    said = capfd.readouterr().err
    assert ended.value.code == 1
    assert options[1] in said
    assert "Traceback" not in said
    assert issubclass(InvalidArgumentError, BytelmError)
