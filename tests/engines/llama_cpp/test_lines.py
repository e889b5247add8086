from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm.engines.llama_cpp.lines import Lines, Plan
from bytelm.engines.row_memo import common

Ids = tuple[int, ...]


class Cells:
    """llama.cpp's cache by its rules: what each id owns, and what it refuses."""

    def __init__(self, count: int) -> None:
        self.owned: list[list[int]] = [[] for _ in range(count)]
        self.lost = [0] * count  # positions before this one are gone: a window has passed them

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.owned[target], "copied onto what is there"
        assert len(self.owned[source]) >= length
        self.owned[target] = self.owned[source][:length]
        self.lost[target] = self.lost[source]

    def drop(self, line: int, start: int) -> None:
        del self.owned[line][start:]
        if not start:
            self.lost[line] = 0

    def first(self, line: int) -> int:
        return self.lost[line]

    def feed(self, plan: Plan) -> dict[Ids, Ids]:
        """Feed a plan as llama_decode does; by each sequence wanted, what its row is the row of."""
        groups: list[set[int]] = [set(range(len(self.owned))) for _ in self.owned]
        starts = [list(some) for some in self.owned]
        rows = {}
        for i, (token, position, ids) in enumerate(zip(plan.tokens, plan.positions, plan.ids, strict=True)):
            assert len({(len(starts[line]), self.lost[line]) for line in ids}) == 1, "coupled, but diverged"
            for line in ids:
                groups[line] &= set(ids)
                assert groups[line], "incompatible sequence sets"
                assert position == len(self.owned[line]), "positions are not consecutive"
                self.owned[line].append(token)
            contexts = {tuple(self.owned[line]) for line in ids}
            assert len(contexts) == 1, "ids that share a token have the same past"
            if i in plan.wanted:
                rows[plan.wanted[i]] = contexts.pop()
        return rows


def answered(lines: Lines, cells: Cells, sequences: Sequence[Ids]) -> tuple[int, int]:
    """Have all rows, found to be the right ones; how many rounds and tokens that took."""
    waiting, rounds, fed = list(sequences), 0, 0
    found: dict[Ids, Ids] = {}
    while waiting:
        plan = lines.plan(waiting)
        found |= cells.feed(plan)
        lines.fed(plan)
        assert [tuple(some) for some in cells.owned] == lines.held
        assert len(plan.left) < len(waiting)
        waiting, rounds, fed = plan.left, rounds + 1, fed + len(plan)
    assert found == {sequence: sequence for sequence in sequences}
    return rounds, fed


tokens = st.integers(0, 2)
calls = st.lists(st.lists(st.lists(tokens, min_size=1, max_size=8).map(tuple), min_size=1, max_size=6, unique=True))


@given(calls=calls, count=st.integers(1, 9))
def test_every_row_is_of_its_own_sequence(calls: list[list[Ids]], count: int) -> None:
    """Whatever is asked, with however few ids, each token is fed to those alone whose past it continues."""
    cells = Cells(count)
    lines = Lines(count, cells)

    for call in calls:
        answered(lines, cells, call)


@given(call=st.lists(st.lists(tokens, min_size=1, max_size=8).map(tuple), min_size=1, max_size=9, unique=True))
def test_what_is_new_is_fed_once(call: list[Ids]) -> None:
    """In an empty cache, each distinct prefix is one token fed, whichever sequences share it, in one round."""
    cells = Cells(9)
    distinct = {sequence[:n] for sequence in call for n in range(1, len(sequence) + 1)}

    assert answered(Lines(9, cells), cells, call) == (1, len(distinct))


def spent(lines: Lines, cells: Cells, *sequences: Sequence[int]) -> int:
    rounds, fed = answered(lines, cells, [tuple(sequence) for sequence in sequences])
    assert rounds == 1
    return fed


def test_a_step_feeds_one_token() -> None:
    """Steps, side branches, and branches that were left feed what is new; a known row feeds its last token."""
    cells = Cells(8)
    lines = Lines(8, cells)
    prompt = tuple(range(30))

    assert spent(lines, cells, prompt) == 30
    assert spent(lines, cells, (*prompt, 40)) == 1
    assert spent(lines, cells, (*prompt, 40, 41), (*prompt, 50)) == 2
    assert spent(lines, cells, (*prompt, 50, 51), (*prompt[:20], 60)) == 2
    assert spent(lines, cells, (*prompt, 40, 41, 42)) == 1
    assert spent(lines, cells, (*prompt, 40, 41, 42)) == 1, "its row was forgotten: its last token again"
    assert spent(lines, cells, prompt[:10]) == 1
    assert spent(lines, cells, *(prompt[:n] for n in range(5, 8))) == 3


def test_a_branch_keeps_the_line_that_it_leaves() -> None:
    """What goes on from the middle of a line leaves the line as it is, as long as ids last."""
    cells = Cells(2)
    lines = Lines(2, cells)
    spent(lines, cells, (1, 2, 3))

    spent(lines, cells, (1, 2, 4))

    assert sorted(lines.held) == [(1, 2, 3), (1, 2, 4)]


def test_the_oldest_line_goes_first() -> None:
    """A new sequence takes the id that was used longest ago."""
    cells = Cells(3)
    lines = Lines(3, cells)
    for sequence in [(1, 1), (2, 2), (3, 3), (1, 1, 1), (4, 4)]:
        spent(lines, cells, sequence)

    assert sorted(lines.held) == [(1, 1, 1), (3, 3), (4, 4)]


def test_what_a_window_has_passed_is_not_gone_back_to() -> None:
    """Where llama.cpp gave the early cells of a line away, a branch within reach of them is fed from its first token."""
    cells = Cells(4)
    lines = Lines(4, cells, window=5)
    line = tuple(range(20))
    spent(lines, cells, line)
    (held,) = [i for i, some in enumerate(lines.held) if some]
    cells.lost[held] = 10

    assert spent(lines, cells, (*line, 99)) == 1
    assert spent(lines, cells, (*line[:15], 99)) == 1
    assert spent(lines, cells, (*line[:14], 98)) == 15


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 5, 3), 1), ((2,), (1,), 0)],
)
def test_common(a: Ids, b: Ids, expected: int) -> None:
    """How many tokens two sequences begin with alike."""
    assert common(a, b) == expected


@given(same=st.lists(tokens), a=st.lists(tokens), b=st.lists(tokens))
def test_common_is_the_first_difference(same: list[int], a: list[int], b: list[int]) -> None:
    """Halving finds what going along finds."""
    one, two = tuple(same + a), tuple(same + b)
    first = next((i for i, (x, y) in enumerate(zip(one, two, strict=False)) if x != y), min(len(one), len(two)))

    assert common(one, two) == first
