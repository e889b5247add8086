"""Completions drawn by the token, by the engine or from its rows: against all texts enumerated, on toy models that leak.

Then what is the engine's alone, and through `generate`.
"""

from __future__ import annotations

import codecs
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from bytelm import ByteLM, Ensemble, TableLM
from bytelm.cover.cover import Cover, Node
from bytelm.cover.sure_cuts import sure_cut
from bytelm.errors import ContextOverflowError, InvalidArgumentError, ModelError
from bytelm.sampling.completion import Completion
from bytelm.sampling.engine_batch import _Guess
from bytelm.sampling.engine_draws import EngineDraws
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.row_draws import RowDraws
from bytelm.token_lm import Draw, More, TokenDrawer
from evals.cost.lazy import p_value
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.drawing import draw_all, each_of
from tests.support.oracle import Enumeration, HashLM, depth_for
from tests.support.strategies import Toy, byte_level, sentencepiece
from tests.support.tiny import default_tokenizer, tiny_model
from tests.test_exactness import allowed_ids


class Drawing(HashLM):
    """A toy model that draws tokens itself, from its rows."""

    draws_by_default = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._rows: dict[tuple[int, ...], np.ndarray] = {}

    def row(self, ids: Sequence[int]) -> np.ndarray:
        if tuple(ids) not in self._rows:
            self._rows[tuple(ids)] = super().row(ids)
        return self._rows[tuple(ids)]

    def draw_tokens(self, more: More) -> None:
        for draw in each_of(more):
            ids, random = list(draw.sequence), np.random.default_rng(draw.seed)
            for _ in range(draw.max_tokens):
                edges = np.cumsum(np.exp(self.row(ids)))
                token = int(np.searchsorted(edges, random.random() * edges[-1], side="right"))
                if not draw.take(token, float(self.row(ids)[token])):
                    break
                ids.append(token)


def by_hand(merge: tuple[str, str] = ("a", "b")) -> Any:
    """Tokens a, b and the two merged, an end, and a special token that ends nothing: so b after a, and the last, leak."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "".join(merge): 2}, [merge]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<other>", special=True)])
    return backend


@pytest.fixture(scope="module")
def leaky() -> tuple[ByteLM, Drawing, Enumeration]:
    """A byte model that leaks a third of its mass, and all of its texts."""
    from transformers import PreTrainedTokenizerFast

    backend = by_hand()
    model = Drawing(PreTrainedTokenizerFast(tokenizer_object=backend), 5, frozenset({3}))
    return ByteLM(model), model, Enumeration(backend, ("a", "b"), 9)


def texts(everything: Enumeration, model: HashLM, prefix: bytes, length: int) -> dict[tuple[int, ...], float]:
    """The probability of each text of so many symbols after a prefix, each symbol's row without its leak."""
    return texts_of(lambda text: everything.next_bytes(prefix + text, model), length)


