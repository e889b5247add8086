r"""Several distributions of one next symbol, as one: the three formulas, and bounds on them while rows are incomplete.

With pᵢ(b) what member i gives symbol b after the text x, wᵢ its weight and Lᵢ its likelihood of the text so far,

    mixture   p(b) = Σ wᵢ pᵢ(b)
    bayes     p(b) = Σ wᵢ Lᵢ pᵢ(b) / Σ wᵢ Lᵢ         so P(text) = Σ wᵢ Pᵢ(text): a mixture of whole texts
    product   p(b) = Π pᵢ(b)^wᵢ / Σ over all 257 symbols of the same; with a weight below 0 over the plausible ones

A negative weight is against what its member believes, and where both sides believe next to nothing the ratio is noise
that may be large: p₀/p₁ = 1e-9/1e-12. So contrastive decoding looks only at what the positive side finds plausible (Li
et al., arXiv:2210.15097). With W the sum of the positive weights,

    positive side   g(b) = Π over wᵢ > 0 of pᵢ(b)^(wᵢ/W)
    plausible       g(b) ≥ alpha · max g         the maximum over the symbols that no member rules out

Rules
    Rows are not renormalised before they are combined: in a mixture a member's leak is a part of the ensemble's, so
    that P(text) is made of the members' lemma values and a single member is itself. In a product a factor common to a
    member's row cancels: there it makes no difference, and a product's row sums to 1.
    A member of weight 0 is not asked.
    In a mixture a member that gives what was written probability 0, or cannot spell it, has nothing to say about what
    follows: its weight is leak from there on. In bayes its likelihood is 0, and so is its share. (A prefix that a
    member cannot spell is an error, before anything is written; see model.py.)
    In a product a symbol to which a member of any weight gives 0 has probability 0. Under a positive weight that is the
    formula; under a negative one 0^w is infinite, and what a member rules out is not what the others were asked for.
    In a product with a weight below 0 a symbol that is not plausible has probability 0 as well. The end of text is
    judged like a byte. One member of positive weight is compared with itself, whatever its weight; several by their
    weighted geometric mean. Where the product has a symbol, a plausible one is left. If alpha is 0, no weight is below
    0, or none above it, all symbols are plausible.
    End of text is a symbol like the others: a member without an id for it gives it 0, which in a mixture lowers its
    probability, and in a product rules it out.

Bounds
    While some nodes are not evaluated a member has ``low ≤ p ≤ high`` and ``Σ (p − low) ≤ rest``. Each formula is
    monotone in each pᵢ, so bounds on the members make bounds on the ensemble. So is the positive side: a symbol is
    certainly plausible if the least that it can have is alpha times the most that another can have, and possibly if the
    most that it can have is alpha times what one certainly has. Between the two, its mass is unknown from 0 upwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.arguments import Number, number, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.inference.envelope import SLACK, Bounds, Envelope
from bytelm.symbols import SYMBOLS, TIE

Combine: TypeAlias = Literal["mixture", "bayes", "product"]
# With those of whole texts (whole_texts.py).
AnyCombine: TypeAlias = Literal["mixture", "bayes", "product", "minimum", "maximum", "power"]
CombineLevel: TypeAlias = Literal["byte", "string"]
Weights: TypeAlias = Sequence[Number] | Callable[[bytes], Sequence[Number]]
ALPHA: Final = 0.1  # that of Li et al.
WeightsAt: TypeAlias = 'Float64[np.ndarray, " members"] | Callable[[bytes], Float64[np.ndarray, " members"]]'


def weights_of(given: Any, count: int, combine: AnyCombine, source: str = "weights") -> Float64[np.ndarray, " members"]:
    """The weights of the members, in a mixture and in bayes divided by their sum.

    Args:
        given: One number for each member; None: all alike, and 1 in sum.
        count: How many members there are.
        combine: The formula that uses them; only a product takes negative ones.
        source: What an error calls them.

    >>> weights_of([3, 1], 2, "mixture")
    array([0.75, 0.25])
    """
    if given is None:
        return np.full(count, 1 / count)
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray) or not np.ndim(given):
        raise InvalidTypeError(f"{source} must be one number for each member; got {shown(given)}")
    weights = np.array([number(f"weight {i} of {source}", value) for i, value in enumerate(given)])
    if len(weights) != count:
        raise InvalidArgumentError(f"{source} has {len(weights)} numbers, and there are {count} members")
    if not np.isfinite(weights).all():
        raise InvalidArgumentError(f"{source} must be finite numbers; got {weights.tolist()}")
    if not weights.any():
        raise InvalidArgumentError(f"{source} must not all be 0: no member would be left; got {weights.tolist()}")
    if combine == "product":
        return weights
    if (weights < 0).any():
        raise InvalidArgumentError(
            f"{source} of a {combine} must not be negative; got {weights.tolist()}. A product takes negative weights"
        )
    weights /= weights.max()  # their sum may be beyond what a float holds
    weights /= weights.sum()
    return weights


def alpha_of(given: Any) -> float:
    """The share of the positive side's largest probability that a symbol needs, from 0 to 1."""
    alpha = number("alpha", given)
    if not 0 <= alpha <= 1:
        raise InvalidArgumentError(f"alpha must be from 0 (keep all symbols) to 1 (keep the likeliest); got {alpha}")
    return alpha


