"""Where a pre-tokenizer may cut: its pattern as an automaton, told byte by byte where the cuts are claimed to be.

Theory of operation
    A split pattern scans a text from left to right. From each place where it stands it either matches (the *match* ends
    where the most preferred thread that succeeds says) or does not, and the character joins a *gap*. Whether a match
    ends here can depend on what follows. So a state holds *claims* about the text read so far ("a match began here,
    no match ended there") and one formula (derivatives.py) that the text to come has to make true for the claims to be
    right. Claims whose formula has become false are dropped; a claim is proven the moment its formula is true.

    The caller decides the claims: reading on without `cut` claims that there is no boundary here. Tokens never span a
    boundary, so walking a token's bytes through `next` answers at once whether the token can stand there.

Invariant
    A node is reached by bytes and cuts if and only if some text continues these bytes so that the real pre-tokenizer
    cuts at exactly these places (of its own level), where "some text" is what `ends` and the search in
    tokenizer/viability/viability.py decide.

Cost
    Every transition is computed once and kept in a table of node × byte; walking is then array indexing, for one
    token in Python and for all tokens of a range in numpy.

Source
    Brzozowski's derivatives for look-around, Pike's threads for preference; the combination with claims is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int32, UInt16

from bytelm.symbols import is_continuation
from bytelm.tokenizer.split.char_classes import CODE_POINTS, NO_LETTER, letters
from bytelm.tokenizer.split.derivatives import (
    Formula,
    Thread,
    Threads,
    at_end,
    conjunction,
    disjunction,
    going_on,
    negation,
    wins,
)
from bytelm.tokenizer.split.regex import Pattern

DEAD: Final = 0
_UNKNOWN: Final = -1
SKIP: Final = -2  # the tag of a match that stays text: the spelling of a special token
LOST: Final = -3  # the tag of a match that loses information: such a text has no canonical sequence

Kind = Literal["match", "skip", "gap", "done"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One way in which the text so far may have been cut.

    Attributes:
        kind: What the last segment is; ``done``: an added token that has just ended.
        threads: The match attempt under way.
        owed: What the text to come has to make true.
        before: The last letter, or -1 (see `Threads`).
    """

    kind: Kind
    threads: tuple[Thread, ...]
    owed: Formula
    before: int


@dataclass(frozen=True, slots=True)
class Partial:
    """The beginning of a UTF-8 character: how many bytes are missing and the letters of all its completions."""

    missing: int
    first: int
    last: int
    key: bytes


class Utf8:
    """The beginnings of characters, those with the same completions merged, for one assignment of letters."""

    def __init__(self, letter: UInt16[np.ndarray, " points"]) -> None:
        self.letter = letter
        self._leads: dict[int, Partial | None] = {}
        self._inner: dict[tuple[int, int, int], Partial | None] = {}

    def dummy_prefix(self, byte: int) -> Partial | None:
        """The character that a lead byte begins."""
        if byte not in self._leads:
            size = 1 if 0xC2 <= byte < 0xE0 else 2 if 0xE0 <= byte < 0xF0 else 3 if 0xF0 <= byte < 0xF5 else 0
            floor = {1: 0x80, 2: 0x800, 3: 0x10000}.get(size, 0)
            bits = byte & (0x3F >> size)
            first, last = bits << 6 * size, (bits + 1 << 6 * size) - 1
            self._leads[byte] = self._make(size, max(first, floor), min(last, CODE_POINTS - 1)) if size else None
        return self._leads[byte]

    def inner(self, partial: Partial, byte: int) -> Partial | int | None:
        """After one more byte: a longer beginning, or the letter of the whole character (`NO_LETTER`: none)."""
        if not is_continuation(byte):
            return None
        shift = 6 * (partial.missing - 1)
        origin = partial.first >> 6 * partial.missing << 6 * partial.missing
        first = origin + ((byte & 0x3F) << shift)
        if not shift:
            return int(self.letter[first]) if partial.first <= first <= partial.last else None
        key = (partial.missing, first, partial.first)
        if key not in self._inner:
            low, high = max(first, partial.first), min(first + (1 << shift) - 1, partial.last)
            self._inner[key] = self._make(partial.missing - 1, low, high) if low <= high else None
        return self._inner[key]

    def _make(self, missing: int, first: int, last: int) -> Partial | None:
        inside = self.letter[first : last + 1]
        if not (inside != NO_LETTER).any():
            return None
        origin = first >> 6 * missing << 6 * missing
        return Partial(missing, first, last, f"{missing},{first - origin},{last - origin},".encode() + inside.tobytes())


