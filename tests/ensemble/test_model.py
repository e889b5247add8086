"""Ensembles over toy models: the formulas, their consequences, and what goes wrong. Draws: test_draw.py.

Tests that draw or score many bytes are marked slow: the checks of every shape cost too much there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest

from bytelm import ByteLM, Completion, Ensemble, Prompts, TableLM
from bytelm.ensemble.combine import Combine
from bytelm.errors import (
    BytelmError,
    InvalidArgumentError,
    InvalidLogitsError,
    InvalidTypeError,
    ModelError,
    NoInfillFormatError,
    UnreachablePrefixError,
)
from bytelm.inference import scoring
from bytelm.inference.text_scoring import TextScoring
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer

COMBINES: list[Combine] = ["mixture", "bayes", "product"]
PREFIXES = ["", "t", "the qui", "naïve caf", "x = 12", "a\n\n "]
TEXT = b"the fox\n\nit 12"


def table(tokenizer: Any = None, **options: Any) -> TableLM:
    return TableLM(
        default_tokenizer() if tokenizer is None else tokenizer, **{"order": 2, "temperature": 2.0, **options}
    )


@pytest.fixture(scope="module")
def lms() -> list[ByteLM]:
    return three_members()


def three_members() -> list[ByteLM]:
    """Three byte models with vocabularies of their own, one of them with BOS."""
    return [
        ByteLM(table(seed=1)),
        ByteLM(table(byte_bpe_tokenizer(vocab_size=277, pre_tokenizer="llama3"), seed=2)),
        ByteLM(table(sentencepiece_bpe_tokenizer(prepend=True), seed=3)),
    ]


def by_formula(
    lms: Sequence[ByteLM], weights: Sequence[float], combine: Combine, text: bytes, given: bytes = b""
) -> np.ndarray:
    """The ensemble's row after a text, in probabilities, summed as the formulas say. ``given``: not counted in bayes."""
    rows = np.exp([lm.next_byte_logprobs(given + text) for lm in lms])
    if combine == "product":
        with np.errstate(divide="ignore"):
            row = np.prod([r**w for w, r in zip(weights, np.where(rows > 0, rows, np.nan), strict=True)], axis=0)
        row = np.nan_to_num(row)
        return np.asarray(row / row.sum())
    shares = np.array(weights) / sum(weights)
    if combine == "bayes":
        shares *= np.exp([lm.logprob(text, prefix=given) for lm in lms])
        shares /= shares.sum()
    return np.asarray(shares @ rows)


# ---- the formulas


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 0.2, 0.3), (5, 0, 1)])
def test_rows_are_the_formula(lms: list[ByteLM], combine: Combine, weights: tuple[float, ...]) -> None:
    """At each prefix the row is what the formula makes of the members' rows and likelihoods."""
    ensemble = Ensemble(lms, weights=weights, combine=combine)
    for prefix in PREFIXES:
        expected = by_formula(lms, weights, combine, prefix.encode())

        np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(prefix)), expected, atol=1e-12)


def test_negative_weights_turn_an_opinion_round(lms: list[ByteLM]) -> None:
    """Contrastive decoding, p₀² / p₁, and proxy tuning, p₀ · p₁ / p₂, of all symbols; test_plausibility.py has fewer."""
    for weights in ([2, -1, 0], [1, 1, -1]):
        row = Ensemble(lms, weights=weights, combine="product", alpha=0).next_byte_logprobs("the f")

        np.testing.assert_allclose(np.exp(row), by_formula(lms, weights, "product", b"the f"), atol=1e-12)


def test_bayes_is_a_mixture_of_whole_texts(lms: list[ByteLM]) -> None:
    """P(text) = Σ wᵢ Pᵢ(text), with and without the end, and however the text is cut."""
    weights = (0.2, 0.5, 0.3)
    bayes = Ensemble(lms, weights=weights, combine="bayes")
    for eot in (False, True):
        whole = math.log(sum(w * math.exp(lm.logprob(TEXT, eot=eot)) for w, lm in zip(weights, lms, strict=True)))

        assert bayes.logprob(TEXT, eot=eot) == pytest.approx(whole, abs=1e-9)
        for cut in (0, 3, 9):
            parts = bayes.logprob(TEXT[:cut]) + bayes.logprob(TEXT[cut:], prefix=TEXT[:cut], eot=eot)
            assert parts == pytest.approx(whole, abs=1e-9)


