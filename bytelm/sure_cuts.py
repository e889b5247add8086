"""Cuts of the pre-tokenizer that every spelling of a text has, and behind which its cover can begin anew.

Theory of operation
    The boundaries between a text's characters are cuts of the pre-tokenizer or they are not. Which claims about them
    can still come true is known from the text alone, whatever its tokens: that is what the levels' nodes are
    (walks.py). So all claims are followed side by side, from a sequence u that every viable spelling of the text begins
    with. A cut that all the claims that are left have in common, they and their continuations, is *sure*.

    Up to a sure cut, with all cuts before it sure too, the tokens are those that merging makes of each piece by itself:
    there is one spelling, whatever comes. (A piece that begins before u ends goes on with what merging makes of the
    rest of it: where a boundary holds, no merge has crossed it.) So every viable sequence that reaches beyond a sure
    cut begins with the tokens that any one of them has up to there, and the cover of the text is that of what follows.

Invariant
    The claims followed are all that viability.py would follow, and more: merges and what is owed to the vocabulary are
    not asked about. More claims make fewer cuts sure, never a wrong one.

Cost
    A few table look-ups a byte, where a cover takes a few binary searches and masks.

Does not
    Find anything where the pre-tokenizer cuts nothing (most sentencepiece tokenizers), where a text has an added token
    (which cuts it by rules of its own), or where two histories lead to one place: None is the answer there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bytelm.viability import Boundary, Viability
    from bytelm.walks import Nodes

_MOST: Final = 32  # claims that are followed


def sure_cut(viability: Viability, boundary: Boundary, data: bytes) -> int | None:
    """The last sure cut in the bytes after a sequence, or None.

    Args:
        viability: Of the tokenizer.
        boundary: The end of a sequence that every viable spelling of the text begins with.
        data: What of the text lies beyond it.

    Returns:
        An offset in ``data``, above 0.
    """
    if not viability.vocab.steps or any(spelling in data for spelling in viability.added_bytes):
        return None
    begun = viability.added_beginnings
    longest = max(map(len, begun), default=0)
    # Of an added token that may have begun in the last bytes, not all of it is there yet.
    end = next((at for at in range(max(0, len(data) - longest), len(data)) if data[at:] in begun), len(data))
    trails = _Trails()
    alive: dict[Nodes, tuple[bool, int]] = {}
    for nodes, _, is_cut in viability.options(boundary):
        if alive.setdefault(nodes, (is_cut, 0)) != (is_cut, 0):
            return None
    for at in range(end):
        after: dict[Nodes, tuple[bool, int]] = {}
        for before, (first, trail) in alive.items():
            ways = [(before, trail)]
            if at:
                ways += [(nodes, trails.longer(trail, at)) for nodes in viability.walker.cuts(before)]
            for nodes, longer in ways:
                led = viability.walker.walk(nodes, data[at : at + 1])
                if led is not None and after.setdefault(led, (first, longer)) != (first, longer):
                    return None
        alive = after
        if not 0 < len(alive) <= _MOST:
            return None
    if len({first for first, _ in alive.values()}) != 1:
        return None
    return trails.last([trail for _, trail in alive.values()])


class _Trails:
    """Histories of cuts, each known by a number; 0 has none."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._parent = [0]
        self._at = [0]

    def longer(self, trail: int, at: int) -> int:
        """A history with one more cut."""
        number = self._known.setdefault((trail, at), len(self._at))
        if number == len(self._at):
            self._parent.append(trail)
            self._at.append(at)
        return number

    def last(self, trails: list[int]) -> int | None:
        """The last cut of the longest history that these all begin with. A longer one has the larger number."""
        met = set(trails)
        while len(met) > 1:
            newest = max(met)
            met.remove(newest)
            met.add(self._parent[newest])
        (common,) = met
        return self._at[common] or None
