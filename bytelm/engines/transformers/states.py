"""Models whose memory cannot be stepped back (recurrent and hybrid ones): copies of it, kept where it may be needed.

Theory
    The memory of such a model after some tokens is its own cache: states, and the keys and values of what layers have
    them. A step changes it in place, so it is copied before anything is fed to it. It is only used as ``generate``
    uses it: made by one pass over a sequence, then fed token by token. (Some models take several tokens at a time
    without an error, and then begin from nothing.)

Rules
    *Stops* are where a copy stays: the ends of the sequences that are asked for, where two of them part, and those that
    are asked for less than `STEP_COST` tokens before either. A prompt's sure cut is such a place, and so are the nodes
    that its completion goes on from.
    A sequence is fed from the nearest copy that is a prefix of it. Where that is `STEP_COST` tokens away or more, one
    pass over the whole of it costs less. So does a batch of whole sequences while they are short: then no copy is made.

Memory
    Copies are forgotten, least recently used first, once they take more than the budget. Those that the present call
    still goes on from may take more.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from cachetools import LRUCache

from bytelm.engines.row_memo import Row, Rows, Tokens, alone, common
from bytelm.engines.transformers.forward import Forward

STEP_COST: Final = 16  # what a pass of one token costs, in tokens of a long pass: estimated on two CPU cores


@dataclass(slots=True, eq=False)
class Memory:
    """What a model remembers after a sequence, and the row there.

    Attributes:
        name: What the model calls it.
        content: Its own object. Never fed to: only a copy is.
        row: The next token's log-probabilities.
        nbytes: What both take.
    """

    name: str
    content: Any
    row: Row
    nbytes: int


@dataclass(frozen=True, slots=True)
class Leg:
    """A way to a stop.

    Attributes:
        end: The sequence that is reached.
        start: The stop that it is reached from, token by token; empty: by one pass.
    """

    end: Tokens
    start: Tokens

    @property
    def cost(self) -> int:
        """In tokens of a long pass."""
        return STEP_COST * (len(self.end) - len(self.start)) if self.start else len(self.end)


class Memories:
    """The copies of a model's memory, and rows by them.

    Args:
        forward: The model.
        budget_bytes: What the copies may take from call to call.
    """

    def __init__(self, forward: Forward, budget_bytes: int) -> None:
        self._forward = forward
        self._kept: LRUCache[Tokens, Memory] = LRUCache(budget_bytes, getsizeof=lambda memory: memory.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes that the copies take now."""
        return int(self._kept.currsize)

    def rows(self, asked: Sequence[Tokens], whole: Callable[[list[Tokens]], Rows] | None) -> Rows:
        """The row after each of some sequences.

        Args:
            asked: The sequences, each once.
            whole: Computes rows without any memory; None: nothing else may.
        """
        rows = {ids: self._kept[ids].row for ids in asked if ids in self._kept}
        missing = [ids for ids in asked if ids not in rows]
        legs = plan(missing, self._kept.keys())
        alone = sum(len(ids) for ids in leaves(missing))
        # What is kept now serves later calls, so it may cost twice as much.
        if whole is not None and 2 * alone <= sum(leg.cost for leg in legs):
            return rows | whole(missing) if missing else rows
        wanted, live = set(missing), dict[Tokens, Memory]()
        for leg in legs:
            live = {ids: memory for ids, memory in live.items() if ids == leg.end[: len(ids)]}
            start = live.get(leg.start) or self._kept.get(leg.start)
            live[leg.end] = end = self._run(leg, start, wanted, rows)
            if end.nbytes <= self._kept.maxsize:
                self._kept[leg.end] = end
        return rows

    def _run(self, leg: Leg, start: Memory | None, wanted: set[Tokens], rows: Rows) -> Memory:
        """Go a leg, and take the rows along it that are wanted."""
        if start is None:
            places = [n for n in range(1, len(leg.end)) if leg.end[:n] in wanted] + [len(leg.end)]
            found, name, content = self._forward.remembering(leg.end, [n - 1 for n in places], {})
            rows.update(
                (leg.end[:n], alone(row)) for n, row in zip(places, found, strict=True) if leg.end[:n] in wanted
            )
            return Memory(name, content, alone(found[-1]), found[-1].nbytes + size(content))
        name, row = start.name, start.row
        with torch.inference_mode():
            content = copy.deepcopy(start.content)
        for n in range(len(leg.start), len(leg.end)):
            (row,), name, content = self._forward.remembering(leg.end[n : n + 1], [0], {name: content}, past=n)
            if leg.end[: n + 1] in wanted:
                rows[leg.end[: n + 1]] = row
        return Memory(name, content, row, row.nbytes + size(content))


