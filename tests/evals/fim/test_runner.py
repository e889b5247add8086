"""``python -m evals.fim`` from end to end on a tiny model: its file, going on, its tables, its plot, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bytelm import TableLM
from evals.fim import __main__ as fim
from evals.fim import summary
from evals.fim.methods import DEFAULT_METHODS as METHODS
from evals.fim.methods import Filler
from evals.fim.problems import PUBLISHED
from evals.report.records import read_records
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model

SOURCE = "def add(a, b):\n    return a + b\n\n\nnaïve = 'é'\nfor i in range(10):\n    print(i, naïve)\n"
TIMES = ("first_s", "seconds")
SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


@pytest.fixture(scope="module")
def filler() -> Filler:
    """A random model with StarCoder's sentinels."""
    return Filler(TableLM(byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS), seed=0))


@pytest.fixture
def here(filler: Filler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder with one source file; the command loads the tiny model."""
    monkeypatch.setattr(fim, "open_filler", lambda *_, **__: filler)
    monkeypatch.chdir(tmp_path)
    Path("code.py").write_text(SOURCE)
    return tmp_path


CURSOR = ["--benchmark", "cursor", "--data", "code.py", "--limit", "4", "--max-bytes", "4"]


def lines_of(path: str) -> list[dict[str, Any]]:
    """The lines of a file without what the clock says."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_records(Path(path))[1]]


def test_every_sample_is_a_line(here: Path) -> None:
    """Four cursors by four methods are 16 lines; the header holds what was asked for, and no path of this machine."""
    assert fim.main([*CURSOR, "--out", str(here / "run.jsonl"), "--model", str(here / "tiny"), "--json"]) == 0

    header, lines = read_records(here / "run.jsonl")
    assert {(line["id"], line["method"]) for line in lines} == {
        (line["id"], method) for line in lines for method in METHODS
    }
    assert len(lines) == 16
    assert header["settings"]["format"] == "starcoder spm"
    assert header["settings"]["stops"] == ["\r\n", "\n"]
    assert header["settings"]["data"]["sha256"]
    assert {"torch", "transformers", "python"} <= header["versions"].keys()
    assert str(here) not in json.dumps(header)
    assert all("\n" not in line["completion"] for line in lines)


def test_all_modes_with_one_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mode has a file of its own, and what is printed is what --compare prints of them."""
    assert fim.main([*CURSOR, "--mode", "all", "--out", "run.jsonl"]) == 0
    shown = capsys.readouterr().out

    files = [f"run-{mode}.jsonl" for mode in ("spm", "psm", "left")]
    assert [read_records(Path(file))[0]["settings"]["mode"] for file in files] == ["spm", "psm", "left"]
    assert fim.main(["--compare", *files]) == 0
    assert capsys.readouterr().out == shown
    before = {file: Path(file).read_bytes() for file in files}
    assert fim.main([*CURSOR, "--mode", "all", "--out", "run.jsonl", "--resume"]) == 0
    assert {file: Path(file).read_bytes() for file in files} == before
    del here


def test_a_mode_that_the_model_does_not_know_is_left_out(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without sentinels has left mode alone, and why is said."""
    monkeypatch.setattr(fim, "open_filler", lambda *_, **__: Filler(TableLM(default_tokenizer(), seed=0)))

    assert fim.main([*CURSOR, "--mode", "all", "--out", "run.jsonl"]) == 0

    assert [path.name for path in sorted(here.glob("run*.jsonl"))] == ["run-left.jsonl"]
    assert "--mode spm is left out: " in capsys.readouterr().err


def test_costs_are_counted_at_some_problems(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--count: of so many problems the lines have costs, the table tells how many; all have the same completions."""
    del here
    assert fim.main([*CURSOR, "--out", "all.jsonl"]) == 0
    capsys.readouterr()
    assert fim.main([*CURSOR, "--out", "two.jsonl", "--count", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)[0]["cost"]

    every, some = lines_of("all.jsonl"), lines_of("two.jsonl")
    assert [line["completion"] for line in every] == [line["completion"] for line in some]
    assert [line["id"] for line in every if "calls" not in line] == []
    counted = [line for line in some if "calls" in line]
    assert (len({line["id"] for line in counted}), len(counted)) == (2, 2 * len(METHODS))
    assert {found["n"] for found in shown.values()} == {2}
    for line in counted:
        (same,) = (x for x in every if (x["id"], x["method"]) == (line["id"], line["method"]))
        assert line == same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"), [("single-line", "left"), ("random-span", "left"), ("single-line", "spm"), ("single-line", "psm")]
)
def test_published_benchmarks(here: Path, name: str, mode: str, test_data: Path) -> None:
    """Each benchmark runs in each mode; single lines end at their newline where nothing else ends them."""
    del test_data  # the command finds it
    command = ["--benchmark", name, "--mode", mode, "--limit", "2", "--max-bytes", "9", "--method", "token,byte"]
    assert fim.main([*command, "--out", "run.jsonl"]) == 0

    header, lines = read_records(here / "run.jsonl")
    assert len(lines) == 4
    assert header["settings"]["closing"] == ("\n" if (name, mode) == ("single-line", "left") else "")
    assert header["settings"]["data"]["sha256"] == PUBLISHED[name].sha256


@pytest.mark.slow
def test_a_run_that_was_cut_anywhere_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after some samples and a part of the next, it runs what is missing and no more, and is what it would be."""
    command = [*CURSOR, "--temperature", "0.9", "--samples", "2", "--method", "heal,byte", "--seed", "3"]
    assert fim.main([*command, "--out", "whole.jsonl"]) == 0
    whole = Path("whole.jsonl").read_bytes()
    ran: list[Any] = []
    line_of = fim.line_of

    def watched(task: Any, *rest: Any) -> Any:
        ran.append(task)
        return line_of(task, *rest)

    monkeypatch.setattr(fim, "line_of", watched)

    for lines, rest in ((0, 40), (8, 30), (16, 0)):
        ends = [0, *(i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))]
        Path("cut.jsonl").write_bytes(whole[: ends[lines] + rest])
        ran.clear()
        assert fim.main([*command, "--out", "cut.jsonl", "--resume"]) == 0

        assert lines_of("cut.jsonl") == lines_of("whole.jsonl")
        assert len(ran) == 16 - max(lines - 1, 0)


def test_an_interruption_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C after five samples leaves five lines, tells of --resume, and the end is 130."""
    draw = fim.draw

    def cut(*arguments: Any) -> Any:
        yield from islice(draw(*arguments), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(fim, "draw", cut)
    assert fim.main([*CURSOR, "--out", "run.jsonl"]) == 130

    assert "--resume" in capsys.readouterr().err
    assert len(read_records(here / "run.jsonl")[1]) == 5


def test_a_run_goes_on_with_its_own_settings_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any other setting is refused by name, and nothing is added."""
    changes = {
        "seed is 1 and was 0": ["--seed", "1"],
        "max_bytes is 5 and was 4": ["--max-bytes", "5"],
        "format is 'starcoder psm+line'": ["--mode", "psm"],
        "carry is 'none'": ["--carry", "none"],
        "methods is": ["--method", "byte"],
        "temperature is 0.5": ["--temperature", "0.5"],
        "data is": ["--before", "50"],
    }
    assert fim.main([*CURSOR, "--out", "run.jsonl"]) == 0
    before = Path("run.jsonl").read_bytes()

    for named, change in changes.items():
        assert fim.main([*CURSOR, *change, "--out", "run.jsonl", "--resume"]) == 1
        assert named in capsys.readouterr().err
        assert Path("run.jsonl").read_bytes() == before


def test_another_model_is_another_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of the same name that are not the same are found by their fingerprint."""
    assert fim.main([*CURSOR, "--out", "run.jsonl"]) == 0
    monkeypatch.setattr(fim, "digest_of_model", lambda model: "0" * 64)

    assert fim.main([*CURSOR, "--out", "run.jsonl", "--resume"]) == 1
    assert "model_sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_tables_of_several_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--compare shows every run with its methods, classes and pairs, with no data and no model; --plot draws it twice alike."""
    for mode in ("spm", "psm", "left"):
        fim.main([*CURSOR, "--mode", mode, "--out", f"{mode}.jsonl"])
    Path("code.py").unlink()
    capsys.readouterr()
    files = ["spm.jsonl", "psm.jsonl", "left.jsonl"]
    assert fim.main(["--compare", *files, "--plot", "one.svg"]) == 0
    shown = capsys.readouterr().out

    for word in (
        *METHODS,
        "spm",
        "psm",
        "left",
        "McNemar, exact",
        "Wilcoxon signed rank",
        "inside a word",
        "calls / token",
    ):
        assert word in shown
    assert "cut to the length of the middle" in shown
    assert "so far" not in shown
    fim.main(["--compare", *files, "--plot", "two.svg"])
    assert Path("one.svg").read_bytes() == Path("two.svg").read_bytes()
    assert b"<svg" in Path("one.svg").read_bytes()


def row(problem: str, method: str, exact: int, **other: Any) -> dict[str, Any]:
    figures = {
        "first_4": exact,
        "first_16": exact,
        "similarity": float(exact),
        "saved": 2 * exact,
        "saved_share": exact,
    }
    costs = {"calls": 5, "fed": 50, "tokens": 4, "first_s": 0.1, "seconds": 0.5, "finish": "eot"}
    names = {"id": problem, "group": problem[0], "cursor": "inside a word", "method": method, "sample": 0}
    return {"kind": "sample", **names, "exact": exact, **figures, **costs, **other}


HEADER: dict[str, Any] = {
    "command": "python -m evals.fim",
    "settings": {
        "model": "tiny", "format": "starcoder spm", "mode": "spm", "benchmark": "single-line", "methods": ["token", "byte"],
        "problems": 5, "samples": 1,
    },
}  # fmt: skip


def test_a_summary_by_hand() -> None:
    """Of four problems in two tasks three are right by bytes and one by tokens; a fifth has been drawn by bytes alone."""
    right = {"a1": (1, 1), "a2": (0, 1), "b1": (0, 1), "b2": (0, 0)}
    lines = [row(p, m, pair[m == "byte"]) for p, pair in right.items() for m in ("token", "byte")]
    lines.append(row("b3", "byte", 0, cursor="after a space", finish="refused", calls=0, tokens=0, fed=0))
    found = summary.of(HEADER, lines)

    assert found["figures"]["byte"]["all"]["exact"]["mean"] == 3 / 5
    assert found["figures"]["byte"]["inside a word"]["exact"]["mean"] == 3 / 4
    assert "after a space" not in found["figures"]["token"]
    (pair,) = [p for p in found["pairs"] if (p["cursor"], p["figure"]) == ("all", "exact")]
    assert (pair["better"], pair["worse"], pair["difference"]["mean"], pair["p"]) == (2, 0, 0.5, 0.5)
    assert found["cost"]["byte"] == pytest.approx(
        {
            "n": 5,
            "calls": 4,
            "fed": 40,
            "tokens": 3.2,
            "first_s": 0.1,
            "seconds": 0.5,
            "calls_per_token": 1.0,
            "refused": 1,
        }
    )
    assert (found["samples"], found["samples_asked"]) == (9, 10)


def test_the_short_tables_have_what_is_exact_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """By class and in pairs; the means and the costs stay."""
    lines = [row(p, m, 1) for p in "abcdef" for m in ("token", "byte")]
    shown = {}
    for short in (False, True):
        summary.show([summary.of(HEADER, lines)], short=short)
        shown[short] = capsys.readouterr().out

    for text, there in (("exact, %, by class", True), ("similarity, %", True), ("first 4 B, %, by class", False)):
        assert text in shown[False]
        assert (text in shown[True]) == there
    assert shown[False].count("McNemar") == 2 > shown[True].count("McNemar") == 1


def test_passed_programs_are_counted_by_the_unbiased_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    """One of two samples passed is pass@1 ½; what was not run counts nowhere; the check stands beside the figures."""
    settings = {**HEADER["settings"], "samples": 2, "problems": 2, "methods": ["byte"]}
    lines = [row(p, "byte", 0, sample=i) for p in ("a", "b") for i in range(2)]
    states = {("a", 0): "passed", ("a", 1): "failed", ("b", 0): "timed out", ("b", 1): "failed"}
    lines.append({"kind": "check", "canonical_passed": 2, "broken_failed": 2, "raising_failed": 2, "contained": "all"})
    for (problem, sample), state in states.items():
        told = {"kind": "run", "id": problem, "group": problem, "method": "byte", "sample": sample}
        lines += [{**told, "state": "not run"}, {**told, "state": state}]
    found = summary.of({**HEADER, "settings": settings}, lines, ks=[1, 2])

    assert found["passing"]["byte"]["states"] == {"passed": 1, "failed": 2, "timed out": 1, "not run": 0}
    assert [found["passing"]["byte"]["pass_at"][k]["mean"] for k in ("1", "2")] == [0.25, 0.5]
    summary.show([found])
    shown = capsys.readouterr().out
    assert "pass@2 50.0" in shown
    assert "Of the rows' own middles 2 passed" in shown


def test_a_run_under_way_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A summary of a part says how large the part is."""
    summary.show([summary.of(HEADER, [row("a", "byte", 1)])])

    assert "1 of 10 samples so far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "humaneval"], "invalid choice: 'humaneval'"),
        (["--method", "byte,magic"], "no method is called magic"),
        (["--mode", "middle"], "invalid choice: 'middle'"),
        (["--temperature", "0.5", "--method", "byte,likeliest"], "the method likeliest does not draw"),
        (["--mode", "all"], "--mode all needs --out"),
        (["--context", "2", "--benchmark", "single-line"], "--context is for --benchmark cursor"),
        (["--temperature", "-1"], "--temperature must be 0 or more"),
        (["--max-bytes", "0"], "--max-bytes must be at least 1"),
        (["--samples", "3"], "all samples of a problem are the same"),
        (["--k", "one"], "--k takes whole numbers"),
        (["--execute", "--benchmark", "cursor", "--out", "x"], "cursors have no tests"),
        (["--execute", "--mode", "left", "--out", "x"], "in left mode only single lines have an end"),
        (["--execute"], "--execute needs --out"),
    ],
)
def test_options_that_cannot_be(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is loaded, an option that cannot be is refused with the reason."""
    with pytest.raises(SystemExit) as caught:
        fim.main(words)

    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "cursor"], "needs --data"),
        (["--benchmark", "cursor", "--data", "nowhere"], "there is no nowhere"),
        (["--data", "nowhere"], "sha256 b4f330d8"),
        (["--data", "a", "b"], "has one file"),
        (["--execute", "--k", "2", "--out", "x.jsonl"], "pass@2 needs at least 2 samples"),
        (["--compare", "nowhere.jsonl"], "cannot read the results file"),
    ],
)
def test_errors_are_one_line(here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with the data or the files is one line on standard error, and the end is 1."""
    assert fim.main(words) == 1

    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told


def test_a_model_without_the_tokens_is_told_of_left(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that knows no fill-in-the-middle is refused before a file is begun, and left mode is named."""
    monkeypatch.setattr(fim, "open_filler", lambda *_, **__: Filler(TableLM(default_tokenizer(), seed=0)))

    assert fim.main([*CURSOR, "--out", "run.jsonl"]) == 1
    assert "mode='left'" in capsys.readouterr().err
    assert not Path("run.jsonl").exists()


def test_a_worker_that_died_is_told_of_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the system kills a worker, what was written stays and the message says what to try."""

    def dying(*_: Any) -> Any:
        raise BrokenProcessPool

    monkeypatch.setattr(fim, "draw", dying)
    assert fim.main([*CURSOR, "--out", "run.jsonl"]) == 1
    assert "fewer --workers" in capsys.readouterr().err


def test_help_says_that_it_runs_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """The flag that runs model-written code says so."""
    with pytest.raises(SystemExit):
        fim.main(["--help"])

    assert "RUN THE PROGRAMS THAT THE MODEL WROTE" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_killed_process_and_workers(tmp_path: Path) -> None:
    """A run by two workers, killed outright after some lines and gone on with, has the samples of one in one process."""
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    (tmp_path / "code.py").write_text(SOURCE)
    words = ["--benchmark", "cursor", "--data", str(tmp_path / "code.py"), "--limit", "20", "--max-bytes", "20"]
    words += ["--model", str(tmp_path / "model"), "--dtype", "float64", "--device", "cpu", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "evals.fim", *words]
    where: dict[str, Any] = {"cwd": Path(fim.__file__).parents[2], "stdout": subprocess.DEVNULL}
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    subprocess.run([*command, "--out", str(whole)], check=True, **where)

    killed = subprocess.Popen([*command, "--out", str(cut), "--workers", "2"], start_new_session=True, **where)
    while killed.poll() is None and (not cut.exists() or cut.read_bytes().count(b"\n") < 9):
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = lines_of(str(cut))
    subprocess.run([*command, "--out", str(cut), "--workers", "2", "--resume"], check=True, **where)

    def place(line: dict[str, Any]) -> tuple[str, str]:
        return line["id"], line["method"]

    assert 8 <= len(before) < 80
    assert lines_of(str(cut))[: len(before)] == before
    assert sorted(lines_of(str(cut)), key=place) == sorted(lines_of(str(whole)), key=place)
