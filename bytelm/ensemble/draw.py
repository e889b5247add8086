r"""The row of an ensemble, and draws from it that evaluate no more of its members than they depend on.

Lazy evaluation
    Bounds on the members' rows make bounds on the ensemble's, and sampling/bounds.py does the rest: greedy and filtered
    draws, products and bayes (where the envelopes of the members, each in proportion to its posterior, are summed)
    evaluate one member at a time, the one that leaves most open, until the draw is certain.
    A *plain* draw from a mixture, at temperature 1 without filters, first draws the member: the uniform number u falls
    into the share wᵢ of one, and where in it u falls is a uniform number again, by which that member alone is asked for
    a symbol. With probability pᵢ(b) it says b, so b comes with Σ wᵢ pᵢ(b); with the probability of its leak it says
    nothing. Then a symbol is drawn from the whole row over its sum, by another number: P(b) = p(b) + leak · p(b) / (1 −
    leak) = p(b) / (1 − leak), the row that the sampler draws from.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.ensemble.place import EnsemblePlace
from bytelm.errors import ModelError
from bytelm.inference.scheduler import Step
from bytelm.sampling.bounds import lower_bounds
from bytelm.sampling.draw import filled, settle
from bytelm.sampling.filters import Filters


def ensemble_row(place: EnsemblePlace, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
    """The row of an ensemble, and a bound on its total variation from the exact one.

    With ``tol`` above 0 members are evaluated only until the bound is no greater; the row then holds what each symbol
    has for certain.

    Raises:
        ModelError: Nothing can be said of what follows.
    """
    bound = 0.0
    if tol == 0:
        yield from place.evaluate_all()
    elif place.bayes and place.zeros is None:
        yield from place.begin()
    while not place.complete and (bound := place.bounds().rest) > tol:
        yield from place.evaluate()
    if not place.complete:
        with np.errstate(divide="ignore"):
            return np.log(place.bounds().low), bound
    row = place.row()
    if np.isneginf(row).all():
        raise ModelError(_silent(place))
    return row, 0.0


def ensemble_draw(
    place: EnsemblePlace, filters: Filters, uniforms: Float64[np.ndarray, " n"], random: np.random.Generator
) -> Step[Int64[np.ndarray, " n"]]:
    """One symbol for each uniform number, from the ensemble's filtered row.

    Args:
        place: The members at the place; they learn what is evaluated.
        filters: What is done to the distribution.
        uniforms: Numbers from 0 to below 1.
        random: Gives more of them, for what falls on a member's leak.

    Raises:
        ModelError: No symbol has any probability.
    """
    if not place.lazy:
        yield from place.evaluate_all()
    if not (filters.plain and place.combination.combine == "mixture"):
        return (yield from certain_draw(place, filters, uniforms))
    symbols = yield from place.symbols(uniforms)
    lost = symbols < 0
    if lost.any():
        yield from place.evaluate_all()
        symbols[lost] = yield from certain_draw(place, filters, random.random(int(lost.sum())))
    return symbols


def certain_draw(
    place: EnsemblePlace, filters: Filters, uniforms: Float64[np.ndarray, " n"]
) -> Step[Int64[np.ndarray, " n"]]:
    """Draws by bounds on the ensemble's row: as sampling/draw.py does on one model's."""
    symbols, raised = yield from settle(
        uniforms,
        lower=lambda: lower_bounds(place.envelope()[1], filters),
        complete=lambda: place.complete,
        more=place.evaluate,
    )
    if not raised.any():
        raise ModelError(_silent(place))
    return filled(symbols, raised)


def _silent(place: EnsemblePlace) -> str:
    return (
        f"after {place.prefix[-40:]!r} the ensemble gives no byte and no end of text any probability: its members give "
        "the text probability 0, or rule out all that the others allow"
    )
