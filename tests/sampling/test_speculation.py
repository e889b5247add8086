"""Drafted bytes have the law of the model that checks them, whoever drafts.

The oracle is the product of filtered rows by lemma.py, over all texts of a few symbols. Each statistical test has a fixed
seed and fails below p = 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, Lookup, TableLM, constraints
from bytelm.errors import InvalidArgumentError, ModelError
from bytelm.inference.frontier import NOTHING
from bytelm.inference.scheduler import Scheduler, Step
from bytelm.sampling import drafter as drafting_module
from bytelm.sampling import speculation
from bytelm.sampling.completion import Completion, random_stream
from bytelm.sampling.drafter import Drafter, Drafting, Proposal, certain
from bytelm.sampling.drafts import ModelDrafting
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace, Place
from bytelm.sampling.speculation import SpeculativeGeneration
from bytelm.symbols import EOT, SYMBOLS
from evals.cost.lazy import p_value
from tests.sampling.test_generation import P_THRESHOLD, TOYS, exact_row, random_toy
from tests.support.many import draws_of
from tests.support.tiny import byte_bpe_tokenizer
from tests.support.toy import Toy, drawn_rows

FILTERS = [Filters(), Filters(temperature=0.7), Filters(top_p=0.8)]


class ToyDrafter(Drafter):
    """Drafts by a toy."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:
        return ModelDrafting(self.toy.place(prefix), filters, random)


class Fixed(Drafter, Drafting):
    """Drafts what a function of the text says, with a distribution of its own."""

    def __init__(self, propose: Callable[[bytes, np.random.Generator], Proposal]) -> None:
        self.one = propose
        self.random = np.random.default_rng(0)

    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:
        twin = Fixed(self.one)
        twin.random = random
        return twin

    def propose(self, text: bytes, length: int, binding: Any, known: Any) -> Step[list[Proposal]]:
        yield from ()
        found: list[Proposal] = []
        while len(found) < length:
            found.append(self.one(text, self.random))
            if found[-1].symbol == EOT:
                break
            text += bytes([found[-1].symbol])
        return found


def evenly(symbols: list[int]) -> Callable[[bytes, np.random.Generator], Proposal]:
    """Draws one of some symbols, all alike."""
    probs = np.zeros(SYMBOLS)
    probs[symbols] = 1 / len(symbols)
    return lambda _, random: Proposal(int(random.choice(symbols)), probs)


def drafters(toy: Toy, one: int = 97, two: int = 98) -> dict[str, Drafter]:
    """Drafters that are good, bad, equal, disjoint, and certain of what they say; of two symbols of the toy."""
    other = Toy(toy.vocabulary, type(toy.model)(drawn_rows(toy.model.vocab_size, seed=77), toy.model.vocab_size, [5]))
    return {
        "equal": ToyDrafter(toy),
        "other": ToyDrafter(other),
        "even": Fixed(evenly([one, two, EOT])),
        "unspelled": Fixed(evenly([one, 122])),  # z is in no vocabulary
        "disjoint": Fixed(lambda *_: Proposal(122, certain(122))),
        "certain": Fixed(lambda text, _: Proposal((one, two)[len(text) % 2], certain((one, two)[len(text) % 2]))),
        "ending": Fixed(lambda *_: Proposal(EOT, certain(EOT))),
        "lookup": Lookup([bytes([one, two]) * 20]),
    }


DRAFTERS = ("equal", "other", "even", "unspelled", "disjoint", "certain", "ending", "lookup")
CUT = Toy.of(  # its prefix ends inside a character
    [b"a", b"\xc3", b"\xa9", "é".encode(), "éa".encode(), b"\xa9a", None],
    drawn_rows(7, seed=5, spread=0.7),
    eot_ids=[6],
)


def noting(noted: list[Any], method: Any) -> Any:
    """The same method; who calls it is noted."""

    def twin(self: Any, *given: Any) -> Any:
        noted.append(self)
        return method(self, *given)

    return twin


def complete(toy: Toy, prefix: bytes, params: SamplingParams, *, index: int, seed: int = 0) -> Completion:
    place = ModelPlace(toy.frontier(prefix), toy.model)
    generation = SpeculativeGeneration(
        place, params, random_stream(seed, index), lambda text, eot: pytest.fail("the place lost its mass")
    )
    return Scheduler(toy.model).run_one(generation.run()).result


