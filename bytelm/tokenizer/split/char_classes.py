"""Which characters a pattern tells apart: the classes of code points, asked of the tokenizer's own engine.

Rules
    What an atom such as ``\\p{Lu}`` contains is never looked up in tables of ours: the engine is asked, once for each
    atom and all code points, so its Unicode version and its case folding are the ones used. Code points that belong to
    the same atoms of a pattern are one *class*; the patterns in use have some ten to thirty classes.

Cost
    About a tenth of a second for an atom on its first use on a machine, then a read of 136 kB from the cache folder.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt16

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.disk_cache import cache_folder, read_bytes, write_bytes
from bytelm.tokenizer.split.regex import Pattern
from bytelm.tokenizer.split.syntax import FOLDED, folds_of_several, plain_character

CODE_POINTS: Final = 0x110000
NO_CLASS: Final = 0xFFFF  # of code points that text cannot contain
WORD: Final = "\0word"  # the word characters of the library's own code, which has another engine than split patterns
_SPARSE_PLANES: Final = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16)  # unassigned or private throughout
_SMALL: Final = 1 << 20


def char_classes(
    pattern: Pattern, *, alias: dict[int, int], forbidden: Bool[np.ndarray, " points"]
) -> tuple[UInt16[np.ndarray, " points"], list[frozenset[int]]]:
    """The class of each code point, for a pattern.

    Args:
        pattern: A compiled pattern.
        alias: Code points that the engine sees as another (a space as ▁).
        forbidden: Code points that text cannot contain; they get `NO_CLASS`.

    Returns:
        The class of every code point, and for each class the atoms that contain it.
    """
    plain = {index: plain_character(atom) for index, atom in enumerate(pattern.atoms)}
    classes = [index for index, character in plain.items() if character is None]
    for index in classes:
        if pattern.atoms[index].startswith(FOLDED):
            _check_folds(pattern.atoms[index])
    signature: np.ndarray = np.zeros(CODE_POINTS, np.int64)
    for bit, index in enumerate(classes):
        signature |= atom_members(pattern.atoms[index]).astype(np.int64) << bit
    values, found = compact(signature)
    atoms_of = [frozenset(i for bit, i in enumerate(classes) if value >> bit & 1) for value in values.tolist()]
    class_of = found.astype(np.uint16)
    # A character that the pattern names is a class of its own.
    named: dict[str, set[int]] = {}
    for index, character in plain.items():
        if character is not None:
            named.setdefault(character, set()).add(index)
    for character, indices in named.items():
        atoms_of.append(atoms_of[class_of[ord(character)]] | indices)
        class_of[ord(character)] = len(atoms_of) - 1
    for point, seen_as in alias.items():
        class_of[point] = class_of[seen_as]
    class_of[forbidden] = NO_CLASS
    return class_of, atoms_of


def compact(keys: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " n"]]:
    """The distinct keys, ascending, and each key's place among them: ``np.unique`` without a sort for small keys."""
    if int(keys.max(initial=0)) >= _SMALL:
        values, places = np.unique(keys, return_inverse=True)
        return values, places
    values = np.flatnonzero(np.bincount(keys))
    place = np.zeros(_SMALL, np.int64)
    place[values] = np.arange(len(values))
    return values, place[keys]


@lru_cache(maxsize=512)
def atom_members(atom: str) -> Bool[np.ndarray, " points"]:
    """Which code points an atom contains, by asking the tokenizer's engine (and remembered on disk)."""
    members = np.zeros(CODE_POINTS, np.bool_)
    plain = plain_character(atom)
    if plain is not None:
        members[ord(plain)] = True
        return members
    path = _atom_file(atom)
    packed = read_bytes(path)
    if packed is not None and len(packed) == CODE_POINTS // 8:
        return np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.bool_)
    members = _probe(atom)
    write_bytes(path, np.packbits(members).tobytes())
    return members


@lru_cache(maxsize=512)
def _check_folds(atom: str) -> None:
    """Refuse an atom that matches several characters at once, which the engine has some do where letters are folded."""
    from tokenizers import Regex, pre_tokenizers

    for several in folds_of_several():
        kept_apart, left = (pre_tokenizers.Split(Regex(atom), way) for way in ("isolated", "removed"))
        if not left.pre_tokenize_str(several) and len(kept_apart.pre_tokenize_str(several)) == 1:
            raise UnsupportedTokenizerError(
                f"the split pattern's part {atom!r} also matches {several!r}, more than one character, which cannot be "
                "decided character by character"
            )


def _probe(atom: str) -> Bool[np.ndarray, " points"]:
    from tokenizers import Regex, pre_tokenizers

    points = [p for plane in range(17) if plane not in _SPARSE_PLANES for p in range(plane << 16, (plane + 1) << 16)]
    points += [(plane << 16) + p for plane in _SPARSE_PLANES for p in (0, 1, 0x8000, 0xFFFD, 0xFFFE, 0xFFFF)]
    points = [p for p in points if not 0xD800 <= p < 0xE000]
    step: pre_tokenizers.PreTokenizer
    if atom == "\0digits":
        step = pre_tokenizers.Digits(individual_digits=True)
    elif atom == "\0punctuation":
        step = pre_tokenizers.Punctuation("isolated")
    elif atom == WORD:
        step = pre_tokenizers.Whitespace()
    else:
        try:
            step = pre_tokenizers.Split(Regex(atom), "isolated")
        except Exception as error:
            raise UnsupportedTokenizerError(
                f"the split pattern's part {atom!r} is not accepted by the tokenizer's own engine: {error}"
            ) from error
    # A separator that is not in the class keeps neighbours apart: the class and its complement cut at the same places.
    text = "".join(map(chr, points))
    inside = np.zeros(len(points), np.bool_)
    if atom == WORD:
        for piece, (lo, hi) in step.pre_tokenize_str(text):  # runs of word characters, and of others
            inside[lo:hi] = len(step.pre_tokenize_str("a" + piece[0])) == 1
    elif atom.startswith("\0"):
        runs = [span for piece, span in step.pre_tokenize_str(text) if len(piece) == 1]
        singles = {span[0] for span in runs}
        # A run of length one may be a single non-member between members: ask for each on its own.
        for at in singles:
            pieces = step.pre_tokenize_str("a" + chr(points[at]) + "a")
            inside[at] = len(pieces) > 1
    else:
        matches = pre_tokenizers.Split(Regex(f"(?:{atom})+"), "removed")
        inside[:] = True
        for _, (lo, hi) in matches.pre_tokenize_str(text):
            inside[lo:hi] = False
    members = np.zeros(CODE_POINTS, np.bool_)
    members[np.array(points)] = inside
    for plane in _SPARSE_PLANES:
        base = plane << 16
        members[base : base + 0xFFFE] = members[base]
    return members


def _atom_file(atom: str) -> Path | None:
    import tokenizers

    key = hashlib.sha256(f"{tokenizers.__version__}\0{atom}".encode()).hexdigest()[:32]
    folder = cache_folder("char-classes")
    return None if folder is None else folder / f"{key}.bin"
