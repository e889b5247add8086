"""Patterns that are nested or long beyond what any tokenizer has: refused by name, or read."""

from __future__ import annotations

import pytest

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.split.derivatives import MATCH, Threads
from bytelm.tokenizer.split.regex import compile_pattern


@pytest.mark.parametrize("opens", ["(", "(?:", "(?=", "(?!", "(?i)("])
def test_groups_nested_deep_are_refused(opens: str) -> None:
    """300 groups inside one another are refused by name, and 40 are read; so are 300 side by side."""
    with pytest.raises(UnsupportedTokenizerError, match="more than 64 groups inside one another"):
        compile_pattern(opens * 300 + "a" + ")" * 300)

    assert compile_pattern("(" * 40 + "a" + ")" * 40).atoms == ("a",)
    assert compile_pattern("(?:a)" * 300).atoms == ("a",)


def test_a_long_row_of_optional_characters_is_read() -> None:
    """Wherever it stops, any of the later characters may come next, in their order, or the match ends."""
    pattern = compile_pattern("a?" * 1500)

    threads = Threads(pattern, [frozenset({0})]).closure(pattern.start, -1)

    assert len(threads) == 1501
    assert threads[-1] == (MATCH, 0, True)
    assert [at for at, _, _ in threads[:-1]] == sorted((at for at, _, _ in threads[:-1]), reverse=True)


def test_alternatives_that_can_all_be_empty_are_gone_through_once() -> None:
    """A row of forty has 2**40 ways through it that read nothing; first it reads an a, and rather nothing than a b."""
    pattern = compile_pattern("(?:a?|b?)" * 40)

    threads = Threads(pattern, [frozenset({0})]).closure(pattern.start, -1)

    assert len(threads) == 81
    assert threads[40] == (MATCH, 0, True)
