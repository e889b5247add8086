"""Programs in the cell, as tests run them: behind each kind of walls, with a look at what remains."""

from __future__ import annotations

import contextlib
import os
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from evals.sandbox import run as contained
from evals.sandbox.run import Containment, Limits, Outcome, Walls, run_contained

Run = Callable[..., Outcome]

FOREVER = "import time\nwhile True: time.sleep(1)"


@pytest.fixture(params=get_args(Walls))
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Walls:
    """Each kind of walls in turn, if this system has it."""
    kind: Walls = request.param
    trial = contained.probe(kind)
    if trial.state == "not run":
        pytest.skip(f"this system does not allow {kind}: {trial.detail}")
    assert trial == Outcome("passed", "", trial.seconds)  # walls that stand and do not hold are no reason to skip
    monkeypatch.setattr(contained, "containment", lambda: Containment(kind, kind))
    return kind


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the cells have theirs; its path is on the command line of all of their processes."""
    folder = tmp_path / "cells"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def remains(folder: Path) -> list[object]:
    """What is there of the cells in a folder: processes that name it, and folders within."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()) and process.pid != os.getpid():
                processes.append(process)
    return [*processes, *folder.iterdir()]


def nothing_remains(folder: Path, *, within: float = 5.0) -> bool:
    """Whether nothing is left of the cells in a folder, after a while."""
    end = time.monotonic() + within
    while remains(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def looking(cells: Path) -> Run:
    def run_and_look(program: str, **limits: Any) -> Outcome:
        outcome = run_contained(textwrap.dedent(program), limits=Limits(**limits))
        assert remains(cells) == []
        return outcome

    return run_and_look


@pytest.fixture
def run(walls: Walls, cells: Path) -> Run:
    """Run a program behind each kind of walls, and see that nothing of it remains."""
    return looking(cells)


@pytest.fixture
def run_once(cells: Path) -> Run:
    """The same behind the walls that this system prefers, for what does not depend on them."""
    if contained.containment().walls is None:
        pytest.skip(str(contained.containment()))
    return looking(cells)
