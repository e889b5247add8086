"""What the engines have in common: what they are asked is checked, rows are remembered, threads take turns.

Rules
    What is asked is checked before the model runs, and with the same errors by every engine.
    A row that is remembered is not computed again (row_memo.py). Where the model behind the rows can be changed, a
    subclass has a ``refresh`` that looks whether it was; then nothing that was remembered is believed, and the
    ``revision`` is another one.
    An engine that draws tokens stops at the end of the model's context (`Room`), and says so when all others are done.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from bytelm.arguments import integer
from bytelm.engines import ids
from bytelm.engines.row_memo import Row, RowMemo, Rows, Tokens
from bytelm.errors import ContextOverflowError, InvalidArgumentError, InvalidTypeError, VocabularyMismatchError
from bytelm.token_lm import Draw, OneProcess, Usage, revision_of, sequences_of


class Room(NamedTuple):
    """What may be drawn after a sequence.

    Attributes:
        sequence: Token ids.
        tokens: How many tokens may follow.
        cut: Whether they are fewer than asked for, as the context ends.
    """

    sequence: Tokens
    tokens: int
    cut: bool


class RowEngine(OneProcess, ABC):
    """The base of the engines: a `TokenLM` whose subclass computes rows (`_computed`). Threads may share it.

    Args:
        tokenizer: The model's, a transformers fast tokenizer.
        vocab_size: Columns of a row.
        named: What has configurations that may name ids that end a text: ``config`` and ``generation_config``.
        eot_ids: Ids that end a text. None: all that are named.
        start_id: The id to feed for an empty sequence. None: BOS, else an EOT id.
        context_length: The longest sequence that the model takes; None: no limit is known.
        larger: How to get a longer context, for errors.
        row_bytes: What remembered rows may take.

    Attributes:
        revision: Another number once rows may be others: see `bytelm.token_lm.revision_of`.

    Raises:
        InvalidArgumentError: A given id is no column.
        VocabularyMismatchError: Text can become ids that the model has no column for.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocab_size: int,
        named: Any,
        *,
        eot_ids: Iterable[int] | None,
        start_id: int | None,
        context_length: int | None,
        larger: str = "",
        row_bytes: int,
    ) -> None:
        ids.check_vocabulary(tokenizer, vocab_size)
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eot_ids = ids.end_ids(named, tokenizer, vocab_size, eot_ids)
        self.start_id = ids.start_id(tokenizer, vocab_size, self.eot_ids, start_id)
        self.context_length = context_length
        self.usage = Usage()
        self.revision = 0
        self._inputs = vocab_size  # ids that the model can be fed
        self._larger = larger
        self._memo = RowMemo(row_bytes)
        self._lock = threading.RLock()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float[np.ndarray, "n vocab"]:
        """Natural log-probabilities of the token after each sequence, in the order given.

        A sequence is fed as it is, with no BOS in front; the empty one is fed as ``start_id``. Sequences that share a
        prefix share its cost, with one another and with earlier calls.

        Returns:
            Normalised rows, float32; float64 where the model is.

        Raises:
            InvalidArgumentError: There are no sequences, or an id is below 0.
            InvalidTypeError: A sequence is no sequence of ids.
            VocabularyMismatchError: An id is none of the model's.
            ContextOverflowError: A sequence is longer than ``context_length``.
            InvalidLogitsError: The model returned NaN or an infinite logit.
            ModelError: The model failed.
        """
        return np.stack([np.asarray(row) for row in self._answer(sequences)])

    def _answer(self, sequences: Any) -> list[Row]:
        with self._lock:
            revision_of(self, look=True)
            asked = [self._checked(sequence, self.context_length) for sequence in sequences_of(sequences)]
            return self._memo.answer(asked, self._computed)

    def clear_cache(self) -> None:
        """Forget all rows, and what else the engine keeps of sequences; texts that were begun have to begin again."""
        with self._lock:
            self.revision += 1
            self._memo.clear()

    @abstractmethod
    def _computed(self, sequences: list[Tokens]) -> Rows:
        """The rows of some sequences, each of which is asked for once."""

    def _checked(self, sequence: Any, longest: int | None) -> Tokens:
        """The ids of a sequence, at most ``longest``, all of them the model's; of the empty one, ``start_id``."""
        if isinstance(sequence, str | bytes):
            raise InvalidTypeError(f"a sequence is token ids, not text: {sequence!r}; encode it with the tokenizer")
        try:
            found = tuple(sequence)
            least, greatest = (min(found), max(found)) if found else (0, 0)
            inside = 0 <= least <= greatest < self._inputs
        except TypeError as error:
            raise InvalidTypeError(f"sequences must hold sequences of token ids, not {sequence!r}") from error
        if not found:
            if self.start_id is None:
                raise InvalidArgumentError(
                    "the empty sequence needs a start symbol, and the tokenizer has neither a BOS nor an EOT id; "
                    "give start_id="
                )
            return (self.start_id,)
        if least < 0:
            raise InvalidArgumentError(f"id {least!r} in a sequence of {len(found)} tokens is below 0")
        if not inside:
            raise VocabularyMismatchError(
                f"id {greatest} is beyond the model's {self._inputs} ids; the tokenizer does not match the model, or "
                "the token was added without a column in the model"
            )
        if longest is not None and len(found) > longest:
            larger = f"{self._larger}, " if self._larger else ""
            raise ContextOverflowError(
                f"a sequence of {len(found)} tokens does not fit in the model's context of {longest}; shorten the "
                f"prompt, keep its last part, {larger}or give a stride to score a long text"
            )
        return found

    def _room(self, draw: Draw) -> Room:
        sequence = self._checked(draw.sequence, None)
        room = draw.max_tokens if self.context_length is None else self.context_length + 1 - len(sequence)
        return Room(sequence, max(0, min(room, draw.max_tokens)), cut=room < draw.max_tokens)

    def _context_full(self) -> ContextOverflowError:
        larger = f", or {self._larger}" if self._larger else ""
        return ContextOverflowError(
            f"a completion has filled the model's context of {self.context_length} tokens; give a lower "
            f"max_bytes or a shorter prompt{larger}"
        )


def check_least(**given: tuple[int | None, int]) -> None:
    """See that each option is at least as large as it has to be; None is an option that was not given.

    Raises:
        InvalidArgumentError: One is below.

    >>> check_least(n_seq=(64, 1), n_ctx=(None, 1), row_bytes=(-1, 0))
    Traceback (most recent call last):
    bytelm.errors.InvalidArgumentError: row_bytes must be at least 0, not -1
    """
    for name, (value, least) in given.items():
        if value is not None and integer(name, value) < least:
            raise InvalidArgumentError(f"{name} must be at least {least}, not {value!r}")
