"""Agreement with the tokenizer itself: ``python -m evals.conformance [TOKENIZER…]``.

What is compared, and how a disagreement is settled: bytelm/testing/tokenizers/trial.py. ``bytelm doctor MODEL --verify`` is
the short form for one model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.progress import track

from bytelm.testing.tokenizers.definition import read_backend
from bytelm.testing.tokenizers.trial import FEW, Report, Trial
from bytelm.tokenizer.viability.viability import Viability
from evals.report.output import write_result
from evals.report.records import command_of

PART = 1000  # prefixes of one task: each reads the tokenizer anew, and all are shared out among the processes


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".xz").removesuffix(".json")


def default_tokenizers() -> list[str]:
    """The tokenizers of the folder that BYTELM_TEST_DATA names."""
    folder = os.environ.get("BYTELM_TEST_DATA")
    return sorted(str(p) for p in (Path(folder) / "tokenizers").glob("*.json*")) if folder else []


COLUMNS = {
    "prefixes": "prefixes",
    "unreachable": "refused",
    "nodes": "nodes",
    "leaves": "leaves",
    "disagreements": "wrong",
    "core_ms_median": "ms / byte",
    "core_ms_p99": "99 %",
    "load_seconds": "load, s",
    "reload_seconds": "again",
}


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The summaries of some reports as a table for the terminal."""
    from rich.table import Table

    made = Table(title="Agreement with the tokenizer itself")
    made.add_column("tokenizer")
    for title in COLUMNS.values():
        made.add_column(title, justify="right")
    refused = [
        f"{row['tokenizer']}: refused, gives back {row['round_trips']:.0%} of texts" for row in rows if row["refused"]
    ]
    made.caption = "\n".join(refused) or None
    for row in rows:
        if row["refused"] is None:
            values = [len(row[key]) if key == "disagreements" else row[key] for key in COLUMNS]
            made.add_row(row["tokenizer"], *map(_cell, values))
    return made


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 when anything disagrees."""
    parser = argparse.ArgumentParser(prog="python -m evals.conformance", description=__doc__.split("\n")[0])
    parser.add_argument("tokenizers", nargs="*", metavar="TOKENIZER", help="tokenizer.json[.xz] files or model folders")
    parser.add_argument(
        "--prefixes", type=int, default=5000, help="distinct prefixes for each tokenizer (default 5000)"
    )
    parser.add_argument(
        "--leaves", type=int, default=FEW, help="leaves for each node where there are many (default 300)"
    )
    parser.add_argument(
        "--effort", type=float, default=1.0, help="multiplies the continuations of a prefix (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--no-lead", action="store_true", help="as after a sentinel: no hidden leading space")
    parser.add_argument("--show", type=int, default=10, help="disagreements to print for each tokenizer (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", type=Path, help="write the JSON to this file as well")
    parser.add_argument("--resume", action="store_true", help="keep what --out holds of a run with the same settings")
    parser.add_argument("--read", type=Path, help="print the table of such a file and do nothing else")
    options = parser.parse_args(arguments)
    if options.read is not None:
        _print(table(json.loads(options.read.read_text(encoding="utf-8"))["tokenizers"]))
        return 0
    paths = options.tokenizers or default_tokenizers()
    if not paths:
        parser.error("name a tokenizer, or set BYTELM_TEST_DATA to a folder that holds tokenizers/")
    settings = {key: getattr(options, key) for key in ("prefixes", "leaves", "effort", "seed", "no_lead")}
    rows = _kept(options.out, settings) if options.resume else {}
    record: dict[str, Any] = {
        "command": command_of("evals.conformance", sys.argv[1:] if arguments is None else arguments),
        "settings": settings,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "numpy")},
    }

    def write() -> dict[str, Any]:
        names = [_label(path, no_lead=options.no_lead) for path in paths]
        record["tokenizers"] = [rows[name] for name in names if name in rows]
        if options.out is not None:
            write_result(record, options.out)
        return record

    todo = [path for path in paths if _label(path, no_lead=options.no_lead) not in rows]
    for report in run(todo, settings, jobs=options.jobs):
        rows[report.tokenizer] = report.summary()
        write()
    found = write()["tokenizers"]
    if options.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        _print(table(found))
        for row in found:
            for wrong in row["disagreements"][: options.show]:
                print(f"{row['tokenizer']}: {wrong}")
    return 1 if any(row["disagreements"] for row in found) else 0


def _kept(path: Path | None, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tokenizers that a run with the same settings has finished, by name."""
    if path is None or not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return {row["tokenizer"]: row for row in record["tokenizers"]} if record.get("settings") == settings else {}


def _print(made: Any) -> None:
    Console(width=None if sys.stdout.isatty() else 120).print(made)


def run(paths: Sequence[str], settings: dict[str, Any], *, jobs: int = 1) -> Iterator[Report]:
    """The reports of several tokenizers, each as soon as it is done; their prefixes are shared out in parts."""
    parts = -(-settings["prefixes"] // PART)
    tasks = [(path, part, parts, settings) for path in paths for part in range(parts)]
    with ExitStack() as stack:
        if jobs > 1:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            done: Iterable[Report] = stack.enter_context(ProcessPoolExecutor(jobs)).map(_part, tasks)
        else:
            done = map(_part, tasks)
        shown = track(done, total=len(tasks), description="parts", console=Console(stderr=True), transient=True)
        whole: Report | None = None
        for (_, part, _, _), report in zip(tasks, shown, strict=True):
            if whole is None:
                whole = report
            else:
                whole.merge(report)
            if part == parts - 1:
                wrong = f"{len(whole.disagreements)} disagreements" if whole.refused is None else "refused"
                told = f"{whole.tokenizer}: {whole.prefixes} prefixes in {whole.seconds:.0f} s, {wrong}"
                print(told, file=sys.stderr, flush=True)
                yield whole
                whole = None


def _part(task: tuple[str, int, int, dict[str, Any]]) -> Report:
    path, part, parts, settings = task
    trial = Trial(
        path,
        _label(path, no_lead=settings["no_lead"]),
        seed=settings["seed"],
        leaves=settings["leaves"],
        effort=settings["effort"],
        dummy_prefix=not settings["no_lead"],
    )
    if part == 0 and trial.viability is not None:
        trial.report.load_seconds, trial.report.reload_seconds = loading_seconds(path)
    return trial.run(-(-settings["prefixes"] // parts), skip=part)


def loading_seconds(path: str) -> tuple[float, float]:
    """Seconds of CPU time to read a tokenizer's structures: with an empty cache folder, and again from that folder."""
    backend, found = read_backend(path), []
    with TemporaryDirectory() as folder, patch.dict(os.environ, BYTELM_CACHE=folder):
        for _ in range(2):
            start = time.process_time()
            Viability.from_tokenizer(backend)
            found.append(round(time.process_time() - start, 2))
    return found[0], found[1]


def _label(path: str, *, no_lead: bool) -> str:
    return _name(path) + (" (no lead)" if no_lead else "")


if __name__ == "__main__":
    sys.exit(main())
