"""How a frontier comes to know what it needs: steps that ask for rows, and no more of them than a purpose takes.

Rules
    A step asks, and is told (scheduler.py); nothing here calls a model.
    All that is known beforehand to be needed is one request.

Numbers
    What is left open of a log-mass is certain to change it by less than `NEGLIGIBLE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.cover.nodes import Node
from bytelm.errors import ModelError
from bytelm.inference.frontier import Frontier, Purpose
from bytelm.inference.scheduler import Request, Step

NEGLIGIBLE: Final = 1e-12


def evaluate(frontier: Frontier, nodes: Sequence[Node]) -> Step[None]:
    """Ask for the rows after some nodes."""
    if nodes:
        rows = yield Request(frontier.sequences(nodes), far=True)
        frontier.learn(nodes, rows)


def evaluate_all(frontier: Frontier, purpose: Purpose = "row") -> Step[None]:
    """Evaluate every node of any mass that a purpose needs: one request, as all of them are known beforehand."""
    while nodes := frontier.missing(purpose=purpose):
        rows = yield Request(frontier.sequences(nodes), far=True)
        if frontier.missing(purpose=purpose):  # or another job, which shares the frontier, has been told the same
            frontier.learn(nodes, rows)


def full_row(frontier: Frontier, *, tol: float = 0.0) -> Step[tuple[Float64[np.ndarray, "257"], float]]:
    """The row ln P(b | x), and a bound on its total variation from the exact one.

    With ``tol`` above 0 nodes are evaluated, the heaviest first, only until the bound is no greater. The row then holds
    what flows through evaluated nodes alone, over P(x) as far as it does; the mass that it lacks or has too much is at
    most U / P(x), for any set of symbols.

    Raises:
        ModelError: The model gives the prefix probability 0.
    """
    while True:
        log_mass = frontier.log_mass()
        bound = 0.0
        if not frontier.complete:
            bound = math.exp(min(frontier.log_bound() - log_mass, 0.0)) if log_mass > -math.inf else 1.0
        if frontier.complete or bound <= tol:
            break
        yield from evaluate(frontier, frontier.missing(1.0 if tol > 0 else 0.0))
    if log_mass == -math.inf:
        raise ModelError(
            f"the model gives the prefix {frontier.cover.prefix[-40:]!r} probability 0, so no distribution follows it"
        )
    return frontier.logprobs(), bound


def settled_log_mass(frontier: Frontier, *, ended: bool) -> Step[float]:
    """Logarithm of P(x), or with ``ended`` of P(x, end of text), once what is open of it is `NEGLIGIBLE`."""
    purpose: Purpose = "end" if ended else "mass"
    while True:
        log_mass = frontier.log_end_mass() if ended else frontier.log_mass()
        nodes = frontier.missing(purpose=purpose)
        if not nodes or frontier.log_bound(purpose) < log_mass + math.log(NEGLIGIBLE):
            return log_mass
        yield from evaluate(frontier, nodes)
