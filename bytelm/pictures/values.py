"""What the pictures show, as plain values: surprisal, units, covers, who drove a text, a sweep, a completion.

Rules
    A picture has a ``kind``, for which page/pictures.js has a function, and gives that function its ``data``: objects
    and arrays of JSON. The names in the data are those of the server's answers (serving/protocols/own.py), as the same
    functions draw both.
    Log-probabilities are natural. In the data −∞ and NaN are null, and five decimals are kept: more than is shown.
    A text is bytes. What of it is no UTF-8 is shown as escapes, ``\\xc3``.

Does not
    Ask a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from bytelm.symbols import EOT

DECIMALS: Final = 5
_LN2: Final = math.log(2)


class Picture(Protocol):
    """What a document can draw."""

    @property
    def kind(self) -> str:
        """Which function of page/pictures.js draws it."""

    def data(self) -> Any:
        """What that function is given."""


@dataclass(frozen=True)
class Place:
    """What a model says at one byte of a text.

    Attributes:
        logprob: Of the byte there.
        top: The likeliest symbols there with their log-probabilities, the likeliest first; 256 is the end of text.
        leak: The mass that no symbol has.
        entropy_bits: Of the row.
    """

    logprob: float
    top: Sequence[tuple[int, float]] = ()
    leak: float | None = None
    entropy_bits: float | None = None


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        shown: Its bytes, for a reader.
        start: Its first byte in the text.
        end: The byte after its last.
        logprob: Given the tokens before it.
    """

    shown: str
    start: int
    end: int
    logprob: float


@dataclass(frozen=True)
class Strip:
    """The surprisal of a text: of its tokens above, of its bytes below.

    Attributes:
        text: The bytes.
        places: One for each of them.
        tokens: The tokens that spell the text, in order; None where there are none to show.
    """

    text: bytes
    places: Sequence[Place]
    tokens: Sequence[Token] | None = None
    kind: ClassVar[str] = "surprisal"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        total = math.fsum(place.logprob for place in self.places)
        return {
            "bytes": [
                {"byte": byte, "logprob": number(place.logprob), **_more(place)}
                for byte, place in zip(self.text, self.places, strict=True)
            ],
            "tokens": self.tokens
            and [
                {"shown": each.shown, "start": each.start, "end": each.end, "logprob": number(each.logprob)}
                for each in self.tokens
            ],
            "logprob": number(total),
            "bits_per_byte": number(-total / _LN2 / len(self.text)) if self.text else None,
        }


@dataclass(frozen=True)
class UnitStrip:
    """A text by units of any kind, each with its surprisal.

    Attributes:
        by: What a unit is, such as "word".
        units: Each as bytes, with what the model says of it. The end of text has none, and is None.
    """

    by: str
    units: Sequence[tuple[bytes | None, Place]]
    kind: ClassVar[str] = "units"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        units = [
            {"text": shown_text(data or b""), "end": data is None, "logprob": number(place.logprob), **_more(place)}
            for data, place in self.units
        ]
        return {"by": self.by, "units": units, "logprob": number(math.fsum(place.logprob for _, place in self.units))}


@dataclass(frozen=True)
class Branch:
    """A token sequence at a cursor.

    Attributes:
        token_ids: The sequence, from the first token that is drawn on; -1 stands for several tokens that are counted.
        tokens: Their texts; None for those that are counted.
        share: Its share of the mass of all that may be there.
        beyond: Characters of the last token that lie behind the cursor.
        why: Why it is dead, if it is.
    """

    token_ids: Sequence[int]
    tokens: Sequence[str | None]
    share: float
    beyond: int = 0
    why: str | None = None

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        told = {"token_ids": list(self.token_ids), "tokens": list(self.tokens), "share": number(self.share)}
        return {**told, "beyond": self.beyond} if self.why is None else {**told, "dead": True, "why": self.why}


@dataclass(frozen=True)
class TreeStep:
    """The cover at one cursor.

    Attributes:
        logprob: Of all before the cursor.
        live: The likeliest token sequences.
        dead: Those that are shown though no text reaches them.
        hidden: Tokens that all of them begin with, and that are not drawn.
        left_out: How many live ones are not shown.
    """

    logprob: float
    live: Sequence[Branch]
    dead: Sequence[Branch] = ()
    hidden: int = 0
    left_out: int = 0

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        branches = {"items": [each.data() for each in self.live], "dead": [each.data() for each in self.dead]}
        return {"logprob": number(self.logprob), **branches, "hidden": self.hidden, "left_out": self.left_out}


