"""The server as an application: all protocols over one session, and what stands in front of them.

Rules
    Every request passes the same gates, from the outside in: it is counted and logged; a page of another origin is
    turned away unless it is named; a key is asked for where there are keys; then the protocol answers. What is wrong
    before a protocol is reached is told in the form of the protocol whose path it is.
    The page and ``/health`` need no key: they say nothing of the model.
    The session is closed when the server stops: what runs is served to its end, and what comes is told 503.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bytelm.sampling.byte_model import ByteModel
from bytelm.serving.exchange import LOG, ErrorForm, Fault, Service, compact, error_response, fault_of
from bytelm.serving.metrics import Metrics
from bytelm.serving.protocols import llama_cpp, ollama, openai, openai_chat, own
from bytelm.serving.protocols.llama_cpp import shortest_context
from bytelm.serving.session import Session
from bytelm.serving.settings import BYTES_A_TOKEN, ServerSettings

__all__ = ["ServerSettings", "create_app"]

# The page's own files, and what it shares with the pictures.
PAGE: Final = (files("bytelm.serving") / "page", files("bytelm.pictures") / "page")
KINDS: Final = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript"}
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
PUBLIC: Final = ("/health", "/v1/health", "/", "/page/")
POLICY: Final = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PROTOCOLS: Final = (openai, openai_chat, llama_cpp, ollama, own)


def create_app(model: ByteModel[Any, Any], settings: ServerSettings | None = None) -> Starlette:
    """The server of one model, for uvicorn or any other ASGI server.

    Args:
        model: A `ByteLM`, an `Ensemble`, or any other byte model. The caller has to close it.
        settings: What the one who runs the server decides.

    >>> app = create_app(lm, ServerSettings(name="mine"))  # doctest: +SKIP
    >>> uvicorn.run(app, port=8080)  # doctest: +SKIP
    """
    settings = settings or ServerSettings()
    if settings.max_prompt is None and (length := shortest_context(model)):
        settings = replace(settings, max_prompt=BYTES_A_TOKEN * length)
    session = Session(model, max_running=settings.max_running, max_waiting=settings.max_waiting)
    metrics = Metrics(session)
    service = Service(session, settings, metrics)
    routes = [route for protocol in PROTOCOLS for route in protocol.routes(service)]

    async def told(request: Request) -> Response:
        del request
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await session.close()

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(fault_of(error), form_of(request.url.path))

    gates = [Middleware(Counted, metrics=metrics), Middleware(OwnOrigin, settings=settings)]
    if settings.cors_origins:
        allowed: dict[str, Any] = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
        gates.append(Middleware(CORSMiddleware, allow_origins=settings.cors_origins, **allowed))
    if settings.api_keys:
        gates.append(Middleware(Keyed, keys=settings.api_keys))
    return Starlette(
        routes=[*routes, Route("/metrics", told), Route("/", page), Route("/page/{name}", page)],
        middleware=gates,
        exception_handlers={HTTPException: failed, Exception: failed},
        lifespan=lifespan,
    )


def form_of(path: str) -> ErrorForm:
    """The form of an error on a path that may be nobody's."""
    if path.startswith("/api/"):
        return ollama.error_form
    if path.startswith("/bytelm/"):
        return own.error_form
    return openai.error_form if path.startswith(("/v1/", "/fim/")) else llama_cpp.error_form


async def page(request: Request) -> Response:
    """A file of the page, by its name."""
    name = request.path_params.get("name", "index.html")
    known = {each.name: each for folder in PAGE for each in folder.iterdir()}
    kind = KINDS.get(name.rpartition(".")[2])
    if name not in known or kind is None:
        raise HTTPException(404)
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(known[name].read_bytes(), media_type=kind, headers={**headers, "Cache-Control": "no-cache"})


class Counted:
    """Counts each request and logs it, when its answer has gone out."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        since, status = time.monotonic(), 499

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            seconds = time.monotonic() - since
            known = scope.get("route")
            path = known.path if isinstance(known, Route) else "unknown"
            self.metrics.request(path, status, seconds)
            told = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
            LOG.info("%s %s %d in %.3f s", *told.values(), extra={"told": told})


class OwnOrigin:
    """Turns away what a web page of another origin sends: a browser sends it without asking anybody."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            origin = headers.get(b"origin")
            if origin is not None and not self.known(origin, headers.get(b"host", "")):
                fault = Fault(403, "ForeignOrigin", f"pages of {origin:.80} may not ask this server (--cors-origin)")
                await error_response(fault, form_of(scope["path"]))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def known(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask."""
        if origin in self.settings.cors_origins or "*" in self.settings.cors_origins:
            return True
        try:
            split = urlsplit(origin)
            named = not self.settings.loopback or split.hostname in LOOPBACK
        except ValueError:
            return False
        return named and split.netloc == host


class Keyed:
    """Asks for a key. All keys are compared, by digests of one length, so that time tells nothing."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]) -> None:
        self.app = app
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path = scope.get("path", "")
        public = path in PUBLIC or path.startswith("/page/")
        if scope["type"] == "http" and not public and not self.known(dict(scope["headers"])):
            fault = Fault(401, "InvalidKey", "give an API key of this server: Authorization: Bearer KEY")
            await error_response(fault, form_of(path))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def known(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request gives one of the keys."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(key).digest()
        return sum(hmac.compare_digest(digest, each) for each in self.digests) > 0


class JsonLines(logging.Formatter):
    """Logs as JSON, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told: dict[str, Any] = {"time": record.created, "level": record.levelname.lower()}
        told |= getattr(record, "told", None) or {"message": record.getMessage()}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return compact(told)