def test_scores_of_a_mixture_and_bayes_need_no_whole_rows(lms: list[ByteLM], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are worked out from the members' log-probabilities of each byte, at a text's end too; a product's are not."""
    expected = {combine: Ensemble(lms, combine=combine).logprob(TEXT, eot=True) for combine in COMBINES}

    def none(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a whole row was asked for")

    monkeypatch.setattr(scoring.Ledger, "log_rows", none)
    for combine in ("mixture", "bayes"):
        ensemble = Ensemble(lms, combine=combine)
        end = ensemble.logprob(b"", prefix=TEXT, eot=True)
        assert ensemble.byte_logprobs(TEXT).sum() + end == pytest.approx(expected[combine], abs=1e-9)
    with pytest.raises(AssertionError, match="whole row"):
        Ensemble(lms, combine="product").logprob(TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_scores_and_states_agree_with_rows(lms: list[ByteLM], combine: Combine) -> None:
    """Rows chained byte by byte, byte_logprobs, logprob with and without the end, a state, and an explanation."""
    ensemble = Ensemble(lms, weights=[0.5, 0.2, 0.3], combine=combine)
    chained = [float(ensemble.next_byte_logprobs(TEXT[:i])[TEXT[i]]) for i in range(len(TEXT))]
    end = float(ensemble.next_byte_logprobs(TEXT)[256])
    state, walked = ensemble.state(""), []
    for byte in TEXT:
        walked.append(float(state.next_byte_logprobs()[byte]))
        state = state.advance(bytes([byte]))

    np.testing.assert_allclose(ensemble.byte_logprobs(TEXT), chained, atol=1e-9)
    np.testing.assert_allclose(walked, chained, atol=1e-9)
    np.testing.assert_allclose(ensemble.byte_logprobs(TEXT[5:], prefix=TEXT[:5]), chained[5:], atol=1e-9)
    assert ensemble.logprob(TEXT) == pytest.approx(sum(chained), abs=1e-9)
    assert ensemble.logprob(TEXT, eot=True) == pytest.approx(sum(chained) + end, abs=1e-9)
    assert ensemble.logprob(TEXT[5:], prefix=TEXT[:5], eot=True) == pytest.approx(sum(chained[5:]) + end, abs=1e-9)
    np.testing.assert_allclose(
        state.rollback(6).next_byte_logprobs(), ensemble.next_byte_logprobs(TEXT[:-6]), atol=1e-9
    )
    np.testing.assert_allclose(
        state.rollback(len(TEXT)).advance("the").next_byte_logprobs(), ensemble.next_byte_logprobs("the"), atol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_a_text_is_scored_in_windows(lms: list[ByteLM], window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a window ends, inside a token or where one ends, a product goes on with the weights it needs."""
    ensemble, text = Ensemble(lms, combine="product"), b"the quick the aaqu then"
    whole = ensemble.logprob(text, prefix="the")
    monkeypatch.setattr(TextScoring.all_logprobs, "__kwdefaults__", {"eot": False, "window": window})

    assert ensemble.logprob(text, prefix="the") == pytest.approx(whole, abs=1e-9)


def test_states_are_values_and_fall_back(lms: list[ByteLM]) -> None:
    """A state that began late rolls back beyond its beginning, and branches do not disturb one another."""
    ensemble = Ensemble(lms, combine="bayes")
    state = ensemble.state("the quick")
    longer = state.advance(" brown")
    before = state.next_byte_logprobs()
    longer.next_byte_logprobs()

    np.testing.assert_array_equal(state.next_byte_logprobs(), before)
    np.testing.assert_allclose(
        longer.rollback(11).next_byte_logprobs(), ensemble.next_byte_logprobs("the "), atol=1e-12
    )
    assert longer.rollback(6).prefix == state.prefix == b"the quick"
    with pytest.raises(InvalidArgumentError, match="roll back"):
        state.rollback(10)


def test_leaks_are_averaged_and_products_have_none(lms: list[ByteLM]) -> None:
    """Rows are not renormalised: a mixture leaks what its members leak; a product's row sums to 1."""
    leaks = [lm.leak("the") for lm in lms]

    assert Ensemble(lms, weights=[1, 1, 2]).leak("the") == pytest.approx(np.dot(leaks, [0.25, 0.25, 0.5]), abs=1e-12)
    assert Ensemble(lms, combine="product").leak("the") == pytest.approx(0, abs=1e-12)
    assert min(leaks) > 0.01


@pytest.mark.parametrize("combine", COMBINES)
def test_tol_bounds_the_total_variation(lms: list[ByteLM], combine: Combine) -> None:
    """With a tolerance the row may differ, by no more than it, in either direction."""
    ensemble = Ensemble(lms, combine=combine)
    for tol in (1e-6, 0.1, 0.5):
        near, exact = (np.exp(ensemble.next_byte_logprobs("the qui", tol=each)) for each in (tol, 0.0))

        assert max((near - exact).clip(0).sum(), (exact - near).clip(0).sum()) <= tol + 1e-12


# ---- what follows from them


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_one_member_is_the_member(lms: list[ByteLM], combine: Combine) -> None:
    """An ensemble of one, of the same twice, and one with weight 0 on the other: rows and scores of the member."""
    for lm in lms:
        other = lms[0] if lm is not lms[0] else lms[1]
        ensembles = [
            Ensemble([lm], combine=combine),
            Ensemble([lm, lm], combine=combine),
            Ensemble([lm, other], weights=[1, 0], combine=combine),
        ]
        expected = lm.next_byte_logprobs("the q")
        if combine == "product":
            expected = expected - np.log(np.exp(expected).sum())
        for ensemble in ensembles:
            np.testing.assert_allclose(ensemble.next_byte_logprobs("the q"), expected, atol=1e-12)
            if combine != "product":
                assert ensemble.logprob(TEXT, eot=True) == pytest.approx(lm.logprob(TEXT, eot=True), abs=1e-12)


@pytest.mark.parametrize("combine", COMBINES)
def test_a_member_of_weight_zero_is_not_asked(lms: list[ByteLM], combine: Combine) -> None:
    """Neither for rows, nor for scores, nor for completions."""
    silent = table(seed=9)
    ensemble = Ensemble([lms[0], ByteLM(silent)], weights=[1, 0], combine=combine)
    ensemble.next_byte_logprobs("the")
    ensemble.logprob("the", prefix="a")
    ensemble.sample("the", max_bytes=4, seed=1)

    assert silent.usage.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_of_ensembles_is_flat(lms: list[ByteLM], combine: Combine) -> None:
    """With fixed weights it is the ensemble of all members, the weights multiplied."""
    inner = Ensemble(lms[1:], weights=[0.25, 0.75], combine=combine)
    nested = Ensemble([lms[0], inner], weights=[0.4, 0.6], combine=combine)
    flat = Ensemble(lms, weights=[0.4, 0.15, 0.45], combine=combine)

    for prefix in PREFIXES[:4]:
        np.testing.assert_allclose(nested.next_byte_logprobs(prefix), flat.next_byte_logprobs(prefix), atol=1e-11)
    np.testing.assert_allclose(nested.byte_logprobs(TEXT, prefix="a"), flat.byte_logprobs(TEXT, prefix="a"), atol=1e-11)
    assert nested.logprob(TEXT, eot=True) == pytest.approx(flat.logprob(TEXT, eot=True), abs=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(("outer", "inner"), [p for p in itertools.product(COMBINES, COMBINES) if p[0] != p[1]])
def test_different_formulas_nest(lms: list[ByteLM], outer: Combine, inner: Combine) -> None:
    """The inner ensemble is a byte model: its rows and its likelihood stand in the outer formula."""
    member = Ensemble(lms[1:], weights=[0.25, 0.75], combine=inner)
    ensemble = Ensemble([lms[0], member], weights=[0.4, 0.6], combine=outer)
    rows = [np.exp(each.next_byte_logprobs(TEXT[:5])) for each in (lms[0], member)]
    shares = np.array([0.4, 0.6])
    if outer == "bayes":
        shares *= np.exp([each.logprob(TEXT[:5]) for each in (lms[0], member)])
    expected = rows[0] ** 0.4 * rows[1] ** 0.6 if outer == "product" else shares @ rows
    expected /= expected.sum() if outer == "product" else shares.sum()

    np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(TEXT[:5])), expected, atol=1e-12)
    done = ensemble.sample(TEXT[:5], max_bytes=6, seed=3)
    assert done.logprob == pytest.approx(
        ensemble.logprob(done.bytes, prefix=TEXT[:5], eot=done.finish_reason == "eot"), abs=1e-9
    )
    state = ensemble.state(TEXT[:2])
    state.next_byte_logprobs()
    np.testing.assert_allclose(np.exp(state.advance(TEXT[2:5]).next_byte_logprobs()), expected, atol=1e-12)


@pytest.mark.parametrize("combine", COMBINES)
def test_one_distribution_under_two_vocabularies(combine: Combine) -> None:
    """Letters that no token joins, under other ids: the ensemble is either of the two."""

    def letters(tokenizer: Any) -> ByteLM:
        q, z = (tokenizer.convert_tokens_to_ids(letter) for letter in "QZ")
        row = {q: 0.5, z: 0.3, tokenizer.eos_token_id: 0.2}
        return ByteLM(TableLM(tokenizer, table=lambda ids: row))

    one, other = letters(default_tokenizer()), letters(byte_bpe_tokenizer(vocab_size=290, special=["<|x|>"]))
    ensemble = Ensemble([one, other], weights=[0.3, 0.7], combine=combine)

    assert one.tokenizer.convert_tokens_to_ids("Q") != other.tokenizer.convert_tokens_to_ids("Q")
    np.testing.assert_allclose(ensemble.next_byte_logprobs("QZ"), one.next_byte_logprobs("QZ"), atol=1e-12)
    assert ensemble.logprob("QZZQ", eot=True) == pytest.approx(math.log(0.5**2 * 0.3**2 * 0.2), abs=1e-12)


@pytest.mark.slow
def test_weights_may_depend_on_the_text(lms: list[ByteLM]) -> None:
    """A function of the bytes so far, in each formula; it is told the byte prefix and what was written."""
    told: set[bytes] = set()

    def weights(text: bytes) -> list[float]:
        told.add(text)
        return [1, 0, 0] if len(text) % 2 else [0, 2, 1]

    options: dict[str, Any]
    for combine in COMBINES:
        ensemble = Ensemble(lms, weights=weights, combine=combine)
        walked = ensemble.state(TEXT[:3])
        walked.next_byte_logprobs()
        expected = by_formula(lms, weights(TEXT[:4]), combine, TEXT[:4])
        np.testing.assert_allclose(np.exp(walked.advance(TEXT[3:4]).next_byte_logprobs()), expected, atol=1e-12)
        for cut in (3, 4):
            expected = by_formula(lms, weights(TEXT[:cut]), combine, TEXT[:cut])
            np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(TEXT[:cut])), expected, atol=1e-12)
        chained = [float(ensemble.next_byte_logprobs(TEXT[:i])[TEXT[i]]) for i in range(6)]
        np.testing.assert_allclose(ensemble.byte_logprobs(TEXT[:6]), chained, atol=1e-9)
        for options in ({}, {"temperature": 0}, {"logits_processor": lambda so_far, row: row}):
            done = ensemble.sample("the", max_bytes=5, seed=2, **options)
            assert isinstance(done, Completion)
            score = ensemble.logprob(done.bytes, prefix="the", eot=done.finish_reason == "eot")
            assert done.logprob == pytest.approx(score, abs=1e-9)
            assert {b"the" + done.bytes[:n] for n in range(len(done.bytes))} <= told

    with pytest.raises(InvalidArgumentError, match="what weights returned after b'the'"):
        Ensemble(lms, weights=lambda text: [1, 2]).next_byte_logprobs("the")


# ---- end of text, and texts that a member cannot spell


def test_a_member_without_an_end() -> None:
    """It lowers the end's probability in a mixture, and rules it out in a product, under either sign of its weight."""
    endless = ByteLM(table(seed=2), eot_ids=())
    ending = ByteLM(table(seed=1))
    end = math.exp(ending.next_byte_logprobs("the")[256])

    assert math.exp(Ensemble([ending, endless]).next_byte_logprobs("the")[256]) == pytest.approx(end / 2, abs=1e-15)
    for weights in ([1, 1], [1, -1]):
        row = Ensemble([ending, endless], weights=weights, combine="product").next_byte_logprobs("the")
        assert row[256] == -np.inf
        assert np.exp(row).sum() == pytest.approx(1, abs=1e-12)


def test_members_with_different_ends() -> None:
    """Each member's ids are its own: two that end by different ids agree about the end."""
    tokenizer = default_tokenizer()
    first, second = (ByteLM(table(seed=1), eot_ids=ids) for ids in ([tokenizer.eos_token_id], [300, 301]))
    row = Ensemble([first, second]).next_byte_logprobs("the")

    expected = np.logaddexp(first.next_byte_logprobs("the")[256], second.next_byte_logprobs("the")[256]) - math.log(2)
    assert row[256] == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def narrow() -> list[ByteLM]:
    """Two models of which the second gives only the letters a and b, and the end."""
    tokenizer = default_tokenizer()
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    row = {a: 0.5, b: 0.3, tokenizer.eos_token_id: 0.2}
    return [ByteLM(table(seed=1)), ByteLM(TableLM(tokenizer, table=lambda ids: row))]


@pytest.mark.slow
def test_a_member_that_rules_the_text_out(narrow: list[ByteLM]) -> None:
    """In a mixture its weight is leak from there on, in bayes its share is 0, and a product follows nobody there."""
    wide = narrow[0]
    mixture, bayes, product = (Ensemble(narrow, combine=combine) for combine in COMBINES)

    row = wide.next_byte_logprobs("aZ")
    np.testing.assert_allclose(mixture.state("a").advance("Z").next_byte_logprobs(), row - math.log(2), atol=1e-12)
    np.testing.assert_allclose(bayes.next_byte_logprobs("aZ"), row, atol=1e-12)
    np.testing.assert_allclose(bayes.state("a").advance("Z").next_byte_logprobs(), row, atol=1e-12)
    assert bayes.logprob("aZq") == pytest.approx(wide.logprob("aZq") - math.log(2), abs=1e-12)
    assert mixture.byte_logprobs("aZq")[2] == pytest.approx(wide.byte_logprobs("aZq")[2] - math.log(2), abs=1e-12)
    assert product.next_byte_logprobs("a")[ord("Z")] == -np.inf
    with pytest.raises(ModelError, match="the ensemble gives no byte"):
        product.state("a").advance("Z").next_byte_logprobs()


def test_what_is_ruled_out_under_a_negative_weight_stays_out(narrow: list[ByteLM]) -> None:
    """0 to a negative power would be infinite: the symbol has probability 0, and the rest is the formula."""
    row = Ensemble(narrow, weights=[1, -1], combine="product", alpha=0).next_byte_logprobs("b")

    assert set(np.flatnonzero(row > -np.inf)) == {97, 98, 256}
    np.testing.assert_allclose(np.exp(row), by_formula(narrow, [1, -1], "product", b"b"), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0}])
