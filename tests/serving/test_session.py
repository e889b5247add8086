"""A session gives each request what it gets alone, shares calls, and drops what nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from bytelm import ByteLM, Completion, Ensemble, TableLM
from bytelm.errors import BusyError, InvalidArgumentError, ModelError, NotFinishedError, UnreachablePrefixError
from bytelm.serving import Session
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer

T = TypeVar("T")
SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


class Counting(TableLM):
    """A model that counts its calls, may be slow, and fails where it is told to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sizes: list[int] = []
        self.seconds = 0.0
        self.fails = ""  # how, at the token of a G
        self.bad = self.tokenizer.encode("G", add_special_tokens=False)[0]
        self.open = threading.Event()
        self.open.set()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.open.wait(20)
        time.sleep(self.seconds)
        self.sizes.append(len(sequences))
        rows = super().next_token_logprobs(sequences)
        for sequence, row in zip(sequences, rows, strict=True):
            if self.fails == "raise" and self.bad in sequence:
                raise RuntimeError("the engine cannot")
            if self.fails == "nan" and self.bad in sequence:
                row[:] = np.nan
        return rows


def lm_of(**options: Any) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS)
    return ByteLM(Counting(tokenizer, **{"seed": 3, "temperature": 1.5, **options}))


@pytest.fixture
def lm() -> ByteLM:
    return lm_of()


