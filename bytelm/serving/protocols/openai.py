"""OpenAI's completions and models: ``/v1/completions``, ``/v1/models``; and what its chats share with them.

Rules
    A token is a byte: ``max_tokens``, ``usage`` and ``logprobs`` count bytes. A prompt may be a list of them, in which
    256 at the beginning is the model's start token (`ByteModel.start_prefix`).
    ``suffix`` makes an infill, unless it is empty. ``echo`` puts the prompt in front; with ``logprobs`` each of its
    bytes has its own. ``logprobs`` end with the end of text where that ended a completion.
    Whatever ``model`` says, there is one model.
    In a stream the chunk that says why it ended stands before ``[DONE]``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bytelm.arguments import bytes_of, shown
from bytelm.errors import InvalidArgumentError
from bytelm.sampling.text_stream import text_of
from bytelm.serving.asks import Answer, Ask, Prompting, after, answers, pieces
from bytelm.serving.exchange import Body, Fault, Int, Service, event, post, streamed
from bytelm.serving.options import Drawing, check_size, many, prompting
from bytelm.serving.scores import scored, spelled
from bytelm.serving.settings import ServerSettings
from bytelm.serving.weighted import weighted
from bytelm.symbols import EOT

DONE: Final = "data: [DONE]\n\n"
MOST_LOGPROBS: Final = 257
LEAST: Final = -9999.0  # what the protocol has for −∞: clients sum these

_KINDS: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_form(fault: Fault) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = _KINDS.get(fault.status, "invalid_request_error" if fault.status < 500 else "server_error")
    return {
        "error": {"message": fault.message, "type": kind, "param": fault.field or _named(fault), "code": fault.kind}
    }


def _named(fault: Fault) -> str | None:
    """The field that a message about a value begins with."""
    first = fault.message.partition(" ")[0]
    return first if first in {*CompletionBody.model_fields, "max_completion_tokens", "top_logprobs"} else None


class StreamOptions(Body):
    """``stream_options``."""

    include_usage: bool | None = None


class Sampled(Drawing):
    """What completions and chats have in common."""

    temperature: float | None = None
    n: Int | None = None
    max_tokens: Int | None = None
    seed: Int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionBody(Sampled):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[Int] | list[list[Int]] = ""
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Int | None = None


# ---- completions


async def complete(service: Service, body: CompletionBody) -> Response:
    """Complete prompts."""
    settings = service.settings
    prompts = prompts_of(body.prompt)
    n = many("n", body.n, settings)
    if len(prompts) > settings.max_n:
        raise InvalidArgumentError(f"prompt has at most {settings.max_n} prompts here; got {len(prompts)}")
    top = top_of(body.logprobs)
    most = most_bytes(body.max_tokens)
    params = body.params(settings, max_bytes=most, temperature=body.temperature, seed=body.seed)
    if body.suffix and top is not None and body.echo:
        raise InvalidArgumentError("logprobs with echo score a text from its beginning; a hole has none: leave one out")
    asks = [
        Ask(
            _behind_start(settings, text)
            if start
            else prompting(text, body.suffix or None, settings, room=params.max_bytes),
            params,
            n=n,
            first=place * n,
            seconds=settings.seconds,
        )
        for place, (start, text) in enumerate(prompts)
    ]
    texts = [bytes_of(text) for _, text in prompts]
    if body.stream:
        if top is not None:
            raise InvalidArgumentError("logprobs are not in a stream: ask without stream")
        echoed = [text_of(text) if body.echo else "" for text in texts for _ in range(n)]
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = completion_events(service, asks, echoed, texts, usage=usage)
        return await streamed(events, error_form)
    done = await answers(service.session, asks, service.metrics)
    choices = []
    for place, answer in enumerate(done):
        start, text = prompts[place // n][0], texts[place // n]
        written = (text_of(text) if body.echo else "") + answer.text
        lists = None
        if top is not None:
            before = Scoring(text, asks[place // n].prompt, start=start, echo=bool(body.echo))
            lists = await logprob_lists(service, before, answer, top=top)
        choice = {"text": written, "index": place, "logprobs": lists, "finish_reason": reason(answer)}
        choices.append({**choice, **weighted(answer)})
    given = sum(map(len, texts))
    frame = head("cmpl", "text_completion", service)
    return JSONResponse({**frame, "choices": choices, "usage": usage_of(given, done)})


def prompts_of(given: str | list[str] | list[int] | list[list[int]]) -> list[tuple[bool, str | bytes]]:
    """Each prompt, and whether it gets the start token in front."""
    if isinstance(given, str):
        return [(False, given)]
    if not given or isinstance(given[0], int):
        return [_of_ids(given)]
    return [(False, each) if isinstance(each, str) else _of_ids(each) for each in given]


def _of_ids(ids: Sequence[Any]) -> tuple[bool, bytes]:
    start = bool(ids) and ids[0] == EOT
    rest = ids[1:] if start else ids
    if wrong := [each for each in rest if not 0 <= each < 256]:
        raise InvalidArgumentError(
            "prompt holds bytes, from 0 to 255, and at its beginning 256, the model's start token; got "
            f"{shown(wrong[0])}"
        )
    return start, bytes(rest)


def most_bytes(max_tokens: int | None) -> int | None:
    """New bytes, at most. Here a number below 0 has no meaning."""
    if max_tokens is not None and max_tokens < 0:
        raise InvalidArgumentError(f"max_tokens must be 0 or more; got {max_tokens}")
    return max_tokens


def _behind_start(settings: ServerSettings, text: str | bytes) -> Prompting:
    check_size(settings, text)
    return lambda lm: (lm, lm.start_prefix(text))


def top_of(asked: int | None) -> int | None:
    """How many of the likeliest bytes are told."""
    if asked is not None and not 0 <= asked <= MOST_LOGPROBS:
        raise InvalidArgumentError(f"logprobs is from 0 to {MOST_LOGPROBS}; got {asked}")
    return asked


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is scored with a completion.

    Attributes:
        text: The prompt.
        prompt: Makes the prompt of the completion.
        start: Whether it gets the start token in front.
        echo: Whether the prompt is scored too.
    """

    text: bytes
    prompt: Prompting
    start: bool
    echo: bool


