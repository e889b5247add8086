r"""A place in a text, to be moved about: for editors, search and constraints.

Rules
    A `ByteState` is a value: `advance` and `rollback` return another one and leave it as it is, so many states may
    branch off one. What has been evaluated for a node serves every state that has the node.
    Nothing is evaluated before a row is asked for. Then all that is not known yet is one request.
    Rows are kept in the byte model's bounded store; one that was evicted is asked for again.

Cost
    `advance` costs what the cover costs. A row after one typed byte needs the nodes that the byte brought, one or two.

    >>> state = lm.state("The capital of Fra")  # doctest: +SKIP
    >>> longer = state.advance("nce")  # doctest: +SKIP
    >>> longer.rollback(3).next_byte_logprobs() == state.next_byte_logprobs()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, integer, tolerance_of
from bytelm.cover.nodes import Cover, Node
from bytelm.errors import InvalidArgumentError
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import full_row
from bytelm.inference.scheduler import Step

Answer: TypeAlias = Callable[[Step[Any]], Any]


class ByteState:
    """The state of a byte model after a prefix. `ByteLM.state` makes them.

    Args:
        frontier: At the prefix.
        answer: Runs a step on the model.
        fresh: The frontier of any shorter or longer byte prefix, from the beginning.
        bytes_of: The bytes of a text argument.
        past: The place before the last `advance`, its cover and weights.
    """

    def __init__(
        self,
        frontier: Frontier,
        *,
        answer: Answer,
        fresh: Callable[[bytes], Frontier],
        bytes_of: Callable[[object], bytes],
        past: Past | None = None,
    ) -> None:
        self._frontier = frontier
        self._answer = answer
        self._fresh = fresh
        self._bytes_of = bytes_of
        self._past = past
        self._bound = 0.0

    @property
    def prefix(self) -> bytes:
        """The byte prefix: the last text segment of the prefix that the state began with, and what was advanced."""
        return self._frontier.cover.prefix

    @property
    def frontier(self) -> Frontier:
        """The boundary nodes with what is known of them."""
        return self._frontier

    @property
    def total_variation_bound(self) -> float:
        """How far the last row may be from the exact one in total variation; 0 if all was evaluated."""
        return self._bound

    def advance(self, data: Text) -> ByteState:
        """The state with more bytes behind it.

        Raises:
            UnreachablePrefixError: No token sequence spells them there; this state is still good.
        """
        more = self._bytes_of(data)
        if not more:
            return self
        past = Past(self._frontier.cover, self._frontier.weights, self._past)
        return self._with(self._frontier.advance(more), past)

    def rollback(self, n: int) -> ByteState:
        """The state n bytes before.

        Raises:
            InvalidArgumentError: There are not so many bytes in the byte prefix.
        """
        length = len(self.prefix) - integer("n", n)
        if n < 0 or length < 0:
            raise InvalidArgumentError(
                f"cannot roll back {n} bytes: the byte prefix holds {len(self.prefix)}, and tokens given by id stay"
            )
        if n == 0:
            return self
        past = self._past
        while past is not None and len(past.cover.prefix) > length:
            past = past.past
        if past is None:
            return self._with(self._fresh(self.prefix[:length]), None)
        old = Frontier(
            past.cover,
            context=self._frontier.context,
            reader=self._frontier.reader,
            weights=past.weights,
            store=self._frontier.store,
        )
        missed = self.prefix[len(past.cover.prefix) : length]
        state = self._with(old, past.past)
        return state.advance(missed) if missed else state

    def next_byte_logprobs(self, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of the 256 bytes and the end of text; see `ByteLM.next_byte_logprobs`."""
        row: Float64[np.ndarray, "257"]
        row, self._bound = self._answer(full_row(self._frontier, tol=tolerance_of(tol)))
        return row

    @property
    def leak(self) -> float:
        """The mass that neither a byte nor the end of text has: 1 less the sum of the row."""
        return max(0.0, 1.0 - float(np.exp(self.next_byte_logprobs()).sum()))

    def _with(self, frontier: Frontier, past: Past | None) -> ByteState:
        return ByteState(frontier, answer=self._answer, fresh=self._fresh, bytes_of=self._bytes_of, past=past)

    def __repr__(self) -> str:
        return f"ByteState({self.prefix!r})"


class Past:
    """An earlier place: what cannot be recomputed cheaply, and no rows."""

    __slots__ = ("cover", "past", "weights")

    def __init__(self, cover: Cover, weights: dict[Node, float], past: Past | None) -> None:
        self.cover = cover
        self.weights = dict(weights)
        self.past = past
