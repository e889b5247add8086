"""What the chapters above use of a cover and its nodes: two protocols, and walks along a node's ancestors.

Rules
    `Node` and `Cover` here are protocols. cover.py implements both for real tokenizers; the tests' toy vocabulary
    (tests/support/toy.py) implements them by definition, which is why the rest of bytelm names only the protocols.
    A node is handed only to covers along the text that it came from. Nodes are compared and hashed by identity.

Memory
    The sequences of all nodes along a text hold as many ids as the square of its tokens: `Paths` makes each of them as
    it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from bytelm.errors import ModelError


@runtime_checkable
class Node(Protocol):
    """A boundary node: a viable token sequence that spells a prefix of the text. See cover.py for each member."""

    @property
    def parent(self) -> Node | None: ...  # noqa: D102
    @property
    def token_id(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def token_ids(self) -> tuple[int, ...]: ...  # noqa: D102


@runtime_checkable
class Ranked(Protocol):
    """Numbers of the tokens in byte order, wherever they are: only sums of them are asked for."""

    def sums(
        self, lo: int, hi: int, mask: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " parts"]
    ) -> Float64[np.ndarray, " parts"]:
        """The sums of parts of the ranks ``lo:hi``, without those that a mask leaves out.

        Args:
            lo: The first rank.
            hi: The end of the ranks.
            mask: Which of them count.
            starts: Where each part begins, from ``lo`` on, ascending; the first at 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class RankedArray:
    """`Ranked`, of an array.

    Attributes:
        numbers: By rank.
        first: The rank of the first.

    >>> RankedArray(np.array([0.5, 0.25, 0.25]), first=7).sums(8, 10, np.array([True, False]), np.array([0]))
    array([0.25])
    """

    numbers: Float[np.ndarray, " tokens"]
    first: int = 0

    def sums(  # noqa: D102 - as in `Ranked`
        self, lo: int, hi: int, mask: Bool[np.ndarray, " n"], starts: Int64[np.ndarray, " parts"]
    ) -> Float64[np.ndarray, " parts"]:
        found: Float64[np.ndarray, " parts"] = np.add.reduceat(
            self.numbers[lo - self.first : hi - self.first] * mask, starts, dtype=np.float64
        )
        return found


@runtime_checkable
class Cover(Protocol):
    """The boundary nodes of a byte prefix. See cover.py for each member."""

    @property
    def nodes(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def ending(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def prefix(self) -> bytes: ...  # noqa: D102
    def advance(self, data: bytes) -> Cover: ...  # noqa: D102
    def leftover(self, node: Node) -> bytes: ...  # noqa: D102
    def masses(self, node: Node, tokens: Ranked) -> Float64[np.ndarray, "256"]: ...  # noqa: D102
    def viable(self, node: Node) -> tuple[int, int, Bool[np.ndarray, " n"]]: ...  # noqa: D102
    def follows(self, node: Node, token_id: int) -> bytes: ...  # noqa: D102


class Paths(Sequence[tuple[int, ...]]):
    """What a model is to be fed for some nodes: token ids, each sequence made when it is read.

    Args:
        context: Token ids in front of each.
        nodes: Nodes of one text, no two alike.
    """

    __slots__ = ("_context", "_nodes")

    def __init__(self, context: tuple[int, ...], nodes: Sequence[Node]) -> None:
        self._context = context
        self._nodes = nodes

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | Paths:
        if isinstance(index, slice):
            return Paths(self._context, self._nodes[index])
        return self._context + self._nodes[index].token_ids

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return (self._context + node.token_ids for node in self._nodes)


def path_down(top: Node, node: Node) -> list[Node]:
    """The nodes from an ancestor to a descendant, both included."""
    path = [node]
    while path[-1] is not top:
        path.append(_parent(path[-1]))
    return path[::-1]


def common_ancestor(nodes: Sequence[Node]) -> Node:
    """The deepest node that is an ancestor of all, or one of them."""
    met = list(dict.fromkeys(nodes))
    while len(met) > 1:
        deepest = max(met, key=lambda node: node.depth)
        met.remove(deepest)
        if (parent := _parent(deepest)) not in met:
            met.append(parent)
    return met[0]


def _parent(node: Node) -> Node:
    if node.parent is None:
        raise ModelError("a node does not descend from one that it should come from: the cover is broken")
    return node.parent
