"""A completion that the engine writes, read while it is written.

Theory of operation
    An engine's sampler writes in calls that do not return before the end. So it runs in a thread of its own, which
    leaves what is settled in a queue, and whoever reads the stream takes it from there. It begins with the first piece
    that is asked for, and goes on at the engine's speed, however slowly it is read; meanwhile the engine is held.
    Where the reader lets go of the stream, the engine is stopped at its next token.

Invariant
    The thread alone touches the completion until it has ended.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

from bytelm.inference.scheduler import Outcome
from bytelm.sampling.completion import Completion
from bytelm.sampling.engine_draws import EngineDraws
from bytelm.sampling.token_level import TokenLevel


class EngineWritten:
    """A completion of `CompletionStream` that the engine's own sampler writes.

    Args:
        item: The completion.
        run: Has the engine write it to its end, and calls a function after each token.
    """

    def __init__(
        self, item: EngineDraws | TokenLevel, run: Callable[[Callable[[], None]], Iterator[Outcome[Completion]]]
    ) -> None:
        self.prompt = item.prompt
        self._item = item
        self._run = run
        self._told: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._shown = 0
        self._dropped = False
        self._completion: Completion | None = None

    def settled(self) -> Generator[bytes]:
        """As in `completion_stream.Source`."""
        # Nobody waits for a thread whose engine says nothing: neither the reader nor the program's end.
        threading.Thread(target=self._write, daemon=True).start()
        try:
            while (told := self._told.get()) is not None:
                if isinstance(told, BaseException):
                    raise told
                yield told
        finally:
            self._dropped = True

    def completion(self) -> Completion:
        """As in `completion_stream.Source`."""
        if self._completion is None:
            raise self._item.unfinished()
        return self._completion

    def _write(self) -> None:
        try:
            (outcome,) = self._run(self._tell)
            self._completion = replace(outcome.result, usage=outcome.usage.leaking(outcome.result.usage))
            self._tell()
            self._told.put(None)
        except BaseException as error:  # noqa: BLE001 - it rises where the stream is read
            self._told.put(error)

    def _tell(self) -> None:
        """Leave what is settled in the queue."""
        if self._dropped:
            self._item.stop()
        if new := self._item.settled(self._shown):
            self._told.put(new)
            self._shown += len(new)
