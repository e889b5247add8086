"""A stand-in for vLLM over a toy model: what the engine imports of it, and an engine on it."""

from __future__ import annotations

import multiprocessing
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bytelm import TableLM
from bytelm.engines.vllm.engine import VllmLM
from bytelm.engines.vllm.kept_rows import RowServer
from bytelm.engines.vllm.rows import REQUEST
from tests.support.tiny import default_tokenizer

LONGEST = 60  # max_model_len


class EngineDeadError(Exception):
    """As vLLM's."""


class SamplingParams(SimpleNamespace):
    """What is asked for."""


class Engine:
    """A stand-in for `LLMEngine` over a toy model: a token of each request a step.

    Attributes:
        requests: Those under way.
        asked: What was asked for so far.
        dropped: The names of requests that were taken out.
        raises: Raised by the next steps.
        reason: Why a sequence ends, if not by its length.
        ended: Whether it was shut down.
        extra: Added to every log-probability.
        kept: Rows that a worker keeps, by a request's name and the tokens drawn before.
        own_process: Whether it goes on by itself: it makes a step while its workers are asked, which is told later.
        asleep: Whether it was told to wait.
        begun: How many requests it had each time that it began to work.
        steps: How many steps it made.
    """

    def __init__(self) -> None:
        self.model = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, vocab_size=313)
        self.requests: dict[str, Any] = {}
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.dropped: list[str] = []
        self.raises: Exception | None = None
        self.reason: str | None = None
        self.ended = False
        self.engine_core = SimpleNamespace(shutdown=self.end)
        self.extra = 0.0
        self.kept: dict[tuple[str, int], bytes] = {}
        self.own_process = False
        self.asleep = False
        self.begun: list[int] = []
        self.steps = 0
        self._untold: list[list[Any]] = []

    def add_request(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        assert prompt["type"] == "token"
        assert len(prompt["prompt_token_ids"]) < LONGEST
        self.asked.append((prompt["prompt_token_ids"], params))
        if not self.requests and not self.asleep:
            self.begun.append(1)
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
        if self._untold:
            return self._untold.pop(0)
        return self._step()

    def answers(self, answers: list[Any]) -> list[Any]:
        """What a worker says, between two steps."""
        if self.own_process and self.requests:
            self._untold.append(self._step())
        return answers

    def _step(self) -> list[Any]:
        assert self.requests  # the real one would wait for ever
        assert not self.asleep
        self.steps += 1
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
        asked = params.__dict__.get("logprobs")
        if asked == -1:
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
            logprobs = None if asked is None else [{token: SimpleNamespace(logprob=float(row[token]))}]
        request.ids.append(token)
        request.drawn += 1
        stopped = token in params.__dict__.get("stop_token_ids", ())
        finished = stopped or request.drawn == params.max_tokens
        if finished:
            del self.requests[name]
        return SimpleNamespace(
            request_id=name,
            finished=finished,
            prompt_token_ids=request.ids[:prompt_length],
            num_cached_tokens=None,
            outputs=[
                SimpleNamespace(
                    token_ids=[token],
                    logprobs=logprobs,
                    finish_reason=(self.reason or ("stop" if stopped else "length")) if finished else None,
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
        self.fetches = 0
        self.row_server = RowServer()
        self.asked: list[str] = []
        self.model_config = SimpleNamespace(
            get_vocab_size=lambda: self.llm_engine.model.vocab_size,
            max_model_len=LONGEST,
            try_get_generation_config=lambda: {"eos_token_id": [0, 311]},
            hf_config=SimpleNamespace(eos_token_id=312),
        )

    def reset_prefix_cache(self) -> bool:
        """Nothing is kept."""
        return True

    def sleep(self, *, level: int, mode: str) -> None:
        """Wait, with what there is."""
        assert (level, mode, self.llm_engine.requests) == (0, "keep", {})
        self.llm_engine.asleep = True

    def wake_up(self, *, tags: list[str]) -> bool:
        """Begin with what has come."""
        assert tags == ["scheduling"]
        self.llm_engine.asleep = False
        self.llm_engine.begun.append(len(self.llm_engine.requests))
        return True

    def collective_rpc(self, method: str, *, args: tuple[Any, ...]) -> list[Any]:
        """Of two workers the second has the rows."""
        args = sent(args)
        engine, server = self.llm_engine, self.row_server
        if method == "bytelm_order":
            server.order(*args)
            return [None, None]
        if method == "bytelm_ask":
            name, question, more = args
            self.asked.append(question)
            return [None, engine.answers([server.answer(name, question, *more)])[0]]
        self.fetches += 1
        found = engine.answers([engine.kept.get((name, drawn)) for name, drawn in args[0]])
        if method == "bytelm_keep":
            _, names, asked, dropped = args
            server.drop(dropped)
            here = {name: data for name, data in zip(names, found, strict=True) if data is not None}
            if here:
                logits = torch.tensor(np.stack([np.frombuffer(data, np.float32) for data in here.values()]))
                here = dict(zip(here, server.rows([*here], logits, asked), strict=True))
            found = [here.get(name) for name in names]
        return [[None] * len(found), found]


def sent(value: Any) -> Any:
    """A value as it arrives in another process: vLLM sends texts, numbers, bytes and lists of them."""
    if isinstance(value, list | tuple):
        return [*map(sent, value)]
    assert type(value) in (str, int, float, bytes)
    return value


class Process:
    """A stand-in for what `multiprocessing` knows of a process of vLLM's."""

    name = "EngineCore"

    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive


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


def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in for the module `vllm` in the place of the real one, and return it."""
    module, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    stand_in: Any = module
    stand_in.LLM, stand_in.SamplingParams, stand_in.sampling_params = LLM, SamplingParams, params
    stand_in.platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    params.RequestOutputKind = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")  # type: ignore[attr-defined]
    for each in (module, params):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    monkeypatch.setattr(LLM, "made", [])
    return module


def engine(**options: Any) -> Any:
    """An engine; `Any`, as the tests look into the stand-in."""
    return VllmLM("toy", **{"tokenizer": default_tokenizer(), **options})


def engine_with_a_process(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, Process]:
    """An engine that has a process of its own, and that process."""
    process = Process()
    children: list[list[Any]] = [[process], []]
    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing, "active_children", children.pop)
        lm = engine(**options)
    lm.llm.llm_engine.own_process = True
    return lm, process
