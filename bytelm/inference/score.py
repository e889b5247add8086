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
from typing import Any, Final, NamedTuple, overload

from bytelm.arguments import fspath, shown
from bytelm.errors import MissingDependencyError
from bytelm.inference.text_scoring import LN2, Readings
from bytelm.inference.units import Characters, Unit
from bytelm.pictures.document import Section, document, framed
from bytelm.pictures.values import Place, UnitStrip, shown_text
from bytelm.pictures.whole_file import write_file


class ScoreRow(NamedTuple):
    """A model's numbers for one unit of a text.

    Attributes:
        number: The unit's number, from 0; None for text between units (white space between words, text between
            regions), and for the end of text.
        bytes: The unit itself; empty for the end of text.
        start: Its first byte.
        end: The byte after its last.
        start_character: The same in code points; None inside a character.
        end_character: The same in code points; None inside a character.
        logprob: ln P(unit | everything before it).
        surprisal_bits: −log₂ of the same.
        entropy_bits: Of the next byte before the unit, over the 256 bytes and the end of text, in the row divided by
            its sum. NaN if the row has no mass, as after a text of probability 0.
        leak: 1 less that row's sum: probability of tokens that are no text there. NaN if the row has no mass.
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
        return shown_text(self.bytes)

    def __repr__(self) -> str:
        place = f"{self.start}:{self.end}"
        return f"ScoreRow({shown(self.text)}, {place}, {self.surprisal_bits:.4f} bits, leak {self.leak:.2g})"


COLUMNS: Final = ("number", "text", *ScoreRow._fields[2:])
_COUNTS: Final = ("number", "start_character", "end_character")  # whole numbers that may be missing


@dataclass(frozen=True)
class Score(Sequence[ScoreRow]):
    """A text unit by unit, in its order, with the model's numbers for each unit.

    Attributes:
        text: The scored text, as it was read (`ByteLM` may normalise a text).
        by: What a unit is: "byte", "character", "token", "word", "line" or "region".
        rows: A row for each unit, and one for the end of text if it was asked for.
    """

    text: bytes
    by: str
    rows: tuple[ScoreRow, ...]

    @property
    def logprob(self) -> float:
        """Log-probability of the text: the sum of the rows, with the end of text if it was asked for."""
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
        """The rows as dicts by the names of the columns, with ``text`` instead of ``bytes``."""
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
        """Write the rows as CSV: UTF-8, commas, a line of names first, empty fields for missing numbers.

        Raises:
            FileWriteError: It cannot be written.
        """
        write_file(fspath("path", path), csv_text(self.records(), COLUMNS))

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """The surprisal of each unit as a picture: an HTML document that fetches nothing.

        Args:
            path: Where to write it too, if anywhere.

        Returns:
            The document.

        Raises:
            FileWriteError: It cannot be written.

        >>> lm.score("The cat sat.", by="word").to_html("cat.html")  # doctest: +SKIP
        """
        page = document("bytelm: surprisal", [Section(f"Surprisal by {self.by}", picture_of(self))])
        if path is not None:
            write_file(fspath("path", path), page)
        return page

    def _repr_html_(self) -> str:
        return framed(self.to_html())

    def __repr__(self) -> str:
        return (
            f"Score({shown(shown_text(self.text))}, by={self.by!r}, {len(self)} rows, {self.surprisal_bits:.4f} bits)"
        )


def picture_of(score: Score) -> UnitStrip:
    """The rows of a score as a picture shows them."""
    texts = [None if row.start == row.end == len(score.text) else row.bytes for row in score]
    places = [Place(row.logprob, leak=row.leak, entropy_bits=row.entropy_bits) for row in score]
    return UnitStrip(score.by, list(zip(texts, places, strict=True)))


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
