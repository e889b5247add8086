"""The definition-level oracle over continuations: boundary nodes and leaves, each with the text that shows it.

Rules
    What is found viable is viable: the witness text is there to see. What is not found viable is so only as far as the
    continuations reach; so before anything that bytelm claims is called wrong, the search is widened, first around the
    leaves that bytelm proposes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bytelm.testing.tokenizers.classes import split_cut
from bytelm.testing.tokenizers.continuations import Continuations
from bytelm.testing.tokenizers.definition import Definition, Ids

BATCH = 4096


@dataclass(slots=True)
class Witnesses:
    """What the continuations of one prefix show.

    Attributes:
        nodes: Boundary nodes, each with a text that goes on beyond the prefix inside the node's next token.
        ending: The canonical sequence of the prefix itself, if it has one.
        texts: How many texts were encoded.
    """

    nodes: dict[Ids, str] = field(default_factory=dict)
    ending: Ids | None = None
    texts: int = 0


class Judge:
    """The oracle for one tokenizer.

    Args:
        definition: The tokenizer.
        seed: Of what is drawn at random.
    """

    def __init__(self, definition: Definition, *, seed: int = 0) -> None:
        self.definition = definition
        self.continuations = Continuations(definition, seed=seed)
        self.rng = random.Random(seed)

    def find(self, prefix: bytes, *, pairs: int = 300, wide: int = 100, each: int = 12) -> Witnesses:
        """The boundary nodes of a prefix, from its continuations."""
        made = self.continuations
        internal = self.definition.dummy_prefix + prefix
        tails = made.tails(self.rng, pairs=pairs, wide=wide)
        texts = made.texts(prefix, tails, self.rng)
        texts += made.endings(prefix, internal, self.rng, each=each)
        found = Witnesses()
        self.read(prefix, texts, found)
        return found

    def read(self, prefix: bytes, texts: Sequence[str], found: Witnesses) -> None:
        """Add what these texts, which begin with the prefix, show of its boundary nodes."""
        size = len(prefix)
        found.texts += len(texts)
        for start in range(0, len(texts), BATCH):
            chunk = texts[start : start + BATCH]
            for text, reading in zip(chunk, self.definition.readings(chunk), strict=True):
                if reading is None:
                    continue
                ids, ends = reading.ids, reading.ends
                if len(text.encode()) == size:
                    found.ending = ids
                    continue
                k = 0
                while ends[k] <= size:
                    k += 1
                found.nodes.setdefault(ids[:k], text)

    def viable(self, sequences: Iterable[Ids], claimed: Mapping[Ids, bool], *, tries: int = 40) -> dict[Ids, str]:
        """Which of these sequences are viable, each with a text that shows it.

        Every sequence is tried at the end of the text, before a few representatives, and before ``tries`` more. One
        that is claimed to be viable and not found so is tried before everything.
        """
        shown: dict[Ids, str] = {}
        pending = [s for s in sequences if self.definition.spelled(s) is not None]
        core, singles = self.continuations.classes.core, self.continuations.singles
        for count in (0, 4, tries):
            texts: list[tuple[Ids, str]] = []
            for sequence in pending:
                tails = [""] if not count else self.rng.choices(core, k=count)
                if count > 4:
                    tails += self.rng.choices(singles, k=count // 4) + self.rng.choices(
                        self.continuations.pairs, k=count // 4
                    )
                texts += [(sequence, text) for text in self._after(sequence, tails)]
            self._show(texts, shown)
            pending = [s for s in pending if s not in shown]
        for sequence in pending:
            if claimed.get(sequence):
                self.widen(sequence, shown)
        return shown

    def widen(self, sequence: Ids, shown: dict[Ids, str]) -> None:
        """Try one sequence before what may follow its cut character: every representative and pair, triples, runs."""
        text = self.definition.spelled(sequence)
        if text is None:
            return
        head, cut = split_cut(text) or ("", b"")
        if cut:
            # Which completions the merges leave apart, no class of the split can tell.
            stems = self.continuations.every_completion(cut, 5000)
            tails = [self.rng.choice(self.continuations.singles) for _ in stems]
            self._show([(sequence, head + stem) for stem in stems], shown)
            self._show([(sequence, head + stem + tail) for stem, tail in zip(stems, tails, strict=True)], shown)
            # Nor can a character alone: the token that completes it may have to be a longer one.
            self._show([(sequence, t) for t in self.continuations.next_tokens(text)], shown)
        if sequence in shown:
            return
        for wide in (100, 3000):
            tails = self.continuations.tails(self.rng, pairs=wide * 10, wide=wide)
            texts = self.continuations.texts(text, tails, self.rng)
            texts += self.continuations.endings(text, self.definition.dummy_prefix + text, self.rng, each=wide)
            self._show([(sequence, t) for t in texts], shown)
            if sequence in shown:
                return

    def _after(self, sequence: Ids, tails: Sequence[str]) -> list[str]:
        text = self.definition.spelled(sequence)
        parts = split_cut(text) if text is not None else None
        if parts is None:
            return []
        head, cut = parts
        if not cut:
            return [head + tail for tail in tails]
        stems = self.continuations.completions(cut)
        return [head + self.rng.choice(stems) + tail for tail in tails for _ in range(2)]

    def _show(self, texts: list[tuple[Ids, str]], shown: dict[Ids, str]) -> None:
        for start in range(0, len(texts), BATCH):
            sequences, tried = zip(*texts[start : start + BATCH], strict=True)
            for sequence, text, begins in zip(
                sequences, tried, self.definition.begin_with(sequences, tried), strict=True
            ):
                if begins:
                    shown.setdefault(sequence, text)
