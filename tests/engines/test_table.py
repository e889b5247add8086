from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from bytelm.engines.rows import checked_rows
from bytelm.engines.table import TableLM
from bytelm.errors import InvalidArgumentError, InvalidLogitsError, InvalidTypeError
from bytelm.token_lm import TokenLM, Usage
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer


def test_table_by_hand() -> None:
    """The rows of a table are the logarithms of what was written down, in the order asked."""
    table: Any = {(): {0: 0.25, 2: 0.75}, (2,): [0.5, 0.5, 0.0], (2, 0): {1: 1.0}}
    lm = TableLM(None, table=table, eot_ids=(1,), vocab_size=3)

    actual = np.exp(lm.next_token_logprobs([(2, 0), (), (2,)]))

    assert actual.tolist() == pytest.approx(np.array([[0, 1, 0], [0.25, 0, 0.75], [0.5, 0.5, 0]]), abs=1e-15)
    assert lm.eot_ids == {1}


def test_table_as_a_function_of_the_last_tokens() -> None:
    """With an order, a table is asked for the last tokens only."""
    seen: list[tuple[int, ...]] = []

    def table(context: tuple[int, ...]) -> dict[int, float]:
        seen.append(context)
        return {len(context): 1.0}

    lm = TableLM(None, table=table, order=2, eot_ids=(), vocab_size=5)

    actual = lm.next_token_logprobs([(), (4,), (1, 2, 3, 4)]).argmax(axis=1)

    assert seen == [(), (4,), (3, 4)]
    assert actual.tolist() == [0, 1, 2]


def test_random_rows_are_distributions_and_reproducible() -> None:
    """A seeded model gives the same normalised float64 rows to whoever asks, in whatever company."""
    lm, again = (TableLM(default_tokenizer(), seed=5) for _ in range(2))
    sequences = [(), (3,), (3, 5), (5, 3)]

    rows = lm.next_token_logprobs(sequences)
    alone = [again.next_token_logprobs([sequence])[0] for sequence in reversed(sequences)][::-1]

    assert rows.dtype == np.float64
    assert np.logaddexp.reduce(rows, axis=1) == pytest.approx(np.zeros(4), abs=1e-12)
    assert np.array_equal(rows, np.stack(alone))
    assert not np.array_equal(rows, TableLM(default_tokenizer(), seed=6).next_token_logprobs(sequences))


def test_random_rows_of_different_sequences_differ() -> None:
    """No two sequences share a row by accident: not reorderings, not sums, not a token moved to the length."""
    lm = TableLM(None, eot_ids=(), vocab_size=7)
    sequences = [ids for n in range(4) for ids in itertools.product(range(7), repeat=n)]

    rows = lm.next_token_logprobs(sequences)

    assert len({row.tobytes() for row in rows}) == len(sequences)


def test_random_rows_in_another_process() -> None:
    """The hash that seeds a row does not depend on the process."""
    code = (
        "from bytelm.engines.table import TableLM;"
        "print(TableLM(None, seed=1, eot_ids=(), vocab_size=3).next_token_logprobs([(2, 0)])[0].tolist())"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == str(
        TableLM(None, seed=1, eot_ids=(), vocab_size=3).next_token_logprobs([(2, 0)])[0].tolist()
    )


def test_markov_order() -> None:
    """With an order k, sequences that end in the same k tokens share their row, and no others do."""
    lm = TableLM(None, order=2, eot_ids=(), vocab_size=5)

    one, two, other, whole, short = lm.next_token_logprobs([(0, 1, 2), (3, 1, 2), (1, 3, 2), (1, 2), (2,)])

    assert np.array_equal(one, two)
    assert np.array_equal(one, whole)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, short)


def test_temperature_sharpens() -> None:
    """A smaller temperature scales the same logits up."""
    warm, cold = (TableLM(None, temperature=t, eot_ids=(), vocab_size=11) for t in (1.0, 0.5))

    a, b = (lm.next_token_logprobs([(1,)])[0] for lm in (warm, cold))

    assert b - b[0] == pytest.approx(2 * (a - a[0]), abs=1e-12)
    assert a.max() > math.log(0.3), "the default is sharp enough that contexts matter"


def test_sizes_and_ends_come_from_the_tokenizer() -> None:
    """Columns reach the tokenizer's largest id, texts end at its EOS, and both can be set."""
    tokenizer = byte_bpe_tokenizer(vocab_size=263, eos="<e>")

    lm, padded = TableLM(tokenizer), TableLM(tokenizer, vocab_size=271, eot_ids=[3, 5])

    assert (lm.vocab_size, lm.eot_ids) == (263, frozenset({tokenizer.eos_token_id}))
    assert (padded.next_token_logprobs([()]).shape, padded.eot_ids) == ((1, 271), frozenset({3, 5}))
    assert TableLM(byte_bpe_tokenizer(eos=None)).eot_ids == frozenset()


