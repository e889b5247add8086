"""What the vLLM engine asks vLLM for and makes of its answers, with a stand-in for vLLM. The real one: test_engine.py."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.engines.vllm.rows import REQUEST
from bytelm.errors import ContextOverflowError, InvalidArgumentError, InvalidLogitsError, ModelError, OutOfMemoryError
from bytelm.testing import check_engine
from bytelm.token_lm import Usage
from tests.engines.vllm.stand_in import (
    LONGEST,
    EngineDeadError,
    Forgetful,
    Mixed,
    engine,
    engine_with_a_process,
    install,
)
from tests.support.drawing import draw_all
from tests.support.tiny import default_tokenizer


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `vllm`, put in the place of the real one."""
    return install(monkeypatch)


@pytest.mark.parametrize("workers", ["keep", "forget", "mix up", "are not asked"])
def test_contract(workers: str) -> None:
    """The engine keeps the contract, whatever order the answers come in, and after a step that failed.

    So it does where the workers keep no rows, or others than they say: those are asked for in vLLM's own way.
    """
    lm = engine(row_bytes=20_000, **({"worker_extension_cls": "theirs"} if workers == "are not asked" else {}))
    lm.llm.llm_engine.kept = {"forget": Forgetful, "mix up": Mixed}.get(workers, dict)()

    def make() -> Any:
        lm.clear_cache()
        return lm

    @contextlib.contextmanager
    def failing(_: Any) -> Iterator[None]:
        lm.llm.llm_engine.raises = RuntimeError("a kernel failed")
        yield
        lm.llm.llm_engine.raises = None

    report = check_engine(make, tolerance=1e-5, failing=failing)

    assert not [finding for finding in report.findings if finding.skipped]
    assert lm.llm.llm_engine.requests == {}


@pytest.mark.parametrize("own", [False, True])
def test_all_sequences_are_in_vllm_at_once(*, own: bool) -> None:
    """A call's sequences are all given to vLLM before its first step, each once; known rows are not asked for."""
    lm = engine(**({"worker_extension_cls": "theirs"} if own else {}))
    lm.next_token_logprobs([(1,), (2, 3), (1,)])
    lm.next_token_logprobs([(2, 3), (1,)])

    asked = lm.llm.llm_engine.asked
    assert [ids for ids, _ in asked] == [[1], [2, 3]]
    assert {(p.max_tokens, p.detokenize, p.temperature) for _, p in asked} == {(1, False, 0.0)}
    if own:  # no worker of ours: vLLM tells the whole row
        assert {(p.logprobs, p.flat_logprobs) for _, p in asked} == {(-1, True)}
    else:
        assert {p.logprobs for _, p in asked} == {0}
        assert len({p.extra_args[REQUEST] for _, p in asked}) == 2
    assert lm.llm.fetches == (not own)
    assert (lm.usage.calls, lm.usage.tokens_fed) == (1, 3)


def test_rows_along_what_was_drawn_cost_nothing() -> None:
    """A row that a worker has from drawing is fetched, and not computed again; where it is gone, it is."""
    lm = engine()
    plain = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, vocab_size=313)
    (line,) = draw_all(lm, [(7, 8)], [1], max_tokens=12)
    ids = (7, 8, *(token for token, _ in line))
    sequences = [ids[:n] for n in range(2, len(ids))]
    spent = lm.usage.copy()

    rows = lm.next_token_logprobs(sequences)

    assert len(sequences) == 12
    assert np.abs(rows - plain.next_token_logprobs(sequences)).max() < 1e-5
    assert lm.usage.since(spent) == Usage()
    lm.next_token_logprobs([ids])  # nothing was drawn after it
    assert lm.usage.since(spent).tokens_fed == len(ids)
    lm.clear_cache()
    assert np.abs(lm.next_token_logprobs(sequences) - rows).max() < 1e-6
    assert lm.usage.since(spent).tokens_fed == len(ids) + sum(map(len, sequences))


@pytest.mark.parametrize("memory", [dict, Forgetful, Mixed])
def test_vllm_draws_completions(memory: type[dict[Any, Any]]) -> None:
    """Tokens are drawn by vLLM, each request from its own seed; what is done with leaves the batch at once."""
    lm = engine()
    lm.llm.llm_engine.kept = memory()
    plain = ByteLM(
        TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, eot_ids=(0, 311, 312), vocab_size=313)
    )
    prompts = ["the ", "return n", "the "]
    completions = ByteLM(lm).sample_batch(prompts, max_bytes=9, seed=1)

    for prompt, completion in zip(prompts, completions, strict=True):
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(plain.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-4)
    drawing = [params for _, params in lm.llm.llm_engine.asked if params.temperature]
    assert {(p.temperature, p.ignore_eos, p.detokenize, p.output_kind) for p in drawing} == {
        (1.0, True, False, "delta")
    }
    seeds = Counter(params.seed for params in drawing)
    assert len(seeds) >= 3
    assert max(seeds.values()) <= 2  # what is drawn on a guess, and again where it was wrong
    assert lm.llm.llm_engine.dropped
    assert lm.llm.llm_engine.requests == {}


