"""Whether some text to come makes the claims about a place right, whatever its tokens: what letters decide.

Theory of operation
    What is encoded after a cut leaves everything before it alone. So where the text may end, or a cut may follow, any
    text will do that makes the claims right: a search over the letters that the levels tell apart finds one. The same
    holds for a character that only byte tokens of a sentencepiece vocabulary spell, as they never merge.

Cost
    Few sets of nodes occur, and the answer for each is kept.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt16

from bytelm.tokenizer.prefix_index import completions
from bytelm.tokenizer.split.automaton import DEAD
from bytelm.tokenizer.split.char_classes import CODE_POINTS, NO_LETTER, compact
from bytelm.tokenizer.split.vocab_walk import INACTIVE, Nodes, Walker, ended


class TextFutures:
    """Answers about the texts that one pre-tokenizer can read.

    Args:
        walker: All its levels.
        outside: Code points that byte tokens spell; None for a byte-level vocabulary.
    """

    def __init__(self, walker: Walker, *, outside: Bool[np.ndarray, " points"] | None) -> None:
        self._walker = walker
        self._outside = outside
        self._readable: dict[Nodes, bool] = {}
        self._cuttable: dict[Nodes, bool] = {}
        self._spellable: dict[bytes, int] = {}
        self._reading: dict[Nodes, int] = {}
        self._after: dict[Nodes, tuple[int, int]] = {}
        self._joint, self._letters = self._joint_letters()

    def ends(self, nodes: Nodes) -> bool:
        """Whether the text may end here."""
        return ended(self._walker.levels, nodes)

    def stops(self, nodes: Nodes) -> bool:
        """Whether the text may end at these nodes, which are at a character's end, or a cut may follow."""
        known = self._cuttable.get(nodes)
        if known is None:
            known = self.ends(nodes) or any(map(self.reads_on, self._walker.onward(nodes)))
            self._cuttable[nodes] = known
        return known

    def letters(self, nodes: Nodes) -> tuple[int, int]:
        """After which characters the text may stop, and which can be read at all, by their letters, as bits."""
        known = self._after.get(nodes)
        if known is None:
            stop = alive = 0
            for letter in range(len(self._letters)):
                after = self._read(nodes, letter)
                if after is not None:
                    alive |= 1 << letter
                    stop |= self.stops(after) << letter
            known = self._after[nodes] = stop, alive
        return known

    def letter(self, point: int) -> int:
        """The letter of a code point, as a bit; 0 where text cannot contain it."""
        letter = int(self._joint[point])
        return 0 if letter == NO_LETTER else 1 << letter

    def letters_begun(self, partial: bytes) -> int:
        """The letters of the characters that begin so, as bits."""
        points = completions(partial)
        return _bits(self._joint[points.start : points.stop])

    def spelled_by_bytes(self, before: Nodes, partial: bytes = b"") -> bool:
        """Whether byte tokens can spell a character that the vocabulary lacks, with any text after it.

        Args:
            before: The nodes before the character.
            partial: How the character begins.
        """
        if self._outside is None:
            return False
        if partial not in self._spellable:
            points = completions(partial) if partial else range(CODE_POINTS)
            own = self._joint[points.start : points.stop][self._outside[points.start : points.stop]]
            self._spellable[partial] = _bits(own)
        if before not in self._reading:
            reached = ((letter, self._read(before, letter)) for letter in range(len(self._letters)))
            going_on = (letter for letter, after in reached if after is not None and self.reads_on(after))
            self._reading[before] = sum(1 << letter for letter in going_on)
        return bool(self._spellable[partial] & self._reading[before])

    def reads_on(self, nodes: Nodes) -> bool:
        """Whether some text to come makes the claims right, as far as letters decide it."""
        if nodes not in self._readable:
            self._readable[nodes] = self._search(nodes)
        return self._readable[nodes]

    def _search(self, start: Nodes) -> bool:
        seen, queue = {start}, [start]
        for nodes in queue:
            if self.ends(nodes):
                return True
            for option in (nodes, *self._walker.onward(nodes)):
                for letter in range(len(self._letters)):
                    after = self._read(option, letter)
                    if after is not None and after not in seen:
                        seen.add(after)
                        queue.append(after)
        return False

    def _read(self, nodes: Nodes, letter: int) -> Nodes | None:
        """The nodes after one character, given by the letter that it is to all levels together."""
        out = []
        for level, node, own in zip(self._walker.levels, nodes, self._letters[letter], strict=True):
            after = INACTIVE if node == INACTIVE else level.after(node, own)
            if after == DEAD:
                return None
            out.append(after)
        return tuple(out)

    def _joint_letters(self) -> tuple[UInt16[np.ndarray, " points"], list[tuple[int, ...]]]:
        """What each code point is to all levels together, and that letter's letter on each level."""
        levels = self._walker.levels
        key = np.zeros(CODE_POINTS, np.int64)
        for level in levels:
            own = np.where(level.letter == NO_LETTER, 0, level.letter + 1).astype(np.int64)
            key = compact(key * (int(own.max()) + 1) + own)[1]
        values, joint = compact(key)
        example = np.zeros(len(values), np.int64)
        example[joint] = np.arange(CODE_POINTS)
        letters = [tuple(int(level.letter[p]) for level in levels) for p in example.tolist()]
        table = np.array([NO_LETTER if NO_LETTER in own else i for i, own in enumerate(letters)], np.uint16)
        return table[joint], letters


def _bits(letters: UInt16[np.ndarray, " n"]) -> int:
    return sum(1 << letter for letter in np.flatnonzero(np.bincount(letters)).tolist() if letter != NO_LETTER)
