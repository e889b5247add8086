"""Many jobs, one stream of batched model calls.

Rules
    A *step* is a generator that knows no model. Where it needs to know what a model says after some token sequences, it
    yields a `Request`, and is resumed with one row for each of them; what it returns is its result.
    The scheduler runs all steps until each has asked for something or has ended, gathers what they ask for into one
    call, and goes round again. A step that needs nothing is not held up by those that do: it runs on to its end.
    At most ``max_jobs`` steps are under way at a time; as one ends the next begins: memory does not grow with a list.
    A sequence asked for by several steps in one round is fed once. `Paths` of a step that runs alone are no two alike:
    they go to the engine as they are, each made when it is read.
    A step's result depends on its own rows alone, so it is the same in any company.
    Threads take turns: see turns.py.
    A request may be for several engines (those of an ensemble): a round asks each of them once.
    Rows may stay on the engine's device where a request says that its step takes such. Others are told arrays.

Cost
    One call of ``next_token_logprobs`` a round and engine, or several where a round asks for more than ``max_rows``
    sequences of it.

Failure
    Results are yielded as they are ready. When a call fails, its error rises from the iterator, and whoever consumed it
    still has every result that was finished before.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from bytelm.cover.nodes import Paths
from bytelm.engines.rows import checked_rows, shaped_rows
from bytelm.errors import BytelmError
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.revisions import begin_round, check_revision, has_looked, present_revision, stepping
from bytelm.inference.turns import TURN, turn_at
from bytelm.progress import Bar
from bytelm.token_lm import TokenLM, Usage, abilities_of

CALL_BYTES: Final = 64 * 2**20
MAX_JOBS: Final = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """The rows that a step asks for.

    Attributes:
        sequences: Token ids, context and all: a tuple of them, or `Paths`.
        done: The finished share of the step, for progress bars.
        engines: The engine of each sequence, or None for the one that the scheduler has; empty if all are for that.
        may_fail: Whether an error of a call is told to the step in place of each row, and ends nothing else.
        far: Whether the step takes rows that stay on a device (`bytelm.token_lm.DeviceRow`); else it is told arrays.
    """

    sequences: Sequence[tuple[int, ...]]
    done: float = 0.0
    engines: tuple[TokenLM | None, ...] = ()
    may_fail: bool = False
    far: bool = False


Rows: TypeAlias = "Sequence[Float[np.ndarray, 'vocab']]"
Step: TypeAlias = Generator[Request, Any, T]
_Place: TypeAlias = tuple[int, tuple[int, ...]]  # an engine, by its id, and a sequence


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of a job, its place among the jobs, and what it cost."""

    index: int
    result: T
    usage: JobUsage


@dataclass(slots=True)
class Job(Generic[T]):
    """A step that runs: what it has asked for and not yet been told."""

    step: Step[T]
    request: Request | None = None
    usage: JobUsage = field(default_factory=JobUsage)


Jobs: TypeAlias = dict[int, Job[T]]  # by the index that their outcomes have


def engines_of(request: Request) -> tuple[TokenLM | None, ...]:
    """The engine of each sequence of a request."""
    return request.engines or (None,) * len(request.sequences)


def close_all(running: Jobs[Any]) -> None:
    """Let go of steps that have not ended."""
    for job in running.values():
        job.step.close()
    running.clear()


def changed(step: Step[T], change: Callable[[Request], Request]) -> Step[T]:
    """The same step, whose requests are what a function makes of them."""
    rows = None
    while True:
        try:
            request = step.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = yield change(request)


def on(token_lm: TokenLM, step: Step[T], since: Any = None) -> Step[T]:
    """The same step, whose requests say that they are for this engine, and whose rows are all of one model.

    Args:
        token_lm: The engine.
        step: The step.
        since: The engine's revision when the rows were computed that the step goes on from; None: there are none.

    Raises:
        ModelChangedError: The engine's model is another one than then, or than when the step began.
    """
    since = present_revision(token_lm) if since is None else since
    asked, rows = False, None
    while True:
        try:
            request = step.send(rows)
        except StopIteration as end:
            if not asked:
                check_revision(token_lm, since)
            result: T = end.value
            return result
        rows = yield replace(request, engines=(token_lm,) * len(request.sequences))
        asked = True
        check_revision(token_lm, since, look=False)  # the engine has just looked


