"""Walks of the whole vocabulary, against walking each token by itself."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from bytelm.tokenizer.split.automaton import DEAD
from bytelm.tokenizer.split.vocab_walk import INACTIVE, Nodes, Walker
from bytelm.tokenizer.viability.viability import Viability

TEXTS = [
    "def f(x):\n    return 'naïve' + \"3.14\"\n\n\n",
    "I'll say: 漢字かな, ไทย, 🙂👍🏽 and 1234567!\r\n\t\tx = y;;  # <b>bold</b>",
]
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def subject() -> Viability:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    tokenizer.add_tokens([AddedToken(f"<unused{i}>", normalized=False) for i in range(12)])
    return Viability.from_tokenizer(tokenizer)


def places(walker: Walker, text: bytes) -> list[Nodes]:
    """Nodes along a text, with every way to claim a cut or none."""
    found, frontier = [], {walker.start(bare=False)}
    for byte in text:
        frontier = {after for nodes in frontier if (after := walker.walk(nodes, bytes([byte]))) is not None}
        frontier |= {cut for nodes in frontier for cut in walker.cuts(nodes)}
        frontier = set(sorted(frontier)[:4])
        found += sorted(frontier)
    return [nodes for nodes in found if INACTIVE not in nodes]


def expected(walker: Walker, at: int, node: int) -> list[int]:
    """The node after each token that merging can produce."""
    level, out = walker.levels[at], []
    for rank, data in enumerate(walker.prefix_index.spelled):
        after = node if walker._ordinary[rank] else DEAD
        for byte in data:
            after = level.next(after, byte) if after != DEAD else DEAD
        out.append(after)
    return out


@pytest.fixture(scope="module")
def whole() -> Walker:
    """A walker for which every range counts as the whole vocabulary."""
    return subject().walker


def test_walks_that_follow_the_last_one_are_walks_from_the_beginning(whole: Walker) -> None:
    """Nodes of every kind, in an order in which consecutive walks differ early, late and not at all."""
    order = np.random.default_rng(0).permutation([*places(whole, "".join(TEXTS).encode())] * 2)
    with patch("bytelm.tokenizer.split.vocab_walk.WHOLE", -1):
        for nodes in order.tolist()[:120]:
            ends = whole.landings(tuple(nodes), 0, len(whole.prefix_index))

            for at, (end, node) in enumerate(zip(ends, nodes, strict=True)):
                assert end.tolist() == expected(whole, at, node)


def test_an_interrupted_walk_leaves_nothing_half_done() -> None:
    """The walk after one that was broken off is right: a walk that is under way is nobody's to follow."""
    walker = subject().walker
    first, second, third = [nodes for nodes in places(walker, b"ab  12\n\n'l") if nodes[-1] != DEAD][::6][:3]
    step, calls = Walker._step, 0

    def break_off(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    with patch("bytelm.tokenizer.split.vocab_walk.WHOLE", -1):
        walker.landings(first, 0, len(walker.prefix_index))
        with patch.object(Walker, "_step", staticmethod(break_off)), pytest.raises(KeyboardInterrupt):
            walker.landings(second, 0, len(walker.prefix_index))
        for nodes in (third, second, first):
            for at, end in enumerate(walker.landings(nodes, 0, len(walker.prefix_index))):
                assert end.tolist() == expected(walker, at, nodes[at])


def test_added_tokens_that_lead_elsewhere_are_asked_again() -> None:
    """What is kept of the last place is used only where an added token leads to the same node as there."""
    viability = subject()
    ranks = viability._added_ranks[0]
    kept = viability._fits
    for nodes in [None, *places(viability.walker, b"a <unu  b<\n<x")]:
        found = kept.added(nodes, 0, ranks)

        for rank, fits in zip(ranks.tolist(), found.tolist(), strict=True):
            token, data = int(viability.prefix_index.order[rank]), viability.prefix_index.spelled[rank]
            after = viability.walker.added(nodes, 0, data, token)
            assert fits == (after is not None and viability._readings.stops(after))
