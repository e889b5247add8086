"""What a command reads from its user, and how it shows that it works.

Rules
    A text is taken byte for byte: from an argument, a file, or standard input; a trailing newline is part of it.
    Progress goes to standard error, and only where that is a terminal, and only once something has taken two seconds.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from bytelm.cli.tables import read_escapes

PATIENCE_S: Final = 2.0


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


@contextlib.contextmanager
def patience(label: str) -> Iterator[None]:
    """Show on a terminal's standard error that work goes on, once it has taken two seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Timer

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    progress.add_task(label, total=None)
    timer = Timer(PATIENCE_S, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        progress.stop()


def print_json(record: dict[str, Any]) -> None:
    """One record as one line of JSON; numbers that JSON lacks are null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    typer.echo(json.dumps(clean, ensure_ascii=False))