def together(steps: Sequence[Step[T]]) -> Step[list[T]]:
    """The results of several steps that run side by side: what they ask for in one round is one request."""
    results: dict[int, T] = {}
    running: dict[int, Request] = {}

    def resume(index: int, rows: Any) -> None:
        try:
            running[index] = steps[index].send(rows)
        except StopIteration as end:
            results[index] = end.value

    try:
        for index in range(len(steps)):
            resume(index, None)
        while running:
            asked, running = running, {}
            rows = yield Request(
                tuple(sequence for request in asked.values() for sequence in request.sequences),
                sum((asked[i].done if i in asked else 1.0) for i in range(len(steps))) / len(steps),
                tuple(engine for request in asked.values() for engine in engines_of(request)),
                far=all(request.far for request in asked.values()),
            )
            start = 0
            for index, request in asked.items():
                resume(index, rows[start : start + len(request.sequences)])
                start += len(request.sequences)
    finally:
        for step in steps:
            step.close()
    return [results[index] for index in range(len(steps))]


class Scheduler:
    """Runs steps over one model, or over the models that their requests name.

    Args:
        token_lm: The engine.
        max_rows: The most sequences in one call; by default as many as make 64 MiB of rows.
        max_jobs: The most steps under way at a time.
        names: What an error that an engine raises calls it, by its ``id``.

    >>> scheduler.run_one(step)  # doctest: +SKIP
    Outcome(index=0, result=..., usage=JobUsage(calls=1, tokens_fed=5, rows=1, largest_leak=None, ...))
    """

    def __init__(
        self,
        token_lm: TokenLM,
        *,
        max_rows: int | None = None,
        max_jobs: int = MAX_JOBS,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.token_lm = token_lm
        self.max_rows = max_rows
        self.max_jobs = max_jobs
        self.names = {} if names is None else names

    def run_one(self, step: Step[T]) -> Outcome[T]:
        """Run one step to its end."""
        (outcome,) = self.run([step])
        return outcome

    def run(
        self, steps: Sequence[Step[T]], *, label: str = "evaluating", progress: bool = False
    ) -> Iterator[Outcome[T]]:
        """Run steps together, and yield their outcomes as they end.

        Args:
            steps: Generators that have not begun.
            label: What a progress bar calls the work.
            progress: Whether to show a bar on a terminal's standard error, once the jobs have taken two seconds.

        Raises:
            ModelError: A call failed or gave impossible rows; earlier outcomes stay valid.
        """
        waiting = deque(enumerate(steps))
        running: Jobs[T] = {}
        with Bar(label, len(steps), shown=progress) as bar:
            try:
                while waiting or running:
                    while waiting and len(running) < self.max_jobs:
                        yield from self.begin(running, *waiting.popleft())
                    bar.show(len(waiting) + len(running), (job.request for job in running.values()))
                    yield from self.round(running)
            finally:
                close_all(running)

    def begin(self, running: Jobs[T], index: int, step: Step[T]) -> Iterator[Outcome[T]]:
        """Let a step join the running ones, up to its first request; yield its outcome if it ends before."""
        running[index] = Job(step)
        begin_round()
        yield from self._resume(running, index, None)

    def round(self, running: Jobs[T]) -> Iterator[Outcome[T]]:
        """Give all steps the rows that they asked for; yield the outcomes of the steps that end.

        Raises:
            ModelError: A call failed or gave rows that cannot be.
        """
        begin_round()
        for index, rows in self._rows(running).items():
            yield from self._resume(running, index, rows)

    @staticmethod
    def _resume(running: Jobs[T], index: int, rows: Rows | None) -> Iterator[Outcome[T]]:
        """Run a job up to its next request; yield its outcome if it ends instead."""
        job = running[index]
        job.request = None
        try:
            with TURN, stepping():
                request = job.step.send(rows)
                while not request.sequences:
                    request = job.step.send([])
        except StopIteration as end:
            del running[index]
            yield Outcome(index, end.value, job.usage)
        else:
            job.request = request

    def _places(self, request: Request | None) -> list[_Place]:
        """What a request asks for, by engine."""
        if request is None:
            return []
        return [
            (id(engine or self.token_lm), sequence)
            for engine, sequence in zip(engines_of(request), request.sequences, strict=True)
        ]

    def _rows(self, running: Jobs[Any]) -> dict[int, list[Any]]:
        """One round: the rows that each job asks for, in as few calls as ``max_rows`` allows.

        Where a call failed that all who share it have said may fail, its error is in the place of its rows.
        """
        if len(running) == 1 and (rows_alone := self._paths(*running.values())) is not None:
            return dict.fromkeys(running, rows_alone)
        engines: dict[int, TokenLM] = {id(self.token_lm): self.token_lm}
        numbers: dict[_Place, int] = {}  # a sequence may be long: it is hashed here, and known by its number below
        asking: dict[int, list[int]] = {}
        askers: list[Job[Any]] = []  # who asks for a number first
        for index, job in running.items():
            asking[index] = []
            for place in self._places(job.request):
                number = numbers.setdefault(place, len(numbers))
                asking[index].append(number)
                if number == len(askers):
                    askers.append(job)
            if job.request:
                engines.update((id(engine), engine) for engine in job.request.engines if engine is not None)
        rows: list[Any] = [None] * len(numbers)
        for name, engine in engines.items():
            mine = [(number, sequence) for (owner, sequence), number in numbers.items() if owner == name]
            size = self.max_rows or rows_in(engine.vocab_size)
            for start in range(0, len(mine), size):
                batch, sequences = map(list, zip(*mine[start : start + size], strict=True))
                in_batch = set(batch)
                sharing = [job for index, job in running.items() if not in_batch.isdisjoint(asking[index])]
                far = any(job.request is not None and job.request.far for job in sharing)
                try:
                    found, calls, fed = self._call(engine, sequences, far=far)
                except Exception as error:
                    if not all(job.request is not None and job.request.may_fail for job in sharing):
                        raise
                    for number in batch:
                        rows[number] = error
                    continue
                for number, row in zip(batch, found, strict=True):
                    rows[number] = row
                before = 0
                for job in sharing:
                    own = sum(askers[number] is job for number in batch)
                    share = None if fed is None else fed * (before + own) // len(batch) - fed * before // len(batch)
                    job.usage = job.usage.plus(calls, share, own)
                    before += own
        return {index: self._told(running[index].request, [rows[i] for i in mine]) for index, mine in asking.items()}

    @staticmethod
    def _told(request: Request | None, rows: list[Any]) -> list[Any]:
        """The rows as the step takes them."""
        if request is None or request.far:
            return rows
        return [row if isinstance(row, np.ndarray | Exception) else np.asarray(row) for row in rows]

    def _paths(self, job: Job[Any]) -> list[Any] | None:
        """The rows of a job that asks for `Paths` alone, of one engine; None if it asks for something else."""
        request = job.request
        if request is None or not isinstance(paths := request.sequences, Paths) or request.may_fail:
            return None
        engine, *others = {id(each): each or self.token_lm for each in engines_of(request)}.values()
        if others:
            return None
        rows: list[Any] = []
        size = self.max_rows or rows_in(engine.vocab_size)
        for start in range(0, len(paths), size):
            array, calls, fed = self._call(engine, batch := paths[start : start + size])
            job.usage = job.usage.plus(calls, fed, len(batch))
            rows += [*array]
        return rows

    def _call(
        self, engine: TokenLM, batch: Sequence[tuple[int, ...]], *, far: bool = False
    ) -> tuple[Sequence[Any], int, int | None]:
        """One call: its rows, and how many passes and tokens the engine says it took.

        Args:
            engine: The engine.
            batch: The sequences.
            far: Whether rows may stay where the engine computed them.
        """
        able = abilities_of(engine)
        keeper = able.row_keeper if far else None
        counters, checked = able.usage, shaped_rows if able.normalises else checked_rows
        has_looked(engine)  # it does so in each call
        with turn_at(engine):
            before = Usage() if counters is None else counters.copy()
            with blamed(self.names.get(id(engine))):
                rows: Any
                if keeper is None:
                    rows = checked(engine.next_token_logprobs(batch), len(batch), engine.vocab_size)
                else:
                    rows = keeper.next_token_rows(batch)
            spent = Usage() if counters is None else counters.since(before)
        return rows, *((1, None) if counters is None else (spent.calls, spent.tokens_fed))


@contextlib.contextmanager
def blamed(name: str | None) -> Iterator[None]:
    """Let an error of bytelm say whose it is: its class and attributes stay, its message begins with the name."""
    try:
        yield
    except Exception as error:
        if name is not None:
            if isinstance(error, BytelmError):
                error.args = (f"{name}: {error}", *error.args[1:])
            else:
                error.add_note(f"in {name}")
        raise


def rows_in(vocab_size: int) -> int:
    """How many float32 rows of this many columns make one call.

    >>> rows_in(50_000), rows_in(250_000)
    (335, 67)
    """
    return max(1, min(512, CALL_BYTES // (4 * vocab_size)))
