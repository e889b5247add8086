"""Which sequence id of llama.cpp's cache holds which tokens, and what has to be fed for some sequences.

Rules
    A *line* is the tokens of one sequence id. A copied prefix takes no cells: both ids own the same ones.
    What a line says that it holds is in the cache at all times: a plan copies and drops at once, and what it feeds is
    added by `Lines.fed` after it was fed.
    A token that several of the sequences share is fed once, for all their ids. A sequence that is a prefix of another
    and not cached costs nothing more. One that is cached, but whose row is wanted, has its last token fed anew.
    A sequence goes on in the line that it continues, or else in a copy, in the id that was used longest ago.

Traps
    llama.cpp takes a token for several ids only if these hold the same positions; ids that part company in a batch do
    not meet again in it. Sequences in lexicographic order, with equal lengths cached, are such.
    Where the model attends to a window, llama.cpp gives the cells before it to others: `Memory.first` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bytelm.engines.row_memo import Tokens, common


@runtime_checkable
class Memory(Protocol):
    """The cache, as llama.cpp lets one change it."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Let ``target`` own the first ``length`` cells of ``source`` as well."""

    def drop(self, line: int, start: int) -> None:
        """Let an id no longer own its cells from position ``start`` on."""

    def first(self, line: int) -> int:
        """The first position that is still there for an id."""


@dataclass(slots=True)
class Plan:
    """What is fed, token by token; a token comes after the one that it continues.

    Attributes:
        tokens: The tokens.
        positions: Their places in their sequences.
        ids: The sequence ids that each is fed for.
        wanted: Of the tokens whose rows are wanted, the sequences that they end.
        left: Sequences for which no id was free.
        ends: What each id will hold.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    wanted: dict[int, Tokens] = field(default_factory=dict)
    left: list[Tokens] = field(default_factory=list)
    ends: dict[int, Tokens] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)


class Lines:
    """What each sequence id holds.

    Args:
        count: How many ids there are.
        memory: The cache.
        window: How many tokens a layer sees at least, itself included; None: all.
    """

    def __init__(self, count: int, memory: Memory, window: int | None = None) -> None:
        self.held: list[Tokens] = [()] * count
        self._stamps = [0] * count
        self._clock = 0
        self._memory = memory
        self._window = window

    def clear(self) -> None:
        """Forget everything; the cache must have been cleared."""
        self.held = [()] * len(self.held)

    def plan(self, sequences: Sequence[Tokens]) -> Plan:
        """Lay out what has to be fed for these distinct sequences, or for the first of them where ids run out."""
        self._clock += 1
        ordered = sorted(sequences, reverse=True)
        sources = [self._source(sequence) for sequence in ordered]
        plan, before = Plan(), _Branch((), 0, [])
        for sequence, (line, n) in zip(ordered, sources, strict=True):
            if before.start < len(sequence) and before.sequence[: len(sequence)] == sequence:
                plan.wanted[before.nodes[len(sequence) - 1 - before.start]] = sequence
                continue
            made = self._placed(sequence, line, n, plan)
            if made is None:
                plan.left.append(sequence)
                continue
            target, start = made
            before = self._laid(sequence, start, target, plan, before)
        return plan

    def fed(self, plan: Plan) -> None:
        """Note that all of a plan was fed."""
        for line, sequence in plan.ends.items():
            self.held[line] = sequence

    def _source(self, sequence: Tokens) -> tuple[int, int]:
        """The line that begins as a sequence does, and for how many tokens; it counts as used now."""
        best, n = -1, 0
        for line in sorted(range(len(self.held)), key=self._stamps.__getitem__, reverse=True):
            held = self.held[line]
            if len(held) > n < len(sequence) and held[n] == sequence[n]:
                same = common(held, sequence)
                if same > n and self._whole(line, same):
                    best, n = line, same
        if best >= 0:
            self._stamps[best] = self._clock
        return best, n

    def _whole(self, line: int, length: int) -> bool:
        """Whether the cells that a continuation after ``length`` tokens attends to are still there."""
        return self._window is None or self._memory.first(line) <= max(0, length - self._window)

    def _placed(self, sequence: Tokens, line: int, n: int, plan: Plan) -> tuple[int, int] | None:
        """The id that a sequence goes on in, and from which position on; None where all ids are taken."""
        if n and (len(self.held[line]) < n or self.held[line][:n] != sequence[:n]):
            line, n = self._source(sequence)  # another sequence of this plan has taken it
        held = self.held[line] if n else ()
        n = min(n, len(sequence) - 1)
        if held and line not in plan.ends and (len(held) == n or held == sequence):
            target = line
            if len(held) > n:
                self._memory.drop(line, n)
        else:
            free = [i for i in range(len(self.held)) if i not in plan.ends]
            if not free:
                return None
            target = min(free, key=lambda i: (bool(self.held[i]), self._stamps[i]))
            if target == line:
                self._memory.drop(line, n)
            else:
                self._memory.drop(target, 0)
                if n:
                    self._memory.copy(line, target, n)
        self.held[target] = sequence[:n]
        self._stamps[target] = self._clock
        plan.ends[target] = sequence
        return target, n

    @staticmethod
    def _laid(sequence: Tokens, start: int, target: int, plan: Plan, before: _Branch) -> _Branch:
        """Put the tokens from ``start`` on into the plan; those shared with the sequence before get one id more."""
        shared = common(sequence, before.sequence) if start == before.start else start
        nodes = before.nodes[: max(shared - start, 0)]
        for node in nodes:
            plan.ids[node].append(target)
        for position in range(start + len(nodes), len(sequence)):
            nodes.append(len(plan))
            plan.tokens.append(sequence[position])
            plan.positions.append(position)
            plan.ids.append([target])
        plan.wanted[nodes[-1]] = sequence
        return _Branch(sequence, start, nodes)


@dataclass(slots=True)
class _Branch:
    """A sequence of a plan: where it leaves the cache, and its tokens' places in the plan from there on."""

    sequence: Tokens
    start: int
    nodes: list[int]
