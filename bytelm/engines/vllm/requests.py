"""Requests to a vLLM engine in this process: many at a time, each told of as it goes, none left behind.

Rules
    vLLM goes on by steps, and a step is one for all requests under way. Whoever makes a step lets everyone be told what
    is new of theirs: rows that are asked for while tokens are drawn come out of the same steps. So does whoever waits
    for the workers.
    What is asked for while nothing is under way begins together, with the next step.
    What vLLM raises is an error of bytelm's; the requests of the block that it rises from are taken out of the batch.
    A process of vLLM's that was killed from outside ends the call that waits for it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

from bytelm.engines.vllm.process import ask, hold, watched
from bytelm.errors import BytelmError, ModelError, OutOfMemoryError
from bytelm.token_lm import Usage

Told: TypeAlias = Callable[[Any], bool]


@dataclass(slots=True)
class _Asked:
    """A request: among which, what it asks for, and who is told of it and says whether it goes on."""

    running: set[str]
    sequence: list[int]
    params: Any
    told: Told
    as_arrays: bool
    fresh: bool = True  # nothing was said of it yet


class Requests:
    """The requests of one engine; one thread at a time.

    Args:
        engine: vLLM's ``LLMEngine``.
        usage: Steps and tokens fed are counted here.
        call: Asks all workers, and waits: vLLM's ``LLM.collective_rpc``.
        ours: Whether the workers know what bytelm asks for (worker.py).
    """

    def __init__(self, engine: Any, usage: Usage, call: Callable[..., list[Any]], *, ours: bool) -> None:
        self._engine = engine
        self._usage = usage
        self._call = call
        self._ours = ours
        self._numbers = itertools.count()
        self._asked: dict[str, _Asked] = {}
        self._held: list[str] = []  # not given to vLLM yet

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
        idle = not self._under_way
        self._asked[name] = _Asked(running, list(sequence), params, told, as_arrays)
        running.add(name)
        self._held.append(name)
        if not idle:
            self._give()

    @property
    def _under_way(self) -> bool:
        return len(self._asked) > len(self._held)

    def _give(self) -> None:
        """Give to vLLM what it was not given yet."""
        if self._ours and not self._under_way:
            hold(self._engine.engine_core, len(self._held))
        while self._held:
            asked, name = self._asked[self._held[0]], self._held[0]
            inner = self._engine.add_request(name, {"type": "token", "prompt_token_ids": asked.sequence}, asked.params)
            del self._held[0]
            if asked.as_arrays:
                with contextlib.suppress(AttributeError, KeyError):  # where vLLM is built otherwise: only slower
                    keep_arrays(self._engine.output_processor.request_states[inner].logprobs_processor)

    def step(self) -> None:
        """One step of vLLM for all requests under way: each is told what is new of it."""
        self._give()
        outputs = self._engine.step()
        self._usage.calls += bool(outputs)  # without, it was an answer of the workers
        for output in outputs:
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
        given = [name for name in dropped if name not in self._held]
        self._held = [name for name in self._held if name not in names]
        for name in dropped:
            self._asked.pop(name).running.discard(name)
        if given:
            self._engine.abort_request(given)

    def ask_workers(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        """What all workers answer; those under way are told what is new of them meanwhile."""
        under_way = self._under_way
        answer = ask(self._engine.engine_core, method, args, wakes=under_way)
        if answer is None:
            return self._call(method, args=args)
        while under_way and not answer.done():
            self.step()
        answers: list[Any] = answer.result()
        return answers


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
