"""One step of a pre-tokenizer as an automaton over bytes, which is told where it is assumed to cut.

Theory of operation
    A split pattern scans a text from left to right. At each place where the scan stands it either matches (the most
    preferred thread that succeeds says where the *match* ends) or it does not, and the character joins a *gap*. Whether
    a match ends here can depend on what follows. So a state is a set of *hypotheses* about the text read so far ("a
    match began here, no match ended there"), each with one condition that the text to come has to meet for it to be
    right (derivatives.py). A hypothesis whose condition no text meets is dropped; one whose condition is true is
    proven. Hypotheses that differ in their conditions alone are one, and conditions that say the same are written the
    same, so that states do not multiply where a pattern looks ahead from every place.

    The caller says where the cuts are: reading on without `cut` assumes that there is no boundary here. Tokens never
    span a boundary, so reading a token's bytes with `next` tells at once whether the token can stand there.

Invariant
    Bytes and cuts lead to a live state if and only if some text continues these bytes so that the real pre-tokenizer
    cuts at exactly these places (of its own level), where "some text" is what `ends` and the search in
    tokenizer/viability/text_futures.py decide.

Cost
    Every transition is computed once and kept in a table of state × byte; reading is then array indexing, for one token
    in Python and for all tokens of a range in numpy. A pattern is refused where a text needs more
    than `_MOST_STATES` states.

Source
    Brzozowski's derivatives for look-around, Pike's threads for preference; the combination with hypotheses is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from bytelm.errors import UnsupportedTokenizerError
from bytelm.symbols import CONTINUATIONS
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.split.char_classes import NO_CLASS, char_classes
from bytelm.tokenizer.split.derivatives import (
    Condition,
    Thread,
    Threads,
    conjunction,
    disjunction,
    holds_at_end,
    match_conditions,
    negation,
    still_reading,
)
from bytelm.tokenizer.split.hypotheses import DEAD, Hypothesis, Kind, State
from bytelm.tokenizer.split.regex import Pattern
from bytelm.tokenizer.split.utf8 import Partial, Utf8

_UNKNOWN: Final = -1
_MOST_STATES: Final = 1 << 15  # 32 MB; real patterns need a few thousand at most
SKIP: Final = -2  # the tag of a match that stays text: the spelling of a special token
LOST: Final = -3  # the tag of a match that loses information: such a text has no canonical sequence


class Level:
    """One step of the pre-tokenizer (or the matching of added tokens), as an automaton over bytes.

    States are numbers; `DEAD` is 0. A state is a set of hypotheses, at the end of a character or inside one.

    Args:
        pattern: The step's pattern.
        behavior: Isolated, Contiguous, MergedWithPrevious, MergedWithNext, Removed, or Added for added tokens.
        invert: Matches and gaps change places.
        alias: Code points that the pattern sees as others.
        forbidden: Code points that text cannot contain.
        alphabet: Of a step after ByteLevel: the code points that stand for the 256 bytes. A character is a byte then.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        behavior: str,
        invert: bool,
        alias: dict[int, int],
        forbidden: Bool[np.ndarray, " points"],
        alphabet: Sequence[int] | None = None,
    ) -> None:
        self.by_bytes = alphabet is not None
        if alphabet is not None:
            forbidden = np.zeros_like(forbidden)  # it speaks of the text's characters
        self.class_of, atoms = char_classes(pattern, alias=alias, forbidden=forbidden)
        if alphabet is not None:
            self.class_of = self.class_of[list(alphabet)]
        self.utf8 = Utf8(self.class_of)
        self.threads = Threads(pattern, atoms)
        self.added = behavior == "Added"
        self._space = pattern.atoms.index(r"\s") if r"\s" in pattern.atoms else -1
        self.behavior = behavior
        self.invert = invert
        dropped: Kind = "gap" if invert else "match"
        self.dropped: Kind | None = dropped if behavior == "Removed" else None
        self._states = [State()]
        self._numbers: dict[tuple[bool, frozenset[Hypothesis], bytes], int] = {}
        self.table: Int32[np.ndarray, "states 256"] = np.full((64, 256), _UNKNOWN, np.int32)
        self.table[DEAD] = DEAD
        self.start_bare = self._start(added=False)
        self.start_added = self._start(added=True) if self.added else DEAD
        self.start_reopened = self._start(added=False, reopened=True)
        self.start = self._start_hidden() if pattern.opening >= 0 else self.start_bare

    # --- states ------------------------------------------------------------------------------------------------------

    def _number(self, state: State) -> int:
        """The number of a state; those that differ only in `origin` are one."""
        if not state.hypotheses:
            return DEAD
        key = (state.fresh, state.hypotheses, state.partial.key if state.partial else b"")
        if key not in self._numbers:
            if len(self._states) == _MOST_STATES:
                raise UnsupportedTokenizerError(
                    f"the split pattern {self.threads.pattern.source!r:.200} needs more than {_MOST_STATES} states: "
                    "it looks too far ahead"
                )
            self._numbers[key] = len(self._states)
            self._states.append(state)
            if len(self._states) > len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, _UNKNOWN)])
        return self._numbers[key]

    def _decided(self, options: Iterable[tuple[bool, Hypothesis]], *, cut: bool, added: bool) -> int:
        """The state of the options that agree on whether there is a boundary here."""
        chosen = (h for is_cut, h in options if is_cut is cut and self._wanted(h, added=added))
        return self._number(State(self._joined(chosen), fresh=True))

    def _joined(self, hypotheses: Iterable[Hypothesis]) -> frozenset[Hypothesis]:
        """Those that differ in their conditions alone are one: one of the conditions has to be met."""
        conditions: dict[tuple[Kind, tuple[Thread, ...], int], Condition] = {}
        for h in hypotheses:
            key = (h.kind, h.threads, h.before)
            conditions[key] = disjunction(conditions.get(key, False), h.condition)
        due = ((key, self.threads.minimised(condition)) for key, condition in conditions.items())
        return frozenset(
            Hypothesis(kind, threads, condition, before)
            for (kind, threads, before), condition in due
            if condition is not False
        )

    def _start(self, *, added: bool, reopened: bool = False) -> int:
        """The state at the start of a piece; ``reopened``: behind an added token of the level above."""
        begun = self._begin(condition=True, before=-1, left=None, reopened=reopened)
        return self._decided(begun, cut=False, added=added)

    def _start_hidden(self) -> int:
        hidden = Hypothesis("hidden", (), self.threads.can_match(self.threads.pattern.opening, -1), -1)
        return self._decided([(False, hidden)], cut=False, added=False)

    def drops(self, point: int) -> bool:
        """Whether a piece that begins with a character may lose it."""
        char_class = int(self.class_of[point])
        begun = (h for _, h in self._begin(condition=True, before=-1, left=None) if h.kind == self.dropped)
        return any(
            self.threads.derive(h.condition, char_class) is not False
            and (h.kind == "gap" or self.threads.step(h.threads, char_class))
            for h in begun
        )

    def _wanted(self, hypothesis: Hypothesis, *, added: bool) -> bool:
        if self.added:
            return (hypothesis.kind == "match") is added
        return hypothesis.kind != self.dropped

    # --- hypotheses --------------------------------------------------------------------------------------------------

    def _begin(
        self, condition: Condition, before: int, left: Kind | None, *, reopened: bool = False
    ) -> list[tuple[bool, Hypothesis]]:
        """What can begin at a place where the scan stands: a segment, with whether the boundary before it is a cut.

        ``left`` is the kind of the segment before; None at the start of a piece. A text that begins with an added token
        gets no hidden space, so none begins behind one.
        """
        threads, pattern = self.threads, self.threads.pattern
        first = threads.closure(pattern.start, before)
        matches = threads.can_match(pattern.start, before)
        empty = disjunction(*match_conditions(first).values())
        fails = disjunction(negation(matches), empty)
        succeeds = conjunction(condition, matches, negation(empty))
        found: list[tuple[bool, Kind, tuple[Thread, ...], Condition]] = []
        if left == "gap":
            # An empty match in a gap cuts it; after a match, and at the start, an empty match changes nothing.
            found.append((True, "gap", (), conjunction(condition, empty)))
            fails = conjunction(fails, negation(empty))
        entries: tuple[tuple[Kind, int], ...] = (("match", pattern.start),)
        if self.added:
            entries = (("match", -1 if left == "hidden" else pattern.emits), ("skip", pattern.skips))
        begun: Condition = True  # what the text behind an added token begins with, where it is none itself
        if (reopened or left == "done") and pattern.reopening >= 0:
            begun = threads.can_match(pattern.reopening, -1)
        for kind, entry in entries:
            due = conjunction(succeeds, threads.can_match(entry, before)) if entry >= 0 else False
            due = conjunction(due, begun) if kind == "skip" else due
            found.append((self._cuts(left, kind), kind, still_reading(first), due))
        fails = conjunction(condition, fails, begun)
        found.append((left != "gap" and self._cuts(left, "gap"), "gap", (), fails))
        return [(cut, Hypothesis(kind, ways, due, before)) for cut, kind, ways, due in found if due is not False]

    def _cuts(self, left: Kind | None, right: Kind) -> bool:
        """Whether the boundary between two neighbouring segments is one between pieces."""
        if left is None:
            return False
        if self.invert:
            swap: dict[Kind, Kind] = {"match": "gap", "gap": "match"}
            left, right = swap[left], swap[right]
        match self.behavior:
            case "Added":
                return "match" in (left, right) or left == "done"
            case "Contiguous":
                return left != right
            case "MergedWithPrevious":
                return not (left == "gap" and right == "match")
            case "MergedWithNext":
                return not (left == "match" and right == "gap")
            case _:
                return True

    def _options(self, state: int) -> Iterator[tuple[bool, Hypothesis]]:
        """What a state's hypotheses can become: go on, or end here and begin anew; with whether that is a cut."""
        for hypothesis in self._states[state].hypotheses:
            kind, condition, before = hypothesis.kind, hypothesis.condition, hypothesis.before
            if kind in ("gap", "done", "hidden"):
                yield from self._begin(condition, before, kind)
                continue
            won = match_conditions(hypothesis.threads)
            goes_on = conjunction(condition, negation(disjunction(*won.values())))
            threads = still_reading(hypothesis.threads)
            if goes_on is not False and threads:
                yield False, Hypothesis(kind, threads, goes_on, before)
            ended = conjunction(condition, disjunction(*(f for tag, f in won.items() if self._tag_fits(tag, kind))))
            if ended is not False and not (self.added and kind == "match"):
                yield from self._begin(ended, before, kind)

    def _tag_fits(self, tag: int, kind: Kind) -> bool:
        return (tag == SKIP) if kind == "skip" else tag >= 0

    @kept()
    def emit(self, state: int, tag: int) -> int:
        """After the bytes of an added token: the state in which its match ends here."""
        done: set[Hypothesis] = set()
        for hypothesis in self._states[state].hypotheses:
            condition = conjunction(hypothesis.condition, match_conditions(hypothesis.threads).get(tag, False))
            if hypothesis.kind == "match" and condition is not False:
                # Stripping to the left stops at this match: white space inside it is not before the next.
                inside = hypothesis.before >= 0 and self._space in self.threads.atoms_of[hypothesis.before]
                done.add(Hypothesis("done", (), condition, -1 if inside else hypothesis.before))
        return self._number(State(frozenset(done)))

    def emissions(self, state: int) -> Iterator[int]:
        """The states in which the match of some added token ends here."""
        known = self._states[state]
        matches = [] if known.partial else [h for h in known.hypotheses if h.kind == "match"]
        tags = {tag for h in matches for tag in match_conditions(h.threads) if tag >= 0}
        return (after for tag in sorted(tags) if (after := self.emit(state, tag)) != DEAD)

    @kept()
    def cut(self, state: int, *, added: bool = False) -> int:
        """The state with a boundary between pieces here; ``added``: an added token comes next."""
        return DEAD if self._states[state].partial else self._decided(self._options(state), cut=True, added=added)

    @kept()
    def ends(self, state: int) -> bool:
        """Whether the piece may end here: some hypothesis is right if no more text comes."""
        return not self._states[state].partial and any(map(self._holds_at_end, self._states[state].hypotheses))

    def _holds_at_end(self, hypothesis: Hypothesis) -> bool:
        if hypothesis.kind == "hidden":
            return False  # an empty text gets none
        if hypothesis.kind in ("gap", "done"):
            return holds_at_end(hypothesis.condition)
        return any(
            holds_at_end(conjunction(hypothesis.condition, f))
            for tag, f in match_conditions(hypothesis.threads).items()
            if self._tag_fits(tag, hypothesis.kind)
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    def next(self, state: int, byte: int) -> int:
        """The state after one more byte, with no boundary before it."""
        known: int = self.table.item(state, byte)
        if known == _UNKNOWN:
            known, begun = self._next(state, byte), self._states[state].partial
            self.table[state, self._alike(begun, self.read_as(begun)[byte])] = known
        return known

    @kept()
    def _alike(self, begun: Partial | None, key: int | bytes | None) -> Int64[np.ndarray, " bytes"]:
        """The bytes of which `read_as` says the same: they lead to the same state."""
        return np.array([byte for byte, other in enumerate(self.read_as(begun)) if other == key], np.int64)

    def read_bytes(self, state: int, data: bytes) -> int:
        """The state after some bytes, with no boundary among them."""
        for byte in data:
            state = self.next(state, byte)
        return state

    def _next(self, state: int, byte: int) -> int:
        if self.by_bytes:
            return self.read(self._ready(state), int(self.class_of[byte]))
        partial = self._states[state].partial
        inner = self.utf8.next(partial, byte)
        if inner is None:
            return DEAD
        ready = self._ready(state)
        if isinstance(inner, Partial):
            origin = self._states[ready].origin if partial else ready
            if all(self.read(origin, char_class) == DEAD for char_class in inner.classes):
                return DEAD
            return self._number(State(self._states[ready].hypotheses, partial=inner, origin=origin))
        return self.read(ready, inner)

    @kept()
    def _ready(self, state: int) -> int:
        """The state with no boundary here, where that is still open: at the end of a character."""
        known = self._states[state]
        if known.fresh or known.partial:
            return state
        inside_added = self.added and any(h.kind == "match" for h in known.hypotheses)
        return self._decided(self._options(state), cut=False, added=inside_added)

    @kept()
    def read_as(self, begun: Partial | None) -> tuple[int | bytes | None, ...]:
        """For each byte what is equal for bytes that lead from a state to the same one; None if it leads nowhere.

        Args:
            begun: The character that the state is inside of.
        """
        if self.by_bytes:
            return tuple(None if each == NO_CLASS else each for each in self.class_of[:256].tolist())
        keys: list[int | bytes | None] = [None] * 256
        for byte in CONTINUATIONS if begun else range(256):
            inner = self.utf8.next(begun, byte)
            keys[byte] = inner.key if isinstance(inner, Partial) else None if inner == NO_CLASS else inner
        return tuple(keys)

    def origin(self, state: int) -> int:
        """The state before the character that a state is inside of, with no boundary there; else `DEAD`."""
        return self._states[state].origin

    def begun(self, state: int) -> Partial | None:
        """The character that a state is inside of, if it is."""
        return self._states[state].partial

    def after(self, state: int, char_class: int) -> int:
        """The state after one whole character, or after the rest of the one that the state is inside of."""
        return self.read(self._ready(state), char_class)

    @kept()
    def read(self, state: int, char_class: int) -> int:
        """The state after a character of this class, from a state where no boundary is open."""
        if char_class == NO_CLASS:
            return DEAD
        found: list[Hypothesis] = []
        for hypothesis in self._states[state].hypotheses:
            condition = self.threads.derive(hypothesis.condition, char_class)
            threads = self.threads.step(hypothesis.threads, char_class) if condition is not False else ()
            if condition is not False and (threads or hypothesis.kind in ("gap", "hidden")):
                before = char_class if self.threads.pattern.looks_behind else -1
                found.append(Hypothesis(hypothesis.kind, threads, condition, before))
        return self._number(State(self._joined(found)))
