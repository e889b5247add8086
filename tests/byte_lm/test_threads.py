"""Threads and asyncio tasks that share models: each gets what it gets alone."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, ByteState, Ensemble
from bytelm.engines.table import TableLM
from bytelm.healing import TokenCompleter, completer_of
from bytelm.inference.turns import TURN
from tests.support.tiny import default_tokenizer, tiny_model

PROMPTS = [
    "The quick brown fo",
    "def fibonacci(n):\n    ret",
    "Once upon a ti",
    "for i in ran",
    "naïve caf",
    "\n\n\n  ",
]


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def model_of(kind: str = "llama") -> ByteLM:
    return ByteLM(tiny_model(kind, seed=len(kind)), default_tokenizer())


def table_of(seed: int) -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), seed=seed))


def jobs(lm: Any, i: int) -> list[Callable[[], Any]]:
    """What one thread asks: all kinds of questions, about texts that other threads ask about too."""
    prompt, other = PROMPTS[i % len(PROMPTS)], PROMPTS[(i + 1) % len(PROMPTS)]

    def streamed() -> list[str]:
        return list(lm.stream(prompt, max_bytes=4, seed=i))

    def moved() -> np.ndarray:
        state = lm.state(other).advance(" x")
        state.next_byte_logprobs()
        row: np.ndarray = state.rollback(1).advance("y").next_byte_logprobs()
        return row

    return [
        lambda: lm.sample(prompt, max_bytes=4, seed=i).bytes,
        streamed,
        lambda: lm.next_byte_logprobs(other),
        lambda: lm.logprob(" and so", prefix=prompt),
        lambda: [each.text for each in lm.sample_batch([prompt, other], max_bytes=2, temperature=0)],
        moved,
        lambda: lm.byte_logprobs("go", prefix=other),
    ]


def all_of(lm: Any, i: int) -> list[Any]:
    return [job() for job in jobs(lm, i)]


def alike(found: list[Any], expected: list[Any]) -> bool:
    return all(
        np.allclose(a, b, atol=1e-9, rtol=0) if isinstance(a, np.ndarray | float) else a == b
        for a, b in zip(found, expected, strict=True)
    )


KINDS: dict[str, Callable[[], ByteLM]] = {"transformers": model_of, "an engine of one's own": lambda: table_of(3)}


@functools.cache
def alone(kind: str) -> list[list[Any]]:
    """What four threads get one after the other."""
    lm = KINDS[kind]()
    return [all_of(lm, i) for i in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_threads_get_what_each_gets_alone(kind: str) -> None:
    """Samples, streams, rows, scores and states of sixteen threads are those of one after the other, also afterwards."""
    lm = KINDS[kind]()
    start = threading.Barrier(16, timeout=60)

    def run(i: int) -> list[Any]:
        start.wait()
        return all_of(lm, i % 4)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(run, range(16)))

    assert all(alike(each, alone(kind)[i % 4]) for i, each in enumerate(found))
    assert alike(all_of(lm, 0), alone(kind)[0])


def test_sixteen_threads_share_a_state_and_a_completer() -> None:
    """Threads that move and ask one state, and complete by tokens on its engine, do not meet inside the engine."""

    class Alone(TableLM):
        """An engine that two threads may not ask at once, as many are."""

        inside = 0

        def next_token_logprobs(self, sequences: Any) -> Any:
            self.inside += 1
            time.sleep(1e-4)  # the others may come in
            assert self.inside == 1
            self.inside -= 1
            return super().next_token_logprobs(sequences)

    def asked(lm: ByteLM, state: ByteState[Any], completer: TokenCompleter, i: int) -> list[Any]:
        prompt = PROMPTS[i % 4]
        return [
            state.next_byte_logprobs(),
            completer.next_byte_logprobs(prompt, healing="many"),
            state.advance(" x").next_byte_logprobs(),
            completer.sample(prompt, healing="one", max_bytes=4).bytes,
            state.rollback(1 + i % 4).next_byte_logprobs(),
            [item.token_ids for item in lm.cover(prompt)],
            lm.fingerprint(),
        ]

    def made() -> tuple[ByteLM, ByteState[Any], TokenCompleter]:
        lm = ByteLM(Alone(default_tokenizer(), seed=3))
        return lm, lm.state("Once upon"), completer_of(lm)

    one = made()
    expected = [asked(*one, i) for i in range(4)]
    shared = made()

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: asked(*shared, i), range(16)))

    assert all(alike(each, expected[i % 4]) for i, each in enumerate(found))


INTERRUPTED = """
import signal, threading, time
from concurrent.futures import ThreadPoolExecutor
from bytelm.inference.turns import TURN

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started to ignore it
held, main = threading.Event(), threading.get_ident()

