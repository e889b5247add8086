"""Many clients at once: is every answer that of the request alone? ``python -m evals.serving.load --clients 64``.

Theory
    Clients draw requests from a pool (requests.py) as fast as they are answered: whole completions and streams,
    infills, chats, requests for bytes, streams that they leave in the middle, and bad requests. The right answers are
    worked out beforehand, in this process, each request alone. A request of the server runs in a batch with whatever
    others are there, joins and leaves between steps, and finds caches that others filled: none of that may show.

Counted
    Requests by kind and outcome (client.py says which there are), refusals by status and type. *wrong* and *broken*
    must be 0. Each of those is kept with its request and answer, and a wrong one is asked once more with nobody beside
    it: *again* tells whether it is right then.
    Memory and requests left behind: watch.py. Bytes written a second, and seconds to the first text and to the whole.
    *cancellations*: with other streams under way a client goes away, and /metrics is read until the server has one
    request less: the longest time, and the most model calls meanwhile, the one that was under way among them.

Rules
    A run fails if an answer is wrong or broken, if the server ended, if /metrics did not answer, or if the server still
    works when nobody waits.
    Rows of a real model depend on the batch in their last bits. A draw may fall between two such rows, about once in
    100,000 bytes: such an answer counts as wrong here, and *again* tells it from an answer that was mixed up.
    With ``--throughput`` nothing of this is run but throughput.py.

Cost
    The right answers take about 2 s a request on two cores (demo-fim), and then come ``--seconds``. The model is in
    memory twice while the right answers are worked out, and once after that.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import Result, add_output_options, answer, write_result
from evals.report.progress import bar, tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table
from evals.serving.client import OUTCOMES, Outcome, ask, session
from evals.serving.requests import KINDS, Pool, cancelling, pool_of
from evals.serving.server import Server, ServingError, started, words_for
from evals.serving.throughput import measure_throughput, show_throughput
from evals.serving.watch import Watch, active, metrics

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from bytelm import ByteLM

KEPT: Final = 40  # faults of a run that are kept whole
WRITTEN: Final = 20.0  # seconds between two writings of the result
QUIET: Final = 30.0  # seconds until a server with no clients has nothing to do
BESIDE: Final = 8  # streams beside one that is cancelled


def main(arguments: Sequence[str] | None = None) -> int:
    """Load a server; 1 when an answer is wrong or broken."""
    parser = command("evals.serving.load", __doc__)
    add = parser.add_argument
    add("--model", default="demo-fim", help="a folder, a hub id, a demo, or toy (default %(default)s)")
    add("--clients", type=int, default=64, metavar="N", help="clients at once (default %(default)s)")
    add("--seconds", type=int, default=600, metavar="S", help="seconds under load (default %(default)s)")
    add("--pool", type=int, default=80, metavar="N", help="number of different requests (default %(default)s)")
    add("--cancelled", type=float, default=0.12, metavar="P", help="share of requests to cancel (default %(default)s)")
    add("--bad", type=float, default=0.06, metavar="P", help="share of bad requests (default %(default)s)")
    add("--cancellations", type=int, default=20, metavar="N", help="cancellations to time (default %(default)s)")
    add("--threads", type=int, help="CPU threads of the model in this process (default: torch's own choice)")
    add("--seed", type=int, default=0, help="seed of the requests and the clients (default 0)")
    add("--throughput", action="store_true", help="only compare requests one after another with 16 at a time")
    add(
        "--requests",
        type=int,
        default=48,
        metavar="N",
        help="with --throughput: number of requests (default %(default)s)",
    )
    add(
        "--together",
        type=int,
        default=16,
        metavar="N",
        help="with --throughput: requests at a time (default %(default)s)",
    )
    add(
        "--bytes",
        type=int,
        default=32,
        metavar="N",
        help="with --throughput: bytes of a completion (default %(default)s)",
    )
    add("--rounds", type=int, default=2, metavar="N", help="with --throughput: rounds each way (default %(default)s)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "clients", "seconds", "pool", "requests", "bytes", "rounds", "threads")
    at_least(parser, options, "together", least=2)
    at_least(parser, options, "cancellations", least=0)
    if options.pool < len(KINDS):
        parser.error(f"--pool must be at least {len(KINDS)}, so that there is a request of each kind")
    return answer(options, lambda: measure(options, words), show=show, failed=failed)


def measure(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """The right answers, then the server and the load."""
    set_threads(options.threads)
    head = {
        "command": command_of("evals.serving.load", words),
        "model": options.model,
        "machine": machine(options.threads or 0),
        "versions": versions("aiohttp"),
    }
    if options.throughput:
        return head | measure_throughput(options)
    pool = answered_pool(options)
    with started(words_for(options.model)) as server:
        return head | asyncio.run(loaded(server, pool, options, head))


def answered_pool(options: argparse.Namespace) -> Pool:
    """The pool with its right answers; the model is let go of."""
    pool = pool_of(options.pool, seed=options.seed)
    pool.answered(model_of(options.model), tracked(pool.good, "the right answers"))
    return pool


def model_of(name: str) -> ByteLM:
    """The model in this process."""
    from bytelm import ByteLM
    from evals.serving.toy import toy_model

    return toy_model() if name == "toy" else ByteLM.from_pretrained(name)


class Load:
    """Clients at work, and what came of their requests.

    Attributes:
        counts: By kind and outcome.
        refusals: By status and type.
        faults: The wrong and broken ones, `KEPT` at most.
        waiting: Requests that clients wait for.
        written: Bytes of text.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.counts: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.faults: list[Outcome] = []
        self.waiting = 0
        self.written = 0
        self.first: list[float] = []
        self.whole: list[float] = []

    async def client(self, http: ClientSession, number: int, options: argparse.Namespace, ends: float) -> None:
        """One client, until the time is over."""
        draw = random.Random(f"{options.seed}/client {number}")
        while time.monotonic() < ends:
            asked = self.pool.mixed(draw, cancelled=options.cancelled, bad=options.bad)
            self.waiting += 1
            try:
                found = await ask(http, asked, self.pool.right.get(asked.name))
            finally:
                self.waiting -= 1
            self.note(found)
            if found.outcome == "broken":  # of a server that is gone there would be thousands
                await asyncio.sleep(1)

    def note(self, found: Outcome) -> None:
        """Count an outcome."""
        self.counts[found.asked.kind, found.outcome] += 1
        self.written += found.sent
        if found.error:
            self.refusals[found.error] += 1
        if found.outcome in ("wrong", "broken") and len(self.faults) < KEPT:
            self.faults.append(found)
        if found.outcome == "complete":
            self.whole.append(found.whole)
            if found.first is not None and found.asked.streams:
                self.first.append(found.first)

    def told(self, seconds: float) -> Result:
        """The counts for a result, with what is not known yet as nothing."""
        kinds = [*KINDS, "cancelled", "bad"]
        return {
            "seconds": round(seconds, 1),
            "requests": {kind: {name: self.counts[kind, name] for name in OUTCOMES} for kind in kinds},
            "refusals": dict(sorted(self.refusals.items())),
            "bytes a second": round(self.written / max(seconds, 1e-9), 1),
            "first text": quantiles(self.first),
            "whole answer": quantiles(self.whole),
            "faults": [each.line() for each in self.faults],
            "left at the end": 0,
            "cancellations": {"n": 0, "kept": 0},
            "ended": False,
            "unanswered": 0,
            "printed": "",
        }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p90 and p99 in seconds, and how many there are."""
    if not seconds:
        return {"n": 0}
    values = np.quantile(np.asarray(seconds), [0.5, 0.9, 0.99]).round(4).tolist()
    return dict(zip(("median", "p90", "p99"), values, strict=True)) | {"n": len(seconds)}


async def loaded(server: Server, pool: Pool, options: argparse.Namespace, head: Result) -> Result:
    """Run the load on a server that listens."""
    from aiohttp import ClientError

    load = Load(pool)
    async with session(server.url) as http, session(server.url, most=2) as aside:
        watch = Watch(server, aside, lambda: load.waiting)
        watching = asyncio.create_task(watch.run())
        begun = time.monotonic()
        clients = [load.client(http, number, options, begun + options.seconds) for number in range(options.clients)]
        work = asyncio.gather(*clients)
        await _shown(work, load, options, lambda: head | load.told(time.monotonic() - begun) | {"memory": watch.told()})
        result = load.told(time.monotonic() - begun)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        result["memory"] = watch.told()
        result["left behind"], result["unanswered"] = watch.left_behind, watch.unanswered
        result["ended"] = watch.gone or not server.alive()
        if not result["ended"]:
            try:
                await _afterwards(aside, server, load, options, result)
            except (ServingError, ClientError, TimeoutError, OSError) as error:
                result["afterwards"] = f"{type(error).__name__}: {error}"
        result["printed"] = server.printed()[-4000:]
    return result


async def _afterwards(
    client: ClientSession, server: Server, load: Load, options: argparse.Namespace, result: Result
) -> None:
    """What is asked of a server that has only this client: wrong answers again, and cancellations."""
    result["left at the end"] = await until_at_most(client, 0, within=QUIET)
    for line, found in zip(result["faults"], load.faults, strict=True):
        if found.outcome == "wrong" and not found.asked.refused:
            again = await ask(client, found.asked, load.pool.right.get(found.asked.name))
            line["again"] = again.outcome in ("complete", "cancelled")
    result["cancellations"] = await cancellations(client, server, load.pool, options)


async def _shown(work: Any, load: Load, options: argparse.Namespace, so_far: Any) -> None:
    """Wait for the clients, with a bar; write what there is every now and then."""
    written = time.monotonic()
    with bar() as shown:
        task = shown.add_task("load", total=options.seconds)
        while not work.done():
            await asyncio.wait([work], timeout=0.5)
            done, bad = sum(load.counts.values()), len(load.faults)
            shown.update(task, advance=0.5, description=f"{done} requests, {bad} faults")
            if options.out is not None and time.monotonic() > written + WRITTEN:
                _write(so_far(), options.out)
                written = time.monotonic()
    await work


def _write(result: Result, path: Path) -> None:
    whole = path.with_name(path.name + ".part")
    write_result(result, whole)
    whole.replace(path)


async def until_at_most(client: ClientSession, most: int, *, within: float) -> int:
    """Read /metrics until the server works on so few requests; how many there are at the end."""
    ends = time.monotonic() + within
    found = active(await metrics(client))
    while found > most and time.monotonic() < ends:
        await asyncio.sleep(0.005)
        found = active(await metrics(client))
    return found


async def cancellations(client: ClientSession, server: Server, pool: Pool, options: argparse.Namespace) -> Result:
    """Go away from a stream while others run, and wait until the server has let go of it."""
    streams = [each for each in pool.good if each.streams]
    seconds: list[float] = []
    calls: list[float] = []
    kept = 0
    for number in range(options.cancellations):
        draw = random.Random(f"{options.seed}/cancellation {number}")
        async with session(server.url) as http:
            beside = [cancelling(draw.choice(streams), 10**9) for _ in range(BESIDE)]
            tasks = [asyncio.create_task(ask(http, each)) for each in beside]
            await asyncio.sleep(0.2)
            await ask(http, cancelling(draw.choice(streams), draw.randint(1, 3)))
            gone, before = time.perf_counter(), await metrics(client)
            ends, now = gone + QUIET, before
            while active(now) > sum(not task.done() for task in tasks) and time.perf_counter() < ends:
                await asyncio.sleep(0.001)
                now = await metrics(client)
            kept += time.perf_counter() >= ends
            seconds.append(time.perf_counter() - gone)
            calls.append(now.get("bytelm_model_calls_total", 0) - before.get("bytelm_model_calls_total", 0))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until_at_most(client, 0, within=QUIET)
    longest = {"seconds": round(max(seconds), 4), "model calls": int(max(calls))} if seconds else {}
    return {"n": len(seconds), "kept": kept, "longest": longest, "median": quantiles(seconds).get("median")}


def total(result: Result, outcome: str) -> int:
    """Requests of all kinds with an outcome."""
    return sum(kind[outcome] for kind in result["requests"].values())


def failed(result: Result) -> bool:
    """Whether an answer is wrong or broken, the server ended, or it went on for nobody."""
    if "ratio" in result:
        return bool(result["wrong"])
    if result["ended"] or result["unanswered"] or "afterwards" in result:
        return True
    stuck = result["left at the end"] > 0 or result["cancellations"]["kept"] > 0
    return stuck or total(result, "wrong") + total(result, "broken") > 0


def show(result: Result) -> None:
    """The counts, the times, the memory, and the faults."""
    print_line(result["command"])
    if "ratio" in result:
        show_throughput(result)
        return
    made = table(f"{result['model']} under load for {result['seconds']:.0f} s", ["requests", *OUTCOMES])
    for kind, counts in result["requests"].items():
        made.add_row(kind, *(f"{counts[name]:,}" for name in OUTCOMES))
    made.add_row("all", *(f"{total(result, name):,}" for name in OUTCOMES))
    console().print(made)
    times = table("Seconds", ["to", "median", "p90", "p99", "answers"])
    for name in ("first text", "whole answer"):
        found = result[name]
        if found["n"]:
            times.add_row(name, *(f"{found[each]:.3f}" for each in ("median", "p90", "p99")), f"{found['n']:,}")
    console().print(times)
    print_line(f"{result['bytes a second']} bytes of text a second.")
    for kind, count in result["refusals"].items():
        print_line(f"{count} refused: {kind}")
    memory = result["memory"]
    if memory.get("growth") is not None:
        print_line(
            f"Memory: {memory['after']:.0f} MB after the start, {memory['end']:.0f} at the end, {memory['largest']:.0f} "
            f"at most; growth {memory['growth']:+.2f} MB a minute [{memory['low']:+.2f}, {memory['high']:+.2f}]."
        )
    if result["ended"]:
        print_line(f"The server's process ended. It printed: {result['printed']}")
    if result["unanswered"] or "afterwards" in result:
        print_line(f"/metrics did not answer {result['unanswered']} times. {result.get('afterwards', '')}")
    if (seen := result["cancellations"])["n"]:
        print_line(
            f"{seen['n']} streams cancelled: free after {seen['median']:.3f} s in the median, "
            f"{seen['longest']['seconds']:.3f} s and {seen['longest']['model calls']} model calls at most; "
            f"{seen['kept']} never. {result['left at the end']} requests ran on for nobody at the end."
        )
    for fault in result["faults"]:
        again = "" if "again" not in fault else f" (asked again: {'right' if fault['again'] else 'wrong'})"
        print_line(f"{fault['outcome']}{again}: {fault['request']} {fault['sent']}: {fault['text']!r}; {fault['why']}")


if __name__ == "__main__":
    sys.exit(main())
