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

import math

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.ensemble.place import EnsemblePlace, ModelPlace
from bytelm.errors import ModelError
from bytelm.inference.scheduler import Step
from bytelm.sampling.bounds import lower_bounds
from bytelm.sampling.draw import settled
from bytelm.sampling.filters import Filters
from bytelm.symbols import SYMBOLS


def ensemble_row(joint: EnsemblePlace, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
    """The row of an ensemble, and a bound on its total variation from the exact one.

    With ``tol`` above 0 members are evaluated only until the bound is no greater; the row then holds what each symbol
    has for certain.

    Raises:
        ModelError: Nothing can be said of what follows.
    """
    bound = 0.0
    if tol == 0:
        yield from joint.evaluate_all()
    elif joint.bayes and joint.zeros is None:
        yield from joint.begin()
    while not joint.complete and (bound := joint.bounds().rest) > tol:
        yield from joint.evaluate()
    if not joint.complete:
        with np.errstate(divide="ignore"):
            return np.log(joint.bounds().low), bound
    row = joint.row()
    if np.isneginf(row).all():
        raise ModelError(_silent(joint))
    return row, 0.0


def ensemble_draw(
    joint: EnsemblePlace, filters: Filters, uniforms: Float64[np.ndarray, " n"], random: np.random.Generator
) -> Step[Int64[np.ndarray, " n"]]:
    """One symbol for each uniform number, from the ensemble's filtered row.

    Args:
        joint: The members at the place; they learn what is evaluated.
        filters: What is done to the distribution.
        uniforms: Numbers from 0 to below 1.
        random: Gives more of them, for what falls on a member's leak.

    Raises:
        ModelError: No symbol has any probability.
    """
    if not joint.lazy:
        yield from joint.evaluate_all()
    if not (filters.plain and joint.score.combine == "mixture"):
        return (yield from certain_draw(joint, filters, uniforms))
    symbols = yield from spoken(joint, uniforms)
    lost = symbols < 0
    if lost.any():
        yield from joint.evaluate_all()
        symbols[lost] = yield from certain_draw(joint, filters, random.random(int(lost.sum())))
    return symbols


def certain_draw(
    joint: EnsemblePlace, filters: Filters, uniforms: Float64[np.ndarray, " n"]
) -> Step[Int64[np.ndarray, " n"]]:
    """Draws by bounds on the ensemble's row: as `sampler.draw` does on one model's."""
    symbols = np.full(len(uniforms), -1)
    floor = np.zeros(SYMBOLS)
    while True:
        raised = np.maximum(floor, lower_bounds(joint.envelope()[1], filters))
        open_ = symbols < 0
        symbols[open_] = settled(uniforms[open_], floor, raised)
        if (symbols >= 0).all():
            return symbols
        if joint.complete:
            if not raised.any():
                raise ModelError(_silent(joint))
            # u fell on what rounding took from a sum that is 1.
            symbols[symbols < 0] = np.flatnonzero(raised)[-1]
            return symbols
        floor = raised
        yield from joint.evaluate()


def spoken(voice: ModelPlace | EnsemblePlace, uniforms: Float64[np.ndarray, " n"]) -> Step[Int64[np.ndarray, " n"]]:
    """For each uniform number the symbol that it is under the voice's own row, or −1 beyond the row's sum."""
    symbols = np.full(len(uniforms), -1)
    if isinstance(voice, EnsemblePlace) and voice.score.combine == "mixture":
        edges = np.cumsum(voice.weights)
        last = int(np.flatnonzero(voice.weights)[-1])
        drawn = np.minimum(np.searchsorted(edges, uniforms, side="right"), last)
        for i in np.unique(drawn).tolist():
            own = drawn == i
            within = (uniforms[own] - (edges[i] - voice.weights[i])) / voice.weights[i]
            symbols[own] = yield from spoken(voice.voices[i], np.clip(within, 0.0, math.nextafter(1.0, 0.0)))
        return symbols
    floor = np.zeros(SYMBOLS)
    while True:
        raised = np.maximum(floor, voice.bounds().low)
        open_ = symbols < 0
        symbols[open_] = settled(uniforms[open_], floor, raised)
        if (symbols >= 0).all() or voice.complete:
            return symbols
        floor = raised
        yield from voice.evaluate()


def _silent(joint: EnsemblePlace) -> str:
    return (
        f"after {joint.prefix[-40:]!r} the ensemble gives no byte and no end of text any probability: its members give "
        "the text probability 0, or rule out all that the others allow"
    )
