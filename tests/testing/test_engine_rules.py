from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm.engines.table import TableLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import ContextOverflowError, ContractError, InvalidArgumentError, ModelError
from bytelm.testing import RULES, check_engine
from bytelm.token_lm import Draw, More, TokenLM, Usage
from tests.support.tiny import default_tokenizer, tiny_model

TOKENS = 311  # of the default tokenizer


class Toy:
    """A right engine with a memory of rows, a context and counters; the broken ones below change one thing each."""

    context_length = 37

    def __init__(self) -> None:
        self.inner = TableLM(default_tokenizer(), seed=7)
        self.tokenizer: Any = self.inner.tokenizer
        self.vocab_size = self.inner.vocab_size
        self.eot_ids = self.inner.eot_ids
        self.usage = Usage()
        self.memory: dict[Any, np.ndarray] = {}
        self.fails_at: int | None = None

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        asked = [self.checked(tuple(sequence)) for sequence in sequences]
        self.usage.calls += 1
        return self.answered([self.remembered(sequence) for sequence in asked])

    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 <= i < self.vocab_size for i in sequence):
            raise InvalidArgumentError(f"ids {sequence}")
        if len(sequence) > self.context_length:
            raise ContextOverflowError(f"{len(sequence)} tokens")
        return sequence

    def remembered(self, sequence: tuple[int, ...]) -> np.ndarray:
        key = self.key(sequence)
        if key not in self.memory:
            self.memory[key] = self.computed(sequence)
        return self.memory[key]

    def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                raise ModelError("the model failed")
        self.usage.tokens_fed += len(sequence)
        row: np.ndarray = self.inner.next_token_logprobs([sequence])[0]
        return row

    def key(self, sequence: tuple[int, ...]) -> Any:
        return sequence

    def answered(self, rows: list[np.ndarray]) -> Any:
        return np.stack(rows)

    draws_by_default = False
    asks_each_step = True

    def draw_tokens(self, more: More) -> None:
        running: list[tuple[Draw, list[int], np.random.Generator]] = []
        while running := [*running, *((draw, [], self.random(draw)) for draw in more())]:
            running = [line for each in running for line in self.stepped(*each)]

    def random(self, draw: Draw) -> np.random.Generator:
        return np.random.default_rng(draw.seed)

    def stepped(self, draw: Draw, drawn: list[int], random: np.random.Generator) -> list[Any]:
        row = self.next_token_logprobs([(*draw.sequence, *drawn)])[0]
        token = self.picked(row, random)
        goes_on = draw.take(token, float(row[token]))
        if isinstance(goes_on, Draw):
            return [(goes_on, [], self.random(goes_on))]
        return [(draw, [*drawn, token], random)] if goes_on and len(drawn) + 1 < draw.max_tokens else []

    def picked(self, row: np.ndarray, random: np.random.Generator) -> int:
        edges = np.cumsum(np.exp(row.astype(np.float64)))
        return int(np.searchsorted(edges, random.random() * edges[-1], side="right"))


@contextlib.contextmanager
def failing(engine: Toy) -> Iterator[None]:
    engine.fails_at = 1
    yield
    engine.fails_at = None


def faults(make: Callable[[], Any], **options: Any) -> dict[str, str]:
    """The rules that an engine breaks, and what is said of them."""
    with pytest.raises(ContractError) as caught:
        check_engine(make, **options)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    told = {rule: line.removeprefix(rule).strip() for rule in RULES for line in lines if line.startswith(rule + "  ")}
    return {rule: line for rule, line in told.items() if not line.startswith(("ok", "not checked"))}


@pytest.mark.parametrize("rule", RULES)
def test_a_right_engine_passes(rule: str) -> None:
    """An engine that keeps the contract passes every rule, and the report says by how much."""
    report = check_engine(Toy, failing=failing, rules=[rule])

    assert [finding.rule for finding in report.findings] == [rule]
    assert not report.findings[0].skipped
    assert report.difference == 0


def test_a_right_engine_of_a_short_context_passes() -> None:
    """No rule needs more than five tokens."""

    class Short(Toy):
        context_length = 5

    check_engine(Short, failing=failing)


def test_the_toy_of_the_package_passes() -> None:
    """TableLM keeps the contract; what it does not have is said not to be checked."""
    report = check_engine(lambda: TableLM(default_tokenizer(), seed=1), tolerance=0)

    assert [finding.rule for finding in report.findings if finding.skipped] == ["context", "drawing"]
    assert "context     not checked: the engine states no context_length" in str(report)


@contextlib.contextmanager
def failing_model(lm: TransformersLM) -> Iterator[None]:
    """The second pass of the model fails, with the first one's keys already written."""
    passes = iter(range(99))

    def fail(*_: Any) -> None:
        if next(passes):
            raise ModelError("the model failed")

    hook = lm.model.register_forward_pre_hook(fail)
    yield
    hook.remove()


