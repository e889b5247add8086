"""Tokens that a transformers model draws by its own ``generate``, each sequence from random numbers of its own.

Rules
    ``generate`` draws a batch from one stream of random numbers, so that a sequence's tokens would depend on its
    neighbours. Here it is told to be greedy, and the scores that it is given leave one token: the one that a uniform
    number of that sequence's own falls on, in the softmax of the model's logits, in float64.
    Nothing else happens to the logits: what the model's ``generation_config`` would do to them (penalties, forbidden
    tokens, ends) is put aside while it runs.
    Shorter sequences are padded on the left only where `padded` says that this model is known to look past padding;
    elsewhere those of one length go together.

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

from bytelm.engines.forward import failing
from bytelm.engines.traits import context_full
from bytelm.errors import ModelError
from bytelm.token_lm import Take, Usage


def generate(
    model: Any,
    sequences: Sequence[tuple[int, ...]],
    *,
    seeds: Sequence[int],
    max_tokens: Sequence[int],
    take: Take,
    usage: Usage,
    padded: bool,
    max_batch: int,
    context_length: int | None,
) -> None:
    """`TokenDrawer.draw_tokens` for a transformers model in evaluation mode.

    Args:
        model: The model.
        sequences: Token ids, at least one each.
        seeds: As `TokenDrawer.draw_tokens` has them.
        max_tokens: The same.
        take: The same.
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
            f"{type(model).__name__} has no generate, so it cannot draw tokens itself; pass handover=False"
        )
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    full: list[int] = []
    while order:
        length = len(sequences[order[0]])
        batch = [i for i in order if padded or len(sequences[i]) == length][:max_batch]
        order = [i for i in order if i not in set(batch)]
        lines = [
            _Line(
                i, max_tokens[i], None if context_length is None else context_length + 1 - len(sequences[i]), seeds[i]
            )
            for i in batch
        ]
        _generate(model, [sequences[i] for i in batch], lines, take, usage)
        full += [line.index for line in lines if line.full]
    if full:
        raise context_full(context_length)


class _Line:
    """A sequence that is generated: how far it may go, and its random numbers."""

    def __init__(self, index: int, most: int, room: int | None, seed: int) -> None:
        self.index = index
        self.left = most
        self.room = most if room is None else room
        self.random = np.random.Generator(np.random.Philox(seed))
        self.live = self.room > 0 and most > 0
        self.full = self.room <= 0 < most

    def took(self, *, goes_on: bool) -> None:
        """Count a token."""
        self.left, self.room = self.left - 1, self.room - 1
        self.live = goes_on and self.left > 0 and self.room > 0
        self.full = goes_on and self.left > 0 and self.room <= 0


def _generate(model: Any, sequences: Sequence[tuple[int, ...]], lines: list[_Line], take: Take, usage: Usage) -> None:
    if not any(line.live for line in lines):
        return
    width = max(map(len, sequences))
    ids = torch.tensor([(*(sequence[:1] * (width - len(sequence))), *sequence) for sequence in sequences])
    mask = torch.tensor([[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences])
    device = model.get_input_embeddings().weight.device
    usage.tokens_fed += sum(map(len, sequences)) - len(lines)

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
                line.took(goes_on=take(line.index, token, logprob))
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.to(scores.device), 0.0)

    def over(input_ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
        return torch.tensor([not line.live for line in lines], device=input_ids.device)

    with failing(*ids.shape), _unchanged(model):
        model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max(min(line.left, line.room) for line in lines if line.live),
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
