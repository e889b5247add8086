"""The bytes after a prefix, as far as the likely tokens of the rows show them: bounds, without sums over a row.

Theory of operation
    The likely tokens of a row (engines/rows.py) are some hundred, and have nearly all of it. Those of all evaluated
    nodes of x's cover, each times the node's weight, make a known mass K(b) for each next byte b. What they do not show
    is *open*: what the other tokens of these rows have, and what flows through nodes that are not evaluated. With O for
    all of that,

        K(b) ≤ P(x·b | c) ≤ K(b) + O,

    and P(x | c) is no more than what the likely tokens have and O, leak included.
    Once b is taken, the likely tokens that go on with b show the bytes after it. Those that end with b are boundary
    nodes of x·b, whose rows nobody has asked for: what they have is open from then on. So the bytes of a token can be
    looked at one after the other, while the cover stays where it is.

Cost
    Some passes over a few hundred numbers, where a sum over a row passes over the vocabulary. A row that stays on a
    device is not asked: its likely tokens came with it.

Does not
    Read the row after the root where tokens have two spellings (tokenizer/prefix_index.py): all of it is open.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from bytelm.inference.frontier import Frontier
from bytelm.symbols import EOT, SYMBOLS


class Ahead(NamedTuple):
    """Tokens that go on with the text.

    Attributes:
        at: Where the next byte of each is, among the bytes of all tokens.
        end: Where its bytes end.
        masses: What it has; 0 where it may not follow.
    """

    at: Int64[np.ndarray, " n"]
    end: Int64[np.ndarray, " n"]
    masses: Float64[np.ndarray, " n"]


_NONE: Final = Ahead(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, eq=False)
class LikelyBytes:
    """What is known of the masses after a text that begins with a frontier's prefix, in multiples of one unit.

    Attributes:
        tokens: The likely tokens that go on with the text.
        log_unit: The logarithm of the unit, relative to the frontier's anchor.
        open: O.
        front: What of it flows through nodes of the frontier that are not evaluated.
        total: P of the text is no more.
        eot: The mass of the end of text. After more bytes than the prefix it is a part of what is open.
    """

    spelled: UInt8[np.ndarray, " bytes"]
    tokens: Ahead
    _: KW_ONLY
    log_unit: float
    open: float
    front: float
    total: float
    eot: float = 0.0

    @cached_property
    def known(self) -> Float64[np.ndarray, "257"]:
        """K(b) for each symbol. Not to be written to."""
        known = np.zeros(SYMBOLS)
        known += np.bincount(self._next, self.tokens.masses, SYMBOLS)  # of no tokens it makes whole numbers
        known[EOT] = self.eot
        return known

    @cached_property
    def _next(self) -> UInt8[np.ndarray, " n"]:
        found: UInt8[np.ndarray, " n"] = self.spelled[self.tokens.at]
        return found

    @property
    def log_total(self) -> float:
        """The logarithm of what P of the text is at most, relative to the frontier's anchor."""
        return self.log_unit + math.log(self.total) if self.total > 0 else -math.inf

    def heaviest(self) -> tuple[float, bytes]:
        """The mass of the heaviest token, and its bytes beyond the text; 0 and none where there is no token."""
        at, end, masses = self.tokens
        if not len(masses):
            return 0.0, b""
        index = int(masses.argmax())
        return float(masses[index]), self.spelled[at[index] : end[index]].tobytes()

    def after(self, byte: int) -> LikelyBytes:
        """The same after one more byte."""
        on = np.flatnonzero(self._next == byte)
        tokens = Ahead(self.tokens.at[on] + 1, self.tokens.end[on], self.tokens.masses[on])
        longer, known, open_ = tokens.at < tokens.end, float(self.known[byte]), self.open
        if not longer.all():
            open_ += float(tokens.masses.sum(where=~longer))
            tokens = Ahead(*(part[longer] for part in tokens))
        return LikelyBytes(
            self.spelled,
            tokens,
            log_unit=self.log_unit,
            open=open_,
            front=self.front,
            total=min(known + self.open, self.total),
        )


def likely_bytes(frontier: Frontier) -> LikelyBytes:
    """What the rows of a frontier show of the bytes after its prefix."""
    cover, reader = frontier.cover, frontier.reader
    index, alive, ending = reader.prefix_index, cover.nodes, cover.ending
    held = [(node, weight) for node in frontier.nodes if (weight := frontier.weights.get(node, -math.inf)) > -math.inf]
    log_unit = max([frontier.log_heaviest(), *(weight for _, weight in held)])
    front = math.fsum(math.exp(frontier.weights[top] - log_unit) for top in frontier.front)
    open_, total, eot = front, front, 0.0
    parts: list[Ahead] = []
    for node, log_weight in held:
        if (row := frontier.row(node)) is None:
            continue
        weight, leftover = math.exp(log_weight - log_unit), cover.leftover(node)
        if node in ending:
            eot += weight * row.eot
        if node not in alive or (node.parent is None and index.respelled):
            total += weight
            open_ += weight if node in alive else 0.0
            continue
        ranks, probs, rest = row.likely_ranks
        if leftover:
            longer, hi = reader.longer(leftover)
            first, last = ranks.searchsorted((longer, hi))
            ranks, probs, rest = ranks[first:last], probs[first:last], min(rest, (hi - longer) * reader.least_likely)
        shown = 0.0
        if len(ranks):
            lo, _, mask = cover.viable(node)
            masses = probs * (mask[ranks - lo] * weight)
            parts.append(Ahead(index.offsets[ranks] + len(leftover), index.offsets[ranks + 1], masses))
            shown = float(masses.sum()) if leftover else 0.0
        open_ += weight * rest
        total += shown + weight * rest if leftover else weight
    tokens = parts[0] if len(parts) == 1 else Ahead(*map(np.concatenate, zip(*parts, strict=True))) if parts else _NONE
    return LikelyBytes(index.flat, tokens, log_unit=log_unit, open=open_, front=front, total=total, eot=eot)
