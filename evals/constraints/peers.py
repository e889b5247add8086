"""Other programs that write under a constraint, greedily on the same model, for evals/constraints/__main__.py.

*llguidance*: its masks over the model's own tokens, from its public interface for tokenizers of transformers. Tokens
that are the only way on are appended without a model call, as its documentation advises. The prompt is encoded by
itself, as is usual over tokens. The grammars are those of `bytelm.constraints`, so white space in JSON is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from bytelm import ByteLM, Constraint, constraints
from bytelm.constraints import Choice, Grammar


@dataclass(frozen=True, slots=True)
class Written:
    """What a peer wrote.

    Attributes:
        bytes: All of it.
        finish: As `Completion.finish_reason`; ``"stuck"`` where no token may follow and the text may not end.
    """

    bytes: bytes
    finish: Literal["eot", "stop", "length", "stuck"]


class Llguidance:
    """llguidance over the tokens of a model."""

    def __init__(self, lm: ByteLM) -> None:
        from llguidance.hf import from_tokenizer

        self._lm = lm
        ends = sorted(lm.eot_ids) or None
        self._tokenizer = from_tokenizer(lm.tokenizer, n_vocab=lm.token_lm.vocab_size, eos_token=ends)

    def complete(self, constraint: Constraint, prompt: str, size: int) -> Written:
        """Greedy tokens, until the text is finished or has so many bytes."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar_of(constraint), log_level=0)
        before = [*self._lm.prompt(b"").context, *self._lm.viability.vocab.encode(prompt)]
        new: list[int] = []
        while not matcher.is_stopped():
            if len(written := self._tokenizer.decode_bytes(new)) >= size:
                return Written(written, "length")
            tokens = matcher.compute_ff_tokens() or [self._likeliest(matcher, [*before, *new])]
            if tokens[0] in self._lm.eot_ids:
                return Written(written, "eot")
            if not matcher.consume_tokens(tokens):
                break
            new += tokens
        return Written(self._tokenizer.decode_bytes(new), "stuck" if matcher.is_error() else "stop")

    def _likeliest(self, matcher: Any, ids: list[int]) -> int:
        """The likeliest token of those that are allowed."""
        (row,) = self._lm.token_lm.next_token_logprobs([ids])
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=len(row), bitorder="little").view(np.bool_)
        return int(np.where(mask, row, -np.inf).argmax())


def grammar_of(constraint: Constraint) -> str:
    """A constraint in llguidance's own form.

    >>> grammar_of(constraints.choice(["a", "b"])) == grammar_of(constraints.regex("a|b"))
    True
    """
    match constraint:
        case Grammar():
            return constraint.grammar
        case Choice():
            return constraints.regex("|".join(re.escape(text.decode()) for text in constraint.options)).grammar
        case _:
            raise TypeError(f"llguidance knows no {type(constraint).__name__}")


PEERS: Final[dict[str, Callable[[ByteLM], Any]]] = {"llguidance": Llguidance}
