"""The classes of characters that a tokenizer can tell apart, read off the tokenizer and not listed by hand.

Rules
    The pattern of every split is cut into atoms (bracket classes, \\p{..}, \\s, single characters), the real engine
    says which code points each atom matches, and code points that no atom, no general category, no UTF-8 length, no
    normalizer and no vocabulary can tell apart are one class. Every class sends its commonest and its rarest member,
    the members that trip programs (U+017F, U+212A, U+0085, ...), and a random one: the split sees them alike, the
    merges do not.
"""

from __future__ import annotations

import functools
import random
import string
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers

from bytelm.symbols import completions, is_continuation, missing
from bytelm.testing.tokenizers.definition import Definition, byte_alphabet, parts_of

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Folded by case-insensitive matching, white space that is no space, marks, digits of other scripts, characters that
# join, and the edges of the code space.
TRIPPING = (
    "\t\n\v\f\r\x1c \x00\x7f\u0085\u00a0\u1680\u180e\u2028\u2029\u200b\u3000\ufeff\u00ad\u200c\u200d\u2060\ufe0f"
    "ſ\u212aİıßfisSkKaA'’`\"_-./<>|[]{}()#@$^+0179"
    "\u0301\u0300\u0338\u093e\u09be\u0e33\u1161\u11a8\uac00\u0344\u212b\u0958²½Ⅷ٣१৩৬๔７𝟘ªʰǅ"
    "éüñÉжЖωאעابتकদেกำเ一中あア한㐀々ー｜▁～😀🏽🇩👨🧑\ue000\uf8ff\ufffd\uffff\U0001f9d1\U000e0001\U0010ffff𐐀𐌰𠀀ﬆﬀ"
)
# Every code point up to the last that is assigned, and beyond it one in 64: one for every cut inside a character.
POINTS = np.array([*range(0xD800), *range(0xE000, 0x32400), *range(0x32400, 0x110000, 0x40), 0x10FFFF], np.int32)
ALL_TEXT = "".join(map(chr, POINTS.tolist()))
_POINT_OF = {c: at for at, c in enumerate(ALL_TEXT[:0x180])}


def atoms(pattern: str) -> tuple[set[str], set[str]]:
    """The parts of a regular expression that match one character: as expressions, and as plain characters.

    >>> found, literals = atoms(r"'(?:s|t)| ?[^\\s\\p{L}]+|\\p{N}{1,3}")
    >>> sorted(found), sorted(literals)
    (['[^\\\\s\\\\p{L}]', '\\\\p{L}', '\\\\p{N}', '\\\\s'], [' ', "'", 's', 't'])
    """
    found: set[str] = set()
    literals: set[str] = set()
    i = 0
    escapes = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}

    def escape(i: int) -> int:
        kind = pattern[i + 1]
        if kind in "pP" and pattern[i + 2] == "{":
            end = pattern.index("}", i) + 1
            found.add(pattern[i:end])
            return end
        if kind in "sSdDwWhHX":
            found.add(pattern[i : i + 2])
        elif kind in "xu":
            end = pattern.index("}", i) + 1 if pattern[i + 2] == "{" else i + (4 if kind == "x" else 6)
            literals.add(chr(int(pattern[i + 2 : end].strip("{}"), 16)))
            return end
        elif kind not in "AzZbBGKR":
            literals.add(escapes.get(kind, kind))
        else:
            literals.update("\r\n" if kind == "R" else "")
        return i + 2

    def bracket(i: int) -> int:
        start, i = i, i + 1
        if pattern[i] == "^":
            i += 1
        first = True
        while pattern[i] != "]" or first:
            first = False
            if pattern[i] == "\\":
                i = escape(i)
            elif pattern.startswith("[:", i):
                i = pattern.index(":]", i) + 2
            elif pattern[i] == "[":
                i = bracket(i)
            else:
                if pattern.startswith("&&", i):
                    i += 2
                    continue
                literals.add(pattern[i])
                i += 1
        found.add(pattern[start : i + 1])
        return i + 1

    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            i = escape(i)
        elif c == "[":
            i = bracket(i)
        elif c == "(" and pattern.startswith("(?", i):
            i += 2
            while pattern[i] not in ":=!>)":
                i += 1
            i += 1
        elif c == "{":
            i = pattern.index("}", i) + 1
        else:
            if c == ".":
                found.add(c)
            elif c not in "()|?*+^$":
                literals.add(c)
            i += 1
    return found, literals