def weights_at(weights: WeightsAt, text: bytes | bytearray) -> Float64[np.ndarray, " members"]:
    """The weights after a text; constant weights ignore it."""
    return weights(bytes(text)) if callable(weights) else weights


# ---- rows that are known in full


def combined(
    combine: AnyCombine,
    weights: Float64[np.ndarray, " members"],
    rows: Float64[np.ndarray, "members 257"],
    likelihoods: Float64[np.ndarray, " members"],
    *,
    alpha: float,
) -> Float64[np.ndarray, "257"]:
    """The ensemble's log-probabilities, from those of its members.

    Args:
        combine: The formula.
        weights: As `weights_of` gives them.
        rows: Of each member; all −∞ where it has nothing to say.
        likelihoods: ln Lᵢ; used by bayes alone.
        alpha: What a symbol needs to be plausible; used by a product with a weight below 0.
    """
    if combine == "product":
        return multiplied(weights, rows, alpha)
    row: Float64[np.ndarray, "257"] = np.logaddexp.reduce(log_shares(combine, weights, likelihoods)[:, None] + rows)
    return row


def log_shares(
    combine: AnyCombine, weights: Float64[np.ndarray, " members"], likelihoods: Float64[np.ndarray, " members"]
) -> Float64[np.ndarray, " members"]:
    """The logarithms of what each member's row counts for: the weights, or in bayes the posterior weights."""
    with np.errstate(divide="ignore"):
        shares: Float64[np.ndarray, " members"] = np.log(weights)
    if combine == "bayes":
        shares = shares + likelihoods
        whole = float(np.logaddexp.reduce(shares))
        shares = shares - whole if whole > -math.inf else shares
    return shares


def multiplied(
    weights: Float64[np.ndarray, " members"], rows: Float64[np.ndarray, "members 257"], alpha: float
) -> Float64[np.ndarray, "257"]:
    """Ln of Π pᵢ^wᵢ over its sum, of the plausible symbols; all −∞ if no symbol is left."""
    scores = powered(weights, rows)
    if (shares := positive_shares(weights, alpha)) is not None:
        scores[~plausible(powered(shares, rows), scores > -np.inf, alpha)] = -np.inf
    whole = float(np.logaddexp.reduce(scores))
    return scores - whole if whole > -math.inf else scores


def powered(
    weights: Float64[np.ndarray, " members"], rows: Float64[np.ndarray, "members 257"]
) -> Float64[np.ndarray, "257"]:
    """Ln of Π pᵢ^wᵢ; −∞ where a member of any weight has it."""
    scores = np.zeros(SYMBOLS)
    for weight, row in zip(weights, rows, strict=True):
        if weight != 0:
            scores += np.where(np.isneginf(row), -np.inf, weight * np.where(np.isneginf(row), 0.0, row))
    return scores


def positive_shares(weights: Float64[np.ndarray, " members"], alpha: float) -> Float64[np.ndarray, " members"] | None:
    """The exponents of the positive side, 1 in sum; None where all symbols are plausible.

    >>> positive_shares(np.array([3.0, 1.0, -0.5]), 0.1)
    array([0.75, 0.25, 0.  ])
    """
    positive = np.maximum(weights, 0.0)
    if alpha == 0 or not ((weights < 0).any() and positive.any()):
        return None
    positive /= positive.max()  # their sum may be beyond what a float holds
    shares: Float64[np.ndarray, " members"] = positive / positive.sum()
    return shares


def plausible(
    side: Float64[np.ndarray, "257"], possible: Bool[np.ndarray, "257"], alpha: float
) -> Bool[np.ndarray, "257"]:
    """Which of the possible symbols have ``alpha`` of the largest probability among them; ``side`` in logarithms."""
    kept: Bool[np.ndarray, "257"] = possible & (
        side >= side.max(initial=-math.inf, where=possible) + math.log(alpha) - TIE
    )
    return kept


