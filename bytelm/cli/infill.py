r"""The command ``bytelm infill``: at a cursor in a file, in what standard input brings, or between two arguments.

Rules
    A file is read as bytes and its text is not changed: line ends, tabs, a byte order mark and a missing last newline
    stay. What is printed is what the model wrote. What is inserted is the same, without a last character that
    ``--max-bytes`` cut short, and with CRLF for line ends in a file that has no others.
    Whatever can be wrong with the text and the place is said before the model is loaded (but for what only its format
    can tell), and whether the file may be changed as well. With ``--in-place`` the file holds the old text until the
    whole new one is on the disk.
    A text too long for the model is cut to a window around the cursor (cursor.py), and that is said on standard error.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Annotated, Any

import typer

from bytelm.cli import options as opt
from bytelm.cli.atomic_edit import replace, writable
from bytelm.cli.cursor import (
    STOPS,
    StopAt,
    Unit,
    check_text,
    default_window,
    offset_at,
    place,
    window,
    with_line_ends_of,
)
from bytelm.cli.io import STDIN, argument_bytes, read_file
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.fim import Carry, FIMFormat, Mode, OtherFiles, read_format
from bytelm.fim.files import UNNAMED
from bytelm.sampling.params import SamplingParams
from bytelm.symbols import is_continuation


def infill(
    file: Annotated[Path | None, typer.Argument(help="A file with the cursor in it; - is standard input.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="LINE:COLUMN",
            help="The cursor is before this character of this line. Both count from 1; a tab counts as one.",
        ),
    ] = None,
    unit: Annotated[
        Unit,
        typer.Option(
            help="The unit of COLUMN: code points, bytes as in Vim, or UTF-16 units as in LSP (from 0 there: add 1)."
        ),
    ] = "character",
    offset: Annotated[
        int | None,
        typer.Option(min=0, help="The cursor is after this many bytes; with --mode left it may be inside a character."),
    ] = None,
    prefix: opt.PrefixOption = None,
    suffix: opt.SuffixOption = None,
    file_option: Annotated[Path | None, typer.Option("--file", "-f", help="The same as FILE.")] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "--stdin",
            help="Read standard input: a text with the cursor in it, or the side that --prefix or --suffix leaves out.",
        ),
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", "-i", help="Insert the middle into the file instead of printing it.")
    ] = False,
    stop_at: Annotated[
        StopAt, typer.Option(help="Stop before the end of the line, before an empty line, or nowhere.")
    ] = "eot",
    window_: Annotated[
        int | None,
        typer.Option(
            "--window",
            min=1,
            help="Show the model at most this many bytes around the cursor; by default as many as surely fit.",
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="The order that the model reads; left: the prefix alone, for any model; chat: a message with the "
            "hole, for chat models without an order."
        ),
    ] = "auto",
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="The prompt format: a name, or FILE.json with one of your own. Found by the tokenizer's tokens if not "
            "given.",
        ),
    ] = None,
    carry: Annotated[
        Carry,
        typer.Option(
            help="In PSM, the part of the text before the cursor that is moved after the last sentinel: its last line, "
            "its last word, or nothing."
        ),
    ] = "line",
    context: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OTHER",
            help="Another file that the model reads before the text. Repeat it for more, the nearest last; if they do "
            "not fit, the first ones are left out.",
        ),
    ] = None,
    escapes: opt.EscapesOption = False,
    sampling: opt.Sampling = opt.SAMPLING,
    n: opt.NumberOption = 1,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL_FIM,
) -> None:
    """Complete the middle at a cursor, wherever it is. Prints the middle alone, as it is generated.

    \b
    Examples:
      bytelm infill add.py --at 2:8 --temperature 0 --stop-at newline
      bytelm infill add.py --at 2:8 --in-place
      bytelm infill -e --prefix "def add(a, b):\\n    ret" --suffix "\\n\\nprint(add(1, 2))\\n"
      bytelm infill add.py --at 2:8 --likeliest -n 5
      bytelm infill add.py --at 2:8 --context tests/test_add.py --context numbers.py
      git show :add.py | bytelm infill --stdin --offset 22 --json
      bytelm infill -m demo --prefix "The capital of Fra" --mode left --max-bytes 3
    """
    path = _one_text(file, file_option, stdin=stdin)
    try:
        before, after = _sides(path, prefix, suffix, at, offset, unit=unit, escapes=escapes)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error)) from None
    if in_place:
        _check_in_place(path, before, after, n)
    if mode != "left" and _inside_character(after):
        raise typer.BadParameter(
            "the cursor is inside a character, so that what is behind it is no text that a model could be shown: "
            "--mode left completes what is before it"
        )
    form, others = _format(format_), _others(context, path)
    search = sampling.search(n, STOPS[stop_at]) if sampling.likeliest else None
    params = sampling.params(STOPS[stop_at]) if search is None else SamplingParams()
    lm = model.load()
    size = default_window(lm.abilities.context_length, sampling.max_bytes) if window_ is None else window_
    left, right = window(before, b"" if mode == "left" else after, size)
    if len(left) < len(before) or (mode != "left" and len(right) < len(after)):
        typer.echo(
            f"bytelm: of the {len(before)} bytes before the cursor the model is shown {len(left)}, of the {len(after)} "
            f"behind it {len(right)} (--window {size})",
            err=True,
        )
    how: dict[str, Any] = {"mode": mode, "format": form, "carry": carry, "context": others}
    if search is not None:
        endings = lm.infill_likeliest(left, right, **how, **search)
        if in_place and path is not None and endings:
            _insert(path, before, endings[0].bytes, after)
        if as_json or not in_place:
            opt.show_endings(endings, as_json=as_json)
        return
    if n == 1 and not (as_json or in_place):
        opt.show_pieces(lm.infill_stream(left, right, **how, params=params))
        return
    done = lm.infill(left, right, **how, params=params, n=n, progress=True)
    completions = done if isinstance(done, list) else [done]
    if in_place and path is not None:
        opt.tell_cut(completions[0].bytes)
        _insert(path, before, completions[0].bytes, after)
    if as_json or not in_place:
        opt.show_completions(done, as_json=as_json)


def _others(paths: list[Path] | None, path: Path | None) -> OtherFiles | None:
    """The other files, by their names from here on, and the file's. No folder's name, or texts would depend on it."""
    here = Path.cwd()

    def name(file: Path) -> str:
        full = file.resolve()
        return (full.relative_to(here) if full.is_relative_to(here) else file).as_posix()

    files = []
    for other in paths or []:
        if other == STDIN:
            raise typer.BadParameter("--context names files; standard input has the text itself")
        data = read_file(other)
        try:
            check_text(data, f"--context {other}")
            files.append((name(other), data))
        except InvalidArgumentError as error:
            raise typer.BadParameter(str(error)) from None
    if not files:
        return None
    try:
        mine = UNNAMED if path is None or path == STDIN else name(path)
        return OtherFiles(files, name=mine)
    except InvalidArgumentError as error:
        raise typer.BadParameter(f"--context: {error}") from None


def _insert(path: Path, before: bytes, middle: bytes, after: bytes) -> None:
    """Put a middle into a file: its whole characters, with the file's line ends."""
    text = before + after
    replace(path, text, before + with_line_ends_of(text, _whole_characters(middle)) + after)


