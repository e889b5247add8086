"""The sampler is the distribution: lazily or in full, on toys where much is unevaluated when a byte is drawn.

Every statistical test has a fixed seed and fails below p = 1e-4, so a right sampler passes always, and a wrong one that
the test can see at all fails always.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from bytelm.errors import InvalidArgumentError, InvalidTypeError, ModelError
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import evaluate, evaluate_all, full_row
from bytelm.inference.scheduler import Scheduler, Step
from bytelm.lemma import end_logprob, next_byte_logprobs, prefix_logprob
from bytelm.sampling.bounds import lower_bounds
from bytelm.sampling.completion import Completion, random_stream
from bytelm.sampling.draw import processed, settled
from bytelm.sampling.filters import Filters
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.symbols import EOT, SYMBOLS
from evals.cost.lazy import p_value
from tests.support.toy import Ids, TableRows, Toy, drawn_rows

P_THRESHOLD = 1e-4
DRAWS = 50_000
DRAWN = 3  # a seed that leaves half of the mass unknown


# ---- toys: what is evaluated is the beginning, what is drawn is a byte some way on


def in_proportion(*weights: float) -> np.ndarray:
    return np.array(weights) / sum(weights)


def _ties(ids: Ids) -> np.ndarray:
    """a, b, c, aa, ab, ac alike: after "a" the unevaluated node [a] holds as much as each token that goes on."""
    return in_proportion(1, 1, 1, 1, 1, 1, 0.5)


def _rare(ids: Ids) -> np.ndarray:
    """The node that ends a token holds half, and what it holds is rare in what is known."""
    return in_proportion(40, 1, 1, 30, 1, 4, 1) if not ids else in_proportion(1, 30, 9, 1, 1, 1, 4)


def _leaky(ids: Ids) -> np.ndarray:
    """Whatever follows the first token is mostly lost: on the special token that does not end the text."""
    return in_proportion(40, 1, 1, 3, 9, 1, 1, 0) if not ids else in_proportion(9, 1, 2, 0, 0, 0, 3, 25)


TOYS: dict[str, tuple[Toy, bytes, bytes]] = {
    # name: toy, the prefix that is evaluated, the bytes that follow unevaluated
    "ties": (Toy.of([b"a", b"b", b"c", b"aa", b"ab", b"ac", None], _ties, eot_ids=[6]), b"", b"a"),
    "rare": (Toy.of([b"a", b"b", b"c", b"aa", b"ab", b"ac", None], _rare, eot_ids=[6]), b"", b"a"),
    "leaky": (
        Toy.of([b"a", b"b", b"c", b"aa", b"ab", b"ac", None, None], _leaky, eot_ids=[6]),
        b"",
        b"a",
    ),
    "chain": (  # several nodes hang on one that is not evaluated
        Toy.of(
            [b"x", b"xx", b"xxx", b"a", b"xa", b"xxb", b"xxxa", None],
            drawn_rows(8, seed=2, spread=1.0),
            eot_ids=[7],
        ),
        b"x",
        b"xx",
    ),
    "drawn": (
        Toy.of(
            [b"a", b"b", b"ab", b"ba", b"aba", None, b"bb", None, b"a"],
            drawn_rows(9, seed=DRAWN, spread=0.7),
            eot_ids=[5, 7],
            viable=lambda ids: (0, 1) not in itertools.pairwise(ids),
        ),
        b"a",
        b"b",
    ),
}

FILTERS = [
    Filters(),
    Filters(temperature=0.6),
    Filters(temperature=1.6),
    Filters(top_k=2),
    Filters(top_p=0.7),
    Filters(min_p=0.25),
    Filters(temperature=0.8, top_k=4, top_p=0.9, min_p=0.05),
]


def draw(toy: Toy, frontier: Frontier, filters: Filters, uniforms: np.ndarray) -> Step[np.ndarray]:
    return ModelPlace(frontier, toy.model).draw(filters, uniforms, np.random.default_rng(0))


def lazy_frontier(name: str) -> tuple[Toy, Frontier]:
    """A toy's frontier where only the beginning is evaluated."""
    toy, known, ahead = TOYS[name]
    frontier = toy.frontier(known)
    toy.answer(evaluate_all(frontier))
    for byte in ahead:
        frontier = frontier.advance(bytes([byte]))
    return toy, frontier


