"""Why the number of a word by bytes differs from that by tokens: the difference as a sum of named amounts.

Theory
    The number of a word is a difference of two logarithms, one at its end and one at its beginning. By tokens each is
    T(k) or T(k) + ln S(k) (tokens.py). By bytes each is B(i), the log-probability of the first i bytes, with or without
    the space that follows. So the whole difference is what these two ends change in three steps:
        which of the spaces count, by tokens still;
        from tokens to bytes: T(k) becomes B(i), as longer tokens begin with the word too;
        white space that is more than one space.
    With its space a word can end in no other way, so T(k) + ln S(k) has to be B(i + 1): that amounts to nothing.
    An explanation holds if the three amounts lead from the peer's number to ours. Both are computed elsewhere.

Rules
    An amount counts if it exceeds the tolerance.
    A word that was given other tokens than its own is not compared: its number is another word's. It has that cause
    alone, and the peer's number has to be what its rules give for those tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bytelm.inference.units import WordSpace
from evals.surprisal.tokens import Setting, Tokens, predicted, same

FRONT: Final = "the space in front of the word counts"
BEHIND: Final = "the space behind the word counts"
LAST: Final = "the peer adds a space behind the last word"
LONGER: Final = "longer tokens begin with the word's last token"
WHITE: Final = "more white space than one space"
ACROSS: Final = "a token lies across an end of the word"
COUNTED: Final = "the peer gave the word other tokens than its own"
CAUSES: Final = (FRONT, BEHIND, LAST, LONGER, WHITE, ACROSS, COUNTED)


class End(NamedTuple):
    """One end of a word.

    Attributes:
        token: Tokens before it; None inside a token.
        byte: Bytes before it, without the white space behind it.
        beyond: Bytes before the next word.
        spaced: Whether our number counts that white space.
    """

    token: int | None
    byte: int
    beyond: int
    spaced: bool


@dataclass(frozen=True)
class Found:
    """What became of one word.

    Attributes:
        word: The word.
        theirs: Its log-probability by the peer.
        ours: Its log-probability by bytes.
        explained: Whether the amounts lead from the one to the other.
        amounts: In nats, by cause.
    """

    word: str
    theirs: float
    ours: float
    explained: bool
    amounts: dict[str, float] = field(default_factory=dict)


def explained(
    text: str,
    number: int,
    *,
    setting: Setting,
    space: WordSpace,
    tokens: Tokens,
    span: tuple[int, int],
    byte_logprobs: Sequence[float],
    theirs: float,
    ours: float,
    tolerance: float,
) -> Found:
    """Explain one word.

    Args:
        text: The sentence.
        number: Which of its words.
        setting: How the peer was asked.
        space: Our convention.
        tokens: The sentence by tokens.
        span: The tokens that the peer gave the word.
        byte_logprobs: B: the log-probability of the first i bytes, for each i.
        theirs: The peer's number.
        ours: Ours.
        tolerance: In nats, for one number.
    """
    words, data = setting.words(text), text.encode()
    known = same(theirs, predicted(tokens, span, setting), tolerance)
    front = _end(text, words, number - 1, tokens, spaced=space != "before")
    behind = _end(text, words, number, tokens, spaced=space == "after")
    word = text[slice(*words[number])]
    if front.token is None or behind.token is None or (front.token, behind.token) != span:
        cause = ACROSS if front.token is None or behind.token is None else COUNTED
        return Found(word, theirs, ours, known, {cause: ours - theirs})
    amounts = dict.fromkeys(CAUSES, 0.0)
    for end, token, sign, cause in ((front, front.token, -1, FRONT), (behind, behind.token, 1, BEHIND)):
        if token == 0:
            continue  # nothing is before the first word
        space_counts = end.spaced and data[end.byte : min(end.byte + 1, end.beyond)] == b" "
        by_tokens = tokens.logprobs[token] + (tokens.corrected(token) if setting.corrected else 0.0)
        wanted = tokens.logprobs[token] + (tokens.spaces[token] if space_counts else 0.0)
        at = end.byte + space_counts
        last = token == len(tokens.ends) - 1
        amounts[LAST if last else cause] += sign * (wanted - by_tokens)
        if not space_counts:
            amounts[LONGER] += sign * (byte_logprobs[end.byte] - wanted)
        if end.spaced:
            amounts[WHITE] += sign * (byte_logprobs[end.beyond] - byte_logprobs[at])
    whole = theirs + sum(amounts.values())
    counted = {cause: amount for cause, amount in amounts.items() if abs(amount) > tolerance}
    return Found(word, theirs, ours, known and same(whole, ours, 2 * tolerance), counted)


def _end(text: str, words: Sequence[tuple[int, int]], number: int, tokens: Tokens, *, spaced: bool) -> End:
    """The end of a word; of the word before the first, the beginning of the text."""
    at = words[number][1] if number >= 0 else 0
    beyond = words[number + 1][0] if number + 1 < len(words) else len(text)
    byte, after = len(text[:at].encode()), len(text[:beyond].encode())
    return End(tokens.ends.index(byte) if byte in tokens.ends else None, byte, after, spaced)