def test_completions_go_on_where_a_member_falls_silent(
    narrow: list[ByteLM], combine: Combine, options: dict[str, Any]
) -> None:
    """Whatever is drawn is scored as it was drawn."""
    ensemble = Ensemble(narrow, combine=combine)
    for done in ensemble.sample_batch(["a"] * 6, max_bytes=8, seed=5, **options):
        score = ensemble.logprob(done.bytes, prefix="a", eot=done.finish_reason == "eot")

        assert done.logprob == pytest.approx(score, abs=1e-9)


@pytest.mark.slow
def test_a_text_that_a_member_cannot_spell() -> None:
    """As a prefix it is an error that names the member; in a text that is scored the member gives it 0."""
    from tokenizers import normalizers

    composed = byte_bpe_tokenizer()
    composed.backend_tokenizer.normalizer = normalizers.NFC()
    lms = [ByteLM(table(seed=1)), ByteLM(table(composed, seed=2))]
    text = "cafe\u0301 x"
    ensemble = Ensemble(lms)
    calls: list[Callable[[], object]] = [
        lambda: ensemble.next_byte_logprobs(text),
        lambda: ensemble.sample(text),
        lambda: ensemble.stream(text),
        lambda: ensemble.state(text),
        lambda: ensemble.logprob("a", prefix=text),
    ]
    for call in calls:
        with pytest.raises(UnreachablePrefixError, match="member 1 of the ensemble: no token sequence") as caught:
            call()
        assert caught.value.position == 5
    scored = ensemble.byte_logprobs(text)
    np.testing.assert_allclose(scored[6:], lms[0].byte_logprobs(text)[6:] - math.log(2), atol=1e-9)
    assert ensemble.logprob(text) == pytest.approx(scored.sum(), abs=1e-9)
    bayes = Ensemble(lms, combine="bayes")
    assert bayes.logprob(text) == pytest.approx(lms[0].logprob(text) - math.log(2), abs=1e-9)
    assert bayes.byte_logprobs(text).sum() == pytest.approx(bayes.logprob(text), abs=1e-9)


