"""What an ensemble costs beside its members: ``python -m evals.cost.ensembles``.

The ensemble writes a number of bytes after each prompt. Then each member's own ``model.generate`` is made to write the
same text, in that member's canonical tokens (`Bench.rewrite`). The sum of the members' costs is what the ratios compare
with.
    *calls*: forward passes of all members per byte. *fed*: tokens run through them per byte, the prompt included. *ms*:
    wall time per byte.

An ensemble asks only the members that it needs: at temperature 1 a mixture draws the member first and asks that one
alone. The cost includes ``Completion.logprob``: for a mixture and a product it needs rows of all members, in a few
calls at the end.
Calls and tokens are deterministic. Times depend on the machine and the day; compare only ratios.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

from bytelm import Ensemble
from bytelm.ensemble.combine import Combine
from evals.cost.bench import Bench, Cost
from evals.cost.prompts import PROMPTS, add_prompt_options
from evals.report.command import at_least, chosen, command, numbers, set_threads, words_of
from evals.report.output import add_output_options, answer, draw_bars
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

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
    # The time that they share is counted once, at the first: its clock ran longest, as its block is the outermost.
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
    parser = command("evals.cost.ensembles", __doc__)
    parser.add_argument(
        "-m", "--model", action="append", help="a model to combine; repeat for each (default demo and demo-gemma)"
    )
    parser.add_argument(
        "--combine", default=",".join(get_args(Combine)), help="how to combine the members (default %(default)s)"
    )
    parser.add_argument("--weights", help="one weight for each member, such as 0.7,0.3 (default: equal)")
    parser.add_argument("--temperatures", default="0,1", help="temperatures (default %(default)s)")
    add_prompt_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each model (default 1)")
    add_output_options(parser, plot="draw the ratios to this file")
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit")
    options.model = options.model or ["demo", "demo-gemma"]
    options.combine = chosen(parser, "formula", options.combine, get_args(Combine))
    options.temperatures = numbers(parser, "--temperatures", options.temperatures)
    options.weights = numbers(parser, "--weights", options.weights) if options.weights else None
    return answer(options, lambda: _measure(options, words), show=_show, plot=_plot)


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    set_threads(options.threads)
    benches = [Bench(model) for model in options.model]
    ensembles = {
        formula: Ensemble([bench.lm for bench in benches], weights=options.weights, combine=formula)
        for formula in options.combine
    }
    for ensemble in ensembles.values():  # warm up: some work is done only once
        written_by(benches, ensemble, PROMPTS[0], 8, temperature=0.0, seed=0)
    ways = [(formula, temperature) for formula in ensembles for temperature in options.temperatures]
    found: dict[tuple[str, float], tuple[list[Cost], list[Cost]]] = {way: ([], []) for way in ways}
    for place, prompt in enumerate(tracked(PROMPTS[: options.limit], "prompts")):
        for formula, temperature in ways:
            costs = written_by(benches, ensembles[formula], prompt, options.bytes, temperature=temperature, seed=place)
            for kept, own in zip(found[formula, temperature], costs, strict=True):
                kept.extend(own)
    return {
        "command": command_of("evals.cost.ensembles", words),
        "models": [Path(model).name for model in options.model],
        "weights": options.weights,
        "machine": machine(options.threads),
        "versions": versions(),
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
    print_line(result["command"])
    counts = (title for name in ("calls", "fed", "ms") for title in (f"{name} / byte", "sum", "ratio"))
    made = table(
        f"{' and '.join(result['models'])}, beside the sum of their own generation", ["", "temperature", *counts]
    )
    for row in result["rows"]:
        cells = [row["combine"], f"{row['temperature']:g}"]
        for name in COUNTS:
            shown = "{:.0f}" if name == "seconds" else "{:.2f}"
            unit = 1000 if name == "seconds" else 1
            cells += [shown.format(unit * row[name][part]) for part in ("per_byte", "members_per_byte")]
            cells.append(f"{row[name]['ratio']:.2f}")
        made.add_row(*cells)
    console().print(made)


def _plot(result: dict[str, Any], path: Path) -> None:
    """The ratios, as bars."""
    titles = {"calls": "calls", "fed": "tokens fed", "seconds": "time"}
    labels = [f"{row['combine']}, temperature {row['temperature']:g}" for row in result["rows"]]
    columns = {titles[name]: [row[name]["ratio"] for row in result["rows"]] for name in COUNTS}
    title = f"{' and '.join(result['models'])}: over the sum of their own generation"
    draw_bars(path, labels, columns, title=title, line=1.0)


if __name__ == "__main__":
    sys.exit(main())
