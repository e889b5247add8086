"""Drawings without data: an error that says so, after the tables; in a drawing with data, a panel that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from evals.bits_per_byte import __main__ as bits_per_byte
from evals.cost import growth
from evals.ensembles import summary as ensembles
from evals.report.output import draw_bars, save_figure
from evals.report.records import Records, RecordsError


def test_what_has_nothing_to_draw_is_not_drawn(tmp_path: Path) -> None:
    """Bars without a row, axes without a line, growth without an axis, ensembles without a task: no file, and why."""
    path = tmp_path / "empty.png"
    empty: Any = Figure()  # matplotlib leaves some of its methods untyped
    empty.subplots(1, 2)
    draws: list[Callable[[], None]] = [
        lambda: save_figure(empty, path),
        lambda: draw_bars(path, [], {"calls": [], "time": []}, title="none", line=1.0),
        lambda: growth._plot({"rows": [], "model": "tiny", "threads": 1}, path),
        lambda: ensembles.plot({"tasks": {}}, path),
    ]
    for draw in draws:
        with pytest.raises(RecordsError, match="nothing to draw"):
            draw()
    assert not path.exists()


def test_one_column_of_bars_is_drawn(tmp_path: Path) -> None:
    """As well as several."""
    draw_bars(tmp_path / "one.png", ["a", "b"], {"calls": [1, 2]}, title="one")

    assert (tmp_path / "one.png").stat().st_size > 1000


def test_an_empty_panel_beside_others_says_so(tmp_path: Path) -> None:
    """A reader would take it for zeros."""
    figure = Figure()
    full, _ = figure.subplots(1, 2)
    full.plot([0, 1], [0, 1])
    save_figure(figure, tmp_path / "half.svg")

    assert (tmp_path / "half.svg").read_text().count("no data") == 1


def test_the_tables_are_printed_before_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has no document yet shows what there is, and then says that there is nothing to draw."""
    settings: dict[str, Any] = {"sources": ["a"], "methods": ["one, bytes"], "texts_left_out": {"a": 0}, "models": {}}
    settings |= {"document_bytes": 100, "bin_bytes": 64, "weights": None}
    with Records(
        tmp_path / "run.jsonl",
        {"command": "python -m evals.bits_per_byte a", "settings": settings, "versions": {}},
        resume=False,
    ):
        pass
    status = bits_per_byte.main(["--read", str(tmp_path / "run.jsonl"), "--plot", str(tmp_path / "empty.png")])
    out, err = capsys.readouterr()

    assert status == 1
    assert "evals.bits_per_byte a" in out
    assert "nothing to draw" in err
    assert not (tmp_path / "empty.png").exists()
