"""Low-rank adapters of one base model, made, read and written by peft.

Rules
    An adapter is a folder in peft's layout, here with weights in float16. Its configuration names the base by title
    and, as ``revision``, by the sha256 of the base's weights: for a packaged model that of its GGUF file
    (bytelm/packaged/table.py), for a folder that of its safetensors files.
    An adapter goes on a base of that name and sum alone, and with every weight of it used. One that names no sum is
    taken by name.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from bytelm.engines.transformers.loading import load_model
from bytelm.errors import BytelmError, ModelError
from bytelm.packaged import PACKAGED, is_packaged, packaged_directory
from bytelm.tokenizer.disk_cache import writing
from evals.fim_finetune.settings import Shape

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

    @property
    def told(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"name": self.name, "sha256": self.sha256}


def load_base(name: str) -> Base:
    """Load a packaged model, or one in a folder, on the CPU in float32.

    Raises:
        ModelError: It could not be loaded, or is no folder.
    """
    folder = packaged_directory(name) if is_packaged(name) else Path(name)
    if not folder.is_dir():
        raise ModelError(f"there is no folder {name!r}; give a model folder, or one of {', '.join(PACKAGED)}")
    model, tokenizer = load_model(folder, device="cpu", dtype="float32")
    if is_packaged(name):
        title, sha256 = PACKAGED[name].title, PACKAGED[name].source_sha256
    elif sums := [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]:
        whole = hashlib.sha256(b"".join(map(bytes.fromhex, sums))).hexdigest()
        title, sha256 = folder.resolve().name, sums[0] if len(sums) == 1 else whole
    else:
        raise ModelError(f"{name!r} holds no *.safetensors; an adapter identifies its base by their sha256")
    model.name_or_path = title  # peft writes this into the configuration, and a path is of this machine alone
    return Base(title, sha256, model, tokenizer)


def trainable(base: Base, start: Path | None, shape: Shape, *, seed: int, max_mib: float) -> Any:
    """The base with an adapter to train: that of a folder, or a new one on all linear layers but the last.

    A new one changes nothing yet.

    Raises:
        AdapterError: The folder holds none for this base, or it would be too large on disk.
    """
    torch.manual_seed(seed)
    if start is not None:
        model = load_adapter(base, start, dropout=shape.dropout)
    else:
        sizes: Any = {"r": shape.rank, "lora_alpha": shape.alpha, "lora_dropout": shape.dropout}
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", revision=base.revision, **sizes)
        with _quiet():
            model = peft.get_peft_model(base.model, config)
    size = 2 * model.get_nb_trainable_parameters()[0] / 2**20
    if size >= max_mib:
        raise AdapterError(f"the adapter would take {size:.1f} MiB, and --max-mib is {max_mib:g}; lower --rank")
    return model


def load_adapter(base: Base, folder: Path, *, dropout: float | None = None) -> Any:
    """The base with an adapter from a folder; to be trained on if a dropout is given.

    Raises:
        AdapterError: The folder holds no adapter, a damaged one, or one of another base.
    """
    told = read_config(folder)
    name, revision = told.get("base_model_name_or_path"), told.get("revision")
    if name != base.name:
        raise AdapterError(f"the adapter in {str(folder)!r} is of {name!r}, not of {base.name!r}; give it with --model")
    if revision not in (None, base.revision):
        raise AdapterError(
            f"the adapter in {str(folder)!r} is of other weights of {name!r}: {revision}, and these are {base.revision}"
        )
    try:
        weights = load((folder / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"the weights in {str(folder)!r} are missing or damaged: {error}; fetch them again"
        ) from error
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        config.revision, config.lora_dropout = base.revision, dropout or 0.0
        with _quiet():
            model = peft.PeftModel.from_pretrained(base.model, folder, config=config, is_trainable=dropout is not None)
        wrong = sorted(weights.keys() ^ peft.get_peft_model_state_dict(model, save_embedding_layers=False).keys())
    except Exception as error:  # peft's own errors
        raise AdapterError(
            f"the adapter in {str(folder)!r} does not fit {base.name}: {str(error).strip()[:300]}"
        ) from error
    if wrong:
        raise AdapterError(f"{len(wrong)} weights in {str(folder)!r} do not fit {base.name}, such as {wrong[0]}")
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
        raise AdapterError(
            f"{str(folder)!r} holds no adapter ({CONFIG}): {error}; to continue an unfinished run, give the "
            "same folder as --resume and --out"
        ) from error
    if kind != "LORA":
        raise AdapterError(
            f"the adapter in {str(folder)!r} is {kind!r}, and only low-rank adapters (LORA) are supported"
        )
    return config


def write_adapter(found: Path, folder: Path) -> dict[str, Any]:
    """Write an adapter of training as one to keep, in float16; each file appears whole. Says what was written."""
    config = json.loads((found / CONFIG).read_bytes())
    config["target_modules"].sort()  # peft keeps them as a set, in any order
    half = {key: value.half() for key, value in load_file(found / WEIGHTS).items()}
    data = save(half, metadata={"format": "pt"})  # more than one entry would come in any order
    for name, content in ((CONFIG, json.dumps(config, indent=1).encode()), (WEIGHTS, data)):
        with writing(folder / name) as file:
            file.write(content)
    return {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")  # peft asks transformers by names that are going, which says so
