"""Many jobs, one stream of batched model calls.

Rules
    A *step* is a generator that knows no model. Where it needs to know what a model says after some token sequences, it
    yields a `Request`, and is resumed with one row for each of them; what it returns is its result.
    The scheduler runs all steps until each has asked for something or has ended, gathers what they ask for into one
    call, and goes round again. A step that needs nothing is not held up by those that do: it runs on to its end.
    At most ``max_jobs`` steps are under way at a time; as one ends the next begins: memory does not grow with a list.
    A sequence asked for by several steps in one round is fed once.
    A step's result depends on its own rows alone, so it is the same in any company.

Cost
    One call of ``next_token_logprobs`` a round, or several where a round asks for more than ``max_rows`` sequences.

Failure
    Results are yielded as they are ready. When a call fails, its error rises from the iterator, and whoever consumed it
    still has every result that was finished before.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from bytelm.token_lm import TokenLM, Usage, checked_rows

if TYPE_CHECKING:
    from rich.progress import Progress

CALL_BYTES: Final = 64 * 2**20
MAX_JOBS: Final = 64
PATIENCE_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What a step asks for.

    Attributes:
        sequences: Token ids, context and all.
        done: The share of the step that lies behind it, for progress bars.
    """

    sequences: tuple[tuple[int, ...], ...]
    done: float = 0.0


Rows: TypeAlias = "Sequence[Float[np.ndarray, 'vocab']]"
Step: TypeAlias = Generator[Request, Any, T]


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job cost.

    Attributes:
        calls: Model calls that it took part in. Jobs that run together share calls, so their sum exceeds the total.
        tokens_fed: Tokens that ran through the model for it, where the engine counts them: its share of each call.
        rows: Sequences that it was the first to ask for.
        largest_leak: The largest leak among the rows that were evaluated in full, or None if there was none.
    """

    calls: int = 0
    tokens_fed: int | None = None
    rows: int = 0
    largest_leak: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of a job, its place among the jobs, and what it cost."""

    index: int
    result: T
    usage: JobUsage


@dataclass(slots=True)
class _Job(Generic[T]):
    """A step that runs: what it has asked for and not yet been told."""

    step: Step[T]
    request: Request | None = None
    usage: JobUsage = JobUsage()


