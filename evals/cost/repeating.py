"""Holes in files that repeat themselves: what drafts by lookup are good for.

Rules
    Cursors are those of the benchmark *cursor* (evals/fim/cursors.py), with 2 kB before and 1 kB behind. Of each file the
    cursor counts whose surroundings a compressor makes smallest. The files are taken in that order.
    Without paths the files are those of `PACKAGES`, as they are installed.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from evals.fim.cursors import load_cursors
from evals.fim.problems import Problem
from evals.report.errors import DataError

PACKAGES: Final = ("urllib3", "tqdm", "typer", "markdown_it")
BEFORE: Final = 2048
AFTER: Final = 1024
CURSORS: Final = 1000  # that are looked at


def repeating_holes(limit: int, paths: Sequence[Path] = ()) -> list[Problem]:
    """So many holes, the one whose surroundings repeat themselves most first.

    Args:
        limit: How many, at most.
        paths: Folders and files to look in.

    Raises:
        DataError: A package is not installed, or no file has enough text.
    """
    cursors = load_cursors(paths or [_folder(name) for name in PACKAGES], limit=CURSORS, before=BEFORE, after=AFTER)
    whole = [each for each in cursors.problems if len(each.prefix) > BEFORE // 2 and len(each.suffix) > AFTER // 2]
    best: dict[str, Problem] = {}
    for problem in sorted(whole, key=repetition):
        best.setdefault(problem.group, problem)
    if not best:
        raise DataError(f"no file has {BEFORE} bytes before a cursor and {AFTER} behind it: give others with --data")
    return list(best.values())[:limit]


def repetition(problem: Problem) -> float:
    """What a compressor leaves of the text around a hole."""
    text = problem.prefix + problem.suffix
    return len(zlib.compress(text, 9)) / len(text)


def _folder(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"{name} is not installed, and its files are the holes: pip install {name}, or give --data")
    return Path(found.submodule_search_locations[0])
