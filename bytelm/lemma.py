r"""The lemma, summed term by term: what everything else in this package computes faster.

Rules
    ``token_bytes[i]`` is what token i spells, or None where it spells nothing (special tokens, holes).
    ``viable(ids)`` says whether some text's encoding begins with ids; ``canonical(ids)`` whether ids is an encoding.
    ``row(ids)`` is what the model says after ids: the natural log-probability of each token.
    Nothing here is fast, and nothing is clever: one recursion, three sums. The fast path is tested against it.

Cost
    One row for every proper prefix of every cover member, which grows with the text. For reading and for tests.

Three tokens by hand
    The tokens are a, b and ab, and a fourth, e, that ends a text. The tokenizer merges a·b into ab wherever it can, so
    no encoding holds a before b. The model says the same after anything: a 0.3, b 0.2, ab 0.4, e 0.1.

    The text "a" is begun by two encodings' beginnings: cover("a") = {[a], [ab]}, so P("a") = 0.3 + 0.4 = 0.7.
    "ab" is begun by [ab] alone, so P("ab") = 0.4: the sequence [a, b] has probability 0.3 · 0.2 = 0.06 under the model,
    but it is nobody's encoding. "aa" is begun by [a, a] and [a, ab]: 0.3 · (0.3 + 0.4) = 0.21. The text may end after
    [a]: 0.3 · 0.1 = 0.03. So after "a" comes a with 0.21 / 0.7 = 0.3, b with 0.4 / 0.7 = 0.571, the end with 0.043, and
    0.06 / 0.7 = 0.086 is the leak. A model asked after the token a says b with 0.2: that is the bias of tokenization.

    >>> import math
    >>> token_bytes = [b"a", b"b", b"ab", None]
    >>> def viable(ids):
    ...     return (0, 1) not in zip(ids, ids[1:])
    >>> def row(ids):
    ...     return [math.log(p) for p in (0.3, 0.2, 0.4, 0.1)]
    >>> cover(b"a", token_bytes, viable)
    [(0,), (2,)]
    >>> round(math.exp(prefix_logprob(b"a", token_bytes, viable, row)), 6)
    0.7
    >>> logprobs = next_byte_logprobs(b"a", token_bytes, viable, row, canonical=viable, eot_ids={3})
    >>> [round(math.exp(logprobs[symbol]), 3) for symbol in (ord("a"), ord("b"), 256)]
    [0.3, 0.571, 0.043]

Source
    Phan et al., arXiv:2410.09303 (cover encodings, their "valid" is our canonical); Vieira et al., arXiv:2412.03719.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol, SupportsFloat, TypeAlias

Ids: TypeAlias = tuple[int, ...]
TokenBytes: TypeAlias = Sequence[bytes | None]
Predicate: TypeAlias = Callable[[Ids], bool]


class Row(Protocol):
    """Log-probabilities by token id: a list, an array."""

    def __getitem__(self, token: int, /) -> SupportsFloat: ...


RowOf: TypeAlias = Callable[[Ids], Row]


def cover(prefix: bytes, token_bytes: TokenBytes, viable: Predicate) -> list[Ids]:
    """The viable sequences whose bytes begin with ``prefix`` and whose last token holds its last byte.

    The cover of the empty prefix is the empty sequence alone.
    """
    return list(_members((), prefix, token_bytes, viable))


def _members(ids: Ids, rest: bytes, token_bytes: TokenBytes, viable: Predicate) -> Iterator[Ids]:
    """The cover members that begin with ids, where ``rest`` is what of the prefix lies beyond ids."""
    if not rest:
        yield ids
        return
    for token, spelled in enumerate(token_bytes):
        if spelled and (spelled.startswith(rest) or rest.startswith(spelled)) and viable((*ids, token)):
            yield from _members((*ids, token), rest[len(spelled) :], token_bytes, viable)


def sequence_logprob(ids: Ids, row: RowOf) -> float:
    """Log-probability of a token sequence: the chain rule."""
    return math.fsum(float(row(ids[:k])[token]) for k, token in enumerate(ids))


def prefix_logprob(prefix: bytes, token_bytes: TokenBytes, viable: Predicate, row: RowOf) -> float:
    """Log-probability that a text of the model begins with these bytes: the sum over the cover."""
    return log_sum(sequence_logprob(ids, row) for ids in cover(prefix, token_bytes, viable))


def end_logprob(
    prefix: bytes,
    token_bytes: TokenBytes,
    viable: Predicate,
    row: RowOf,
    *,
    canonical: Predicate,
    eot_ids: Collection[int],
) -> float:
    """Log-probability that the text is these bytes and no more: its sequence is then an encoding of exactly them."""
    endings = [
        ids
        for ids in cover(prefix, token_bytes, viable)
        if b"".join(token_bytes[i] or b"" for i in ids) == prefix and canonical(ids)
    ]
    return log_sum(sequence_logprob(ids, row) + float(row(ids)[eot]) for ids in endings for eot in eot_ids)


def next_byte_logprobs(
    prefix: bytes,
    token_bytes: TokenBytes,
    viable: Predicate,
    row: RowOf,
    *,
    canonical: Predicate,
    eot_ids: Collection[int],
) -> list[float]:
    """Log-probability of each of the 256 bytes after ``prefix``, then of the end of text: 1 less the leak in sum."""
    before = prefix_logprob(prefix, token_bytes, viable, row)
    joint = [prefix_logprob(prefix + bytes([b]), token_bytes, viable, row) for b in range(256)]
    joint.append(end_logprob(prefix, token_bytes, viable, row, canonical=canonical, eot_ids=eot_ids))
    return [logprob - before for logprob in joint]


def log_sum(logs: Iterable[float]) -> float:
    """The logarithm of a sum of exponentials; −∞ for a sum of nothing.

    >>> log_sum([math.log(0.25), math.log(0.5)]) == math.log(0.75), log_sum([])
    (True, -inf)
    """
    terms = list(logs)
    top = max(terms, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(term - top) for term in terms))