def exact_row(toy: Toy, prefix: bytes) -> np.ndarray:
    """The next-byte distribution by lemma.py."""
    vocabulary, model = toy.vocabulary, toy.model
    logprobs = next_byte_logprobs(
        prefix,
        vocabulary.token_bytes,
        vocabulary.viable,
        model.row,
        canonical=vocabulary.canonical,
        eot_ids=model.eot_ids,
    )
    return np.exp(logprobs)


@pytest.mark.parametrize("name", TOYS)
def test_the_toys_are_lazy(name: str) -> None:
    """In each toy most of the mass is unevaluated when the byte is drawn, and some is known."""
    _, frontier = lazy_frontier(name)
    _, envelope = frontier.envelope()

    assert envelope.unknown > envelope.known.sum() * 0.3
    assert envelope.known.any()


@pytest.mark.parametrize("name", TOYS)
def test_the_envelope_holds(name: str) -> None:
    """K(b) ≤ P(x·b) ≤ K(b) + what can come on top, for each symbol."""
    toy, frontier = lazy_frontier(name)
    exact = exact_row(toy, frontier.cover.prefix)
    _, envelope = frontier.envelope()
    # The exact row is P(x·b) / P(x), and K is on a scale of its own: compare where all is known.
    toy.answer(evaluate_all(full := frontier.copy()))
    scale, complete = full.envelope()
    whole = complete.known * math.exp(scale - frontier.envelope()[0])

    np.testing.assert_allclose(whole / whole.sum(), exact / exact.sum(), atol=1e-12)
    assert (envelope.known <= whole + 1e-12).all()
    assert (whole <= envelope.known + envelope.extra + 1e-12).all()


# ---- one byte


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
@pytest.mark.parametrize("name", TOYS)
def test_lazy_draws_are_the_filtered_row(name: str, filters: Filters) -> None:
    """50,000 draws that begin with most of the mass unevaluated have the distribution of the full evaluation."""
    toy, frontier = lazy_frontier(name)
    uniforms = np.random.default_rng(1).random(DRAWS)

    symbols = toy.answer(draw(toy, frontier, filters, uniforms))

    assert p_value(symbols, filters.apply(exact_row(toy, frontier.cover.prefix))) > P_THRESHOLD


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
@pytest.mark.parametrize("name", TOYS)
def test_the_pieces_of_the_unit_interval_have_the_exact_lengths(name: str, filters: Filters) -> None:
    """A draw is a function of its uniform number: on a fine grid each symbol has its probability, by no chance."""
    toy, frontier = lazy_frontier(name)
    grid = (np.arange(DRAWS) + 0.5) / DRAWS

    symbols = toy.answer(draw(toy, frontier, filters, grid))

    lengths = np.bincount(symbols, minlength=SYMBOLS) / DRAWS
    np.testing.assert_allclose(lengths, filters.apply(exact_row(toy, frontier.cover.prefix)), atol=30 / DRAWS)


def draw_afresh(frontier: Frontier, filters: Filters, random: np.random.Generator, toy: Toy) -> np.ndarray:
    """The mutant: draws that fell on what is not known are made again once more is known. Otherwise as `draw`."""
    symbols = np.full(DRAWS, -1)
    while (open_ := symbols < 0).any():
        bounds = lower_bounds(frontier.envelope()[1], filters)
        symbols[open_] = settled(random.random(int(open_.sum())), np.zeros(SYMBOLS), bounds)
        toy.answer(evaluate(frontier, frontier.missing(1e-3)))
    return symbols


@pytest.mark.parametrize("filters", FILTERS, ids=repr)
def test_a_sampler_that_draws_afresh_fails(filters: Filters) -> None:
    """Drawing again after an evaluation favours what was known first: the tests above would see it, in each filter."""
    seen = {}
    for name in TOYS:
        toy, frontier = lazy_frontier(name)
        row = filters.apply(exact_row(toy, frontier.cover.prefix))
        seen[name] = p_value(draw_afresh(frontier, filters, np.random.default_rng(2), toy), row) < P_THRESHOLD

    assert all(seen.values()) if filters.plain else any(seen.values()), seen


