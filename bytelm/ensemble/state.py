r"""An ensemble's place in a text, to be moved about, and its completions: as ByteState and Generation for one model.

Rules
    An `EnsembleState` is a value, as a `ByteState` is: `advance` and `rollback` return another one. The places behind
    it hold no rows; those are in the members' bounded stores.
    A completion's log-probability is the ensemble's own: in bayes the difference of two masses, elsewhere the sum over
    its rows, and where not every row was evaluated a score of the whole completion at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, bytes_of, integer, tolerance_of
from bytelm.ensemble.draw import ensemble_row
from bytelm.ensemble.place import EnsemblePlace
from bytelm.errors import InvalidArgumentError
from bytelm.inference.scheduler import Step
from bytelm.symbols import EOT

Answer: TypeAlias = Callable[[Step[Any]], Any]


class EnsembleState:
    """The state of an ensemble after a prefix. `Ensemble.state` makes them.

    Args:
        joint: The members at the place.
        answer: Runs a step on the engines.
        fresh: The members after any shorter or longer shared text, from the beginning.
        past: The place before the last `advance`, without its rows.
    """

    def __init__(
        self,
        joint: EnsemblePlace,
        *,
        answer: Answer,
        fresh: Callable[[bytes], EnsemblePlace],
        past: Past | None = None,
    ) -> None:
        self._joint = joint
        self._answer = answer
        self._fresh = fresh
        self._past = past
        self._bound = 0.0

    @property
    def prefix(self) -> bytes:
        """The bytes that the members share: the byte prefix that the state began with, and what was advanced."""
        return self._joint.prefix

    @property
    def total_variation_bound(self) -> float:
        """How far the last row may be from the exact one in total variation; 0 if all was evaluated."""
        return self._bound

    def advance(self, data: Text) -> EnsembleState:
        """The state with more bytes behind it. A member that cannot spell them is silent from there on."""
        more = bytes_of(data)
        if not more:
            return self
        return self._with(self._joint.advance(more), Past(self._joint.bare(), self._past))

    def rollback(self, n: int) -> EnsembleState:
        """The state n bytes before.

        Raises:
            InvalidArgumentError: There are not so many bytes in the byte prefix.
        """
        length = len(self.prefix) - integer("n", n)
        if n < 0 or length < 0:
            raise InvalidArgumentError(
                f"cannot roll back {n} bytes: the members share {len(self.prefix)}, and prompts of their own stay"
            )
        if n == 0:
            return self
        past = self._past
        while past is not None and len(past.joint.prefix) > length:
            past = past.past
        if past is None:
            return self._with(self._fresh(self.prefix[:length]), None)
        state = self._with(past.joint.copy(), past.past)
        return state.advance(self.prefix[len(past.joint.prefix) : length])

    def next_byte_logprobs(self, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of the 256 bytes and the end of text; see `Ensemble.next_byte_logprobs`."""
        row: Float64[np.ndarray, "257"]
        row, self._bound = self._answer(ensemble_row(self._joint, tol=tolerance_of(tol)))
        return row

    def member_logprobs(self) -> Float64[np.ndarray, "members 257"]:
        """Each member's own row; −∞ throughout for one that cannot spell the text."""
        self._answer(self._joint.evaluate_all())
        rows = [voice.row() if voice.complete else None for voice in self._joint.voices]
        return np.stack([np.full(EOT + 1, np.nan) if row is None else row for row in rows])

    def weights(self) -> Float64[np.ndarray, "members"]:
        """What each member's row counts for here: its weight, or in bayes its posterior weight."""
        if not self._joint.bayes:
            return self._joint.weights.copy()
        self._answer(self._joint.evaluate_all())
        weights: Float64[np.ndarray, " members"] = np.exp(self._joint.log_shares())
        return weights

    @property
    def leak(self) -> float:
        """The mass that neither a byte nor the end of text has: 1 less the sum of the row."""
        return max(0.0, 1.0 - float(np.exp(self.next_byte_logprobs()).sum()))

    def _with(self, joint: EnsemblePlace, past: Past | None) -> EnsembleState:
        return EnsembleState(joint, answer=self._answer, fresh=self._fresh, past=past)

    def __repr__(self) -> str:
        return f"EnsembleState({self.prefix!r})"


class Past:
    """An earlier place, without its rows."""

    __slots__ = ("joint", "past")

    def __init__(self, joint: EnsemblePlace, past: Past | None) -> None:
        self.joint = joint
        self.past = past
