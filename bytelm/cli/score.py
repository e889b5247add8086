r"""The command ``bytelm score``: what models say of texts, as a whole or unit by unit, in one table.

Rules
    A lone argument is a file if one has that name, which is said, and else the text itself. Of several arguments each
    is a file. A text that is measured is measured whole: no line end is cut.
    The table has the texts in the order in which they were given, and each text has the models in theirs. JSON and CSV
    name both in every line; a table in a terminal names what there are several of.
    All models are loaded, and all texts are checked against all of them, before any model runs.
"""

from __future__ import annotations

import codecs
import itertools
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from bytelm.byte_lm.model import ByteLM
from bytelm.cli import options as opt
from bytelm.cli.colours import print_surprisal
from bytelm.cli.io import STDIN, argument_bytes, check_outputs, note, print_json, put, read_file, read_text
from bytelm.cli.pictures import STRIP_NOTE, HtmlOption, strip_of
from bytelm.cli.plot import PlotOption, check_plot, plot
from bytelm.cli.tables import columns, show_bytes, show_prob
from bytelm.cover.prefix import Prefix
from bytelm.inference.scheduler import blamed
from bytelm.inference.score import COLUMNS, Score, bits, csv_text, picture_of
from bytelm.inference.units import UnitName, WordSpace
from bytelm.pictures.document import Section, document

NAMES: Final = ("file", "model")
WHOLE: Final = ("bytes", "logprob", "bits_per_byte", "eot")  # of a text that is scored as a whole
WHOLE_HEAD: Final = ("bytes", "log P", "bits per byte")
UNITS_HEAD: Final = ("unit", "start", "log P", "bits", "entropy", "leak")


def score(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Files; - is standard input. A single argument that names no file is the text itself. Without any, "
            "--file or standard input.",
        ),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="The same as FILE; may be given again.")
    ] = None,
    escapes: opt.EscapesOption = False,
    by: Annotated[
        UnitName | None,
        typer.Option(
            help="Score each unit of the text. A word is the text between white space; a token is the model's own."
        ),
    ] = None,
    space: Annotated[
        WordSpace,
        typer.Option(
            help="With --by word: the white space belongs to the word before it (after), so that a word is scored with "
            "its end, to the word after it (before), or to units of its own (none)."
        ),
    ] = "after",
    prefix: Annotated[str, typer.Option(help="The text before; it is not scored.")] = "",
    start: Annotated[
        bool,
        typer.Option("--start", help="Put the model's start token (BOS, or an end of text) in front, as lm-eval does."),
    ] = False,
    eot: Annotated[bool, typer.Option("--eot", help="The text ends there: score the end too.")] = False,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Score a text longer than the model's context in pieces of this many bytes."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="PATH", help="Write the table as CSV; - is standard output.")
    ] = None,
    html: HtmlOption = None,
    plot_path: PlotOption = None,
    as_json: opt.JsonOption = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=opt.packaged_names,
            help=f"{opt.MODEL_HELP} May be given again.  [env var: BYTELM_MODEL; default: {opt.MODEL.model}]",
        ),
    ] = None,
    device: opt.DeviceOption = None,
    dtype: opt.DtypeOption = None,
    engine: opt.EngineOption = "transformers",
    normalize: opt.NormalizeOption = False,
    replace: opt.ReplaceOption = None,
    context_length: opt.ContextOption = None,
) -> None:
    """Print the log-probability and the bits per byte of texts, or with --by of each unit.

    If the tokenizer puts nothing (no BOS) in front of a text, the first token is scored after the model's start token,
    and the others after the text alone. With --start the start token stays in front of all of them.

    \b
    Examples:
      bytelm score README.md
      bytelm score --prefix "The capital of " "France"
      bytelm score --by word "The cat sat on the mat."
      bytelm score a.txt b.txt -m demo -m demo-gemma
      bytelm score poem.txt --by byte --csv surprisal.csv
      bytelm score poem.txt --html poem.html --plot poem.png
    """
    if by != "word" and space != "after":
        raise typer.BadParameter(f"--space {space} says where the white space of words goes: give --by word too")
    if csv is not None and as_json:
        raise typer.BadParameter("the table is CSV or JSON: give --csv or --json, not both")
    named = read_texts(texts or [], file or [], escapes=escapes)
    before = argument_bytes(prefix, escapes=escapes)
    for name, data in named:
        _check_text(name, data, before, eot=eot)
    outputs = {"--csv": csv, "--html": html, "--plot": plot_path}
    check_outputs(outputs, [name for name, _ in named], as_json=as_json)
    if plot_path is not None:
        check_plot(plot_path)
    how = opt.Model("", device, dtype, engine, normalize, replace, context_length)
    wanted = dict.fromkeys(models or [os.environ.get("BYTELM_MODEL") or opt.MODEL.model])
    with ExitStack() as opened:
        lms = {model: opened.enter_context(how.load(model)) for model in wanted}
        fronts = {model: lm.start_prefix(before) if start else before for model, lm in lms.items()}
        pairs = list(itertools.product(named, lms))
        rows = any(each is not None for each in (by, html, plot_path))
        for (name, data), model in pairs:
            with blamed(f"{called(name)} by {model}"):
                _check_scored(lms[model], data, fronts[model], rows=rows, eot=eot, stride=stride)
        found, sections, drawn = [], [], []
        for (name, data), model in pairs:
            lm, front = lms[model], fronts[model]
            title = (
                ", ".join([*[called(name)] * (len(named) > 1), *[model] * (len(lms) > 1)])
                or f"Surprisal of {called(name)}"
            )
            options: dict[str, Any] = {"prefix": front, "eot": eot, "stride": stride, "progress": True}
            if html is not None and data:
                sections.append(Section(title, strip_of(lm, data, prefix=front, stride=stride), STRIP_NOTE))
            if by is not None or plot_path is not None:
                scored = lm.score(data, by=by or "word", space=space, **options)
                drawn.append((called(name), model, scored))
            if by is None:
                told = whole(lm.logprob(data, **options), len(data), eot=eot)
            else:
                told = by_units(drawn[-1][2])
                sections.append(Section(f"{title}, by {by}", picture_of(drawn[-1][2])))
            found.append(({"file": name, "model": model}, told))
    if html is not None:
        put(html, document("bytelm score", sections))
    if plot_path is not None:
        plot(plot_path, drawn)
    records = [{**names, **record} for names, told in found for record in told.records]
    if as_json:
        for record in records:
            print_json(record)
    elif csv is not None:
        put(csv, csv_text(records, (*NAMES, *(WHOLE if by is None else COLUMNS))))
    elif html != STDIN:
        shown = [name for name, several in zip(NAMES, (len(named) > 1, len(lms) > 1), strict=True) if several]
        head = [*shown, *(WHOLE_HEAD if by is None else UNITS_HEAD)]
        body = [[*(names[name] or "" for name in shown), *cells] for names, told in found for cells in told.cells]
        for name, model, scored in drawn if by is not None else []:
            several = [name] * (len(named) > 1) + [model] * (len(lms) > 1)
            print_surprisal(scored, name=", ".join(several))
        words = [*shown, *([] if by is None else UNITS_HEAD[:1])]  # columns of words, in front of those of numbers
        typer.echo(columns([head, *body], right=[number >= len(words) for number in range(len(head))]))