# ---- a prompt for each member


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_each_member_has_its_own_prompt(lms: list[ByteLM], combine: Combine) -> None:
    """The answer's bytes are shared; in bayes only they count; text begins the answer."""
    special = lms[0].tokenizer.eos_token_id
    prefixes = [[special, "user\nhi", special, "A: "], "Q: hi\nA: ", "hi"]
    ensemble = Ensemble(lms, combine=combine)
    rows = [
        lm.next_byte_logprobs([*_segments(p)[:-1], _segments(p)[-1] + "th"])
        for lm, p in zip(lms, prefixes, strict=True)
    ]
    seen = [lm.logprob("th", prefix=p) for lm, p in zip(lms, prefixes, strict=True)]
    shares = np.exp(seen) / np.exp(seen).sum() if combine == "bayes" else np.full(3, 1 / 3)
    if combine == "product":
        expected = np.exp(np.mean(rows, axis=0))
        expected /= expected.sum()
    else:
        expected = shares @ np.exp(rows)

    for given in (Prompts(prefixes, "th"), Prompts([[*_segments(p)] for p in prefixes], b"th")):
        np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(given)), expected, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(ensemble.state(Prompts(prefixes)).advance("th").next_byte_logprobs()), expected, atol=1e-12
    )
    done = ensemble.sample(Prompts(prefixes), max_bytes=6, seed=1)
    assert done.logprob == pytest.approx(
        ensemble.logprob(done.bytes, prefix=Prompts(prefixes), eot=done.finish_reason == "eot"), abs=1e-9
    )


