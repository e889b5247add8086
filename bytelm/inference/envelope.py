"""What is known of the 257 symbols while some nodes are not evaluated: of their masses, and of a row of probabilities.

Invariant
    An `Envelope` holds masses on one scale, P(x·b) for one. `Bounds` holds a row, P(b | x). What is true lies within.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.symbols import SYMBOLS

SLACK: Final = 1e-9  # a margin wider than rounding


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of the masses of the 257 symbols, all on one scale.

    Attributes:
        known: K(b), the mass through evaluated nodes.
        extra: The most that b can get on top: Σ wᵢ over the nodes with b in reach.
        elsewhere: The most that all symbols but b can get: Σ wᵢ over the nodes that reach another symbol than b.
        unknown: Σ wᵢ; 0 if and only if everything of any mass is evaluated.
    """

    known: Float64[np.ndarray, "257"]
    extra: Float64[np.ndarray, "257"]
    elsewhere: Float64[np.ndarray, "257"]
    unknown: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a row of probabilities.

    Attributes:
        low: No symbol has less.
        high: No symbol has more.
        rest: The symbols together have no more than this beyond ``low``; 0 if and only if the row is known.
    """

    low: Float64[np.ndarray, "257"]
    high: Float64[np.ndarray, "257"]
    rest: float

    def envelope(self) -> Envelope:
        """The same, as sampling/bounds.py reads it."""
        extra = np.minimum(np.maximum(self.high - self.low, 0.0), self.rest)
        return Envelope(self.low, extra, np.minimum(extra.sum() - extra, self.rest), self.rest)


def conditional(envelope: Envelope, least: float, most: float) -> Bounds:
    """Bounds on P(b | x) = P(x·b) / P(x).

    Args:
        envelope: What is known of P(x·b).
        least: P(x) is no less.
        most: And no more; on the envelope's scale.
    """
    _, rest = shares(float(envelope.known.sum()), envelope.unknown, least, most)
    if most <= 0:
        return Bounds(np.zeros(SYMBOLS), np.zeros(SYMBOLS), rest)
    low = envelope.known / most
    if rest == 0:
        return Bounds(low, low, rest)
    if least <= 0:
        return Bounds(low, np.where(envelope.known + envelope.extra > 0, 1.0, 0.0), rest)
    return Bounds(low, np.minimum((envelope.known + envelope.extra) / least * (1 + SLACK), 1.0), rest)


def shares(known: float, unknown: float, least: float, most: float) -> tuple[float, float]:
    """What all symbols together have of P(x) at least, and how much more they can have.

    Args:
        known: ΣK.
        unknown: U.
        least: P(x) is no less.
        most: And no more; all on one scale.
    """
    if most <= 0:
        return 0.0, 0.0
    low = known / most
    if unknown == 0 and least == most:
        return low, 0.0
    if least <= 0:
        return low, 1.0
    return low, max(min((known + unknown) / least * (1 + SLACK) - low, 1.0 - low), SLACK)
