"""All levels of a pre-tokenizer as one automaton, which reads single tokens, and the whole vocabulary at once.

Theory of operation
    The levels of a pre-tokenizer (added tokens first, then each split step inside the pieces of the one before) read
    the same bytes. Where a level cuts, every level below ends its piece and begins anew. So a place in the text is one
    state for each level, and between two cuts the levels read independently of each other.

Cost
    Reading the whole vocabulary visits the distinct prefixes of its tokens, in numpy, and only those where the run does
    not lead to the same state as the last run on this level: two runs that meet go on alike, and most meet after a
    character or two. Few sets of states occur: a state of a split pattern is "inside a word", "after one line feed",
    and so on. They differ mostly on one level, so the ends of the tokens are kept level by level, those used last and
    within a stated size. For the same reason one token is read by steps that were mostly taken before: a look-up a
    byte, for all levels together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.split.automaton import Level
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.utf8 import Partial

INACTIVE: Final = -1  # a level below an added token: there is no piece to split
WHOLE: Final = 3000  # ranges beyond this are answered for the whole vocabulary, once
_KEPT_BYTES: Final = 1 << 25
_RANGES: Final = 1 << 20  # tokens, in ranges that are remembered: 4 MB
_STEPS: Final = 1 << 16  # that are remembered: 20 MB

States = tuple[int, ...]
Begun = Partial | int | None  # a character, on a level; `INACTIVE` where there is nothing to read


@dataclass(frozen=True, slots=True)
class _Depth:
    """The distinct prefixes of one length: each one's parent and last byte, and the tokens that end there."""

    parent: Int64[np.ndarray, " prefixes"]
    byte: UInt8[np.ndarray, " prefixes"]
    ending: Int64[np.ndarray, " tokens"]
    at: Int64[np.ndarray, " tokens"]


@dataclass(frozen=True, slots=True)
class _Run:
    """Strings to read, and where one level's last run over them led. The next run follows it except where they differ.

    Attributes:
        depths: Their distinct prefixes by length.
        reached: The state after each of these prefixes. Changes.
        ends: The state at the end of every token, dead for those that are not among the strings. Changes.
    """

    depths: list[_Depth]
    reached: list[Int32[np.ndarray, " _"]]  # of different lengths
    ends: Int32[np.ndarray, " tokens"]


