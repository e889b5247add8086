"""The end of a viable token sequence, and the ways in which its boundaries may be cuts.

Rules
    A boundary holds all that decides what may follow (viability.py): two sequences with equal boundaries go on alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from bytelm.tokenizer.split.vocab_walk import States


@dataclass(frozen=True, slots=True)
class Path:
    """One way in which the boundaries so far may be cuts or not.

    Attributes:
        states: The state of each level of the pre-tokenizer.
        word: The pre-token so far, where a whole one begins so (tokenizer/ignore_merges.py).
        sealed: The pre-token was taken whole: a cut has to follow.
    """

    states: States
    word: bytes | None = None
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a viable token sequence: what decides which tokens may follow.

    Attributes:
        last: The last token, -1 before the first.
        paths: The ways that are still possible.
        partial: The bytes of a character that is not yet complete.
        tail: The characters that a normal form may still combine with what follows.
    """

    last: int
    paths: tuple[Path, ...]
    partial: bytes = b""
    tail: str = ""
