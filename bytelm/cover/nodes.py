"""What the rest needs of a cover and of its nodes, as protocols; cover.py has the one implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64

from bytelm.errors import ModelError


@runtime_checkable
class Node(Protocol):
    """A boundary node; compared and hashed by identity."""

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
class Masses(Protocol):
    """What flows through a node: ``next[b]`` is the mass of the viable tokens that begin with the leftover and b."""

    @property
    def next(self) -> Float64[np.ndarray, "256"]: ...  # noqa: D102


@runtime_checkable
class Cover(Protocol):
    """What is needed of a cover; see cover/cover.py. A node is given back only to the text that it came from."""

    @property
    def nodes(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def ending(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def prefix(self) -> bytes: ...  # noqa: D102
    def advance(self, data: bytes) -> Cover: ...  # noqa: D102
    def leftover(self, node: Any) -> bytes: ...  # noqa: D102
    def masses(self, node: Any, probs: Float[np.ndarray, " tokens"]) -> Masses: ...  # noqa: D102
    def viable(self, node: Any) -> tuple[int, int, Bool[np.ndarray, " n"]]: ...  # noqa: D102
    def follows(self, node: Any, token_id: int) -> bytes: ...  # noqa: D102


def path_down(top: Node, node: Node) -> list[Node]:
    """The nodes from an ancestor to a descendant, both included."""
    path = [node]
    while path[-1] is not top:
        parent = path[-1].parent
        if parent is None:
            raise ModelError("a node is no descendant of the node it hangs on: the cover is broken")
        path.append(parent)
    return path[::-1]


def common_ancestor(nodes: Sequence[Node]) -> Node:
    """The deepest node that is an ancestor of all, or one of them."""
    met = list(dict.fromkeys(nodes))
    while len(met) > 1:
        deepest = max(met, key=lambda node: node.depth)
        met.remove(deepest)
        if deepest.parent is None:
            raise ModelError("nodes of one cover share no ancestor: the cover is broken")
        if deepest.parent not in met:
            met.append(deepest.parent)
    return met[0]
