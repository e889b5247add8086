"""The log-probability of a text, whole or byte by byte, in few requests.

Rules
    All that a score needs is known before the model runs: the boundary nodes come from the tokenizer alone. A whole
    text needs the covers of its two ends, and so the sequences that lead to them; the bytes of a text need every
    boundary node of every byte.
    Rows are asked for in chunks, and each is reduced to the few numbers that are needed of it as soon as it is there:
    memory does not grow with rows times vocabulary. Covers are kept for a window of the text at a time.

    At each cut P(x₁…xᵢ) is taken from the nodes that end there or before; ln P(xᵢ | before) is the difference of two
    logarithms.

    A text that is longer than the model's context has no probability under it. With a stride it is scored in pieces,
    each given as much of what stands before it as the context holds (room.py): another number, by another name.

Cost
    `logprob`: one row a token of the text and a few at the ends. `byte_logprobs`: three to four rows a token of the
    text (counted on English and Python). A chunk holds about `CHUNK_BYTES` of rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float, Float64

from bytelm.cover.nodes import Cover, Node, Paths, RankedArray, common_ancestor
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Request, Step, changed, rows_in
from bytelm.lemma import log_sum
from bytelm.symbols import EOT, SYMBOLS

T = TypeVar("T")
Span: TypeAlias = tuple[float, float]
Reading: TypeAlias = Callable[[Node, Float[np.ndarray, " vocab"]], None]

SHOWN_IDS: Final = 8  # of the end of a sequence, in a repr


@dataclass(frozen=True, slots=True)
class CoverItem:
    """A member of a cover: a token sequence that begins with the prefix, and ends with the token that holds its end.

    Attributes:
        token_ids: The sequence, without the context.
        logprob: ln P(sequence | context).
    """

    token_ids: tuple[int, ...]
    logprob: float

    def __repr__(self) -> str:
        last = ", ".join(map(str, self.token_ids[-SHOWN_IDS:]))
        ids = f"…, {last}" if len(self.token_ids) > SHOWN_IDS else last
        return f"CoverItem([{ids}], {len(self.token_ids)} tokens, logprob={self.logprob:.4f})"


class Ledger:
    """Log-weights of nodes relative to an anchor, worked out as rows come in.

    Args:
        context: Token ids in front of the text.
        reader: Reads rows.
        anchor: The node of weight 1: an ancestor of all nodes that are ever asked about.
    """

    def __init__(self, context: tuple[int, ...], reader: RowReader, anchor: Node) -> None:
        self.context = context
        self.reader = reader
        self.weights: dict[Node, float] = {anchor: 0.0}

    def weigh(
        self, nodes: Iterable[Node], read: Reading, *, whole: Iterable[Node] = (), span: Span = (0.0, 1.0)
    ) -> Step[None]:
        """Find the weights of some nodes, and have the rows of some of them read.

        Args:
            nodes: The nodes whose rows are read.
            read: Called with a node and its row as soon as the row is there; the node's weight is known by then.
            whole: More nodes that are to be weighed.
            span: From what share of the job to what share this takes it.
        """
        reading = dict.fromkeys(nodes)
        wanted, below = dict(reading), dict[Node, list[Node]]()
        for target in (*reading, *whole):
            node = target
            while node not in self.weights and node.parent is not None:
                siblings = below.setdefault(node.parent, [])
                if node in siblings:
                    break
                siblings.append(node)
                node = node.parent
                wanted[node] = None
        ordered = sorted(wanted, key=lambda node: node.depth)  # parents first
        size = rows_in(self.reader.vocab_size)
        for start in range(0, len(ordered), size):
            chunk = ordered[start : start + size]
            done = span[0] + (span[1] - span[0]) * start / len(ordered)
            rows = yield Request(Paths(self.context, chunk), done)
            for node, row in zip(chunk, rows, strict=True):
                for child in below.get(node, []):
                    self.weights[child] = self.weights[node] + self.reader.logprob(row, child.token_id)
                if node in reading and self.weights[node] > -math.inf:
                    read(node, row)

    def log_masses(self, covers: Sequence[Cover], *, ends: bool = False, span: Span = (0.0, 1.0)) -> Step[list[float]]:
        """Log-mass of the prefix of each cover.

        Args:
            covers: Of prefixes of one text, in order.
            ends: Whether the last one stands for its prefix and the end of text after it.
            span: From what share of the job to what share this takes it.
        """
        last = len(covers) - 1 if ends else len(covers)
        uses: dict[Node, list[int]] = {}  # whose rows, and for which covers
        whole: list[list[Node]] = [[] for _ in covers]  # cover members that are nodes themselves
        for position, cover in enumerate(covers):
            for node in cover.ending if position == last else dict.fromkeys((*cover.nodes, *cover.ending)):
                if position == last or cover.leftover(node):
                    uses.setdefault(node, []).append(position)
                else:
                    whole[position].append(node)
        terms: list[list[float]] = [[] for _ in covers]

        def read(node: Node, array: Float[np.ndarray, " vocab"]) -> None:
            # The leftover only grows, so its tokens are all among those of the first cover.
            lo, hi = self.reader.prefix_index.range(covers[uses[node][0]].leftover(node))
            eot, probs = self.reader.eot(array), self.reader.probs(array, lo, hi)
            for position in uses[node]:
                mass = eot if position == last else float(covers[position].masses(node, RankedArray(probs, lo)).sum())
                terms[position].append(self.weights[node] + math.log(mass) if mass > 0 else -math.inf)

        yield from self.weigh(uses, read, whole=itertools.chain.from_iterable(whole), span=span)
        return [
            # Any text begins with nothing.
            log_sum([*terms[i], *(self.weights[node] for node in whole[i])]) if i == last or covers[i].prefix else 0.0
            for i in range(len(covers))
        ]

    def log_rows(
        self, covers: Sequence[Cover], *, rows: int, span: Span = (0.0, 1.0)
    ) -> Step[tuple[list[float], Float64[np.ndarray, "rows 257"]]]:
        """Log-mass of the prefix of each cover, and for some of them that of the prefix with each symbol behind it.

        Args:
            covers: Of prefixes of one text, in order.
            rows: Of how many of them, from the first on, the symbols behind are asked for too.
            span: From what share of the job to what share this takes it.
        """
        uses: dict[Node, list[int]] = {}
        whole: list[list[Node]] = [[] for _ in covers]
        for position, cover in enumerate(covers):
            for node in dict.fromkeys((*cover.nodes, *cover.ending)):
                if not cover.leftover(node):
                    whole[position].append(node)
                if position < rows or cover.leftover(node):
                    uses.setdefault(node, []).append(position)
        alive = [set(cover.nodes) for cover in covers]
        ending = [set(cover.ending) for cover in covers]
        log_rows = np.full((rows, SYMBOLS), -np.inf)
        terms: list[list[float]] = [[] for _ in covers]

        def read(node: Node, array: Float[np.ndarray, " vocab"]) -> None:
            lo, hi = self.reader.prefix_index.range(covers[uses[node][0]].leftover(node))
            probs = self.reader.probs(array, lo, hi)
            weight = self.weights[node]
            for position in uses[node]:
                masses = np.zeros(SYMBOLS)
                if node in alive[position]:
                    masses[:EOT] = covers[position].masses(node, RankedArray(probs, lo))
                if covers[position].leftover(node) and masses.any():
                    terms[position].append(weight + math.log(masses.sum()))
                if position >= rows:
                    continue
                if node in ending[position]:
                    masses[EOT] = self.reader.eot(array)
                with np.errstate(divide="ignore"):
                    log_rows[position] = np.logaddexp(log_rows[position], weight + np.log(masses))

        yield from self.weigh(uses, read, whole=itertools.chain.from_iterable(whole), span=span)
        for position, nodes in enumerate(whole):
            terms[position] += [self.weights[node] for node in nodes]
        # Any text begins with nothing.
        masses = [log_sum(terms[i]) if cover.prefix else 0.0 for i, cover in enumerate(covers)]
        return masses, log_rows

    def forget(self, cover: Cover) -> None:
        """Keep only the weights that prefixes from this one on can ask about."""
        needed = set()
        for node in {*cover.nodes, *cover.ending}:
            path: Any = node
            while path not in self.weights and path.parent is not None:
                path = path.parent  # what was begun by the last byte may not be weighed yet
            needed.add(path)
        self.weights = {node: weight for node, weight in self.weights.items() if node in needed}


def text_logprob(
    start: Cover, text: bytes, *, context: tuple[int, ...], reader: RowReader, eot: bool = False
) -> Step[float]:
    """Log-probability of a text given what came before, with ``eot`` of the text and then the end.

    Args:
        start: The cover of what came before.
        text: The text to score.
        context: Token ids in front of all of it.
        reader: Reads rows.
        eot: Whether the text ends there.
    """
    ledger = Ledger(context, reader, common_ancestor((*start.nodes, *start.ending)))
    before, after = yield from ledger.log_masses([start, start.advance(text)], ends=eot)
    return difference(before, after)


def in_turn(steps: Iterable[Step[T]], *, count: int) -> Step[list[T]]:
    """The results of several steps, one after the other."""
    results: list[T] = []

    def part(asked: Request) -> Request:
        return replace(asked, done=(len(results) + asked.done) / count)

    for step in steps:
        results.append((yield from changed(step, part)))
    return results


def cover_items(cover: Cover, *, context: tuple[int, ...], reader: RowReader) -> Step[list[CoverItem]]:
    """The members of a cover, in no order.

    Args:
        cover: At a prefix.
        context: Token ids in front of the text.
        reader: Reads rows.
    """
    nodes = tuple(dict.fromkeys((*cover.nodes, *cover.ending)))
    root = common_ancestor(nodes)
    while root.parent is not None:
        root = root.parent
    if not cover.prefix:
        return [CoverItem((), 0.0)]
    ledger = Ledger(context, reader, root)
    found: list[CoverItem] = []

    def read(node: Node, row: Float[np.ndarray, " vocab"]) -> None:
        leftover = cover.leftover(node)
        lo, hi, mask = cover.viable(node)
        longer = reader.prefix_index.equal_to(leftover, lo, hi)
        ids = reader.order[longer:hi][mask[longer - lo :]]
        logprobs = ledger.weights[node] + reader.logprobs(row, ids)
        ahead = zip(ids.tolist(), logprobs.tolist(), strict=True)
        found.extend(CoverItem((*node.token_ids, i), logprob) for i, logprob in ahead)

    yield from ledger.weigh([node for node in nodes if cover.leftover(node)], read, whole=nodes)
    found.extend(CoverItem(node.token_ids, ledger.weights[node]) for node in nodes if not cover.leftover(node))
    return found


def difference(before: float, after: float) -> float:
    """The logarithm of a conditional probability; −∞ where the condition is impossible already."""
    return after - before if before > -math.inf else -math.inf
