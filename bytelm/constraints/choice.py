r"""One of several texts: a constraint that needs no other package.

Theory of operation
    The texts lie in order. Those that begin with what was written are a range of them, and what may come next is the
    next byte of each. What is forced is what they all go on with.

Cost
    Two binary searches for each byte that may come next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from bytelm.arguments import Text, bytes_of, shown
from bytelm.constraints.constraint import Constraint, Of, checked_of
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.symbols import EOT, SYMBOLS


@dataclass(frozen=True)
class Choice(Constraint):
    """One of several texts. `choice` makes it.

    Attributes:
        options: The texts, in the order of their bytes, each once.
        of: As in `Constraint`.
    """

    options: tuple[bytes, ...]
    of: Of = "new"

    def state(self) -> ChoiceState:
        """As in `Constraint`."""
        return ChoiceState(self.options, 0, len(self.options))


class ChoiceState:
    """A text that is to become one of several, as `ConstraintState` has it.

    Args:
        options: All texts, in the order of their bytes, each once.
        lo: The first that begins with what was written.
        hi: The first behind those.
        length: Bytes written.
    """

    def __init__(self, options: Sequence[bytes], lo: int, hi: int, length: int = 0) -> None:
        self._options = options
        self._lo, self._hi = lo, hi
        self._length = length

    def allowed(self) -> Bool[np.ndarray, "257"]:
        """As in `ConstraintState`."""
        mask = np.zeros(SYMBOLS, np.bool_)
        at = self._lo
        while at < self._hi:
            byte = self._next(self._options[at])
            mask[EOT if byte < 0 else byte] = True
            at = self._first(byte + 1)
        return mask

    def _next(self, option: bytes) -> int:
        """The byte with which a text goes on; -1 where it ends."""
        return option[self._length] if len(option) > self._length else -1

    def _first(self, byte: int) -> int:
        """The first text that goes on with this byte or a greater one."""
        return bisect_left(self._options, byte, self._lo, self._hi, key=self._next)

    def advance(self, data: bytes) -> None:
        """As in `ConstraintState`."""
        for byte in data:
            self._lo, self._hi = self._first(byte), self._first(byte + 1)
            self._length += 1

    def copy(self) -> ChoiceState:
        """As in `ConstraintState`."""
        return ChoiceState(self._options, self._lo, self._hi, self._length)

    def forced(self) -> bytes:
        """As in `ConstraintState`."""
        if self._lo == self._hi:
            return b""
        # In order, what the first and the last have in common all have, and no text ends among it but the first.
        first, last = self._options[self._lo], self._options[self._hi - 1]
        end = self._length
        while end < len(first) and first[end] == last[end]:
            end += 1
        return first[self._length : end]


def choice(options: Sequence[Text], *, of: Of = "new") -> Choice:
    """A constraint: one of several texts.

    Args:
        options: The texts.
        of: As in `Constraint`.

    Raises:
        InvalidArgumentError: There is none, or one is not UTF-8.
        InvalidTypeError: It is not a list of texts.

    >>> choice(["yes", "no"]).options
    (b'no', b'yes')
    """
    if isinstance(options, str | bytes) or not isinstance(options, Sequence):
        raise InvalidTypeError(f"options must be a list of texts, not {type(options).__name__}: {shown(options)}")
    texts = sorted({bytes_of(option, "a choice") for option in options})
    if not texts:
        raise InvalidArgumentError("there is nothing to choose from; give at least one text")
    for text in texts:
        try:
            text.decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError(
                f"a choice must be UTF-8, because no text ends inside a character; got {shown(text)}"
            ) from None
    return Choice(tuple(texts), checked_of(of))
