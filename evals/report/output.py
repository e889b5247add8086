"""The result of an evaluation that is one JSON object: its options, and where it goes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def add_output_options(parser: argparse.ArgumentParser, *, plot: str | None = "draw the result to this file") -> None:
    """``--json``, ``--out``, ``--read``, and ``--plot`` with this help, if there is one."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, help="write the result here too")
    if plot is not None:
        parser.add_argument("--plot", type=Path, help=plot)
    parser.add_argument("--read", type=Path, help="show the result of such a file and run nothing")


def read_result(options: argparse.Namespace) -> dict[str, Any]:
    """What ``--read`` names."""
    result: dict[str, Any] = json.loads(options.read.read_text(encoding="utf-8"))
    return result


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write a result to a file, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(result) + "\n", encoding="utf-8")


def put_out(
    result: dict[str, Any],
    options: argparse.Namespace,
    *,
    show: Callable[[dict[str, Any]], None],
    plot: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Write, draw and print a result as the options say."""
    if options.out:
        write_result(result, options.out)
    if plot is not None and options.plot:
        plot(result, options.plot)
    print(_json(result)) if options.json else show(result)


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False)


def draw_bars(
    path: Path, labels: Sequence[str], columns: Mapping[str, Sequence[float]], *, title: str, line: float | None = None
) -> None:
    """Numbers as bars, a panel for each column by its title; ``line``: where a line is drawn across them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.9 + 0.4 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (name, values) in zip(panels, columns.items(), strict=True):
        bars = axes.barh(labels, values)
        axes.bar_label(bars, fmt="%.2f", padding=2)
        if line is not None:
            axes.axvline(line, color="0.6", linewidth=1)
        axes.set_title(name)
        axes.margins(x=0.18)
        axes.invert_yaxis() if axes is figure.axes[0] else None
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