def law(
    toy: Toy, prefix: bytes, filters: Filters, length: int, stop: bytes | None = None
) -> dict[tuple[bytes, str], float]:
    """Each text of so many bytes, or that ended before, with what ended it and its probability."""
    ahead, found = [(b"", 1.0)], dict[tuple[bytes, str], float]()
    while ahead:
        text, prob = ahead.pop()
        if stop is not None and text.endswith(stop):
            found[text[: -len(stop)], "stop"] = prob
            continue
        if len(text) == length:
            found[text, "length"] = prob
            continue
        row = filters.apply(exact_row(toy, prefix + text))
        for symbol in np.flatnonzero(row).tolist():
            if symbol == EOT:
                found[text, "eot"] = prob * row[EOT]
            else:
                ahead.append((text + bytes([symbol]), prob * row[symbol]))
    return found


def agreement(
    toy: Toy,
    prefix: bytes,
    drafter: Drafter,
    filters: Filters,
    *,
    draws: int,
    length: int = 3,
    stop: bytes | None = None,
    least: float = 0.25,
) -> float:
    """The p-value of drawn texts against all texts; ``least``: drafts for each, at the least."""
    params = SamplingParams(**asdict(filters), max_bytes=length, stop=stop or (), draft=drafter)
    expected = law(toy, prefix, filters, length, stop)
    places = {text: at for at, text in enumerate(expected)}
    drawn, drafted = [], 0
    for index in range(draws):
        done = complete(toy, prefix, params, index=index)
        drawn.append(places[done.bytes, done.finish_reason])
        drafted += done.usage.drafted
    assert drafted > draws * least
    return p_value(np.array(drawn), np.array(list(expected.values())))


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys know most of a row at once: here every place that is not complete has its draft checked, from nothing."""
    monkeypatch.setattr(SpeculativeGeneration, "_known", lambda _: NOTHING)
    monkeypatch.setattr(speculation, "MOST_LEFT_OUT", 0)
    monkeypatch.setattr(drafting_module, "LEAST_MATCH", 1)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_texts_have_the_law_of_the_model(drafter: str) -> None:
    """180 texts of three symbols, at temperature 1, at 0.7 and by top-p in turn."""
    toy, prefix, _ = TOYS["drawn"]

    for filters in FILTERS:
        assert agreement(toy, prefix, drafters(toy)[drafter], filters, draws=60) > P_THRESHOLD


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Drafts where the bounds decide nothing, as ever; and what they knew there."""
    monkeypatch.undo()
    monkeypatch.setattr(speculation, "MOST_LEFT_OUT", 0)
    monkeypatch.setattr(drafting_module, "LEAST_MATCH", 1)
    noted: list[float] = []
    speculate = SpeculativeGeneration._speculate

    def twin(self: Any, known: Any) -> Step[None]:
        noted.append(float(known.sum()))
        return speculate(self, known)

    monkeypatch.setattr(SpeculativeGeneration, "_speculate", twin)
    return noted


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_what_the_bounds_leave_has_the_law_that_is_left(drafter: str, known: list[float]) -> None:
    """Drafts only where the uniform number is undecided; together with what is decided that is the model's law."""
    toy, prefix, _ = TOYS["drawn"]
    for filters in FILTERS:
        assert agreement(toy, prefix, drafters(toy)[drafter], filters, draws=150, least=0) > P_THRESHOLD
    assert np.mean([0 < each < 1 for each in known]) > 0


