r"""Ensembles of whole texts: what f makes of the members' probabilities of a text, and not of its next byte.

The law
    With Pᵢ(y) what member i gives a text y after the prefix, and f one of

        mixture   Σ wᵢ Pᵢ             minimum   the least Pᵢ
        product   Π Pᵢ^wᵢ             maximum   the largest Pᵢ
        power     (Σ wᵢ Pᵢ^r)^(1/r); with r = 0 the limit, Π Pᵢ^wᵢ

    a text is drawn in proportion to f(P₁(y), …, Pₙ(y)). Its probability is that over the sum of all texts, which nobody
    knows. (The byte-level product renormalises at each byte, so it prefers other texts.)

Theory of operation
    The same f of the members' prefix probabilities is a mass for each prefix. So a row is a ratio of masses, as in any
    model, but its sum S need not be 1. Where no S is above 1, a drawer that throws a text away with probability 1 − S
    draws texts in proportion to f: `conditioning="exact"`. One that multiplies a weight by S needs no such bound:
    `particles`.
    No sum is above 1 where f is superadditive, f(p) + f(q) ≤ f(p + q): a mixture, the minimum, a power up to 1
    (Minkowski), a product whose weights add up to 1 or more (Hölder).

Rules
    Pᵢ is counted from the end of the prefix on. All rows are evaluated in full.
    A member that cannot spell what is written gives it 0. A member of weight 0 is not asked.

Does not
    Tell a row or the probability of a text: for both the sum over all texts is needed.

Source
    f-ensembles of byte strings: arXiv:2603.05432.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.arguments import number
from bytelm.ensemble.combine import AnyCombine, weights_of
from bytelm.ensemble.place import EnsemblePlace
from bytelm.errors import InvalidArgumentError, ModelError
from bytelm.inference.envelope import Bounds, Envelope
from bytelm.inference.scheduler import Step, together
from bytelm.sampling.constrained import Allowed
from bytelm.sampling.draw import settled
from bytelm.symbols import SYMBOLS

OF_TEXTS: Final = frozenset({"minimum", "maximum", "power"})  # formulas of whole texts alone
UNKNOWN: Final = (
    "is not known with level='string': it takes the sum over all texts. sample and stream draw texts, with particles=N "
    "or conditioning='exact'"
)


def power_of(combine: AnyCombine, given: Any) -> float:
    """The exponent r of a power mean.

    Raises:
        InvalidArgumentError: It is missing, or there is no use for it.
    """
    if combine != "power":
        if given is not None:
            raise InvalidArgumentError(f"power is the exponent of combine='power'; got {given} with {combine!r}")
        return 1.0
    if given is None:
        raise InvalidArgumentError("combine='power' needs its exponent: give power, such as -1 for a harmonic mean")
    power = number("power", given)
    if not math.isfinite(power):
        raise InvalidArgumentError(
            f"power must be a finite number; got {power}. combine='minimum' and 'maximum' are the limits"
        )
    return power


def text_weights(given: Any, count: int, combine: AnyCombine) -> Float64[np.ndarray, " members"]:
    """The weights of the members; a member of weight 0 counts for nothing.

    Raises:
        InvalidArgumentError: They cannot be, or the formula has no use for them.
    """
    if combine == "bayes":
        raise InvalidArgumentError("combine='bayes' is of whole texts at level='byte' already: leave level out")
    if callable(given):
        raise InvalidArgumentError("weights that depend on the text are of level='byte': give numbers")
    if given is not None and combine in ("minimum", "maximum"):
        raise InvalidArgumentError(f"combine={combine!r} has no weights: leave them out")
    weights = weights_of(given, count, combine)
    if (weights < 0).any():
        raise InvalidArgumentError(f"weights must not be negative with level='string'; got {weights.tolist()}")
    return weights


def exact(combine: AnyCombine, weights: Float64[np.ndarray, " members"], power: float) -> bool:
    """Whether no row's sum is above 1."""
    match combine:
        case "product":
            return float(weights.sum()) >= 1
        case "power":
            return power <= 1
        case _:
            return combine != "maximum"


