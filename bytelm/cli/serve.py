r"""The command ``bytelm serve``: a model, or several as one, behind the protocols that editors and clients speak.

Rules
    The server listens before it says so: one line on standard error, with an address that can be clicked. Standard
    output stays empty. Logs go to standard error, as JSON with ``--json``.
    It listens on this machine alone unless ``--host`` says otherwise; then it says what is missing if nobody needs a
    key. Ctrl-C and SIGTERM let what runs end, for so many seconds, and a second Ctrl-C ends it at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import warnings
from typing import Annotated, Any, Final

import typer

from bytelm.cli import options as opt
from bytelm.cli.constraining import DraftOption
from bytelm.cli.ensemble import checked_weights
from bytelm.cli.io import note
from bytelm.ensemble.combine import ALPHA, Combine
from bytelm.ensemble.model import Ensemble
from bytelm.errors import BytelmWarning, InvalidArgumentError, MissingDependencyError
from bytelm.fim import Mode
from bytelm.sampling.byte_model import ByteModel

GRACE: Final = 20  # seconds that what runs may take to end


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", autocompletion=opt.packaged_names, help=f"{opt.MODEL_HELP} Repeat it for an ensemble."
        ),
    ] = None,
    combine: Annotated[Combine, typer.Option(help="With several models: how to combine them.")] = "mixture",
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,…", help="With several models: the weight of each.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 is all addresses of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any free port.")] = 8080,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="BYTELM_API_KEY", help="A key that requests must give; may be given again."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web pages of this origin may ask; * is all. May be given again.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="The order of the infill prompt, as for bytelm infill.")] = "auto",
    sentinel_text: Annotated[
        bool,
        typer.Option(
            "--sentinel-text/--no-sentinel-text",
            help="If a whole prompt is written in a known fill-in-the-middle format, read it as prefix and suffix.",
        ),
    ] = True,
    max_bytes: Annotated[int, typer.Option(min=1, help="The most new bytes of a completion.")] = 4096,
    max_n: Annotated[int, typer.Option("--max-n", min=1, help="The most completions of a request.")] = 16,
    max_body: Annotated[int, typer.Option(min=1, help="The most bytes of a request.")] = 4 * 2**20,
    max_prompt: Annotated[
        int | None,
        typer.Option(min=1, help="The most bytes of a prompt; by default 8 for each token of the context."),
    ] = None,
    max_particles: Annotated[int, typer.Option(min=1, help="The most particles of a completion.")] = 64,
    max_budget: Annotated[
        int, typer.Option(min=1, help="The most attempts at a completion that is drawn exactly under a constraint.")
    ] = 1000,
    max_running: Annotated[int, typer.Option(min=1, help="The most completions that run together.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="The most completions that wait.")] = 1024,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="The most seconds of a completion.")] = None,
    draft: DraftOption = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log requests with their texts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log as JSON, one object a line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log errors only, not each request.")] = False,
    device: opt.DeviceOption = None,
    dtype: opt.DtypeOption = None,
    engine: opt.EngineOption = "transformers",
    normalize: opt.NormalizeOption = False,
    replace_by: Annotated[
        str | None, typer.Option("--replace", help="Read this instead of characters that the tokenizer cannot spell.")
    ] = None,
    context_length: opt.ContextOption = None,
) -> None:
    """Serve a model over HTTP: OpenAI's protocol, llama.cpp's, ollama's, our own, and a page to try it on.

    \b
    Examples:
      bytelm serve
      bytelm serve -m demo-fim --port 8012
      bytelm serve -m demo -m demo-gemma --combine bayes
      bytelm serve -m demo-gemma --draft demo
      bytelm serve -m path/to/model --host 0.0.0.0 --api-key "$KEY"
    """
    try:
        import uvicorn

        from bytelm.serving.app import LOOPBACK, JsonLines, ServerSettings, create_app
    except ImportError as error:
        raise MissingDependencyError(
            f"bytelm serve needs {error.name}; in the checkout: pip install '.[serve]'", name=error.name
        ) from None
    names = models or ["demo-fim"]
    numbers = checked_weights(names, weights, combine) if len(names) > 1 else None
    settings = ServerSettings(
        name=" + ".join(names),
        api_keys=tuple(api_key or ()),
        cors_origins=tuple(cors_origin or ()),
        loopback=host in LOOPBACK,
        max_body=max_body,
        max_prompt=max_prompt,
        max_bytes=max_bytes,
        default_bytes=min(256, max_bytes),
        max_n=max_n,
        max_particles=max_particles,
        max_budget=max_budget,
        max_running=max_running,
        max_waiting=max_waiting,
        seconds=timeout,
        sentinel_text=sentinel_text,
        mode=mode,
        log_prompts=log_prompts,
    )
    if host not in LOOPBACK and not settings.api_keys:
        note(f"anybody who reaches {host} can use this server: --api-key asks for a key")
    log_warnings(texts=log_prompts)
    level = logging.WARNING if quiet and not log_prompts else logging.INFO
    log_to_stderr(JsonLines() if as_json else None, level=level)
    listening = bound(host, port)
    texts: dict[str, Any] = {"normalize": normalize, "replace": replace_by, "context_length": context_length}
    loaded = {name: opt.load(name, device, dtype, engine, texts) for name in dict.fromkeys(names)}
    members = [loaded[name] for name in names]
    lm: ByteModel[Any, Any] = members[0]
    if len(members) > 1:
        lm = Ensemble(members, weights=numbers, combine=combine, alpha=ALPHA)
    drafter: Any = draft if draft in (None, "lookup") else opt.load(str(draft), device, dtype)
    config = uvicorn.Config(
        create_app(lm, dataclasses.replace(settings, draft=drafter)),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )
    listening.listen()
    place, number = listening.getsockname()[:2]
    shown = f"[{place}]" if ":" in place else place
    with contextlib.suppress(OSError):  # a full disk behind standard error
        typer.echo(f"bytelm serves {settings.name} at http://{shown}:{number}/", err=True)
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    if server.force_exit:
        os._exit(130)  # the engine is at work in its thread, and ends with the process


def bound(host: str, port: int) -> socket.socket:
    """A socket that nobody else has."""
    # asyncio turns off Nagle's algorithm where it sees that a socket is TCP's; with it each answer takes 40 ms more.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InvalidArgumentError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give another --host or --port (0: any free port)"
        ) from None
    return listening


def log_warnings(*, texts: bool) -> None:
    """Let warnings go to the log: their kind alone, for they may quote a prompt, or all of them."""

    def told(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        what = str(message) if texts else "a request gave cause to it; --log-prompts shows its text"
        logging.getLogger("bytelm.serve").warning("%s: %s", category.__name__, what)

    warnings.showwarning = told
    warnings.simplefilter("always", BytelmWarning)  # to tell each once, Python keeps the texts of all


def log_to_stderr(formatter: logging.Formatter | None, *, level: int) -> None:
    """Let the server's logs go to standard error; a disk that is full loses them, and no request."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter or logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("bytelm.serve", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level if name == "bytelm.serve" else logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each client that has gone
