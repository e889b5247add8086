r"""Texts drawn by the token, with the law of the bytes: exact, leak and all.

Theory of operation
    At temperature 1, with nothing else done to the distribution, bytes are needed at the prompt's end alone. Draw a
    member of the prompt's cover by its exact posterior, P(t | c) / P(x | c), and after it one token after another from
    the model's rows. Given the bytes so far, the tokens so far are then again a member of their cover, drawn by its
    posterior: nothing has to be summed any more, and the bytes are those of the tokens.

    What is left is the leak. After x it is the probability that the member ends with x and the next token is none that
    the tokenizer would put there: a token that makes the sequence unviable, a special token, or an end after a
    sequence that is not canonical. With ℓ for the leak the sampler of bytes (generation.py) draws byte b from

        P(b | x) / (1 − ℓ(x)).

    So where such a token is drawn, it is thrown away and what follows x is drawn anew: by a symbol from just that
    distribution and a member of the longer prefix's cover, by its posterior. After x, byte b then comes with

        P(b | x) + ℓ(x) · P(b | x) / (1 − ℓ(x))  =  P(b | x) / (1 − ℓ(x)),

    and what follows it depends on x·b alone, either way: the text has the sampler's distribution, to the last bit of
    the model's own arithmetic. By the same sum, a member of x's own cover may be drawn in place of the symbol
    (posterior.py), and the drawing go on from there: that needs fewer rows, and is done first; at a second leak after x
    it is the symbol, so that it comes to an end. How often it happened is in the usage (``redrawn``).

Who draws
    The engine itself, at its own full speed (engine_draws.py), or bytelm from the engine's rows (row_draws.py).

Numbers
    ``Completion.logprob`` is what it is everywhere: ln P(bytes | prefix) by the lemma, and not the sum over the tokens
    that were drawn, which is only one of the ways to spell the text. Of the last bytes' cover only the nodes that lie
    beyond their common ancestor are evaluated. The weights of the ancestor, and of the nodes on the way that was drawn
    from there, are the products of the probabilities that the tokens were drawn with.

Cost
    Rows at the prompt's end and at the text's end, a handful each; between them, one a token. After leak a row more, or
    none. A walk over the bytes of each token that is drawn. The cover of a text's end is that of the bytes behind its
    last sure cut (cover/sure_cuts.py); where none is found, the cover is taken along the text.

The end of the context
    A text ends for its length where the sampler's does: at the first byte after which some node has more tokens than
    the context. Near the end the cover is taken along to see it. So no draw comes to the end of the context.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bytelm.cover.cover import Node as CoverNode
from bytelm.cover.cover_cache import grown
from bytelm.cover.nodes import Node, common_ancestor, path_down
from bytelm.inference.frontier import Frontier
from bytelm.inference.job_usage import JobUsage
from bytelm.inference.lazy import settled_log_mass
from bytelm.inference.room import SPARE
from bytelm.inference.scheduler import Step
from bytelm.sampling.completion import Completion
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.posterior import CoverMember, by_shares, by_walks
from bytelm.sampling.writing import Writing
from bytelm.symbols import EOT
from bytelm.token_lm import abilities_of
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability


class TokenDraws(Writing):
    """A completion of one byte model that is drawn by the token.

    Args:
        place: At the end of the prompt; completions may share it.
        viability: Of the tokenizer.
        params: When to end; nothing is done to the distribution.
        random: The item's random numbers.
        at_once: Whether a call less is worth some rows more.

    Attributes:
        prompt: The prompt's bytes.
        redrawn: How often a token was leak.
        drawn: Tokens that were drawn.
    """

    def __init__(
        self,
        place: ModelPlace,
        viability: Viability,
        params: SamplingParams,
        random: np.random.Generator,
        *,
        at_once: bool = False,
    ) -> None:
        super().__init__(params)
        self.finish_reason = None if params.max_bytes else "length"
        self._prompt = prompt = place.frontier
        self.prompt = place.prefix
        self.params = params
        self._token_lm, self._since = place.token_lm, place.since
        self.redrawn = self.drawn = 0
        self._viability = viability
        self._random = random
        self._at_once = at_once
        self._context = abilities_of(place.token_lm).context_length or sys.maxsize
        self._edge: Any = None  # near the end of the context, the cover of the text so far
        self._ends = frozenset(prompt.reader.eot_ids.tolist())
        # Where a member was last drawn, and the bytes that there were.
        self._place, self._placed = prompt, 0
        self._start = 0.0  # the prompt's log-mass, once a member of its cover is drawn
        # The tokens so far, of which the first `_whole` are a node of the place. Of that node, and of each longer
        # sequence, the log-weight relative to the prompt's anchor.
        self._node: Any = None
        self._whole = 0
        self._log_weights: list[float] = []
        self._goes_on = False  # else a member is to be drawn
        self._leaked_at: int | None = None  # bytes that there were at the last leak
        self._rest = b""  # of the text so far, what the next tokens spell: a hidden leading space

    # ---- tokens

    @property
    def sequence(self) -> tuple[int, ...]:
        """The tokens so far, and what stands in front of the text: what the next one is drawn after."""
        ids: tuple[int, ...] = self._node.token_ids
        return self._prompt.context + ids

    def take(self, token: int, logprob: float) -> bool:
        """Append a token that was drawn. False where the text has ended, or a member is to be drawn anew."""
        self.drawn += 1
        if token in self._ends:
            if self._may_end():
                self.finish_reason = "eot"
                return False
        elif (found := self._after(token)) is not None:
            self._append(token, *found, logprob)
            return self.finish_reason is None
        self.redrawn += 1
        self._goes_on = False
        return False

    def _may_end(self) -> bool:
        """Whether the tokens so far are among the cover's sequences after which a text may end."""
        if self._prompt.opening and not self.bytes:
            return not self._node.token_ids
        return not self._rest and self._goes_on and self._viability.ends_text(self._node.boundary)

    def _after(self, token: int) -> tuple[bytes, Boundary] | None:
        """What a token spells after those so far, and the boundary behind it; None where it is leak."""
        data = self._viability.spelled(self._node.boundary, token) if self._goes_on else b""
        if not data or not (data.startswith(self._rest) or self._rest.startswith(data)):
            return None
        after = self._viability.extend(self._node.boundary, token)
        return None if after is None else (data, after)

    def _append(self, token: int, data: bytes, after: Boundary, logprob: float) -> None:
        self._node = CoverNode(self._node, token, self._node.end + len(data), after)
        self._log_weights.append(self._log_weights[-1] + logprob)
        new, self._rest = data[len(self._rest) :], self._rest[len(data) :]
        for byte in new:
            self._write(byte)
            if self.finish_reason:
                return

    def _write(self, byte: int) -> None:
        """Append a byte; where the text ends, and where the context does, the completion ends."""
        self.write(byte)
        before = len(self._prompt.context)
        if self.finish_reason or before + self._node.depth + SPARE <= self._context:
            return
        if self._edge is None:
            self._edge = self._prompt.cover
        self._edge = self._edge.advance(bytes(self.bytes[len(self._edge.prefix) - len(self.prompt) :]))
        if before + max(node.depth for node in (*self._edge.nodes, *self._edge.ending)) > self._context:
            self.finish_reason = "length"

    # ---- where to go on from, and what was written

    def _begin(self) -> Step[None]:
        """Draw a member of the cover; where a second token in a row was leak, a symbol before."""
        place, way, again = self._prompt, dict[Node, float](), False
        if self.redrawn:
            place, way = self._here()
            again, self._leaked_at = self._leaked_at == len(self.bytes), len(self.bytes)
            if again:
                here = ModelPlace(place, self._token_lm, self._since)
                symbol = int((yield from here.draw(Filters(), self._random.random(1), self._random))[0])
                self.drew(here)
                if symbol == EOT:
                    self.finish_reason = "eot"
                    return
                self._write(symbol)
                if self.finish_reason:
                    return
                place = place.advance(bytes([symbol]))
        if place.opening:
            root = place.nodes[0]  # no byte has been drawn yet
            self._go_on(place, CoverMember(root, place.weights[root]))
        elif way and not again:
            self._go_on(place, (yield from by_walks(place, way, self._random, at_once=self._at_once)))
        else:
            member = yield from by_shares(place, self._random)
            if not self.redrawn:
                self._start = place.log_mass()
            self._go_on(place, member)

    def _go_on(self, place: Frontier, member: CoverMember) -> None:
        """Go on from a member of the cover of the text so far."""
        self._node, self._whole, self._goes_on = member.node, member.node.depth, True
        self._rest = place.cover.leftover(member.node)
        self._place, self._placed = place, len(self.bytes)
        self._log_weights = [member.log_weight]
        if member.token is not None and (found := self._after(member.token)) is not None:
            self._append(member.token, *found, member.logprob)

    def _here(self) -> tuple[Frontier, dict[Node, float]]:
        """The end of the text so far, its weights relative to the prompt's anchor; and the way there that was drawn.

        All that is to be evaluated lies beyond the common ancestor of its nodes, where that is among the tokens drawn;
        else it lies not far from where the member was drawn, from which the evaluation goes on.
        """
        place, placed = self._place, self._placed
        if len(self.bytes) < placed:  # a stop string began before
            place, placed = self._prompt, 0
        since = bytes(self.bytes[placed:])
        if not since:
            return place.copy(), {}
        known: Any = place.cover  # cover/cover.py's
        cover = grown(known, since, self._drawn_to, meeting=False)
        ancestor = common_ancestor((*cover.nodes, *cover.ending))
        if not self._drawn_through(ancestor):
            return place.advance(since), {}
        last = max(filter(self._drawn_through, (ancestor, *cover.nodes, *cover.ending)), key=lambda node: node.depth)
        way = {node: self._log_weights[node.depth - self._whole] for node in path_down(ancestor, last)}
        return Frontier(cover, context=place.context, reader=place.reader, weights=way, rows=place.rows), way

    def _drawn_to(self, start: Any, end: int, _: bytes) -> Any:
        """The node at a place in the text, on the way that was drawn, if that leads through another one."""
        node = self._node
        while node.end > end:
            node = node.parent
        return node if node.end == end and node.token_ids[: start.depth] == start.token_ids else None

    def _drawn_through(self, node: Any) -> bool:
        """Whether a node is the one that was drawn, or that and tokens drawn after it."""
        beyond: int = node.depth - self._whole
        return 0 <= beyond < len(self._log_weights) and self._node.token_ids[: node.depth] == node.token_ids

    def _score(self) -> Step[float]:
        """Log-probability of what was written."""
        ended = self.finish_reason == "eot"
        if not self.bytes and not ended:
            return 0.0
        return (yield from settled_log_mass(self._here()[0], ended=ended)) - self._start

    def _completed(self) -> Step[Completion]:
        """The completion, once the text has ended."""
        logprob = yield from self._score()
        seen = None if self.leak is None else self.leak[0]
        return self.written(logprob, self.prompt, JobUsage(largest_leak=seen, redrawn=self.redrawn))
