"""How an answer is read: which text is in it, whether a stream came to its end, and what error it states.

Rules
    A protocol is known by the path of the request. Each has a form of its own for whole answers, for streams, and for
    errors; an answer in any other form is no answer.
    A body is strict JSON in UTF-8: ``NaN`` and ``Infinity`` are none, and no text holds half of a surrogate pair.
    Errors of /v1/ and of llama.cpp's paths are ``{"error": {"message": …, …}}``, ollama's are ``{"error": "…"}``,
    those of /bytelm/ are ``{"error": {"type": …, "message": …}}``. A path that no protocol knows may use any of them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

STATED: Final = frozenset({400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 503})  # the statuses of errors
LLAMA: Final = ("/infill", "/completion", "/completions", "/tokenize", "/detokenize", "/props", "/slots")


class FormError(ValueError):
    """An answer is not in the form of its protocol; the message says in what."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event of a stream says.

    Attributes:
        text: New text.
        ends: Whether the stream is complete with it.
        whole: All of the text, where the event repeats it.
    """

    text: str
    ends: bool = False
    whole: str | None = None


def parsed(body: bytes) -> Any:
    """The value of a body.

    Raises:
        FormError: It is not strict JSON.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise FormError("the body is nested too deeply to be read") from None
    except ValueError as error:
        raise FormError(f"the body is no strict JSON ({error}): {body[:200]!r}") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def whole_text(path: str, answer: Any) -> str:
    """The text of a whole answer.

    Raises:
        FormError: There is none.

    >>> whole_text("/infill", {"content": "ab"})
    'ab'
    """
    try:
        match path:
            case "/v1/completions":
                text = answer["choices"][0]["text"]
            case "/v1/chat/completions" | "/v1/fim/completions":
                text = answer["choices"][0]["message"]["content"]
            case "/api/generate":
                text = answer["response"]
            case "/bytelm/sample":
                text = _completion(answer["completions"][0])
            case _:
                text = answer["content"]
    except (LookupError, TypeError):
        raise FormError(f"no text is where {path} has it: {str(answer)[:200]}") from None
    if not isinstance(text, str):
        raise FormError(f"the text of {path} is {str(text)[:200]}")
    return text


def _completion(said: Any) -> str:
    base64.b64decode(said["base64"], validate=True)
    return str(said["text"])


def piece_of(path: str, line: bytes) -> Piece | None:
    """What a line of a stream says; None for a line that says nothing, such as the empty one between two events.

    Raises:
        FormError: It is no event of that protocol, or states an error.
    """
    line = line.strip()
    if not line or line.startswith(b":"):
        return None
    if path != "/api/generate":
        if not line.startswith(b"data:"):
            raise FormError(f"a line of the stream is no event: {line[:200]!r}")
        line = line.removeprefix(b"data:").strip()
        if line == b"[DONE]":
            return Piece("", ends=True)
    said = parsed(line)
    if isinstance(said, Mapping) and said.get("error"):
        raise FormError(f"the stream ends with an error: {str(said['error'])[:200]}")
    try:
        return _piece(path, said)
    except (LookupError, TypeError):
        raise FormError(f"no text is where an event of {path} has it: {str(said)[:200]}") from None


def _piece(path: str, said: Any) -> Piece:
    match path:
        case "/v1/completions":
            return Piece("".join(choice["text"] for choice in said["choices"]))
        case "/v1/chat/completions" | "/v1/fim/completions":
            return Piece("".join(choice["delta"].get("content") or "" for choice in said["choices"]))
        case "/api/generate":
            return Piece(said["response"], ends=bool(said["done"]))
        case "/bytelm/sample":
            if "completion" in said:
                return Piece("", ends=True, whole=_completion(said["completion"]))
            return Piece(said["text"])
        case _:
            return Piece(said["content"], ends=bool(said["stop"]))


def error_of(path: str, status: int, body: bytes) -> str:
    """The kind of error that an answer states: its status, and the type where the protocol has one.

    Raises:
        FormError: The status is none of those stated, or the body has not the protocol's form of errors.

    >>> error_of("/api/generate", 404, b'{"error": "there is no model abc"}')
    '404'
    """
    if status not in STATED:
        raise FormError(f"status {status} is not one that is stated")
    answer = parsed(body)
    error = answer.get("error") if isinstance(answer, Mapping) else None
    named = error.get("type") if isinstance(error, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    if not isinstance(message, str) or not message.strip():
        raise FormError(f"an error without a message: {str(answer)[:200]}")
    if path.startswith("/api/") and not isinstance(error, str):
        raise FormError(f"ollama's errors are one text: {str(answer)[:200]}")
    typed = path.startswith(("/v1/", "/bytelm/")) or path in LLAMA
    if typed and (not isinstance(named, str) or not named):
        raise FormError(f"an error without a type: {str(answer)[:200]}")
    return f"{status} {named}" if isinstance(named, str) else str(status)
