"""Ten thousand hostile requests to a server: ``python -m evals.serving.fuzz --requests 10000 --seed 0``.

hostile.py makes the requests, wire.py sends them and judges the answers. The model is a random one that costs nothing
(toy.py), or any other.

Findings
    No answer within ``--within`` seconds, none at all, an answer that is not in the form of its protocol, a status that
    is not stated, a server that has ended, one that does not answer /health after some requests, or one that answers a
    known request wrongly after some hundred. A status 500 whose cause is in the server's log is counted and shown, and
    is no finding; without a line in the log it is one. A request that had no answer in time is sent again afterwards:
    *alone* tells what it gets then, as another one may have kept it waiting.

Rules
    `TOGETHER` requests are sent at a time, each on a connection of its own. Then /health is asked, and every
    ``--probe`` requests a probe: known answers of four endpoints, worked out in this process.
    A request is known by the seed and its number. ``--only`` sends one alone, and prints it with its answer.
    ``--out`` is written after each finding and every few seconds, whole; with ``--resume`` a run goes on behind it.
    After a server that has ended comes a new one.

Cost
    Some 15 requests a second on two cores, and ``--within`` for each that is not answered in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from evals.report.command import at_least, command, words_of
from evals.report.output import Result, add_output_options, answer, write_result
from evals.report.progress import bar
from evals.report.records import RecordsError, command_of
from evals.report.surroundings import versions
from evals.report.tables import console, print_line, table
from evals.serving.client import ask, session
from evals.serving.hostile import CLASSES, Hostile, hostile
from evals.serving.load import model_of
from evals.serving.requests import Asked, alone
from evals.serving.server import Server, started, words_for
from evals.serving.wire import Received, judged, send

TOGETHER: Final = 8
EVERY: Final = 10.0  # seconds between two writings of the result
KEPT: Final = 12  # findings of a kind that are kept; the others are counted
SHOWN: Final = 700  # bytes of a request or an answer that are kept
LIMITS: Final = ("--max-bytes", "32")  # of the toy's server


def main(arguments: Sequence[str] | None = None) -> int:
    """Send hostile requests; 1 when anything is found."""
    parser = command("evals.serving.fuzz", __doc__)
    add = parser.add_argument
    add("--requests", type=int, default=10_000, metavar="N", help="number of requests (default %(default)s)")
    add("--seed", type=int, default=0)
    add("--model", default="toy", help="a folder, a hub id, a demo, or toy (default %(default)s)")
    add("--only", type=int, metavar="NUMBER", help="send this one request, and print it with its answer")
    add("--probe", type=int, default=200, metavar="N", help="requests between two probes (default %(default)s)")
    add("--within", type=float, default=20.0, metavar="S", help="most seconds for an answer (default %(default)s)")
    add_output_options(parser, plot=None)
    add("--resume", action="store_true", help="continue the file of --out; the settings must be the same")
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "requests", "probe")
    if options.only is not None:
        return answer(options, lambda: one(options, words), show=show_one, failed=lambda found: bool(found["why"]))
    return answer(options, lambda: measure(options, words), show=show, failed=failed)


def _words(options: argparse.Namespace) -> list[str]:
    return words_for(options.model, *(LIMITS if options.model == "toy" else ()))


def one(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """One request alone."""
    asked = hostile(options.seed, options.only)
    with started(_words(options)) as server:
        received = asyncio.run(send(server.address, asked, within=options.within))
        kind, why = judged(asked, received)
        printed = server.printed()
    return {
        "command": command_of("evals.serving.fuzz", words),
        "number": asked.number,
        "kind": asked.kind,
        "sent": [repr(part) for part in asked.parts],
        "answer": received.data.decode(errors="backslashreplace"),
        "status": kind,
        "why": why,
        "printed": printed,
    }


def show_one(found: Result) -> None:
    """The request as it is sent, the answer, and what is wrong."""
    for name in ("command", "kind", "sent", "answer", "printed", "status", "why"):
        print_line(f"{name}: {found[name]}")


def measure(options: argparse.Namespace, words: Sequence[str]) -> Result:
    """Send requests until the number is reached, or until Ctrl-C."""
    settings = {"seed": options.seed, "model": options.model, "within": options.within}
    record = _begun(options, settings, words)
    probes = known(options.model)
    try:
        while record["done"] < options.requests:
            with started(_words(options)) as server:
                asyncio.run(_served(server, record, options, probes))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return record


def _begun(options: argparse.Namespace, settings: dict[str, Any], words: Sequence[str]) -> Result:
    """The record to go on with: an empty one, or that of ``--out``."""
    if options.resume and options.out is not None and options.out.exists():
        record: Result = json.loads(options.out.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            raise RecordsError(f"{options.out} is from a run with other settings; give another file with --out")
        return record
    return {
        "command": command_of("evals.serving.fuzz", words),
        "settings": settings,
        "versions": versions("starlette", "uvicorn", python=True),
        "done": 0,
        "seconds": 0.0,
        "probes": 0,
        "slowest": 0.0,
        "counts": {},
        "kinds": {},
        "findings": [],
        "explained": {"count": 0, "examples": []},
        "memory": [],
    }


def known(model: str) -> list[tuple[Asked, str]]:
    """Requests with their right answers."""
    text, options = "def fibonacci(n):\n    ret", {"seed": 11, "max_bytes": 12}
    body = {"prompt": text, "max_tokens": 12, "seed": 11}
    messages = [{"role": "user", "content": "Name a color."}]
    call: Any = ("sample", (text,), options)
    probes = [
        Asked("probe 1", "probe", "/v1/completions", body, call),
        Asked("probe 2", "probe", "/v1/completions", body | {"stream": True}, call),
        Asked("probe 3", "probe", "/bytelm/sample", {"prefix": text, **options}, call),
        Asked("probe 4", "probe", "/v1/chat/completions", {"messages": messages, "max_tokens": 12, "seed": 11}, ("chat", (messages,), options)),
    ]  # fmt: skip
    lm = model_of(model)
    return [(each, alone(lm, each)) for each in probes]


async def _served(server: Server, record: Result, options: argparse.Namespace, probes: Any) -> None:
    """Send requests to one server, until it ends or all are sent."""
    written = begun = time.monotonic()
    record["memory"].append([record["done"], server.memory()])
    await _probe(server, record, probes)
    with bar() as shown:
        task = shown.add_task("requests", total=options.requests, completed=record["done"])
        while record["done"] < options.requests:
            numbers = range(record["done"], min(record["done"] + TOGETHER, options.requests))
            found = await _sent(server, record, [hostile(options.seed, number) for number in numbers], options)
            probing = numbers.stop // options.probe > numbers.start // options.probe or numbers.stop == options.requests
            healthy = await _healthy(server, record, numbers)
            if healthy and probing:
                found |= await _probe(server, record, probes)
                record["memory"].append([numbers.stop, server.memory()])
            record["done"] = numbers.stop
            record["seconds"] = round(record["seconds"] + time.monotonic() - begun, 3)
            begun = time.monotonic()
            shown.update(task, completed=record["done"], description=f"requests, {len(record['findings'])} kept")
            if options.out is not None and (found or not healthy or time.monotonic() > written + EVERY):
                _write(record, options.out)
                written = time.monotonic()
            if not healthy:
                return


async def _sent(server: Server, record: Result, asked: list[Hostile], options: argparse.Namespace) -> bool:
    """Send some requests at a time and judge the answers; whether anything was found."""
    before = len(server.printed())

    async def timed(each: Hostile) -> tuple[Received, float]:
        begun = time.monotonic()
        return await send(server.address, each, within=options.within), time.monotonic() - begun

    found = False
    late = []
    for each, (received, seconds) in zip(asked, await asyncio.gather(*map(timed, asked)), strict=True):
        status, why = judged(each, received)
        counts = record["counts"].setdefault(each.kind, {})
        counts[status] = counts.get(status, 0) + 1
        record["slowest"] = round(max(record["slowest"], seconds), 3)
        if status == "500" and not why:
            printed = server.printed()[before:]
            if not printed.strip():
                why = "status 500, and nothing in the server's log"
            else:
                _explained(record, each, printed)
        if why:
            found = True
            line = _finding(record, why, asked=each, received=received, printed=server.printed()[before:])
            if not received.ended and line is not None:
                late.append((each, line))
    for each, line in late:  # one request may have kept the others waiting
        status, why = judged(each, await send(server.address, each, within=options.within))
        line["alone"] = why or status
    return found


def _finding(
    record: Result, why: str, *, asked: Hostile | None = None, received: Received | None = None, printed: str = ""
) -> dict[str, Any] | None:
    """Count a finding; its line, if it is kept."""
    kind = reason_of(why)
    record["kinds"][kind] = record["kinds"].get(kind, 0) + 1
    if record["kinds"][kind] > KEPT:
        return None
    line: dict[str, Any] = {"number": record["done"] if asked is None else asked.number, "why": why}
    if asked is not None and received is not None:
        line |= {"kind": asked.kind, "path": asked.path, "sent": _short(b"".join(asked.parts))}
        line["answer"] = _short(received.data)
    line["printed"] = printed[-SHOWN:]
    record["findings"].append(line)
    return line


def _explained(record: Result, asked: Hostile, printed: str) -> None:
    record["explained"]["count"] += 1
    last = ([line for line in printed.splitlines() if re.match(r"\w[\w.]*(Error|Exception)\b", line)] or [""])[-1]
    if len(record["explained"]["examples"]) < KEPT and last not in (
        each["log"] for each in record["explained"]["examples"]
    ):
        line = {"number": asked.number, "kind": asked.kind, "sent": _short(b"".join(asked.parts)), "log": last}
        record["explained"]["examples"].append(line | {"printed": printed[-3 * SHOWN :]})


def _short(data: bytes) -> str:
    return repr(data[:SHOWN])[2:-1] + (f" … ({len(data)} bytes)" if len(data) > SHOWN else "")


def reason_of(why: str) -> str:
    """A finding without what is of this one request: what stands behind a colon or in brackets, and numbers."""
    return re.sub(r"\d+(\.\d+)?", "…", re.sub(r" \(.*", "", why.partition(": ")[0]))[:80]


async def _healthy(server: Server, record: Result, numbers: range) -> bool:
    """Whether the server lives and answers /health; else a finding of the requests before."""
    why = ""
    if not server.alive():
        why = "the server has ended"
    else:
        request = Hostile(
            0, "health", "GET", "/health", (b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",)
        )
        received = await send(server.address, request, within=20)
        if b'"ok"' not in received.data or not received.data.startswith(b"HTTP/1.1 200"):
            why = f"/health does not answer, or not that all is well: {received.data[:200]!r}"
    if why:
        _finding(
            record, f"{why}; requests {numbers.start} to {numbers.stop - 1} were the last", printed=server.printed()
        )
    return not why


async def _probe(server: Server, record: Result, probes: Sequence[tuple[Asked, str]]) -> bool:
    """Ask what is known; whether an answer was wrong."""
    found = False
    record["probes"] += 1
    async with session(server.url) as client:
        for asked, right in probes:
            outcome = await ask(client, asked, right)
            if outcome.outcome != "complete":
                found = True
                _finding(record, f"{asked.name} is {outcome.outcome}: {json.dumps(outcome.line(), ensure_ascii=False)}")
    return found


def _write(record: Result, path: Path) -> None:
    whole = path.with_name(path.name + ".part")
    write_result(record, whole)
    whole.replace(path)


def failed(record: Result) -> bool:
    """Whether anything was found."""
    return bool(record["kinds"])


def show(record: Result) -> None:
    """The answers by kind of request and status, and the findings."""
    print_line(record["command"])
    statuses = sorted({status for counts in record["counts"].values() for status in counts})
    made = table(f"{record['done']:,} hostile requests in {record['seconds']:.0f} s", ["request", *statuses])
    for kind in sorted(record["counts"], key=lambda kind: (CLASSES.index(kind.split(",")[0]), kind)):
        made.add_row(kind, *(f"{record['counts'][kind].get(status, 0):,}" for status in statuses))
    console().print(made)
    print_line(f"{record['probes']} probes. The slowest answer took {record['slowest']:.2f} s.")
    if record["memory"]:
        print_line(
            f"Memory: {record['memory'][0][1] / 1e6:.0f} MB before, {record['memory'][-1][1] / 1e6:.0f} MB after."
        )
    print_line(f"{record['explained']['count']} answers of status 500 whose cause is in the log.")
    for each in record["explained"]["examples"]:
        print_line(f"  {each['number']} ({each['kind']}): {each['log']}")
    for kind, count in record["kinds"].items():
        print_line(f"{count} found: {kind}")
    for each in record["findings"]:
        print_line(f"\n# --seed {record['settings']['seed']} --only {each['number']}: {each['why']}")
        print_line(each.get("sent", "") + (f"\nasked again alone: {each['alone']}" if "alone" in each else ""))


if __name__ == "__main__":
    sys.exit(main())
