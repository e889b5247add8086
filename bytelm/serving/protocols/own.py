"""Our own protocol, under ``/bytelm/``: what no other one has words for. Rows, covers, endings, who drove an ensemble.

Rules
    A text is a string, or ``{"base64": …}`` where it is no UTF-8; what is written comes back as both.
    A log-probability is a natural log, and null for −∞.
    The page at ``/`` asks by this protocol alone.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import numpy as np
from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bytelm.byte_lm.model import ByteLM
from bytelm.ensemble.model import Ensemble
from bytelm.errors import InvalidArgumentError, NoInfillFormatError
from bytelm.fim import find_format
from bytelm.inference.scheduler import Step, together
from bytelm.inference.scoring import CoverItem
from bytelm.lemma import log_sum
from bytelm.pictures.values import shown_text
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.endings import Endings
from bytelm.sampling.likeliest import Search, Searching
from bytelm.serving.asks import Answer, Ask, answers, drafts_of, pieces
from bytelm.serving.exchange import Body, Fault, Int, Service, event, finite, post, streamed
from bytelm.serving.options import Drawing, check_size, many, prompting
from bytelm.serving.protocols.llama_cpp import shortest_context
from bytelm.serving.protocols.ollama import has_template
from bytelm.serving.scores import tokens_of
from bytelm.serving.weighted import weighted
from bytelm.symbols import EOT, leak_of

MOST_EXPLAINED: Final = 4096  # bytes of a text: rows of all members are held
MOST_CALLS: Final = 1024  # of a search
LN2: Final = math.log(2.0)


def error_form(fault: Fault) -> dict[str, Any]:
    """An error as this protocol has it."""
    return {"error": {"type": fault.kind, "message": fault.message}}


class Encoded(Body):
    """Bytes that are no UTF-8."""

    base64: str


def _bytes(given: str | Encoded) -> bytes:
    if isinstance(given, str):
        return given.encode()
    try:
        return base64.b64decode(given.base64, validate=True)
    except binascii.Error as error:
        raise ValueError(f"base64: {error}") from None


Text = Annotated[str | Encoded, AfterValidator(_bytes)]


class NextBody(Body):
    """``POST /bytelm/next``."""

    prefix: Text = ""
    top: Annotated[Int, Field(ge=1)] = 12


class LogprobsBody(Body):
    """``POST /bytelm/logprobs``."""

    text: Text
    prefix: Text = ""
    tokens: bool = False


class CoverBody(Body):
    """``POST /bytelm/cover``."""

    prefix: Text
    top: Annotated[Int, Field(ge=1)] = 20


class LikeliestBody(Body):
    """``POST /bytelm/likeliest``."""

    prefix: Text
    suffix: Text | None = None
    n: Int = 5
    stop: str | list[str] = "\n"
    max_bytes: Int = 64
    max_calls: Int = 256


class ExplainBody(Body):
    """``POST /bytelm/explain``."""

    text: Text
    prefix: Text = ""


class SampleBody(Drawing):
    """``POST /bytelm/sample``."""

    prefix: Text = ""
    suffix: Text | None = None
    max_bytes: Int | None = None
    temperature: float | None = None
    seed: Int | None = None
    n: Int | None = None
    stream: bool = False


def given(text: Any) -> bytes:
    """The bytes of a text of a request; of one that was left out none."""
    return text if isinstance(text, bytes) else b""


def shown(symbol: int) -> str:
    r"""A byte for a reader.

    >>> shown(0x6E), shown(0xC3), shown(256)
    ('n', '\\xc3', 'end of text')
    """
    return "end of text" if symbol == EOT else chr(symbol) if symbol < 0x80 else f"\\x{symbol:02x}"


async def next_byte(service: Service, body: NextBody) -> Response:
    """The likeliest next bytes."""
    prefix = given(body.prefix)
    check_size(service.settings, prefix)

    def steps(lm: ByteModel[Any, Any]) -> Step[np.ndarray]:
        prompt = lm.prompt([prefix])
        lm.check_room(prompt)
        scoring = yield from lm.along(prompt, b"")
        return (yield from scoring.rows(b"", end=True))

    (row,) = await service.session.run(steps)
    likeliest = np.argsort(-row, kind="stable")[: body.top].tolist()
    rest = [value for symbol, value in enumerate(row.tolist()) if symbol not in likeliest]
    symbols = [
        {"byte": None if symbol == EOT else symbol, "shown": shown(symbol), "logprob": finite(float(row[symbol]))}
        for symbol in likeliest
    ]
    left = finite(log_sum(rest)) if rest else None
    return JSONResponse({"symbols": symbols, "rest_logprob": left, "leak": leak_of(row)})


async def logprobs(service: Service, body: LogprobsBody) -> Response:
    """The log-probability of each byte of a text, and of each of its tokens."""
    text, prefix = given(body.text), given(body.prefix)
    check_size(service.settings, prefix, text)

    def steps(lm: ByteModel[Any, Any]) -> Step[np.ndarray]:
        prompt = lm.prompt([prefix])
        lm.check_room(prompt, text, asked="bytes")
        scoring = yield from lm.along(prompt, text)
        return (yield from scoring.all_logprobs(text))

    found = await service.session.run(steps)
    tokens = await service.session.run(lambda lm: tokens_of(lm, prefix, text)) if body.tokens else None
    told = [
        {"byte": byte, "shown": shown(byte), "logprob": finite(value)}
        for byte, value in zip(text, found.tolist(), strict=True)
    ]
    total = float(found.sum())
    return JSONResponse(
        {
            "logprob": finite(total),
            "bits_per_byte": finite(-total / LN2 / len(text)) if text else None,
            "bytes": told,
            "tokens": tokens,
        }
    )


async def cover(service: Service, body: CoverBody) -> Response:
    """The token sequences that may spell a prefix."""
    prefix = given(body.prefix)
    check_size(service.settings, prefix)

    def steps(lm: ByteModel[Any, Any]) -> Step[tuple[float, list[list[CoverItem]]]]:
        items = yield from together([model.covered([prefix]) for model in lm.models])
        total = yield from lm.scored(lm.prompt([b""]), prefix)
        return total, items

    total, found = await service.session.run(steps)
    models, names = service.session.model.models, names_of(service)
    if len(models) != len(names):  # an ensemble of ensembles
        names = [f"model {i}" for i in range(len(models))]
    members = [_cover(*each, body.top) for each in zip(models, found, names, strict=True)]
    return JSONResponse({"logprob": finite(total), "members": members})


def _cover(lm: ByteLM, items: list[CoverItem], name: str, top: int) -> dict[str, Any]:
    total = log_sum([item.logprob for item in items])
    told = [
        {
            "token_ids": list(item.token_ids),
            "tokens": [shown_text(lm.spell([token])) for token in item.token_ids],
            "logprob": finite(item.logprob),
            "share": math.exp(item.logprob - total) if math.isfinite(total) else 0.0,
        }
        for item in items[:top]
    ]
    return {"name": name, "logprob": finite(total), "items": told, "left_out": max(len(items) - top, 0)}


async def likeliest(service: Service, body: LikeliestBody) -> Response:
    """The likeliest endings."""
    settings = service.settings
    search = Search.of(
        n=many("n", body.n, settings),
        stop=body.stop,
        max_bytes=min(body.max_bytes, settings.max_bytes),
        max_calls=min(body.max_calls, MOST_CALLS),
    )
    suffix = None if body.suffix is None else given(body.suffix)
    prompt = prompting(given(body.prefix), suffix, settings, room=search.max_bytes)

    def steps(lm: ByteModel[Any, Any]) -> Step[Endings]:
        model, prefix = prompt(lm)
        read = model.prompt(prefix)
        place = model.place(read, keep=True)
        model.check_room(read)
        return (yield from Searching(place, search).run())

    found = await service.session.run(steps)
    endings = [
        {"text": each.text, "base64": _base64(each.bytes), "logprob": each.logprob, "complete": each.complete}
        for each in found
    ]
    missing = finite(found.missing_logprob)
    return JSONResponse({"endings": endings, "missing_logprob": missing, "certified": found.certified})


async def explain(service: Service, body: ExplainBody) -> Response:
    """Who of an ensemble drove each byte."""
    text, prefix = given(body.text), given(body.prefix)
    check_size(service.settings, prefix, text)
    if len(text) > MOST_EXPLAINED:
        raise InvalidArgumentError(f"a text of at most {MOST_EXPLAINED} bytes is explained at a time; got {len(text)}")

    lm = service.session.model
    if not isinstance(lm, Ensemble):
        raise InvalidArgumentError("only an ensemble has members to explain; this server has one model")

    told = await service.session.run(lambda _: lm.explained(text, prefix=[prefix]))
    rows = [
        {
            "byte": byte,
            "shown": shown(byte),
            "logprob": finite(float(told.logprobs[at])),
            "members": [
                {"logprob": finite(float(logprob)), "weight": float(weight)}
                for logprob, weight in zip(told.member_logprobs[:, at], told.weights[:, at], strict=True)
            ],
            "driver": told.drivers[at],
        }
        for at, byte in enumerate(told.text)
    ]
    return JSONResponse({"combine": lm.combine, "members": names_of(service), "bytes": rows})


async def sample(service: Service, body: SampleBody) -> Response:
    """Complete a text, or fill in a hole."""
    settings = service.settings
    params = body.params(settings, max_bytes=body.max_bytes, temperature=body.temperature, seed=body.seed)
    suffix = None if body.suffix is None else given(body.suffix)
    prompt = prompting(given(body.prefix), suffix, settings, room=params.max_bytes)
    ask = Ask(prompt, params, n=many("n", body.n, settings), seconds=settings.seconds)
    if body.stream:
        if ask.n > 1:
            raise InvalidArgumentError(f"a stream holds one completion; got n = {ask.n}")
        return await streamed(events(service, ask), error_form)
    done = await answers(service.session, [ask], service.metrics)
    return JSONResponse({"completions": [completion(each) for each in done]})


async def events(service: Service, ask: Ask) -> AsyncGenerator[str]:
    """A stream of one completion."""
    async for _, piece in pieces(service.session, [ask], service.metrics):
        if isinstance(piece, Answer):
            yield event({"completion": completion(piece)})
        elif piece:
            yield event({"text": piece})


def completion(answer: Answer) -> dict[str, Any]:
    """A completion as this protocol has it."""
    logprob = None if answer.logprob is None else finite(answer.logprob)
    usage: dict[str, Any] = {"calls": answer.usage.calls, "tokens_fed": answer.usage.tokens_fed}
    usage |= drafts_of(answer.usage, "drafted", "accepted")
    if answer.usage.draft_error is not None:
        usage["draft_error"] = answer.usage.draft_error
    return {
        "text": answer.text,
        "base64": _base64(answer.bytes),
        "logprob": logprob,
        "finish_reason": answer.finish,
        "usage": usage,
        **weighted(answer),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def names_of(service: Service) -> list[str]:
    """The members' names, from the server's name, which joins them with a plus."""
    names = service.settings.name.split(" + ")
    count = len(service.session.model.members) if isinstance(service.session.model, Ensemble) else 1
    return names if len(names) == count else [f"member {i}" for i in range(count)]


def modes_of(lm: ByteModel[Any, Any]) -> list[str]:
    """The modes of `infill` that all models know."""
    modes = {"left", "psm", "spm"}
    for model in lm.models:
        try:
            form = find_format(model.viability.vocab)
        except NoInfillFormatError:
            return ["left"]
        modes &= {"left", *(["psm"] if form.psm else []), *(["spm"] if form.spm else [])}
    return sorted(modes)


def routes(service: Service) -> list[Route]:
    """The paths of this protocol."""
    session, settings = service.session, service.settings

    async def model(request: Request) -> Response:
        del request
        lm = session.model
        limits = {"max_bytes": settings.max_bytes, "n": settings.max_n, "prompt_bytes": settings.max_prompt}
        return JSONResponse(
            {
                "name": settings.name,
                "members": names_of(service),
                "combine": lm.combine if isinstance(lm, Ensemble) else None,
                "modes": modes_of(lm),
                "chat": has_template(service),
                "context_length": shortest_context(service.session.model) or None,
                "limits": limits,
            }
        )

    return [
        Route("/bytelm/model", model),
        post("/bytelm/next", service, NextBody, next_byte, error_form),
        post("/bytelm/logprobs", service, LogprobsBody, logprobs, error_form),
        post("/bytelm/cover", service, CoverBody, cover, error_form),
        post("/bytelm/likeliest", service, LikeliestBody, likeliest, error_form),
        post("/bytelm/explain", service, ExplainBody, explain, error_form),
        post("/bytelm/sample", service, SampleBody, sample, error_form),
    ]
