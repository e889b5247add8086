"""What a byte costs outside the model: ``python -m evals.cost.core``.

Method
    A case writes some bytes after each of a batch of prompts. It runs once to record the rows that it asks for
    (replay.py), and then some rounds in which they are replayed; what these take beside the replaying is the byte
    layer's own CPU time, of one thread. Tables that are made once for a tokenizer are there before; all that is kept of
    texts is dropped before each round.
The unit
    R is the time of ``np.exp(row).sum()`` over one float32 row of the vocabulary: what a sampler over tokens pays for a
    token at least. It is measured before and after each round, so that a slow moment slows both. A case's figure is the
    median of its rounds.
Cases
    Bytes alone; an infill, in left mode where the model has no format for it; two members, the second of which is the
    same model with flatter rows. Where genlm-bytes is installed, its beam too (peers.py): greedily, a prompt at a time.
Against another version
    ``--against PYTHON`` runs each case in that environment too, right after this one, on the same recorded rows. The
    ratio is theirs to ours, each in the R of its own rounds.
Stages
    ``--stages`` profiles one more round of each case, and tells the share of each part of the package. What numpy and
    Python's own functions take counts to the part that calls them. A profile slows calls, not arrays: read it as a hint.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from bytelm.errors import BytelmError
from evals.cost.peers import installed_peers
from evals.cost.prompts import PROMPTS
from evals.cost.replay import Replayed
from evals.report.command import at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer, draw_bars
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, table

ROOT: Final = Path(__file__).resolve().parents[2]
CASES: Final[dict[str, dict[str, Any]]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {"temperature": 1.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "top-k 40": {"temperature": 1.0, "top_k": 40},
    "min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "T 0.8 top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "infill": {"temperature": 1.0},
    "mixture": {"temperature": 1.0},
    "bayes": {"temperature": 1.0},
    "product": {"temperature": 1.0},
}
ENSEMBLES: Final = ("mixture", "bayes", "product")
WARMTH: Final = 1.5  # of an ensemble's second member: another model on the same vocabulary
MOST: Final = 200  # bytes after one prompt


def prompts_of(batch: int) -> list[str]:
    """So many prompts, no two alike."""
    return [
        PROMPTS[i % len(PROMPTS)] if i < len(PROMPTS) else f"{i}. {PROMPTS[i % len(PROMPTS)]}" for i in range(batch)
    ]


def work_of(case: str, engine: Any, batch: int, size: int) -> tuple[list[Replayed], Callable[[], int]]:
    """The engines that a case asks, and what runs it once and tells how many bytes were written."""
    from bytelm import ByteLM, Ensemble

    engines = [Replayed(engine)]
    if case not in CASES:
        peer = installed_peers()[case](lambda ids: engines[0].next_token_logprobs([ids])[0], engine.tokenizer)
        return engines, lambda: sum(len(peer.complete(prompt.encode(), size)) for prompt in prompts_of(batch))
    prompts: list[Any] = list(prompts_of(batch))
    options = {"max_bytes": size, "seed": 0, **CASES[case]}
    lm: Any = ByteLM(engines[0])
    formula: Any = case
    if case in ENSEMBLES:
        engines.append(Replayed(engine, warmth=WARMTH))
        lm = Ensemble([lm, ByteLM(engines[1])], combine=formula)

    mode = "auto" if _can_infill(lm) else "left"

    def run() -> int:
        lm.clear_cache()
        if case == "infill":
            done = lm.infill_batch([(prompt, "\n") for prompt in prompts], mode=mode, **options)
        else:
            done = lm.sample_batch(prompts, **options)
        return sum(len(completion.bytes) for completion in done)

    return engines, run


def _can_infill(lm: Any) -> bool:
    try:
        lm.infill("", "", max_bytes=0)
    except BytelmError:
        return False
    return True


def unit(rows: Sequence[Any]) -> float:
    """R in seconds: the median over some rows and repeats."""
    times = []
    for row in [*rows] * 8:
        start = time.perf_counter()
        np.exp(row).sum()
        times.append(time.perf_counter() - start)
    return median(times)


def measured(case: str, engine: Any, batch: int, size: int, rounds: int, rows: Path, *, stages: bool) -> dict[str, Any]:
    """One case in this environment, on the rows that a folder keeps."""
    engines, run = work_of(case, engine, batch, size)
    for number, each in enumerate(engines):
        each.read(rows / str(number))
    run()
    for number, each in enumerate(engines):
        each.write(rows / str(number))
    some = engines[0].sample(16)
    found = []
    written = calls = asked = 0
    for _ in range(rounds):
        gc.collect()
        for each in engines:
            each.cpu_seconds, each.calls, each.asked = 0.0, 0, 0
        before = unit(some)
        start = time.thread_time()
        written = run()
        seconds = time.thread_time() - start - sum(each.cpu_seconds for each in engines)
        r = (before + unit(some)) / 2
        calls, asked = (sum(getattr(each, name) for each in engines) for name in ("calls", "asked"))
        found.append((seconds / written, r))
    return {
        "case": case,
        "batch": batch,
        "bytes": written,
        "calls": calls,
        "rows": asked,
        "seconds_per_byte": median(seconds for seconds, _ in found),
        "r_seconds": median(r for _, r in found),
        "r_per_byte": median(seconds / r for seconds, r in found),
        **({"stages": shares(run)} if stages else {}),
    }


def shares(run: Callable[[], Any]) -> dict[str, float]:
    """The share of each part of bytelm in the CPU time of a run, the replaying left out."""
    profile = cProfile.Profile()
    profile.runcall(run)
    spent: defaultdict[str, float] = defaultdict(float)
    stats: dict[Any, Any] = vars(pstats.Stats(profile))["stats"]
    parts = {function: _part(function[0]) for function in stats}

    known: dict[Any, dict[str, float]] = {}

    def of(function: Any) -> dict[str, float]:
        """The parts that a function works for, as shares of its time."""
        if function not in known:
            known[function] = {parts[function] or "other": 1.0}  # for as long as it is looked for, and in a circle
            if not parts[function]:
                known[function] = of_callers(function)
        return known[function]

    def of_callers(function: Any) -> dict[str, float]:
        callers = {caller: values[2] for caller, values in stats[function][4].items()}
        whole = sum(callers.values())
        found: defaultdict[str, float] = defaultdict(float)
        for caller, own in callers.items():
            for part, share in of(caller).items():
                found[part] += share * (own / whole if whole else 1 / len(callers))
        return found or {"other": 1.0}

    for function, (_, _, own, _, _) in stats.items():
        for part, share in of(function).items():
            spent[part] += share * own
    spent.pop("engine", None)
    whole = sum(spent.values())
    return {part: spent[part] / whole for part in sorted(spent, key=spent.__getitem__, reverse=True)}


def _part(file: str) -> str:
    """The part of the package that a file belongs to; nothing for a file from elsewhere."""
    path = Path(file)
    if path.name == "replay.py":
        return "engine"
    names = path.with_suffix("").parts
    where = max((i for i, name in enumerate(names) if name == "bytelm"), default=-1)
    return ".".join(names[where + 1 :]) if where >= 0 and "evals" not in names[where:] else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases and print a table."""
    parser = command("evals.cost.core", __doc__)
    parser.add_argument(
        "--models", default="demo,demo-gemma", help="folders, hub ids, packaged models (default %(default)s)"
    )
    parser.add_argument("--cases", default=",".join(CASES), help="which cases to run (default: all)")
    parser.add_argument("--batches", default="1,32,256", help="prompts that run together (default %(default)s)")
    parser.add_argument(
        "--bytes",
        type=int,
        default=3200,
        help=f"bytes to write in all, at most {MOST} after each prompt (default %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="replays of each case (default %(default)s)")
    parser.add_argument(
        "--against", metavar="PYTHON", help="run each case also with this Python, which has another version of bytelm"
    )
    parser.add_argument("--stages", action="store_true", help="show the share of each part of the package")
    add_output_options(parser)
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "rounds")
    if options.alone:
        print(json.dumps(_alone(**options.alone)))
        return 0
    cases = chosen(parser, "case", options.cases, [*CASES, *installed_peers()])
    batches = [int(number) for number in chosen(parser, "batch", options.batches, [str(2**i) for i in range(13)])]
    return answer(options, lambda: _measure(options, cases, batches, words), show=_show, plot=_plot)


