"""A score: what a model says of each unit of a text, as a value and as a table.

Rules
    The log-probability of a unit is the sum of those of its bytes, which are differences of exact prefix masses: that
    of ``text[start:end]`` is ln P(text[:end]) − ln P(text[:start]), both after the prefix. So units add up to the text,
    whatever they are.
    Logs are natural; what is in bits says so in its name. Entropy and leak are those of the row before a unit's first
    byte.

Does not
    Ask a model (text_scoring.py), nor say what a unit is (units.py).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

from bytelm.arguments import fspath
from bytelm.errors import FileWriteError, MissingDependencyError
from bytelm.inference.text_scoring import LN2, Readings
from bytelm.inference.units import Characters, Unit


class ScoreRow(NamedTuple):
    """What a model says of one unit of a text.

    Attributes:
        number: Which of the units that were asked for, from 0; None for what lies between them (white space between
            words, text between regions), and for the end of text.
        bytes: The unit itself; nothing for the end of text.
        start: Its first byte.
        end: The byte behind its last.
        start_character: The same in code points; None inside a character.
        end_character: The same in code points; None inside a character.
        logprob: ln P(unit | all before it).
        surprisal_bits: −log₂ of the same.
        entropy_bits: Of the next byte before the unit, over the 256 bytes and the end of text, in the row divided by
            its sum. NaN where the row has no mass, as after a text of probability 0.
        leak: What that row lacks of 1: mass on what is no text. NaN where the row has no mass.
    """

    number: int | None
    bytes: bytes
    start: int
    end: int
    start_character: int | None
    end_character: int | None
    logprob: float
    surprisal_bits: float
    entropy_bits: float
    leak: float

    @property
    def text(self) -> str:
        r"""The unit as text; bytes that are no UTF-8, such as a part of a character, as ``\xNN``."""
        return self.bytes.decode("utf-8", "backslashreplace")


COLUMNS: Final = ("number", "text", *ScoreRow._fields[2:])
_COUNTS: Final = ("number", "start_character", "end_character")  # whole numbers that may be missing


@dataclass(frozen=True)
class Score(Sequence[ScoreRow]):
    """A text by its units, each with what a model says of it. Their order is that of the text.

    Attributes:
        text: What was scored, as it was read (`ByteLM` may be told to normalise a text).
        by: What a unit is: "byte", "character", "token", "word", "line" or "region".
        rows: A row for each unit, and for the end of text where that was asked for.
    """

    text: bytes
    by: str
    rows: tuple[ScoreRow, ...]

    @property
    def logprob(self) -> float:
        """Log-probability of the text: the sum of the rows, with the end of text where that was asked for."""
        return math.fsum(row.logprob for row in self.rows)

    @property
    def surprisal_bits(self) -> float:
        """−log₂ of the same."""
        return bits(self.logprob)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ScoreRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ScoreRow, ...]: ...

    def __getitem__(self, index: int | slice) -> ScoreRow | tuple[ScoreRow, ...]:
        return self.rows[index]

    def __iter__(self) -> Iterator[ScoreRow]:
        return iter(self.rows)

    def records(self) -> list[dict[str, Any]]:
        """The rows as a table has them: by the names of the columns, with ``text`` in place of ``bytes``."""
        return [{name: getattr(row, name) for name in COLUMNS} for row in self.rows]

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError(
                "to_pandas needs pandas: pip install pandas, or write the table with to_csv", name="pandas"
            ) from error
        return pd.DataFrame(self.records(), columns=list(COLUMNS)).astype(dict.fromkeys(_COUNTS, "Int64"))

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the rows as a table: UTF-8, commas, a line of names first, nothing where there is no number.

        Raises:
            FileWriteError: It cannot be written.
        """
        write_file(fspath("path", path), csv_text(self.records(), COLUMNS))


def bits(logprob: float) -> float:
    """A log-probability as a surprisal in bits; 0 without a sign."""
    return 0.0 - logprob / LN2


def score_of(characters: Characters, by: str, units: Iterable[Unit], readings: Readings) -> Score:
    """A score, from the units of a text and what the rows along it say.

    Args:
        characters: The text.
        by: What its units are.
        units: The units, in order.
        readings: Of each byte, and perhaps of the end of text.
    """
    data = characters.data
    logprobs, entropies, leaks = (each.tolist() for each in readings)
    end = [Unit(None, len(data), len(data))] * (len(logprobs) - len(data))
    rows = []
    for unit in (*units, *end):
        logprob = math.fsum(logprobs[unit.start : max(unit.end, unit.start + 1)])  # the end's number is its own
        rows.append(
            ScoreRow(
                unit.number,
                data[unit.start : unit.end],
                unit.start,
                unit.end,
                characters.at(unit.start),
                characters.at(unit.end),
                logprob,
                bits(logprob),
                entropies[unit.start],
                leaks[unit.start],
            )
        )
    return Score(data, by, tuple(rows))


def csv_text(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    r"""A table as CSV.

    >>> csv_text([{"text": "a, b", "number": None}], ["number", "text"])
    'number,text\n,"a, b"\n'
    """
    out = io.StringIO()
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    for record in records:
        table.writerow(
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}
        )
    return out.getvalue()


def write_file(path: str | PathLike[str], text: str) -> None:
    """Write a text to a file, as UTF-8.

    Raises:
        FileWriteError: It cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        failure = FileWriteError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
        failure.errno = getattr(error, "errno", None)
        raise failure from error
