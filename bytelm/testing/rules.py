"""The rules of the contract, each with the calls that show whether an engine keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bytelm.engines.ids import check_tokenizer, check_vocabulary
from bytelm.errors import BytelmError, ContextOverflowError
from bytelm.testing.drawing import drawing
from bytelm.testing.engine_trial import LONGEST, BrokenRuleError, EngineTrial, Tokens, UncheckedRuleError
from bytelm.token_lm import TokenLM, Usage

MANY: Final = 320  # sequences that press the first ones out of a cache
BATCH: Final = 16
FULL_CONTEXT: Final = 1024  # a context of up to so many tokens is filled to its last place


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the contract.

    Attributes:
        demands: What it demands of an engine.
        check: Raises a `BrokenRuleError` where it is broken, an `UncheckedRuleError` where it cannot be told.
    """

    demands: str
    check: Callable[[EngineTrial], None]


def _members(trial: EngineTrial) -> None:
    engine = trial.make()
    if not isinstance(engine, TokenLM):
        raise BrokenRuleError("it lacks one of tokenizer, vocab_size, eot_ids and next_token_logprobs")
    columns: Any = engine.vocab_size
    ends: Any = engine.eot_ids
    if not isinstance(columns, int) or columns < 1:
        raise BrokenRuleError(f"vocab_size is the number of columns, not {columns!r}")
    if not isinstance(ends, frozenset):
        raise BrokenRuleError(f"eot_ids is a frozenset of ids, not {ends!r}")
    if outside := [i for i in engine.eot_ids if not 0 <= i < engine.vocab_size]:
        raise BrokenRuleError(f"eot_ids names id {outside[0]}, and the columns are 0..{engine.vocab_size - 1}")
    check_tokenizer(engine.tokenizer)
    check_vocabulary(engine.tokenizer, engine.vocab_size)


def _normalised(trial: EngineTrial) -> None:
    engine = trial.make()
    for length in (1, 2, 7, LONGEST):
        trial.ask(engine, [trial.drawn(length), trial.drawn(length)])


def _order(trial: EngineTrial) -> None:
    sequences = [trial.drawn(length) for length in (3, 1, 9, 3, 5)]
    trial.compare_all([sequences, sequences[::-1], [list(s) for s in sorted(sequences)]])


def _prefixes(trial: EngineTrial) -> None:
    base, (x, y, z) = trial.drawn(11), trial.drawn_exactly(3)
    calls: list[list[Tokens]] = [
        [base],
        [(*base[:-1], x)],  # a step, and its neighbours
        [(*base[:-1], y), (*base[:-1], z), base],
        [base[:4]],  # back inside what was fed
        [(*base[:4], y), (*base[:4], y, z), base[:3]],
        [(x, *base[1:])],  # another beginning, the same end
        [base[::-1]],  # the same tokens in another order
        [base[1:]],  # the same tokens at other positions
        [base[:n] for n in range(1, len(base))],  # all prefixes at once
        [(*base[:4], y, z, x), (*base[:-1], y)],  # branches that were left are gone on with
    ]
    calls += [[trial.branch(base) for _ in range(3)] for _ in range(3)]
    trial.compare_all(calls)


def _empty(trial: EngineTrial) -> None:
    one = trial.drawn(5)
    trial.compare_all([[()], [one, (), one], [()], [(), ()]])


def _repeated(trial: EngineTrial) -> None:
    one, two = trial.drawn(6), trial.drawn(4)
    engine = trial.compare_all([[one, two, one, one], [one], [one, two, one], [two, two]])
    rows = engine.next_token_logprobs([one, two])
    if rows.flags.writeable:
        rows[:] = np.nan
    for call in ([one, two], [two, one]):
        trial.compare(engine, call, after=", after the caller wrote into the rows of a call before,")


