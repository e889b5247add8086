"""Which nodes of the places along a draft are evaluated in its one call.

Theory of operation
    The places along a text have a boundary node for almost every byte, and most of them are light: " w" in " world" has
    a weight of 10⁻⁴. What is not evaluated is a bound, and a small one seldom leaves a draft undecided (acceptance.py).
    But a weight is known only once the rows before it are, and a draft has one call. So the text chooses:

    - the nodes of one spelling of the whole text, the canonical one. The draft holds these tokens if it is right;
    - a node beside it, unless a word goes on behind it: a token that ends at "x" in "exp", or at the space in front of
      it, is rare. One that ends at ")" in ")." or at "\n" in "\n\n" is not;
    - at the first place, whose weights are known, what is worth it there as in any call;
    - a node in a word where that pays. Without it a second call is needed with a probability of `RISK`, if the draft is
      accepted up to there; the node itself costs what the engine says that one more token costs. Greedily it never
      pays: the likeliest symbol seldom depends on light nodes, and calls fell by 2 % for 60 % more tokens.

Cost
    On the prompts of evals.speculation the nodes in words are about a half of all. Without them one draft in four needs
    a second call. An engine that says nothing of its cost gets them all, but for the ends of long drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bytelm.cover.nodes import Cover, Node
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.scheduler import Step, together

RISK: Final = 0.07  # of a second call, for each node in a word that is left out at a place that the check comes to


def evaluate_along(frontiers: Sequence[Frontier], share: float) -> Step[None]:
    """Evaluate what most likely decides the symbols of a text: one request.

    Args:
        frontiers: Of the places along the text, each advanced from the one before.
        share: Of the symbols of such texts, how many were accepted of late; 0: no node in a word is worth a token.
    """
    here, last = frontiers[0], frontiers[-1].cover
    cost = here.reader.extra_token_cost
    chosen = {*spelling(last), *here.missing(cost)}
    yield from together(
        [
            evaluate(
                each,
                [
                    node
                    for node in each.missing()
                    if node in chosen or RISK * share**at > cost or not splits_word(last, node)
                ],
            )
            for at, each in enumerate(frontiers)
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
