"""Answers that a method gives once for each list of arguments, and keeps for as long as its object lives.

Does not
    Copy an answer: whoever gets one leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from cachetools import LRUCache

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


def kept(
    size: int | None = None, *, size_of: Callable[[Any], int] | None = None
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """A decorator of methods with hashable arguments: their answers are kept.

    Args:
        size: Of how many lists of arguments, those used last; None for all.
        size_of: What an answer counts, if not 1.
    """

    def decorated(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        name = f"{method.__name__} answers"

        @wraps(method)
        def asked(self: S, /, *arguments: P.args, **named: P.kwargs) -> R:
            key = (arguments, *named.items()) if named else arguments
            try:
                known: R = self.__dict__[name][key]
            except KeyError:
                pass
            else:
                return known
            answer = method(self, *arguments, **named)
            answers: MutableMapping[Any, R] = {} if size is None else LRUCache(size, size_of)
            self.__dict__.setdefault(name, answers)[key] = answer
            return answer

        return asked

    return decorated
