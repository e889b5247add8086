r"""Whether a position has a future where the text to come has to be in a normal form too.

Theory of operation
    A normal form and a tokenizer's merges and splits are asked apart: token_futures.py and text_futures.py say whether
    some text may come, and normal_forms.py which text a form leaves alone. Each may have an answer, and none in common.
    With the tokens ``CC`` and ``CC 81``, a lone ``CC`` needs another mark than U+0301 behind it, and behind an accent
    the form may allow U+0301 alone.

    *Inert* characters settle nearly every question: the form never objects to a text of these, whatever stands before
    it. So where the two have said yes, ask first whether inert characters will do. Where they do not, search, with the
    *tail*: what of the text so far the form may still combine with what follows (`NormalForm.window`).

    Where a cut may follow, any text will do, whatever its tokens: the search goes from character to character, or from
    byte to byte where a level cuts inside characters. Inside a pre-token it goes from token to token.

Cost
    Whether inert characters will do is kept by states and tokens, without the tail. The searches are rare: behind the
    first byte of a mark, or where a split pattern looks ahead for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from bytelm.symbols import completions, is_continuation, missing, unfinished
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.split.char_classes import CODE_POINTS
from bytelm.tokenizer.viability.search import has_way
from bytelm.tokenizer.viability.text_futures import TextFutures

if TYPE_CHECKING:
    from bytelm.tokenizer.normal_forms import NormalForm
    from bytelm.tokenizer.split.vocab_walk import States
    from bytelm.tokenizer.viability.token_futures import Position, TokenFutures

_KNOWN: Final = 1 << 18  # answers that are kept

# The states, the bytes of a character that is not yet complete, and the tail.
_Place: TypeAlias = "tuple[States, bytes, str]"


class FormFutures:
    """Answers for positions of one vocabulary whose text has to be in one normal form.

    They are right for positions that have a future as far as the text and token futures can tell.

    Args:
        form: The normal form.
        text_futures: What classes of characters decide.
        token_futures: What tokens decide.
    """

    def __init__(self, form: NormalForm, text_futures: TextFutures, token_futures: TokenFutures) -> None:
        self._form = form
        self._text = text_futures
        self._tokens = token_futures
        self._automaton = token_futures.automaton
        self._inert = text_futures.restricted(form.inert)
        self._known_places: dict[_Place, bool] = {}
        # One beginning of a character for all that the form ignores and from which the levels go on alike.
        self._beginnings: dict[tuple[States, int], bytes] = {}
        self._known_positions: dict[tuple[Position, str], bool] = {}

    def has_future(self, states: States, token: int, partial: bytes, word: bytes | None, tail: str) -> bool:
        """Whether the hypotheses after a token can come true; the arguments are those of `TokenFutures.has_future`."""
        if self.is_settled(states, token, partial, word):
            return True
        if partial and self._tokens.by_bytes:
            before = self._automaton.before_character(states)
            return any(map(self._has_way, self._after_characters(before, tail, self._outside(partial))))
        position = self._tokens.position(states, token, partial, word)
        if len(self._known_positions) > _KNOWN:
            self._known_positions.clear()
        return has_way((position, tail), self._known_positions, arrives=self._arrives, onward=self._onward)

    def can_stop(self, states: States, tail: str, partial: bytes = b"") -> bool:
        """Whether the text may end at these states, or a cut may follow; ``partial`` begins the character there."""
        if not partial and self._inert.can_stop(states):
            return True
        return any(self._has_way((after, partial, tail)) for after in self._automaton.onward(states))

    def is_settled(self, states: States, token: int, partial: bytes, word: bytes | None) -> bool:
        """Whether inert characters alone make it a position with a future, whatever the tail."""
        if partial and self._automaton.cuts_characters:
            return word is None and any(self._inert_ahead(after, partial) for after in self._automaton.onward(states))
        if partial:
            stop, _ = self._inert.classes_after(self._automaton.before_character(states))
            return (
                word is None and not self._tokens.by_bytes and self._tokens.becomes(self._inert, token, partial, stop)
            )
        position = self._tokens.position(states, token, partial, word)
        tried = (position, *self._tokens.tried(position))
        must_grow = self._tokens.ignore_merges.must_grow
        return any(not must_grow(after.word) and self._inert.can_stop(after.states) for after in tried)

    @kept()
    def _inert_characters(self, partial: bytes) -> tuple[str, ...]:
        """Of the inert characters that begin so, one for each class and behaviour."""
        points = np.array(completions(partial), np.int64)
        return self._text.examples(points[self._form.inert[points]], self._form.behaviour)

    @kept()
    def _inert_ahead(self, states: States, partial: bytes) -> bool:
        """Whether inert characters may come, the first of which begins with ``partial``."""
        for char in self._inert_characters(partial):
            alive = {states}
            for byte in char.encode()[len(partial) :]:
                options = {option for before in alive for option in (before, *self._automaton.onward(before))}
                reached = (self._automaton.read(option, bytes([byte])) for option in options)
                alive = {after for after in reached if after is not None}
            if any(self._text.ends(after) or self._inert.has_future(after) for after in alive):
                return True
        return False

    # --- from token to token -----------------------------------------------------------------------------------------

    def _arrives(self, place: tuple[Position, str]) -> bool:
        position, tail = place
        if self.is_settled(*position):
            return True
        if self._tokens.ignore_merges.must_grow(position.word):
            return False
        if position.partial:
            return self._automaton.cuts_characters and self.can_stop(position.states, tail, position.partial)
        # Byte tokens may come next, with any text after the character that they spell.
        spelled = self._after_characters(position.states, tail, self._outside(b""))
        return self.can_stop(position.states, tail) or any(map(self._has_way, spelled))

    def _onward(self, place: tuple[Position, str]) -> Iterator[tuple[Position, str]]:
        position, tail = place
        for after, data in self._tokens.following(position):
            whole = position.partial + data
            text = whole[: len(whole) - len(after.partial)].decode("utf-8", "replace")
            if self._form.keeps_with(tail, text, after.partial):
                yield after, self._form.window(tail + text)

    # --- from character to character ---------------------------------------------------------------------------------

    def _has_way(self, place: _Place) -> bool:
        if len(self._known_places) > _KNOWN:
            self._known_places.clear()
            self._beginnings.clear()
        return has_way(place, self._known_places, arrives=self._may_end, onward=self._next_places)

    def _may_end(self, place: _Place) -> bool:
        states, partial, _ = place
        if partial:
            return self._inert_ahead(states, partial)
        return self._text.ends(states) or self._inert.has_future(states)

    def _next_places(self, place: _Place) -> Iterator[_Place]:
        states, partial, tail = place
        options = (states, *self._automaton.onward(states))
        if not self._automaton.cuts_characters:
            for option in options:
                yield from self._after_characters(option, tail, self._characters)
            return
        for byte in range(256):
            if is_continuation(byte) != bool(partial):
                continue
            whole = partial + bytes([byte])
            rest = unfinished(whole)
            text = whole[: len(whole) - len(rest)].decode("utf-8", "replace")
            if self._form.keeps_with(tail, text, rest):
                for option in options:
                    after = self._automaton.read(option, whole[-1:])
                    if after is not None:
                        alike = rest and self._form.ignores(rest)
                        begun = self._beginnings.setdefault((after, missing(rest)), rest) if alike else rest
                        yield after, begun, self._form.window(tail + text)

    def _after_characters(self, states: States, tail: str, characters: Sequence[str]) -> Iterator[_Place]:
        """The places after one of some characters."""
        for character in characters:
            if self._form.keeps(tail + character):
                after = self._automaton.read(states, character.encode())
                if after is not None:
                    yield after, b"", self._form.window(tail + character)

    @cached_property
    def _characters(self) -> tuple[str, ...]:
        return self._text.examples(np.arange(CODE_POINTS), self._form.behaviour)

    @kept()
    def _outside(self, partial: bytes) -> tuple[str, ...]:
        """Of the characters that begin so and that byte tokens spell, one for each class and behaviour."""
        return self._text.examples(self._text.points_outside(partial), self._form.behaviour)
