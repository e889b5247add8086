"""Programs that a model wrote, run so that they can do no harm: each in its own cell (cell.py).

What a program may do
    Compute, read Python's own files and the system's libraries, and write a few files into an empty folder.
What it may not do
    Start a process; open a socket; see the environment, the user's files or other processes; use more time, memory or
    disk than `Limits` allows; outlive its run. If Linux gives namespaces to ordinary users, the program does not see
    the rest of the system at all; if not, Landlock and seccomp refuse access. `containment` tries both and says which
    works.
    With neither, and on other systems, nothing is run: there is no weaker way.
When it has passed
    It reached its end, and proved it with a token that it could not know before (cell.py). Every other outcome has its
    own state.
Time
    The limit that counts is CPU time: wall time also measures the load of the machine. The limit on wall time is
    generous; it ends programs that sleep.
Cost
    One start of Python, without site-packages: about 50 ms of CPU. One process of ours waits for each that runs.

Does not
    Protect from errors in the kernel: use a virtual machine for that. Detect a program written to deceive this file: it
    runs in the interpreter that reports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias, cast

from bytelm.errors import InvalidArgumentError

State: TypeAlias = Literal["passed", "failed", "timed out", "not run"]
Walls: TypeAlias = Literal["namespaces", "landlock"]

CELL: Final = Path(__file__).with_name("cell.py")
GRACE: Final = 30.0  # seconds beyond the wall time, after which the cell itself is taken to hang
LONGEST_DETAIL: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        wall_seconds: Seconds from its start to its end.
        cpu_seconds: Seconds of CPU, of all its threads together.
        memory_mib: MiB of address space.
        file_mib: MiB of all files that it writes, together.
        processes: How many threads it may have at once, the first one included. It can start no other process, and no
            thread either where there are no namespaces.
        output_kib: KiB that it may report to the process that waits; what it prints goes nowhere.

    Raises:
        InvalidArgumentError: A limit is not above 0.
    """

    wall_seconds: float = 30.0
    cpu_seconds: int = 5
    memory_mib: int = 1024
    file_mib: int = 8
    processes: int = 16
    output_kib: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise InvalidArgumentError(f"{name} must be above 0: {value!r}")


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        state: "passed": it came to its end. "failed": an error, an early exit, or a limit other than time. "timed out":
            the limit on CPU or wall time. "not run": an empty program, an interrupted one, or no containment.
        detail: The last line of the error, or the cause; empty if passed. Printable, at most 200 characters.
        seconds: Wall time that it ran.
    """

    state: State
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Containment:
    """What this system allows.

    Attributes:
        walls: What cells are made of; None if there can be none.
        sentence: The same for a reader, with what it does not stop.
    """

    walls: Walls | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence


_SENTENCES: Final[dict[Walls, str]] = {
    "namespaces": "namespaces of its own for users, processes, network, IPC and mounts, with Python and the system's "
    "libraries read-only and an empty folder in memory; seccomp: no other process, no socket",
    "landlock": "Landlock and seccomp: no other process, no thread, no socket, no signal, no file written, none read but "
    "Python's and the system's libraries; whether a path exists is not hidden",
}
# What must be barred is tried, not believed; and the modules with libraries of their own must be there.
_PROBE: Final = """
import ctypes, hashlib, math, os, random, socket, tempfile
for barred in (os.fork, socket.socket, lambda: open("/probe", "w"), lambda: open("/proc/%d/environ"), lambda: os.kill(%d, 0)):
    try:
        barred()
    except OSError:
        continue
    raise RuntimeError("a wall does not hold")
