"""Members of a cover drawn by their posterior: token sequences that spell x, or go on beyond it with the last token.

Theory of operation
    Two ways lead to one distribution, P(t | c) / P(x | c).
     - *By shares*: all that P(x) needs is evaluated, a node is drawn by its share of it, and then the token with which
       it goes on beyond x.
     - *By walks*, where some member was drawn already: from the common ancestor of all nodes on, tokens are drawn one
       after another. A walk that spells x has come to a member; one that does not is thrown away as a whole, and the
       next begins. That is rejection sampling: what is not thrown away has the posterior.
    Of the way that was drawn before, the probability of each step is known. A walk that keeps to it needs no row at
    all, and else only the rows are asked for of nodes that a walk comes to: mostly one, where shares need them all.
    After `TRIES` walks that led nowhere, as x is improbable after that ancestor, it is drawn by shares.
    *At a temperature* T all members are laid out, and one is drawn with P(t | c)^(1/T) in place of P(t | c).

Invariant
    What is drawn is a function of the random numbers and the probabilities alone, and not of the rows that happened to
    be known.

Source
    The posterior is Phan's; ancestral sampling with rejection is textbook.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from bytelm.arguments import Number
from bytelm.cover.nodes import Node, path_down
from bytelm.errors import ModelError
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all
from bytelm.inference.rows import Row
from bytelm.inference.scheduler import Request, Step
from bytelm.lemma import log_sum
from bytelm.sampling.draw import settled

TRIES: Final = 32


class CoverMember(NamedTuple):
    """A member of a cover.

    Attributes:
        node: The longest node that it begins with.
        log_weight: The node's, relative to the frontier's anchor.
        token: With which it goes on beyond x; None where it ends with x.
        logprob: Of that token, a natural log.
    """

    node: Node
    log_weight: float
    token: int | None = None
    logprob: float = 0.0

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All of its tokens."""
        return self.node.token_ids if self.token is None else (*self.node.token_ids, self.token)


def by_shares(place: Frontier, random: np.random.Generator) -> Step[CoverMember]:
    """Draw a member after evaluating all that P(x) needs.

    Raises:
        ModelError: The model gives x probability 0.
    """
    yield from evaluate_all(place, "mass")
    uniforms = random.random(2)
    shares = place.log_shares()
    if (top := max(shares.values(), default=-math.inf)) == -math.inf:
        raise _impossible(place)
    node = list(shares)[picked(np.exp(np.array([*shares.values()]) - top), uniforms[0])]
    row = place.row(node)
    if not place.cover.leftover(node) or row is None:
        return CoverMember(node, place.weights[node])
    first, masses = _longer(place, node, row)
    return _going_on(place, node, place.weights[node], row, first + picked(masses, uniforms[1]))


def by_bounds(place: Frontier, random: np.random.Generator) -> Step[CoverMember]:
    """As `by_shares`, with no more evaluated than the draw depends on.

    A node's share of P(x) is at least what is known of it by what P(x) is at most: a uniform number is read against
    these bounds, and where they do not decide, against better ones (draw.py).

    Raises:
        ModelError: The model gives x probability 0.
    """
    uniforms = random.random(2)
    floor = np.zeros(len(place.nodes))
    while True:
        missing = place.missing(place.reader.extra_token_cost, "mass")
        shares = place.log_shares()
        logs = np.array([shares.get(node, -math.inf) for node in place.nodes])
        most = log_sum([*logs, place.log_bound("mass")])
        if most == -math.inf:
            raise _impossible(place)
        raised = np.maximum(floor, np.exp(logs - most))
        index = int(settled(uniforms[:1], floor, raised)[0])
        if index >= 0 or not missing:
            break
        floor = raised
        yield from evaluate(place, missing)
    node = place.nodes[index if index >= 0 else int(np.flatnonzero(raised)[-1])]
    row = place.row(node)
    if not place.cover.leftover(node) or row is None:
        return CoverMember(node, place.weights[node])
    first, masses = _longer(place, node, row)
    return _going_on(place, node, place.weights[node], row, first + picked(masses, uniforms[1]))


def at_temperature(place: Frontier, temperature: Number, random: np.random.Generator) -> Step[CoverMember]:
    """Draw a member with its probability to the power 1 / temperature; at 0 the likeliest, the first of equals by ids.

    Raises:
        ModelError: The model gives x probability 0.
    """
    yield from evaluate_all(place, "mass")
    nodes: list[Node] = []
    firsts: list[int] = []  # the rank of the first token that a node goes on with; -1 where it spells x
    parts: list[Float64[np.ndarray, " n"]] = []
    for node in place.nodes:
        first, masses, row = -1, np.ones(1), place.row(node)
        if place.cover.leftover(node):
            if row is None:
                continue  # it has no weight
            first, masses = _longer(place, node, row)
        with np.errstate(divide="ignore"):
            parts.append(np.log(masses) + place.weights.get(node, -math.inf))
        nodes.append(node)
        firsts.append(first)
    logprobs = np.concatenate([*parts, np.full(1, -np.inf)])
    if (top := logprobs.max()) == -np.inf:
        raise _impossible(place)
    ends = np.cumsum([len(part) for part in parts])

    def member(index: int) -> CoverMember:
        at = int(np.searchsorted(ends, index, side="right"))
        node, first, row = nodes[at], firsts[at], place.row(nodes[at])
        if first < 0 or row is None:
            return CoverMember(node, place.weights[node])
        return _going_on(place, node, place.weights[node], row, first + index - int(ends[at]) + len(parts[at]))

    if temperature == 0:
        likeliest = map(member, np.flatnonzero(logprobs == top).tolist())
        return min(likeliest, key=lambda found: found.token_ids)
    return member(picked(np.exp((logprobs - top) / temperature), random.random()))


