"""What a class contains is what the tokenizer's engine says it contains."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from bytelm.tokenizer.split.char_classes import CODE_POINTS, NO_CLASS, WORD, atom_members, char_classes, compact
from bytelm.tokenizer.split.regex import compile_pattern
from bytelm.tokenizer.split.syntax import folds_of_several

SAMPLE = [
    *range(0x300),
    0x1C5,
    0x2028,
    0x212A,
    0x17F,
    0x3000,
    0x4E00,
    0x9FFF,
    0xAC00,
    0x1F469,
    0x2A6DF,
    0xE0100,
    0x10FFFF,
]


@pytest.mark.parametrize(
    "atom", [r"\s", r"\p{L}", r"[^\r\n\p{L}\p{N}]", r"(?i:s)", r"\w", ".", r"[一-龥぀-ゟ]", r"\p{Lt}"]
)
def test_members_are_what_the_engine_matches(atom: str) -> None:
    """Each sampled character, asked alone, is inside if and only if the engine matches it."""
    step = pre_tokenizers.Split(Regex(atom), "removed")

    for point in SAMPLE:
        expected = step.pre_tokenize_str(chr(point)) == []
        assert atom_members(atom)[point] == expected, hex(point)


@pytest.mark.parametrize(
    ("classes", "step"), [("\0digits", pre_tokenizers.Digits()), ("\0punctuation", pre_tokenizers.Punctuation())]
)
def test_the_librarys_own_classes_are_asked_of_it(classes: str, step: pre_tokenizers.PreTokenizer) -> None:
    """Digits and punctuation are those of the library's pre-tokenizers."""
    for point in SAMPLE:
        expected = len(step.pre_tokenize_str(f"a{chr(point)}a")) == 3
        assert atom_members(classes)[point] == expected, hex(point)


def test_word_characters_are_those_that_added_tokens_look_for() -> None:
    """A single word is none beside a word character; the engine of split patterns counts some others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("ab", single_word=True)])

    for point in (*SAMPLE, 0x200C, 0x200D, 0x10D40, 0x1E4F0):
        expected = tokenizer.encode(f"ab{chr(point)}").ids == []
        assert atom_members(WORD)[point] == expected, hex(point)


def test_classes_tell_apart_what_the_pattern_does_and_nothing_else() -> None:
    """Two code points share a class exactly if they belong to the same atoms; forbidden ones have none."""
    pattern = compile_pattern(r"'s| ?\p{L}+|\s+")
    forbidden = np.zeros(CODE_POINTS, np.bool_)
    forbidden[0xD800:0xE000] = True
    class_of, atoms_of = char_classes(pattern, alias={}, forbidden=forbidden)

    for point in SAMPLE:
        inside = {i for i, atom in enumerate(pattern.atoms) if atom_members(atom)[point]}
        assert atoms_of[class_of[point]] == inside, hex(point)
    assert class_of[0xD800] == NO_CLASS
    assert class_of[ord("b")] == class_of[ord("漢")] != class_of[ord("s")]


def test_compact_is_unique_with_places() -> None:
    """Small and large keys alike: the distinct keys, and where each is among them."""
    for keys in (np.array([3, 1, 3, 7]), np.array([3, 1, 3, 1 << 30])):
        values, places = compact(keys)
        assert (values[places] == keys).all()
        assert sorted(set(keys.tolist())) == values.tolist()


def test_no_character_that_folds_to_several_is_missed() -> None:
    """What single characters fold to is that of all characters."""
    folded = (chr(point).casefold() for point in range(CODE_POINTS))

    assert {*folds_of_several()} == {text for text in folded if len(text) > 1}
