"""A completion piece by piece, and the whole of it afterwards.

Rules
    A source gives the bytes that nothing will take back, as they are written, and the completion once it has ended: a
    completion that is drawn step by step (`Drawn`), or one that the engine writes (engine_stream.py).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, Protocol

from bytelm.inference.job_usage import JobUsage
from bytelm.inference.scheduler import Outcome, Step
from bytelm.sampling.completion import Completion
from bytelm.sampling.text_stream import TextStream
from bytelm.sampling.writing import Generation
from bytelm.token_lm import OneProcess


class Source(Protocol):
    """What a stream shows."""

    @property
    def prompt(self) -> bytes:
        """The prompt's bytes."""
        ...

    def settled(self) -> Generator[bytes]:
        """The bytes as they come, once no stop string can take them back."""
        ...

    def completion(self) -> Completion:
        """The whole.

        Raises:
            NotFinishedError: It has not ended.
        """
        ...


class Drawn:
    """A completion that is drawn step by step, as it is read.

    Args:
        generation: The completion.
        run: Runs a step on the model.
    """

    def __init__(self, generation: Generation, run: Callable[[Step[Any]], Outcome[Any]]) -> None:
        self.prompt = generation.prompt
        self._generation = generation
        self._run = run
        self._usage = JobUsage()

    def settled(self) -> Generator[bytes]:
        """As in `Source`."""
        generation, shown = self._generation, 0
        while generation.finish_reason is None:
            generation.place.check()
            self._answer(generation.step())
            if new := generation.settled(shown):
                yield new
            shown += len(new)

    def completion(self) -> Completion:
        """As in `Source`; scored now."""
        self._generation.place.check()
        done: Completion = self._answer(self._generation.completion())
        return replace(done, usage=self._usage.leaking(done.usage))

    def _answer(self, step: Step[Any]) -> Any:
        outcome = self._run(step)
        spent = outcome.usage
        self._usage = self._usage.plus(spent.calls, spent.tokens_fed, spent.rows)
        return outcome.result


class CompletionStream(OneProcess, Iterator[str]):
    """A completion, piece by piece. No piece is ever taken back.

    `ByteModel.stream` makes them. A piece never splits a character, and never holds a possible beginning of a stop
    string. An incomplete character at the very end is in no piece, only in the completion's ``bytes``. After the
    last piece `completion` has everything that `ByteModel.sample` returns.

    Args:
        source: Where the bytes come from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
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
        """The completion: its text, finish reason, log-probability and usage. It is scored when first asked for.

        Raises:
            NotFinishedError: The stream has not ended yet.
            ModelChangedError: A model was changed since it began.
        """
        with self._lock:
            if self._completion is None:
                self._completion = self._source.completion()
            return self._completion

    def _shown(self) -> Iterator[str]:
        text = TextStream(self._source.prompt)
        with contextlib.closing(self._source.settled()) as settled:
            for data in settled:
                if piece := text.show(data):
                    yield piece
