"""How the cost of exact bytes grows: ``python -m evals.cost.growth``.

*prompt*
    Calls, tokens and seconds until the first byte after a prompt of this many bytes, and the time of each byte after
    it. The prompt is the source of the standard library's argparse.
*output*
    A completion of this many bytes after a prompt of 100.
*batch*
    This many ragged prompts together, 64 bytes after each.
*score*
    `logprob` and `byte_logprobs` of this many bytes, beside the token-level score of the same text: one forward pass,
    and the log-probability of each of its canonical tokens.

Each is compared with ``model.generate`` on the same work in the same run; compare only these ratios between machines. A
ratio is the median of three, or a single one where the work takes longer than half a minute. The table of
evals/conformance.py shows how the core's time grows with the vocabulary.
"""

from __future__ import annotations

import argparse
import inspect
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

from evals.cost.bench import Bench, Cost
from evals.cost.prompts import PROMPTS
from evals.report.command import chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer, nothing_to_draw, save_figure
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import versions
from evals.report.tables import console, table

T = TypeVar("T")

AXES: Final[dict[str, tuple[int, ...]]] = {
    "prompt": (100, 300, 1000, 4000, 8000, 16000, 32000),
    "output": (50, 100, 200, 400, 800, 1600),
    "batch": (1, 2, 4, 8, 16, 32),
    "score": (1000, 4000),
}
NAMES: Final = {
    "prompt": "bytes of prompt",
    "output": "bytes written",
    "batch": "prompts at a time",
    "score": "bytes scored",
}
COUNTS: Final = ("prompt tokens", "calls", "tokens fed", "calls / generate's", "time / generate")
FIRST: Final = ("calls to 1st byte", "fed", "time / 1st token")
SCORES: Final = (
    "tokens",
    *(title for name in ("logprob", "byte_logprobs") for title in (f"{name}: calls", "fed", "time / tokens'")),
)
AFTER: Final = 64  # bytes
REPEATS: Final = 3
LONG: Final = 30.0  # seconds that are not spent again


def prompt_of(size: int) -> str:
    """So many bytes of Python source (ASCII)."""
    text = inspect.getsource(argparse)
    return text[:size].encode("ascii", "replace").decode()


def measured(bench: Bench, method: str, prompts: Sequence[str], size: int) -> Cost:
    """What one completion of each of these prompts, together, takes."""
    cost = Cost(method)
    bench.run(method, prompts, size, cost)
    return cost


def repeated(measure: Callable[[], T]) -> list[T]:
    """The same measurement some times over, or fewer where it takes long."""
    found, start = [measure()], time.perf_counter()
    while len(found) < REPEATS and time.perf_counter() - start < LONG:
        found.append(measure())
    return found


def pair(bench: Bench, prompts: Sequence[str], size: int) -> tuple[Cost, Cost]:
    """`generate` and bytes, one after the other."""
    return measured(bench, "generate", prompts, size), measured(bench, "lazy", prompts, size)


def ratio(pairs: Sequence[tuple[Cost, Cost]]) -> float:
    """The median over the pairs of the ratio of the times a byte."""
    return median((b.seconds / b.new_bytes) / (a.seconds / a.new_bytes) for a, b in pairs)


def scoring(bench: Bench, size: int) -> dict[str, Any]:
    """Seconds and calls of the three scores of one text."""
    import torch

    text = prompt_of(size)

    def by_tokens() -> float:
        ids = torch.tensor([bench.engine.tokenizer(text).input_ids], device=bench.engine.model.device)
        with torch.inference_mode():
            logprobs = bench.engine.model(ids).logits[0, :-1].log_softmax(-1)
        return float(logprobs.gather(1, ids[0, 1:, None]).sum())

    row: dict[str, Any] = {"axis": "score", "size": size, "prompt_tokens": len(bench.engine.tokenizer(text).input_ids)}
    ways: dict[str, Callable[[], Any]] = {
        "tokens": by_tokens,
        "logprob": lambda: bench.lm.logprob(text),
        "byte_logprobs": lambda: bench.lm.byte_logprobs(text).sum(),
    }

    def scored(way: Callable[[], Any]) -> dict[str, Any]:
        bench.engine.clear_cache()
        calls, fed, start = bench.calls, bench.fed, time.perf_counter()
        value = float(way())
        seconds = time.perf_counter() - start
        return {"value": value, "calls": bench.calls - calls, "fed": bench.fed - fed, "seconds": seconds}

    found = repeated(lambda: {name: scored(way) for name, way in ways.items()})
    for name in ways:
        times = median(each[name]["seconds"] / each["tokens"]["seconds"] for each in found)
        row[name] = found[0][name] | {"against_tokens": times}
    return row


