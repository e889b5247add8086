"""`Viability.mask` by its definition: `extend`, token by token."""

from __future__ import annotations

from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability


def one_by_one(subject: Viability, boundary: Boundary) -> list[bool]:
    """Of each rank, whether its token may follow, with the bytes that stand at this rank."""
    tokens = zip(subject.prefix_index.order.tolist(), subject.prefix_index.spelled, strict=True)
    return [
        subject.extend(boundary, token) is not None and subject.spelled(boundary, token) == data
        for token, data in tokens
    ]
