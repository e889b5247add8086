"""Hostile requests: good ones of every endpoint, with a seeded fault in their JSON, their text, or their HTTP.

Rules
    A request is a function of (seed, number) alone.
    *json*: a value, a key or a whole part is another one; the body is JSON still. *text*: the body is no JSON any more,
    or just so. *http*: what is around the body is wrong: lengths, methods, paths, headers, more bytes behind it, a client
    that is slow or goes away.
    A request of *json* or *text* is right as HTTP, so its answer must be in the protocol's form. One of *http* may be
    answered by the HTTP library in plain text, and one whose client went away need not be answered at all.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

CLASSES: Final = ("json", "text", "http")
SLOWLY: Final = 0.05  # seconds between two parts of a slow request

PROMPT: Final = "def add(a, b):\n    ret"
GOOD: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "temperature": 0.8, "seed": 1, "stop": ["\n"], "n": 2}),
    ("/v1/completions", {"prompt": [[100, 101], [102]], "max_tokens": 1, "echo": True, "logprobs": 2}),
    ("/v1/completions", {"prompt": PROMPT, "suffix": "\n\nadd(1, 2)\n", "max_tokens": 3, "top_p": 0.9, "top_k": 5}),
    ("/v1/completions", {"prompt": PROMPT, "stream": True, "max_tokens": 6, "min_p": 0.05, "seed": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 3}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "max_completion_tokens": 4,
            "stream": True,
        },
    ),
    ("/v1/fim/completions", {"prompt": PROMPT, "suffix": "\nadd(1, 2)", "max_tokens": 4, "stream": False}),
    ("/infill", {"input_prefix": PROMPT, "input_suffix": "\n", "input_extra": [{"filename": "a.py", "text": "x = 1"}],
                 "n_predict": 4, "t_max_predict_ms": 500, "samplers": ["top_k"], "stream": False}),
    ("/completion", {"prompt": PROMPT, "n_predict": 4, "temperature": 0, "stop": ["x"], "cache_prompt": True}),
    ("/completions", {"prompt": PROMPT, "n_predict": 4, "stream": True}),
    ("/tokenize", {"content": "añb", "add_special": False, "with_pieces": True}),
    ("/detokenize", {"tokens": [97, 195, 177, 256]}),
    ("/api/generate", {"model": "toy", "prompt": PROMPT, "suffix": "x", "stream": False, "options": {"num_predict": 4, "temperature": 0.5, "seed": 4}}),
    ("/api/generate", {"model": "toy", "prompt": PROMPT, "options": {"num_predict": 4, "stop": ["a"], "top_k": 3}}),
    ("/api/chat", {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": False, "options": {"num_predict": 4}}),
    ("/api/show", {"model": "toy"}),
    ("/bytelm/next", {"prefix": PROMPT, "top": 12}),
    ("/bytelm/logprobs", {"text": "urn a", "prefix": PROMPT, "tokens": True}),
    ("/bytelm/cover", {"prefix": PROMPT, "top": 20}),
    ("/bytelm/likeliest", {"prefix": "def ", "n": 2, "stop": "\n", "max_bytes": 4, "max_calls": 16}),
    ("/bytelm/explain", {"text": "a", "prefix": "b"}),
    ("/bytelm/sample", {"prefix": {"base64": "w6k="}, "suffix": None, "max_bytes": 4, "temperature": 1, "seed": 5, "n": 2, "stop": []}),
    ("/bytelm/sample", {"prefix": PROMPT, "max_bytes": 6, "stream": True, "top_p": 0.5, "seed": None}),
)  # fmt: skip
GETS: Final = ("/health", "/metrics", "/v1/models", "/props", "/slots", "/tokenizer_info", "/api/tags", "/api/version", "/bytelm/model", "/")  # fmt: skip
PATHS: Final = ("/v1/completions/", "//v1/completions", "/v1", "/v1/%00", "/../etc/passwd", "/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/page/nothing.css", "/%ff%fe", "/" + "a" * 3000, "/v1/completions?x=" + "%" * 40, "/bytelm/", "*", "/infill#x", "http://elsewhere/health")  # fmt: skip
METHODS: Final = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", "BREW", "A" * 400)

Draw = random.Random


def _nested(draw: Draw) -> Any:
    value: Any = 1
    for _ in range(draw.choice((10, 100, 400))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


VALUES: Final[tuple[Callable[[Draw], Any], ...]] = (
    lambda _: None,
    lambda draw: draw.choice((True, False)),
    lambda draw: draw.choice((0, -1, 1, 2, -(2**31), 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400)),
    lambda draw: draw.choice((0.0, -0.0, 0.5, 1e-320, 1e-9, 1e308, -1e308, 1.5, 4.0, 1e16, 3.0e300)),
    lambda draw: draw.choice(("", " ", "0", "1", "NaN", "Infinity", "true", "null", "\x00", "\ufeff", "\uffff", "é", "🙂", "e\u0301")),
    lambda draw: draw.choice(("\ud800", "a\udfffb", "\udc80", "\ud83d")),  # half of a surrogate pair, as an escape
    lambda draw: draw.choice(("<|endoftext|>", "<fim_prefix>a<fim_suffix>b<fim_middle>", "<fim_middle>", "<|start|>assistant\n", "<fim_suffix><fim_prefix>")),
    lambda draw: draw.choice(("a", " ", "\n", "é", "🙂", "ab ", "\x00")) * draw.choice((300, 3000, 40_000)),
    lambda _: [],
    lambda _: {},
    lambda draw: [draw.choice(("a", 1, None, [], {}, "", True, -1, 300, 256, 1.5)) for _ in range(draw.randint(1, 4))],
    lambda draw: [[draw.choice((0, 97, 255, 256, 257, -1, 10**12, True, "a", None))] for _ in range(draw.randint(1, 3))],
    lambda draw: [chr(97 + i % 26) * (1 + i // 26) for i in range(draw.choice((65, 3000)))],
    lambda draw: [draw.randrange(257) for _ in range(draw.choice((1, 20, 900)))],
    lambda draw: {"base64": draw.choice(("", "!", "YQ", "YQ==", "/w==", "4pi=", 5, None, "YQ==\n", "é"))},
    lambda draw: {"base64": base64.b64encode(draw.randbytes(draw.choice((1, 3, 40)))).decode()},
    lambda draw: {draw.choice(("a", "", "role", "text", "__class__", "type")): draw.choice((1, "x", None))},
    lambda draw: [{"role": draw.choice(("user", "assistant", "tool", "", 5)), "content": draw.choice(("a", "", None, 5, [], [{"type": "image_url"}]))}],
    _nested,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hostile:
    """A hostile request as bytes on a connection.

    Attributes:
        number: Its place.
        kind: Its class, and what was done to it.
        method: Of HTTP.
        path: Where it goes.
        parts: What is sent, one part after another.
        slowly: Seconds between two parts.
        reads: Whether the client reads the answer: "whole", "slowly", or "not": it goes away.
        silent: Whether no answer is an answer.
        unfinished: Whether the server may wait for the rest of it.
    """

    number: int
    kind: str
    method: str
    path: str
    parts: tuple[bytes, ...]
    slowly: float = 0.0
    reads: str = "whole"
    silent: bool = False
    unfinished: bool = False

    @property
    def strict(self) -> bool:
        """Whether the answer must be in the protocol's form."""
        return not self.kind.startswith("http")


