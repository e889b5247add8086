"""The covers along a text, with what is dead in them: for whoever wants to see how a cover moves.

Theory
    At a cursor behind x the members of the cover are u·t, a boundary node and a token that begins with the node's
    leftover. Of the tokens that begin with the leftover, the tokenizer puts only the viable ones there. What the model
    gives to the others is on no text: it is a part of the leak. That mass is told node by node, as *unreachable*.

Rules
    All numbers are exact. Of each cover the likeliest members are told one by one, and of the others how many they are
    and what they come to.
    Nothing is sampled or left out: each row along the text is asked for once, as for `byte_logprobs`.

Cost
    Three to four rows a token of the text. Memory: the covers' likeliest members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bytelm.cover.nodes import Cover, Node, common_ancestor
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Step
from bytelm.inference.scoring import CoverItem, Ledger
from bytelm.lemma import log_sum


class Unreachable(NamedTuple):
    """Tokens behind a node that begin with its leftover, and that the tokenizer puts there in no text.

    Attributes:
        token_ids: The node's sequence.
        tokens: How many they are.
        logprob: The log-probability of the sequence followed by any of them.
    """

    token_ids: tuple[int, ...]
    tokens: int
    logprob: float


class CoverView(NamedTuple):
    """A cover at a cursor.

    Attributes:
        prefix: The text before the cursor.
        logprob: ln P(prefix), the sum of all members.
        items: The likeliest members, the likeliest first.
        others: How many more there are.
        unreachable: What the tokenizer rules out, by nodes, the largest first.
    """

    prefix: bytes
    logprob: float
    items: tuple[CoverItem, ...]
    others: int
    unreachable: tuple[Unreachable, ...]


def cover_views(
    covers: Sequence[Cover], *, context: tuple[int, ...], reader: RowReader, top: int
) -> Step[list[CoverView]]:
    """Covers of prefixes of one text, in order.

    Args:
        covers: At the cursors.
        context: Token ids in front of the text.
        reader: Reads rows.
        top: How many members are told one by one.
    """
    uses: dict[Node, list[int]] = {}
    whole: list[list[Node]] = [[] for _ in covers]
    for place, cover in enumerate(covers):
        for node in dict.fromkeys((*cover.nodes, *cover.ending)):
            if not cover.prefix:
                continue
            if cover.leftover(node):
                uses.setdefault(node, []).append(place)
            else:
                whole[place].append(node)
    root = common_ancestor([*covers[0].nodes, *covers[0].ending])
    while root.parent is not None:
        root = root.parent
    ledger = Ledger(context, reader, root)
    items: list[list[CoverItem]] = [[] for _ in covers]
    rests: list[list[float]] = [[] for _ in covers]  # log-masses of what is not told one by one
    counts = [0 for _ in covers]
    dead: list[list[Unreachable]] = [[] for _ in covers]

    def read(node: Node, row: Float[np.ndarray, " vocab"]) -> None:
        weight, ids = ledger.weights[node], node.token_ids
        for place in uses[node]:
            lo, hi, viable = covers[place].viable(node)
            longer = reader.prefix_index.equal_to(covers[place].leftover(node), lo, hi)
            live = reader.order[longer:hi][viable[longer - lo :]]
            logprobs = reader.logprobs(row, live)
            likeliest = np.argsort(-logprobs, kind="stable")
            items[place] += [CoverItem((*ids, int(live[i])), weight + float(logprobs[i])) for i in likeliest[:top]]
            if len(live) > top:
                counts[place] += len(live) - top
                rests[place].append(weight + log_sum(logprobs[likeliest[top:]].tolist()))
            out = reader.order[lo:hi][~viable]
            if len(out):
                dead[place].append(Unreachable(ids, len(out), weight + log_sum(reader.logprobs(row, out).tolist())))

    nodes = [node for several in whole for node in several]
    yield from ledger.weigh(uses, read, whole=nodes)
    views = []
    for place, cover in enumerate(covers):
        found = [*items[place], *(CoverItem(node.token_ids, ledger.weights[node]) for node in whole[place])]
        if not cover.prefix:
            found = [CoverItem((), 0.0)]
        found.sort(key=lambda item: (-item.logprob, item.token_ids))
        total = log_sum([*(item.logprob for item in found), *rests[place]])
        unreachable = sorted(dead[place], key=lambda each: -each.logprob)
        others = counts[place] + max(len(found) - top, 0)
        views.append(CoverView(cover.prefix, total, tuple(found[:top]), others, tuple(unreachable)))
    return views


def share(logprob: float, total: float) -> float:
    """What part of a mass another is; 0 of nothing."""
    return math.exp(logprob - total) if total > -math.inf else 0.0