@dataclass(frozen=True)
class CoverWalk:
    """The cover of a text, step by step.

    Attributes:
        text: The bytes that the cursor goes through.
        steps: The cover before each of them, and behind the last.
    """

    text: bytes
    steps: Sequence[TreeStep]
    kind: ClassVar[str] = "cover"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        return {"bytes": list(self.text), "steps": [each.data() for each in self.steps], "at": len(self.steps) - 1}


@dataclass(frozen=True)
class CoverTree:
    """The cover at one cursor, by itself.

    Attributes:
        text: The bytes before the cursor.
        step: The cover.
    """

    text: bytes
    step: TreeStep
    kind: ClassVar[str] = "members"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        return {"text": shown_text(self.text), **self.step.data()}


@dataclass(frozen=True)
class Written:
    """A text that a model wrote, in a box, with what is known of it.

    Attributes:
        text: The text.
        facts: Short statements about it.
    """

    text: str
    facts: Sequence[str]
    kind: ClassVar[str] = "written"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        return {"text": self.text, "facts": list(self.facts)}


@dataclass(frozen=True)
class Driven:
    """Who of an ensemble drove each byte of a text.

    Attributes:
        text: The bytes.
        members: The members' names.
        logprobs: Of each byte, under the ensemble.
        member_logprobs: For each byte, under each member.
        weights: For each byte, what each member counted for.
        drivers: For each byte, the member that drove it.
        combine: How the ensemble combines its members, if that is known.
    """

    text: bytes
    members: Sequence[str]
    logprobs: Sequence[float]
    member_logprobs: Sequence[Sequence[float]]
    weights: Sequence[Sequence[float]]
    drivers: Sequence[int]
    combine: str | None = None
    kind: ClassVar[str] = "driven"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it."""
        columns = zip(self.text, self.logprobs, self.member_logprobs, self.weights, self.drivers, strict=True)
        return {
            "combine": self.combine,
            "members": list(self.members),
            "bytes": [
                {
                    "byte": byte,
                    "logprob": number(logprob),
                    "members": [
                        {"logprob": number(value), "weight": number(weight) or 0.0}
                        for value, weight in zip(said, weights, strict=True)
                    ],
                    "driver": driver,
                }
                for byte, logprob, said, weights, driver in columns
            ],
        }


@dataclass(frozen=True)
class Method:
    """One way to go on from a cursor, at each cursor of a text.

    Attributes:
        name: Its name.
        word: The log-probability of the word at the cursor, of which the part before the cursor is given; None where
            there is no number.
        rest: That of the rest of the word alone.
    """

    name: str
    word: Sequence[float | None]
    rest: Sequence[float | None]


@dataclass(frozen=True)
class Sweep:
    """A cursor that is swept through a text.

    Attributes:
        text: The bytes; there is a cursor before each.
        words: The word at each cursor, for a reader.
        methods: The first one is by bytes.
    """

    text: bytes
    words: Sequence[str]
    methods: Sequence[Method]
    kind: ClassVar[str] = "sweep"

    def data(self) -> dict[str, Any]:
        """As `Picture` has it: null where there is no number, "impossible" for a probability of 0."""
        methods = [
            {"name": each.name, "word": [_cost(value) for value in each.word], "rest": [_cost(v) for v in each.rest]}
            for each in self.methods
        ]
        return {"bytes": list(self.text), "words": list(self.words), "methods": methods}


def number(value: float) -> float | None:
    """A number as JSON has it: null where there is none.

    >>> number(-0.1234567), number(float("-inf"))
    (-0.12346, None)
    """
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def shown_text(data: bytes) -> str:
    r"""Bytes for a reader; those that are no UTF-8 as escapes.

    >>> print(shown_text("né".encode() + b"\xc3"))
    né\xc3
    """
    return data.decode("utf-8", "backslashreplace")


def _cost(logprob: float | None) -> float | str | None:
    return None if logprob is None else "impossible" if logprob == -math.inf else number(logprob)


def _more(place: Place) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if place.leak is not None:
        told["leak"] = number(place.leak)
    if place.entropy_bits is not None:
        told["entropy"] = number(place.entropy_bits)
    if place.top:
        told["top"] = [[None if symbol == EOT else symbol, number(logprob)] for symbol, logprob in place.top]
    return told
