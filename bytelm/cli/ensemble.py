r"""The command ``bytelm ensemble``: a text completed by several models as one, and who of them wrote what.

Rules
    What can be wrong with the options is said before a model is loaded. A model that is named twice is loaded once.
    The options of `sample` mean what they mean there. With ``--show-members`` each model is asked alone as well, with
    the same options, and every byte that the ensemble wrote is listed with what each model gave it and who drove it.
    What *drove* means in each formula: ensemble/attribution.py.
"""

from __future__ import annotations

import math
import sys
from typing import Annotated, Any, Final

import typer

from bytelm.cli import options as opt
from bytelm.cli.colours import print_driven
from bytelm.cli.io import STDIN, check_outputs, print_json, put, read_text
from bytelm.cli.pictures import DRIVEN_NOTE, HtmlOption
from bytelm.cli.tables import bar, columns, show_byte, show_bytes, show_prob
from bytelm.ensemble.attribution import Attribution, picture_of
from bytelm.ensemble.combine import ALPHA, AnyCombine, CombineLevel, weights_of
from bytelm.ensemble.model import Ensemble
from bytelm.ensemble.whole_texts import OF_TEXTS, power_of, text_weights
from bytelm.errors import BytelmError
from bytelm.pictures.document import Section, document
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import SamplingParams

_SHARE: Final = "The driver of a byte has the largest share in its probability."
DRIVERS: Final[dict[AnyCombine, str]] = {
    "mixture": _SHARE,
    "bayes": _SHARE,
    "product": "The driver of a byte gave it most of its lead over the likeliest other byte.",
}