def plan(asked: Sequence[Tokens], kept: Any) -> list[Leg]:
    """Ways to all sequences that are asked for, those of a stop after the one to what it goes on from.

    Args:
        asked: Sequences, each once.
        kept: A container of the sequences whose memory there is.

    >>> plan([(1, 2, 3), (1, 2, 4), (1, 2, 3, 5)], {(1,)})  # doctest: +NORMALIZE_WHITESPACE
    [Leg(end=(1, 2), start=(1,)), Leg(end=(1, 2, 3), start=(1, 2)), Leg(end=(1, 2, 3, 5), start=(1, 2, 3)),
     Leg(end=(1, 2, 4), start=(1, 2))]
    """
    legs: list[Leg] = []
    way: list[tuple[Tokens, bool]] = []  # the points that lie on the way to the next one, and whether they are stops
    for end, stops in _points(asked):
        while way and way[-1][0] != end[: len(way[-1][0])]:
            way.pop()
        if stops:
            passed = [*itertools.takewhile(lambda point: not point[1], reversed(way))]
            start = way[-1 - len(passed)][0] if len(passed) < len(way) else ()
            # A copy that lies behind a sequence whose row is wanted does not help.
            last = len(passed[-1][0]) - 1 if passed else len(end)
            near = range(last, max(len(start), len(end) - STEP_COST), -1)
            start = next((end[:n] for n in near if end[:n] in kept), start)
            if start != end:
                legs.append(Leg(end, start if len(end) - len(start) < STEP_COST else ()))
        way.append((end, stops))
    return legs


def leaves(asked: Sequence[Tokens]) -> Iterator[Tokens]:
    """The sequences that no other continues."""
    ordered = sorted(asked)
    for ids, after in itertools.zip_longest(ordered, ordered[1:], fillvalue=()):
        if after[: len(ids)] != ids:
            yield ids


def _points(asked: Sequence[Tokens]) -> list[tuple[Tokens, bool]]:
    """The sequences that are asked for and where they part, each before what continues it; and whether it is a stop."""
    ordered = sorted(asked)
    forks = {left[: common(left, right)] for left, right in itertools.pairwise(ordered)} - {()}
    points = sorted(forks | set(ordered))
    after = [0] * len(points)  # how many go on from a point
    only: dict[int, int] = {}  # one of them
    way: list[int] = []
    for i, ids in enumerate(points):
        while way and points[way[-1]] != ids[: len(points[way[-1]])]:
            way.pop()
        if way:
            after[way[-1]] += 1
            only[way[-1]] = i
        way.append(i)
    reach = [0] * len(points)  # length of the next point that is an end or a fork
    for i in reversed(range(len(points))):
        reach[i] = reach[only[i]] if after[i] == 1 else len(points[i])
    return [(ids, reach[i] - len(ids) < STEP_COST) for i, ids in enumerate(points)]


def size(content: Any) -> int:
    """Bytes of the tensors that an object holds."""
    seen: set[int] = set()
    waiting, total = [content], 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            total += value.nbytes
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
            waiting.extend(vars(value).values())
    return total
