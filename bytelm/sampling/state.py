r"""A place in a text, to be moved about: for editors, search and constraints.

Rules
    A `ByteState` is a value: `advance` and `rollback` return another one and leave it as it is, so many states may
    branch off one. What has been evaluated for a node serves every state that has the node.
    Nothing is evaluated before a row is asked for. Then all that is not known yet is one request.
    Rows are kept in the model's bounded store; one that was evicted is asked for again. The places behind a state hold
    no rows.
    Where the model was changed since (other weights, another adapter), a state that is asked evaluates its text anew.

Cost
    `advance` costs what the cover costs. A row after one typed byte needs the nodes that the byte brought, one or two.

    >>> state = lm.state("The capital of Fra")  # doctest: +SKIP
    >>> longer = state.advance("nce")  # doctest: +SKIP
    >>> longer.rollback(3).next_byte_logprobs() == state.next_byte_logprobs()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, integer, tolerance_of
from bytelm.errors import InvalidArgumentError, ModelChangedError
from bytelm.inference.scheduler import Step
from bytelm.inference.turns import in_its_turn
from bytelm.sampling.place import Place
from bytelm.sampling.steps import ByteSteps
from bytelm.symbols import leak_of
from bytelm.token_lm import OneProcess

L = TypeVar("L", bound=Place)
T = TypeVar("T")


class Past(NamedTuple):
    """An earlier place, without its rows, and those before it."""

    place: Any
    past: Past | None


class ByteState(OneProcess, Generic[L]):
    """The state of a byte model after a prefix. `ByteModel.state` makes them.

    Args:
        model: The byte model.
        prompt: What the state began with, read by it.
        place: Where the state is.
        past: The place before the last `advance`.

    Attributes:
        place: Its place: boundary nodes, or each member's boundary nodes, with the rows known so far.
        total_variation_bound: The last row's total variation from the exact row, at most; 0 if everything was
            evaluated.
    """

    def __init__(self, model: ByteSteps[Any, L], prompt: Any, place: L, past: Past | None = None) -> None:
        self.place: Any = place
        self.total_variation_bound = 0.0
        self._model = model
        self._prompt = prompt
        self._past = past

    @property
    def prefix(self) -> bytes:
        """The byte prefix: the last text segment of the first prefix, and the bytes advanced since."""
        prefix: bytes = self.place.prefix
        return prefix

    @in_its_turn
    def advance(self, data: Text) -> Self:
        """The state after more bytes.

        Raises:
            UnreachablePrefixError: No token sequence spells them there; this state is still good. (In an ensemble a
                member that cannot spell them has no say from there on.)
        """
        more = self._model.bytes_of(data)
        return self._at(self.place.advance(more), Past(self.place.bare(), self._past)) if more else self

    @in_its_turn
    def rollback(self, n: int) -> Self:
        """The state n bytes earlier.

        Raises:
            InvalidArgumentError: The byte prefix has fewer bytes.
        """
        length = len(self.prefix) - integer("n", n)
        if n < 0 or length < 0:
            raise InvalidArgumentError(
                f"cannot roll back {n} bytes: the byte prefix holds {len(self.prefix)}, and the tokens and prompts "
                "in front of it stay"
            )
        if n == 0:
            return self
        past = self._past
        while past is not None and len(past.place.prefix) > length:
            past = past.past
        if past is None:
            return self._at(self._model.place(self._prompt.cut(length), keep=True), None)
        state = self._at(past.place.copy(), past.past)
        return state.advance(self.prefix[len(past.place.prefix) : length])

    def next_byte_logprobs(self, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of the 256 bytes and the end of text; see `ByteModel.next_byte_logprobs`."""
        row: Float64[np.ndarray, "257"]
        tol = tolerance_of(tol)
        row, self.total_variation_bound = self._asked(lambda place: place.full_row(tol=tol))
        return row

    @property
    def leak(self) -> float:
        """1 less the sum of the row: the probability of tokens that are no text there."""
        return leak_of(self.next_byte_logprobs())

    def _asked(self, step: Callable[[L], Step[T]]) -> T:
        """What a step of the place comes to; of the same place, begun anew, where the model was changed since."""
        try:
            return self._model.answer(step(self.place))
        except ModelChangedError:
            self.place = self._model.place(self._prompt.cut(0).extended(self.prefix), keep=True)
            return self._model.answer(step(self.place))

    def _at(self, place: L, past: Past | None) -> Self:
        return type(self)(self._model, self._prompt, place, past)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.prefix!r})"
