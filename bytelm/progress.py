"""A progress bar on a terminal's standard error, for work that takes more than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S: Final = 2.0


class Begun(Protocol):
    """A job under way."""

    @property
    def done(self) -> float:
        """The share of it that is done."""


class Bar:
    """A progress bar that appears once its work has taken two seconds, if standard error is a terminal.

    Args:
        label: What is being done.
        total: How many jobs there are. None: unknown, and the bar shows only that work goes on.
        shown: False: it never appears.

    >>> with Bar("loading"):  # appears by itself, and goes when the work is done
    ...     pass
    """

    def __init__(self, label: str = "", total: float | None = None, *, shown: bool = True) -> None:
        self._state: tuple[str, float, float | None] = (label, 0.0, total)
        self._stream = sys.stderr  # what it is later may be a stand-in: a conversion silences it
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._timer: threading.Timer | None = None
        if shown and self._stream.isatty():
            self._timer = threading.Timer(PATIENCE_S, self._appear)
            self._timer.daemon = True
            self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, label: str, done: float = 0.0, total: float | None = None) -> None:
        """Say what is being done now, and how far it is."""
        with self._lock:
            self._state = label, done, total
            self._draw()

    def show(self, left: int, begun: Iterable[Begun | None] = ()) -> None:
        """Move the bar: jobs that ended count whole, those under way by their share."""
        label, _, total = self._state
        self.step(label, (total or 0) - left + sum(job.done for job in begun if job), total)

    def close(self) -> None:
        """Take the bar away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._progress is not None:
            self._progress.stop()

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns: Any = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with self._lock:
            self._progress = Progress(
                *columns,
                console=Console(file=self._stream),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # rich sends it to standard error, which a file does not want
                redirect_stderr=False,
            )
            self._draw()
            self._progress.start()

    def _draw(self) -> None:
        if self._progress is None:
            return
        label, done, total = self._state
        # rich cannot make a known total unknown again, so each step is a task of its own.
        for task in self._progress.tasks:
            if task.description != label:
                self._progress.remove_task(task.id)
        task_id = self._progress.task_ids[0] if self._progress.task_ids else self._progress.add_task(label, total=total)
        self._progress.update(task_id, completed=done)
