"""Tokens that an engine draws itself, as tests ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bytelm.token_lm import Draw, More


def draw_all(
    engine: Any,
    sequences: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    max_tokens: int,
    count: int | Sequence[int] | None = None,
    found: list[list[Any]] | None = None,
) -> list[list[Any]]:
    """The tokens drawn after each sequence, with their log-probabilities.

    Args:
        engine: A `TokenDrawer`.
        sequences: Token ids.
        seeds: Of each one's draws.
        max_tokens: What the engine is told.
        count: How many are taken, of all or of each; as many as the engine is told if not given.
        found: A list that they are written to, for where an error comes in between.
    """
    lines = [] if found is None else found
    lines += [[] for _ in sequences]

    counts = count if isinstance(count, Sequence) else [count] * len(sequences)

    def draw(sequence: Sequence[int], seed: int, line: list[Any], most: int | None) -> Draw:
        def take(token: int, logprob: float) -> bool:
            line.append((token, logprob))
            return len(line) != most

        return Draw(sequence, seed, max_tokens, take)

    waiting = [draw(*each) for each in zip(sequences, seeds, lines, counts, strict=True)]
    engine.draw_tokens(lambda: [waiting.pop(0) for _ in range(len(waiting))])
    return lines


def each_of(more: More) -> Iterator[Draw]:
    """The sequences one after another; what is waiting is asked for after each."""
    waiting = [*more()]
    while waiting:
        yield waiting.pop(0)
        waiting += more()
