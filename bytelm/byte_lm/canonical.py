"""The tokens that a tokenizer cuts a text into, with what the model says of each: the token-level view of a text.

Theory
    A tokenizer gives a text one sequence of tokens, the canonical one, and token-level surprisal is that of its tokens.
    Their sum is −ln P(this one sequence), where the text's own is −ln of the sum over the whole cover: so it is larger,
    mostly at the end of the text, where the canonical sequence is one of several that may lead on.

Cost
    A row a token, in calls of `ROWS`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import Prompt
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.scheduler import Request, Step

ROWS: Final = 32  # that are asked for at a time


class CanonicalToken(NamedTuple):
    """A token of a text.

    Attributes:
        token_id: Its id.
        bytes: What it spells.
        start: Its first byte in the text; 0 of one that began before.
        end: The byte after its last.
        logprob: ln P(token | the tokens before it).
    """

    token_id: int
    bytes: bytes
    start: int
    end: int
    logprob: float


def canonical_tokens(lm: ByteLM, prompt: Prompt, text: bytes) -> Step[list[CanonicalToken] | None]:
    """The canonical tokens of a text; None where the text has none, or they do not fit in the model's context.

    It has none where it ends inside a character.

    Args:
        lm: The model.
        prompt: The text before it. They are encoded together.
        text: The text.
    """
    whole, first = prompt.text + text, len(prompt.text)
    try:
        ids = lm.prompts.encoded(whole, dummy_prefix=prompt.dummy_prefix)
    except UnreachablePrefixError:
        return None
    size = lm.abilities.context_length
    if size is not None and len(prompt.context) + len(ids) > size:
        return None
    pieces = [lm.spell([token]) for token in ids]
    at = len(whole) - sum(map(len, pieces))  # below 0 by a hidden leading space
    places: list[tuple[int, bytes, int, int]] = []
    for number, piece in enumerate(pieces):
        start, at = at, at + len(piece)
        if at > first:
            places.append((number, piece[max(-start, 0) :], max(start - first, 0), at - first))
    found: list[CanonicalToken] = []
    for begin in range(0, len(places), ROWS):
        some = places[begin : begin + ROWS]
        rows = yield Request(tuple((*prompt.context, *ids[:number]) for number, *_ in some), begin / len(places))
        for (number, piece, start, end), row in zip(some, rows, strict=True):
            found.append(CanonicalToken(ids[number], piece, start, end, float(row[ids[number]])))
    return found
