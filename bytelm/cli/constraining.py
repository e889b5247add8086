"""The options that say what may be written, and the constraint that they make.

Rules
    One of them is given, or none. Files are read before the model is loaded, and what is in them is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bytelm import constraints
from bytelm.cli.io import argument_bytes, read_file
from bytelm.constraints import Constraint

RegexOption = Annotated[str | None, typer.Option(help="Write what this regular expression matches as a whole.")]
JsonSchemaOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write JSON of the schema in this file; - is standard input.")
]
JsonObjectOption = Annotated[bool, typer.Option("--json-object", help="Write a JSON object.")]
LarkOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write what the Lark grammar in this file describes.")
]
ChoiceOption = Annotated[
    list[str] | None, typer.Option(help="Write this text, or another one that is given so; may be given again.")
]


def constraint_from(
    *,
    regex: str | None,
    json_schema: Path | None,
    json_object: bool,
    lark: Path | None,
    choice: Sequence[str] | None,
) -> Constraint | None:
    """The constraint that the options name.

    Raises:
        typer.BadParameter: They name two.
        InvalidArgumentError: It cannot be.
        MissingDependencyError: llguidance is not installed.
    """
    given = {
        "--regex": regex is not None,
        "--json-schema": json_schema is not None,
        "--json-object": json_object,
        "--lark": lark is not None,
        "--choice": bool(choice),
    }
    if len(names := [name for name, is_given in given.items() if is_given]) > 1:
        raise typer.BadParameter(f"{' and '.join(names)} each say what may be written: give one of them")
    if regex is not None:
        return constraints.regex(regex)
    if json_schema is not None:
        return constraints.json_schema(read_file(json_schema))
    if json_object:
        return constraints.json_object()
    if lark is not None:
        return constraints.lark(read_file(lark))
    if choice:
        return constraints.choice([argument_bytes(each, escapes=True) for each in choice])
    return None
