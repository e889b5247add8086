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


class _Looked(threading.local):
    """The engines that have looked at their models in the round that this thread is in, by id; None between rounds."""

    engines: set[int] | None = None


_LOOKED: Final = _Looked()


def present_revision(token_lm: TokenLM) -> Any:
    """The revision of an engine, once it has looked at its model (`revision_of`): once a round, as that takes time."""
    looked = _LOOKED.engines
    if looked is not None and id(token_lm) in looked:
        return revision_of(token_lm)
    if looked is not None:
        looked.add(id(token_lm))
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


@contextlib.contextmanager
def looking(engines: set[int]) -> Iterator[None]:
    """A time in which engines need not look at their models again if they are among these."""
    before, _LOOKED.engines = _LOOKED.engines, engines
    try:
        yield
    finally:
        _LOOKED.engines = before
