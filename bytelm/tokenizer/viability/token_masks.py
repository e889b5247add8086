"""Which tokens of the vocabulary can stand at a position, all at once.

Theory of operation
    A token can stand where no level dies on its bytes and the hypotheses after it can come true. After nearly all
    tokens every level may end, as the states that they lead to show; the rest are asked one by one (token_futures.py).
    Whole pre-tokens and added tokens need a cut after them, for which classes of characters decide (text_futures.py).
    Where a normal form may object to what would have to follow (form_futures.py), a token is in *doubt*: that depends
    on the text before it, so the caller asks for it by itself.

Cost
    A whole vocabulary is judged once for each set of states, and kept as bits; small ranges are judged when asked for.
    What an added token leads to depends on where its own level cuts, and on no level below: it is kept by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool, Int32, Int64, UInt8

from bytelm.symbols import unfinished
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.prefix_index import unpacked
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.vocab_walk import WHOLE, ProductAutomaton, States
from bytelm.tokenizer.viability.form_futures import FormFutures
from bytelm.tokenizer.viability.text_futures import TextFutures
from bytelm.tokenizer.viability.token_futures import TokenFutures

_KEPT: Final = 512
_NONE: Final = np.zeros(1, np.bool_)  # of any number of tokens


@dataclass(eq=False)
class TokenMasks:
    """Answers for the tokens of one vocabulary.

    Args:
        automaton: All levels of its pre-tokenizer.
        text_futures: What classes of characters decide.
        token_futures: What tokens decide.
        form_futures: What a normal form has to say, if there is one.
        sealed_ranks: The tokens that stand for whole pre-tokens.
        added_ranks: The added tokens that each level matches.
    """

    automaton: ProductAutomaton
    text_futures: TextFutures
    token_futures: TokenFutures
    form_futures: FormFutures | None
    sealed_ranks: Int64[np.ndarray, " n"]
    added_ranks: Mapping[int, Int64[np.ndarray, " _"]]

    def __post_init__(self) -> None:
        self._prefix_index = self.automaton.prefix_index
        self._ordinary: LRUCache[tuple[States, bytes, bytes | None], UInt8[np.ndarray, "rows bytes"]] = LRUCache(_KEPT)
        self._last_added: dict[tuple[int, States], tuple[Int32[np.ndarray, " n"], Bool[np.ndarray, " n"]]] = {}

    def ordinary(
        self, states: States, partial: bytes, lo: int, hi: int, *, word: bytes | None = None
    ) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " _"]]:
        """Which tokens of a range of ranks can stand here with no cut inside them, the last pair apart; and the doubts.

        Args:
            states: Where they begin.
            partial: The character that they go on with.
            lo: The first rank.
            hi: The end of the ranks.
            word: The pre-token so far; None to leave apart what it decides (tokenizer/ignore_merges.py).
        """
        if hi - lo <= WHOLE and (states, partial, word) not in self._ordinary:
            fits, *doubts = self._judge(self.automaton.ends_of_tokens(states, lo, hi), partial, lo, word)
            return fits, doubts[0] if doubts else _NONE
        bits = self.ordinary_bits(states, partial, word=word)
        return unpacked(bits[0], lo, hi), unpacked(bits[1], lo, hi) if len(bits) > 1 else _NONE

    def ordinary_bits(
        self, states: States, partial: bytes, *, word: bytes | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """`ordinary` of the whole vocabulary, as packed bits; without a row of doubts where nothing has any."""
        key = (states, partial, word)
        bits: UInt8[np.ndarray, "rows bytes"] | None = self._ordinary.get(key)
        if bits is None:
            ends = self.automaton.ends_of_tokens(states, 0, len(self._prefix_index))
            bits = self._ordinary[key] = np.packbits(self._judge(ends, partial, 0, word), axis=1)
        return bits

    def _judge(
        self, ends: list[Int32[np.ndarray, " n"]], partial: bytes, lo: int, word: bytes | None
    ) -> Bool[np.ndarray, "rows n"]:
        alive = np.ones(len(ends[0]), np.bool_)
        sure = np.ones(len(ends[0]), np.bool_)
        for level, end in zip(self.automaton.levels, ends, strict=True):
            alive &= end != DEAD
            may_end = np.zeros(int(end.max(initial=0)) + 1, np.bool_)
            used = np.flatnonzero(np.bincount(end))
            may_end[used] = [level.ends(state) for state in used.tolist()]
            sure &= may_end[end]
        out, doubts = alive & sure, np.zeros(len(alive), np.bool_)
        whole = self.token_futures.ignore_merges
        for rank in whole.deciding_ranks(word) if word is not None else ():
            if lo <= rank < lo + len(sure):
                sure[rank - lo] = False
        for i in np.flatnonzero(alive & ~sure).tolist():
            states, data = tuple(int(end[i]) for end in ends), self._prefix_index.spelled[lo + i]
            token, grown = int(self._prefix_index.order[lo + i]), whole.grow(word, data)
            place = (states, token, unfinished(partial + data), grown)
            out[i] = self.token_futures.has_future(*place)
            doubts[i] = out[i] and self.form_futures is not None and not self.form_futures.is_settled(*place)
        return out[None] if self.form_futures is None else np.stack([out, doubts])

    @kept()
    def sealed(self, states: States) -> Bool[np.ndarray, " n"]:
        """Which tokens that stand for whole pre-tokens can stand here, by rank."""
        ends = (self.automaton.read(states, self._prefix_index.spelled[rank]) for rank in self.sealed_ranks.tolist())
        return np.array([after is not None and self.text_futures.can_stop(after) for after in ends], np.bool_)

    def added(self, states: States, at: int, *, begins: bool) -> Bool[np.ndarray, " n"]:
        """Which of the added tokens of level ``at``, by rank, can stand here; ``begins``: as the first token."""
        state, above = self.automaton.before_added(states, at, begins=begins)
        return self._added_from(state, at, above)

    @kept()
    def _added_from(self, state: int, at: int, above: States) -> Bool[np.ndarray, " n"]:
        # Wherever an added token begins, its bytes mostly lead to the same state, and so to the same answer.
        ends = self.automaton.added_ends(state, at, self.added_ranks[at])
        last, known = self._last_added.get((at, above), (np.zeros_like(ends), np.zeros(len(ends), np.bool_)))
        known = np.array(known, np.bool_)
        for i in np.flatnonzero(ends != last).tolist():
            rank, end = int(self.added_ranks[at][i]), int(ends[i])
            data, token = self._prefix_index.spelled[rank], int(self._prefix_index.order[rank])
            after = self.automaton.after_added(end, above, at, data, token)
            known[i] = after is not None and self.text_futures.can_stop(after)
        self._last_added[at, above] = ends, known
        return known