def texts_of(masses: Callable[[bytes], np.ndarray], length: int) -> dict[tuple[int, ...], float]:
    """The probability of each text of so many symbols, each drawn in proportion to the masses after a text."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for text, prob in found.items():
            if text[-1:] == (256,):
                longer[text] = prob
                continue
            row = masses(bytes(text))
            for symbol in np.flatnonzero(row).tolist():
                longer[*text, symbol] = prob * row[symbol] / row.sum()
        found = longer
    return found


def written(completion: Completion) -> tuple[int, ...]:
    return (*completion.bytes, *([256] if completion.finish_reason == "eot" else []))


def fit(completions: Sequence[Completion], probs: dict[tuple[int, ...], float]) -> float:
    """The p-value of completions against the probabilities of texts."""
    places = {text: i for i, text in enumerate(probs)}
    assert all(written(c) in places for c in completions)
    return p_value(np.array([places[written(c)] for c in completions]), np.array([*probs.values()]))


def drawn(lm: ByteLM, prefix: bytes, count: int, **options: Any) -> list[Completion]:
    return lm.sample_batch([prefix] * count, **{"max_bytes": 3, "seed": 1, "engine_draws": True, **options})


by_the_token = pytest.mark.parametrize("engine_draws", [True, False], ids=["engine", "rows"])


@by_the_token
@pytest.mark.parametrize("prefix", [b"", b"a", b"ba"])
def test_texts_are_distributed_as_the_enumeration_says(
    leaky: tuple[ByteLM, Drawing, Enumeration], prefix: bytes, engine_draws: bool
) -> None:
    """Chi-square of 2,000 completions of a leaking model that are drawn by the token, against all texts of three bytes."""
    lm, model, everything = leaky
    completions = drawn(lm, prefix, 2000, engine_draws=engine_draws)

    assert fit(completions, texts(everything, model, prefix, 3)) > P_THRESHOLD
    assert sum(c.usage.redrawn > 0 for c in completions) > 200


@by_the_token
@pytest.mark.parametrize("mistake", ["again", "kept"])
def test_the_chi_square_sees_a_wrong_treatment_of_the_leak(
    leaky: tuple[ByteLM, Drawing, Enumeration], mistake: str, engine_draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To draw only the token again, or to go on as if it spelled nothing, gives another distribution."""
    lm, model, everything = leaky
    kind: Any = EngineDraws if engine_draws else RowDraws
    take = kind.take

    def wrong(self: Any, token: int, logprob: float) -> bool:
        could = self._goes_on
        if take(self, token, logprob) or self.finish_reason:
            return self.finish_reason is None
        self._goes_on = could
        if mistake == "kept":
            self._node = Node(self._node, token, self._node.end, self._node.boundary)
        return False

    def begin(self: Any) -> Any:
        if not self._goes_on:
            yield from real(self)

    real = kind._begin
    monkeypatch.setattr(kind, "take", wrong)
    monkeypatch.setattr(kind, "_begin", begin)
    monkeypatch.setattr(kind, "_score", no_score)

    assert fit(drawn(lm, b"a", 2000, engine_draws=engine_draws), texts(everything, model, b"a", 3)) < P_THRESHOLD


def no_score(self: EngineDraws) -> Any:
    yield from ()
    return 0.0


@by_the_token
def test_how_often_a_token_is_redrawn_is_the_leak(
    leaky: tuple[ByteLM, Drawing, Enumeration], engine_draws: bool
) -> None:
    """Before the first byte, the share of completions with a token that was leak is the leak of that place."""
    lm, model, everything = leaky
    leak = 1 - everything.next_bytes(b"a", model).sum() / everything.mass(b"a", model)
    completions = drawn(lm, b"a", 1500, max_bytes=1, engine_draws=engine_draws)
    redrawn = np.array([min(c.usage.redrawn, 1) for c in completions])

    assert leak > 0.03
    assert p_value(redrawn, np.array([1 - leak, leak])) > P_THRESHOLD
    assert sum(c.usage.redrawn for c in lm.sample_batch([b"a"] * 30, max_bytes=3, seed=1, lazy=False)) == 0


