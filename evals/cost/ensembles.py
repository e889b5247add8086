"""What an ensemble costs beside its members: ``python -m evals.cost.ensembles``.

After each prompt the ensemble writes so many bytes. Then each member's own ``model.generate`` is made to write the same
text, in that member's canonical tokens (`Bench.rewrite`). What these take together is the members' token-level cost, and
the ratios are to it.
    *calls*: forward passes of all members a byte. *fed*: tokens run through them a byte, the prompt included. *ms*: wall
    time a byte.

An ensemble writes nothing that its members need not be asked about: at temperature 1 a mixture draws the member first
and asks that one alone. ``Completion.logprob`` is part of what is measured: for a mixture and a product it takes the
rows of all members, in few calls at the end.
Calls and tokens are deterministic. Times are of this machine on this day; only their ratios mean anything.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

from bytelm import Ensemble
from bytelm.ensemble.combine import Combine
from bytelm.errors import BytelmError
from evals.cost.bench import Bench, Cost
from evals.cost.prompts import PROMPTS
from evals.report.output import add_output_options, draw_bars, put_out, read_result
from evals.report.records import command_of

COUNTS: Final = ("calls", "fed", "seconds")


def written_by(
    benches: Sequence[Bench], ensemble: Ensemble, prompt: str, size: int, *, temperature: float, seed: int
) -> tuple[list[Cost], list[Cost]]:
    """What a completion takes of each member, and what each member's own generation of the same text takes."""
    together, alone = ([Cost(str(place)) for place in range(len(benches))] for _ in range(2))
    with ExitStack() as stack:
        for bench, cost in zip(benches, together, strict=True):
            stack.enter_context(bench.measured(cost))
        done = ensemble.sample(prompt, max_bytes=size, temperature=temperature, seed=seed)
    if not done.bytes:
        return [], []  # the ensemble ended the text at once
    for bench, own in zip(benches, alone, strict=True):
        bench.rewrite(prompt, done.bytes, own)
    # What they share is noted with the first, whose clock ran longest: its block is the outermost.
    together[0].new_bytes = len(done.bytes)
    for cost in together[1:]:
        cost.seconds = 0.0
    return together, alone


def row_of(formula: str, temperature: float, together: Sequence[Cost], alone: Sequence[Cost]) -> dict[str, Any]:
    """The figures of a formula at a temperature, from the costs of all its completions."""
    size = sum(cost.new_bytes for cost in together)
    row: dict[str, Any] = {"combine": formula, "temperature": temperature}
    for name in COUNTS:
        ours, theirs = (sum(getattr(cost, name) for cost in costs) for costs in (together, alone))
        row[name] = {"per_byte": ours / size, "members_per_byte": theirs / size, "ratio": ours / theirs}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print one table."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m evals.cost.ensembles", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-m", "--model", action="append", help="of a member; repeated (default demo and demo-gemma)")
    parser.add_argument("--combine", default=",".join(get_args(Combine)), help="formulas (default %(default)s)")
    parser.add_argument("--weights", help="numbers for the members, such as 0.7,0.3 (default all alike)")
    parser.add_argument("--temperatures", default="0,1", help="of the bytes (default %(default)s)")
    parser.add_argument("--bytes", type=int, default=100, metavar="N", help="bytes to write after each prompt")
    parser.add_argument(
        "--limit", type=int, default=5, metavar="N", help=f"prompts to use, of {len(PROMPTS)} (default 5)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the models")
    add_output_options(parser, plot="draw the ratios to this file")
    options = parser.parse_args(words)
    if options.read is not None:
        result = read_result(options)
    else:
        options.model = options.model or ["demo", "demo-gemma"]
        options.combine = options.combine.split(",")
        if unknown := set(options.combine) - set(get_args(Combine)):
            parser.error(f"--combine is of {', '.join(get_args(Combine))}; got {', '.join(sorted(unknown))}")
        if min(options.bytes, options.limit) < 1:
            parser.error("--bytes and --limit must be at least 1")
        try:
            options.temperatures = [float(each) for each in options.temperatures.split(",")]
            options.weights = [float(each) for each in options.weights.split(",")] if options.weights else None
        except ValueError:
            parser.error("--temperatures and --weights are numbers with commas between them")
        try:
            result = _measure(options, words)
        except BytelmError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    put_out(result, options, show=_show, plot=_plot)
    return 0


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    import torch
    from rich.console import Console
    from rich.progress import track

    torch.set_num_threads(options.threads)
    benches = [Bench(model) for model in options.model]
    ensembles = {
        formula: Ensemble([bench.lm for bench in benches], weights=options.weights, combine=formula)
        for formula in options.combine
    }
    for ensemble in ensembles.values():  # what is only done once
        written_by(benches, ensemble, PROMPTS[0], 8, temperature=0.0, seed=0)
    ways = [(formula, temperature) for formula in ensembles for temperature in options.temperatures]
    found: dict[tuple[str, float], tuple[list[Cost], list[Cost]]] = {way: ([], []) for way in ways}
    prompts = PROMPTS[: options.limit]
    for place, prompt in enumerate(track(prompts, description="prompts", console=Console(stderr=True), transient=True)):
        for formula, temperature in ways:
            costs = written_by(benches, ensembles[formula], prompt, options.bytes, temperature=temperature, seed=place)
            for kept, own in zip(found[formula, temperature], costs, strict=True):
                kept.extend(own)
    return {
        "command": command_of("evals.cost.ensembles", words),
        "models": [Path(model).name for model in options.model],
        "weights": options.weights,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": options.threads,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        "rows": [row_of(*way, *costs) for way, costs in found.items() if costs[0]],
        "sums": [
            {
                "combine": formula,
                "temperature": temperature,
                "together": list(map(asdict, a)),
                "alone": list(map(asdict, b)),
            }
            for (formula, temperature), (a, b) in found.items()
        ],
    }


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(result["command"], soft_wrap=True, highlight=False, markup=False)
    table = Table(
        title=f"{' and '.join(result['models'])}, beside the sum of their own generation", title_justify="left"
    )
    table.add_column("")
    for name in (
        "temperature",
        "calls / byte",
        "sum",
        "ratio",
        "fed / byte",
        "sum",
        "ratio",
        "ms / byte",
        "sum",
        "ratio",
    ):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        cells = [row["combine"], f"{row['temperature']:g}"]
        for name in COUNTS:
            shown = "{:.0f}" if name == "seconds" else "{:.2f}"
            unit = 1000 if name == "seconds" else 1
            cells += [shown.format(unit * row[name][part]) for part in ("per_byte", "members_per_byte")]
            cells.append(f"{row[name]['ratio']:.2f}")
        table.add_row(*cells)
    console.print(table)


def _plot(result: dict[str, Any], path: Path) -> None:
    """The ratios, as bars."""
    titles = {"calls": "calls", "fed": "tokens fed", "seconds": "time"}
    labels = [f"{row['combine']}, temperature {row['temperature']:g}" for row in result["rows"]]
    columns = {titles[name]: [row[name]["ratio"] for row in result["rows"]] for name in COUNTS}
    title = f"{' and '.join(result['models'])}: over the sum of their own generation"
    draw_bars(path, labels, columns, title=title, line=1.0)


if __name__ == "__main__":
    sys.exit(main())
