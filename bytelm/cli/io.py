"""What a command reads from its user, how it writes, and its warnings.

Rules
    A text is taken byte for byte: from an argument, a file, or standard input. Of a prompt that a file or standard
    input brings, one line end at the very end is cut, for editors and ``echo`` put one there; that is said.
    What is written is UTF-8 with LF for line ends, whatever the locale says.
    Output that cannot be written ends the command: with one line if the disk is full, in silence if nobody reads on.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

from bytelm.cli.tables import first_escape, read_escapes
from bytelm.errors import BytelmWarning, FileWriteError
from bytelm.pictures.whole_file import write_file

STDIN: Final = Path("-")
CLOSED_PIPE: Final = 141  # what a shell reports of a program that the signal of a closed pipe ended: 128 + SIGPIPE
_SHOW: Final = warnings.showwarning


class Output(io.TextIOWrapper):
    """Standard output, as UTF-8. What cannot be written ends the command."""

    def write(self, text: str) -> int:
        """Write as any text stream does."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        """Flush as any text stream does."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> NoReturn:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is still in the buffers is flushed at exit, and would fail again
        os.close(nowhere)
        if error.errno == errno.EPIPE:
            sys.exit(CLOSED_PIPE)
        fail(f"cannot write to standard output: {error.strerror}")


@contextmanager
def utf8_streams() -> Iterator[None]:
    """Standard output as an `Output`, and standard error as UTF-8, while a command runs."""
    if sys.stderr is None:  # closed by whoever started the command
        sys.stderr = io.StringIO()
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8")
    if sys.stdout is None:
        fail("standard output is closed")
    if not isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's, or a stand-in: it knows what it does with text
        yield
        return
    # Of an argument that is no text the other bytes are shown as escapes, which JSON reads too.
    output = Output(sys.stdout.buffer, "utf-8", "backslashreplace", "\n", line_buffering=sys.stdout.isatty())
    with redirect_stdout(output):
        try:
            yield
        finally:
            output.detach()


def fail(message: str) -> NoReturn:
    """Say what went wrong in one line, and exit with 1."""
    note(" ".join(message.split()))
    sys.exit(1)


def read_text(text: str | None, file: Path | None, *, escapes: bool, keep_newline: bool) -> bytes:
    """The bytes of the text that the user gave in one of three ways.

    Args:
        text: The argument.
        file: The file; ``-`` is standard input, which is read if there is neither.
        escapes: Whether the argument's escapes are read.
        keep_newline: Whether a line end at the very end of a file or of standard input is part of the text.
    """
    if text is not None and file is not None:
        raise typer.BadParameter("give the text as an argument or by --file, not both")
    if text is not None:
        return argument_bytes(text, escapes=escapes)
    if file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise typer.BadParameter("no text: give it as an argument, by --file, or on standard input")
    data = read_file(file or STDIN)
    if keep_newline or not data.endswith(b"\n"):
        return data
    note("the line end at the end of the text is removed; --keep-newline keeps it")
    return data.removesuffix(b"\n").removesuffix(b"\r")


def read_file(file: Path) -> bytes:
    """The bytes of a file, or for ``-`` of standard input."""
    if file == STDIN and sys.stdin is None:
        raise typer.BadParameter("standard input is closed")
    try:
        return sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None


def argument_bytes(text: str, *, escapes: bool) -> bytes:
    """The bytes of an argument, as the shell passed them or with its escapes read."""
    if not escapes:
        if escape := first_escape(text):
            note(f"{escape} in an argument is {len(escape)} characters here; --escapes (-e) reads it as one")
        return os.fsencode(text)
    try:
        return read_escapes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def utf8(data: bytes, name: str) -> str:
    """Bytes as the text that they must be."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{name} is not UTF-8: byte {error.start} of its {len(data)} is 0x{data[error.start]:02X}"
        ) from None


def note(message: str) -> None:
    """Say on standard error what the user may not expect."""
    typer.echo(f"bytelm: {message}", err=True)


def print_json(record: dict[str, Any]) -> None:
    """One record as one line of JSON; numbers that JSON lacks are null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
    typer.echo(json.dumps(clean, ensure_ascii=False))


def check_outputs(paths: Mapping[str, Path | None], read: Sequence[str | None] = (), *, as_json: bool) -> None:
    """See that files can be written, before models run for them.

    Args:
        paths: The file of each option.
        read: The files that the command reads; None is an argument.
        as_json: Whether JSON goes to standard output.

    Raises:
        FileWriteError: One of them cannot.
    """
    given = {option: path for option, path in paths.items() if path is not None}
    printed = [option for option, path in given.items() if path == STDIN]
    shared = [*printed, *(["--json"] if as_json else [])]
    if len(shared) > 1:
        raise typer.BadParameter(f"standard output takes one of {' and '.join(shared)}: give a file")
    files = {option: path for option, path in given.items() if path != STDIN}
    for option, path in files.items():
        check_writable(option, path, [name for name in read if name is not None and name != str(STDIN)])
    places = [path.absolute() for path in files.values()]
    same = [option for option, place in zip(files, places, strict=True) if places.count(place) > 1]
    if same:
        raise typer.BadParameter(f"{' and '.join(same)} name one file: give each its own")


def check_writable(option: str, path: Path, read: Sequence[str] = ()) -> None:
    """See that a file can be written.

    Args:
        option: Which option names it.
        path: The file.
        read: The files that the command reads.

    Raises:
        FileWriteError: It cannot.
    """
    try:
        if any(path.exists() and path.samefile(name) for name in read):
            raise typer.BadParameter(f"{option} {path} is one of the files that are scored")
        if path.is_dir():
            raise FileWriteError(f"cannot write {path}: it is a folder")
        if not path.parent.is_dir():
            raise FileWriteError(f"cannot write {path}: there is no folder {path.parent}")
        needed = [path] if path.exists() else []
        if path.is_file() or not path.exists():
            needed.append(path.resolve().parent)  # a file is written beside the old one, and renamed
        if not all(os.access(each, os.W_OK) for each in needed):
            raise FileWriteError(f"cannot write {path}: permission denied")
    except (OSError, ValueError) as error:
        if isinstance(error, FileWriteError):
            raise
        raise FileWriteError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def put(path: Path, text: str) -> None:
    """Write a text to a file, or print it."""
    if path == STDIN:
        typer.echo(text, nl=False)
    else:
        write_file(path, text)


def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Say what bytelm warns of in one line on standard error; other warnings are shown as Python shows them."""
    if issubclass(category, BytelmWarning):
        note("warning: " + " ".join(str(message).split()))
    else:
        _SHOW(message, category, *place, **more)