def ensemble(
    text: opt.Text = None,
    prompt: Annotated[str | None, typer.Option(help="The same as TEXT.")] = None,
    file: opt.FileOption = None,
    keep_newline: opt.KeepNewlineOption = False,
    escapes: opt.EscapesOption = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", autocompletion=opt.packaged_names, help=f"{opt.MODEL_HELP} Given once for each member."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,…", help="One number for each model; equal if not given. May be below 0 in a product."
        ),
    ] = None,
    combine: Annotated[
        AnyCombine,
        typer.Option(
            help="mixture: the weighted sum of the models' probabilities. bayes: the same, weighted by how well each "
            "predicted the text. product: the weighted product. minimum, maximum, power: with --combine-level string."
        ),
    ] = "mixture",
    combine_level: Annotated[
        CombineLevel,
        typer.Option(
            help="byte: combine the models at each byte. string: combine their probabilities of the whole text, with "
            "--particles or --conditioning exact."
        ),
    ] = "byte",
    power: Annotated[
        float | None, typer.Option(help="With --combine power: the exponent; 1 is a mixture, -1 the harmonic mean.")
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="With a weight below 0: keep a byte if the models of positive weight give it at least this fraction "
            "of what they give the likeliest. 0 keeps all.",
        ),
    ] = ALPHA,
    show_members: Annotated[
        bool,
        typer.Option(
            "--show-members",
            help="Also show each model's own text, its weight, its log-probability of the ensemble's text, and who "
            "drove each byte.",
        ),
    ] = False,
    html: HtmlOption = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print pieces as they come; with --json one object for each.")
    ] = False,
    sampling: opt.Sampling = opt.SAMPLING,
    n: opt.NumberOption = 1,
    as_json: opt.JsonOption = False,
    device: opt.DeviceOption = None,
    dtype: opt.DtypeOption = None,
    engine: opt.EngineOption = "transformers",
    normalize: opt.NormalizeOption = False,
    replace: opt.ReplaceOption = None,
) -> None:
    """Complete a text with several models as one. Their vocabularies may differ. Prints the new text alone.

    \b
    Examples:
      bytelm ensemble -m demo -m demo-gemma "The capital of Fra" --max-bytes 20
      bytelm ensemble -m demo -m demo-gemma --weights 0.7,0.3 --combine bayes --file notes.txt
      bytelm ensemble -m big -m small --weights 1.5,-0.5 --combine product "Once upon a ti"
      bytelm ensemble -m demo -m demo-gemma "2 + 2 =" --show-members --temperature 0 --max-bytes 8
      bytelm ensemble -m demo -m demo-gemma "Once upon a ti" --html who.html
      bytelm ensemble -m demo -m demo-gemma "Once upon a ti" --combine product --combine-level string --particles 16
    """
    names = models or []
    numbers = checked_weights(names, weights, combine)
    if combine_level == "byte" and (combine in OF_TEXTS or power is not None):
        raise typer.BadParameter(f"--combine {combine} is of whole texts: add --combine-level string")
    if combine_level == "string":
        checked_texts(numbers, len(names), combine, power)
        if show_members or html is not None or sampling.likeliest:
            raise typer.BadParameter(
                "--combine-level string draws texts, and tells nothing of their bytes: leave out "
                "--show-members, --html and --likeliest"
            )
        if sampling.particles is None and sampling.conditioning == "step":
            raise typer.BadParameter("--combine-level string takes --particles N or --conditioning exact")
    if text is not None and prompt is not None:
        raise typer.BadParameter("give the text as TEXT or by --prompt, not both")
    if stream and (n > 1 or show_members):
        raise typer.BadParameter("--stream prints one completion as it comes: leave out -n and --show-members")
    if sampling.likeliest and (stream or show_members):
        raise typer.BadParameter("--likeliest draws nothing: leave out --stream and --show-members")
    if (show_members or html) and n > 1:
        raise typer.BadParameter(
            f"{'--show-members' if show_members else '--html'} explains one completion; got -n {n}"
        )
    if html is not None and (stream or sampling.likeliest):
        raise typer.BadParameter("--html explains one completion at its end: leave out --stream and --likeliest")
    check_outputs({"--html": html}, [None if file is None else str(file)], as_json=as_json)
    data = read_text(text if prompt is None else prompt, file, escapes=escapes, keep_newline=keep_newline)
    search = sampling.search(n) if sampling.likeliest else None
    params = sampling.params() if search is None else SamplingParams()
    texts = {"normalize": normalize, "replace": replace}
    loaded = {name: opt.load(name, device, dtype, engine, texts) for name in dict.fromkeys(names)}
    members = [loaded[name] for name in names]
    lm = Ensemble(members, weights=numbers, combine=combine, alpha=alpha, level=combine_level, power=power)
    if search is not None:
        opt.show_endings(lm.likeliest(data, **search), as_json=as_json)
    elif show_members or html is not None:
        written = lm.sample(data, params=params, progress=True)
        alone = [member.sample(data, params=params, progress=True) for member in members if show_members]
        told = lm.explain(written.bytes, prefix=data, progress=True)
        if html is not None:
            put(html, _drawn(names, alone, told, combine=combine))
        if html == STDIN:
            return
        if not (show_members or as_json):
            typer.echo(written.text, nl=sys.stdout.isatty())
            opt.tell_cut(written.bytes)
        elif not show_members:
            opt.show_completions(written, as_json=as_json)
        elif as_json:
            _print_members(names, written, alone, told)
        else:
            _show_members(names, written, alone, told, combine=combine)
    elif stream and as_json:
        pieces = lm.stream(data, params=params)
        for piece in pieces:
            print_json({"text": piece})
        opt.tell_cut(pieces.completion.bytes)
    elif n == 1 and not as_json:
        opt.show_pieces(lm.stream(data, params=params))
    else:
        opt.show_completions(lm.sample(data, params=params, n=n, progress=True), as_json=as_json)


def checked_texts(weights: list[float] | None, count: int, combine: AnyCombine, power: float | None) -> None:
    """See that models can be combined by whole texts so."""
    try:
        text_weights(weights, count, combine)
        power_of(combine, power)
    except BytelmError as error:
        raise typer.BadParameter(str(error)) from None


