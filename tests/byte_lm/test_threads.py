"""Threads and asyncio tasks that share models: each gets what it gets alone."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble
from bytelm.engines.table import TableLM
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
    sys.setswitchinterval(1e-6)
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
        return list(lm.stream(prompt, max_bytes=7, seed=i))

    def moved() -> np.ndarray:
        state = lm.state(other).advance(" x")
        state.next_byte_logprobs()
        row: np.ndarray = state.rollback(1).advance("y").next_byte_logprobs()
        return row

    return [
        lambda: lm.sample(prompt, max_bytes=7, seed=i).bytes,
        streamed,
        lambda: lm.next_byte_logprobs(other),
        lambda: lm.logprob(" and so", prefix=prompt),
        lambda: [each.text for each in lm.sample_batch([prompt, other], max_bytes=4, temperature=0)],
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


@pytest.mark.parametrize("make", [model_of, lambda: table_of(3)], ids=["transformers", "an engine of one's own"])
def test_four_threads_get_what_each_gets_alone(make: Callable[[], ByteLM]) -> None:
    """Samples, streams, rows, scores and states of four threads are those of one after the other."""
    expected = [all_of(make(), i) for i in range(4)]
    lm = make()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: all_of(lm, i), range(4)))

    assert all(alike(each, wanted) for each, wanted in zip(found, expected, strict=True))


def test_tasks_get_what_each_gets_alone() -> None:
    """The same of asyncio tasks that hand their calls to threads."""
    expected = [all_of(model_of(), i) for i in range(4)]
    lm = model_of()

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*(asyncio.to_thread(all_of, lm, i) for i in range(4)))

    assert all(alike(each, wanted) for each, wanted in zip(asyncio.run(together()), expected, strict=True))


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
    first, second = (lm.stream(prompt, max_bytes=8, seed=1) for prompt in PROMPTS[:2])
    expected = ["".join(lm.stream(prompt, max_bytes=8, seed=1)) for prompt in PROMPTS[:2]]
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