few = settings(
    max_examples=20,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(toy: Toy, seed: int, engine_draws: bool) -> None:
    from bytelm.errors import UnsupportedTokenizerError

    ids = toy.backend.get_vocab()
    allowed = None if toy.total else allowed_ids(toy)
    model = Drawing(toy.fast, max(ids.values()) + 1 + seed, frozenset({ids["<end>"]}), allowed)
    try:
        lm = ByteLM(model)
    except UnsupportedTokenizerError:
        assume(False)
    depth = depth_for(toy.alphabet, 4000)
    everything = Enumeration(toy.backend, toy.alphabet, depth)
    room = depth - 4 - toy.longest  # as far as the enumeration is exact
    prefixes = [p for p in everything.prefixes(3) if len(p.decode(errors="replace")) + 1 <= room]
    prefixes = [p for p in prefixes if everything.mass(p, model) > 0]
    for prefix in prefixes[:: max(1, len(prefixes) // 3)][:3]:
        completions = drawn(lm, prefix, 120, max_bytes=1, seed=seed, engine_draws=engine_draws)

        assert fit(completions, texts(everything, model, prefix, 1)) > 1e-6, (prefix, toy.what)
        for completion in completions[:20]:
            ended = completion.finish_reason == "eot"
            mass = (
                everything.next_bytes(prefix, model)[256]
                if ended
                else everything.mass(prefix + completion.bytes, model)
            )
            expected = math.log(mass / everything.mass(prefix, model))

            assert completion.logprob == pytest.approx(lm.logprob(completion.bytes, prefix=prefix, eot=ended), abs=1e-9)
            assert completion.logprob == pytest.approx(expected, abs=1e-9), (prefix, completion, toy.what)


@few
@given(byte_level(), st.integers(0, 2), st.booleans())
def test_any_byte_level_tokenizer(toy: Toy, seed: int, engine_draws: bool) -> None:
    """Whatever the merges, splits and added tokens: texts are distributed, and scored, as the enumeration says."""
    check(toy, seed, engine_draws)


@few
@given(sentencepiece(), st.integers(0, 2), st.booleans())
def test_any_sentencepiece_tokenizer(toy: Toy, seed: int, engine_draws: bool) -> None:
    """So they are with ▁ for spaces, byte fallback and a hidden leading space."""
    check(toy, seed, engine_draws)


# ---- completions as anywhere else


class Table(TableLM):
    """A sharp table that draws tokens itself."""

    draws_by_default = True
    context_length: int | None = None
    fails_after: int | None = None

    def draw_tokens(self, more: More) -> None:
        for i, draw in enumerate(each_of(more)):
            if i == self.fails_after:
                raise ModelError("the engine failed")
            ids, random = list(draw.sequence), np.random.default_rng(draw.seed)
            for _ in range(draw.max_tokens):
                row = self.next_token_logprobs([ids])[0]
                token = int(random.choice(len(row), p=np.exp(row) / np.exp(row).sum()))
                if not draw.take(token, float(row[token])):
                    break
                ids.append(token)


@pytest.fixture
def table() -> Table:
    return Table(default_tokenizer(), seed=3, order=2)


PROMPTS = ["the ", "", "return n", "naïve ca", "the "]


def test_completions_are_what_they_say(table: Table) -> None:
    """No more bytes than asked for, log-probabilities by the lemma, whole characters, and what it cost."""
    lm = ByteLM(table)
    for prompt, completion in zip(PROMPTS, lm.sample_batch(PROMPTS, max_bytes=6, seed=4), strict=True):
        ended = completion.finish_reason == "eot"

        assert len(completion.bytes) == 6 or ended
        assert completion.text == codecs.getincrementaldecoder("utf-8")("replace").decode(completion.bytes)
        assert completion.logprob == pytest.approx(lm.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-9)
        assert completion.usage.calls > 0
        assert completion.usage.tokens_fed is not None


def test_an_item_is_a_function_of_its_seed_alone(table: Table) -> None:
    """In a batch, of n, and alone, item i is the same; without a seed no two calls agree."""
    lm = ByteLM(table)
    batch = lm.sample_batch(PROMPTS, max_bytes=6, seed=4)

    assert [c.bytes for c in lm.sample_batch(PROMPTS[:2], max_bytes=6, seed=4)] == [c.bytes for c in batch[:2]]
    assert lm.sample("the ", max_bytes=6, seed=4).bytes == batch[0].bytes
    assert batch[0].bytes != batch[4].bytes
    assert lm.sample("the ", max_bytes=9).bytes != lm.sample("the ", max_bytes=9).bytes


def test_what_leak_and_the_end_cost(leaky: tuple[ByteLM, Drawing, Enumeration]) -> None:
    """A handful of rows at the prompt's end, at the text's end and at each leak, however long the text is."""
    _, model, _ = leaky
    model.eot_ids, kept = frozenset(), model.eot_ids
    try:
        completions = ByteLM(model).sample_batch([b"a"] * 6, max_bytes=60, seed=1, engine_draws=True)
    finally:
        model.eot_ids = kept
    for completion in completions:
        assert completion.usage.redrawn > 4
        assert completion.usage.rows <= 3 * (completion.usage.redrawn + 2)


class Stepwise(Drawing):
    """The same, a token of each sequence at a step; it may be asked for rows, and for more, between two steps."""

    asks_each_step = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps = 0
        self.steps_for_rows = 1
        self._running: list[tuple[Draw, list[int], np.random.Generator]] = []

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        for _ in range(self.steps_for_rows):  # as vLLM does
            self._step()
        return super().next_token_logprobs(sequences)

    def draw_tokens(self, more: More) -> None:
        asked_for = True
        while asked_for or self._running:
            self._step()
            asked_for = False
            for draw in more():
                self._running.append((draw, [*draw.sequence], np.random.default_rng(draw.seed)))
                asked_for = True

    def _step(self) -> None:
        self.steps += 1
        running, self._running = self._running, []
        for draw, ids, random in running:
            edges = np.cumsum(np.exp(self.row(ids)))
            token = int(np.searchsorted(edges, random.random() * edges[-1], side="right"))
            goes_on = draw.take(token, float(self.row(ids)[token]))
            if isinstance(goes_on, Draw):
                self._running.append((goes_on, [*goes_on.sequence], np.random.default_rng(goes_on.seed)))
            elif goes_on and len(ids) + 1 - len(draw.sequence) < draw.max_tokens:
                self._running.append((draw, [*ids, token], random))


def test_guesses_change_no_text(leaky: tuple[ByteLM, Drawing, Enumeration], monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without guesses, alone and in a batch, however much is kept of them: the same bytes."""
    _, model, _ = leaky
    engine = Stepwise(model.tokenizer, 5, frozenset())
    engine.steps_for_rows = 2
    lm = ByteLM(engine)
    guesses: list[_Guess] = []

    def guess(*arguments: Any) -> _Guess:
        guesses.append(_Guess(*arguments))
        return guesses[-1]

    def written() -> list[bytes]:
        return [c.bytes for c in lm.sample_batch([b"a", b"b", b"ab"] * 4, max_bytes=40, seed=1, engine_draws=True)]

    monkeypatch.setattr("bytelm.sampling.engine_batch._Guess", guess)
    texts = written()
    kept = [len(guess.drawn) for guess in guesses if guess.right is not None]
    assert max(kept) > 1
    assert sum(guess.right is None for guess in guesses) == 0
    assert len(guesses) > 20
    alone = lm.sample_batch([b"a"], max_bytes=40, seed=1, engine_draws=True)[0]
    assert alone.bytes == texts[0]
    assert alone.usage.redrawn > 2
    for limit in (1, 3):
        monkeypatch.setattr("bytelm.sampling.engine_batch.GUESSED", limit)
        assert written() == texts
    guesses.clear()
    monkeypatch.setattr(Stepwise, "asks_each_step", False)
    assert written() == texts
    assert not guesses


def test_nobody_waits_for_another(leaky: tuple[ByteLM, Drawing, Enumeration]) -> None:
    """Completions in a batch take the steps that the longest of them takes alone: each goes on as soon as it may."""
    _, model, _ = leaky

    def steps(seeds: Sequence[int]) -> int:
        engine = Stepwise(model.tokenizer, 5, frozenset())
        lm = ByteLM(engine)
        drawing = lm.engine_drawing(SamplingParams(max_bytes=60, engine_draws=True))
        assert drawing is not None
        outcomes = [*drawing.run([(lm.place(lm.prompt(b"a")), np.random.default_rng(seed)) for seed in seeds])]
        assert all(outcome.result.usage.redrawn > 2 for outcome in outcomes)
        return engine.steps

    assert steps(range(12)) <= max(steps([seed]) for seed in range(12)) + 2


def test_the_cover_of_a_text_is_begun_near_its_end(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the last sure cut, where there is one: the log-probabilities are the same."""
    found: list[int | None] = []

    def watched(*arguments: Any) -> int | None:
        found.append(sure_cut(*arguments))
        return found[-1]

    monkeypatch.setattr("bytelm.cover.cover_cache.NEAR", 1)  # this table leaks every few bytes
    monkeypatch.setattr("bytelm.cover.cover_cache.sure_cut", watched)
    table.eot_ids = frozenset()
    lm = ByteLM(table)
    for completion in lm.sample_batch(["the "] * 4, max_bytes=200, seed=6):
        assert completion.logprob == pytest.approx(lm.logprob(completion.bytes, prefix="the "), abs=1e-8)
    assert sum(cut is not None for cut in found) > 20


def test_stop_strings_end_it(table: Table) -> None:
    """A stop string ends a completion and is no part of it, inside a token and across two, and in the first token."""
    lm = ByteLM(table)
    reasons: Counter[str] = Counter()
    for completion in lm.sample_batch(["the "] * 30, max_bytes=8, seed=5, stop=["e", "o ", "in"]):
        reasons[completion.finish_reason] += 1

        assert not any(stop in completion.bytes for stop in (b"e", b"o ", b"in"))
        assert completion.logprob == pytest.approx(
            lm.logprob(completion.bytes, prefix="the ", eot=completion.finish_reason == "eot"), abs=1e-9
        )
    assert reasons["stop"] > 3
    assert lm.sample("the ", max_bytes=0, seed=1).finish_reason == "length"


def test_when_it_is_handed_over(table: Table) -> None:
    """By default where the engine says so and nothing is done to the distribution; never against the caller's word."""
    lm = ByteLM(table)
    plain = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    options: dict[str, Any] = {"max_bytes": 9, "seed": 4}

    def same(engine_draws: bool | None = None, **given: Any) -> bool:
        drawn_ = lm.sample("the ", engine_draws=engine_draws, **options, **given)
        return bool(drawn_.bytes == plain.sample("the ", **options, **given).bytes)

    assert isinstance(table, TokenDrawer)
    assert not same()
    assert same(engine_draws=False)
    assert same(temperature=0.7)
    assert same(top_k=9)
    assert same(logits_processor=lambda _, row: row)
    table.draws_by_default = False
    assert same()
    assert not same(engine_draws=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.5}, "temperature=1"),
        ({"top_p": 0.9}, "top_p"),
        ({"logits_processor": lambda _, row: row}, "logits_processor"),
    ],
)
def test_what_cannot_be_handed_over(table: Table, options: dict[str, Any], words: str) -> None:
    """engine_draws=True is refused before the model runs where the bytes' distribution is changed."""
    with pytest.raises(InvalidArgumentError, match=words):
        ByteLM(table).sample("a", engine_draws=True, **options)

    assert table.usage.calls == 0


def test_who_cannot_be_handed_over(table: Table) -> None:
    """An engine that draws no tokens, and an ensemble, say so; an ensemble of engines that do goes on as it would."""
    plain = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    both = Ensemble([plain, ByteLM(table)])

    with pytest.raises(InvalidArgumentError, match="TableLM has no draw_tokens"):
        plain.sample("a", engine_draws=True)
    with pytest.raises(InvalidArgumentError, match="ensemble"):
        both.sample("a", engine_draws=True)
    assert both.sample("a", max_bytes=4, seed=1).usage.redrawn == 0


def test_what_was_finished_is_kept(table: Table) -> None:
    """Where the engine fails, the error has the completions that had ended by then, scored."""
    table.fails_after = 50
    lm = ByteLM(table)
    prompts = PROMPTS * 8

    with pytest.raises(ModelError, match="failed") as caught:
        lm.sample_batch(prompts, max_bytes=6, seed=4)

    finished = caught.value.finished  # type: ignore[attr-defined]
    assert 5 < len(finished) < 40
    assert set(finished) <= set(range(40))
    for index, completion in finished.items():
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(
            lm.logprob(completion.bytes, prefix=prompts[index], eot=ended), abs=1e-9
        )


# ---- transformers


KINDS = ("llama", "gpt2", "gemma3", "mamba")


@pytest.fixture(scope="module")
def engines() -> dict[str, Any]:
    """Tiny models of every kind of cache, by kind."""
    from bytelm.engines.transformers.engine import TransformersLM

    return {kind: TransformersLM(tiny_model(kind), default_tokenizer()) for kind in (*KINDS, "phi3_longrope")}


SEQUENCES = [(5, 6, 7, 8, 9), (5,), (6, 5), (40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51)]


def tokens_of(engine: Any, sequences: Sequence[Sequence[int]], seeds: Sequence[int], count: int) -> list[list[Any]]:
    return draw_all(engine, sequences, seeds, max_tokens=100, count=count)


@pytest.mark.parametrize("kind", KINDS)
def test_generate_draws_from_the_rows(engines: dict[str, Any], kind: str) -> None:
    """Each token's log-probability is the one in the engine's own row, in ragged batches and past a sliding window."""
    engine = engines[kind]
    found = tokens_of(engine, SEQUENCES, [1, 2, 3, 4], 15)

    for sequence, drawn_ in zip(SEQUENCES, found, strict=True):
        assert len(drawn_) == 15
        ids = list(sequence)
        for token, logprob in drawn_:
            assert engine.next_token_logprobs([ids])[0][token] == pytest.approx(logprob, abs=1e-4)
            ids.append(token)
    alone = [
        tokens_of(engine, [sequence], [seed], 15)[0] for sequence, seed in zip(SEQUENCES, [1, 2, 3, 4], strict=True)
    ]
    assert [[t for t, _ in line] for line in found] == [[t for t, _ in line] for line in alone]


def test_a_long_sequence_leaves_the_positions_of_the_others(engines: dict[str, Any]) -> None:
    """Past 20 tokens this model's positions are others, for all of a batch: the short sequence is drawn without it."""
    engine = engines["phi3_longrope"]
    found = tokens_of(engine, [(5, 6, 7), range(5, 35)], [1, 2], 6)

    for sequence, line in zip([(5, 6, 7), range(5, 35)], found, strict=True):
        ids = list(sequence)
        for token, logprob in line:
            assert engine.next_token_logprobs([ids])[0][token] == pytest.approx(logprob, abs=1e-4)
            ids.append(token)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_is_done_is_not_fed_beyond_the_context(engines: dict[str, Any], kind: str) -> None:
    """A sequence that ended just before it is in the batch of another, which goes on to its own end."""
    engine = engines[kind]
    long = tuple(5 + i % 300 for i in range(engine.context_length - 3))
    lines = draw_all(engine, [long, (5,)], [1, 2], max_tokens=100, count=[2, 40])

    assert [len(line) for line in lines] == [2, 40]
    ids = [5]
    for token, logprob in lines[1]:
        assert engine.next_token_logprobs([ids])[0][token] == pytest.approx(logprob, abs=1e-4)
        ids.append(token)


def test_generate_draws_as_the_row_says(engines: dict[str, Any]) -> None:
    """Chi-square of 1,500 first tokens."""
    engine = engines["llama"]
    found = tokens_of(engine, [(5, 6)] * 1500, range(1500), 1)
    row = np.exp(engine.next_token_logprobs([(5, 6)])[0])

    assert p_value(np.array([line[0][0] for line in found]), row) > P_THRESHOLD


def test_generation_settings_of_the_model_are_put_aside(engines: dict[str, Any]) -> None:
    """Penalties and ends in the model's generation_config change nothing, and are there afterwards."""
    from transformers import GenerationConfig

    engine = engines["llama"]
    before = tokens_of(engine, SEQUENCES, [1, 2, 3, 4], 9)
    kept = engine.model.generation_config
    changed = GenerationConfig(repetition_penalty=5.0, eos_token_id=list(range(100)), suppress_tokens=[7, 8, 9])
    engine.model.generation_config = changed
    try:
        assert tokens_of(engine, SEQUENCES, [1, 2, 3, 4], 9) == before
        assert engine.model.generation_config is changed
    finally:
        engine.model.generation_config = kept


def test_the_end_of_the_context(engines: dict[str, Any]) -> None:
    """A sequence that comes to the end of the context is an error, after the others have gone on to their ends."""
    engine = engines["llama"]
    long = tuple(range(5, 5 + engine.context_length - 3))
    found: list[list[Any]] = []

    with pytest.raises(ContextOverflowError, match="max_bytes"):
        draw_all(engine, [tuple(i % 300 for i in long), (5,)], [1, 2], max_tokens=50, count=30, found=found)

    assert [len(line) for line in found] == [4, 30]
    found.clear()
    with pytest.raises(ContextOverflowError, match="max_bytes"):  # no room at all
        draw_all(engine, [(5,) * (engine.context_length + 1), (5,)], [1, 2], max_tokens=50, count=30, found=found)
    assert [len(line) for line in found] == [0, 30]


@pytest.mark.slow
def test_what_a_long_text_costs(smollm2: ByteLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 through generate: a few rows, and a few steps of the cover, whatever the length of the text."""
    steps = 0
    advance = Cover.advance

    def counted(self: Cover, data: bytes) -> Cover:
        nonlocal steps
        steps += len(data)
        return advance(self, data)

    prompts = ["The capital of France is", "def fibonacci(n):"]
    lm = ByteLM(smollm2.token_lm)
    monkeypatch.setattr(Cover, "advance", counted)
    completions = lm.sample_batch(prompts, max_bytes=250, seed=2, engine_draws=True)
    leaked = sum(c.usage.redrawn for c in completions)

    assert sum(len(c.bytes) for c in completions) > 300
    assert steps < sum(map(len, prompts)) + (2 + leaked) * 80
    assert sum(c.usage.rows for c in completions) < (4 + leaked) * 6
    for prompt, completion in zip(prompts, completions, strict=True):
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(lm.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-3)


@pytest.mark.slow
def test_handed_over_to_a_real_model(smollm2: ByteLM) -> None:
    """SmolLM2 through generate: prompts that stop inside a token, scores by the lemma, the rate of its leak."""
    prompts = ["def fibonacci(n):\n    ret", "The capital of Fra", "naïve caf"]
    completions = smollm2.sample_batch(prompts * 2, max_bytes=40, seed=2, engine_draws=True)

    for prompt, completion in zip(prompts * 2, completions, strict=True):
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(
            smollm2.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-3
        )
