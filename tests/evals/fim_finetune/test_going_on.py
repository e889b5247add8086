"""Runs that are interrupted, killed or repeated give what a run gives that was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from bytelm.errors import BytelmError
from evals.fim_finetune import __main__ as fim_finetune
from evals.fim_finetune.__main__ import CheckpointError
from evals.fim_finetune.adapter import WEIGHTS
from evals.fim_finetune.manifest import ManifestError
from tests.evals.fim_finetune.toy import (
    assert_same,
    control_c,
    failure,
    log_of,
    run,
    words,
)


def test_a_run_goes_on_exactly_where_it_was_interrupted(
    world: Path,
    whole: Path,
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted in step 7, by dropout and all: the same log, the same weights, the same held-out losses."""
    out = tmp_path / "out"
    in_step(7, control_c)
    assert run(world, "--out", str(out)) == 130
    assert f"interrupted after step 7; continue with --resume {out}" in capsys.readouterr().err
    assert not (out / WEIGHTS).exists()
    monkeypatch.undo()
    assert run(world, "--resume", str(out / "checkpoint-7"), "--out", str(out), quick=False) == 0

    assert_same(out, whole)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, whole)]
    differ = {key for key in manifests[0] if manifests[0][key] != manifests[1][key]}
    assert differ <= {"command", "seconds"}


@pytest.mark.parametrize("dies", ["in a step", "in a checkpoint"])
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """Whatever it was doing when it died: --resume with the run's own folder takes the last checkpoint that is whole."""
    from transformers import TrainerState

    out = tmp_path / "out"
    owner, name, number = (torch.optim.AdamW, "step", 8) if dies == "in a step" else (TrainerState, "save_to_json", 3)
    numbers, original = count(1), getattr(owner, name)

    def deadly(*args: Any, **options: Any) -> Any:
        if next(numbers) == number:
            raise SystemExit(137)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, deadly)
    with pytest.raises(SystemExit):
        run(world, "--out", str(out))
    monkeypatch.undo()
    assert (out / "checkpoint-6").exists()  # in the second case half of one
    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_full_disk_loses_nothing(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the run, and the checkpoint of before is there to go on from."""
    out, numbers, original = tmp_path / "out", count(1), torch.save

    def save(content: Any, path: Any) -> None:
        if next(numbers) >= 4:  # Trainer writes three such files into a checkpoint
            raise OSError(28, "No space left on device")
        original(content, path)

    monkeypatch.setattr(torch, "save", save)
    assert run(world, "--out", str(out)) == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_run_may_end_by_the_clock_and_go_on(world: Path, whole: Path, tmp_path: Path) -> None:
    """Out of minutes, a run writes its adapter as it is; what it goes on from is not changed by that."""
    out = tmp_path / "out"
    assert run(world, "--out", str(out), "--minutes", "0") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["ended"], manifest["steps_done"]) == ("minutes", 1)
    assert (out / WEIGHTS).exists()

    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_run_that_has_ended_goes_on_to_the_same(world: Path, whole: Path, tmp_path: Path) -> None:
    """There is nothing left to train, and the adapter is written again."""
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / WEIGHTS).unlink()

    assert run(world, "--resume", str(tmp_path / "out"), "--out", str(tmp_path / "out"), quick=False) == 0

    assert_same(tmp_path / "out", whole)


def test_a_run_is_repeated_from_its_manifest(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest alone says enough to make the same adapter again, bit by bit."""
    manifest = str(whole / "manifest.json")
    assert run(world, "--repeat", manifest, "--out", str(tmp_path / "out"), "--json", quick=False) == 0
    result = json.loads(capsys.readouterr().out)

    assert result["repeated"]["identical"]
    assert result["repeated"]["held_out_difference"] == {"psm": 0.0, "spm": 0.0}
    assert log_of(tmp_path / "out") == log_of(whole)


def test_a_changed_package_is_not_the_manifests(world: Path, whole: Path, tmp_path: Path) -> None:
    """A package with other functions than the manifest says is named."""
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["corpus"]["packages"][1]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    error = failure(world, "--repeat", str(tmp_path / "manifest.json"), "--out", str(tmp_path / "o"), quick=False)

    assert isinstance(error, ManifestError)
    assert "beta 1.0" in str(error)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_damaged_checkpoints_are_refused(world: Path, whole: Path, tmp_path: Path, name: str) -> None:
    """A file that is cut in half is an error that names the checkpoint."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    file = out / "checkpoint-10" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    command = words(world, "--resume", str(out / "checkpoint-10"), "--out", str(out), quick=False)
    with pytest.raises(BytelmError) as raised:
        fim_finetune.run(command)
    error = raised.value

    assert isinstance(error, CheckpointError)
    assert "checkpoint-10" in str(error)


def test_no_checkpoint_is_said(world: Path, whole: Path, tmp_path: Path) -> None:
    """One that is missing, one that was being written, and a folder that has none."""
    (tmp_path / "checkpoint-5").mkdir()

    for resume in (tmp_path / "checkpoint-3", tmp_path / "checkpoint-5", tmp_path):
        error = failure(world, "--resume", str(resume), "--out", str(tmp_path), quick=False)
        assert isinstance(error, CheckpointError)
        assert str(resume) in str(error)


def test_a_checkpoint_keeps_to_its_run(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options, packages, base and folder of a checkpoint cannot be changed on the way."""
    checkpoint = ("--resume", str(whole / "checkpoint-12"), "--out", str(whole))

    assert "--steps of the run to continue is 12" in str(failure(world, *checkpoint, "--steps", "13", quick=False))
    assert "was deduplicated against" in str(failure(world, *checkpoint, quick=False))
    shutil.copytree(world / "model", tmp_path / "renamed")
    renamed = words(world, *checkpoint, "--model", str(tmp_path / "renamed"), quick=False)
    assert fim_finetune.main(renamed) == 2
    assert "the run is of the base" in capsys.readouterr().err
    elsewhere = ("--resume", str(whole / "checkpoint-12"), "--out", str(tmp_path))
    assert f"only in its own folder: give --out {whole}" in str(failure(world, *elsewhere, quick=False))


def test_a_second_interrupt_ends_at_once(
    world: Path,
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C twice does not wait for the step; the checkpoint of before is still there to go on from."""
    in_step(5, control_c)
    in_step(5, control_c)  # one after the other, in the same step

    assert run(world, "--out", str(tmp_path / "out")) == 130
    assert "in the middle of a step" in capsys.readouterr().err.splitlines()[-1]
    assert json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())["global_step"] == 3
