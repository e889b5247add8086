"""Which shortcuts a model allows: found out by comparing each with the definition, on a handful of tokens.

Rules
    The definition of a row is a plain forward pass over its sequence, without a cache.
    A mode is taken only if its rows are those of the definition within the model's rounding, and if nothing that the
    model declares about itself speaks against it (a window or a recurrent state shows only in longer sequences).
    A model in which a later token changes an earlier row is no causal one, and is refused. The two passes that show it
    have five tokens each, of which the first two are the same ones: to a causal model the rows after these are the
    same to the last bit, or nearly, where what follows them decides the order of sums (experts). `_NOISE` says how
    near.

    *tree*    any tree of sequences in one pass, by a 4D mask and explicit positions;
    *chain*   one branch in a pass, the model making its own mask (alibi, flash attention, chunked attention);
    *states*  copies of the model's own memory, fed token by token (recurrent and hybrid models);
    *prefix*  no cache, padded batches, rows of prefixes read off the same pass;
    *whole*   no cache, and each sequence by itself (adapters that later tokens switch on).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import torch

from bytelm.engines.row_memo import Row, Rows, Tokens
from bytelm.engines.transformers import adapters, traits
from bytelm.engines.transformers.fingerprint import casting
from bytelm.engines.transformers.forward import Forward
from bytelm.engines.transformers.heads import denies_causality, looks_ahead

Mode = Literal["tree", "chain", "states", "prefix", "whole"]

FASTEST_FIRST: Final[tuple[Mode, ...]] = ("tree", "chain", "states", "prefix")
# What a later token may change an earlier row by: in units of the rounding of float32, and as a share of what other
# tokens in the place of the earlier ones would change.
_NOISE: Final = (100, 0.02)


def choose_mode(forward: Forward, compute: Callable[[list[list[Tokens]], Mode], list[Rows]]) -> tuple[Mode, str]:
    """The fastest mode that is right, and why each faster one is not.

    Args:
        forward: The model.
        compute: Rows of successive calls in a given mode, beginning with an empty cache.

    Raises:
        ModelError: The model looks ahead.
    """
    a, b, c, d, e, x, y, z = ((1 + i * max(forward.inputs // 8, 1)) % forward.inputs for i in range(8))
    plain: Rows = {}
    for ids in ((a, b, c, d, e), (a, b, x, y, z)):
        rows = forward.plain([ids], [(0, i) for i in range(len(ids))])
        found = {ids[: i + 1]: row for i, row in enumerate(rows)}
        _check_causal(forward.model, plain, found)
        plain |= found
    calls: list[list[Tokens]] = [[(a,), (a, b)], [(a, b, c), (a, b, x, y), (a, b, x)], [(a, b, c, d, e), (a, b)]]
    # A memory made by a pass over several tokens, and gone on from more than once, is another one.
    calls += [[(a, b, c, d), (a, b, x)], [(a, b, x, y)], [(a, b, c, d, e)], [(a, b, x, y), (a, b, c, d)]]
    reasons: list[str] = []
    for mode in FASTEST_FIRST:
        reason = _declared(forward, mode) or _disagreement(forward.model, mode, calls, plain, compute)
        if reason is None:
            return mode, "; ".join(reasons)
        reasons.append(f"{mode}: {reason}")
    return "whole", "; ".join(reasons)


def _check_causal(model: Any, one: Rows, other: Rows) -> None:
    """See that the rows of what two sequences begin with alike are the same."""
    change = max((_distance(one[ids], other[ids]) for ids in one.keys() & other.keys()), default=0.0)
    if change == 0.0:
        return
    if denies_causality(model):
        raise looks_ahead(model, change)
    rows = list(other.values())
    spread = max(_distance(row, rows[-1]) for row in rows[:-1])
    ulps, share = _NOISE
    noise = spread * share
    if not _rounds_coarsely(model):
        noise = min(noise, ulps * float(torch.finfo(torch.float32).eps) * _size(rows))
    if change > noise:
        raise looks_ahead(model, change)


def _declared(forward: Forward, mode: Mode) -> str | None:
    model = forward.model
    if mode == "prefix":
        return adapters.inseparable(model)
    if mode == "tree" and isinstance(forward.masking, str):
        return forward.masking
    return adapters.uncacheable(model) if mode == "states" else traits.recurrence(model) or adapters.uncacheable(model)


def _disagreement(
    model: Any,
    mode: Mode,
    calls: list[list[Tokens]],
    plain: Rows,
    compute: Callable[[list[list[Tokens]], Mode], list[Rows]],
) -> str | None:
    """Why a mode does not give the rows of plain forward passes, or None where it does."""
    try:
        found = compute(calls, mode)
    except Exception as error:  # noqa: BLE001 - whatever it is, this way is closed, and a slower one is not
        return f"it fails with {type(error).__name__}: {error}"
    far = max(_distance(row, plain[ids]) for rows in found for ids, row in rows.items())
    values = list(plain.values())
    # What a wrong context would do to a row, against what rounding may.
    spread = max(_distance(row, values[-1]) for row in values[:-1])
    rounding = 1000 * float(torch.finfo(torch.float32).eps) * _size(values)
    if _rounds_coarsely(model):
        rounding = spread
    if far <= min(rounding, spread / 4):
        return None
    return f"its log-probabilities are {far:.2g} from those of a plain forward pass"


def _rounds_coarsely(model: Any) -> bool:
    """Whether the model computes in 16 bits, by its weights or by autocast."""
    return model.dtype in (torch.float16, torch.bfloat16) or bool(casting())


def _size(rows: list[Row]) -> float:
    """The largest of all log-probabilities, as a size."""
    return max(float(np.abs(row[np.isfinite(row)]).max(initial=0.0)) for row in map(np.asarray, rows))


def _distance(one: Row, two: Row) -> float:
    row, other = np.asarray(one), np.asarray(two)
    finite = np.isfinite(row) & np.isfinite(other)
    if not (finite | (row == other)).all():
        return float("inf")
    return float(np.abs(row[finite] - other[finite]).max())
