"""A vocabulary small enough to enumerate, with a cover built by definition: what the sampler is tested on.

`ToyVocabulary` knows its tokens' bytes and two predicates, viable and canonical. Its covers do not advance anything and
do not use byte order: each is every viable sequence that spells a part of the prefix and can go on to spell the rest.
`TableRows` is a model over it: one distribution for each sequence, written down or drawn from a seeded hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pytest

from bytelm.cover.nodes import Node, Ranked
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.frontier import Frontier
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Step
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.tokenizer.prefix_index import PrefixIndex

Ids = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ToyNode:
    parent: ToyNode | None
    token_id: int
    token_ids: Ids
    end: int

    @property
    def depth(self) -> int:
        return len(self.token_ids)


class ToyVocabulary:
    """Tokens by bytes; every sequence is viable and canonical unless told otherwise."""

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        *,
        viable: Callable[[Ids], bool] = lambda ids: True,
        canonical: Callable[[Ids], bool] | None = None,
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        self.viable = viable
        self.canonical = viable if canonical is None else canonical
        self.prefix_index = PrefixIndex(self.token_bytes)
        self._root = ToyNode(None, -1, (), 0)
        self._nodes: dict[Ids, ToyNode] = {(): self._root}
        self._covers: dict[bytes, ToyCover] = {}
        self.beyond: dict[tuple[Ids, bytes], list[tuple[int, bytes]]] = {}

    def spell(self, ids: Ids) -> bytes:
        return b"".join(self.token_bytes[i] or b"" for i in ids)

    def node(self, ids: Ids) -> ToyNode:
        if ids not in self._nodes:
            self._nodes[ids] = ToyNode(self.node(ids[:-1]), ids[-1], ids, len(self.spell(ids)))
        return self._nodes[ids]

    def cover(self, prefix: bytes = b"") -> ToyCover:
        if prefix not in self._covers:
            self._covers[prefix] = ToyCover(self, prefix)
        return self._covers[prefix]


class ToyCover:
    def __init__(self, vocabulary: ToyVocabulary, prefix: bytes) -> None:
        self.vocabulary = vocabulary
        self.prefix = prefix
        met = [(ids, prefix[len(vocabulary.spell(ids)) :]) for ids in self._within()]
        self.nodes = tuple(vocabulary.node(ids) for ids, rest in met if not rest or self._goes_beyond(ids, rest))
        self.ending = tuple(vocabulary.node(ids) for ids, rest in met if not rest and vocabulary.canonical(ids))
        if not self.nodes and not self.ending:
            raise UnreachablePrefixError(f"nothing spells {prefix!r}", prefix=prefix, position=len(prefix) - 1)

    def _within(self) -> list[Ids]:
        """Every viable sequence whose bytes are the beginning of the prefix, or all of it."""
        found: list[Ids] = [()]
        for ids in found:  # grows as it goes
            rest = self.prefix[len(self.vocabulary.spell(ids)) :]
            for token, spelled in enumerate(self.vocabulary.token_bytes):
                if spelled and rest.startswith(spelled) and self.vocabulary.viable((*ids, token)):
                    found.append((*ids, token))
        return found

    def _goes_beyond(self, ids: Ids, rest: bytes) -> list[tuple[int, bytes]]:
        """The viable tokens that begin with the leftover and go on, and their bytes."""
        if (ids, rest) not in self.vocabulary.beyond:
            self.vocabulary.beyond[ids, rest] = self._found_beyond(ids, rest)
        return self.vocabulary.beyond[ids, rest]

    def _found_beyond(self, ids: Ids, rest: bytes) -> list[tuple[int, bytes]]:
        return [
            (token, spelled)
            for token, spelled in enumerate(self.vocabulary.token_bytes)
            if spelled and spelled.startswith(rest) and spelled != rest and self.vocabulary.viable((*ids, token))
        ]

    def leftover(self, node: Node) -> bytes:
        return self.prefix[node.end :]

    def advance(self, data: bytes) -> ToyCover:
        return self.vocabulary.cover(self.prefix + data)

    def viable(self, node: Node) -> tuple[int, int, np.ndarray]:
        lo, hi = self.vocabulary.prefix_index.range(self.leftover(node))
        order = self.vocabulary.prefix_index.order[lo:hi].tolist()
        return lo, hi, np.array([self.vocabulary.viable((*node.token_ids, token)) for token in order], np.bool_)

    def follows(self, node: Node, token: int) -> bytes:
        spelled = self.vocabulary.token_bytes[token] if token < len(self.vocabulary.token_bytes) else None
        return spelled if spelled and self.vocabulary.viable((*node.token_ids, token)) else b""

    def masses(self, node: Node, tokens: Ranked) -> np.ndarray:
        rest, index = self.leftover(node), self.vocabulary.prefix_index
        beyond = {token for token, _ in self._goes_beyond(node.token_ids, rest)}
        lo, hi = index.range(rest)
        lo = index.longer_than(len(rest), lo, hi)
        nexts = [data[len(rest)] for data in index.spelled[lo:hi]]
        mask = np.array([token in beyond for token in index.order[lo:hi].tolist()], np.bool_)
        flow, values = np.zeros(256), sorted({*nexts})
        if values:
            flow[values] = tokens.sums(lo, hi, mask, np.array([nexts.index(value) for value in values]))
        return flow


class TableRows:
    """A model over a toy vocabulary: the row after a sequence is a function of the sequence."""

    def __init__(self, row: Callable[[Ids], Any], vocab_size: int, eot_ids: Sequence[int] = ()) -> None:
        self._probs = row
        self.tokenizer: Any = None
        self.vocab_size = vocab_size
        self.eot_ids = frozenset(eot_ids)
        self.asked: list[tuple[Ids, ...]] = []
        self._rows: dict[Ids, np.ndarray] = {}

    def row(self, ids: Ids) -> np.ndarray:
        if ids not in self._rows:
            with np.errstate(divide="ignore"):
                self._rows[ids] = np.log(np.asarray(self._probs(ids), np.float64))
        return self._rows[ids]

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.asked.append(tuple(tuple(ids) for ids in sequences))
        return np.stack([self.row(tuple(ids)) for ids in sequences])


def drawn_rows(vocab_size: int, *, seed: int = 0, spread: float = 2.0) -> Callable[[Ids], np.ndarray]:
    """Rows drawn from a hash of the sequence; the larger the spread, the sharper."""

    def row(ids: Ids) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, len(ids), *ids])))
        return random.dirichlet(np.ones(vocab_size) / spread)

    return row


@dataclass
class Toy:
    """A toy vocabulary with a model over it."""

    vocabulary: ToyVocabulary
    model: TableRows

    @classmethod
    def of(
        cls,
        token_bytes: Sequence[bytes | None],
        row: Callable[[Ids], Any],
        *,
        eot_ids: Sequence[int] = (),
        viable: Callable[[Ids], bool] = lambda ids: True,
        canonical: Callable[[Ids], bool] | None = None,
    ) -> Toy:
        vocabulary = ToyVocabulary(token_bytes, viable=viable, canonical=canonical)
        return cls(vocabulary, TableRows(row, len(token_bytes), eot_ids))

    @property
    def reader(self) -> RowReader:
        return RowReader(self.vocabulary.prefix_index, vocab_size=self.model.vocab_size, eot_ids=self.model.eot_ids)

    def frontier(self, prefix: bytes = b"") -> Frontier:
        return Frontier(self.vocabulary.cover(prefix), context=(), reader=self.reader)

    def place(self, prefix: bytes = b"") -> ModelPlace:
        return ModelPlace(self.frontier(prefix), self.model)

    def generation(
        self, start: bytes | ModelPlace, params: SamplingParams, random: np.random.Generator
    ) -> ByteGeneration:
        """A completion. Its place can always tell its log-probability, so no other score is asked for."""
        place = self.place(start) if isinstance(start, bytes) else start
        return ByteGeneration(place, params, random, lambda text, eot: pytest.fail("the place lost its mass"))

    def answer(self, step: Step[T]) -> T:
        """Run a step to its end, each request by one call."""
        rows = None
        while True:
            try:
                request = step.send(rows)
            except StopIteration as end:
                return cast("T", end.value)
            rows = list(self.model.next_token_logprobs(request.sequences))
