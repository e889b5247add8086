"""One engine under test: what is asked of it, what the right rows are, and where the two part.

Rules
    The right row of a sequence is asked for once: of a fresh engine whose first call it is, or of the reference.
    It is asked for before the engine under test is made, which may be the same object with its cache cleared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from bytelm.engines.rows import checked_rows
from bytelm.errors import BytelmError, InvalidLogitsError
from bytelm.token_lm import TokenLM

Tokens = tuple[int, ...]
Row = Float[np.ndarray, " vocab"]

LONGEST: Final = 24  # tokens of a drawn sequence, at most


class BrokenRuleError(Exception):
    """A rule is broken."""


class UncheckedRuleError(Exception):
    """A rule cannot be checked on this engine."""


@dataclass
class EngineTrial:
    """An engine under test: its sequences, and the right row of each."""

    make: Callable[[], TokenLM]
    tolerance: float
    reference: TokenLM | None
    failing: Callable[[Any], AbstractContextManager[Any]] | None
    seed: int
    difference: float = 0.0

    def __post_init__(self) -> None:
        self._right: dict[Tokens, Row] = {}
        self._random = random.Random(self.seed)
        engine = self.make()
        self.vocab_size = engine.vocab_size
        self.context_length: int | None = getattr(engine, "context_length", None)
        room = LONGEST if self.context_length is None else self.context_length - 3  # rules add up to three tokens
        self._longest = max(1, min(LONGEST, room))
        special = set(getattr(engine.tokenizer, "all_special_ids", ()))
        known: dict[str, int] = getattr(engine.tokenizer, "get_vocab", dict)()
        self._ids = sorted(i for i in known.values() if 0 <= i < self.vocab_size and i not in special) or [0]

    def drawn(self, length: int) -> Tokens:
        """A sequence of so many tokens, or of as many as the model's context has room for."""
        return self.drawn_exactly(min(length, self._longest))

    def drawn_exactly(self, length: int) -> Tokens:
        """A sequence of so many tokens."""
        return tuple(self._random.choices(self._ids, k=length))

    def branch(self, sequence: Tokens) -> Tokens:
        """A sequence that leaves another one somewhere."""
        return (*sequence[: self._random.randrange(len(sequence))], *self.drawn(2))

    def ask(self, engine: TokenLM, call: Sequence[Sequence[int]], *, after: str = "") -> Float[np.ndarray, "n vocab"]:
        """The rows of one call, found to be rows."""
        found = engine.next_token_logprobs(call)
        if getattr(found, "dtype", None) not in (np.float32, np.float64):
            kind = getattr(found, "dtype", type(found).__name__)
            raise BrokenRuleError(f"rows are an array of float32 or float64, not {kind}")
        try:
            return checked_rows(found, len(call), engine.vocab_size)
        except InvalidLogitsError as error:
            raise BrokenRuleError(f"{error}{after}") from error

    def right(self, sequence: Tokens) -> Row:
        """The right row after a sequence."""
        if sequence not in self._right:
            engine = self.make() if self.reference is None else self.reference
            self._right[sequence] = self.ask(engine, [sequence])[0].copy()
        return self._right[sequence]

    def compare(self, engine: TokenLM, call: Sequence[Sequence[int]], *, after: str = "") -> None:
        """Ask for some rows whose right ones are known, and find them equal."""
        rows = self.ask(engine, call, after=after)
        for i, (sequence, row) in enumerate(zip(call, rows, strict=True)):
            right = self._right[tuple(sequence)]
            with np.errstate(invalid="ignore"):
                apart = np.where(row == right, 0.0, np.abs(row.astype(np.float64) - right))
            worst = int(np.argmax(np.nan_to_num(apart, nan=np.inf)))
            self.difference = max(self.difference, float(apart[worst]))
            if not apart[worst] <= self.tolerance:
                raise BrokenRuleError(
                    f"row {i} of {len(call)}{after} is not the one after {_short(sequence)}: log-probability "
                    f"{row[worst]:.6g} of id {worst} where {right[worst]:.6g} is right, {self._nearest(row, call, i)}"
                )

    def _nearest(self, row: Row, call: Sequence[Sequence[int]], i: int) -> str:
        """Whose row it is, if it is another one's."""
        for j, other in enumerate(call):
            if j != i and np.allclose(row, self._right[tuple(other)], rtol=0, atol=self.tolerance):
                return f"which is row {j}'s value"
        return f"more than {self.tolerance:g} apart"

    def compare_all(self, calls: Sequence[Sequence[Sequence[int]]]) -> TokenLM:
        """The same for several calls of one fresh engine, which is returned."""
        for call in calls:
            for sequence in call:  # before the engine is made: it may be the only one there is
                self.right(tuple(sequence))
        engine = self.make()
        for call in calls:
            self.compare(engine, call)
        return engine

    def refused(self, engine: TokenLM, call: Sequence[Sequence[int]], kind: type[BytelmError], what: str) -> None:
        """Ask for what must be refused with an error of this kind."""
        try:
            engine.next_token_logprobs(call)
        except kind:
            return
        except Exception as error:
            raise BrokenRuleError(
                f"{what} must be a {kind.__name__}, and is {type(error).__name__}: {error}"
            ) from error
        raise BrokenRuleError(f"{what} must be a {kind.__name__}, and is answered with rows")


def _short(sequence: Sequence[int]) -> str:
    ids = list(sequence)
    return str(tuple(ids)) if len(ids) <= 8 else f"{len(ids)} tokens that end in {tuple(ids[-4:])}"
