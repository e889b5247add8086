"""The same requests one after another and many at a time: how much a server gains by running them together.

Rules
    Every pass has a fresh server, so that no pass finds the caches of another; the passes alternate: one after another,
    together, together, one after another, and so on. Of each way the median of its passes counts.
    Both ways send the same requests through the same client. Answers must be equal in all passes.
    The first request to a server, which loads what is loaded late, is another one and is not timed.
    Times are compared within a run alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median
from typing import Any

from evals.report.progress import tracked
from evals.report.tables import console, print_line, table
from evals.serving.client import Outcome, ask, session
from evals.serving.requests import Pool, distinct
from evals.serving.server import Server, started, words_for

Result = dict[str, Any]


def measure_throughput(options: argparse.Namespace) -> Result:
    """Passes on fresh servers."""
    pool = distinct(options.requests, most=options.bytes, seed=options.seed)
    widths = [(1, options.together)[(number % 4) in (1, 2)] for number in range(2 * options.rounds)]
    passes: list[Result] = []
    texts: list[list[str]] = []
    for width in tracked(widths, "passes"):
        with started(words_for(options.model)) as server:
            seconds, found = asyncio.run(timed(server, pool, width))
        texts.append([each.text for each in found])
        passes.append(
            {
                "together": width,
                "seconds": round(seconds, 3),
                "bytes": sum(each.sent for each in found),
                "failed": [each.line() for each in found if each.outcome != "complete"],
            }
        )
    wrong = sum(len(set(same)) > 1 for same in zip(*texts, strict=True)) + sum(len(each["failed"]) for each in passes)
    apart, together = (
        median(each["seconds"] for each in passes if each["together"] == width) for width in (1, options.together)
    )
    return {
        "requests": options.requests,
        "bytes": options.bytes,
        "together": options.together,
        "passes": passes,
        "wrong": wrong,
        "ratio": round(apart / together, 3),
    }


async def timed(server: Server, pool: Pool, width: int) -> tuple[float, list[Outcome]]:
    """Send all requests, so many at a time; how long that took, and what came of them."""
    gate = asyncio.Semaphore(width)
    async with session(server.url) as client:

        async def one(number: int) -> Outcome:
            async with gate:
                return await ask(client, pool.good[number], pool.right.get(pool.good[number].name))

        await ask(client, distinct(1, most=2, seed=-1).good[0])
        begun = time.perf_counter()
        found = await asyncio.gather(*map(one, range(len(pool.good))))
        return time.perf_counter() - begun, list(found)


def show_throughput(result: Result) -> None:
    """The passes and the ratio."""
    made = table(f"{result['requests']} requests for {result['bytes']} bytes", ["at a time", "seconds", "bytes/s"])
    for each in result["passes"]:
        made.add_row(str(each["together"]), f"{each['seconds']:.2f}", f"{each['bytes'] / each['seconds']:.1f}")
    console().print(made)
    print_line(f"{result['together']} at a time take 1/{result['ratio']:.2f} of the time of one after another.")
    print_line(f"{result['wrong']} answers failed, or differ between passes.")
