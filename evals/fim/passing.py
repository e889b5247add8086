"""Whether completed programs pass their tests: the second pass over a results file, and the check before it.

Rules
    Before any completion is run, every problem is run three times with a known answer. Its own middle must pass. A
    middle that is a syntax error anywhere must fail. Its own middle with the function replaced by one that raises must
    fail too.
    This shows that the program contains the middle and that the test calls the function. If one of them is wrong, the
    pass stops and names the problem.
    A program is prefix, middle, suffix and test, as text; bytes of a completion that are not UTF-8 become U+FFFD.
    Each outcome is written to the file as it comes, so this pass can be resumed too. Programs that were not run are
    tried again.

Does not
    Contain anything: sandbox/run.py does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol

from bytelm.errors import BytelmError
from evals.fim.problems import Benchmark, Problem
from evals.report.progress import tracked
from evals.report.records import Lines, key_of

# In code, in a comment and in a string of any kind, one of these lines is a syntax error.
BROKEN: Final = b"\n)\n'''\n)\n\"\"\"\n)\n"


class PassingError(BytelmError):
    """A program that must pass fails, or one that must fail passes: no figure can be trusted."""


class Ran(Protocol):
    """How a program ended."""

    @property
    def state(self) -> str:
        """One of "passed", "failed", "timed out" and "not run"."""
        ...

    @property
    def detail(self) -> str:
        """Why."""
        ...


RunAll = Callable[[Iterable[str]], Iterator[Ran]]


def program(problem: Problem, middle: bytes) -> str:
    """The program that a middle makes, with its test."""
    text = (problem.prefix + middle + problem.suffix).decode("utf-8", "replace")
    return f"{text}\n{problem.test}"


def raising(problem: Problem) -> str:
    """The program of the row's own middle, with the function that is tested replaced by one that raises."""
    text = (problem.prefix + problem.middle + problem.suffix).decode()
    wrong = f"def {problem.entry}(*_, **__):\n    raise AssertionError('wrong on purpose')\n"
    return f"{text}\n\n{wrong}{problem.test}"


def run_programs(benchmark: Benchmark, records: Lines, *, workers: int = 1, run_all: RunAll | None = None) -> None:
    """Run the samples that have not been run, and add an outcome for each.

    Args:
        benchmark: With tests.
        records: The samples.
        workers: Programs at a time.
        run_all: Runs programs, in order; sandbox/run.py if not given.

    Raises:
        PassingError: The check before it failed, see the head of this module.
    """
    contains = "as its caller says"
    if run_all is None:
        contained: Any = importlib.import_module("evals.sandbox.run")  # only now: nothing else runs a program
        contains = str(contained.containment())

        run_all = partial(contained.run_all, workers=workers)

    if not any(line["kind"] == "check" for line in records.lines):
        records.add({"kind": "check", **check(benchmark.problems, run_all), "contained": contains})
    problems = {problem.id: problem for problem in benchmark.problems}
    ran = {key_of(line) for line in records.lines if line["kind"] == "run" and line["state"] != "not run"}
    samples = [line for line in records.lines if line["kind"] == "sample" and key_of(line) not in ran]
    programs = (
        program(problems[line["id"]], line["completion"].encode("utf-8", "surrogateescape")) for line in samples
    )
    for line, outcome in zip(samples, tracked(run_all(programs), "running", total=len(samples)), strict=True):
        told = {name: line[name] for name in ("id", "group", "method", "sample")}
        records.add({"kind": "run", **told, "state": outcome.state, "detail": outcome.detail[:200]})


def check(problems: Sequence[Problem], run_all: RunAll) -> dict[str, int]:
    """Run programs that must pass and programs that must fail; how many of each there were.

    Raises:
        PassingError: One of them ended otherwise.
    """
    kinds: dict[str, tuple[Callable[[Problem], str], bool]] = {
        "canonical_passed": (lambda problem: program(problem, problem.middle), True),
        "broken_failed": (lambda problem: program(problem, BROKEN), False),
        "raising_failed": (raising, False),
    }
    counts: dict[str, int] = {}
    for name, (made, passes) in kinds.items():
        programs = (made(problem) for problem in problems)
        outcomes = tracked(run_all(programs), f"checking: {name}", total=len(problems))
        for problem, outcome in zip(problems, outcomes, strict=True):
            if outcome.state == "not run" or (outcome.state == "passed") != passes:
                raise PassingError(
                    f"{problem.id} must {'pass' if passes else 'fail'} ({name}) and has the state {outcome.state!r}: "
                    f"{outcome.detail[:300] or 'nothing was said'}. No completion was run, because the counts would mean nothing"
                )
        counts[name] = len(problems)
    return counts
