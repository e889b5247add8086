r"""The likeliest endings of a text: best-first search over byte strings, certified by bounds.

Setting
    An *ending* is a byte string y after the prefix x. It ends before a stop string or with the end of text, whichever
    the model comes to; or it is cut after ``max_bytes`` bytes, or where the model's context ends, and stands for all
    texts that begin with it. Those are the texts that `sample` can return, with ``bytes`` = y: each text that the model
    can write has one ending. The probability of y is the sum over the ways to end there,

        P(y | x) = P(y, end of text | x) + Σ over stop strings s of P(y·s | x),

    the lemma's values, as everywhere.

Theory of operation
    P(x·y·b) is never more than P(x·y). So the texts make a tree whose probabilities only fall on the way down, and a
    text of which nothing but an upper bound H is known can lead to no ending above H. The search takes the text with
    the greatest bound, looks one byte further, and stops when n endings are known exactly and no bound is above the
    last of them: then no ending that is missing can be likelier. That holds for any bounds, so nodes are evaluated
    lazily: a byte's bound is what flows to it through evaluated nodes and all that the others could add
    (inference/envelope.py). A node is evaluated where most of the greatest bound hangs on it.

Rules
    All ways for a text to end where it stands are one entry of that text, so that stop strings and the end of text
    count together. Its bound takes a stop string's first byte for the whole of it.
    Endings that are equally likely come in the order of their bytes, and none of them is missed in favour of another.

Cost
    One model call a round, for the ``WIDTH`` texts of the greatest bounds that need one. A text whose bound is above
    the last ending has to be looked at in any case; what a round asks for beyond those is the price of few calls.
    Where endings are many and all unlikely, the tree above the n-th is large: ``max_calls`` bounds the search, and what
    it leaves open is told.

Under a constraint
    Bytes that it forbids have probability 0, and a text is an ending where nothing may follow it. So these are the
    likeliest of the texts that the constraint allows, certified alike.

Does not
    Prune: a beam search can miss the likeliest string, this cannot.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypedDict, TypeVar

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Text, integer, stops_of
from bytelm.constraints import Constraint, constraint_of
from bytelm.errors import ConstraintError, InvalidArgumentError, UnreachablePrefixError
from bytelm.inference.envelope import SLACK
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Request, Step, changed, together
from bytelm.lemma import log_sum
from bytelm.sampling.constrained import Binding
from bytelm.sampling.endings import Ending, Endings, ranked
from bytelm.sampling.place import Place
from bytelm.sampling.text_stream import text_of
from bytelm.symbols import EOT, SYMBOLS

T = TypeVar("T")

WIDTH: Final = 8
LOOSE: Final = 0.5  # a bound of which less than this share is known for certain is made tighter before it is followed


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Attributes:
        n: How many endings.
        stops: The stop strings.
        max_bytes: The most bytes of an ending.
        max_calls: Model calls, at most; None: no limit.
        width: Texts that one call looks at, at most.
        constraint: What an ending may be; None: anything.
    """

    n: int
    stops: tuple[bytes, ...]
    max_bytes: int
    max_calls: int | None = None
    width: int = WIDTH
    constraint: Constraint | None = None

    @classmethod
    def of(
        cls,
        *,
        n: int,
        stop: Text | Sequence[Text],
        max_bytes: int,
        max_calls: int | None,
        constraint: Constraint | type | None = None,
    ) -> Search:
        """A search, its values checked.

        Raises:
            InvalidArgumentError: A value out of its range.
            InvalidTypeError: A value of the wrong type.
        """
        least = {"n": (n, 1), "max_bytes": (max_bytes, 0)}
        if max_calls is not None:
            least["max_calls"] = (max_calls, 1)
        for name, (value, low) in least.items():
            if integer(name, value) < low:
                raise InvalidArgumentError(f"{name} must be at least {low}; got {value}")
        found = None if constraint is None else constraint_of(constraint)
        return cls(n, stops_of(stop), max_bytes, max_calls, constraint=found)

    def stop_in(self, text: bytes) -> int:
        """The length of the longest stop string that a text ends with, or 0."""
        return max((len(stop) for stop in self.stops if text.endswith(stop)), default=0)

    def stops_after(self, text: bytes) -> list[bytes]:
        """The stop strings before which a text can end."""
        room = self.max_bytes - len(text)
        return [
            stop
            for stop in self.stops
            if len(stop) <= room
            and self.stop_in(text + stop) == len(stop)
            and not any(self.stop_in(text + stop[:size]) for size in range(1, len(stop)))
        ]


