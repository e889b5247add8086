"""The options that say what may be written, and by which way: the constraint that they make, particles, drafts.

Rules
    One of them is given, or none. Files are read before the model is loaded, and what is in them is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bytelm import constraints
from bytelm.cli.io import argument_bytes, note, read_file
from bytelm.constraints import Constraint
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import Conditioning

RegexOption = Annotated[str | None, typer.Option(help="Write text that matches this regular expression as a whole.")]
JsonSchemaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write JSON that follows the schema in this file; - is standard input."),
]
JsonObjectOption = Annotated[bool, typer.Option("--json-object", help="Write a JSON object.")]
LarkOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write text of the Lark grammar in this file.")]
ChoiceOption = Annotated[
    list[str] | None, typer.Option(help="Write one of the texts given by --choice; repeat it for each.")
]

ConditioningOption = Annotated[
    Conditioning,
    typer.Option(
        help="step: each byte is drawn from the bytes allowed next. exact: the model's own distribution, given that "
        "the text meets the constraint; it takes several attempts."
    ),
]
BudgetOption = Annotated[int, typer.Option(min=1, help="With --conditioning exact: the most attempts.")]
ParticlesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Draw so many weighted texts at once and pick one. This approaches --conditioning exact where that takes "
        "too many attempts; --json lists all with their weights.",
    ),
]

DraftOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Let this smaller model draft bytes, which takes fewer calls of the large one. The distribution stays the "
        "same. lookup: draft what followed the last bytes earlier in the text.",
    ),
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
        raise typer.BadParameter(f"{' and '.join(names)} are each a constraint: give one of them")
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


def tell_particles(completion: Completion) -> None:
    """Say what a text stands for that was picked from particles."""
    if (told := completion.particles) is not None:
        note(
            f"picked from {len(told.texts)} particles by their weights (effective sample size "
            f"{told.effective_sample_size:.1f}): the distribution is approximate"
        )


def particles_of(completion: Completion) -> dict[str, Any]:
    """What JSON says of the particles of a completion, where it has some."""
    told = completion.particles
    if told is None:
        return {}
    texts = [
        {"text": text.decode("utf-8", "backslashreplace"), "hex": text.hex(), "weight": weight}
        for text, weight in zip(told.texts, told.weights.tolist(), strict=True)
    ]
    known = {"log_mass": told.log_mass, "effective_sample_size": told.effective_sample_size}
    return {"particles": {**known, "resamplings": told.resamplings, "texts": texts}}
