r"""What can be said of the drawing distribution while some nodes are not evaluated: lower bounds that hold.

Setting
    Each symbol b has a known mass K(b). Further mass flows through nodes that are not evaluated: node i holds at most
    wᵢ in all, on symbols of its reach Rᵢ. The true masses are K + e for some e ≥ 0 that the nodes can pay for. Nothing
    else is known of e; the filters of filters.py turn K + e into the true distribution q.

Invariant
    ``lower_bounds(...)[b] ≤ q(b)`` for every e that the nodes can pay for, and it *is* q where nothing is unknown.

How a draw uses it (generation.py)
    Fix one uniform number u. If u is below Σ L, a symbol is drawn by L, and no evaluation could have changed it.
    Otherwise evaluate more, which can only raise L, and read the same u against what L has gained. As Σ L reaches 1
    when all is evaluated, P(b) = Σ of what L(b) gained = q(b): exact, with one u and without a rejection. At
    temperature 1 the chance of needing an evaluation is at most U / (ΣK + U), the same as for rejection under the
    envelope K + U, and one call settles the symbol where rejection may have to begin again.

Derivation, symbol by symbol, with g(x) = x^(1/T)
    q(b) = g(p_b) / (g(p_b) + Σ over the others kept of g(p_c)) is least where b gets nothing and the others get all
    that they can: Σ g(K_c) + gain, gain being the most that g can grow by on a budget: the budget itself at T = 1; all
    of it on the greatest symbol below T = 1 (g is convex); spread by water-filling above (g is concave).
    A symbol counts if it is *certain* to pass a filter, and counts among the others if it is *possible* that it does;
    both are decided for the worst e, with a margin (SLACK) wider than rounding: what is too close to call is evaluated.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.arguments import Number
from bytelm.inference.envelope import SLACK, Envelope
from bytelm.sampling.filters import Filters, powers
from bytelm.symbols import SYMBOLS, TIE


def lower_bounds(envelope: Envelope, filters: Filters) -> Float64[np.ndarray, "257"]:
    """For each symbol a number that its probability in the drawing distribution is certainly not below.

    >>> everywhere = np.full(257, 0.1)
    >>> known = np.array([0.6, 0.3] + [0.0] * 255)
    >>> lower_bounds(Envelope(known, everywhere, everywhere, 0.1), Filters())[:2]
    array([0.6, 0.3])
    >>> lower_bounds(Envelope(known, everywhere, everywhere, 0.1), Filters(temperature=0))[:2]
    array([1., 0.])
    """
    if not envelope.known.any():
        return np.zeros(SYMBOLS)
    if envelope.unknown == 0:
        return filters.apply(envelope.known)
    scaled = _scaled(envelope)
    if filters.greedy:
        return _greedy(scaled)
    bounds = np.zeros(SYMBOLS)
    if filters.plain:
        bounds += scaled.known / (scaled.known.sum() + scaled.elsewhere)
        return bounds
    certain, possible = _passing(scaled, filters)
    grown = powers(scaled.known, filters.temperature)
    growing = possible & (scaled.extra > 0)
    others = np.maximum((grown * possible).sum() - grown * possible, 0.0)
    others += (growing.sum() > growing) * _gain(scaled.known, scaled.elsewhere, growing, filters.temperature)
    np.divide(grown, (grown + others) * (1 + SLACK), out=bounds, where=certain)
    return bounds


def passing(envelope: Envelope, filters: Filters) -> tuple[Bool[np.ndarray, "257"], Bool[np.ndarray, "257"]]:
    """Which symbols certainly pass all filters, and which possibly do.

    >>> known = np.array([0.6, 0.3] + [0.0] * 255)
    >>> certain, possible = passing(Envelope(known, known * 0, known * 0, 0.0), Filters(top_k=1))
    >>> certain[:2], possible[:2]
    (array([ True, False]), array([ True, False]))
    """
    if envelope.unknown == 0:
        kept = filters.apply(envelope.known) > 0 if envelope.known.any() else np.zeros(SYMBOLS, np.bool_)
        return kept, kept
    if not envelope.known.any():
        return np.zeros(SYMBOLS, np.bool_), np.ones(SYMBOLS, np.bool_)
    scaled = _scaled(envelope)
    if filters.greedy:
        return _greedy(scaled) > 0, (scaled.known + scaled.extra) * (1 + SLACK) >= 1
    return _passing(scaled, filters)


def surely_kept(known: Float64[np.ndarray, "257"], rest: float, filters: Filters, symbol: int) -> bool:
    """A quick look at `passing`: whether a symbol is certainly kept at temperature 1, where any can get the rest.

    Args:
        known: K.
        rest: What all symbols together can get on top.
        filters: What is done to the distribution.
        symbol: The symbol.

    >>> known = np.array([0.6, 0.3, 0.05] + [0.0] * 254)
    >>> [surely_kept(known, 0.05, Filters(top_p=0.8), symbol) for symbol in range(3)]
    [True, True, False]
    """
    if filters.temperature != 1:
        return False
    margin, mine = 1 + SLACK, float(known[symbol])
    rivals = (known + rest) * margin >= mine
    rivals[symbol] = False
    above, whole = (float(known.sum(where=rivals)) + rest) * margin, float(known.sum())
    if filters.top_k is not None and filters.top_k < SYMBOLS:
        if np.count_nonzero(rivals) >= filters.top_k:
            return False
        whole = float(np.partition(known, -filters.top_k)[-filters.top_k :].sum())  # top-k keeps no less
    if filters.min_p and mine < filters.min_p * (float(known.max()) + rest) * margin:
        return False
    return filters.top_p in (None, 1) or above < filters.top_p * whole


def acceptance(envelope: Envelope, temperature: Number, symbol: int) -> tuple[float, float]:
    """The least and the most that (P(b) / max P)^(1/T − 1) can be, for a temperature T up to 1.

    Drawn from P, and kept with that probability, symbols come in proportion to P^(1/T).

    >>> known = np.array([0.8, 0.2] + [0.0] * 255)
    >>> acceptance(Envelope(known, known * 0, known * 0, 0.0), 0.5, 1)
    (0.25, 0.25)
    """
    if temperature == 1:
        return 1.0, 1.0
    others = np.arange(SYMBOLS) != symbol
    least, most = envelope.known[symbol], envelope.known[symbol] + envelope.extra[symbol]
    above = max(most, envelope.known.max(initial=0.0, where=others))
    below = max(least, (envelope.known + envelope.extra).max(initial=0.0, where=others))
    slack = SLACK if envelope.unknown else 0.0
    bounds = np.array([least / below * (1 - slack) if below > 0 else 0.0, most / above if above > 0 else 1.0])
    low, high = powers(np.minimum(bounds * [1.0, 1 + slack], 1.0), temperature / (1 - temperature))
    return float(low), float(high)


def _scaled(envelope: Envelope) -> Envelope:
    """The same, so that the greatest known mass is 1; with a margin."""
    top = float(envelope.known.max())
    raised = (1 + SLACK) / top
    return Envelope(
        envelope.known / top, envelope.extra * raised, envelope.elsewhere * raised, envelope.unknown * raised
    )


def _greedy(envelope: Envelope) -> Float64[np.ndarray, "257"]:
    """All of it on the leader, if no other symbol can come near it."""
    leader = int(envelope.known.argmax())
    reach = envelope.known + envelope.extra
    reach[leader] = 0.0
    bounds = np.zeros(SYMBOLS)
    bounds[leader] = float(envelope.known[leader] > reach.max() * (1 + SLACK))
    return bounds


def _passing(envelope: Envelope, filters: Filters) -> tuple[Bool[np.ndarray, "257"], Bool[np.ndarray, "257"]]:
    """Which symbols certainly pass all filters, and which possibly do; the greatest known mass is 1."""
    known, extra, elsewhere = envelope.known, envelope.extra, envelope.elsewhere
    reach = known + extra
    certain, possible = known > 0, reach > 0
    order = np.argsort(-known, kind="stable")
    falling = known[order]
    # How many symbols are likelier than b even if b gets all it can.
    above = np.searchsorted(-falling, -reach * (1 + SLACK), side="left")
    if filters.top_k is not None and filters.top_k < SYMBOLS:
        k = filters.top_k
        possible &= above < k
        # The symbol of rank r falls out if the k − r below it are raised to its mass: what does that cost?
        sums = np.concatenate(([0.0], np.cumsum(falling)))
        ranks = np.arange(k)
        cost = (k - ranks) * falling[:k] - (sums[k + 1] - sums[ranks + 1])
        inside = np.zeros(SYMBOLS, np.bool_)
        inside[order[:k]] = cost > elsewhere[order[:k]] + TIE
        certain &= inside
    if filters.top_p is not None and filters.top_p < 1:
        grown = powers(known, filters.temperature)
        growing = possible & (extra > 0)
        gain = _gain(known, elsewhere, growing, filters.temperature)
        # For b to be out, what certainly lies above it must hold top_p of the most that all can be.
        most_above = np.concatenate(([0.0], np.cumsum((grown * possible)[order])))[above]
        least_above = np.concatenate(([0.0], np.cumsum((grown * certain)[order])))[above]
        whole = float(_gain(known, np.full(SYMBOLS, envelope.unknown), growing, filters.temperature).max())
        most_rest = np.maximum((grown * possible).sum() - most_above, 0.0) + whole
        kept = (1 - filters.top_p) * least_above < filters.top_p * most_rest * (1 + SLACK)
        # For b to be in, what possibly lies above it must hold less than top_p of the least that all can be.
        rising = np.argsort(reach, kind="stable")
        below = np.searchsorted(reach[rising], known * (1 - SLACK), side="left")
        upper = np.concatenate(([0.0], np.cumsum((grown * possible)[rising])))
        count = np.concatenate(([0], np.cumsum(possible[rising])))
        rivals = (count[-1] - count[below]) > possible
        most_over = np.maximum(upper[-1] - upper[below] - grown * possible, 0.0) + gain * rivals
        least_under = grown + np.concatenate(([0.0], np.cumsum((grown * certain)[rising])))[below]
        certain = certain & ((1 - filters.top_p) * most_over * (1 + SLACK) < filters.top_p * least_under)
        possible = possible & kept
    if filters.min_p:
        share = filters.min_p**filters.temperature  # q ≥ min_p · max q, said of p
        first, second = np.partition(reach, -2)[[-1, -2]]
        rival = np.where(reach == first, second, first)
        certain = certain & (known * (1 - SLACK) >= share * rival)
        possible = possible & (reach * (1 + SLACK) >= share)
    return certain, possible


def _gain(
    known: Float64[np.ndarray, "257"],
    budget: Float64[np.ndarray, "257"],
    growing: Bool[np.ndarray, "257"],
    temperature: Number,
) -> Float64[np.ndarray, "257"]:
    """For each symbol's budget the most by which Σ g of the other symbols can grow, g(x) = x^(1/T), max known = 1.

    Args:
        known: K, scaled so that its maximum is 1.
        budget: What can be handed out.
        growing: The symbols that can get any of it.
        temperature: T.
    """
    if temperature == 1:
        return budget
    power = 1 / temperature
    gain: Float64[np.ndarray, "257"]
    with np.errstate(over="ignore", under="ignore"):
        if temperature < 1:
            # Convex: all of it on the greatest of the others.
            greatest = np.full(SYMBOLS, known.max(initial=0.0, where=growing))
            leader = int(np.where(growing, known, -1.0).argmax())
            others = growing.copy()
            others[leader] = False
            greatest[leader] = known.max(initial=0.0, where=others)
            gain = (greatest + budget) ** power - greatest**power
        else:
            # Concave: in equal shares from zero is more than any other way could give.
            shares = int(growing.sum()) ** (1 - power) * budget**power
            gain = np.minimum(shares, _filled(known[growing], float(budget.max()), power))
    return gain


def _filled(known: Float64[np.ndarray, " n"], budget: float, power: float) -> float:
    """By how much Σ x^power grows when the lowest are raised, level with one another, until the budget is spent."""
    if known.size == 0:
        return 0.0
    rising = np.sort(known)
    counts = np.arange(1, rising.size + 1)
    # Filled up to the next symbol's mass, the first n have taken this much.
    taken = rising * counts - np.cumsum(rising)
    n = int(np.searchsorted(taken, budget, side="right"))
    level = (budget + rising[:n].sum()) / n
    return float(n * level**power - (rising[:n] ** power).sum())
