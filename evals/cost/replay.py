"""A model that costs nothing: the rows of a real one, recorded once and replayed.

Rules
    A row is computed by the real engine where it was never asked for before, and is kept from then on. So the first run
    of some work records, and the next one replays: it asks for the same rows.
    `Replayed` notes the CPU time that its calls took. What a run takes beside it is the cost of the byte layer alone.
    Rows can be kept in a folder, for another process: float32, one after the other, as the engine gave them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from bytelm.token_lm import abilities_of

ROWS: Final = "rows.f32"
KEYS: Final = "sequences.json"


class Replayed:
    """A TokenLM that gives the rows of another, from memory where they were asked for before.

    Args:
        inner: The other.
        warmth: Its rows are divided by this and normalised: another model on the same engine.

    Attributes:
        cpu_seconds: CPU time of this thread within its calls.
        calls: How often it was called.
        asked: How many rows it was asked for.
    """

    def __init__(self, inner: Any, *, warmth: float = 1.0) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids
        able = abilities_of(inner)
        self.context_length, self.extra_token_cost = able.context_length, able.extra_token_cost
        self.normalises = getattr(inner, "normalises", False)  # which a bytelm of before does not ask about
        self.cpu_seconds = 0.0
        self.calls = self.asked = 0
        self._warmth = warmth
        self._rows: dict[tuple[int, ...], Float32[np.ndarray, " vocab"]] = {}

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n vocab"]:
        """The rows of the other."""
        start = time.thread_time()
        keys = [tuple(sequence) for sequence in sequences]
        if fresh := [key for key in dict.fromkeys(keys) if key not in self._rows]:
            for key, row in zip(fresh, self.inner.next_token_logprobs(fresh), strict=True):
                self._rows[key] = self._warmed(np.asarray(row, np.float32))
        rows = np.stack([self._rows[key] for key in keys])
        self.calls += 1
        self.asked += len(keys)
        self.cpu_seconds += time.thread_time() - start
        return rows

    def _warmed(self, row: Float32[np.ndarray, " vocab"]) -> Float32[np.ndarray, " vocab"]:
        if self._warmth == 1.0:
            return row.copy()
        warmed = row.astype(np.float64) / self._warmth
        return np.asarray(warmed - np.logaddexp.reduce(warmed), np.float32)

    def sample(self, count: int) -> list[Float32[np.ndarray, " vocab"]]:
        """Some of the rows."""
        return list(self._rows.values())[:count]

    def write(self, folder: Path) -> None:
        """Keep the rows in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ROWS).open("wb") as file:
            for row in self._rows.values():
                row.tofile(file)
        (folder / KEYS).write_text(json.dumps([list(key) for key in self._rows]), encoding="ascii")

    def read(self, folder: Path) -> None:
        """Take the rows that a folder keeps, if it keeps any."""
        if (folder / KEYS).exists():
            keys = json.loads((folder / KEYS).read_text(encoding="ascii"))
            rows = np.fromfile(folder / ROWS, np.float32).reshape(len(keys), self.vocab_size)
            self._rows = {tuple(key): row for key, row in zip(keys, rows, strict=True)}
