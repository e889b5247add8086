"""Who may run when: threads take turns at the work of bytelm itself, and at each engine.

Rules
    What steps do, and all else that touches what is kept of tokenizers and texts, is done by one thread at a time
    (`TURN`). That costs nothing, as Python runs one thread at a time anyway. Each engine runs one call at a time
    (`turn_at`). Calls of different engines run side by side.
    A turn is over after one step of one job, so streams and samples of several threads interleave.
    Nobody waits for an engine while it is his turn: `TURN.paused`. So what an engine calls back for its next sequences,
    or a function of the caller's that asks a model from inside a step, cannot lock up.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Turn:
    """A lock that the thread that has it may take again, and may give up for a while however often it took it.

    >>> with TURN, TURN, TURN.paused():
    ...     TURN.depth
    0
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mine = threading.local()

    @property
    def depth(self) -> int:
        """How often this thread has taken it."""
        return getattr(self._mine, "depth", 0)

    def __enter__(self) -> None:
        self._lock.acquire()
        self._mine.depth = self.depth + 1

    def __exit__(self, *_: object) -> None:
        self._mine.depth -= 1
        self._lock.release()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let others have their turns for as long as this lasts."""
        depth = self.depth
        for _ in range(depth):
            self.__exit__()
        try:
            yield
        finally:
            self._retake(depth)

    def _retake(self, depth: int) -> None:
        """Take it as often as it was given up, though Ctrl-C interrupts the waiting: it will be given back as often."""
        interrupt: BaseException | None = None
        while self.depth < depth:
            try:
                self.__enter__()
            except BaseException as error:  # noqa: BLE001 - it rises below
                interrupt = error
        if interrupt is not None:
            raise interrupt


TURN: Final = Turn()
_ENGINES: Final[dict[int, tuple[Any, Any]]] = {}  # by id: a weak reference, and the lock
_OTHERS: Final = threading.RLock()  # of engines that cannot be referred to weakly


def in_its_turn(method: Callable[P, R]) -> Callable[P, R]:
    """The same function, run while no other thread is in its turn. It is no generator."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with TURN:
            return method(*args, **kwargs)

    return run


@contextlib.contextmanager
def turn_at(engine: object) -> Iterator[None]:
    """A time in which no other thread's steps ask this engine; others may have their turns meanwhile."""
    with TURN:
        lock = _lock_of(engine)
    with TURN.paused(), lock:
        yield


def _lock_of(engine: object) -> Any:
    key = id(engine)
    if key not in _ENGINES:
        try:
            gone = weakref.ref(engine, lambda _: _ENGINES.pop(key, None))
        except TypeError:
            return _OTHERS
        _ENGINES[key] = gone, threading.RLock()
    return _ENGINES[key][1]
