"""OpenAI's chats, ``/v1/chat/completions``, and Mistral's fill in the middle, whose answers are put as a chat's.

Rules
    As in openai.py. A last message of the assistant goes on where it ends, at any byte.
    Of a hole each delta of a stream has a content, and the last chunk has the usage, as Mistral sends them: Tabby and
    Continue read no others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bytelm.errors import InvalidArgumentError
from bytelm.sampling.situation import Turn
from bytelm.serving.asks import Answer, Ask, Prompting, answers, pieces
from bytelm.serving.exchange import Body, Int, Service, event, post, streamed
from bytelm.serving.options import check_size, many, prompting
from bytelm.serving.protocols.openai import (
    DONE,
    LEAST,
    Sampled,
    error_form,
    head,
    most_bytes,
    reason,
    top_of,
    usage_of,
)
from bytelm.serving.scores import Scored, scored, spelled
from bytelm.serving.weighted import weighted
from bytelm.symbols import EOT


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat."""

    role: str
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """Its content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None


class HoleBody(Sampled):
    """``POST /v1/fim/completions``, as Mistral has it."""

    prompt: str
    suffix: str | None = None
    random_seed: Int | None = None


# ---- chats


async def chat(service: Service, body: ChatBody) -> Response:
    """Write the assistant's turn, or the rest of one."""
    settings = service.settings
    n = many("n", body.n, settings)
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    params = body.params(
        settings, max_bytes=most_bytes(asked), temperature=body.temperature, seed=body.seed, default=settings.max_bytes
    )
    top = top_of(body.top_logprobs or 0) if body.logprobs else None
    prompt = chatting(body.messages)
    ask = Ask(prompt, params, n=n, seconds=settings.seconds)
    given = check_size(settings, *(message.text for message in body.messages))
    if body.stream:
        if top is not None:
            raise InvalidArgumentError("logprobs are not in a stream: ask without stream")
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return await streamed(chat_events(service, ask, given, usage=usage), error_form)
    done = await answers(service.session, [ask], service.metrics)
    choices = []
    for place, answer in enumerate(done):
        lists = None
        if top is not None:
            step = scored(prompt, answer.bytes, top=top, end=answer.finish == "eot")
            lists = {"content": [chat_logprob(each, top) for each in await service.session.run(step)], "refusal": None}
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": place, "message": message, "logprobs": lists, "finish_reason": reason(answer)}
        choices.append({**choice, **weighted(answer)})
    return JSONResponse(
        {**head("chatcmpl", "chat.completion", service), "choices": choices, "usage": usage_of(given, done)}
    )


def chatting(messages: Sequence[Message]) -> Prompting:
    """The prompt of a chat; a last message of the assistant goes on."""
    told = [{"role": message.role, "content": message.text} for message in messages]
    goes_on = bool(messages) and messages[-1].role == "assistant"
    return Turn(told, goes_on)


def chat_logprob(found: Scored, top: int) -> dict[str, Any]:
    """One byte of a chat's ``logprobs``."""

    def told(symbol: int, logprob: float) -> dict[str, Any]:
        bytes_ = [] if symbol == EOT else [symbol]
        return {"token": spelled(symbol), "logprob": max(logprob, LEAST), "bytes": bytes_}

    return {**told(found.symbol, found.logprob), "top_logprobs": [told(*each) for each in found.top[:top]]}


async def chat_events(
    service: Service, ask: Ask, given: int, *, usage: bool, hole: bool = False
) -> AsyncGenerator[str]:
    """A stream of a chat's turns; with ``hole`` as Mistral has it."""
    frame = head("chatcmpl", "chat.completion.chunk", service)

    def chunk(place: int, delta: dict[str, str], answer: Answer | None = None) -> str:
        ended = {"finish_reason": None} if answer is None else {"finish_reason": reason(answer), **weighted(answer)}
        choice = {"index": place, "delta": delta, "logprobs": None, **ended}
        spent = {"usage": usage_of(given, done)} if hole and answer else {}
        return event({**frame, "choices": [choice], **spent})

    begun: set[int] = set()
    done: list[Answer] = []
    async for place, piece in pieces(service.session, [ask], service.metrics):
        if place not in begun:
            begun.add(place)
            yield chunk(place, {"role": "assistant", "content": ""})
        if isinstance(piece, Answer):
            done.append(piece)
            yield chunk(place, {"content": ""} if hole else {}, piece)
        elif piece:
            yield chunk(place, {"content": piece})
    if usage:
        yield event({**frame, "choices": [], "usage": usage_of(given, done)})
    yield DONE


# ---- Mistral's


async def fill(service: Service, body: HoleBody) -> Response:
    """Fill in a hole; the answer is put as a chat's."""
    settings = service.settings
    params = body.params(
        settings,
        max_bytes=most_bytes(body.max_tokens),
        temperature=body.temperature,
        seed=body.seed if body.random_seed is None else body.random_seed,
    )
    n = many("n", body.n, settings)
    made = prompting(body.prompt, body.suffix or None, settings, room=params.max_bytes)
    ask = Ask(made, params, n=n, seconds=settings.seconds)
    given = len(body.prompt.encode()) + len((body.suffix or "").encode())
    if body.stream:
        return await streamed(chat_events(service, ask, given, usage=False, hole=True), error_form)
    done = await answers(service.session, [ask], service.metrics)
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": each.text},
            "finish_reason": reason(each),
            **weighted(each),
        }
        for place, each in enumerate(done)
    ]
    frame = head("fim", "chat.completion", service)
    return JSONResponse({**frame, "choices": choices, "usage": usage_of(given, done)})


def routes(service: Service) -> list[Route]:
    """The paths of these."""
    return [
        post("/v1/chat/completions", service, ChatBody, chat, error_form),
        post("/v1/fim/completions", service, HoleBody, fill, error_form),
        post("/fim/completions", service, HoleBody, fill, error_form),
    ]
