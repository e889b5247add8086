"""What fits in a model's context: of a text, of what stands before it, and of what is asked along it.

Rules
    All of it is known before the model runs: the boundary nodes come from the tokenizer alone.
    Tokens are counted along one member of a cover. Another one may be longer, so `SPARE` of them are kept free where
    a text is cut to fit; whether a text fits is found out for certain.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from bytelm.cover.nodes import Cover, Node
from bytelm.errors import ContextOverflowError, InvalidArgumentError
from bytelm.symbols import character_from

SPARE: Final = 16  # tokens by which another member of a cover may be longer than the one that is counted

Asked: TypeAlias = Literal["text", "bytes", "rows"]


def left_out(cover: Cover, first: int, *, room: int) -> int:
    """How many bytes at a prefix's beginning are left out so that it fits, up to a token and a character's end.

    Args:
        cover: At the end of the prefix and all that is to fit with it.
        first: Bytes of the prefix: no more are left out.
        room: Tokens that the context holds.
    """
    room -= min(SPARE, max(room, 0) // 8)
    ends = token_ends(cover)
    if len(ends) <= room:
        return 0
    cut = ends[len(ends) - room - 1] if room > 0 else first
    return min(character_from(cover.prefix[:first], cut), first)


def windows(cover: Cover, *, first: int, stride: int, room: int) -> list[tuple[int, int, int]]:
    """The pieces in which a text is scored that does not fit in the context: (where its history begins, start, end).

    The first piece is all that fits; each one after it has ``stride`` bytes, and the longest history that fits with it
    and begins at a token and at a character.

    Args:
        cover: At the end of all the text.
        first: Where the scored part begins.
        stride: Bytes of a piece.
        room: Tokens that the context holds.

    Raises:
        InvalidArgumentError: A piece does not fit.
    """
    text = cover.prefix
    ends = token_ends(cover)
    room -= min(SPARE, room // 8)
    if len(ends) <= room:
        return [(0, first, len(text))]
    whole = ends[room - 1] if room > 0 else 0
    out = [(0, first, whole)] if whole > first else []
    for start in range(max(first, whole), len(text), stride):
        end = min(start + stride, len(text))
        oldest = bisect_left(ends, end) + 1 - room
        history = character_from(text, ends[oldest - 1] if oldest > 0 else 0)
        if history > start:
            fitting = bisect_right(ends, start) + room
            raise InvalidArgumentError(
                f"a stride of {stride} bytes is more than the {room} tokens that fit in the model's context: give at "
                f"most about {ends[min(fitting, len(ends)) - 1] - start}"
            )
        out.append((history, start, end))
    return out


def tokens_asked(cover_at: Callable[[int], Cover], length: int, *, asked: Asked, end: bool, near: int) -> int:
    """The tokens of the longest sequence that a model is asked for along a text; no model is run.

    Args:
        cover_at: The cover after so many bytes of the text.
        length: Its bytes.
        asked: Its log-probability, each byte's log-probability, or the row at each byte.
        end: Whether also the row at its end.
        near: A number of tokens of interest: whether there are more is found out for certain.
    """
    last = cover_at(length)
    found = max(_rows_reach(cover_at(0), asked), _rows_reach(last, "rows" if end else "bytes"))
    ends = token_ends(last)
    if asked == "text" or found > near or found + SPARE <= near:
        return found
    # The end fits, and nodes of a byte before it might not: other sequences, which do not lead there.
    start = max(length - len(last.prefix) + (ends[-2 * SPARE] if len(ends) > 2 * SPARE else 0), 0)
    cover = cover_at(start)
    for at in range(start, length):
        found = max(found, _rows_reach(cover, asked))
        cover = cover.advance(last.prefix[len(last.prefix) - length + at :][:1])
    return found


def refuse_overflow(
    cover_at: Callable[[int], Cover], length: int, *, asked: Asked, end: bool, before: int, size: int
) -> None:
    """Refuse a text along which a sequence would be asked for that does not fit in the context; no model is run.

    Args:
        cover_at: As for `tokens_asked`, as are ``length``, ``asked`` and ``end``.
        length: Bytes of the text.
        asked: What is asked along it.
        end: Whether also the row at its end.
        before: Tokens in front of all.
        size: Tokens that the context holds.

    Raises:
        ContextOverflowError: One does not fit.
    """
    tokens = before + tokens_asked(cover_at, length, asked=asked, end=end, near=size - before)
    if tokens > size:
        raise ContextOverflowError(
            f"{len(cover_at(length).prefix)} bytes of text take {tokens} tokens, which does not fit in the model's "
            f"context of {size}; shorten the prefix, keep its last part, or give a stride to score a long text"
        )


def _rows_reach(cover: Cover, asked: Asked) -> int:
    """Tokens of the longest sequence after which a row is needed: of a node that spells all, only a row before it."""
    return max(
        node.depth if asked == "rows" or cover.leftover(node) else node.depth - 1
        for node in (*cover.nodes, *cover.ending)
    )


def token_ends(cover: Cover) -> list[int]:
    """Where the tokens of one encoding of the text end, in bytes."""
    node = (*cover.ending, *cover.nodes)[0]
    leftover = len(cover.leftover(node))
    hidden = node.end + leftover - len(cover.prefix)
    ends = [len(cover.prefix)] if leftover else []
    above: Node | None = node
    while above is not None:
        if above.end > hidden:
            ends.append(above.end - hidden)
        above = above.parent
    return ends[::-1]
