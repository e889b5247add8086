"""The lemma, against the enumeration of every token string."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bytelm.lemma import cover, end_logprob, log_sum, next_byte_logprobs, prefix_logprob, sequence_logprob
from tests.support.toy import Ids, TableRows, drawn_rows

TOKENS = (b"a", b"b", b"ab", None, b"a", b"\xff", b"bab", b"aa", None)
EOTS = (3, 8)
MODEL = TableRows(drawn_rows(len(TOKENS), seed=5), len(TOKENS), EOTS)


def viable(ids: Ids) -> bool:
    return not {(0, 1), (4, 1), (0, 0)} & set(itertools.pairwise(ids))


def canonical(ids: Ids) -> bool:
    return viable(ids) and ids[-1:] != (1,)


def beginnings(prefix: bytes) -> set[Ids]:
    """The events of the lemma by enumeration: every token string, cut where it first holds the whole prefix."""
    found = set()
    spellable = [i for i, spelled in enumerate(TOKENS) if spelled]
    for ids in itertools.product(spellable, repeat=len(prefix)):
        data = b"".join(TOKENS[i] or b"" for i in ids)
        if data.startswith(prefix):
            cut = next(
                k for k in range(len(ids) + 1) if len(b"".join(TOKENS[i] or b"" for i in ids[:k])) >= len(prefix)
            )
            if viable(ids[:cut]):
                found.add(ids[:cut])
    return found


@pytest.mark.parametrize("prefix", [b"", b"a", b"ab", b"aba", b"abab", b"aab\xff", b"bb"])
def test_cover_is_every_viable_beginning(prefix: bytes) -> None:
    """The cover holds every viable token string that begins with the prefix, cut at its last byte, once."""
    members = cover(prefix, TOKENS, viable)

    assert beginnings(prefix) == set(members)
    assert len(members) == len(set(members))


@pytest.mark.parametrize("prefix", [b"a", b"ab", b"abab"])
def test_prefix_logprob_sums_the_cover(prefix: bytes) -> None:
    """P(x) is the sum of the products of the rows along each member of the cover."""
    products = [math.prod(math.exp(MODEL.row(ids[:k])[ids[k]]) for k in range(len(ids))) for ids in beginnings(prefix)]

    actual = prefix_logprob(prefix, TOKENS, viable, MODEL.row)

    assert math.log(sum(products)) == pytest.approx(actual, abs=1e-12)


@pytest.mark.parametrize("prefix", [b"a", b"bb"])
def test_a_row_and_its_leak_sum_to_one(prefix: bytes) -> None:
    """What follows a prefix is a byte, the end, or a token string that is nobody's encoding: nothing else."""
    row = next_byte_logprobs(prefix, TOKENS, viable, MODEL.row, canonical=canonical, eot_ids=EOTS)
    leak = 0.0
    for ids in beginnings(prefix):
        if b"".join(TOKENS[i] or b"" for i in ids) == prefix:
            for token, spelled in enumerate(TOKENS):
                lost = not viable((*ids, token)) if spelled else not canonical(ids)
                leak += math.exp(sequence_logprob((*ids, token), MODEL.row)) if lost else 0.0

    assert (
        pytest.approx(
            math.fsum(map(math.exp, row)) + leak / math.exp(prefix_logprob(prefix, TOKENS, viable, MODEL.row)),
            abs=1e-12,
        )
        == 1
    )
    assert leak > 0


def test_end_of_text_needs_a_canonical_sequence() -> None:
    """A text may end only where its tokens are its encoding, by any of the end symbols."""
    ending = [ids for ids in beginnings(b"aab") if canonical(ids) and b"".join(TOKENS[i] or b"" for i in ids) == b"aab"]
    expected = sum(math.exp(sequence_logprob((*ids, eot), MODEL.row)) for ids in ending for eot in EOTS)

    actual = end_logprob(b"aab", TOKENS, viable, MODEL.row, canonical=canonical, eot_ids=EOTS)

    assert {(0, 2), (4, 2)} == set(ending)  # aa·b and the like end with b, which is declared not canonical
    assert math.log(expected) == pytest.approx(actual, abs=1e-12)


def test_log_sum_of_small_numbers_does_not_underflow() -> None:
    """The sum is taken relative to its greatest term."""
    assert np.logaddexp(-2000.0, -2000.0) == log_sum([-2000.0, -2000.0])
    assert log_sum([-math.inf, -math.inf]) == -math.inf
