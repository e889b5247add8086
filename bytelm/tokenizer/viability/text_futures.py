"""Whether some text to come makes the hypotheses about a position right: what classes of characters decide.

Theory of operation
    What is encoded after a cut leaves everything before it alone. So where the text may end, or a cut may follow, it is
    enough that any text at all meets the conditions, whatever its tokens: a search over the classes of characters that
    the levels tell apart finds one. The same holds for a character that only byte tokens of a sentencepiece vocabulary
    spell, as they never merge.

    Where a level cuts inside characters (a step after ByteLevel), classes of characters do not decide, and the search
    is over bytes: one of all that lead every level to the same state.

Cost
    Few sets of states occur, and the answer for each is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64, UInt16

from bytelm.symbols import completions, is_continuation
from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.split.char_classes import CODE_POINTS, NO_CLASS, compact
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.utf8 import Partial
from bytelm.tokenizer.split.vocab_walk import INACTIVE, Begun, ProductAutomaton, States, ended
from bytelm.tokenizer.viability.search import has_way


class TextFutures:
    """Answers about the texts that one pre-tokenizer can read.

    Sets of classes are bits of a number, where a class is one that all levels together tell apart.

    Args:
        automaton: All its levels.
        outside: Code points that byte tokens spell; None for a byte-level vocabulary.
        allowed: The code points that may come; None for all that text can contain. Where a level cuts inside
            characters, ASCII alone.
    """

    def __init__(
        self,
        automaton: ProductAutomaton,
        *,
        outside: Bool[np.ndarray, " points"] | None,
        allowed: Bool[np.ndarray, " points"] | None = None,
    ) -> None:
        self._automaton = automaton
        self._outside = outside
        self._allowed = allowed
        self._class_of, self._level_classes = self._joint_classes()
        self._known: dict[States, bool] = {}

    def ends(self, states: States) -> bool:
        """Whether the text may end here."""
        return ended(self._automaton.levels, states)

    @kept()
    def can_stop(self, states: States) -> bool:
        """Whether the text may end at these states, or a cut may follow."""
        return self.ends(states) or any(map(self.has_future, self._automaton.onward(states)))

    @kept()
    def classes_after(self, states: States) -> tuple[int, int]:
        """The classes of the next character after which the text may stop, and those that can be read at all."""
        stop = alive = 0
        for char_class in range(len(self._level_classes)):
            if (after := self._read(states, char_class)) is not None:
                alive |= 1 << char_class
                stop |= self.can_stop(after) << char_class
        return stop, alive

    def class_of(self, point: int) -> int:
        """The class of a code point, as a bit; 0 where text cannot contain it."""
        char_class = int(self._class_of[point])
        return 0 if char_class == NO_CLASS else 1 << char_class

    @kept()
    def classes_begun(self, partial: bytes) -> int:
        """The classes of the characters that begin with these bytes."""
        points = completions(partial)
        return _bits(self._class_of[points.start : points.stop])

    def spelled_by_bytes(self, before: States, partial: bytes = b"") -> bool:
        """Whether byte tokens can spell a character that the vocabulary lacks, with any text after it.

        Args:
            before: The states before the character.
            partial: How the character begins.
        """
        return self._outside is not None and bool(self._classes_outside(partial) & self._classes_to_go_on(before))

    @kept()
    def _classes_outside(self, partial: bytes) -> int:
        """The classes of the characters that begin so and that the vocabulary lacks."""
        return _bits(self._class_of[self.points_outside(partial)])

    def points_outside(self, partial: bytes) -> Int64[np.ndarray, " n"]:
        """The code points of the characters that begin so and that byte tokens spell."""
        points = completions(partial) if partial else range(CODE_POINTS)
        found = (
            np.zeros(0, np.int64)
            if self._outside is None
            else np.flatnonzero(self._outside[points.start : points.stop])
        )
        return found + points.start

    def examples(self, points: Int64[np.ndarray, " n"], alike: Int64[np.ndarray, " points"]) -> tuple[str, ...]:
        """Of some code points that text can contain, one for each class and each number of ``alike``."""
        points = points[self._class_of[points] != NO_CLASS]
        key = (self._class_of[points].astype(np.int64) << 32) + alike[points]
        return tuple(map(chr, points[np.unique(key, return_index=True)[1]].tolist()))

    def restricted(self, allowed: Bool[np.ndarray, " points"]) -> TextFutures:
        """The same for texts of some code points alone."""
        return TextFutures(self._automaton, outside=self._outside, allowed=allowed)

    @kept()
    def _classes_to_go_on(self, states: States) -> int:
        """The classes of the next character with which some text goes on."""
        reached = ((char_class, self._read(states, char_class)) for char_class in range(len(self._level_classes)))
        return sum(1 << char_class for char_class, after in reached if after is not None and self.has_future(after))

    def has_future(self, start: States) -> bool:
        """Whether some text to come makes the hypotheses right, as far as classes of characters decide it."""
        return has_way(start, self._known, arrives=self.ends, onward=self._next_states)

    def _next_states(self, states: States) -> Iterator[States]:
        """The states after one more character or byte, with a cut before it or none."""
        for option in (states, *self._automaton.onward(states)):
            yield from self._next(option)

    def _next(self, states: States) -> Iterator[States]:
        """The states after one more character, or after one more byte where a cut may lie inside a character."""
        if not self._automaton.cuts_characters:
            reached = (self._read(states, char_class) for char_class in range(len(self._level_classes)))
        else:
            following = self._bytes_after(self._automaton.begun(states))
            reached = (self._automaton.read(states, byte) for byte in following)
        yield from (after for after in reached if after is not None)

    @kept()
    def _bytes_after(self, begun: tuple[Begun, ...]) -> list[bytes]:
        """One byte of all that lead every level to the same state, from states inside these characters."""
        inside = any(isinstance(each, Partial) for each in begun)
        if self._allowed is not None and inside:
            return []  # of longer characters it is not known yet what they become
        found = [byte for byte in range(256 if self._allowed is None else 128) if is_continuation(byte) == inside]
        read_as = self._automaton.read_as(begun)
        alike = {read_as[byte]: bytes([byte]) for byte in found}
        return [byte for key, byte in alike.items() if None not in key]

    def _read(self, states: States, char_class: int) -> States | None:
        """The states after one character, given by its class."""
        out = []
        for level, state, own in zip(self._automaton.levels, states, self._level_classes[char_class], strict=True):
            after = INACTIVE if state == INACTIVE else level.after(state, own)
            if after == DEAD:
                return None
            out.append(after)
        return tuple(out)

    def _joint_classes(self) -> tuple[UInt16[np.ndarray, " points"], list[tuple[int, ...]]]:
        """The class of each code point for all levels together, and what each such class is on each level."""
        levels = [level for level in self._automaton.levels if not level.by_bytes]
        key = np.zeros(CODE_POINTS, np.int64)
        for level in levels:
            own = np.where(level.class_of == NO_CLASS, 0, level.class_of + 1).astype(np.int64)
            key = compact(key * (int(own.max()) + 1) + own)[1]
        if self._allowed is not None:
            key = np.where(self._allowed, key + 1, 0)
        values, joint = compact(key)
        example = np.zeros(len(values), np.int64)
        example[joint] = np.arange(CODE_POINTS)
        classes = [tuple(int(level.class_of[p]) for level in levels) for p in example.tolist()]
        if self._allowed is not None and not self._allowed.all():
            classes[0] = (NO_CLASS,) * len(levels)
        table = np.array([NO_CLASS if NO_CLASS in own else i for i, own in enumerate(classes)], np.uint16)
        return table[joint], classes


def _bits(classes: UInt16[np.ndarray, " n"]) -> int:
    return sum(1 << i for i in np.flatnonzero(np.bincount(classes)).tolist() if i != NO_CLASS)
