"""The log-probability of every byte of a document, under models and their combinations, by bytes and by tokens.

By bytes
    `ByteLM.byte_logprobs`: the sum over all token sequences that begin with the text.
By tokens
    The log-probability of one of these sequences, the text's canonical tokenization: it is never greater. In the other
    sequences the last token goes beyond the end of the text; over a long text they add almost nothing.
Combinations
    A mixture and bayes are computed from the members' log-probabilities of each byte, and so cost what the members
    cost.
    A product needs whole rows of the members: `Ensemble.byte_logprobs`.
Long documents
    A document longer than a model's context is scored in pieces of ``stride`` bytes, by bytes and by tokens. Each piece
    sees as much of the text before it as the context holds. A token belongs to the piece that holds its last byte.
Cost
    Calls, tokens fed and wall time of each method, from empty caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64

from bytelm import ByteLM, Ensemble
from bytelm.engines.rows import checked_rows
from bytelm.ensemble.combine import Combine, weights_of
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.scheduler import rows_in
from evals.report.clocked import metered


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a document by one method.

    Attributes:
        logprobs: Of each byte, natural logarithms.
        calls: Forward passes.
        fed: Tokens run through the models.
        seconds: Wall time.
    """

    logprobs: Float64[np.ndarray, " n"]
    calls: int
    fed: int
    seconds: float


class Panel:
    """Models and ways to combine them, side by side.

    Args:
        lms: The models by name.
        combine: The formulas.
        weights: Of the models; all alike if not given.
        stride: As for `ByteLM.byte_logprobs`.
    """

    def __init__(
        self,
        lms: dict[str, ByteLM],
        *,
        combine: Sequence[Combine] = (),
        weights: Sequence[float] | None = None,
        stride: int | None = None,
    ) -> None:
        self.lms = lms
        self.combine = tuple(combine)
        self.weights = weights
        self.stride = stride
        for formula in self.combine:
            weights_of(weights, len(lms), formula)  # refused before anything is run

    @property
    def methods(self) -> list[str]:
        """Their names, in the order of the table."""
        return [f"{name}, {way}" for name in self.lms for way in ("tokens", "bytes")] + list(self.combine)

    def scores(self, text: bytes) -> dict[str, Score]:
        """The score of a document by each method.

        Raises:
            UnreachablePrefixError: A model cannot spell it.
        """
        found: dict[str, Score] = {}
        for name, lm in self.lms.items():
            found[f"{name}, tokens"] = self._measured(partial(token_logprobs, lm, text, stride=self.stride))
            found[f"{name}, bytes"] = self._measured(partial(lm.byte_logprobs, text, stride=self.stride))
        members = [found[f"{name}, bytes"] for name in self.lms]
        logprobs = np.array([score.logprobs for score in members])
        for formula in self.combine:
            if formula == "product":
                # Without the mask of contrastive products: under it hardly any text of others is possible.
                whole = Ensemble(list(self.lms.values()), weights=self.weights, combine="product", alpha=0)
                found[formula] = self._measured(partial(whole.byte_logprobs, text, stride=self.stride))
                continue
            found[formula] = Score(
                combined_logprobs(logprobs, weights_of(self.weights, len(members), formula), formula),
                calls=sum(score.calls for score in members),
                fed=sum(score.fed for score in members),
                seconds=sum(score.seconds for score in members),
            )
        return found

    def _measured(self, scored: Callable[[], Float64[np.ndarray, " n"]]) -> Score:
        """The score that a function computes, with its cost from empty caches."""
        with metered(lm.token_lm for lm in self.lms.values()) as used:
            logprobs = scored()
        return Score(logprobs, used.calls, used.fed, used.seconds)


def combined_logprobs(
    members: Float64[np.ndarray, "members n"], weights: Float64[np.ndarray, " members"], combine: Combine
) -> Float64[np.ndarray, " n"]:
    """The log-probability of each byte under a mixture or bayes, from the members' log-probabilities.

    In bayes P(text) = Σ wᵢ Pᵢ(text) for every beginning of the text; the probability of a byte is the quotient of two.
    """
    with np.errstate(divide="ignore"):
        shares = np.log(weights)[:, None]
    if combine == "mixture":
        return np.asarray(np.logaddexp.reduce(shares + members))
    along = np.concatenate([np.zeros((len(members), 1)), members.cumsum(axis=1)], axis=1)
    return np.diff(np.logaddexp.reduce(shares + along))


def token_logprobs(lm: ByteLM, text: bytes, *, stride: int | None = None) -> Float64[np.ndarray, " n"]:
    """The log-probability of a text's canonical tokens; each token's is divided evenly among its bytes.

    Args:
        lm: The model and its tokenizer.
        text: UTF-8.
        stride: As for `ByteLM.byte_logprobs`; the pieces are the same.

    Raises:
        UnreachablePrefixError: The tokenizer does not give the text back.
    """
    vocab = lm.viability.vocab
    ids = vocab.encode(text.decode())
    if lm.spell(ids) != vocab.dummy_prefix + text:
        raise UnreachablePrefixError(f"{lm!r} changes {text[:40]!r}… when it encodes it", prefix=text, position=0)
    ends = np.cumsum([len(vocab.token_bytes[i] or b"") for i in ids]) - len(vocab.dummy_prefix)
    found, prompt = np.zeros(len(text)), lm.prompt(b"")
    place, end, size = 0, 0, rows_in(lm.token_lm.vocab_size)
    for own, piece in lm.pieces(prompt, text, stride):  # those of byte_logprobs
        oldest = int(np.searchsorted(ends, end - len(own.text), side="right")) if len(own.text) < end else 0
        end += len(piece)
        last = int(np.searchsorted(ends, end, side="right"))
        for at in range(place, last, size):
            chunk = range(at, min(at + size, last))
            asked = [own.context + ids[oldest:i] for i in chunk]
            rows = checked_rows(lm.token_lm.next_token_logprobs(asked), len(asked), lm.token_lm.vocab_size)
            for i, row in zip(chunk, rows, strict=True):
                start = int(ends[i - 1]) if i else 0
                # A token that holds nothing but the hidden space counts at the byte behind it.
                found[start : max(int(ends[i]), start + 1)] += float(row[ids[i]]) / max(int(ends[i]) - start, 1)
        place = last
    return found
