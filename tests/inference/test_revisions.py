"""How often an engine is made to look at its model: once a round, and whenever it is asked outside of one."""

from __future__ import annotations

from typing import Any

import pytest

from bytelm import ByteLM, TableLM
from bytelm.errors import ModelChangedError
from bytelm.inference.revisions import present_revision
from tests.support.tiny import default_tokenizer


class Looking(TableLM):
    """A table that can be changed, and counts how often it looks whether it was."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.revision = self.changes = self.looks = self.calls = 0

    def refresh(self) -> None:
        self.looks += 1
        self.revision = self.changes

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.calls += 1
        self.revision = self.changes  # a call looks by itself
        return super().next_token_logprobs(sequences)


@pytest.fixture
def engine() -> Looking:
    return Looking(default_tokenizer(), seed=3, order=2)


def test_a_batch_has_it_look_once_a_text_and_seldom_more(engine: Looking) -> None:
    """Each prompt is begun with a look; after that the calls themselves are what sees a change."""
    lm = ByteLM(engine)
    for options in ({"temperature": 0}, {"top_p": 0.9}, {}):
        before = engine.looks, engine.calls
        lm.sample_batch(["the ", "retur", "x", "def f"] * 4, max_bytes=40, seed=1, **options)

        assert engine.calls - before[1] >= 4
        assert engine.looks - before[0] <= 2 * 16, options


def test_outside_of_a_round_each_question_is_a_look(engine: Looking) -> None:
    """So a change is seen at once, also where no call is needed."""
    assert present_revision(engine) == 0
    engine.changes = 1
    assert present_revision(engine) == 1
    engine.changes = 2
    assert present_revision(engine) == 2


def test_a_change_is_seen_without_a_call(engine: Looking) -> None:
    """A stream does not go on with what is old between two bytes of one token; a state whose row is known begins anew."""
    lm = ByteLM(engine)
    state = lm.state("the ")
    state.next_byte_logprobs()
    stream = lm.stream("the ", temperature=0, max_bytes=60)
    next(stream)
    calls = engine.calls
    engine.changes += 1

    with pytest.raises(ModelChangedError):
        next(stream)
    assert engine.calls == calls
    state.next_byte_logprobs()
    assert engine.calls == calls + 1


def test_a_change_in_the_middle_of_a_batch_ends_it(engine: Looking) -> None:
    """By the next call, at the latest."""
    lm = ByteLM(engine)

    def meddling(written: bytes, row: Any) -> Any:
        engine.changes = int(len(written) > 3)
        return row

    with pytest.raises(ModelChangedError):
        lm.sample_batch(["the ", "x"], max_bytes=60, seed=1, logits_processor=meddling)
