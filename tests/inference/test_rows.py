"""Rows in trie order, the end of text as one number, and a store that forgets."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm.errors import VocabularyMismatchError
from bytelm.inference.rows import ArrayRow, RowReader, RowStore
from bytelm.tokenizer.prefix_index import PrefixIndex

TOKENS = (b"b", None, b"a", b"ab", None, b"a")
ROW = np.log(np.array([0.1, 0.2, 0.05, 0.3, 0.15, 0.1, 0.07, 0.03]))  # two columns of padding


def test_a_row_is_in_trie_order_and_ends_are_summed() -> None:
    """Probabilities stand in byte order; several end symbols are one number; padding and special tokens are dropped."""
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[1, 4])
    row = ArrayRow(reader, ROW)

    np.testing.assert_allclose(row.probs, [0.05, 0.1, 0.3, 0.1])  # a, a, ab, b
    assert row.eot == pytest.approx(0.35)
    assert np.exp([row.logprob(i) for i in (0, 2, 3, 5)]) == pytest.approx([0.1, 0.05, 0.3, 0.1])
    assert row.likeliest() == 3


def test_a_part_of_a_row_is_that_part() -> None:
    """A range of ranks is as in the whole row."""
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[1])
    whole, part = reader.probs(ROW), reader.probs(ROW, 1, 3)

    assert part.tolist() == [whole[1], whole[2]]


def test_an_end_symbol_that_spells_something_is_the_end_alone() -> None:
    """Its mass is not counted twice: no text is written with it."""
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[3])
    row = ArrayRow(reader, ROW.astype(np.float32))

    assert row.logprob(3) == -np.inf
    assert not row.probs[2]
    assert row.eot == pytest.approx(0.3, rel=1e-6)
    assert np.exp(reader.logprobs(ROW, np.array([3, 0]))) == pytest.approx([0, 0.1])


def test_no_end_symbol_is_no_end() -> None:
    """A model without an end of text never ends."""
    assert RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[]).read(ROW).eot == 0


def test_a_token_without_a_column_is_refused() -> None:
    """A tokenizer with more tokens than the model has columns is not the model's."""
    with pytest.raises(VocabularyMismatchError, match="id 5"):
        RowReader(PrefixIndex(TOKENS), vocab_size=5, eot_ids=[])


def test_the_store_forgets_what_was_used_longest_ago() -> None:
    """It never holds more than its bytes, and what was asked for lately stays."""
    store = RowStore(max_bytes=3 * 128)
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[])
    rows = {name: ArrayRow(reader, np.full(8, float(i))) for i, name in enumerate("abcde")}
    for name in "abc":
        store.put(name, rows[name])
    assert store.get("a") is rows["a"]
    store.put("d", rows["d"])  # b goes, as a was used since
    store.put("d", rows["d"])

    assert [store.get(name) for name in "abcd"] == [rows["a"], None, rows["c"], rows["d"]]
    assert len(store) == 3

    store.put("big", ArrayRow(reader, np.zeros(100)))  # more than the store may hold

    assert len(store) == 3


def test_probabilities_are_float32_where_that_is_precise() -> None:
    """No token becomes impossible that the model leaves possible."""
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[1])
    likely, rare = ROW.astype(np.float32), ROW.astype(np.float32)
    rare[3] = -150.0

    assert ArrayRow(reader, likely).probs.dtype == np.float32
    np.testing.assert_allclose(ArrayRow(reader, likely).probs, ArrayRow(reader, ROW).probs, rtol=1e-6)
    assert ArrayRow(reader, rare).probs[2] == pytest.approx(np.exp(-150.0))
    likely[3] = -np.inf
    assert ArrayRow(reader, likely).probs.dtype == np.float32


def test_a_row_of_a_call_does_not_keep_the_others() -> None:
    """Alone it is kept as it is."""
    reader = RowReader(PrefixIndex(TOKENS), vocab_size=8, eot_ids=[])
    block = np.stack([ROW, ROW])

    assert getattr(reader.read(block[1]).given, "base", 0) is None
    assert getattr(reader.read(block[:1][0]).given, "base", 0) is None
    assert reader.read(ROW).given is ROW
