r"""Texts drawn by the token under a temperature below 1, top-k, top-p or min-p: with the law of the bytes, exact.

Theory of operation
    token_draws.py has the law for temperature 1 with nothing else done to the distribution. A filter keeps a set K(x)
    of symbols after x, which depends on x alone, and the sampler of bytes (generation.py) draws from

        P(b | x) / P(K(x) | x)    for b in K(x).

    So what a filter leaves out is treated as leak is. After a member of the cover of x, drawn by its posterior, b comes
    with P(b | x). Where b is kept, it is written. Where it is not, or the token is leak, it is thrown away, and what
    follows x is drawn anew: a symbol from the distribution above, and a member of the longer prefix's cover by its
    posterior. With ρ for the probability of that, b in K(x) comes with

        P(b | x) + ρ(x) · P(b | x) / P(K(x) | x)  =  P(b | x) / P(K(x) | x),

    since ρ(x) = 1 − P(K(x) | x). What is known of the member after it depends on x·b alone, either way.
    The bytes of a token are asked for one after the other, each at its own place. What was kept before one that is not
    stays.
    At a temperature T below 1 the sampler of bytes draws in proportion to P(b | x)^(1/T). There a byte that the filters
    keep is kept with probability

        a(b | x)  =  (P(b | x) / max P(c | x))^(1/T − 1),

    so that P(b | x) · a(b | x) is in that proportion. By the same sum, b comes with the probability that it shall.

Which bytes are kept
    A symbol with more than some share σ of P(x) is kept, whatever else there is (`Filters.kept_share`): below
    temperature 1 with half of it, as it is then the likeliest. As P(x·b) is at most P(x), all bytes of a token are kept
    that has more than σ · P(x). P(x) need not be known for that, only what it is at most. Where a token has less, the
    likely tokens of the rows are looked at, byte by byte (inference/likely_bytes.py): mostly their masses show that a
    byte is kept. Where they leave it open, all masses at the place are summed, and it is decided by the bounds of
    bounds.py, for which more is evaluated as needed.

Cost
    Mostly a row a token. The cover is taken along, a token at a time.
    Where little is kept, most tokens would be thrown away: there the sampler of bytes is used (`Filters.by_token`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bytelm.cover.nodes import Node
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate
from bytelm.inference.likely_bytes import LikelyBytes, likely_bytes
from bytelm.inference.scheduler import Step, changed, on
from bytelm.sampling.bounds import surely_kept
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.posterior import by_bounds
from bytelm.sampling.sure_bytes import LEEWAY
from bytelm.sampling.writing import PlacedGeneration
from bytelm.symbols import EOT


class FilteredDraws(PlacedGeneration):
    """A completion of one byte model that is drawn by the token, of the bytes that filters keep.

    It has the arguments and attributes of `PlacedGeneration`.

    Attributes:
        redrawn: How often what a token spelled was not to be written.
    """

    place: ModelPlace

    def __init__(
        self,
        place: ModelPlace,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(place, params, random, score)
        self.finish_reason = None if params.max_bytes else "length"
        self.redrawn = 0
        self._log_share = math.log(params.filters.kept_share * LEEWAY)
        # The longest node of the member that the tokens so far are; None where a member is to be drawn.
        self._node: Node | None = None
        self._ahead: tuple[int, float] | None = None  # the token with which the member goes on, and its logprob
        # Where a stop string began, the completion ends: so far back a place may be needed.
        self._recent: deque[ModelPlace] = deque(maxlen=self.scanner.longest + 1)

    def step(self) -> Step[None]:
        """Draw a token and write its bytes, as far as they are kept."""
        done = len(self.bytes) / self.params.max_bytes
        step = on(self.place.token_lm, self._step(), self.place.since)
        yield from changed(step, lambda request: replace(request, done=done))

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        step = on(self.place.token_lm, self._scored(), self.place.since)
        done = yield from changed(step, lambda request: replace(request, done=1.0))
        return replace(done, usage=replace(done.usage, largest_leak_bound=None, redrawn=self.redrawn))

    @property
    def _here(self) -> Frontier:
        return self.place.frontier

    def _step(self) -> Step[None]:
        if not self._recent:
            yield from self.place.begin()
            self.place = self.place.copy()
            self._start = self.place.mass()[0]
            self._recent.append(self.place)
        if self._node is None:
            yield from self._find()
        elif self._ahead is None:
            yield from self._draw(self._node)
        else:
            (token, logprob), self._ahead = self._ahead, None
            yield from self._take(self._node, token, logprob)

    # ---- tokens

    def _find(self) -> Step[None]:
        """Draw a member of the cover."""
        if self._here.opening:
            self._node = self._here.nodes[0]  # no byte has been drawn yet
            return
        member = yield from by_bounds(self._here, self._random)
        self._node = member.node
        self._ahead = None if member.token is None else (member.token, member.logprob)

    def _draw(self, node: Node) -> Step[None]:
        """Draw the token after a node."""
        if (row := self._here.row(node)) is None:
            yield from evaluate(self._here, (node,))
            row = self._here.rows[node]
        token, logprob = row.drawn(self._random.random())
        yield from self._take(node, token, logprob)

    def _take(self, node: Node, token: int, logprob: float) -> Step[None]:
        """Write what a token spells after a node, as far as it is kept, and else draw anew what follows."""
        log_mass, new = self._here.weights[node] + logprob, self._spelled(node, token)
        if new is None or token in self._here.reader.ends:
            ends = token in self._here.reader.ends and node in self._here.cover.ending
            if ends and (yield from self._keeps(EOT)):
                self.finish_reason = "eot"
            else:
                yield from self._redraw()
            return
        while new:
            kept = self._kept(new, log_mass)
            if not kept and not (yield from self._keeps(new[0])):
                yield from self._redraw()
                return
            taken = new[: max(kept, 1)] if kept <= self.place.room() else new[:1]
            self._write(taken)
            if self.finish_reason is not None:
                return
            new = new[len(taken) :]
        self._node = next((n for n in self._here.cover.nodes if n.parent is node and n.token_id == token), None)
        if self._node is None:  # it spelled a part of a hidden leading space, after which nothing can come
            yield from self._redraw()

    def _spelled(self, node: Node, token: int) -> bytes | None:
        """The bytes that a token adds to the text after a node; None where the tokenizer would not put it there."""
        cover = self._here.cover
        data, leftover = cover.follows(node, token), cover.leftover(node)
        spells = data and (data.startswith(leftover) or leftover.startswith(data))
        return data[len(leftover) :] if spells else None

    def _redraw(self) -> Step[None]:
        """Draw the next symbol anew; a member of its cover is drawn in the next step."""
        self.redrawn += 1
        self._node = None
        symbol = int((yield from self.place.draw(self.params.filters, self._random.random(1), self._random))[0])
        self.drew(self.place)
        if symbol == EOT:
            self.finish_reason = "eot"
        else:
            self._write(bytes([symbol]))

    # ---- what is kept

    def _kept(self, data: bytes, log_mass: float) -> int:
        """How many of the next bytes are certainly kept, as far as the likely tokens show it.

        Args:
            data: The bytes.
            log_mass: Of a token that spells them.
        """
        here, share, at = self._here, math.exp(self._log_share), 0
        if here.opening:
            return 0
        if log_mass > here.limit + self._log_share:
            here.limit_ahead(data, here.limit)
            return len(data)
        ahead = likely_bytes(here)
        mass = math.exp(log_mass - ahead.log_unit)
        while at < len(data):
            if mass > share * ahead.total:
                at = len(data)
            elif ahead.known[data[at]] > share * ahead.total or self._surely_kept(ahead, data[at]):
                ahead = ahead.after(data[at])
                at += 1
            else:
                break
        here.limit_ahead(data[:at], ahead.log_total)
        return at

    def _surely_kept(self, ahead: LikelyBytes, byte: int) -> bool:
        return surely_kept(ahead.known, ahead.open, self.params.filters, byte)

    def _keeps(self, symbol: int) -> Step[bool]:
        """Whether a symbol is kept."""
        _, known = self._here.known()
        _, total, unknown = self._here.held()
        if known[symbol] > math.exp(self._log_share) * (total + unknown):
            return True
        uniform = 0.0 if self.params.temperature == 1 else self._random.random()
        return (yield from self.place.keeps(self.params.filters, symbol, uniform))

    def _write(self, data: bytes) -> None:
        """Append bytes, up to where the text ends, and take the place along."""
        for byte in data:
            self.write(byte)
            if self.finish_reason is not None:
                break
        before, end = len(self.prompt), len(self.prompt) + len(self.bytes)
        if self.finish_reason == "stop":
            self.place = next(place for place in reversed(self._recent) if len(place.prefix) <= end)
        self.place = self.place.advance(bytes(self.bytes[len(self.place.prefix) - before :]))
        self._recent.append(self.place)
        if self.finish_reason is None and self.place.room() < 0:
            self.finish_reason = "length"
