"""Training, as a user sees it: the log, the adapter, the manifest, the comparison."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from evals.fim_finetune import training
from evals.fim_finetune.adapter import WEIGHTS, load_base
from evals.fim_finetune.corpus import build
from evals.fim_finetune.samples import MODES, Encoder, held_out_samples
from evals.fim_finetune.settings import Choice, Holes
from evals.fim_finetune.training import held_out_loss
from tests.evals.fim_finetune.toy import (
    QUICK,
    failure,
    log_of,
    run,
)


def test_the_loss_falls_in_both_modes(whole: Path) -> None:
    """A dozen steps teach a toy model enough to show, in the log and on functions that it never saw."""
    log = log_of(whole)
    held_out = [record for record in log if "eval_loss" in record]

    assert [record["step"] for record in log if "loss" in record] == [*range(1, 13)]
    assert [record["step"] for record in held_out] == [0, 5, 10, 12]
    assert held_out[-1]["eval_psm_loss"] < held_out[0]["eval_psm_loss"] - 1
    assert held_out[-1]["eval_spm_loss"] < held_out[0]["eval_spm_loss"] - 1


def test_the_learning_rate_rises_and_falls(whole: Path) -> None:
    """Linear from 0 over the warm-up, then half a cosine down towards 0."""
    rates = [record["learning_rate"] / 0.02 for record in log_of(whole) if "loss" in record]

    assert rates[:3] == pytest.approx([0, 1 / 3, 2 / 3])  # a quarter of twelve steps
    assert rates[3:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 9) for step in range(9)])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT asks by a name that is going
def test_the_adapter_is_in_pefts_layout(world: Path, whole: Path) -> None:
    """PEFT itself loads what was written: float16, named after its base, with the losses that the manifest says."""
    from peft import PeftModel
    from safetensors.torch import load_file

    manifest = json.loads((whole / "manifest.json").read_text())
    base = load_base(str(world / "model"))
    config = json.loads((whole / "adapter_config.json").read_text())
    weights = load_file(whole / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(base.model, str(whole))
    corpus = build(
        Choice(packages=["alpha"], held_out_packages=["gamma"], held_out_functions=7), None, folders=[world / "site"]
    )
    samples = held_out_samples(corpus.held_out, Encoder(base.tokenizer), Holes(), seed=0)
    actual = held_out_loss(loaded, samples, dtype="float32", batch_tokens=700)

    assert {str(value.dtype) for value in weights.values()} == {"torch.float16"}
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["inference_mode"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("model", f"sha256:{base.sha256}")
    assert manifest["base"] == {"name": "model", "sha256": base.sha256}
    assert actual == pytest.approx(manifest["held_out"]["best"], abs=2e-3)  # float16 against float32


def test_the_manifest_names_what_was_trained_on(whole: Path) -> None:
    """Packages with version, licence, number of functions and sum; seeds and options; benchmark; the adapter's sum."""
    import hashlib

    manifest = json.loads((whole / "manifest.json").read_text())
    packages = {row["package"]: row for row in manifest["corpus"]["packages"]}

    assert {name: (row["version"], row["licence"], row["functions"]) for name, row in packages.items()} == {
        "alpha": ("1.0", "MIT", 96),
        "beta": ("1.0", "MIT", 95),  # one is named as in the benchmark
        "gamma": ("1.0", "MIT", 96),
    }
    assert len({row["sha256"] for row in packages.values()}) == 3
    assert [*manifest["corpus"]["deduplicated_against"]] == ["bench.jsonl.gz"]
    assert manifest["corpus"]["split"] == "held out by package: gamma"
    assert (manifest["settings"]["recipe"]["seed"], manifest["settings"]["recipe"]["steps"]) == (0, 12)
    assert (manifest["ended"], manifest["steps_done"]) == ("steps", 12)
    sha256 = hashlib.sha256((whole / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert manifest["adapter"]["sha256"] == sha256
    assert str(whole.parent) not in json.dumps(manifest)


def test_an_adapter_can_be_trained_further(world: Path, whole: Path, tmp_path: Path) -> None:
    """A new schedule that begins with an adapter begins with its losses, keeps its rank, and is never worse."""
    before = json.loads((whole / "manifest.json").read_text())
    further = [word for word in QUICK if word not in ("--rank", "4")]
    out = tmp_path / "out"
    begin = ("--out", str(out), "--resume", str(whole), "--learning-rate", "0.5", "--seed", "1", "--patience", "1")
    assert run(world, *further, *begin, quick=False) == 0
    manifest = json.loads((out / "manifest.json").read_text())

    assert manifest["start"] == before["adapter"]["sha256"]
    assert manifest["settings"]["shape"]["rank"] == 4
    assert (manifest["ended"], manifest["steps_done"]) == ("early", 5)
    # At so high a rate every step is a loss: what is kept is what it began with, which was best.
    assert manifest["held_out"]["best"] == manifest["held_out"]["before"]
    assert manifest["adapter"]["sha256"] == before["adapter"]["sha256"]


def test_the_best_adapter_of_a_run_is_kept(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it neither the first nor the last, and measured where no checkpoint is due."""
    from safetensors.torch import load_file

    out, losses = tmp_path / "out", iter([9.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(training, "held_out_loss", lambda *_, **__: dict.fromkeys(MODES, next(losses)))
    often = ("--evaluate-every", "2", "--checkpoint-every", "50", "--patience", "2")
    assert run(world, "--out", str(out), *often) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    kept, then, last = (load_file(folder / WEIGHTS) for folder in (out, out / "checkpoint-2", out / "checkpoint-6"))

    assert (manifest["ended"], manifest["steps_done"]) == ("early", 6)
    assert manifest["held_out"] == {"before": {"psm": 9, "spm": 9}, "best": {"psm": 1, "spm": 1}, "best_step": 2}
    assert all(torch.equal(kept[name], then[name].half()) for name in kept)
    assert not all(torch.equal(kept[name], last[name].half()) for name in kept)


def test_adapters_are_compared_by_one_command(world: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--evaluate` gives what training measured, and the base's own losses."""
    manifest = json.loads((whole / "manifest.json").read_text())["held_out"]

    assert run(world, "--evaluate", "base", str(whole), "--json") == 0
    base, taught = (row["held_out"] for row in json.loads(capsys.readouterr().out)["adapters"])
    assert run(world, "--evaluate", "base", str(whole)) == 0

    assert base == pytest.approx(manifest["before"], rel=1e-5)
    assert taught == pytest.approx(manifest["best"], abs=2e-3)  # float16 against float32
    assert f"{taught['psm']:.4f}" in capsys.readouterr().out


def test_a_diverging_run_ends(world: Path, tmp_path: Path) -> None:
    """A gradient that is no number ends training before a checkpoint has it."""
    error = failure(world, "--out", str(tmp_path / "out"), "--learning-rate", "1e12")

    assert "a lower --learning-rate" in str(error)
    assert not (tmp_path / "out" / WEIGHTS).exists()
