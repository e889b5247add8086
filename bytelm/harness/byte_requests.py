r"""What an evaluation harness asks of a model, answered by bytes or by tokens on the same engine.

Rules
    There are three questions: how likely continuations of a context are, and whether each is what greedy decoding
    writes (`scored`); how likely a text is (`rolling`); and what the model writes after a context (`written`). Each
    answer is a step (inference/scheduler.py), so many run together.
    The continuations of one context are one step: what they share is evaluated once.
    *By bytes*, ln P(continuation | context) is that of the byte model, for the very bytes given: no white space changes
    sides, and no token has to end where the context does.
    *By tokens* it is lm-eval's own rule: white space at the context's end counts to the continuation; the context and
    the two together are encoded, and the tokens beyond as many as the context has are scored. Where a token spans the
    join, that leaves none, and lm-eval's models stop; here the continuation is then encoded by itself.
    In front of a text stands what its tokenizer puts there. In front of an empty context and of a text that is scored
    as a whole stands one token, as in lm-eval: BOS, or else the end of text.

Long texts
    A context that does not fit with its continuation loses its beginning, for all members of an ensemble alike and for
    tokens as for bytes. Before a text is written, room is kept for as many tokens as lm-eval allows it, or half of the
    context; where it is full all the same, writing ends. A text that does not fit is scored in pieces: by bytes as
    `ByteLM.logprob` does with a stride, by tokens in windows as long as the context, which is lm-eval's way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bytelm.arguments import bytes_of, integer
from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import JointPrompt, Prefix, Prompt, Prompts, extended
from bytelm.ensemble.model import Ensemble, engines_of
from bytelm.ensemble.place import Joint, Solo
from bytelm.errors import InvalidArgumentError
from bytelm.harness.chat import segments, unpacked
from bytelm.healing import completer_at, completer_of
from bytelm.inference.frontier import Frontier
from bytelm.inference.scheduler import Request, Step, rows_in, together
from bytelm.inference.scoring import SPARE, token_ends
from bytelm.sampling.byte_model import Completing
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import Settings
from bytelm.sampling.text_stream import text_of

Scored = tuple[float, bool]


class Answers(ABC):
    """The answers of one model.

    Attributes:
        lm: The model.
        template: The chat template: a name or a template; the tokenizer's own if None.
    """

    lm: ByteLM | Ensemble
    template: str | None = None

    @abstractmethod
    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation ln P(continuation | context), and whether greedy decoding writes it."""

    @abstractmethod
    def rolling(self, text: str) -> Step[float]:
        """Ln P(text)."""

    @abstractmethod
    def written(self, context: str, settings: Settings, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context; ``tokens``: for how many room is kept in its own context."""

    def prompt(self, context: str, extra: bytes = b"", *, tokens: int = 0) -> Any:
        """The prompt of a context, without as much of its beginning as leaves no room for what follows."""
        lm, (chat, text) = self.lm, unpacked(context)
        data = self.data(text)

        def head(member: ByteLM | Ensemble) -> Prefix:
            if isinstance(member, Ensemble):
                return Prompts([head(each) for each in member.members])
            if chat is not None:
                return segments(member.tokenizer, member.viability.vocab, chat, self.template)
            start = None if text else start_id(member)
            return b"" if start is None else [start, b""]

        prompt: Any = extended(lm._read(head(lm)), data)  # noqa: SLF001 - one with sampling/byte_model.py
        cut = oldest(lm, prompt, extra, tokens)
        return replace(prompt, text=prompt.text[cut:]) if cut else prompt

    def data(self, text: str) -> bytes:
        """The bytes of a text, in the normal form of every member that asks for one."""
        data = bytes_of(text)
        for member in leaves(self.lm):
            data = member._prompts.bytes_of(data)  # noqa: SLF001 - one with cover/prefix.py
        return data


class ByteAnswers(Answers):
    """The answers of a byte model or an ensemble, exact over bytes.

    Args:
        lm: The model.
        stride: Bytes of a piece of a text that does not fit in the context; half as many as the context has tokens if
            not given, which always fit.
    """

    def __init__(self, lm: ByteLM | Ensemble, *, stride: int | None = None) -> None:
        self.lm = lm
        sizes = [size for engine in engines_of(lm) if (size := context_length(engine)) is not None]
        self._size = min(sizes, default=None)
        self._stride = max(self._size // 2, 1) if stride is None and self._size is not None else stride

    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation ln P(continuation | context), and whether its bytes are the greedy ones."""
        texts = [self.data(each) for each in continuations]
        prompt = self.prompt(context, max(texts, key=len, default=b""))
        if isinstance(self.lm, Ensemble):
            # What the context counts for in bayes is needed by all that follows.
            weights = self.lm._weights  # noqa: SLF001 - one with ensemble/model.py
            asked = range(len(self.lm.members)) if callable(weights) else np.flatnonzero(weights).tolist()
            yield from self.lm._likelihoods(prompt, asked)  # noqa: SLF001 - likewise
        steps: list[Step[Any]] = [self._logprob(prompt, text) for text in texts]
        steps.append(self._greedy(prompt, texts))
        *logprobs, greedy = yield from together(steps)
        return [(logprob, greedy.startswith(text)) for logprob, text in zip(logprobs, texts, strict=True)]

    def rolling(self, text: str) -> Step[float]:
        """Ln P(text)."""
        return (yield from self._logprob(self.prompt(""), self.data(text)))

    def written(self, context: str, settings: Settings, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context."""
        writing = self._writing(self.prompt(context, tokens=tokens), settings, random)
        while writing.finish_reason is None and room(self.lm, writing.frontier) > 0:
            yield from writing.step()
        return text_of(bytes(writing.bytes), writing.prompt)

    def _logprob(self, prompt: Any, text: bytes) -> Step[float]:
        lm, size = self.lm, self._size
        # A text of fewer bytes than the context has tokens fits in any case.
        stride = self._stride if size is not None and longest(prompt) + len(text) > size else None
        if isinstance(lm, Ensemble):
            return lm._logprob(prompt, text, stride=stride)  # noqa: SLF001 - one with ensemble/model.py
        return lm._scored(prompt, text, eot=False, stride=stride)  # noqa: SLF001 - one with byte_lm/model.py

    def _greedy(self, prompt: Any, texts: Sequence[bytes]) -> Step[bytes]:
        """What greedy decoding writes, for as long as it is the beginning of one of the texts."""
        settings = Settings(Filters(temperature=0.0), max_bytes=max(map(len, texts), default=0))
        writing = self._writing(prompt, settings, np.random.default_rng(0))
        while writing.finish_reason is None and room(self.lm, writing.frontier) > 0:
            if not any(len(text) > len(writing.bytes) and text.startswith(writing.bytes) for text in texts):
                break
            yield from writing.step()
        return bytes(writing.bytes)

    def _writing(self, prompt: Any, settings: Settings, random: np.random.Generator) -> Any:
        lm: Completing = self.lm
        place = lm._placed(prompt, lm._spelled(prompt))  # noqa: SLF001 - one with sampling/byte_model.py
        return lm._writing(place, prompt, settings, random)  # noqa: SLF001 - likewise


class TokenAnswers(Answers):
    """The answers of a model over tokens, by the rule of lm-eval's own models: the baseline.

    Args:
        lm: The byte model whose engine, tokenizer and ends of text it has.

    Raises:
        InvalidArgumentError: It is an ensemble, which has no tokens.
    """

    def __init__(self, lm: ByteLM | Ensemble) -> None:
        if isinstance(lm, Ensemble):
            raise InvalidArgumentError("the level 'token' is of a single model: an ensemble has no tokens in common")
        self.lm: ByteLM = lm
        self._completer = completer_of(lm)

    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation the log-probability of its tokens, and whether each of them is the likeliest."""
        texts = [self.data(each).decode() for each in continuations]
        prompt = self.prompt(context, max(texts, key=len, default="").encode())
        completer = completer_at(self.lm, prompt, self._completer)
        given = prompt.text.decode()
        kept = given.rstrip()
        before = completer.context + completer.encode(kept)
        steps = []
        for text in texts:
            whole = completer.context + completer.encode(given + text)
            if len(whole) <= len(before) and text:
                whole = before + self.lm._prompts.encoded(text.encode(), lead=False)  # noqa: SLF001 - one with cover/prefix.py
            steps.append(self._logprob(whole, len(before)))
        return (yield from together(steps))

    def rolling(self, text: str) -> Step[float]:
        """Ln P of the canonical tokens of a text."""
        completer = completer_at(self.lm, self.prompt(""), self._completer)
        ids = completer.context + completer.encode(self.data(text).decode())
        return (yield from self._logprob(ids, len(completer.context)))[0]

    def written(self, context: str, settings: Settings, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context."""
        if settings.filters != Filters(temperature=settings.filters.temperature):
            raise InvalidArgumentError(
                "the level 'token' draws with a temperature alone: leave out top_k, top_p and min_p"
            )
        prompt = self.prompt(context, tokens=tokens)
        completer = completer_at(self.lm, prompt, self._completer)
        done = yield from completer.writing(
            prompt.text, "none", settings.max_bytes, settings.filters.temperature, settings.stops, random
        )
        return done.text

    def _logprob(self, ids: tuple[int, ...], first: int) -> Step[Scored]:
        """Of the tokens from ``first`` on: their log-probability, and whether each is the likeliest."""
        places = token_windows(len(ids), first, context_length(self.lm.token_lm))
        total, greedy, size = 0.0, True, rows_in(self.lm.token_lm.vocab_size)
        for start in range(0, len(places), size):
            chunk = places[start : start + size]
            rows = yield Request(tuple(ids[history:at] for history, at in chunk), start / len(places))
            for (_, at), row in zip(chunk, rows, strict=True):
                total += float(row[ids[at]])
                greedy = greedy and int(row.argmax()) == ids[at]
        return total, greedy


def answers_of(lm: ByteLM | Ensemble, level: str, *, stride: int | None = None) -> Answers:
    """The answers of a model at a level.

    Raises:
        InvalidArgumentError: There is no such level, or the model has no tokens.
    """
    if stride is not None and integer("stride", stride) < 1:
        raise InvalidArgumentError(f"stride counts bytes and must be at least 1; got {stride}")
    check_level(level)
    return ByteAnswers(lm, stride=stride) if level == "byte" else TokenAnswers(lm)


def check_level(level: object) -> None:
    """Refuse a level that there is not.

    Raises:
        InvalidArgumentError: It is neither of the two.
    """
    if level not in ("byte", "token"):
        raise InvalidArgumentError(f"level is 'byte' or 'token'; got {level!r}")


def leaves(lm: ByteLM | Ensemble) -> list[ByteLM]:
    """The byte models that a model consists of."""
    return [lm] if isinstance(lm, ByteLM) else [leaf for member in lm.members for leaf in leaves(member)]


def start_id(lm: ByteLM) -> int | None:
    """The token in front of an empty context: BOS, or else the end of text."""
    for name in ("bos_token_id", "eos_token_id"):
        if (found := getattr(lm.tokenizer, name, None)) is not None and found < lm.token_lm.vocab_size:
            return int(found)
    return min(lm.eot_ids, default=None)


def context_length(engine: Any) -> int | None:
    """How many tokens an engine takes, if it says so."""
    return getattr(engine, "context_length", None)


def longest(prompt: Prompt | JointPrompt) -> int:
    """Tokens that a prompt has at most: one for each byte, beside those in front of it."""
    if isinstance(prompt, JointPrompt):
        return max(map(longest, prompt.members)) + len(prompt.text)
    return len(prompt.context) + len(prompt.text)


def oldest(lm: ByteLM | Ensemble, prompt: Any, extra: bytes, tokens: int) -> int:
    """How many bytes of a prompt's text have to go, so that the rest fits in the context with what follows.

    Args:
        lm: The model.
        prompt: Read by it.
        extra: Text that follows.
        tokens: Tokens that follow it.
    """
    if isinstance(lm, Ensemble):
        cuts = []
        for member, own in zip(lm.members, prompt.members, strict=True):
            cut = oldest(member, extended(own, prompt.text), extra, tokens)
            cuts.append(min(max(cut - len(own.text), 0), len(prompt.text)))
        return max(cuts)
    size, whole = context_length(lm.token_lm), prompt.text + extra
    if size is None:
        return 0
    tokens = min(tokens, size // 2)
    if len(prompt.context) + len(whole) + tokens <= size:
        return 0
    room = size - len(prompt.context) - tokens
    room -= min(SPARE, max(room, 0) // 8)
    ends = token_ends(lm._cover(replace(prompt, text=whole)))  # noqa: SLF001 - one with byte_lm/model.py
    if len(ends) <= room:
        return 0
    cut = ends[len(ends) - room - 1] if room > 0 else len(prompt.text)
    while cut < len(prompt.text) and prompt.text[cut] & 0xC0 == 0x80:
        cut += 1
    return min(cut, len(prompt.text))


def room(lm: ByteLM | Ensemble, place: Frontier | Joint | Solo) -> int | float:
    """How many more tokens a model's context holds at a place."""
    if isinstance(place, Joint) and isinstance(lm, Ensemble):
        return min(room(member, voice) for member, voice in zip(lm.members, place.voices, strict=True))
    frontier = place.frontier if isinstance(place, Solo) else place
    size = context_length(lm.token_lm) if isinstance(lm, ByteLM) else None
    if size is None or not isinstance(frontier, Frontier):
        return math.inf
    return size - len(frontier.context) - max(node.depth for node in frontier.nodes)


def token_windows(length: int, first: int, size: int | None) -> list[tuple[int, int]]:
    """For each token from ``first`` on where what it is given begins, and its place.

    In a context of ``size`` tokens: the first window is what fits, each one after it has as many new tokens as fit, or
    those that are left and the longest history.

    >>> token_windows(5, 1, 3)
    [(0, 1), (0, 2), (0, 3), (1, 4)]
    """
    if size is None:
        return [(0, at) for at in range(first, length)]
    end = min(length, max(first, size + 1))
    start = max(0, end - 1 - size)
    out = [(start, at) for at in range(first, end)]
    while end < length:
        start, end = end, min(end + size, length)
        out += [(max(0, end - 1 - size), at) for at in range(start, end)]
    return out