@pytest.mark.parametrize("filters", [Filters(), Filters(temperature=0.7, top_p=0.9)], ids=repr)
@pytest.mark.parametrize("name", ["ties", "chain", "drawn"])
def test_two_byte_strings_have_the_product_of_their_rows(name: str, filters: Filters) -> None:
    """50,000 strings of two symbols, each drawn lazily after the one before, against P(b₁) · P(b₂ | b₁)."""
    toy, frontier = lazy_frontier(name)
    prefix = frontier.cover.prefix
    random = np.random.default_rng(3)
    first = toy.answer(draw(toy, frontier.copy(), filters, random.random(DRAWS)))
    strings, probs = np.zeros(DRAWS, np.int64), []
    row = filters.apply(exact_row(toy, prefix))
    for code, symbol in enumerate(np.flatnonzero(row).tolist()):
        chosen = first == symbol
        if symbol == EOT:
            strings[chosen] = code * SYMBOLS + EOT
            after = np.eye(SYMBOLS)[EOT]
        else:
            # Another frontier, evaluated as far as a draw of this symbol alone needs.
            lazy = lazy_frontier(name)[1].advance(bytes([symbol]))
            strings[chosen] = code * SYMBOLS + toy.answer(draw(toy, lazy, filters, random.random(int(chosen.sum()))))
            after = filters.apply(exact_row(toy, prefix + bytes([symbol])))
        probs.append(row[symbol] * after)

    assert set(np.unique(first)) <= set(np.flatnonzero(row))
    assert p_value(strings, np.concatenate(probs)) > P_THRESHOLD


# ---- completions


def complete(toy: Toy, prefix: bytes, params: SamplingParams, *, seed: int = 0, index: int = 0) -> Completion:
    return toy.answer(toy.generation(prefix, params, random_stream(seed, index)).run())


def random_toy(seed: int) -> Toy:
    """A random vocabulary over two bytes with shared prefixes and duplicates, and a model that is not sharp."""
    random = np.random.default_rng(seed)
    tokens: list[bytes | None] = [b"a", b"b"]
    tokens += [bytes(random.choice([97, 98], size=random.integers(2, 6)).tolist()) for _ in range(5)]
    forbidden = {tuple(pair) for pair in random.integers(0, 7, size=(12, 2)).tolist()} - {(0, 0), (1, 1)}
    return Toy.of(
        [*tokens, None, None],
        drawn_rows(9, seed=seed, spread=float(random.choice([1.0, 4.0, 16.0]))),
        eot_ids=[7],
        viable=lambda ids: not forbidden & set(itertools.pairwise(ids)),
    )


def test_lazy_greedy_is_full_greedy() -> None:
    """On 30 random toys greedy bytes are the same lazily and in full, and lazily in fewer calls."""
    calls = {True: 0, False: 0}
    for seed in range(30):
        toy = random_toy(seed)
        found = {}
        for lazy in (True, False):
            before = len(toy.model.asked)
            params = SamplingParams(temperature=0, max_bytes=7, lazy=lazy)
            found[lazy] = complete(toy, b"a", params)
            calls[lazy] += len(toy.model.asked) - before

        assert found[False].bytes == found[True].bytes
        assert found[False].finish_reason == found[True].finish_reason
        assert found[False].logprob == pytest.approx(found[True].logprob, abs=1e-9)

    assert calls[True] < 0.8 * calls[False]


def test_greedy_ties_go_to_the_lower_byte() -> None:
    """Where two bytes are equally likely the lower one is written, lazily and in full."""
    tied = Toy.of([b"b", b"a", b"ba", b"ab", None], lambda ids: in_proportion(1, 1, 1, 1, 0.1), eot_ids=[4])
    row = exact_row(tied, b"")

    written = [complete(tied, b"", SamplingParams(temperature=0, max_bytes=4, lazy=lazy)) for lazy in (True, False)]

    assert row[97] == pytest.approx(row[98], abs=1e-15)
    assert written[0].bytes[:1] == b"a"
    assert written[0].bytes == written[1].bytes


@pytest.mark.parametrize("name", TOYS)
def test_logprob_is_of_what_was_written(name: str) -> None:
    """A completion's log-probability is the lemma's, of its bytes and of the end where it ended, in every filter."""
    toy, known, _ = TOYS[name]
    vocabulary, model = toy.vocabulary, toy.model
    reasons = set()
    for index, filters in enumerate(FILTERS * 3):
        params = SamplingParams(**asdict(filters), max_bytes=5, stop=b"ba")
        completion = complete(toy, known, params, index=index)
        text = known + completion.bytes
        if completion.finish_reason == "eot":
            after = end_logprob(
                text,
                vocabulary.token_bytes,
                vocabulary.viable,
                model.row,
                canonical=vocabulary.canonical,
                eot_ids=model.eot_ids,
            )
        else:
            after = prefix_logprob(text, vocabulary.token_bytes, vocabulary.viable, model.row)
        before = prefix_logprob(known, vocabulary.token_bytes, vocabulary.viable, model.row)
        reasons.add(completion.finish_reason)

        assert completion.logprob == pytest.approx(after - before, abs=1e-9)

    assert len(reasons) > 1


