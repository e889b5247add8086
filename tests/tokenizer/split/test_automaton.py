"""Split patterns as automata: the hypotheses that survive are the cuts that the real pre-tokenizer makes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.split.automaton import Level
from bytelm.tokenizer.split.char_classes import CODE_POINTS
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.regex import compile_pattern

PATTERNS = {
    "white space before a word": r"\s+(?!\S)|\s+|\S+",
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "possessive": r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}]+(?i:'s|'t)?|[^\r\n\p{L}\p{N}]?[\p{Lu}]+[\p{Ll}]*|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "threes from the right": r"(?=(\d{3})+(?!\d))",
    "threes from the right, consuming": r"\d{1,3}(?=(?:\d{3})*\b)",
    "far ahead": r"(?=.{0,20}b)a",
    "two ways ahead": r"(?=.{0,2}b)a|(?=.{0,3}c)a{2}",
    "more to remember than can be listed": r"(?=(?:a|b)*a(?:a|b){15}c)a|(?=c{3})c",
    "after a word": r"(?<=\w)\s|\w+\b|\B-",
    "line ends": r"^a|b$|\n",
    "text ends": r"\Aa|b\z|\n\Z",
    "after a text's beginning": r"(?<=\A)a|(?<!\A)b",
    "at a line's beginning": r"(?<=^)a|(?<!^)b|\n^",
    "repeats the wrong way round": r"a{3,1}b|a{2,1}a|b{3,0}?a",
    "lazy": r"a.*?b|a{2,3}?|b{2}?a",
    "gaps only": r"\d+",
    "an empty turn ends a loop": r"(|a)+",
    "an empty turn ends a loop that goes on": r"(|a)*b",
    "an empty turn comes last": r"(a|)+?b|(b*|a)*",
    "empty turns inside each other": r"(?:(?:|a)+|b)+a|(?:b|a*?)*",
    "empty turns that count": r"(?:|a){2,}b|(?:(a|)(b|)){2,}",
    "a turn that ends in a look-ahead": r"((a)*(?=b))*",
    "a turn that ends in a look-ahead, and may not": r"(?:a*(?=b)|b)*a|(?:b*?(?=a)|(a)+)+?b",
    "a loop that is left and begun anew in one turn of another": r"((ba)*?|b)+a",
}
ALPHABETS = {
    "threes from the right": "1a",
    "threes from the right, consuming": "1a",
    "far ahead": "ab",
    "more to remember than can be listed": "ac",
    "two ways ahead": "abc",
    "o200k": "aA1 'sS\n",
    "line ends": "ab\n",
    "lazy": "ab",
    "text ends": "ab\n",
    "after a text's beginning": "ab\n",
    "at a line's beginning": "ab\n",
    "repeats the wrong way round": "ab",
    "an empty turn ends a loop": "ab",
    "an empty turn ends a loop that goes on": "ab",
    "an empty turn comes last": "ab",
    "empty turns inside each other": "ab",
    "empty turns that count": "ab",
    "a turn that ends in a look-ahead": "ab",
    "a turn that ends in a look-ahead, and may not": "ab",
    "a loop that is left and begun anew in one turn of another": "ab",
}
BEHAVIORS = {
    "isolated": "Isolated",
    "contiguous": "Contiguous",
    "merged_with_previous": "MergedWithPrevious",
    "merged_with_next": "MergedWithNext",
}


def level(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> Level:
    forbidden = np.zeros(CODE_POINTS, np.bool_)
    forbidden[0xD800:0xE000] = True
    return Level(compile_pattern(pattern), behavior=behavior, invert=invert, alias={}, forbidden=forbidden)


def accepted(automaton: Level, text: str) -> list[tuple[int, ...]]:
    """Every set of cuts that the automaton takes to the end of a text."""
    places: list[tuple[int, tuple[int, ...]]] = [(automaton.start, ())]
    for at, char in enumerate(text):
        if at:
            cut = [(automaton.cut(state), (*cuts, at)) for state, cuts in places]
            places += [(state, cuts) for state, cuts in cut if state != DEAD]
        for byte in char.encode():
            walked = [(automaton.next(state, byte), cuts) for state, cuts in places]
            places = [(state, cuts) for state, cuts in walked if state != DEAD]
    return [cuts for state, cuts in places if automaton.ends(state)]


def real_cuts(step: pre_tokenizers.PreTokenizer, text: str) -> tuple[int, ...]:
    return tuple(lo for _, (lo, _) in step.pre_tokenize_str(text) if lo)


@pytest.mark.parametrize("name", PATTERNS)
def test_exactly_the_real_cuts_are_accepted(name: str) -> None:
    """On every short text, one set of cuts survives to the end: the one the tokenizer's engine makes."""
    automaton = level(PATTERNS[name])
    step = pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated")
    alphabet = ALPHABETS.get(name, "a1 'r\n-")

    for size in range(1, 8 if len(alphabet) < 4 else 6 if len(alphabet) < 6 else 5):
        for chars in product(alphabet, repeat=size):
            text = "".join(chars)
            assert accepted(automaton, text) == [real_cuts(step, text)], text


def test_an_empty_look_ahead_in_a_loop_is_read() -> None:
    """Accents are a match, and letters with nothing between them are cut by the empty one."""
    pattern, text = r"((\x{301})*(?=))*", "éé\u0301"
    cuts = (1, 2)

    assert real_cuts(pre_tokenizers.Split(Regex(pattern), "isolated"), text) == cuts
    assert accepted(level(pattern), text) == [cuts]


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_every_behavior_cuts_where_the_library_does(behavior: str, invert: bool) -> None:
    """Merging matches with a neighbour, or with each other, moves the cuts as in the library."""
    automaton = level(r"-+b?|1", BEHAVIORS[behavior], invert=invert)
    step = pre_tokenizers.Split(Regex(r"-+b?|1"), behavior, invert=invert)

    for size in range(1, 7):
        for chars in product("-1ab", repeat=size):
            text = "".join(chars)
            assert accepted(automaton, text) == [real_cuts(step, text)], text


