"""Requests to a vLLM engine in this process: many at a time, each told of as it goes, none left behind.

Rules
    vLLM goes on by steps, and a step is one for all requests under way. Whoever makes a step lets everyone be told what
    is new of theirs: rows that are asked for while tokens are drawn come out of the same steps.
    What vLLM raises is an error of bytelm's; the requests of the block that it rises from are taken out of the batch.

vLLM's own processes
    vLLM goes on by itself, step after step, while this process does something else.
    It begins a step as soon as it has one request; those that are given to it right after wait for the next step. So
    what is asked for while nothing is under way is given to it while it sleeps (``LLM.sleep``, level 0).
    It answers a call to its workers between two steps. So when the answer is here, a step has been made, and the others
    are told of it before anything else is asked.
    It may be killed from outside, and then vLLM waits for its answer for ever. So a thread waits for vLLM, and who
    waits for the thread looks whether vLLM's processes still run.

Interfaces
    vLLM's public ones: ``LLM``, its ``llm_engine`` (an ``LLMEngine``), and their methods.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeAlias

from bytelm.errors import BytelmError, ModelError, OutOfMemoryError
from bytelm.token_lm import Usage

Told: TypeAlias = Callable[[Any], bool]

WATCH_S: Final = 1.0


@dataclass(slots=True)
class _Asked:
    """A request: among which, what it asks for, and who is told of it and says whether it goes on."""

    running: set[str]
    sequence: list[int]
    params: Any
    told: Told
    fresh: bool = True  # nothing was said of it yet


class EngineDeadError(Exception):
    """A process of vLLM's was killed."""


class Requests:
    """The requests of one engine; one thread at a time.

    Args:
        llm: vLLM's ``LLM``.
        usage: Steps and tokens fed are counted here.
        processes: vLLM's own; none if it runs in this process.
    """

    def __init__(self, llm: Any, usage: Usage, processes: Sequence[BaseProcess] = ()) -> None:
        self._llm = llm
        self._engine: Any = llm.llm_engine
        self._usage = usage
        self._processes = processes
        self._numbers = itertools.count()
        self._asked: dict[str, _Asked] = {}
        self._held: list[str] = []  # not given to vLLM yet
        self._stepping: Future[Any] | None = None  # a step that was begun; still there after an interrupt

    @contextlib.contextmanager
    def together(self) -> Iterator[set[str]]:
        """The ids of the requests made here that are under way; those of a block inside another go on beside its own.

        None is left behind, and what vLLM raises is an error of bytelm's.
        """
        running: set[str] = set()
        try:
            yield running
        except BaseException as error:
            count = len(running)
            with contextlib.suppress(Exception):
                self.drop(running)
            if isinstance(error, BytelmError) or not isinstance(error, Exception):
                raise
            raise explained(error, f"vLLM failed on {count} sequence(s)") from error

    def add(self, running: set[str], sequence: Sequence[int], params: Any, told: Told) -> None:
        """Ask for what follows a sequence.

        Args:
            running: The block's requests.
            sequence: Token ids.
            params: vLLM's ``SamplingParams``.
            told: Called with each of vLLM's outputs of it; where it returns False, the request is dropped.
        """
        name = str(next(self._numbers))
        idle = not self.under_way
        self._asked[name] = _Asked(running, list(sequence), params, told)
        running.add(name)
        self._held.append(name)
        if not idle:
            self._give()

    @property
    def under_way(self) -> bool:
        """Whether vLLM has requests that are not done with."""
        return len(self._asked) > len(self._held)

    def _give(self) -> None:
        """Give to vLLM what it was not given yet; if it has nothing to do, all at once."""
        together = bool(self._processes) and len(self._held) > 1 and not self.under_way
        with self._asleep() if together else contextlib.nullcontext():
            while self._held:
                name = self._held[0]
                asked = self._asked[name]
                self._engine.add_request(name, {"type": "token", "prompt_token_ids": asked.sequence}, asked.params)
                del self._held[0]

    @contextlib.contextmanager
    def _asleep(self) -> Iterator[None]:
        """Keep vLLM, which has nothing to do, from beginning a step."""
        try:
            self.call(self._llm.sleep, level=0, mode="keep")
            yield
        finally:
            self.call(self._llm.wake_up, tags=["scheduling"])

    def step(self) -> None:
        """One step of vLLM for all requests under way: each is told what is new of it."""
        self._give()
        self._stepping = self._stepping or self._begun(self._engine.step)
        try:
            outputs = self._outcome(self._stepping)
        finally:
            if self._stepping.done():
                self._stepping = None
        self._usage.calls += bool(outputs)
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
                raise ModelError(f"vLLM stopped a sequence ({reason}); its log says why")
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
        """What all workers answer; those under way are told of the step that was made meanwhile."""
        behind = bool(self._processes) and self.under_way
        answers: list[Any] = self.call(self._llm.collective_rpc, method, args=args)
        if behind:
            self.step()
        return answers

    def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a method of vLLM's returns.

        Raises:
            EngineDeadError: A process of vLLM's was killed meanwhile.
        """
        return self._outcome(self._begun(method, *args, **options))

    def _begun(self, method: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """A call to vLLM, begun in a thread that nobody waits for when the program ends."""
        answer = Future[Any]()

        def ask() -> None:
            try:
                answer.set_result(method(*args, **options))
            except BaseException as error:  # noqa: BLE001 - which is raised where it is waited for
                answer.set_exception(error)

        if self._processes:
            threading.Thread(target=ask, daemon=True).start()
        else:
            ask()
        return answer

    def _outcome(self, answer: Future[Any]) -> Any:
        while not wait([answer], WATCH_S).done:
            if not all(process.is_alive() for process in self._processes):
                raise EngineDeadError("the process was killed")
        return answer.result()


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
            "environment variable VLLM_CPU_KVCACHE_SPACE), or split the model with tensor_parallel_size"
        )
    return ModelError(told)
