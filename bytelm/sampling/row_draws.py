"""Completions whose tokens are drawn here, from the rows that any engine gives.

Theory of operation
    token_draws.py has the law: at temperature 1, with nothing else done to the distribution, the bytes of tokens that
    are drawn from a member of the prompt's cover on have the distribution of the bytes. A token is drawn by one uniform
    number, against the row's probabilities in the order of the ids.

Cost
    One row a token, none of whose masses are put in byte order; a sum over the row, and a walk over the token's bytes.
    The prompt's rows come in one request. The row of a member's own node is drawn from where it is known already.
    Of the last `KEPT` tokens the rows stay: at the text's end, and after leak, they need not be asked for again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from bytelm.cover.nodes import Node
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate_all
from bytelm.inference.revisions import check_revision
from bytelm.inference.rows import Row
from bytelm.inference.scheduler import Request, Step, on
from bytelm.sampling.completion import Completion
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.posterior import CoverMember
from bytelm.sampling.token_draws import TokenDraws
from bytelm.sampling.writing import Generation

KEPT: Final = 3


class RowDraws(TokenDraws, Generation):
    """A completion of one byte model whose tokens are drawn from its rows.

    Args:
        place: At the end of the prompt. It is evaluated in full if it is not yet, and otherwise left as it is.
        params: When to end; nothing is done to the distribution.
        random: The item's random numbers.
    """

    def __init__(self, place: ModelPlace, params: SamplingParams, random: np.random.Generator) -> None:
        cover: Any = place.frontier.cover  # cover/cover.py's
        super().__init__(place, cover.viability, params, random)
        self.place = place
        # By the tokens before it: the rows that the last tokens were drawn from, and the next one, where it is known.
        self._rows: dict[int, Row] = {}
        self._reader = place.frontier.reader

    def step(self) -> Step[None]:
        """Draw a token and append its bytes; or find out where to go on from."""
        if not self._goes_on:
            yield from on(self._token_lm, self._begin(), self._since)
        if self.finish_reason is not None or not self._goes_on:
            return
        depth = self._node.depth
        row = self._rows.get(depth)
        if row is None:
            done = len(self.bytes) / self.params.max_bytes
            (given,) = yield Request((self.sequence,), done, (self._token_lm,), far=True)
            check_revision(self._token_lm, self._since, look=False)
            self._rows[depth] = row = self._reader.read(given, brief=True)
            self._rows.pop(depth - KEPT, None)
        self.take(*row.drawn(self._random.random()))
        if len(self._log_weights) == KEPT:
            self._place = self._place.bare()

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step."""
        return on(self._token_lm, self._completed(), self._since)

    def _begin(self) -> Step[None]:
        if self.redrawn:
            yield from super()._begin()
            return
        yield from evaluate_all(self._prompt)
        yield from super()._begin()
        self._prompt = self._prompt.bare()  # its rows may be many
        self.place = ModelPlace(self._prompt, self._token_lm, self._since)

    def _go_on(self, place: Frontier, member: CoverMember) -> None:
        known = None if member.token is not None else place.row(member.node)
        self._rows = {} if known is None else {member.node.depth: known}
        super()._go_on(place, member)

    def _here(self) -> tuple[Frontier, dict[Node, float]]:
        place, way = super()._here()
        if known := [node for node in way if node.depth in self._rows]:
            place.learn(known, [self._rows[node.depth].given for node in known])
        if self.finish_reason is None:
            self.drew(ModelPlace(place, self._token_lm, self._since))
        return place, way