class LikeliestOptions(TypedDict, total=False):
    """What `likeliest` takes by keyword, for type checkers."""

    n: int
    stop: Text | Sequence[Text]
    max_bytes: int
    max_calls: int | None
    constraint: Constraint | type | None
    progress: bool


class Branch:
    """A text that endings may begin with, and what can be said of each byte after it.

    Args:
        place: At its end.
        text: What was written.
        search: What is looked for.
        binding: The constraint there.

    Attributes:
        bound: The log-mass that what is left to look at has at most.
    """

    def __init__(self, place: Place, text: bytes, search: Search, binding: Binding | None) -> None:
        self.place, self.text, self.binding = place, text, binding
        self.stops = search.stops_after(text)
        # A byte that completes a stop string leads to no longer text: the ending stands before the string.
        self._taken = {stop[-1] for stop in search.stops if (text + stop[-1:]).endswith(stop)}
        self._first = sorted({stop[0] for stop in self.stops})
        self.look()

    def look(self) -> None:
        """Read the bounds off the place anew."""
        place = self.place
        if place.complete:
            least = most = place.mass()[0] + place.row()
        elif self.whole:
            least, most = np.full(SYMBOLS, -np.inf), np.full(SYMBOLS, place.mass()[1])
        else:
            scale, envelope = place.envelope()
            with np.errstate(divide="ignore"):
                least = np.log(envelope.known) + scale
                most = np.log(envelope.known + envelope.extra) + scale
        self._low = self._with_stops(least)
        self._high = self._low if place.complete else np.minimum(self._with_stops(most), place.mass()[1])
        rising = np.argsort(self._high, kind="stable").tolist()
        self._left = [symbol for symbol in rising if symbol not in self._taken and self._high[symbol] > -math.inf]

    def _with_stops(self, masses: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
        """The log-masses, that of the end of text with those of the stop strings, as far as their first bytes tell."""
        masses = masses.copy()
        if self.binding is not None:
            masses[~self.binding.allowed()] = -np.inf
        masses[EOT] = log_sum([masses[EOT], *masses[self._first]])
        return masses

    @property
    def whole(self) -> bool:
        """Whether its row has to be known in full before any byte is followed: its mass is a product of rows."""
        return self.place.chained or not self.place.lazy

    @property
    def bound(self) -> float:
        """The log-mass that no ending which is left here can exceed; −∞ if none is left."""
        return float(self._high[self._left[-1]]) if self._left else -math.inf

    @property
    def loose(self) -> bool:
        """Whether most of the bound hangs on what is not evaluated."""
        if self.place.complete:
            return False
        if len(self._left) == 1 and not self.whole:
            return False  # there is one way on: what it holds is seen further on
        return self.whole or bool(self._low[self._left[-1]] < self.bound + math.log(LOOSE))

    def take(self) -> int:
        """The symbol of the greatest bound; it is left no more."""
        symbol: int = self._left.pop()
        self._taken.add(symbol)
        return symbol


class _SpentError(Exception):
    """The search has made as many calls as it may."""


class Searching:
    """A search for the likeliest endings.

    Args:
        place: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        search: What is looked for.
    """

    def __init__(self, place: Place, search: Search) -> None:
        self.place = place
        self.prompt = place.prefix
        self.search = search
        self.binding = None if search.constraint is None else Binding(search.constraint, self.prompt)
        self._start = 0.0  # the log-mass of the prompt
        self._calls = 0
        self._heap: list[tuple[float, int, Branch]] = []
        self._pushed = itertools.count()
        self._found: list[Ending] = []
        self._under_way: list[tuple[float, Step[None]]] = []  # what is being looked at, with its bound
        self._left_out = 0.0  # the greatest bound of what is not looked at any more; at first all is

    def run(self) -> Step[Endings]:
        """The endings. Their usage is the scheduler's to know."""
        with contextlib.suppress(_SpentError):
            yield from self._counted(self.place.begin())
            place = self.place.copy()
            yield from self._counted(place.full_row())  # says so where nothing can follow
            self._start, self._left_out = place.mass()[0], -math.inf
            self._do(self._follow(place, b"", self.binding), self._start)
            while self._more():
                yield from self._counted(together([step for _, step in self._under_way]))
                self._under_way = []
        return self._endings()

    def _more(self) -> bool:
        """Look at the texts of the greatest bounds as far as no model is needed; whether one is."""
        while len(self._under_way) < self.search.width and self._heap and -self._heap[0][0] >= self._least():
            _, _, branch = heapq.heappop(self._heap)
            bound = branch.bound
            if branch.loose:
                self._do([self._tighten(branch)], bound)
                continue
            symbol = branch.take()
            self._push(branch)
            if symbol == EOT:
                self._do([self._end(branch)], bound)
                continue
            with contextlib.suppress(UnreachablePrefixError, ConstraintError):
                place, binding = branch.place.advance(bytes([symbol])), branch.binding
                if binding is not None:
                    binding = binding.copy()
                    binding.advance(symbol)
                self._do(self._follow(place, branch.text + bytes([symbol]), binding), bound)
        return bool(self._under_way)

    def _do(self, steps: Sequence[Step[None]], bound: float) -> None:
        """Begin steps: what needs no call, such as an ending that is known already, is done at once."""
        for step in steps:
            if (rest := begun(step)) is not None:
                self._under_way.append((bound, rest))

    def _least(self) -> float:
        """The log-mass below which nothing is looked for any more, as on the places."""
        found = heapq.nlargest(self.search.n, (ending.logprob for ending in self._found))
        return found[-1] - SLACK + self._start if len(found) == self.search.n else -math.inf

    def _push(self, branch: Branch) -> None:
        bound = branch.bound
        if bound == -math.inf or bound < self._least():
            self._left_out = max(self._left_out, bound)
        else:
            heapq.heappush(self._heap, (-bound, next(self._pushed), branch))

    def _follow(self, place: Place, text: bytes, binding: Binding | None) -> list[Step[None]]:
        """Look at a text: as one that others begin with, or as one that is cut there or has nothing more to come."""
        done = binding is not None and binding.done
        if done or len(text) >= self.search.max_bytes or place.room() < 0:
            return [self._cut(place, text, complete=done)]
        self._push(Branch(place, text, self.search, binding))
        return []

    # ---- steps

    def _tighten(self, branch: Branch) -> Step[None]:
        yield from branch.place.evaluate_all() if branch.whole else branch.place.evaluate()
        branch.look()
        self._push(branch)

    def _cut(self, place: Place, text: bytes, *, complete: bool) -> Step[None]:
        self._find((yield from place.measured(end=False)), text, complete=complete)

    def _end(self, branch: Branch) -> Step[None]:
        binding, stops, ways = branch.binding, branch.stops, [branch.place.measured(end=True)]
        if binding is not None:
            stops = [stop for stop in stops if binding.cut(stop) == stop]
            ways = ways if binding.allowed()[EOT] else []
        ways += [self._stopped(branch, stop) for stop in stops]
        self._find(log_sum((yield from together(ways))), branch.text, complete=True)

    @staticmethod
    def _stopped(branch: Branch, stop: bytes) -> Step[float]:
        """The log-mass of a text with a stop string behind it."""
        place, whole = branch.place, branch.whole
        try:
            for part in (bytes([byte]) for byte in stop):
                if place.room() < 0:
                    return -math.inf
                if whole:
                    yield from place.evaluate_all()
                place = place.advance(part)
        except UnreachablePrefixError:
            return -math.inf
        return (yield from place.measured(end=False))

    def _find(self, log_mass: float, text: bytes, *, complete: bool) -> None:
        if log_mass > -math.inf:
            self._found.append(Ending(text_of(text, self.prompt), text, log_mass - self._start, complete))

    def _counted(self, step: Step[T]) -> Step[T]:
        """The same step, as far as the calls go."""
        return changed(step, self._count)

    def _count(self, request: Request) -> Request:
        if self._calls == self.search.max_calls:
            raise _SpentError
        self._calls += 1
        return replace(request, done=0.0 if self.search.max_calls is None else self._calls / self.search.max_calls)

    # ---- what it came to

    def _endings(self) -> Endings:
        endings = ranked(self._found)
        best, others = tuple(endings[: self.search.n]), endings[self.search.n :]
        bounds = (*(bound for bound, _ in self._under_way), *(-key for key, _, _ in self._heap), self._left_out)
        missing = max(max(bounds) - self._start, max((ending.logprob for ending in others), default=-math.inf))
        enough = len(best) == self.search.n and missing <= best[-1].logprob + SLACK
        return Endings(best, missing, certified=enough or missing == -math.inf, usage=JobUsage())


def begun(step: Step[None]) -> Step[None] | None:
    """Run a step up to its first request; the rest of it, or None if it has ended."""
    try:
        request = step.send(None)
    except StopIteration:
        return None

    def rest() -> Step[None]:
        asked = request
        while True:
            rows = yield asked
            try:
                asked = step.send(rows)
            except StopIteration:
                return

    return rest()
