"""An ensemble's place in a text, to be moved about: a `ByteState` that also says what each member has to say there."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from bytelm.ensemble.place import EnsemblePlace
from bytelm.inference.turns import TURN
from bytelm.sampling.state import ByteState
from bytelm.symbols import SYMBOLS


class EnsembleState(ByteState[EnsemblePlace]):
    """The state of an ensemble after a prefix. `Ensemble.state` makes them.

    A member that cannot spell the advanced bytes has no say from there on.
    """

    def member_logprobs(self) -> Float64[np.ndarray, "members 257"]:
        """Each member's own row; −∞ throughout for one that cannot spell the text, NaN for one of weight 0."""
        self._asked(lambda place: place.evaluate_all())
        rows = np.full((len(self.place.weights), SYMBOLS), -np.inf)
        with TURN:
            for i, member in self.place.members.items():
                rows[i] = member.row() if member.complete else np.nan
        return rows

    def weights(self) -> Float64[np.ndarray, "members"]:
        """The weight of each member's row here; in bayes its posterior weight."""
        if not self.place.bayes:
            return np.array(self.place.weights)
        self._asked(lambda place: place.evaluate_all())
        weights: Float64[np.ndarray, " members"] = np.exp(self.place.log_shares())
        return weights
