"""A result that is one JSON object: the options for it, the file that keeps it, and how it is printed and drawn.

Rules
    ``--out`` writes the result, ``--read`` takes it from such a file and runs nothing, ``--plot`` draws it, ``--json``
    prints the object in place of the table.
    The same drawing is the same file: a drawing has no date.
    A drawing without data is no file but an error, which comes after the tables; a panel without data says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.report.records import RecordsError, exit_status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = dict[str, Any]


def add_output_options(parser: argparse.ArgumentParser, *, plot: str | None = "draw the result to this file") -> None:
    """``--json``, ``--out``, ``--read``, and ``--plot`` with this help, if there is one."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    if plot is not None:
        parser.add_argument("--plot", type=Path, help=plot)
    parser.add_argument("--read", type=Path, help="show this result file; run nothing")


def answer(
    options: argparse.Namespace,
    measure: Callable[[], Result],
    *,
    show: Callable[[Result], None],
    plot: Callable[[Result, Path], None] | None = None,
    failed: Callable[[Result], bool] = lambda _: False,
) -> int:
    """What a command does once its options are known to be right: measure or read, write, draw and print.

    Args:
        options: With those of `add_output_options`.
        measure: Makes the result, if no file is read.
        show: Prints it as tables.
        plot: Draws it.
        failed: Whether the result is a failure.

    Returns:
        The command's exit status: 1 after an error or for a failure.
    """

    def whole() -> int:
        result = measure() if options.read is None else read_result(options)
        put_out(result, options, show=show, plot=plot)
        return int(failed(result))

    return exit_status(whole, None)


def read_result(options: argparse.Namespace) -> Result:
    """The result in the file that ``--read`` names.

    Raises:
        RecordsError: It cannot be read, or is no JSON.
    """
    try:
        result: Result = json.loads(options.read.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordsError(f"cannot read the result {options.read}: {error}") from error
    return result


def write_result(result: Result, path: Path) -> None:
    """Write a result to a file, and make its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(result) + "\n", encoding="utf-8")


def put_out(
    result: Result,
    options: argparse.Namespace,
    *,
    show: Callable[[Result], None],
    plot: Callable[[Result, Path], None] | None = None,
) -> None:
    """Write, draw and print a result as the options say."""
    if options.out:
        write_result(result, options.out)
    print(_json(result)) if options.json else show(result)
    if plot is not None and options.plot:
        plot(result, options.plot)


def _json(result: Result) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False)


def draw_bars(
    path: Path, labels: Sequence[str], columns: Mapping[str, Sequence[float]], *, title: str, line: float | None = None
) -> None:
    """Numbers as bars, a panel for each column by its title; ``line``: where a line is drawn across them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.9 + 0.4 * len(labels)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (name, values) in zip(panels, columns.items(), strict=True):
        bars = axes.barh(labels, values)
        axes.bar_label(bars, fmt="%.2f", padding=2)
        if line is not None and labels:
            axes.axvline(line, color="0.6", linewidth=1)
        axes.set_title(name)
        axes.margins(x=0.18)
        axes.invert_yaxis() if axes is figure.axes[0] else None
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    save_figure(figure, path)


def nothing_to_draw(path: Path) -> RecordsError:
    """The error that is raised in place of an empty drawing."""
    return RecordsError(f"there is nothing to draw, so {path} was not written: the results hold no numbers for it yet")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a drawing in the format that the file's ending names.

    Raises:
        RecordsError: Nothing was drawn, the file cannot be written, or its ending names no format.
    """
    import matplotlib as mpl

    panels = [axes for axes in figure.axes if axes.get_visible()]
    if not any(axes.has_data() for axes in panels):
        raise nothing_to_draw(path)
    for axes in panels:
        if not axes.has_data():
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center")

    with mpl.rc_context({"svg.hashsalt": "bytelm"}):
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise RecordsError(f"cannot draw into {path}: {error}") from error
