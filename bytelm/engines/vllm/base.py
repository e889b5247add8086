"""What the engine that runs vLLM (engine.py) and the engine that asks a server (vllm_server) have in common.

Rules
    Both are constructed alike: a tokenizer is an object or a place to load it from, and the ids that end and start a
    text are those given or those that the model's configurations name.
    Both remember rows, check sequences and end at the model's context in the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from bytelm.engines import ids
from bytelm.engines.row_memo import Row, RowMemo, Rows, Tokens
from bytelm.errors import ContextOverflowError
from bytelm.token_lm import Draw, Usage, normalised


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


class VllmModel:
    """The base of both engines: a `TokenLM` whose subclass computes rows (`_computed`) and draws tokens.

    Args:
        tokenizer: The model's, a transformers fast tokenizer.
        vocab_size: Columns of a row.
        named: Configurations that may name ids that end a text: ``config`` and ``generation_config``.
        eot_ids: Ids that end a text. None: all that are named.
        start_id: What an empty sequence stands for. None: BOS, else an EOT id.
        context_length: The longest sequence that the model takes; None: no limit is known.
        larger: How to get a longer context, for errors.
        row_bytes: What remembered rows may take.

    Raises:
        InvalidArgumentError: A given id is no column.
        VocabularyMismatchError: Text can become ids that the model has no column for.
    """

    draws_by_default = True

    def __init__(
        self,
        tokenizer: Any,
        vocab_size: int,
        named: Any,
        *,
        eot_ids: Iterable[int] | None,
        start_id: int | None,
        context_length: int | None,
        larger: str,
        row_bytes: int,
    ) -> None:
        ids.check_vocabulary(tokenizer, vocab_size)
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.eot_ids = ids.end_ids(named, tokenizer, vocab_size, eot_ids)
        self.start_id = ids.start_id(tokenizer, vocab_size, self.eot_ids, start_id)
        self.context_length = context_length
        self.usage = Usage()
        self._larger = larger
        self._memo = RowMemo(row_bytes)
        self._lock = threading.RLock()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n vocab"]:
        """Natural log-probabilities of the token after each sequence, in the order given.

        A sequence is fed as it is, with no BOS in front; the empty one is fed as ``start_id``.

        Returns:
            Normalised rows, float32.

        Raises:
            InvalidArgumentError: There are no sequences, or an id is below 0.
            InvalidTypeError: A sequence is no sequence of ids.
            VocabularyMismatchError: An id is none of the model's.
            ContextOverflowError: A sequence is longer than ``context_length``.
            InvalidLogitsError: The model returned NaN.
            ModelError: vLLM failed, or the server was lost or did not answer in time.
        """
        asked = [self._checked(sequence, self.context_length) for sequence in sequences]
        with self._lock:
            return self._memo.answer(asked, self._computed)

    def clear_cache(self) -> None:
        """Forget all rows, and what else this engine remembers; a server keeps its own cache."""
        with self._lock:
            self._memo.clear()

    def _computed(self, sequences: list[Tokens]) -> Rows:
        """The rows of some sequences, each of which is asked for once."""
        raise NotImplementedError

    def _checked(self, sequence: Any, longest: int | None) -> Tokens:
        return ids.checked_ids(
            sequence,
            start_id=self.start_id,
            columns=self.vocab_size,
            context_length=longest,
            larger=self._larger,
        )

    def _room(self, draw: Draw) -> Room:
        sequence = self._checked(draw.sequence, None)
        room = draw.max_tokens if self.context_length is None else self.context_length + 1 - len(sequence)
        return Room(sequence, max(0, min(room, draw.max_tokens)), cut=room < draw.max_tokens)

    def _context_full(self) -> ContextOverflowError:
        return ids.context_full(self.context_length, self._larger)

    def _row(self, tokens: Any, logprobs: Any) -> Row:
        """A row from all ids and their log-probabilities, in any order; an id may come twice."""
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[np.asarray(tokens, np.int64)] = np.asarray(logprobs, np.float32)
        return normalised(row)


def tokenizer_of(given: Any, place: str | Path | None, **options: Any) -> Any:
    """The tokenizer that was given, or the one at a place.

    Args:
        given: A transformers fast tokenizer, a place to load one from, or None.
        place: Where to load it from if none is given.
        options: Of the loading.

    Raises:
        UnsupportedTokenizerError: It has no fast form.
        ModelError: It cannot be loaded.
    """
    if given is not None and not isinstance(given, str | Path):
        ids.check_tokenizer(given)
        return given
    from bytelm.engines.transformers.loading import load_tokenizer

    return load_tokenizer(str(place if given is None else given), **options)
