"""Programs in the cell: how they end, alone and many at a time."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bytelm.errors import InvalidArgumentError
from evals.sandbox import run as contained
from evals.sandbox.run import Limits, Outcome, Walls, run_all, run_contained
from tests.evals.sandbox.programs import FOREVER, Run, nothing_remains, remains

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are contained on Linux alone")


# States and details


def test_a_program_that_comes_to_its_end_has_passed(run: Run) -> None:
    """Definitions, imports of the standard library and true assertions pass, with nothing to say."""
    outcome = run("""
        import collections, dataclasses, hashlib, heapq, itertools, math, random, re, string, typing

        @dataclasses.dataclass
        class Point:
            x: int

        assert Point(1) == Point(1)
        print("printed")
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")
    assert 0 < outcome.seconds < 30


ENDS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    "assert 1 == 2": ("failed", "AssertionError"),
    "assert False, 'first\\nlast'": ("failed", "AssertionError: last"),
    "1 / 0": ("failed", "ZeroDivisionError: division by zero"),
    "x = (": ("failed", "SyntaxError: '(' was never closed (<program>, line 1)"),
    "x = '\0'": ("failed", ""),
    "'\udce9'": ("failed", "UnicodeEncodeError"),
    "import numpy": ("failed", "ModuleNotFoundError: No module named 'numpy'"),
    "raise KeyError('\\x1b[31mred\\n')": ("failed", "KeyError: '\\x1b[31mred\\n'"),
    "raise ValueError('\\x1b[31mred')": ("failed", "ValueError:  [31mred"),
    "raise ValueError('long' * 10**6)": ("failed", ("ValueError: " + "long" * 100)[:200]),
    "raise KeyboardInterrupt": ("failed", "KeyboardInterrupt"),
    "import sys; sys.exit()": ("failed", "SystemExit"),
    "import sys; sys.exit(0)": ("failed", "SystemExit: 0"),
    "raise SystemExit('fine')": ("failed", "SystemExit: fine"),
    "import os; os._exit(0)": ("failed", "exited with status 0 before its end"),
    "import os; os._exit(3)": ("failed", "exited with status 3 before its end"),
    # Its pipe is closed as the other program begins; which then ends, or is killed for it, whichever comes first.
    "import os; os.execv('/usr/bin/env', ['env'])": (
        "failed",
        ("closed the pipe of its report", "exited with status 0"),
    ),
    "import ctypes; ctypes.string_at(0)": ("failed", "killed by SIGSEGV"),
    "input()": ("failed", "EOFError: EOF when reading a line"),
    "import sys; assert sys.stdin.read() == ''": ("passed", ""),
    "def f(): f()\nf()": ("failed", "RecursionError: maximum recursion depth exceeded"),
    "print('annotations' if False else 1); x: undefined = 1": ("failed", "NameError: name 'undefined' is not defined"),
    "assert list({'b', 'a', 'd', 'c'}) == ['c', 'b', 'a', 'd'] or True": ("passed", ""),
    "if __name__ == '__main__': raise ValueError": ("passed", ""),
}


@pytest.mark.parametrize("program", ENDS, ids=ascii)
def test_states_and_details(program: str, run_once: Run) -> None:
    """Each way to end has its state, and the last line of the error."""
    state, detail = ENDS[program]

    outcome = run_once(program)

    assert outcome.state == state
    assert outcome.detail.startswith(detail)
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= 200


def test_a_set_of_strings_has_one_order(run_once: Run) -> None:
    """Hashes are the same in all runs, so that a program that depends on them ends alike."""
    details = {run_once("raise ValueError(list({'ab', 'cd', 'ef', 'gh', 'ij', 'kl'}))").detail for _ in range(3)}

    assert len(details) == 1


def test_deep_recursion_without_the_guard_ends_in_the_cell(run_once: Run) -> None:
    """With Python's own guard off, the stack or the memory runs out for the program alone."""
    outcome = run_once("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)")

    assert outcome.state == "failed"


# Passes that are none