async def logprob_lists(service: Service, scoring: Scoring, answer: Answer, *, top: int) -> dict[str, Any]:
    """The lists that ``logprobs`` asks for."""
    start, echo, end = scoring.start, scoring.echo, answer.finish == "eot"
    tokens: list[str] = []
    logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    if start and echo:
        tokens, logprobs, tops = [spelled(EOT)], [None], [None]
    before = _behind_start(service.settings, b"") if start else after([b""])
    prompt, data = (before, scoring.text + answer.bytes) if echo else (scoring.prompt, answer.bytes)
    found = await service.session.run(scored(prompt, data, top=max(top, 1), end=end))
    offset, offsets = 0, [0] * len(tokens)
    for each in found:
        tokens.append(spelled(each.symbol))
        logprobs.append(max(each.logprob, LEAST))
        tops.append({spelled(symbol): max(value, LEAST) for symbol, value in each.top})
        offsets.append(offset)
        offset += each.symbol < 0x80 or 0xC0 <= each.symbol < EOT  # a character begins
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


async def completion_events(
    service: Service, asks: list[Ask], echoed: list[str], prompts: list[bytes], *, usage: bool
) -> AsyncGenerator[str]:
    """A stream of completions."""
    frame = head("cmpl", "text_completion", service)

    def chunk(place: int, text: str, answer: Answer | None = None) -> str:
        ended = {"finish_reason": None} if answer is None else {"finish_reason": reason(answer), **weighted(answer)}
        return event({**frame, "choices": [{"text": text, "index": place, "logprobs": None, **ended}]})

    for place, text in enumerate(echoed):
        if text:
            yield chunk(place, text)
    done: list[Answer] = []
    async for place, piece in pieces(service.session, asks, service.metrics):
        if isinstance(piece, Answer):
            done.append(piece)
            yield chunk(place, "", piece)
        elif piece:
            yield chunk(place, piece)
    if usage:
        yield event({**frame, "choices": [], "usage": usage_of(sum(map(len, prompts)), done)})
    yield DONE


# ---- what all answers have


def head(kind: str, named: str, service: Service) -> dict[str, Any]:
    """The fields that stand before the choices."""
    name = service.settings.name
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": named, "created": int(time.time()), "model": name}


def reason(answer: Answer) -> str:
    """Why a completion ended, in OpenAI's words."""
    return "length" if answer.finish in ("length", "time") else "stop"


def usage_of(given: int, done: Sequence[Answer]) -> dict[str, int]:
    """``usage``, in bytes."""
    written = sum(len(answer.bytes) for answer in done)
    return {"prompt_tokens": given, "completion_tokens": written, "total_tokens": given + written}


def routes(service: Service) -> list[Route]:
    """The paths of this protocol."""

    async def models(request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [_model(service)]})

    async def model(request: Request) -> Response:
        del request
        return JSONResponse(_model(service))

    return [
        post("/v1/completions", service, CompletionBody, complete, error_form),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
    ]


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.settings.name, "object": "model", "created": 0, "owned_by": "bytelm"}
