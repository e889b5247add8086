"""What proposes the next bytes of a text, for another model to check: a byte model, or the text's own repetitions.

Rules
    A proposal is a symbol with the distribution that it was drawn from. Any distribution will do, as long as it is the
    one: what is accepted has the law of the model that checks (speculation.py).
    So a byte model proposes from what it knows of its own row (drafts.py), and a repetition is certain of its byte.
    Proposals are a function of the text, and of the random numbers that are handed over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Text, bytes_of
from bytelm.cover.prefix import Prefix
from bytelm.errors import InvalidArgumentError
from bytelm.inference.scheduler import Step
from bytelm.sampling.constrained import Binding
from bytelm.sampling.filters import Filters
from bytelm.symbols import SYMBOLS

LEAST_MATCH: Final = 6  # bytes that a text has in common with an earlier place, for what followed there to be proposed
MOST_MATCH: Final = 48


class Proposal(NamedTuple):
    """One symbol of a draft.

    Attributes:
        symbol: It.
        probs: The distribution that it was drawn from.
    """

    symbol: int
    probs: Float64[np.ndarray, "257"]


class Drafting(ABC):
    """A drafter on one text."""

    @abstractmethod
    def propose(
        self, text: bytes, length: int, binding: Binding | None, known: Float64[np.ndarray, "257"]
    ) -> Step[list[Proposal]]:
        """What may follow.

        Args:
            text: The byte prefix, and all that was written behind it.
            length: How many symbols, at most.
            binding: The constraint there; a copy to be advanced.
            known: What is known of the first symbol's law, and did not decide it: lower bounds on its probabilities.
        """


class Surroundings(ABC):
    """What surrounds a text whose prompt a format or a template makes (situation.py)."""

    @abstractmethod
    def own(self, lm: Any) -> tuple[Any, Prefix]:
        """What a drafter that is a byte model writes with, and the prefix that is its own way to be asked."""

    @property
    @abstractmethod
    def before(self) -> bytes:
        """The text that goes on."""

    @property
    @abstractmethod
    def around(self) -> tuple[bytes, ...]:
        """Other texts in view, the nearest last."""


class Drafter(ABC):
    """What drafts: a byte model or a `Lookup`."""

    def within(self, surroundings: Surroundings) -> Drafter:
        """The same, where a format or a template makes the prompt of the model that checks."""
        del surroundings
        return self

    @abstractmethod
    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:
        """Begin to draft for a text.

        Args:
            prefix: The byte prefix.
            filters: What is done to each distribution of the text.
            random: The text's random numbers.

        Raises:
            UnreachablePrefixError: It cannot spell the prefix.
        """


class Lookup(Drafter):
    """Proposes what followed the last bytes where they stood before, in the text itself or in others.

    Args:
        texts: Other texts to look in, such as the file around a cursor.

    >>> Lookup(["def area(width, height):"]).after(b"print(area(wid", 4)
    b'th, '
    """

    def __init__(self, texts: Sequence[Text] = ()) -> None:
        if isinstance(texts, str | bytes):
            raise InvalidArgumentError("texts must be a list of texts; got one text")
        self._texts = tuple(bytes_of(text, "a text to look in") for text in texts)
        self._before: bytes | None = None

    def within(self, surroundings: Surroundings) -> Lookup:
        """As in `Drafter`: it looks in these texts too."""
        twin = Lookup([*self._texts, *surroundings.around])
        twin._before = surroundings.before
        return twin

    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:  # noqa: D102
        del filters, random
        return _LookingUp(self, len(prefix), prefix if self._before is None else self._before)

    def after(self, text: bytes, length: int) -> bytes:
        """What followed the longest end of a text that stands somewhere before, and there the last time."""
        best, found = LEAST_MATCH - 1, b""
        for other in (text, *reversed(self._texts)):
            size = best + 1
            while size <= min(MOST_MATCH, len(text)):
                at = other.rfind(text[-size:], 0, len(other) - 1)  # something has to follow
                if at < 0:
                    break
                follows = other[at + size : at + size + length]
                best, found = size, follows
                size += 1
        return found

    def __repr__(self) -> str:
        return f"Lookup({len(self._texts)} texts)"


class _LookingUp(Drafting):
    def __init__(self, lookup: Lookup, read: int, before: bytes) -> None:
        self._lookup, self._read, self._before = lookup, read, before

    def propose(
        self, text: bytes, length: int, binding: Binding | None, known: Float64[np.ndarray, "257"]
    ) -> Step[list[Proposal]]:
        del known
        yield from ()
        proposals = []
        for byte in self._lookup.after(self._before + text[self._read :], length):
            if binding is not None:
                if not binding.mask()[byte]:
                    break
                binding.advance(byte)
            proposals.append(Proposal(byte, certain(byte)))
        return proposals


def certain(symbol: int) -> Float64[np.ndarray, "257"]:
    """The distribution that is sure of a symbol."""
    probs = np.zeros(SYMBOLS)
    probs[symbol] = 1.0
    return probs


def drafter_of(given: Any) -> Drafter | None:
    """The drafter that an argument names.

    Raises:
        InvalidArgumentError: None that there is.
    """
    if given is None or isinstance(given, Drafter):
        return given
    if given == "lookup":
        return Lookup()
    raise InvalidArgumentError(
        f"draft must be a byte model, such as a small ByteLM, a Lookup or 'lookup'; got {given!r}"
    )
