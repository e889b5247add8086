"""States: values that move along a text and back, and branch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, ByteState, TableLM
from bytelm.errors import InvalidArgumentError, UnreachablePrefixError
from tests.support.hostile import HOSTILE
from tests.support.tiny import default_tokenizer


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A byte model over a tiny tokenizer."""
    return ByteLM(TableLM(default_tokenizer(), seed=5, order=2))


def nodes(state: ByteState[Any]) -> list[tuple[int, ...]]:
    return [node.token_ids for node in state.place.frontier.nodes]


def test_a_state_that_was_advanced_is_the_state_of_the_longer_prefix(lm: ByteLM) -> None:
    """By bytes, by pieces or at once: the same nodes, the same row."""
    text = "return naïve\n\n  12 '日".encode()
    state = lm.state(b"")
    for n, byte in enumerate(text, start=1):
        state = state.advance(bytes([byte]))
        if n % 3 == 0:
            state.next_byte_logprobs()

        assert state.prefix == text[:n]
        assert nodes(state) == nodes(lm.state(text[:n])) == nodes(lm.state(text[: n // 2]).advance(text[n // 2 : n]))

    np.testing.assert_allclose(state.next_byte_logprobs(), lm.next_byte_logprobs(text), atol=1e-9)


def test_rollback_restores_exactly(lm: ByteLM) -> None:
    """Random walks forth and back over hostile text: each state is the one of its prefix."""
    rng = random.Random(1)
    for text in ("the quick\n\nbrown  fox", "aé日🙂z", *list(HOSTILE.values())[:5]):
        data = text.encode()
        state = lm.state(b"")
        for _ in range(20):
            here = len(state.prefix)
            there = rng.randint(0, len(data))
            state = state.advance(data[here:there]) if there >= here else state.rollback(here - there)

            assert state.prefix == data[:there]
            assert nodes(state) == nodes(lm.state(data[:there]))
        np.testing.assert_allclose(state.next_byte_logprobs(), lm.next_byte_logprobs(state.prefix), atol=1e-9)


def test_states_are_values(lm: ByteLM) -> None:
    """Advancing or rolling back leaves a state as it is, and branches do not disturb one another."""
    state = lm.state("the ")
    before = state.next_byte_logprobs()
    left, right = state.advance("quick"), state.advance("dog")
    left.next_byte_logprobs()

    np.testing.assert_array_equal(state.next_byte_logprobs(), before)
    assert (state.prefix, left.prefix, right.prefix) == (b"the ", b"the quick", b"the dog")
    np.testing.assert_allclose(
        left.rollback(5).advance("dog").next_byte_logprobs(), right.next_byte_logprobs(), atol=1e-9
    )
    assert state.advance("") is state
    assert state.rollback(0) is state


def test_what_is_known_is_not_asked_for_again(lm: ByteLM) -> None:
    """A row costs one call, one more byte at most one, and going back none."""
    state = lm.state("the quick br")

    def calls() -> int:
        return lm.token_lm.usage.calls  # type: ignore[attr-defined,no-any-return]

    start = calls()
    state.next_byte_logprobs()
    state.next_byte_logprobs()
    assert calls() == start + 1
    longer = state.advance("o")
    longer.next_byte_logprobs()
    assert calls() <= start + 2
    before = calls()
    longer.rollback(1).next_byte_logprobs()
    assert calls() == before


def test_a_rollback_before_the_beginning_of_the_state(lm: ByteLM) -> None:
    """The byte prefix can be shortened to nothing, but not further, and ids stay."""
    state = lm.state(["the", 5, "quick"])

    assert nodes(state.rollback(3)) == nodes(lm.state(["the", 5, "qu"]))
    assert state.rollback(5).prefix == b""
    for n in (6, -1):
        with pytest.raises(InvalidArgumentError, match=f"cannot roll back {n} bytes"):
            state.rollback(n)


def test_a_byte_that_cannot_follow_leaves_the_state(lm: ByteLM) -> None:
    """The error says where, and the state goes on being good."""
    state = lm.state("a")
    with pytest.raises(UnreachablePrefixError) as caught:
        state.advance(b"b\xff")

    assert caught.value.position == 2
    assert state.advance(b"b").prefix == b"ab"


def test_tol_tells_what_was_reached(lm: ByteLM) -> None:
    """The bound is 0 after an exact row, and at most tol after another one."""
    state, bounds = lm.state("the quic"), []
    for byte in b"k brown fox":
        state.next_byte_logprobs()
        state = state.advance(bytes([byte]))
        row = state.next_byte_logprobs(tol=0.9)
        bounds.append(state.total_variation_bound)
        exact = state.next_byte_logprobs()

        assert np.abs(np.exp(row) - np.exp(exact)).sum() / 2 <= bounds[-1] <= 0.9
        assert state.total_variation_bound == 0

    assert max(bounds) > 0


def test_leak_is_what_the_row_lacks(lm: ByteLM) -> None:
    """1 less the sum of the row."""
    state = lm.state("the")

    assert state.leak == pytest.approx(lm.leak("the"))
    assert state.leak == pytest.approx(1 - np.exp(state.next_byte_logprobs()).sum())


def test_rows_learned_through_another_state_are_found() -> None:
    """A state made before, whose nodes were evaluated through one further on, answers without asking for nothing."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=5, order=2))
    early = lm.state("the qu")
    later = early.advance(b"ick")
    later.next_byte_logprobs()
    later.rollback(3).next_byte_logprobs()

    np.testing.assert_allclose(early.next_byte_logprobs(), ByteLM(lm.token_lm).next_byte_logprobs("the qu"), atol=1e-9)
