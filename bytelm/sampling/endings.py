"""The likeliest endings of a text, as values: likeliest.py finds them.

Rules
    A sequence of endings is in order: the likeliest first, and those that differ by rounding alone in the order of
    their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from bytelm.inference.envelope import SLACK
from bytelm.inference.job_usage import JobUsage


@dataclass(frozen=True, slots=True)
class Ending:
    """One way for a text to end.

    Attributes:
        text: The bytes as text, as in `Completion`.
        bytes: The bytes before the stop string or the end of text.
        logprob: ln P(bytes, and then an end | prefix); if it is not ``complete``, ln P(bytes | prefix).
        complete: Whether the text ends there. If not, it was cut at ``max_bytes`` or where the model's context ends.
    """

    text: str
    bytes: bytes
    logprob: float
    complete: bool


@dataclass(frozen=True)
class Endings(Sequence[Ending]):
    """The likeliest endings of a text, the likeliest first.

    Attributes:
        endings: As many as were asked for; fewer if there are fewer, or if ``max_calls`` ended the search.
        missing_logprob: No missing ending is likelier than this; −∞ if none is missing.
        certified: Whether these are certainly the likeliest: as many as were asked for, or all, and no missing ending
            is likelier than the last.
        usage: The cost of the search.
    """

    endings: tuple[Ending, ...]
    missing_logprob: float
    certified: bool
    usage: JobUsage

    def __len__(self) -> int:
        return len(self.endings)

    @overload
    def __getitem__(self, index: int) -> Ending: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Ending, ...]: ...

    def __getitem__(self, index: int | slice) -> Ending | tuple[Ending, ...]:
        return self.endings[index]

    def __iter__(self) -> Iterator[Ending]:
        return iter(self.endings)


def ranked(endings: Sequence[Ending]) -> list[Ending]:
    """Endings, the likeliest first; those that differ by rounding alone in the order of their bytes."""
    groups: list[list[Ending]] = []
    for ending in sorted(endings, key=lambda each: -each.logprob):
        if groups and groups[-1][0].logprob - ending.logprob <= SLACK:
            groups[-1].append(ending)
        else:
            groups.append([ending])
    return [ending for group in groups for ending in sorted(group, key=lambda each: each.bytes)]
