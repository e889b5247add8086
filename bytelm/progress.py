"""A progress bar on a terminal's standard error, for work that takes more than two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress
from bytelm.inference.scheduler import Request

PATIENCE_S: Final = 2.0


class Bar:
    """A progress bar that appears once its work has taken two seconds."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._began = time.monotonic()
        self._progress: Progress | None = None

    def show(self, left: int, requests: Iterable[Request | None] = ()) -> None:
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