def _segments(prefix: Any) -> Any:
    return [prefix] if isinstance(prefix, str) else prefix


def test_bad_prompts(lms: list[ByteLM]) -> None:
    """One for each member; a single model takes none; an error names the member."""
    with pytest.raises(InvalidArgumentError, match="one prefix for each of the 3 members"):
        Ensemble(lms).sample(Prompts(["a", "b"]))
    with pytest.raises(InvalidTypeError, match="single model"):
        lms[0].sample(Prompts(["a"]))
    with pytest.raises(InvalidArgumentError, match=r"member 2 of the ensemble: segment 0 .* token 100000"):
        Ensemble(lms).sample(Prompts(["a", "b", [100_000, "c"]]))


# ---- who drove what


def test_an_explanation_is_the_members_and_the_ensemble(lms: list[ByteLM]) -> None:
    """Rows, likelihoods as posterior weights, shares that sum to 1; in a product terms of the lead over the rival."""
    for combine in COMBINES:
        ensemble = Ensemble(lms, weights=[0.5, 0.2, 0.3], combine=combine)
        told = ensemble.explain(TEXT[3:], prefix=TEXT[:3])

        np.testing.assert_allclose(told.logprobs, ensemble.byte_logprobs(TEXT[3:], prefix=TEXT[:3]), atol=1e-9)
        for lm, logprobs in zip(lms, told.member_logprobs, strict=True):
            np.testing.assert_allclose(logprobs, lm.byte_logprobs(TEXT[3:], prefix=TEXT[:3]), atol=1e-9)
        np.testing.assert_allclose(told.rows[4], ensemble.next_byte_logprobs(TEXT[:7]), atol=1e-9)
        state = ensemble.state(TEXT[:7])
        np.testing.assert_allclose(told.member_rows[:, 4], state.member_logprobs(), atol=1e-9)
        np.testing.assert_allclose(told.weights[:, 4], state.weights(), atol=1e-9)
        if combine == "product":
            others = np.where(np.arange(257) == TEXT[7], -np.inf, told.rows[4])
            rival = int(others.argmax())
            assert told.drive[:, 4].sum() == pytest.approx(told.logprobs[4] - others[rival], abs=1e-9)
            for weight, row, lead in zip([0.5, 0.2, 0.3], told.member_rows[:, 4], told.drive[:, 4], strict=True):
                assert lead == pytest.approx(weight * (row[TEXT[7]] - row[rival]), abs=1e-9)
        else:
            np.testing.assert_allclose(told.drive.sum(axis=0), 1, atol=1e-9)
            share = told.weights[0, 4] * math.exp(told.member_logprobs[0, 4] - told.logprobs[4])
            assert told.drive[0, 4] == pytest.approx(share, abs=1e-12)
        assert told.drivers == tuple(told.drive.argmax(axis=0))
    assert Ensemble(lms).explain("").drivers == ()


