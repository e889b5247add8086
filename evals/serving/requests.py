"""The requests of the load, and their right answers: those that the library gives to each of them alone.

A pool holds distinct requests of all kinds, drawn from a seed. Prompts are the project's own (evals.cost), cut at seeded
places, so that most end inside a word; completions are short. Every request has a seed of its own, and its answer is
the text that `ByteLM.sample`, `infill` or `chat` writes with the same options in this process, with no other request
beside it.

Rules
    A server must answer with that text whatever else it does at the time: how it batches, what it has cached, which
    requests came and went.
    A request that is cancelled asks for more bytes than the right answer has. What came of it must agree with the right
    answer as far as both go: its draws are the same.
    A bad request has the statuses with which it must be refused.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from evals.cost.prompts import CODE, ENGLISH, PROMPTS

if TYPE_CHECKING:
    from bytelm import ByteLM

FEWEST, MOST = 8, 48  # new bytes
LONG: Final = 400  # new bytes of a request that is cancelled before
QUESTIONS: Final = (
    "Name a color.",
    "What is the capital of France?",
    "Write a line of Python that adds two numbers.",
    "Say hello in Polish.",
    "Is 7 a prime number? Answer in one word.",
)
HOLES: Final = (
    ("def add(a, b):\n    return ", "\n\n\nprint(add(1, 2))\n"),
    ("import os\n\n\ndef size(path):\n    return os.pa", ".getsize(path)\n"),
    ("The cat sat on the ", ", and the dog lay by the door.\n"),
    ("for i in range(", "):\n    print(i)\n"),
    ("class Point:\n    def __init__(self, x, y):\n        self.x = ", "\n        self.y = y\n"),
)
KINDS: Final = ("completion", "stream", "infill", "chat", "bytes")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        name: Its kind and number; the same name is the same request.
        kind: One of `KINDS`, "cancelled" or "bad".
        path: Where it is sent.
        body: What is sent: an object, or the bytes themselves.
        call: How the library is asked the same: a method of `ByteLM`, its arguments and options.
        refused: The statuses of a refusal, for a bad one.
        method: That of HTTP.
        pieces: After how many pieces the client goes away.
    """

    name: str
    kind: str
    path: str
    body: dict[str, Any] | bytes
    call: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
    refused: tuple[int, ...] = ()
    method: str = "POST"
    pieces: int | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return isinstance(self.body, dict) and bool(self.body.get("stream"))


@dataclass(slots=True)
class Pool:
    """Requests with their right answers.

    Attributes:
        good: Requests that must be answered.
        right: The text of each, by its name.
    """

    good: list[Asked]
    right: dict[str, str] = field(default_factory=dict)

    def answered(self, lm: ByteLM, asked: Iterable[Asked] | None = None) -> None:
        """Work out the right answers, each alone."""
        for each in self.good if asked is None else asked:
            self.right[each.name] = alone(lm, each)

    def mixed(self, client: random.Random, *, cancelled: float, bad: float) -> Asked:
        """The next request of a client: one that it cancels, or a bad one, with these probabilities."""
        chance = client.random()
        if chance < bad:
            return client.choice(BAD)
        if chance < bad + cancelled:
            return cancelling(client.choice([each for each in self.good if each.streams]), client.randint(1, 6))
        return client.choice(self.good)


def alone(lm: ByteLM, asked: Asked) -> str:
    """The text that the library writes."""
    if asked.call is None:
        raise ValueError(f"{asked.name} has no right answer")
    method, arguments, options = asked.call
    text: str = getattr(lm, method)(*arguments, **options).text
    return text


def cancelling(asked: Asked, pieces: int) -> Asked:
    """The same stream, longer, by a client that goes away after so many pieces."""
    if not isinstance(asked.body, dict):
        raise TypeError(f"{asked.name} has no body to lengthen")
    body = dict(asked.body)
    for name in ("max_tokens", "n_predict", "max_bytes"):
        if name in body:
            body[name] = LONG
    return replace(asked, kind="cancelled", body=body, pieces=pieces)


def pool_of(size: int, *, seed: int = 0, kinds: Sequence[str] = KINDS) -> Pool:
    """So many distinct requests, the kinds in turn; their right answers are yet to be worked out.

    >>> pool_of(3).good[1].path
    '/v1/completions'
    """
    return Pool([_good(kinds[number % len(kinds)], number, seed) for number in range(size)])


