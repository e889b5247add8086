r"""Speculative drawing over bytes: what another model drafts is checked in one call, and the law stays the model's own.

The law
    Let P be the distribution that the next symbol is to have, after filters, and Q the one that a drafter drew b from.
    The draft is accepted with probability min(1, P(b) / Q(b)). Where it is not, a symbol is drawn from what Q lacks of
    P: max(P − Q, 0), divided by its sum. So the symbol has the law P, whatever Q is:

        Q(b) · min(1, P(b) / Q(b)) + (1 − Σ min(P, Q)) · max(P(b) − Q(b), 0) / (1 − Σ min(P, Q)) = P(b)

    The symbols behind it are checked in the same way, one after the other, up to the first that is not accepted.
    Bytes are what all models share, so the drafter's vocabulary may be any.

The trap
    Over tokens, drafts of a model with other tokens must not be checked so at a temperature above 0. The text has to be
    encoded with the target's tokens first, and Q(t) has to be the probability that the text is *encoded* with t: a sum
    over all that the drafter could write next. The probability of t's bytes is another number, and a greater one: much
    of what begins with these bytes is encoded with a longer token. With it in place of Q, the law is that of neither
    model. Here a symbol is a byte, and Q(b) is what b was drawn from.

Theory of operation
    The boundary nodes of all places along a draft come from the text alone. Those that most likely decide are one
    request (along.py). What they leave open is bounded, and seldom decides (acceptance.py). Where it does, more is
    asked for, as in any draw. Behind a draft that is accepted the text goes on with what is known there.
    A draft is asked for only where the next symbol needs a model call anyhow: where lower bounds L ≤ P leave its random
    number undecided (bounds.py). Then the symbol has the law (P − L) / (1 − ΣL), and the draft is checked by that. What
    L decides has the law L / ΣL, so both together make P. What follows a rejected symbol within a token is mostly
    decided so. A draft that is good for nothing costs rows, and hardly a call.
    A draft is as long as pays, by the share of symbols that were accepted of late: a call writes (1 − sᴸ⁺¹) / (1 − s)
    symbols in the mean, for a draft of L and a share of s. Where drafts fail, they are left out for a while.

Failure
    A drafter that fails is left out from there on, and usage says why. The text goes on without it.

Cost
    The tokens of a draft and some nodes beside them in each call, in exchange for fewer calls. Where a place is not
    lazy, or a processor reads rows, the row at each place in full.

Source
    Leviathan, Kalman and Matias, arXiv:2211.17192; Chen et al., arXiv:2302.01318. Over bytes it needs no common
    vocabulary (compare arXiv:2502.05202).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.errors import UnreachablePrefixError
from bytelm.inference.frontier import NOTHING
from bytelm.inference.scheduler import Step, together
from bytelm.sampling.acceptance import checked, undecided
from bytelm.sampling.completion import Completion
from bytelm.sampling.constrained import Allowed, Binding
from bytelm.sampling.drafter import Drafting, Proposal, drafter_of
from bytelm.sampling.draw import processed, settled
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import Place
from bytelm.symbols import EOT

T = TypeVar("T")

MOST: Final = 32  # symbols of a draft
COST: Final = 0.01  # of a symbol more in a draft, the drafter's and that of checking it, in calls
BEFORE: Final = (4.0, 1.0)  # symbols that count as accepted and as rejected before any was
KEPT: Final = 0.8  # of what was counted, at each draft that follows
HOPED: Final = 2.0  # symbols that are accepted of a draft, before any was tried
RECENT: Final = 0.25  # the weight of the last draft in the mean of what is accepted
WORTH: Final = 0.5  # symbols accepted of a draft, in the mean: with fewer, drafts are left out
MOST_LEFT_OUT: Final = 64  # in a row


class SpeculativeGeneration(ByteGeneration):
    """A completion whose bytes are drafted by another model, and checked.

    The arguments and attributes are those of `PlacedGeneration`; the params name the drafter.
    """

    def __init__(
        self,
        place: Place,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(place, params, random, score)
        self._drafting: Drafting | None = None
        self._ahead: deque[tuple[int, Place | None]] = deque()  # symbols that are decided, each with the place behind
        self._next: Place | None = None
        self._counted = np.zeros(2)  # accepted and rejected, the last drafts most
        self._expected = HOPED
        self._failures = self._left_out = 0
        self._drafted = self._accepted = 0
        self._draft_error: str | None = None

    def _force(self) -> None:
        if not self._ahead:
            super()._force()

    def _draw(self, uniform: Float64[np.ndarray, "1"] | None = None) -> Step[int]:
        if not (self._ahead or self.place.complete or self._draft_error is not None):
            uniform = self._uniform() if uniform is None else uniform
            known = NOTHING if self._whole else self._known()
            if settled(uniform, NOTHING, known)[0] < 0 and self._due():
                yield from self._speculate(known)
        if not self._ahead:
            return (yield from super()._draw(uniform))
        self._forced = self._leapt = False
        symbol, self._next = self._ahead.popleft()
        return self._weighed(symbol, None if self._binding is None else self._binding.allowed())

    def _advance(self, symbol: int) -> None:
        if self._next is None:
            super()._advance(symbol)
            return
        self.place, self._next = self._next, None
        self._recent.append(self.place)

    def _known(self) -> Float64[np.ndarray, "257"]:
        """Lower bounds on the law of the next symbol."""
        return self.place.lower(self.params.filters, None if self._binding is None else self._binding.allowed())

    def _drawn(self, uniform: Float64[np.ndarray, "1"], allowed: Allowed | None) -> Step[Int64[np.ndarray, "1"]]:
        """As in `ByteGeneration`, and read as `_known` was: whether to draft has depended on that."""
        if self._whole:
            return super()._drawn(uniform, allowed)
        return self.place.draw_by_bounds(self.params.filters, uniform, allowed=allowed)

    def _due(self) -> bool:
        """Whether a draft is to be checked here, where a call is needed anyhow."""
        self._left_out -= 1
        return self._left_out < 0

    def _proposed(self, known: Float64[np.ndarray, "257"]) -> Step[list[Proposal]]:
        """A draft; nothing from a drafter that fails."""
        params = self.params
        binding = None if self._binding is None else self._binding.copy()
        try:
            if self._drafting is None:
                drafter = drafter_of(params.draft)
                assert drafter is not None  # noqa: S101 - that is what this class is for
                self._drafting = drafter.drafting(self.prompt, params.filters, self._random)
            step = self._drafting.propose(self.place.prefix, min(self._length(), self.left), binding, known)
            return (yield from forgiving(step))
        except Exception as error:  # noqa: BLE001 - whatever it is, the text needs no drafter
            self._draft_error = f"{type(error).__name__}: {error}"
            return []

    def _speculate(self, known: Float64[np.ndarray, "257"]) -> Step[None]:
        """Have a draft checked: what is decided goes to `_ahead`.

        Args:
            known: Lower bounds on the law of the next symbol, which do not decide it.
        """
        proposals = yield from self._proposed(known)
        if not proposals:
            return
        places = [self.place]
        for proposal in proposals:
            if proposal.symbol == EOT:
                break
            try:
                behind = places[-1].advance(bytes([proposal.symbol]))
            except UnreachablePrefixError:
                break  # its probability is 0
            if behind.room() < 0:
                break
            places.append(behind)
        yield from self._check(proposals, places, known)
        accepted = sum(each.symbol == symbol for each, (symbol, _) in zip(proposals, self._ahead, strict=False))
        self._learn(len(proposals), accepted)

    def _check(self, proposals: list[Proposal], places: list[Place], known: Float64[np.ndarray, "257"]) -> Step[None]:
        if self._whole:
            yield from together([place.evaluate_all() for place in places])
        else:
            steps: list[Step[Any]] = [
                places[0].evaluate_along(places[1:], 0.0 if self.params.filters.greedy else self._share)
            ]
            if len(proposals) >= self.left and not self.place.chained:
                steps.append(places[-1].measured(end=False))  # what the text's probability takes, if it ends there
            yield from together(steps)
        binding = None if self._binding is None else self._binding.copy()
        written = bytes(self.bytes)
        for place, proposal, behind in zip_longest(places, proposals, places[1:]):
            if place is None or proposal is None or (binding is not None and binding.done):
                return
            decided = yield from self._decided(place, proposal, written, binding, known)
            known = NOTHING
            if decided is None:
                return  # where the text comes there, that is an error
            symbol, accepted = decided
            if not accepted or behind is None:
                self._ahead.append((symbol, None))
                return
            behind.follow(place, symbol)
            self._ahead.append((symbol, behind))
            written += bytes([symbol])
            if binding is not None:
                binding.advance(symbol)

    @property
    def _whole(self) -> bool:
        """Whether every row is evaluated in full."""
        return not (self.params.lazy and self.place.lazy) or self.params.logits_processor is not None

    def _decided(
        self,
        place: Place,
        proposal: Proposal,
        written: bytes,
        binding: Binding | None,
        known: Float64[np.ndarray, "257"],
    ) -> Step[tuple[int, bool] | None]:
        """A symbol with the law of the text there, and whether it is the one that was proposed; None: there is none.

        Args:
            place: Where.
            proposal: What is proposed there.
            written: What was written before, the draft up to here included.
            binding: The constraint there.
            known: Lower bounds on the law there, which were found not to decide.
        """
        filters, processor = self.params.filters, self.params.logits_processor
        allowed = None if binding is None else binding.mask()
        if processor is not None:
            row = place.row()
            masses = processed(processor, written, row) if np.isfinite(row).any() else np.exp(row)
            masses = masses if allowed is None else masses * allowed
            probs = filters.apply(masses) if masses.any() else masses
            return (
                yield from checked(proposal, self._random, lower=lambda: probs, complete=lambda: True, more=nothing)
            )
        return (
            yield from checked(
                proposal,
                self._random,
                lower=lambda: undecided(place.lower(filters, allowed), known),
                complete=lambda: place.settled(allowed),
                more=lambda: place.evaluate(allowed),
            )
        )

    @property
    def _share(self) -> float:
        """Of the symbols that were checked, how many were accepted of late."""
        accepted, rejected = self._counted + BEFORE
        return float(accepted / (accepted + rejected))

    def _length(self) -> int:
        """The length of a draft by which a call writes most for what it costs, if symbols are accepted as of late."""
        share, lengths = self._share, np.arange(1, MOST + 1)
        written = (1 - share ** (lengths + 1)) / (1 - share)
        return int(lengths[np.argmax(written / (1 + COST * lengths))])

    def _learn(self, drafted: int, accepted: int) -> None:
        """Note what was accepted of a draft."""
        self._drafted += drafted
        self._accepted += accepted
        self._counted = self._counted * KEPT + (accepted, accepted < drafted)
        self._expected += (accepted - self._expected) * RECENT
        if self._expected >= WORTH:
            self._failures = 0
        else:
            self._failures += 1
            self._left_out = min(2 ** (self._failures + 1), MOST_LEFT_OUT)

    def completion(self) -> Step[Completion]:
        """As in `Generation`; its usage tells what was drafted."""
        done = yield from super().completion()
        usage = replace(done.usage, drafted=self._drafted, accepted=self._accepted, draft_error=self._draft_error)
        return replace(done, usage=usage)


def nothing() -> Step[None]:
    """Evaluates nothing."""
    yield from ()


def forgiving(step: Step[T]) -> Step[T]:
    """The same step, to which an error of a call is raised where it asked, instead of to all who share the call."""
    rows = None
    while True:
        try:
            request = step.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = yield replace(request, may_fail=True)
        if failed := [row for row in rows if isinstance(row, Exception)]:
            step.close()
            raise failed[0]
