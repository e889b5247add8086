"""The fuzz of bad requests: it is a function of its seed, and it sees an answer that is wrong in any way."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evals.serving import fuzz, wire
from evals.serving.hostile import CLASSES, HTTP_FAULTS, JSON_FAULTS, TEXT_FAULTS, Hostile, hostile
from evals.serving.protocols import FormError
from evals.serving.requests import Asked
from evals.serving.server import Server, ServingError, started
from evals.serving.wire import Received, answers_of, judged, send
from tests.evals.serving.standin import StandIn, serving

REQUESTS = 72
ASKED = Hostile(0, "json, another value", "POST", "/v1/completions", ())


def http(status: int, body: bytes, kind: str = "application/json") -> Received:
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return Received(head.encode() + body)


def test_a_request_is_a_function_of_seed_and_number() -> None:
    """The same numbers are the same requests; all kinds of faults come, and most differ."""
    made = [hostile(3, number) for number in range(1500)]

    assert made[7] == hostile(3, 7) != hostile(4, 7)
    faults = [list(JSON_FAULTS), list(TEXT_FAULTS), list(HTTP_FAULTS)]
    named = {f"{kind}, {what}" for kind, whats in zip(CLASSES, faults, strict=True) for what in whats}
    assert {each.kind for each in made} == named
    assert len({each.parts for each in made}) > 1200


def test_bodies_of_json_faults_are_json() -> None:
    """What is called json can be read, and has its length."""
    for each in (hostile(0, number) for number in range(300)):
        if each.kind.startswith("json"):
            head, body = each.parts
            assert f"Content-Length: {len(body)}\r\n".encode() in head
            json.loads(body)


@pytest.mark.parametrize(
    "received",
    [
        http(200, b'{"choices": []}'),
        http(400, b'{"error": {"message": "no", "type": "a"}}'),
        http(200, b'data: {"a": 1}\n\ndata: [DONE]\n\n', "text/event-stream; charset=utf-8"),
        Received(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        ),
    ],
)
def test_right_answers_are_no_findings(received: Received) -> None:
    """Whole answers in the protocol's form, streams and chunks among them."""
    assert judged(ASKED, received)[1] == ""


@pytest.mark.parametrize(
    "received",
    [
        Received(b"", ended=False),
        Received(b"", unconnected="refused"),
        Received(b""),
        Received(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{}"),
        Received(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n"
        ),
        Received(b"garbage\r\n\r\n"),
        http(200, b'{"a": NaN}'),
        http(200, b"{}", "application/octet-stream"),
        http(200, b"data: {oops}\n\n", "text/event-stream"),
        http(200, b"{}\n{", "application/x-ndjson"),
        http(200, b'data: {"error": "no"}\n\n', "text/event-stream"),
        http(400, b"no", "text/plain"),
        http(400, b'{"error": "no"}'),
        http(499, b'{"error": {"message": "no", "type": "a"}}'),
        http(502, b"no", "text/plain"),
    ],
)
def test_each_wrong_answer_is_a_finding(received: Received) -> None:
    """No answer, a part of one, what is no HTTP or no JSON, another form of error, another status."""
    assert judged(ASKED, received)[1] != ""


def test_the_http_library_may_answer_what_is_no_http() -> None:
    """In plain text, and with statuses of its own; a client that goes away needs no answer."""
    wrong = Hostile(0, "http, framing", "POST", "/v1/completions", (), silent=True)

    assert judged(wrong, http(431, b"too large", "text/plain"))[1] == ""
    assert judged(wrong, Received(b""))[1] == ""
    assert judged(wrong, http(418, b"no", "text/plain"))[1] != ""
    assert judged(Hostile(0, "http, x", "POST", "/", (), reads="not"), Received(b""))[0] == "gone"


def test_several_answers_are_taken_apart() -> None:
    """Requests behind one another on one connection have an answer each."""
    one = http(200, b"{}").data

    assert [each.status for each in answers_of(one + http(400, b"no").data, "POST")] == [200, 400]
    with pytest.raises(FormError):
        answers_of(one + b"x", "POST")


def test_what_came_before_a_broken_connection_is_kept(tmp_path: Path) -> None:
    """An answer to a request that is not read to its end is an answer."""

    async def refuses() -> Received:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http(413, b'{"error": {"message": "no", "type": "a"}}').data)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            big = Hostile(0, "text, too long", "POST", "/x", (b"POST / HTTP/1.1\r\n\r\n", b"a" * 10**7))
            return await send(server.sockets[0].getsockname(), big, within=10)

    received = asyncio.run(refuses())

    assert judged(ASKED, received) == ("413", "")


