"""Arguments as callers pass them, found to be what they must be, before anything runs.

Rules
    A wrong type is an InvalidTypeError, a value out of its range an InvalidArgumentError; the message says what, which
    value, and what is accepted. A bool is no number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from bytelm.errors import InvalidArgumentError, InvalidTypeError

Text: TypeAlias = str | bytes
Number: TypeAlias = int | float


def number(name: str, value: object) -> float:
    """The value as a float.

    >>> number("temperature", 1)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}: {value!r:.80}")
    return float(value)


def integer(name: str, value: object) -> int:
    """The value as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(f"{name} must be a whole number, not {type(value).__name__}: {value!r:.80}")
    return int(value)


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """See that a value is one of several.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    if value not in choices:
        raise InvalidArgumentError(f"{name} is one of {', '.join(choices)}; got {value!r}")


def bytes_of(text: object, name: str = "a text") -> bytes:
    """The bytes of a text, which is UTF-8 if it is a ``str``."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise InvalidTypeError(
            f"{name} must be str or bytes, not {type(text).__name__}: {text!r:.80}{likely_meant(text)}"
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name} holds {text[error.start]!r}, half of a surrogate pair, which has no bytes; pass bytes instead"
        ) from None


def likely_meant(value: object) -> str:
    """The end of an error about something that is no text: what to pass, if it is what other libraries take for one.

    >>> likely_meant([{"role": "user", "content": "Hi"}])
    '. These are chat messages: call lm.chat(messages), or pass lm.chat_prefix(messages) as the prefix'
    >>> likely_meant(3)
    ''
    """
    several = isinstance(value, list | tuple)
    first = next(iter(value), None) if isinstance(value, list | tuple) else value
    if isinstance(first, Mapping) and "role" in first:
        return ". These are chat messages: call lm.chat(messages), or pass lm.chat_prefix(messages) as the prefix"
    if (isinstance(first, Mapping) and "input_ids" in first) or hasattr(first, "offsets"):
        return (
            ". This is what a tokenizer returns: pass the text itself. Where a prefix is asked for, the ids of one "
            "text as a list of ints are accepted too, and no token then spans their end"
        )
    if hasattr(first, "tolist") and hasattr(first, "ndim") and first.ndim:
        return ". This is an array: pass the text itself, or as a prefix the ids of one text: array.tolist()"
    if several and isinstance(first, list | tuple):
        return ". These are several lists: pass one of them, or all of them as the prefixes of sample_batch"
    if several and hasattr(first, "__index__"):
        return ". These are token ids: a prefix may be such a list, and lm.spell(ids) is the text"
    return ""


def stops_of(stop: object) -> tuple[bytes, ...]:
    """The stop strings of a ``stop`` argument: one text or several.

    >>> stops_of("a"), stops_of([b"a", "é"])
    ((b'a',), (b'a', b'\\xc3\\xa9'))
    """
    several = [stop] if isinstance(stop, str | bytes) else stop
    if not isinstance(several, Sequence):
        raise InvalidTypeError(f"stop must be str, bytes or a list of them, not {type(stop).__name__}: {stop!r:.80}")
    stops = tuple(bytes_of(each, "a stop string") for each in several)
    if not all(stops):
        raise InvalidArgumentError("an empty stop string would stop everything before it begins; leave it out")
    return stops


def seed_of(seed: object) -> int:
    """The seed, or for None a fresh one from the operating system."""
    if seed is None:
        return int.from_bytes(os.urandom(16))
    if integer("seed", seed) < 0:
        raise InvalidArgumentError(f"seed must be 0 or more; got {seed}")
    return integer("seed", seed)


def tolerance_of(tol: object) -> float:
    """The argument ``tol``: a total variation."""
    value = number("tol", tol)
    if not 0 <= value < 1:
        raise InvalidArgumentError(f"tol is a total variation: 0 (exact) or more, and below 1; got {tol}")
    return value


def stride_of(stride: object) -> int | None:
    """The argument ``stride``: the bytes of a piece of a long text, or None."""
    if stride is None:
        return None
    if integer("stride", stride) < 1:
        raise InvalidArgumentError(f"stride counts the bytes of a piece and must be 1 or more; got {stride}")
    return integer("stride", stride)


def eot_ids_of(eot_ids: object, vocab_size: int) -> frozenset[int]:
    """End-of-text ids, found to be columns of a model."""
    if isinstance(eot_ids, str | bytes) or not isinstance(eot_ids, Iterable):
        raise InvalidTypeError(f"eot_ids must be a collection of token ids, not {type(eot_ids).__name__}: {eot_ids!r}")
    ids = frozenset(integer("an end-of-text id", i) for i in eot_ids)
    if outside := sorted(i for i in ids if not 0 <= i < vocab_size):
        raise InvalidArgumentError(f"eot_ids {outside} are none of the model's ids, which are 0..{vocab_size - 1}")
    return ids
