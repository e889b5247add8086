"""What is drawn under a constraint is the model's row over what is allowed, and no more is evaluated than that takes.

The oracle is the lemma's row, masked and normalised; chi-square tests have fixed seeds, and fail below p = 1e-4.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, TableLM, constraints
from bytelm.constraints import Constraint
from bytelm.ensemble.combine import Combine
from bytelm.errors import ConstraintError
from bytelm.inference.envelope import Envelope
from bytelm.inference.lazy import evaluate_all
from bytelm.sampling.bounds import lower_bounds
from bytelm.sampling.completion import Completion, random_stream
from bytelm.sampling.constrained import restricted
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.symbols import EOT, SYMBOLS
from evals.cost.lazy import p_value
from tests.sampling.test_generation import (
    FILTERS,
    P_THRESHOLD,
    TOYS,
    exact_row,
    lazy_frontier,
    random_toy,
)
from tests.support.languages import language
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer
from tests.support.toy import Toy

MASKS = {
    "a": b"a",
    "b and the end": b"b",
    "a and b": b"ab",
    "a, x and the end": b"ax",
    "all but a": bytes(set(range(256)) - {97}),
}


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros(SYMBOLS, np.bool_)
    mask[[*MASKS[name]]] = True
    mask[EOT] = "end" in name
    return mask


def masked_draws(
    name: str, filters: Filters, uniforms: np.ndarray, allowed: np.ndarray
) -> tuple[Toy, bytes, np.ndarray]:
    toy, frontier = lazy_frontier(name)
    step = ModelPlace(frontier, toy.model).draw(filters, uniforms, np.random.default_rng(0), allowed=allowed)
    return toy, frontier.cover.prefix, toy.answer(step)


# ---- one symbol


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("filters", FILTERS, ids=repr)
@pytest.mark.parametrize("name", TOYS)
def test_the_pieces_of_the_unit_interval_are_those_of_the_masked_row(name: str, filters: Filters, mask: str) -> None:
    """Temperature and filters act on the allowed symbols, renormalised: lazily each has its length on a fine grid."""
    allowed = mask_of(mask)
    toy, frontier = lazy_frontier(name)
    masked = exact_row(toy, frontier.cover.prefix) * allowed
    if not masked.any():
        with pytest.raises(ConstraintError, match="probability 0"):
            masked_draws(name, filters, np.array([0.5]), allowed)
        return
    size = 5_000
    _, _, symbols = masked_draws(name, filters, (np.arange(size) + 0.5) / size, allowed)

    lengths = np.bincount(symbols, minlength=SYMBOLS) / size
    np.testing.assert_allclose(lengths, filters.apply(masked), atol=10 / size)


@pytest.mark.parametrize("name", TOYS)
def test_masked_draws_pass_the_chi_square(name: str) -> None:
    """10,000 draws that begin with most of the mass unevaluated have the masked row's distribution."""
    allowed = mask_of("a, x and the end")
    toy, prefix, symbols = masked_draws(name, Filters(), np.random.default_rng(1).random(10_000), allowed)

    assert p_value(symbols, exact_row(toy, prefix) * allowed) > P_THRESHOLD


def test_a_greedy_draw_is_the_likeliest_allowed_symbol() -> None:
    """On random toys, lazily, whatever is allowed."""
    for seed in range(20):
        toy = random_toy(seed)
        for mask in MASKS:
            frontier = toy.frontier(b"a")
            toy.answer(evaluate_all(frontier))
            place = ModelPlace(frontier.advance(b"b"), toy.model)
            masked = exact_row(toy, b"ab") * mask_of(mask)
            if masked.any():
                step = place.draw(Filters(temperature=0), np.zeros(1), np.random.default_rng(0), allowed=mask_of(mask))
                assert toy.answer(step) == [int(Filters(temperature=0).apply(masked).argmax())]


