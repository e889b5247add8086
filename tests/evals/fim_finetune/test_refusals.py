"""What can be wrong, and what the command says then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bytelm.errors import ModelError
from evals.fim_finetune import __main__ as fim_finetune
from evals.fim_finetune.adapter import AdapterError
from evals.fim_finetune.corpus import Benchmark, CorpusError
from evals.fim_finetune.manifest import ManifestError
from tests.evals.fim_finetune.toy import (
    failure,
    run,
)


def test_the_command_refuses_to_forget_the_benchmark(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without benchmark files nothing is trained, unless that is said; then it is said back."""
    assert fim_finetune.main(["--out", str(world / "never")]) == 2
    assert "--no-dedup" in capsys.readouterr().err
    assert run(world, "--no-dedup", "--evaluate", "base") == 0
    assert "the training data were not deduplicated against a benchmark" in capsys.readouterr().err


def test_errors_are_one_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and says what was wrong."""
    assert run(world, "--evaluate", str(world / "nothing")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_a_run_is_not_written_over(world: Path, whole: Path, tmp_path: Path) -> None:
    """A folder with an adapter or a checkpoint is not begun anew, be it with the weights of another."""
    (tmp_path / "checkpoint-3").mkdir()

    assert f"holds a run already: continue it with --resume {whole}" in str(failure(world, "--out", str(whole)))
    assert "holds a run" in str(failure(world, "--out", str(tmp_path)))
    assert "holds a run" in str(failure(world, "--resume", str(whole), "--out", str(tmp_path)))


def test_adapters_of_another_base_are_refused(world: Path, whole: Path, tmp_path: Path) -> None:
    """By name, by sha256, by shape; and a folder that holds none, or half of one."""

    def told(name: str, **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((whole / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))
        data = (whole / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(data[:-7] if name == "half" else data)
        error = failure(world, "--evaluate", str(folder))
        assert isinstance(error, AdapterError)
        return str(error)

    assert "is of 'gpt2', not of 'model'" in told("named", base_model_name_or_path="gpt2")
    assert "other weights of 'model'" in told("summed", revision="sha256:00")
    assert "does not fit" in told("shaped", r=5)
    assert "'IA3'" in told("kind", peft_type="IA3")
    assert "damaged" in told("half")
    error = failure(world, "--evaluate", str(tmp_path))
    assert isinstance(error, AdapterError)
    assert "holds no adapter" in str(error)


def test_missing_data_is_named(world: Path, tmp_path: Path) -> None:
    """A benchmark that is not there or is none, packages that give nothing, a model that is no folder."""
    with pytest.raises(CorpusError, match="no benchmark file"):
        Benchmark.read([tmp_path / "none.jsonl"])
    for name, content in (("a.jsonl", b"{"), ("b.jsonl", b"[1]"), ("c.gz", b"\x1f\x8bcut"), ("d.jsonl", b'{"a": 1}')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match="holds no benchmark"):
            Benchmark.read([tmp_path / name])
    out = ("--out", str(tmp_path / "out"))
    assert "held out by package: absent" in str(failure(world, *out, "--held-out-packages", "absent"))
    assert "licence: GPL-3.0-only" in str(failure(world, *out, "--packages", "closed"))
    assert isinstance(failure(world, *out, "--model", str(tmp_path / "gone")), ModelError)
    assert "there is no folder" in str(failure(world, *out, "--site-packages", str(tmp_path / "gone")))
    assert isinstance(failure(world, *out, "--repeat", str(tmp_path / "a.jsonl")), ManifestError)


def test_too_large_an_adapter_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    """The size on disk is known beforehand."""
    assert "--max-mib is 0.001" in str(failure(world, "--out", str(tmp_path / "o"), "--max-mib", "0.001"))


@pytest.mark.parametrize(
    "option",
    [
        *("--steps 0", "--learning-rate 0", "--first-weight 0", "--held-out-share 1", "--per-package 0", "--lines 1.1"),
        *("--max-span 0", "--rank 0", "--min-chars 900", "--minutes -1", "--dropout 1", "--warmup nan"),
        "--held-out-share 0.5 --held-out-packages gamma",
    ],
)
def test_settings_that_cannot_be_are_refused(world: Path, tmp_path: Path, option: str) -> None:
    """Each is an error that names the option, before anything is done."""
    error = failure(world, "--out", str(tmp_path / "out"), *option.split(), quick=False)

    assert option.split(maxsplit=1)[0] in str(error).replace("max-chars", "min-chars")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["", "--out A --evaluate B", "--evaluate B --resume A"])
def test_a_command_either_trains_or_measures(world: Path, what: str) -> None:
    """It needs one of the two, and takes no more."""
    assert "give --out FOLDER to train" in str(failure(world, *what.split(), quick=False))


def test_an_unknown_option_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a value that is none of an option's."""
    with pytest.raises(SystemExit):
        run(world, "--out", "never", "--dtype", "float8")
    assert "float8" in capsys.readouterr().err
