"""Many steps over one model: who is asked, when, in what batches, and what is kept when a call fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bytelm.cover.nodes import Paths
from bytelm.errors import InvalidLogitsError
from bytelm.inference.scheduler import Request, Scheduler, Step, on, rows_in, together
from bytelm.progress import Bar
from bytelm.token_lm import Usage
from tests.inference.test_scoring import toy


class Echo:
    """A model over three tokens that notes its batches; ``fails_at`` is the call that goes wrong."""

    tokenizer: Any = None
    vocab_size = 3
    eot_ids: frozenset[int] = frozenset()

    def __init__(self, *, counted: bool = False, fails_at: int = 99) -> None:
        self.batches: list[list[tuple[int, ...]]] = []
        self.fails_at = fails_at
        if counted:
            self.usage = Usage()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([tuple(sequence) for sequence in sequences])
        if len(self.batches) == self.fails_at:
            return np.full((len(sequences), 3), np.nan)
        if hasattr(self, "usage"):
            self.usage.calls += 2
            self.usage.tokens_fed += 10 * len(sequences)
        logits = np.array([[sum(sequence), 1.0, len(sequence)] for sequence in sequences])
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def asks(*requests: Sequence[tuple[int, ...]]) -> Step[list[float]]:
    """A step that asks for these sequences, request by request, and returns a number from each row."""
    read = []
    for sequences in requests:
        rows = yield Request(tuple(sequences))
        assert len(rows) == len(sequences)
        read += [float(row[0] - row[1]) for row in rows]
    return read


def test_a_round_is_one_call_and_sequences_are_fed_once() -> None:
    """Everything that all steps ask for in a round goes in one call, each sequence once, and comes back in order."""
    model = Echo()
    steps = [asks([(1,), (2, 0)], [(5,)]), asks([(2, 0), (7,), (1,)]), asks([(1,)], [(1,)], [(9,)])]

    outcomes = {outcome.index: outcome.result for outcome in Scheduler(model).run(steps)}

    assert model.batches == [[(1,), (2, 0), (7,)], [(5,), (1,)], [(9,)]]
    assert outcomes == {0: [0, 1, 4], 1: [1, 6, 0], 2: [0, 0, 8]}


def test_paths_go_to_the_engine_as_they_are_read() -> None:
    """Those of a step that runs alone, in calls of bounded size; in company each sequence is fed once, as ever."""
    cover = toy().vocabulary.cover(b"aba")
    nodes = list(dict.fromkeys((*cover.nodes, *cover.ending)))[:3]
    paths = Paths((2, 0), nodes)
    sequences = [(2, 0, *node.token_ids) for node in nodes]
    assert [*paths] == [paths[i] for i in range(len(paths))] == sequences
    assert [*paths[1:]] == sequences[1:]

    def asking(asked: Sequence[tuple[int, ...]]) -> Step[list[float]]:
        rows = yield Request(asked)
        return [float(row[0] - row[1]) for row in rows]

    alone, beside = Echo(counted=True), Echo()
    (outcome,) = Scheduler(alone, max_rows=2).run([asking(paths)])
    assert [len(batch) for batch in alone.batches] == [2, 1]
    assert [sequence for batch in alone.batches for sequence in batch] == sequences
    assert outcome.result == [sum(sequence) - 1.0 for sequence in sequences]
    assert (outcome.usage.calls, outcome.usage.tokens_fed, outcome.usage.rows) == (4, 30, 3)

    both = [*Scheduler(beside).run([asking(paths), asking(tuple(reversed(sequences)))])]
    assert beside.batches == [sequences]
    assert both[0].result == outcome.result == both[1].result[::-1]


def test_a_step_that_needs_nothing_is_not_held_up() -> None:
    """Steps end in the order in which they can, and one that asks for nothing ends before any call."""
    model = Echo()
    order = []

    for outcome in Scheduler(model).run([asks([(1,)], [(2,)]), asks(), asks([], [(3,)], []), asks([])]):
        order.append((outcome.index, len(model.batches)))

    assert order == [(1, 0), (3, 0), (2, 1), (0, 2)]


@pytest.mark.parametrize("max_rows", [1, 2, 64])
def test_results_do_not_depend_on_the_size_of_calls(max_rows: int) -> None:
    """A call holds at most max_rows sequences; the rows are the same."""
    model = Echo()
    steps = [asks([(i,), (i, i)], [(i + 1,)]) for i in range(5)]

    results = {outcome.index: outcome.result for outcome in Scheduler(model, max_rows=max_rows).run(steps)}

    assert results == {i: [i - 1, 2 * i - 1, i] for i in range(5)}
    assert max(map(len, model.batches)) <= max_rows


def test_only_so_many_jobs_are_under_way() -> None:
    """A step begins when there is room for it, and results are the same."""
    begun: list[int] = []
    model = Echo()

    def step(i: int) -> Step[int]:
        begun.append(i)
        yield Request(((i,),))
        yield Request(((i, i),))
        return len(begun)

    outcomes = list(Scheduler(model, max_jobs=2).run([step(i) for i in range(5)]))

    assert begun == [0, 1, 2, 3, 4]
    assert [outcome.result for outcome in outcomes] == [2, 2, 4, 4, 5]
    assert max(map(len, model.batches)) == 2
    assert len(model.batches) == 6


def test_calls_and_tokens_are_counted_by_job() -> None:
    """A job counts the calls it took part in; the tokens of a call are shared out by who asked first."""
    model = Echo(counted=True)
    steps = [asks([(1,), (2,)]), asks([(1,)]), asks([(1,), (3,)], [(4,)])]

    usages = {outcome.index: outcome.usage for outcome in Scheduler(model).run(steps)}

    assert [usages[i].calls for i in range(3)] == [2, 2, 4]
    assert [usages[i].tokens_fed for i in range(3)] == [20, 0, 20]
    assert [usages[i].rows for i in range(3)] == [2, 0, 2]
    assert sum(usages[i].tokens_fed or 0 for i in range(3)) == model.usage.tokens_fed


def test_an_engine_that_does_not_count_is_counted() -> None:
    """Without counters each batch is a call, and the tokens fed are unknown."""
    outcome = Scheduler(Echo()).run_one(asks([(1,)], [(2,)]))

    assert (outcome.usage.calls, outcome.usage.tokens_fed) == (2, None)


def test_what_was_finished_is_kept_when_a_call_fails() -> None:
    """The error of a call rises where the results are consumed, after those that were ready."""
    model = Echo(fails_at=2)
    finished = []

    with pytest.raises(InvalidLogitsError, match="NaN"):
        for outcome in Scheduler(model).run([asks([(1,)]), asks([(1,)], [(2,)]), asks([(3,)])]):
            finished.append(outcome.index)

    assert finished == [0, 2]


def test_steps_are_closed_when_a_run_is_abandoned() -> None:
    """A consumer that stops early leaves no step hanging."""
    closed = []

    def step() -> Step[None]:
        try:
            yield Request(((1,),))
        except GeneratorExit:
            closed.append(True)
            raise

    for _ in (run := Scheduler(Echo()).run([asks([(1,)]), step(), step()])):
        break
    run.close()  # type: ignore[attr-defined]

    assert closed == [True, True]


def test_a_call_is_bounded_in_bytes() -> None:
    """The default batch holds 64 MiB of float32 rows, and at least one row."""
    assert rows_in(49152) * 49152 * 4 <= 64 * 2**20 < (rows_in(49152) + 1) * 49152 * 4
    assert rows_in(2**30) == 1
    Scheduler(model := Echo()).run_one(asks([(i,) for i in range(513)]))
    assert [len(batch) for batch in model.batches] == [512, 1]


def test_a_bar_follows_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is shown if it is asked for: jobs that ended count whole, those under way by what they say of themselves."""
    told: list[object] = []

    class Watched(Bar):
        def __init__(self, label: str, total: float, *, shown: bool) -> None:
            super().__init__(label, total, shown=False)
            told.append((label, total, shown))

        def step(self, label: str, done: float = 0.0, total: float | None = None) -> None:
            told.append(done)

        def close(self) -> None:
            told.append("closed")

    def step() -> Step[None]:
        for k in range(4):
            yield Request(((k,),), done=k / 4)

    monkeypatch.setattr("bytelm.inference.scheduler.Bar", Watched)
    for progress in (True, False):
        told.clear()

        list(Scheduler(Echo()).run([step(), asks([(1,)], [(2,)])], label="working", progress=progress))

        assert told == [("working", 2, progress), 0.0, 0.25, 1.5, 1.75, "closed"]


def test_steps_side_by_side_are_one_call_of_each_engine() -> None:
    """Each step is told its own rows, whichever ends first; a round asks every engine once."""
    engines = [Echo(), Echo()]

    def both(i: int) -> Step[list[list[float]]]:
        steps = [on(engines[0], asks([(i,), (i, 2)], [(3,)])), on(engines[1], asks([(i, 1)])), on(engines[0], asks())]
        return (yield from together(steps))

    outcomes = {outcome.index: outcome for outcome in Scheduler(engines[0]).run([both(1), both(2)])}

    for index, i in enumerate((1, 2)):
        expected = [Scheduler(Echo()).run_one(asks(*r)).result for r in ([[(i,), (i, 2)], [(3,)]], [[(i, 1)]], [])]
        assert outcomes[index].result == expected
        assert outcomes[index].usage.calls == 3
    assert [len(engine.batches) for engine in engines] == [2, 1]


def test_an_error_says_whose_engine_it_was() -> None:
    """Where engines have names the message begins with the one that failed."""
    broken = Echo(fails_at=1)

    with pytest.raises(InvalidLogitsError, match="the second: row 0"):
        Scheduler(Echo(), names={id(broken): "the second"}).run_one(on(broken, asks([(1,)])))
