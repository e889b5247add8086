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
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from bytelm.engines.ids import context_full
from bytelm.engines.transformers.forward import failing
from bytelm.errors import ModelError
from bytelm.token_lm import Draw, Usage


def generate(
    model: Any,
    draws: Sequence[Draw],
    *,
    usage: Usage,
    padded: bool,
    max_batch: int,
    context_length: int | None,
) -> None:
    """Draw tokens after sequences until all are done with, by a transformers model in evaluation mode.

    Args:
        model: The model.
        draws: The sequences.
        usage: Passes and tokens are counted here.
        padded: Whether sequences of different lengths may go together.
        max_batch: Sequences that go together, at most.
        context_length: Tokens that the model has positions for.

    Raises:
        ContextOverflowError: A sequence has come to the end of the context.
        ModelError: The model failed, or has no ``generate``.
    """
    if not callable(getattr(model, "generate", None)):
        raise ModelError(
            f"{type(model).__name__} has no generate, so it cannot draw tokens itself; pass engine_draws=False"
        )
    waiting = sorted((_Line(draw, context_length) for draw in draws), key=lambda line: line.length)
    full = False
    while waiting:
        fitting = [line for line in waiting if padded or line.length == waiting[0].length]
        batch = fitting[:max_batch]
        waiting = [line for line in waiting if line not in batch]
        while live := [line for line in batch if line.live]:
            _generate(model, live, usage)
        full |= any(line.full for line in batch)
    if full:
        raise context_full(context_length)


class _Line:
    """A sequence that is generated: how far it may go, and its random numbers."""

    def __init__(self, draw: Draw, context_length: int | None) -> None:
        self.ids = [*draw.sequence]
        self.left = draw.max_tokens
        self.room = self.left if context_length is None else context_length + 1 - len(self.ids)
        self.random = np.random.Generator(np.random.Philox(draw.seed))
        self.live = self.room > 0 and self.left > 0
        self.full = self.room <= 0 < self.left
        self._take = draw.take

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.ids)

    def take(self, token: int, logprob: float) -> None:
        """Hand a token on."""
        goes_on = self._take(token, logprob) is True
        self.ids.append(token)
        self.left, self.room = self.left - 1, self.room - 1
        self.live = goes_on and self.left > 0 and self.room > 0
        self.full = goes_on and self.left > 0 and self.room <= 0


def _generate(model: Any, lines: list[_Line], usage: Usage) -> None:
    """One call: until all lines are done, or one of them has no room left."""
    width = max(line.length for line in lines)
    ids = torch.tensor([(*(line.ids[:1] * (width - line.length)), *line.ids) for line in lines])
    mask = torch.tensor([[0] * (width - line.length) + [1] * line.length for line in lines])
    device = model.get_input_embeddings().weight.device
    usage.tokens_fed += sum(line.length - 1 for line in lines)

    def choose(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave one token of each sequence."""
        usage.calls += 1
        usage.tokens_fed += sum(line.live for line in lines)
        logprobs = torch.log_softmax(scores.to("cpu", torch.float64), -1)
        edges = logprobs.exp().cumsum(-1)
        uniforms = torch.tensor([[line.random.random()] for line in lines], dtype=torch.float64) * edges[:, -1:]
        tokens = torch.searchsorted(edges, uniforms, right=True).clamp_(max=scores.shape[-1] - 1)
        if not torch.isfinite(edges[:, -1]).all():
            raise ModelError("the model's logits are no numbers: load it in float32 or bfloat16, or fetch it again")
        chosen = logprobs.gather(-1, tokens)
        for line, token, logprob in zip(lines, tokens[:, 0].tolist(), chosen[:, 0].tolist(), strict=True):
            if line.live:
                line.take(token, logprob)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.to(scores.device), 0.0)

    def over(input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        return torch.tensor([not line.live for line in lines], device=input_ids.device)

    with failing(*ids.shape), _unchanged(model):
        model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=min(max(line.left for line in lines), *(line.room for line in lines)),
            do_sample=False,
            logits_processor=_listed(LogitsProcessorList, choose),
            stopping_criteria=_listed(StoppingCriteriaList, over),
        )


def _listed(kind: Callable[[list[Any]], Any], function: Callable[..., Any]) -> Any:
    return kind([function])


@contextlib.contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """The model with a ``generation_config`` that changes nothing."""
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = kept