def letters_of(*rows: dict[str, float]) -> list[ByteLM]:
    """Models that give letters these probabilities wherever they are, and "" to the end of text."""
    tokenizer = byte_bpe_tokenizer(vocab_size=257)

    def lm(row: dict[str, float]) -> ByteLM:
        ids: Any = [tokenizer.convert_tokens_to_ids(letter) if letter else tokenizer.eos_token_id for letter in row]
        given: dict[int, float] = dict(zip(ids, row.values(), strict=True))
        return ByteLM(TableLM(tokenizer, table=lambda _: given))

    return [lm(row) for row in rows]


def test_either_side_of_a_contrast_may_drive_a_byte() -> None:
    """The strong member drives what it finds likeliest; the weak one drives what wins because it is against the rival."""
    lms = letters_of({"a": 0.5, "b": 0.4, "c": 0.1}, {"a": 0.6, "b": 0.2, "c": 0.2})
    for weights in ([1, -1], [1.5, -0.5], [2, -2]):
        told = Ensemble(lms, weights=weights, combine="product").explain("ab")

        assert told.drivers == (0, 1)
        strong, weak = weights[0] * math.log(0.5 / 0.4), weights[1] * math.log(0.6 / 0.2)
        np.testing.assert_allclose(told.drive, [[strong, -strong], [weak, -weak]], atol=1e-9)


