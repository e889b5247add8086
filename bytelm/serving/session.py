"""Many askers, one model: requests join and leave a running batch between its steps.

Theory of operation
    One thread runs the model, the *engine thread*. It holds the jobs that are under way. A round tells all of them what
    they have asked for, in one call of each engine (inference/scheduler.py). Between two rounds those that were
    cancelled leave, and those that wait join. So a request never waits for another one to end, and a request that
    nobody waits for any more is dropped within one step. Askers are tasks of asyncio; they get results and pieces
    through their event loop.

Invariant
    What a request gets is what it gets alone: a step's result depends on its own rows alone, and the random numbers of
    a completion on its own seed.

Failure
    An error of a step is that request's alone. When a call fails, each job of the round is asked for alone, and those
    that fail again get the error: one request that an engine cannot take does not take others with it.
    Where as many wait as may wait, a request is refused at once (`BusyError`).

Does not
    Let the engine's own sampler write (``level="token"``, ``engine_draws``): it would keep the others waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeVar, Unpack

from bytelm.arguments import Text, integer
from bytelm.cover.prefix import Prefix
from bytelm.errors import BusyError, ClosedError, InvalidArgumentError, NotFinishedError
from bytelm.fim import InfillSettings
from bytelm.fim.files import context_of
from bytelm.inference.scheduler import Jobs, Outcome, Scheduler, Step, close_all
from bytelm.sampling.byte_model import ByteModel, InfillOptions
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import CallOptions, SamplingParams, params_of
from bytelm.sampling.situation import Hole
from bytelm.sampling.text_stream import TextStream
from bytelm.sampling.writing import Generation

T = TypeVar("T")

MAX_RUNNING: Final = 64
MAX_WAITING: Final = 1024

_Begin = Callable[[], Step[Any]]
_Guarded = tuple[Any, BaseException | None]


@dataclass(eq=False)
class _Ticket:
    """A request: how its step is made, and who waits for what it comes to."""

    number: int
    begin: _Begin
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome[Any]]

    def settle(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:
        """Tell whoever waits, from the engine thread."""

        def tell() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            elif outcome is not None:
                self.future.set_result(outcome)

        tell_loop(self.loop, tell)


class Session:
    """One byte model that serves many asyncio tasks at once.

    Args:
        model: A `ByteLM`, an `Ensemble`, or any other byte model. The caller has to close it.
        max_running: The most requests that run together.
        max_waiting: The most requests that wait for their turn.

    Raises:
        InvalidArgumentError: A number below 1.

    >>> async with Session(lm) as session:  # doctest: +SKIP
    ...     done = await session.sample("The capital of Fra", max_bytes=20)
    """

    def __init__(
        self, model: ByteModel[Any, Any], *, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING
    ) -> None:
        for name, value in (("max_running", max_running), ("max_waiting", max_waiting)):
            if integer(name, value) < 1:
                raise InvalidArgumentError(f"{name} must be at least 1; got {value}")
        self.model = model
        self.max_running, self.max_waiting = max_running, max_waiting
        self._scheduler = Scheduler(model.scheduler.token_lm, names=model.scheduler.names)
        self._numbers = itertools.count()
        self._running: Jobs[_Guarded] = {}
        self._tickets: dict[int, _Ticket] = {}  # of the jobs that run
        self._waiting: deque[_Ticket] = deque()
        self._left: set[_Ticket] = set()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="bytelm engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._waiting)

    # ---- requests

    async def sample(self, prefix: Prefix, **options: Unpack[CallOptions]) -> Completion:
        """Complete a prefix. It takes the arguments of `ByteModel.sample`.

        Raises:
            BusyError: Too many requests wait.
            BytelmError: As for `ByteModel.sample`.
        """
        return await self._completion(lambda: self._generation(self.model, prefix, options))

    def stream(self, prefix: Prefix, **options: Unpack[CallOptions]) -> LiveStream:
        """Complete a prefix piece by piece. It begins at once; see `LiveStream`."""
        return LiveStream(self, lambda: self._generation(self.model, prefix, options))

    async def infill(self, prefix: Text, suffix: Text, **options: Unpack[InfillOptions]) -> Completion:
        """Fill in the middle between two texts. It takes the arguments of `ByteModel.infill`."""
        return await self._completion(lambda: self._infilling(prefix, suffix, dict(options)))

    def infill_stream(self, prefix: Text, suffix: Text, **options: Unpack[InfillOptions]) -> LiveStream:
        """Fill in the middle between two texts, piece by piece."""
        return LiveStream(self, lambda: self._infilling(prefix, suffix, dict(options)))

    async def call(self, ask: Callable[[ByteModel[Any, Any]], T]) -> T:
        """Ask the model something else, between two rounds: a row, a cover, an explanation.

        Args:
            ask: Called with the model in the engine thread. The other requests wait meanwhile.

        >>> row = await session.call(lambda lm: lm.next_byte_logprobs("ti"))  # doctest: +SKIP
        """

        def asked(lm: ByteModel[Any, Any]) -> Step[T]:
            yield from ()
            return ask(lm)

        return await self.run(asked)

    async def run(self, step: Callable[[ByteModel[Any, Any]], Step[T]]) -> T:
        """Run a step (sampling/steps.py) beside the other requests, in shared model calls, and return its result.

        Args:
            step: Called with the model in the engine thread.
        """
        found: T = (await self._answered(lambda: step(self.model))).result[0]
        return found

    async def close(self) -> None:
        """Finish the requests that run or wait, take no others, then stop. The model stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- how they are made

    @staticmethod
    def _generation(model: ByteModel[Any, Any], prefix: Prefix, options: CallOptions) -> Generation:
        params = params_of(options)
        if params.level == "token" or params.engine_draws:
            named = "level='token'" if params.level == "token" else "engine_draws=True"
            raise InvalidArgumentError(f"{named} does not work in a session: the engine would block the other requests")
        return model.begin(prefix, params)

    def _infilling(self, prefix: Text, suffix: Text, options: dict[str, Any]) -> Generation:
        named = {name: options.pop(name) for name in ("mode", "format", "carry", "context") if name in options}
        params: SamplingParams = params_of(options)  # type: ignore[arg-type] # what is left are those of a completion
        context = context_of(named.pop("context", None))
        how = InfillSettings(**named, context=context, room=params.max_bytes)
        hole = Hole(prefix, suffix, how)
        model, prompt = hole(self.model)
        return self._generation(model, prompt, {"params": hole.drafted(params)})

    async def _completion(self, make: Callable[[], Generation]) -> Completion:
        outcome = await self._answered(lambda: make().run())
        return finished(outcome)

    async def _answered(self, begin: _Begin) -> Outcome[Any]:
        """What a request comes to; a task that is cancelled while it waits takes its request with it."""
        ticket = self.enter(begin)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self.leave(ticket)
            raise

    def enter(self, begin: _Begin) -> _Ticket:
        """Let a request wait for its turn.

        Args:
            begin: Makes its step; called in the engine thread.

        Raises:
            BusyError: Too many wait.
            ClosedError: The session is closed.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(next(self._numbers), begin, loop, loop.create_future())
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise ClosedError("the session is closed: it takes no more requests")
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(
                    f"{len(self._waiting)} requests wait already, and {len(self._running)} run: ask again later, or "
                    "give the session a larger max_waiting"
                )
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def leave(self, ticket: _Ticket) -> None:
        """Drop a request, before the next step."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._left.add(ticket)
            self._changed.notify()

    # ---- the engine thread

    def _serve(self) -> None:
        error: BaseException | None = None
        try:
            while self._admitted():
                if self._running:
                    self._round()
        except BaseException as fault:  # noqa: BLE001 - whoever waits is told
            error = fault
        with self._changed:
            self._closing = True
            left, self._waiting = [*self._tickets.values(), *self._waiting], deque()
        for ticket in left:
            ticket.settle(None, error or ClosedError("the session was closed"))
        close_all(self._running)

    def _admitted(self) -> bool:
        """Wait until there is something to do, let go of those that left, and begin those that come; else False."""
        with self._changed:
            while not (self._running or self._waiting or self._closing):
                self._changed.wait()
            left, self._left = self._left, set()
            free = self.max_running - len(self._running)
            arrived = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        for ticket in left:
            if (job := self._running.pop(ticket.number, None)) is not None:
                job.step.close()
                del self._tickets[ticket.number]
        for ticket in arrived:
            self._tickets[ticket.number] = ticket
            self._deliver(self._scheduler.begin(self._running, ticket.number, guarded(ticket.begin)))
        return bool(self._running or self._waiting or arrived or not self._closing)

    def _round(self) -> None:
        alone: Jobs[_Guarded] = {}
        try:
            self._deliver(self._scheduler.round(self._running))
        except Exception:  # noqa: BLE001 - whose fault it is shows when they are asked for alone
            alone.update(self._running)
        for number, job in alone.items():
            mine: Jobs[_Guarded] = {number: job}
            try:
                self._deliver(self._scheduler.round(mine))
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                job.step.close()
                mine.clear()
                self._tickets.pop(number).settle(None, error)
            if number not in mine:
                self._running.pop(number, None)

    def _deliver(self, outcomes: Any) -> None:
        for outcome in outcomes:
            ticket = self._tickets.pop(outcome.index)
            ticket.settle(outcome, outcome.result[1])


