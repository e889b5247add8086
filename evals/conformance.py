"""Agreement with the tokenizer itself: ``python -m evals.conformance [TOKENIZER…]``.

bytelm/testing/tokenizers/trial.py says what is compared, and how a disagreement is judged. ``bytelm doctor MODEL
--verify`` is the short form for one model.
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

from bytelm.testing.tokenizers.definition import read_backend
from bytelm.testing.tokenizers.trial import FEW, TokenizerReport, TokenizerTrial
from bytelm.tokenizer.viability.viability import Viability
from evals.report.command import command, words_of
from evals.report.output import Result, add_output_options, answer, write_result
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.tables import console, table

PART = 1000  # prefixes of one task of a process; each task reads the tokenizer again


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


def made_table(rows: Sequence[dict[str, Any]]) -> Any:
    """The summaries of reports as a table, with refused tokenizers below it."""
    made = table("Agreement with the tokenizer itself", ["tokenizer", *COLUMNS.values()])
    refused = [
        f"{row['tokenizer']}: refused, gives back {row['round_trips']:.0%} of texts" for row in rows if row["refused"]
    ]
    made.caption = "\n".join(refused) or None
    made.caption_justify = "left"
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
    parser = command("evals.conformance", __doc__)
    add = parser.add_argument
    add("tokenizers", nargs="*", metavar="TOKENIZER", help="tokenizer.json[.xz] files or model folders")
    add("--prefixes", type=int, default=5000, help="different prefixes for each tokenizer (default 5000)")
    add("--leaves", type=int, default=FEW, help="leaves for each node with many leaves (default %(default)s)")
    add(
        "--effort",
        type=float,
        default=1.0,
        help="multiplies the number of continuations tried for each prefix (default 1)",
    )
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=1, help="number of processes (default 1)")
    add("--no-lead", action="store_true", help="no hidden leading space, as after a sentinel")
    add("--show", type=int, default=10, help="most disagreements to print for each tokenizer (default 10)")
    add_output_options(parser, plot=None)
    add("--resume", action="store_true", help="continue the file of --out; the settings must be the same")
    words = words_of(arguments)
    options = parser.parse_args(words)
    options.tokenizers = options.tokenizers or default_tokenizers()
    if options.read is None and not options.tokenizers:
        parser.error("name a tokenizer, or set BYTELM_TEST_DATA to a folder that holds tokenizers/")

    def show(record: Result) -> None:
        console().print(made_table(record["tokenizers"]))
        for row in record["tokenizers"]:
            for wrong in row["disagreements"][: options.show]:
                print(f"{row['tokenizer']}: {wrong}")

    return answer(
        options,
        lambda: _measure(options, words),
        show=show,
        failed=lambda record: any(row["disagreements"] for row in record["tokenizers"]),
    )


def _measure(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """Try each tokenizer that the record lacks, and write the record after each."""
    settings = {key: getattr(options, key) for key in ("prefixes", "leaves", "effort", "seed", "no_lead")}
    rows = _kept(options.out, settings) if options.resume else {}
    names = [_label(path, no_lead=options.no_lead) for path in options.tokenizers]
    record: Result = {
        "command": command_of("evals.conformance", words),
        "settings": settings,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokenizers", "transformers", "numpy")},
        "tokenizers": [rows[name] for name in names if name in rows],
    }
    todo = [path for path, name in zip(options.tokenizers, names, strict=True) if name not in rows]
    for report in run(todo, settings, jobs=options.jobs):
        rows[report.tokenizer] = report.summary()
        record["tokenizers"] = [rows[name] for name in names if name in rows]
        if options.out is not None:
            write_result(record, options.out)
    return record


def _kept(path: Path | None, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The finished tokenizers in a record with the same settings, by name."""
    if path is None or not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return {row["tokenizer"]: row for row in record["tokenizers"]} if record.get("settings") == settings else {}


def run(paths: Sequence[str], settings: dict[str, Any], *, jobs: int = 1) -> Iterator[TokenizerReport]:
    """The reports of several tokenizers, each as soon as it is done; the processes share the prefixes in parts."""
    parts = -(-settings["prefixes"] // PART)
    tasks = [(path, part, parts, settings) for path in paths for part in range(parts)]
    with ExitStack() as stack:
        if jobs > 1:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            done: Iterable[TokenizerReport] = stack.enter_context(ProcessPoolExecutor(jobs)).map(_part, tasks)
        else:
            done = map(_part, tasks)
        shown = tracked(done, "parts", total=len(tasks))
        whole: TokenizerReport | None = None
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


def _part(task: tuple[str, int, int, dict[str, Any]]) -> TokenizerReport:
    path, part, parts, settings = task
    trial = TokenizerTrial(
        path,
        _label(path, no_lead=settings["no_lead"]),
        seed=settings["seed"],
        leaves=settings["leaves"],
        effort=settings["effort"],
        dummy_prefix=not settings["no_lead"],
    )
    if part == 0 and trial.report.refused is None:
        trial.report.load_seconds, trial.report.reload_seconds = loading_seconds(path)
    return trial.run(-(-settings["prefixes"] // parts), skip=part)


def loading_seconds(path: str) -> tuple[float, float]:
    """CPU seconds to build a tokenizer's structures: with an empty cache folder, and again from the cache."""
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
