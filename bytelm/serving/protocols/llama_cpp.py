"""The protocol of llama.cpp's server: ``/infill``, ``/completion``, ``/tokenize``, ``/props``, ``/slots`` and others.

Rules
    A token is a byte. ``n_predict`` counts bytes, below 0 as many as the server writes; with 0 nothing is written, and
    the prompt is evaluated, so that the next request finds it in the cache.
    The prefix of ``/infill`` is ``input_prefix`` and behind it ``prompt``, which is the cursor's line. ``input_extra``
    are other files in view.
    Where ``samplers`` is given, what it does not name is off; ``infill``, which mends what tokens break at a cursor,
    has nothing to mend among bytes.
    ``t_max_predict_ms`` ends a completion once it has a line end, and ``n_indent`` before a line that is indented less.
    ``response_fields`` picks fields; one with slashes comes under its whole name.
    ``/tokenize`` and ``/detokenize`` answer lm-eval as well, which asks them as vLLM has them, and ``/tokenizer_info``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bytelm import __version__
from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError
from bytelm.fim import OtherFiles
from bytelm.fim.files import UNNAMED
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.text_stream import text_of
from bytelm.serving.asks import Answer, Ask, answers, drafts_of, pieces
from bytelm.serving.exchange import Body, Fault, Int, Service, event, post, streamed
from bytelm.serving.options import Drawing, many, prompting
from bytelm.serving.scores import END
from bytelm.serving.weighted import weighted
from bytelm.symbols import EOT
from bytelm.token_lm import abilities_of

TEMPERATURE = 0.8  # the protocol's own, where a request has none
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "unavailable_error", 503: "unavailable_error"}
_ENDS = {"eot": "eos", "stop": "word", "length": "limit", "time": "limit", "indent": "limit"}


def error_form(fault: Fault) -> dict[str, Any]:
    """An error as llama.cpp's clients read it."""
    kind = _KINDS.get(fault.status, "invalid_request_error" if fault.status < 500 else "server_error")
    return {"error": {"code": fault.status, "message": fault.message, "type": kind}}


class Extra(Body):
    """One of the other files of ``/infill``."""

    text: str = ""
    filename: str = ""


class Written(Drawing):
    """What ``/completion`` and ``/infill`` have in common."""

    n_predict: Int | None = None
    max_tokens: Int | None = None
    temperature: float | None = None
    seed: Int | None = None
    stream: bool | None = None
    samplers: list[str] | str | None = None
    n_indent: Int | None = None
    t_max_predict_ms: float | None = None
    response_fields: list[str] | None = None
    n_cmpl: Int | None = None

    def drawn(self, service: Service) -> SamplingParams:
        """How completions are drawn."""
        samplers = None if isinstance(self.samplers, str) else self.samplers
        asked = self if samplers is None else self.model_copy(update=_off(samplers))
        temperature = self.warmth(TEMPERATURE) if self.temperature is None else self.temperature
        if samplers is not None and "temperature" not in samplers:
            temperature = 1.0
        most = self.max_tokens if self.n_predict is None else self.n_predict
        return asked.params(service.settings, max_bytes=most, temperature=max(temperature, 0.0), seed=self.seed)


def _off(samplers: list[str]) -> dict[str, None]:
    return {name: None for name in ("top_k", "top_p", "min_p") if name not in samplers}


class CompletionBody(Written):
    """``POST /completion``."""

    prompt: str | list[Int | str] = ""


class InfillBody(Written):
    """``POST /infill``."""

    input_prefix: str = ""
    prompt: str = ""
    input_suffix: str = ""
    input_extra: tuple[Extra, ...] = ()


class TokenizeBody(Body):
    """``POST /tokenize``: a ``content``, or as lm-eval has it a ``prompt``."""

    content: str | None = None
    prompt: str | None = None


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    tokens: list[Int]


# ---- completions


async def complete(service: Service, body: CompletionBody) -> Response:
    """Complete a prompt."""
    prompt = body.prompt if isinstance(body.prompt, str) else b"".join(map(_bytes_of, body.prompt))
    params = body.drawn(service)
    made = prompting(prompt, None, service.settings, room=params.max_bytes)
    given = len(prompt if isinstance(prompt, bytes) else prompt.encode())
    return await written(service, body, Ask(made, params), given)


async def infill(service: Service, body: InfillBody) -> Response:
    """Fill in a hole."""
    params = body.drawn(service)
    files = [(each.filename or UNNAMED, each.text) for each in body.input_extra]
    made = prompting(
        body.input_prefix + body.prompt,
        body.input_suffix,
        service.settings,
        context=OtherFiles(files) if files else None,
        room=params.max_bytes,
    )
    given = len((body.input_prefix + body.prompt + body.input_suffix).encode())
    return await written(service, body, Ask(made, params), given)


async def written(service: Service, body: Written, plain: Ask, given: int) -> Response:
    """The answer of both."""
    settings = service.settings
    seconds, limit = settings.seconds, body.t_max_predict_ms
    by_lines = limit is not None and limit > 0 and (seconds is None or limit / 1000 < seconds)
    if by_lines and limit is not None:
        seconds = limit / 1000
    ask = replace(
        plain,
        n=many("n_cmpl", body.n_cmpl, settings),
        seconds=seconds,
        lines_first=by_lines,
        indent=max(body.n_indent or 0, 0),
    )
    warming = ask.params.max_bytes == 0
    if warming:
        one = replace(ask.params, max_bytes=1, temperature=0, conditioning="step", particles=None)
        ask = replace(ask, params=one)
    if body.stream and not warming:
        return await streamed(events(service, body, ask, given), error_form)
    done = await answers(service.session, [ask], service.metrics)
    if warming:
        done = [replace(each, text="", bytes=b"", finish="length") for each in done]
    told = [picked(body, whole(service, ask, place, each, given)) for place, each in enumerate(done)]
    return JSONResponse(told[0] if ask.n == 1 else told)


