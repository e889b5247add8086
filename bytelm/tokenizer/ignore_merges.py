"""Pre-tokens that are taken whole: with ``ignore_merges`` a pre-token in the vocabulary is one token, merged or not.

Rules
    Merging makes most tokens of the vocabulary anyway. Only the few that it does not make need care:
     - such a token is only ever a whole pre-token (it is *sealed*: a cut has to follow);
     - where merged tokens together spell the same bytes, the pre-token cannot end there: the tokenizer would have taken
       it whole. So it has to go on.
    So inside a pre-token its bytes so far, the *word*, have to be known, as long as such a token begins with them.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Int64

from bytelm.symbols import unfinished
from bytelm.tokenizer.bpe import Merges
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.vocab import Vocab


class IgnoreMerges:
    """The pre-tokens of one vocabulary that only a token taken whole can spell.

    Args:
        vocab: The tokenizer, read.
        merges: Its merge trees.
        prefix_index: Its tokens in byte order.
    """

    def __init__(self, vocab: Vocab, merges: Merges, prefix_index: PrefixIndex) -> None:
        self._prefix_index = prefix_index
        self._reachable = merges.reachable[prefix_index.order] & prefix_index.own
        self._tokens: dict[bytes, list[int]] = {}
        if not vocab.ignore_merges:
            return
        for piece, token in vocab.pieces.items():
            if merges.reachable[token] or (data := vocab.spell_piece(piece)) is None:
                continue
            if unfinished(data) and not any(step.after_bytes for step in vocab.steps):
                continue
            tokens = self._tokens.setdefault(data, [])
            if vocab.merged[token]:  # else it is an added token: a text has to spell it otherwise
                tokens.append(token)

    def begin(self) -> bytes | None:
        """The word at the beginning of a pre-token: None where words need not be known."""
        return b"" if self._tokens else None

    def grow(self, word: bytes | None, data: bytes) -> bytes | None:
        """The word after one more token; None as soon as no whole pre-token begins so."""
        return grown if word is not None and (grown := word + data) in self._prefixes else None

    def must_grow(self, word: bytes | None) -> bool:
        """Whether a word of merged tokens cannot be a whole pre-token."""
        return word is not None and word in self._tokens

    def seals(self, data: bytes, token: int) -> bool:
        """Whether a token is one that stands for a whole pre-token."""
        return token in self._tokens.get(data, ())

    @kept()
    def deciding_ranks(self, word: bytes) -> frozenset[int]:
        """The ranks of the tokens where the word decides: they complete a whole pre-token, or a part of a character."""
        at = len(word)
        begun = (data for data in self._tokens if data.startswith(word))
        tails = {data[at:end] for data in begun for end in range(at + 1, len(data) + 1)}
        found: set[int] = set()
        for tail in tails:
            if word + tail in self._tokens or unfinished(tail):
                lo, hi = self._prefix_index.range(tail)
                same = range(lo, self._prefix_index.equal_to(tail, lo, hi))
                found.update(rank for rank in same if self._reachable[rank])
        return frozenset(found)

    @cached_property
    def ranks(self) -> Int64[np.ndarray, " n"]:
        """The ranks of the tokens that stand for whole pre-tokens."""
        tokens = [token for tokens in self._tokens.values() for token in tokens]
        return np.sort(self._prefix_index.rank[np.array(tokens, np.int64)]).astype(np.int64)

    @cached_property
    def _prefixes(self) -> frozenset[bytes]:
        return frozenset(data[:i] for data in self._tokens for i in range(1, len(data) + 1))
