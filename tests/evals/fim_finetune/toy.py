"""The world of these tests, at toy size: three made-up packages, a command that is quick, and what it leaves."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from bytelm.errors import BytelmError
from evals.fim_finetune import __main__ as fim_finetune
from evals.fim_finetune.adapter import WEIGHTS, file_sha256

SENTINELS = ("<gh_stars>", "<empty_output>", "<issue_closed>")
VERBS = ("add", "drop", "find", "give", "hide", "join", "keep", "lift", "make", "note", "open", "pack")
NOUNS = ("apple", "bread", "chair", "drum", "eagle", "fork", "glass", "horse")


def module(prefix: str) -> str:
    """A file of functions that are much alike, so that a toy model can learn what stands in a hole."""
    return "\n".join(
        f"def {prefix}_{verb}_{noun}(items):\n"
        f"    found = [item for item in items if item == '{noun}']\n"
        f"    for item in found:\n        {verb}(item, '{noun}')\n    return [] if found is None else found\n"
        for verb in VERBS
        for noun in NOUNS
    )


def install(folder: Path, name: str, *, licence: str = "License-Expression: MIT", files: dict[str, str]) -> None:
    """Write a package as pip leaves it."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}\n")
    (about / "RECORD").write_text("".join(f"{name}/{path},,\n" for path in files))
    for path, text in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)


def words(world: Path, *arguments: str, quick: bool = True) -> list[str]:
    """The command's arguments on the made-up packages."""
    where = ("--model", str(world / "model"), "--site-packages", str(world / "site"), "--device", "cpu")
    what = ("--benchmark", str(world / "bench.jsonl.gz")) if "--no-dedup" not in arguments else ()
    return [*where, *what, *(QUICK if quick else ()), *arguments]


def run(world: Path, *arguments: str, quick: bool = True) -> int:
    """The command, as a user calls it."""
    return fim_finetune.main(words(world, *arguments, quick=quick))


QUICK = (
    *("--packages", "alpha", "beta", "--held-out-packages", "gamma", "--held-out-functions", "7", "--dtype", "float32"),
    *("--steps", "12", "--evaluate-every", "5", "--checkpoint-every", "3", "--batch-tokens", "700", "--rank", "4"),
    *("--dropout", "0.1", "--learning-rate", "0.02", "--warmup", "0.25", "--first-weight", "2"),
)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log of steps and held-out losses, without what a clock says."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    records = [record for record in history if "loss" in record or "eval_loss" in record]
    return [{key: value for key, value in record.items() if not key.startswith("train_")} for record in records]


def control_c() -> None:
    signal.raise_signal(signal.SIGINT)


def assert_same(out: Path, whole: Path) -> None:
    """The same log and the same weights, to the last bit."""
    assert log_of(out) == log_of(whole)
    assert file_sha256(out / WEIGHTS) == file_sha256(whole / WEIGHTS)


def failure(world: Path, *arguments: str, quick: bool = True) -> BytelmError:
    """The error that the command would print."""
    arguments = arguments if "--repeat" in arguments else ("--no-dedup", *arguments)
    with pytest.raises(BytelmError) as raised:
        fim_finetune.run(words(world, *arguments, quick=quick))
    return raised.value
