"""What a job cost: the scheduler counts its calls, and a completion adds what it saw of its own rows and drafts."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class JobUsage:
    """The cost of a job.

    Attributes:
        calls: Model calls that it took part in. Jobs that run together share calls, so their sum may exceed the total.
        tokens_fed: Tokens that ran through the model for it, where the engine counts them: its share of each call.
        rows: Sequences that it was the first to ask for.
        largest_leak: A lower bound on the largest leak of all rows that were drawn from. None if none was looked at.
        largest_leak_bound: And none of them lost more than this. The two are equal where every row was evaluated in
            full (``lazy=False``); what a draw does not depend on is left open. None where no row was drawn from, or
            tokens were drawn: then ``redrawn`` tells.
        redrawn: How often a token that was drawn was leak, or spelled a byte that was not kept, and what follows was
            drawn anew (sampling/token_draws.py, sampling/filtered_draws.py).
        drafted: Symbols that a drafter proposed (sampling/speculation.py).
        accepted: And how many of them were accepted.
        draft_error: Why the drafter was left out from some place on; None where it was not.
    """

    calls: int = 0
    tokens_fed: int | None = None
    rows: int = 0
    largest_leak: float | None = None
    largest_leak_bound: float | None = None
    redrawn: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_error: str | None = None

    def plus(self, calls: int = 0, fed: int | None = None, rows: int = 0) -> JobUsage:
        """This and some more."""
        total = self.tokens_fed if fed is None else (self.tokens_fed or 0) + fed
        return replace(self, calls=self.calls + calls, tokens_fed=total, rows=self.rows + rows)

    def leaking(self, seen: JobUsage) -> JobUsage:
        """This with what a completion has seen of its leak and its drafts, which the scheduler cannot know."""
        return replace(
            self,
            largest_leak=seen.largest_leak,
            largest_leak_bound=seen.largest_leak_bound,
            redrawn=seen.redrawn,
            drafted=seen.drafted,
            accepted=seen.accepted,
            draft_error=seen.draft_error,
        )
