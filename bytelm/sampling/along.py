"""Which nodes of the places along a draft are evaluated in its one call.

Theory of operation
    The places along a text have a boundary node for almost every byte, and most of them are light: " w" in " world" has
    a weight of 10⁻⁴. What is not evaluated is a bound, and a small one seldom leaves a draft undecided (acceptance.py).
    But a weight is known only once the rows before it are, and a draft has one call. So the text chooses:

    - the nodes of one spelling of the whole text, the canonical one. The draft holds these tokens if it is right;
    - a node beside it, unless a word goes on behind it: a token that ends at "x" in "exp", or at the space in front of
      it, is rare. One that ends at ")" in ")." or at "\n" in "\n\n" is not;
    - at the first place, whose weights are known, what is worth it there as in any call.

Cost
    On the prompts of evals.speculation these are about a half of all nodes. One draft in ten or so needs a second call.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytelm.cover.nodes import Cover, Node
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.scheduler import Step, together


def evaluate_along(frontiers: Sequence[Frontier]) -> Step[None]:
    """Evaluate what most likely decides the symbols of a text: one request.

    Args:
        frontiers: Of the places along the text, each advanced from the one before.
    """
    here, last = frontiers[0], frontiers[-1].cover
    chosen = {*spelling(last), *here.missing(here.reader.extra_token_cost)}
    yield from together(
        [
            evaluate(each, [node for node in each.missing() if node in chosen or not splits_word(last, node)])
            for each in frontiers
        ]
    )


def spelling(cover: Cover) -> list[Node]:
    """The nodes of one token sequence that spells a text: of the canonical one, where there is one."""
    node: Node | None = min(cover.ending or cover.nodes, key=lambda node: (-node.end, node.depth))
    path = []
    while node is not None:
        path.append(node)
        node = node.parent
    return path


def splits_word(cover: Cover, node: Node) -> bool:
    """Whether a node ends inside a word of a text, or between a word and the space in front of it, or with the text."""
    text, behind = cover.prefix, cover.leftover(node)[:1]
    end = len(text) - len(cover.leftover(node))
    before = text[max(end - 1, 0) : max(end, 0)]
    return not behind or (in_word(behind) and (before == b" " or in_word(before)))


def in_word(byte: bytes) -> bool:
    """Whether a byte is of a letter or a digit. All of a character beyond ASCII count as such."""
    return byte.isalnum() or byte >= b"\x80"
