"""Answers that a method gives once for each list of arguments, and keeps for as long as its object lives.

Cost
    The first call puts `functools.lru_cache` in the method's place in the object, so a later one runs no line of this
    file, and a known answer costs one look-up in compiled code.

Does not
    Copy an answer: whoever gets one leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from cachetools import LRUCache, cached
from cachetools.keys import hashkey

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

    def keeping(method: Callable[..., Any]) -> Callable[..., Any]:
        if size is None or size_of is None:
            return lru_cache(size)(method)
        return cached(LRUCache(size, size_of), hashkey)(method)

    def decorated(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        return cast("Callable[Concatenate[S, P], R]", _Kept(method, keeping))

    return decorated


class _Kept:
    """Stands in a class for a method; what it gives an object is found there from then on."""

    def __init__(self, method: Callable[..., Any], keeping: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._method, self._keeping = method, keeping
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self._method
        answers = self._keeping(partial(self._method, instance))
        return instance.__dict__.setdefault(self._method.__name__, answers)
