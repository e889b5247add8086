"""ollama's protocol: ``/api/generate``, ``/api/chat``, ``/api/show``, ``/api/tags``, ``/api/version``.

Rules
    A token is a byte: ``num_predict`` counts bytes, below 0 as many as the server writes.
    An answer is a stream unless ``stream`` is false: one JSON object a line.
    ``suffix`` makes an infill; the template that ``/api/show`` gives has a place for it, by which Continue finds that
    out. Without it, and without ``raw``, a model that has a chat template answers the prompt as a message, as ollama
    has it; any other goes on from it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bytelm import __version__
from bytelm.sampling.params import SamplingParams
from bytelm.serving.asks import Answer, Ask, answers, pieces
from bytelm.serving.exchange import Body, Fault, Int, Service, line, post, streamed
from bytelm.serving.options import LAW, Drawing, prompting
from bytelm.serving.protocols.llama_cpp import shortest_context
from bytelm.serving.protocols.openai import reason
from bytelm.serving.protocols.openai_chat import Message, chatting
from bytelm.serving.sentinel_text import parts_of
from bytelm.serving.weighted import weighted

TEMPERATURE: Final = 0.8  # the protocol's own, where a request has none
TEMPLATE: Final = "{{ .Prompt }}{{ .Suffix }}"
LINES: Final = "application/x-ndjson"


def error_form(fault: Fault) -> dict[str, Any]:
    """An error as ollama's clients read it."""
    return {"error": fault.message}


class Options(Drawing):
    """``options``."""

    num_predict: Int | None = None
    temperature: float | None = None
    seed: Int | None = None

    def drawn(self, service: Service) -> SamplingParams:
        """How completions are drawn."""
        temperature = self.warmth(TEMPERATURE) if self.temperature is None else self.temperature
        return self.params(service.settings, max_bytes=self.num_predict, temperature=temperature, seed=self.seed)


class GenerateBody(Drawing):
    """``POST /api/generate``."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    stream: bool | None = None
    options: Options | None = None


class ChatBody(Drawing):
    """``POST /api/chat``."""

    messages: list[Message]
    stream: bool | None = None
    options: Options | None = None


class ShowBody(Body):
    """``POST /api/show``."""


def drawn(service: Service, body: GenerateBody | ChatBody) -> SamplingParams:
    """How completions are drawn: ``format`` and the fields of our own may be beside ``options``."""
    body.check()
    beside = {name: value for name in LAW if (value := getattr(body, name)) is not None}
    params = (body.options or Options()).model_copy(update=beside).drawn(service)
    return params if body.constraint is None else replace(params, constraint=body.constraint)


async def generate(service: Service, body: GenerateBody) -> Response:
    """Complete a prompt, or fill in a hole."""
    params = drawn(service, body)
    prompt = prompting(body.prompt, body.suffix or None, service.settings, room=params.max_bytes)
    hole = bool(body.suffix) or (service.settings.sentinel_text and parts_of(body.prompt)[1] is not None)
    if not (body.raw or hole) and has_template(service):
        said = [Message(role="system", content=body.system)] if body.system else []
        prompt = chatting([*said, Message(role="user", content=body.prompt)])
    given = len((body.prompt + (body.suffix or "")).encode())
    ask = Ask(prompt, params, seconds=service.settings.seconds)
    return await written(service, ask, given, stream=body.stream is not False, chat=False)


async def chat(service: Service, body: ChatBody) -> Response:
    """Write the assistant's turn."""
    params = drawn(service, body)
    ask = Ask(chatting(body.messages), params, seconds=service.settings.seconds)
    given = sum(len(message.text.encode()) for message in body.messages)
    return await written(service, ask, given, stream=body.stream is not False, chat=True)


async def written(service: Service, ask: Ask, given: int, *, stream: bool, chat: bool) -> Response:
    """The answer of both."""

    def told(text: str) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
        return {"model": service.settings.name, "created_at": now(), **content}

    def last(answer: Answer) -> dict[str, Any]:
        spent = int(1e9 * answer.seconds)
        counts = {"prompt_eval_count": given, "prompt_eval_duration": 0, "eval_count": len(answer.bytes)}
        times = {"total_duration": spent, "load_duration": 0, "eval_duration": spent}
        return {"done": True, "done_reason": reason(answer), **weighted(answer), **counts, **times}

    async def lines() -> AsyncGenerator[str]:
        async for _, piece in pieces(service.session, [ask], service.metrics):
            if isinstance(piece, Answer):
                yield line({**told(""), **last(piece)})
            elif piece:
                yield line({**told(piece), "done": False})

    if stream:
        return await streamed(lines(), error_form, put=line, media_type=LINES)
    (answer,) = await answers(service.session, [ask], service.metrics)
    return JSONResponse({**told(answer.text), **last(answer)})


def has_template(service: Service) -> bool:
    """Whether all models can chat."""
    return all(getattr(lm.tokenizer, "chat_template", None) for lm in service.session.model.models)


def now() -> str:
    """The time, as the protocol writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def show(service: Service, body: ShowBody) -> Response:
    """What the model can do."""
    del body
    size = shortest_context(service.session.model)
    return JSONResponse(
        {
            "modelfile": "",
            "parameters": "",
            "template": TEMPLATE,
            "details": _details(),
            "model_info": {
                "general.architecture": "bytelm",
                "bytelm.context_length": size,
            },
            "capabilities": ["completion", "insert"],
        }
    )


def _details() -> dict[str, Any]:
    return {"format": "bytelm", "family": "bytelm", "families": None, "parameter_size": "", "quantization_level": ""}


def routes(service: Service) -> list[Route]:
    """The paths of this protocol."""

    async def tags(request: Request) -> Response:
        del request
        name = service.settings.name
        known = {"name": name, "model": name, "modified_at": now(), "size": 0, "digest": "", "details": _details()}
        return JSONResponse({"models": [known]})

    async def version(request: Request) -> Response:
        del request
        return JSONResponse({"version": __version__})

    return [
        post("/api/generate", service, GenerateBody, generate, error_form),
        post("/api/chat", service, ChatBody, chat, error_form),
        post("/api/show", service, ShowBody, show, error_form),
        Route("/api/tags", tags),
        Route("/api/version", version),
    ]
