"""Completions that are under way together, on an engine that draws their tokens.

Theory of operation
    An item (handover.py) says what the engine is to go on from, and takes the tokens until one of them is leak or the
    text ends. Then it waits; all that wait are taken on together, with the rows that they need.
    After leak the member that was left is the likeliest to be drawn again. An engine that asks for new sequences at
    each step is let go on from there at once, on a *guess*, while the rows are computed by which the member is drawn.
    Where the guess was right, what was drawn on it stands; else it is thrown away.

Invariant
    A guess changes when a token is drawn, and not which: right or not, what follows a leak is drawn with the item's
    seed, and the item's other random numbers are the same ones. So an item is a function of its seed alone.
    A guess has no say in its being right: the member is drawn without a look at it.

Cost
    Without guesses a leak has its sequence miss two steps of the others or more; with one that is right, one step.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Final

from bytelm.errors import BytelmError
from bytelm.handover import HandedOver
from bytelm.sampler import Completion
from bytelm.scheduler import JobUsage, Outcome, Scheduler
from bytelm.token_lm import Draw, TokenDrawer, Usage

GROUP: Final = 256  # completions that are under way at a time
GUESSED: Final = 32  # tokens that are drawn on a guess, at most


def completions(
    items: Sequence[HandedOver], engine: TokenDrawer, scheduler: Scheduler
) -> Iterator[Outcome[Completion]]:
    """Run completions together, and yield their outcomes.

    Raises:
        ModelError: A call failed; what was yielded before stands, and what could still be scored is yielded first.
    """
    for start in range(0, len(items), GROUP):
        group = _Group(dict(enumerate(items[start : start + GROUP], start)), engine, scheduler)
        try:
            engine.draw_tokens(group.more)
        except Exception:
            with contextlib.suppress(BytelmError):
                group.advance([index for index, item in group.going.items() if item.finish_reason])
            yield from group.outcomes()
            raise
        yield from group.outcomes()


class _Guess:
    """Where a completion is let go on from before that is known.

    Attributes:
        sequence: The tokens.
        drawn: Tokens drawn after it, and their log-probabilities.
        limit: How many are kept, at most.
        right: Whether it is right; None before that is known.
    """

    def __init__(self, sequence: tuple[int, ...], limit: int) -> None:
        self.sequence = sequence
        self.drawn: list[tuple[int, float]] = []
        self.limit = limit
        self.right: bool | None = None


class _Group:
    """Completions that are under way together.

    Args:
        items: By index.
        engine: Draws their tokens.
        scheduler: Runs what they need beside that.

    Attributes:
        going: Those that have not ended.
    """

    def __init__(self, items: dict[int, HandedOver], engine: TokenDrawer, scheduler: Scheduler) -> None:
        self.going = items
        self._scheduler = scheduler
        self._waiting = deque(items)  # which the engine's threads append to
        self._drawn = dict.fromkeys(items, 0)
        self._rows = dict.fromkeys(items, JobUsage())
        self._done: dict[int, Completion] = {}
        self._guesses: dict[int, _Guess] = {}
        self._guesses_at_all = bool(getattr(engine, "asks_each_step", False))
        self._context: int = getattr(engine, "context_length", None) or sys.maxsize
        self._counters: Usage | None = getattr(engine, "usage", None)
        self._earlier = None if self._counters is None else self._counters.copy()

    def more(self) -> list[Draw]:
        """What the engine is to begin with: each item that waits, taken to where it goes on, or first on a guess."""
        guesses = self._on_guesses() if self._guesses_at_all else {}
        draws = [*guesses.values()]
        while places := self._ready(guesses):  # while some came to their ends, others may have drawn their last token
            self.advance(places)
            draws += [self._draw(index, self.going[index]) for index in places if self._begins(index)]
            if draws:
                break
        return draws

    def _ready(self, guesses: Container[int]) -> list[int]:
        """The items that wait, but those on whose guesses the engine is to begin first."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        self._waiting.extend(index for index in waiting if index in guesses)
        return [index for index in waiting if index not in guesses]

    def advance(self, places: Sequence[int]) -> None:
        """Take items to where the engine goes on, or to their ends."""
        for outcome in self._scheduler.run([self.going[index].next() for index in places], label="sampling"):
            index, spent = places[outcome.index], outcome.usage
            self._rows[index] = self._rows[index].plus(spent.calls, spent.tokens_fed, spent.rows)
            if outcome.result is not None:
                self._done[index] = outcome.result
                del self.going[index]

    def _draw(self, index: int, item: HandedOver) -> Draw:
        return Draw(item.sequence, item.seed, item.room, partial(self._take, index))

    def _take(self, index: int, token: int, logprob: float) -> bool:
        self._drawn[index] += 1
        goes_on = self.going[index].take(token, logprob)
        if not goes_on:
            self._waiting.append(index)
        return goes_on

    def _on_guesses(self) -> dict[int, Draw]:
        """Draws after the guesses of items that wait since the last step."""
        draws: dict[int, Draw] = {}
        for index in self._waiting:
            item = self.going[index]
            # Far enough from the end of the context that a wrong guess does not come to it.
            if index not in self._guesses and item.guess and len(item.guess) + GUESSED < self._context:
                guess = self._guesses[index] = _Guess(item.guess, min(GUESSED, item.room))
                draws[index] = Draw(item.guess, item.seed, item.room, partial(self._keep, index, guess))
        return draws

    def _keep(self, index: int, guess: _Guess, token: int, logprob: float) -> bool:
        """Take a token on a guess: for later, or if the guess was right, at once."""
        if guess.right is None:
            guess.drawn.append((token, logprob))
            return len(guess.drawn) < guess.limit
        guess.right = guess.right and self._take(index, token, logprob)
        return guess.right

    def _begins(self, index: int) -> bool:
        """Whether a draw is to begin for an item: it goes on, and not with what was drawn on its guess."""
        guess, item = self._guesses.pop(index, None), self.going.get(index)
        if guess is None or item is None or guess.sequence != item.sequence or len(guess.drawn) == guess.limit:
            if guess is not None:
                guess.right = False
            return item is not None
        guess.right = True
        for token, logprob in guess.drawn:
            if not self._take(index, token, logprob):
                guess.right = False
                break
        return False

    def outcomes(self) -> Iterator[Outcome[Completion]]:
        """The completions that have ended. What the engine fed is shared out by the tokens drawn."""
        fed: int | None = None
        if self._counters is not None and self._earlier is not None:
            rows = sum(usage.tokens_fed or 0 for usage in self._rows.values())
            fed = max(self._counters.since(self._earlier).tokens_fed - rows, 0)
        whole = max(sum(self._drawn.values()), 1)
        for index, completion in self._done.items():
            count = self._drawn[index]
            share = None if fed is None else round(fed * count / whole)
            yield Outcome(index, completion, self._rows[index].plus(calls=count, fed=share))
