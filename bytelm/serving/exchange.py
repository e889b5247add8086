"""One request and its answer: read within limits, checked, dropped when the client goes, told what went wrong.

Rules
    A body is read up to a number of bytes and within a time, and is JSON of the shape that the protocol states. A
    number that is written as text is no number. What is not known is left alone: clients send much that concerns
    others.
    While an answer is made the client is watched: when it goes away, what it asked for is dropped.
    What goes wrong is answered in the protocol's own form, with a status that says whose fault it is. A fault of the
    server is logged whole, and the client is told no more than its kind.
    In a stream an error is an event of it, for its status has gone out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bytelm.errors import (
    BudgetError,
    BusyError,
    BytelmError,
    ClosedError,
    ConstraintError,
    ContextOverflowError,
    InvalidArgumentError,
    InvalidTypeError,
    NoInfillFormatError,
    UnreachablePrefixError,
)
from bytelm.serving.metrics import Metrics
from bytelm.serving.session import Session
from bytelm.serving.settings import ServerSettings

B = TypeVar("B", bound="Body")
T = TypeVar("T")

LOG: Final = logging.getLogger("bytelm.serve")
SSE: Final = "text/event-stream"
GONE: Final = 499  # nginx's number for a client that did not wait; nobody reads it
RETRY_SECONDS: Final = 1


def _whole(value: Any) -> Any:
    """A number without a fraction as an int, as JSON knows no difference."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


Int = Annotated[int, BeforeValidator(_whole)]


class Body(BaseModel):
    """A request as JSON. Fields that are not known are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    @property
    def slow(self) -> bool:
        """Whether there is something to `prepare`."""
        return False

    def prepare(self) -> None:
        """Do what takes long and needs no model."""


@dataclass(frozen=True, slots=True)
class Service:
    """What all protocols share.

    Attributes:
        session: The model, and those who ask it.
        settings: What the one who runs the server decided.
        metrics: What is counted.
    """

    session: Session
    settings: ServerSettings
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong, before a protocol gives it its form.

    Attributes:
        status: Of HTTP.
        kind: In one word: the name of the error's class.
        message: For the client.
        field: Of the request, where it is one field's fault.
    """

    status: int
    kind: str
    message: str
    field: str | None = None


ErrorForm: TypeAlias = Callable[[Fault], dict[str, Any]]
Answering: TypeAlias = Callable[[Service, B], Coroutine[Any, Any, Response]]

_BLAME: Final = (
    (BusyError, 429),
    (ClosedError, 503),
    (NoInfillFormatError, 400),
    ((InvalidArgumentError, InvalidTypeError, UnreachablePrefixError, ContextOverflowError), 400),
    ((ConstraintError, BudgetError), 400),
)


def fault_of(error: BaseException) -> Fault:
    """The answer to a client about an error. A fault of the server is logged."""
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return Fault(error.status_code, "HTTPException", error.detail)
    kind = type(error).__name__
    for classes, status in _BLAME:
        if isinstance(error, classes):
            return Fault(status, kind, str(error))
    LOG.error("a request failed: %s", error, exc_info=error)
    told = str(error) if isinstance(error, BytelmError) else "the server failed; its log says why"
    return Fault(500, kind, told)


def _invalid(error: ValidationError) -> Fault:
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False, include_context=False)[0]
    # A union names its branches in between, which are no fields: str, list[int].
    path = [str(part) for part in first["loc"] if isinstance(part, int) or _is_field(part)]
    field = ".".join(path) or None
    given = first["input"]
    shown = "" if first["type"] in ("missing", "json_invalid") else f"; got {given!r:.80}"
    return Fault(400, "InvalidRequest", f"{field + ': ' if field else ''}{first['msg']}{shown}", field)


def _is_field(part: str) -> bool:
    return part.isidentifier() and part not in ("str", "int", "float", "bool", "Encoded")


def error_response(fault: Fault, form: ErrorForm) -> Response:
    """An error in a protocol's form."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if fault.status == 429 else None
    return JSONResponse(form(fault), fault.status, headers)


def post(path: str, service: Service, body: type[B], answer: Answering[B], form: ErrorForm) -> Route:
    """What answers one path of a protocol.

    Args:
        path: Where.
        service: What all protocols share.
        body: The shape of a request.
        answer: Makes the answer.
        form: The protocol's form of an error.
    """

    async def answered(asked: B) -> Response:
        if asked.slow:
            await asyncio.to_thread(asked.prepare)
        return await answer(service, asked)

    async def endpoint(request: Request) -> Response:
        try:
            data = await read_body(request, service.settings)
            asked = body.model_validate_json(data or b"{}")
            if service.settings.log_prompts:
                LOG.info("%s asked: %s", path, data.decode(errors="replace"))
            return await while_connected(request, answered(asked))
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Exception as error:  # noqa: BLE001 - told to the client, and to the log where it is the server's
            return error_response(fault_of(error), form)

    return Route(path, endpoint, methods=["POST"])


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The bytes of a request.

    Raises:
        HTTPException: Too many, or too slow.
        ClientDisconnect: The client went away.
    """
    told = request.headers.get("content-length", "")
    too_large = HTTPException(413, f"a request has at most {settings.max_body} bytes here")
    if told.isdecimal() and int(told[:20]) > settings.max_body:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > settings.max_body:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the request did not come within {settings.body_seconds:g} seconds") from None
    return bytes(data)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of some work, unless the client goes away first: then the work is dropped.

    Raises:
        ClientDisconnect: It went.
    """

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def streamed(
    events: AsyncGenerator[str], form: ErrorForm, *, put: Callable[[Any], str] | None = None, media_type: str = SSE
) -> Response:
    """A stream of events, which has begun: an error before its first event has a status of its own.

    Args:
        events: What is sent, one event at a time.
        form: The protocol's form of an error.
        put: How JSON is put into the stream: as a server-sent event, if not given.
        media_type: Of the stream.
    """
    head = await anext(events, "")

    async def body() -> AsyncIterator[str]:
        try:
            yield head
            async for each in events:
                yield each
        except Exception as error:  # noqa: BLE001 - told to the client, and to the log where it is the server's
            yield (put or event)(form(fault_of(error)))

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return _Stream(events, body(), media_type=media_type, headers=headers)


class _Stream(StreamingResponse):
    """A stream whose events end with it, also where the client goes before the first of them is sent."""

    def __init__(self, events: AsyncGenerator[str], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


def event(value: Any) -> str:
    """One server-sent event that holds JSON."""
    return f"data: {compact(value)}\n\n"


def line(value: Any) -> str:
    """JSON on a line of its own."""
    return compact(value) + "\n"


def compact(value: Any) -> str:
    """JSON without spaces: llama.vim finds an answer's text by an expression that allows none behind the colon."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def finite(logprob: float) -> float | None:
    """A log-probability as JSON has it: null for −∞."""
    return logprob if math.isfinite(logprob) else None
