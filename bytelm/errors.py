"""Every error that a caller can act on, one class per cause.

Rules
    A message says what was wrong, the value, and what to try.
    Classes are by cause, not by place: a caller catches the one thing it can mend.
    Errors of the arguments are also ``ValueError`` or ``TypeError``, so that code
    which knows nothing of bytelm handles them as it handles Python's own.
    An error can be pickled and copied with all its attributes, so it comes out of a pool of workers as it was raised.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class BytelmError(Exception):
    """The parent of every error that bytelm raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError and ImportError keep these apart from the other attributes, and leave them behind.
        apart = {name: value for name in ("errno", "name") if (value := getattr(self, name, None)) is not None}
        return type(self), self.args, {**vars(self), **apart}


class BytelmWarning(UserWarning):
    """The parent of bytelm's warnings: the call continues, but its arguments may not mean what the caller intended."""


class InvalidArgumentError(BytelmError, ValueError):
    """An argument has the right type but an impossible value."""


class InvalidTypeError(BytelmError, TypeError):
    """An argument has a type that is not accepted."""


class UnsupportedTokenizerError(BytelmError):
    """The tokenizer cannot be read as a model over bytes; the message names the step that prevents it."""


class VocabularyMismatchError(BytelmError):
    """The tokenizer does not match the model: it has ids that the model has no column for."""


class UnreachablePrefixError(BytelmError, ValueError):
    """No token sequence that the tokenizer can emit spells this text.

    Attributes:
        prefix: The text that was asked for.
        position: Index of the first byte that cannot be spelled.
    """

    def __init__(self, message: str, *, prefix: bytes, position: int) -> None:
        super().__init__(message)
        self.prefix = prefix
        self.position = position

    def __reduce__(self) -> tuple[Any, ...]:
        _, args, state = super().__reduce__()
        return partial(type(self), prefix=self.prefix, position=self.position), args, state


class ConstraintError(BytelmError, ValueError):
    """A constraint cannot be met: a text violates it, or nothing that it allows can follow. The message says where."""


class BudgetError(BytelmError):
    """The search found nothing within the given budget."""


class NotFinishedError(BytelmError):
    """A stream was asked for its completion before it ended."""


class NoInfillFormatError(BytelmError):
    """The tokenizer lacks the fill-in-the-middle tokens that infilling needs; ``mode="left"`` needs none."""


class ModelError(BytelmError):
    """A model could not be loaded or run."""


class InvalidLogitsError(ModelError):
    """A model returned NaN, infinite or unnormalised rows, or rows of the wrong shape."""


class ContextOverflowError(ModelError):
    """A token sequence is longer than the model's context window."""


class ModelChangedError(ModelError):
    """The model was changed after a text was begun, so the text cannot be continued: start it again."""


class OutOfMemoryError(ModelError, MemoryError):
    """The memory of the machine or of its accelerator is too small for the model, its cache or a call."""


class ServerError(ModelError):
    """A server that runs a model cannot be reached, was lost, or gave a wrong answer."""


class ServerTimeoutError(ServerError, TimeoutError):
    """A server that runs a model did not answer in time."""


class DownloadError(BytelmError):
    """A packaged model could not be fetched, or is not the file that was expected."""


class CacheWriteError(BytelmError, OSError):
    """The cache folder could not be written; nothing half-written stays in it."""


class FileWriteError(BytelmError, OSError):
    """A file of the user could not be changed; it is unchanged."""


class MissingDependencyError(BytelmError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class ClosedError(ModelError):
    """A session was closed, and takes no more requests."""


class BusyError(BytelmError):
    """Too many requests wait already; ask again later."""


class LeakWarning(BytelmWarning):
    """More than half of a row that was drawn from is on tokens that are not text there and do not end the text."""


class LeftOutWarning(BytelmWarning):
    """Some of the other files do not fit in the model's context and are left out."""


class ContractError(BytelmError, AssertionError):
    """An engine breaks a rule of `TokenLM`; the message lists the broken rules, with an example for each."""
