r"""How far the law of texts under a mask is from the model's own, on cases whose texts can be listed.

Definitions
    The model's law: P(text | prompt) / P(constraint). P(constraint) is the sum over all texts that the constraint
    allows. A text that could go on is counted with its end of text, as only that ends it.
    The masked law: the product, over the bytes of the text, of the row after what is there, renormalised over what is
    allowed. That is the law of `sample` at temperature 1. It is computed here from rows, and no text is drawn.

Figures
    *variation*: the total variation between the two. *effective*: 1 / Σ p²/q with p of the model and q of the mask, the
    share of a weighted draw (`Completion.log_constraint_mass`) that counts, from 0 to 1.

Cost
    A score for each text, and a row for each place with a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from bytelm import Constraint, ConstraintState
from bytelm.symbols import EOT
from evals.report.errors import DataError

MOST: Final = 1000  # texts


class ByteModel(Protocol):
    """What is asked of a model."""

    def next_byte_logprobs(self, prefix: bytes) -> Any:
        """The row after a prefix."""
        ...

    def logprob(self, text: bytes, *, prefix: bytes, eot: bool) -> float:
        """The log-probability of a text after a prefix."""
        ...


@dataclass(frozen=True)
class Distance:
    """The two laws side by side.

    Attributes:
        texts: Each text with its probabilities by the model's law and under the mask.
        mass: P(constraint).
    """

    texts: Mapping[bytes, tuple[float, float]]
    mass: float

    @property
    def variation(self) -> float:
        """The total variation."""
        return 0.5 * sum(abs(p - q) for p, q in self.texts.values())

    @property
    def effective(self) -> float:
        """The effective share of a weighted draw."""
        return 1 / sum(p * p / q for p, q in self.texts.values() if p)


def distance_of(lm: ByteModel, prompt: bytes, constraint: Constraint) -> Distance:
    """Compare the two laws.

    Raises:
        DataError: The constraint allows more than `MOST` texts.
    """
    masked = dict(masked_law(lm, prompt, constraint))
    weights = {
        text: float(np.exp(lm.logprob(text, prefix=prompt, eot=goes_on))) for text, (_, goes_on) in masked.items()
    }
    mass = sum(weights.values())
    return Distance({text: (weights[text] / mass, masked[text][0]) for text in masked}, mass)


def masked_law(lm: ByteModel, prompt: bytes, constraint: Constraint) -> Iterator[tuple[bytes, tuple[float, bool]]]:
    """Each text with its probability under the mask, and whether it could go on."""
    ahead: list[tuple[bytes, ConstraintState, float]] = [(b"", constraint.state(), 1.0)]
    count = 0
    while ahead:
        text, state, probability = ahead.pop()
        mask = state.allowed()
        only = int(mask.sum()) == 1
        # What is the only way on is written without a draw, and a text that cannot go on ends without one.
        row = mask.astype(np.float64) if only else np.exp(lm.next_byte_logprobs(prompt + text)) * mask
        shares = row / row.sum()
        if mask[EOT]:
            count += 1
            if count > MOST:
                raise DataError(f"the constraint allows more than {MOST} texts: they cannot be listed")
            yield text, (probability * float(shares[EOT]), not only)
        for byte in np.flatnonzero(mask[:EOT]).tolist():
            further = state.copy()
            further.advance(bytes([byte]))
            ahead.append((text + bytes([byte]), further, probability * float(shares[byte])))