def test_an_item_is_the_same_in_any_company() -> None:
    """The same seed and index give the same bytes alone, in a batch, and whatever a call may hold."""
    toy = TOYS["drawn"][0]
    params = SamplingParams(temperature=1.1, max_bytes=6)

    def batch(indices: Sequence[int], max_rows: int) -> list[bytes]:
        shared = toy.place(b"ab")
        jobs = [toy.generation(shared, params, random_stream(5, index)).run() for index in indices]
        model = TableRows(toy.model._probs, toy.model.vocab_size, sorted(toy.model.eot_ids))
        outcomes = sorted(Scheduler(model, max_rows=max_rows).run(jobs), key=lambda outcome: outcome.index)
        return [outcome.result.bytes for outcome in outcomes]

    alone = [batch([index], 64)[0] for index in range(8)]

    assert alone == batch(range(8), 64) == batch(range(8), 1) == batch(range(8), 5)
    assert alone == batch(range(7, -1, -1), 64)[::-1]
    assert len(set(alone)) > 4


def test_a_greedy_completion_uses_no_random_numbers() -> None:
    """Greedy bytes do not depend on the seed."""
    toy = TOYS["drawn"][0]
    params = SamplingParams(temperature=0, max_bytes=6)

    assert complete(toy, b"a", params, seed=1).bytes == complete(toy, b"a", params, seed=2).bytes


def literal(text: bytes, *, eot: bool = False) -> Toy:
    """A model that writes this text after "a", in tokens of three bytes, and then ends or goes round."""
    tokens: list[bytes | None] = [bytes([byte]) for byte in sorted(set(text) | {97})]
    tokens += sorted({text[i : i + 3] for i in range(0, len(text), 3)} - set(tokens))
    pieces = [tokens.index(text[i : i + 3]) for i in range(0, len(text), 3)]
    end = len(tokens)

    def row(ids: Ids) -> np.ndarray:
        probs = np.full(end + 1, 1e-6)
        at = len(ids) - 1
        probs[tokens.index(b"a") if at < 0 else end if eot and at >= len(pieces) else pieces[at % len(pieces)]] = 1
        return np.asarray(probs / probs.sum())

    least = end - len(set(pieces))
    return Toy.of([*tokens, None], row, eot_ids=[end], viable=lambda ids: all(i >= least for i in ids[1:]))


@pytest.mark.parametrize(
    ("stops", "expected", "reason"),
    [
        ((), b"bcdefghibcde", "length"),
        ((b"de",), b"bc", "stop"),  # within the pieces bcd and efg: it spans two tokens
        ((b"fgh",), b"bcde", "stop"),
        ((b"fgh", b"h", b"efgh"), b"bcd", "stop"),  # the longest of those that end there
        ((b"b",), b"", "stop"),
        ((b"zz", b"ib"), b"bcdefgh", "stop"),
        ((b"ab",), b"bcdefghibcde", "length"),  # begins inside the prompt
        ((b"bcdefghibcde",), b"", "stop"),  # ends with the last byte that is allowed
        ((b"bcdefghibcdef",), b"bcdefghibcde", "length"),
    ],
)
def test_stop_strings(stops: tuple[bytes, ...], expected: bytes, reason: str) -> None:
    """A stop string ends the completion before it, across tokens, and only if all of it is new."""
    completion = complete(literal(b"bcdefghi"), b"a", SamplingParams(temperature=0, max_bytes=12, stop=stops))

    assert (expected, reason) == (completion.bytes, completion.finish_reason)
    assert expected.decode() == completion.text


def test_end_of_text_ends() -> None:
    """The end is drawn like a byte, ends the completion, and counts in its probability."""
    completion = complete(literal(b"bcdefg", eot=True), b"a", SamplingParams(temperature=0, max_bytes=50))

    assert (completion.bytes, completion.finish_reason) == (b"bcdefg", "eot")
    assert completion.logprob == pytest.approx(0, abs=1e-4)


