"""``python -m evals.fim --compare``: runs in pairs, by hand; what too few samples say; and a plot of zeros."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evals.fim import __main__ as fim
from evals.report.records import Records
from tests.evals.fim.test_runner import HEADER, row

PROBLEMS = "abcdefgh"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(file: str, right: Mapping[str, str], *, data: str = "0" * 64, **settings: Any) -> str:
    """A results file, with the problems that each method got right, and those that it got wrong in capitals."""
    told = {**HEADER["settings"], "methods": list(right), "problems": 8, "data": {"sha256": data}, **settings}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with Records(Path(file), {**HEADER, "settings": told}, resume=False) as records:
        for method, problems in right.items():
            for problem in problems:
                records.add(row(problem.lower(), method, int(problem.islower())))
    return file


def compared(*files: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert fim.main(["--compare", *files, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_is_compared_in_pairs_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Method by method, on the problems that both have; of seven pairs six are better now and none is worse."""
    one = write("one.jsonl", {"token": "abCDEFGH", "byte": "aBCDEFG"})
    two = write("two.jsonl", {"byte": "abcdefgh", "heal": "abcdefgh"})
    first, second = compared(one, two, capsys=capsys)
    pairs = {(p["method"], p["cursor"], p["figure"]): p for p in second["against"]["pairs"]}
    pair = pairs["byte", "all", "exact"]

    assert "against" not in first
    assert second["against"]["place"] == 0
    assert {method for method, _, _ in pairs} == {"byte"}
    assert (pair["better"], pair["worse"], pair["test"]) == (6, 0, "McNemar, exact")
    assert pair["p"] == pytest.approx(2 / 2**6)
    assert pair["difference"]["mean"] == pytest.approx(6 / 7)
    assert pair["difference"]["n"] == pair["difference"]["groups"] == 7
    assert pairs["byte", "inside a word", "similarity"]["test"] == "Wilcoxon signed rank"
    assert fim.main(["--compare", one, two]) == 0
    shown = capsys.readouterr().out
    assert "two.jsonl against one.jsonl, in pairs" in shown
    assert "+85.7 [+57.1, +100.0]" in shown


def test_each_run_has_the_first_of_its_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of other data, or in left mode, are paired among themselves; runs without a problem in common say that."""
    files = [
        write("a.jsonl", {"byte": "abcd"}),
        write("b.jsonl", {"byte": "abcd"}, data="1" * 64),
        write("c.jsonl", {"byte": "ABcd"}, data="1" * 64),
        write("d.jsonl", {"byte": "abcd"}, benchmark="random-span"),
        write("e.jsonl", {"byte": "efgh"}),
        write("f.jsonl", {"byte": "abcd"}, mode="left"),
        write("g.jsonl", {"byte": "abcd"}, mode="left"),
    ]
    found = [summary.get("against", {}) for summary in compared(*files, capsys=capsys)]

    assert [against.get("place") for against in found] == [None, None, 1, None, 0, None, 5]
    assert [len(against.get("pairs", [])) > 0 for against in found] == [False, False, True, False, False, False, True]
    assert fim.main(["--compare", files[0], files[4]]) == 0
    assert "e.jsonl against a.jsonl, in pairs: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "files", "name"),
    [
        ([{"format": "x spm"}, {"format": "x psm"}], ["a.jsonl", "b.jsonl"], "psm against spm"),
        ([{"model": "small"}, {"model": "large"}], ["a.jsonl", "b.jsonl"], "large, starcoder spm against small, starcoder spm"),
        ([{}, {}], ["old/run.jsonl", "new/run.jsonl"], "new/run.jsonl against old/run.jsonl"),
    ],
)  # fmt: skip
def test_runs_have_names_that_tell_them_apart(
    settings: list[dict[str, Any]], files: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By order of the prompt or model where these differ, or else by file."""
    written = [write(file, {"byte": PROBLEMS}, **own) for file, own in zip(files, settings, strict=True)]
    assert fim.main(["--compare", *written]) == 0

    assert f"{name}, in pairs" in capsys.readouterr().out


def test_two_problems_have_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither of a mean nor of a difference, in the run or between runs: two are too few to say, and the tables say so."""
    files = [write(f"{name}.jsonl", {"token": "aB", "byte": "ab"}) for name in "xy"]
    assert fim.main(["--compare", *files]) == 0
    shown = capsys.readouterr().out

    assert "Means over fewer than 6 tasks have no interval" in shown
    assert "[" not in shown.replace("[95 % interval]", "")
    for summary in compared(*files, capsys=capsys):
        assert math.isnan(summary["figures"]["byte"]["all"]["exact"]["low"])


def test_eight_problems_have_one(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is said of too few."""
    assert fim.main(["--compare", write("x.jsonl", {"byte": "abcdEFGH"})]) == 0
    shown = capsys.readouterr().out

    assert "50.0 [12.5, 87.5]" in shown
    assert "fewer than" not in shown


def test_a_plot_of_zeros_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Bars of no height are no picture: the panel says that all are 0; others do not."""
    for problems, panels in (("ABCDEFGH", 2), ("aBCDEFGH", 0)):
        file = write(f"{problems}.jsonl", {"byte": problems})
        assert fim.main(["--compare", file, "--plot", f"{problems}.svg"]) == 0
        assert Path(f"{problems}.svg").read_text().count("<!-- all are 0 -->") == panels
    del capsys
