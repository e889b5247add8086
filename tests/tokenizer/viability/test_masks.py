"""All tokens at once are the tokens one by one, on tokenizers that are made up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability
from tests.support.masks import one_by_one
from tests.support.strategies import Toy, byte_level, sentencepiece

STEPS = 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of(byte_level(), byte_level(full=True), sentencepiece()), st.randoms(use_true_random=False))
def test_all_tokens_at_once_are_the_tokens_one_by_one(toy: Toy, random: Random) -> None:
    """`mask` says of every token what `extend` says, along a random sequence of tokens that may follow one another."""
    try:
        subject = Viability.from_tokenizer(toy.backend)
        boundary: Boundary | None = subject.start()
        for _ in range(STEPS):
            assert boundary is not None
            expected = one_by_one(subject, boundary)

            assert subject.mask(boundary, 0, len(subject.prefix_index)).tolist() == expected, toy.what
            if not any(expected):
                break
            rank = random.choice([rank for rank, viable in enumerate(expected) if viable])
            boundary = subject.extend(boundary, int(subject.prefix_index.order[rank]))
    except UnsupportedTokenizerError:  # also where its patterns look too far ahead together: viability/search.py
        return


@pytest.mark.parametrize("apart", [True, False])
def test_a_character_of_a_pre_token_that_is_taken_whole(apart: bool) -> None:
    """Where each é is a pre-token, which is taken whole, its bytes are no tokens; where a text may go on, they are."""
    pieces = {"Ã": 0, "©": 1, "a": 2, "Ã©": 3}
    tokenizer = Tokenizer(models.BPE(pieces, [], ignore_merges=True))
    split = [pre_tokenizers.Split("é", "isolated")] if apart else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    subject = Viability.from_tokenizer(tokenizer)

    assert tokenizer.encode("éa").ids == ([3, 2] if apart else [0, 1, 2])
    found = subject.mask(subject.start(), 0, len(subject.prefix_index)).tolist()
    assert found == one_by_one(subject, subject.start())
    assert found[subject.prefix_index.rank[0]] == (not apart)