def hold():
    with TURN:
        held.set()
        time.sleep(0.2)  # the other one waits by now
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)

other = threading.Thread(target=hold)
try:
    with TURN, TURN, TURN.paused():
        other.start()
        held.wait()
except KeyboardInterrupt:
    print("interrupted at", TURN.depth)
other.join()
with ThreadPoolExecutor(1) as pool:
    pool.submit(TURN.__enter__).result(timeout=10)
    pool.submit(TURN.__exit__).result(timeout=10)
print("taken")
"""


def test_an_interrupted_turn_is_given_back() -> None:
    """Ctrl-C while a thread waits for its turn, to go on after a call of an engine, leaves the turns in order.

    In a process of its own: only there the thread is the main one, which is the one that is interrupted.
    """
    words = [sys.executable, "-P", "-c", INTERRUPTED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.stderr) == ("interrupted at 0\ntaken\n", "")


def test_tasks_get_what_each_gets_alone() -> None:
    """The same of asyncio tasks that hand their calls to threads."""
    kind = "an engine of one's own"
    lm = KINDS[kind]()

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*(asyncio.to_thread(all_of, lm, i) for i in range(4)))

    assert all(alike(each, wanted) for each, wanted in zip(asyncio.run(together()), alone(kind), strict=True))


@pytest.mark.parametrize("combine", ["mixture", "bayes"])
def test_ensembles_that_share_members(combine: Any) -> None:
    """Two ensembles and a member of both, in three threads, each as if it were alone."""

    def made() -> list[Any]:
        one, two, three = table_of(1), table_of(2), model_of("gpt2")
        return [Ensemble([one, two], combine=combine), Ensemble([two, three, one], combine=combine), two]

    expected = [all_of(lm, i) for i, lm in enumerate(made())]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(all_of, made(), range(3)))

    assert all(alike(each, wanted) for each, wanted in zip(found, expected, strict=True))


def test_streams_interleave() -> None:
    """A stream in one thread goes on while one in another is not at its end: no turn lasts for a whole text."""
    lm = model_of()
    first, second = (lm.stream(prompt, max_bytes=40, seed=3) for prompt in PROMPTS[:2])
    expected = ["".join(lm.stream(prompt, max_bytes=40, seed=3)) for prompt in PROMPTS[:2]]
    meet = threading.Barrier(2, timeout=20)

    def read(stream: Iterator[str]) -> str:
        pieces = []
        for piece in stream:
            pieces.append(piece)
            if len(pieces) <= 2:
                meet.wait()
        return "".join(pieces)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(read, [first, second]))

    assert found == expected


def test_one_stream_in_two_threads() -> None:
    """Threads that share a stream get its pieces by turns, and lose none."""
    lm = model_of()
    expected = lm.sample(PROMPTS[0], max_bytes=30, seed=2).text
    stream = lm.stream(PROMPTS[0], max_bytes=30, seed=2)

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(lambda _: list(stream), range(2)))

    assert sorted("".join([*halves[0], *halves[1]])) == sorted(expected)
    assert stream.completion.text == expected


def test_engine_draws_beside_rows_and_callbacks() -> None:
    """What an engine draws, what is drawn by rows, and a function that asks the model again do not lock up."""
    lm = model_of()

    def curious(written: bytes, row: np.ndarray) -> np.ndarray:
        lm.next_byte_logprobs(PROMPTS[0] + "x")
        return row

    def drawn() -> bytes:
        three: Any = lm.sample(PROMPTS[0], n=3, max_bytes=12, seed=5, engine_draws=True)
        return b"".join(each.bytes for each in three)

    def asked() -> bytes:
        return lm.sample(PROMPTS[1], max_bytes=6, seed=5, logits_processor=curious).bytes

    expected = [drawn(), asked(), drawn(), asked()]

    with ThreadPoolExecutor(4) as pool:
        found = [future.result(timeout=60) for future in [pool.submit(job) for job in (drawn, asked, drawn, asked)]]

    assert found == expected


def test_calls_of_two_engines_run_side_by_side() -> None:
    """One engine's call does not hold up another's: both are inside at the same time."""
    inside = threading.Barrier(2, timeout=20)

    class Waiting(TableLM):
        def next_token_logprobs(self, sequences: Any) -> Any:
            inside.wait()
            return super().next_token_logprobs(sequences)

    lms = [ByteLM(Waiting(default_tokenizer(), seed=seed)) for seed in range(2)]

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda lm: lm.next_byte_logprobs("The"), lms))

    assert len(rows) == 2
    assert TURN.depth == 0
