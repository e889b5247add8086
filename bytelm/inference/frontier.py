"""The boundary nodes of one byte prefix with what is known of their probabilities. No model, no torch.

Setting
    A cover has *boundary nodes*: token sequences u that spell the prefix up to some byte, each with its leftover. The
    weight of u is P(u | c), here as a logarithm relative to an *anchor*, an ancestor of all of them (the same one for
    as long as a text is extended, so weights can be compared along it). A node is *evaluated* once the row after u is
    known: then the masses that flow through it to each next byte are sums of slices of that row.

Invariant
    A node has a known weight if and only if all its ancestors from the anchor on are evaluated, or were when it was
    first met. The *front* of what is unknown is the topmost nodes that are not evaluated: what flows through a node is
    at most its own weight, so of a chain of such nodes only the topmost counts. With K what flows through evaluated
    nodes, and U the summed weight of the front,

        K(b) ≤ P(x·b | c) ≤ K(b) + U.

    Sharper: a front node with leftover s reaches only the bytes that viable tokens beginning with s have next.

Rules
    A frontier belongs to one prefix; `Frontier.advance` makes the next one and shares what is still of use.
    It holds on to the rows of its own nodes, so nothing that it counts on can be evicted. Rows that are to outlive it
    go to a `RowStore`, which is bounded; a row that was evicted is asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.cover.nodes import Cover, Node, common_ancestor, path_down
from bytelm.errors import ModelError
from bytelm.inference.envelope import Envelope
from bytelm.inference.rows import Given, Row, RowReader, RowStore
from bytelm.lemma import log_sum
from bytelm.symbols import EOT, SYMBOLS

Purpose: TypeAlias = Literal["row", "mass", "end"]

NOTHING: Final = np.zeros(SYMBOLS)


@dataclass(eq=False)
class Frontier:
    """The nodes of one prefix, their weights, and the rows known so far.

    Args:
        cover: The cover of the prefix.
        context: Token ids in front of the text.
        reader: Reads rows.
        weights: Log-weights known already; without any, the nearest common ancestor of all nodes has weight 1.
        rows: Rows known already.
        store: Where rows are kept beyond this prefix.
        settled: Whether it is to be asked; if not, it looks up no rows, and is only to be copied and advanced.
        limit: The logarithm of P(x), relative to the anchor, is known to be no more.

    Attributes:
        nodes: The boundary nodes, those where only the text may end included.
        opening: Whether the prefix is empty.
    """

    cover: Cover
    _: KW_ONLY
    context: tuple[int, ...]
    reader: RowReader
    weights: dict[Node, float] = field(default_factory=dict)
    rows: dict[Node, Row] = field(default_factory=dict)
    store: RowStore | None = None
    settled: bool = True
    limit: float = math.inf

    def __post_init__(self) -> None:
        self.opening = not self.cover.prefix
        # In the cover's order, so that sums come out the same however the evaluation went.
        nodes, ending = tuple(self.cover.nodes), self.cover.ending
        more = [node for node in ending if node not in nodes]
        self.nodes: tuple[Node, ...] = (*nodes, *more) if more else nodes
        self.weights = dict(self.weights) or {common_ancestor(self.nodes): 0.0}
        self.rows = dict(self.rows)
        self._masses: dict[Node, Float64[np.ndarray, "256"]] = {}
        self._reach: dict[Node, Bool[np.ndarray, "257"]] = {}
        self._front: dict[Node, list[Node]] = {}
        self._known: tuple[float, Float64[np.ndarray, "257"]] | None = None
        self._shares: dict[Node, float] | None = None
        self._ahead = (b"", math.inf)
        if self.settled:
            self._settle()

    @property
    def prefix(self) -> bytes:
        """The byte prefix."""
        return self.cover.prefix

    def advance(self, data: bytes) -> Frontier:
        """The frontier of the prefix with more bytes behind it.

        Raises:
            UnreachablePrefixError: No token sequence spells them.
        """
        limit = self._ahead[1] if data == self._ahead[0] else math.inf
        if limit == math.inf and len(data) == 1 and self._known is not None:
            limit = self._log_most_with(data[0])
        return self._of(self.cover.advance(data), self.rows, limit=limit)

    def limit_ahead(self, data: bytes, limit: float) -> None:
        """Take in a `limit` for the prefix with more bytes behind it: `advance` by just these goes on from it."""
        self._ahead = data, limit

    def copy(self) -> Frontier:
        """The same frontier, to be evaluated on its own."""
        twin: Frontier = self._of(self.cover, self.rows, limit=self.limit)
        twin._masses.update(self._masses)
        twin._reach.update(self._reach)
        return twin

    def bare(self) -> Frontier:
        """The same frontier without its rows, to keep: a `copy` of it is what can be evaluated and asked."""
        return self._of(self.cover, {}, settled=False)

    def _of(self, cover: Cover, rows: dict[Node, Row], *, settled: bool = True, limit: float = math.inf) -> Frontier:
        return Frontier(
            cover,
            context=self.context,
            reader=self.reader,
            weights=self.weights,
            rows=rows,
            store=self.store,
            settled=settled,
            limit=limit,
        )

    # ---- what is known

    def row(self, node: Node) -> Row | None:
        """The row after a node, if it is known."""
        row = self.rows.get(node)
        if row is None and self.store is not None and (row := self.store.get(node)) is not None:
            self.rows[node] = row
        return row

    def _settle(self) -> None:
        """Give each node its weight where its ancestors' rows are known; put it under its front node where not."""
        front: dict[Node, list[Node]] = {}
        touched: set[Node] = set()
        for node in self.nodes:
            path = [node]
            while path[-1] not in self.weights:
                parent = path[-1].parent
                if parent is None:
                    raise ModelError("a node is no descendant of the anchor: the cover is broken")
                path.append(parent)
            touched.update(path)
            top = path.pop()
            while path and (row := self.row(top)) is not None:
                below = path.pop()
                self.weights[below] = self.weights[top] + row.logprob(below.token_id)
                top = below
            if self.weights[top] > -math.inf and (path or self.row(top) is None):
                front.setdefault(top, []).append(node)
        self._front = front
        self._known = self._shares = None
        self.weights = {node: weight for node, weight in self.weights.items() if node in touched}
        self.rows = {node: row for node, row in self.rows.items() if node in touched}

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest sequence that spells the prefix or a part of it, the context included."""
        return len(self.context) + max(node.depth for node in self.nodes)

    @property
    def front(self) -> Collection[Node]:
        """The topmost nodes that are not evaluated."""
        return self._front.keys()

    @property
    def complete(self) -> bool:
        """Whether every node of any mass is evaluated."""
        return not self._front

    def _flow(self, node: Node, row: Row) -> Float64[np.ndarray, "256"]:
        masses = self._masses.get(node)
        if masses is None:
            masses = self._masses[node] = self.cover.masses(node, row)
        return masses

    def log_mass(self) -> float:
        """Logarithm of P(x) relative to the anchor, as far as it is known."""
        return 0.0 if self.opening else log_sum(self.log_shares().values())  # any text begins with nothing

    def log_shares(self) -> dict[Node, float]:
        """Logarithms of what each node has in P(x), relative to the anchor, as far as it is known.

        A cover member either spells just x, and is a node, or goes on beyond x from a node that ends before it does.
        """
        if self._shares is None:
            self._shares = self._log_shares()
        return self._shares

    def _log_shares(self) -> dict[Node, float]:
        shares: dict[Node, float] = {}
        for node in self.nodes:
            log_weight = self.weights.get(node, -math.inf)
            if not self.cover.leftover(node):
                shares[node] = log_weight
            elif log_weight > -math.inf and (row := self.rows.get(node)) is not None:
                mass = float(self._flow(node, row).sum())
                shares[node] = log_weight + math.log(mass) if mass > 0 else -math.inf
        return shares

    def logprobs(self) -> Float64[np.ndarray, "257"]:
        """The row ln P(b | x) as far as it is known; −∞ throughout where the model gives x probability 0."""
        scale, known = self.known()
        log_mass = self.log_mass()
        if log_mass == -math.inf:
            return np.full(SYMBOLS, -np.inf)
        with np.errstate(divide="ignore"):
            row: Float64[np.ndarray, "257"] = np.log(known) + (scale - log_mass)
        return row

    def log_end_mass(self) -> float:
        """Logarithm of P(x, end of text) relative to the anchor, through the nodes evaluated so far."""
        terms = []
        for node in self.cover.ending:
            log_weight = self.weights.get(node, -math.inf)
            if log_weight > -math.inf and (row := self.rows.get(node)) is not None and row.eot > 0:
                terms.append(log_weight + math.log(row.eot))
        return log_sum(terms)

    def log_bound(self, purpose: Purpose = "row") -> float:
        """Logarithm of U relative to the anchor: the most that flows through what is wanted and not evaluated."""
        return log_sum(self.weights[top] for top in self._wanted(purpose))

    def _wanted(self, purpose: Purpose, allowed: Bool[np.ndarray, "257"] | None = None) -> dict[Node, list[Node]]:
        """Under each front node the nodes whose rows a purpose needs, ancestors included.

        Of those that reach none of the ``allowed`` symbols, where such are given, a row needs nothing.
        """
        wanted: dict[Node, list[Node]] = {}
        ending = set(self.cover.ending) if purpose == "end" else set()
        for top, nodes in self._front.items():
            for node in nodes:
                if allowed is not None and not (self._reached([node]) & allowed).any():
                    continue
                path = path_down(top, node)
                if purpose == "mass" and not self.cover.leftover(node):
                    path.pop()  # its weight is all that P(x) needs of it
                if path and (purpose != "end" or node in ending):
                    wanted.setdefault(top, []).extend(path)
        return wanted

    def _scale(self) -> float:
        """The greatest log-weight: masses are told relative to it."""
        return max((self.weights.get(node, -math.inf) for node in (*self.nodes, *self._front)), default=-math.inf)

    def known(self) -> tuple[float, Float64[np.ndarray, "257"]]:
        """A log-scale, and K in multiples of its exponential. Not to be written to."""
        if self._known is None:
            self._known = self._sum_known()
        return self._known

    def _sum_known(self) -> tuple[float, Float64[np.ndarray, "257"]]:
        scale = self._scale()
        known = np.zeros(SYMBOLS)
        if scale == -math.inf:
            return scale, known
        alive, ending = self.cover.nodes, self.cover.ending
        for node in self.nodes:
            log_weight = self.weights.get(node, -math.inf)
            if log_weight == -math.inf or (row := self.rows.get(node)) is None:
                continue
            weight = math.exp(log_weight - scale)
            if node in alive:
                known[:256] += weight * self._flow(node, row)
            if node in ending:
                known[EOT] += weight * row.eot
        return scale, known

    def envelope(self, allowed: Bool[np.ndarray, "257"] | None = None) -> tuple[float, Envelope]:
        """A log-scale, and in multiples of its exponential K and what can come on top of it for each symbol.

        With ``allowed``, of these symbols alone: the others have nothing, and what reaches none of them is left out.
        """
        scale, known = self.known()
        if allowed is not None:
            known = known * allowed
        if not self._front:
            return scale, Envelope(known, NOTHING, NOTHING, 0.0)
        extra, elsewhere, unknown = np.zeros(SYMBOLS), np.zeros(SYMBOLS), 0.0
        for top, nodes in self._front.items():
            weight = math.exp(self.weights[top] - scale)
            reach = self._reached(nodes)
            if allowed is not None and not (reach := reach & allowed).any():
                continue
            unknown += weight
            extra += weight * reach
            elsewhere += weight * (reach.sum() > reach)
        return scale, Envelope(known, extra, elsewhere, unknown)

    def held(self) -> tuple[float, float, float]:
        """A log-scale, and in multiples of its exponential ΣK and U."""
        scale, known = self.known()
        return scale, float(known.sum()), sum(math.exp(self.weights[top] - scale) for top in self._front)

    def _reached(self, nodes: Iterable[Node]) -> Bool[np.ndarray, "257"]:
        """The symbols that some of these nodes can come to next."""
        reached = np.zeros(SYMBOLS, np.bool_)
        for node in nodes:
            if node not in self._reach:
                reach = np.ones(SYMBOLS, np.bool_)
                if self.cover.leftover(node):
                    reach[:256] = self.cover.masses(node, self.reader.everything) > 0
                    reach[EOT] = False
                self._reach[node] = reach
            reached |= self._reach[node]
        return reached

    def _log_most_with(self, symbol: int) -> float:
        """Logarithm of what P(x·b) is at most, from the masses that were summed."""
        scale, known = self.known()
        most = float(known[symbol])
        for top, nodes in self._front.items():
            if self._reached(nodes)[symbol]:
                most += math.exp(self.weights[top] - scale)
        return scale + math.log(most) if most > 0 else -math.inf

    def log_heaviest(self) -> float:
        """The log-weight of the heaviest node that is not evaluated; −∞ where there is none."""
        return max(map(self.weights.__getitem__, self._front), default=-math.inf)

    # ---- what is asked for, and told

    def missing(
        self,
        share: float = 0.0,
        purpose: Purpose = "row",
        allowed: Bool[np.ndarray, "257"] | None = None,
        *,
        log_whole: float | None = None,
    ) -> tuple[Node, ...]:
        """The nodes to evaluate: the heaviest front node with all that is known to hang on it, and others with it.

        Args:
            share: Front nodes are asked for too if they hold at least this share of all that can be; 0 takes all.
            purpose: What the rows are for: the next byte, P(x), or P(x, end of text).
            allowed: The symbols that may come next; None: all. Nodes that reach none of them are left out.
            log_whole: The logarithm of all that can be, relative to the anchor, where that is known; else it is summed.
        """
        wanted = self._wanted(purpose, allowed)
        if not wanted:
            return ()
        heaviest = max(wanted, key=self.weights.__getitem__)
        least = -math.inf
        if share > 0 and log_whole is not None:
            least = min(math.log(share) + log_whole, self.weights[heaviest])
        elif share > 0:
            scale, known = self.known()
            whole = known.sum() if allowed is None else known.sum(where=allowed)
            whole += sum(math.exp(self.weights[top] - scale) for top in (self._front if allowed is None else wanted))
            if whole > 0:
                least = min(math.log(share * whole) + scale, self.weights[heaviest])
        chosen = {
            node: None
            for top, nodes in wanted.items()
            if self.weights[top] >= least
            for node in nodes
            if self.row(node) is None
        }
        if not chosen:
            # Their rows have reached the store since, through another frontier that shares it.
            self._settle()
            return self.missing(share, purpose, allowed)
        return tuple(sorted(chosen, key=lambda node: node.depth))

    def sequences(self, nodes: Iterable[Node]) -> tuple[tuple[int, ...], ...]:
        """What a model is to be fed for these nodes."""
        return tuple(self.context + node.token_ids for node in nodes)

    def learn(self, nodes: Sequence[Node], rows: Sequence[Given]) -> None:
        """Take in the rows after these nodes."""
        for node, given in zip(nodes, rows, strict=True):
            self.rows[node] = row = self.reader.read(given)
            if self.store is not None:
                self.store.put(node, row)
        self._settle()
