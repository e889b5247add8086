"""The options that several commands share: what they read, which model, how to draw.

Rules
    An option means the same wherever it stands. A default that is the library's is the library's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bytelm.arguments import stops_of
from bytelm.byte_lm.model import ByteLM
from bytelm.cli.io import argument_bytes, patience, print_json
from bytelm.engines.choice import Engine
from bytelm.packaged import PACKAGED, packaged_directory
from bytelm.sampling.completion import Completion

MODEL_HELP: Final = (
    "A folder, a hub id, a GGUF file for llama-cpp, an address for vllm-server, or a packaged model: "
    f"{', '.join(PACKAGED)}."
)

Text = Annotated[str | None, typer.Argument(help="The text; without it, --file or standard input.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read the text from a file; - is standard input.")
]
PrefixOption = Annotated[str | None, typer.Option(help="What stands before the cursor.")]
SuffixOption = Annotated[str | None, typer.Option(help="What stands behind the cursor.")]
EscapesOption = Annotated[
    bool, typer.Option("--escapes", "-e", help=r"Read \n, \t, \\, \xNN and \uNNNN in arguments as escapes.")
]
ModelOption = Annotated[str, typer.Option("--model", "-m", envvar="BYTELM_MODEL", help=MODEL_HELP)]
DeviceOption = Annotated[str | None, typer.Option(help="Where the model runs, such as cpu or cuda.")]
DtypeOption = Annotated[str | None, typer.Option(help="Number format of the weights, such as float32 or bfloat16.")]
EngineOption = Annotated[
    Engine,
    typer.Option(
        envvar="BYTELM_ENGINE", help="What runs the model; llama-cpp takes a GGUF file, vllm-server an address."
    ),
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
StopOption = Annotated[list[str] | None, typer.Option(help="Stop before this string; may be given again.")]
NumberOption = Annotated[int, typer.Option("-n", min=1, help="How many completions.")]


def load(model: str, device: str | None = None, dtype: str | None = None, engine: Engine = "transformers") -> ByteLM:
    """The byte model that the options name; its long jobs show a bar."""
    place = model
    if model in PACKAGED and engine == "transformers":
        place = str(packaged_directory(model))  # has a bar of its own
    with patience(f"loading {model}"):
        lm = ByteLM.from_pretrained(place, engine=engine, device=device, dtype=dtype)
    lm.progress = True
    return lm


def sampling(stop: list[str] | None, escapes: bool, **given: Any) -> dict[str, Any]:
    """The options of a completion, as the library takes them."""
    return {**given, "stop": [*stops_of([argument_bytes(s, escapes=escapes) for s in stop or []])]}


def show_pieces(pieces: Iterable[str]) -> None:
    """A completion as it comes; on a terminal with a line end, so that the shell's prompt has a line of its own."""
    for piece in pieces:
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    if sys.stdout.isatty():
        typer.echo()


def show_completions(completions: list[Completion], *, as_json: bool) -> None:
    """Each completion as one line of JSON, or numbered."""
    for number, completion in enumerate(completions, start=1):
        if as_json:
            print_json(
                {
                    "text": completion.text,
                    "hex": completion.bytes.hex(),
                    "logprob": completion.logprob,
                    "finish_reason": completion.finish_reason,
                    "model_calls": completion.usage.calls,
                    "tokens_fed": completion.usage.tokens_fed,
                }
            )
        else:
            typer.echo(f"[{number}] {completion.text}")
