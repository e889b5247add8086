"""Covers of the prompts asked about last, and covers of long texts by way of a sure cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from cachetools import LRUCache

from bytelm.cover.cover import Cover, Node
from bytelm.cover.nodes import common_ancestor
from bytelm.cover.prefix import Prompt
from bytelm.cover.sure_cuts import sure_cut
from bytelm.errors import UnreachablePrefixError
from bytelm.tokenizer.viability.viability import Viability

NEAR: Final = 32  # up to so many bytes a cover is advanced along the text


NodeAt: TypeAlias = Callable[[Node, int, bytes], Node | None]


class CoverCache:
    """The covers of the prompts asked about last; that of a longer prompt goes on from the nearest of them.

    Nodes are compared by identity, so prompts that share a cover share what is known of its nodes; that is why covers
    of different contexts are kept apart.

    Args:
        viability: Makes covers of the empty prefix.
        size: How many are kept.
    """

    def __init__(self, viability: Viability, *, size: int = 16) -> None:
        self.viability = viability
        self._covers: LRUCache[Prompt, Cover] = LRUCache(size)

    def cover(self, prompt: Prompt) -> Cover:
        """The cover of a prompt's byte prefix.

        Raises:
            UnreachablePrefixError: No token sequence spells it.
        """
        before = [
            kept
            for kept in self._covers
            if (kept.context, kept.dummy_prefix) == (prompt.context, prompt.dummy_prefix)
            and prompt.text.startswith(kept.text)
        ]
        nearest = max(before, key=lambda kept: len(kept.text), default=None)
        cover = (
            Cover.empty(self.viability, dummy_prefix=prompt.dummy_prefix) if nearest is None else self._covers[nearest]
        )
        cover = self._covers[prompt] = grown(cover, prompt.text[len(cover.prefix) :], self._node_at)
        return cover

    def _node_at(self, node: Node, end: int, text: bytes) -> Node | None:
        """The node that the tokenizer's tokens of a text lead to from another one; None where they do not."""
        encoding = self.viability.vocab.source.encode(text.decode(errors="ignore"), add_special_tokens=False)
        ids = tuple(encoding.ids)  # of a text that ends inside a character, perhaps others there
        if ids[: node.depth] != node.token_ids:
            return None
        for token in ids[node.depth :]:
            if node.end >= end:
                break
            boundary = self.viability.extend(node.boundary, token)
            if boundary is None:
                return None
            node = Node(node, token, node.end + len(self.viability.spelled(node.boundary, token)), boundary)
        return node if node.end == end else None


def grown(cover: Cover, data: bytes, node_at: NodeAt, *, meeting: bool = True) -> Cover:
    """The cover of a text and what follows it; of much text by way of its last sure cut (sure_cuts.py).

    Args:
        cover: Of the text.
        data: What follows.
        node_at: The node at a place in the whole text, the cover's and ``data``, on some spelling of it: given a node
            that it has to lead through, the place, and the text. The spelling may go on beyond the text, and it may be
            a guess: up to the cut it is what every spelling begins with where some sequence that begins so spells the
            text, and else it is not used.
        meeting: Whether the nodes where the two meet are to be those that one gets along the text.

    Raises:
        UnreachablePrefixError: No token sequence spells them.
    """
    if len(data) <= NEAR:
        return cover.advance(data)
    if cover.prefix and meeting:
        cover, data = cover.advance(data[:NEAR]), data[NEAR:]
    start = cast("Node", common_ancestor((*cover.nodes, *cover.ending)))  # ancestors are of their own kind
    cut = sure_cut(cover.viability, start.boundary, cover.leftover(start) + data)
    node = None if cut is None else node_at(start, start.end + cut, cover.prefix + data)
    if node is not None:
        with contextlib.suppress(UnreachablePrefixError):
            return cover.beyond(node, data)
    return cover.advance(data)
