"""A server that is no `bytelm serve`: it answers from a table, and does wrong what it is told to do wrong."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from evals.serving.requests import Asked, Pool
from evals.serving.server import Server

LIMITS = ("max_tokens", "n_predict", "max_bytes")
Answers = Callable[[str, dict[str, Any]], Any]


def key_of(path: str, body: Any) -> str:
    """A request, whatever its limit: that of one that is cancelled is another one."""
    return path + json.dumps({name: value for name, value in body.items() if name not in LIMITS}, sort_keys=True)


def in_form(path: str, text: str) -> dict[str, Any]:
    """A whole answer of a protocol."""
    match path:
        case "/v1/completions":
            return {"choices": [{"text": text}]}
        case "/v1/chat/completions" | "/v1/fim/completions":
            return {"choices": [{"message": {"content": text}}]}
        case "/bytelm/sample":
            return {"completions": [{"text": text, "base64": ""}]}
        case _:
            return {"content": text}


def events_of(path: str, text: str) -> list[bytes]:
    """A stream of a protocol, character by character."""
    match path:
        case "/v1/completions":
            events = [*({"choices": [{"text": each}]} for each in text), "[DONE]"]
        case "/v1/chat/completions" | "/v1/fim/completions":
            events = [*({"choices": [{"delta": {"content": each}}]} for each in text), "[DONE]"]
        case "/bytelm/sample":
            events = [*({"text": each} for each in text), {"completion": {"text": text, "base64": ""}}]
        case _:
            events = [*({"content": each, "stop": False} for each in text), {"content": "", "stop": True}]
    return [b"data: " + (each if isinstance(each, str) else json.dumps(each)).encode() + b"\n\n" for each in events]


def error_of(path: str, kind: str, message: str) -> dict[str, Any]:
    """An error in the form of a protocol."""
    return {"error": message if path.startswith("/api/") else {"type": kind, "message": message}}


class StandIn:
    """The application.

    Attributes:
        fault: What it does wrong; empty: nothing.
        active: Requests that it works on.
        answers: Makes the answer to a path and a body, in place of the pool.
    """

    def __init__(self, pool: Pool | None = None, *, fault: str = "", answers: Answers | None = None) -> None:
        self.texts = {key_of(each.path, each.body): pool.right[each.name] for each in pool.good} if pool else {}
        self.fault, self.answers = fault, answers
        self.active = self.asked = 0
        self.pause = 0.001  # seconds between two pieces
        self.delay = 0.0  # seconds until a whole answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path, data = scope["path"], b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            data += message["body"]
            if not message.get("more_body"):
                break
        status, answer = self.answer(scope["method"], path, data)
        if isinstance(answer, list):
            self.active += 1
            ended = False
            try:
                await self.stream(answer, receive, send)
                ended = True
            finally:
                self.active -= int(ended or self.fault != "works on")
            return
        if path not in ("/health", "/metrics"):
            await asyncio.sleep(self.delay)
        kind = b"text/plain" if isinstance(answer, bytes) else b"application/json"
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})

    async def stream(self, events: list[bytes], receive: Any, send: Any) -> None:
        """Send events until the client goes."""
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in events:
            if gone.done():
                raise ConnectionError
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(self.pause)
        await send({"type": "http.response.body", "body": b""})
        gone.cancel()

    def answer(self, method: str, path: str, data: bytes) -> tuple[int, Any]:
        """Status, and the body: JSON, text, or the events of a stream."""
        if path == "/health":
            return 200, {"status": "sick" if self.fault == "sick" else "ok"}
        if path == "/metrics":
            lines = {
                "running": self.active,
                "waiting": 0,
                "tokens_fed_total": self.asked,
                "model_calls_total": self.asked,
            }
            return 200, "".join(f"bytelm_{name} {value}\n" for name, value in lines.items()).encode()
        if path == "/v1/nothing":
            return 404, {"error": {"type": "NotFound", "message": "there is no such path"}}
        if method != "POST":
            return 405, error_of(path, "NotAllowed", "POST only")
        try:
            body = json.loads(data)
            if self.answers is not None:
                return 200, self.answers(path, body)
            text = self.texts[key_of(path, body)]
        except (ValueError, KeyError, AttributeError):
            if self.fault == "bad form":
                return 400, b"no"
            return 400, error_of(path, "InvalidRequest", "that is no request")
        return 200, self.written(path, body, text)

    def written(self, path: str, body: dict[str, Any], text: str) -> Any:
        """The text, with the fault in it."""
        self.asked += 1
        if self.fault == "mixes up" and self.asked % 5 == 0:
            text = next(other for other in self.texts.values() if other != text)
        if not body.get("stream"):
            return in_form(path, text)
        events = events_of(path, text)
        if self.fault == "stops" and self.asked % 5 == 0:
            return events[:-1]
        return events


@contextmanager
def serving(app: Any, log: Path) -> Iterator[Server]:
    """The application on a port of this process; what it logs is nothing."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", os.getpid(), log)
    finally:
        server.should_exit = True
        thread.join()


def made_up(pool: Pool) -> Pool:
    """The pool with right answers that nobody computed: each is another text."""
    pool.right = {each.name: f"{each.name} is «é»" + "." * (number % 20) for number, each in enumerate(pool.good)}
    return pool


def asked_of(pool: Pool, kind: str) -> Asked:
    return next(each for each in pool.good if each.kind == kind)
