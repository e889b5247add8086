"""A search for a way: against reachability by definition, and what it asks for."""

from __future__ import annotations

from random import Random

import pytest

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.viability import search
from bytelm.tokenizer.viability.search import has_way

Graph = dict[int, list[int]]


def graph(random: Random, size: int = 12) -> Graph:
    return {place: random.sample(range(size), random.randint(0, 2)) for place in range(size)}


def reached(onward: Graph, start: int) -> set[int]:
    found, new = {start}, {start}
    while new:
        new = {after for place in new for after in onward[place]} - found
        found |= new
    return found


@pytest.mark.parametrize("seed", range(50))
def test_there_is_a_way_where_a_place_that_arrives_can_be_reached(seed: int) -> None:
    """Searches that share what they have found say of each place what its reachable places say."""
    random = Random(seed)
    onward, arriving = graph(random), set(random.sample(range(12), 2))
    known: dict[int, bool] = {}
    for start in random.sample(range(12), 12):
        found = has_way(start, known, arrives=arriving.__contains__, onward=onward.__getitem__)

        assert found == bool(reached(onward, start) & arriving)


def test_no_place_is_searched_from_twice() -> None:
    """What one search has found holds for all places that it saw: another search does not ask for them again."""
    asked: list[int] = []

    def onward(place: int) -> list[int]:
        asked.append(place)
        return [place + 1] if place < 9 else []

    known: dict[int, bool] = {}
    assert not has_way(0, known, arrives=lambda place: place > 9, onward=onward)
    assert not any(has_way(place, known, arrives=lambda place: place > 9, onward=onward) for place in range(1, 10))
    assert asked == list(range(10))

    assert has_way(20, known, arrives=lambda place: place == 29, onward=lambda place: [place + 1])
    assert all(known[place] for place in range(20, 30))


def test_a_search_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split patterns that look too far ahead together are an error, not a machine that runs out of memory."""
    monkeypatch.setattr(search, "LIMIT", 1000)

    with pytest.raises(UnsupportedTokenizerError, match="more than 1000 places"):
        has_way(0, {}, arrives=lambda place: False, onward=lambda place: [place + 1])
