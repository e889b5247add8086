"""The part of the OpenAI-compatible completions protocol that a vLLM server speaks and bytelm uses. No model, no rows.

Rules
    What a server answers is data from outside: every field that is read is checked, and what is missing or of another
    kind is a `ServerError` that names it.
    A server that cannot be reached, is lost in the middle or answers with an error is a `ServerError` with its own
    words; one that takes too long a `ServerTimeoutError`.

Format
    ``return_tokens_as_token_ids`` turns the tokens of an answer into ``token_id:17``, so that no two of them can be
    mistaken for one another. −9999 stands for −∞, which JSON does not have.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32, Int64

from bytelm.arguments import Number
from bytelm.errors import InvalidArgumentError, ServerError, ServerTimeoutError

NO_MASS: Final = -9999.0
_ID: Final = "token_id:"


class Server:
    """An OpenAI-compatible server.

    Args:
        address: ``http://host:port`` or ``https://…``; a path ``/v1`` at its end may stand there or not.
        api_key: What it was started with (``--api-key``), if anything.
        timeout_s: Seconds to wait for an answer, or for its next part.

    Raises:
        InvalidArgumentError: The address is none.
    """

    def __init__(self, address: str, *, api_key: str | None = None, timeout_s: Number = 600) -> None:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
            raise InvalidArgumentError(f"a server's address begins with http:// or https://; got {address!r}")
        if not timeout_s > 0:
            raise InvalidArgumentError(f"timeout_s must be above 0, not {timeout_s!r}")
        self.address = address.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models: ``id``, and in vLLM ``root`` and ``max_model_len``."""
        with self._answer("/v1/models", None) as answer:
            data = _json(answer.read(), self.address)
        models = _field(data, "data", list, self.address)
        return [model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]

    def complete(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of one request for completions, by index."""
        with self._answer("/v1/completions", request) as answer:
            data = _json(answer.read(), self.address)
        choices = _field(data, "choices", list, self.address)
        return sorted(choices, key=lambda choice: int(_field(choice, "index", int, self.address)))

    def rows(
        self, model: str, sequences: Sequence[Sequence[int]]
    ) -> list[tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]]:
        """Ids and log-probabilities of the row after each sequence, by one request."""
        choices = self.complete(
            {
                "model": model,
                "prompt": [*map(list, sequences)],
                "return_tokens_as_token_ids": True,
                "max_tokens": 1,
                "temperature": 0.0,
                "logprobs": -1,
            }
        )
        if len(choices) != len(sequences):
            raise ServerError(
                f"the server {self.address} was asked for {len(sequences)} completions but returned {len(choices)}"
            )
        return [row_of(choice, self.address) for choice in choices]

    def stream(self, request: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The parts of one completion as they come. To close the iterator is to tell the server to stop."""
        with self._answer("/v1/completions", {**request, "stream": True}) as answer:
            for line in answer:
                if not line.startswith(b"data:"):
                    continue
                content = line.removeprefix(b"data:").strip()
                if content == b"[DONE]":
                    return
                data = _json(content, self.address)
                if "error" in data:
                    raise ServerError(f"the server {self.address} stopped a completion: {_words(data)}")
                yield from _field(data, "choices", list, self.address)
        raise ServerError(f"the server {self.address} broke off in the middle of a completion")

    @contextlib.contextmanager
    def _answer(self, path: str, content: Mapping[str, Any] | None) -> Iterator[Any]:
        """An answer, open; what goes wrong until it is closed is an error of bytelm's."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, self._headers)  # noqa: S310 - http(s), checked
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                yield answer
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except TimeoutError as error:
            raise self._late() from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None)
            if isinstance(reason, TimeoutError):
                raise self._late() from error
            raise ServerError(
                f"the server {self.address} cannot be reached, or was lost: {reason or error!r}; see that it runs and "
                "that the address is right"
            ) from error

    def _late(self) -> ServerTimeoutError:
        return ServerTimeoutError(
            f"the server {self.address} did not answer within {self._timeout_s:g} s; it may be busy: give a larger "
            "timeout_s, or ask for less at once"
        )

    def _refusal(self, error: urllib.error.HTTPError) -> ServerError:
        try:
            told = _words(json.loads(error.read()))
        except (ValueError, OSError, http.client.HTTPException):
            told = str(error.reason)
        advice = "; give api_key=" if error.code in (401, 403) else ""
        return ServerError(f"the server {self.address} answers with status {error.code}: {told}{advice}")


def row_of(choice: Mapping[str, Any], address: str) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """The ids and log-probabilities that a choice has for its first token.

    >>> row_of({"logprobs": {"top_logprobs": [{"token_id:3": -0.5, "token_id:0": -9999.0}]}}, "http://here")
    (array([3, 0]), array([-0.5, -inf], dtype=float32))
    """
    tops = _field(_field(choice, "logprobs", dict, address), "top_logprobs", list, address)
    if not tops or not isinstance(tops[0], dict):
        raise ServerError(f"the server {address} gave no log-probabilities for a token")
    ids = np.fromiter((token_id(name, address) for name in tops[0]), np.int64, len(tops[0]))
    logprobs = np.fromiter(tops[0].values(), np.float32, len(tops[0]))
    logprobs[logprobs <= NO_MASS] = -np.inf
    return ids, logprobs


def drawn_of(choice: Mapping[str, Any], address: str) -> list[tuple[int, float]]:
    """The tokens of a choice, and their log-probabilities."""
    entries = choice.get("logprobs")
    if not entries:  # the part that only says why the completion ended
        return []
    tokens = _field(entries, "tokens", list, address)
    logprobs = _field(entries, "token_logprobs", list, address)
    return [(token_id(token, address), float(logprob)) for token, logprob in zip(tokens, logprobs, strict=True)]


def token_id(name: Any, address: str) -> int:
    """The id in ``token_id:17``."""
    if isinstance(name, str) and name.startswith(_ID) and name[len(_ID) :].isdecimal():
        return int(name[len(_ID) :])
    raise ServerError(
        f"the server {address} names a token {name!r} and not by its id: it does not know return_tokens_as_token_ids, "
        "so it is too old, or not a vLLM server"
    )


def _json(content: bytes, address: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ServerError(f"the server {address} answered with text that is not JSON: {content[:80]!r}") from error
    if not isinstance(data, dict):
        raise ServerError(f"the server {address} answers with {content[:80]!r}, which is not a JSON object")
    return data


def _field(data: Any, name: str, kind: type, address: str) -> Any:
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise ServerError(
            f"the server {address} answers without {name!r}: it does not speak the completions protocol of vLLM"
        )
    return value


def _words(data: Any) -> str:
    """What an answer with an error says."""
    error = data.get("error", data) if isinstance(data, dict) else data
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
