"""What tells one model from another: digests of weights, and of all that the numbers of a byte model depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from bytelm.byte_lm.fingerprint import _spelling, fingerprint
from bytelm.byte_lm.model import ByteLM
from bytelm.ensemble.model import Ensemble
from bytelm.errors import InvalidArgumentError


def digest_of(lm: ByteLM | Ensemble) -> str:
    """A sha256 of what a byte model's numbers depend on: weights, tokenizer, ends of text, members and their weights.

    An engine without tensors to read is known by what it says after one token.

    Raises:
        InvalidArgumentError: The weights of an ensemble are a function, which cannot be told from another.
    """
    return hashlib.sha256(json.dumps(_described(lm)).encode()).hexdigest()


def _described(lm: ByteLM | Ensemble) -> list[Any]:
    if isinstance(lm, Ensemble):
        weights = lm._weights  # noqa: SLF001 - what they are is the point
        if callable(weights):
            raise InvalidArgumentError("an ensemble whose weights are a function cannot be told from another one")
        return [lm.combine, weights.tolist(), [_described(member) for member in lm.members]]
    engine, prompts = lm.token_lm, lm._prompts  # noqa: SLF001 - likewise
    known = fingerprint(getattr(engine, "model", None))
    if known is None:
        row = engine.next_token_logprobs([(int(lm.viability.vocab.order[0]),)])[0]
        known = hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()
    return [known, _spelling(lm.viability.vocab), sorted(lm.eot_ids), list(prompts.bos_ids), prompts.normalize]