def _eviction(trial: EngineTrial) -> None:
    kept = [trial.drawn(length) for length in (LONGEST, 9, 2)]
    for sequence in [*kept, *((*s[:-1], kept[0][0]) for s in kept)]:
        trial.right(sequence)
    engine = trial.make()
    trial.compare(engine, kept)
    for _ in range(MANY // BATCH):
        trial.ask(engine, [trial.drawn(12) for _ in range(BATCH)])
    trial.compare(engine, kept, after=f", after {MANY} other sequences,")
    trial.compare(engine, [(*s[:-1], kept[0][0]) for s in kept], after=f", after {MANY} other sequences,")


def _failure(trial: EngineTrial) -> None:
    known, new = [trial.drawn(7), trial.drawn(3)], [trial.drawn(9), trial.drawn(5)]
    sequences = [*known, *new, *((*s, known[0][0]) for s in known)]
    for sequence in sequences:
        trial.right(sequence)
    engine = trial.make()
    trial.compare(engine, known)
    bad = [new[0], (new[1][0], trial.vocab_size), new[1]]
    trial.refused(engine, bad, BytelmError, f"id {trial.vocab_size} in the middle of a batch")
    trial.compare(engine, sequences, after=", after a batch with a bad id in its middle,")
    if trial.failing is None:
        return
    engine = trial.make()
    trial.compare(engine, known)
    with trial.failing(engine):
        try:
            engine.next_token_logprobs(sequences)
        except Exception as error:
            if not isinstance(error, BytelmError):
                raise BrokenRuleError(
                    f"a failing model must be a BytelmError, and is {type(error).__name__}: {error}"
                ) from error
        else:
            raise BrokenRuleError("the model failed, and the call is answered with rows")
    trial.compare(engine, sequences, after=", after its model failed in the middle of a call,")


def _bad_ids(trial: EngineTrial) -> None:
    good = trial.drawn(3)
    engine = trial.make()
    for bad in (-1, -(2**31), trial.vocab_size, trial.vocab_size + 1000, 2**31, 2**32 + good[0], 2**63):
        for call in ([(bad,)], [(*good, bad)], [(bad, *good)], [good, (good[0], bad, good[1])]):
            trial.refused(engine, call, BytelmError, f"id {bad}")


def _context(trial: EngineTrial) -> None:
    length = trial.context_length
    if length is None:
        raise UncheckedRuleError("the engine states no context_length")
    whole = trial.drawn_exactly(length + 1)
    short = whole[: min(length, 5)]
    trial.right(short)
    if length <= FULL_CONTEXT:
        trial.right(whole[:length])
    engine = trial.make()
    what = f"a sequence of {length + 1} tokens, where context_length is {length},"
    trial.refused(engine, [whole], ContextOverflowError, what)
    trial.refused(engine, [short, whole], ContextOverflowError, what)
    trial.compare(engine, [short], after=f", after {what} was refused,")
    if length <= FULL_CONTEXT:
        trial.compare(engine, [whole[:length]])


def _counters(trial: EngineTrial) -> None:
    engine = trial.make()
    if not isinstance(getattr(engine, "usage", None), Usage):
        raise UncheckedRuleError("the engine has no usage that is a bytelm.token_lm.Usage")
    counters: Any = engine
    sequences = [trial.drawn(6), trial.drawn(4)]
    for i, sequence in enumerate([*sequences, *sequences]):  # the second time, nothing need be spent
        before = counters.usage.copy()
        trial.ask(engine, [sequence, sequence])
        spent = counters.usage.since(before)
        if spent.calls < 0 or spent.tokens_fed < 0 or (i == 0 and not (spent.calls and spent.tokens_fed)):
            raise BrokenRuleError(f"call {i} for a sequence of {len(sequence)} tokens counts as {spent}")


RULES: Final[Mapping[str, Rule]] = {
    "members": Rule("the four members, of their types; the tokenizer and the columns fit together", _members),
    "normalised": Rule("rows are normalised natural logs in float32 or float64, one column a token", _normalised),
    "order": Rule("rows come in the order asked, whatever the kind of sequence", _order),
    "prefixes": Rule("steps, branches, steps back and strangers have the rows of a fresh engine", _prefixes),
    "empty": Rule("the empty sequence has a row, alone and in company", _empty),
    "repeated": Rule("a sequence asked for twice has its row twice, and rows belong to the caller", _repeated),
    "eviction": Rule("what many others pressed out of the cache has the row that it had", _eviction),
    "failure": Rule("after a call that failed in the middle, rows are right", _failure),
    "bad ids": Rule("ids below 0 or beyond the columns are refused with a BytelmError", _bad_ids),
    "context": Rule("a sequence beyond context_length is refused with a ContextOverflowError", _context),
    "counters": Rule("usage only grows, and a first call costs something", _counters),
    "drawing": Rule("tokens that it draws itself come from its rows, and are told as agreed", drawing),
}
