"""Temperature, top-k, top-p and min-p on the 257 symbols: the distribution that the sampler draws from.

Rules, in this order, on the masses p(0) … p(255), p(256 = end of text), of which only the proportions matter
    temperature T   q = p^(1/T), normalised. T = 0 is greedy: all of it on the likeliest symbol.
    top-k           keep the k likeliest symbols.
    top-p           with q normalised over what is kept: keep the fewest likeliest symbols that hold at least top_p.
    min-p           keep the symbols with q ≥ min_p · max q.
    Normalising p removes the leak: what the sampler draws is a symbol, given that there is one.

Ties
    Masses that agree to 12 digits are tied, and the lower symbol is the likelier of two that are tied: a sum of
    floating-point numbers cannot tell them apart, and the answer must not depend on the order of summation.

Source
    The order is that of transformers' ``generate``. There the same filters act on tokens, here on bytes: top_k=50 is
    narrow for 49152 tokens and wide for 257 symbols, and a temperature per byte is not the same as one per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.arguments import Number, integer, number
from bytelm.errors import InvalidArgumentError
from bytelm.symbols import SYMBOLS, TIE

BORDER: Final = 1e-9  # wider than what is tied
MOST_DROPPED: Final = 0.25  # where more falls out, or below this temperature, too many tokens would be thrown away
LEAST_TEMPERATURE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Filters:
    """Temperature and filters, applied to a distribution before a symbol is drawn from it.

    Attributes:
        temperature: 0 is greedy, 1 leaves the distribution as it is.
        top_k: How many of the likeliest symbols are kept; None keeps all.
        top_p: The mass that the kept symbols hold at least; None and 1 keep all.
        min_p: The least probability that is kept, as a share of the greatest; None and 0 keep all.

    Raises:
        InvalidArgumentError: A value out of its range.
        InvalidTypeError: A value that is no number.

    >>> Filters(top_k=2).apply(np.array([5.0, 3.0, 2.0] + [0.0] * 254))[:3]
    array([0.625, 0.375, 0.   ])
    """

    temperature: Number = 1.0
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None

    def __post_init__(self) -> None:
        temperature = number("temperature", self.temperature)
        if not (math.isfinite(temperature) and temperature >= 0):
            raise InvalidArgumentError(
                f"temperature must be 0 (greedy) or a finite number above it; got {self.temperature}"
            )
        if self.top_k is not None and integer("top_k", self.top_k) < 1:
            raise InvalidArgumentError(f"top_k must be at least 1; got {self.top_k}. Leave it out to keep all symbols")
        if self.top_p is not None and not 0 < number("top_p", self.top_p) <= 1:
            raise InvalidArgumentError(f"top_p must be above 0 and at most 1; got {self.top_p}")
        if self.min_p is not None and not 0 <= number("min_p", self.min_p) <= 1:
            raise InvalidArgumentError(f"min_p must be between 0 and 1; got {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest symbol is kept."""
        return self.temperature == 0

    @property
    def keeps_one(self) -> bool:
        """Whether only the likeliest symbol is kept, whatever it has."""
        return self.greedy or self.top_k == 1

    @property
    def lone_share(self) -> float | None:
        """A symbol with more than this share of the mass is the only one that is kept; None: there is no such share.

        Of the others each has at most the rest. Below temperature 1 their shares beside its own only get less.
        """
        if self.keeps_one:
            return 0.5
        if self.temperature > 1:
            return None
        shares = [max(float(self.top_p), 0.5)] if self.top_p is not None and self.top_p < 1 else []
        return min([*shares, 1 / (1 + float(self.min_p))] if self.min_p else shares, default=None)

    @property
    def by_token(self) -> bool:
        """Whether most of what the model's tokens spell is kept: filtered_draws.py."""
        return LEAST_TEMPERATURE <= self.temperature <= 1 and self._dropped_share <= MOST_DROPPED

    @property
    def kept_share(self) -> float:
        """At temperatures up to 1, a symbol with more than this share of the mass is kept, whatever else there is.

        Below 1 the likeliest alone is certain to be kept (`bounds.acceptance`).
        """
        return self._dropped_share if self.temperature == 1 else 0.5

    @property
    def _dropped_share(self) -> float:
        """No symbol falls out of the filters, at temperature 1, that has more than this share of the mass.

        Out of top-k fall those that k others have as much as. Out of top-p fall those above which there is top_p of the
        mass, and out of min-p those with less than min_p of what one other has.
        """
        least = 0.0 if self.top_k is None else 1 / (1 + self.top_k)
        if self.top_p is not None and self.top_p < 1:
            least = max(least, 1 - float(self.top_p) + BORDER)
        return max(least, float(self.min_p or 0.0) / (1 + float(self.min_p or 0.0)))

    @property
    def plain(self) -> bool:
        """Whether the distribution is left as it is."""
        return self.temperature == 1 and self.top_k is None and self.top_p in (None, 1) and not self.min_p

    def apply(self, masses: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
        """The probabilities to draw from.

        Args:
            masses: Probabilities, in any proportion to what they are; all finite, one of them above 0.
        """
        probs = np.zeros(SYMBOLS)
        if self.plain:
            probs += masses / masses.sum()
            return probs
        order = ranked(masses)
        if self.greedy:
            probs[order[0]] = 1.0
            return probs
        falling = powers(masses[order] / masses.max(), self.temperature)
        if self.top_k is not None:
            falling[self.top_k :] = 0.0
        if self.top_p is not None and self.top_p < 1:
            above = np.cumsum(falling) - falling
            falling[above >= self.top_p * falling.sum() * (1 - TIE)] = 0.0
        if self.min_p:
            falling[falling < self.min_p * (1 - TIE)] = 0.0
        probs[order] = falling / falling.sum()
        return probs


def ranked(masses: Float64[np.ndarray, "257"]) -> Int64[np.ndarray, "257"]:
    """The symbols from the likeliest to the least likely, the lower one first where masses are tied.

    >>> ranked(np.array([1.0, 2.0, 2.0 + 1e-15] + [0.0] * 254))[:3]
    array([1, 2, 0])
    """
    order = np.argsort(-masses, kind="stable")
    falling = masses[order]
    group = np.concatenate(([0], np.cumsum(falling[1:] < falling[:-1] * (1 - TIE))))
    ranks: Int64[np.ndarray, "257"] = order[np.lexsort((order, group))]
    return ranks


def powers(masses: Float64[np.ndarray, " n"], temperature: Number) -> Float64[np.ndarray, " n"]:
    """``masses ** (1 / temperature)``, for masses between 0 and 1 and any temperature above 0."""
    if temperature == 1:
        return masses.copy()
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        raised: Float64[np.ndarray, " n"] = np.exp(np.where(masses == 1, 0.0, np.log(masses) / temperature))
    return raised
