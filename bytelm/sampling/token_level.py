r"""Completions of ``level="token"``: exact at the prompt's end, and from there the engine's own sampler writes.

Theory of operation
    A member of the prompt's cover is drawn: at temperature T with P(t | c)^(1/T) / Σ P(t' | c)^(1/T), at 0 the
    likeliest. Then the prompt is a token sequence that ends at or beyond its last byte, and nothing is left of the
    boundary: the engine's sampler goes on from there with its own temperature, filters, penalties and whatever else
    it has, as it does for anyone. What the member has beyond the prompt is the beginning of the answer.

The law
    A text's probability is the sum over the members, and over the token sequences that spell the text after each, of
    the member's probability and of the engine's for those tokens.
    At temperature 1 with nothing else set, that is P(text | prompt) of the byte law, and in addition what the model
    gives to token sequences that no text emits (leak). At level "byte" and in token_draws.py leak is drawn anew; here
    such tokens are written as they come. So the two laws differ in total variation by no more than the probability
    that a text of the engine's has leak.
    Otherwise it is another law than that of the same numbers over bytes. Temperature and filters are taken token by
    token: of a first byte that many tokens share, each unlikely, top-p may keep none. The member is tempered, and not
    filtered. docs/engines_draws.md has how far the two laws are apart on a real model.

What the engine writes
    A token's bytes are what the vocabulary says. An id that ends a text ends it. Any other special token, and an id
    that no token has, spells nothing: it is left out of the text, and what follows it stays. So text never comes from a
    special token, nor a special token from text.
    The text is cut at ``max_bytes`` and before a stop string, in bytes, in the middle of a token too. The engine is
    told to stop with the token that brings it there. As each token of a text has a byte, it is never given more tokens
    than there may be bytes; special tokens count among these.
    Where the engine ends by a rule that the caller gave it, such as a stopping criterion, the finish reason is "stop".
    An empty prompt without BOS: its cover is the empty sequence. The first token is the engine's after its start
    symbol, the others after the text alone, as everywhere (`ByteModel.logprob`).

Numbers
    No log-probability is given: the lemma's takes rows along the text, and what the engine knows of its tokens is the
    probability of one spelling, filtered.
    Member and engine draw from the item's random numbers, (seed, i): a seed for the engine is one of them. On the same
    engine the same call gives the same texts. transformers has one stream of random numbers for all that it generates
    together: there an item of a batch depends on its company.

Cost
    The rows of the prompt's cover, one call; a transformers model goes on from the keys that this left behind.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from bytelm.errors import InvalidArgumentError
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Step, on
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.posterior import at_temperature
from bytelm.sampling.writing import Writing
from bytelm.token_lm import TokenLM, TokenSampler, TokenSampling, abilities_of
from bytelm.tokenizer.viability.viability import Viability

WITH_SAMPLERS: Final = "transformers, llama-cpp, vllm and vllm-server"


def sampler_for(
    params: SamplingParams, token_lm: TokenLM, eot_ids: frozenset[int]
) -> tuple[TokenSampler, TokenSampling]:
    """The engine, and how its own sampler is to write.

    Raises:
        InvalidArgumentError: It has no sampler of its own, or not such options.
    """
    sampler = abilities_of(token_lm).sampler
    if sampler is None:
        raise InvalidArgumentError(
            f"level='token' needs an engine with a sampler of its own; {type(token_lm).__name__} has none (engines "
            f"with one: {WITH_SAMPLERS}): leave level out"
        )
    filters = params.filters
    sampling = TokenSampling(
        temperature=float(filters.temperature),
        top_k=filters.top_k,
        top_p=None if filters.top_p is None else float(filters.top_p),
        min_p=None if filters.min_p is None else float(filters.min_p),
        eot_ids=eot_ids,
        options=dict(params.engine_options or {}),
    )
    sampler.check_sampling(sampling)
    return sampler, sampling


class TokenLevel(Writing):
    """A completion of one byte model that its engine's own sampler writes.

    Args:
        place: At the end of the prompt; completions may share it.
        viability: Of the tokenizer.
        params: How the member is drawn, and when to end.
        sampling: How the engine draws.
        random: The item's random numbers.

    Attributes:
        sampling: How the engine draws.
        seed: Of the engine's draws.
    """

    guess: tuple[int, ...] = ()  # nothing is drawn that may not be needed

    def __init__(
        self,
        place: ModelPlace,
        viability: Viability,
        params: SamplingParams,
        sampling: TokenSampling,
        random: np.random.Generator,
    ) -> None:
        super().__init__(params)
        self.finish_reason = None if params.max_bytes else "length"
        self._prompt = place.frontier
        self.prompt = place.prefix
        self.sampling = sampling
        self._token_lm, self._since = place.token_lm, place.since
        self._viability = viability
        self._params = params
        self._random = random
        self._ids: list[int] | None = None  # the tokens so far, once a member is drawn
        self._begun: Any = None  # the boundary before the first token, where that is still to come
        self._rest = b""  # what the next tokens spell and the text does not have: a hidden leading space
        self._left = 0  # tokens that may follow
        self.seed = 0

    # ---- what the engine is asked

    @property
    def sequence(self) -> tuple[int, ...]:
        """What the engine goes on from."""
        return (*self._prompt.context, *(self._ids or ()))

    @property
    def room(self) -> int:
        """Tokens that it may draw."""
        return self._left if self.sequence else 1

    def take(self, token: int, _: float) -> bool:
        """Append a token that the engine has drawn. False where it is to draw no more, or to begin anew."""
        alone = not self.sequence
        if token in self.sampling.eot_ids:
            self.finish_reason = "eot"
        else:
            self._append(token)
        return self.finish_reason is None and not alone

    def stop(self) -> None:
        """End it: the engine has, by a rule of the caller's, or nobody reads it any more."""
        self.finish_reason = self.finish_reason or "stop"

    def _append(self, token: int) -> None:
        vocab, data = self._viability.vocab, b""
        if token < len(vocab):
            data = vocab.token_bytes[token] or b""
            if self._begun is not None:
                data = self._viability.spelled(self._begun, token)
        self._begun = None
        if self._ids is not None:
            self._ids.append(token)
        self._left -= 1
        if self._rest and data:
            rest, self._rest = self._rest, b""
            if rest.startswith(data):
                self._rest, data = rest[len(data) :], b""
            data = data.removeprefix(rest)
        self._write(data)
        if self._left <= 0:
            self.finish_reason = self.finish_reason or "length"

    def _write(self, data: bytes) -> None:
        for byte in data:
            if self.finish_reason is None:
                self.write(byte)

    # ---- steps

    def next(self) -> Step[Completion | None]:
        """Draw what the engine is to go on from; or, where the text has ended, the completion."""
        return on(self._token_lm, self._next(), self._since)

    def _next(self) -> Step[Completion | None]:
        if self.finish_reason is None:
            if self._ids is None:
                yield from self._begin()
            self.seed = int(self._random.integers(2**63))
        return None if self.finish_reason is None else self.written(None, self.prompt, JobUsage())

    def _begin(self) -> Step[None]:
        """Draw a member of the cover, and write what it has beyond the prompt."""
        place = self._prompt
        size = abilities_of(self._token_lm).context_length or sys.maxsize
        if place.opening:
            node: Any = place.nodes[0]
            self._ids, self._begun, self._rest = [], node.boundary, place.cover.leftover(node)
        else:
            member = yield from at_temperature(place, self.sampling.temperature, self._random)
            self._ids = [*member.token_ids]
            if member.token is not None:
                beyond = place.cover.follows(member.node, member.token)
                self._write(beyond[len(place.cover.leftover(member.node)) :])
        most = self._params.max_bytes - len(self.bytes) + len(self._rest)
        self._left = min(most, size + 1 - len(self.sequence))
        if self._left <= 0:
            self.finish_reason = self.finish_reason or "length"
