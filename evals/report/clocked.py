"""What a piece of work takes of the engines: model calls, tokens fed, time.

Rules
    Work is measured from empty caches: no method uses rows that another has computed.
    Calls and tokens are those that the engines count themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bytelm.token_lm import abilities_of


@dataclass(slots=True)
class Used:
    """What a block took of some engines.

    Attributes:
        calls: Forward passes.
        fed: Tokens run through the models.
        seconds: Wall time.
    """

    calls: int = 0
    fed: int = 0
    seconds: float = 0.0


@contextmanager
def metered(engines: Iterable[Any]) -> Iterator[Used]:
    """Empty the engines' caches, and tell at the end of the block what it took of them."""
    own = list({id(engine): engine for engine in engines}.values())
    for engine in own:
        forget(engine)
    before = [(usage, usage.copy()) for engine in own if (usage := abilities_of(engine).usage) is not None]
    used, start = Used(), time.perf_counter()
    yield used
    used.seconds = time.perf_counter() - start
    spent = [usage.since(earlier) for usage, earlier in before]
    used.calls, used.fed = sum(each.calls for each in spent), sum(each.tokens_fed for each in spent)


def forget(engine: Any) -> None:
    """Empty an engine's cache, if it has one."""
    if hasattr(engine, "clear_cache"):
        engine.clear_cache()


class Clocked:
    """A TokenLM that returns the rows of another, and notes how long they took and when.

    Attributes:
        inner: The other.
        cpu_seconds: CPU time of this thread inside it, in total.
        ended: When each of its calls ended, since `restart`, on the clock of `time.perf_counter`.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids
        self.context_length = abilities_of(inner).context_length
        self.cpu_seconds = 0.0
        self.ended: list[float] = []

    @property
    def usage(self) -> Any:
        """The counters of the other."""
        return self.inner.usage

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float[np.ndarray, "n vocab"]:
        """The rows of the other."""
        own = time.thread_time()
        rows: Float[np.ndarray, "n vocab"] = self.inner.next_token_logprobs(sequences)
        self.cpu_seconds += time.thread_time() - own
        self.ended.append(time.perf_counter())
        return rows

    def restart(self) -> None:
        """Forget when calls ended, and empty the other's cache."""
        self.ended.clear()
        forget(self.inner)
