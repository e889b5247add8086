"""Characters of every kind that a tokenizer may tell apart, and small alphabets of them.

Rules
    An alphabet is *closed*: it holds every character that its bytes can spell. Tokens may be cut anywhere inside a
    character, so what begins with the first byte of one character may go on as another.
Cost
    Closed alphabets grow with the square or cube of the continuation bytes, so few characters beyond ASCII are drawn
    together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random
from typing import Final

WHITE_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
KINDS: Final = {
    "letters": "abstxABSéèßſ\u212aÅ日本あعกǅʰµ",
    "numbers": "0129٣१²³¹¼½ⅷ①",
    "marks": "\u0301\u0300\u0338\u0323\u0327\u20dd\u093e\ufe0f\u0e31",
    "punctuation": ".,'\"<>-/!?_(&#@’。·",
    "symbols": "$+=^`~|€☃😀\U0001f3fd\U0001f1e9",
    "white space": WHITE_SPACE,
    "joiners": "\u200b\u200c\u200d\u2060\ufeff\xad\u180e\u034f",
    "jamo": "\u1100\u1112\u1161\u11ab\u3131한각",
    "tags": "\U000e0001\U000e0020\U000e0061\U000e007f\U000e0100",
    "controls": "\x00\x01\x1b\x7f\x1c\x9f",
    "unassigned": "\ue000\u0378\uffff\ufffd\U0010ffff",
    "signs of the trade": "▁ĠĊÃ",
}
# Of four bytes, of kinds that few of these are of; and a letter whose first byte, D7, is no letter in GPT-2's alphabet.
FAR: Final = "𝟎𐅀𐐀𐐨𐌰𑀁𐄀𝄞א"
EVERY: Final = "".join(dict.fromkeys("".join(KINDS.values()) + FAR))  # what a text may need to show something
# Where something can go wrong: shared first bytes, spaces, contractions, digits in groups, letters that fold.
TRIED: Final = (
    "ab", "a ", "ab ", "a \n", "'sa", "1a ", "12", "1.", "Aa'", "aé", "éè", "a é", "\r\n ", "a\u0301", "x't ", "a日", " \x85",
    "ſ'a", "<a>", "a1", "a.", "s'S", "e\u0301é", "a\u200d", "a²", "  ", "a_", "ßs", "\t ", "\n\n",
)  # fmt: skip
NO_TEXT: Final = (
    b"\xff",
    b"\x80",
    b"\xc3(",
    b"\xed\xa0\x80",
    b"\xed\xbf",
    b"\xf4\x90",
    b"\xc0\xaf",
    b"\xe0\x80",
    b"\xf0\x8f",
)


def closed(characters: Iterable[str]) -> list[str]:
    """Every character whose UTF-8 is made of the bytes of these, these first."""
    given = list(dict.fromkeys(characters))
    data = sorted({byte for c in given for byte in c.encode()})
    later = [byte for byte in data if 0x80 <= byte < 0xC0]
    found = dict.fromkeys(given)
    found |= dict.fromkeys(chr(byte) for byte in data if byte < 0x80)
    for lead in data:
        size = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 0
        for rest in itertools.product(later, repeat=size - 1) if size else ():
            try:
                found[bytes([lead, *rest]).decode()] = None
            except UnicodeDecodeError:
                continue
    return list(found)


def alphabet(rng: Random) -> list[str]:
    """Two to four characters: mostly those that are known for trouble."""
    if rng.random() < 0.6:
        return list(dict.fromkeys(rng.choice(TRIED)))
    kinds = [rng.choice(list(KINDS.values())) for _ in range(rng.randint(1, 2))]
    drawn = [rng.choice(kind) for kind in kinds]
    return list(dict.fromkeys([*drawn, *rng.sample("a 1\n'.", rng.randint(1, 2))]))


def beyond(rng: Random, characters: Iterable[str], most: int) -> list[str]:
    """Some characters of other kinds, few enough that the closed alphabet stays small."""
    kept = list(characters)
    known = set(kept)
    for _ in range(most):
        new = rng.choice(list(KINDS.values()) if rng.random() < 0.5 else ["ab1 \n.'A_"])
        character = rng.choice(new)
        if character not in known and len(closed([*kept, character])) <= 24:
            kept.append(character)
            known.add(character)
    return [c for c in kept if c not in set(characters)]


def completions(cut: bytes) -> list[str]:
    """Characters whose UTF-8 begins with these bytes: those of every kind, and others at even distances."""
    missing = (2 if cut[0] < 0xE0 else 3 if cut[0] < 0xF0 else 4) - len(cut)
    found = dict.fromkeys(c for c in EVERY if c.encode().startswith(cut))
    steps = {1: (1,), 2: (1, 9), 3: (9, 9, 9)}[missing]  # of 64 characters most are of a kind
    for rest in itertools.product(*(range(0x80, 0xC0, step) for step in steps)):
        try:
            found[(cut + bytes(rest)).decode()] = None
        except UnicodeDecodeError:
            continue
    return list(found)


def unfinished(data: bytes) -> bytes:
    """The bytes of a last character that is not whole."""
    for size in range(1, min(3, len(data)) + 1):
        byte = data[-size]
        if byte >= 0xC0:
            whole = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[len(data) - size :] if size < whole else b""
        if byte < 0x80:
            return b""
    return b""