class Told(NamedTuple):
    """What is said of one text by one model.

    Attributes:
        records: For JSON and CSV.
        cells: The same for a terminal, in a few columns.
    """

    records: list[dict[str, Any]]
    cells: list[list[str]]


def whole(logprob: float, size: int, *, eot: bool) -> Told:
    """A text as a whole.

    Args:
        logprob: Of all of it.
        size: Its bytes.
        eot: Whether its end was scored too.
    """
    rate = bits(logprob) / size if size else math.nan
    record = dict(zip(WHOLE, (size, logprob, rate, eot), strict=True))
    return Told([record], [[str(size), f"{logprob:.4f}", f"{rate:.4f}"]])


def by_units(score: Score) -> Told:
    """A text by its units, and in a terminal their sum."""
    cells = [
        [
            f"'{show_bytes(row.bytes)}'" if row.bytes else "end of text",
            str(row.start),
            *(f"{value:.4f}" for value in (row.logprob, row.surprisal_bits, row.entropy_bits)),
            show_prob(row.leak),
        ]
        for row in score
    ]
    total = [f"sum of all {len(score)}", "", f"{score.logprob:.4f}", f"{score.surprisal_bits:.4f}", "", ""]
    return Told(score.records(), [*cells, total])


def read_texts(texts: Sequence[str], files: Sequence[Path], *, escapes: bool) -> list[tuple[str | None, bytes]]:
    """The texts that the user gave, each with its file's name; - is standard input, None an argument.

    Args:
        texts: The arguments.
        files: What ``--file`` names.
        escapes: Whether escapes are read in an argument that is a text.
    """
    if texts and files:
        raise typer.BadParameter("give files as arguments or by --file, not both")
    if not (texts or files):
        return [(str(STDIN), read_text(None, None, escapes=False, keep_newline=True))]
    missing = [text for text in texts if not _is_file(text)]
    if missing and len(texts) == 1:
        return [(None, argument_bytes(texts[0], escapes=escapes))]
    if missing:
        raise typer.BadParameter(
            f"there is no file {missing[0]}. Of several arguments each is a file; one may be a text"
        )
    if len(texts) == 1 and Path(texts[0]) != STDIN:
        note(f"{texts[0]} is a file here, and its text is scored; to score its name, give it on standard input")
    paths = [*files, *map(Path, texts)]
    if paths.count(STDIN) > 1:
        raise typer.BadParameter("standard input can be read once: give - once")
    return [(str(path), read_file(path)) for path in paths]


def called(name: str | None) -> str:
    """What messages call a text."""
    return "the text" if name is None else "standard input" if Path(name) == STDIN else name


def _is_file(text: str) -> bool:
    """Whether an argument names a file, or is -."""
    path = Path(text)
    try:
        return path == STDIN or (path.exists() and not path.is_dir())
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _check_text(name: str | None, data: bytes, before: bytes, *, eot: bool) -> None:
    """See that there is something to score, and that it is text; its last character may be cut short."""
    if not (data or eot):
        raise typer.BadParameter(f"{called(name)} is empty: there is nothing to score; --eot scores the end alone")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(before + data)
    except UnicodeDecodeError as error:
        at = error.start - len(before)
        where, whole = (called(name), data) if at >= 0 else ("--prefix", before)
        raise typer.BadParameter(
            f"{where} is not text: byte {at % len(whole)} of its {len(whole)} is 0x{whole[at]:02X}, which is no UTF-8 "
            "there; convert it to UTF-8"
        ) from None


def _check_scored(lm: ByteLM, data: bytes, prefix: Prefix, *, rows: bool, eot: bool, stride: int | None) -> None:
    """See that a model can score a text, which the model is not run for.

    Raises:
        UnreachablePrefixError: Its tokenizer cannot spell the text.
        ContextOverflowError: The text does not fit in its context.
        InvalidArgumentError: Nor does a stride.
    """
    prompt, text = lm.prompt(prefix), lm.bytes_of(data)
    lm.place(prompt.extended(text))
    lm.pieces(prompt, text, stride)
    if stride is None:
        lm.check_room(prompt, text, asked="rows" if rows else "text", end=eot)