class ProductAutomaton:
    """All levels of one pre-tokenizer over one vocabulary: a state is one state of each level.

    Args:
        levels: Outermost first.
        prefix_index: The vocabulary in byte order.
        ordinary: Which tokens, in byte order, can come out of merging (or are whole pre-tokens).

    Attributes:
        cuts_characters: Some level reads bytes, so a cut may lie inside a character.
    """

    def __init__(
        self, levels: Sequence[Level], prefix_index: PrefixIndex, *, ordinary: Bool[np.ndarray, " tokens"]
    ) -> None:
        self.levels = tuple(levels)
        self.prefix_index = prefix_index
        self.ordinary = ordinary
        self.cuts_characters = any(level.by_bytes for level in self.levels)
        self._depths = self._prefixes(np.flatnonzero(ordinary))
        # Each run takes the last one out, and puts it back whole: after an interruption, or beside another thread,
        # there is none to follow.
        self._last_runs: dict[int, _Run] = {}
        self._added: dict[int, _Run] = {}
        self._ends: LRUCache[tuple[int, int], Int32[np.ndarray, " tokens"]] = LRUCache(
            _KEPT_BYTES, lambda ends: ends.nbytes
        )
        self._steps: dict[tuple[States, int], States | None] = {}

    def start(self, *, bare: bool) -> States:
        """The states at the beginning of a text; ``bare``: what a text has to begin with does not apply."""
        return tuple(level.start_bare if bare else level.start for level in self.levels)

    # --- one token ---------------------------------------------------------------------------------------------------

    def read(self, states: States, data: bytes) -> States | None:
        """The states after some bytes with no cut among them; None where that cannot be."""
        steps = self._steps
        for byte in data:
            try:
                after = steps[states, byte]
            except KeyError:
                after = self._new_step(states, byte)
            if after is None:
                return None
            states = after
        return states

    def _new_step(self, states: States, byte: int) -> States | None:
        """A step that was not taken before."""
        if len(self._steps) >= _STEPS:
            self._steps.clear()
        out: list[int] = []
        for level, state in zip(self.levels, states, strict=True):
            if state == INACTIVE:
                out.append(INACTIVE)
                continue
            reached = level.table.item(state, byte)
            out.append(reached if reached >= 0 else level.next(state, byte))
            if out[-1] == DEAD:
                break
        after = self._steps[states, byte] = None if DEAD in out else tuple(out)
        return after

    def begun(self, states: States) -> tuple[Begun, ...]:
        """The character that each level's state is inside of, if it is."""
        return tuple(
            INACTIVE if state == INACTIVE else level.begun(state)
            for level, state in zip(self.levels, states, strict=True)
        )

    def read_as(self, begun: tuple[Begun, ...]) -> list[tuple[int | bytes | None, ...]]:
        """For each byte what is equal for bytes that lead to the same states; None where a level reads on to none."""
        each = [
            (INACTIVE,) * 256 if isinstance(inside, int) else level.read_as(inside)
            for level, inside in zip(self.levels, begun, strict=True)
        ]
        return list(zip(*each, strict=True))

    def before_character(self, states: States) -> States:
        """Where the levels stood before the character that these states are inside of, with no cut before it."""
        return tuple(level.origin(state) for level, state in zip(self.levels, states, strict=True))

    @kept(_STEPS)
    def cuts(self, states: States) -> tuple[States, ...]:
        """The states after a cut, for each level that may cut here: those below it begin anew."""
        return tuple(self._cuts(states))

    def _cuts(self, states: States) -> Iterator[States]:
        for at, (level, state) in enumerate(zip(self.levels, states, strict=True)):
            if state == INACTIVE:
                return
            after = level.cut(state)
            if after != DEAD and ended(self.levels[at + 1 :], states[at + 1 :]):
                # A level of added tokens cuts in front of text behind such a token only.
                yield (*states[:at], after, *(lv.start_reopened for lv in self.levels[at + 1 :]))

    def onward(self, states: States) -> Iterator[States]:
        """The states after a cut, where ordinary text follows it or the beginning of an added token.

        Added tokens are left out where no match can be waiting for one. A single word stays text because a word
        character follows, and an added token may begin with that. A shorter token stays text because a special one is
        spelled there, and tokens of the next level may go on with the spelling. For all other hypotheses the end of the
        text will do.
        """
        yield from self.cuts(states)
        for at, level in enumerate(self.levels):
            waiting = level.added and (level.threads.pattern.looks_behind or not ended(self.levels[:at], states[:at]))
            if not waiting:
                continue
            below = [INACTIVE] * (len(self.levels) - at - 1)
            state, above = self.before_added(states, at)
            if state != DEAD:
                yield (*above, state, *below)
            for done in level.emissions(states[at]) if states[at] != INACTIVE else ():
                yield from self.onward((*states[:at], done, *below))

    def added(self, states: States, at: int, data: bytes, tag: int, *, begins: bool) -> States | None:
        """The states after an added token matched at level ``at``; ``begins``: it is the first token."""
        state, above = self.before_added(states, at, begins=begins)
        return self.after_added(self.levels[at].read_bytes(state, data), above, at, data, tag)

    def before_added(self, states: States, at: int, *, begins: bool = False) -> tuple[int, States]:
        """Where an added token of level ``at`` begins: that level's state (dead: it cannot), and the states above."""
        if begins:
            level = self.levels[at]  # behind a hidden leading space none begins
            return level.start_added if states[at] == level.start_bare else DEAD, states[:at]
        if states[at] == INACTIVE:  # right after an added token of a level above
            last = max(i for i in range(at) if states[i] != INACTIVE)
            after = self.levels[last].cut(states[last])
            above = (*states[:last], after, *(level.start_bare for level in self.levels[last + 1 : at]))
            return (DEAD if after == DEAD else self.levels[at].start_added), above
        if not ended(self.levels[at + 1 :], states[at + 1 :]):  # their pieces end here
            return DEAD, states[:at]
        return self.levels[at].cut(states[at], added=True), states[:at]

    def after_added(self, state: int, above: States, at: int, data: bytes, tag: int) -> States | None:
        """The states after an added token: its bytes lead to ``state``, and the levels above were at ``above``."""
        after = [level.read_bytes(start, data) for level, start in zip(self.levels[:at], above, strict=True)]
        after.append(self.levels[at].emit(state, tag) if state != DEAD else DEAD)
        return None if DEAD in after else (*after, *([INACTIVE] * (len(self.levels) - at - 1)))

    # --- all tokens --------------------------------------------------------------------------------------------------

    def ends_of_tokens(self, states: States, lo: int, hi: int) -> list[Int32[np.ndarray, " n"]]:
        """For each level, the state at the end of every token of a range of ranks, with no cut inside the tokens."""
        return [self._ends_on(at, state, lo, hi) for at, state in enumerate(states)]

    def _ends_on(self, at: int, state: int, lo: int, hi: int) -> Int32[np.ndarray, " n"]:
        """The same for one level."""
        known: Int32[np.ndarray, " tokens"] | None = self._ends.get((at, state))
        if known is None:
            if hi - lo <= WHOLE:
                return self._ends_in_range(at, state, lo, hi)
            run = self._last_runs.pop(at, None) or self._first_run(self._depths)
            known = self._ends[at, state] = self._ends_of_all(run, self.levels[at], state)
            self._last_runs[at] = run
        return known[lo:hi]

    @kept(_RANGES, size_of=len)
    def _ends_in_range(self, at: int, state: int, lo: int, hi: int) -> Int32[np.ndarray, " n"]:
        level = self.levels[at]
        reached = np.full(hi - lo, state, np.int32)
        lengths = self.prefix_index.lengths[lo:hi]
        depth = 0
        if hi > lo:  # all tokens of a range usually begin alike: read the common part once
            first, last = self.prefix_index.spelled[lo], self.prefix_index.spelled[hi - 1]
            depth = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
            depth = min(depth, len(last))
            reached[:] = level.read_bytes(state, first[:depth])
        reached[~self.ordinary[lo:hi]] = DEAD
        active = np.flatnonzero((lengths > depth) & (reached != DEAD))
        while len(active):
            reached[active] = self._step(level, reached[active], self.prefix_index.bytes_at(lo + active, depth))
            depth += 1
            active = active[(lengths[active] > depth) & (reached[active] != DEAD)]
        return reached

    def _ends_of_all(self, run: _Run, level: Level, state: int) -> Int32[np.ndarray, " tokens"]:
        """The state at the end of every token of a run's strings, in byte order; dead for the other tokens."""
        before, changed = np.array([state], np.int32), np.ones(1, np.bool_)
        for depth, reached in zip(run.depths, run.reached, strict=True):
            at = np.flatnonzero(changed[depth.parent])
            after = self._step(level, before[depth.parent[at]], depth.byte[at])
            differ = after != reached[at]
            at = at[differ]
            if not len(at):
                break
            reached[at] = after[differ]
            before, changed = reached, np.zeros(len(reached), np.bool_)
            changed[at] = True
            ends = changed[depth.at]
            run.ends[depth.ending[ends]] = reached[depth.at[ends]]
        return run.ends.copy()

    @staticmethod
    def _step(level: Level, state: Int32[np.ndarray, " n"], byte: UInt8[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        after: Int32[np.ndarray, " n"] = level.table[state, byte]
        unknown = np.flatnonzero(after < 0)
        if len(unknown):
            for key in set((state[unknown].astype(np.int64) << 8 | byte[unknown]).tolist()):
                level.next(key >> 8, key & 0xFF)
            after = level.table[state, byte]
        return after

    def added_ends(self, state: int, at: int, ranks: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """Where each of the added tokens of level ``at`` (all, by rank) leads to on that level, from a state."""
        if state == DEAD:
            return np.zeros(len(ranks), np.int32)
        run = self._added.pop(at, None) or self._first_run(self._prefixes(ranks))
        ends: Int32[np.ndarray, " n"] = self._ends_of_all(run, self.levels[at], state)[ranks]
        self._added[at] = run
        return ends

    def _first_run(self, depths: list[_Depth]) -> _Run:
        """What the first run follows: one from a dead state."""
        reached = [np.zeros(len(depth.byte), np.int32) for depth in depths]
        return _Run(depths, reached, np.zeros(len(self.prefix_index), np.int32))

    def _prefixes(self, alive: Int64[np.ndarray, " n"]) -> list[_Depth]:
        """The distinct prefixes of some tokens, by length."""
        prefix_index, depths = self.prefix_index, []
        group = np.zeros(len(prefix_index), np.int64)
        depth = 0
        while len(alive):
            parent, byte = group[alive], prefix_index.bytes_at(alive, depth)
            new = np.concatenate(([True], (parent[1:] != parent[:-1]) | (byte[1:] != byte[:-1])))
            group[alive] = np.cumsum(new) - 1
            first = np.flatnonzero(new)
            depth += 1
            ending = alive[prefix_index.lengths[alive] == depth]
            depths.append(_Depth(parent[first], byte[first], ending, group[ending]))
            alive = alive[prefix_index.lengths[alive] > depth]
        return depths


def ended(levels: Sequence[Level], states: States) -> bool:
    """Whether the pieces of these levels may all end at their states."""
    return all(state == INACTIVE or level.ends(state) for level, state in zip(levels, states, strict=True))
