"""The contract of `TokenLM`, as checks that any engine can be run through: bytelm's own and yours.

This chapter decides whether an engine keeps the contract, and what can be said of a model before it is loaded
(doctor.py). It takes a function that makes an engine, or a tokenizer. It gives a report, or a `ContractError` that
lists the broken rules with the figures that show it. It never judges the model itself: see "Does not".

    from bytelm.testing import check_engine

    def test_my_engine():
        check_engine(lambda: MyEngine("my-model"), tolerance=1e-4)

Rules
    `RULES` names them, each with what it demands. All are checked, and a `ContractError`, which is an AssertionError
    too, lists those that are broken, with the sequence and the figure that show it.
    What is right is asked of a fresh engine, one sequence alone in its first call, or of another one (``reference``).
    Everything else is compared with that: whatever was asked before, in whatever company, a row is the same row.
    Tokens are drawn from the tokenizer's ordinary ones under a fixed seed; a seed gives the same sequences everywhere.

Cost
    Some 50 short sequences alone, and some 400 more in batches. The engine is made anew for each of the former. A
    `TokenDrawer` draws some 300 tokens.

Does not
    Say that a model is right: an engine that feeds its model the wrong tokens from the first call on does so in the
    fresh one too. Give ``reference`` to see that. Nor does it know how large a cache is: where `eviction` is to mean
    anything, make the engine with little room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from bytelm.arguments import Number
from bytelm.errors import ContractError, InvalidArgumentError
from bytelm.testing.engine_trial import BrokenRuleError, EngineTrial, UncheckedRuleError
from bytelm.testing.rules import RULES
from bytelm.token_lm import TokenLM

__all__ = ["RULES", "Finding", "Report", "check_engine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one rule.

    Attributes:
        rule: Its name, a key of `RULES`.
        fault: What is wrong, with the sequence that shows it; empty where nothing is.
        skipped: Why it was not checked; empty where it was.
        difference: The largest difference in any entry of any row from the right one, in nats; 0 where there is none.
    """

    rule: str
    fault: str = ""
    skipped: str = ""
    difference: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of all rules.

    Attributes:
        engine: How the engine describes itself.
        findings: One for each rule, in the order of `RULES`.
    """

    engine: str
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The rules that are broken."""
        return tuple(finding for finding in self.findings if finding.fault)

    @property
    def difference(self) -> float:
        """The largest difference that any rule saw, in nats."""
        return max((finding.difference for finding in self.findings), default=0.0)

    def __str__(self) -> str:
        width = max(map(len, RULES))
        lines = [f"{self.engine}: {len(self.faults)} of {len(self.findings)} rules broken"]
        for finding in self.findings:
            told = finding.fault or (f"not checked: {finding.skipped}" if finding.skipped else "ok")
            if told == "ok" and finding.difference:
                told = f"ok, within {finding.difference:.1e}"
            lines.append(f"  {finding.rule:{width}}  {told}")
        return "\n".join(lines)


def check_engine(
    make: Callable[[], TokenLM],
    *,
    tolerance: Number = 1e-4,
    reference: TokenLM | None = None,
    failing: Callable[[Any], AbstractContextManager[Any]] | None = None,
    rules: Iterable[str] | None = None,
    seed: int = 0,
) -> Report:
    """Run an engine through the contract.

    Args:
        make: Returns an engine that has been asked nothing. Where loading takes long, load the model once and wrap it
            anew each time, or return the same engine with its cache cleared.
        tolerance: How far an entry of a row may be from the right one, in nats.
        reference: Another engine of the same model, whose rows are the right ones; a fresh engine's if not given.
        failing: Given an engine, returns a context in which its model fails in the middle of a call. Without it, only
            a batch with a bad id in its middle is tried.
        rules: Which rules; all of `RULES` if not given. For one test a rule, parametrize over `RULES`.
        seed: Picks the sequences.

    Returns:
        What was found, the largest difference included.

    Raises:
        ContractError: A rule is broken; it lists all that are.
        InvalidArgumentError: There is no such rule, or the tolerance is below 0.

    >>> report = check_engine(lambda: MyEngine("my-model"))  # doctest: +SKIP
    >>> report.difference  # doctest: +SKIP
    3.6e-06
    """
    names = tuple(RULES) if rules is None else tuple(rules)
    if unknown := [name for name in names if name not in RULES]:
        raise InvalidArgumentError(f"no rule is called {unknown[0]!r}; there are {', '.join(RULES)}")
    if not tolerance >= 0:
        raise InvalidArgumentError(f"tolerance must be at least 0, not {tolerance!r}")
    trial = EngineTrial(make, float(tolerance), reference, failing, seed)
    report = Report(repr(trial.make()), tuple(_found(trial, name) for name in names))
    if report.faults:
        raise ContractError(str(report))
    return report


def _found(trial: EngineTrial, rule: str) -> Finding:
    trial.difference = 0.0
    fault = skipped = ""
    try:
        RULES[rule].check(trial)
    except UncheckedRuleError as reason:
        skipped = str(reason)
    except BrokenRuleError as broken:
        fault = str(broken)
    except Exception as error:  # noqa: BLE001 - the engine's own, where none is due
        fault = f"raised {type(error).__name__}: {error}"
    return Finding(rule, fault, skipped, trial.difference)
