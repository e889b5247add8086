"""Whether the model behind rows that are known is still the one that an engine runs.

Rules
    An engine says which revision of its model it runs, once it has looked (`bytelm.token_lm.revision_of`). To look
    takes time, a millisecond for a model of hundreds of tensors. In one round of a scheduler an engine looks once: in
    its call, or when it is first asked. A change that a step makes itself is seen at the engine's next call.
    Outside a round each question has the engine look.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

from bytelm.arguments import shown
from bytelm.errors import ModelChangedError
from bytelm.inference.turns import TURN
from bytelm.token_lm import TokenLM, revision_of


class _Round(threading.local):
    """The round that a thread is in.

    Attributes:
        looked: The engines that have looked at their models in it, by id.
        stepping: Whether one of its steps runs.
    """

    def __init__(self) -> None:
        self.looked: set[int] = set()
        self.stepping = False


_ROUND: Final = _Round()


def begin_round() -> None:
    """From here on each engine looks anew."""
    _ROUND.looked.clear()


def has_looked(token_lm: TokenLM) -> None:
    """Note that an engine has looked at its model in this round."""
    _ROUND.looked.add(id(token_lm))


@contextlib.contextmanager
def stepping() -> Iterator[None]:
    """A time in which engines that have looked in this round need not look again."""
    before, _ROUND.stepping = _ROUND.stepping, True
    try:
        yield
    finally:
        _ROUND.stepping = before


def present_revision(token_lm: TokenLM) -> Any:
    """The revision of an engine, once it has looked at its model (`revision_of`): once a round, as that takes time."""
    if _ROUND.stepping and id(token_lm) in _ROUND.looked:
        return revision_of(token_lm)
    has_looked(token_lm)
    with TURN.paused():
        return revision_of(token_lm, look=True)


def check_revision(token_lm: TokenLM, since: Any, *, look: bool = True) -> None:
    """See that an engine's rows still belong to a revision.

    Raises:
        ModelChangedError: They are not.
    """
    if (present_revision(token_lm) if look else revision_of(token_lm)) != since:
        raise ModelChangedError(
            f"the model behind {shown(token_lm)} was changed since this text was begun (other weights, another "
            "adapter, autocast, or clear_cache), so the text cannot be continued; start it again"
        )
