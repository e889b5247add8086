"""From a base model's folder and a low-rank adapter to a model folder of its own.

Each adapted matrix W becomes W + (alpha / r) · B · A, in float32; the merged model costs what its base costs, and needs
no other library. Some of the base's special tokens get the names by which the adapter's use of them is known. All
else is the base's.

Does not
    Merge what peft has beside plain low-rank sums (DoRA, other scalings, ranks by layer): it refuses them.

Source
    Hu et al., arXiv:2106.09685; peft's layout of the files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytelm.errors import DownloadError, ModelError
from bytelm.packaged.conversion import saving
from bytelm.packaged.table import PackagedAdapter

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of peft under which the matrix is another one than the sum above.
_OTHER_SUMS = ("use_dora", "use_rslora", "fan_in_fan_out", "alpha_pattern", "rank_pattern", "modules_to_save")


def check_adapter(adapter: PackagedAdapter) -> None:
    """See that an adapter's files are the expected ones.

    Raises:
        DownloadError: A file is missing, or another than expected.
    """
    for name, expected in adapter.sha256.items():
        try:
            found = hashlib.sha256((adapter.folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise DownloadError(f"cannot read the adapter of {adapter.title}: {error}; reinstall bytelm") from None
        if found != expected:
            raise DownloadError(
                f"{adapter.folder / name}, of the adapter of {adapter.title}, has sha256 {found}, where {expected} is "
                "expected; reinstall bytelm"
            )


def merge(base: Path, folder: Path, adapter: PackagedAdapter) -> None:
    """Write the model that a base and an adapter make together as a model folder.

    Args:
        base: The base's folder, with its ``manifest.json``.
        folder: Where the model is written.
        adapter: What is merged, and what it has to be merged with.

    Raises:
        ModelError: The adapter was made for another base, or in a way that is not known here.
        OSError: A folder cannot be read or written.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter.folder / _CONFIG).read_bytes())
    manifest = json.loads((base / "manifest.json").read_bytes())
    made_for, found = (
        (config["base_model_name_or_path"], adapter.base_sha256),
        (manifest["model"], manifest["source_sha256"]),
    )
    if made_for != found:
        raise ModelError(
            f"the adapter of {adapter.title} was made for {made_for[0]} with sha256 {made_for[1]}, and the model in "
            f"{base} is {found[0]} with sha256 {found[1]}: its weights are not the ones that the adapter was made for"
        )
    if others := [name for name in _OTHER_SUMS if config.get(name)]:
        raise ModelError(f"the adapter of {adapter.title} sets {', '.join(others)}, which is not merged here")
    weights = load_file(base / "model.safetensors")
    add_low_rank(weights, load_file(adapter.folder / _WEIGHTS), scale=config["lora_alpha"] / config["r"])
    with safe_open(base / "model.safetensors", "pt") as original:
        notes = original.metadata()
    for path in sorted(base.iterdir()):
        if path.name not in {"manifest.json", "model.safetensors", "tokenizer.json"}:
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(adapter.folder / "NOTICE.md", folder / "NOTICE.md")
    tokenizer = renamed(json.loads((base / "tokenizer.json").read_bytes()), adapter.names)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1), encoding="utf-8")
    with saving(folder):
        save_file(weights, folder / "model.safetensors", metadata=notes)


def add_low_rank(weights: dict[str, Tensor], adapter: Mapping[str, Tensor], *, scale: float) -> None:
    """Add ``scale · B · A`` to each matrix that an adapter has a B and an A for.

    Args:
        weights: The base's, by name; changed.
        adapter: The adapter's, under peft's names.
        scale: alpha / r.

    Raises:
        ModelError: The adapter has something for a matrix that the base lacks, or a part of a pair.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        matrix, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        parts.setdefault(f"{matrix}.weight", {})[part] = tensor.float()
    for name, pair in parts.items():
        if name not in weights or pair.keys() != {"A.weight", "B.weight"}:
            raise ModelError(f"the adapter's {sorted(pair)} for {name} cannot be added: the base has no such matrix")
        weights[name] += scale * (pair["B.weight"] @ pair["A.weight"])


def renamed(tokenizer: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer.json in which some special tokens bear another name.

    Raises:
        ModelError: It lacks one of them.
    """
    vocab = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    if missing := sorted(names.keys() - (special & vocab.keys())):
        raise ModelError(f"the base's tokenizer lacks the special tokens {missing}, which the adapter uses")
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in tokenizer["added_tokens"]]
    model = {**tokenizer["model"], "vocab": {names.get(token, token): id_ for token, id_ in vocab.items()}}
    return {**tokenizer, "added_tokens": added, "model": model}
