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

from bytelm.render import read_escapes

PATIENCE_S: Final = 2.0


def read_text(text: str | None, file: Path | None, *, escapes: bool) -> bytes:
    """The bytes of the text that the user gave in one of three ways."""
    if text is not None and file is not None:
        raise typer.BadParameter("give the text as an argument or by --file, not both")
    if text is not None:
        return argument_bytes(text, escapes=escapes)
    if file is not None and str(file) != "-":
        try:
            return file.read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("no text: give it as an argument, by --file, or on standard input")
    return sys.stdin.buffer.read()


def read_sides(
    prefix: str | None, suffix: str | None, file: Path | None, offset: int | None, *, escapes: bool
) -> tuple[bytes, bytes]:
    """What stands before and behind a cursor: two arguments, or a file and a place in it."""
    if file is None:
        if offset is not None:
            raise typer.BadParameter("--offset is a place in a file: give --file too")
        if prefix is None and suffix is None:
            raise typer.BadParameter("no text: give --prefix and --suffix, or --file and --offset")
        return argument_bytes(prefix or "", escapes=escapes), argument_bytes(suffix or "", escapes=escapes)
    if prefix is not None or suffix is not None:
        raise typer.BadParameter("give the text as --prefix and --suffix or by --file, not both")
    if offset is None:
        raise typer.BadParameter("--file needs --offset: where in it the cursor is, in bytes")
    data = read_text(None, file, escapes=escapes)
    if offset > len(data):
        raise typer.BadParameter(f"--offset {offset} is beyond the end of {file}, which has {len(data)} bytes")
    return data[:offset], data[offset:]


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
