"""The members of a cover as what `ByteLM.cover` returns: a list with a short repr, which draws itself in a notebook.

Rules
    The list holds all members. The picture holds the likeliest ones as a tree, and counts the others. The picture is
    made together with the list, and does not change with it.
    Tokens that all shown members begin with are left out, up to the last `KEPT`.

Does not
    Ask a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Final

from bytelm.inference.cover_walk import share
from bytelm.inference.scoring import CoverItem
from bytelm.lemma import log_sum
from bytelm.pictures.document import Section, document, framed
from bytelm.pictures.values import Branch, CoverTree, TreeStep, shown_text

BRANCHES: Final = 8  # of a cover, in a picture
KEPT: Final = 2  # tokens of a common beginning: enough to know the place
SHOWN: Final = 2  # members in a repr

Spell = Callable[[Sequence[int]], bytes]


class CoverList(list[CoverItem]):
    """The members of a cover, the largest first.

    Args:
        items: The members, in any order.
        prefix: The text that they cover.
        spell: The bytes of tokens.
        hidden: Bytes of the hidden leading space in front of the text.

    Attributes:
        picture: The likeliest members as a tree.
    """

    def __init__(self, items: Iterable[CoverItem], *, prefix: bytes, spell: Spell, hidden: int = 0) -> None:
        super().__init__(sorted(items, key=lambda item: (-item.logprob, item.token_ids)))
        logprob = log_sum(item.logprob for item in self)
        most = self[:BRANCHES]
        left = left_out([item.token_ids for item in most])
        branches = [
            branch(item.token_ids, share(item.logprob, logprob), spell=spell, size=len(prefix) + hidden, left=left)
            for item in most
        ]
        step = TreeStep(logprob, branches, hidden=left, left_out=len(self) - len(most))
        self.picture = CoverTree(prefix, step)

    def __repr__(self) -> str:
        more = [f"… {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return f"[{', '.join([*map(repr, self[:SHOWN]), *more])}]"

    def _repr_html_(self) -> str:
        return framed(document("bytelm: cover", [Section("The cover at the cursor", self.picture)]))


def branch(
    token_ids: tuple[int, ...], part: float, *, spell: Spell, size: int, left: int, why: str | None = None
) -> Branch:
    """A member as a picture shows it.

    Args:
        token_ids: The member.
        part: Its share of the mass.
        spell: The bytes of tokens.
        size: Bytes before the cursor, a hidden leading space included.
        left: How many tokens in front are left out.
        why: Why it is dead, if it is.
    """
    ids = token_ids[left:]
    return Branch(ids, token_texts(ids, spell), part, beyond(token_ids, spell, size), why)


def token_texts(token_ids: Sequence[int], spell: Spell) -> list[str | None]:
    """The texts of tokens; None for a negative id, which stands for several."""
    return [None if token < 0 else shown_text(spell([token])) for token in token_ids]


def left_out(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens a picture of these sequences leaves out in front."""
    return max(common_length(sequences) - KEPT, 0)


def common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all the sequences begin with alike; 0 for a single sequence.

    >>> common_length([(1, 2, 3), (1, 2, 4)]), common_length([(1, 2)])
    (2, 0)
    """
    if len(sequences) < 2:
        return 0
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*sequences, strict=False)))


def beyond(token_ids: Sequence[int], spell: Spell, size: int) -> int:
    """How many characters of the last token lie behind the cursor, as a browser counts them; 0 if one is cut there."""
    over = len(spell(token_ids)) - size
    piece = spell(token_ids[-1:])
    if over <= 0 or over > len(piece):
        return 0
    parts = shown_text(piece[: len(piece) - over]), shown_text(piece[len(piece) - over :])
    return len(parts[1].encode("utf-16-le")) // 2 if "".join(parts) == shown_text(piece) else 0