class LiveStream(AsyncIterator[str]):
    """A completion of a session, piece by piece. No piece is ever taken back.

    It begins when it is made. `aclose`, or the end of ``async with``, ends it early.

    >>> async with session.stream("The capital of Fra", max_bytes=20) as pieces:  # doctest: +SKIP
    ...     async for piece in pieces:
    ...         print(piece, end="")
    """

    def __init__(self, session: Session, make: Callable[[], Generation]) -> None:
        self._session = session
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._completion: Completion | None = None
        self._loop = asyncio.get_running_loop()
        self._ticket = session.enter(lambda: self._step(make()))  # which may begin before this line ends
        self._ticket.future.add_done_callback(lambda _: self._pieces.put_nowait(None))

    def _step(self, generation: Generation) -> Step[Completion]:
        text, shown = TextStream(generation.prompt), 0
        while generation.finish_reason is None:
            yield from generation.step()
            new = generation.settled(shown)
            shown += len(new)
            if piece := text.show(new):
                tell_loop(self._loop, lambda piece=piece: self._pieces.put_nowait(piece))  # type: ignore[misc]
        return (yield from generation.completion())

    def __aiter__(self) -> LiveStream:
        return self

    async def __anext__(self) -> str:
        piece = None if self._completion is not None else await self._pieces.get()
        if piece is None:
            self._pieces.put_nowait(None)  # for whoever asks again
            if not self._ticket.future.cancelled():
                self._completion = finished(self._ticket.future.result())
            raise StopAsyncIteration
        return piece

    @property
    def completion(self) -> Completion:
        """The completion, once the last piece has come.

        Raises:
            NotFinishedError: It has not.
        """
        if self._completion is None:
            raise NotFinishedError("the completion has not ended: take all pieces of the stream first")
        return self._completion

    @property
    def ended(self) -> bool:
        """Whether nothing more is written: it is complete, has failed, or was closed."""
        return self._ticket.future.done()

    async def aclose(self) -> None:
        """End it, if it has not ended."""
        if not self.ended:
            self._session.leave(self._ticket)
            self._ticket.future.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def tell_loop(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Run something where an asker runs; nothing if its event loop is no more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


def guarded(begin: _Begin) -> Step[_Guarded]:
    """A step whose errors are a part of its result, so that they are its own."""
    try:
        return (yield from begin()), None
    except Exception as error:  # noqa: BLE001 - told to whoever waits
        return None, error


def finished(outcome: Outcome[Any]) -> Completion:
    """A completion, with what it cost."""
    done: Completion = outcome.result[0]
    return replace(done, usage=outcome.usage.leaking(done.usage))