def hostile(seed: int, number: int) -> Hostile:
    """The hostile request of a number."""
    draw = Draw(f"{seed}/{number}")
    path, body = draw.choice(GOOD)
    chance = draw.random()
    if chance < 0.55:
        what = draw.choice(tuple(JSON_FAULTS))
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            body = JSON_FAULTS[what](draw, body)
        return _request(number, f"json, {what}", path, json.dumps(body).encode())
    if chance < 0.75:
        what = draw.choice(tuple(TEXT_FAULTS))
        return _request(number, f"text, {what}", path, TEXT_FAULTS[what](draw, json.dumps(body)))
    what = draw.choice(tuple(HTTP_FAULTS))
    return replace(HTTP_FAULTS[what](draw, path, json.dumps(body).encode()), number=number, kind=f"http, {what}")


def _head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _request(
    number: int, kind: str, path: str, body: bytes, *headers: str, method: str = "POST", **more: Any
) -> Hostile:
    head = _head(method, path, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return Hostile(number, kind, method, path, (head, body), **more)


# ---- faults of JSON


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values within a value are, to a small depth."""
    if len(path) > 4:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value[:8]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], new: Callable[[Any], Any]) -> Any:
    if not path:
        return new(value)
    first, *rest = path
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[first] = _changed(copied[first], tuple(rest), new)
    return copied


def _other_value(draw: Draw, body: Any) -> Any:
    places = list(_places(body))
    return _changed(body, draw.choice(places), lambda _: draw.choice(VALUES)(draw)) if places else body


def _other_body(draw: Draw, _: Any) -> Any:
    return draw.choice(VALUES)(draw)


def _left_out(draw: Draw, body: Any) -> Any:
    if not isinstance(body, dict) or not body:
        return body
    gone = draw.choice(list(body))
    return {name: value for name, value in body.items() if name != gone}


def _put_in(draw: Draw, body: Any) -> Any:
    names = sorted({name for _, each in GOOD for name in each} | {"logit_bias", "grammar", "tools", "format", "keep_alive", "raw", "template", "best_of", "user", "id_slot", "n_probs", "", "a" * 5000})  # fmt: skip
    return body | {draw.choice(names): draw.choice(VALUES)(draw)} if isinstance(body, dict) else body


def _wrapped(draw: Draw, body: Any) -> Any:
    places = list(_places(body))
    wrap = draw.choice((lambda v: [v], lambda v: {"a": v}, lambda v: str(v), lambda v: [v] * 200))  # noqa: PLW0108 - a choice of functions
    return _changed(body, draw.choice(places), wrap) if places else body


def _many_fields(draw: Draw, body: Any) -> Any:
    return body | {f"field{i}": i for i in range(draw.choice((50, 5000)))} if isinstance(body, dict) else body


JSON_FAULTS: Final[dict[str, Callable[[Draw, Any], Any]]] = {
    "another value": _other_value,
    "two others": lambda draw, body: _other_value(draw, _other_value(draw, body)),
    "another body": _other_body,
    "a field left out": _left_out,
    "a field more": _put_in,
    "a value wrapped": _wrapped,
    "many fields": _many_fields,
}

# ---- faults of the text


def _inserted(draw: Draw, text: str) -> bytes:
    data, at = text.encode(), draw.randrange(len(text.encode()) + 1)
    return data[:at] + draw.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x00", b"\\", b'"', b"\n", b"\xc0\xaf", b"}", b",")) + data[at:]  # fmt: skip


def _raw_value(draw: Draw, text: str) -> bytes:
    """A value that JSON has not, or just so, where one was."""
    value = json.loads(text)
    place = draw.choice([path for path in _places(value) if len(path) == 1])
    mark = "@@@"
    raw = draw.choice(("NaN", "-Infinity", "1e999", "-1e999", "0x10", "01", "1.", ".5", "+1", "undefined", "'a'", "1" * 5000, "0." + "1" * 5000, "1e-999999", '"\\ud800"', '"\\udc00\\ud800"', '"\\x41"', '"\\u00"', '"\t"', "[" * 3000, "[" * 200_000, '{"a":' * 50_000, "True", "-", "1e400000000"))  # fmt: skip
    return json.dumps(_changed(value, place, lambda _: mark)).replace(f'"{mark}"', raw).encode()


def _twice(draw: Draw, text: str) -> bytes:
    name = draw.choice(list(json.loads(text)))
    more = json.dumps(draw.choice(VALUES)(draw))
    return f'{text[:-1]}, "{name}": {more}}}'.encode()


TEXT_FAULTS: Final[dict[str, Callable[[Draw, str], bytes]]] = {
    "bytes put in": _inserted,
    "cut": lambda draw, text: text.encode()[: draw.randrange(len(text))],
    "a value that is none": _raw_value,
    "a key twice": _twice,
    "bytes by chance": lambda draw, _: draw.randbytes(draw.choice((1, 20, 500))),
    "more behind it": lambda draw, text: text.encode() + draw.choice((b"{}", b"\x00", b"]", b" " * 5000, b"null")),
    "another encoding": lambda draw, text: text.encode(draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7"))),
    "empty": lambda draw, _: draw.choice((b"", b" ", b"\n", b"null", b'""', b"0")),
    "too long": lambda draw, text: text.encode() + b" " * draw.choice((100_000, 5 * 2**20)),
    "a long prompt": lambda draw, text: text.replace("def ", "x" * draw.choice((2000, 60_000, 1_100_000))).encode(),
}

# ---- faults of HTTP


def _lengths(draw: Draw, path: str, body: bytes) -> Hostile:
    told = draw.choice((str(len(body) + 10), str(max(0, len(body) - 5)), "-1", "abc", "", "9" * 30, "1e3", "+5", f"{len(body)}, {len(body)}"))  # fmt: skip
    head = _head("POST", path, f"Content-Length: {told}")
    return Hostile(0, "", "POST", path, (head, body), silent=True)


def _framing(draw: Draw, path: str, body: bytes) -> Hostile:
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    shapes = (
        (("Transfer-Encoding: chunked",), (chunk, b"0\r\n\r\n")),
        (("Transfer-Encoding: chunked",), (b"zz\r\n", body)),
        (("Transfer-Encoding: chunked",), (b"ffffffffffffffffff\r\n", body)),
        (("Transfer-Encoding: chunked", f"Content-Length: {len(body)}"), (chunk, b"0\r\n\r\n")),
        (("Transfer-Encoding: gzip",), (body,)),
        ((f"Content-Length: {len(body)}", "Content-Length: 3"), (body,)),
        ((f"Content-Length: {len(body)}", "Expect: 100-continue"), (body,)),
        ((f"Content-Length: {len(body)}", "Content-Encoding: gzip"), (body,)),
        ((f"Content-Length: {len(body)}", "Upgrade: websocket", "Sec-WebSocket-Key: a"), (body,)),
        ((), (body,)),
    )
    headers, parts = draw.choice(shapes)
    return Hostile(0, "", "POST", path, (_head("POST", path, *headers), *parts), silent=True)


def _method(draw: Draw, path: str, body: bytes) -> Hostile:
    where = draw.choice((path, *GETS))
    return _request(0, "", where, body if draw.random() < 0.5 else b"", method=draw.choice(METHODS), silent=True)


def _path(draw: Draw, _: str, body: bytes) -> Hostile:
    method, where = draw.choice((("POST", body), ("GET", b""))), draw.choice((*PATHS, *GETS))
    return _request(0, "", where, method[1], method=method[0], silent=True)


def _headers(draw: Draw, path: str, body: bytes) -> Hostile:
    more = draw.choice(("X-Long: " + "a" * 70_000, *(("Content-Type: " + each) for each in ("text/plain", "application/json; charset=utf-16", "multipart/form-data", "\xff")), "Authorization: Bearer \xff\xfe", "Authorization: Basic a", "Origin: null", "Accept: nothing", "Cookie: " + "a=b; " * 500, "no colon", ": no name", " folded: a", "X-\x00: a", "\r\n".join(f"X-{i}: {i}" for i in range(300))))  # fmt: skip
    return _request(0, "", path, body, more, silent=True)


def _behind(draw: Draw, path: str, body: bytes) -> Hostile:
    asked = _request(0, "", path, body)
    garbage = draw.choice((draw.randbytes(60), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 500, b"".join(asked.parts) * 3))
    return replace(asked, parts=(*asked.parts, garbage), silent=False)


def _garbage(draw: Draw, path: str, body: bytes) -> Hostile:
    line = draw.choice((draw.randbytes(200), b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n", b"POST " + path.encode() + b" HTTP/1.0\r\n\r\n" + body, b"GET /health\r\n\r\n", b"POST " + path.encode() + b" HTTP/1.1\r\n\r\n", b"\n" * 3000))  # fmt: skip
    return Hostile(0, "", "", "", (line,), silent=True, unfinished=b"\r\n\r\n" not in line)


def _half(draw: Draw, path: str, body: bytes) -> Hostile:
    asked = _request(0, "", path, body)
    return replace(asked, parts=(asked.parts[0], body[: draw.randrange(len(body))]), reads="not", silent=True)


def _drip(draw: Draw, path: str, body: bytes) -> Hostile:
    asked = _request(0, "", path, body)
    cuts = sorted(draw.randrange(len(body) + 1) for _ in range(4))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return replace(asked, parts=(asked.parts[0][:20], asked.parts[0][20:], *parts), slowly=SLOWLY)


def _leaves(draw: Draw, path: str, body: bytes) -> Hostile:
    wait = draw.choice((0.0, 0.002, SLOWLY))
    asked = _request(0, "", path, body, reads="not", silent=True)
    return replace(asked, parts=(*asked.parts, b""), slowly=wait)


def _reads_slowly(_: Draw, path: str, body: bytes) -> Hostile:
    return _request(0, "", path, body, reads="slowly")


HTTP_FAULTS: Final[dict[str, Callable[[Draw, str, bytes], Hostile]]] = {
    "a wrong length": _lengths,
    "framing": _framing,
    "another method": _method,
    "another path": _path,
    "headers": _headers,
    "more behind it": _behind,
    "no HTTP": _garbage,
    "half a body, then gone": _half,
    "slow": _drip,
    "gone before the answer": _leaves,
    "a slow reader": _reads_slowly,
}
