"""Random tokenizers against the definition: ``python -m evals.fuzz [--seconds N] [--seed S] [--family …]``.

families.py draws the tokenizers, definition.py says what they do, compare.py compares bytelm with it, and minimise.py
makes what fails small.

Rules
    The families take turns, so that a run of any length tries them alike. A case is known by its family and number.
    ``--out`` is written after each finding and every few seconds, whole; with ``--resume`` a run goes on behind it.
    Ctrl-C ends a run with its table.
    Each case is tried on a thread of its own. The tokenizers library keeps what it has cached for a tokenizer as long as
    the thread lives, though the tokenizer is gone: a megabyte a case.
    It fails if there is a finding, or if the draws of a family do not follow the rows.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Final, TypeVar
from unittest.mock import patch

from evals.fuzz.case import Case
from evals.fuzz.compare import SLOW, Finding, UnbuiltError, compare
from evals.fuzz.families import FAMILIES, LONG, LONG_EVERY, drawn
from evals.fuzz.minimise import SECONDS, lines_of, minimise, signature
from evals.report.command import at_least, chosen, command, words_of
from evals.report.output import Result, add_output_options, answer, read_result, write_result
from evals.report.progress import bar
from evals.report.records import RecordsError, command_of
from evals.report.surroundings import versions
from evals.report.tables import console, print_line, table

EVERY: Final = 10.0  # seconds between two writings of the result
MINIMISED: Final = 4  # findings of a kind and family that are minimised
KEPT: Final = 12  # of them that are kept; the others are counted
SEARCHED_SMALL: Final = 1000  # texts by chance for a witness, while a finding is minimised
UNLIKELY: Final = 1e-6  # draws this far from uniform are a failure

T = TypeVar("T")

COUNTS: Final = ("cases", "not built", "refused", "prefixes", "rows", "found")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try random tokenizers; 1 when anything disagrees."""
    parser = command("evals.fuzz", __doc__)
    add = parser.add_argument
    add("--seconds", type=int, help="stop after this many seconds")
    add("--cases", type=int, help="stop after this many tokenizers (default: 400, if --seconds is not given)")
    add("--seed", type=int, default=0)
    add("--family", default=",".join(FAMILIES), help="families, separated by commas (default: all)")
    add(
        "--long",
        action="store_true",
        help=f"only tokenizers that are given {LONG} of one character: one in {LONG_EVERY}",
    )
    add("--minimise", type=float, default=SECONDS, help="seconds to make one finding small (default %(default)s)")
    add(
        "--slow",
        type=float,
        default=SLOW,
        help="seconds of one tokenizer that are a finding (default %(default)s)",
    )
    add_output_options(parser, plot=None)
    add("--resume", action="store_true", help="continue the file of --out; the settings must be the same")
    add("--join", nargs="+", type=Path, metavar="FILE", help="run nothing; join these results of different families")
    words = words_of(arguments)
    options = parser.parse_args(words)
    options.family = chosen(parser, "family", options.family, list(FAMILIES))
    at_least(parser, options, "seconds", "cases")
    run = functools.partial(joined, options.join, words) if options.join else functools.partial(measure, options, words)
    return answer(options, run, show=show, failed=failed)


def measure(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """Try cases until the time or the number is reached, or until Ctrl-C."""
    settings = {"seed": options.seed, "families": options.family} | ({"long": True} if options.long else {})
    record = _begun(options, settings, words)
    ends = None if options.seconds is None else time.monotonic() + options.seconds
    last = options.cases or (400 if ends is None else None)
    written = time.monotonic()
    with ExitStack() as stack:
        if not os.environ.get("BYTELM_CACHE"):  # thousands of tokenizers need not stay in the user's
            folder = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))  # Ctrl-C leaves a case running
            stack.enter_context(patch.dict(os.environ, BYTELM_CACHE=folder))
        stack.enter_context(patch.dict(os.environ, TOKENIZERS_PARALLELISM="false"))
        shown = stack.enter_context(bar())
        task = shown.add_task("tokenizers", total=last, completed=record["done"])
        try:
            while (last is None or record["done"] < last) and (ends is None or time.monotonic() < ends):
                found = _tried(record, options)
                record["done"] += 1
                shown.update(task, completed=record["done"], description=f"tokenizers, {_found(record)} found")
                if options.out is not None and (found or time.monotonic() > written + EVERY):
                    _write(record, options.out)
                    written = time.monotonic()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return record


def joined(paths: Sequence[Path], words: Sequence[str]) -> Result:
    """The results of several runs of other families as one.

    Raises:
        RecordsError: They were made with other seeds or versions, or have a family twice.
    """
    records = [read_result(argparse.Namespace(read=path)) for path in paths]
    first = records[0]
    families: dict[str, Any] = {}
    for path, record in zip(paths, records, strict=True):
        made, begun = (record["settings"]["seed"], record["versions"]), (first["settings"]["seed"], first["versions"])
        if made != begun or families.keys() & record["families"].keys():
            raise RecordsError(f"{path} has another seed, other versions, or a family that another result has")
        families |= record["families"]
    return {
        "command": command_of("evals.fuzz", words),
        "commands": [record["command"] for record in records],
        "settings": {**first["settings"], "families": list(families)},
        "versions": first["versions"],
        "done": sum(record["done"] for record in records),
        "families": families,
        "findings": [finding for record in records for finding in record["findings"]],
    }


