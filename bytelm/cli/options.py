"""The options that several commands share: what they read, which model, how to draw.

Rules
    An option means the same wherever it stands. A default that is the library's is the library's.
    What takes one value is given once.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from bytelm.byte_lm.model import ByteLM
from bytelm.cli.constraining import (
    BudgetOption,
    ChoiceOption,
    ConditioningOption,
    DraftOption,
    JsonObjectOption,
    JsonSchemaOption,
    LarkOption,
    ParticlesOption,
    RegexOption,
    constraint_from,
    particles_of,
    tell_particles,
)
from bytelm.cli.io import argument_bytes, note, print_json
from bytelm.cli.tables import bar, columns, show_bytes, show_prob
from bytelm.constraints import Constraint
from bytelm.engines.choice import Engine
from bytelm.packaged import PACKAGED, packaged_directory
from bytelm.progress import Bar
from bytelm.sampling.completion import Completion
from bytelm.sampling.completion_stream import CompletionStream
from bytelm.sampling.endings import Endings
from bytelm.sampling.likeliest import LikeliestOptions
from bytelm.sampling.params import Level, SamplingParams
from bytelm.symbols import unfinished

MODEL_HELP: Final = (
    "A folder, a hub id, a GGUF file for llama-cpp, an address for vllm-server, or a packaged model: "
    f"{', '.join(PACKAGED)}."
)

Text = Annotated[str | None, typer.Argument(help="The text; without it, --file or standard input.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read the text from a file; - is standard input.")
]
PrefixOption = Annotated[str | None, typer.Option(help="The text before the cursor.")]
SuffixOption = Annotated[str | None, typer.Option(help="The text after the cursor.")]
KeepNewlineOption = Annotated[
    bool, typer.Option("--keep-newline", help="Keep the line end at the end of a file or of standard input.")
]
EscapesOption = Annotated[
    bool, typer.Option("--escapes", "-e", help=r"Read \n, \t, \\, \xNN and \uNNNN in arguments as escapes.")
]


def packaged_names(incomplete: str) -> list[str]:
    """The packaged models whose names begin so, for the completion of a shell; it offers files where there is none."""
    return [name for name in PACKAGED if name.startswith(incomplete)]


ModelOption = Annotated[
    str, typer.Option("--model", "-m", envvar="BYTELM_MODEL", help=MODEL_HELP, autocompletion=packaged_names)
]
DeviceOption = Annotated[str | None, typer.Option(help="Where the model runs, such as cpu or cuda.")]
DtypeOption = Annotated[str | None, typer.Option(help="Number format of the weights, such as float32 or bfloat16.")]
EngineOption = Annotated[
    Engine,
    typer.Option(envvar="BYTELM_ENGINE", help="The engine; llama-cpp takes a GGUF file, vllm-server an address."),
]
NormalizeOption = Annotated[
    bool, typer.Option("--normalize", help="Bring text to the normal form of the tokenizer, such as NFC.")
]
ReplaceOption = Annotated[
    str | None, typer.Option(help="Read this instead of characters that the tokenizer cannot spell.")
]
ContextOption = Annotated[
    int | None, typer.Option("--context-length", min=1, help="Longest token sequence; the model's own if not given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
SeedOption = Annotated[int | None, typer.Option(help="The same seed gives the same bytes.")]

TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Of the byte distribution; 0 is greedy.")]
TopKOption = Annotated[int | None, typer.Option(min=1, help="Keep the k likeliest bytes.")]
TopPOption = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Keep the likeliest bytes that together reach p.")
]
MinPOption = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Keep bytes at least p times as likely as the likeliest.")
]
MaxBytesOption = Annotated[int, typer.Option(min=1, help="Stop after this many bytes.")]
StopOption = Annotated[
    list[str] | None,
    typer.Option(help=r"Stop before this string, in which \n and other escapes are read; may be given again."),
]
LevelOption = Annotated[
    Level,
    typer.Option(
        help="byte: every byte is exact. token: the end of the text is exact, then the engine's own sampler writes; "
        "temperature, top-k, top-p and min-p then apply to tokens."
    ),
]
EngineOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        metavar="NAME=VALUE",
        help="With --level token: an option of the engine's sampler, such as repetition_penalty=1.1. The value is JSON "
        "or text. May be given again.",
    ),
]
LikeliestOption = Annotated[
    bool,
    typer.Option(
        "--likeliest",
        help="Draw nothing: list the -n likeliest completions with their probabilities. They end at the end of the "
        "line, unless you give --stop.",
    ),
]
MaxCallsOption = Annotated[
    int,
    typer.Option(min=1, help="With --likeliest: the most model calls. A note says if the search is not finished then."),
]
NumberOption = Annotated[int, typer.Option("-n", min=1, help="How many completions.")]


@dataclass(frozen=True)
class Model:
    """The options that name a model, and how it runs."""

    model: ModelOption = "demo"
    device: DeviceOption = None
    dtype: DtypeOption = None
    engine: EngineOption = "transformers"
    normalize: NormalizeOption = False
    replace: ReplaceOption = None
    context_length: ContextOption = None

    def load(self, name: str | None = None) -> ByteLM:
        """The byte model that the options name, or another one that runs alike."""
        more = {name: getattr(self, name) for name in ("normalize", "replace", "context_length")}
        return load(name or self.model, self.device, self.dtype, self.engine, more)


@dataclass(frozen=True)
class Sampling:
    """The options of a completion: the one place where commands make `SamplingParams`."""

    temperature: TemperatureOption = 1.0
    top_k: TopKOption = None
    top_p: TopPOption = None
    min_p: MinPOption = None
    max_bytes: MaxBytesOption = 256
    stop: StopOption = None
    seed: SeedOption = None
    level: LevelOption = "byte"
    engine_option: EngineOptionOption = None
    regex: RegexOption = None
    json_schema: JsonSchemaOption = None
    json_object: JsonObjectOption = False
    lark: LarkOption = None
    choice: ChoiceOption = None
    conditioning: ConditioningOption = "step"
    budget: BudgetOption = 1000
    particles: ParticlesOption = None
    draft: DraftOption = None
    likeliest: LikeliestOption = False
    max_calls: MaxCallsOption = 256

    def params(self, stops: Sequence[bytes] = ()) -> SamplingParams:
        """As the library takes them, with more stop strings."""
        options = {name: value for name, value in vars(self).items() if name in SAMPLING_FIELDS}
        own: dict[str, Any] = {"engine_options": engine_options(self.engine_option), "constraint": self.constraint()}
        if self.draft not in (None, "lookup"):
            own["draft"] = load(str(self.draft))
        return SamplingParams(**{**options, **own, "stop": self._stops(stops)})

    def constraint(self) -> Constraint | None:
        """What may be written, where an option says so."""
        return constraint_from(
            regex=self.regex,
            json_schema=self.json_schema,
            json_object=self.json_object,
            lark=self.lark,
            choice=self.choice,
        )

    def search(self, n: int, stops: Sequence[bytes] = ()) -> LikeliestOptions:
        """What a search for the n likeliest takes.

        Raises:
            typer.BadParameter: An option says how to draw.
        """
        searching = {"likeliest", "max_calls", "max_bytes", "stop", *CONSTRAINING}
        for field in fields(self):
            if field.name not in searching and getattr(self, field.name) != field.default:
                name = field.name.replace("_", "-")
                raise typer.BadParameter(f"--likeliest draws nothing, so --{name} has no effect")
        return {
            "n": n,
            "stop": self._stops(stops) or "\n",
            "max_bytes": self.max_bytes,
            "max_calls": self.max_calls,
            "constraint": self.constraint(),
            "progress": True,
        }

    def _stops(self, more: Sequence[bytes]) -> list[bytes]:
        return [*(argument_bytes(stop, escapes=True) for stop in self.stop or []), *more]  # mostly a line end


SAMPLING_FIELDS: Final = frozenset(field.name for field in fields(SamplingParams))
CONSTRAINING: Final = frozenset({"regex", "json_schema", "json_object", "lark", "choice"})


def engine_options(given: Sequence[str] | None) -> dict[str, Any] | None:
    """The engine's options, from NAME=VALUE.

    >>> engine_options(["repetition_penalty=1.1", "grammar=root"])
    {'repetition_penalty': 1.1, 'grammar': 'root'}
    """
    if not given:
        return None
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--engine-option takes NAME=VALUE, such as repetition_penalty=1.1; got {each!r}")
        if name in found:
            raise typer.BadParameter(f"--engine-option gives {name} twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


MODEL: Final = Model()
MODEL_FIM: Final = Model("demo-fim")
MODEL_UNNAMED: Final = Model("")  # the command chooses
SAMPLING: Final = Sampling()


class Command(TyperCommand):
    """A command that refuses an option of one value which is given twice: the last one would win unseen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments as any command does, after a look at which options they give how often."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            if isinstance(option, TyperOption) and not (option.is_flag or option.multiple) and given.count(option) > 1:
                ctx.fail(f"{option.opts[0]} takes one value, and is given {given.count(option)} times")
        return super().parse_args(ctx, args)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are groups of options (`Model`, `Sampling`) are those options one by one.

    The default of such a parameter is a group, whose values are the defaults of the options.
    """
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature.parameters if is_dataclass(hints[name])}
    parameters = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            options = get_type_hints(groups[name], include_extras=True)
            parameters += [
                inspect.Parameter(
                    field.name,
                    parameter.kind,
                    default=getattr(parameter.default, field.name),
                    annotation=options[field.name],
                )
                for field in fields(groups[name])
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what inspect reads
    return run


def load(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    engine: Engine = "transformers",
    more: Mapping[str, Any] | None = None,
) -> ByteLM:
    """The byte model that the options name; ``more``: what else `ByteLM.from_pretrained` takes."""
    tell_near(model)
    place = model
    if model in PACKAGED and engine == "transformers":
        place = str(packaged_directory(model))  # has a bar of its own
    # What comes from a hub has bars of its own, which know how much there is.
    fetched = engine == "transformers" and not Path(place).expanduser().exists() and sys.stderr.isatty()
    with Bar(f"loading {model}", shown=not fetched):
        return ByteLM.from_pretrained(
            place, engine=engine, device=device, dtype=dtype, progress=fetched, **(more or {})
        )


def tell_near(model: str) -> None:
    """Say which packaged model a name may be meant to be: what else it may name is looked for first."""
    near = difflib.get_close_matches(model, PACKAGED, 1, cutoff=0.7)
    if near and model not in PACKAGED and not Path(model).exists():
        note(f"no packaged model is called {model}; did you mean {near[0]}?")


def show_pieces(stream: CompletionStream) -> None:
    """A completion as it comes; on a terminal with a line end, so that the shell's prompt has a line of its own."""
    for piece in stream:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    if sys.stdout.isatty():
        typer.echo()
    tell_cut(stream.completion.bytes)
    tell_particles(stream.completion)