# ---- rows that are known in part


def mixed(weights: Float64[np.ndarray, " members"], members: Sequence[Bounds]) -> Bounds:
    """Bounds on Σ wᵢ pᵢ."""
    low, high, rest = np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0
    for weight, member in zip(weights.tolist(), members, strict=True):
        if weight > 0:
            low += weight * member.low
            high += weight * member.high
            rest += weight * member.rest
    return Bounds(low, high, rest)


def product_envelope(weights: Float64[np.ndarray, " members"], members: Sequence[Bounds], *, alpha: float) -> Envelope:
    """What is known of Π pᵢ^wᵢ, on any scale; nothing, as long as there is no telling how large it can be."""
    least, most = _power_bounds(weights, members)
    possible = np.ones(SYMBOLS, np.bool_)
    # A member's low may be 0 where its p is not certain to be above 0: then the symbol may be ruled out.
    certain = np.ones(SYMBOLS, np.bool_)
    complete = True
    for weight, member in zip(weights.tolist(), members, strict=True):
        if weight != 0:
            possible &= member.high > 0
            certain &= member.low > 0
            complete &= member.rest == 0
    if complete:
        most = least
    if (shares := positive_shares(weights, alpha)) is not None:
        low, high = _power_bounds(shares, members)
        if complete:
            certain = possible = plausible(low, possible, alpha)
        else:
            certain, possible = _plausible_bounds(low, high, certain, possible, alpha)
    top = float(most.max(initial=-math.inf, where=possible))
    if top == math.inf:
        return Envelope(np.zeros(SYMBOLS), np.ones(SYMBOLS), np.ones(SYMBOLS), 1.0)
    known = np.exp(np.where(certain, least - top, -math.inf))
    extra = np.exp(np.where(possible, most - top, -math.inf)) - known
    if most is least:
        return Envelope(known, np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)
    return Envelope(known, extra * (1 + SLACK), (extra.sum() - extra) * (1 + SLACK), float(extra.sum()) + SLACK)


def _power_bounds(
    weights: Float64[np.ndarray, " members"], members: Sequence[Bounds]
) -> tuple[Float64[np.ndarray, "257"], Float64[np.ndarray, "257"]]:
    """Bounds on ln of Π pᵢ^wᵢ; of no meaning where a member certainly gives 0."""
    least, most = np.zeros(SYMBOLS), np.zeros(SYMBOLS)
    with np.errstate(divide="ignore"):
        for weight, member in zip(weights.tolist(), members, strict=True):
            if weight != 0:
                near, far = (member.low, member.high) if weight > 0 else (member.high, member.low)
                least += weight * np.log(np.where(member.high > 0, near, 1.0))
                most += weight * np.log(np.where(member.high > 0, far, 1.0))
    return least, most


def _plausible_bounds(
    low: Float64[np.ndarray, "257"],
    high: Float64[np.ndarray, "257"],
    certain: Bool[np.ndarray, "257"],
    possible: Bool[np.ndarray, "257"],
    alpha: float,
) -> tuple[Bool[np.ndarray, "257"], Bool[np.ndarray, "257"]]:
    """Which symbols are certainly plausible, and which possibly are; too close to call is neither.

    Args:
        low: ln of the positive side is no less.
        high: And no more.
        certain: The symbols that certainly no member rules out.
        possible: Those that may not be.
        alpha: As for `plausible`.
    """
    share = math.log(alpha)
    reach = np.where(possible, high, -math.inf)
    first, second = np.partition(reach, -2)[[-1, -2]]
    rival = np.where(reach == first, second, first)  # its own largest does not count against a symbol: alpha ≤ 1
    return (
        certain & (low >= rival + share + SLACK),
        possible & (high >= low.max(initial=-math.inf, where=certain) + share - SLACK),
    )


def normalised(envelope: Envelope) -> Bounds:
    """Bounds on the masses over their sum."""
    known, most = envelope.known, envelope.known + envelope.extra
    whole = float(known.sum())
    if envelope.unknown == 0:
        low = known / whole if whole > 0 else known
        return Bounds(low, low, 0.0)
    if whole <= 0:
        return Bounds(np.zeros(SYMBOLS), np.where(most > 0, 1.0, 0.0), 1.0)
    low = known / (whole + envelope.elsewhere)
    with np.errstate(invalid="ignore"):
        high = np.where(most > 0, most / np.maximum(most + (whole - known), 1e-300), 0.0) * (1 + SLACK)
    return Bounds(low, np.minimum(high, 1.0), max(1.0 - float(low.sum()), SLACK))