def test_what_reaches_nothing_allowed_is_not_evaluated() -> None:
    """After "a" two nodes are not evaluated: [a], which reaches anything, and what hangs on [x], which reaches b alone."""
    tokens = [b"a", b"b", b"c", b"x", b"xa", b"ab", b"xab", None]
    toy = Toy.of(
        tokens, lambda ids: [1 / 8] * 8, eot_ids=[7], viable=lambda ids: ids[:2] not in {(3, 0), (3, 1), (3, 2)}
    )
    frontier = toy.frontier(b"")
    toy.answer(evaluate_all(frontier))
    frontier = frontier.advance(b"xa")  # [x] with "a" left goes on with ab alone; [xa] goes on with anything
    of_b, of_c = (frontier.missing(allowed=np.isin(np.arange(SYMBOLS), [letter])) for letter in b"bc")

    assert {node.token_ids for node in frontier.missing()} == {node.token_ids for node in of_b} == {(3,), (4,)}
    assert {node.token_ids for node in of_c} == {(4,)}
    _, whole = frontier.envelope()
    _, masked = frontier.envelope(np.isin(np.arange(SYMBOLS), [*b"c"]))
    assert masked.unknown == pytest.approx(whole.unknown / 2)
    toy.model.asked.clear()
    place = ModelPlace(frontier, toy.model)
    toy.answer(
        place.draw(Filters(), np.zeros(1), np.random.default_rng(0), allowed=np.isin(np.arange(SYMBOLS), [*b"cx"]))
    )
    assert {ids for call in toy.model.asked for ids in call} == {(4,)}


def sums(known: np.ndarray, weights: np.ndarray, reach: np.ndarray) -> Envelope:
    """An envelope, by its definition."""
    beyond = (reach.sum(axis=1)[:, None] > reach).astype(float)
    return Envelope(known, weights @ reach, weights @ beyond, float(weights @ (reach.sum(axis=1) > 0)))


