"""A model one can hold in the hand: its distributions are written down, or drawn from a seeded hash."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from bytelm.arguments import eot_ids_of, integer, number, shown, token_ids_of
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.token_lm import Usage, sequences_of

Distribution = Mapping[int, float] | Sequence[float] | Float[np.ndarray, " vocab"]


class TableLM:
    """A toy `TokenLM` in float64: a table of distributions, or a random one that a seed fixes.

    Without ``table``, the row after a sequence is a softmax of normal deviates drawn from a hash of the seed and of
    the whole sequence: the same in every process, and different for any two sequences, reorderings included.

    Args:
        tokenizer: The tokenizer that the ids are of.
        table: ``{sequence: distribution}``, or a function from a sequence to its distribution. A distribution is
            ``{id: probability}`` (ids left out have probability 0) or one probability for each column, with sum 1
            within 1e-9.
        seed: Picks the random distributions.
        temperature: Divides their logits, whose standard deviation is 3: smaller is sharper.
        order: The row depends on the last ``order`` tokens only (a Markov chain); None: on all of them.
        eot_ids: Ids that end a text; None: the tokenizer's ``eos_token_id``, if it has one.
        vocab_size: Columns of a row; None: the tokenizer's largest id and one more.

    Raises:
        InvalidArgumentError: An argument is out of range, or a distribution of the table is none.

    A model over two tokens, by hand:

    >>> coin = TableLM(None, table={(): {0: 0.25, 1: 0.75}, (1,): [0.5, 0.5]}, eot_ids=(), vocab_size=2)
    >>> np.exp(coin.next_token_logprobs([(1,), ()])).round(6).tolist()
    [[0.5, 0.5], [0.25, 0.75]]
    >>> coin.usage.calls
    1
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        table: Mapping[tuple[int, ...], Distribution] | Callable[[tuple[int, ...]], Distribution] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        order: int | None = None,
        eot_ids: Iterable[int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        if not number("temperature", temperature) > 0:
            raise InvalidArgumentError(f"temperature must be above 0, not {temperature!r}")
        if order is not None and integer("order", order) < 0:
            raise InvalidArgumentError(f"order must be None or at least 0, not {order!r}")
        if eot_ids is None:
            eos = getattr(tokenizer, "eos_token_id", None)
            eot_ids = () if eos is None else (eos,)
        if vocab_size is None and not hasattr(tokenizer, "get_vocab"):
            raise InvalidTypeError(f"give a tokenizer, or vocab_size=; got {shown(tokenizer)}")
        if table is not None and not isinstance(table, Mapping) and not callable(table):
            raise InvalidTypeError(f"table must be a mapping or a function; got {shown(table)}")
        if not abs(integer("seed", seed)) < 1 << 63:
            raise InvalidArgumentError(f"seed must be below 2**63; got {seed}")
        self.tokenizer = tokenizer
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1 if vocab_size is None else vocab_size
        if not 1 <= integer("vocab_size", self.vocab_size) < 1 << 31:
            raise InvalidArgumentError(f"vocab_size must be at least 1, and below 2**31; got {vocab_size}")
        self.eot_ids = eot_ids_of(eot_ids, self.vocab_size)
        self.usage = Usage()
        self._table = table
        self._seed = seed
        self._temperature = temperature
        self._order = order

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float64[np.ndarray, "n vocab"]:
        """Rows of the table, float64 natural logs. One call in ``usage``, and one token fed for each distinct row.

        Raises:
            InvalidArgumentError: No sequence is given, or one of them has an id outside the columns or is not in
                the table.
        """
        asked = [token_ids_of(sequence, "a sequence") for sequence in sequences_of(sequences)]
        if not asked:
            raise InvalidArgumentError("no sequences: ask for at least one, such as [()]")
        self.usage.calls += 1
        self.usage.tokens_fed += len(set(asked))
        return np.stack([self._row(sequence) for sequence in asked])

    def __repr__(self) -> str:
        kind = "random" if self._table is None else "written"
        return f"TableLM({kind}, {self.vocab_size} columns, eot_ids={sorted(self.eot_ids)})"

    def _row(self, sequence: tuple[int, ...]) -> Float64[np.ndarray, " vocab"]:
        if sequence and not 0 <= min(sequence) <= max(sequence) < self.vocab_size:
            raise InvalidArgumentError(f"sequence {sequence!r} has ids outside 0..{self.vocab_size - 1}")
        context = sequence if self._order is None else sequence[len(sequence) - min(self._order, len(sequence)) :]
        if self._table is None:
            return self._drawn_row(context)
        if callable(self._table):
            return self._written_row(context, self._table(context))
        try:
            return self._written_row(context, self._table[context])
        except KeyError:
            raise InvalidArgumentError(
                f"the table has no distribution after {context!r}; add one, or give order= to look at fewer tokens"
            ) from None

    def _drawn_row(self, context: tuple[int, ...]) -> Float64[np.ndarray, " vocab"]:
        key = array("q", (self._seed, *context)).tobytes()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest())))
        logits = generator.normal(scale=3 / self._temperature, size=self.vocab_size)
        logits -= logits.max()
        row: Float64[np.ndarray, " vocab"] = logits - np.log(np.exp(logits).sum())
        return row

    def _written_row(self, context: tuple[int, ...], distribution: Distribution) -> Float64[np.ndarray, " vocab"]:
        probs = np.zeros(self.vocab_size)
        if isinstance(distribution, Mapping):
            for i, prob in distribution.items():
                if not 0 <= i < self.vocab_size:
                    raise InvalidArgumentError(
                        f"the table's id {i} after {context!r} is no column of {self.vocab_size}"
                    )
                probs[i] = prob
        elif len(distribution) == self.vocab_size:
            probs[:] = distribution
        else:
            raise InvalidTypeError(
                f"the table after {context!r} must be a mapping, or {self.vocab_size} numbers, not {distribution!r}"
            )
        if not ((probs >= 0).all() and abs(probs.sum() - 1) <= 1e-9):
            raise InvalidArgumentError(f"the probabilities after {context!r} are not ≥ 0 with sum 1: {distribution!r}")
        with np.errstate(divide="ignore"):
            return np.log(probs)
