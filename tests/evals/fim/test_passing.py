"""The second pass: canonical middles first, wrong ones next, completions last; and going on in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evals.fim.passing import BROKEN, PassingError, check, program, raising, run_programs
from evals.fim.problems import Benchmark, Problem
from evals.report.records import Records, read_records


@dataclass
class Ended:
    state: str
    detail: str = ""


def run_here(programs: Iterable[str]) -> Iterator[Ended]:
    """Runs the programs of this file, which do nothing but compare numbers."""
    for text in programs:
        try:
            exec(text, {})  # noqa: S102 - the programs are those of this file
        except Exception as error:  # noqa: BLE001 - any error is a failure
            yield Ended("failed", repr(error))
        else:
            yield Ended("passed")


TEST = "\ndef check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"
PROBLEMS = tuple(
    Problem(f"task/{i}", f"task{i}", b"def f(x):\n    re", b"turn x + 1", b"  # done\n", TEST, "f") for i in range(3)
)
BENCHMARK = Benchmark("single-line", PROBLEMS, {})
HEADER: dict[str, Any] = {"command": "", "settings": {}, "versions": {}}


def sample(problem: Problem, completion: str) -> dict[str, Any]:
    return {
        "kind": "sample", "id": problem.id, "group": problem.group, "method": "byte", "sample": 0, "completion": completion
    }  # fmt: skip


def test_programs_are_as_published() -> None:
    """A program is the three texts, then the test, then the call."""
    assert program(PROBLEMS[0], b"turn 1") == "def f(x):\n    return 1  # done\n\n" + TEST
    assert next(run_here([program(PROBLEMS[0], b"turn x + 1")])).state == "passed"
    assert next(run_here([program(PROBLEMS[0], b"turn x")])).state == "failed"
    assert next(run_here([program(PROBLEMS[0], BROKEN)])).detail.startswith("SyntaxError")
    assert "wrong on purpose" in next(run_here([raising(PROBLEMS[0])])).detail
    assert "\ufffd" in program(PROBLEMS[0], b"\xff")


def test_the_check_counts_what_it_ran() -> None:
    """On good rows each kind is counted."""
    assert check(PROBLEMS, run_here) == {"canonical_passed": 3, "broken_failed": 3, "raising_failed": 3}


def always(state: str) -> Callable[[Iterable[str]], Iterator[Ended]]:
    return lambda programs: (Ended(state, "so it is") for _ in programs)


def test_a_canonical_middle_that_fails_stops_all(tmp_path: Path) -> None:
    """A row whose own middle fails is named, and no completion is run."""
    bad = Problem("task/bad", "bad", b"def f(x):\n    re", b"turn x", b"\n", TEST, "f")
    benchmark = Benchmark("single-line", (*PROBLEMS, bad), {})
    with Records(tmp_path / "run.jsonl", HEADER, resume=False) as file:
        file.add(sample(PROBLEMS[0], "turn x + 1"))
        with pytest.raises(PassingError, match=r"task/bad must pass \(canonical_passed\).*AssertionError"):
            run_programs(benchmark, file, run_all=run_here)

    assert [line["kind"] for line in read_records(tmp_path / "run.jsonl")[1]] == ["sample"]


@pytest.mark.parametrize(
    ("run_all", "message"),
    [
        (always("passed"), r"task/0 must fail \(broken_failed\)"),
        (always("not run"), r"task/0 must pass .*'not run': so it is"),
        (always("timed out"), r"task/0 must pass .*'timed out'"),
    ],
)
def test_an_executor_that_tells_nothing_apart_is_found_out(run_all: Any, message: str) -> None:
    """One that passes everything, or runs nothing, is not believed."""
    with pytest.raises(PassingError, match=message):
        check(PROBLEMS, run_all)


def test_a_test_that_is_never_asked_is_found_out() -> None:
    """A program that only has to compile passes with its own middle and fails with a broken one; the third kind tells."""

    def compiles(programs: Iterable[str]) -> Iterator[Ended]:
        for text in programs:
            try:
                compile(text, "program", "exec")
            except SyntaxError:
                yield Ended("failed")
            else:
                yield Ended("passed")

    with pytest.raises(PassingError, match="raising_failed"):
        check(PROBLEMS, compiles)


def test_outcomes_are_lines_and_the_pass_goes_on(tmp_path: Path) -> None:
    """Stopped after two programs, the pass checks nothing again, runs what is missing and what was not run, no more."""
    path = tmp_path / "run.jsonl"
    completions = ["turn x + 1", "turn x", "turn \udcff"]
    ran: list[str] = []

    def watched(programs: Iterable[str]) -> Iterator[Ended]:
        for text, ended in zip(listed := list(programs), run_here(listed), strict=True):
            ran.append(text)
            yield ended

    def stopping(programs: Iterable[str]) -> Iterator[Ended]:
        for ended in watched(programs):
            if len(ran) > 9 + 2:  # the check is nine programs
                raise KeyboardInterrupt
            yield Ended("not run") if len(ran) == 9 + 2 else ended

    with Records(path, HEADER, resume=False) as file:
        for problem, completion in zip(PROBLEMS, completions, strict=True):
            file.add(sample(problem, completion))
        with pytest.raises(KeyboardInterrupt):
            run_programs(BENCHMARK, file, run_all=stopping)
    ran.clear()
    with Records(path, HEADER, resume=True) as file:
        run_programs(BENCHMARK, file, run_all=watched)

    assert ran == [program(PROBLEMS[1], b"turn x"), program(PROBLEMS[2], b"turn \xff")]
    lines = read_records(path)[1]
    states = {line["id"]: line["state"] for line in lines if line["kind"] == "run"}
    assert states == {"task/0": "passed", "task/1": "failed", "task/2": "failed"}
    assert sum(line["kind"] == "check" for line in lines) == 1


def test_the_real_executor(tmp_path: Path) -> None:
    """The executor of this project passes the check, and tells a right completion from a wrong one."""
    pytest.importorskip("evals.sandbox.run", reason="the executor is not there")
    with Records(tmp_path / "run.jsonl", HEADER, resume=False) as file:
        for problem, completion in zip(PROBLEMS, ["turn x + 1", "turn x", "turn 2"], strict=True):
            file.add(sample(problem, completion))
        run_programs(BENCHMARK, file)
        states = [line["state"] for line in file.lines if line["kind"] == "run"]

    assert states == ["passed", "failed", "passed"]