def test_the_masked_envelope_is_that_of_the_allowed_symbols() -> None:
    """Of random nodes: exactly where what they reach is known, and from the sums alone a bound that holds."""
    random = np.random.default_rng(0)
    for _ in range(200):
        size = int(random.integers(1, 5))
        weights = random.random(size)
        reach = np.zeros((size, SYMBOLS), np.bool_)
        for node in range(size):
            reach[node, random.choice(6, random.integers(1, 4), replace=False)] = True
        allowed = np.zeros(SYMBOLS, np.bool_)
        allowed[random.choice(6, random.integers(1, 4), replace=False)] = True
        known = random.random(SYMBOLS)

        exact, bound = sums(known, weights, reach & allowed), restricted(sums(known, weights, reach), allowed)
        np.testing.assert_array_equal(bound.known, known * allowed)
        np.testing.assert_allclose(bound.extra, exact.extra)
        assert (bound.elsewhere >= exact.elsewhere - 1e-12).all()
        assert bound.unknown >= exact.unknown - 1e-12
        assert (bound.unknown == 0) == (exact.unknown == 0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", TOYS)
def test_a_frontier_tells_of_the_allowed_symbols_alone(name: str, mask: str) -> None:
    """Its envelope is the sum over its nodes, of what each reaches of them."""
    allowed = mask_of(mask)
    _, frontier = lazy_frontier(name)
    scale, whole = frontier.envelope()
    _, masked = frontier.envelope(allowed)
    weights = np.array([math.exp(frontier.weights[top] - scale) for top in frontier._front])
    reach = np.array([frontier._reached(nodes) for nodes in frontier._front.values()]) & allowed
    expected = sums(whole.known * allowed, weights, reach)

    for field in ("known", "extra", "elsewhere", "unknown"):
        np.testing.assert_allclose(getattr(masked, field), getattr(expected, field), atol=1e-12)


# ---- whole texts


def law(
    toy: Toy, prefix: bytes, texts: frozenset[bytes], max_bytes: int, filters: Filters
) -> dict[tuple[bytes, str], float]:
    """The probability of each completion under the masked law, by its bytes and why it ended."""
    found: dict[tuple[bytes, str], float] = defaultdict(float)

    def walk(text: bytes, prob: float) -> None:
        ahead = {rest[:1] for each in texts if each.startswith(text) and (rest := each[len(text) :])}
        if not ahead:
            found[text, "stop"] += prob
        elif len(text) == max_bytes:
            found[text, "length"] += prob
        elif len(ahead) == 1 and text not in texts:
            walk(text + min(ahead), prob)
        else:
            mask = np.zeros(SYMBOLS, np.bool_)
            mask[[*b"".join(ahead)]] = True
            mask[EOT] = text in texts
            row = filters.apply(exact_row(toy, prefix + text) * mask)
            for symbol in np.flatnonzero(row).tolist():
                if symbol == EOT:
                    found[text, "eot"] += prob * row[EOT]
                else:
                    walk(text + bytes([symbol]), prob * row[symbol])

    walk(b"", 1.0)
    return found


def complete(toy: Toy, prefix: bytes, constraint: Constraint, index: int, **options: Any) -> Completion:
    params = SamplingParams(constraint=constraint, **options)
    return toy.answer(toy.generation(prefix, params, random_stream(3, index)).run())


TEXTS = ["", "a", "ab", "aab", "baab", "baaa", "bb", "bbabab"]


@pytest.mark.parametrize(
    ("name", "engine", "filters"),
    [
        ("rare", language, Filters()),
        ("drawn", constraints.choice, Filters()),
        ("rare", constraints.choice, Filters(temperature=0.7, top_k=2)),
    ],
    ids=["masks", "runs", "filtered"],
)
def test_texts_have_the_masked_law(name: str, engine: Any, filters: Filters) -> None:
    """Forced runs, ends of text, complete texts and cut ones: as often as enumeration says."""
    toy, known, _ = TOYS[name]
    constraint = engine(TEXTS)
    probs = law(toy, known, language(TEXTS).texts, 5, filters)
    codes = {key: code for code, key in enumerate(probs)}
    options = {"temperature": filters.temperature, "top_k": filters.top_k, "max_bytes": 5}
    drawn = [complete(toy, known, constraint, index, **options) for index in range(600)]

    assert {reason for _, reason in codes} == {"eot", "stop", "length"}
    symbols = np.array([codes[done.bytes, done.finish_reason] for done in drawn])
    assert p_value(symbols, np.array([*probs.values()])) > P_THRESHOLD


@pytest.mark.parametrize("lazy", [True, False])
def test_greedy_texts_take_the_likeliest_allowed_symbol(lazy: bool) -> None:
    """On random toys each byte is the masked row's likeliest, with and without leaps by the token."""
    ends = []
    for seed in range(25):
        toy = random_toy(seed)
        try:
            done = complete(toy, b"a", language(TEXTS), 0, temperature=0, max_bytes=5, lazy=lazy)
        except ConstraintError as error:
            assert "nothing spells" in str(error)  # what is forced there  # noqa: PT017
            continue
        ends.append(done.finish_reason)

        assert {(done.bytes, done.finish_reason): 1.0} == law(
            toy, b"a", language(TEXTS).texts, 5, Filters(temperature=0)
        )
        assert (done.log_constraint_mass is None) == lazy
    assert len(ends) > 15
    assert len(set(ends)) > 1


@pytest.mark.parametrize("stop", [(), b"ab", b"b"])
@pytest.mark.parametrize("name", ["rare", "drawn", "leaky"])
def test_the_constraint_mass_is_the_sum_over_steps(name: str, stop: Any) -> None:
    """Π Sₜ by rows of the lemma, over all that was drawn; what was drawn has P = Π Sₜ · its chance to be drawn."""
    toy, known, _ = TOYS[name]
    texts = language([text for text in TEXTS if text])
    for index in range(25):
        done = complete(toy, known, texts, index, max_bytes=5, lazy=False, stop=stop)
        goes_on = any(text != done.bytes and text.startswith(done.bytes) for text in texts.texts)
        drawn = done.bytes + (bytes(stop) if done.finish_reason == "stop" and goes_on else b"")
        total, text = 0.0, b""
        state = texts.state()
        for symbol in [*drawn, *([EOT] if done.finish_reason == "eot" else [])]:
            total += math.log(exact_row(toy, known + text)[state.allowed()].sum())
            text += bytes([symbol]) if symbol < EOT else b""
            state.advance(bytes([symbol]) if symbol < EOT else b"")

        assert done.log_constraint_mass == pytest.approx(total, abs=1e-9)


def test_a_forced_run_takes_neither_a_call_nor_a_random_number() -> None:
    """A run of thirty bytes costs no call, and the byte after it is the one that it would be without the run."""
    tokenizer = default_tokenizer()
    run = "the quick brown fox jumps over"
    for seed in range(5):
        lm = ByteLM(TableLM(tokenizer, seed=4, order=2))
        made = constraints.choice([run + end for end in (" a", " t", "s")])
        ends = constraints.choice([" a", " t", "s"])
        whole = lm.sample("Now ", constraint=made, seed=seed, lazy=False, temperature=30)
        rest = lm.sample("Now " + run, constraint=ends, seed=seed, lazy=False, temperature=30)

        assert whole.bytes == run.encode() + rest.bytes
        assert whole.usage.calls <= 3


def test_never_more_calls_than_without(lm: ByteLM) -> None:
    """For as many bytes a constraint takes no more calls, and one that forces much takes far fewer."""
    schema = {
        "type": "object",
        "properties": {"the": {"type": "string", "maxLength": 4}},
        "required": ["the"],
        "additionalProperties": False,
    }
    free = {seed: lm.sample("the ", seed=seed, max_bytes=14).usage.calls for seed in range(10)}
    bound = {
        seed: lm.sample("the ", seed=seed, max_bytes=14, constraint=constraints.json_schema(schema)).usage.calls
        for seed in range(10)
    }
    spread = {
        seed: lm.sample("the ", seed=seed, max_bytes=14, constraint=constraints.regex("[a-z ]{30}")).usage.calls
        for seed in range(10)
    }

    assert sum(bound.values()) < 0.7 * sum(free.values())
    assert sum(spread.values()) <= 1.1 * sum(free.values())


# ---- several models


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A byte model over a tiny tokenizer."""
    return ByteLM(TableLM(default_tokenizer(), seed=5, order=2))


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_draws_from_its_masked_row(lm: ByteLM, combine: Combine) -> None:
    """In each formula, of members with different vocabularies, after bytes that nobody has evaluated."""
    other = ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=290), seed=2, order=2))
    ensemble = Ensemble([lm, other], weights=[0.7, 0.3], combine=combine)
    allowed = np.isin(np.arange(SYMBOLS), [*b"aeioun ", EOT])
    masked = np.exp(ensemble.next_byte_logprobs("the qu")) * allowed
    place = ensemble.place(ensemble.prompt("the "))
    ensemble.answer(place.begin())
    place = place.advance(b"q").advance(b"u")
    uniforms = np.random.default_rng(1).random(20_000)

    symbols = ensemble.answer(place.draw(Filters(), uniforms, np.random.default_rng(2), allowed=allowed))

    assert p_value(symbols, masked) > P_THRESHOLD
    for filters in (Filters(temperature=0), Filters(temperature=0.7, top_p=0.8)):
        fresh = ensemble.place(ensemble.prompt("the qu"))
        bounds = lower_bounds(restricted(fresh.bounds().envelope(), allowed), filters)
        assert (bounds <= filters.apply(masked) + 1e-9).all()


@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_writes_json(lm: ByteLM, combine: Combine) -> None:
    """Whole texts under a schema, with the log-probability that the ensemble gives them."""
    other = ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=290), seed=2, order=2))
    ensemble = Ensemble([lm, other], combine=combine)
    made = constraints.json_schema({"type": "array", "items": {"enum": ["the", "fox"]}, "minItems": 2, "maxItems": 2})
    for seed in range(4):
        done = ensemble.sample("the ", constraint=made, seed=seed)

        assert done.text in {f'["{a}","{b}"]' for a in ("the", "fox") for b in ("the", "fox")}
        assert done.finish_reason == "stop"
        assert done.logprob == pytest.approx(ensemble.logprob(done.bytes, prefix="the "), abs=1e-6)
