"""Positions in a text at which every tokenization has a boundary, and after which its cover can begin anew.

Theory of operation
    *Where a pre-tokenizer cuts.* Each boundary between two characters is a cut or it is not. Which combinations can
    still be right is known from the text alone, whatever its tokens: that is what the states of the pre-tokenizer say
    (tokenizer/split/vocab_walk.py). So all of them are followed side by side, from a sequence u that every viable
    tokenization of the text begins with. A cut that all those left have in common, with what they go on to, is *sure*.

    Up to a sure cut, with all cuts before it sure too, the tokens are those that merging makes of each piece by itself:
    there is one tokenization, whatever follows. (A piece that begins before u ends goes on with what merging makes of
    the rest of it: where a boundary holds, no merge has crossed it.) So every viable sequence that reaches beyond a
    sure cut begins with the tokens that any one of them has up to there, and the cover of the text is that of the rest.

    *Where nothing cuts but added tokens*, as with most sentencepiece tokenizers. If no token of the vocabulary spells
    the bytes on both sides of a position, every tokenization has a boundary there, and what merging makes of the text
    before it does not depend on what follows: no merge crosses it. So there is one tokenization up to there, and the
    position is as good as a sure cut. Added tokens are found before anything is merged, from left to right: where the
    text of none, nor of a special token, can lie across the position, those before it are the same whatever follows.

Invariant
    The combinations followed are all that tokenizer/viability/viability.py would follow, and more: merges and
    ``ignore_merges`` are not asked about. More combinations make fewer cuts sure, never a wrong one. So do tokens that
    can begin nowhere.

Cost
    A few table look-ups a byte, where a cover takes a few binary searches and masks. Where nothing cuts, a few binary
    searches a byte, over twice the longest token at the text's end, and over more if there is no such position in it.

Does not
    Find anything where a pre-tokenizer cuts and a text has an added token (which cuts it by rules of its own), or where
    two histories lead to one state; nor where nothing cuts, but an added token is one only beside certain characters.
    None is the answer there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bytelm.symbols import is_continuation

if TYPE_CHECKING:
    from bytelm.tokenizer.prefix_index import PrefixIndex
    from bytelm.tokenizer.split.vocab_walk import States
    from bytelm.tokenizer.viability.boundary import Boundary
    from bytelm.tokenizer.viability.viability import Viability

_MOST: Final = 32  # combinations that are followed


def sure_cut(viability: Viability, boundary: Boundary, data: bytes) -> int | None:
    """The last sure cut in the bytes after a sequence, or None.

    Args:
        viability: Of the tokenizer.
        boundary: The end of a sequence that every viable tokenization of the text begins with.
        data: What of the text lies beyond it.

    Returns:
        An offset in ``data``, above 0.
    """
    if not viability.steps:
        return _uncrossed(viability, data)
    if any(spelling in data for spelling in viability.added_texts.emitted):
        return None
    begun = viability.added_texts.beginnings
    longest = max(map(len, begun), default=0)
    # Of an added token that may have begun in the last bytes, not all of it is there yet.
    end = next((at for at in range(max(0, len(data) - longest), len(data)) if data[at:] in begun), len(data))
    histories = _Histories()
    alive: dict[States, tuple[bool, int]] = {}
    for states, _, is_cut in viability.options(boundary):
        if alive.setdefault(states, (is_cut, 0)) != (is_cut, 0):
            return None
    for at in range(end):
        after: dict[States, tuple[bool, int]] = {}
        for before, (first, history) in alive.items():
            ways = [(before, history)]
            if at:
                ways += [(states, histories.longer(history, at)) for states in viability.automaton.cuts(before)]
            for states, longer in ways:
                led = viability.automaton.read(states, data[at : at + 1])
                if led is not None and after.setdefault(led, (first, longer)) != (first, longer):
                    return None
        alive = after
        if not 0 < len(alive) <= _MOST:
            return None
    if len({first for first, _ in alive.values()}) != 1:
        return None
    return histories.last([history for _, history in alive.values()])


def _uncrossed(viability: Viability, data: bytes) -> int | None:
    """The last place in ``data`` that no token can lie across, where nothing cuts but added tokens; or None."""
    tokens, special = viability.prefix_index, viability.added_texts.special
    # Whether a special token's text that began before the data goes on beyond it, none of the places here tells.
    if viability.added_texts.single_words or len(data) < special.longest:
        return None
    longest, start = max(tokens.longest, special.longest), len(data)
    while start:
        start = max(0, 2 * start - len(data) - 2 * longest)
        reached, found = start and start + longest - 1, 0  # by what begins before
        for at in range(start, len(data)):
            if reached <= at and not is_continuation(data[at]):
                found = at
            reached = max(reached, _reach(tokens, data, at), _reach(special, data, at))
        if found:
            return found
    return None


def _reach(prefix_index: PrefixIndex, data: bytes, at: int) -> int:
    """Where the longest token ends that begins at a place in a text; the text's end where it may go on beyond that."""
    lo, hi, reached = 0, len(prefix_index), at
    for end in range(at + 1, len(data) + 1):
        spelled = data[at:end]
        lo, hi = prefix_index.range(spelled, lo, hi)
        if (longer := prefix_index.equal_to(spelled, lo, hi)) > lo:
            reached = end
        if longer == hi:
            return reached
    return len(data)


class _Histories:
    """Histories of cuts, each known by a number; 0 has none."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._parent = [0]
        self._at = [0]

    def longer(self, history: int, at: int) -> int:
        """A history with one more cut."""
        number = self._known.setdefault((history, at), len(self._at))
        if number == len(self._at):
            self._parent.append(history)
            self._at.append(at)
        return number

    def last(self, histories: list[int]) -> int | None:
        """The last cut of the longest history that these all begin with. A longer one has the larger number."""
        met = set(histories)
        while len(met) > 1:
            newest = max(met)
            met.remove(newest)
            met.add(self._parent[newest])
        (common,) = met
        return self._at[common] or None
