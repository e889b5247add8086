"""A plot of surprisal along texts, by matplotlib, for a paper or a talk.

Rules
    A panel for each text, a line for each model. A unit is a step: as wide as its bytes, as high as its surprisal. Few
    units are named under the axis.
    matplotlib is no dependency of bytelm. That it is missing, or cannot write a file of that kind, is said before a
    model runs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bytelm.cli.io import STDIN
from bytelm.cli.tables import show_bytes
from bytelm.errors import InvalidArgumentError, MissingDependencyError
from bytelm.inference.score import Score
from bytelm.pictures.whole_file import write_file

PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="PATH",
        help="Plot the surprisal along the text, by words or what --by says, as PNG, SVG or PDF. Needs matplotlib.",
    ),
]
KINDS: Final = ("png", "svg", "pdf")
NAMED: Final = 48  # units that are named under the axis
WIDTH: Final = 7.0  # inches: the text of a paper
PANEL: Final = 2.6


def check_plot(path: Path) -> None:
    """See that a plot can be made.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InvalidArgumentError: It is a file of another kind.
    """
    kind = path.suffix.removeprefix(".").lower()
    if path == STDIN or kind not in KINDS:
        raise InvalidArgumentError(f"--plot writes a file that ends in {', '.join(KINDS)}; got {path}")
    try:
        import matplotlib  # noqa: F401, ICN001 - whether it is there
    except ImportError as error:
        raise MissingDependencyError("--plot needs matplotlib: pip install matplotlib", name="matplotlib") from error


def plot(path: Path, scores: Sequence[tuple[str, str, Score]]) -> None:
    """Draw scores.

    Args:
        path: Where to.
        scores: Each with the text's name and the model's.
    """
    from matplotlib.figure import Figure

    texts = list(dict.fromkeys(name for name, _, _ in scores))
    figure = Figure(figsize=(WIDTH, PANEL * len(texts)), layout="constrained")
    for axes, text in zip(figure.subplots(len(texts), squeeze=False).flat, texts, strict=True):
        drawn = [(model, score) for name, model, score in scores if name == text]
        for model, score in drawn:
            _draw(axes, model, score)
        by = drawn[0][1].by
        axes.set_ylabel(f"surprisal of a {by} (bits)", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.tick_params(labelsize=9)
        if len(texts) > 1:
            axes.set_title(text, fontsize=10, loc="left")
        if len(drawn) > 1:
            axes.legend(fontsize=9, frameon=False)
        units = [row for row in drawn[0][1] if row.bytes]
        if len(units) <= NAMED and len({score.text for _, score in drawn}) == 1:
            labels = [show_bytes(row.bytes.strip() or row.bytes).replace("$", r"\$") for row in units]
            axes.set_xticks([(row.start + row.end) / 2 for row in units], labels, rotation=60, ha="right", fontsize=9)
            axes.tick_params(axis="x", length=0)
        else:
            axes.set_xlabel("byte of the text", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix(".").lower(), dpi=200)
    write_file(path, buffer.getvalue())


def _draw(axes: Any, model: str, score: Score) -> None:
    """One line; where the probability is 0, a gap."""
    rows = [row for row in score if row.bytes]
    values = [row.surprisal_bits if math.isfinite(row.surprisal_bits) else math.nan for row in rows]
    axes.stairs(values, [*(row.start for row in rows), rows[-1].end] if rows else [0], label=model, linewidth=1.2)
