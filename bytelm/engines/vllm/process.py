"""vLLM's own process, where it has one: it goes on by itself, step after step, while this one does something else.

Rules
    It begins a step as soon as it has a request, and the others that are given to it right after wait for the next one.
    So what is to begin together is announced (`hold`): its workers wait until all of it is there.
    It answers between two steps. Who waits for an answer learns of nothing else meanwhile, and what is then said of the
    steps is a step late. So it is asked without waiting (`ask`); the answer wakes who waits for a step.
    It may be killed from outside (`watched`).

Interfaces
    vLLM's own calls wait for their answers, and there is no public way around that. Where vLLM is built otherwise than
    this module takes it to be, or lives in this process, nothing is held and nothing asked: that is only slower.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

WATCH_S: Final = 1.0
GIVEN_S: Final = 5e-4  # in which a request is given to vLLM, and some more
WAIT: Final = "bytelm_wait"  # of worker.py


def ask(core: Any, method: str, arguments: tuple[Any, ...], *, wakes: bool) -> Future[Any] | None:
    """Ask all workers for something, without waiting.

    Args:
        core: What speaks with vLLM's process, its ``EngineCoreClient``.
        method: Of the workers.
        arguments: Its arguments.
        wakes: Whether someone will wait for a step meanwhile: with the answer vLLM's ``step`` returns, if need be with
            no outputs.

    Returns:
        The list of their answers, to come; None where there is no such way.
    """
    try:
        from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequestType

        answers, outputs, send = core.utility_results, core.outputs_queue, core._send_input  # noqa: SLF001
    except (ImportError, AttributeError):
        return None
    number = uuid.uuid1().int >> 64  # as vLLM numbers its own calls
    answer = answers[number] = Future[Any]()
    if wakes:
        answer.add_done_callback(lambda _: outputs.put_nowait(EngineCoreOutputs()))
    send(EngineCoreRequestType.UTILITY, (0, number, "collective_rpc", (method, None, arguments, {})))
    return answer


def hold(core: Any, count: int) -> None:
    """Keep an idle vLLM from its next step while some requests are given to it."""
    if count > 1:
        ask(core, WAIT, (count * GIVEN_S,), wakes=False)


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
