r"""The two interfaces of this chapter: a constraint, and where one text is in it.

Rules
    A `Constraint` is a description. It does not change, and serves any number of texts.
    A `ConstraintState` belongs to one text. `advance` moves it along; a `copy` moves apart from it.
    A mask has 257 entries: the 256 bytes, and at index 256 whether the text may end there.

An engine of your own
    Subclass `Constraint` and return a state with the four methods. `ConstraintState.forced` may always return ``b""``:
    a mask that leaves one byte is noticed anyway.

    >>> class Digits(Constraint):
    ...     def state(self):
    ...         return DigitsState()
    >>> class DigitsState:  # any number of digits, and at least one
    ...     length = 0
    ...
    ...     def allowed(self):
    ...         mask = np.zeros(257, np.bool_)
    ...         mask[ord("0") : ord("9") + 1] = True
    ...         mask[256] = self.length > 0
    ...         return mask
    ...
    ...     def advance(self, data):
    ...         self.length += len(data)
    ...
    ...     def copy(self):
    ...         return copy.copy(self)
    ...
    ...     def forced(self):
    ...         return b""
    >>> lm.sample("The answer is ", constraint=Digits(), max_bytes=5)  # doctest: +SKIP
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool

from bytelm.arguments import one_of, shown
from bytelm.errors import InvalidTypeError

Of: TypeAlias = Literal["new", "text"]


@runtime_checkable
class ConstraintState(Protocol):
    """The state of a text under a constraint."""

    def allowed(self) -> Bool[np.ndarray, "257"]:
        """Which bytes may come next, and at index 256 whether the text may end here."""
        ...

    def advance(self, data: bytes) -> None:
        """Advance by bytes, each of which was allowed."""
        ...

    def copy(self) -> ConstraintState:
        """An independent copy of the state."""
        ...

    def forced(self) -> bytes:
        """Bytes that are the only way on: at each of them no other byte is allowed, and the text may not end."""
        ...


class Constraint(ABC):
    """A condition on the text to write. bytelm/constraints/constraint.py shows how to make one of your own.

    Attributes:
        of: ``"new"``: the constraint is on the new bytes alone. (Where the prefix ends inside a character, that
            character comes first, as in `Completion.text`.) ``"text"``: it is on the byte prefix and the new bytes
            together. In a chat it is on the whole answer: what has begun of it, and the new bytes.
    """

    of: Of = "new"

    @abstractmethod
    def state(self) -> ConstraintState:
        """The state at the beginning of a text."""


@dataclass(frozen=True)
class Begun(Constraint):
    """A constraint on a text that has begun, for what comes after its beginning.

    Attributes:
        whole: The constraint on all of the text.
        text: The beginning, which it allows. It ends with a whole character.
    """

    whole: Constraint
    text: bytes

    def state(self) -> ConstraintState:
        """As in `Constraint`."""
        state = self.whole.state()
        state.advance(self.text)
        return state


def checked_of(of: Of) -> Of:
    """The argument ``of``.

    Raises:
        InvalidArgumentError: There is no such value.
    """
    one_of("of", of, get_args(Of))
    return of


def is_model(value: object) -> bool:
    """Whether a value is a class that tells its JSON schema, as pydantic's models do."""
    return isinstance(value, type) and callable(getattr(value, "model_json_schema", None))


def constraint_of(value: Any) -> Constraint:
    """The constraint of a ``constraint`` argument: one, or a pydantic model for its schema.

    Raises:
        InvalidTypeError: It is neither.
    """
    if isinstance(value, Constraint):
        return value
    if is_model(value):
        from bytelm.constraints.grammar import json_schema

        return json_schema(value)
    hint = "bytelm.constraints.regex(...), json_schema(...), json_object(), lark(...) or choice([...]) makes one"
    raise InvalidTypeError(f"constraint must be a Constraint or a pydantic model; got {shown(value)}: {hint}")
