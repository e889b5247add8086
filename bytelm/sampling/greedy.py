"""Greedy bytes by the token: where one token has more than half of P(x), its bytes are the greedy ones.

Theory of operation
    Let a node u spell the prefix x, and let t be a token that may follow it, with w(u)·P(t | u) > P(x)/2. Whatever
    else there is, more than half of P(x) goes on with t's first byte b, so b is the greedy byte. As P(x·b) ≤ P(x), the
    same token has more than half of P(x·b): all bytes of t are greedy, one after the other.
    P(x) need not be known for that, only what it is at most: for a node that spells x, its weight; for one that does
    not, what flows through it, which is a sum over few tokens; for what is not evaluated, its weight.

Cost
    The likeliest entry of a row. That row's masses over the whole vocabulary, and what may follow u among all tokens,
    are then not needed by any of the token's bytes.

Does not
    Change what is drawn: where no token has more than half, the sampler sums masses as ever.
"""

from __future__ import annotations

import math
from typing import Final

from bytelm.cover.nodes import Node
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.scheduler import Step

HALF: Final = 0.501  # a half and more than rounding can make of it: rows add up to 1 within `ROW_TOLERANCE`


def decisive(frontier: Frontier) -> tuple[Node, float] | None:
    """A node that spells x and holds more than half of P(x), with the share that it holds at least; or None.

    While it is not evaluated, no byte leads: it can outweigh all others in each.
    """
    if frontier.opening:
        return None
    weights = frontier.weights
    spelling = [node for node in frontier.cover.nodes if node in weights and not frontier.cover.leftover(node)]
    node = max(spelling, key=weights.__getitem__, default=None)
    if node is None or weights[node] == -math.inf:
        return None
    share = math.exp(weights[node] - frontier.log_most())
    return (node, share) if share > HALF else None


def sure_bytes(frontier: Frontier, node: Node, share: float) -> bytes:
    """The bytes of a node's likeliest token, where they are the greedy ones; or none.

    Args:
        frontier: At x.
        node: A node that spells x. Nothing is sure while it is not evaluated.
        share: The least that it holds of P(x).
    """
    row = frontier.row(node)
    if row is None:
        return b""
    token = row.likeliest()
    sure = share * math.exp(row.logprob(token)) > HALF
    return frontier.cover.follows(node, token) if sure else b""


def greedy_bytes(frontier: Frontier) -> Step[bytes]:
    """The greedy bytes that one token decides; none where masses have to be summed."""
    if (found := decisive(frontier)) is None:
        return b""
    node, share = found
    if frontier.row(node) is None:
        yield from evaluate(frontier, frontier.missing(frontier.reader.extra_token_cost))
    return sure_bytes(frontier, node, share)