def test_vllm_s_own_sampler_writes() -> None:
    """With level="token" vLLM is told the filters, the ends and the caller's options, and no log-probability is asked."""
    lm = engine()
    model = ByteLM(lm)
    options: dict[str, Any] = {"repetition_penalty": 1.2, "bad_words": ["x"]}
    params: Any = {"level": "token", "temperature": 0.7, "top_p": 0.9, "seed": 1, "engine_options": options}
    done = model.sample_batch(["the ", "return n", "the "], max_bytes=9, **params)
    again = model.sample_batch(["the ", "return n", "the "], max_bytes=9, **params)

    assert [c.bytes for c in done] == [c.bytes for c in again]
    assert {c.logprob for c in done} == {None}
    assert all(c.finish_reason == "eot" or len(c.bytes) == 9 for c in done)
    drawing = [params for _, params in lm.llm.llm_engine.asked if params.temperature]
    assert len(drawing) == 6
    for asked in drawing:
        told = dict(vars(asked))
        assert 0 <= told.pop("seed") < 2**63
        assert 0 < told.pop("max_tokens") <= 9
        assert told == {
            "temperature": 0.7,
            "top_p": 0.9,
            "stop_token_ids": [0, 311, 312],
            "ignore_eos": True,
            "detokenize": False,
            "output_kind": "delta",
            **options,
        }
    assert "".join(model.stream("the ", max_bytes=9, **params)) == done[0].text
    assert lm.llm.llm_engine.requests == {}
    with pytest.raises(InvalidArgumentError, match="detokenize is set by the engine"):
        model.sample("the ", level="token", engine_options={"detokenize": True})


