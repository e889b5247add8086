r"""An ensemble at one place in a text: the places of its members, and what is known of the whole.

Setting
    The members are at the same place of the text that they write together, each behind its own prompt. What `bayes`
    needs of them are masses relative to where their text began, its `zeros`. The mass of the ensemble itself is a sum
    over its members' masses in bayes with fixed weights, and otherwise a product of its rows, the `chain`.

Lazy evaluation
    Bounds on the members' rows make bounds on the ensemble's, and sampling/bounds.py does the rest: greedy and filtered
    draws, products and bayes (where the envelopes of the members, each in proportion to its posterior, are summed)
    evaluate one member at a time, the one that leaves most open, until the draw is certain.
    A *plain* draw from a mixture, at temperature 1 without filters, first draws the member: the uniform number u falls
    into the share wᵢ of one, and where in it u falls is a uniform number again, by which that member alone is asked for
    a symbol. With probability pᵢ(b) it says b, so b comes with Σ wᵢ pᵢ(b); with the probability of its leak it says
    nothing. Then a symbol is drawn from the whole row over its sum, by another number: P(b) = p(b) + leak · p(b) / (1 −
    leak) = p(b) / (1 − leak), the row that the sampler draws from. (Plain texts in bayes: member_draws.py.)

Does not
    Combine in bayes what is known in part of a member whose mass is a chain: in such an ensemble every row is evaluated
    in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.ensemble import combine
from bytelm.ensemble.combine import AnyCombine, WeightsAt
from bytelm.ensemble.likelihoods import Likelihoods
from bytelm.errors import ModelError, UnreachablePrefixError
from bytelm.inference.envelope import Bounds, Envelope, conditional
from bytelm.inference.scheduler import Step, together
from bytelm.lemma import log_sum
from bytelm.sampling.constrained import Allowed, restricted
from bytelm.sampling.filters import Filters
from bytelm.sampling.place import NOTHING, Place
from bytelm.symbols import EOT, SYMBOLS


@dataclass(frozen=True, slots=True)
class Combination:
    """How an ensemble combines its members behind a prompt.

    Attributes:
        combine: The formula.
        weights: Of the members, after a text or after any.
        alpha: What a symbol needs to be plausible, in a product with a weight below 0.
        likelihoods: Finds each member's log-probability of the shared text, for bayes.
        prompts: What each member has to itself, in front of the shared text.
        power: The exponent of a power mean.
    """

    combine: AnyCombine
    weights: WeightsAt
    alpha: float
    likelihoods: Likelihoods
    prompts: tuple[Any, ...]
    power: float = 1.0


class EnsemblePlace(Place):
    """Several byte models at one place in a text, as one.

    Args:
        members: The places of those that can spell the text, by their numbers.
        combination: How they are combined.
        text: What they have written together so far, or were given together.
        zeros: For bayes: the mass of each member where the text began.
        chain: ln P of what was written since the first evaluation, as a sum over its rows; None if it is not known.
    """

    silent = (
        "the ensemble gives no byte and no end of text any probability: its members give the text probability 0, or "
        "rule out all that the others allow"
    )

    def __init__(
        self,
        members: Mapping[int, Place],
        combination: Combination,
        text: bytes,
        *,
        zeros: tuple[float, ...] | None = None,
        chain: float | None = 0.0,
    ) -> None:
        self.members = dict(members)
        self.combination = combination
        self.prefix = text
        self.weights = combine.weights_at(combination.weights, text)
        self.zeros = zeros
        self.chain = chain
        self.bayes = combination.combine == "bayes"
        self.chained = self.normalised and (not self.bayes or callable(combination.weights))
        self.lazy = self.normalised and all(
            member.lazy and not (self.bayes and member.chained) for member in members.values()
        )

    def asked(self) -> list[tuple[int, Place]]:
        """The members that have a weight here, and their numbers."""
        return [(i, member) for i, member in self.members.items() if self.weights[i] != 0]

    @property
    def complete(self) -> bool:  # noqa: D102 - as in `Place`
        return (not self.bayes or self.zeros is not None) and all(member.complete for _, member in self.asked())

    def advance(self, data: bytes) -> EnsemblePlace:  # noqa: D102 - as in `Place`
        chain = None
        if self.chained and self.chain is not None and len(data) == 1 and self.complete:
            chain = self.chain + float(self.row()[data[0]])
        members: dict[int, Place] = {}
        for i, member in self.members.items():
            with suppress(UnreachablePrefixError):
                members[i] = member.advance(data)
        lost = any(member.lost_mass for member in members.values())
        zeros = None if lost else self.zeros
        return type(self)(members, self.combination, self.prefix + data, zeros=zeros, chain=chain)

    def follow(self, before: Place, symbol: int) -> None:
        """As in `Place`: the chain, which takes the row before."""
        for i, member in self.members.items():
            if isinstance(before, EnsemblePlace) and i in before.members:
                member.follow(before.members[i], symbol)
        if isinstance(before, EnsemblePlace) and self.chained and before.chain is not None and before.complete:
            self.chain = before.chain + float(before.row()[symbol])

    @property
    def lost_mass(self) -> bool:  # noqa: D102 - as in `Place`
        return self.chain is None if self.chained else self.zeros is None

    def check(self) -> None:  # noqa: D102 - as in `Place`
        for member in self.members.values():
            member.check()

    def copy(self) -> EnsemblePlace:  # noqa: D102 - as in `Place`
        return self._with({i: member.copy() for i, member in self.members.items()})

    def bare(self) -> EnsemblePlace:  # noqa: D102 - as in `Place`
        return self._with({i: member.bare() for i, member in self.members.items()})

    def _with(self, members: Mapping[int, Place]) -> EnsemblePlace:
        return type(self)(members, self.combination, self.prefix, zeros=self.zeros, chain=self.chain)

    def begin(self) -> Step[None]:  # noqa: D102 - as in `Place`
        # Weights that depend on the text may ask a member later: its likelihood counts from here all the same.
        asked = list(self.members.items()) if self.bayes and callable(self.combination.weights) else self.asked()
        yield from together([member.begin() for _, member in asked])
        if self.chain is None:
            self.chain = 0.0
        if self.bayes and self.zeros is None:
            zeros = [0.0] * len(self.weights)
            spoken: list[float] = [0.0] * len(asked)
            if self.prefix:
                likelihoods, prompts = self.combination.likelihoods, self.combination.prompts
                spoken = yield from together([likelihoods.of(i, prompts[i], self.prefix) for i, _ in asked])
            for (i, member), likelihood in zip(asked, spoken, strict=True):
                # Where the text is impossible it stays so: any zero will do.
                zeros[i] = member.mass()[0] - likelihood if likelihood > -math.inf else math.inf
            self.zeros = tuple(zeros)

    def evaluate(self, allowed: Allowed | None = None) -> Step[None]:  # noqa: D102 - as in `Place`
        if self.bayes and self.zeros is None:
            yield from self.begin()
            return
        open_ = [(i, member) for i, member in self.asked() if not member.complete]
        if self.bayes:
            shares = np.exp(self.log_shares())
        else:
            shares = np.abs(self.weights)
        if open_:
            _, member = max(open_, key=lambda each: float(shares[each[0]]) * each[1].bounds().rest)
            yield from member.evaluate(allowed)

    def evaluate_all(self) -> Step[None]:  # noqa: D102 - as in `Place`
        if self.bayes and self.zeros is None:
            yield from self.begin()
        else:
            yield from together([member.evaluate_all() for _, member in self.asked()])

    def symbols(self, uniforms: Float64[np.ndarray, " n"]) -> Step[Int64[np.ndarray, " n"]]:
        """As in `Place`. In a mixture each number first draws the member, whose symbol it then draws."""
        if self.combination.combine != "mixture":
            return (yield from super().symbols(uniforms))
        symbols = np.full(len(uniforms), -1)
        edges = np.cumsum(self.weights)
        last = int(np.flatnonzero(self.weights)[-1])
        drawn = np.minimum(np.searchsorted(edges, uniforms, side="right"), last)
        for i in sorted(self.members.keys() & drawn.tolist()):
            own = drawn == i
            within = (uniforms[own] - (edges[i] - self.weights[i])) / self.weights[i]
            symbols[own] = yield from self.members[i].symbols(np.clip(within, 0.0, math.nextafter(1.0, 0.0)))
        return symbols

    def draw(
        self,
        filters: Filters,
        uniforms: Float64[np.ndarray, " n"],
        random: np.random.Generator,
        *,
        allowed: Allowed | None = None,
    ) -> Step[Int64[np.ndarray, " n"]]:
        """As in `Place`. A plain draw from a mixture draws the member first; what falls on its leak is drawn anew.

        Under a constraint it does not: a member's chance to be drawn then depends on what it gives the allowed symbols.
        """
        if not self.lazy:
            yield from self.evaluate_all()
        if allowed is not None or not (filters.plain and self.combination.combine == "mixture"):
            return (yield from super().draw(filters, uniforms, random, allowed=allowed))
        symbols = yield from self.symbols(uniforms)
        lost = symbols < 0
        if lost.any():
            yield from self.evaluate_all()
            symbols[lost] = yield from super().draw(filters, random.random(int(lost.sum())), random)
        return symbols

    # ---- what is known

    def likelihoods(self, *, most: bool = False) -> Float64[np.ndarray, " members"]:
        """Ln P of the text so far, for each member in bayes; 0 elsewhere."""
        if not self.bayes or self.zeros is None:
            return np.zeros(len(self.weights))
        likelihoods = np.full(len(self.weights), -np.inf)
        for i, member in self.asked():
            mass = member.mass()[most]
            likelihoods[i] = mass - self.zeros[i] if mass > -math.inf else -math.inf
        return likelihoods

    def log_shares(self) -> Float64[np.ndarray, " members"]:
        """Ln of the weights, or of the posterior weights as far as they are known."""
        return combine.log_shares(self.combination.combine, np.abs(self.weights), self.likelihoods())

    def mass(self) -> tuple[float, float]:  # noqa: D102 - as in `Place`
        if self.chained:
            if self.chain is None:
                raise ModelError("the mass of an ensemble was asked for before its rows: its evaluation is broken")
            return self.chain, self.chain
        return self._weighed()

    def _weighed(self) -> tuple[float, float]:
        """Bounds on ln Σ wᵢ Lᵢ, by which bayes divides: the mass, unless weights depend on the text."""
        with np.errstate(divide="ignore"):
            weights = np.log(self.weights)
        least, most = (log_sum((weights + self.likelihoods(most=most)).tolist()) for most in (False, True))
        return least, least if self.complete else most

    def measured(self, *, end: bool) -> Step[float]:  # noqa: D102 - as in `Place`
        if self.chained or self.zeros is None:
            if end or not self.chained or self.chain is None:
                yield from self.evaluate_all()
            return self.mass()[0] + (float(self.row()[EOT]) if end else 0.0)
        asked = self.asked()
        masses = yield from together([member.measured(end=end) for _, member in asked])
        return log_sum(
            math.log(self.weights[i]) + mass - self.zeros[i]
            for (i, _), mass in zip(asked, masses, strict=True)
            if mass > -math.inf
        )

    def row(self) -> Float64[np.ndarray, "257"]:  # noqa: D102 - as in `Place`
        rows = np.full((len(self.weights), SYMBOLS), -np.inf)
        for i, member in self.asked():
            rows[i] = member.row()
        how = self.combination
        return combine.combined(how.combine, self.weights, rows, self.likelihoods(), alpha=how.alpha)

    def full_row(self, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
        """As in `Place`. With ``tol`` above 0 the row holds what each symbol has for certain."""
        bound = 0.0
        if tol == 0:
            yield from self.evaluate_all()
        elif self.bayes and self.zeros is None:
            yield from self.begin()
        while not self.complete and (bound := self.bounds().rest) > tol:
            yield from self.evaluate()
        if not self.complete:
            with np.errstate(divide="ignore"):
                return np.log(self.bounds().low), bound
        row = self.row()
        if np.isneginf(row).all():
            raise ModelError(f"after {self.prefix[-40:]!r} {self.silent}")
        return row, 0.0

    def envelope(self, allowed: Allowed | None = None) -> tuple[float, Envelope]:  # noqa: D102 - as in `Place`
        if not self.bayes:
            if self.combination.combine == "product":
                members = [self._bounds(i) for i in range(len(self.weights))]
                whole = combine.product_envelope(self.weights, members, alpha=self.combination.alpha)
            else:
                whole = self.bounds().envelope()
            return self.chain or 0.0, restricted(whole, allowed)
        parts = []
        for i, member in self.asked():
            scale, envelope = member.envelope(allowed)
            zero = 0.0 if self.zeros is None else self.zeros[i]
            parts.append((math.log(self.weights[i]) + scale - zero, envelope))
        top = max((log_unit for log_unit, envelope in parts if _some(envelope)), default=-math.inf)
        top = top if top > -math.inf else 0.0
        known, extra, elsewhere, unknown = np.zeros(SYMBOLS), np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0
        for log_unit, envelope in parts:
            if _some(envelope) and (unit := math.exp(min(log_unit - top, 0.0))) > 0:
                known += unit * envelope.known
                extra += unit * envelope.extra
                elsewhere += unit * envelope.elsewhere
                unknown += unit * envelope.unknown
        return top, Envelope(known, extra, elsewhere, unknown)

    def bounds(self) -> Bounds:  # noqa: D102 - as in `Place`
        if self.complete:
            probs = np.exp(self.row())
            return Bounds(probs, probs, 0.0)
        match self.combination.combine:
            case "mixture":
                return combine.mixed(self.weights, [self._bounds(i) for i in range(len(self.weights))])
            case "product":
                return combine.normalised(self.envelope()[1])
            case _:  # bayes
                if self.zeros is None:
                    return Bounds(np.zeros(SYMBOLS), np.ones(SYMBOLS), 1.0)
                (scale, envelope), (least, most) = self.envelope(), self._weighed()
                return conditional(envelope, math.exp(least - scale), math.exp(most - scale))

    def _bounds(self, i: int) -> Bounds:
        return self.members[i].bounds() if i in self.members and self.weights[i] != 0 else NOTHING

    def leak(self) -> tuple[float, float]:
        """As in `Place`. In a mixture, what the members leak."""
        if self.combination.combine != "mixture":
            return super().leak()
        members = [(float(self.weights[i]), *member.leak()) for i, member in self.asked()]
        silent = max(1.0 - sum(weight for weight, _, _ in members), 0.0)  # what those had that cannot spell the text
        least = silent + sum(weight * low for weight, low, _ in members)
        return least, silent + sum(weight * high for weight, _, high in members)

    def room(self) -> float:  # noqa: D102
        return min((member.room() for _, member in self.asked()), default=math.inf)


def _some(envelope: Envelope) -> bool:
    return bool(envelope.unknown > 0 or envelope.known.any())
