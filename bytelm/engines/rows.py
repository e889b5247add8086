"""Rows of a model: what they have to be, and the token on which a number falls.

A row
    Natural logs of the probabilities of all ids, normalised (sum 1 in probability). −∞ is a legal entry, NaN and +∞
    never are.

Sums
    In parts of `PART` entries, as fresh memory for a whole row takes longer than the sum; in a part numpy adds
    pairwise, which in float32 is off by less than 1e-6.

Draws
    A token's number is read against the row. The tokens with more than e² times the mean probability come first, in the
    order of their ids, and then the others. The likely ones are some hundred, and have 96 % or more of most rows. So
    mostly only their probabilities are computed. A number beyond them is read against the others: against the sums of
    blocks of `BLOCK` ids, and then inside the block.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64

from bytelm.errors import InvalidLogitsError
from bytelm.token_lm import Likely

ROW_TOLERANCE: Final = 1e-4  # how far log Σ exp(row) may be from 0: float32 rows of 2¹⁸ columns stay within 1e-5
FAR: Final = 1e-2  # how far it may be for a row that is still to be normalised
PART: Final = 1 << 15  # entries of a row that are summed at a time
BLOCK: Final = 256  # ids


def checked_rows(
    rows: Any, n: int, vocab_size: int, *, tolerance: float = ROW_TOLERANCE
) -> Float[np.ndarray, "n vocab"]:
    """The rows of an engine, found to be what `TokenLM` promises.

    Args:
        rows: What `next_token_logprobs` returned.
        n: How many sequences were asked for.
        vocab_size: Columns that a row has to have.
        tolerance: How far the log of a row's sum may be from 0, in nats.

    Raises:
        InvalidLogitsError: The shape is another one, an entry is NaN or +inf, or a row is not normalised.

    >>> checked_rows(np.log([[0.25, 0.75]]), 1, 2).shape
    (1, 2)
    >>> checked_rows(np.array([[np.nan, 0.0]]), 1, 2)
    Traceback (most recent call last):
    bytelm.errors.InvalidLogitsError: row 0 of the model's log-probabilities holds 1 NaN among its 2 columns; ...
    """
    found = shaped_rows(rows, n, vocab_size)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # One pass over a row sees everything: NaN and +inf survive the sum, and -inf adds nothing.
        totals = np.log([total(row) for row in found])
    for i in np.flatnonzero(~(np.abs(totals) <= tolerance)):
        raise InvalidLogitsError(_row_fault(found[i], int(i), float(totals[i]), tolerance))
    return found


def shaped_rows(rows: Any, n: int, vocab_size: int) -> Float[np.ndarray, "n vocab"]:
    """As `checked_rows`, for rows of an engine that has normalised them itself: they are not added up again."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(rows)
        if found.dtype not in (np.float32, np.float64):
            found = found.astype(np.float32)
    if found.shape != (n, vocab_size):
        raise InvalidLogitsError(
            f"the model returned log-probabilities of shape {found.shape}, not ({n}, {vocab_size}): one row for "
            "each sequence and one column for each token; check vocab_size and next_token_logprobs of the engine"
        )
    return found


