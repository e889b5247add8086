r"""The command ``bytelm``: what the library does, from a shell.

Rules
    Standard output holds the result and nothing else; progress and errors go to standard error, progress only where
    that is a terminal, and a warning as one line. With ``--json`` the result is JSON, one object a line.
    A text is an argument, a file or standard input, taken byte for byte, but for one line end at the end of a prompt
    from a file or standard input (io.py).
    Exit codes: 0 done, 1 an error of bytelm (one line, no traceback), 2 wrong usage, 130 interrupted, 141 nobody reads
    the output.

Does not
    Compute anything: each command reads its arguments, asks the library, and prints.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NoReturn

import typer

from bytelm import __version__
from bytelm.byte_lm.model import ByteLM
from bytelm.cli import options as opt
from bytelm.cli.cached import cache, models
from bytelm.cli.demo import CURSOR, PROMPT, compare, show_comparison
from bytelm.cli.ensemble import ensemble
from bytelm.cli.eval import SETTINGS, evaluate
from bytelm.cli.infill import infill
from bytelm.cli.io import (
    STDIN,
    argument_bytes,
    check_outputs,
    fail,
    print_json,
    put,
    read_text,
    tell,
    utf8,
    utf8_streams,
)
from bytelm.cli.pictures import HtmlOption, explained
from bytelm.cli.score import score
from bytelm.cli.serve import serve
from bytelm.cli.tables import bar, columns, show_byte, show_bytes, show_cover, show_prob
from bytelm.cover.prefix import Prefix
from bytelm.errors import BytelmError
from bytelm.packaged import PACKAGED
from bytelm.progress import Bar
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.situation import Situation, Turn
from bytelm.symbols import EOT
from bytelm.testing.doctor import examine_model, verify_model

app = typer.Typer(
    name="bytelm",
    help="Any tokenized language model as an exact language model over bytes.",
    epilog=f"Texts are taken byte for byte. A model is a folder, a hub id, or one of {', '.join(PACKAGED)}.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


command = partial(app.command, cls=opt.Command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not (sys.stderr and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.showwarning = tell
    with utf8_streams():
        try:
            app(args, prog_name="bytelm")
        except BytelmError as error:
            fail(str(error))
        except KeyboardInterrupt:
            sys.exit(130)
    sys.exit(0)


def show_version(asked: bool) -> bool:
    """Answer --version."""
    if asked:
        typer.echo(f"bytelm {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[  # its callback answers it
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What comes before the subcommand."""


# ---- the commands


@command()
@opt.grouped
def sample(
    text: opt.Text = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    sampling: opt.Sampling = opt.SAMPLING,
    n: opt.NumberOption = 1,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL,
) -> None:
    """Complete a text, wherever it ends. Prints the new text alone, as it is generated.

    \b
    Examples:
      bytelm sample "The capital of Fra" --max-bytes 20 --temperature 0
      bytelm sample -e "def fibonacci(n):\\n    ret" --stop "\\n\\n" --seed 1
      git diff | bytelm sample -n 3 --json
      bytelm sample "The capital of Fra" --likeliest -n 5 --stop " "
    """
    prompt = read_text(text, file, escapes=escapes, keep_newline=keep_newline)
    complete(model, lambda _: prompt, sampling, n=n, as_json=as_json)


@command()
@opt.grouped
def chat(
    text: Annotated[
        str | None, typer.Argument(help="The user's message; without it, --file or standard input.")
    ] = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    system: Annotated[str | None, typer.Option(help="A message of the role system, before the user's.")] = None,
    begin: Annotated[
        str | None, typer.Option(help="The beginning of the answer. The model continues it, inside a word too.")
    ] = None,
    sampling: opt.Sampling = opt.SAMPLING,
    n: opt.NumberOption = 1,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL,
) -> None:
    """Answer a message, by the model's own chat template. Prints the answer alone, without what --begin gave.

    \b
    Examples:
      bytelm chat "Name three colors." --max-bytes 60
      bytelm chat "Is 7 prime?" --begin "Yes, bec" --temperature 0
      bytelm chat --system "Answer in French." --file question.txt
    """
    said = read_text(text, file, escapes=escapes, keep_newline=keep_newline)
    messages: list[dict[str, str | bytes]] = [{"role": "user", "content": utf8(said, "the text")}]
    if system is not None:
        instruction = utf8(argument_bytes(system, escapes=escapes), "--system")
        messages.insert(0, {"role": "system", "content": instruction})
    if begin is not None:
        messages.append({"role": "assistant", "content": argument_bytes(begin, escapes=escapes)})
    turn = Turn(messages, begin is not None)
    complete(model, lambda lm: turn(lm)[1], sampling, n=n, as_json=as_json, within=turn)


def complete(
    model: opt.Model,
    prefix: Callable[[ByteLM], Prefix],
    sampling: opt.Sampling,
    *,
    n: int,
    as_json: bool,
    within: Situation | None = None,
) -> None:
    """Load a model and print its completions: one as it comes, several or JSON at the end."""
    search = sampling.search(n) if sampling.likeliest else None
    params = sampling.params() if search is None else SamplingParams()
    params = params if within is None else within.drafted(params)
    lm = model.load()
    prompt = prefix(lm)
    if search is not None:
        opt.show_endings(lm.likeliest(prompt, **search), as_json=as_json)
    elif n == 1 and not as_json:
        opt.show_pieces(lm.stream(prompt, params=params))
    else:
        opt.show_completions(lm.sample(prompt, params=params, n=n, progress=True), as_json=as_json)


command()(opt.grouped(infill))
command()(opt.grouped(ensemble))
command()(serve)
app.command("eval", context_settings=SETTINGS)(evaluate)