def test_usage_counts_calls_and_distinct_rows() -> None:
    """A call is one call however many rows it asks for; a row asked for twice in it is fed once."""
    lm = TableLM(default_tokenizer())
    before = lm.usage.copy()

    lm.next_token_logprobs([(1,), (2,), (1,)])
    lm.next_token_logprobs([(1,)])

    assert lm.usage.since(before) == Usage(calls=2, tokens_fed=3)


def test_table_lm_is_a_token_lm() -> None:
    """The toy satisfies the protocol that engines have."""
    assert isinstance(TableLM(default_tokenizer()), TokenLM)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": 0.0}, InvalidArgumentError, "temperature.*0.0"),
        ({"temperature": math.nan}, InvalidArgumentError, "temperature.*nan"),
        ({"order": -1}, InvalidArgumentError, "order.*-1"),
        ({"eot_ids": [3]}, InvalidArgumentError, r"\[3\].*0..2"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """An argument that cannot be is refused at the construction, with its value."""
    with pytest.raises(error, match=words):
        TableLM(None, **{"vocab_size": 3, "eot_ids": (), **options})


@pytest.mark.parametrize(
    ("table", "sequence", "error", "words"),
    [
        ({}, (1,), InvalidArgumentError, r"no distribution after \(1,\)"),
        ({(): {0: 0.5}}, (), InvalidArgumentError, "sum 1"),
        ({(): {0: 1.5, 1: -0.5}}, (), InvalidArgumentError, "≥ 0"),
        ({(): {0: math.nan}}, (), InvalidArgumentError, "nan"),
        ({(): {7: 1.0}}, (), InvalidArgumentError, "id 7"),
        ({(): [1.0]}, (), InvalidTypeError, "3 numbers"),
        ({(): {0: 1.0}}, (3,), InvalidArgumentError, r"\(3,\)"),
        ({(): {0: 1.0}}, (-1,), InvalidArgumentError, "-1"),
    ],
)
def test_bad_tables(table: Any, sequence: tuple[int, ...], error: type[Exception], words: str) -> None:
    """A distribution that is none, or that is missing, is refused when it is asked for, with the sequence."""
    lm = TableLM(None, table=table, eot_ids=(), vocab_size=3)

    with pytest.raises(error, match=words):
        lm.next_token_logprobs([sequence])


def test_no_sequences() -> None:
    """Asking for nothing is an error."""
    with pytest.raises(InvalidArgumentError, match="no sequences"):
        TableLM(default_tokenizer()).next_token_logprobs([])


def test_checked_rows_pass() -> None:
    """Good rows come back as they are: float32 and float64, with entries of -inf."""
    for dtype in (np.float32, np.float64):
        rows = np.log(np.array([[0.5, 0.5, 1e-30], [0.25, 0.5, 0.25]], dtype))
        rows[0, 2] = -np.inf

        actual = checked_rows(rows, 2, 3)

        assert actual.dtype == dtype
        assert np.array_equal(actual, rows)


def test_checked_rows_of_half_precision() -> None:
    """Rows of another type become float32."""
    assert checked_rows(np.log(np.array([[0.5, 0.5]], np.float16)), 1, 2, tolerance=1e-2).dtype == np.float32


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([0.0, math.nan, -math.inf], "row 1.*1 NaN among its 3 columns"),
        ([math.nan, math.nan, math.nan], "3 NaN"),
        ([0.0, math.inf, -math.inf], r"1 \+inf"),
        ([-math.inf] * 3, "-inf in all its 3 columns"),
        ([1.0, 2.0, 3.0], r"sums to exp\(3.41\)"),
        ([math.log(0.5), math.log(0.4), -math.inf], r"sums to exp\(-0.105\)"),
        ([1e4, 0.0, 0.0], "sums to"),
    ],
)
def test_checked_rows_refuse(entries: list[float], words: str) -> None:
    """A row that holds NaN or +inf, or is not normalised, is refused with its number and its fault."""
    good = np.log([0.25, 0.5, 0.25])

    with pytest.raises(InvalidLogitsError, match=words):
        checked_rows(np.stack([good, np.array(entries), good]), 3, 3)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 4), (2, 1, 3)])
def test_checked_rows_refuse_another_shape(shape: tuple[int, ...]) -> None:
    """Rows of another shape are refused, with both shapes."""
    with pytest.raises(InvalidLogitsError, match=r"shape .*, not \(2, 3\)"):
        checked_rows(np.zeros(shape), 2, 3)


def test_checked_rows_tolerance() -> None:
    """The stated tolerance is what decides."""
    row = np.log([[0.5, 0.5]]) + 1e-3

    assert checked_rows(row, 1, 2, tolerance=2e-3) is not None
    with pytest.raises(InvalidLogitsError, match=r"not to 1 within 0.0001"):
        checked_rows(row, 1, 2)


def test_import_is_light() -> None:
    """The interface brings in neither torch nor transformers."""
    code = "import sys, bytelm.token_lm; print(*({'torch', 'transformers'} & set(sys.modules)))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.split() == []
