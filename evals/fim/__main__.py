"""Fill in the middle, four methods side by side: ``python -m evals.fim``.

Problems: problems.py (published benchmarks) and cursors.py (your own files). Methods and their cost: methods.py.
Figures: figures.py. The results file: report/records.py. The tables: summary.py.

Resuming
    Each sample is a line of ``--out``, written when it is done. After a kill at any moment the same command with
    ``--resume`` runs what is missing. The lines are the same as without a break, except times.
Modes
    ``--mode all --out NAME.jsonl`` runs every mode that the model knows, each with a file of its own (NAME-spm.jsonl and
    so on), and shows the tables that ``--compare`` shows of them.
Memory
    ``--workers N`` starts N processes, each with its own model.
Execution
    With ``--execute`` the completions are run as programs, contained (sandbox/run.py), after all of them are drawn; and
    only if the published middles pass and wrong ones fail (passing.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final, get_args

from bytelm.byte_lm.fingerprint import digest_of_model
from bytelm.engines.choice import Engine
from bytelm.errors import InvalidArgumentError, NoInfillFormatError
from bytelm.fim import Mode
from evals.fim.cursors import load_cursors
from evals.fim.figures import check_k, figures
from evals.fim.methods import DEFAULT_METHODS, METHODS, Filler, Method, Settings, open_filler
from evals.fim.problems import PUBLISHED, Benchmark, Problem, load_published, with_middle
from evals.report.command import add_engine_options, at_least, chosen, command, set_threads, words_of
from evals.report.progress import bar
from evals.report.records import Line, command_of, exit_status, kept_lines, key_of, read_records
from evals.report.surroundings import processor, versions

ALL: Final = "all"  # modes

Task = tuple[Problem, Method, int, bool]  # the last: whether its cost is counted


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options, checked as far as they can be without data or model."""
    parser = command("evals.fim", __doc__)
    add = parser.add_argument
    add("--model", default="demo", help="a folder, a hub id or a packaged model (default %(default)s)")
    add("--engine", choices=get_args(Engine), default="transformers", help="what runs the model (default %(default)s)")
    add_engine_options(parser)
    add("--benchmark", choices=[*PUBLISHED, "cursor"], default="random-span")
    add(
        "--mode",
        choices=[*get_args(Mode), ALL],
        default="auto",
        help="as for infill (default %(default)s); all: spm, psm and left, as far as the model knows them, one after "
        "the other and then side by side",
    )
    add("--carry", choices=["line", "word", "none"], default="line", help="as for infill (default %(default)s)")
    add(
        "--method",
        default=",".join(DEFAULT_METHODS),
        help="which methods: some of " + ", ".join(METHODS) + " (default %(default)s)",
    )
    add(
        "--temperature",
        type=float,
        default=0.0,
        help="temperature: of bytes for the method byte, of tokens for the others (default 0, greedy)",
    )
    add("--samples", type=int, default=1, metavar="N", help="samples for each problem (default 1)")
    add(
        "--limit",
        type=int,
        metavar="N",
        help="problems, spread over the tasks; cursors in all (default all; cursor: 300)",
    )
    add("--max-bytes", type=int, default=256, metavar="N", help="most bytes of a completion (default %(default)s)")
    add(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="the published file or its folder; cursor: your files or folders",
    )
    add("--glob", default="*.py", help="cursor: which files of a folder to use (default %(default)s)")
    add(
        "--before", type=int, default=1024, metavar="BYTES", help="cursor: of the prefix, at most (default %(default)s)"
    )
    add("--after", type=int, default=512, metavar="BYTES", help="cursor: of the suffix, at most (default %(default)s)")
    add(
        "--context",
        type=int,
        default=0,
        metavar="N",
        help="cursor: other files in view, the beginnings of those next to the cursor's by name (default 0)",
    )
    add(
        "--count",
        type=int,
        metavar="N",
        help="count the cost at N of the problems only, spread over all; at the others the methods share the prompt in "
        "the engine's cache, which is several times as fast (default: at all)",
    )
    add("--seed", type=int, default=0)
    add("--out", type=Path, metavar="FILE", help="the results file: one line for each sample")
    add("--resume", action="store_true", help="continue the file of --out")
    add("--workers", type=int, default=1, metavar="N", help="processes, each with a model of its own (default 1)")
    add(
        "--execute",
        action="store_true",
        help="RUN THE PROGRAMS THAT THE MODEL WROTE, contained as far as this system allows, and count those that pass "
        "their tests",
    )
    add(
        "--k",
        default="1",
        help="with --execute: the k of pass@k, or several, separated by commas (default %(default)s)",
    )
    add(
        "--compare",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="show these results files side by side, each in pairs with the first of the same data, and run nothing",
    )
    add("--short", action="store_true", help="in the tables by class and in pairs, show only the exact methods")
    add("--plot", type=Path, metavar="FILE", help="draw the summary (.png, .svg, .pdf)")
    add("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    options.method = chosen(parser, "method", options.method, METHODS)
    at_least(parser, options, "samples", "max_bytes", "workers", "threads", "count")
    if not 0 <= options.temperature < float("inf"):
        parser.error(f"--temperature must be 0 or more, and finite; got {options.temperature}")
    if options.temperature == 0 and options.samples > 1:
        parser.error(
            "at --temperature 0 all samples of a problem are the same: leave --samples at 1, or raise the temperature"
        )
    if options.temperature > 0 and "likeliest" in options.method:
        parser.error(
            f"the method likeliest does not draw, so --temperature has no effect: leave it out; got {options.temperature}"
        )
    try:
        options.k = [int(k) for k in options.k.split(",")]
    except ValueError:
        parser.error(f"--k takes whole numbers separated by commas; got {options.k!r}")
    if options.context and options.benchmark != "cursor":
        parser.error(f"--context is for --benchmark cursor: {options.benchmark} has no other files")
    if options.compare is None:
        if options.execute and (
            options.benchmark == "cursor" or (options.mode == "left" and options.benchmark != "single-line")
        ):
            parser.error(
                f"--execute has nothing to run for --benchmark {options.benchmark} --mode {options.mode}: cursors have "
                "no tests, and in left mode only single lines have an end"
            )
        if options.execute and options.out is None:
            parser.error("--execute needs --out: it writes there which samples passed")
        if options.mode == ALL and (options.out is None or options.execute):
            parser.error(
                "--mode all needs --out, from which each mode gets a file of its own, and it excludes --execute"
            )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark, or show what was run."""
    words = words_of(arguments)
    options = parsed(words)
    try:
        return exit_status(lambda: _run(options, words), options.out)
    except BrokenProcessPool:
        print(
            "error: a worker process was killed, perhaps for lack of memory: each loads its own model. The lines "
            "written so far are kept. Continue with --resume and fewer --workers",
            file=sys.stderr,
        )
        return 1


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    from evals.fim import summary

    if options.compare:
        runs = [(str(path), *read_records(path)) for path in options.compare]
        summaries = summary.compared(runs, ks=options.k)
    else:
        if options.execute:
            check_k(options.k, options.samples)
        if options.mode == ALL:
            summaries = summary.compared(run_all(options, words), ks=options.k)
        else:
            header, lines = run(options, words, _open(options))
            summaries = [summary.of(header, lines, ks=options.k)]
    print(json.dumps(summaries, indent=1)) if options.json else summary.show(summaries, short=options.short)
    if options.plot:
        summary.plot(summaries, options.plot)
    return 0


def run_all(options: argparse.Namespace, words: Sequence[str]) -> list[tuple[str, Line, list[Line]]]:
    """Run each mode that the model knows, with a file for each; their names, headers and lines."""
    filler, runs = _open(options), []
    for mode in ("spm", "psm", "left"):
        try:
            filler.format_name(mode)
        except (NoInfillFormatError, InvalidArgumentError) as error:
            print(f"--mode {mode} is left out: {error}", file=sys.stderr)
            continue
        out = options.out.with_stem(f"{options.out.stem}-{mode}")
        own = argparse.Namespace(**{**vars(options), "mode": mode, "out": out})
        runs.append((str(out), *run(own, words, filler)))
    return runs


def run(options: argparse.Namespace, words: Sequence[str], filler: Filler) -> tuple[Line, list[Line]]:
    """Draw the missing completions and, if asked for, run them; the header and all lines."""
    benchmark = load(options)
    settings = Settings(
        mode=options.mode,
        carry=options.carry,
        temperature=options.temperature,
        max_bytes=options.max_bytes,
        stops=benchmark.stops,
        closing=benchmark.left_end if options.mode == "left" else "",
        seed=options.seed,
    )
    header = header_of(options, benchmark, filler, settings, words)
    counted = spread(benchmark.problems, options.count)
    tasks: list[Task] = [
        (problem, method, sample, problem.id in counted)
        for problem in benchmark.problems
        for sample in range(options.samples)
        for method in options.method
    ]
    with kept_lines(options.out, header, resume=options.resume) as records:
        done = {key_of(line) for line in records.lines if line["kind"] == "sample"}
        missing = [task for task in tasks if (task[0].id, task[1], task[2]) not in done]
        for line in _watched(draw(missing, filler, settings, options), list(records.lines), total=len(tasks)):
            records.add(line)
        if options.execute:
            from evals.fim.passing import run_programs

            run_programs(benchmark, records, workers=options.workers)
    return {"kind": "header", **header}, records.lines


def spread(problems: Sequence[Problem], wanted: int | None) -> set[str]:
    """The ids of ``wanted`` problems at even distances; of all by default."""
    many = len(problems) if wanted is None else min(wanted, len(problems))
    return {problems[place * len(problems) // many].id for place in range(many)}


def load(options: argparse.Namespace) -> Benchmark:
    """The benchmark that the options name.

    Raises:
        BytelmError: Its data are missing, altered or no text.
    """
    if options.benchmark == "cursor":
        return load_cursors(
            options.data,
            glob=options.glob,
            limit=options.limit,
            before=options.before,
            after=options.after,
            context=options.context,
            seed=options.seed,
        )
    if len(options.data) > 1:
        raise InvalidArgumentError(f"--benchmark {options.benchmark} has one file; --data names {len(options.data)}")
    path = options.data[0] if options.data else None
    benchmark = load_published(options.benchmark, path, limit=options.limit, seed=options.seed)
    return with_middle(benchmark) if options.mode == "left" else benchmark


def _open(options: argparse.Namespace) -> Filler:
    set_threads(options.threads)
    return open_filler(options.model, engine=options.engine, device=options.device, dtype=options.dtype)


def _digest_of_file(path: Path) -> str | None:
    """The sha256 of a model that is one file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def header_of(
    options: argparse.Namespace, benchmark: Benchmark, filler: Filler, settings: Settings, words: Sequence[str]
) -> Line:
    """What a results file says of its run. No path of the machine is in it."""
    model = getattr(filler.clocked.inner, "model", None)
    return {
        "command": command_of("evals.fim", words),
        "settings": {
            "benchmark": benchmark.name,
            "data": benchmark.data,
            "problems": len(benchmark.problems),
            "model": Path(options.model).name,
            "model_sha256": digest_of_model(model) or _digest_of_file(Path(options.model)),
            **({} if options.engine == "transformers" else {"engine": options.engine}),
            "dtype": str(getattr(model, "dtype", None)),
            "format": filler.format_name(options.mode, options.carry),
            "methods": options.method,
            "samples": options.samples,
            "counted": options.count,
            **asdict(settings),
        },
        "versions": versions(python=True),
        "device": str(getattr(model, "device", None)),
        "machine": processor(),
    }


def draw(tasks: Sequence[Task], filler: Filler, settings: Settings, options: argparse.Namespace) -> Iterator[Line]:
    """The line of each task, as they are done: here, or by workers."""
    if options.workers == 1:
        for task in tasks:
            yield line_of(task, filler, settings)
        return
    # By this name workers find it: theirs is another __main__.
    from evals.fim import __main__ as program  # noqa: PLW0406

    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(options.workers, spawn, program.begin_worker, (options, settings)) as pool:
        waiting: set[Future[Line]] = set()
        queue = iter(tasks)
        try:
            while True:
                ready = islice(queue, 2 * options.workers - len(waiting))
                waiting |= {pool.submit(program.work, task) for task in ready}
                if not waiting:
                    return
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_worker: list[Any] = []


def begin_worker(options: argparse.Namespace, settings: Settings) -> None:
    """Load what a worker draws with."""
    _worker[:] = [_open(options), settings]


def work(task: Task) -> Line:
    """A worker's sample."""
    return line_of(task, *_worker)


def line_of(task: Task, filler: Filler, settings: Settings) -> Line:
    """One sample, drawn and compared with the middle."""
    problem, method, sample, counted = task
    written = filler.complete(problem, method, settings, sample, counted=counted)
    return {
        "kind": "sample",
        "id": problem.id,
        "group": problem.group,
        "cursor": problem.cursor,
        "method": method,
        "sample": sample,
        # surrogateescape: bytes that are not UTF-8 survive the JSON file.
        "completion": written.completion.decode("utf-8", "surrogateescape"),
        "finish": written.finish,
        **figures(written.completion, problem.middle, left=settings.mode == "left"),
        **(asdict(written.cost) if written.cost is not None else {}),
    }


def _watched(new: Iterator[Line], old: Sequence[Line], *, total: int) -> Iterator[Line]:
    """The new lines, with a bar: samples done, and for each method how often its first four bytes were right so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    right: dict[str, list[float]] = {}

    def note(line: Line) -> str:
        if line["kind"] == "sample":
            right.setdefault(line["method"], []).append(line["first_4"])
        return "  ".join(f"{name} {sum(values) / len(values):.0%}" for name, values in right.items())

    estimate = ""
    for line in old:
        estimate = note(line)
    columns = TextColumn("first 4 bytes right: {task.description}"), BarColumn(), MofNCompleteColumn()
    done = sum(map(len, right.values()))
    with bar(*columns, TimeRemainingColumn()) as progress:
        shown = progress.add_task(estimate or "-", total=total, completed=done)
        for line in new:
            progress.update(shown, advance=1, description=note(line))
            yield line


if __name__ == "__main__":
    sys.exit(main())
