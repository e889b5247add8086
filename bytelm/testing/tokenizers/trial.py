"""One tokenizer under trial: what bytelm says of it beside what the tokenizer itself does.

What is compared, at every prefix x
    *nodes*: u is a boundary node of x iff for some continuation y the encoding of x·y begins with u and u's next
    token holds the end of x; and whether x may end (x has a canonical sequence). *leaves*: of every boundary node,
    whether u·t is viable, for all tokens t that begin with the leftover where they are few, for a stratified sample
    where they are many, half of them claimed viable and half not. *refusals*: a prefix that bytelm calls unreachable
    has no continuation, and the other way round; a tokenizer that bytelm refuses does not give back the texts it is
    given.
How a disagreement is settled
    A node or a leaf that the oracle shows is viable, whatever bytelm says. One that bytelm claims and the oracle did
    not show is searched for again, around what bytelm proposes, before it counts. Every disagreement has its witness.
Cost
    Nearly all of it is the tokenizer's own encoder: a few thousand texts for each prefix.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bytelm.cover.cover import Cover, Node
from bytelm.cover.nodes import RankedArray
from bytelm.errors import UnreachablePrefixError, UnsupportedTokenizerError
from bytelm.testing.tokenizers.definition import Definition, Ids, read_backend
from bytelm.testing.tokenizers.judge import Judge
from bytelm.tokenizer.hard_texts import documents, prefixes
from bytelm.tokenizer.viability.viability import Viability

FEW = 300  # where no more tokens than this begin with the leftover, all are tried


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One place where bytelm and the tokenizer differ.

    Attributes:
        what: ``node``, ``leaf``, ``ending``, ``unreachable`` or ``bytes``.
        claim: What bytelm says: True where it says that this is viable (or reachable).
        prefix: The text so far, as Python writes bytes.
        ids: The boundary node, with the leaf as its last id where the leaf is at stake.
        witness: A text whose encoding shows that bytelm is wrong; None where bytelm claims what nothing shows.
    """

    what: str
    claim: bool
    prefix: str
    ids: Ids
    tokens: str
    witness: str | None


