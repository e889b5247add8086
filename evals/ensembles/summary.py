"""The summary of a results file of ensembles: figures by task and run, pairs, cost; as tables and as a plot.

Rules
    A summary is a plain dict (`--json` prints it), made from the lines of the file alone.
    Figures are means over items with 95 % intervals (report/statistics.py). *nats* is ln P(right answer | question) of
    the whole answer; over few items it says more than the share of right answers.
    Pairs use the items that both runs answered: each ensemble against each member, and each member by bytes against the
    same by tokens. P-values are not corrected for multiple comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evals.report.output import nothing_to_draw, save_figure
from evals.report.records import Line, RecordsError
from evals.report.statistics import LEAST, mean_of, pair_of
from evals.report.tables import console, interval, note_too_few, print_line, table

Summary = dict[str, Any]
NATS: Final = "nats"
TITLES: Final = {"acc": "right, %", "acc_norm": "right by length, %", "exact_match": "right, %", NATS: "nats"}


def of(header: Line, lines: Sequence[Line]) -> Summary:
    """The summary of a file.

    Raises:
        RecordsError: It holds no item.
    """
    answered: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    for line in lines:
        if line["kind"] == "item":
            answered.setdefault(line["task"], {}).setdefault(line["run"], {})[line["item"]] = line["figures"]
    failed = _failed(lines)
    if not answered and not failed:
        raise RecordsError(f"the results of {header['command']!r} hold no item yet: continue with --resume")
    members = list(header["settings"]["members"])
    return {
        "command": header["command"],
        "settings": header["settings"],
        "members": members,
        "tasks": {
            task: {run: _figures(items) | {"cost": _cost(lines, task, run)} for run, items in runs.items()}
            for task, runs in answered.items()
        },
        "pairs": [pair for task, runs in answered.items() for pair in _pairs(task, runs, members)],
        "failed": failed,
    }


def _failed(lines: Sequence[Line]) -> list[Line]:
    """The lines of runs that failed and have not succeeded since."""
    last: dict[tuple[str, str], Line] = {}
    for line in lines:
        if line["kind"] in ("failed", "done"):
            last[line["task"], line["run"]] = line
    return [line for line in last.values() if line["kind"] == "failed"]


def _figures(items: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    names = dict.fromkeys(name for figures in items.values() for name in figures)
    rows = sorted(items)
    return {
        "items": len(items),
        "figures": {
            name: asdict(mean_of([items[row][name] for row in rows], [str(row) for row in rows])) for name in names
        },
    }


def _cost(lines: Sequence[Line], task: str, run: str) -> dict[str, float]:
    """The mean cost of an item, over all lines of the task and run."""
    done = [line for line in lines if line["kind"] == "done" and (line["task"], line["run"]) == (task, run)]
    items = sum(line["items"] for line in done)
    return {name: sum(line[name] for line in done) / items for name in ("seconds", "calls", "fed")} if items else {}


def _pairs(
    task: str, runs: Mapping[str, Mapping[int, Mapping[str, float]]], members: Sequence[str]
) -> Iterator[dict[str, Any]]:
    wanted = [(run, member) for run in runs if run.split("/")[0] not in members for member in members]
    for first, second in [*wanted, *((member, f"{member}/tokens") for member in members)]:
        both = sorted(set(runs.get(first, ())) & set(runs.get(second, ())))
        if not both:
            continue
        for name in runs[first][both[0]]:
            a, b = ([runs[run][item][name] for item in both] for run in (first, second))
            binary = name != NATS
            pair = pair_of(a, b, [str(item) for item in both], binary=binary)
            yield {"task": task, "first": first, "second": second, "figure": name, **asdict(pair)}


def title_of(name: str) -> str:
    """The title of a figure in a table."""
    plain, _, rest = name.partition(" ")
    return TITLES.get(plain, plain) + (f" {rest}" if rest else "")


def scale_of(name: str) -> int:
    """The factor by which a table multiplies a figure."""
    return 1 if name == NATS else 100


def show(summary: Summary) -> None:
    """Print the tables."""
    if summary["tasks"]:
        console().print(_table(summary))
    if summary["pairs"]:
        console().print(_pairs_table(summary))
    note_too_few(summary, "items")
    for line in summary["failed"]:
        print_line(f"{line['task']}: {line['run']} failed: {line['error']}")
    print_line(summary["command"])


def _table(summary: Summary) -> Any:
    made = table(
        "mean [95 % interval] over items", ["task", "run", "figure", "n", "mean", "s / item", "calls / item"], left=3
    )
    for task, runs in summary["tasks"].items():
        for place, (run, found) in enumerate(runs.items()):
            cost = found["cost"]
            told = [f"{cost[name]:.2f}" if cost else "-" for name in ("seconds", "calls")]
            for row, (name, mean) in enumerate(found["figures"].items()):
                made.add_row(
                    "" if place or row else task.removeprefix("bytelm_"),
                    "" if row else run,
                    title_of(name),
                    "" if row else str(found["items"]),
                    interval(mean, scale_of(name)),
                    *(told if not row else ("", "")),
                )
        made.add_section()
    return made


def _pairs_table(summary: Summary) -> Any:
    columns = ["task", "first", "second", "figure", "difference [95 % interval]", "better", "worse", "p"]
    made = table("first less second, in pairs; p by McNemar's test, of nats by Wilcoxon's", columns, left=4)
    for pair in summary["pairs"]:
        shown = interval(pair["difference"], scale_of(pair["figure"]), sign="+")
        made.add_row(
            pair["task"].removeprefix("bytelm_"),
            pair["first"],
            pair["second"],
            title_of(pair["figure"]).removesuffix(", %"),
            shown,
            str(pair["better"]),
            str(pair["worse"]),
            f"{pair['p']:.2g}",
        )
    return made


def plot(summary: Summary, path: Path) -> None:
    """Draw points with intervals: a panel for each task, its first figure for each run.

    Raises:
        RecordsError: The file cannot be written, or its ending names no format.
    """
    from matplotlib.figure import Figure

    tasks = summary["tasks"]
    if not tasks:
        raise nothing_to_draw(path)
    columns = min(len(tasks), 3)
    rows = -(-len(tasks) // columns)
    runs = list(dict.fromkeys(run for found in tasks.values() for run in found))
    figure = Figure(figsize=(1.8 + 2.8 * columns, rows * (1.1 + 0.3 * len(runs))), layout="constrained")
    for number, (task, found) in enumerate(tasks.items()):
        panel = figure.add_subplot(rows, columns, number + 1)
        name = next(iter(next(iter(found.values()))["figures"]))
        for place, run in enumerate(runs):
            if run in found:
                mean = found[run]["figures"][name]
                whole = mean["groups"] >= LEAST
                spread = [[abs(mean[end] - mean["mean"]) * scale_of(name) if whole else 0] for end in ("low", "high")]
                panel.errorbar(scale_of(name) * mean["mean"], place, xerr=spread, fmt="o", color=f"C{place}", capsize=3)
        labels = [run.replace("/tokens", ", by tokens") for run in runs]
        panel.set_yticks(range(len(runs)), labels if number % columns == 0 else [], fontsize=11)
        panel.set_ylim(len(runs) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=11)
        panel.grid(visible=True, axis="x", alpha=0.3)
        items = max(each["items"] for each in found.values())
        panel.set_title(f"{task.removeprefix('bytelm_')} ({items} items)", fontsize=12)
        panel.set_xlabel(title_of(name), fontsize=11)
    save_figure(figure, path)
