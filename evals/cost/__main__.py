"""What exact bytes cost beside plain token generation: ``python -m evals.cost``.

The methods (bench.py, peers.py) run on the same loaded model and the same prompts, one method after the other at each
prompt or batch of prompts.
    *calls*: forward passes per byte, and per token of the text written. *fed*: tokens run through the model per byte,
    the prompt included.
    *core*: milliseconds of CPU per byte outside the model.
    *time*: wall time per byte, relative to ``model.generate``, which runs until each prompt has its bytes.
    *memory*: peak resident memory of a process that runs the method alone, measured after the model is loaded.
    *variation*: total variation distance between the method's next-byte distribution after a prompt and the exact one,
    averaged over the prompts. lazy.py shows that lazy evaluation has none.
Calls and tokens are deterministic. Times depend on the machine and the day; compare only ratios within one run.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evals.cost.bench import OWN, Bench, Cost
from evals.cost.peers import installed_peers
from evals.cost.prompts import KINDS, add_prompt_options
from evals.report.command import at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer, draw_bars
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print one table."""
    peers = installed_peers()
    known = (*OWN, *peers)
    parser = command("evals.cost", __doc__)
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    add_prompt_options(parser)
    parser.add_argument("--prompts", choices=KINDS, default="ordinary", help="which prompts to use (default ordinary)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="prompts that run together (default 1)")
    parser.add_argument(
        "--methods", default=",".join(OWN), help=f"methods to run, out of {', '.join(known)} (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    add_output_options(parser)
    parser.add_argument("--alone", choices=known, help=argparse.SUPPRESS)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "batch")
    if options.alone:
        print(_peak_alone(options, peers))
        return 0
    methods = chosen(
        parser, "method", f"generate,{options.methods}", known, hint="" if peers else ", and genlm-bytes once installed"
    )
    return answer(options, lambda: _measure(options, methods, peers, words), show=_show, plot=_plot)


def _bench(options: argparse.Namespace, peers: dict[str, Any]) -> tuple[Bench, list[tuple[str, ...]]]:
    set_threads(options.threads)
    prompts = KINDS[options.prompts][: options.limit]
    batches = [prompts[i : i + options.batch] for i in range(0, len(prompts), options.batch)]
    return Bench(options.model, peers), batches


def _measure(
    options: argparse.Namespace, methods: Sequence[str], peers: dict[str, Any], words: Sequence[str]
) -> dict[str, Any]:
    bench, batches = _bench(options, peers)
    costs = {method: Cost(method) for method in methods}
    for method in methods:
        bench.run(method, batches[0][:1], 8, Cost(method))  # what is only done once
    for batch in tracked(batches, "prompts"):
        for method in methods:
            bench.run(method, batch, options.bytes, costs[method])
    prompts = [prompt for batch in batches for prompt in batch]
    for method, cost in costs.items():
        distances = [bench.total_variation(method, prompt) for prompt in prompts]
        known = [distance for distance in distances if distance is not None]
        cost.total_variation = sum(known) / len(known) if known else None
    if not options.no_memory:
        for method, cost in tracked(costs.items(), "memory", total=len(costs)):
            cost.peak_mib = _peak(method, options)
    return {
        "command": command_of("evals.cost", words),
        "model": options.model,
        "structures_cpu_seconds": bench.structures_seconds,
        "machine": machine(options.threads),
        "versions": versions(*(["genlm-bytes"] if any(method in peers for method in methods) else [])),
        "rows": [cost.row(costs["generate"]) for cost in costs.values()],
        "sums": [asdict(cost) for cost in costs.values()],
    }


def _peak(method: str, options: argparse.Namespace) -> float:
    """Peak memory, in MiB, of a process that runs one method."""
    command = [sys.executable, "-m", "evals.cost", "--alone", method, "--model", options.model]
    for name in ("bytes", "limit", "batch", "threads", "prompts"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very module
    return float(done.stdout.split()[-1])


def _peak_alone(options: argparse.Namespace, peers: dict[str, Any]) -> float:
    bench, batches = _bench(options, peers)
    _forget_peak()
    for batch in batches:
        if options.alone == "generate":
            bench.generate(batch, options.bytes, Cost("generate"))
        else:
            bench.run(options.alone, batch, options.bytes, Cost(options.alone))
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _forget_peak() -> None:
    """Begin the peak anew: loading a model takes more than running it. Where the system cannot, loading counts."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


COLUMNS: Final[tuple[tuple[str, str, Callable[[Any], str]], ...]] = (
    ("method", "method", str),
    ("calls_per_byte", "calls / byte", "{:.2f}".format),
    ("calls_per_token", "calls / token", "{:.2f}".format),
    ("fed_per_byte", "tokens fed / byte", "{:.2f}".format),
    ("core_ms_per_byte", "core ms / byte", "{:.2f}".format),
    ("ms_per_byte", "ms / byte", "{:.1f}".format),
    ("time_against_generate", "time / generate", "{:.2f}".format),
    ("peak_mib", "peak MiB", "{:.0f}".format),
    ("total_variation", "variation", "{:.4f}".format),
)


def _show(result: dict[str, Any]) -> None:
    made = table(result["model"], [title for _, title, _ in COLUMNS])
    for row in result["rows"]:
        made.add_row(*("-" if row.get(name) is None else show(row[name]) for name, _, show in COLUMNS))
    print_line(result["command"])
    console().print(made)
    print_line(f"tokenizer structures: {result['structures_cpu_seconds']:.2f} s of CPU time")


CALLED: Final = {
    "generate": "transformers generate",
    "lazy": "by bytes, lazy",
    "drawn": "by bytes, drawn by the engine",
    "full": "by bytes, every row in full",
}


def _plot(result: dict[str, Any], path: Path) -> None:
    """Calls, tokens fed and time a byte, as bars."""
    titles = {name: title for name, title, _ in COLUMNS}
    shown = ("calls_per_byte", "fed_per_byte", "time_against_generate")
    columns = {titles[name]: [row[name] or 0.0 for row in result["rows"]] for name in shown}
    title = f"{result['model']}, {result['machine']['threads']} threads"
    labels = [CALLED.get(row["method"], row["method"]) for row in result["rows"]]
    draw_bars(path, labels, columns, title=title)


if __name__ == "__main__":
    sys.exit(main())
