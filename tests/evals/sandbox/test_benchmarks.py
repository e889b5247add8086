"""The canonical programs of the infilling benchmarks, in the cell."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from evals.sandbox import run as contained
from evals.sandbox.run import run_all

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are contained on Linux alone")

SETS = {"RandomSpan": 1640, "SingleLine": 1033, "MultiLine": 5815}


def rows_of(name: str, test_data: Path) -> list[dict[str, str]]:
    path = test_data / "data" / "humaneval_infilling" / f"HumanEval-{name}Infilling.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def program_of(row: dict[str, str], middle: str) -> str:
    return f"{row['prompt']}{middle}{row['suffix']}\n{row['test']}\ncheck({row['entry_point']})"


def require_containment() -> None:
    if contained.containment().walls is None:
        pytest.skip(str(contained.containment()))


def test_canonical_middles_pass_and_wrong_ones_fail(test_data: Path) -> None:
    """Twelve rows or so of each set, spread evenly: the canonical middle passes; in a third of them, a wrong one fails."""
    require_containment()
    rows = [row for name in SETS for row in rows_of(name, test_data)[:: SETS[name] // 12]]
    assert 36 <= len(rows) <= 42

    right = [
        outcome.state for outcome in run_all((program_of(row, row["canonical_solution"]) for row in rows), workers=2)
    ]
    wrong = [outcome.state for outcome in run_all((program_of(row, "\n)\n") for row in rows[::3]), workers=2)]

    assert right == ["passed"] * len(rows)
    assert wrong == ["failed"] * len(rows[::3])


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_all_canonical_middles_pass(name: str, test_data: Path) -> None:
    """Every row of a set; rows whose whole programs are the same text are run once."""
    require_containment()
    rows = rows_of(name, test_data)
    programs = list(dict.fromkeys(program_of(row, row["canonical_solution"]) for row in rows))

    states = [outcome.state for outcome in run_all(programs, workers=2)]

    assert len(rows) == SETS[name]
    assert states == ["passed"] * len(programs)