def point(bench: Bench, axis: str, size: int) -> dict[str, Any] | None:
    """The row of one size; None for a prompt that does not fit in the model's context."""
    if axis == "score":
        return scoring(bench, size)
    row: dict[str, Any] = {"axis": axis, "size": size}
    prompts = [prompt_of(size if axis == "prompt" else 100)] if axis != "batch" else list(PROMPTS[:size])
    write = size if axis == "output" else AFTER
    row["prompt_tokens"] = sum(len(bench.engine.tokenizer(prompt).input_ids) for prompt in prompts)
    room = bench.engine.context_length
    if axis == "prompt" and room is not None and row["prompt_tokens"] + AFTER > room:
        return None
    pairs = repeated(lambda: pair(bench, prompts, write))
    for cost in pairs[0]:
        row[cost.method] = {"calls": cost.calls, "fed": cost.fed, "seconds": cost.seconds, "bytes": cost.new_bytes}
    by_tokens, by_bytes = pairs[0]
    row["time_against_generate"] = ratio(pairs)
    row["calls_per_token"] = by_bytes.calls / by_tokens.calls * by_tokens.new_bytes / by_bytes.new_bytes
    if axis == "prompt":
        pairs = repeated(lambda: pair(bench, prompts, 1))
        first = pairs[0][1]
        row["first"] = {
            "calls": first.calls,
            "fed": first.fed,
            "seconds": first.seconds,
            "against_generate": median(b.seconds / a.seconds for a, b in pairs),
        }
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure along the axes and print a table for each."""
    parser = command("evals.cost.growth", __doc__)
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    parser.add_argument("--axes", default=",".join(AXES), help="which axes to measure (default %(default)s)")
    parser.add_argument("--most", type=int, default=10**9, metavar="N", help="leave out sizes above N")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    add_output_options(parser)
    words = words_of(arguments)
    options = parser.parse_args(words)
    axes = chosen(parser, "axis", options.axes, list(AXES))
    return answer(options, lambda: _measure(options, axes, words), show=_show, plot=_plot)


def _measure(options: argparse.Namespace, axes: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    set_threads(options.threads)
    bench = Bench(options.model)
    for method in ("generate", "lazy"):
        measured(bench, method, PROMPTS[:2], 8)  # warm up: some work is done only once
    sizes = [(axis, size) for axis in axes for size in AXES[axis] if size <= options.most]
    rows = [row for axis, size in tracked(sizes, "sizes") if (row := point(bench, axis, size)) is not None]
    return {
        "command": command_of("evals.cost.growth", words),
        "model": options.model,
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": versions(),
        "rows": rows,
    }


def _show(result: dict[str, Any]) -> None:
    for axis in AXES:
        if rows := [row for row in result["rows"] if row["axis"] == axis]:
            columns, cells = (SCORES, _scores) if axis == "score" else (COUNTS, _counts)
            first = FIRST if axis == "prompt" else ()
            made = table(f"{result['model']}: {NAMES[axis]}", [NAMES[axis], *columns, *first], left=0)
            for row in rows:
                made.add_row(f"{row['size']:,}", f"{row['prompt_tokens']:,}", *cells(row))
            console().print(made)


def _counts(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['lazy']['calls']:,}", f"{row['lazy']['fed']:,}"]
    cells += [f"{row['calls_per_token']:.2f}", f"{row['time_against_generate']:.2f}"]
    if first := row.get("first"):
        cells += [f"{first['calls']:,}", f"{first['fed']:,}", f"{first['against_generate']:.2f}"]
    return cells


def _scores(row: dict[str, Any]) -> list[str]:
    ways = (row["logprob"], row["byte_logprobs"])
    return [cell for way in ways for cell in (f"{way['calls']:,}", f"{way['fed']:,}", f"{way['against_tokens']:.2f}")]


def _plot(result: dict[str, Any], path: Path) -> None:
    """Time against generate along each axis."""
    from matplotlib.figure import Figure

    axes_found = [axis for axis in AXES if axis != "score" and any(row["axis"] == axis for row in result["rows"])]
    if not axes_found:
        raise nothing_to_draw(path)
    figure = Figure(figsize=(3.4 * len(axes_found), 3.2), layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(axes_found), sharey=True, squeeze=False)[0], axes_found, strict=True):
        rows = [row for row in result["rows"] if row["axis"] == axis]
        sizes = [row["size"] for row in rows]
        axes.plot(sizes, [row["time_against_generate"] for row in rows], "o-", label="time relative to generate")
        axes.plot(sizes, [row["calls_per_token"] for row in rows], "s--", label="model calls per token")
        axes.set_xscale("log")
        axes.set_xlabel(NAMES[axis], fontsize=11)
        axes.axhline(1, color="0.6", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("ratio (below 1: bytes cost less)", fontsize=11)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper right", ncols=2, fontsize=11, frameon=False)
    figure.suptitle(f"{result['model']}, {result['threads']} threads", x=0.02, ha="left", fontsize=12)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
