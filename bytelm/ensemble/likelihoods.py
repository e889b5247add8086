"""Each member's log-probability of the shared text, for bayes: scored once for all that go on from there.

Rules
    Likelihoods are of the bytes that the members share. What a member has to itself in front of them does not count.
    A member that cannot spell the text gives it probability 0.
    They are of the models as they are: those of a model that was changed since are found anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cachetools import LRUCache

from bytelm.inference.revisions import present_revision
from bytelm.inference.scheduler import Step
from bytelm.sampling.byte_model import ByteModel

REMEMBERED: Final = 256  # texts of members


class Likelihoods:
    """Finds and remembers how likely each member found a text.

    Args:
        members: The byte models.
    """

    def __init__(self, members: Sequence[ByteModel[Any, Any]]) -> None:
        self.members = tuple(members)
        self._known: LRUCache[tuple[Any, ...], float] = LRUCache(REMEMBERED)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def of(self, i: int, prompt: Any, text: bytes) -> Step[float]:
        """Ln P(text | prompt) under member ``i``.

        Args:
            i: Which member.
            prompt: What it has to itself, read by it.
            text: What the members share.
        """
        key = (i, prompt, text, *(present_revision(engine) for engine in self.members[i].engines))
        if key not in self._known:
            self._known[key] = yield from self.members[i].scored(prompt, text, strict=False)
        return self._known[key]
