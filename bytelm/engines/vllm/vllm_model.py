"""What the engine that runs vLLM (engine.py) and the engine that asks a server (vllm_server) have in common.

Rules
    Both are constructed alike: a tokenizer is an object or a place to load it from, and the rest is `RowEngine`'s.
    Both are given rows as ids and log-probabilities, and vLLM draws where it may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bytelm.engines import ids
from bytelm.engines.row_engine import RowEngine
from bytelm.engines.row_memo import Row
from bytelm.engines.rows import normalised


class VllmModel(RowEngine):
    """The base of both engines, with the arguments of `RowEngine`."""

    draws_by_default = True

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
