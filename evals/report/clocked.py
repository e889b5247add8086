"""An engine that notes how long it took and when, for the evaluations that tell what a method costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


class Clocked:
    """A TokenLM that answers with the rows of another.

    Attributes:
        inner: The other.
        cpu_seconds: CPU time of this thread inside it, in all.
        ended: When each of its calls ended, since `restart`, as `time.perf_counter` tells.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids
        self.context_length = getattr(inner, "context_length", None)
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
        """Forget when calls ended, and have the other forget its cache."""
        self.ended.clear()
        if hasattr(self.inner, "clear_cache"):
            self.inner.clear_cache()