FORGERIES = {
    "prints": "print('passed'); print('RP'); raise ValueError",
    "writes to every descriptor": """
        import os
        for text in (b"P", b"RP", b"passed", b"RP" + bytes(16)):
            for file in range(64):
                try:
                    os.write(file, text)
                except OSError:
                    pass
        os._exit(0)
    """,
    "gives back what it can read": """
        import os
        for file in range(3, 64):
            try:
                os.set_blocking(file, False)
                text = os.read(file, 64)
            except OSError:
                continue
            for other in range(3, 64):
                for answer in (text, b"P" + text, b"RP" + text):
                    try:
                        os.write(other, answer)
                    except OSError:
                        pass
        raise ValueError
    """,
    "claims not to have run": """
        import os
        for file in range(3, 64):
            try:
                os.write(file, b"Nothing to see")
            except OSError:
                pass
        os._exit(0)
    """,
    "closes every descriptor": "import os; os.closerange(0, 64); assert False",
    "closes every descriptor and goes on": "import os, time; os.closerange(0, 64); time.sleep(60)",
    "replaces what ends a process": """
        import builtins, os, sys
        os._exit = sys.exit = lambda *_: None
        os.write = lambda file, text: len(text)
        builtins.BaseException = builtins.Exception = builtins.AssertionError = type("Quiet", (), {})
        builtins.str = builtins.type = lambda *_: "passed"
        assert False
    """,
    "replaces the interpreter's modules": "import sys; sys.modules.clear(); assert False",
    "raises what cannot be printed": """
        class Mute(BaseException):
            def __str__(self): raise SystemExit(0)
        raise Mute
    """,
    "raises what has no name": """
        class Nameless(type):
            @property
            def __name__(self): raise SystemExit(0)
        class Mute(BaseException, metaclass=Nameless): pass
        raise Mute
    """,
    "leaves it to atexit": "import atexit, os; atexit.register(lambda: os.write(1, b'passed')); raise SystemExit",
    "leaves it to a thread": """
        import os, threading
        try: threading.Thread(target=lambda: print("passed"), daemon=True).start()
        except RuntimeError: pass
        raise ValueError
    """,
    "ends itself with a signal": "import os, signal; signal.raise_signal(signal.SIGKILL); os.abort()",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_is_not_forged(name: str, run_once: Run) -> None:
    """A program that did not come to its end has failed, whatever it prints, writes or replaces."""
    assert run_once(FORGERIES[name]).state == "failed"


# Time


def test_wall_time_is_limited(run: Run) -> None:
    """A program that sleeps for ever, or computes what Python cannot interrupt, is killed at the limit on wall time."""
    assert run("x = 10 ** 10 ** 10", wall_seconds=0.5).state == "timed out"

    outcome = run(FOREVER, wall_seconds=0.5)

    assert (outcome.state, outcome.detail) == ("timed out", "wall time: 0.5 s")
    assert 0.5 <= outcome.seconds < 5


@pytest.mark.parametrize(("work", "limit"), [("pass", "CPU time: 1 s"), ("time.sleep(1)", "wall time: 0.5 s")])
def test_caught_signals_change_nothing(work: str, limit: str, run: Run) -> None:
    """A loop without end that catches or ignores every signal is killed at the limit on CPU time, or else on wall time."""
    outcome = run(
        f"""
        import contextlib, signal, time
        for number in signal.valid_signals():
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, (lambda *_: None) if number % 2 else signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        while True:
            try:
                while True: {work}
            except BaseException: pass
        """,
        cpu_seconds=1,
        wall_seconds=0.5 if "wall" in limit else 60,
    )

    assert (outcome.state, outcome.detail) == ("timed out", limit)


# Many programs


def test_outcomes_come_in_the_order_of_the_programs(walls: Walls, cells: Path) -> None:
    """A program that takes long does not come after those that end before it."""
    programs = ["import time; time.sleep(0.5)", "1 / 0", "", "x = 1", "assert False"]

    states = [outcome.state for outcome in run_all(programs, workers=2)]

    assert states == ["passed", "failed", "not run", "passed", "failed"]
    assert remains(cells) == []


def test_programs_are_asked_for_as_they_are_needed(walls: Walls, cells: Path) -> None:
    """Of a series without end, a few programs are taken and run; closing the iterator kills those that run."""
    asked = []

    def programs() -> Iterator[str]:
        for number in itertools.count():
            asked.append(number)
            yield FOREVER if number else "x = 1"

    outcomes = run_all(programs(), workers=2)
    state = next(outcomes).state  # two were begun before the first was waited for
    running = remains(cells)
    outcomes.close()

    assert state == "passed"
    assert len(asked) <= 3
    assert running
    assert remains(cells) == []


def test_an_error_in_the_series_kills_what_runs(walls: Walls, cells: Path) -> None:
    """When the series of programs raises, nothing of those before is left."""

    def programs() -> Iterator[str]:
        yield FOREVER
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(run_all(programs(), workers=2))

    assert remains(cells) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_programs_end_with_the_runner(number: signal.Signals, walls: Walls, cells: Path) -> None:
    """Ctrl-C, and whatever else ends the runner, ends all that it runs; after Ctrl-C no folder is left either."""
    code = f"""
        import signal, sys, tempfile
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit that it is ignored
        sys.path.append({str(Path(contained.__file__).parents[2])!r})
        tempfile.tempdir = {str(cells)!r}
        from evals.sandbox import run as contained
        contained.containment = lambda: contained.Containment({walls!r}, "")
        print("ready", flush=True)
        list(contained.run_all([{FOREVER!r}] * 3, workers=2))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        while len(remains(cells)) < 7:  # the runner, and of each of two programs the cell, the program and the folder
            time.sleep(0.05)
        runner.send_signal(number)
        _, errors = runner.communicate(timeout=20)

    folders = list(cells.iterdir())
    for folder in folders:
        folder.rmdir()  # they are empty
    assert (b"KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert len(folders) == (0 if number == signal.SIGINT else 2)
    assert nothing_remains(cells)


def test_a_cell_that_is_killed_takes_its_program_along(walls: Walls, cells: Path) -> None:
    """When something kills the process that waits, its program is killed too, though it asked not to be."""
    stay = "import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"  # PR_SET_PDEATHSIG
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_contained, stay + FOREVER)
        while len(remains(cells)) < 3:
            time.sleep(0.02)
        time.sleep(0.2)
        (cell,) = (child for child in psutil.Process().children() if str(cells) in " ".join(child.cmdline()))
        cell.kill()
        outcome = running.result(timeout=20)

    assert outcome == Outcome("not run", "the cell failed: no answer", 0.0)
    assert nothing_remains(cells)


# What is not run


@pytest.mark.parametrize("program", ["", " \n\t\n"])
def test_an_empty_program_is_not_run(program: str) -> None:
    """A program without a word in it has no state of success."""
    assert run_contained(program) == Outcome("not run", "the program is empty", 0.0)


def test_other_systems_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to contain them, programs are not run, and the cause is said."""
    monkeypatch.setattr(sys, "platform", "darwin")
    said = contained.containment.__wrapped__()
    monkeypatch.setattr(contained, "containment", lambda: said)

    outcome = run_contained("x = 1")

    assert said.walls is None
    assert str(said) == "nothing contains programs on this system: that needs Linux, and this is darwin"
    assert outcome == Outcome("not run", str(said), 0.0)


def test_walls_that_do_not_stand_are_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that refuses namespaces is left with Landlock; one that refuses both, with nothing."""
    refused = Outcome("not run", "unshare: Operation not permitted", 0.0)
    trials: dict[str, Outcome] = {"namespaces": refused, "landlock": Outcome("passed", "", 0.1)}
    monkeypatch.setattr(contained, "probe", trials.__getitem__)

    second = contained.containment.__wrapped__()
    trials["landlock"] = Outcome("failed", "RuntimeError: a wall does not hold", 0.1)
    none = contained.containment.__wrapped__()

    assert second.walls == "landlock"
    assert "no namespaces: unshare: Operation not permitted" in str(second)
    assert none.walls is None
    assert "a wall does not hold" in str(none)


def test_a_cell_that_fails_runs_nothing(
    walls: Walls, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that cannot start, cannot put up its walls, or says what is no answer: not run, with the cause."""
    source = contained.CELL.read_text(encoding="utf-8")
    broken = tmp_path / "cell.py"
    details = []
    for text in (
        "raise SystemExit('no cell')",
        source.replace("PR_SET_NO_NEW_PRIVS, 1, 0", "PR_SET_NO_NEW_PRIVS, 2, 0"),
        source.replace('limits["memory_mib"] * MIB', "1 << 70"),
    ):
        broken.write_text(text, encoding="utf-8")
        monkeypatch.setattr(contained, "CELL", broken)
        outcome = run_contained("x = 1")
        assert outcome.state == "not run"
        details.append(outcome.detail)

    assert "no cell" in details[0]
    assert "prctl: Invalid argument" in details[1]
    assert details[2] == "the child ended while its walls went up"
    assert remains(cells) == []


def test_this_system_contains_programs() -> None:
    """What this system allows is said in one line, and skipped here where it is nothing."""
    found = contained.containment()
    if found.walls is None:
        pytest.skip(str(found))

    assert str(found).splitlines() == [str(found)]
    assert run_contained("x = 1").state == "passed"


@pytest.mark.parametrize("name", ["wall_seconds", "cpu_seconds", "memory_mib", "file_mib", "processes", "output_kib"])
def test_limits_are_above_zero(name: str) -> None:
    """A limit of nothing is an error that names it, as is no worker."""
    with pytest.raises(InvalidArgumentError, match=f"{name} must be above 0: 0"):
        Limits(**{name: 0})
    with pytest.raises(InvalidArgumentError, match="workers must be at least 1: 0"):
        run_all([], workers=0)
