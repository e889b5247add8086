r"""How far the law of texts under a mask is from the model's own, on cases whose texts can be listed.

Definitions
    The model's law: P(text | prompt) / P(constraint). P(constraint) is the sum over all texts that the constraint
    allows. A text that could go on is counted with its end of text, as only that ends it.
    The masked law: the product, over the bytes of the text, of the row after what is there, renormalised over what is
    allowed. That is the law of `sample` at temperature 1. It is computed here from rows, and no text is drawn.

Figures
    *variation*: the total variation between the two. *effective*: 1 / Σ p²/q with p of the model and q of the mask, the
    share of a weighted draw (`Completion.log_constraint_mass`) that counts, from 0 to 1.

    *drawn*: what `sample` does, not what it should do. The total variation between the model's law and the frequencies of
    some draws: step by step, with ``conditioning="exact"``, and with ``particles``. Frequencies of so many draws from the
    very law would differ from it by *chance*, on average, so no fewer can be expected.

Cost
    A score for each text, and a row for each place with a choice. For the draws every row is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np

from bytelm import ByteLM, Constraint, ConstraintState
from bytelm.symbols import EOT
from evals.cost.lazy import Remembering
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """How far draws are from the model's law, as a total variation.

    Attributes:
        draws: How many of each kind.
        count: Particles of a draw of the third kind.
        step: Of draws under the mask.
        exact: Of exact draws.
        particles: Of texts picked from particles.
        chance: Of draws from the very law, the mean.
    """

    draws: int
    count: int
    step: float
    exact: float
    particles: float
    chance: float

    def told(self) -> dict[str, float]:
        """As a line has it."""
        return asdict(self)


def drawn_of(
    lm: ByteLM, prompt: bytes, constraint: Constraint, law: Mapping[bytes, float], *, draws: int, count: int, seed: int
) -> Drawn:
    """Draw texts by each way, and compare how often each came with its probability.

    Args:
        lm: The model.
        prompt: What it reads first.
        constraint: What may be written.
        law: The model's law, of all texts.
        draws: How many of each kind.
        count: Particles.
        seed: Of the draws.
    """
    same = ByteLM(Remembering(lm.token_lm), eot_ids=lm.eot_ids)
    longest = max(map(len, law))

    def texts(**how: Any) -> list[bytes]:
        done = same.sample([prompt], constraint=constraint, n=draws, seed=seed, max_bytes=longest + 1, **how)
        return [each.bytes for each in (done if isinstance(done, list) else [done])]

    return Drawn(
        draws,
        count,
        step=variation_of(texts(), law),
        exact=variation_of(texts(conditioning="exact", budget=100_000), law),
        particles=variation_of(texts(particles=count), law),
        chance=chance_of(draws, list(law.values())),
    )


def variation_of(texts: Sequence[bytes], law: Mapping[bytes, float]) -> float:
    """The total variation between the frequencies of some texts and a law.

    >>> round(variation_of([b"a", b"a", b"b", b"b"], {b"a": 0.25, b"b": 0.5, b"c": 0.25}), 3)
    0.25
    """
    counts = Counter(texts)
    return 0.5 * sum(abs(counts[text] / len(texts) - law.get(text, 0.0)) for text in {*counts, *law})


def chance_of(draws: int, probabilities: Sequence[float]) -> float:
    """The mean total variation between a law and the frequencies of so many draws from it.

    The mean distance of a binomial count from its own mean, by De Moivre's formula, over all texts.

    >>> chance_of(1, [0.5, 0.5])
    0.5
    """
    from scipy.stats import binom

    p = np.array(probabilities)
    above = np.floor(draws * p) + 1
    return float(np.sum(above * (1 - p) * binom.pmf(above, draws, p)) / draws)
