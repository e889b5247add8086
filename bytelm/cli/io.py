"""What a command reads from its user, the JSON that it prints, and its warnings.

Rules
    A text is taken byte for byte: from an argument, a file, or standard input; a trailing newline is part of it.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import typer

from bytelm.cli.tables import read_escapes
from bytelm.errors import BytelmWarning

_SHOW: Final = warnings.showwarning


def read_text(text: str | None, file: Path | None, *, escapes: bool) -> bytes:
    """The bytes of the text that the user gave in one of three ways."""
    if text is not None and file is not None:
        raise typer.BadParameter("give the text as an argument or by --file, not both")
    if text is not None:
        return argument_bytes(text, escapes=escapes)
    if file is not None:
        return read_file(file)
    if sys.stdin.isatty():
        raise typer.BadParameter("no text: give it as an argument, by --file, or on standard input")
    return sys.stdin.buffer.read()


def read_file(file: Path) -> bytes:
    """The bytes of a file, or for ``-`` of standard input."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None


def argument_bytes(text: str, *, escapes: bool) -> bytes:
    """The bytes of an argument, as the shell passed them or with its escapes read."""
    if not escapes:
        return text.encode("utf-8", errors="surrogateescape")
    try:
        return read_escapes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def print_json(record: dict[str, Any]) -> None:
    """One record as one line of JSON; numbers that JSON lacks are null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    typer.echo(json.dumps(clean, ensure_ascii=False))


def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Say what bytelm warns of in one line on standard error; other warnings are shown as Python shows them."""
    if issubclass(category, BytelmWarning):
        typer.echo("bytelm: warning: " + " ".join(str(message).split()), err=True)
    else:
        _SHOW(message, category, *place, **more)