def by_walks(
    place: Frontier, way: Mapping[Node, float], random: np.random.Generator, *, at_once: bool = False
) -> Step[CoverMember]:
    """Draw a member by walks from the common ancestor of all nodes.

    Args:
        place: The frontier of x.
        way: The nodes of the way that was drawn before, from that ancestor on, and their log-weights.
        random: Random numbers.
        at_once: Whether the first row that a walk needs is asked for with all others that walks may come to.

    Raises:
        ModelError: The model gives x probability 0.
    """
    ancestor = next(iter(way))
    below: dict[Node, dict[Node, None]] = {}
    for leaf in place.nodes:
        for node, child in itertools.pairwise(path_down(ancestor, leaf)):
            below.setdefault(node, {})[child] = None
    children = {node: sorted(found, key=lambda child: child not in way) for node, found in below.items()}
    rows: dict[Node, Row] = {}
    comes_to = [*dict.fromkeys((*children, *place.nodes))] if at_once else []
    for _ in range(TRIES):
        member = yield from _walk(place, way, children, rows, comes_to, random)
        if member is not None:
            return member
    return (yield from by_shares(place, random))


def _walk(
    place: Frontier,
    way: Mapping[Node, float],
    children: Mapping[Node, list[Node]],
    rows: dict[Node, Row],
    comes_to: Sequence[Node],
    random: np.random.Generator,
) -> Step[CoverMember | None]:
    """One walk: the member that it comes to, or None where it leaves x."""
    node, log_weight = next(iter(way.items()))
    while place.cover.leftover(node):
        uniform = random.random()
        others = children.get(node, [])
        if others and others[0] in way:
            ahead, others = others[0], others[1:]
            prob = math.exp(way[ahead] - log_weight)
            if uniform < prob:
                node, log_weight = ahead, way[ahead]
                continue
            uniform -= prob
        if not others and node not in place.nodes:
            return None
        if (row := rows.get(node) or place.row(node)) is None:
            nodes = [node, *(other for other in comes_to if other is not node and _needs(place, other, rows))]
            told = yield Request(place.sequences(nodes), far=True)
            place.learn(nodes, told)
            for each, given in zip(nodes, told, strict=True):
                rows[each] = place.row(each) or place.reader.read(given)  # `place` forgets what it needs no more
            row = rows[node]
        rows[node], before = row, node
        for child in others:
            prob = math.exp(row.logprob(child.token_id))
            if uniform < prob:
                node, log_weight = child, log_weight + row.logprob(child.token_id)
                break
            uniform -= prob
        if node is before:
            if node in place.nodes:
                first, masses = _longer(place, node, row)
                if uniform < (whole := float(masses.sum())):
                    return _going_on(place, node, log_weight, row, first + picked(masses, uniform / whole))
            return None
    return CoverMember(node, log_weight)


def _needs(place: Frontier, node: Node, rows: Mapping[Node, Row]) -> bool:
    return bool(place.cover.leftover(node)) and node not in rows and place.row(node) is None


def _longer(place: Frontier, node: Node, row: Row) -> tuple[int, Float64[np.ndarray, " n"]]:
    """The tokens with which a node goes on beyond x: the rank of the first, and the probability of each rank on."""
    lo, hi, mask = place.cover.viable(node)
    first: int = place.reader.prefix_index.equal_to(place.cover.leftover(node), lo, hi)
    return first, row.some_probs(first, hi).astype(np.float64) * mask[first - lo :]


def _going_on(place: Frontier, node: Node, log_weight: float, row: Row, rank: int) -> CoverMember:
    return CoverMember(node, log_weight, int(place.reader.order[rank]), math.log(row.some_probs(rank, rank + 1)[0]))


def _impossible(place: Frontier) -> ModelError:
    return ModelError(f"the model gives the prefix {place.prefix[-40:]!r} probability 0, so no distribution follows it")


def picked(masses: Float[np.ndarray, " n"], uniform: float) -> int:
    """The index on which a uniform number falls, among masses in any proportion to probabilities.

    >>> [picked(np.array([1.0, 0.0, 3.0]), uniform) for uniform in (0.0, 0.2, 0.3, 0.99)]
    [0, 0, 2, 2]
    """
    edges = np.cumsum(masses, dtype=np.float64)
    index = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    return min(index, int(np.flatnonzero(masses)[-1]))
