"""Tokens that a transformers model draws by its own ``generate``, each sequence from random numbers of its own.

Rules
    ``generate`` draws a batch from one stream of random numbers, so that a sequence's tokens would depend on its
    neighbours. Here it is told to be greedy, and the scores that it is given leave one token: the one that a uniform
    number of that sequence's own falls on, in the softmax of the model's logits, in float64.
    Nothing else happens to the logits: what the model's ``generation_config`` would do to them (penalties, forbidden
    tokens, ends) is put aside while it runs.
    Shorter sequences are padded on the left only where `padded` says that this model is known to look past padding;
    elsewhere those of one length go together.
    All of a batch are fed to the end of its call, those that are done too. So a call ends where the first of them would
    come to the end of the context, and the others begin a new one.

Does not
    Share the engine's cache of keys and values: ``generate`` makes its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from bytelm.engines.row_engine import Room
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.forward import failing, input_device
from bytelm.errors import ModelError
from bytelm.token_lm import Draw, Usage


class Line:
    """A sequence that is generated.

    Attributes:
        ids: Its tokens so far.
        left: How many more may follow; 0 where it is done with.
        cut: Whether it is the context that ends it.
        random: Its own random numbers.
        draw: What was asked for.
    """

    def __init__(self, draw: Draw, room: Room) -> None:
        self.ids = [*room.sequence]
        self.left, self.cut = room.tokens, room.cut
        self.random = np.random.Generator(np.random.Philox(draw.seed))
        self.draw = draw

    def take(self, token: int, logprob: float) -> None:
        """Hand a token on."""
        self.ids.append(token)
        self.left -= 1
        if self.draw.take(token, logprob) is not True:
            self.left, self.cut = 0, False


Run: TypeAlias = Callable[[list[Line]], None]


def generate(model: Any, lines: Sequence[Line], run: Run, *, padded: bool, max_batch: int) -> None:
    """Draw tokens after sequences until all are done with, by a transformers model in evaluation mode.

    Args:
        model: The model.
        lines: The sequences.
        run: One call of ``generate``, on lines that go together.
        padded: Whether sequences of different lengths may go together.
        max_batch: Sequences that go together, at most.

    Raises:
        ModelError: The model failed, or has no ``generate``.
    """
    if not callable(getattr(model, "generate", None)):
        raise ModelError(
            f"{type(model).__name__} has no generate, so it cannot draw tokens itself; pass engine_draws=False, and "
            "leave level out"
        )
    by_length = sorted(lines, key=lambda line: len(line.ids))
    for _, group in groupby(by_length, key=lambda line: padded or len(line.ids)):
        while batch := [*islice(group, max_batch)]:
            while live := [line for line in batch if line.left]:
                run(live)


@dataclass(frozen=True, slots=True)
class Generator:
    """A model and what its ``generate`` may do.

    Attributes:
        model: The model.
        usage: Passes and tokens are counted here.
        context_length: Tokens that the model has positions for.
        cacheable: Tokens up to which keys may be kept; beyond, each step feeds everything. None: there is no limit.
        settle: Called before sequences go beyond that: it has the model forget how long others were.
    """

    model: Any
    usage: Usage
    context_length: int | None
    cacheable: int | None
    settle: Callable[[], None]

    def batch(self, lines: Sequence[Line]) -> Batch:
        """What is fed of some lines, how many tokens may follow them all, and whether keys are kept."""
        width = max(len(line.ids) for line in lines)
        ids = torch.tensor([(*(line.ids[:1] * (width - len(line.ids))), *line.ids) for line in lines])
        mask = torch.tensor([[0] * (width - len(line.ids)) + [1] * len(line.ids) for line in lines])
        most = max(line.left for line in lines)
        most = most if self.context_length is None else min(most, self.context_length + 1 - width)
        cached = self.cacheable is None or width + most <= self.cacheable
        if not cached:
            self.settle()
        return Batch(ids, mask, most, cached)

    def run(self, batch: Batch, **options: Any) -> torch.Tensor:
        """Call ``generate``."""
        device = input_device(self.model)
        with failing(*batch.ids.shape), _unchanged(self.model):
            made: torch.Tensor = self.model.generate(
                batch.ids.to(device),
                attention_mask=batch.mask.to(device),
                max_new_tokens=batch.most,
                use_cache=batch.cached,
                **options,
            )
        return made

    def draw(self, lines: list[Line]) -> None:
        """Draw from the rows as they are, until all lines are done, or the longest of them has no room left."""
        batch, usage = self.batch(lines), self.usage
        if batch.cached:
            usage.tokens_fed += int(batch.mask.sum()) - len(lines)

        def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            """Leave one token of each sequence."""
            usage.calls += 1
            usage.tokens_fed += sum(1 if batch.cached else len(line.ids) for line in lines if line.left > 0)
            logprobs = torch.log_softmax(scores.to("cpu", torch.float64), -1)
            edges = logprobs.exp().cumsum(-1)
            uniforms = torch.tensor([[line.random.random()] for line in lines], dtype=torch.float64) * edges[:, -1:]
            tokens = torch.searchsorted(edges, uniforms, right=True).clamp_(max=scores.shape[-1] - 1)
            if not torch.isfinite(edges[:, -1]).all():
                raise ModelError(
                    "the model's logits are not numbers (NaN or infinite): load it in float32 or bfloat16, or fetch "
                    "it again"
                )
            chosen = logprobs.gather(-1, tokens)
            for line, token, logprob in zip(lines, tokens[:, 0].tolist(), chosen[:, 0].tolist(), strict=True):
                if line.left:
                    line.take(token, logprob)
            return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.to(scores.device), 0.0)

        def over(input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
            return torch.tensor([not line.left for line in lines], device=input_ids.device)

        self.run(
            batch,
            do_sample=False,
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([over]),
        )


class Batch(NamedTuple):
    """The inputs of one call.

    Attributes:
        ids: The sequences, padded on the left.
        mask: 0 where that is padding.
        most: Tokens that may follow.
        cached: Whether keys are kept.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    most: int
    cached: bool


@contextlib.contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """The model with a ``generation_config`` that changes nothing."""
    owner = traits.unwrapped(model)
    kept, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = kept
