"""Low-rank adapters of one base model, as PEFT keeps them: read, made, and written whole or not at all.

Rules
    An adapter is a folder in PEFT's own layout: ``adapter_config.json`` and ``adapter_model.safetensors``, here with
    weights in float16. Its base is named by title and, as ``revision``, by the sha256 of the base's weights: for a
    packaged model that of its GGUF file (bytelm/packaged/table.py), for a folder that of its safetensors files.
    An adapter goes on a base of that name and sum alone, and with every weight of it used. One that names no sum is
    taken by name.
    A file is written beside its place, flushed, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bytelm.engines.transformers.loading import load_model
from bytelm.errors import BytelmError, InvalidArgumentError, MissingDependencyError, ModelError
from bytelm.packaged import PACKAGED, is_packaged, packaged_directory

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


class AdapterError(BytelmError):
    """An adapter is missing or damaged, of another base, or too large."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model, loaded.

    Attributes:
        name: Its title; that of a folder is the folder's name.
        sha256: Of its weights.
        model: Of transformers, in float32.
        tokenizer: Its tokenizer.
    """

    name: str
    sha256: str
    model: Any
    tokenizer: Any

    @property
    def revision(self) -> str:
        """What an adapter's configuration says of the weights."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Shape:
    """How large an adapter is.

    Attributes:
        rank: Of each pair of matrices.
        alpha: The update is scaled by alpha / rank.
        dropout: Of the adapter's input, in training.

    Raises:
        InvalidArgumentError: A value that cannot be.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise InvalidArgumentError(
                "--rank and --alpha are at least 1, --dropout is 0 or more and below 1; got "
                f"{self.rank}, {self.alpha}, {self.dropout}"
            )


def load_base(name: str) -> Base:
    """Load a packaged model, or one in a folder, on the CPU in float32.

    Raises:
        ModelError: It could not be loaded, or is no folder.
    """
    if is_packaged(name):
        model, tokenizer = load_model(packaged_directory(name), device="cpu", dtype="float32")
        return _named(PACKAGED[name].title, PACKAGED[name].source_sha256, model, tokenizer)
    folder = Path(name)
    if not folder.is_dir():
        raise ModelError(f"there is no folder {name!r}; give a model folder, or one of {', '.join(PACKAGED)}")
    model, tokenizer = load_model(folder, device="cpu", dtype="float32")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{name!r} holds no *.safetensors, by whose sha256 an adapter knows its base")
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    sha256 = file_sha256(files[0]) if len(files) == 1 else whole.hexdigest()
    return _named(folder.resolve().name, sha256, model, tokenizer)


def _named(name: str, sha256: str, model: Any, tokenizer: Any) -> Base:
    model.name_or_path = name  # PEFT writes this into the configuration, and a path is of this machine alone
    return Base(name, sha256, model, tokenizer)


def fresh_adapter(base: Base, shape: Shape, *, seed: int) -> Any:
    """The base with a new adapter on all its linear layers but the last, which changes nothing yet."""
    peft = _peft()
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_alpha=shape.alpha,
        lora_dropout=shape.dropout,
        target_modules="all-linear",
        base_model_name_or_path=base.name,
    )
    return _wrapped(base.model, config)


def load_adapter(base: Base, folder: Path, *, trainable: bool = False, dropout: float | None = None) -> Any:
    """The base with an adapter from a folder.

    Args:
        base: What the adapter must be of.
        folder: In PEFT's layout.
        trainable: Whether it is to be trained on.
        dropout: In place of the one that it was made with.

    Raises:
        AdapterError: The folder holds no adapter, a damaged one, or one of another base.
    """
    peft = _peft()
    config = read_config(folder)
    check_base(config, base, folder)
    settings = peft.LoraConfig.from_pretrained(str(folder))
    settings.inference_mode = not trainable
    if dropout is not None:
        settings.lora_dropout = dropout
    try:
        weights = _read_weights(folder / WEIGHTS)
        model = _wrapped(base.model, settings)
        put(model, weights)
    except AdapterError:
        raise
    except Exception as error:  # PEFT and safetensors have errors of their own
        raise AdapterError(
            f"the adapter in {str(folder)!r} cannot be put on {base.name}: {str(error).strip()[:300]}; fetch it again, "
            "or give the base that it was made for with --model"
        ) from error
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        AdapterError: There is none, or it is of no low-rank adapter.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        hint = (
            "; a run to go on with is its checkpoint.pt, not its folder" if (folder / "checkpoint.pt").exists() else ""
        )
        raise AdapterError(f"{str(folder)!r} holds no adapter ({CONFIG}): {error}{hint}") from error
    if kind != "LORA":
        raise AdapterError(f"the adapter in {str(folder)!r} is {kind!r}, and only low-rank ones (LORA) are known here")
    return config


def check_base(config: Mapping[str, Any], base: Base, folder: Path) -> None:
    """Refuse an adapter of another base.

    Raises:
        AdapterError: The name or the sha256 is another.
    """
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if name != base.name:
        raise AdapterError(f"the adapter in {str(folder)!r} is of {name!r}, not of {base.name!r}; give it with --model")
    if revision not in (None, base.revision):
        raise AdapterError(
            f"the adapter in {str(folder)!r} is of other weights of {name!r}: {revision}, and these are {base.revision}"
        )


def put(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Set an adapter's weights, all of them.

    Raises:
        AdapterError: Some are missing, or have no place.
    """
    place = taken(model)
    wrong = sorted(place.keys() ^ weights.keys())
    wrong += sorted(key for key in place.keys() & weights.keys() if place[key].shape != weights[key].shape)
    if wrong:
        raise AdapterError(f"{len(wrong)} weights of the adapter do not fit the base model, such as {wrong[0]}")
    _peft().set_peft_model_state_dict(model, {key: value.float() for key, value in weights.items()})


def taken(model: Any) -> dict[str, torch.Tensor]:
    """A copy of an adapter's weights, on the CPU."""
    state = _peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def half(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as they are written."""
    return {key: value.to(torch.float16).contiguous() for key, value in weights.items()}


def write_adapter(folder: Path, model: Any, weights: Mapping[str, torch.Tensor], base: Base) -> dict[str, Any]:
    """Write an adapter in PEFT's layout, and say what was written."""
    from safetensors.torch import save

    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base.name, "revision": base.revision, "inference_mode": True}
    config = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in sorted(config.items())
    }
    write_whole(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    data = save(half(weights), metadata={"format": "pt"})  # more than one entry would come in any order
    write_whole(folder / WEIGHTS, data)
    return {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def check_size(model: Any, limit_mib: float) -> None:
    """Refuse an adapter that would be too large on disk.

    Raises:
        AdapterError: It would.
    """
    size = 2 * sum(value.numel() for value in taken(model).values()) / 2**20
    if size >= limit_mib:
        raise AdapterError(f"the adapter would take {size:.1f} MiB, and --max-mib is {limit_mib:g}; lower --rank")


def write_whole(path: Path, data: bytes | Callable[[Any], None]) -> None:
    """Write a file that is there whole or not at all: bytes, or what a function writes into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrapped(model: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by names that are going
        return _peft().get_peft_model(model, config)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{str(path)!r} is missing or damaged: {error}; fetch it again") from error


def _peft() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what peft imports warns of itself
            import peft
    except ImportError as error:
        raise MissingDependencyError("adapters need peft: python -m pip install peft") from error
    return peft