@dataclass(slots=True)
class TokenizerReport:
    """What was tried on one tokenizer, and what came of it."""

    tokenizer: str
    family: str = ""
    refused: str | None = None
    round_trips: float = 0.0  # share of probe texts that the tokenizer gives back
    prefixes: int = 0
    unreachable: int = 0
    nodes: int = 0
    leaves: int = 0
    texts: int = 0
    load_seconds: float = 0.0
    reload_seconds: float | None = None  # from the cache on disk, where that was measured
    seconds: float = 0.0
    core_ms: list[float] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)

    def merge(self, other: TokenizerReport) -> None:
        """Add another part of the same tokenizer's run."""
        for name in ("prefixes", "unreachable", "nodes", "leaves", "texts", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.core_ms += other.core_ms
        self.disagreements += other.disagreements

    def summary(self) -> dict[str, Any]:
        """The numbers that are published."""
        found = {k: v for k, v in asdict(self).items() if k != "core_ms"}
        for name, q in (("core_ms_median", 50), ("core_ms_p99", 99), ("core_ms_max", 100)):
            found[name] = round(float(np.percentile(self.core_ms, q)), 4) if self.core_ms else None
        return found | {"load_seconds": round(self.load_seconds, 2), "seconds": round(self.seconds, 1)}


class TokenizerTrial:
    """One tokenizer under trial. One that bytelm refuses has no ``viability``, and the report says why.

    Args:
        source: A tokenizer, or the path of one.
        name: What to call it.
        seed: Of the corpus and of the continuations.
        leaves: How many leaves of a node to try where many tokens begin with the leftover.
        effort: Multiplies the number of continuations.
        dummy_prefix: Whether the hidden leading space applies.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        *,
        seed: int = 0,
        leaves: int = FEW,
        effort: float = 1.0,
        dummy_prefix: bool = True,
    ) -> None:
        backend = read_backend(source)
        self.report = TokenizerReport(name)
        self.leaves = leaves
        self.effort = effort
        self.seed = seed
        self.dummy_prefix = dummy_prefix
        self.rng = random.Random(f"{seed} {name}")
        self.draw = np.random.default_rng(self.rng.getrandbits(64))
        self.definition = Definition(backend, dummy_prefix=dummy_prefix)
        start = time.perf_counter()
        try:
            self.viability = Viability.from_tokenizer(backend)
        except UnsupportedTokenizerError as error:
            self.report.refused = str(error)
        self.report.load_seconds = time.perf_counter() - start
        probe = [d.decode(errors="ignore") for d, _ in zip(documents(seed), range(1000), strict=False)]
        self.report.round_trips = float(np.mean([r is not None for r in self.definition.readings(probe)]))
        self.report.family = "byte-level" if self.definition.byte_level else "sentencepiece"
        if self.report.refused is not None:
            return
        self.judge = Judge(self.definition, seed=seed)
        self._checked: dict[Ids, tuple[bool, str | None]] = {}
        order = self.viability.prefix_index.order
        self.probs = np.random.default_rng(seed).dirichlet(np.ones(len(order)))
        self._compare_bytes()

    def _compare_bytes(self) -> None:
        ours = {i: spelled for i, spelled in enumerate(self.viability.vocab.token_bytes) if spelled is not None}
        for i in sorted(ours.keys() | self.definition.token_bytes.keys()):
            if ours.get(i) != self.definition.token_bytes.get(i):
                self._disagree("bytes", b"", (i,), claim=i in ours, witness=repr(self.definition.token_bytes.get(i)))

    def _disagree(self, what: str, prefix: bytes, ids: Ids, *, claim: bool, witness: str | None) -> None:
        tokens = " ".join(repr(self.definition.token_bytes.get(i))[1:] for i in ids)
        self.report.disagreements.append(Disagreement(what, claim, repr(prefix), ids, tokens, witness))

    def run(self, count: int, *, skip: int = 0, tick: Callable[[int], None] = lambda _: None) -> TokenizerReport:
        """Try documents until this many distinct prefixes have been compared.

        Args:
            count: How many prefixes.
            skip: Documents to leave out at the start: those of other parts of the run.
            tick: Told how many prefixes have been compared so far.
        """
        start = time.perf_counter()
        sentinels = [*self.definition.added.values(), *self.definition.special.values()]
        stream = documents(self.seed + 7919 * skip, sentinels)
        seen: set[bytes] = set()
        while self.report.refused is None and len(seen) < count:
            document = next(stream)
            self._checked.clear()
            self.document(document, prefixes(document, self.rng), seen, most=count)
            tick(len(seen))
        self.report.seconds += time.perf_counter() - start
        return self.report

    def document(self, document: bytes, lengths: Iterable[int], seen: set[bytes], *, most: int = sys.maxsize) -> None:
        """Walk one document byte by byte and compare at the given lengths."""
        cover = Cover.empty(self.viability, dummy_prefix=self.dummy_prefix)
        wanted = set(lengths)
        for n in range(len(document) + 1):
            prefix = document[:n]
            if n:
                start = time.thread_time()
                try:
                    cover = cover.advance(document[n - 1 : n])
                except UnreachablePrefixError as error:
                    if prefix not in seen:
                        seen.add(prefix)
                        self._unreachable(prefix, error.position)
                    return
                for node in cover.nodes:
                    cover.masses(node, RankedArray(self.probs))
                self.report.core_ms.append(1000 * (time.thread_time() - start))
            if n in wanted and prefix not in seen and len(seen) < most:
                seen.add(prefix)
                self._compare(prefix, cover, document)

    def _unreachable(self, prefix: bytes, position: int) -> None:
        self.report.prefixes += 1
        self.report.unreachable += 1
        found = self.judge.find(prefix, pairs=600, wide=200, each=40)
        self.report.texts += found.texts
        for ids, text in found.nodes.items():
            self._disagree("unreachable", prefix, ids, claim=False, witness=text)
            break
        if found.ending is not None or position != len(prefix) - 1:
            self._disagree("unreachable", prefix, found.ending or (), claim=False, witness=f"position {position}")

    def _compare(self, prefix: bytes, cover: Cover, document: bytes) -> None:
        effort = self.effort
        found = self.judge.find(prefix, pairs=int(300 * effort), wide=int(80 * effort), each=int(10 * effort))
        with suppress(UnicodeDecodeError):  # the document may end inside a character, or be no text at all
            self.judge.read(prefix, [document.decode()], found)
        self.report.prefixes += 1
        self.report.texts += found.texts
        nodes = {tuple(node.token_ids): node for node in cover.nodes}
        for ids in found.nodes.keys() - nodes.keys():
            self._disagree("node", prefix, ids, claim=False, witness=found.nodes[ids])
        for ids, node in nodes.items():
            leaves = self._leaves(prefix, cover, node, sure=ids in found.nodes)
            if ids not in found.nodes and ids != found.ending and not leaves:
                self._disagree("node", prefix, ids, claim=True, witness=None)
        self.report.nodes += len(nodes.keys() | found.nodes.keys())
        ending = {tuple(node.token_ids) for node in cover.ending}
        if ending != ({found.ending} if found.ending is not None else set()):
            for ids in ending ^ ({found.ending} if found.ending is not None else set()):
                self._disagree("ending", prefix, ids, claim=ids in ending, witness=None)
        if not found.nodes and found.ending is None and not nodes:
            self._disagree("unreachable", prefix, (), claim=True, witness=None)

    def _leaves(self, prefix: bytes, cover: Cover, node: Node, *, sure: bool) -> int:
        """Compare a sample of a node's leaves; how many of those that go beyond the prefix the oracle shows."""
        prefix_index = self.viability.prefix_index
        leftover = cover.leftover(node)
        low, high = prefix_index.range(leftover)
        mask = np.asarray(self.viability.mask(node.boundary, low, high), bool)
        ids = tuple(node.token_ids)
        longer = low + np.flatnonzero(prefix_index.lengths[low:high] > len(leftover))
        next_bytes = np.zeros(high - low, np.uint8)
        next_bytes[longer - low] = prefix_index.bytes_at(longer, len(leftover))
        picked = self._sample(low, mask, next_bytes)
        if not leftover:
            picked = [i for i in picked if prefix_index.spelled[i]]
        # An added token that is first in a text has another rank there than elsewhere.
        at_place = partial(self.viability.spelled, node.boundary)
        picked = [i for i in picked if at_place(int(prefix_index.order[i])) == prefix_index.spelled[i]]
        claimed: dict[Ids, bool] = {(*ids, int(prefix_index.order[i])): bool(mask[i - low]) for i in picked}
        fresh = [sequence for sequence in claimed if sequence not in self._checked]
        shown = self.judge.viable(fresh, claimed, tries=int(30 * self.effort))
        for sequence in fresh:
            self._checked[sequence] = claimed[sequence], shown.get(sequence)
            self.report.leaves += 1
            if claimed[sequence] != (sequence in shown):
                self._disagree("leaf", prefix, sequence, claim=claimed[sequence], witness=shown.get(sequence))
        beyond = [(*ids, int(prefix_index.order[i])) for i in picked if len(prefix_index.spelled[i]) > len(leftover)]
        count = sum(1 for sequence in beyond if self._checked[sequence][1] is not None)
        if sure or count:
            return count
        # Claimed by bytelm and not among the continuations: try every leaf that it claims.
        every = [
            (*ids, int(prefix_index.order[i]))
            for i in range(low, high)
            if mask[i - low] and len(prefix_index.spelled[i]) > len(leftover)
        ]
        return len(self.judge.viable(every[:2000], {}, tries=40))

    def _sample(self, low: int, mask: np.ndarray, next_bytes: np.ndarray) -> list[int]:
        if len(mask) <= self.leaves:
            return list(range(low, low + len(mask)))
        picked: list[int] = []
        for value in (True, False):
            rest = np.flatnonzero(mask == value)
            self.draw.shuffle(rest)
            # One of every next byte first, then at random: the rare ones are where splits differ.
            firsts = rest[np.unique(next_bytes[rest], return_index=True)[1]]
            self.draw.shuffle(firsts)
            chosen = dict.fromkeys([*firsts[: self.leaves // 4].tolist(), *rest[: self.leaves].tolist()])
            picked += [low + i for i in list(chosen)[: self.leaves // 2 if len(rest) > self.leaves // 2 else None]]
        return picked
