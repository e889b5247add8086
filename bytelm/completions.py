"""How a character that a token leaves unfinished can go on.

Rules
    A text cannot end inside a character, so a token that ends inside one is viable only if some next token completes
    it (or goes on, and a later one does). That token stands in the same pre-token, so the pair has to be unbroken:
    GPT-2 merges E2 with 80, and a lone E2 is never followed by 80. Byte tokens of a sentencepiece vocabulary never
    merge; they complete the characters that the vocabulary lacks.

Cost
    A numpy selection for each pair of a token and its unfinished bytes, then remembered.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt16

from bytelm.letters import NO_LETTER
from bytelm.merges import Merges
from bytelm.trie import Trie, completions, unfinished


class Completions:
    """Answers which letters an unfinished character can become.

    Args:
        trie: The vocabulary in byte order.
        merges: Its merge trees.
        outside: Code points that byte tokens spell; None for a byte-level vocabulary.
    """

    def __init__(self, trie: Trie, merges: Merges, outside: Bool[np.ndarray, " points"] | None) -> None:
        self.trie = trie
        self.merges = merges
        self.outside = outside
        self._known: dict[tuple[int, bytes], frozenset[int]] = {}
        self._tables: dict[int, tuple[int, int, Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]] = {}

    def letters(self, token: int, partial: bytes, letter: UInt16[np.ndarray, " points"]) -> frozenset[int]:
        """The letters of the characters that can follow from what a token leaves unfinished.

        Args:
            token: The last token.
            partial: The bytes of the character so far, from this and earlier tokens.
            letter: The letter of each code point (always the same array).
        """
        key = (token if self.outside is None else -1, partial)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._letters(*key, letter)
        return known

    def _letters(self, token: int, partial: bytes, letter: UInt16[np.ndarray, " points"]) -> frozenset[int]:
        missing = (2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4) - len(partial)
        points = completions(partial)
        every = np.arange(points.start, points.stop)
        if self.outside is not None:
            return _distinct(letter[every[self.outside[every]]])
        lo, hi, ranks, rest = self._table(missing)
        follows = self.merges.unbroken_range(token, lo, hi)
        # The range is cut short where a lead byte has overlong or too large forms: its own start is the multiple below.
        reached = (points.start >> 6 * missing << 6 * missing) + rest[follows[ranks - lo]]
        found = _distinct(letter[reached[(reached >= points.start) & (reached < points.stop)]])
        wanted = _distinct(letter[every])
        # A token of fewer bytes than are missing leaves the character unfinished in turn.
        for rank in self._short(missing):
            if found == wanted:
                break
            if follows[rank - lo]:
                found |= self.letters(int(self.trie.order[rank]), partial + self.trie.spelled[rank], letter)
        return found

    def _short(self, missing: int) -> list[int]:
        """The tokens of fewer than ``missing`` bytes, all of them continuation bytes."""
        lo, hi, *_ = self._table(missing)
        spelled = self.trie.spelled
        return [r for r in range(lo, hi) if len(spelled[r]) < missing and all(0x80 <= b < 0xC0 for b in spelled[r])]

    def _table(self, missing: int) -> tuple[int, int, Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The range of tokens that begin inside a character; those with ``missing`` bytes of it, and their bits."""
        if missing not in self._tables:
            lo, hi = self.trie.range(b"\x80")[0], self.trie.range(b"\xc0")[0]
            ranks, rest = [], []
            for rank in range(lo, hi):
                head, tail = self.trie.spelled[rank][:missing], self.trie.spelled[rank][missing:]
                if len(head) == missing and all(0x80 <= b < 0xC0 for b in head) and _begins_text(tail):
                    ranks.append(rank)
                    rest.append(sum((b & 0x3F) << 6 * at for at, b in enumerate(reversed(head))))
            self._tables[missing] = (lo, hi, np.array(ranks, np.int64), np.array(rest, np.int64))
        return self._tables[missing]


def _begins_text(data: bytes) -> bool:
    """Whether some text begins with these bytes."""
    try:
        data[: len(data) - len(unfinished(data))].decode()
    except UnicodeDecodeError:
        return False
    return True


def _distinct(letters: UInt16[np.ndarray, " n"]) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.bincount(letters)).tolist()) - {NO_LETTER}