@pytest.mark.parametrize(
    ("size", "count", "seeds", "own"), [(5, 24, 1, False), (5, 24, 1, True), (2, 4, 20, True), (3, 4, 20, True)]
)
def test_drawing_goes_on_while_rows_are_computed(size: int, count: int, seeds: int, *, own: bool) -> None:
    """Completions that end, or draw leak, ask for rows in the steps in which the others are drawn; none is lost.

    Of few and short ones the last may be drawn while another's rows are computed.
    """
    lm = engine(**({"worker_extension_cls": "theirs"} if own else {}))
    step, mixed = lm.llm.llm_engine.step, []

    def watched() -> Any:
        mixed.append({request.params.temperature for request in lm.llm.llm_engine.requests.values()})
        return step()

    lm.llm.llm_engine.step = watched
    plain = ByteLM(
        TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, eot_ids=(0, 311, 312), vocab_size=313)
    )
    prompts = ["the ", "return n"] * (count // 2)
    for seed in range(seeds):
        completions = ByteLM(lm).sample_batch(prompts, max_bytes=size, seed=seed)

        for prompt, completion in zip(prompts, completions, strict=True):
            ended = completion.finish_reason == "eot"
            assert completion.logprob == pytest.approx(
                plain.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-4
            )
        assert lm.llm.llm_engine.requests == {}
    assert {0.0, 1.0} in mixed


def test_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins together begins in one step; who asked the workers is told of the step meanwhile; texts are the same."""
    alone = engine()
    lm, _ = engine_with_a_process(monkeypatch)
    vllm = lm.llm.llm_engine
    prompts = ["the ", "return n"] * 6
    completions = ByteLM(lm).sample_batch(prompts, max_bytes=6, seed=2)

    assert [c.bytes for c in completions] == [c.bytes for c in ByteLM(alone).sample_batch(prompts, max_bytes=6, seed=2)]
    assert sum(c.usage.redrawn for c in completions) > 3
    assert lm.usage.calls == vllm.steps
    assert vllm.begun[0] == 7  # six draws, and the row that the six others wait for; then others are under way
    assert min(vllm.begun) >= 1
    assert alone.llm.llm_engine.begun[0] == 1  # where vLLM waits for its caller, nothing has to be held
    vllm.begun.clear()
    lm.next_token_logprobs([(1, 2, 3)])
    lm.next_token_logprobs([(4,), (5, 6), (7,)])
    assert vllm.begun == [1, 3]
    theirs, _ = engine_with_a_process(monkeypatch, worker_extension_cls="theirs")
    assert ByteLM(theirs).sample_batch(prompts, max_bytes=6, seed=2)[0].bytes == completions[0].bytes
    assert theirs.llm.fetches == 0  # the workers know nothing of bytelm's


def test_an_interrupt_loses_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while vLLM makes a step: what is asked for after it is answered, from the steps that follow."""
    lm, _ = engine_with_a_process(monkeypatch)
    expected = engine().next_token_logprobs([(1,), (2,)])
    awake = threading.Event()
    step, wake_up = lm.llm.llm_engine.step, lm.llm.wake_up

    def late() -> Any:
        awake.wait(10)
        return step()

    def woken(**options: Any) -> None:
        wake_up(**options)
        awake.set()

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lm.llm.llm_engine, "step", late)
        patched.setattr("bytelm.engines.vllm.requests.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lm.next_token_logprobs([(1,)])
    assert lm.llm.llm_engine.requests == {}
    monkeypatch.setattr(lm.llm, "wake_up", woken)
    assert np.array_equal(lm.next_token_logprobs([(1,), (2,)]), expected)


def test_the_end_of_the_context() -> None:
    """What vLLM has no room for is refused here; a completion that comes to the end is an error, the others' end first."""
    lm = engine()
    taken: list[list[Any]] = []

    assert lm.context_length == LONGEST - 1
    with pytest.raises(ContextOverflowError, match="max_model_len"):
        lm.next_token_logprobs([range(LONGEST)])
    with pytest.raises(ContextOverflowError, match="max_model_len"):
        draw_all(lm, [range(LONGEST - 3), (5,)], [1, 2], max_tokens=30, count=20, found=taken)
    assert [len(line) for line in taken] == [3, 20]
    taken.clear()
    with pytest.raises(ContextOverflowError, match="max_model_len"):  # no room at all
        draw_all(lm, [range(LONGEST), (5,)], [1, 2], max_tokens=30, count=20, found=taken)
    assert [len(line) for line in taken] == [0, 20]
    with pytest.raises(ContextOverflowError, match="max_model_len"):
        draw_all(lm, [range(LONGEST)], [1], max_tokens=30)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (EngineDeadError("EngineCore encountered an issue"), ModelError, "its process has ended.*load the model anew"),
        (RuntimeError("CUDA out of memory"), OutOfMemoryError, "gpu_memory_utilization"),
        (RuntimeError("a kernel failed"), ModelError, "vLLM failed on . sequence.*RuntimeError: a kernel failed"),
    ],
)
def test_what_vllm_raises(error: Exception, kind: type[Exception], words: str) -> None:
    """An error of vLLM's is one of bytelm's that says what to do, and no request is left behind."""
    lm = engine()
    lm.llm.llm_engine.raises = error

    with pytest.raises(kind, match=words) as caught:
        ByteLM(lm).sample_batch(["the ", "a"], max_bytes=5)

    assert caught.value.finished == {}  # type: ignore[attr-defined]
    assert lm.llm.llm_engine.requests == {}
    lm.llm.llm_engine.raises, lm.llm.llm_engine.reason = None, "abort"
    with pytest.raises(ModelError, match=r"stopped a sequence \(abort\)"):
        lm.next_token_logprobs([(1,)])


@pytest.mark.parametrize("waits", ["step", "rows"])
def test_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch, waits: str) -> None:
    """Where vLLM's process is killed from outside and vLLM waits for its answer for ever, the call ends all the same.

    So it does where what vLLM waits for is an answer of its workers.
    """
    monkeypatch.setattr("bytelm.engines.vllm.requests.WATCH_S", 0.01)
    lm, process = engine_with_a_process(monkeypatch)
    ever = threading.Event()

    def call(*_: Any, **__: Any) -> None:
        process.alive = False
        ever.wait(10)

    lm.next_token_logprobs([(1,)])
    monkeypatch.setattr(*((lm.llm.llm_engine, "step", call) if waits == "step" else (lm.llm, "collective_rpc", call)))
    with pytest.raises(ModelError, match=r"killed; its process has ended, .* load the model anew"):
        lm.next_token_logprobs([(2,)])
    ever.set()


def test_rows_that_are_none() -> None:
    """What does not sum to 1 is no row."""
    lm = engine()
    lm.llm.llm_engine.extra = 0.5

    with pytest.raises(InvalidLogitsError, match="not to 1"):
        lm.next_token_logprobs([(1,)])
