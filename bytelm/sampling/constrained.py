r"""A constraint on one text as it is written: what may come next, what has to, and when nothing may.

The law
    At each step the bytes, and the end of text where it is allowed, are drawn in proportion to their probabilities
    after the text; temperature and filters act on what is allowed alone. So a step's law is the model's given that the
    next symbol is allowed. (It is not the model's law of texts given the constraint: `Completion.log_constraint_mass`
    is the logarithm of what weighs one against the other.)
    A byte that is the only way on is written without a draw. It takes no model call and no random number.
    Where no byte may follow and the text may end, it ends there, with the reason "stop". The model is not asked for its
    end of text, as with a stop string.

Rules
    The text ends at no place inside a character, whatever the constraint says.
    A mask is asked for once at a place.

Failure
    A prefix that violates the constraint is an error before any model runs; a place where nothing may follow is one
    when the text comes there.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.arguments import shown
from bytelm.constraints import Constraint
from bytelm.errors import ConstraintError, InvalidTypeError
from bytelm.inference.envelope import Envelope
from bytelm.symbols import EOT, SYMBOLS, unfinished

SHOWN: Final = 40  # bytes of a text that an error shows

Allowed: TypeAlias = Bool[np.ndarray, "257"]


class Binding:
    """A constraint on one text.

    Args:
        constraint: What may be written.
        prompt: The byte prefix.

    Raises:
        ConstraintError: The prefix violates it.
    """

    def __init__(self, constraint: Constraint, prompt: bytes) -> None:
        self._state = constraint.state()
        self._length = 0
        self._mask: Allowed | None = None
        self._forced: bytes | None = None
        given = prompt if constraint.of == "text" else unfinished(prompt)
        self._tail = prompt[: len(prompt) - len(given)][-SHOWN:]
        for byte in given:
            if not self.allowed()[byte]:
                why = "" if constraint.of == "text" else " (it ends inside a character, which the constraint is on)"
                raise ConstraintError(
                    f"the prefix violates the constraint{why}: 0x{byte:02X} is not allowed as byte "
                    f"{len(prompt) - len(given) + self._length}, after {self._tail!r}"
                )
            self.advance(byte)
        self._length = 0

    def copy(self) -> Binding:
        """The same, to be moved on its own."""
        twin = Binding.__new__(Binding)
        twin.__dict__.update(self.__dict__, _state=self._state.copy())
        return twin

    def allowed(self) -> Allowed:
        """Which symbols may come next.

        Raises:
            ConstraintError: None may.
        """
        mask = self.mask()
        if not mask.any():
            raise self.stuck("the constraint allows no byte there, and the text may not end")
        return mask

    def mask(self) -> Allowed:
        """As `allowed`; nothing where the text can go no further."""
        if self._mask is None:
            mask = np.array(self._state.allowed(), np.bool_)
            if mask.shape != (SYMBOLS,):
                raise InvalidTypeError(f"a constraint must allow or forbid 257 symbols; got {shown(mask)}")
            mask[EOT] &= not unfinished(self._tail)
            self._mask = mask
        return self._mask

    def stuck(self, why: str) -> ConstraintError:
        """What to raise at a place where nothing can follow."""
        return ConstraintError(f"at byte {self._length} of the completion, after {self._tail!r}, {why}")

    @property
    def done(self) -> bool:
        """Whether nothing may follow but the end of text."""
        mask = self.mask()
        return bool(mask[EOT]) and not mask[:EOT].any()

    def forced(self) -> bytes:
        """The bytes that are the only way on; or none."""
        if self._forced is None:
            forced = self._state.forced()
            if not forced:
                mask = self.mask()
                only = np.flatnonzero(mask)
                forced = bytes(only.tolist()) if len(only) == 1 and not mask[EOT] else b""
            self._forced = forced
        return self._forced

    def advance(self, byte: int) -> None:
        """Move on by a byte that is allowed."""
        self._state.advance(bytes([byte]))
        self._length += 1
        self._tail = (self._tail + bytes([byte]))[-SHOWN:]
        self._mask = None
        self._forced = self._forced[1:] or None if self._forced else None

    def cut(self, data: bytes) -> bytes:
        """The beginning of some bytes that is allowed."""
        ahead = self.copy()
        for at, byte in enumerate(data):
            if not ahead.mask()[byte]:
                return data[:at]
            ahead.advance(byte)
        return data


class Unbound(Binding):
    """No constraint on a text, in the place of one.

    Args:
        prompt: The byte prefix.
    """

    def __init__(self, prompt: bytes) -> None:
        self._length = 0
        self._tail = prompt[-SHOWN:]
        self._mask = np.ones(SYMBOLS, np.bool_)

    def copy(self) -> Unbound:  # noqa: D102 - as in `Binding`
        twin = Unbound(self._tail)
        twin._length = self._length
        return twin

    def forced(self) -> bytes:  # noqa: D102
        return b""

    def advance(self, byte: int) -> None:  # noqa: D102
        self._length += 1
        self._tail = (self._tail + bytes([byte]))[-SHOWN:]


def restricted(envelope: Envelope, allowed: Allowed | None) -> Envelope:
    """What is known of the allowed symbols' masses, where it is not known which nodes reach what.

    A node counts for the allowed symbols that it reaches, so what all nodes can add is no more than the sum over those.

    >>> masses = np.array([0.5, 0.2] + [0.0] * 255)
    >>> open_ = Envelope(masses, masses, masses, 0.7)
    >>> only = np.arange(257) == 1
    >>> restricted(open_, only).known.sum(), restricted(open_, only).unknown
    (np.float64(0.2), 0.2)
    """
    if allowed is None:
        return envelope
    known, extra = envelope.known * allowed, envelope.extra * allowed
    whole = float(extra.sum())
    elsewhere: Float64[np.ndarray, "257"] = np.minimum(envelope.elsewhere, np.maximum(whole - extra, 0.0))
    return Envelope(known, extra, elsewhere, min(envelope.unknown, whole))