@functools.cache
def matched(atom: str) -> bytes:
    """One byte for every code point of `POINTS`: 1 where the engine says that the atom matches it."""
    mask = np.ones(len(POINTS), np.uint8)
    for _, (start, end) in pre_tokenizers.Split(Regex(f"(?:{atom})+"), "removed").pre_tokenize_str(ALL_TEXT):
        mask[start:end] = 0
    return mask.tobytes()


def byte_signs(steps: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """What steps after ByteLevel can tell apart of each of the four bytes of a character."""
    if not steps:
        return []
    told: dict[int, tuple[bool, ...]] = {}
    for letter, byte in byte_alphabet().items():
        signs = [unicodedata.category(letter)[0] in "NP" or letter in string.punctuation, letter.isalnum()]
        signs.append(unicodedata.category(letter)[0] == "N")
        for step in steps:
            pattern = step.get("pattern", {})
            inner, plain = atoms(pattern.get("Regex", ""))
            signs += [letter == c for c in sorted(plain | set(pattern.get("String", "")))]
            signs += [bool(matched(atom)[_POINT_OF[letter]]) for atom in sorted(inner)]
        told[byte] = tuple(signs)
    kinds = sorted(set(told.values()))
    kind_of = np.array([kinds.index(told[byte]) + 1 for byte in range(256)], np.uint8)
    spelled = np.array([list(c.encode().ljust(4, b"\xff")) for c in ALL_TEXT], np.uint8)
    return [kind_of[spelled[:, at]] for at in range(4)]


@functools.cache
def folded(c: str) -> str:
    """The characters that the engine takes for this one where letter case is ignored.

    >>> sorted(folded("s"))
    ['S', 's', 'ſ']
    """
    cased = "".join(dict.fromkeys((*_cased(), c)))
    mask = np.ones(len(cased), bool)
    for _, (start, end) in pre_tokenizers.Split(Regex(f"(?i:\\x{{{ord(c):x}}})"), "removed").pre_tokenize_str(cased):
        mask[start:end] = False
    return "".join(cased[i] for i in np.flatnonzero(mask))


@functools.cache
def _cased() -> str:
    return "".join(c for c in ALL_TEXT if c.lower() != c or c.upper() != c or c.casefold() != c)


@functools.cache
def _categories() -> list[str]:
    return [unicodedata.category(c) for c in ALL_TEXT]


@functools.cache
def _composing() -> frozenset[str]:
    """Characters that change with what stands before them when text is composed."""
    second = {unicodedata.normalize("NFD", c)[-1] for c in ALL_TEXT if len(unicodedata.normalize("NFD", c)) > 1}
    return frozenset(second | {c for c in ALL_TEXT if unicodedata.combining(c)})


@dataclass(slots=True)
class Classes:
    """A partition of the code points.

    Attributes:
        label: For every code point of `POINTS`, the number of its class.
        core: One representative of every class.
        reps: All representatives of all classes.
    """

    label: np.ndarray
    core: list[str]
    reps: list[str]
    _members: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    @staticmethod
    def of(definition: Definition, rng: random.Random) -> Classes:
        """The classes that this tokenizer can tell apart."""
        every = parts_of(definition.config["pre_tokenizer"])
        until = next((i for i, step in enumerate(every) if step["type"] == "ByteLevel"), len(every))
        steps, after_bytes = every[: until + 1], every[until + 1 :]
        patterns = [p for step in steps if step["type"] == "Split" and (p := step["pattern"].get("Regex"))]
        literals = {c for step in steps if step["type"] == "Split" for c in step["pattern"].get("String", "")}
        patterns += [GPT2_PATTERN for step in steps if step["type"] == "ByteLevel" and step["use_regex"]]
        found: set[str] = set()
        for pattern in patterns:
            inner, plain = atoms(pattern)
            literals |= plain
            found |= inner
            if "(?i" in pattern:
                found |= {f"(?i:{atom})" for atom in inner}
                literals |= {other for c in plain for other in folded(c)}
        signs = [np.frombuffer(matched(atom), np.uint8) for atom in sorted(found)]
        signs += [np.equal(POINTS, ord(c)).astype(np.uint8) for c in sorted(literals)]
        signs += byte_signs(after_bytes)
        signs.append(np.searchsorted([0x80, 0x800, 0x10000], POINTS, side="right").astype(np.uint8))
        names = sorted(set(_categories()))
        signs.append(np.array([names.index(name) for name in _categories()], np.uint8))
        normalizers = {step["type"] for step in parts_of(definition.config["normalizer"])}
        if normalizers & {"NFC", "NFKC", "NFD", "NFKD"}:
            signs.append(np.array([not unicodedata.is_normalized("NFC", c) for c in ALL_TEXT], np.uint8))
            signs.append(np.array([c in _composing() for c in ALL_TEXT], np.uint8))
        if not definition.byte_level:
            vocabulary = definition.config["model"]["vocab"]
            signs.append(np.array([c in vocabulary for c in ALL_TEXT], np.uint8))
        joined = np.ascontiguousarray(np.stack(signs, axis=1))
        _, first, label = np.unique(
            joined.view([("", joined.dtype)] * joined.shape[1]).ravel(), return_index=True, return_inverse=True
        )
        unassigned = set(np.nonzero(np.array([name in ("Cn", "Co") for name in _categories()]))[0].tolist())
        order = np.argsort(label, kind="stable")
        starts = np.searchsorted(label[order], np.arange(len(first)))
        core = [ALL_TEXT[i] for i in first if i not in unassigned] + ["\U000e0080", "\ue000"]
        reps = dict.fromkeys(core)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            reps |= dict.fromkeys((ALL_TEXT[order[end - 1]], ALL_TEXT[order[rng.randrange(start, end)]]))
        reps |= dict.fromkeys(TRIPPING) | dict.fromkeys(sorted(literals))
        reps.pop("▁" if definition.spaced else "", None)
        core += [c for c in " \n\ta1'.Aé" if c not in core]
        spelled = {b[0] for b in definition.token_bytes.values() if len(b) == 1}
        if len(spelled) < 192 and definition.byte_level:
            # A toy that lacks bytes: of the characters that it can spell, every one while they are few.
            whole = [c for c in ALL_TEXT if spelled.issuperset(c.encode())]
            core, reps = whole[:64], dict.fromkeys(whole[:64] + [c for c in reps if c in set(whole)])
        return Classes(np.asarray(label), core, list(reps))

    def completions(self, cut: bytes, rng: random.Random, *, each: int = 4) -> list[str]:
        """Characters whose UTF-8 begins with these bytes: the first, the last and some at random, of every class."""
        low, high = code_points(cut)
        if low >= high:
            return []
        labels = self.label[low:high]
        chosen: dict[str, None] = {}
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) > 0])
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            chosen[ALL_TEXT[low + order[start]]] = None
            chosen[ALL_TEXT[low + order[end - 1]]] = None
            chosen |= dict.fromkeys(ALL_TEXT[low + order[rng.randrange(start, end)]] for _ in range(each))
        chosen |= dict.fromkeys(c for c in self.reps if c.encode().startswith(cut))
        return list(chosen)


