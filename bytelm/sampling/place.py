"""A byte model at a place in a text: what is known of it there, and how a symbol is drawn.

Setting
    A `Place` is a byte model at the end of a text. A `ModelPlace` is one model's frontier; an ensemble's place
    (ensemble/place.py) holds the places of its members. A place has a *mass*: P of the text so far, in logarithms, on a
    scale of its own that stays the same as the place is advanced.

Rules
    `advance`, `copy` and `bare` return another place. Steps (`begin`, `evaluate`, …) add to what is known of this one.
    A member of an ensemble that cannot spell what the others write has no place any more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.errors import ConstraintError, ModelError
from bytelm.inference.envelope import Bounds, Envelope, conditional, shares
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all, full_row, settled_log_mass
from bytelm.inference.revisions import check_revision
from bytelm.inference.scheduler import Step, on, together
from bytelm.lemma import log_sum
from bytelm.sampling.along import evaluate_along
from bytelm.sampling.bounds import acceptance, lower_bounds, passing
from bytelm.sampling.constrained import Allowed
from bytelm.sampling.draw import filled, settle
from bytelm.sampling.filters import Filters
from bytelm.sampling.sure_bytes import Sure, sure_bytes
from bytelm.symbols import SYMBOLS, leak_of
from bytelm.token_lm import TokenLM, abilities_of, revision_of

T = TypeVar("T")

NOTHING: Final = Bounds(np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0)


class Place(ABC):
    """A byte model at a place in a text."""

    lazy: bool = True
    """Whether it can be drawn from before all is evaluated."""
    normalised: bool = True
    """Whether its masses are probabilities: whether those of all texts make 1, up to leak."""
    chained: bool = False
    """Whether its mass is a product of rows, so that each of them is needed."""
    prefix: bytes
    """The byte prefix: the text so far."""
    silent: str
    """What an error says of a place where no symbol has any probability."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether its row is known."""

    @property
    def lost_mass(self) -> bool:
        """Whether its mass can no longer be told from the rows that were evaluated."""
        return False

    @abstractmethod
    def advance(self, data: bytes) -> Place:
        """The same model after more bytes.

        Raises:
            UnreachablePrefixError: No token sequence spells them.
        """

    def follow(self, before: Place, symbol: int) -> None:
        """Take in what was evaluated of the place that this one was advanced from, since it was."""
        del before, symbol

    @abstractmethod
    def copy(self) -> Place:
        """The same place, to be evaluated on its own."""

    @abstractmethod
    def bare(self) -> Place:
        """The same place without its rows."""

    @abstractmethod
    def check(self) -> None:
        """See that what is known of it is still what its models say.

        Raises:
            ModelChangedError: A model was changed.
        """

    def begin(self) -> Step[None]:
        """Evaluate the place in full: a completion begins here."""
        yield from self.evaluate_all()

    @abstractmethod
    def evaluate(self, allowed: Allowed | None = None) -> Step[None]:
        """Evaluate what its row depends on most, of the allowed symbols where such are given."""

    @abstractmethod
    def evaluate_all(self) -> Step[None]:
        """Evaluate all."""

    def evaluate_along(self, ahead: Sequence[Place], share: float) -> Step[None]:
        """Evaluate what most likely decides the symbols of a text, in one request.

        Args:
            ahead: The places behind this one, each a symbol after the one before.
            share: How likely it is that a symbol of the text is accepted, and the next one comes to matter.
        """
        del share
        yield from together([place.evaluate_all() for place in (self, *ahead)])

    @abstractmethod
    def mass(self) -> tuple[float, float]:
        """The least and the most that the log-probability of the text so far can be."""

    @abstractmethod
    def measured(self, *, end: bool) -> Step[float]:
        """The log-probability of the text so far, with ``end`` of its end too; evaluates what that needs."""

    @abstractmethod
    def row(self) -> Float64[np.ndarray, "257"]:
        """Its row, once all is evaluated; −∞ throughout where it gives the text probability 0."""

    @abstractmethod
    def full_row(self, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
        """The row, and a bound on its total variation from the exact one, at most ``tol``.

        Raises:
            ModelError: Nothing can be said of what follows.
        """

    @abstractmethod
    def envelope(self, allowed: Allowed | None = None) -> tuple[float, Envelope]:
        """The logarithm of a unit, and in it what is known of the masses of the text with each (allowed) symbol."""

    @abstractmethod
    def bounds(self) -> Bounds:
        """What is known of its row."""

    @abstractmethod
    def room(self) -> float:
        """How many more tokens fit in the context; infinite where there is no limit."""

    def leak(self) -> tuple[float, float]:
        """The least and the most that its row can lack of 1, as far as is known."""
        if self.complete:
            leak = leak_of(self.row())
            return leak, leak
        bounds = self.bounds()
        most = 1.0 - float(bounds.low.sum())
        return max(most - bounds.rest, 0.0), min(max(most, 0.0), 1.0)

    def likeliest(self) -> str:
        """What a warning says of the likeliest token there; nothing where there is no one model to ask."""
        return ""

    def symbols(self, uniforms: Float64[np.ndarray, " n"]) -> Step[Int64[np.ndarray, " n"]]:
        """For each uniform number the symbol that it is under this place's own row; −1 beyond the row's sum."""
        found, _ = yield from settle(uniforms, lower=self.least, complete=lambda: self.complete, more=self.evaluate)
        return found

    def least(self) -> Float64[np.ndarray, "257"]:
        """Its row as far as it is known: `bounds` without what is open. Not to be written to."""
        return self.bounds().low

    def sure_bytes(self, filters: Filters) -> Step[Sure]:
        """Bytes that are certain together, where they come cheaper so; or none.

        Args:
            filters: What is done to the distribution.
        """
        del filters
        yield from ()
        return Sure()

    def settled(self, allowed: Allowed | None) -> bool:
        """Whether the masses of the allowed symbols are known."""
        return self.complete or (allowed is not None and self.envelope(allowed)[1].unknown == 0)

    def draw(
        self,
        filters: Filters,
        uniforms: Float64[np.ndarray, " n"],
        random: np.random.Generator,
        *,
        allowed: Allowed | None = None,
    ) -> Step[Int64[np.ndarray, " n"]]:
        """One symbol for each uniform number: independent draws from the filtered distribution after the text.

        Args:
            filters: What is done to the distribution.
            uniforms: Numbers from 0 to below 1.
            random: Gives more of them, where a draw takes more than one.
            allowed: The symbols that may be drawn; None: all. The row is restricted to these before the filters.

        Raises:
            ModelError: No symbol has any probability.
            ConstraintError: No allowed one has.
        """
        del random
        return (yield from self.draw_by_bounds(filters, uniforms, allowed=allowed))

    def keeps(self, filters: Filters, symbol: int, uniform: float) -> Step[bool]:
        """Whether a symbol that was drawn after the text, from the row as it is, is kept (filtered_draws.py).

        No more is evaluated than that depends on.

        Args:
            filters: What is done to the distribution; at a temperature up to 1.
            symbol: The symbol.
            uniform: From 0 to below 1: below temperature 1 a symbol that the filters keep is thrown away at times.
        """
        while True:
            envelope = self.envelope()[1]
            certain, possible = passing(envelope, filters)
            least, most = acceptance(envelope, filters.temperature, symbol)
            if certain[symbol] and uniform < least:
                return True
            if not possible[symbol] or uniform >= most:
                return False
            yield from self.evaluate()

    def lower(self, filters: Filters, allowed: Allowed | None = None) -> Float64[np.ndarray, "257"]:
        """Lower bounds on the filtered distribution after the text, as far as it is known; see `draw` for both."""
        return lower_bounds(self.envelope(allowed)[1], filters)

    def draw_by_bounds(
        self, filters: Filters, uniforms: Float64[np.ndarray, " n"], *, allowed: Allowed | None = None
    ) -> Step[Int64[np.ndarray, " n"]]:
        """As `draw`, where each number is read against `lower`.

        `draw` may read its numbers in another way. So whoever has seen that `lower` decides a number, or that it does
        not, draws by this.
        """
        symbols, raised = yield from settle(
            uniforms,
            lower=lambda: self.lower(filters, allowed),
            complete=lambda: self.settled(allowed),
            more=lambda: self.evaluate(allowed),
        )
        if not raised.any():
            if allowed is not None:
                raise ConstraintError(
                    f"after {self.prefix[-40:]!r} the model gives probability 0 to everything that the constraint "
                    "allows"
                )
            raise ModelError(f"after {self.prefix[-40:]!r} {self.silent}")
        return filled(symbols, raised)


class ModelPlace(Place):
    """One tokenized model at a place in a text.

    Args:
        frontier: There.
        token_lm: Its engine.
        since: The engine's revision when it was begun; None: the present one.
    """

    silent = (
        "the model gives no byte and no end of text any probability: all of its mass is on tokens that its tokenizer "
        "would not put there"
    )

    def __init__(self, frontier: Frontier, token_lm: TokenLM, since: Any = None) -> None:
        self.frontier = frontier
        self.prefix = frontier.prefix
        self.token_lm = token_lm
        self.since = revision_of(token_lm) if since is None else since

    @property
    def complete(self) -> bool:  # noqa: D102 - as in `Place`
        return self.frontier.complete

    def advance(self, data: bytes) -> ModelPlace:  # noqa: D102
        return ModelPlace(self.frontier.advance(data), self.token_lm, self.since)

    def copy(self) -> ModelPlace:  # noqa: D102
        return ModelPlace(self.frontier.copy(), self.token_lm, self.since)

    def bare(self) -> ModelPlace:  # noqa: D102
        return ModelPlace(self.frontier.bare(), self.token_lm, self.since)

    def check(self) -> None:  # noqa: D102
        check_revision(self.token_lm, self.since)

    def _on(self, step: Step[T]) -> Step[T]:
        return on(self.token_lm, step, self.since)

    def evaluate(self, allowed: Allowed | None = None) -> Step[None]:
        """As in `Place`. Where all is known of the allowed symbols, P(x) may still be open: a mixture needs it."""
        share = self.frontier.reader.extra_token_cost
        nodes = self.frontier.missing(share, allowed=allowed) or self.frontier.missing(share)
        yield from self._on(evaluate(self.frontier, nodes))

    def evaluate_all(self) -> Step[None]:  # noqa: D102
        yield from self._on(evaluate_all(self.frontier))

    def evaluate_along(self, ahead: Sequence[Place], share: float) -> Step[None]:
        """As in `Place`: along.py."""
        frontiers = [self.frontier, *(place.frontier for place in ahead if isinstance(place, ModelPlace))]
        yield from self._on(evaluate_along(frontiers, share))

    def follow(self, before: Place, symbol: int) -> None:  # noqa: D102
        del symbol
        if isinstance(before, ModelPlace):
            known = before.frontier.rows
            if nodes := [node for node in self.frontier.missing() if node in known]:
                self.frontier.learn(nodes, [known[node].given for node in nodes])

    def mass(self) -> tuple[float, float]:  # noqa: D102
        least = self.frontier.log_mass()
        return least, least if self.frontier.complete else log_sum([least, self.frontier.log_bound("mass")])

    def measured(self, *, end: bool) -> Step[float]:  # noqa: D102
        return (yield from self._on(settled_log_mass(self.frontier, ended=end)))

    def row(self) -> Float64[np.ndarray, "257"]:  # noqa: D102
        return self.frontier.logprobs()

    def full_row(self, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:  # noqa: D102
        return (yield from self._on(full_row(self.frontier, tol=tol)))

    def envelope(self, allowed: Allowed | None = None) -> tuple[float, Envelope]:  # noqa: D102
        return self.frontier.envelope(allowed)

    def bounds(self) -> Bounds:  # noqa: D102
        scale, envelope = self.envelope()
        if scale == -math.inf:
            return NOTHING
        least, most = self.mass()
        return conditional(envelope, math.exp(min(least - scale, 700.0)), math.exp(min(most - scale, 700.0)))

    def least(self) -> Float64[np.ndarray, "257"]:  # noqa: D102
        scale, known = self.frontier.known()
        most = self.mass()[1]
        return known / math.exp(min(most - scale, 700.0)) if most > -math.inf else NOTHING.low

    def leak(self) -> tuple[float, float]:
        """As in `Place`."""
        scale, known, unknown = self.frontier.held()
        if scale == -math.inf:
            return 1.0, 1.0
        least, most = self.mass()
        low, rest = shares(known, unknown, math.exp(min(least - scale, 700.0)), math.exp(min(most - scale, 700.0)))
        return max(1.0 - low - rest, 0.0), min(max(1.0 - low, 0.0), 1.0)

    def room(self) -> float:  # noqa: D102
        size = abilities_of(self.token_lm).context_length
        return math.inf if size is None else size - self.frontier.most_tokens

    def likeliest(self) -> str:
        """As in `Place`: of the node that holds most."""
        rows, shares = self.frontier.rows, self.frontier.log_shares()
        known = [node for node in shares if node in rows]
        if not known:
            return ""
        token = rows[max(known, key=shares.__getitem__)].likeliest()
        return f" (the model's likeliest token there is id {token})"

    def sure_bytes(self, filters: Filters) -> Step[Sure]:
        """As in `Place`: sure_bytes.py."""
        return (yield from self._on(sure_bytes(self.frontier, filters)))