def _format(given: str | None) -> str | FIMFormat | None:
    """The name of a format, or the format that a file holds."""
    if given is None or not given.endswith(".json"):
        return given
    try:
        return read_format(given)
    except (InvalidArgumentError, InvalidTypeError) as error:
        raise typer.BadParameter(f"--format: {error}") from None


def _one_text(file: Path | None, file_option: Path | None, *, stdin: bool) -> Path | None:
    """The file, or standard input, with the cursor in it; None if there is neither."""
    given = [path for path in (file, file_option, STDIN if stdin else None) if path is not None]
    if len(given) > 1:
        raise typer.BadParameter("give the text as FILE, by --file or by --stdin, not by two of them")
    return given[0] if given else None


def _sides(
    path: Path | None,
    prefix: str | None,
    suffix: str | None,
    at: str | None,
    offset: int | None,
    *,
    unit: Unit,
    escapes: bool,
) -> tuple[bytes, bytes]:
    """What stands before and behind the cursor.

    Raises:
        InvalidArgumentError: The file or an argument is not text, or there is no such place in the file.
    """
    given = {"--at": at, "--offset": offset, "--prefix": prefix, "--suffix": suffix}
    names = [name for name, value in given.items() if value is not None]
    sides = [argument_bytes(side or "", escapes=escapes) for side in (prefix, suffix)]
    check_text(sides[0], "--prefix", cut=True)
    if not _inside_character(sides[1]):  # else only --mode left can do with it, which does not read it
        check_text(sides[1], "--suffix")
    if path is None:
        if at is not None or offset is not None:
            raise typer.BadParameter(f"{names[0]} is a place in a text: give FILE, --file or --stdin too")
        if not names:
            raise typer.BadParameter("no text: give FILE and --at, or --prefix and --suffix")
        return sides[0], sides[1]
    if len(names) != 1 or (path != STDIN and names[0] in {"--prefix", "--suffix"}):
        raise typer.BadParameter(
            f"where is the cursor in {path}? Give --at LINE:COLUMN or --offset BYTES, or for standard input --prefix "
            f"or --suffix, and not both; got {' and '.join(names) or 'none'}"
        )
    data, name = read_file(path), "standard input" if path == STDIN else str(path)
    check_text(data, name, cut=suffix is not None)  # a prefix may end anywhere
    if prefix is not None:
        return sides[0], data
    if suffix is not None:
        return data, sides[1]
    if at is not None:
        offset = offset_at(data, *place(at), unit=unit, name=name)
    if offset is None or offset > len(data):
        raise InvalidArgumentError(f"--offset {offset} is beyond the end of {name}, which has {len(data)} bytes")
    return data[:offset], data[offset:]


def _check_in_place(path: Path | None, before: bytes, after: bytes, n: int) -> None:
    """See that one middle can go into the file.

    Raises:
        FileWriteError: The file may not be changed.
    """
    if path is None or path == STDIN:
        raise typer.BadParameter("--in-place changes a file: give FILE and --at or --offset")
    if n > 1:
        raise typer.BadParameter(f"--in-place inserts one middle; got -n {n}")
    broken = {
        "inside a character": _inside_character(after),
        "inside a line end, between CR and LF": before.endswith(b"\r") and after.startswith(b"\n"),
        "before the byte order mark": not before and after.startswith(codecs.BOM_UTF8),
    }
    if wrong := [place for place, there in broken.items() if there]:
        raise typer.BadParameter(f"--in-place: the cursor is {wrong[0]}, and the inserted text would break it")
    writable(path)


def _inside_character(after: bytes) -> bool:
    """Whether what is behind the cursor begins with a byte that no character begins with."""
    return bool(after) and is_continuation(after[0])


def _whole_characters(data: bytes) -> bytes:
    """What was written, without a character that was cut short."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start]
    return data
