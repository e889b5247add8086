"""A score as a table: its columns, pandas, CSV; and what rows say of entropy and leak."""

from __future__ import annotations

import csv
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from bytelm import Score, ScoreRow
from bytelm.errors import FileWriteError, InvalidTypeError, MissingDependencyError
from bytelm.inference.score import score_of
from bytelm.inference.text_scoring import Readings, entropies_and_leaks
from bytelm.inference.units import Characters, parts, words

TEXT = 'a, "é"\nb '.encode()
NAMES = [
    "number", "text", "start", "end", "start_character", "end_character", "logprob", "surprisal_bits", "entropy_bits",
    "leak",
]  # fmt: skip


def score(*, by: str = "word", eot: bool = False) -> Score:
    """A score whose byte i has log-probability −(i + 1) ln 2, entropy i / 2 and leak i / 100."""
    count = len(TEXT) + eot
    places = np.arange(count, dtype=np.float64)
    characters = Characters(TEXT)
    units = parts(range(1, len(TEXT) + 1)) if by == "byte" else words(characters, "before")
    return score_of(characters, by, units, Readings(-(places + 1) * math.log(2), places / 2, places / 100))


def test_rows_are_of_units_and_add_up() -> None:
    """A unit has the sum of its bytes, and the entropy and the leak before its first; the end of text is the last row."""
    found = score(eot=True)

    assert [(row.number, row.text, row.start, row.end) for row in found] == [
        (0, "a,", 0, 2),
        (1, ' "é"', 2, 7),
        (2, "\nb", 7, 9),
        (None, " ", 9, 10),
        (None, "", 10, 10),
    ]
    assert [(row.start_character, row.end_character) for row in found][1:3] == [(2, 6), (6, 8)]
    assert [row.surprisal_bits for row in found] == pytest.approx([3, 25, 17, 10, 11])
    assert [row.entropy_bits for row in found] == [0, 1, 3.5, 4.5, 5]
    assert [row.leak for row in found] == pytest.approx([0, 0.02, 0.07, 0.09, 0.1])
    assert found.surprisal_bits == pytest.approx(66)
    assert found.logprob == pytest.approx(-66 * math.log(2))
    assert (len(found), found[1], found[1:3]) == (5, found.rows[1], found.rows[1:3])


def test_a_part_of_a_character_is_shown_as_an_escape() -> None:
    """Its bytes are themselves; a place inside the character has no number."""
    row = score(by="byte")[4]

    assert (row.bytes, row.text, row.start_character, row.end_character) == (b"\xc3", r"\xc3", 4, None)


def test_a_certain_byte_has_no_surprisal_with_a_sign() -> None:
    """What has probability 1 has 0 bits, and not −0."""
    certain = score_of(Characters(b"a"), "byte", parts([1]), Readings(np.zeros(1), np.zeros(1), np.zeros(1)))

    assert str(certain[0].surprisal_bits) == "0.0"


def test_entropy_and_leak_of_rows() -> None:
    """Entropy is of the row over its sum, in bits; a row without mass has none, and no leak."""
    rows = np.full((4, 257), -np.inf)
    rows[0, :4] = math.log(1 / 4)
    rows[1, [0, 256]] = math.log(1 / 8)
    rows[2, 7] = 0.0

    entropies, leaks = entropies_and_leaks(rows)

    np.testing.assert_allclose(entropies, [2, 1, 0, np.nan], atol=1e-12)
    np.testing.assert_allclose(leaks, [0, 3 / 4, 0, np.nan], atol=1e-12)


def test_pandas_has_the_columns_with_their_types() -> None:
    """Whole numbers stay whole where some are missing."""
    table = score(eot=True).to_pandas()

    assert list(table.columns) == NAMES
    assert table["text"].tolist() == ["a,", ' "é"', "\nb", " ", ""]
    assert str(table["number"].dtype) == str(table["start_character"].dtype) == "Int64"
    assert table["number"].isna().tolist() == [False] * 3 + [True] * 2
    assert table["logprob"].sum() == pytest.approx(score(eot=True).logprob)
    assert list(Score(b"", "word", ()).to_pandas().columns) == NAMES


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"pip install pandas.*to_csv"):
        score().to_pandas()


def test_csv_comes_back_as_it_was(tmp_path: Path) -> None:
    """Quotes, commas, line ends and every digit of a number survive; what is missing is nothing."""
    path = tmp_path / "table.csv"
    found = score(eot=True)
    found.to_csv(path)
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))

    assert list(rows[0]) == NAMES
    assert [row["text"] for row in rows] == [row.text for row in found]
    assert [float(row["logprob"]) for row in rows] == [row.logprob for row in found]
    assert [row["number"] for row in rows] == ["0", "1", "2", "", ""]
    assert b"\r" not in path.read_bytes()


def test_what_is_not_a_number_is_left_out_of_csv(tmp_path: Path) -> None:
    """A row without mass has no entropy and no leak; its log-probability is −∞."""
    row = ScoreRow(0, b"a", 0, 1, 0, 1, -math.inf, math.inf, math.nan, math.nan)
    Score(b"a", "byte", (row,)).to_csv(str(tmp_path / "table.csv"))

    assert (tmp_path / "table.csv").read_text().splitlines()[1] == "0,a,0,1,0,1,-inf,inf,,"


@pytest.mark.parametrize("place", ["", "none/table.csv", "x" * 300, "a\0b"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    """A folder, a folder that is not there, a name that is too long, no name: one error."""
    with pytest.raises(FileWriteError, match="cannot write"):
        score().to_csv(tmp_path / place)
    with pytest.raises(InvalidTypeError, match="path"):
        score().to_csv(3)  # type: ignore[arg-type]


def test_a_score_is_a_value() -> None:
    """Two that say the same are equal, and nothing in one can be set."""
    assert score() == score() != score(eot=True)
    with pytest.raises(AttributeError):
        score().by = "line"  # type: ignore[misc]
