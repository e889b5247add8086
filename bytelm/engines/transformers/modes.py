"""Which shortcuts a model allows: found out by comparing each with the definition, on a handful of tokens.

Rules
    The definition of a row is a plain forward pass over its sequence, without a cache.
    A mode is taken only if its rows are those of the definition within the model's rounding, and if nothing that the
    model declares about itself speaks against it (a window or a recurrent state shows only in longer sequences).

    *tree*    any tree of sequences in one pass, by a 4D mask and explicit positions;
    *chain*   one branch in a pass, the model making its own mask (alibi, flash attention, chunked attention);
    *states*  copies of the model's own memory, fed token by token (recurrent and hybrid models);
    *prefix*  no cache, padded batches, rows of prefixes read off the same pass;
    *whole*   no cache, and each sequence by itself (models that look ahead).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float

from bytelm.engines.row_memo import Rows, Tokens
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.forward import Forward

Mode = Literal["tree", "chain", "states", "prefix", "whole"]

FASTEST_FIRST: Final[tuple[Mode, ...]] = ("tree", "chain", "states", "prefix")


def choose_mode(forward: Forward, compute: Callable[[list[list[Tokens]], Mode], list[Rows]]) -> tuple[Mode, str]:
    """The fastest mode that is right, and why each faster one is not.

    Args:
        forward: The model.
        compute: Rows of successive calls in a given mode, beginning with an empty cache.
    """
    a, b, c, d, e, x, y = ((1 + i * max(forward.inputs // 8, 1)) % forward.inputs for i in range(7))
    plain: Rows = {}
    for ids in ((a, b, c, d, e), (a, b, x, y)):
        rows = forward.plain([ids], [(0, i) for i in range(len(ids))])
        plain.update((ids[: i + 1], row) for i, row in enumerate(rows))
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


def _declared(forward: Forward, mode: Mode) -> str | None:
    if mode == "tree" and isinstance(forward.masking, str):
        return forward.masking
    return traits.recurrence(forward.model) if mode in ("tree", "chain") else None


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
    rounding = 1000 * float(torch.finfo(torch.float32).eps) * max(float(np.abs(row).max()) for row in values)
    if model.dtype in (torch.float16, torch.bfloat16):
        rounding = spread
    if far <= min(rounding, spread / 4):
        return None
    return f"its log-probabilities are {far:.2g} from those of a plain forward pass"


def _distance(row: Float[np.ndarray, " vocab"], other: Float[np.ndarray, " vocab"]) -> float:
    finite = np.isfinite(row) & np.isfinite(other)
    if not (finite | (row == other)).all():
        return float("inf")
    return float(np.abs(row[finite] - other[finite]).max())
