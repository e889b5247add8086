"""From uniform numbers to symbols, with no more evaluated than they depend on.

Rules
    A number is read against lower bounds on the probabilities (bounds.py), and where they do not decide, against
    better ones. `Place.draw` (place.py) says what bounds, and what is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.inference.scheduler import Step
from bytelm.sampling.params import LogitsProcessor
from bytelm.symbols import SYMBOLS


def settle(
    uniforms: Float64[np.ndarray, " n"],
    *,
    lower: Callable[[], Float64[np.ndarray, "257"]],
    complete: Callable[[], bool],
    more: Callable[[], Step[None]],
) -> Step[tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, "257"]]]:
    """Read uniform numbers against lower bounds, and evaluate more until each has a symbol.

    Args:
        uniforms: Numbers from 0 to below 1.
        lower: The lower bounds on the symbols' probabilities, as far as is known.
        complete: Whether all is known.
        more: Evaluates some more.

    Returns:
        The symbols, -1 for numbers beyond the sum of the bounds when all is known; and the bounds.
    """
    symbols = np.full(len(uniforms), -1)
    floor = np.zeros(SYMBOLS)
    while True:
        raised = np.maximum(floor, lower())
        open_ = symbols < 0
        symbols[open_] = settled(uniforms[open_], floor, raised)
        if (symbols >= 0).all() or complete():
            return symbols, raised
        floor = raised
        yield from more()


def filled(symbols: Int64[np.ndarray, " n"], raised: Float64[np.ndarray, "257"]) -> Int64[np.ndarray, " n"]:
    """The symbols, the last possible one for a number that fell on what rounding took from a sum that is 1."""
    return np.where(symbols < 0, np.flatnonzero(raised)[-1], symbols)


def drawn(uniform: float, probs: Float64[np.ndarray, "257"]) -> int:
    """The symbol of a uniform number under a distribution that is known in full.

    >>> drawn(0.6, np.eye(257)[7] / 2 + np.eye(257)[9] / 2)
    9
    """
    return int(filled(settled(np.array([uniform]), np.zeros(SYMBOLS), probs), probs)[0])


def settled(
    uniforms: Float64[np.ndarray, " n"], floor: Float64[np.ndarray, " m"], raised: Float64[np.ndarray, " m"]
) -> Int64[np.ndarray, " n"]:
    """The symbols of the uniform numbers that fall on what the lower bounds have gained; -1 for those beyond.

    The bounds may be of anything else that is drawn, too.

    >>> floor, raised = np.zeros(257), np.zeros(257)
    >>> floor[0], raised[:2] = 0.25, (0.5, 0.25)
    >>> settled(np.array([0.3, 0.6, 0.8]), floor, raised)
    array([ 0,  1, -1])
    """
    edges = floor.sum() + np.cumsum(raised - floor)
    symbols = np.searchsorted(edges, uniforms, side="right")
    symbols[symbols == len(edges)] = -1
    return symbols


def processed(processor: LogitsProcessor, so_far: bytes, row: Float64[np.ndarray, "257"]) -> Float64[np.ndarray, "257"]:
    """The masses that a processor makes of a row.

    Raises:
        InvalidTypeError: It returned something else than 257 numbers.
        InvalidArgumentError: It returned NaN or +inf, or left no symbol.
    """
    returned: Any = processor(so_far, row)
    try:
        changed = np.asarray(returned, np.float64)
    except (TypeError, ValueError):
        changed = np.zeros(0)
    if changed.shape != (SYMBOLS,):
        raise InvalidTypeError(f"logits_processor must return 257 numbers, one for each symbol; got {shown(returned)}")
    top = changed.max()
    if not np.isfinite(top):
        raise InvalidArgumentError(
            f"logits_processor left no symbol to draw after {so_far[-40:]!r}: the greatest of its numbers is {top}; "
            "it must leave at least one finite, and none NaN or +inf"
        )
    masses: Float64[np.ndarray, "257"] = np.exp(changed - top)
    return masses
