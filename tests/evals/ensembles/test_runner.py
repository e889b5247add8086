"""``python -m evals.ensembles`` from end to end on toy models: its file, going on, failures, its tables and its plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.errors import ModelError
from evals.ensembles import __main__ as ensemble
from evals.ensembles import summary as ensemble_summary
from evals.report.records import read_records
from tests.cli.test_eval import CHOICE, WRITE, YAML
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

RUNS = ["a", "b", "a/tokens", "b/tokens", "mixture", "bayes", "product"]
WORDS = ("fox", "dog", "model", "time", "world", "café", "lazy", "brown")


class Failing(TableLM):
    """A table that fails, or is interrupted, when so many calls were made."""

    calls = 10**9
    error: type[BaseException] = ModelError

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise self.error("told to fail")
        return super().next_token_logprobs(sequences)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Failing]:
    """The members a and b."""
    made = {
        "a": Failing(default_tokenizer(), order=2, temperature=2.0, seed=1),
        "b": Failing(byte_bpe_tokenizer(vocab_size=277), order=2, temperature=2.0, seed=2),
    }
    monkeypatch.setattr(ByteLM, "from_pretrained", lambda name, **options: ByteLM(made[Path(name).name]))
    return made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with two toy tasks, in the place of the offline ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ensemble, "TASKS", tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    rows = [json.dumps({"question": f"is the {word} quick", "label": len(word) % 2}) for word in WORDS]
    data.write_text("\n".join(rows) + "\n")
    for kind, body in (("choice", CHOICE), ("write", WRITE)):
        (tmp_path / f"toy_{kind}.yaml").write_text(YAML.format(kind=kind, data=data) + body)
    return tmp_path


MEMBERS = ["--members", "a", "b", "--tasks", "toy_choice:5", "toy_write:2", "--out", "run.jsonl"]


def items_of(path: str) -> dict[tuple[str, str, int], Any]:
    return {
        (line["task"], line["run"], line["item"]): line["figures"]
        for line in read_records(Path(path))[1]
        if line["kind"] == "item"
    }


@pytest.mark.slow
def test_every_run_answers_the_same_items(
    engines: dict[str, Failing], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven runs of two tasks: each item is a line, the figures are those of the lines, pairs are on the same items."""
    assert ensemble.main([*MEMBERS, "--json", "--plot", "plot.png"]) == 0
    summary = json.loads(capsys.readouterr().out)
    items = items_of("run.jsonl")
    asked = {item for task, run, item in items if (task, run) == ("toy_choice", "a")}

    assert {(task, run) for task, run, _ in items} == {(t, r) for t in ("toy_choice", "toy_write") for r in RUNS}
    assert len(asked) == 5
    assert all({i for t, r, i in items if (t, r) == ("toy_choice", run)} == asked for run in RUNS)
    lm = ByteLM(engines["a"])
    rows = [json.loads(line) for line in (here / "data.jsonl").read_text().splitlines()]
    for item in asked:
        scored = [lm.logprob(f" {word}", prefix=f"Q: {rows[item]['question']}\nA:") for word in ("no", "yes")]
        assert items["toy_choice", "a", item]["nats"] == pytest.approx(scored[rows[item]["label"]], abs=1e-9)
        assert items["toy_choice", "a", item]["acc"] == (np.argmax(scored) == rows[item]["label"])
    figures = summary["tasks"]["toy_choice"]["a"]["figures"]
    assert figures["acc"]["mean"] == np.mean([items["toy_choice", "a", item]["acc"] for item in asked])
    assert (here / "plot.png").stat().st_size > 1000
    pairs = {(pair["task"], pair["first"], pair["second"], pair["figure"]): pair for pair in summary["pairs"]}
    pair = pairs["toy_choice", "bayes", "b", "nats"]
    differences = [items["toy_choice", "bayes", i]["nats"] - items["toy_choice", "b", i]["nats"] for i in asked]
    assert pair["difference"]["mean"] == pytest.approx(np.mean(differences))
    assert ("toy_choice", "a", "a/tokens", "acc") in pairs
    assert ensemble.main(["--read", "run.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("choice", "mixture", "McNemar", "Wilcoxon", "evals.ensembles"))
    assert ensemble.main(["--read", "run.jsonl", "--tasks", "toy_write", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == {"toy_write": summary["tasks"]["toy_write"]}
    assert ensemble.main(["--read", "run.jsonl", "--tasks", "toy_write", "toy_chess"]) == 1
    assert "no results of toy_chess: it has toy_choice, toy_write" in capsys.readouterr().err


@pytest.mark.slow
def test_a_member_fails_and_the_run_goes_on(engines: dict[str, Failing], here: Path) -> None:
    """What was done stays, other runs are done, the exit code is 1; --resume does what is missing and no more, and more items."""
    whole = here / "whole.jsonl"
    assert ensemble.main([*MEMBERS[:-1], str(whole)]) == 0
    engines["b"].calls = 6
    assert ensemble.main([*MEMBERS]) == 1
    engines["b"].calls = 10**9
    header, lines = read_records(Path("run.jsonl"))
    failed = {(line["task"], line["run"]) for line in lines if line["kind"] == "failed"}

    assert ("toy_write", "mixture") in failed
    assert ("toy_write", "a") not in failed
    assert "told to fail" in json.dumps(ensemble_summary.of(header, lines)["failed"])
    before = engines["a"].usage.calls
    assert ensemble.main([*MEMBERS, "--resume"]) == 0
    assert engines["a"].usage.calls > before
    for key, figures in items_of(str(whole)).items():
        assert items_of("run.jsonl")[key] == pytest.approx(figures)
    done = engines["a"].usage.calls
    assert ensemble.main([*MEMBERS, "--resume"]) == 0
    assert engines["a"].usage.calls <= done + 1  # what tells the engine from another
    assert ensemble.main([*MEMBERS[:4], "toy_choice:7", *MEMBERS[5:], "--resume"]) == 0
    assert len(items_of("run.jsonl")) == len(RUNS) * (7 + 2)


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_done(
    engines: dict[str, Failing], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C: exit code 130, and how to go on."""
    engines["b"].error, engines["b"].calls = KeyboardInterrupt, 4
    assert ensemble.main(MEMBERS) == 130
    assert "run.jsonl holds what was done" in capsys.readouterr().err
    assert len(items_of("run.jsonl")) >= 5


def test_unknown_names_are_said_before_a_model_is_loaded(
    engines: dict[str, Failing], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task, of a run; weights of the wrong length or all zero."""
    monkeypatch.setattr(ByteLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    from lm_eval.tasks import TaskManager

    real = TaskManager.__init__
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **options: real(self, **{**options, "include_defaults": False})
    )
    assert ensemble.main([*MEMBERS[:3], "--tasks", "toy_nothing"]) == 1
    assert "no task is called toy_nothing; offline there are toy_choice, toy_write" in capsys.readouterr().err
    for words, told in (
        (["--runs", "a,c"], "no run is called c"),
        (["--weights", "1"], "2"),
        (["--weights", "0,0"], "weights"),
        (["--weights", "x,1"], "x"),
        (["--members", "a", "x/a"], "same name"),
        (["--tasks", "toy_choice:0"], "at least one item"),
    ):
        with pytest.raises(SystemExit):
            ensemble.main([*MEMBERS[:3], *words])
        assert told in capsys.readouterr().err