def _cuts(behavior: str, left: Kind, right: Kind) -> bool:
    """Whether the boundary between two neighbouring segments is one between pieces."""
    match behavior:
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


class Level:
    """One step of the pre-tokenizer (or the matching of added tokens), as an automaton over bytes.

    Nodes are numbers; `DEAD` is 0. A node is a set of claims either at the end of a character or inside one.

    Args:
        pattern: The step's pattern.
        behavior: Isolated, Contiguous, MergedWithPrevious, MergedWithNext, Removed, or Added for added tokens.
        invert: Matches and gaps change places.
        alias: Code points that the pattern sees as others.
        forbidden: Code points that text cannot contain.
    """

    def __init__(
        self,
        pattern: Pattern,
        *,
        behavior: str,
        invert: bool,
        alias: dict[int, int],
        forbidden: Bool[np.ndarray, " points"],
    ) -> None:
        letter, members = letters(pattern, alias=alias, forbidden=forbidden)
        self.letter = letter
        self.utf8 = Utf8(letter)
        self.threads = Threads(pattern, members)
        self.added = behavior == "Added"
        self._space = pattern.atoms.index(r"\s") if r"\s" in pattern.atoms else -1
        self.behavior = behavior
        self.invert = invert
        dropped: Kind = "gap" if invert else "match"
        self.dropped: Kind | None = dropped if behavior == "Removed" else None
        self._sets: dict[tuple[bool, frozenset[Claim], bytes], int] = {}
        self._claims: list[frozenset[Claim]] = [frozenset()]
        self._partials: list[Partial | None] = [None]
        self._fresh: list[bool] = [False]
        self._origins: list[int] = [DEAD]
        self._ends: list[bool | None] = [False]
        self._cut: dict[tuple[int, bool], int] = {}
        self._stays: dict[int, int] = {}
        self._after: dict[tuple[int, int], int] = {}
        self._emitted: dict[tuple[int, int], int] = {}
        self.table: Int32[np.ndarray, "nodes 256"] = np.full((64, 256), _UNKNOWN, np.int32)
        self.table[DEAD] = DEAD
        self.start = self._start(added=False, opening=True)
        self.start_bare = self._start(added=False, opening=False)
        self.start_added = self._start(added=True, opening=False) if self.added else DEAD

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(
        self, claims: frozenset[Claim], *, fresh: bool, partial: Partial | None = None, origin: int = DEAD
    ) -> int:
        """The number of a node. ``fresh``: the claims at this place are already made, reading comes next."""
        if not claims:
            return DEAD
        key = (fresh, claims, partial.key if partial else b"")
        if key not in self._sets:
            self._sets[key] = len(self._claims)
            self._claims.append(claims)
            self._partials.append(partial)
            self._fresh.append(fresh)
            self._origins.append(origin)
            self._ends.append(None)
            if len(self._claims) > len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, _UNKNOWN)])
        return self._sets[key]

    def _start(self, *, added: bool, opening: bool) -> int:
        claims = self._begin(owed=True, before=-1, left=None, opening=opening)
        return self._node(frozenset(c for _, c in claims if self._wanted(c, added=added)), fresh=True)

    def _wanted(self, claim: Claim, *, added: bool) -> bool:
        if self.added:
            return (claim.kind == "match") is added
        return claim.kind != self.dropped

    # --- claims ------------------------------------------------------------------------------------------------------

    def _begin(
        self, owed: Formula, before: int, left: Kind | None, *, opening: bool = False
    ) -> list[tuple[bool, Claim]]:
        """What can begin at a place where the scan stands: a segment, with whether the boundary before it is a cut.

        ``left`` is the kind of the segment before; None at the start of a piece.
        """
        threads = self.threads
        start = threads.pattern.start
        first = threads.closure(start, before)
        matches = threads.formula(start, before)
        empty = disjunction(*wins(first).values())
        fails = disjunction(negation(matches), empty)
        out: list[tuple[bool, Claim]] = []
        succeeds = conjunction(owed, matches, negation(empty))
        if left == "gap":
            # An empty match in a gap cuts it; after a match, and at the start, an empty match changes nothing.
            split = conjunction(owed, empty)
            if split is not False:
                out.append((True, Claim("gap", (), split, before)))
            fails = conjunction(fails, negation(empty))
        entries: tuple[tuple[Kind, int], ...] = (("match", start),)
        if self.added:
            entries = (("match", threads.pattern.emits), ("skip", threads.pattern.skips))
        for kind, entry in entries:
            due = conjunction(succeeds, threads.formula(entry, before)) if entry >= 0 else False
            if due is not False:
                out.append((left is not None and self._boundary(left, kind), Claim(kind, going_on(first), due, before)))
        fails = conjunction(owed, fails)
        if opening or left == "done":
            entry = threads.pattern.opening if opening else threads.pattern.reopening
            fails = conjunction(fails, threads.formula(entry, -1)) if entry >= 0 else fails
        if fails is not False:
            out.append((left not in (None, "gap") and self._boundary(left, "gap"), Claim("gap", (), fails, before)))
        return out

    def _boundary(self, left: Kind | None, right: Kind) -> bool:
        if left is None:
            return False
        if self.invert:
            swap: dict[Kind, Kind] = {"match": "gap", "gap": "match"}
            left, right = swap[left], swap[right]
        return _cuts(self.behavior, left, right)

    def _options(self, claim: Claim) -> list[tuple[bool, Claim]]:
        """The claims that can be made where a claim stands: go on, or end here and begin anew."""
        if claim.kind == "gap":
            return self._begin(claim.owed, claim.before, "gap")
        if claim.kind == "done":
            return self._begin(claim.owed, claim.before, "done")
        out: list[tuple[bool, Claim]] = []
        won = wins(claim.threads)
        goes_on = conjunction(claim.owed, negation(disjunction(*won.values())))
        threads = going_on(claim.threads)
        if goes_on is not False and threads:
            out.append((False, Claim(claim.kind, threads, goes_on, claim.before)))
        ended = conjunction(claim.owed, disjunction(*(f for tag, f in won.items() if self._tag_fits(tag, claim.kind))))
        if ended is not False and not (self.added and claim.kind == "match"):
            out += self._begin(ended, claim.before, claim.kind)
        return out

    def _tag_fits(self, tag: int, kind: Kind) -> bool:
        return (tag == SKIP) if kind == "skip" else tag >= 0

    def emit(self, node: int, tag: int) -> int:
        """After the bytes of an added token: the claim that its match ends here."""
        key = (node, tag)
        if key not in self._emitted:
            done: set[Claim] = set()
            for claim in self._claims[node]:
                owed = conjunction(claim.owed, wins(claim.threads).get(tag, False))
                if claim.kind == "match" and owed is not False:
                    # Stripping to the left stops at this match: white space inside it is not before the next.
                    inside = claim.before >= 0 and self._space in self.threads.members[claim.before]
                    done.add(Claim("done", (), owed, -1 if inside else claim.before))
            self._emitted[key] = self._node(frozenset(done), fresh=False)
        return self._emitted[key]

    def emissions(self, node: int) -> Iterator[int]:
        """The nodes after claiming that the match of some added token ends here."""
        tags = {tag for c in self._claims[node] if c.kind == "match" for tag in wins(c.threads) if tag >= 0}
        return (after for tag in sorted(tags) if (after := self.emit(node, tag)) != DEAD)

    def cut(self, node: int, *, added: bool = False) -> int:
        """The node after claiming a boundary between pieces here; ``added``: an added token comes next."""
        key = (node, added)
        if key not in self._cut:
            claims = () if self._partials[node] else self._claims[node]
            options = [o for c in claims for o in self._options(c)]
            chosen = frozenset(c for is_cut, c in options if is_cut and self._wanted(c, added=added))
            self._cut[key] = self._node(chosen, fresh=True)
        return self._cut[key]

    def ends(self, node: int) -> bool:
        """Whether the piece may end here: every claim is right if no more text comes."""
        known = self._ends[node]
        if known is None:
            known = self._ends[node] = not self._partials[node] and any(map(self._claim_ends, self._claims[node]))
        return known

    def _claim_ends(self, claim: Claim) -> bool:
        if claim.kind in ("gap", "done"):
            return at_end(claim.owed)
        return any(
            at_end(conjunction(claim.owed, f))
            for tag, f in wins(claim.threads).items()
            if self._tag_fits(tag, claim.kind)
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    def next(self, node: int, byte: int) -> int:
        """The node after one more byte, with no boundary before it."""
        known = int(self.table[node, byte])
        if known == _UNKNOWN:
            known = self._next(node, byte)
            self.table[node, byte] = known
        return known

    def _next(self, node: int, byte: int) -> int:
        partial = self._partials[node]
        inner = self.utf8.inner(partial, byte) if partial else byte if byte < 0x80 else self.utf8.dummy_prefix(byte)
        if inner is None:
            return DEAD
        ready = node if partial else self._ready(node)
        if isinstance(inner, Partial):
            origin = self._origins[ready] if partial else ready
            return self._node(self._claims[ready], fresh=False, partial=inner, origin=origin)
        return self.read(ready, inner if partial else int(self.letter[byte]))

    def _ready(self, node: int) -> int:
        """A node at a character's end once "no boundary here" is claimed; ready already where claims are made."""
        if self._fresh[node]:
            return node
        if node not in self._stays:
            claims = self._claims[node]
            inside_added = self.added and any(c.kind == "match" for c in claims)
            options = [o for c in claims for o in self._options(c)]
            chosen = frozenset(c for is_cut, c in options if not is_cut and self._wanted(c, added=inside_added))
            self._stays[node] = self._node(chosen, fresh=True)
        return self._stays[node]

    def origin(self, node: int) -> int:
        """The node before the character that a node is inside of, with "no boundary here" claimed; else `DEAD`."""
        return self._origins[node]

    def after(self, node: int, letter: int) -> int:
        """The node after one whole character, or after the rest of the one that the node is inside of."""
        return self.read(node if self._partials[node] else self._ready(node), letter)

    def read(self, node: int, letter: int) -> int:
        """The node after a character of this letter, from a node whose claims at this place are made."""
        key = (node, letter)
        known = self._after.get(key)
        if known is None:
            known = self._after[key] = self._read(node, letter)
        return known

    def _read(self, node: int, letter: int) -> int:
        if letter == NO_LETTER:
            return DEAD
        out: set[Claim] = set()
        for claim in self._claims[node]:
            owed = self.threads.derive(claim.owed, letter)
            if owed is False:
                continue
            threads = self.threads.step(claim.threads, letter)
            if claim.kind != "gap" and not threads:
                continue
            before = letter if self.threads.pattern.looks_behind else -1
            out.add(Claim(claim.kind, threads, owed, before))
        return self._node(frozenset(out), fresh=False)
