r"""What a client asks for, whatever its protocol, and how it is answered by a session.

Rules
    An `Ask` is one prompt and n completions of it. Number j of prompt i of a request draws from the random numbers of
    (seed, i · n + j): what a request gets is what `ByteModel.sample_batch` gives for the same seed.
    A protocol makes asks of its requests, and its own answers of ours (protocols/). It never touches the model.
    What ends a completion before the model does is a matter of its text alone, and is cut here: the time limit, and the
    indentation that a line must have.

Failure
    Where one of several completions fails, or nobody waits any more, the others are dropped within one step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from bytelm.cover.prefix import Prefix
from bytelm.inference.job_usage import JobUsage
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.completion import Completion, Particles
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.situation import Situation
from bytelm.serving.metrics import Metrics
from bytelm.serving.session import LiveStream, Session

Finish: TypeAlias = Literal["eot", "stop", "length", "time", "indent"]
Prompted: TypeAlias = tuple[ByteModel[Any, Any], Prefix]
Prompting: TypeAlias = Callable[[ByteModel[Any, Any]], Prompted]
"""Makes a prompt for a model, and names the model that goes on from it. Runs in the engine thread."""

BLANK: Final = " \t"


def after(prefix: Prefix) -> Prompting:
    """The prompt of a prefix."""
    return lambda lm: (lm, prefix)


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt, and what is to be written after it.

    Attributes:
        prompt: Makes the prompt.
        params: How completions are drawn, and when they end.
        n: How many.
        first: The place of the first among all completions of the request.
        seconds: How long one may take; None: as long as it takes.
        lines_first: Whether a completion that has no line end yet may take longer.
        indent: A line whose indentation has fewer characters ends a completion; 0: none does.
    """

    prompt: Prompting
    params: SamplingParams
    n: int = 1
    first: int = 0
    seconds: float | None = None
    lines_first: bool = False
    indent: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion, as far as the client is to have it.

    Attributes:
        text: What was written.
        finish: What ended it: as in `Completion`, or ``"time"``, or ``"indent"``.
        bytes: The same as bytes. Where time or indentation cut it, those of the text.
        logprob: Of the bytes, a natural log; None where it was cut.
        usage: What it cost; nothing where it was cut, as then nobody knows.
        first_seconds: How long the first text took, and with it the prompt.
        seconds: How long all took.
        particles: The weighted texts that it was picked from, if there were any.
    """

    text: str
    finish: Finish
    bytes: bytes
    logprob: float | None
    usage: JobUsage
    first_seconds: float
    seconds: float
    particles: Particles | None = None


def drafts_of(usage: JobUsage, drafted: str, accepted: str) -> dict[str, int]:
    """How many bytes were drafted and accepted, under names of a protocol; nothing where none was drafted."""
    return {drafted: usage.drafted, accepted: usage.accepted} if usage.drafted else {}


class Cut:
    r"""What of a text may be shown, where lines must have an indentation.

    >>> cut = Cut(indent=4)
    >>> cut.shown("x\n    y\n"), cut.shown("  z"), cut.ended
    ('x\n    y\n', '  ', True)
    """

    def __init__(self, indent: int) -> None:
        self.indent = indent
        self.ended = False
        self.lines = 0
        self._blanks: int | None = None  # at the start of this line; None: behind it

    def shown(self, piece: str) -> str:
        """The part of a piece before the first line that is not indented enough."""
        for at, character in enumerate(piece):
            if self._blanks is not None:
                if character in BLANK:
                    self._blanks += 1
                    continue
                if self._blanks < self.indent:
                    self.ended = True
                    return piece[:at]
                self._blanks = None
            if character == "\n":
                self.lines += 1
                self._blanks = 0 if self.indent else None
        return piece


class Writing(AsyncIterator[str]):
    """One completion that comes piece by piece, and its answer afterwards.

    Args:
        session: Where it runs.
        ask: What is asked for.
        index: Which of its completions.
        metrics: What is counted of it.
    """

    def __init__(self, session: Session, ask: Ask, index: int, metrics: Metrics) -> None:
        self._ask, self._metrics = ask, metrics
        self._since = time.monotonic()
        self._first: float | None = None  # when the first piece came
        self._last = self._since
        self._cut = Cut(ask.indent)
        self._text: list[str] = []
        self.answer: Answer | None = None

        def begin() -> Any:
            model, prefix = ask.prompt(session.model)
            params = ask.prompt.drafted(ask.params) if isinstance(ask.prompt, Situation) else ask.params
            return model.begin(prefix, params, index=ask.first + index)

        self._stream = LiveStream(session, begin)

    async def __anext__(self) -> str:
        """The next piece.

        Raises:
            BytelmError: What the model says of the request.
        """
        if self.answer is not None:
            raise StopAsyncIteration
        limit = asyncio.timeout_at(self._deadline())
        try:
            async with limit:
                piece = await anext(self._stream)
        except TimeoutError:
            if not limit.expired():  # an engine's own
                raise
            return await self._end("time")
        except StopAsyncIteration:
            done = self._stream.completion
            self.answer = self._answered(done, done.finish_reason)
            self._metrics.written(len(done.bytes), done.usage)
            raise
        now = time.monotonic()
        self._metrics.piece(now - self._last, first=self._first is None)
        self._first, self._last = self._first or now, now
        shown = self._cut.shown(piece)
        self._text.append(shown)
        if self._cut.ended:
            return shown + await self._end("indent")
        return shown

    def _deadline(self) -> float | None:
        """When it is over, by the clock of the event loop."""
        if self._ask.seconds is None or (self._ask.lines_first and not self._cut.lines):
            return None
        return asyncio.get_running_loop().time() + self._ask.seconds - (time.monotonic() - self._since)

    async def _end(self, finish: Finish) -> str:
        await self._stream.aclose()
        self.answer = self._answered(None, finish)
        self._metrics.written(len(self.answer.bytes), self.answer.usage)
        return ""

    def _answered(self, done: Completion | None, finish: Finish) -> Answer:
        now = time.monotonic()
        took = (self._first or now) - self._since, now - self._since
        if done is None:
            text = "".join(self._text)
            return Answer(text, finish, text.encode(), None, JobUsage(), *took)
        return Answer(done.text, finish, done.bytes, done.logprob, done.usage, *took, done.particles)

    async def whole(self) -> Answer:
        """Take all pieces."""
        async for _ in self:
            pass
        assert self.answer is not None  # noqa: S101 - the last piece has come
        return self.answer

    async def aclose(self) -> None:
        """Drop it, if it has not ended."""
        if self.answer is None and not self._stream.ended:
            self._metrics.cancelled()
        await self._stream.aclose()


Piece: TypeAlias = tuple[int, str | Answer]


async def answers(session: Session, asks: list[Ask], metrics: Metrics) -> list[Answer]:
    """The completions of all asks, in their order."""
    async with AsyncExitStack() as stack:
        writings = _begun(stack, session, asks, metrics)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(writing.whole()) for writing in writings]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]


async def pieces(session: Session, asks: list[Ask], metrics: Metrics) -> AsyncGenerator[Piece]:
    """The pieces of all completions as they come, each with the completion's place; behind its last its answer."""
    queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    async def forward(place: int, writing: Writing) -> None:
        try:
            async for piece in writing:
                queue.put_nowait((place, piece))
            queue.put_nowait((place, await writing.whole()))
        except Exception as error:  # noqa: BLE001 - raised where the pieces are taken
            queue.put_nowait(error)

    async with AsyncExitStack() as stack:
        writings = _begun(stack, session, asks, metrics)
        tasks = [asyncio.ensure_future(forward(place, writing)) for place, writing in enumerate(writings)]
        try:
            left = len(tasks)
            while left:
                piece = await queue.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= isinstance(piece[1], Answer)
                yield piece
        finally:
            for task in tasks:
                task.cancel()


def _begun(stack: AsyncExitStack, session: Session, asks: list[Ask], metrics: Metrics) -> list[Writing]:
    """All completions of some asks, each of which is dropped at the end if it has not ended by then."""
    writings = []
    for ask in asks:
        for index in range(ask.n):
            writings.append(Writing(session, ask, index, metrics))
            stack.push_async_callback(writings[-1].aclose)
    return writings
