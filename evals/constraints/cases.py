"""The cases: what may be written, a prompt that leads to it, and who says whether a text is valid.

Rules
    The cases are in cases.json, in the style of what users of constrained decoding publish: JSON schemas with nested
    objects, arrays, enums, patterns, bounds, formats and references; regular expressions; grammars; lists of texts.
    The validators share no code with llguidance. *schema*: jsonschema, draft 2020-12, with formats. *regex*: the package
    ``regex``, on the whole text. *choice*: membership. *lark* and *gbnf*: a parser of the language that the grammar is
    of, Python's or SQLite's. A grammar is narrower than its language, so its parser may accept more than it.
    ``distance`` marks the cases whose texts are few enough to list.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from bytelm import Constraint, constraints

Kind: TypeAlias = Literal["schema", "regex", "choice", "lark", "gbnf"]
KINDS: Final = get_args(Kind)
PATH: Final = Path(__file__).parent / "cases.json"
FORMATS: Final = ("email", "ipv4", "uuid")  # those that jsonschema checks without further packages
COLUMNS: Final = "(id INTEGER, name TEXT, age INTEGER, city TEXT)"


@dataclass(frozen=True)
class Case:
    """One of the cases.

    Attributes:
        id: Its name.
        kind: What describes it.
        prompt: What the model reads first.
        given: The schema, the pattern, the grammar, or the texts to choose from.
        check: Of a grammar: a key of `PARSERS`.
        distance: Whether its texts are few.
    """

    id: str
    kind: Kind
    prompt: str
    given: Any = field(repr=False)
    check: str = ""
    distance: bool = False

    def constraint(self) -> Constraint:
        """The constraint, made anew."""
        made: Mapping[Kind, Callable[[Any], Constraint]] = {
            "schema": constraints.json_schema,
            "regex": constraints.regex,
            "choice": constraints.choice,
            "lark": constraints.lark,
            "gbnf": constraints.gbnf,
        }
        return made[self.kind](self.given)

    def valid(self, text: str) -> bool:
        """Whether a finished text is valid, as an independent validator says."""
        match self.kind:
            case "schema":
                return meets(text, self.given)
            case "regex":
                import regex

                return regex.fullmatch(self.given, text) is not None
            case "choice":
                return text in self.given
            case _:
                return PARSERS[self.check](text)


def read_cases() -> list[Case]:
    """All cases, in the order of the file."""
    return [
        Case(
            id=entry["id"],
            kind=entry["kind"],
            prompt=entry["prompt"],
            given=entry[{"schema": "schema", "regex": "pattern", "choice": "choices"}.get(entry["kind"], "grammar")],
            check=entry.get("check", ""),
            distance=entry.get("distance", False),
        )
        for entry in json.loads(PATH.read_text(encoding="utf-8"))
    ]


def digest() -> str:
    """What tells one set of cases from another."""
    return hashlib.sha256(PATH.read_bytes()).hexdigest()[:16]


def meets(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a text is JSON of a schema. No key may come twice in an object, and NaN is no number.

    >>> meets('{"n":1}', {"properties": {"n": {"type": "integer"}}}), meets('{"n":1,"n":2}', {})
    (True, False)
    """
    from jsonschema import Draft202012Validator, FormatChecker

    formats = FormatChecker(FORMATS)
    formats.checks("date", ValueError)(_is_date)
    formats.checks("date-time", ValueError)(_is_date_time)
    try:
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except ValueError:
        return False
    return bool(Draft202012Validator(schema, format_checker=formats).is_valid(value))


def _is_date(value: object) -> bool:
    return not isinstance(value, str) or bool(date.fromisoformat(_as_python(value)))


def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(_as_python(value)).tzinfo is not None


def _as_python(value: str) -> str:
    """A time as Python reads it: RFC 3339 has a year 0, which is a leap year, a second 60, and small letters."""
    return re.sub("^0000", "2000", re.sub(r"(:[0-9]{2}):60", r"\1:59", value)).upper()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key comes twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def is_expression(text: str) -> bool:
    """Whether Python reads a text as an expression.

    >>> is_expression("(1 + 2) * 3"), is_expression("(1 + 2")
    (True, False)
    """
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return True


def is_call(text: str) -> bool:
    """Whether Python reads a text as a call of a function by its name.

    >>> is_call('color("red")'), is_call("color"), is_call("f(a=1, 2)")
    (True, False, False)
    """
    if not is_expression(text):
        return False
    body = ast.parse(text, mode="eval").body
    return isinstance(body, ast.Call) and isinstance(body.func, ast.Name)


def is_query(text: str) -> bool:
    """Whether SQLite can run a text as one statement, on the tables that the grammar knows.

    >>> is_query("SELECT name FROM users;"), is_query("SELECT name FROM nowhere;"), is_query("SELECT name FROM users")
    (True, False, False)
    """
    if not sqlite3.complete_statement(text):
        return False
    with closing(sqlite3.connect(":memory:")) as database:
        for table in ("users", "orders"):
            database.execute(f"CREATE TABLE {table} {COLUMNS}")
        try:
            database.execute(f"EXPLAIN {text}")
        except sqlite3.Error:
            return False
    return True


PARSERS: Final[Mapping[str, Callable[[str], bool]]] = {"sql": is_query, "expression": is_expression, "call": is_call}
