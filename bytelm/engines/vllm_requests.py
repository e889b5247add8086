"""Requests to a vLLM engine in this process: many at a time, each told of as it goes, none left behind.

Rules
    vLLM goes on by steps, and a step is one for all requests under way. Whoever makes a step lets everyone be told what
    is new of theirs: rows that are asked for while tokens are drawn come out of the same steps.
    What vLLM raises is an error of bytelm's; the requests of the block that it rises from are taken out of the batch.
    A process of vLLM's that was killed from outside ends the call that waits for it (`watched`).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

from bytelm.errors import BytelmError, ModelError, OutOfMemoryError
from bytelm.token_lm import Usage

WATCH_S: Final = 1.0

Told: TypeAlias = Callable[[Any], bool]


@dataclass(slots=True)
class _Asked:
    """A request under way: among which, and who is told of it and says whether it goes on."""

    running: set[str]
    told: Told
    fresh: bool = True  # nothing was said of it yet


class Requests:
    """The requests of one engine; one thread at a time.

    Args:
        engine: vLLM's ``LLMEngine``.
        usage: Steps and tokens fed are counted here.
    """

    def __init__(self, engine: Any, usage: Usage) -> None:
        self._engine = engine
        self._usage = usage
        self._numbers = itertools.count()
        self._asked: dict[str, _Asked] = {}

    @contextlib.contextmanager
    def together(self) -> Iterator[set[str]]:
        """The ids of the requests made here that are under way; those of a block inside another go on beside its own.

        None is left behind, and what vLLM raises is an error of bytelm's.
        """
        running: set[str] = set()
        try:
            with watched(self._engine.engine_core):
                yield running
        except BaseException as error:
            count = len(running)
            with contextlib.suppress(Exception):
                self.drop(running)
            if isinstance(error, BytelmError) or not isinstance(error, Exception):
                raise
            raise explained(error, f"vLLM failed on {count} sequence(s)") from error

    def add(
        self, running: set[str], sequence: Sequence[int], params: Any, told: Told, *, as_arrays: bool = False
    ) -> None:
        """Ask for what follows a sequence.

        Args:
            running: The block's requests.
            sequence: Token ids.
            params: vLLM's ``SamplingParams``.
            told: Called with each of vLLM's outputs of it; where it returns False, the request is dropped.
            as_arrays: Whether log-probabilities stay arrays (`keep_arrays`).
        """
        name = str(next(self._numbers))
        prompt = {"type": "token", "prompt_token_ids": list(sequence)}
        inner = self._engine.add_request(name, prompt, params)
        self._asked[name] = _Asked(running, told)
        running.add(name)
        if as_arrays:
            with contextlib.suppress(AttributeError, KeyError):  # where vLLM is built otherwise: only slower
                keep_arrays(self._engine.output_processor.request_states[inner].logprobs_processor)

    def step(self) -> None:
        """One step of vLLM for all requests under way: each is told what is new of it."""
        self._usage.calls += 1
        for output in self._engine.step():
            name, asked = output.request_id, self._asked.get(output.request_id)
            if asked is None:
                continue
            drawn, reason = output.outputs[0].token_ids, output.outputs[0].finish_reason
            self._usage.tokens_fed += len(drawn)
            if asked.fresh:
                asked.fresh = False
                self._usage.tokens_fed += len(output.prompt_token_ids) - (output.num_cached_tokens or 0) - 1
            if output.finished and reason not in ("length", "stop"):
                raise ModelError(f"vLLM gave a sequence up ({reason}); its log says why")
            goes_on = asked.told(output)
            if output.finished:
                del self._asked[name]
                asked.running.discard(name)
            elif not goes_on:
                self.drop({name})

    def drop(self, names: set[str]) -> None:
        """Take requests out of the batch."""
        dropped = list(names)
        for name in dropped:
            self._asked.pop(name).running.discard(name)
        self._engine.abort_request(dropped)


@contextlib.contextmanager
def watched(core: Any) -> Iterator[None]:
    """Let a call end where vLLM's process was killed from outside: vLLM would wait for its answer for ever.

    Args:
        core: What speaks with that process; without one, there is nothing to watch.
    """
    answers, resources = getattr(core, "outputs_queue", None), getattr(core, "resources", None)
    if answers is None or resources is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_S):
            if resources.engine_dead:
                dead = RuntimeError("the process was killed")
                answers.put(dead)  # which vLLM turns into an EngineDeadError
                for answer in [*getattr(core, "utility_results", {}).values()]:  # calls to the workers wait for these
                    with contextlib.suppress(InvalidStateError):
                        answer.set_exception(dead)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def keep_arrays(processor: Any) -> None:
    """Let what vLLM's process sends of one request's log-probabilities stay arrays; it would make Python lists of them.

    Args:
        processor: vLLM's, of one request.

    Raises:
        AttributeError: It is not built as it was.
    """
    usual = processor._update_sample_logprobs  # noqa: SLF001 - there is no public way

    def keep(lists: Any) -> None:
        if len(lists[0]) == 1:
            processor.logprobs = SimpleNamespace(token_ids=lists[0][0], logprobs=lists[1][0])
        else:
            usual(lists)

    processor._update_sample_logprobs = keep  # noqa: SLF001


_NO_MEMORY: Final = ("out of memory", "no available memory", "not enough memory", "cannot allocate memory")


def explained(error: Exception, what: str) -> ModelError:
    """What vLLM raised, as an error of bytelm's."""
    said = str(error).strip()[:500]
    told = f"{what}: {type(error).__name__}: {said}"
    if "Dead" in type(error).__name__:
        return ModelError(f"{told}; its process has ended, and its log says why: load the model anew")
    if isinstance(error, MemoryError) or any(words in said.lower() for words in _NO_MEMORY):
        return OutOfMemoryError(
            f"{told}; give a lower max_model_len or max_num_seqs, a higher gpu_memory_utilization (on a CPU: the "
            "environment variable VLLM_CPU_KVCACHE_SPACE), or share the model out with tensor_parallel_size"
        )
    return ModelError(told)