def test_what_drives_where_nothing_else_is_possible_or_the_byte_is_not() -> None:
    """No rival: nobody drives. A member that rules the byte out: −∞. A member of weight 0: 0."""
    lms = letters_of({"a": 0.5, "b": 0.5}, {"a": 1.0}, {"c": 1.0})
    told = Ensemble(lms, weights=[1, -1, 0], combine="product").explain("ab")

    np.testing.assert_array_equal(told.drive, [[0, 0], [0, -np.inf], [0, 0]])


# ---- rounds


class Counting(TableLM):
    """Remembers each call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[list[tuple[int, ...]]] = []

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([tuple(sequence) for sequence in sequences])
        return super().next_token_logprobs(sequences)


@pytest.mark.slow
def test_a_round_asks_each_engine_once() -> None:
    """A row is one call of each engine; two members on one engine share it, and a batch of prompts too."""
    one, two = (Counting(default_tokenizer(), seed=seed, order=2) for seed in (1, 2))
    ensemble = Ensemble([ByteLM(one), ByteLM(two), ByteLM(one)])
    ensemble.next_byte_logprobs("the qui")

    assert (len(one.batches), len(two.batches)) == (1, 1)
    assert len(set(one.batches[0])) == len(one.batches[0])
    one.batches.clear()
    ensemble.sample_batch(["the", "a", "x = "], max_bytes=1, seed=1, temperature=1)
    assert len(one.batches) <= 3


@pytest.mark.slow
def test_a_plain_draw_asks_the_member_that_was_drawn() -> None:
    """Where each byte is a token, a byte is one call, of one engine: a mixture of three costs what one costs."""
    tokenizer = byte_bpe_tokenizer(vocab_size=257)
    ids = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcd"]

    def letters(seed: int) -> Any:
        return lambda last: dict(zip(ids, np.random.default_rng([seed, *last]).dirichlet([1] * 4), strict=True))

    engines = [Counting(tokenizer, table=letters(seed), order=2) for seed in range(3)]
    ensemble = Ensemble([ByteLM(engine) for engine in engines])
    list(ensemble.stream("abcd", max_bytes=60, seed=1))

    assert sum(len(engine.batches) for engine in engines) <= 3 + 59
    before = [len(engine.batches) for engine in engines]
    assert min(before) > 10
    done = ensemble.sample("abcd", max_bytes=60, seed=1)
    assert done.usage.calls <= 3 + 59 + 3  # and a call of each for the score
    assert done.logprob == pytest.approx(ensemble.logprob(done.bytes, prefix="abcd"), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 9}, {"temperature": 0}])
def test_an_item_is_the_same_in_any_company(lms: list[ByteLM], combine: Combine, options: dict[str, Any]) -> None:
    """The same seed gives the same bytes alone, in a batch, and in pieces; and their log-probability is their score."""
    ensemble = Ensemble(lms, weights=[0.5, 0.2, 0.3], combine=combine)
    prefixes = ["the qui", "a", "the qui", "x = 1"]
    several = ensemble.sample_batch(prefixes, max_bytes=7, seed=4, **options)

    assert ensemble.sample("the qui", max_bytes=7, seed=4, **options).bytes == several[0].bytes
    assert "".join(ensemble.stream("the qui", max_bytes=7, seed=4, **options)) == several[0].text
    assert ensemble.sample("the qui", max_bytes=7, seed=4, n=3, **options)[2].bytes == several[2].bytes  # type: ignore[index]
    for prefix, done in zip(prefixes, several, strict=True):
        score = ensemble.logprob(done.bytes, prefix=prefix, eot=done.finish_reason == "eot")
        assert done.logprob == pytest.approx(score, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_greedy_is_the_likeliest_byte_of_each_row(lms: list[ByteLM], combine: Combine) -> None:
    """Lazily evaluated greedy bytes are those of full rows."""
    ensemble = Ensemble(lms, weights=[0.5, 0.2, 0.3], combine=combine)
    written = b""
    while len(written) < 8 and (symbol := int(ensemble.next_byte_logprobs(b"the" + written).argmax())) < 256:
        written += bytes([symbol])

    assert ensemble.sample("the", max_bytes=8, temperature=0).bytes == written


def test_a_processor_and_stop_strings(lms: list[ByteLM]) -> None:
    """They work as for a single model: the processor sees the exact row."""
    ensemble = Ensemble(lms, combine="bayes")

    def letters(so_far: bytes, row: np.ndarray) -> np.ndarray:
        np.testing.assert_allclose(row, ensemble.next_byte_logprobs(b"the " + so_far), atol=1e-9)
        return np.where([97 <= symbol < 123 for symbol in range(257)], row, -np.inf)

    done = ensemble.sample("the ", max_bytes=5, seed=1, logits_processor=letters)
    assert done.text.isalpha()
    stopped = ensemble.sample("the ", max_bytes=5, seed=1, logits_processor=letters, stop=done.text[2:4])
    assert (stopped.text, stopped.finish_reason) == (done.text[:2], "stop")
    assert stopped.logprob == pytest.approx(ensemble.logprob(stopped.bytes, prefix="the "), abs=1e-9)


def test_infill_gives_each_member_its_format(lms: list[ByteLM]) -> None:
    """The prefix alone for any members; a member without sentinels is named."""
    ensemble = Ensemble(lms)
    done = ensemble.infill("the f", "ox", mode="left", max_bytes=4, seed=2)
    assert isinstance(done, Completion)

    assert done == ensemble.sample(Prompts(["the f"] * 3), max_bytes=4, seed=2)
    assert "".join(ensemble.infill_stream("the f", "ox", mode="left", max_bytes=4, seed=2)) == done.text
    with pytest.raises(NoInfillFormatError, match="member 0 of the ensemble"):
        ensemble.infill("the f", "ox")


@pytest.mark.slow
def test_texts_beyond_the_context_are_scored_in_each_members_pieces(
    lms: list[ByteLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stride each member has as much before a byte as its own context holds."""
    text = b"the quick brown fox jumps over the lazy dog. " * 3
    monkeypatch.setattr(lms[1].token_lm, "context_length", 40, raising=False)
    rows = np.array([lm.byte_logprobs(text, stride=20) for lm in lms])
    mixture = np.log(np.exp(rows).mean(axis=0))

    np.testing.assert_allclose(Ensemble(lms).byte_logprobs(text, stride=20), mixture, atol=1e-9)
    bayes = np.logaddexp.reduce(rows.sum(axis=1)) - math.log(3)
    assert Ensemble(lms, combine="bayes").logprob(text, stride=20) == pytest.approx(bayes, abs=1e-9)


