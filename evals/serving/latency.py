"""What a keystroke costs over HTTP, beside the same call in process: ``python -m evals.serving.latency``.

Theory
    An editor asks again after each byte that is typed. The prefix of the request before is a prefix of this one, so
    nearly all of its rows and states are there: only tokens at the end are new. A server must keep that: what a byte
    costs must not depend on how it is asked.

Measured
    *keystrokes*
        The first ``--prefix`` bytes of a file of the package are completed by one byte, and again after each of ``--keys``
        further bytes that are typed. Each is asked three ways, one after the other: of a server by /completion, of a
        server by /v1/completions, and of a `Session` in this process; each way has a model of its own. Told are the
        tokens fed and the model calls before the byte, as each way counts them, and seconds. The first request, which
        reads the whole prefix, is no keystroke.
    *overhead*
        A request for no bytes at all, over HTTP (/v1/completions) and in process in turns: the median of the differences
        of the two times. It is read, waits for its turn and is answered, and no model works. The HTTP client's own time
        is a part of it. It is measured after a *short* prefix and after the *long* one.

Rules
    A run fails if a keystroke feeds more than `MOST_FED` tokens or takes more than `MOST_CALLS` calls in any way, if the
    overhead after the short prefix is more than `MOST_OVERHEAD`, or if the ways write different bytes.
    /completion tells its counts in ``timings`` (``prompt_n``, ``calls``). For /v1/completions they are differences of
    /metrics: nobody else asks that server.

Cost
    Two servers and this process hold the model once each. Some two minutes on two cores (demo-fim). Seconds mean
    something only where nothing else runs: two processes that wait for a core are slower than one that does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import bytelm
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import Result, add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table
from evals.serving.load import model_of, quantiles
from evals.serving.protocols import parsed, whole_text
from evals.serving.server import Server, ServingError, started, words_for
from evals.serving.watch import samples_of

if TYPE_CHECKING:
    from bytelm import Completion
    from bytelm.serving import Session

MOST_FED: Final = 6  # tokens of a keystroke
MOST_CALLS: Final = 2
MOST_OVERHEAD: Final = 2e-3  # seconds
WAYS: Final = ("/completion", "/v1/completions", "in process")
SHORT: Final = "The capital of Fra"
SEED: Final = 7
PATIENCE: Final = 300.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 when a keystroke or the overhead costs too much."""
    parser = command("evals.serving.latency", __doc__)
    add = parser.add_argument
    add("--model", default="demo-fim", help="a folder, a hub id, a demo, or toy (default %(default)s)")
    add("--file", default="sampling/params.py", help="the file of the package that is typed (default %(default)s)")
    add("--prefix", type=int, default=4096, metavar="N", help="bytes before the first key (default %(default)s)")
    add("--keys", type=int, default=30, metavar="N", help="bytes to type (default %(default)s)")
    add("--pairs", type=int, default=200, metavar="N", help="pairs of trivial requests (default %(default)s)")
    add("--threads", type=int, help="CPU threads of the model in this process (default: torch's own choice)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "prefix", "keys", "pairs", "threads")
    return answer(options, lambda: measure(options, words), show=show, failed=failed)


def typed(name: str, prefix: int, keys: int) -> list[str]:
    """The text before the first key, and after each.

    Raises:
        ServingError: The file is too short.
    """
    data = (Path(bytelm.__file__).parent / name).read_text(encoding="utf-8").encode("ascii", "replace")
    if len(data) < prefix + keys:
        raise ServingError(
            f"{name} has {len(data)} bytes, fewer than {prefix + keys}: choose another file, or lower --prefix or --keys"
        )
    return [data[: prefix + i].decode() for i in range(keys + 1)]


class Client:
    """One connection to a server that stays open, as an editor's does."""

    def __init__(self, server: Server) -> None:
        self._connection = HTTPConnection(*server.address, timeout=PATIENCE)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            ServingError: It was refused.
        """
        data = json.dumps(body).encode()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ServingError(f"{path} answers {response.status}: {answer[:300]!r}")
        return parsed(answer)

    def wake(self) -> None:
        """See that the connection is open: a server closes one on which nothing comes for some seconds."""
        for _ in range(2):
            try:
                self._connection.request("GET", "/health")
                self._connection.getresponse().read()
            except ConnectionError:
                self._connection.close()
            else:
                return
        raise ServingError("the server does not answer /health")

    def counted(self) -> tuple[int, int]:
        """Tokens fed and model calls of the server so far."""
        self._connection.request("GET", "/metrics")
        found = samples_of(self._connection.getresponse().read().decode())
        return int(found["bytelm_tokens_fed_total"]), int(found["bytelm_model_calls_total"])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


Way = Callable[[str], Coroutine[Any, Any, tuple[str, int, int]]]


def by_completion(client: Client) -> Way:
    """One byte by llama.cpp's path, with its own counts."""

    async def way(prefix: str) -> tuple[str, int, int]:
        said = client.ask("/completion", {"prompt": prefix, "n_predict": 1, "seed": SEED, "temperature": 1})
        return whole_text("/completion", said), said["timings"]["prompt_n"], said["timings"]["calls"]

    return way


def by_openai(client: Client, most: int = 1) -> Way:
    """One byte, or none, by OpenAI's path, counted by /metrics; the time that takes is left out by `timed`."""

    async def way(prefix: str) -> tuple[str, int, int]:
        said = client.ask("/v1/completions", {"prompt": prefix, "max_tokens": most, "seed": SEED, "temperature": 1})
        return whole_text("/v1/completions", said), 0, 0

    return way


def in_process(session: Session, most: int = 1) -> Way:
    """One byte, or none, by a session of this process."""

    async def way(prefix: str) -> tuple[str, int, int]:
        done: Completion = await session.sample(prefix, max_bytes=most, seed=SEED)
        return done.text, done.usage.tokens_fed or 0, done.usage.calls

    return way


async def timed(way: Way, prefix: str, client: Client | None, *, counted: bool) -> dict[str, Any]:
    """What one keystroke costs; ``counted``: by /metrics, for a way that does not tell."""
    if client is not None:
        client.wake()
    before = client.counted() if client is not None and counted else (0, 0)
    begun = time.perf_counter()
    text, fed, calls = await way(prefix)
    seconds = time.perf_counter() - begun
    if client is not None and counted:
        fed, calls = (now - then for now, then in zip(client.counted(), before, strict=True))
    return {"text": text, "fed": fed, "calls": calls, "seconds": round(seconds, 5)}


def measure(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """Start two servers, and measure."""
    texts = typed(options.file, options.prefix, options.keys)
    set_threads(options.threads)
    with ExitStack() as stack:
        servers = [stack.enter_context(started(words_for(options.model))) for _ in range(2)]
        found = asyncio.run(measured(servers, texts, options))
    return {
        "command": command_of("evals.serving.latency", words),
        "model": options.model,
        "machine": machine(options.threads or 0),
        "versions": versions(),
        "prefix": options.prefix,
        "keys": options.keys,
        **found,
    }


async def measured(servers: Sequence[Server], texts: Sequence[str], options: argparse.Namespace) -> Result:
    """Keystrokes and overhead; two servers, or one twice."""
    from bytelm.serving import Session

    with ExitStack() as stack:
        llama, openai = (Client(server) for server in servers)
        stack.callback(llama.close)
        stack.callback(openai.close)
        session = Session(model_of(options.model))
        ways: dict[str, tuple[Way, Client | None]] = {
            "/completion": (by_completion(llama), llama),
            "/v1/completions": (by_openai(openai), openai),
            "in process": (in_process(session), None),
        }
        try:
            lines = [
                {name: await timed(way, text, client, counted=client is openai) for name, (way, client) in ways.items()}
                for text in tracked(texts, "keystrokes")
            ]
            overhead = {}
            for name, text in (("short", SHORT), ("long", texts[-1])):
                openai.wake()
                overhead[name] = await _overhead(by_openai(openai, 0), in_process(session, 0), text, options.pairs)
        finally:
            await session.close()
    return {
        "first": lines[0],
        "largest": {
            name: {key: max(each[name][key] for each in lines[1:]) for key in ("fed", "calls")} for name in ways
        },
        "seconds": {name: quantiles([each[name]["seconds"] for each in lines[1:]]) for name in ways},
        "different": sum(len({each[name]["text"] for name in ways}) > 1 for each in lines),
        "overhead": overhead,
        "lines": lines,
    }


async def _overhead(http: Way, within: Way, prefix: str, count: int) -> dict[str, Any]:
    """Seconds of the same request both ways, the order changing."""
    found = []
    for number in tracked(range(-4, count), "pairs"):  # the first few are not counted
        seconds = {}
        for way in (http, within) if number % 2 else (within, http):
            begun = time.perf_counter()
            await way(prefix)
            seconds[way] = time.perf_counter() - begun
        if number >= 0:
            found.append((seconds[http], seconds[within]))
    return {
        "median": round(median(over - alone for over, alone in found), 6),
        "http": round(median(over for over, _ in found), 6),
        "in process": round(median(alone for _, alone in found), 6),
        "pairs": len(found),
    }


def failed(result: Result) -> bool:
    """Whether a keystroke or the overhead costs too much, or bytes differ."""
    dear = any(each["fed"] > MOST_FED or each["calls"] > MOST_CALLS for each in result["largest"].values())
    return dear or result["different"] > 0 or result["overhead"]["short"]["median"] > MOST_OVERHEAD


def show(result: Result) -> None:
    """A table of the ways, and the overhead."""
    print_line(result["command"])
    title = f"{result['keys']} keystrokes after {result['prefix']} bytes, {result['model']}"
    made = table(title, ["asked", "tokens fed, most", "calls, most", "ms, median", "ms, p90"])
    for name, most in result["largest"].items():
        times = result["seconds"][name]
        made.add_row(
            name, str(most["fed"]), str(most["calls"]), f"{1000 * times['median']:.1f}", f"{1000 * times['p90']:.1f}"
        )
    console().print(made)
    for name, over in result["overhead"].items():
        print_line(
            f"Overhead of HTTP and the queue, {name} prefix: {1000 * over['median']:.2f} ms in the median of "
            f"{over['pairs']} pairs ({1000 * over['http']:.2f} ms over HTTP, {1000 * over['in process']:.2f} ms in process)."
        )
    print_line(f"Bytes differ between the ways at {result['different']} of {result['keys'] + 1} places.")


if __name__ == "__main__":
    sys.exit(main())
