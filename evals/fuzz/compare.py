"""One case against the definition: covers, rows, ends of text, log-probabilities, states and draws, or a refusal.

Rules
    A tokenizer may be refused by name in the constructor, and nowhere later. A prefix without a witness has to raise
    `UnreachablePrefixError`, and one with a witness may raise nothing. After a few findings a case is done with.
    Every sequence that has a witness must be in the cover, and every sequence of the cover must have one. Where bytelm
    may refuse the witnesses (kept.py), it may do either.
    Numbers are compared in nats, within `CLOSE`. The definition's are sums over the witnessed sequences, by the chain
    rule; bytelm is asked through `ByteLM` alone.
    Draws: greedy bytes are the largest of the row. A drawn byte is turned into a number that is uniform if the draw
    follows the row (its place in the cumulative row, at random within its own share); the numbers of all cases are
    counted in ten parts, and the law is judged over the run (report.py).
    Time is CPU time within bytelm, without the model's.
Cost
    Rows are the dear part: they are asked for at some of the prefixes, covers at all.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from bytelm import ByteLM
from bytelm.errors import UnreachablePrefixError, UnsupportedTokenizerError
from evals.fuzz.case import Case
from evals.fuzz.definition import SEARCHED, Definition, Witnessed
from evals.fuzz.model import HashLM, Ids, log_sum

CLOSE: Final = 1e-9  # nats, for each nat of the number itself where that is more than one
SLOW: Final = 2.0  # seconds of one tokenizer
ROWS: Final = 8  # prefixes of a case whose rows are asked for
DRAWN: Final = 4  # of those, that are drawn from
DRAWS: Final = 4  # for each of them
ENOUGH: Final = 4  # findings of one case

T = TypeVar("T")


class UnbuiltError(Exception):
    """The tokenizers library does not build the tokenizer, or panics at a text: it is not a case."""


@dataclass(frozen=True)
class Finding:
    """Something that bytelm says and the definition does not, or the other way round.

    Attributes:
        kind: "claimed" (counted and never emitted), "missing" (emitted and not counted), "number", "refused" (a text
            that can be spelled), "accepted" (one that cannot), "not finite", "draw", "error" or "slow".
        prefix: The prefix, as Latin-1; None if the whole tokenizer is at fault.
        detail: What was found and what was expected.
    """

    kind: str
    prefix: str | None
    detail: str


@dataclass
class Outcome:
    """What comparing a case gave.

    Attributes:
        refused: The constructor's refusal.
        findings: The disagreements.
        prefixes: How many were compared, whether they can be spelled or not.
        seconds: Of bytelm, the model's taken off.
        parts: Uniform numbers of the draws, counted in ten parts.
    """

    refused: str | None = None
    findings: list[Finding] = field(default_factory=list)
    prefixes: int = 0
    rows: int = 0
    seconds: float = 0.0
    parts: list[int] = field(default_factory=lambda: [0] * 10)


def compare(case: Case, *, seed: int = 0, slow: float = SLOW, searched: int = SEARCHED) -> Outcome:
    """Compare all that is asked about a case."""
    outcome = _compared(case, seed, searched)
    if outcome.seconds > slow:
        # Once more: what is computed once for all tokenizers is there now, and the machine may have been busy.
        outcome.seconds = min(outcome.seconds, _compared(case, seed, searched).seconds)
    if outcome.seconds > slow:
        outcome.findings.append(Finding("slow", None, f"{outcome.seconds:.1f} s"))
    return outcome


def _compared(case: Case, seed: int, searched: int) -> Outcome:
    outcome = Outcome()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _Comparison(case, outcome, seed, searched).run()
    return outcome


class _Comparison:
    def __init__(self, case: Case, outcome: Outcome, seed: int, searched: int) -> None:
        self.outcome = outcome
        try:
            self.definition = Definition(case, searched=searched)
            self.witnessed = Witnessed(self.definition, case.asked)
        except BaseException as error:
            _unless_stopped(error)
            raise UnbuiltError(repr(error)) from error
        self.model = HashLM(
            self.definition.backend,
            self.definition.vocab_size + 1,
            frozenset({self.definition.end_id}),
            self.definition.allowed,
        )
        self.case = case
        self.random = np.random.default_rng(seed)
        self.rows: dict[bytes, np.ndarray] = {}

    def run(self) -> None:
        """Compare everything; an unexpected error is a finding."""
        try:
            self.lm = self._timed(lambda: ByteLM(self.model))
        except UnsupportedTokenizerError as refusal:
            self.outcome.refused = str(refusal)
            return
        except BaseException as error:  # noqa: BLE001 - a panic of a library is no Exception
            _unless_stopped(error)
            self._found("error", None, f"in the constructor: {error!r}")
            return
        asked = 0
        for prefix in self.case.asked:
            try:
                spelled = self._place(prefix)
                if spelled and asked < ROWS:
                    asked += 1
                    self._row(prefix)
            except BaseException as error:  # noqa: BLE001 - the same
                _unless_stopped(error)
                self._found("error", prefix, repr(error))
            self.outcome.prefixes += 1
            if len(self.outcome.findings) >= ENOUGH:
                return
        self._walk()

    # ---- one prefix

    def _place(self, prefix: bytes) -> bool:
        """The cover of a prefix and its log-probability; whether it can be spelled."""
        must, may = self.witnessed.cover.get(prefix, {}), self.witnessed.kept.get(prefix, {})
        try:
            claimed = self._claimed(prefix)
        except UnreachablePrefixError as error:
            if must and prefix:
                ids, text = next(iter(must.items()))
                self._found("refused", prefix, f"{list(ids)} spells it, as in {text!r}: {error}")
            return False
        if not prefix:
            return True
        if not claimed:
            if must:
                self._found("missing", prefix, f"{_shown(must)}: the cover is empty")
            return False
        unknown = self._unwitnessed(claimed.keys() - must.keys() - may.keys())
        for ids in unknown:
            kind = "claimed" if must or may else "accepted"
            self._found(kind, prefix, f"{list(ids)} is counted, and no text was found that is encoded so")
        for ids in must.keys() - claimed.keys():
            self._found("missing", prefix, f"{list(ids)} is not counted: {must[ids]!r} is encoded so")
        for ids, logprob in claimed.items():
            self._equal("number", prefix, f"log P{list(ids)}", logprob, self.model.logprob(ids))
        if not unknown:
            said = self._timed(lambda: self.lm.logprob(prefix))
            self._equal("number", prefix, "log P of it", said, log_sum(list(map(self.model.logprob, claimed))))
        return not unknown

    def _claimed(self, prefix: bytes) -> dict[Ids, float]:
        items = self._timed(lambda: self.lm.cover(prefix))
        return {tuple(map(int, item.token_ids)): item.logprob for item in items if item.logprob > -math.inf}

    def _unwitnessed(self, sequences: Collection[Ids]) -> list[Ids]:
        """The first sequence that has no witness: one is enough, as to look for a witness at length is dear."""
        return list(itertools.islice((ids for ids in sorted(sequences) if self.definition.witness(ids) is None), 1))

    def _row(self, prefix: bytes) -> None:
        """The row of the next byte and the end of text."""
        try:
            row = np.asarray(self._timed(lambda: self.lm.next_byte_logprobs(prefix)))
        except UnreachablePrefixError as error:
            self._found("refused", prefix, f"it has a cover and no row: {error}")
            return
        if row.shape != (257,) or np.isnan(row).any() or (row > CLOSE).any():
            self._found("not finite", prefix, repr(row[~(row <= 0)]))
            return
        self.rows[prefix] = row
        self.outcome.rows += 1
        whole = log_sum(list(self._claimed(prefix).values())) if prefix else 0.0
        tables = (self.witnessed.cover, self.witnessed.kept)
        spelled = {key[-1] for table in tables for key in table if key[:-1] == prefix and len(key) == len(prefix) + 1}
        for byte in sorted(spelled.union(np.flatnonzero(row[:256] > -np.inf).tolist())):
            must, may = (table.get(prefix + bytes([byte]), {}) for table in tables)
            low = log_sum(list(map(self.model.logprob, must))) - whole
            high = log_sum(list(map(self.model.logprob, must | may))) - whole
            if not (_close(row[byte], low) or _close(row[byte], high) or low < row[byte] < high):
                self._judge(prefix + bytes([byte]), float(row[byte]), whole)
        ids, corner = self.witnessed.canonical.get(prefix, (None, False))
        end = -math.inf
        if ids is not None:
            end = self.model.logprob((*ids, self.definition.end_id)) - whole
        if not (corner and row[256] == -math.inf):
            self._equal("number", prefix, "the end of text", float(row[256]), end)
        if self.outcome.rows <= DRAWN:
            self._drawn(prefix, row)

    def _judge(self, longer: bytes, said: float, whole: float) -> None:
        """A byte whose probability is not that of the witnessed sequences: find out which of them is wrong."""
        before = len(self.outcome.findings)
        try:
            reached = self._place(longer)
        except UnreachablePrefixError:
            reached = False
        if len(self.outcome.findings) == before:
            claimed = self._claimed(longer) if reached else {}
            expected = log_sum(list(map(self.model.logprob, claimed))) - whole
            self._equal("number", longer[:-1], f"the byte {longer[-1:]!r}", said, expected)

    def _drawn(self, prefix: bytes, row: np.ndarray) -> None:
        probs = np.exp(row)
        if probs.sum() < 1e-6:
            return
        seed = int(self.random.integers(2**31))
        asked = self._timed(lambda: self.lm.sample(prefix, max_bytes=1, seed=seed, n=DRAWS))
        for one in asked if isinstance(asked, list) else [asked]:
            symbol = one.bytes[0] if one.bytes else 256
            low, share = probs[:symbol].sum(), probs[symbol]
            place = (low + self.random.random() * share) / probs.sum()
            self.outcome.parts[min(9, int(10 * place))] += 1
            said = math.nan if one.logprob is None else one.logprob
            self._equal("draw", prefix, f"log P of the drawn {one.bytes!r}", said, float(row[symbol]))
        greedy = self._timed(lambda: self.lm.sample(prefix, max_bytes=1, temperature=0))
        symbol = greedy.bytes[0] if greedy.bytes else 256
        if row[symbol] < row.max() - CLOSE:
            self._found("draw", prefix, f"greedy took {greedy.bytes!r}, and {int(row.argmax())} is likelier")

    # ---- along a text

    def _walk(self) -> None:
        """The states and the scores along the longest prefix that has a row."""
        text = max((p for p in self.rows if len(p) <= 16), key=len, default=b"")
        try:
            self._along(text)
        except BaseException as error:  # noqa: BLE001 - the same
            _unless_stopped(error)
            self._found("error", text, f"along it: {error!r}")

    def _along(self, text: bytes) -> None:
        state: Any = self.lm.state(b"")
        steps = self._timed(lambda: self.lm.byte_logprobs(text))
        self._equal(
            "number", text, "the sum of byte_logprobs", float(np.sum(steps)), self._timed(lambda: self.lm.logprob(text))
        )
        for at in range(len(text)):
            state = self._timed(functools.partial(state.advance, text[at : at + 1]))
            if text[: at + 1] in self.rows:
                self._same(text[: at + 1], "a state's row", self._timed(state.next_byte_logprobs))
        for count in range(1, len(text) + 1):
            if (prefix := text[: len(text) - count]) in self.rows:
                back = self._timed(functools.partial(state.rollback, count))
                self._same(prefix, "a row after rollback", self._timed(back.next_byte_logprobs))
        if text and text in self.witnessed.canonical:
            end = self._timed(lambda: self.lm.logprob(text, eot=True))
            expected = self._timed(lambda: self.lm.logprob(text)) + float(self.rows[text][256])
            self._equal("number", text, "log P of it and its end", end, expected)

    def _same(self, prefix: bytes, what: str, row: np.ndarray) -> None:
        with np.errstate(invalid="ignore"):
            apart = ~((row == self.rows[prefix]) | (np.abs(row - self.rows[prefix]) <= CLOSE))
        if apart.any():
            self._found("number", prefix, f"{what} differs at {np.flatnonzero(apart).tolist()[:5]}")

    # ---- inside

    def _timed(self, call: Callable[[], T]) -> T:
        model, start = self.model.seconds, time.process_time()
        try:
            return call()
        finally:
            self.outcome.seconds += time.process_time() - start - (self.model.seconds - model)

    def _equal(self, kind: str, prefix: bytes, what: str, said: float, expected: float) -> None:
        if not _close(said, expected):
            self._found(kind, prefix, f"{what} is {said!r}, and {expected!r} by the definition")

    def _found(self, kind: str, prefix: bytes | None, detail: str) -> None:
        shown = None if prefix is None else prefix.decode("latin-1")
        finding = Finding(kind, shown, detail[:600])
        if finding not in self.outcome.findings:
            self.outcome.findings.append(finding)


def _unless_stopped(error: BaseException) -> None:
    """Go on after an error, and not after Ctrl-C."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error


def _close(said: float, expected: float) -> bool:
    return said == expected or abs(said - expected) <= CLOSE * max(1.0, abs(expected))


def _shown(sequences: dict[Ids, str]) -> str:
    return ", ".join(f"{list(ids)} of {text!r}" for ids, text in list(sequences.items())[:3])
