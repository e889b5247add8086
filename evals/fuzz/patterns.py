"""Random split patterns: those of published tokenizers, and any put together of what a pattern may hold.

Rules
    docs/tokenizers.md says what a pattern may hold; all of it is drawn here. A pattern that the tokenizers library does
    not take is drawn again by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

PUBLISHED: Final = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\r\n]|\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+|\s?[!-/:-~！-／：-～‘-‟　-。]+|\s+$|[一-龥ࠀ-一가-퟿]+|\p{N}+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(?=(\d{3})+(?!\d))",
    r"\s+(?!\S)|\s+|\S+",
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s{4}(?!\S)|\s{2}(?!\S)|\s",
    r"(?<=\s)(?=\S)",
    r"\p{N}",
    r" ",
)  # fmt: skip
CLASSES: Final = (
    r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Ll}", r"\p{Z}", r"\p{C}",
    r"\P{L}", r"[^\s\p{L}\p{N}]", r"[^\r\n\p{L}\p{N}]", r"[\r\n]", r"[a-z]", r"[^a]", r"[[:alpha:]]", r"[[:space:]]", r"[\w&&[^a]]", ".", r"\h",
)  # fmt: skip
COUNTS: Final = (
    "",
    "",
    "",
    "",
    "+",
    "*",
    "?",
    "{2}",
    "{1,2}",
    "{1,3}",
    "{2,}",
    "{,2}",
    "+?",
    "*?",
    "??",
    "{1,2}?",
    "++",
    "?+",
    "*+",
)
ENDS: Final = (r"\b", r"\B", "$", "^", r"\z", r"\A")


def pattern(rng: Random, alphabet: Sequence[str]) -> str:
    """A published pattern, or one made of one to three alternatives."""
    if rng.random() < 0.4:
        return rng.choice(PUBLISHED)
    return "|".join(_sequence(rng, alphabet, depth=2) for _ in range(rng.choice((1, 1, 2, 2, 3))))


def _sequence(rng: Random, alphabet: Sequence[str], *, depth: int) -> str:
    parts = [_atom(rng, alphabet, depth) + rng.choice(COUNTS) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    if rng.random() < 0.25:
        parts.append(f"(?{rng.choice('=!')}{_atom(rng, alphabet, depth)}{rng.choice(('', '', '+', '{2}'))})")
    if rng.random() < 0.12:
        parts.insert(0, f"(?<{rng.choice('=!')}{_atom(rng, alphabet, 0)})")
    if rng.random() < 0.1:
        parts.insert(rng.choice((0, len(parts))), rng.choice(ENDS))
    return "".join(parts)


def _atom(rng: Random, alphabet: Sequence[str], depth: int) -> str:
    literal = f"\\x{{{ord(rng.choice(alphabet)):x}}}"
    kind = rng.random()
    if kind < 0.4:
        return literal
    if kind < 0.8 or depth == 0:
        return rng.choice(CLASSES)
    if kind < 0.86:
        return f"(?i:{literal})"
    opening = rng.choice(("(?:", "(?:", "(", "(?>"))
    inner = "|".join(_sequence(rng, alphabet, depth=depth - 1) for _ in range(rng.randint(1, 2)))
    return f"{opening}{inner})"
