"""Which models of transformers are refused by what they are: their rows would be no next-token probabilities.

Rules
    By the name of the class for other heads, as transformers names them; by the shape of what a pass returns for a head
    that has another name; by comparing rows for a model that looks ahead, whatever it is called (modes.py).
    Every error names the class and says what to pass instead.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from bytelm.engines.transformers.traits import unwrapped
from bytelm.errors import ModelError

INSTEAD: Final = "pass a causal language model, as transformers' AutoModelForCausalLM loads it"
# What follows "For" in the name of a class, and what such a head scores.
_HEADS: Final = {
    "MaskedLM": "the tokens under masks, with a look at those behind them",
    "PreTraining": "the tasks of its pre-training",
    "NextSentencePrediction": "pairs of sentences",
    "SequenceClassification": "whole texts by class",
    "TokenClassification": "each token by class",
    "QuestionAnswering": "where an answer begins and ends",
    "QuestionAnsweringSimple": "where an answer begins and ends",
    "MultipleChoice": "choices",
}
# Language models by their names that look both ways unless they are given permutations or flags with each call.
_BOTH_WAYS: Final = ("XLNetLMHeadModel",)


def check_head(model: Any) -> None:
    """Refuse a model whose class says that it predicts something else than the next token.

    Raises:
        ModelError: It does.
    """
    core = unwrapped(model)
    name = type(core).__name__
    if getattr(core.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder, not a causal language model; {INSTEAD}")
    if name in _BOTH_WAYS:
        raise ModelError(f"{name} sees later tokens too, so it has no next-token rows; {INSTEAD}")
    _, for_, head = name.rpartition("For")
    if for_ and head in _HEADS:
        raise ModelError(f"{name} scores {_HEADS[head]}, not the next token; {INSTEAD}")


def logits_of(model: Any, output: Any, tokens: int) -> torch.Tensor:
    """The logits of a pass over rows of so many tokens: one row of columns for each place in each of them.

    Raises:
        ModelError: There are none.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{type(unwrapped(model)).__name__} returns no logits; {INSTEAD}")
    if logits.ndim != 3 or logits.shape[1] < tokens:
        raise ModelError(
            f"{type(unwrapped(model)).__name__} returns logits of shape {tuple(logits.shape)}, which is not one row "
            f"for each of {tokens} token(s); {INSTEAD}"
        )
    return logits


def denies_causality(model: Any) -> bool:
    """Whether a model's configuration says that it looks both ways. Some that do not say so too: GPT-NeoX."""
    return any(getattr(unwrapped(model).config, name, None) is False for name in ("is_decoder", "causal"))


def looks_ahead(model: Any, change: float) -> ModelError:
    """The error about a model in which a later token changes an earlier row by ``change`` nats."""
    core = unwrapped(model)
    advice = INSTEAD
    if getattr(core.config, "is_decoder", None) is False:
        advice += "; a model of BERT's kind looks back only where its configuration says is_decoder=True"
    return ModelError(
        f"{type(core).__name__} is not a causal language model: a token changes the row of an earlier place by "
        f"{change:.2g} nats; {advice}"
    )