# ---- what goes wrong


BAD: list[tuple[Callable[[list[ByteLM]], object], type[BytelmError], str]] = [
    (lambda lms: Ensemble([]), InvalidArgumentError, "needs a member"),
    (lambda lms: Ensemble(lms[0]), InvalidTypeError, "list of byte models"),  # type: ignore[arg-type]
    (lambda lms: Ensemble([lms[0], lms[0].token_lm]), InvalidTypeError, "member 1 is not a byte model"),  # type: ignore[list-item]
    (lambda lms: Ensemble(lms, combine="sum"), InvalidArgumentError, "combine is one of"),  # type: ignore[arg-type]
    (lambda lms: Ensemble(lms, weights=[1, 2]), InvalidArgumentError, "2 numbers, and there are 3 members"),
    (lambda lms: Ensemble(lms, weights=[0, 0, 0]), InvalidArgumentError, "not all be 0"),
    (lambda lms: Ensemble(lms, weights=[0, 0, 0], combine="product"), InvalidArgumentError, "not all be 0"),
    (lambda lms: Ensemble(lms, weights=[1, 1, -1]), InvalidArgumentError, "not be negative"),
    (lambda lms: Ensemble(lms, weights=[1, math.nan, 1]), InvalidArgumentError, "finite"),
    (lambda lms: Ensemble(lms, weights=[1, math.inf, 1]), InvalidArgumentError, "finite"),
    (lambda lms: Ensemble(lms, weights="abc"), InvalidTypeError, "one number for each"),  # type: ignore[arg-type]
    (lambda lms: Ensemble(lms, weights=[1, "2", 3]), InvalidTypeError, "weight 1 of weights"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_arguments(
    lms: list[ByteLM], caller_errs: None, make: Callable[[list[ByteLM]], object], error: type[BytelmError], message: str
) -> None:
    """What cannot be an ensemble is refused before any model runs, and the message says what is wrong."""
    with pytest.raises(error, match=message):
        make(lms)


def test_a_member_that_fails_is_named(lms: list[ByteLM]) -> None:
    """In the middle of a run the error says which member it was, and what was finished is with it."""

    class Failing(TableLM):
        def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
            rows = super().next_token_logprobs(sequences)
            rows[[len(sequence) > 6 for sequence in sequences], 3] = np.nan
            return rows

    ensemble = Ensemble([lms[0], ByteLM(Failing(default_tokenizer(), seed=1, order=2))])
    with pytest.raises(InvalidLogitsError, match="member 1 of the ensemble: row 2") as caught:
        ensemble.sample_batch(["t", "return the quick"], max_bytes=40, seed=1, stop=["e", " ", "a"])
    assert isinstance(caught.value.finished, dict)  # type: ignore[attr-defined]
