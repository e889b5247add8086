"""Bytes by the token, where one token has nearly all: they are then the only ones that the filters keep.

Theory of operation
    Under a filter a symbol that has more than some share σ of the mass is the only one that is kept: half of it for the
    likeliest, and for top-p and min-p see `Filters.lone_share`. Let t be a token that may follow a node u, and that
    begins with the leftover of u at the prefix x, with w(u)·P(t | u) > σ·P(x). Whatever else there is, more than σ of
    P(x) goes on with t's next byte b, so b is drawn for certain. As P(x·b) ≤ P(x), the same token has more than σ of
    P(x·b): all bytes that t has beyond x are certain, one after the other.
    P(x) need not be known for that, only what it is at most (`Frontier.log_most`).

Cost
    The likeliest entry of a row, or of what it has of the tokens that begin with the leftover. The masses of the bytes
    are then not summed, at x and inside the token, nor is it asked which of all tokens may follow.

Does not
    Change what is drawn: where no token has so much, the sampler sums masses as ever. Each byte still takes its
    uniform number, which it does not depend on.
"""

from __future__ import annotations

import math
from typing import Final

from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.scheduler import Step

LEEWAY: Final = 1.002  # more than rounding can make of a share: rows add up to 1 within `ROW_TOLERANCE`


def sure_bytes(frontier: Frontier, share: float) -> Step[bytes]:
    """The bytes beyond a prefix that one token makes certain; none where masses have to be summed.

    Args:
        frontier: At the prefix.
        share: Of the mass; a symbol that has more is the only one that can be drawn.
    """
    if frontier.opening:
        return b""
    # While a node that holds so much is not evaluated, no byte can be certain: it can outweigh all others.
    least = needed(frontier, share)
    if frontier.log_heaviest() > least:
        yield from evaluate(frontier, frontier.missing(frontier.reader.extra_token_cost))
        least = needed(frontier, share)
    return certain_bytes(frontier, least)


def needed(frontier: Frontier, share: float) -> float:
    """The log-mass that a token needs, relative to the anchor, for its bytes to be certain."""
    return frontier.log_most() + math.log(share * LEEWAY)


def certain_bytes(frontier: Frontier, least: float) -> bytes:
    """As `sure_bytes`, by what is known; ``least`` is what is `needed`."""
    for node in frontier.cover.nodes:
        log_weight = frontier.weights.get(node, -math.inf)
        if log_weight <= least or (row := frontier.row(node)) is None:
            continue
        rest = frontier.cover.leftover(node)
        token = row.likeliest_after(rest) if rest else row.likeliest()
        if token is None or log_weight + row.logprob(token) <= least:
            continue
        data = frontier.cover.follows(node, token)
        return data[len(rest) :] if data.startswith(rest) else b""  # no two tokens have more than half
    return b""
