"""Arguments as callers pass them, found to be what they must be, before anything runs.

Rules
    A wrong type is an InvalidTypeError, a value out of its range an InvalidArgumentError; the message says what, which
    value, and what is accepted. A bool is no number.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np

from bytelm.errors import InvalidArgumentError, InvalidTypeError

Text: TypeAlias = str | bytes
Number: TypeAlias = int | float

_MOST_BITS: Final = 1023  # a larger number is no float


def number(name: str, value: object) -> float:
    """The value as a float.

    >>> number("temperature", 1)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}: {shown(value)}")
    return float(value if isinstance(value, float | np.floating) else integer(name, value))


def integer(name: str, value: object) -> int:
    """The value as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(f"{name} must be a whole number, not {type(value).__name__}: {shown(value)}")
    if int(value).bit_length() > _MOST_BITS:
        raise InvalidArgumentError(f"{name} is a number of {int(value).bit_length()} bits; give at most {_MOST_BITS}")
    return int(value)


def switch(name: str, value: object) -> bool:
    """The value as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidTypeError(f"{name} must be True or False, not {type(value).__name__}: {shown(value)}")
    return bool(value)


def shown(value: object) -> str:
    """A value as an error shows it: the beginning of its ``repr``, if it has one.

    >>> shown("abc"), shown(10**5000)  # Python writes no number of over 4300 digits
    ("'abc'", '<int>')
    """
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - the code is the caller's
        return f"<{type(value).__name__}>"


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """See that a value is one of several.

    Raises:
        InvalidArgumentError: It is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgumentError(f"{name} is one of {', '.join(choices)}; got {shown(value)}")


def bytes_of(text: object, name: str = "a text") -> bytes:
    """The bytes of a text, which is UTF-8 if it is a ``str``."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise InvalidTypeError(
            f"{name} must be str or bytes, not {type(text).__name__}: {shown(text)}{likely_meant(text)}"
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name} holds {text[error.start]!r}, half of a surrogate pair, which has no bytes; pass bytes instead"
        ) from None


def fspath(name: str, value: object) -> str:
    """What names a place, as text."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise InvalidTypeError(f"{name} must be a str or a path, not {type(value).__name__}: {shown(value)}")
    return text


def path_of(name: str, value: object) -> Path:
    """A path that the system can look for, with ``~`` written out."""
    try:
        path = Path(fspath(name, value)).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise InvalidArgumentError(f"{name} {shown(value)} cannot be used as a path: {error}") from None
    return path


def nearest(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown name: the one that was likely meant, or all that there are.

    >>> nearest("top_kk", ["top_k", "top_p"]), nearest("x", ["a", "b"])
    ('did you mean top_k?', 'there are a, b')
    """
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


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
        raise InvalidTypeError(f"stop must be str, bytes or a list of them, not {type(stop).__name__}: {shown(stop)}")
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


def is_several(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether a value can be gone through, and is no text; an array of no dimension only seems so."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) != 0


def token_ids_of(ids: object, name: str) -> tuple[int, ...]:
    """Token ids, found to be whole numbers from 0 on."""
    found = _numbers(ids, name, "a token id")
    if found and min(found) < 0:
        raise InvalidArgumentError(f"a token id is 0 or more; {name} holds {min(found)}")
    return found


def _numbers(ids: object, name: str, each: str) -> tuple[int, ...]:
    if not is_several(ids):
        raise InvalidTypeError(f"{name} must be a collection of token ids, not {type(ids).__name__}: {shown(ids)}")
    found = tuple(ids)
    if not found or (set(map(type, found)) == {int} and max(*found, -min(found)).bit_length() <= _MOST_BITS):
        return found  # engines are asked about whole contexts, call after call
    return tuple(integer(each, _whole(i)) for i in found)


def _whole(value: object) -> object:
    """What any library's whole numbers are to Python, such as those of a tensor; anything else is as it was."""
    try:
        return value if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return value


def eot_ids_of(eot_ids: object, vocab_size: int) -> frozenset[int]:
    """End-of-text ids, found to be columns of a model."""
    ids = frozenset(_numbers(eot_ids, "eot_ids", "an end-of-text id"))
    if outside := sorted(i for i in ids if not 0 <= i < vocab_size):
        raise InvalidArgumentError(f"eot_ids {outside} are not ids of the model, which are 0..{vocab_size - 1}")
    return ids