def code_range(cut: bytes) -> range:
    """The code points whose UTF-8 begins with these bytes, which are no whole character; surrogates are none.

    >>> code_range(b"\\xc3"), code_range(b"\\xed"), len(code_range(b"\\xc3\\xa9"))
    (range(192, 256), range(53248, 55296), 0)
    """
    if not cut or cut[0] < 0xC2 or not all(map(is_continuation, cut[1:])) or missing(cut) <= 0:
        return range(0)
    points = completions(cut)
    if points.start < 0xD800:
        return range(points.start, min(points.stop, 0xD800))
    return points if points.start >= 0xE000 else range(0)


def code_points(cut: bytes) -> tuple[int, int]:
    """The range, in `POINTS`, of the characters whose UTF-8 begins with these bytes.

    >>> [hex(POINTS[i]) for i in code_points(b"\\xc3")]
    ['0xc0', '0x100']
    """
    points = code_range(cut)
    return (bisect_left(POINTS, points.start), bisect_left(POINTS, points.stop)) if points else (0, 0)


def split_cut(text: bytes) -> tuple[str, bytes] | None:
    """The whole characters of a byte prefix and the bytes of a character that it stops inside; None if no UTF-8 text.

    >>> split_cut("aé".encode()[:2])
    ('a', b'\\xc3')
    """
    for size in range(min(4, len(text) + 1)):
        head, cut = text[: len(text) - size], text[len(text) - size :]
        try:
            decoded = head.decode()
        except UnicodeDecodeError:
            continue
        return (decoded, cut) if not cut or code_range(cut) else None
    return None