@pytest.mark.parametrize("kind", ["llama", "gemma3", "bloom", "mamba"])
@pytest.mark.parametrize("budget", [None, 60_000], ids=["roomy", "short of room"])
def test_the_transformers_engine_passes(kind: str, budget: int | None) -> None:
    """In each of its ways of running, the transformers engine keeps the contract."""
    lm = TransformersLM(tiny_model(kind), default_tokenizer(), cache_budget_bytes=budget, prefill_chunk=5)

    def make() -> TransformersLM:
        lm.clear_cache()
        return lm

    report = check_engine(make, tolerance={"bloom": 1e-5, "mamba": 2e-6}.get(kind, 1e-9), failing=failing_model)

    assert report.difference > 0 or lm.mode == "prefix", "rows from a cache are not equal to the last bit"
    assert not [finding for finding in report.findings if finding.skipped and finding.rule != "context"]


class Unscaled(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        return np.stack(rows) + 0.01


class HalfPrecise(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        return np.stack(rows).astype(np.float16)


class TooNarrow(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        return np.stack(rows)[:, :-1]


class Reversed(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        return np.stack(rows[::-1])


class Sorted(Toy):
    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        return super().next_token_logprobs(sorted(map(tuple, sequences)))


class TuplesOnly(Toy):
    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        return self.answered([self.remembered(sequence) for sequence in sequences])  # type: ignore[arg-type]


class LooksAtTheEnd(Toy):
    def key(self, sequence: tuple[int, ...]) -> Any:
        return sequence[-3:]


class ForgetsTheOrder(Toy):
    def key(self, sequence: tuple[int, ...]) -> Any:
        return tuple(sorted(sequence))


class ForgetsThePlace(Toy):
    """Its cache gives a token's keys to the same tokens at other places."""

    def key(self, sequence: tuple[int, ...]) -> Any:
        return sequence[-10:]


class NeverStepsBack(Toy):
    """Its cache holds one sequence, and a prefix of that is answered as if it were all of it."""

    last: tuple[int, ...] = ()

    def key(self, sequence: tuple[int, ...]) -> Any:
        self.last = self.last if self.last[: len(sequence)] == sequence else sequence
        return self.last


class NoEmpty(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        if not sequence:
            raise InvalidArgumentError("the empty sequence")
        return super().checked(sequence)


class EmptyIsTheLastOne(Toy):
    last: tuple[int, ...] = ()

    def key(self, sequence: tuple[int, ...]) -> Any:
        self.last = sequence or self.last
        return self.last


class Deduplicates(Toy):
    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        return super().next_token_logprobs(list(dict.fromkeys(map(tuple, sequences))))


class LendsItsRows(Toy):
    """It remembers what a call returned, and returns that very array again."""

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        key: Any = ("call", *map(tuple, sequences))
        if key not in self.memory:
            self.memory[key] = super().next_token_logprobs(sequences)
        return self.memory[key]


class ReusesSlots(Toy):
    """Its cache has 100 slots, and does not notice when one is taken over by another sequence."""

    def key(self, sequence: tuple[int, ...]) -> Any:
        self.slots: dict[Any, int] = getattr(self, "slots", {})
        slot = self.slots.setdefault(sequence, len(self.slots))
        if slot >= 100:
            self.memory[slot % 100] = self.computed(sequence)
        return slot % 100


class WritesBeforeItComputes(Toy):
    """A sequence counts as cached before its model has run."""

    def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
        self.memory[self.key(sequence)] = np.full(self.vocab_size, -np.log(self.vocab_size))
        return super().computed(sequence)


class ChecksAsItGoes(Toy):
    """A bad id is noticed when its turn comes, and the sequences behind it count as cached."""

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        asked = list(map(tuple, sequences))
        new = [sequence for sequence in asked if sequence not in self.memory]
        self.memory.update((sequence, np.full(self.vocab_size, -np.log(self.vocab_size))) for sequence in new)
        for sequence in new:
            self.memory[sequence] = self.computed(self.checked(sequence))
        return self.answered([self.memory[sequence] for sequence in asked])


class HidesTheFailure(Toy):
    def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
        try:
            return super().computed(sequence)
        except ModelError:
            return np.full(self.vocab_size, -np.log(self.vocab_size))


class FailsWithItsOwnError(Toy):
    def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
        try:
            return super().computed(sequence)
        except ModelError as error:
            raise RuntimeError("out of memory") from error


class CountsFromTheEnd(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        return super().checked(tuple(i % self.vocab_size if i < 0 else i for i in sequence))


class CutsTo32Bits(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        return super().checked(tuple(i if i < 2**31 else i & 0xFFFF_FFFF for i in sequence))


class PythonErrors(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        if not all(0 <= i < self.vocab_size for i in sequence):
            raise IndexError("index out of range in self")
        return super().checked(sequence)


class CutsToTheContext(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        return super().checked(sequence[-self.context_length :])


class OneTooFew(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        if len(sequence) == self.context_length:
            raise ContextOverflowError(f"{len(sequence)} tokens")
        return super().checked(sequence)


class AnotherOverflow(Toy):
    def checked(self, sequence: tuple[int, ...]) -> tuple[int, ...]:
        if len(sequence) > self.context_length:
            raise ModelError(f"{len(sequence)} tokens")
        return super().checked(sequence)


class Shrinks(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        self.usage = Usage(self.usage.calls, self.usage.tokens_fed // 2)
        return super().answered(rows)


class CountsNothing(Toy):
    def answered(self, rows: list[np.ndarray]) -> Any:
        self.usage = Usage()
        return super().answered(rows)


class NoEnds(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.eot_ids = frozenset({self.vocab_size})


class ListOfEnds(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.eot_ids = [0]  # type: ignore[assignment]


class TooFewColumns(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TableLM(None, seed=7, vocab_size=300, eot_ids=())
        self.vocab_size = 300


class NoTokenizer(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = None


class DrawsTheLikeliest(Toy):
    def picked(self, row: np.ndarray, random: np.random.Generator) -> int:
        return int(row.argmax())


class TellsAnotherProbability(Toy):
    def stepped(self, draw: Draw, drawn: list[int], random: np.random.Generator) -> list[Any]:
        def take(token: int, logprob: float) -> bool | Draw:
            return draw.take(token, logprob + 0.01)

        return super().stepped(dataclasses.replace(draw, take=take), drawn, random)


class GoesOnRegardless(Toy):
    """What `take` returns says nothing to it."""

    def stepped(self, draw: Draw, drawn: list[int], random: np.random.Generator) -> list[Any]:
        def take(token: int, logprob: float) -> bool:
            draw.take(token, logprob)
            return True

        return super().stepped(dataclasses.replace(draw, take=take), drawn, random)


class TakesNoOther(Toy):
    """It says that it asks each step, and leaves alone what `take` would have it begin."""

    def stepped(self, draw: Draw, drawn: list[int], random: np.random.Generator) -> list[Any]:
        def take(token: int, logprob: float) -> bool:
            return draw.take(token, logprob) is not False

        return super().stepped(dataclasses.replace(draw, take=take), drawn, random)


class AsksOnce(Toy):
    def draw_tokens(self, more: More) -> None:
        first = [*more()]
        super().draw_tokens(lambda: [first.pop() for _ in range(len(first))])


class SharesItsRandom(Toy):
    """All sequences draw with the random numbers of one."""

    def __init__(self) -> None:
        super().__init__()
        self.one = np.random.default_rng(0)

    def random(self, draw: Draw) -> np.random.Generator:
        return self.one


class DrawsBeyondTheColumns(Toy):
    def stepped(self, draw: Draw, drawn: list[int], random: np.random.Generator) -> list[Any]:
        def take(token: int, logprob: float) -> bool | Draw:
            return draw.take(self.vocab_size, logprob)

        return super().stepped(dataclasses.replace(draw, take=take), drawn, random)


class SaysMaybe(Toy):
    draws_by_default = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("broken", "rule", "words"),
    [
        (NoEnds, "members", f"eot_ids names id {TOKENS}"),
        (ListOfEnds, "members", "eot_ids is a frozenset"),
        (TooFewColumns, "members", "beyond the model's 300 columns"),
        (NoTokenizer, "members", "must be a transformers fast tokenizer, not NoneType"),
        (Unscaled, "normalised", "sums to exp(0.01)"),
        (HalfPrecise, "normalised", "not float16"),
        (TooNarrow, "normalised", f"not (2, {TOKENS})"),
        (Reversed, "order", "row 0 of 5 is not the one after"),
        (Sorted, "order", "which is row"),
        (TuplesOnly, "order", "raised"),
        (LooksAtTheEnd, "prefixes", "is not the one after"),
        (ForgetsTheOrder, "prefixes", "is not the one after"),
        (ForgetsThePlace, "prefixes", "is not the one after"),
        (NeverStepsBack, "prefixes", "is not the one after"),
        (NoEmpty, "empty", "raised InvalidArgumentError: the empty sequence"),
        (EmptyIsTheLastOne, "empty", "after ()"),
        (Deduplicates, "repeated", "shape (2, 311), not (4, 311)"),
        (LendsItsRows, "repeated", "after the caller wrote into the rows"),
        (ReusesSlots, "eviction", "after 320 other sequences"),
        (WritesBeforeItComputes, "failure", "after its model failed in the middle of a call"),
        (HidesTheFailure, "failure", "the model failed, and the call is answered"),
        (FailsWithItsOwnError, "failure", "is RuntimeError: out of memory"),
        (ChecksAsItGoes, "failure", "after a batch with a bad id in its middle"),
        (CountsFromTheEnd, "bad ids", "id -1 must be a BytelmError, and is answered with rows"),
        (CutsTo32Bits, "bad ids", "and is answered with rows"),
        (PythonErrors, "bad ids", "id -1 must be a BytelmError, and is IndexError"),
        (CutsToTheContext, "context", "38 tokens, where context_length is 37, must be a ContextOverflowError"),
        (OneTooFew, "context", "raised ContextOverflowError"),
        (AnotherOverflow, "context", "and is ModelError"),
        (Shrinks, "counters", "counts as"),
        (CountsNothing, "counters", "call 0"),
        (DrawsTheLikeliest, "drawing", "256 of 256 tokens drawn after"),
        (TellsAnotherProbability, "drawing", "is right"),
        (GoesOnRegardless, "drawing", "take is due 1 token(s), and was told 3"),
        (TakesNoOther, "drawing", "take is due 2 token(s), and was told 3"),
        (AsksOnce, "drawing", "take is due 2 token(s), and was told 0"),
        (SharesItsRandom, "drawing", "alone, and"),
        (DrawsBeyondTheColumns, "drawing", f"the columns are 0..{TOKENS - 1}"),
        (SaysMaybe, "drawing", "hands_over is True or False, not None"),
    ],
)
def test_a_broken_engine_is_found_out(broken: type[Toy], rule: str, words: str) -> None:
    """Each rule fails on an engine that breaks it, and its message says what shows it."""
    found = faults(broken, failing=failing, rules=[rule])

    assert list(found) == [rule]
    assert words in found[rule]


def test_every_rule_has_an_engine_that_breaks_it() -> None:
    """No rule is without a broken engine above."""
    (mark,) = [mark for mark in test_a_broken_engine_is_found_out.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]

    assert {rule for _, rule, _ in mark.args[1]} == set(RULES)


def test_all_faults_are_listed() -> None:
    """Without a choice of rules, all run, and the error lists the broken ones and the others."""
    found = faults(CutsTo32Bits)

    assert list(found) == ["bad ids"]
    with pytest.raises(AssertionError, match=r"(?s)1 of 12 rules broken.*order +ok\n"):
        check_engine(CutsTo32Bits)


def test_a_reference_sees_what_a_fresh_engine_cannot() -> None:
    """An engine that is wrong from its first call on agrees with itself, and not with another."""

    class Shifted(Toy):
        def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
            return super().computed((0, *sequence))

    assert check_engine(Shifted).difference == 0
    assert "prefixes" in faults(Shifted, reference=Toy())


def test_the_tolerance_decides() -> None:
    """A difference below the tolerance passes and is told; above it, it is a fault."""

    class Noisy(Toy):
        def answered(self, rows: list[np.ndarray]) -> Any:
            return np.stack(rows) + (1e-6 if len(rows) > 1 else 0.0)

    report = check_engine(Noisy, tolerance=1e-5)

    assert report.difference == pytest.approx(1e-6, rel=1e-6)
    assert "ok, within 1.0e-06" in str(report)
    assert faults(Noisy, tolerance=1e-7)


def test_what_is_not_a_number_is_no_small_difference() -> None:
    """A token that cannot follow has -inf in both rows, or the rows differ."""

    class Forbids(Toy):
        def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
            probs = np.exp(super().computed(sequence))
            probs[5] = 0
            with np.errstate(divide="ignore"):
                return np.asarray(np.log(probs / probs.sum()))

    class ForbidsLater(Forbids):
        def computed(self, sequence: tuple[int, ...]) -> np.ndarray:
            return super().computed(sequence) if self.memory else Toy.computed(self, sequence)

    assert check_engine(Forbids).difference == 0
    assert "prefixes" in faults(ForbidsLater)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rules": ["speed"]}, "'speed'; there are members, "), ({"tolerance": -1.0}, "at least 0, not -1.0")],
)
def test_bad_arguments(options: dict[str, Any], words: str) -> None:
    """There is no other rule, and no negative tolerance."""
    with pytest.raises(InvalidArgumentError, match=words):
        check_engine(Toy, **options)


def test_toy_is_a_token_lm() -> None:
    """The engine that all these are made from is one by the protocol."""
    assert isinstance(Toy(), TokenLM)


def test_the_page_lists_the_rules() -> None:
    """docs/engines_own.md has the rules as they are."""
    page = (Path(__file__).parents[2] / "docs" / "engines_own.md").read_text(encoding="utf-8")

    assert "\n".join(f"| {name} | {rule.demands} |" for name, rule in RULES.items()) in page
