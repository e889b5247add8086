"""From the sequences that are asked for to forward passes: what is fed, in which order, and what each token sees.

Rules
    Only tokens that no cached path holds are fed, each once, however many sequences share it. A sequence that is a
    prefix of another costs nothing more. Where a row was forgotten and its token is still cached, that one token is
    fed again beside the others, and its slot is forgotten at once.
    The longest sequence comes first, so that its slots lie together and its shorter neighbours hang on it.
    A token is fed after, or in the same pass as, the token that it continues.

Passes
    *Chain*: one run of tokens that continues one path. The model makes its own causal mask.
    *Shared*: any tree of tokens, all queries reading the same slots, each seeing its own path by a mask.
    *Rows*: as shared, but each query reads its own list of slots. For many unrelated sequences, where a mask over
    everything would be mostly empty.
    What decides is the estimated work, in units of one query against one slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64

from bytelm.engines.transformers.kv_cache import Read, Slots, SlotStore, visibility
from bytelm.engines.transformers.prefix_tree import PrefixTree

COPY_COST: Final = 6  # copying a slot, against attending to it: estimated on two CPU cores
PASS_COST: Final = 16_000  # reading the weights once more, in the same units
GATHER_LENGTH: Final = 32  # a chain of so many tokens is worth gathering its path for


@dataclass(slots=True)
class Pass:
    """One forward pass over the items ``first : first + length`` of a plan.

    Attributes:
        read: What the model's cache reads and writes.
        seen: Which column each item sees; None where the model's own causal mask says it.
        places: Position in its sequence of each column's token.
        past: Tokens before the pass, as a model that makes its own mask counts.
    """

    first: int
    length: int
    read: Read
    past: int
    seen: Bool[np.ndarray, "items width"] | None = None
    places: Int64[np.ndarray, " width"] | None = None


class Plan:
    """What has to be fed for some sequences, given what is cached.

    Attributes:
        tokens: Token of each item, in the order they are fed.
        positions: Its position in its sequence.
        parents: The item that it continues, or -1 where that is cached already.
        bases: For those, the slots of the path that they continue.
        wanted: Items whose rows are asked for, with their sequences.
        start: The slot of item 0; the others follow.
    """

    def __init__(self, tree: PrefixTree, sequences: Sequence[tuple[int, ...]], start: int) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.parents: list[int] = []
        self.bases: dict[int, Slots] = {}
        self.wanted: dict[int, tuple[int, ...]] = {}
        self.start = start
        for sequence in sorted(sequences, key=len, reverse=True):
            self._add(tree, sequence)

    def __len__(self) -> int:
        return len(self.tokens)

    def _add(self, tree: PrefixTree, sequence: tuple[int, ...]) -> None:
        segment, n = tree.find(list(sequence))
        last = segment.slots[-1] if segment.slots else -1
        first = len(self.tokens)
        if n == len(sequence):
            if last >= self.start:
                self.wanted[last - self.start] = sequence
                return
            n -= 1  # cached, but its row is wanted: feed its last token again, beside the tree
            self.bases[first] = tree.path(segment)[:-1]
            self.parents.append(-1)
        else:
            if last >= self.start:
                self.parents.append(last - self.start)
            else:
                self.bases[first] = tree.path(segment)
                self.parents.append(-1)
            slots = range(self.start + first, self.start + first + len(sequence) - n)
            tree.insert(segment, sequence[n:], slots)
        self.parents.extend(range(first, first + len(sequence) - n - 1))
        self.tokens.extend(sequence[n:])
        self.positions.extend(range(n, len(sequence)))
        self.wanted[len(self.tokens) - 1] = sequence

    def place(self, tree: PrefixTree, store: SlotStore, limit: int) -> None:
        """Make room for the plan's tokens in the store, of about ``limit`` slots, by forgetting what is oldest.

        Only what this very call needs may take more than the limit.
        """
        n = len(self)
        fits = self.start + n <= store.capacity
        if not (fits and store.capacity <= limit):
            # Evicting to below the limit leaves room to grow, so that packing stays rare.
            tree.evict(max(tree.live - int(0.8 * limit), 0))
            # What the tree keeps besides the plan's own tokens; these have no keys yet.
            held = tree.slots()
            old = held[held < self.start]
            need = len(old) + n
            capacity = max(min(int(1.5 * need), limit), int(1.25 * need)) + 1
            if not fits or 2 * capacity < store.capacity:
                self._move(tree, store, old, capacity)
        store.positions[self.start : self.start + n] = self.positions
        store.top = self.start + n

    def _move(self, tree: PrefixTree, store: SlotStore, old: Slots, capacity: int) -> None:
        new = np.full(self.start + len(self), -1, np.int64)
        new[old] = np.arange(len(old))
        new[self.start :] = len(old) + np.arange(len(self))
        store.pack(old, capacity)
        tree.renumber(new)
        self.bases = {item: new[path] for item, path in self.bases.items()}
        self.start = len(old)

    def path(self, item: int) -> Slots:
        """The slots of the tokens up to and including an item, first token first."""
        run = []
        while item not in self.bases:
            run.append(self.start + item)
            item = self.parents[item]
        run.append(self.start + item)
        return np.concatenate([self.bases[item], np.array(run[::-1], np.int64)])

    def passes(self, *, masks: bool, chunk: int, max_batch: int, positions: Slots) -> Iterator[Pass]:
        """Cut the plan into passes of at most ``chunk`` tokens.

        Args:
            masks: The model takes a mask of ours; otherwise every pass is a chain.
            chunk: Most tokens in a pass.
            max_batch: Most rows in a pass of the kind *rows*.
            positions: Position of the token in each slot of the store.
        """
        first = 0
        while first < len(self):
            stop = min(first + chunk, len(self))
            line = first + 1
            while line < stop and self.parents[line] == line - 1:
                line += 1
            made = self._chain(first, line, always=not masks) if line == stop or not masks else None
            if made is None:
                made = self._masked(first, stop, max_batch, positions)
            yield made
            first += made.length

    def _chain(self, first: int, stop: int, *, always: bool) -> Pass | None:
        path = self.path(stop - 1)
        length = stop - first
        read = Read(start=self.start + first, width=len(path), first=int(path[0]))
        if int(path[-1] - path[0]) != len(path) - 1 or not (np.diff(path) == 1).all():
            if not always and length < GATHER_LENGTH:
                return None
            read.index = path
        return Pass(first, length, read, past=len(path) - length)

    def _masked(self, first: int, stop: int, max_batch: int, positions: Slots) -> Pass:
        n = stop - first
        new = np.arange(self.start + first, self.start + stop)
        parents = np.array(self.parents[first:stop], np.int64) - first
        paths = [self.path(i)[:-1] if parents[i - first] < 0 else None for i in range(first, stop)]
        known = [path for path in paths if path is not None]
        length = max(self.positions[first:stop]) + 1
        lowest = min(min((int(path.min()) for path in known if len(path)), default=int(new[0])), int(new[0]))
        span = int(new[-1]) + 1 - lowest
        union = np.concatenate([known[0], new]) if len(known) == 1 else np.unique(np.concatenate([*known, new]))
        gather = span > 2 * len(union) + 256
        shared_work = n * len(union) + COPY_COST * len(union) if gather else n * span
        if (1 + COPY_COST) * n * length + PASS_COST * ((n - 1) // max_batch) < shared_work:
            return self._rows(first, min(n, max_batch), length)
        read = Read(start=int(new[0]), width=span, first=lowest)
        slots = np.arange(lowest, lowest + span)
        column = new - lowest
        if gather:
            slots = np.sort(union)
            read = Read(start=int(new[0]), width=len(union), index=slots)
            column = np.searchsorted(slots, new)
            paths = [None if path is None else np.searchsorted(slots, path) for path in paths]
        else:
            paths = [None if path is None else path - lowest for path in paths]
        seen = visibility(parents, column, paths, read.width)
        return Pass(first, n, read, past=read.width - n, seen=seen, places=positions[slots])

    def _rows(self, first: int, n: int, length: int) -> Pass:
        index = np.zeros((n, length), np.int64)
        seen = np.zeros((n, length), np.bool_)
        for i in range(n):
            path = self.path(first + i)
            index[i, : len(path)] = path
            seen[i, : len(path)] = True
        read = Read(start=self.start + first, width=length, index=index)
        return Pass(first, n, read, past=length - 1, seen=seen, places=np.arange(length))
