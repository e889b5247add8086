"""The definition-level oracle: every text of a small alphabet, encoded by the tokenizer itself.

A sequence is viable iff some text's encoding begins with it. Over two or three characters all texts of a length can be
encoded, so the set of viable sequences is had outright, with no thought of merges, splits or covers; cover, P(x), the
row of the next byte and the end of text are then sums over that set, as their definitions say.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bytelm.testing.tokenizers.definition import Definition, Ids


def texts_of(alphabet: Sequence[str], longest: int) -> list[str]:
    """Every string over the alphabet of at most this many characters, the shortest first."""
    return ["".join(chosen) for size in range(longest + 1) for chosen in itertools.product(alphabet, repeat=size)]


def depth_for(alphabet: Sequence[str], most: int) -> int:
    """How long texts may be so that there are at most ``most`` of them."""
    size = len(alphabet)
    depth, count = 0, 1
    while (count := count * size + 1) <= most:
        depth += 1
    return depth


class HashLM:
    """A toy model: a row is drawn from a hash of its sequence, sharp enough that a wrong cover moves the answer.

    Args:
        tokenizer: What it is a model of.
        vocab_size: Columns of a row; may exceed the vocabulary.
        eot_ids: The ids that end a text.
        allowed: The ids that have any mass; all, when None.
    """

    def __init__(
        self, tokenizer: Any, vocab_size: int, eot_ids: frozenset[int], allowed: frozenset[int] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eot_ids = eot_ids
        self._bias = np.zeros(vocab_size)
        if allowed is not None:
            self._bias[[i for i in range(vocab_size) if i not in allowed and i not in eot_ids]] = -np.inf

    def row(self, ids: Sequence[int]) -> np.ndarray:
        digest = hashlib.blake2b(repr(tuple(int(i) for i in ids)).encode(), digest_size=8).digest()
        scores = np.random.default_rng(int.from_bytes(digest, "little")).normal(scale=1.5, size=self.vocab_size)
        scores += self._bias
        return np.asarray(scores - np.logaddexp.reduce(scores))

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        return np.stack([self.row(ids) for ids in sequences])


class Enumeration:
    """All viable sequences of a tokenizer over an alphabet, up to a length.

    Attributes:
        viable: Every viable sequence, with the text that it spells; exact for sequences of at most
            ``depth - ahead`` characters, where ``ahead`` is how far a split or a whole-word rule may look.
        canonical: Every canonical sequence, by the bytes of its text.
    """

    def __init__(self, tokenizer: Any, alphabet: Sequence[str], depth: int, *, dummy_prefix: bool = True) -> None:
        self.definition = Definition(tokenizer, dummy_prefix=dummy_prefix)
        self.viable: dict[Ids, bytes] = {(): b""}
        self.canonical: dict[bytes, Ids] = {}
        texts = texts_of(alphabet, depth)
        for text, reading in zip(texts, self.definition.readings(texts), strict=True):
            if reading is None:
                continue
            ids, data = reading.ids, text.encode()
            self.canonical[data] = ids
            # From the longest to the shortest: once a prefix is known, so are all before it.
            for k in range(len(ids), 0, -1):
                if ids[:k] in self.viable:
                    break
                self.viable[ids[:k]] = data[: reading.ends[k - 1]]
        self._starting: dict[bytes, list[Ids]] | None = None

    def _by_prefix(self) -> Mapping[bytes, list[Ids]]:
        """The cover of every prefix: a sequence covers the prefixes that end inside its last token."""
        if self._starting is None:
            table: dict[bytes, list[Ids]] = defaultdict(list)
            for ids, spelled in self.viable.items():
                if ids:
                    for end in range(len(self.viable[ids[:-1]]) + 1, len(spelled) + 1):
                        table[spelled[:end]].append(ids)
            self._starting = dict(table)
        return self._starting

    def prefixes(self, longest: int) -> list[bytes]:
        """Every prefix of at most this many bytes that some viable sequence spells or begins to spell."""
        return sorted({b""} | {p for p in self._by_prefix() if len(p) <= longest}, key=lambda p: (len(p), p))

    def cover(self, prefix: bytes) -> set[Ids]:
        """Viable sequences that begin with the prefix and whose last token holds its last byte."""
        return set(self._by_prefix().get(prefix, ())) if prefix else {()}

    def nodes(self, prefix: bytes) -> set[Ids]:
        """Boundary nodes from which some viable token goes beyond the prefix."""
        return {ids[:-1] for byte in range(256) for ids in self._by_prefix().get(prefix + bytes([byte]), ())}

    def ending(self, prefix: bytes) -> set[Ids]:
        """The canonical sequence of the prefix, if it is a text that has one."""
        return {self.canonical[prefix]} if prefix in self.canonical else set()

    def weight(self, ids: Ids, model: HashLM) -> float:
        """P(ids): the chain rule."""
        return math.exp(math.fsum(float(model.row(ids[:k])[ids[k]]) for k in range(len(ids))))

    def mass(self, prefix: bytes, model: HashLM) -> float:
        """P(x): the sum over the cover, 1 for the empty text."""
        return math.fsum(self.weight(ids, model) for ids in self.cover(prefix)) if prefix else 1.0

    def next_bytes(self, prefix: bytes, model: HashLM) -> np.ndarray:
        """P(x·b) for each byte b, then P(x, EOT): float64[257], not divided by P(x)."""
        row = np.zeros(257)
        for byte in range(256):
            if self.cover(prefix + bytes([byte])):
                row[byte] = self.mass(prefix + bytes([byte]), model)
        row[256] = math.fsum(
            self.weight(ids, model) * math.exp(float(model.row(ids)[eot]))
            for ids in self.ending(prefix)
            for eot in model.eot_ids
        )
        return row
