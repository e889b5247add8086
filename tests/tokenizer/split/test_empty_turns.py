"""Repeats of parts that can match nothing, by count: read where the engine has one way, and refused where it has two."""

from __future__ import annotations

from itertools import product

import pytest
from tokenizers import Regex, pre_tokenizers

from bytelm.errors import UnsupportedTokenizerError
from tests.tokenizer.split.test_automaton import accepted, level, real_cuts


def test_the_engine_has_two_ways() -> None:
    r"""On "aa" a small repeat matches "a": its second turn is empty. A large one matches "" after its first turn.

    In both, the second turn stands behind "a", where no word begins or ends.
    """
    small, large = (pre_tokenizers.Split(Regex(p), "isolated") for p in (r"(?:\ba?){2}", r"(?:\b(?:a|cc|dd)?){2}"))

    assert real_cuts(small, "aa") == (1,)
    assert real_cuts(large, "aa") == ()


@pytest.mark.parametrize(
    "repeated",
    [
        r"(?:\ba?){2}",
        r"(?:\b(?:a|cc|dd)?){2}",
        r"(a?(?=b)){2,}",
        r"(a?(?=b)){2,3}?",
        r"(?:a*?b?){1,2}",
        r"(?:ab||a){2}",
        r"(a|b??){,3}",
        r"(?:|a){2,}?",
        r"(?:a*+){2}",
        r"(?:(?:ab??)?b??){2,3}",
        r"((|a)+){2}",
        r"(?:(?:a??){2,}|b){,2}",
        r"(|a|b){0,2}",
        r"(|ab|b?){2}",
    ],
)
def test_where_empty_turns_may_count_or_not_the_repeat_is_refused(repeated: str) -> None:
    """By name, with its counts."""
    with pytest.raises(UnsupportedTokenizerError, match=r"can match nothing, repeated \d to .* times"):
        level(f"{repeated}c")


@pytest.mark.parametrize(
    "repeated",
    [
        r"(?:a?){2}",
        r"(?:(?:a|cc|dd)?b?){2,3}",
        r"(?:(?:a|cc|dd)?b*){1,3}?",
        r"(?:(ab|a|b+)*){2,}?",
        r"(?:\ba?){1,3}",
        r"(a?(?=b)){,3}",
        r"(?:ab||a){2,}",
        r"(?:a??b??){3,}",
        r"(?:ab||a){,1}",
        r"(?:b|(?:\ba?)*){2,4}",
        r"(?:ab?){2,3}",
        r"(?:a+?|b{1,2}?){2,3}?",
        r"(?:ab(?:a||c){0}c?){2}",
        r"(?:(?:(?=a)a|b){1,2}?){2}",
    ],
)
@pytest.mark.parametrize("behind", ["", "b", "(?=b)", "(?<=a)"])
def test_where_they_agree_the_repeat_is_read(repeated: str, behind: str) -> None:
    """As the engine reads it, on every short text."""
    automaton, step = level(repeated + behind), pre_tokenizers.Split(Regex(repeated + behind), "isolated")

    for text in ("".join(chars) for size in range(1, 7) for chars in product("ab", repeat=size)):
        assert accepted(automaton, text) == [real_cuts(step, text)], text
