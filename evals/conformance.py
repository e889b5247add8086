"""Agreement with the tokenizer itself: ``python -m evals.conformance [TOKENIZER…]``.

What is compared, and how a disagreement is settled: bytelm/verification/trial.py. ``bytelm doctor MODEL --verify`` is
the short form for one model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bytelm.verification.trial import FEW, Report, Trial


def _part(task: tuple[str, int, int, int, int, float, bool]) -> Report:
    path, count, skip, seed, leaves, effort, lead = task
    trial = Trial(
        path, _name(path) + ("" if lead else " (no lead)"), seed=seed, leaves=leaves, effort=effort, lead=lead
    )
    return trial.run(count, skip=skip)


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".xz").removesuffix(".json")


def default_tokenizers() -> list[str]:
    """The tokenizers of the folder that BYTELM_TEST_DATA names."""
    folder = os.environ.get("BYTELM_TEST_DATA")
    return sorted(str(p) for p in (Path(folder) / "tokenizers").glob("*.json*")) if folder else []


COLUMNS = {
    "prefixes": "prefixes",
    "unreachable": "unreachable",
    "nodes": "nodes",
    "leaves": "leaves",
    "disagreements": "disagreements",
    "core_ms_median": "ms/byte median",
    "core_ms_p99": "p99",
    "load_seconds": "load s",
}


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The summaries of some reports as a table for the terminal."""
    from rich.table import Table

    made = Table(title="Agreement with the tokenizer itself")
    made.add_column("tokenizer")
    for title in COLUMNS.values():
        made.add_column(title, justify="right")
    for row in rows:
        if row["refused"] is not None:
            made.add_row(row["tokenizer"], "refused", f"gives back {row['round_trips']:.0%} of texts")
            continue
        values = [len(row[key]) if key == "disagreements" else row[key] for key in COLUMNS]
        made.add_row(row["tokenizer"], *("-" if v is None else f"{v:,}" for v in values))
    return made


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
    parser.add_argument("--read", type=Path, help="print the table of such a file and do nothing else")
    options = parser.parse_args(arguments)
    if options.read is not None:
        _print(table(json.loads(options.read.read_text(encoding="utf-8"))["tokenizers"]))
        return 0
    paths = options.tokenizers or default_tokenizers()
    if not paths:
        parser.error("name a tokenizer, or set BYTELM_TEST_DATA to a folder that holds tokenizers/")
    reports = run(
        paths, count=options.prefixes, seed=options.seed, leaves=options.leaves, effort=options.effort,
        jobs=options.jobs, lead=not options.no_lead,
    )  # fmt: skip
    rows = [report.summary() for report in reports]
    record = {
        "command": "python -m evals.conformance "
        + " ".join(map(_name, sys.argv[1:] if arguments is None else arguments)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "numpy")},
        "tokenizers": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        _print(table(rows))
        for report in reports:
            for found in report.disagreements[: options.show]:
                print(f"{report.tokenizer}: {found}")
    return 1 if any(report.disagreements for report in reports) else 0


def _print(made: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(made)


def run(
    paths: Sequence[str],
    *,
    count: int,
    seed: int,
    leaves: int = FEW,
    effort: float = 1.0,
    jobs: int = 1,
    lead: bool = True,
) -> list[Report]:
    """The reports of several tokenizers, in their order; with several processes the prefixes of each are shared out."""
    parts = jobs if len(paths) < jobs else 1
    tasks = [(path, -(-count // parts), part, seed, leaves, effort, lead) for path in paths for part in range(parts)]
    done: list[Report] = []
    if jobs > 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with ProcessPoolExecutor(jobs) as pool:
            for report in pool.map(_part, tasks):
                done.append(report)
                _progress(report)
    else:
        for task in tasks:
            done.append(_part(task))
            _progress(done[-1])
    merged: list[Report] = []
    for (_, _, part, *_), report in zip(tasks, done, strict=True):
        if part:
            merged[-1].merge(report)
        else:
            merged.append(report)
    return merged


def _progress(report: Report) -> None:
    wrong = f"{len(report.disagreements)} disagreements" if report.refused is None else "refused"
    print(
        f"{report.tokenizer}: {report.prefixes} prefixes in {report.seconds:.0f} s, {wrong}",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
