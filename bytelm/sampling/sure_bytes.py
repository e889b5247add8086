r"""Several bytes at once, where the likely tokens show that the filters keep no others.

Theory of operation
    *One token has nearly all.* Under a filter a symbol that has more than some share σ of the mass is the only one that
    is kept: half of it for the likeliest, and for top-p and min-p see `Filters.lone_share`. Let t be a token that may
    follow a node u, and that begins with the leftover of u at the prefix x, with w(u)·P(t | u) > σ·P(x). Whatever else
    there is, more than σ of P(x) goes on with t's next byte b, so b is drawn for certain. As P(x·b) ≤ P(x), the same
    token has more than σ of P(x·b): all bytes that t has beyond x are certain, one after the other.

    *Several tokens have it together.* With K and O of inference/likely_bytes.py, b is certain where K(b) > σ·P(x).
    Where only the likeliest symbol is kept, b is certain too if K(b) > K(c) + O for every other symbol c. What follows
    x·b is then looked at in the same way, without the rows after x·b, until too much is open.

    P(x) need not be known for any of that, only what it is at most. Where the leak may be one to warn of
    (sampling/writing.py), nothing is called certain: the masses show how much it is.

Cost
    Where one token has nearly all: the likeliest entry of a row. Else that of likely_bytes.py, once for all bytes that
    are certain together. The masses of the bytes are not summed, at x and at the bytes after it, nor is a cover made
    inside a token.

Does not
    Change what is drawn: where nothing is certain, the sampler sums masses as ever. Each byte still takes its uniform
    number, which it does not depend on.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.likely_bytes import LikelyBytes, likely_bytes
from bytelm.inference.scheduler import Step
from bytelm.sampling.filters import Filters
from bytelm.sampling.writing import WARNED
from bytelm.symbols import EOT

LEEWAY: Final = 1.002  # more than rounding can make of a share: rows add up to 1 within `ROW_TOLERANCE`


class Sure(NamedTuple):
    """Bytes that are certain together.

    Attributes:
        data: The bytes.
        leak: Of the leak of the rows that they are drawn from, none is greater.
        log_most: The logarithm of P of the text with them is no more, relative to the frontier's anchor.
    """

    data: bytes = b""
    leak: float = 1.0
    log_most: float = math.inf


def sure_bytes(frontier: Frontier, filters: Filters) -> Step[Sure]:
    """The bytes beyond a prefix that are certain; none where masses have to be summed.

    Args:
        frontier: At the prefix.
        filters: What is done to the distribution.
    """
    if frontier.opening or (share := filters.lone_share) is None:
        return Sure()
    cost, log_share = frontier.reader.extra_token_cost, math.log(share * LEEWAY)
    ahead = likely_bytes(frontier) if frontier.limit == math.inf else None
    log_most = frontier.limit if ahead is None else ahead.log_total
    # While a node that holds so much is not evaluated, no byte can be certain: it can outweigh all others.
    if frontier.log_heaviest() > log_most + log_share:
        yield from evaluate(frontier, frontier.missing(cost, log_whole=log_most))
        ahead = None
    sure = lone_token(frontier, log_most, log_share) if ahead is None else Sure()
    while not sure.data:
        ahead = likely_bytes(frontier) if ahead is None else ahead
        sure = certain_bytes(ahead, filters)
        if sure.data or not (filters.keeps_one and _hangs(ahead)):
            break
        yield from evaluate(frontier, frontier.missing(cost, log_whole=ahead.log_total))
        ahead = None
    frontier.limit_ahead(sure.data, sure.log_most)
    return sure


def lone_token(frontier: Frontier, log_most: float, log_share: float) -> Sure:
    """The bytes of a token that has more than a share of what P(x) is at most; both are logarithms."""
    for node in frontier.cover.nodes:
        log_weight = frontier.weights.get(node, -math.inf)
        if log_weight <= log_most + log_share or (row := frontier.row(node)) is None:
            continue
        rest = frontier.cover.leftover(node)
        token = row.likeliest_after(rest) if rest else row.likeliest()
        if token is None or (log_mass := log_weight + row.logprob(token)) <= log_most + log_share:
            continue
        data = frontier.cover.follows(node, token)  # no two tokens have more than half
        return Sure(data[len(rest) :], 1 - math.exp(log_mass - log_most), log_most) if data.startswith(rest) else Sure()
    return Sure()


def certain_bytes(ahead: LikelyBytes, filters: Filters) -> Sure:
    """The bytes that the likely tokens make certain."""
    found, leak, least = bytearray(), 0.0, (filters.lone_share or 1.0) * LEEWAY
    while True:
        mass, data = ahead.heaviest()
        if mass > least * ahead.total:
            leak = max(leak, 1 - mass / ahead.total)
            return Sure(bytes(found) + data, leak, ahead.log_total)
        symbol = int(ahead.known.argmax())
        top, second = _first_two(ahead)
        alone = top > least * ahead.total or (filters.keeps_one and top > (second + ahead.open) * LEEWAY)
        if symbol == EOT or not alone or (lost := 1 - float(ahead.known.sum()) / ahead.total) > WARNED:
            return Sure(bytes(found), leak, ahead.log_total)
        leak = max(leak, lost)
        found.append(symbol)
        ahead = ahead.after(symbol)


def _first_two(ahead: LikelyBytes) -> tuple[float, float]:
    """The two greatest masses that are known."""
    second, top = np.partition(ahead.known, -2)[-2:].tolist()
    return top, second


def _hangs(ahead: LikelyBytes) -> bool:
    """Whether the nodes that are not evaluated can change which symbol is the likeliest, whatever is open in rows."""
    top, second = _first_two(ahead)
    return ahead.front > 0 and top + (ahead.open - ahead.front) <= second + ahead.front
