"""What a state of a pre-tokenizer's step stands for: how the text so far may have been cut.

Rules
    A hypothesis says what the last segment is, how far its match has come, and what the text to come has to make true.
    A state is a set of them, at the end of a character or inside one (automaton.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bytelm.tokenizer.split.derivatives import Condition, Thread
from bytelm.tokenizer.split.utf8 import Partial

DEAD: Final = 0  # the state without a hypothesis

Kind = Literal["match", "skip", "gap", "done", "hidden"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One way in which the text so far may have been cut into segments.

    Attributes:
        kind: What the last segment is; ``done``: an added token that has just ended; ``hidden``: a hidden
            leading space.
        threads: The match attempt under way.
        condition: What the text to come has to make true.
        before: The class of the last character, or -1 (see `Threads`).
    """

    kind: Kind
    threads: tuple[Thread, ...]
    condition: Condition
    before: int


@dataclass(frozen=True, slots=True)
class State:
    """What a state's number stands for.

    Attributes:
        hypotheses: What may have happened so far.
        fresh: Whether there is a boundary at this place is decided already; reading comes next.
        partial: The character that it is inside of, if it is.
        origin: The state before that character.
    """

    hypotheses: frozenset[Hypothesis] = frozenset()
    fresh: bool = False
    partial: Partial | None = None
    origin: int = DEAD