def _alone(model: str, case: str, batch: int, size: int, rounds: int, rows: str, *, stages: bool) -> dict[str, Any]:
    from bytelm.engines.transformers.engine import load
    from bytelm.packaged import is_packaged, packaged_directory

    set_threads(1)
    engine = load(str(packaged_directory(model)) if is_packaged(model) else model)
    return measured(case, engine, batch, size, rounds, Path(rows), stages=stages)


def _measure(
    options: argparse.Namespace, cases: Sequence[str], batches: Sequence[int], words: Sequence[str]
) -> dict[str, Any]:
    rows = []
    jobs = [(model, batch, case) for model in options.models.split(",") for batch in batches for case in cases]
    for model, batch, case in tracked(jobs, "cases"):
        with TemporaryDirectory() as folder:
            size = max(1, min(MOST, options.bytes // batch))
            job = {"model": model, "case": case, "batch": batch, "size": size, "rounds": options.rounds, "rows": folder}
            row = {"model": model, **_run(sys.executable, job | {"stages": options.stages})}
            if options.against and case in CASES:
                row["against"] = _run(options.against, job | {"stages": False})
        rows.append(row)
    return {
        "command": command_of("evals.cost.core", words),
        "machine": machine(1),
        "versions": versions(*(["genlm-bytes"] if {*cases} - {*CASES} else []), python=True),
        "rows": rows,
    }


def _run(python: str, job: dict[str, Any]) -> dict[str, Any]:
    """A case in a process of its own; bytelm is that of the environment, evals/ is this one.

    The checkout comes last on the path, behind what is installed.
    """
    start = (
        f"import sys; sys.path.append({str(ROOT)!r}); "
        "from evals.cost.core import main; sys.exit(main(['--alone', sys.argv[1]]))"
    )
    words = [python, "-P", "-c", start, json.dumps(job)]
    # What this process was told to import, the other environment is not.
    around = {name: value for name, value in os.environ.items() if python == sys.executable or name != "PYTHONPATH"}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=around)  # noqa: S603 - the user's own interpreter
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _show(result: dict[str, Any]) -> None:
    """Print a table for each model."""
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        versus = any("against" in row for row in rows)
        r = median(row["r_seconds"] for row in rows)
        made = table(
            f"{model}: CPU time a byte outside the model; R is {1e6 * r:.0f} µs",
            ["case", "batch", "bytes", "calls", "µs a byte", "R a byte", *(["R before", "faster"] if versus else [])],
        )
        for row in rows:
            cells = [
                f"{row['bytes']:,}",
                f"{row['calls']:,}",
                f"{1e6 * row['seconds_per_byte']:.0f}",
                f"{row['r_per_byte']:.2f}",
            ]
            if other := row.get("against"):
                cells += [f"{other['r_per_byte']:.2f}", f"{other['r_per_byte'] / row['r_per_byte']:.2f}"]
            made.add_row(row["case"], str(row["batch"]), *cells)
        console().print(made)
        for row in rows:
            if stages := row.get("stages"):
                told = ", ".join(f"{part} {share:.0%}" for part, share in stages.items() if share >= 0.02)
                console().print(f"{row['case']}, batch {row['batch']}: {told}")


def _plot(result: dict[str, Any], path: Path) -> None:
    """R a byte of each case, at the largest batch."""
    most = max(row["batch"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["batch"] == most]
    columns = {"R a byte": [row["r_per_byte"] for row in rows]}
    title = f"CPU time outside the model, batch {most}"
    draw_bars(path, [f"{row['model']}, {row['case']}" for row in rows], columns, title=title)


if __name__ == "__main__":
    sys.exit(main())
