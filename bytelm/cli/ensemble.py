r"""The command ``bytelm ensemble``: a text completed by several models as one, and who of them wrote what.

Rules
    What can be wrong with the options is said before a model is loaded. A model that is named twice is loaded once.
    The options of `sample` mean what they mean there. With ``--show-members`` each model is asked alone as well, with
    the same options, and every byte that the ensemble wrote is listed with what each model gave it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from bytelm.cli import options as opt
from bytelm.cli.io import print_json, read_text
from bytelm.cli.tables import bar, columns, show_byte, show_bytes, show_prob
from bytelm.ensemble.attribution import Attribution
from bytelm.ensemble.combine import Combine, weights_of
from bytelm.ensemble.model import Ensemble
from bytelm.errors import BytelmError
from bytelm.sampling.completion import Completion


def ensemble(
    text: opt.Text = None,
    prompt: Annotated[str | None, typer.Option(help="The same as TEXT.")] = None,
    file: opt.FileOption = None,
    escapes: opt.EscapesOption = False,
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help=f"{opt.MODEL_HELP} Given once for each member.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="One number for each model; all alike if not given. Below 0 in a product."),
    ] = None,
    combine: Annotated[
        Combine,
        typer.Option(
            help="The sum of the models' bytes, the same weighted by how each foresaw the text, or a product."
        ),
    ] = "mixture",
    show_members: Annotated[
        bool, typer.Option("--show-members", help="Show each model alone as well, and who drove each byte.")
    ] = False,
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
    """Complete a text by several models as one, whatever their vocabularies. Prints the new text alone.

    \b
    Examples:
      bytelm ensemble -m demo -m demo-gemma "The capital of Fra" --max-bytes 20
      bytelm ensemble -m demo -m demo-gemma --weights 0.7,0.3 --combine bayes --file notes.txt
      bytelm ensemble -m big -m small --weights 1.5,-0.5 --combine product "Once upon a ti"
      bytelm ensemble -m demo -m demo-gemma "2 + 2 =" --show-members --temperature 0 --max-bytes 8
    """
    names = models or []
    numbers = _checked_weights(names, weights, combine)
    if text is not None and prompt is not None:
        raise typer.BadParameter("give the text as TEXT or by --prompt, not both")
    if stream and (n > 1 or show_members):
        raise typer.BadParameter("--stream prints one completion as it comes: leave out -n and --show-members")
    if show_members and n > 1:
        raise typer.BadParameter(f"--show-members explains one completion; got -n {n}")
    data = read_text(text if prompt is None else prompt, file, escapes=escapes)
    params = sampling.params(escapes=escapes)
    texts = {"normalize": normalize, "replace": replace}
    loaded = {name: opt.load(name, device, dtype, engine, texts) for name in dict.fromkeys(names)}
    members = [loaded[name] for name in names]
    lm = Ensemble(members, weights=numbers, combine=combine)
    if show_members:
        written = lm.sample(data, params=params, progress=True)
        alone = [member.sample(data, params=params, progress=True) for member in members]
        told = lm.explain(written.bytes, prefix=data, progress=True)
        show = _print_members if as_json else _show_members
        show(names, written, alone, told)
    elif stream and as_json:
        for piece in lm.stream(data, params=params):
            print_json({"text": piece})
    elif n == 1 and not as_json:
        opt.show_pieces(lm.stream(data, params=params))
    else:
        opt.show_completions(lm.sample(data, params=params, n=n, progress=True), as_json=as_json)


def _checked_weights(names: list[str], given: str | None, combine: Combine) -> list[float] | None:
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


def _print_members(names: list[str], written: Completion, alone: list[Completion], told: Attribution) -> None:
    """Each completion as one line of JSON, then each byte."""
    for name, done in zip(["ensemble", *names], [written, *alone], strict=True):
        record = {"text": done.text, "hex": done.bytes.hex(), "logprob": done.logprob}
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


def _finite(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _show_members(names: list[str], written: Completion, alone: list[Completion], told: Attribution) -> None:
    """The completions, one a line, and a table of the bytes."""
    completions = [
        [name, show_bytes(done.bytes)] for name, done in zip(["ensemble", *names], [written, *alone], strict=True)
    ]
    typer.echo(columns(completions))
    if not told.text:
        return
    rows = [["byte", "ensemble", *names, "driven by", ""]]
    for at, value in enumerate(told.text):
        probs = [show_prob(math.exp(value)) for value in (told.logprobs[at], *told.member_logprobs[:, at].tolist())]
        driver = told.drivers[at]
        rows.append([show_byte(value), *probs, names[driver], bar(min(float(told.drive[driver, at]), 1.0), 12)])
    typer.echo()
    typer.echo(columns(rows, right=[False, *[True] * (len(names) + 1)]))