def tell_cut(written: bytes) -> None:
    """Say which bytes a text lacks because they only begin a character, as --max-bytes may have it."""
    if cut := unfinished(written):
        note(
            f"the completion ends inside a character, and its last bytes are left out: {cut.hex(' ')}, {len(cut)} of "
            f"{len(written)}"
        )


def show_completions(done: Completion | list[Completion], *, as_json: bool) -> None:
    """Each completion as one line of JSON, or numbered."""
    for number, completion in enumerate(done if isinstance(done, list) else [done], start=1):
        if as_json:
            print_json(
                {
                    "text": completion.text,
                    "hex": completion.bytes.hex(),
                    "logprob": completion.logprob,
                    "finish_reason": completion.finish_reason,
                    "model_calls": completion.usage.calls,
                    "tokens_fed": completion.usage.tokens_fed,
                    **particles_of(completion),
                }
            )
        else:
            typer.echo(f"[{number}] {completion.text}")
            tell_cut(completion.bytes)
            tell_particles(completion)


def show_endings(endings: Endings, *, as_json: bool) -> None:
    """The likeliest endings: each as one line of JSON, or as a table whose last line bounds all others."""
    if as_json:
        for ending in endings:
            print_json(
                {
                    "text": ending.text,
                    "hex": ending.bytes.hex(),
                    "logprob": ending.logprob,
                    "complete": ending.complete,
                    "certified": endings.certified,
                    "missing_logprob": endings.missing_logprob,
                }
            )
    else:
        rows = []
        for ending in endings:
            prob = math.exp(ending.logprob)
            shown = f"'{show_bytes(ending.bytes)}'{'' if ending.complete else '…'}"
            rows.append([shown, show_prob(prob), bar(prob)])
        if endings.missing_logprob > -math.inf:
            rows.append(["any other, at most", show_prob(math.exp(endings.missing_logprob)), ""])
        typer.echo(columns(rows, right=[False, True]))
    if not endings.certified:
        note(
            f"the search ended after {endings.usage.calls} model calls, before it was certain that no other completion "
            "is likelier: raise --max-calls, or give a --stop that comes sooner"
        )
