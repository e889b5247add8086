"""A byte model that drafts: its own text, drawn from what is known of its rows.

Theory of operation
    A draft need not have the model's law, only one that is told. So a row is evaluated only until most of its mass is
    known, and the symbol is drawn from what is known, divided by its sum. That takes about one model call a token.
    What the other model knows of the first symbol did not decide it. So that much is taken off its distribution here.

Rules
    The place is that of the text, as far as it was accepted; what was rejected is forgotten.
    Where the drafter's context ends it proposes nothing more.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from bytelm.errors import UnreachablePrefixError
from bytelm.inference.scheduler import Step
from bytelm.sampling.constrained import Binding
from bytelm.sampling.drafter import Drafter, Drafting, Proposal, Surroundings, certain
from bytelm.sampling.draw import drawn
from bytelm.sampling.filters import Filters
from bytelm.sampling.place import Place
from bytelm.symbols import EOT

OPEN: Final = 0.1  # of a row's mass that may be left open


class ModelDrafting(Drafting):
    """A byte model that drafts for one text.

    Args:
        place: At the end of the byte prefix.
        filters: What is done to each distribution.
        random: Random numbers.
        read: Bytes of the byte prefix, where the drafter's own prompt has another; None: it has the same.
    """

    def __init__(self, place: Place, filters: Filters, random: np.random.Generator, *, read: int | None = None) -> None:
        self._place = place
        self._read = len(place.prefix) if read is None else read
        self._filters = filters
        self._random = random

    def propose(
        self, text: bytes, length: int, binding: Binding | None, known: Float64[np.ndarray, "257"]
    ) -> Step[list[Proposal]]:
        """As in `Drafting`."""
        if new := text[self._read :]:
            self._place, self._read = self._place.advance(new), len(text)
        place, proposals = self._place, list[Proposal]()
        while len(proposals) < length and place.room() >= 0:
            if binding is not None and binding.done:
                break
            forced = b"" if binding is None else binding.forced()
            if forced:
                proposals.append(Proposal(forced[0], certain(forced[0])))
            else:
                row, _ = yield from place.full_row(tol=OPEN)
                masses = np.exp(row)
                if binding is not None:
                    masses = masses * binding.mask()
                if not masses.any():
                    break
                probs = self._filters.apply(masses)
                if not proposals and (beyond := np.maximum(probs - known, 0.0)).any():
                    probs = beyond / beyond.sum()
                proposals.append(Proposal(drawn(self._random.random(), probs), probs))
            symbol = proposals[-1].symbol
            if symbol == EOT:
                break
            try:
                place = place.advance(bytes([symbol]))
            except UnreachablePrefixError:
                break
            if binding is not None:
                binding.advance(symbol)
        return proposals


class AskedDrafter(Drafter):
    """A byte model that drafts, and is asked in its own way.

    Args:
        lm: It.
        surroundings: What surrounds the text.
    """

    def __init__(self, lm: Any, surroundings: Surroundings) -> None:
        self._lm, self._surroundings = lm, surroundings

    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:  # noqa: D102
        lm, own = self._surroundings.own(self._lm)
        lm.check_rows()
        return ModelDrafting(lm.place(lm.prompt(own)), filters, random, read=len(prefix))
