"""What a token-level program says of words, from its definitions: the sums, their correction, and how words get tokens.

Theory
    T(k) is the log-probability of the first k tokens of the text. The *sum* for a word of the tokens s…e is T(e) − T(s).
    The space in front belongs to the word's first token. The *correction* (Pimentel and Meister; Oh and Schuler) moves
    the space behind it: S(k) is the probability that a token after the first k begins with a space. The word loses
    ln S(s) and gains ln S(e).

Rules, as minicons has them
    Behind the last token ln S is always added. It is never taken away in front of the first. Between two tokens it
    counts only if the second one begins with a space.
    A word has as many tokens as its text has when it is encoded alone, with a space in front unless it is the first.
    The words take their tokens in order. One wrong count shifts every word after it.
    Without a start token the first token has no number, so the words take their tokens from the second on.

Source
    Pimentel and Meister, arXiv:2406.14561; Oh and Schuler, arXiv:2406.10851; minicons 0.3, `compute_stats` and
    `word_spans_tokenized`, whose documented results these are. Written from the definitions, and compared with minicons.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from bytelm import ByteLM

# A word with its inner apostrophes and hyphens, or one mark: what tokenizers of words make of a text.
WORDS_AND_MARKS: Final = r"\w+(?:['\u2019-]\w+)*|[^\w\s]"


@dataclass(frozen=True)
class Setting:
    """A way to ask minicons.

    Attributes:
        name: Its name.
        corrected: Whether the space is moved behind the word.
        start: Whether the start token is put in front.
        pattern: Of a word; None for the text between white space.
    """

    name: str
    corrected: bool = False
    start: bool = True
    pattern: str | None = None

    def words(self, text: str) -> list[tuple[int, int]]:
        """The words of a text, as (start, end) in characters."""
        return [found.span() for found in re.finditer(self.pattern or r"\S+", text)]


SETTINGS: Final = (
    Setting("sums"),
    Setting("corrected", corrected=True),
    Setting("corrected, marks apart", corrected=True, pattern=WORDS_AND_MARKS),
    Setting("sums, no start token", start=False),
)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, as a model scores them one after the other.

    Attributes:
        ends: Bytes of the text before each place between two tokens; the first is 0.
        logprobs: T: of the tokens before each place.
        spaces: ln S at each place. 0 at the first place: no correction reaches it.
        opens: Whether the token after each place begins with a space.
    """

    ends: list[int]
    logprobs: list[float]
    spaces: list[float]
    opens: list[bool]

    @classmethod
    def of(cls, lm: ByteLM, text: str, *, start: bool) -> Tokens:
        """Ask the model of tokens behind a byte model.

        Args:
            lm: The byte model.
            text: The text.
            start: Whether its start token is in front.
        """
        spelled = lm.viability.vocab.token_bytes
        ids = list(lm.viability.vocab.encode(text))
        front = lm.prompt(lm.start_prefix()).context if start else ()
        begins = [(data or b"").startswith(b" ") for data in spelled]
        space = np.flatnonzero(begins)
        rows = lm.token_lm.next_token_logprobs([[*front, *ids[:k]] for k in range(len(ids) + 1)])
        drawn = [float(row[token]) for row, token in zip(rows, ids, strict=False)]
        after = [float(np.logaddexp.reduce(row[space].astype(np.float64))) for row in rows]
        ends = [0, *itertools.accumulate(len(spelled[i] or b"") for i in ids)]
        opens = [*(begins[i] for i in ids), False]
        return cls(ends, [0.0, *itertools.accumulate(drawn)], [0.0, *after[1:]], opens)

    def corrected(self, place: int) -> float:
        """What the correction counts at a place: ln S, or nothing."""
        last = len(self.ends) - 1
        return self.spaces[place] if place and (place == last or self.opens[place]) else 0.0

    def value(self, first: int, end: int, setting: Setting) -> float:
        """The number of a word that is given these tokens."""
        total = self.logprobs[end] - self.logprobs[first]
        return total + self.corrected(end) - self.corrected(first) if setting.corrected else total


def spans(lm: ByteLM, text: str, setting: Setting) -> list[tuple[int, int]]:
    """The tokens that each word is given, as (first, end); they may lie beyond the text's last."""
    found, at = [], 0 if setting.start else 1
    for number, (start, end) in enumerate(setting.words(text)):
        word = text[start:end] if number == 0 else " " + text[start:end]
        size = max(len(lm.viability.vocab.encode(word)), 1)
        found.append((at, at + size))
        at += size
    return found


def predicted(tokens: Tokens, span: tuple[int, int], setting: Setting) -> float:
    """What minicons says of a word by its own rules."""
    last = len(tokens.ends) - 1
    first, end = (min(place, last) for place in span)
    return tokens.value(first, end, setting) if first < end else 0.0


def same(one: float, other: float, tolerance: float) -> bool:
    """Whether two log-probabilities agree."""
    return one == other or math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
