"""Completions that are under way together, on an engine that draws their tokens.

Theory of operation
    An item (engine_draws.py, token_level.py) says what the engine is to go on from, and takes the tokens until one of
    them is leak or the text ends. Then it waits; all that wait are taken on together, a round of rows at a time, and
    who comes to wait joins at the next round. Each goes on as soon as it is ready, beside the rows that others still
    need.
    After leak the member that was left is the likeliest to be drawn again. An engine that asks for new sequences at
    each step is let go on from there at once, on a *guess*, while the rows are computed by which the member is drawn.
    Where the guess was right, what was drawn on it stands; else it is thrown away.

Invariant
    A guess changes when a token is drawn, and not which: right or not, what follows a leak is drawn with the item's
    seed, and the item's other random numbers are the same ones. So an item is a function of its seed alone.
    A guess has no say in its being right: the member is drawn without a look at it.

Cost
    A leak has its sequence miss the step in which it was drawn, and where the engine does not wait for its caller, as
    vLLM with processes of its own, the one that is under way when it is seen. Without a guess, or with one that is
    wrong, it misses those in which the rows are computed as well.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

from bytelm.errors import BytelmError, InvalidArgumentError
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Jobs, Outcome, Scheduler, close_all
from bytelm.inference.turns import TURN, turn_at
from bytelm.progress import Bar
from bytelm.sampling.completion import Completion
from bytelm.sampling.engine_draws import EngineDraws
from bytelm.sampling.engine_stream import EngineWritten
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.token_level import TokenLevel, sampler_for
from bytelm.token_lm import Draw, TokenDrawer, TokenLM, abilities_of
from bytelm.tokenizer.viability.viability import Viability

Item: TypeAlias = EngineDraws | TokenLevel

GROUP: Final = 256  # completions that are under way at a time
GUESSED: Final = 32  # tokens that are drawn on a guess, at most


def drawer_for(params: SamplingParams, token_lm: TokenLM) -> TokenDrawer | None:
    """The engine that is to draw the tokens; None where bytelm draws the bytes.

    Raises:
        InvalidArgumentError: An engine is to draw, and does not, or cannot draw so.
    """
    drawer, wanted = abilities_of(token_lm).drawer, params.engine_draws
    if wanted is None:
        wanted = drawer is not None and drawer.draws_by_default and params.plain
    if not wanted:
        return None
    if not params.plain:
        raise InvalidArgumentError(
            "engine_draws=True needs temperature=1, and neither top_k, top_p, min_p, logits_processor nor constraint: "
            "an engine draws tokens, and these are of bytes"
        )
    if drawer is None:
        raise InvalidArgumentError(
            f"engine_draws=True needs an engine that draws tokens; {type(token_lm).__name__} has no draw_tokens"
        )
    return drawer


@dataclass(frozen=True, slots=True)
class EngineDrawing:
    """Completions of one byte model whose tokens its engine draws.

    Attributes:
        engine: The engine.
        item: Makes a completion from a place of the byte model's and the item's random numbers.
        scheduler: Runs what they need beside that.
    """

    engine: TokenDrawer
    item: Callable[[Any, np.random.Generator], Item]
    scheduler: Scheduler

    def run(
        self, places: Sequence[tuple[Any, np.random.Generator]], *, progress: bool = False
    ) -> Iterator[Outcome[Completion]]:
        """The completions from some places on; see `completions`."""
        items = [self.item(*place) for place in places]
        return completions(items, self.engine, self.scheduler, progress=progress)

    def written(self, place: Any, random: np.random.Generator) -> EngineWritten:
        """One of them, to be read as it is written."""
        item = self.item(place, random)
        return EngineWritten(item, lambda seen: completions([item], self.engine, self.scheduler, seen=seen))


def drawing_of(
    params: SamplingParams, token_lm: TokenLM, viability: Viability, eot_ids: frozenset[int], scheduler: Scheduler
) -> EngineDrawing | None:
    """How an engine draws the tokens of completions; None where bytelm draws the bytes.

    Raises:
        InvalidArgumentError: It is to, and cannot.
    """
    if params.level == "token":
        sampler, sampling = sampler_for(params, token_lm, eot_ids)
        return EngineDrawing(
            sampler, lambda place, random: TokenLevel(place, viability, params, sampling, random), scheduler
        )
    if (drawer := drawer_for(params, token_lm)) is None:
        return None
    at_once = abilities_of(token_lm).asks_each_step  # others wait for a call to end
    return EngineDrawing(
        drawer, lambda place, random: EngineDraws(place, viability, params, random, at_once=at_once), scheduler
    )


def completions(
    items: Sequence[Item],
    engine: TokenDrawer,
    scheduler: Scheduler,
    *,
    progress: bool = False,
    seen: Callable[[], None] = lambda: None,
) -> Iterator[Outcome[Completion]]:
    """Run completions together, and yield their outcomes.

    Args:
        items: The completions.
        engine: Draws their tokens.
        scheduler: Runs what they need beside that.
        progress: Whether to show a bar on a terminal once it takes two seconds.
        seen: Called after each token that an item takes.

    Raises:
        ModelError: A call failed; what was yielded before stands, and what could still be scored is yielded first.
    """
    with Bar("sampling", len(items), shown=progress) as bar:
        for start in range(0, len(items), GROUP):
            group = _Group(dict(enumerate(items[start : start + GROUP], start)), engine, scheduler, bar, seen)
            try:
                with turn_at(engine):
                    engine.draw_tokens(group.more)
                    group.stop()
            except Exception:
                with contextlib.suppress(BytelmError):
                    group.finish()
                yield from group.outcomes()
                raise
            finally:
                group.close()
            yield from group.outcomes()


@dataclass
class _Guess:
    """Where a completion is let go on from before that is known.

    Attributes:
        sequence: The tokens.
        drawn: Tokens drawn after it, and their log-probabilities.
        limit: How many are kept, at most.
        right: Whether it is right; None before that is known.
    """

    sequence: tuple[int, ...]
    limit: int
    drawn: list[tuple[int, float]] = field(default_factory=list)
    right: bool | None = None


class _Group:
    """Completions that are under way together.

    Args:
        items: By index.
        engine: Draws their tokens.
        scheduler: Runs what they need beside that.

    Attributes:
        going: Those that have not ended.
    """

    def __init__(
        self, items: dict[int, Item], engine: TokenDrawer, scheduler: Scheduler, bar: Bar, seen: Callable[[], None]
    ) -> None:
        self.going = items
        self._seen = seen
        self._scheduler = scheduler
        self._bar = bar
        self._waiting = deque(items)  # which the engine's threads append to
        self._running: Jobs[Completion | None] = {}
        self._drawn = dict.fromkeys(items, 0)
        self._rows = dict.fromkeys(items, JobUsage())
        self._done: dict[int, Completion] = {}
        self._guesses: dict[int, _Guess] = {}
        abilities = abilities_of(engine)
        self._guesses_at_all = abilities.asks_each_step
        self._context = abilities.context_length or sys.maxsize
        self._counters = abilities.usage
        self._earlier = None if self._counters is None else self._counters.copy()

    def more(self) -> Iterator[Draw]:
        """What the engine is to begin with: each item that waits, once it is known where it goes on, or on a guess."""
        while self._waiting or self._running:
            if self._guesses_at_all:
                yield from self._on_guesses()  # of leak that was seen among tokens drawn on a guess
            for index in self._advance():
                if self._begins(index):
                    yield self._draw(index, self.going[index])

    def _advance(self) -> Iterator[int]:
        """Take the items that wait a round further; those that are where the engine goes on, or at their ends."""
        self._bar.show(len(self.going))
        while self._waiting and len(self._running) < self._scheduler.max_jobs:
            index = self._waiting.popleft()
            yield from self._noted(self._scheduler.begin(self._running, index, self.going[index].next()))
        yield from self._noted(self._scheduler.round(self._running))

    def _noted(self, outcomes: Iterator[Outcome[Completion | None]]) -> Iterator[int]:
        for outcome in outcomes:
            index, spent = outcome.index, outcome.usage
            self._rows[index] = self._rows[index].plus(spent.calls, spent.tokens_fed, spent.rows)
            if outcome.result is not None:
                self._done[index] = outcome.result
                del self.going[index]
            yield index

    def stop(self) -> None:
        """End the items that the engine has ended by itself."""
        for item in self.going.values():
            item.stop()
        self.finish()

    def finish(self) -> None:
        """Score the items that have come to their ends; nothing more is drawn."""
        self.close()
        self._waiting = deque(index for index, item in self.going.items() if item.finish_reason)
        while self._waiting or self._running:
            deque(self._advance(), maxlen=0)

    def close(self) -> None:
        """Let go of what still needs rows."""
        close_all(self._running)

    def _draw(self, index: int, item: Item) -> Draw:
        return Draw(item.sequence, item.seed, item.room, partial(self._told, index), item.sampling)

    def _told(self, index: int, token: int, logprob: float) -> bool | Draw:
        """Take a token; where it was leak, the engine is to go on from the guess, if there is one."""
        return self._take(index, token, logprob) or self._on_a_guess(index) or False

    def _take(self, index: int, token: int, logprob: float) -> bool:
        with TURN:
            self._drawn[index] += 1
            item = self.going[index]
            goes_on = item.take(token, logprob)
            self._seen()
            goes_on = goes_on and item.finish_reason is None
            if not goes_on:
                self._waiting.append(index)
            return goes_on

    def _on_guesses(self) -> Iterator[Draw]:
        """Draws after the guesses of items that have come to wait."""
        for index in [*self._waiting]:
            if (draw := self._on_a_guess(index)) is not None:
                yield draw

    def _on_a_guess(self, index: int) -> Draw | None:
        """The draw after an item's guess, where it has one and none is under way."""
        item = self.going[index]
        # Far enough from the end of the context that a wrong guess does not come to it.
        if (
            not self._guesses_at_all
            or index in self._guesses
            or not item.guess
            or len(item.guess) + GUESSED >= self._context
        ):
            return None
        guess = self._guesses[index] = _Guess(item.guess, min(GUESSED, item.room))
        return Draw(item.guess, item.seed, item.room, partial(self._keep, index, guess))

    def _keep(self, index: int, guess: _Guess, token: int, logprob: float) -> bool | Draw:
        """Take a token on a guess: for later, or if the guess was right, at once."""
        if guess.right is None:
            guess.drawn.append((token, logprob))
            return len(guess.drawn) < guess.limit
        goes_on = guess.right and self._told(index, token, logprob)
        guess.right = goes_on is True
        return goes_on

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