@command("next")
@opt.grouped
def next_(
    text: opt.Text = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    top: Annotated[int, typer.Option(min=1, max=257, help="How many bytes to show.")] = 10,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL,
) -> None:
    """The distribution of the next byte, as a table with bars.

    \b
    Examples:
      bytelm next "The capital of Fra"
      bytelm next -e "naïve caf\\xc3" --top 3
      bytelm next --json "Once upon a ti" | jq .logprob
    """
    prompt = read_text(text, file, escapes=escapes, keep_newline=keep_newline)
    lm = model.load()
    logprobs = lm.next_byte_logprobs(prompt).tolist()
    shown = sorted(range(257), key=lambda value: (-logprobs[value], value))[:top]
    if as_json:
        for value in shown:
            byte = None if value == EOT else value
            print_json({"byte": byte, "shown": show_byte(value), "logprob": logprobs[value]})
        return
    probs = [math.exp(value) for value in logprobs]
    rows = [[show_byte(value), show_prob(probs[value]), bar(probs[value])] for value in shown]
    rest = sum(probs) - sum(probs[value] for value in shown)
    if top < 257:
        rows.append([f"{257 - top} others", show_prob(max(rest, 0.0)), bar(rest)])
    rows.append(["leak", show_prob(max(1.0 - sum(probs), 0.0)), ""])
    typer.echo(columns(rows, right=[False, True]))


command()(opt.grouped(score))


@command()
@opt.grouped
def explain(
    text: opt.Text = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    top: Annotated[int, typer.Option(min=1, help="How many token sequences to show.")] = 10,
    html: HtmlOption = None,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL,
) -> None:
    """The cover of a text: the token sequences that spell it, their probabilities, and how they sum.

    \b
    Examples:
      bytelm explain "The capital of Fra"
      bytelm explain -e "def f():\\n    ret" --top 5
      bytelm explain "The capital of Fra" --html capital.html
    """
    prompt = read_text(text, file, escapes=escapes, keep_newline=keep_newline)
    check_outputs({"--html": html}, [None if file is None else str(file)], as_json=as_json)
    lm = model.load()
    lm.check_room(lm.prompt(prompt))
    if html is not None:
        put(html, explained(lm, prompt))
        if html == STDIN:
            return
    cover = lm.cover(prompt)
    total = lm.logprob(prompt)
    spelled = [[show_bytes(lm.spell([token])) for token in item.token_ids] for item in cover[:top]]
    if as_json:
        for item, pieces in zip(cover, spelled, strict=False):
            print_json(
                {
                    "token_ids": list(item.token_ids),
                    "tokens": pieces,
                    "logprob": item.logprob,
                    "share": math.exp(item.logprob - total),
                }
            )
        return
    typer.echo(show_cover(cover, spelled, total=total, length=len(prompt)))


@command()
def doctor(
    model: Annotated[str, typer.Argument(help=opt.MODEL_HELP, autocompletion=opt.packaged_names)],
    as_json: opt.JsonOption = False,
    verified: Annotated[
        bool, typer.Option("--verify", help="Compare with the tokenizer itself, at some difficult prefixes.")
    ] = False,
    prefixes: Annotated[int, typer.Option(min=1, help="How many prefixes --verify compares.")] = 60,
) -> None:
    """Check a model: its tokenizer, which calls are exact, which inputs are refused. Loads no weights.

    \b
    Examples:
      bytelm doctor demo
      bytelm doctor path/to/model --json
      bytelm doctor path/to/model --verify

    Exit code 1 if the model is refused.
    """
    opt.tell_near(model)
    with Bar(f"examining {model}"):
        findings = examine_model(model)
        if verified:
            findings = [*findings, *verify_model(model, prefixes=prefixes)]
    if as_json:
        for finding in findings:
            print_json({"topic": finding.topic, "level": finding.level, "text": finding.text})
    else:
        marks = {"ok": "", "note": "!", "refused": "✗"}
        typer.echo(columns([[marks[finding.level], finding.topic, finding.text] for finding in findings]))
    if any(finding.level == "refused" for finding in findings):
        raise typer.Exit(1)


@command()
@opt.grouped
def demo(
    text: opt.Text = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    infilling: Annotated[
        bool, typer.Option("--infill", help="Fill in at a cursor; --suffix is the text after it.")
    ] = False,
    suffix: opt.SuffixOption = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="New bytes of each method.")] = 43,
    as_json: opt.JsonOption = False,
    model: opt.Model = opt.MODEL_UNNAMED,
) -> None:
    """One prompt, or one cursor, completed by tokens, by token healing and by bytes, side by side.

    Without --model it runs demo, and demo-fim to fill in.

    \b
    Examples:
      bytelm demo
      bytelm demo "The capital of Fra"
      bytelm demo --infill
      bytelm demo -e "for i in ran" --suffix ":\\n    print(i)\\n"
    """
    given = text is not None or file is not None
    prompt, behind = CURSOR if infilling or suffix is not None else (PROMPT, None)
    if given:
        prompt = read_text(text, file, escapes=escapes, keep_newline=keep_newline)
        behind = None if behind is None else b""
    if suffix is not None:
        behind = argument_bytes(suffix, escapes=escapes)
    lm = model.load(model.model or ("demo" if behind is None else "demo-fim"))
    outcomes = compare(lm, prompt, behind, max_bytes=max_bytes)
    if not as_json:
        typer.echo(show_comparison(prompt, outcomes, suffix=behind))
        return
    for outcome in outcomes:
        probs = {show_byte(value): float(prob) for value, prob in enumerate(outcome.next_byte_probs) if prob > 0}
        print_json(
            {
                "method": outcome.method,
                "backed_up": show_bytes(outcome.backed_up),
                "completion": show_bytes(outcome.completion),
                "next_byte": probs,
            }
        )


command()(models)
command()(cache)