def test_no_bytes_cost_nothing() -> None:
    """max_bytes=0 is an empty completion, and no model is asked."""
    toy = literal(b"bcd")
    completion = complete(toy, b"a", SamplingParams(max_bytes=0))

    assert (completion.bytes, completion.finish_reason, completion.logprob) == (b"", "length", 0.0)
    assert toy.model.asked == []


def test_a_prompt_is_one_request() -> None:
    """All nodes of a prompt and all on the way to them are asked for together, before the first byte."""
    toy = TOYS["chain"][0]
    frontier = toy.frontier(b"xxaxxxaxxxb"[:-1])
    toy.model.asked.clear()
    toy.answer(evaluate_all(frontier))

    assert len(toy.model.asked) == 1
    assert frontier.complete


def test_a_logits_processor_has_the_last_word() -> None:
    """It sees the bytes so far and the exact row, and what it forbids is never drawn."""
    toy = TOYS["ties"][0]
    seen: list[bytes] = []

    def no_a(so_far: bytes, row: np.ndarray) -> np.ndarray:
        seen.append(so_far)
        np.testing.assert_allclose(np.exp(row), exact_row(toy, b"a" + so_far), atol=1e-12)
        row = row.copy()
        row[[97, EOT]] = -np.inf
        return row

    completion = complete(toy, b"a", SamplingParams(temperature=1.3, max_bytes=4, logits_processor=no_a))

    assert set(completion.bytes) <= {98, 99}
    assert [completion.bytes[:n] for n in range(4)] == seen


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (np.zeros(256), InvalidTypeError),
        (None, InvalidTypeError),
        ("x", InvalidTypeError),
        (np.full(257, -np.inf), InvalidArgumentError),
        (np.full(257, np.nan), InvalidArgumentError),
        (np.full(257, np.inf), InvalidArgumentError),
    ],
)
def test_what_a_logits_processor_returns_is_checked(returned: object, error: type[Exception]) -> None:
    """257 numbers, one of them finite; otherwise the error names the processor."""
    with pytest.raises(error, match="logits_processor"):
        processed(lambda so_far, row: returned, b"", np.zeros(257))  # type: ignore[arg-type,return-value]


def test_a_model_that_leaves_nothing_is_an_error() -> None:
    """Where all mass is on tokens that spell nothing and end nothing, no byte can be drawn, and the error says so."""
    lost = Toy.of([b"a", None], lambda ids: [1, 0] if not ids else [0, 1])

    with pytest.raises(ModelError, match="no byte and no end of text"):
        complete(lost, b"a", SamplingParams(max_bytes=2))


def test_a_prefix_of_probability_zero_is_an_error() -> None:
    """Nothing can be said of what follows a prefix that the model rules out."""
    toy = Toy.of([b"a", b"b", b"bb"], lambda ids: [1, 0, 0])

    with pytest.raises(ModelError, match="probability 0"):
        toy.answer(full_row(toy.frontier(b"b")))


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("tol", [0.0, 1e-6, 0.05, 0.3, 0.9])
def test_tol_bounds_the_total_variation(name: str, tol: float) -> None:
    """The bound is at most tol, the row is no further from the exact one than the bound, and a loose tol asks less."""
    toy, frontier = lazy_frontier(name)
    exact = exact_row(toy, frontier.cover.prefix)
    toy.model.asked.clear()

    row, bound = toy.answer(full_row(frontier, tol=tol))

    difference = np.exp(row) - exact
    assert bound <= tol
    assert max(difference.clip(0).sum(), (-difference).clip(0).sum()) <= bound + 1e-12
    if tol == 0:
        np.testing.assert_allclose(np.exp(row), exact, atol=1e-12)
    if tol == 0.9:
        assert len(toy.model.asked) < 2


def test_the_largest_leak_is_seen() -> None:
    """Usage tells the largest leak among the rows that were evaluated in full."""
    toy = TOYS["leaky"][0]
    completion = complete(toy, b"a", SamplingParams(max_bytes=3, lazy=False), index=3)
    leaks = [1 - exact_row(toy, b"a" + completion.bytes[:n]).sum() for n in range(len(completion.bytes) + 1)]

    drawn = len(completion.bytes) + (completion.finish_reason == "eot")
    assert completion.usage.largest_leak == pytest.approx(max(leaks[:drawn]), abs=1e-9)
