"""Bytes sent on a connection as they are, and the answers that come back, judged.

Rules
    The server closes the connection behind an answer (every request asks for that), so the answer is all that comes
    until then. One that does not end within the limit is a finding, and so are bytes that are no HTTP.
    An answer is right if its status is 200 or one of those stated, and its body has the protocol's form: strict JSON,
    events each of which is strict JSON, or an error as the protocol has it. Pages and metrics are text.
    To a request that is wrong as HTTP the HTTP library may answer itself, with a status of its own and in plain text.
    A stream whose status is 200 may still end with an error, in the protocol's form.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from evals.serving.hostile import Hostile
from evals.serving.protocols import FormError, error_of, parsed

LIBRARY: Final = frozenset({101, 204, 301, 307, 400, 404, 405, 408, 413, 414, 426, 431, 501, 505})
"""What may be answered where the request is no right HTTP, or is not of a protocol."""
SLOW: Final = 0.05  # seconds for which a slow reader does not look
TURNS: Final = 20  # how often
HANGS: Final = 1.0  # seconds until a client goes that has not finished its request, and says nothing more


@dataclass(frozen=True, slots=True)
class Received:
    """What came back.

    Attributes:
        data: All bytes.
        ended: Whether the server closed the connection in time.
        unconnected: Why no connection was made; empty where one was.
    """

    data: bytes
    ended: bool = True
    unconnected: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer on a connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Inbox(asyncio.Protocol):
    """Takes what comes, and keeps it when the connection breaks: a server may answer and close before it has read all."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.over = asyncio.get_running_loop().create_future()
        self.writable = asyncio.Event()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.writable.set()
        if not self.over.done():
            self.over.set_result(None)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


async def send(address: tuple[str, int], asked: Hostile, *, within: float) -> Received:
    """Send a request on a connection of its own, and take what comes."""
    loop = asyncio.get_running_loop()
    try:
        transport, inbox = await loop.create_connection(_Inbox, *address)
    except OSError as error:
        return Received(b"", unconnected=str(error))
    try:
        async with asyncio.timeout(HANGS if asked.unfinished else within):
            for part in asked.parts:
                if not inbox.over.done():
                    transport.write(part)
                await inbox.writable.wait()
                if asked.slowly:
                    await asyncio.sleep(asked.slowly)
            if asked.reads == "not":
                return Received(b"")
            if asked.reads == "slowly":
                await _slowly(transport, inbox)
            await inbox.over
    except TimeoutError:
        return Received(bytes(inbox.data), ended=False)
    finally:
        transport.abort()
    return Received(bytes(inbox.data))


async def _slowly(transport: asyncio.Transport, inbox: _Inbox) -> None:
    """Look into the connection now and then only."""
    for _ in range(TURNS):
        if not inbox.over.done():
            transport.pause_reading()
            await asyncio.sleep(SLOW)
        if not inbox.over.done():
            transport.resume_reading()
            await asyncio.sleep(0)


class _Bytes(io.BytesIO):
    """Bytes that stay open: an `HTTPResponse` closes what it has read."""

    def close(self) -> None:
        pass

    def makefile(self, *_: Any) -> _Bytes:
        return self


def answers_of(data: bytes, method: str) -> list[Answer]:
    """The answers among some bytes.

    Raises:
        FormError: They are no answers of HTTP, or one is not whole.
    """
    source, found = _Bytes(data), []
    while source.tell() < len(data):
        response = HTTPResponse(source, method=method)  # type: ignore[arg-type] # a file is all that it takes of a socket
        try:
            response.begin()
            body = response.read()
        except (HTTPException, ValueError, OSError) as error:
            raise FormError(f"no whole answer of HTTP ({type(error).__name__}: {error}): {data[-300:]!r}") from None
        found.append(Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body))
    return found


def judged(asked: Hostile, received: Received) -> tuple[str, str]:
    """The kind of an answer, for counting, and what is wrong with it; empty where nothing is."""
    if received.unconnected:
        return "no connection", received.unconnected
    if asked.unfinished and not received.data:
        return "gone", ""
    if not received.ended:
        return "no end", f"no end within the limit, after {len(received.data)} bytes: {received.data[:300]!r}"
    if asked.reads == "not":
        return "gone", ""
    try:
        answers = answers_of(received.data, asked.method)
        if not answers:
            return "none", "" if asked.silent else "the connection was closed without an answer"
        for each in answers:
            _check(asked, each)
    except FormError as error:
        return "bad form", str(error)
    return str(answers[0].status), ""


def _check(asked: Hostile, answer: Answer) -> None:
    path, kind = asked.path.partition("?")[0], answer.headers.get("content-type", "")
    if asked.method == "HEAD" or (not asked.strict and answer.status in LIBRARY and "json" not in kind):
        return
    if answer.status != 200:
        if answer.status not in LIBRARY or "json" in kind:
            error_of(path, answer.status, answer.body)
        else:
            raise FormError(f"status {answer.status} in {kind or 'no type'}: {answer.body[:200]!r}")
    elif "text/event-stream" in kind:
        for line in answer.body.split(b"\n"):
            if line.strip() and not line.startswith(b":") and line != b"data: [DONE]":
                _event(path, line.removeprefix(b"data:"))
    elif "ndjson" in kind:
        for line in filter(None, answer.body.split(b"\n")):
            _event(path, line)
    elif "json" in kind:
        parsed(answer.body)
    elif not kind.startswith("text/"):
        raise FormError(f"status 200 in {kind or 'no type'}: {answer.body[:200]!r}")


def _event(path: str, line: bytes) -> None:
    said = parsed(line)
    if isinstance(said, Mapping) and said.get("error"):
        error_of(path, 500, line)