@pytest.mark.parametrize("drafter", ["equal", "even"])
def test_the_whole_law_where_bounds_left_a_part_is_seen(
    drafter: str, known: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that is checked against P where the number is beyond the bounds on it favours what they hold."""
    monkeypatch.setattr(speculation, "undecided", lambda low, _: low)
    toy, prefix, _ = TOYS["drawn"]
    assert agreement(toy, prefix, drafters(toy)[drafter], Filters(), draws=800, least=0) < P_THRESHOLD
    assert known


@pytest.mark.parametrize(
    ("mutation", "drafter"),
    [("unclipped", "even"), ("unclipped", "other"), ("not renormalised", "other"), ("not renormalised", "certain")],
)
def test_wrong_rules_are_seen(monkeypatch: pytest.MonkeyPatch, drafter: str, mutation: str) -> None:
    """To accept with P in place of P / Q, or to draw from P after a rejection, is another law."""

    def wrong(proposal: Proposal, random: np.random.Generator, **known: Any) -> Step[tuple[int, bool]]:
        while not known["complete"]():
            yield from known["more"]()
        (symbol, drafted), probs = proposal, known["lower"]()
        scale = 1.0 if mutation == "unclipped" else drafted[symbol]
        if random.random() * scale < probs[symbol]:
            return symbol, True
        if mutation == "unclipped":
            beyond = np.maximum(probs - drafted, 0.0)
            probs = beyond / beyond.sum() if beyond.any() else probs
        return int(random.choice(SYMBOLS, p=probs / probs.sum())), False

    monkeypatch.setattr(speculation, "checked", wrong)
    toy, prefix, _ = TOYS["drawn"]

    assert agreement(toy, prefix, drafters(toy)[drafter], Filters(), draws=300) < P_THRESHOLD


def fifty_thousand(drafter: str, least: float) -> None:
    """Texts of two symbols; in a fifth of them there is a stop string, or the prefix ends inside a character."""
    toy, prefix, _ = TOYS["drawn"]
    for filters, count in zip(FILTERS, (20_000, 10_000, 10_000), strict=True):
        own = drafters(toy)[drafter]
        p = agreement(toy, prefix, own, filters, draws=draws_of(count), length=2, least=least)
        assert p > P_THRESHOLD

    own = drafters(toy)[drafter]
    assert agreement(toy, prefix, own, Filters(), draws=draws_of(5_000), stop=b"ba", least=least) > P_THRESHOLD

    own = drafters(CUT, 0xA9, 97)[drafter]
    p = agreement(CUT, b"a\xc3", own, Filters(), draws=draws_of(5_000), length=2, least=least)
    assert p > P_THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_fifty_thousand_texts(drafter: str) -> None:
    """Of which each place has a draft checked (many.py)."""
    fifty_thousand(drafter, least=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_fifty_thousand_texts_with_drafts_where_bounds_leave_them(drafter: str, known: list[float]) -> None:
    """As they are drawn in use (many.py)."""
    fifty_thousand(drafter, least=0.0)
    assert sum(0 < each < 1 for each in known) > 100


@pytest.mark.parametrize("drafter", ["other", "even", "certain"])
def test_a_stop_string_and_a_cut_character_do_not_change_the_law(drafter: str) -> None:
    """As above, of fewer texts."""
    toy, prefix, _ = TOYS["drawn"]

    assert agreement(toy, prefix, drafters(toy)[drafter], Filters(), draws=60, stop=b"ba") > P_THRESHOLD
    assert agreement(CUT, b"a\xc3", drafters(CUT, 0xA9, 97)[drafter], Filters(), draws=60, length=2) > P_THRESHOLD


def test_greedy_text_is_the_models_own() -> None:
    """At 200 prompts, on 50 random toys, whoever drafts; and every completion says what it is."""
    accepted = 0
    for seed in range(50):
        toy = random_toy(seed)
        plain = (
            Scheduler(toy.model)
            .run_one(toy.generation(b"a", SamplingParams(temperature=0, max_bytes=9), random_stream(0, 0)).run())
            .result
        )
        for name in ("equal", "other", "certain", "disjoint"):
            params = SamplingParams(temperature=0, max_bytes=9, draft=drafters(toy)[name])
            done = complete(toy, b"a", params, index=0)
            accepted += done.usage.accepted
            assert (done.bytes, done.finish_reason) == (plain.bytes, plain.finish_reason)
            assert done.logprob == pytest.approx(plain.logprob, abs=1e-9)

    assert accepted > 150


def test_texts_end_where_they_end() -> None:
    """At a stop string within a draft, at the end of text within a draft, and at the most bytes."""
    toy, prefix, _ = TOYS["drawn"]
    reasons = set()
    for index in range(60):
        for stop in ((), (b"ba",)):
            params = SamplingParams(max_bytes=5, stop=stop, draft=drafters(toy)["equal"])
            done = complete(toy, prefix, params, index=index)
            reasons.add(done.finish_reason)
            assert len(done.bytes) <= 5
            assert not stop or b"ba" not in done.bytes

    assert reasons == {"eot", "stop", "length"}


# ---- byte models


def model(seed: int = 2, **more: Any) -> TableLM:
    return TableLM(byte_bpe_tokenizer(eos="<|endoftext|>", **more), seed=seed, order=1, temperature=0.5)


class Counting(TableLM):
    """Counts its calls."""

    calls = rows = 0
    extra_token_cost = 1e-3

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.calls += 1
        self.rows += len(sequences)
        return super().next_token_logprobs(sequences)


def costs(draft: Any, *, temperature: float) -> tuple[float, float]:
    """Calls and rows of the model for a byte."""
    written, table = 0, Counting(byte_bpe_tokenizer(eos="<|endoftext|>"), seed=2, order=1, temperature=0.5)
    for number in range(8):
        done: Any = ByteLM(table).sample(f"the {number}", seed=1, max_bytes=60, temperature=temperature, draft=draft)
        written += len(done.bytes)
    return table.calls / written, table.rows / written


def test_fewer_calls_where_drafts_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter that says the same; and for the same text hardly a call more where nothing that is drafted is right."""
    monkeypatch.undo()

    assert costs(ByteLM(model()), temperature=1)[0] < 0.4 * costs(None, temperature=1)[0]
    assert costs(Fixed(evenly([0, 1, 2])), temperature=0)[0] < 1.02 * costs(None, temperature=0)[0]


def test_what_decides_is_evaluated_beforehand_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are dear, far fewer than all along a draft, for few more calls; what is evaluated later is known on."""
    monkeypatch.undo()
    monkeypatch.setattr(Counting, "extra_token_cost", 0.1)
    undecided: list[Any] = []
    followed: list[Any] = []
    draft = ByteLM(model())
    monkeypatch.setattr(ModelPlace, "follow", noting(followed, ModelPlace.follow))
    with monkeypatch.context() as patched:
        patched.setattr(ModelPlace, "evaluate", noting(undecided, ModelPlace.evaluate))
        costs(ByteLM(model(5)), temperature=1)  # one that is often wrong, and leaves more open
    some = costs(draft, temperature=1)
    monkeypatch.setattr(ModelPlace, "evaluate_along", Place.evaluate_along)

    every = costs(draft, temperature=1)
    monkeypatch.undo()
    cheap = costs(draft, temperature=1)

    assert cheap[1] > 0.95 * every[1]
    assert cheap[0] <= some[0]
    assert some[0] < 1.15 * every[0]
    assert some[1] < 0.85 * every[1]
    assert undecided
    assert followed


@pytest.mark.parametrize("combine", ["mixture", "bayes"])
@pytest.mark.filterwarnings("ignore::bytelm.errors.LeakWarning")
def test_texts_of_an_ensemble_have_its_law(combine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second symbol, of which little is known: a mixture reads its numbers otherwise where nothing is drafted."""
    monkeypatch.undo()
    both = Ensemble([ByteLM(model()), ByteLM(model(3))], combine=combine)
    many: Any = both.sample("the qu", seed=1, max_bytes=2, n=1500, draft=ByteLM(model(5)))
    first = np.exp(both.next_byte_logprobs("the qu"))
    expected = np.zeros(SYMBOLS + 1)
    for symbol in np.flatnonzero(first > 1e-6).tolist():
        if symbol == EOT:
            expected[-1] += first[EOT]
            continue
        second = np.exp(both.next_byte_logprobs(b"the qu" + bytes([symbol])))
        expected[:SYMBOLS] += first[symbol] * second / second.sum()
    drawn = [[*done.bytes, EOT][1] if done.bytes else SYMBOLS for done in many]

    assert sum(done.usage.drafted for done in many) > 300
    assert p_value(np.array(drawn), expected / expected.sum()) > P_THRESHOLD


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_ensembles_draft_and_are_drafted_for(combine: Any) -> None:
    """Greedy texts are the ensemble's own; the log-probability is told as without drafts."""
    both = Ensemble([ByteLM(model()), ByteLM(model(3, special=("<|x|>",)))], combine=combine)
    draft = Ensemble([ByteLM(model()), ByteLM(model(5))])

    plain: Any = both.sample("the qu", temperature=0, max_bytes=12)
    done: Any = both.sample("the qu", temperature=0, max_bytes=12, draft=draft)
    drawn: Any = both.sample("the qu", seed=1, max_bytes=12, draft=draft)

    assert (done.bytes, done.logprob) == (plain.bytes, pytest.approx(plain.logprob, abs=1e-9))
    assert drawn.logprob == pytest.approx(
        both.logprob(drawn.bytes, prefix="the qu", eot=drawn.finish_reason == "eot"), abs=1e-9
    )
    assert drawn.usage.drafted > 0


def test_constrained_texts_are_drafted_too() -> None:
    """What the constraint forces is never drafted wrong, and the weight under the constraint is told."""
    lm, options = ByteLM(model()), ["zebra crossing", "abcabc", "abd"]
    for draft in (ByteLM(model(9)), "lookup"):
        for index in range(10):
            done: Any = lm.sample(
                "the qu", constraint=constraints.choice(options), draft=draft, lazy=False, seed=index, max_bytes=30
            )
            assert done.text in options
            assert done.log_constraint_mass < 0


def test_a_batch_is_what_each_text_is_alone() -> None:
    """Items draft for themselves."""
    lm, draft = ByteLM(model()), ByteLM(model(4))

    many: Any = lm.sample("the qu", n=5, seed=3, max_bytes=20, draft=draft)
    few: Any = lm.sample("the qu", n=3, seed=3, max_bytes=20, draft=draft)

    assert [each.bytes for each in few] == [each.bytes for each in many[:3]]
    assert "".join(lm.stream("the qu", seed=3, max_bytes=20, draft=draft)) == many[0].text


def test_a_drafter_that_fails_is_left_out() -> None:
    """The text goes on, usage says why, and other texts that share the call do not notice."""

    class Failing(TableLM):
        def next_token_logprobs(self, sequences: Any) -> Any:
            if any(len(ids) > 4 for ids in sequences):
                raise ModelError("the drafter is gone")
            return super().next_token_logprobs(sequences)

    failing = ByteLM(Failing(byte_bpe_tokenizer(eos="<|endoftext|>"), seed=2, order=1, temperature=0.5))
    lm = ByteLM(model())
    plain: Any = lm.sample("the qu", temperature=0, max_bytes=30)

    done: Any = lm.sample_batch(["the qu", "the qui"], temperature=0, max_bytes=30, draft=failing)

    assert done[0].bytes == plain.bytes
    assert "the drafter is gone" in done[0].usage.draft_error
    assert "the drafter is gone" in done[1].usage.draft_error


def test_a_drafter_with_a_shorter_context_falls_silent() -> None:
    """Where its context ends it proposes nothing more."""
    short: Any = model()
    short.context_length = 6
    lm = ByteLM(model())

    done: Any = lm.sample("the qu", temperature=0, max_bytes=40, draft=ByteLM(short))

    assert done.bytes == lm.sample("the qu", temperature=0, max_bytes=40).bytes
    assert 0 < done.usage.drafted < 40


def test_a_lookup_proposes_what_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest match wins, and of two the last one; nothing where too little matches."""
    monkeypatch.undo()
    lookup = Lookup(["one two three four", "xx two three five"])

    assert lookup.after(b"zz two three f", 3) == b"ive"
    assert lookup.after(b"one two three ", 4) == b"four"
    assert lookup.after(b"three", 4) == b""
    assert Lookup().after(b"abcdefgh-abcdefgh", 3) == b"-ab"
    assert Lookup().after(b"abcdefgh", 3) == b""


@pytest.mark.usefixtures("caller_errs")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft": "look"}, "draft must be"),
        ({"draft": 3}, "draft must be"),
        ({"draft": "lookup", "level": "token"}, "draft is of bytes"),
        ({"draft": "lookup", "particles": 3, "constraint": constraints.choice(["a"])}, "give one of them"),
        ({"draft": Ensemble([ByteLM(model())], combine="product", level="string")}, "level='string'"),
    ],
)
def test_what_cannot_be_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    """Before the model runs."""
    with pytest.raises(InvalidArgumentError, match=message):
        ByteLM(model()).sample("the qu", **options)