def run_on(
    app: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, probes: Any = (), within: float = 5.0
) -> dict[str, Any]:
    options = argparse.Namespace(
        requests=REQUESTS, seed=0, model="none", within=within, probe=25, out=None, resume=False
    )
    with serving(app, tmp_path / "log") as server:
        monkeypatch.setattr(wire, "HANGS", 0.05)
        monkeypatch.setattr(fuzz, "started", lambda words: same(server))
        monkeypatch.setattr(fuzz, "known", lambda model: list(probes))
        return fuzz.measure(options, [])


@contextmanager
def same(server: Server) -> Iterator[Server]:
    yield server


def test_a_right_server_has_no_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses all in the right form is right."""
    record = run_on(StandIn(), tmp_path, monkeypatch)

    assert record["kinds"] == {}
    assert record["done"] == REQUESTS == sum(sum(counts.values()) for counts in record["counts"].values())


def test_errors_in_another_form_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is kept with its number, which makes it again."""
    record = run_on(StandIn(fault="bad form"), tmp_path, monkeypatch)

    assert fuzz.failed(record)
    found = record["findings"][0]
    assert hostile(0, found["number"]).kind == found["kind"]


def test_a_wrong_answer_to_a_probe_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers all hostile requests rightly, and a good one wrongly, is wrong."""
    asked = Asked("probe 1", "probe", "/completion", {"prompt": "a"})
    app = StandIn(answers=lambda path, body: {"content": "b"})

    assert run_on(app, tmp_path, monkeypatch, probes=[(asked, "b")])["kinds"] == {}
    assert fuzz.failed(run_on(app, tmp_path, monkeypatch, probes=[(asked, "c")]))


def test_a_500_needs_its_cause_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing in the log it is a finding; with a cause there it is counted apart."""

    class Fails(StandIn):
        logs = False

        def answer(self, method: str, path: str, data: bytes) -> tuple[int, Any]:
            status, answer = super().answer(method, path, data)
            if status == 400:
                with (tmp_path / "log").open("a") as log:
                    log.write("Traceback\nValueError: no\n" if self.logs else "")
                return 500, answer
            return status, answer

    app = Fails()
    silent = run_on(app, tmp_path, monkeypatch)
    app.logs = True
    told = run_on(app, tmp_path, monkeypatch)

    assert silent["kinds"].keys() == {"status …, and nothing in the server's log"}
    assert told["kinds"] == {}
    assert told["explained"]["count"] > 10
    assert [each["log"] for each in told["explained"]["examples"]] == ["ValueError: no"]


def test_a_request_that_others_keep_waiting_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had no answer in time is a finding, and what it gets alone stands beside it."""
    app = StandIn()
    app.delay = 4.0

    async def quickly(*arguments: Any, **options: Any) -> Received:
        received = await send(*arguments, **options)
        if not received.ended:
            app.delay = 0.0
        return received

    monkeypatch.setattr(fuzz, "send", quickly)
    record = run_on(app, tmp_path, monkeypatch, within=2.0)

    assert fuzz.failed(record)
    assert {each["alone"] for each in record["findings"]} <= {"200", "400", "404", "405", "none"}


def test_a_server_that_is_not_well_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health is asked after each few requests."""
    record = run_on(StandIn(fault="sick"), tmp_path, monkeypatch)

    assert fuzz.failed(record)
    assert "/health does not answer" in record["findings"][0]["why"]


def test_a_server_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it printed, even if it ends in the moment that it is looked at."""
    monkeypatch.setattr(subprocess.Popen, "poll", lambda self: self.wait())
    with pytest.raises(ServingError, match="it printed: oh no"), started(["sh", "-c", "echo oh no; exit 3"]):
        pass


@pytest.mark.slow
def test_the_real_server_stands_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some hundred requests to a server in a process of its own; the run is written, and goes on."""
    out = tmp_path / "fuzz.json"

    assert fuzz.main(["--requests", "48", "--seed", "5", "--probe", "24", "--out", str(out)]) == 0
    assert fuzz.main(["--requests", "64", "--seed", "5", "--probe", "24", "--out", str(out), "--resume"]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["done"] == 64
    assert "64 hostile requests" in capsys.readouterr().out
    assert fuzz.main(["--only", "3", "--seed", "5"]) == 0
    assert f"kind: {hostile(5, 3).kind}" in capsys.readouterr().out
