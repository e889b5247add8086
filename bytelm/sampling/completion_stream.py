"""A completion piece by piece, and the whole of it afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from bytelm.inference.scheduler import JobUsage, Outcome, Step
from bytelm.sampling.completion import Completion
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.text_stream import TextStream
from bytelm.token_lm import OneProcess


class CompletionStream(OneProcess, Iterator[str]):
    """A completion, piece by piece, as text that nothing will take back.

    `ByteModel.stream` makes them. A piece never splits a character, and never holds what may turn out to be the
    beginning of a stop string. What begins a character at the end and does not complete it is in no piece, and in the
    completion's ``bytes`` alone. After the last piece `completion` has all that `ByteModel.sample` returns.

    Args:
        generation: The completion as it is drawn.
        run: Runs a step on the model.
    """

    def __init__(self, generation: ByteGeneration, run: Callable[[Step[Any]], Outcome[Any]]) -> None:
        self._generation = generation
        self._run = run
        self._usage = JobUsage()
        self._pieces = self._shown()
        self._lock = threading.RLock()  # threads that share a stream get its pieces by turns
        self._completion: Completion | None = None

    def __iter__(self) -> CompletionStream:
        return self

    def __next__(self) -> str:
        with self._lock:
            return next(self._pieces)

    @property
    def completion(self) -> Completion:
        """What was written: its text, finish reason, log-probability and usage. Scored when it is first asked for.

        Raises:
            NotFinishedError: The stream has not ended yet.
            ModelChangedError: A model was changed since it began.
        """
        with self._lock:
            if self._completion is None:
                self._generation.place.check()
                done: Completion = self._answer(self._generation.completion())
                self._completion = replace(done, usage=self._usage.leaking(done.usage))
            return self._completion

    def _answer(self, step: Step[Any]) -> Any:
        outcome = self._run(step)
        spent = outcome.usage
        self._usage = self._usage.plus(spent.calls, spent.tokens_fed, spent.rows)
        return outcome.result

    def _shown(self) -> Iterator[str]:
        generation = self._generation
        text, shown = TextStream(generation.prompt), 0
        while generation.finish_reason is None:
            generation.place.check()
            self._answer(generation.step())
            ready = len(generation.bytes) - generation.held
            if ready > shown and (piece := text.show(bytes(generation.bytes[shown:ready]))):
                yield piece
            shown = max(shown, ready)
