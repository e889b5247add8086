"""The vocabulary in byte order, against a scan of all tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bytelm.symbols import missing, unfinished
from bytelm.tokenizer.prefix_index import Branch, PrefixIndex

token = st.none() | st.binary(min_size=1, max_size=5) | st.text("ab\xff", min_size=1).map(str.encode)
tokens = st.lists(token, max_size=30)


@given(tokens, st.binary(max_size=3))
def test_a_range_holds_exactly_the_tokens_that_begin_with_a_prefix(
    vocabulary: list[bytes | None], prefix: bytes
) -> None:
    """Duplicates, holes, prefixes of 0xFF: the range is what a scan finds, shorter tokens first."""
    prefix_index = PrefixIndex(vocabulary)
    lo, hi = prefix_index.range(prefix)

    expected = {i for i, data in enumerate(vocabulary) if data is not None and data.startswith(prefix)}
    assert {int(i) for i in prefix_index.order[lo:hi]} == expected
    exact = prefix_index.equal_to(prefix, lo, hi)
    assert {int(i) for i in prefix_index.order[lo:exact]} == {i for i in expected if vocabulary[i] == prefix}


@given(tokens, st.binary(max_size=2))
def test_a_split_counts_the_tokens_of_each_next_byte(vocabulary: list[bytes | None], prefix: bytes) -> None:
    """The branch of some bytes is their range; its parts by the next byte cover it without overlap."""
    prefix_index = PrefixIndex(vocabulary)
    lo, hi = prefix_index.range(prefix)
    branch: Branch | None = prefix_index.root
    for byte in prefix:
        branch = branch and branch.below(byte)
        assert branch is None or len(branch.parts[0]) == len(branch.parts[2])

    assert (branch is None) == (lo == hi and prefix != b"")
    if branch is None:
        return
    assert (branch.lo, branch.hi) == (lo, hi)
    lo = prefix_index.equal_to(prefix, lo, hi)
    assert branch.longer == lo
    values, numbers, starts = branch.parts
    assert [*values] == numbers.tolist()
    counts = dict(zip(values, np.diff([*(starts + lo).tolist(), hi]).tolist(), strict=True))
    expected: dict[int, int] = {}
    for data in prefix_index.spelled[lo:hi]:
        expected[data[len(prefix)]] = expected.get(data[len(prefix)], 0) + 1
    assert counts == expected


@given(st.text(max_size=4), st.integers(0, 3))
def test_unfinished_is_what_decoding_leaves_over(text: str, cut: int) -> None:
    """The bytes of a character that has begun and is not complete."""
    data = text.encode()
    data = data[: max(0, len(data) - cut)]

    whole = data.decode("utf-8", "ignore").encode()
    assert unfinished(data) == data[len(whole) :]


@given(st.lists(st.binary(min_size=1, max_size=5) | st.text(min_size=1, max_size=3).map(str.encode), max_size=30))
def test_what_is_left_of_the_last_character_of_every_token(vocabulary: list[bytes]) -> None:
    """All at once as one by one, with bytes that begin no character too."""
    prefix_index = PrefixIndex([*vocabulary, *(data[:-1] for data in vocabulary if len(data) > 1)])

    assert prefix_index.missing.tolist() == [missing(unfinished(data)) for data in prefix_index.spelled]