def _good(kind: str, number: int, seed: int) -> Asked:
    draw = random.Random(f"{seed}/{number}/{kind}")
    options: dict[str, Any] = {"seed": draw.randrange(1 << 31), "temperature": draw.choice((0, 0.6, 0.8, 1.0))}
    if draw.random() < 0.4:
        options["top_p"] = draw.choice((0.8, 0.9, 0.95))
    most = draw.randint(FEWEST, MOST)
    name, streams = f"{kind} {number}", draw.random() < 0.5

    def made(path: str, body: dict[str, Any], limit: str, method: str, *arguments: Any) -> Asked:
        sent = {**body, **options, limit: most, **({"stream": True} if streams else {})}
        return Asked(name, kind, path, sent, (method, arguments, options | {"max_bytes": most}))

    if kind == "chat":
        messages = [{"role": "user", "content": draw.choice(QUESTIONS)}]
        return made("/v1/chat/completions", {"messages": messages}, "max_tokens", "chat", messages)
    if kind == "infill":
        before, after = draw.choice(HOLES)
        match draw.randrange(3):
            case 0:
                body = {"input_prefix": before, "input_suffix": after}
                return made("/infill", body, "n_predict", "infill", before, after)
            case 1:
                body = {"prompt": before, "suffix": after}
                return made("/v1/completions", body, "max_tokens", "infill", before, after)
            case _:
                body = {"prompt": before, "suffix": after}
                return made("/v1/fim/completions", body, "max_tokens", "infill", before, after)
    text = _cut(draw)
    if kind == "bytes":
        prefix: Any = {"base64": base64.b64encode(text.encode()).decode()} if draw.random() < 0.5 else text
        return made("/bytelm/sample", {"prefix": prefix}, "max_bytes", "sample", text)
    streams = kind == "stream"
    if draw.random() < 0.3:
        return made("/completion", {"prompt": text}, "n_predict", "sample", text)
    return made("/v1/completions", {"prompt": text}, "max_tokens", "sample", text)


def _cut(draw: random.Random) -> str:
    """10 to 200 bytes of a prompt, cut at a character."""
    text = draw.choice([each for each in PROMPTS if len(each.encode()) >= 10])
    data = text.encode()[: draw.randint(10, min(200, len(text.encode())))]
    return data.decode(errors="ignore")


def distinct(count: int, *, most: int, seed: int = 0) -> Pool:
    """Plain completions at temperature 1, alike in length: for throughput."""
    asked = []
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        text = draw.choice(ENGLISH + CODE)
        options: dict[str, Any] = {"seed": draw.randrange(1 << 31), "temperature": 1.0}
        call = ("sample", (text,), options | {"max_bytes": most})
        body = {"prompt": text, "max_tokens": most, **options}
        asked.append(Asked(f"completion {number}", "completion", "/v1/completions", body, call))
    return Pool(asked)


def _bad() -> Iterator[Asked]:
    wrong = (400, 422)
    prompt = {"prompt": "The capital of Fra"}
    yield Asked("no JSON", "bad", "/v1/completions", b'{"prompt": "a", ', refused=wrong)
    yield Asked("not UTF-8", "bad", "/completion", b'{"prompt": "\xff\xfe"}', refused=wrong)
    yield Asked("no object", "bad", "/v1/completions", b"[1, 2]", refused=wrong)
    yield Asked("no prompt", "bad", "/infill", {"input_prefix": 7, "input_suffix": "a"}, refused=wrong)
    yield Asked("a temperature of text", "bad", "/v1/completions", {**prompt, "temperature": "hot"}, refused=wrong)
    yield Asked("a temperature below 0", "bad", "/v1/completions", {**prompt, "temperature": -1}, refused=wrong)
    yield Asked("a part of a byte", "bad", "/v1/completions", {**prompt, "max_tokens": 2.5}, refused=wrong)
    yield Asked("n of 0", "bad", "/v1/completions", {**prompt, "n": 0}, refused=wrong)
    yield Asked("no messages", "bad", "/v1/chat/completions", {"messages": []}, refused=wrong)
    yield Asked("a message of a number", "bad", "/v1/chat/completions", {"messages": [5]}, refused=wrong)
    yield Asked("no text", "bad", "/bytelm/next", {"prefix": {"base64": "!"}}, refused=wrong)
    yield Asked("a prompt of a number", "bad", "/api/generate", {"prompt": 5}, refused=wrong)
    yield Asked("no such path", "bad", "/v1/nothing", prompt, refused=(404,))
    yield Asked("no such method", "bad", "/v1/completions", b"", refused=(405,), method="GET")


BAD: Final = tuple(_bad())
