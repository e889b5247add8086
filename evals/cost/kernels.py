"""What compiled kernels over rows would change: ``python -m evals.cost.kernels``, where numba is installed.

bytelm reads its rows by numpy. Here the same is compiled by numba: the sums of a row's tokens by their next byte, in one
pass over the row, and the draw of a token. Everything else stays as it is. Both ways run on the rows that
evals.cost.core replays, one right after the other, in turns first.

Columns
    *numpy*, *numba*: µs of CPU time a byte, outside the model; the median over the rounds. *ratio*: of the two.
    *start*: seconds that a second process takes to import numba, and to have a kernel from numba's cache on top of that.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from evals.cost.core import ROOT, work_of
from evals.report.command import at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

CASES: Final = ("drawn", "top-p 0.9", "greedy")
START: Final = """
import sys, time
sys.path.append(sys.argv[1])
import numpy as np
import bytelm.engines.transformers.engine
from evals.cost.kernels import likely_token
start = time.perf_counter()
import numba
imported = time.perf_counter()
kernel = numba.njit(cache=True)(likely_token)
kernel(0.5, np.zeros(3, np.float32), -1.0)
print(imported - start, time.perf_counter() - imported)
"""


def sums(row: Any, order: Any, lo: int, hi: int, mask: Any, starts: Any) -> Any:
    """The summed probabilities of parts of the ranks ``lo:hi`` under a mask; see `bytelm.cover.nodes.Ranked`."""
    found = np.zeros(len(starts))
    part = 0
    for i in range(hi - lo):
        if part + 1 < len(starts) and i >= starts[part + 1]:
            part += 1
        if mask[i]:
            found[part] += math.exp(row[order[lo + i]])
    return found


def likely_token(uniform: float, row: Any, least: float) -> int:
    """The token on which a number falls, among those above a log-probability; -1 where it is beyond them."""
    reached = 0.0
    for token in range(len(row)):
        if row[token] > least:
            reached += math.exp(row[token])
            if uniform < reached:
                return token
    return -1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both ways and print a table."""
    parser = command("evals.cost.kernels", __doc__)
    parser.add_argument(
        "--models", default="demo,demo-gemma", help="folders, hub ids, packaged models (default %(default)s)"
    )
    parser.add_argument("--cases", default=",".join(CASES), help="which cases to run (default: all)")
    parser.add_argument("--batch", type=int, default=32, help="prompts that run together (default %(default)s)")
    parser.add_argument("--bytes", type=int, default=100, help="bytes after each prompt (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="replays of each case, each way (default %(default)s)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "batch", "bytes", "rounds")
    cases = chosen(parser, "case", options.cases, CASES)
    if not options.read and find_spec("numba") is None:
        parser.error("numba is not installed: pip install numba")
    return answer(options, lambda: _measure(options, cases, words), show=_show)


def _measure(options: argparse.Namespace, cases: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    from bytelm.engines.transformers.engine import load
    from bytelm.packaged import is_packaged, packaged_directory

    set_threads(1)
    jobs = [(model, case) for model in options.models.split(",") for case in cases]
    rows = []
    for model, case in tracked(jobs, "cases"):
        engine = load(str(packaged_directory(model)) if is_packaged(model) else model)
        engines, run = work_of(case, engine, options.batch, options.bytes)
        found: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(2 * options.rounds + 2):  # the first turn of each way records rows, and compiles
            with _compiled() if turn % 2 else _as_it_is():
                engines[0].cpu_seconds = 0.0
                start = time.thread_time()
                written = run()
                seconds = time.thread_time() - start - engines[0].cpu_seconds
            if turn > 1:
                found[bool(turn % 2)].append(seconds / written)
        rows.append({"model": model, "case": case, "numpy": median(found[False]), "numba": median(found[True])})
    return {
        "command": command_of("evals.cost.kernels", words),
        "machine": machine(1),
        "versions": versions("numpy", "numba", python=True),
        "rows": rows,
        "start": _start(),
    }


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _compiled() -> Iterator[None]:
    """Rows read by kernels, for as long as this lasts."""
    from bytelm.engines.rows import drawn_token, least_likely

    numba: Any = importlib.import_module("numba")
    rows: Any = importlib.import_module("bytelm.inference.rows")
    summed, likely = (numba.njit(cache=True)(kernel) for kernel in (sums, likely_token))
    before = rows.ArrayRow.sums, rows.ArrayRow.drawn

    def by_kernel(self: Any, lo: int, hi: int, mask: Any, starts: Any) -> Any:
        reader = self._reader
        return summed(self.given, reader.ranked, lo, hi, reader.spells(lo, hi, mask), starts)

    def drawn(self: Any, uniform: float) -> tuple[int, float]:
        row = self.given
        found = int(likely(uniform, row, least_likely(len(row))))
        token = found if found >= 0 else drawn_token(uniform, row)
        return token, float(row[token])

    rows.ArrayRow.sums, rows.ArrayRow.drawn = by_kernel, drawn
    try:
        yield
    finally:
        rows.ArrayRow.sums, rows.ArrayRow.drawn = before


def _start() -> dict[str, float]:
    """What a second process pays for numba, and for a kernel from its cache."""
    told = ""
    with TemporaryDirectory() as folder:
        for _ in range(2):
            words, around = [sys.executable, "-c", START, str(ROOT)], os.environ | {"NUMBA_CACHE_DIR": folder}
            told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=around).stdout  # noqa: S603 - this interpreter
    imported, kernel = map(float, told.split())
    return {"import_seconds": imported, "kernel_seconds": kernel}


def _show(result: dict[str, Any]) -> None:
    shown = table("CPU time a byte outside the model, µs", ["model", "case", "numpy", "numba", "ratio"])
    for row in result["rows"]:
        micros = (f"{1e6 * row[name]:.0f}" for name in ("numpy", "numba"))
        shown.add_row(row["model"], row["case"], *micros, f"{row['numba'] / row['numpy']:.2f}")
    console().print(shown)
    start = result["start"]
    print_line(f"a second start: numba {start['import_seconds']:.2f} s, a kernel {start['kernel_seconds']:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