def log_f(
    combine: AnyCombine, weights: Float64[np.ndarray, " members"], power: float, logs: Float64[np.ndarray, "members n"]
) -> Float64[np.ndarray, " n"]:
    """Ln f, of the logarithms of what each member gives some texts.

    Args:
        combine: Which f.
        weights: Of the members, all above 0. The minimum and the maximum do without.
        power: r, for a power mean.
        logs: ln Pᵢ of each text.

    >>> halves = np.log([[0.5, 0.1], [0.25, 0.4]])
    >>> np.exp(log_f("power", np.array([0.5, 0.5]), -1.0, halves)).round(4)
    array([0.3333, 0.16  ])
    """
    with np.errstate(invalid="ignore"):
        match combine:
            case "minimum":
                found = logs.min(axis=0)
            case "maximum":
                found = logs.max(axis=0)
            case "product":
                found = weights @ logs
            case "power" if power == 0:
                found = weights @ logs
            case _:
                found = np.logaddexp.reduce(np.log(weights)[:, None] + power * logs) / power
    return np.asarray(found, np.float64)


class StringPlace(EnsemblePlace):
    """Several byte models at one place in a text, whose mass is f of theirs.

    The arguments are those of `EnsemblePlace`; its ``zeros`` are the members' log-masses where the new text began.
    """

    silent = "the ensemble gives no text any probability: its members rule out all that the others allow"
    normalised = False

    def begin(self) -> Step[None]:  # noqa: D102 - as in `Place`
        yield from together([member.begin() for _, member in self.asked()])
        if self.zeros is None:
            zeros = np.zeros(len(self.weights))
            for i, member in self.asked():
                zeros[i] = member.mass()[0]
                if zeros[i] == -math.inf:
                    raise ModelError(f"member {i} of the ensemble gives the prefix probability 0")
            self.zeros = tuple(zeros.tolist())

    def evaluate(self, allowed: Allowed | None = None) -> Step[None]:  # noqa: D102 - as in `Place`
        del allowed
        yield from self.evaluate_all()

    def evaluate_all(self) -> Step[None]:  # noqa: D102 - as in `Place`
        yield from together([member.evaluate_all() for _, member in self.asked()])

    def mass(self) -> tuple[float, float]:  # noqa: D102 - as in `Place`
        mass = float(self._f({i: member.mass()[0] for i, member in self.asked()}, np.zeros((len(self.weights), 1)))[0])
        return mass, mass

    def measured(self, *, end: bool) -> Step[float]:  # noqa: D102 - as in `Place`
        asked = self.asked()
        masses = yield from together([member.measured(end=end) for _, member in asked])
        found = {i: mass for (i, _), mass in zip(asked, masses, strict=True)}
        return float(self._f(found, np.zeros((len(self.weights), 1)))[0])

    def row(self) -> Float64[np.ndarray, "257"]:  # noqa: D102 - as in `Place`
        rows = np.full((len(self.weights), SYMBOLS), -np.inf)
        for i, member in self.asked():
            rows[i] = member.row()
        mass = self.mass()[0]
        if mass == -math.inf:
            return np.full(SYMBOLS, -np.inf)
        row: Float64[np.ndarray, "257"] = self._f({i: each.mass()[0] for i, each in self.asked()}, rows) - mass
        return row

    def _f(self, masses: Mapping[int, float], more: Float64[np.ndarray, "members n"]) -> Float64[np.ndarray, " n"]:
        """Ln f of what the members give the text, each times what follows it."""
        how = self.combination
        logs = np.full(more.shape, -np.inf)
        for i, mass in masses.items():
            logs[i] = mass - (self.zeros[i] if self.zeros else 0.0) + more[i]
        counted = self.weights != 0
        return log_f(how.combine, self.weights[counted], how.power, logs[counted])

    def symbols(self, uniforms: Float64[np.ndarray, " n"]) -> Step[Int64[np.ndarray, " n"]]:
        """As in `Place`, from the whole row."""
        yield from self.evaluate_all()
        return settled(uniforms, np.zeros(SYMBOLS), np.exp(self.row()))

    def leak(self) -> tuple[float, float]:
        """The largest leak of a member's row: what the ensemble's own sum lacks of 1 is no leak."""
        leaks = [member.leak() for _, member in self.asked()]
        return max(least for least, _ in leaks), max(most for _, most in leaks)

    def envelope(self, allowed: Allowed | None = None) -> tuple[float, Envelope]:  # noqa: D102, ARG002
        raise InvalidArgumentError(f"a row {UNKNOWN}")

    def bounds(self) -> Bounds:  # noqa: D102 - as in `Place`
        raise InvalidArgumentError(f"a row {UNKNOWN}")

    def full_row(self, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:  # noqa: D102, ARG002
        raise InvalidArgumentError(f"a row {UNKNOWN}")
