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
    In front of a text stands what its tokenizer puts there, as wherever in this library: a text that is scored as a
    whole has what `ByteModel.logprob` gives it. With ``start`` one token stands in front of an empty context and of a
    whole text, as in lm-eval: BOS, or else the end of text (`ByteModel.start_prefix`).

Long texts
    A context that does not fit with its continuation loses its beginning, for all members of an ensemble alike and for
    tokens as for bytes. Before a text is written, room is kept for as many tokens as lm-eval allows it, or half of the
    context; where it is full all the same, writing ends. A text that does not fit is scored in pieces: by bytes as
    `ByteLM.logprob` does with a stride, by tokens in windows as long as the context, which is lm-eval's way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bytelm.byte_lm.model import ByteLM
from bytelm.harness.chat import unpacked
from bytelm.inference.scheduler import Step, together
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.text_stream import text_of
from bytelm.sampling.writing import Generation
from bytelm.token_lm import abilities_of

Scored = tuple[float, bool]


class Requests(ABC):
    """The answers of one model.

    Attributes:
        lm: The model.
        template: The chat template: a name or a template; the tokenizer's own if None.
        start: Whether an empty context gets a start token, as in lm-eval (`ByteModel.start_prefix`).
    """

    lm: ByteModel[Any, Any]
    template: str | None = None
    start: bool = False

    @abstractmethod
    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation ln P(continuation | context), and whether greedy decoding writes it."""

    @abstractmethod
    def rolling(self, text: str) -> Step[float]:
        """Ln P(text)."""

    @abstractmethod
    def written(self, context: str, params: SamplingParams, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context; ``tokens``: for how many room is kept in its own context."""

    def prompt(self, context: str, extra: bytes = b"", *, tokens: int = 0) -> Any:
        """The prompt of a context, without as much of its beginning as leaves no room for what follows."""
        chat, text = unpacked(context)
        goes_on = chat is not None and not chat.opens

        def start(lm: ByteLM) -> Sequence[int | str | bytes]:
            if chat is not None:
                return lm.chat_segments(chat.messages, opens=chat.opens, template=self.template)
            return [b""]

        said = chat.messages[-1]["content"] if chat is not None and goes_on else ""
        opens = self.start and not context
        prefix = self.lm.start_prefix() if opens else self.lm.prefix_with(start, self.lm.bytes_of(said + text))
        prompt = self.lm.prompt(prefix)
        cut = self.lm.overflow(prompt, extra, tokens=tokens)
        return replace(prompt, text=prompt.text[cut:]) if cut else prompt


class ByteRequests(Requests):
    """The answers of a byte model or an ensemble, exact over bytes.

    Args:
        lm: The model.
        stride: Bytes of a piece of a text that does not fit in the context; half as many as the context has tokens if
            not given, which always fit.
    """

    def __init__(self, lm: ByteModel[Any, Any], *, stride: int | None = None) -> None:
        self.lm = lm
        lengths = (abilities_of(engine).context_length for engine in lm.engines)
        sizes = [size for size in lengths if size is not None]
        self._size = min(sizes, default=None)
        self._stride = max(self._size // 2, 1) if stride is None and self._size is not None else stride

    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation ln P(continuation | context), and whether its bytes are the greedy ones."""
        texts = [self.lm.bytes_of(each) for each in continuations]
        prompt = self.prompt(context, max(texts, key=len, default=b""))
        yield from self.lm.warmed(prompt)
        steps: list[Step[Any]] = [self._logprob(prompt, text) for text in texts]
        steps.append(self._greedy(prompt, texts))
        *logprobs, greedy = yield from together(steps)
        return [(logprob, greedy.startswith(text)) for logprob, text in zip(logprobs, texts, strict=True)]

    def rolling(self, text: str) -> Step[float]:
        """Ln P(text)."""
        return (yield from self._logprob(self.prompt(""), self.lm.bytes_of(text)))

    def written(self, context: str, params: SamplingParams, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context."""
        generation = self._generation(self.prompt(context, tokens=tokens), params, random)
        while generation.finish_reason is None:
            yield from generation.step()
        return text_of(bytes(generation.bytes), generation.prompt)

    def _logprob(self, prompt: Any, text: bytes) -> Step[float]:
        # A text of fewer bytes than the context has tokens fits in any case.
        fits = self._size is None or prompt.most_tokens + len(text) <= self._size
        return self.lm.scored(prompt, text, stride=None if fits else self._stride)

    def _greedy(self, prompt: Any, texts: Sequence[bytes]) -> Step[bytes]:
        """What greedy decoding writes, for as long as it is the beginning of one of the texts."""
        params = SamplingParams(temperature=0, max_bytes=max(map(len, texts), default=0))
        generation = self._generation(prompt, params, np.random.default_rng(0))
        while generation.finish_reason is None:
            if not any(len(text) > len(generation.bytes) and text.startswith(generation.bytes) for text in texts):
                break
            yield from generation.step()
        return bytes(generation.bytes)

    def _generation(self, prompt: Any, params: SamplingParams, random: np.random.Generator) -> Generation:
        return self.lm.generation(self.lm.place(prompt), prompt, params, random)
