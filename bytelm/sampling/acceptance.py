r"""Whether a drafted symbol is accepted, and what comes in its place: decided by bounds on the model's law.

Setting
    P is the law of the next symbol, and Q the distribution that symbol b was drawn from. b is accepted if u·Q(b) < P(b)
    for a uniform u. Otherwise the symbol is drawn from R = max(P − Q, 0) / Σ max(P − Q, 0): see speculation.py.

Theory of operation
    Lower bounds L ≤ P (bounds.py) say something of each number that is asked for:

        L(b) ≤ P(b) ≤ 1 − Σ L(c), over the other symbols c
        R(c) ≥ max(L(c) − Q(c), 0) / (1 − Σ min(L, Q)),   as Σ max(P − Q, 0) = 1 − Σ min(P, Q)

    So b is accepted if u·Q(b) is below the first bound, and rejected if it is not below the second. Only between them
    more is evaluated. R is drawn from as any law that has lower bounds (draw.py). With L = P, all are equalities.

Invariant
    One u decides on a symbol, whatever is evaluated on the way, and a second one draws from R. So the law is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from bytelm.inference.scheduler import Step
from bytelm.sampling.drafter import Proposal
from bytelm.sampling.draw import filled, settle


def checked(
    proposal: Proposal,
    random: np.random.Generator,
    *,
    lower: Callable[[], Float64[np.ndarray, "257"]],
    complete: Callable[[], bool],
    more: Callable[[], Step[None]],
) -> Step[tuple[int, bool] | None]:
    """A symbol with the model's law, and whether it is the one that was proposed; None where no symbol can follow.

    Args:
        proposal: What was drafted.
        random: The text's random numbers.
        lower: The lower bounds on the law, as far as it is known.
        complete: Whether it is known in full.
        more: Evaluates some more.
    """
    symbol, drafted = proposal
    least = random.random() * drafted[symbol]
    while True:
        low = lower()
        if least < low[symbol]:
            return symbol, True
        if complete():
            break
        if least >= low[symbol] + (1.0 - low.sum()):
            break
        yield from more()
    if complete() and not low.any():
        return None
    symbols, raised = yield from settle(
        random.random(1), lower=lambda: lacking(lower(), drafted, complete=complete()), complete=complete, more=more
    )
    return int(filled(symbols, raised)[0]), False


def undecided(low: Float64[np.ndarray, "257"], known: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
    """Lower bounds on the law that a symbol has where earlier bounds on its law did not decide its uniform number.

    Args:
        low: Lower bounds on its law, or the law itself.
        known: The earlier bounds.

    >>> low, known = np.zeros(257), np.zeros(257)
    >>> low[:2], known[:2] = (0.5, 0.3), (0.5, 0.1)
    >>> undecided(low, known)[:2].round(3)
    array([0. , 0.5])
    """
    rest = 1.0 - float(known.sum())
    return np.maximum(low - known, 0.0) / rest if rest > 0 else low


def lacking(
    low: Float64[np.ndarray, "257"], drafted: Float64[np.ndarray, "257"], *, complete: bool
) -> Float64[np.ndarray, "257"]:
    """Lower bounds on what a law has beyond the distribution of a draft, as a distribution.

    Args:
        low: Lower bounds on the law; the law itself where ``complete``.
        drafted: The distribution of the draft.
        complete: Whether the law is known.

    >>> low, drafted = np.zeros(257), np.zeros(257)
    >>> low[:2], drafted[:2] = (0.5, 0.3), (0.25, 0.75)
    >>> lacking(low, drafted, complete=False)[:2].round(3), lacking(low, drafted, complete=True)[:2]
    (array([0.556, 0.   ]), array([1., 0.]))
    """
    beyond: Float64[np.ndarray, "257"] = np.maximum(low - drafted, 0.0)
    least = float(beyond.sum())
    whole = least if complete else max(1.0 - float(np.minimum(low, drafted).sum()), least)
    if whole > 0:
        return beyond / whole
    return low if complete else beyond  # the two are alike up to rounding, and so no symbol is ever rejected
