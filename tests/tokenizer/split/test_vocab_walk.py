"""Runs over the whole vocabulary, against reading each token by itself."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from bytelm.cover.cover import Cover
from bytelm.tokenizer.split.automaton import Level
from bytelm.tokenizer.split.hypotheses import DEAD
from bytelm.tokenizer.split.vocab_walk import INACTIVE, ProductAutomaton, States
from bytelm.tokenizer.viability.viability import Viability

TEXTS = [
    "def f(x):\n    return 'naïve' + \"3.14\"\n\n\n",
    "I'll say: 漢字かな, ไทย, 🙂👍🏽 and 1234567!\r\n\t\tx = y;;  # <b>bold</b>",
]
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def subject(*stems: str) -> Viability:
    """A tokenizer with forty added tokens for each stem, so many that they are asked all at once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    tokenizer.add_tokens([AddedToken(f"{stem}{i}>", normalized=False) for stem in stems for i in range(40)])
    return Viability.from_tokenizer(tokenizer)


def places(automaton: ProductAutomaton, text: bytes) -> list[States]:
    """States along a text, with every way to cut it or not."""
    found, frontier = [], {automaton.start(bare=False)}
    for byte in text:
        frontier = {after for states in frontier if (after := automaton.read(states, bytes([byte]))) is not None}
        frontier |= {cut for states in frontier for cut in automaton.cuts(states)}
        frontier = set(sorted(frontier)[:4])
        found += sorted(frontier)
    return [states for states in found if INACTIVE not in states]


def expected(automaton: ProductAutomaton, at: int, state: int) -> list[int]:
    """The state after each token that merging can produce."""
    level, spelled = automaton.levels[at], automaton.prefix_index.spelled
    return [
        level.read_bytes(state, data) if can_stand else DEAD
        for data, can_stand in zip(spelled, automaton.ordinary.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def whole() -> ProductAutomaton:
    """An automaton for which every range counts as the whole vocabulary."""
    return subject("<unused").automaton


def test_runs_that_follow_the_last_one_are_runs_from_the_beginning(whole: ProductAutomaton) -> None:
    """States of every kind, in an order in which consecutive runs differ early, late and not at all."""
    order = np.random.default_rng(0).permutation([*places(whole, "".join(TEXTS).encode())] * 2)
    with patch("bytelm.tokenizer.split.vocab_walk.WHOLE", -1):
        for states in order.tolist()[:120]:
            ends = whole.ends_of_tokens(tuple(states), 0, len(whole.prefix_index))

            for at, (end, state) in enumerate(zip(ends, states, strict=True)):
                assert end.tolist() == expected(whole, at, state)


def test_an_interrupted_run_leaves_nothing_half_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run after one that was broken off is right: a run that is under way is nobody's to follow."""
    automaton = subject("<unused").automaton
    first, second, third = [states for states in places(automaton, b"ab  12\n\n'l") if states[-1] != DEAD][::6][:3]
    size, next_state, calls = len(automaton.prefix_index), Level.next, 0

    def break_off(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return next_state(*arguments)

    monkeypatch.setattr("bytelm.tokenizer.split.vocab_walk.WHOLE", -1)
    automaton.ends_of_tokens(first, 0, size)
    with patch.object(Level, "next", break_off), pytest.raises(KeyboardInterrupt):
        automaton.ends_of_tokens(second, 0, size)
    for states in (third, second, first):
        for at, end in enumerate(automaton.ends_of_tokens(states, 0, size)):
            assert end.tolist() == expected(automaton, at, states[at])


def test_added_tokens_that_lead_elsewhere_are_asked_again() -> None:
    """What is kept of the last boundary is used only where an added token leads to the same state as there.

    After "<un" the text of "used3>" would make "<unused3>", which is matched first: it can stand after all else.
    """
    viability = subject("<unused", "used")
    found = set()
    for text in (b"", b"a<", b"<un", b"a<unu", b"a<un"):
        for node in Cover.empty(viability).advance(text).nodes:
            if node.boundary.partial or node.end < len(text):
                continue
            for stem in (b"<unused", b"used"):
                lo, hi = viability.prefix_index.range(stem)
                possible = [
                    viability.extend(node.boundary, int(viability.prefix_index.order[i])) for i in range(lo, hi)
                ]

                assert viability.mask(node.boundary, lo, hi).tolist() == [after is not None for after in possible]
                found.add((text, stem, possible[0] is not None))
    assert {text for text, stem, is_possible in found if stem == b"used" and not is_possible} == {b"<un", b"a<un"}
    assert len(found) == 10