def normalised(row: Float32[np.ndarray, " vocab"]) -> Float32[np.ndarray, " vocab"]:
    """A row whose sum is 1 to the last bits: float32 sums over a vocabulary are off by up to 1e-4.

    Raises:
        InvalidLogitsError: It is no row of log-probabilities.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_total = np.log(total(row))
    if not abs(log_total) <= FAR:
        checked_rows(row[None], 1, len(row), tolerance=FAR)  # says what is wrong
    exact: Float32[np.ndarray, " vocab"] = row - np.float32(log_total)
    return exact


def total(row: Float[np.ndarray, " vocab"]) -> float:
    """The sum of a row's exponentials.

    >>> round(total(np.log([0.25, 0.5])), 12)
    0.75
    """
    powers, parts = np.empty(min(len(row), PART), row.dtype), range(0, len(row), PART)
    some = (row[first : first + PART] for first in parts)
    return sum(float(np.exp(part, out=powers[: len(part)]).sum()) for part in some)


def _row_fault(row: Float[np.ndarray, " vocab"], i: int, total: float, tolerance: float) -> str:
    head = f"row {i} of the model's log-probabilities"
    for name, bad in (("NaN", np.isnan(row)), ("+inf", row == np.inf)):
        if bad.any():
            return (
                f"{head} holds {int(bad.sum())} {name} among its {row.size} columns; the model overflowed or is "
                "damaged: load it in float32 or bfloat16, or fetch it again"
            )
    if np.isneginf(row).all():
        return f"{head} is -inf in all its {row.size} columns: no token can follow; the engine masks too much"
    return (
        f"{head} sums to exp({total:.3g}), and not to 1 within {tolerance:g}: "
        "they are not normalised natural logarithms; apply a log-softmax"
    )


def least_likely(vocab_size: int) -> float:
    """The log-probability above which a token is one of the likely ones.

    >>> round(math.exp(least_likely(1000)), 6)
    0.007389
    """
    return 2.0 - math.log(vocab_size)


def likely_of(logprobs: Float[np.ndarray, " vocab"]) -> Likely:
    """The likely tokens of a row.

    >>> likely_of(np.log([1e-6] * 99 + [1 - 99e-6])).ids
    array([99], dtype=int32)
    """
    # By bits: to look for some hundred among so many bytes takes longer than to pack these.
    bits = np.packbits(logprobs > least_likely(len(logprobs)))
    some = np.flatnonzero(bits != 0)
    inside = np.flatnonzero(np.unpackbits(bits[some]).view(np.bool_))
    ids = ((some[inside >> 3] << 3) + (inside & 7)).astype(np.int32)
    return Likely(ids, logprobs[ids])


def drawn_token(uniform: float, logprobs: Float[np.ndarray, " vocab"], likely: Likely | None = None) -> int:
    """The token on which a uniform number falls.

    Args:
        uniform: From 0 to below 1.
        logprobs: The row, natural logs of probabilities that sum to 1.
        likely: Its likely tokens, where they are known already.

    >>> [drawn_token(uniform, np.log([0.25, 0.5, 0.25])) for uniform in (0.0, 0.3, 0.99)]
    [0, 1, 2]
    """
    likely = likely_of(logprobs) if likely is None else likely
    ids, edges = likely.ids, _edges(likely.logprobs)
    at = int(np.searchsorted(edges, uniform, side="right"))
    if at < len(ids):
        return int(ids[at])
    below = float(edges[-1]) if len(ids) else 0.0
    others = logprobs.copy()
    others[ids] = -np.inf
    token = _in_order((uniform - below) / (1.0 - below), others)
    return int(ids[-1]) if token is None else token  # rounding took from a sum that is 1


def likely_drawn(uniform: float, likely: Likely, vocab_size: int) -> tuple[int, float] | None:
    """The token of `drawn_token`, and its log-probability; None if it is none of the likely ones.

    >>> likely_drawn(0.7, Likely(np.array([3, 5], np.int32), np.log([0.6, 0.2])), 100)
    (5, -1.6094379124341003)
    """
    among = np.flatnonzero(likely.logprobs > least_likely(vocab_size))
    at = int(np.searchsorted(_edges(likely.logprobs[among]), uniform, side="right"))
    return (int(likely.ids[among[at]]), float(likely.logprobs[among[at]])) if at < len(among) else None


def likely_entries(
    likely: Likely, ids: Int32[np.ndarray, " n"] | Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"] | None:
    """The log-probabilities of some ids; None where one of them is none of those in memory.

    >>> here = Likely(np.array([3, 5], np.int32), np.array([-0.5, -1.0]))
    >>> likely_entries(here, np.array([5, 3])), likely_entries(here, np.array([4, 5]))
    (array([-1. , -0.5]), None)
    """
    at = np.searchsorted(likely.ids, ids)
    if (at == len(likely.ids)).any() or (likely.ids[at] != ids).any():
        return None
    found: Float64[np.ndarray, " n"] = likely.logprobs[at].astype(np.float64)
    return found


def _edges(logprobs: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Where each token's share of the numbers from 0 to 1 ends."""
    edges: Float64[np.ndarray, " n"] = np.cumsum(np.exp(logprobs), dtype=np.float64)
    return edges


def _in_order(share: float, logprobs: Float[np.ndarray, " vocab"]) -> int | None:
    """The token on which a share of all that a row has falls; None where it has nothing."""
    buffer, sums = np.empty(min(len(logprobs), PART), logprobs.dtype), []  # by parts: fresh memory is slow
    for first in range(0, len(logprobs), PART):
        part = logprobs[first : first + PART]
        probs = np.exp(part, out=buffer[: len(part)])
        sums.append(np.add.reduceat(probs, np.arange(0, len(part), BLOCK)))
    blocks = np.concatenate(sums)
    edges = np.cumsum(blocks, dtype=np.float64)
    if not edges[-1]:
        return None
    sought = share * edges[-1]
    block = min(int(np.searchsorted(edges, sought, side="right")), int(np.flatnonzero(blocks)[-1]))
    inside = np.exp(logprobs[block * BLOCK : (block + 1) * BLOCK])
    ends = np.cumsum(inside, dtype=np.float64) + (edges[block - 1] if block else 0.0)
    within = int(np.searchsorted(ends, sought, side="right"))
    # Beyond the sum of the block: two orders of addition, and the number falls between them.
    return block * BLOCK + (within if within < len(inside) else int(np.flatnonzero(inside)[-1]))