def run(work: Coroutine[Any, Any, T]) -> T:
    async def within() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(within())


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the engine thread has come so far."""
    while not condition():  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0.001)


def told(done: Completion) -> tuple[Any, ...]:
    return done.bytes, done.text, done.finish_reason, done.logprob


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("the qui", {"seed": 1, "max_bytes": 12}),
    ("the qui", {"seed": 2, "max_bytes": 7, "temperature": 0.7, "top_p": 0.9}),
    ("", {"temperature": 0, "max_bytes": 9}),
    ("x = 12", {"seed": 5, "max_bytes": 12, "stop": ["e", "\n"]}),
    ("naïve caf", {"seed": 6, "max_bytes": 5, "lazy": False}),
] * 3


def test_each_request_gets_what_it_gets_alone(lm: ByteLM) -> None:
    """Fifteen at once, of different kinds: the bytes, the log-probability and the end of each, in fewer calls."""
    alone = [lm.sample(prefix, **options) for prefix, options in REQUESTS]
    engine: Any = lm.token_lm
    before = len(engine.sizes)
    engine.sizes.clear()

    async def work() -> list[Completion]:
        async with Session(lm) as session:
            return await asyncio.gather(*(session.sample(prefix, **options) for prefix, options in REQUESTS))

    together = run(work())

    assert [told(done) for done in together] == [told(done) for done in alone]
    assert len(engine.sizes) < before / 3
    assert all(done.usage.calls > 0 for done in together)


def test_no_more_run_than_may(lm: ByteLM) -> None:
    """With room for two, no call has rows for more, and the others are served after them."""
    engine: Any = lm.token_lm

    async def work() -> list[Completion]:
        async with Session(lm, max_running=2) as session:
            return await asyncio.gather(*(session.sample("ab", seed=i, max_bytes=4, lazy=False) for i in range(7)))

    done = run(work())

    assert [told(each) for each in done] == [told(lm.sample("ab", seed=i, max_bytes=4, lazy=False)) for i in range(7)]
    rows = max(len(lm.place(lm.prompt("ab" + each.text)).frontier.nodes) for each in done)
    assert max(engine.sizes) <= 2 * rows


def test_a_request_joins_those_that_run(lm: ByteLM) -> None:
    """A short one that comes later is done while a long one goes on."""
    engine: Any = lm.token_lm
    engine.seconds = 0.002

    async def work() -> tuple[bool, Completion, Completion]:
        async with Session(lm) as session:
            long = asyncio.create_task(session.sample("a", seed=1, max_bytes=400))
            await until(lambda: session.running > 0)
            short = await session.sample("b", seed=2, max_bytes=2)
            return long.done(), short, await long

    ended, short, long = run(work())

    assert not ended
    assert told(short) == told(lm.sample("b", seed=2, max_bytes=2))
    assert told(long) == told(lm.sample("a", seed=1, max_bytes=400))


def test_what_nobody_waits_for_is_dropped_within_a_step(lm: ByteLM) -> None:
    """After a cancellation the model is asked at most once more; what waits is dropped too."""
    engine: Any = lm.token_lm
    engine.seconds = 0.002

    async def work() -> int:
        async with Session(lm, max_running=1) as session:
            tasks = [asyncio.create_task(session.sample("a", seed=i, max_bytes=4000)) for i in range(3)]
            await until(lambda: session.running > 0 and engine.sizes)
            for task in tasks:
                task.cancel()
            asked = len(engine.sizes)
            await until(lambda: not (session.running or session.waiting))
            return len(engine.sizes) - asked

    assert run(work()) <= 1


def test_a_stream_is_the_completion_in_pieces(lm: ByteLM) -> None:
    """Joined they are the text, no stop string is among them, and the completion is that of `sample`."""
    options: dict[str, Any] = {"seed": 5, "max_bytes": 60, "stop": ["qu", "\n\n"]}

    async def work() -> list[tuple[list[str], Completion]]:
        async with Session(lm) as session:

            async def read(prefix: str) -> tuple[list[str], Completion]:
                stream = session.stream(prefix, **options)
                with pytest.raises(NotFinishedError):
                    _ = stream.completion
                pieces = [piece async for piece in stream]
                assert [piece async for piece in stream] == []
                return pieces, stream.completion

            return await asyncio.gather(*(read(prefix) for prefix in ("the ", "a", "é")))

    for prefix, (pieces, done) in zip(("the ", "a", "é"), run(work()), strict=True):
        assert told(done) == told(lm.sample(prefix, **options))
        assert "".join(pieces) == done.text
        assert len(pieces) > 1


def test_a_reader_that_goes_away_ends_its_stream(lm: ByteLM) -> None:
    engine: Any = lm.token_lm
    engine.seconds = 0.002

    async def work() -> int:
        async with Session(lm) as session:
            async with session.stream("a", seed=1, max_bytes=4000) as pieces:
                await anext(pieces)
            asked = len(engine.sizes)
            await until(lambda: not session.running)
            return len(engine.sizes) - asked

    assert run(work()) <= 1


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_an_error_is_of_its_request_alone(lm: ByteLM, how: str) -> None:
    """What an engine cannot take does not take the others with it; later requests are served."""
    prefixes = ["the ", "aGb", "x = "]
    alone = [lm.sample(prefix, seed=1, max_bytes=8) for prefix in prefixes]
    engine: Any = lm.token_lm
    engine.fails = how

    async def work() -> list[Any]:
        async with Session(lm) as session:
            asked: list[str | bytes] = [*prefixes, b"\xff\xff"]
            wanted = [session.sample(prefix, seed=1, max_bytes=8) for prefix in asked]
            return [
                *await asyncio.gather(*wanted, return_exceptions=True),
                await session.sample("the ", seed=1, max_bytes=8),
            ]

    first, failed, third, unreachable, later = run(work())

    assert [told(done) for done in (first, third, later)] == [told(alone[0]), told(alone[2]), told(alone[0])]
    assert isinstance(failed, RuntimeError | ModelError)
    assert isinstance(unreachable, UnreachablePrefixError)


def test_too_many_are_refused_at_once(lm: ByteLM) -> None:
    """One runs, two wait, the fourth is told; those that were let in are served."""
    engine: Any = lm.token_lm
    engine.open.clear()

    async def work() -> list[Any]:
        async with Session(lm, max_running=1, max_waiting=2) as session:
            first = asyncio.create_task(session.sample("a", seed=0, max_bytes=3))
            await until(lambda: session.running == 1)
            more = [asyncio.create_task(session.sample("a", seed=i, max_bytes=3)) for i in (1, 2)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="2 requests wait already, and 1 run"):
                await session.sample("a", seed=3)
            engine.open.set()
            return await asyncio.gather(first, *more)

    assert [told(done) for done in run(work())] == [told(lm.sample("a", seed=i, max_bytes=3)) for i in range(3)]


def test_a_stream_may_begin_before_it_is_made(lm: ByteLM) -> None:
    """The engine thread may be so quick that the stream writes before its asker has it in hand."""

    class Quick(Session):
        def enter(self, begin: Any) -> Any:
            ticket = super().enter(begin)
            while not ticket.future.done() and not self.running:
                time.sleep(0.001)
            time.sleep(0.05)
            return ticket

    async def work() -> list[str]:
        async with Quick(lm) as session, session.stream("the qui", seed=1, max_bytes=12) as pieces:
            return [piece async for piece in pieces]

    assert "".join(run(work())) == lm.sample("the qui", seed=1, max_bytes=12).text


def test_who_leaves_the_queue_leaves_room_in_it_at_once() -> None:
    """A request that is given up while it waits takes no place any more, though the engine is at work."""
    lm = lm_of()
    engine = lm.token_lm
    assert isinstance(engine, Counting)
    engine.open.clear()

    async def work() -> list[Completion]:
        async with Session(lm, max_running=1, max_waiting=1) as session:
            first = asyncio.create_task(session.sample("a", seed=0, max_bytes=3))
            await until(lambda: session.running == 1)
            leaves = asyncio.create_task(session.sample("a", seed=1))
            await until(lambda: session.waiting == 1)
            leaves.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second = asyncio.create_task(session.sample("a", seed=2, max_bytes=3))
            await until(lambda: session.waiting == 1)
            engine.open.set()
            return [*await asyncio.gather(first, second)]

    assert [told(done) for done in run(work())] == [told(lm.sample("a", seed=i, max_bytes=3)) for i in (0, 2)]


def test_closing_serves_those_that_were_let_in(lm: ByteLM) -> None:
    async def work() -> list[Completion]:
        session = Session(lm, max_running=1)
        tasks = [asyncio.create_task(session.sample("a", seed=i, max_bytes=5)) for i in range(3)]
        await asyncio.sleep(0)
        await session.close()
        with pytest.raises(ModelError, match="the session is closed"):
            await session.sample("a")
        return await asyncio.gather(*tasks)

    assert [told(done) for done in run(work())] == [told(lm.sample("a", seed=i, max_bytes=5)) for i in range(3)]
    assert lm.sample("a", seed=0, max_bytes=1).bytes  # the model stays open


def test_infills_ensembles_and_other_questions(lm: ByteLM) -> None:
    other = ByteLM(TableLM(sentencepiece_bpe_tokenizer(prepend=True), seed=4, order=2, temperature=1.5))
    ensemble = Ensemble([ByteLM(TableLM(default_tokenizer(), seed=1, order=2, temperature=1.5)), other])
    options: dict[str, Any] = {"seed": 2, "max_bytes": 6}

    async def work() -> tuple[Any, ...]:
        async with Session(lm) as session, Session(ensemble) as several:
            stream = session.infill_stream("if x:\n  re", "\n", mode="psm", context=[("a.py", "b")], **options)
            return (
                *await asyncio.gather(
                    session.infill("if x:\n  re", "\n", mode="psm", context=[("a.py", "b")], **options),
                    several.sample("the ", **options),
                    session.call(lambda model: model.next_byte_logprobs("the ")),
                ),
                "".join([piece async for piece in stream]),
            )

    infill, mixed, row, streamed = run(work())

    expected = lm.infill("if x:\n  re", "\n", mode="psm", context=[("a.py", "b")], **options)
    assert told(infill) == told(expected)
    assert streamed == expected.text
    assert told(mixed) == told(ensemble.sample("the ", **options))
    np.testing.assert_array_equal(row, lm.next_byte_logprobs("the "))


def test_what_cannot_be_asked(lm: ByteLM) -> None:
    for numbers in ({"max_running": 0}, {"max_waiting": 0}):
        with pytest.raises(InvalidArgumentError, match="must be at least 1; got 0"):
            Session(lm, **numbers)

    async def work() -> None:
        async with Session(lm) as session:
            with pytest.raises(InvalidArgumentError, match="level='token' does not work in a session"):
                await session.sample("a", level="token")
            with pytest.raises(InvalidArgumentError, match="engine_draws=True does not work in a session"):
                await session.sample("a", engine_draws=True)
            with pytest.raises(ZeroDivisionError):
                await session.call(lambda _: 1 / 0)

    run(work())