def test_characters_beyond_ascii_are_seen_as_the_engine_sees_them() -> None:
    """Folded letters (ſ for s, K for k), other digits and white space, and characters cut inside."""
    automaton = level(PATTERNS["llama3"])
    step = pre_tokenizers.Split(Regex(PATTERNS["llama3"]), "isolated")

    for chars in product("xſ'\u2019\u0663\u0085\u2028\u3000漢\u0e31\U0001f469\u0301", repeat=3):
        text = "".join(chars)
        assert accepted(automaton, text) == [real_cuts(step, text)], ascii(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (PATTERNS["threes from the right, consuming"], "1"),
        (PATTERNS["threes from the right"], "1"),
        (PATTERNS["llama3"].replace(r"\p{N}{1,3}", PATTERNS["threes from the right, consuming"]), "1"),
        (PATTERNS["far ahead"], "a"),
        (PATTERNS["far ahead"], "ac"),
    ],
)
def test_a_pattern_that_looks_ahead_from_every_place_has_few_states(pattern: str, text: str) -> None:
    """However long a run, and wherever it is cut, there are only so many things that the text to come can decide."""
    automaton = level(pattern)
    front, seen = {automaton.start}, {automaton.start}
    for at in range(60):
        cut = {automaton.cut(state) for state in front}
        front = {automaton.next(state, ord(text[at % len(text)])) for state in front | cut} - {DEAD}
        seen |= front

        assert len(seen) < 150, at


def test_a_pattern_of_too_many_states_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the states would fill the memory, the error names the pattern and the limit."""
    monkeypatch.setattr("bytelm.tokenizer.split.automaton._MOST_STATES", 300)
    automaton = level(r"(?=.{0,200}b)a")
    front = {automaton.start}

    with pytest.raises(UnsupportedTokenizerError, match=r"\{0,200\}b\)a' needs more than 300 states"):
        for _ in range(60):
            front = {
                automaton.next(s, b"ac"[i]) for state in front for s in (state, automaton.cut(state)) for i in (0, 1)
            }


def test_a_character_that_cannot_come_is_dead_from_its_first_byte() -> None:
    """Between a gap and a 1 only a match can cut, and it needs two more: no character beyond ASCII can begin there."""
    automaton = level(r"1{3}")
    open_ = automaton.next(automaton.start, ord("1"))
    shut = automaton.next(automaton.cut(automaton.next(automaton.start, ord("a"))), ord("1"))

    assert automaton.next(open_, "é".encode()[0]) != DEAD
    assert automaton.next(shut, ord("1")) != DEAD
    assert automaton.next(shut, "é".encode()[0]) == DEAD


def test_bytes_that_are_no_character_are_dead() -> None:
    """A stray continuation byte, an overlong form and a surrogate lead nowhere."""
    automaton = level(r"\w+")

    for data in (b"\x80", b"\xc0\x80", b"\xe0\x80", b"\xed\xa0", b"\xf4\x90", b"\xff", b"\xc3a"):
        state = automaton.start
        for byte in data:
            state = automaton.next(state, byte)
        assert state == DEAD, data


FOLDS = [r"(?i:ß)", r"(?i:ss)", r"(?i)a|s(?:s)", r"(?i:x\x73ſ)", r"(?i:[ß])", r"(?i:ﬁ)", r"(?i:fi)", r"(?i:İ)"]


@pytest.mark.parametrize("pattern", FOLDS)
def test_letters_that_fold_to_several_are_refused(pattern: str) -> None:
    """Where the engine lets one character match several letters, or several one, the part is named."""
    one, several = ("ﬁ", "fi") if "f" in pattern or "ﬁ" in pattern else ("İ", "i̇") if "İ" in pattern else ("ß", "ss")
    step = pre_tokenizers.Split(Regex(pattern), "isolated")
    text = "x" + several if "x" in pattern else several
    cuts = [real_cuts(step, text), real_cuts(step, text.replace(several, one))]
    assert cuts == [(), ()]  # one match

    with pytest.raises(UnsupportedTokenizerError, match=r"split pattern.*(single|more than one) character"):
        level(pattern)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", ("'s", "'ß", "'ſ", "'LL", "'ẞs")),
        (r"(?i:[a-z])", ("ss", "ß", "ﬁ", "ſK")),
        (r"(?i:s+|[^s])", ("ss", "ßs", "ẞ", "sſ")),
        (r"ss|ß", ("ss", "ß", "SS", "ẞ")),
    ],
)
def test_letters_that_fold_to_one_are_read(pattern: str, texts: tuple[str, ...]) -> None:
    """Classes and repeats under folding match one character a time, and text that is not folded has no folds."""
    automaton, step = level(pattern), pre_tokenizers.Split(Regex(pattern), "isolated")

    for text in texts:
        assert accepted(automaton, text) == [real_cuts(step, text)], text


@pytest.mark.parametrize("pattern", [r"(?>a+)b", r"(ab)++", r"(ab){2,1}", r"a\Kb", r"(?<=ab)c", r"(a", r"\1"])
def test_what_cannot_be_decided_is_refused_by_name(pattern: str) -> None:
    """A construct outside the understood part of the syntax is an error that quotes the pattern."""
    with pytest.raises(UnsupportedTokenizerError, match=r"split pattern"):
        compile_pattern(pattern)