def checked_weights(names: list[str], given: str | None, combine: AnyCombine) -> list[float] | None:
    """The weights that the user gave, one for each model."""
    if not names:
        raise typer.BadParameter("no model: name each member with -m")
    if given is None:
        return None
    try:
        weights = [float(part) for part in given.split(",")]
        weights_of(weights, len(names), combine, "--weights")
    except BytelmError as error:
        raise typer.BadParameter(str(error)) from None
    except ValueError:
        raise typer.BadParameter(
            f"--weights takes numbers with commas between, such as 0.7,0.3; got {given!r}"
        ) from None
    return weights


def _drawn(names: list[str], alone: list[Completion], told: Attribution, *, combine: AnyCombine) -> str:
    """The document of a text that an ensemble wrote."""
    said = [f"{name} alone wrote ‘{show_bytes(done.bytes)}’" for name, done in zip(names, alone, strict=False)]
    note = " ".join([DRIVEN_NOTE, DRIVERS[combine], *([f"{'; '.join(said)}."] if said else [])])
    return document("bytelm ensemble", [Section("The text", picture_of(told, names, combine), note)])


def _print_members(names: list[str], written: Completion, alone: list[Completion], told: Attribution) -> None:
    """Each completion as one line of JSON, then each byte, then what it comes to for each member."""
    for name, done in zip(["ensemble", *names], [written, *alone], strict=True):
        record: dict[str, Any] = {"text": done.text, "hex": done.bytes.hex(), "logprob": done.logprob}
        print_json({"model": name, **record, "finish_reason": done.finish_reason})
    for at, value in enumerate(told.text):
        record = {
            "offset": at,
            "byte": value,
            "shown": show_byte(value),
            "logprob": float(told.logprobs[at]),
            "member_logprobs": _finite(told.member_logprobs[:, at]),
            "weights": _finite(told.weights[:, at]),
            "drive": _finite(told.drive[:, at]),
            "driver": told.drivers[at],
        }
        print_json(record)
    record = {"bytes": len(told.text), "logprob": float(told.logprobs.sum())}
    print_json({**record, "member_logprobs": _finite(told.member_logprobs.sum(axis=1)), "drove": _drove(names, told)})


def _finite(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _drove(names: list[str], told: Attribution) -> list[int]:
    """How many bytes each member drove."""
    return [told.drivers.count(i) for i in range(len(names))]


def _show_members(
    names: list[str], written: Completion, alone: list[Completion], told: Attribution, *, combine: AnyCombine
) -> None:
    """The completions, one a line; a table of the bytes; a table of the members, and a line that sums it up."""
    completions = [
        [name, show_bytes(done.bytes)] for name, done in zip(["ensemble", *names], [written, *alone], strict=True)
    ]
    typer.echo(columns(completions))
    if not told.text:
        return
    share = combine != "product"
    rows = [["byte", "ensemble", *names, "driven by", "" if share else "nats"]]
    for at, value in enumerate(told.text):
        probs = [show_prob(math.exp(value)) for value in (told.logprobs[at], *told.member_logprobs[:, at].tolist())]
        drive = float(told.drive[told.drivers[at], at])
        rows.append([show_byte(value), *probs, names[told.drivers[at]], bar(drive, 12) if share else f"{drive:+.2f}"])
    typer.echo()
    print_driven(told.text, told.drivers)
    typer.echo(columns(rows, right=[False, *[True] * (len(names) + 1), False, not share]))
    count, drove = len(told.text), _drove(names, told)
    members = [["", "weight", "log P", "drove"], ["ensemble", "", f"{told.logprobs.sum():.2f}", ""]]
    for name, weights, logprobs, driven in zip(names, told.weights, told.member_logprobs, drove, strict=True):
        first, last = f"{weights[0]:.4g}", f"{weights[-1]:.4g}"
        weight = first if first == last else f"{first} to {last}"
        members.append([name, weight, f"{logprobs.sum():.2f}", f"{driven} of {count}"])
    typer.echo()
    typer.echo(columns(members, right=[False, True, True, True]))
    who = ", ".join(f"{name} {driven}" for name, driven in zip(names, drove, strict=True))
    typer.echo(f"\nBytes driven, of {count}: {who}. {DRIVERS[combine]}")