"""


@cache
def containment() -> Containment:
    """What programs are contained by on this system; tried once, with a program that attempts what is barred."""
    if not sys.platform.startswith("linux"):
        return Containment(
            None, f"nothing contains programs on this system: that needs Linux, and this is {sys.platform}"
        )
    causes: list[str] = []
    for walls, sentence in _SENTENCES.items():
        trial = probe(walls)
        if trial.state == "passed":
            return Containment(walls, "; ".join([sentence, *causes]))
        causes.append(f"no {walls}: {trial.detail}")
    return Containment(None, "; ".join(["nothing contains programs on this system", *causes]))


@cache
def probe(walls: Walls) -> Outcome:
    """How a program ends that attempts what these walls bar: it passes if all of them hold. Tried once."""
    job = _Job(_PROBE % (os.getpid(), os.getpid()), DEFAULT_LIMITS, walls)
    while not job.done:
        _wait([job])
    return job.outcome


class _Job:
    """One program, and the cell that it runs in."""

    def __init__(self, program: str, limits: Limits, walls: Walls | None) -> None:
        self.outcome = Outcome("not run", "interrupted", 0.0)
        self.done = False
        if not program.strip():
            self._end("not run", "the program is empty")
            return
        if walls is None:
            self._end("not run", str(containment()))
            return
        self._folder = tempfile.TemporaryDirectory(prefix="bytelm-cell-")
        self.deadline = time.monotonic() + limits.wall_seconds + GRACE
        try:
            # With PYTHONHASHSEED, sets of strings have one order in all runs. -I would ignore it: it is -P -s -E.
            self._cell = subprocess.Popen(  # noqa: S603  # our own file
                [sys.executable, "-P", "-s", "-S", "-X", "utf8", str(CELL), self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
            )
        except OSError as error:
            self._folder.cleanup()
            self._end("not run", f"no cell could be started: {error}")
            return
        self._request = cast("IO[bytes]", self._cell.stdin)
        self.answer = cast("IO[bytes]", self._cell.stdout)
        request = {"program": program, "limits": asdict(limits), "walls": walls}
        with suppress(BrokenPipeError):  # a cell that could not start says why
            self._request.write(json.dumps(request).encode() + b"\n")
            self._request.flush()

    def finish(self) -> None:
        """Take the answer, killing the program if there is none yet; nothing of it is left afterwards.

        It may be called again after it was interrupted.
        """
        if self.done:
            return
        with suppress(BrokenPipeError):
            self._request.close()  # at which the cell kills its program
        answer = b""
        if not self.answer.closed and wait([self.answer.fileno()], 5.0):
            answer = self.answer.read()
        # A group lives as long as one of its members, and the program cannot leave it. Before the cell is reaped: until
        # then nothing else has its number.
        if self._cell.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._cell.pid, signal.SIGKILL)
            self._cell.wait()
        self.answer.close()
        self._folder.cleanup()
        try:
            ended = json.loads(answer)
            self._end(ended["state"], ended["detail"], ended["seconds"])
        except ValueError:
            lines = answer.decode("utf-8", "replace").split("\n") if answer else ["no answer"]
            self._end("not run", f"the cell failed: {' '.join(lines)[-LONGEST_DETAIL:]}")

    def _end(self, state: State, detail: str, seconds: float = 0.0) -> None:
        printable = "".join(letter if letter.isprintable() else " " for letter in detail)
        self.outcome = Outcome(state, printable[:LONGEST_DETAIL].strip(), seconds)
        self.done = True


def _wait(jobs: Iterable[_Job]) -> None:
    """Wait until a job can be finished, and finish all that can be."""
    running = {job.answer.fileno(): job for job in jobs if not job.done}
    soonest = min(job.deadline for job in running.values())
    ready = wait(running, max(0.0, soonest - time.monotonic()))
    for answer, job in running.items():
        if answer in ready or time.monotonic() >= job.deadline:
            job.finish()


def run_contained(program: str, *, limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Run one program and say how it ended.

    Args:
        program: Python source. It runs in a module called "program", with the standard library alone.
        limits: What it may use.

    Returns:
        How it ended; "not run" with the cause where nothing can contain it.

    Example:
        >>> run_contained("assert 1 + 1 == 3").detail
        'AssertionError'
    """
    (outcome,) = run_all([program], limits=limits)
    return outcome


def run_all(
    programs: Iterable[str], *, workers: int = 1, limits: Limits = DEFAULT_LIMITS
) -> Generator[Outcome, None, None]:
    """Run programs, some at a time, and give their outcomes in the order of the programs.

    Lazily: a program is started when a worker is free for it while outcomes are asked for. When the iterator is closed,
    or anything is raised while it waits (Ctrl-C), all that runs is killed.

    Args:
        programs: Python sources.
        workers: How many run at once.
        limits: What each may use.

    Raises:
        InvalidArgumentError: Fewer than one worker.
    """
    if workers < 1:
        raise InvalidArgumentError(f"workers must be at least 1: {workers!r}")
    return _outcomes(iter(programs), workers, limits)


def _outcomes(programs: Iterator[str], workers: int, limits: Limits) -> Generator[Outcome, None, None]:
    walls = containment().walls
    jobs: deque[_Job] = deque()
    more = True
    try:
        while more or jobs:
            if jobs and jobs[0].done:
                yield jobs.popleft().outcome
            elif more and sum(not job.done for job in jobs) < workers:
                program = next(programs, None)
                more = program is not None
                if program is not None:
                    jobs.append(_Job(program, limits, walls))
            else:
                _wait(jobs)
    finally:
        for job in jobs:
            job.finish()