def _begun(options: argparse.Namespace, settings: dict[str, Any], words: Sequence[str]) -> Result:
    """The record to go on with: an empty one, or that of ``--out``."""
    found = versions(python=True)
    if options.resume and options.out is not None and options.out.exists():
        record: Result = json.loads(options.out.read_text(encoding="utf-8"))
        if (record["settings"], record["versions"]) != (settings, found):
            raise RecordsError(
                f"{options.out} is from a run with other settings or versions; give another file with --out"
            )
        return record | {"command": command_of("evals.fuzz", words)}
    return {
        "command": command_of("evals.fuzz", words),
        "settings": settings,
        "versions": found,
        "done": 0,
        "families": {
            name: dict.fromkeys(COUNTS, 0)
            | {"seconds": 0.0, "slowest": 0.0, "draws": [0] * 10, "refusals": {}, "kinds": {}}
            for name in options.family
        },
        "findings": [],
    }


def _tried(record: Result, options: argparse.Namespace) -> bool:
    """Try the next case and count it; whether anything was found."""
    names = record["settings"]["families"]
    name, number = names[record["done"] % len(names)], record["done"] // len(names)
    counts = record["families"][name]
    if record["settings"].get("long"):
        number = LONG_EVERY * (number + 1) - 1
    case = drawn(name, options.seed, number)
    counts["cases"] += 1
    try:
        outcome = apart(lambda: compare(case, seed=number, slow=options.slow))
    except UnbuiltError:
        counts["not built"] += 1
        return False
    if outcome.refused is not None:
        reason = reason_of(outcome.refused)
        counts["refused"] += 1
        counts["refusals"][reason] = counts["refusals"].get(reason, 0) + 1
    counts["prefixes"] += outcome.prefixes
    counts["rows"] += outcome.rows
    counts["found"] += bool(outcome.findings)
    counts["seconds"] = round(counts["seconds"] + outcome.seconds, 3)
    counts["slowest"] = round(max(counts["slowest"], outcome.seconds), 2)
    counts["draws"] = [a + b for a, b in zip(counts["draws"], outcome.parts, strict=True)]
    for kind in dict.fromkeys(finding.kind for finding in outcome.findings):
        counts["kinds"][kind] = counts["kinds"].get(kind, 0) + 1
        if counts["kinds"][kind] <= KEPT:
            first = next(finding for finding in outcome.findings if finding.kind == kind)
            small = case
            if counts["kinds"][kind] <= MINIMISED:
                small, first = apart(functools.partial(_minimised, case, first, options))
            found = {"family": name, "number": number, "kind": kind, "signature": signature(small, first)}
            record["findings"].append(found | {"lines": lines_of(small, first), "case": small.as_json()})
    return bool(outcome.findings)


def apart(call: Callable[[], T]) -> T:
    """What a call gives, on a thread of its own."""
    answer: Future[T] = Future()

    def answered() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            answer.set_exception(error)

    thread = Thread(target=answered, daemon=True)
    thread.start()
    thread.join()
    return answer.result()


def _minimised(case: Case, finding: Finding, options: argparse.Namespace) -> tuple[Case, Finding]:
    """The smallest case, looked for with few texts and judged with all: witnesses of a small case may be rare."""
    made, _ = minimise(
        case,
        finding,
        lambda each: compare(each, slow=options.slow, searched=SEARCHED_SMALL).findings,
        seconds=options.minimise,
    )
    same = [found for found in compare(made, slow=options.slow).findings if found.kind == finding.kind]
    return (made, same[0]) if same else (case, finding)


def reason_of(refusal: str) -> str:
    """A refusal without what is of this one tokenizer: quoted text, numbers, and what to do about it."""
    named = re.sub(
        r"'.*'|\".*\"|\(.*\)", "…", refusal.split(":", maxsplit=1)[0] if "pattern" not in refusal else refusal
    )
    return re.sub(r"\d+", "…", named)[:80]


def _write(record: Result, path: Path) -> None:
    whole = path.with_name(path.name + ".part")
    write_result(record, whole)
    whole.replace(path)


def _found(record: Result) -> int:
    return sum(counts["found"] for counts in record["families"].values())


def law(counts: dict[str, Any]) -> float:
    """How likely draws from the rows are so far from uniform: the p-value of a chi-squared test."""
    if sum(counts["draws"]) < 50:
        return 1.0
    from scipy.stats import chisquare

    return float(chisquare(counts["draws"]).pvalue)


def failed(record: Result) -> bool:
    """Whether anything was found."""
    return _found(record) > 0 or any(law(counts) < UNLIKELY for counts in record["families"].values())


def show(record: Result) -> None:
    """The counts by family, why tokenizers were refused, and the findings as lines for a test."""
    made = table("Random tokenizers against the definition", ["family", *COUNTS, "s each", "slowest", "draws, p"])
    for name, counts in record["families"].items():
        each = counts["seconds"] / max(1, counts["cases"])
        made.add_row(
            name,
            *(f"{counts[key]:,}" for key in COUNTS),
            f"{each:.2f}",
            f"{counts['slowest']:.2f}",
            f"{law(counts):.2f}",
        )
    console().print(made)
    for name, counts in record["families"].items():
        for reason, count in sorted(counts["refusals"].items(), key=lambda each: -each[1])[:4]:
            print_line(f"{name}: {count} refused, {reason}")
    for finding in record["findings"]:
        print_line(f"\n# {finding['family']} {finding['number']}: {finding['signature']}")
        print_line(finding["lines"])


if __name__ == "__main__":
    sys.exit(main())
