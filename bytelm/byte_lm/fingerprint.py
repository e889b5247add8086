"""What tells one model from another: a digest of its weights, and of what its tokens spell."""

from __future__ import annotations

import hashlib
from typing import Any

from bytelm.tokenizer.vocab import Vocab


def digest_of_model(model: Any) -> str | None:
    """A sha256 of a loaded model's tensors by name, shape, dtype and first values; None where they cannot be read.

    It tells models, adapters and dtypes apart, and does not read gigabytes.
    """
    if not hasattr(model, "named_parameters") or any(values.is_meta for values in model.parameters()):  # offloaded
        return None
    digest = hashlib.sha256()
    for name, values in sorted(model.named_parameters()):
        first = values.detach().flatten()[:64].float().cpu().numpy()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode() + first.tobytes())
    return digest.hexdigest()


def digest_of_vocab(vocab: Vocab) -> str:
    """A digest of what tokens spell and how text is cut; that of the tokenizer's JSON form would take seconds."""
    parts = (vocab.family, vocab.form, vocab.dummy_prefix, vocab.opening, vocab.reopening, vocab.steps, vocab.added)
    digest = hashlib.sha256(repr((*parts, vocab.ignore_merges, vocab.byte_fallback, vocab.marks)).encode())
    for spelled in vocab.token_bytes:
        digest.update(b"-" if spelled is None else b"%d:" % len(spelled) + spelled)
    digest.update(vocab.merges.tobytes())
    return digest.hexdigest()
