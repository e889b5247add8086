"""The manifest of a training: what an adapter was made of, in full, so that it can be made again.

Rules
    It names the base and its sha256; where training began; the format; every setting; each package with version,
    licence, number of functions and sha256 over them; what was left out and why. That is written when a run begins,
    and a run that goes on must agree with it. When it ends come steps, tokens and time; held-out losses before and of
    the adapter that was kept; the sha256 of that; the machine and the versions.
    To repeat is to train again, with the functions of these very packages, up to the same step. On the same CPU
    with as many threads the adapter is the same to the last bit; elsewhere its held-out losses say how near it came.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bytelm.errors import BytelmError, InvalidArgumentError
from bytelm.tokenizer.disk_cache import writing
from evals.report.records import shortened


class ManifestError(BytelmError):
    """A manifest is missing or damaged, or what it names is not here."""


def read_manifest(path: Path, *, ended: bool) -> dict[str, Any]:
    """A manifest that this command wrote, of a run that has ended or of any.

    Raises:
        ManifestError: It is missing, or is none.
    """
    needed = ["settings", "corpus", "base", "start", *(("steps_done", "adapter", "held_out") if ended else ())]
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in needed if key not in manifest]
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(f"{str(path)!r} is not the manifest of a training: {error}") from error
    if missing:
        raise ManifestError(f"{str(path)!r} is not the manifest of a finished training: it lacks {', '.join(missing)}")
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())


def check_beginning(then: Mapping[str, Any], base: Mapping[str, str], start: str | None) -> None:
    """Refuse to go on from, or to repeat, a training of another base or with another beginning.

    Raises:
        InvalidArgumentError: It is.
    """
    if then["base"] != base:
        raise InvalidArgumentError(f"the run is of the base {then['base']}, and --model is {base}")
    if then["start"] != start:
        begins = [
            "a new adapter" if sha256 is None else f"the adapter of sha256 {sha256}"
            for sha256 in (then["start"], start)
        ]
        raise InvalidArgumentError(
            f"the run of the manifest started from {begins[0]}, and this run starts from {begins[1]}; name the adapter to "
            "start from with --resume FOLDER"
        )


def check_corpus(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from, or to repeat, a training with other functions, and say which package is another.

    Raises:
        ManifestError: A package is missing or of another release, or the benchmark is another.
    """
    if then["deduplicated_against"] != now["deduplicated_against"]:
        raise ManifestError(
            f"the run was deduplicated against {then['deduplicated_against']}, and this one is against "
            f"{now['deduplicated_against']}: give the same files with --benchmark"
        )
    here = {row["package"]: row for row in now["packages"]}
    for row in then["packages"]:
        found = here.get(row["package"])
        if found is None or found["sha256"] != row["sha256"]:
            there = "it is not here" if found is None else f"here is {found['version']} ({found['sha256'][:12]})"
            raise ManifestError(
                f"the manifest names {row['package']} {row['version']} with functions of sha256 {row['sha256'][:12]}, and "
                f"{there}: install that release"
            )
    if any(then[side]["sha256"] != now[side]["sha256"] for side in ("train", "held_out")):
        raise ManifestError("the functions of the manifest's packages are split in another way; is the manifest whole?")


def compared(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """How near a repeated training came to the one of a manifest."""
    losses = then["held_out"]["best"]
    return {
        "sha256": then["adapter"]["sha256"],
        "identical": then["adapter"]["sha256"] == now["adapter"]["sha256"],
        "held_out_difference": {mode: now["held_out"]["best"][mode] - loss for mode, loss in losses.items()},
    }


def surroundings(device: str, given: Sequence[str]) -> dict[str, Any]:
    """The command with its options, paths by their last name; the machine; the versions."""
    import torch

    shown = (shortened(word, lambda value: os.sep in value) for word in given)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    packages = ("torch", "transformers", "tokenizers", "peft", "accelerate")
    return {
        "command": " ".join(["python -m evals.fim_finetune", *map(shlex.quote, shown)]),
        "machine": {"device": device, "processor": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
