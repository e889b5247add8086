"""What is known of the masses of the 257 symbols while some nodes are not evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

SLACK: Final = 1e-9


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
