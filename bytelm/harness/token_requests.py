"""What lm-evaluation-harness asks, answered by tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bytelm.byte_lm.model import ByteLM
from bytelm.errors import InvalidArgumentError
from bytelm.harness.byte_requests import Requests, Scored
from bytelm.healing import completer_at, completer_of
from bytelm.inference.scheduler import Request, Step, rows_in, together
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.params import SamplingParams


class TokenRequests(Requests):
    """The answers of a model over tokens, by the rule of lm-eval's own models: the baseline.

    Args:
        lm: The byte model whose engine, tokenizer and ends of text it has.

    Raises:
        InvalidArgumentError: It is an ensemble, which has no tokens.
    """

    def __init__(self, lm: ByteModel[Any, Any]) -> None:
        if not isinstance(lm, ByteLM):
            raise InvalidArgumentError("the level 'token' is of a single model: an ensemble has no tokens in common")
        self.lm: ByteLM = lm
        self._size = lm.abilities.context_length
        self._completer = completer_of(lm)

    def scored(self, context: str, continuations: Sequence[str]) -> Step[list[Scored]]:
        """For each continuation the log-probability of its tokens, and whether each of them is the likeliest."""
        texts = [self.lm.bytes_of(each).decode() for each in continuations]
        prompt = self.prompt(context, max(texts, key=len, default="").encode())
        completer = completer_at(self.lm, prompt, self._completer)
        given = prompt.text.decode()
        kept = given.rstrip()
        before = completer.context + completer.encode(kept)
        steps = []
        for text in texts:
            whole = completer.context + completer.encode(given + text)
            if len(whole) <= len(before) and text:
                whole = before + self.lm.prompts.encoded(text.encode(), dummy_prefix=False)
            steps.append(self._logprob(whole, len(before)))
        return (yield from together(steps))

    def rolling(self, text: str) -> Step[float]:
        """Ln P of the canonical tokens of a text."""
        completer = completer_at(self.lm, self.prompt(""), self._completer)
        ids = completer.context + completer.encode(self.lm.bytes_of(text).decode())
        return (yield from self._logprob(ids, len(completer.context)))[0]

    def written(self, context: str, params: SamplingParams, random: np.random.Generator, *, tokens: int) -> Step[str]:
        """What the model writes after a context."""
        prompt = self.prompt(context, tokens=tokens)
        completer = completer_at(self.lm, prompt, self._completer)
        done = yield from completer.generation(prompt.text, params, random)
        return done.text

    def _logprob(self, ids: tuple[int, ...], first: int) -> Step[Scored]:
        """Of the tokens from ``first`` on: their log-probability, and whether each is the likeliest."""
        places = token_windows(len(ids), first, self._size)
        total, greedy, size = 0.0, True, rows_in(self.lm.token_lm.vocab_size)
        for start in range(0, len(places), size):
            chunk = places[start : start + size]
            rows = yield Request(tuple(ids[history:at] for history, at in chunk), start / len(places))
            for (_, at), row in zip(chunk, rows, strict=True):
                total += float(row[ids[at]])
                greedy = greedy and int(row.argmax()) == ids[at]
        return total, greedy


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