class Scheduler:
    """Runs steps over one model.

    Args:
        token_lm: The engine.
        max_rows: Sequences in one call, at most; as many as make 64 MiB of rows if not given.
        max_jobs: Steps under way at a time, at most.
        progress: Whether to show a bar on a terminal's standard error, once the jobs have taken two seconds.

    >>> scheduler.run_one(step)  # doctest: +SKIP
    Outcome(index=0, result=..., usage=JobUsage(calls=1, tokens_fed=5, rows=1, largest_leak=None))
    """

    def __init__(
        self, token_lm: TokenLM, *, max_rows: int | None = None, max_jobs: int = MAX_JOBS, progress: bool = False
    ) -> None:
        self.token_lm = token_lm
        self.max_rows = rows_in(token_lm.vocab_size) if max_rows is None else max_rows
        self.max_jobs = max_jobs
        self.progress = progress

    def run_one(self, step: Step[T]) -> Outcome[T]:
        """Run one step to its end."""
        (outcome,) = self.run([step])
        return outcome

    def run(self, steps: Sequence[Step[T]], *, label: str = "evaluating") -> Iterator[Outcome[T]]:
        """Run steps together, and yield their outcomes as they end.

        Args:
            steps: Generators that have not begun.
            label: What a progress bar calls the work.

        Raises:
            ModelError: A call failed or gave rows that cannot be; what was yielded before stands.
        """
        waiting = deque(enumerate(steps))
        running: dict[int, _Job[T]] = {}
        bar = _Bar(label, len(steps)) if self.progress and sys.stderr.isatty() else None
        try:
            while waiting or running:
                while waiting and len(running) < self.max_jobs:
                    index, step = waiting.popleft()
                    running[index] = _Job(step)
                    yield from self._resume(running, index, None)
                if bar:
                    bar.show(len(waiting) + len(running), (job.request for job in running.values()))
                rows = self._round(running)
                for index, job in list(running.items()):
                    asked = job.request.sequences if job.request else ()
                    yield from self._resume(running, index, [rows[sequence] for sequence in asked])
        finally:
            if bar:
                bar.close()
            for job in running.values():
                job.step.close()

    @staticmethod
    def _resume(running: dict[int, _Job[T]], index: int, rows: Rows | None) -> Iterator[Outcome[T]]:
        """Run a job up to its next request; yield its outcome if it ends instead."""
        job = running[index]
        job.request = None
        try:
            request = job.step.send(rows)
            while not request.sequences:
                request = job.step.send([])
        except StopIteration as end:
            del running[index]
            yield Outcome(index, end.value, job.usage)
        else:
            job.request = request

    def _round(self, running: dict[int, _Job[T]]) -> dict[tuple[int, ...], Float[np.ndarray, " vocab"]]:
        """One round: everything that the jobs ask for, in as few calls as ``max_rows`` allows."""
        asked: dict[tuple[int, ...], _Job[T]] = {}
        for job in running.values():
            for sequence in job.request.sequences if job.request else ():
                asked.setdefault(sequence, job)
        wanted = {id(job): set(job.request.sequences) for job in running.values() if job.request}
        sequences = list(asked)
        rows: dict[tuple[int, ...], Float[np.ndarray, " vocab"]] = {}
        for start in range(0, len(sequences), self.max_rows):
            batch = sequences[start : start + self.max_rows]
            array, calls, fed = self._call(batch)
            rows.update(zip(batch, array, strict=True))
            in_batch = set(batch)
            before = 0
            for job in running.values():
                own = sum(asked[sequence] is job for sequence in batch)
                if not in_batch.isdisjoint(wanted.get(id(job), ())):
                    share = None if fed is None else fed * (before + own) // len(batch) - fed * before // len(batch)
                    job.usage = _added(job.usage, calls, share, own)
                before += own
        return rows

    def _call(self, batch: list[tuple[int, ...]]) -> tuple[Float[np.ndarray, "n vocab"], int, int | None]:
        """One call: its rows, and how many passes and tokens the engine says it took."""
        counters: Usage | None = getattr(self.token_lm, "usage", None)
        before = Usage() if counters is None else counters.copy()
        rows = self.token_lm.next_token_logprobs(batch)
        array = checked_rows(rows, len(batch), self.token_lm.vocab_size)
        if counters is None:
            return array, 1, None
        spent = counters.since(before)
        return array, spent.calls, spent.tokens_fed


def rows_in(vocab_size: int) -> int:
    """How many float32 rows of this many columns make one call.

    >>> rows_in(50_000), rows_in(250_000)
    (335, 67)
    """
    return max(1, min(512, CALL_BYTES // (4 * vocab_size)))


def _added(usage: JobUsage, calls: int, fed: int | None, rows: int) -> JobUsage:
    total = usage.tokens_fed if fed is None else (usage.tokens_fed or 0) + fed
    return replace(usage, calls=usage.calls + calls, tokens_fed=total, rows=usage.rows + rows)


class _Bar:
    """A progress bar that appears once its work has taken two seconds."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._began = time.monotonic()
        self._progress: Progress | None = None

    def show(self, left: int, requests: Iterator[Request | None]) -> None:
        """Move the bar: jobs that ended count whole, the others by what they say of themselves."""
        if self._progress is None:
            if time.monotonic() - self._began < PATIENCE_S:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.add_task(self._label, total=self._total)
            self._progress.start()
        done = self._total - left + sum(request.done for request in requests if request)
        self._progress.update(self._progress.task_ids[0], completed=done)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
