from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bytelm.engines.transformers.prefix_tree import TWIG_AGE, PrefixTree

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


def insert(tree: PrefixTree, known: dict[tuple[int, ...], int], sequence: list[int]) -> int:
    """Cache a sequence, with new slots for what is new; return how much was there already."""
    tree.clock += 1
    segment, n = tree.find(sequence)
    if n < len(sequence):
        top = max(known.values(), default=-1) + 1
        slots = list(range(top, top + len(sequence) - n))
        tree.insert(segment, sequence[n:], slots)
        known.update((tuple(sequence[: n + i + 1]), slot) for i, slot in enumerate(slots))
    return n


def path(tree: PrefixTree, sequence: list[int]) -> list[int]:
    segment, n = tree.find(sequence)
    assert n == len(sequence)
    return [int(slot) for slot in tree.path(segment)]


def cached(tree: PrefixTree, known: dict[tuple[int, ...], int]) -> dict[tuple[int, ...], int]:
    """The prefixes that are still in the tree, each at the slot where it was put."""
    there = {}
    for prefix, slot in known.items():
        segment, n = tree.find(list(prefix))
        if n == len(prefix):
            assert tree.path(segment)[-1] == slot
            there[prefix] = slot
    return there


@given(sequences)
def test_paths_are_those_of_a_dictionary(calls: list[list[int]]) -> None:
    """Every cached prefix is found, at the slots that a dictionary of all prefixes holds, and nothing else is."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in calls:
        expected = max(n for n in range(len(sequence) + 1) if n == 0 or tuple(sequence[:n]) in known)

        assert insert(tree, known, sequence) == expected

    for prefix in known:
        assert path(tree, list(prefix)) == [known[prefix[: n + 1]] for n in range(len(prefix))]
    assert sorted(tree.slots().tolist()) == sorted(known.values())
    assert tree.live == len(known)


@given(sequences, st.integers(0, 30))
def test_eviction_keeps_a_tree(calls: list[list[int]], n: int) -> None:
    """Eviction frees what it says, keeps what the present call uses, and leaves every prefix of what it keeps."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in calls:
        insert(tree, known, sequence)
    before = tree.live

    freed = tree.evict(n)

    tree.clock += 1
    there = cached(tree, known)
    assert freed == min(n, before - len(calls[-1]))
    assert tree.live == before - freed == len(there)
    assert all(prefix[:-1] in there for prefix in there if len(prefix) > 1)
    assert tuple(calls[-1]) in there


def test_eviction_takes_the_oldest_first() -> None:
    """Of two branches the one that was asked for earlier goes, tail first."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in ([1, 2, 3, 4], [1, 5, 6, 7], [1, 2], [1]):
        insert(tree, known, sequence)

    tree.evict(3)

    there = cached(tree, known)
    assert (1, 2) in there
    assert (1, 2, 3) not in there
    assert (1, 5, 6) in there
    assert (1, 5, 6, 7) not in there


@given(sequences)
def test_trimming_keeps_what_is_used(calls: list[list[int]]) -> None:
    """After many calls along one branch, the other short branches are gone, and that one is whole."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in calls:
        insert(tree, known, sequence)
    kept = calls[0]
    for _ in range(TWIG_AGE + 2):
        insert(tree, known, kept)

    for _ in range(9):  # a branch of a branch goes after its branches
        tree.trim()

    there = {tuple(kept[: n + 1]): known[tuple(kept[: n + 1])] for n in range(len(kept))}
    alone = [sequence[0] for sequence in calls if sequence[0] != kept[0]]
    if not alone:
        assert cached(tree, known) == there
        assert tree.live == len(kept)
    assert path(tree, kept) == list(there.values())


def test_renumbering_moves_every_slot() -> None:
    """After packing, paths name the new slots."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in ([1, 2, 3], [1, 4]):
        insert(tree, known, sequence)

    tree.renumber(np.array([10, 11, 12, 13]))

    assert path(tree, [1, 2, 3]) == [10, 11, 12]
    assert path(tree, [1, 4]) == [10, 13]


def test_the_latest_path_is_packed_first() -> None:
    """Slots are listed path by path, the latest used first, so that packing puts it together."""
    tree, known = PrefixTree(), dict[tuple[int, ...], int]()
    for sequence in ([1, 2, 3], [1, 4, 5], [1, 2, 3, 6]):
        insert(tree, known, sequence)

    assert tree.slots().tolist() == [0, 1, 2, 5, 3, 4]
