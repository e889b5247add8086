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

from bytelm.arguments import bytes_of
from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompt, Prompts, extended
from bytelm.ensemble.model import Ensemble, engines_of
from bytelm.ensemble.place import EnsemblePlace, ModelPlace
from bytelm.harness.chat import segments, unpacked
from bytelm.inference.frontier import Frontier
from bytelm.inference.scheduler import Step, together
from bytelm.inference.scoring import SPARE, token_ends
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.completion import Settings
from bytelm.sampling.filters import Filters
from bytelm.sampling.text_stream import text_of
from bytelm.symbols import character_from

Scored = tuple[float, bool]


class Requests(ABC):
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


class ByteRequests(Requests):
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
        lm: ByteModel = self.lm
        place = lm._placed(prompt, lm._spelled(prompt))  # noqa: SLF001 - one with sampling/byte_model.py
        return lm._writing(place, prompt, settings, random)  # noqa: SLF001 - likewise


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


def longest(prompt: Prompt | EnsemblePrompt) -> int:
    """Tokens that a prompt has at most: one for each byte, beside those in front of it."""
    if isinstance(prompt, EnsemblePrompt):
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
    return min(character_from(prompt.text, cut), len(prompt.text))


def room(lm: ByteLM | Ensemble, place: Frontier | EnsemblePlace | ModelPlace) -> int | float:
    """How many more tokens a model's context holds at a place."""
    if isinstance(place, EnsemblePlace) and isinstance(lm, Ensemble):
        return min(room(member, voice) for member, voice in zip(lm.members, place.voices, strict=True))
    frontier = place.frontier if isinstance(place, ModelPlace) else place
    size = context_length(lm.token_lm) if isinstance(lm, ByteLM) else None
    if size is None or not isinstance(frontier, Frontier):
        return math.inf
    return size - len(frontier.context) - max(node.depth for node in frontier.nodes)