async def events(service: Service, body: Written, ask: Ask, given: int) -> AsyncGenerator[str]:
    """A stream of completions."""
    count = 0
    async for place, piece in pieces(service.session, [ask], service.metrics):
        if isinstance(piece, Answer):
            yield event(picked(body, {**whole(service, ask, place, piece, given), "content": ""}))
        elif piece:
            count += len(piece.encode())
            told = {"index": place, "content": piece, "tokens": [], "stop": False, "id_slot": 0}
            yield event({**told, "tokens_predicted": count, "tokens_evaluated": given})


def whole(service: Service, ask: Ask, place: int, answer: Answer, given: int) -> dict[str, Any]:
    """All fields of an answer."""
    settings, params, count = service.settings, ask.params, len(answer.bytes)
    fed, prompt_ms = answer.usage.tokens_fed or 0, 1000 * answer.first_seconds
    predicted_ms = 1000 * answer.seconds - prompt_ms
    return {
        "index": place,
        "content": answer.text,
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": settings.name,
        "tokens_predicted": count,
        "tokens_evaluated": given,
        "generation_settings": {
            "n_ctx": shortest_context(service.session.model),
            "n_predict": params.max_bytes,
            "temperature": params.temperature,
            "top_k": params.top_k or 0,
            "top_p": 1.0 if params.top_p is None else params.top_p,
            "min_p": params.min_p or 0.0,
            "seed": -1 if params.seed is None else params.seed,
            "stop": [stop.decode(errors="replace") for stop in params.stops],
        },
        "has_new_line": "\n" in answer.text,
        "truncated": False,
        "stop_type": _ENDS[answer.finish],
        "stopping_word": "",
        **weighted(answer),
        "tokens_cached": given + count,
        "timings": {
            "prompt_n": fed,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": prompt_ms / max(fed, 1),
            "prompt_per_second": 1000 * fed / max(prompt_ms, 1e-6),
            "predicted_n": count,
            "predicted_ms": predicted_ms,
            "predicted_per_token_ms": predicted_ms / max(count, 1),
            "predicted_per_second": 1000 * count / max(predicted_ms, 1e-6),
            "calls": answer.usage.calls,
            **drafts_of(answer.usage, "draft_n", "draft_n_accepted"),
        },
        "status": "ok",
    }


def picked(body: Written, told: dict[str, Any]) -> dict[str, Any]:
    """The fields that the client wants."""
    if body.response_fields is None:
        return told
    found: dict[str, Any] = {}
    for field in body.response_fields:
        value: Any = told
        for name in field.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[field] = value
    return found


# ---- tokens, which are bytes


async def tokenize(service: Service, body: TokenizeBody) -> Response:
    """The bytes of a text. lm-eval finds the end of text by the name that ``/tokenizer_info`` gives it."""
    del service
    if body.prompt is not None:
        tokens = [EOT] if body.prompt == END else [*body.prompt.encode()]
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": None})
    return JSONResponse({"tokens": [*(body.content or "").encode()]})


async def detokenize(service: Service, body: DetokenizeBody) -> Response:
    """The text of bytes; the end of text has none."""
    del service
    text = text_of(b"".join(b"" if each == EOT else _bytes_of(each) for each in body.tokens))
    return JSONResponse({"content": text, "prompt": text})


def _bytes_of(part: int | str) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if not 0 <= part < 256:
        raise InvalidArgumentError(f"a token is a byte here, from 0 to 255; got {shown(part)}")
    return bytes([part])


# ---- what the server is


def shortest_context(lm: ByteModel[Any, Any]) -> int:
    """The tokens of the shortest context; 0 if none is known. Each holds at least a byte."""
    lengths = (abilities_of(engine).context_length for engine in lm.engines)
    return min((length for length in lengths if length is not None), default=0)


def routes(service: Service) -> list[Route]:
    """The paths of this protocol."""
    session, settings = service.session, service.settings
    size = shortest_context(session.model)

    async def health(request: Request) -> Response:
        del request
        return JSONResponse({"status": "ok"})

    async def tokenizer_info(request: Request) -> Response:
        del request
        return JSONResponse({"tokenizer_class": "bytes", "eos_token": END, "bos_token": None, "vocab_size": 257})

    async def props(request: Request) -> Response:
        del request
        return JSONResponse(
            {
                "default_generation_settings": {
                    "n_ctx": size,
                    "params": {"n_predict": -1},
                },
                "total_slots": settings.max_running,
                "model_path": settings.name,
                "chat_template": "",
                "modalities": {"vision": False, "audio": False},
                "build_info": f"bytelm {__version__}",
            }
        )

    async def slots(request: Request) -> Response:
        del request
        running = session.running
        since = {"n_ctx": size, "speculative": False}
        return JSONResponse([{"id": i, "is_processing": i < running, **since} for i in range(settings.max_running)])

    return [
        post("/infill", service, InfillBody, infill, error_form),
        post("/completion", service, CompletionBody, complete, error_form),
        post("/completions", service, CompletionBody, complete, error_form),
        post("/tokenize", service, TokenizeBody, tokenize, error_form),
        post("/detokenize", service, DetokenizeBody, detokenize, error_form),
        Route("/tokenizer_info", tokenizer_info),
        Route("/health", health),
        Route("/v1/health", health),
        Route("/props", props),
        Route("/slots", slots),
    ]
