"""Text that tries tokenizers, written for this project: code, prose, white space, scripts, emoji, bytes.

Rules
    Every snippet is ours (hard_texts.json) or generated from a seed. A document is a few fragments of one or more kinds
    put end to end, from any starting point, so that kinds meet. Its prefixes are what is tried, every cut inside a
    character among them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any, Final

from bytelm.symbols import is_continuation

# The snippets by kind; of code by language.
_TEXTS: Final[Any] = json.loads(files(__package__).joinpath("hard_texts.json").read_text(encoding="utf-8"))
SPACES: Final[list[str]] = _TEXTS["spaces"]
CONTRACTIONS = [
    f"{word}{mark}{tail}"
    for word in ("I", "we", "DON", "x=", " ", "", "1", "(", "é", "it", "日", "\n", "_", "'")
    for mark in ("'", "’", "''")
    for tail in ("s", "S", "t", "T", "re", "RE", "Re", "rE", "ve", "VE", "m", "M", "ll", "LL", "Ll", "d", "D", "r", "l", "v", "mega", "ſ", "\u212a", "es", "ren", "lla", "Tx", "ß", "'t", "1")
]  # fmt: skip
KINDS = ("code", "prose", "spaces", "contractions", "digits", "scripts", "emoji", "combining", "odd", "sentinels", "bytes")  # fmt: skip


# Of some kinds a fragment is a few members, joined by one of these.
_JOINED = {
    "digits": (("", " ", "a", "  ", "-"), _TEXTS["digits"], 2),
    "emoji": (("", " ", "a"), _TEXTS["emoji"], 3),
    "combining": (("", " ", "a"), _TEXTS["combining"], 4),
    "odd": (("", " ", "a"), _TEXTS["odd"], 4),
    "sentinels": (("", " ", "\n", "x"), _TEXTS["sentinels"], 3),
}


def fragment(kind: str, rng: random.Random, sentinels: Iterable[str]) -> bytes:
    """A piece of text of one kind, from a random start to a random end."""
    text: str
    match kind:
        case "code":
            text = rng.choice(rng.choice(list(_TEXTS["code"].values())))
        case "prose" | "scripts":
            text = rng.choice(_TEXTS[kind])
        case "spaces":
            mixed = (*SPACES, *SPACES[:16], *_TEXTS["words"])
            text = "".join(mixed[rng.randrange(len(mixed))] for _ in range(12))
        case "contractions":
            text = (" " if rng.random() < 0.5 else "").join(rng.sample(CONTRACTIONS, 3))
        case "bytes":
            return _some_bytes(rng)
        case _:
            joins, pool, count = _JOINED[kind]
            text = rng.choice(joins).join(rng.sample([*pool, *(sentinels if kind == "sentinels" else ())], count))
            if kind == "digits" and rng.random() < 0.3:
                text = "".join(rng.choices("0123456789", k=rng.randint(1, 12))) + text
    start = rng.randrange(len(text)) if rng.random() < 0.7 else 0
    return text[start : start + rng.randint(1, 40)].encode()


def _some_bytes(rng: random.Random) -> bytes:
    shape = rng.random()
    if shape < 0.4:
        return rng.randbytes(rng.randint(1, 12))
    if shape < 0.7:
        return "".join(chr(rng.choice(_ASSIGNED)) for _ in range(rng.randint(1, 8))).encode()
    return bytes(rng.choice(b"aA1 \n'.\xc3\xa9\xe2\x80\xa8\xe6\x97\xf0\x9f\x98") for _ in range(rng.randint(1, 16)))


_ASSIGNED = [*range(0x20, 0x250), *range(0x370, 0x600), *range(0x900, 0xA00), *range(0x2000, 0x2070), *range(0x3000, 0x3100), *range(0x4E00, 0x4E80), *range(0x1F300, 0x1F650)]  # fmt: skip


def documents(seed: int, sentinels: Iterable[str] = (), *, longest: int = 64) -> Iterator[bytes]:
    """Documents without end, each of one to four fragments; one in twenty is several hundred bytes long.

    Args:
        seed: The same seed gives the same documents.
        sentinels: The contents of the tokenizer's own added tokens, spelled out as text.
        longest: Bytes of an ordinary document.
    """
    rng = random.Random(seed)
    sentinels = sorted(sentinels)
    while True:
        long = rng.random() < 0.05
        pieces = [fragment(rng.choice(KINDS), rng, sentinels) for _ in range(rng.randint(1, 4) + 16 * long)]
        if rng.random() < 0.5:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(SPACES).encode() * rng.randint(1, 3))
        data = b"".join(pieces)
        yield data if long else data[:longest]


def prefixes(document: bytes, rng: random.Random, *, share: float = 0.4) -> list[int]:
    """The lengths of the prefixes to try: every cut inside a character, the whole, and a share of the rest."""
    lengths = []
    for n in range(len(document) + 1):
        inside = n < len(document) and is_continuation(document[n])
        if inside or n == len(document) or rng.random() < share:
            lengths.append(n)
    return lengths
