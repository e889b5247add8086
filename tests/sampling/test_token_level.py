"""Completions of level="token": chi-squares against the enumerated law, on a transformers model; then what a user may ask."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, CompletionStream, Ensemble, SamplingParams, TableLM
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import InvalidArgumentError, InvalidTypeError, ModelError, NotFinishedError
from bytelm.sampling.completion import Completion
from evals.cost.lazy import p_value
from tests.sampling.test_engine_draws import by_hand, texts, written
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.oracle import Enumeration
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model

END, OTHER = 3, 4
BYTES = {0: b"a", 1: b"b", 2: b"ab", OTHER: b""}
MOST = 3
SCALE = 0.6  # rows flat enough that filters keep several tokens


class Toy:
    """A transformers model over a, b, ab, an end and a special token that ends nothing; and its law by enumeration."""

    def __init__(self) -> None:
        from transformers import PreTrainedTokenizerFast

        self.backend = by_hand()
        model = tiny_model("llama", vocab_size=5, seed=1, bos_token_id=None, eos_token_id=END)
        model.lm_head.weight.data *= SCALE
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=self.backend)
        self.engine = TransformersLM(model, tokenizer, eot_ids=[END], start_id=OTHER, max_batch=256)
        self.eot_ids = self.engine.eot_ids
        self.lm = ByteLM(self.engine)
        self.everything = Enumeration(self.backend, ("a", "b"), 9)
        self._rows: dict[tuple[int, ...], np.ndarray] = {}

    def row(self, ids: Any) -> np.ndarray:
        """Log-probabilities after some tokens, as `HashLM` has them."""
        if tuple(ids) not in self._rows:
            self._rows[tuple(ids)] = self.engine.next_token_logprobs([tuple(ids)])[0].astype(np.float64)
        return self._rows[tuple(ids)]

    def members(self, prefix: bytes, temperature: float) -> dict[tuple[int, ...], float]:
        """The cover, each member with its probability to the power 1/T, normalised."""
        weights = {ids: self.everything.weight(ids, self) for ids in sorted(self.everything.cover(prefix))}  # type: ignore[arg-type]
        if temperature == 0:
            return {max(weights, key=weights.__getitem__): 1.0}
        powers = {ids: weight ** (1 / temperature) for ids, weight in weights.items()}
        return {ids: power / sum(powers.values()) for ids, power in powers.items()}

    def law(
        self, prefix: bytes, members: dict[tuple[int, ...], float] | None = None, **options: Any
    ) -> tuple[dict[tuple[int, ...], float], float]:
        """The probability of each text of `MOST` bytes, and that of token sequences that no text emits."""
        members = members or self.members(prefix, options.get("temperature", 1.0))
        found: dict[tuple[int, ...], float] = defaultdict(float)
        leak = 0.0
        going = [(ids, MOST - len(self.spelled(ids)) + len(prefix), prob, True) for ids, prob in members.items()]
        while going:
            ids, left, prob, viable = going.pop()
            new = self.spelled(ids)[len(prefix) :]
            if left <= 0 or len(new) >= MOST:
                found[tuple(new[:MOST])] += prob
                leak += 0.0 if viable else prob
                continue
            probs = prob * filtered(self.row(ids), **options)
            for token in np.flatnonzero(probs).tolist():
                if token == END:
                    found[*new, 256] += probs[token]
                    canonical = viable and ids in self.everything.ending(self.spelled(ids))
                    leak += 0.0 if canonical else probs[token]
                else:
                    after = (*ids, token)
                    going.append((after, left - 1, probs[token], viable and after in self.everything.viable))
        return dict(found), leak

    @staticmethod
    def spelled(ids: Any) -> bytes:
        return b"".join(BYTES[i] for i in ids)


def filtered(row: np.ndarray, *, temperature: float = 1.0, **filters: Any) -> np.ndarray:
    """A row's probabilities after temperature, top-k, top-p and min-p, in transformers' order, by their definitions."""
    if temperature == 0:
        return np.asarray(np.eye(len(row))[row.argmax()])
    probs = np.exp(row / temperature)
    probs /= probs.sum()
    order = np.argsort(-probs)
    if "top_k" in filters:
        probs[order[filters["top_k"] :]] = 0
        probs /= probs.sum()
    if "top_p" in filters:
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= filters["top_p"]]] = 0
        probs /= probs.sum()
    if "min_p" in filters:
        probs[probs < filters["min_p"] * probs.max()] = 0
        probs /= probs.sum()
    return np.asarray(probs)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def drawn(toy: Toy, prefix: bytes, count: int, **options: Any) -> list[Completion]:
    return toy.lm.sample_batch([prefix] * count, **{"max_bytes": MOST, "seed": 1, "level": "token", **options})


def fit(completions: list[Completion], law: dict[tuple[int, ...], float]) -> float:
    places = {text: i for i, text in enumerate(law)}
    assert {written(c) for c in completions} <= places.keys()
    return p_value(np.array([places[written(c)] for c in completions]), np.array([*law.values()]))


LAWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0.6},
    {"top_p": 0.7},
    {"temperature": 1.7, "top_k": 3, "min_p": 0.1},
]


@pytest.mark.parametrize(
    ("prefix", "options"),
    [*((b"a", law) for law in LAWS), (b"", {}), (b"", {"top_p": 0.7}), (b"ba", {"temperature": 0.6})],
)
def test_texts_have_the_law_that_is_told(toy: Toy, prefix: bytes, options: dict[str, Any]) -> None:
    """Chi-square of 700 completions against all texts: the member by its tempered posterior, then filtered tokens."""
    law, _ = toy.law(prefix, **options)

    assert sum(law.values()) == pytest.approx(1)
    assert fit(drawn(toy, prefix, 700, **options), law) > P_THRESHOLD


def test_the_chi_square_sees_a_member_that_is_drawn_otherwise(toy: Toy) -> None:
    """It is no law where the member is drawn at temperature 1, or is the prompt's own encoding."""
    law, _ = toy.law(b"a", temperature=0.3)
    wrongs: list[dict[tuple[int, ...], float]] = [toy.members(b"a", 1.0), {(0,): 1.0}]
    for wrong in wrongs:
        other, _ = toy.law(b"a", wrong, temperature=0.3)
        assert fit(drawn(toy, b"a", 700, temperature=0.3), dict.fromkeys(law, 1e-9) | other) < P_THRESHOLD


@pytest.mark.parametrize("prefix", [b"", b"a", b"ba"])
def test_at_temperature_1_it_is_the_byte_law_up_to_leak(toy: Toy, prefix: bytes) -> None:
    """Total variation from the byte law, enumerated, is no more than the probability of a text with leak."""
    law, leak = toy.law(prefix)
    exact = texts(toy.everything, toy, prefix, MOST)  # type: ignore[arg-type]
    distance = 0.5 * sum(abs(law.get(text, 0.0) - exact.get(text, 0.0)) for text in {*law, *exact})

    assert 0 < distance <= leak < 0.9


# ---- through transformers' generate


KINDS = ("llama", "gpt2", "gemma3", "mamba")
PROMPTS = ["the quick brown fo", "return n", "the ", "naïve ca", "def fibonacci(n):\n    if n < 2:\n        ret"]


@pytest.fixture(scope="module")
def engines() -> dict[str, Any]:
    return {kind: TransformersLM(tiny_model(kind), default_tokenizer()) for kind in KINDS}


def generated(engine: Any, ids: tuple[int, ...], count: int, **options: Any) -> list[int]:
    """The tokens that the model's own ``generate`` writes, greedily, after ids alone, with a cache of its own."""
    import torch

    one = torch.tensor([list(ids)])
    more = {"do_sample": False, "eos_token_id": 0, "pad_token_id": 0, **options}
    with torch.inference_mode():
        made = engine.model.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=count, **more)
    return [int(i) for i in made[0, len(ids) :]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}, {"num_beams": 3}, {"max_time": 99.0}],
    ids=str,
)
def test_greedy_it_is_generate_after_the_likeliest_member(
    engines: dict[str, Any], kind: str, options: dict[str, Any]
) -> None:
    """Ragged prompts together, from keys that the engine has: the bytes that ``generate`` alone writes after the member."""
    engine = engines[kind]
    lm = ByteLM(engine)
    done = lm.sample_batch(PROMPTS, level="token", temperature=0, max_bytes=25, engine_options=options)

    for prompt, completion in zip(PROMPTS, done, strict=True):
        member = lm.cover(prompt)[0].token_ids
        most = 25 - len(lm.spell(member)) + len(prompt.encode())  # a token a byte, also of those that spell nothing
        tokens = generated(engine, member, most, **options)
        ended = 0 in tokens
        expected = lm.spell([*member, *tokens[: tokens.index(0) if ended else None]])[len(prompt.encode()) :]
        assert completion.bytes == expected[:25]
        assert completion.finish_reason == ("eot" if ended and len(expected) < 25 else "length")


def test_a_prompt_is_fed_once(engines: dict[str, Any]) -> None:
    """What the cover's rows left behind is gone on from: prompt, a few nodes, and the tokens of the answer."""
    engine = engines["llama"]
    engine.clear_cache()
    prompt = "the quick brown fox jumps over the lazy dog. " * 3
    before = engine.usage.copy()
    done = ByteLM(engine).sample(prompt, level="token", max_bytes=20, seed=1)
    spent, size = engine.usage.since(before), len(engine.tokenizer(prompt).input_ids)

    assert size > 50
    assert spent.tokens_fed <= size + 30
    assert done.usage.calls <= 22
    assert done.usage.redrawn == 0


def test_processors_and_criteria_of_the_caller_s(engines: dict[str, Any]) -> None:
    """A logits processor of tokens decides what is written; a stopping criterion ends it, with reason "stop"."""
    engine = engines["gpt2"]
    lm = ByteLM(engine)
    the = engine.tokenizer(" the").input_ids[-1]
    seen: list[int] = []

    def only(ids: Any, scores: Any) -> Any:
        seen.append(ids.shape[1])
        masked = scores.new_full(scores.shape, -math.inf)
        masked[:, the] = 0.0
        return masked

    def third(ids: Any, _: Any, **__: Any) -> Any:
        return ids[:, -3:].eq(the).all(-1)

    options = {"logits_processor": [only], "stopping_criteria": [third]}
    done = lm.sample_batch(["a b ", "return "], level="token", max_bytes=50, seed=3, engine_options=options)
    spelled = lm.spell([the])

    assert [c.bytes[-3 * len(spelled) :] for c in done] == [spelled * 3] * 2
    assert [c.finish_reason for c in done] == ["stop"] * 2
    assert len(seen) < 8


def test_the_model_s_own_settings_are_put_aside(engines: dict[str, Any]) -> None:
    """A generation_config with penalties and filters changes nothing; torch's random numbers are left as they were."""
    import torch
    from transformers import GenerationConfig

    engine = engines["llama"]
    lm, kept = ByteLM(engine), engine.model.generation_config
    before = lm.sample("the ", level="token", seed=4).bytes
    state = torch.random.get_rng_state()
    engine.model.generation_config = GenerationConfig(repetition_penalty=9.0, top_k=1, suppress_tokens=[7, 8, 9])
    try:
        assert lm.sample("the ", level="token", seed=4).bytes == before
    finally:
        engine.model.generation_config = kept
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- completions as anywhere else


@pytest.fixture(scope="module")
def lm(engines: dict[str, Any]) -> ByteLM:
    return ByteLM(engines["llama"])


def test_what_a_completion_says(lm: ByteLM) -> None:
    """No more bytes than asked for, in the middle of a token too; the same for a seed; no log-probability."""
    for size in range(8):
        done = lm.sample("the quick bro", level="token", max_bytes=size, seed=3)
        whole = lm.sample("the quick bro", level="token", max_bytes=30, seed=3)

        assert done.bytes == whole.bytes[:size]
        assert done.logprob is None
        assert done.finish_reason == "length"
    several = lm.sample("the ", level="token", n=5, seed=3, max_bytes=12)
    assert isinstance(several, list)
    assert len({c.bytes for c in several}) > 1
    assert [c.bytes for c in several] == [c.bytes for c in lm.sample("the ", level="token", n=5, seed=3, max_bytes=12)]  # type: ignore[union-attr]
    assert lm.sample("the ", level="token", max_bytes=30).bytes != lm.sample("the ", level="token", max_bytes=30).bytes


def test_a_stop_string_cuts_the_text_and_ends_the_engine(lm: ByteLM, engines: dict[str, Any]) -> None:
    """The text ends before the string, also inside a token; the engine draws no more than the token with it."""
    whole = lm.sample("the ", level="token", temperature=0, max_bytes=60)
    stop = whole.bytes[9:12]
    at = whole.bytes.index(stop)
    before = engines["llama"].usage.copy()
    done = lm.sample("the ", level="token", temperature=0, max_bytes=60, stop=[stop])

    assert (done.bytes, done.finish_reason) == (whole.bytes[:at], "stop")
    assert engines["llama"].usage.since(before).calls <= at + len(stop) + 1


def test_special_tokens_are_left_out(toy: Toy) -> None:
    """What spells nothing is not in the text; an end ends it, and one that is named so for the byte model too."""
    done = drawn(toy, b"a", 60, max_bytes=6)
    assert {c.finish_reason for c in done} == {"eot", "length"}
    assert all(set(c.bytes) <= set(b"ab") for c in done)
    both = ByteLM(toy.engine, eot_ids=[END, OTHER])
    ended = both.sample_batch([b"a"] * 60, level="token", max_bytes=6, seed=1)
    assert all(len(c.bytes) == 6 for c in ended if c.finish_reason == "length")
    assert sum(c.finish_reason == "eot" for c in ended) > sum(c.finish_reason == "eot" for c in done)


def test_the_hidden_leading_space_of_an_empty_prompt() -> None:
    """The first token's ▁ is not in the text; a first token without one is written as it is."""
    from tests.support.tiny import sentencepiece_bpe_tokenizer

    tokenizer = sentencepiece_bpe_tokenizer(prepend=True)
    lm = ByteLM(TransformersLM(tiny_model("llama", vocab_size=431), tokenizer), bos=False)
    vocab = tokenizer.get_vocab()
    for token, expected in ((vocab["▁the"], b"the"), (vocab["t"], b"t"), (vocab["▁"], b"")):

        def first(ids: Any, scores: Any, token: int = token) -> Any:
            """After the start symbol alone a given token, and then ▁the."""
            masked = scores.new_full(scores.shape, -math.inf)
            masked[:, token if ids[0, -1] == lm.start_id else vocab["▁the"]] = 0.0
            return masked

        done = lm.sample("", level="token", max_bytes=9, seed=1, engine_options={"logits_processor": [first]})
        assert done.bytes == (expected + b" the the the")[:9]


def test_a_stream_has_the_pieces_of_the_sample(lm: ByteLM) -> None:
    """Joined they are its text, with stop strings too; afterwards the completion is there, and not before."""
    for options in ({}, {"stop": ["e", "th"]}, {"temperature": 0}, {"max_bytes": 0}):
        params = SamplingParams(**{"level": "token", "max_bytes": 40, "seed": 5, **options})  # type: ignore[arg-type]
        whole = lm.sample("naïve ca", params=params)
        stream = lm.stream("naïve ca", params=params)
        with pytest.raises(NotFinishedError):
            _ = stream.completion
        pieces = list(stream)

        assert "".join(pieces) == whole.text
        assert stream.completion.bytes == whole.bytes
        assert stream.completion.finish_reason == whole.finish_reason
    assert len(list(lm.stream("the ", level="token", temperature=0, max_bytes=40))) > 3


def test_a_stream_that_is_let_go_ends_the_engine(lm: ByteLM) -> None:
    """The engine stops at its next token, and can be asked again; no thread is left."""
    before = threading.active_count()
    drawn: list[int] = []

    def slow(ids: Any, scores: Any) -> Any:
        drawn.append(ids.shape[1])
        time.sleep(0.02)
        scores[:, 0] = -math.inf  # no end
        return scores

    stream: CompletionStream | None = lm.stream(
        "the ", level="token", max_bytes=150, seed=1, engine_options={"logits_processor": [slow]}
    )
    assert stream is not None
    next(stream)
    stream = None
    gc.collect()
    lm.next_byte_logprobs("the ")
    for _ in range(100):
        if threading.active_count() <= before:  # those of earlier tests may end now
            break
        time.sleep(0.02)

    assert threading.active_count() <= before
    assert len(drawn) < 20


def test_what_fails_in_the_engine_rises_where_the_stream_is_read(lm: ByteLM) -> None:
    """Of sample and of stream alike."""

    def bad(_: Any, __: Any) -> Any:
        raise ValueError("no such row")

    options: Any = {"level": "token", "engine_options": {"logits_processor": [bad]}}
    with pytest.raises(ModelError, match="no such row"):
        lm.sample("the ", **options)
    with pytest.raises(ModelError, match="no such row"):
        list(lm.stream("the ", **options))


def test_the_end_of_the_context(lm: ByteLM) -> None:
    """The text ends with the context, for its length."""
    size = lm.abilities.context_length
    assert size is not None
    prompt = "the " * ((size - 8) // len(lm.tokenizer("the the ").input_ids[1:-1] or [0]))
    while len(lm.tokenizer(prompt).input_ids) > size - 8:
        prompt = prompt[4:]
    done = lm.sample(prompt, level="token", max_bytes=500, seed=1)

    assert done.finish_reason in ("length", "eot")
    assert len(done.bytes) < 200


def test_who_goes_on_in_another_call_has_other_random_numbers(
    engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call ends with the context of its longest sequence; the next one's random numbers are not those of the first."""
    import torch

    seeds: list[int] = []
    seed = torch.manual_seed

    def noted(number: int) -> Any:
        seeds.append(number)
        return seed(number)

    monkeypatch.setattr(torch, "manual_seed", noted)
    model = ByteLM(engines["gpt2"], eot_ids=())
    size = engines["gpt2"].context_length
    done = model.sample_batch([[5] * (size - 3), [6]], level="token", max_bytes=12, seed=1, lazy=True)

    assert [c.finish_reason for c in done] == ["length", "length"]
    assert len(seeds) == len(set(seeds)) == 2


def test_in_the_middle_and_in_a_chat() -> None:
    """Infill ends where a middle ends, and a chat's answer goes on at any byte."""
    from bytelm import FIMFormat

    tokenizer = byte_bpe_tokenizer(special=("<|im|>", "<pre>", "<suf>", "<mid>"))
    tokenizer.chat_template = "{% for m in messages %}<|im|>{{ m['content'] }}{% endfor %}"
    lm = ByteLM(TransformersLM(tiny_model("llama"), tokenizer))
    form = FIMFormat("made", psm=("<pre>", "{prefix}", "<suf>", "{suffix}", "<mid>"), ends=("<|im|>",))
    end = tokenizer.get_vocab()["<|im|>"]

    def third(ids: Any, scores: Any) -> Any:
        """The format's end, as the third token of the middle."""
        if ids[0, -3] == tokenizer.get_vocab()["<mid>"]:
            scores[:, end] = 1e9
        else:
            scores[:, end] = -math.inf
        return scores

    options: Any = {"format": form, "level": "token", "temperature": 0, "engine_options": {"logits_processor": [third]}}
    middle = lm.infill("the qui", " fox", carry="none", **options)
    assert middle.finish_reason == "eot"
    assert len(middle.bytes) >= 2
    assert "".join(lm.infill_stream("the qui", " fox", carry="none", **options)) == middle.text
    talk = [{"role": "user", "content": "the "}, {"role": "assistant", "content": "ret"}]
    answer = lm.chat(talk, continue_final_message=True, level="token", temperature=0, max_bytes=9)
    prefix = lm.chat_prefix(talk, continue_final_message=True)
    assert answer.bytes == lm.sample(prefix, level="token", temperature=0, max_bytes=9).bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        # Among the slow tests no shapes and types are checked, which would refuse it first.
        pytest.param({"level": "word"}, "level is one of byte, token", marks=pytest.mark.slow),
        ({"engine_options": {"typical_p": 0.9}}, "level='token'"),
        ({"level": "token", "logits_processor": lambda _, row: row}, "engine_options={'logits_processor'"),
        ({"level": "token", "engine_draws": True}, "engine_draws"),
        ({"level": "token", "engine_draws": False}, "engine_draws"),
        ({"level": "token", "engine_options": {"temperature": 0.3}}, "pass temperature itself"),
        ({"level": "token", "engine_options": {"max_new_tokens": 3}}, "max_bytes"),
        ({"level": "token", "engine_options": {"stop_strings": "a"}}, "pass stop"),
        ({"level": "token", "engine_options": {"eos_token_id": 3}}, "eot_ids"),
        ({"level": "token", "engine_options": {"num_return_sequences": 3}}, "pass n"),
        ({"level": "token", "engine_options": {"past_key_values": None}}, "set by bytelm"),
        (
            {"level": "token", "engine_options": {"stopping_criteria": len}},
            "stopping_criteria in engine_options is a list",
        ),
        ({"level": "token", "engine_options": {"num_beams": 0}}, "num_beams"),
        ({"level": "token", "engine_options": {"repetition_penalti": 3}}, "did you mean repetition_penalty"),
    ],
)
def test_what_is_refused_before_the_model_runs(lm: ByteLM, options: dict[str, Any], words: str) -> None:
    """What is of the other level, what is a field of its own, and what generate has not."""
    calls = lm.token_lm.usage.calls  # type: ignore[attr-defined]
    for method in (lm.sample, lm.stream):
        with pytest.raises(InvalidArgumentError, match=words):
            method("the ", **options)
    assert lm.token_lm.usage.calls == calls  # type: ignore[attr-defined]


@pytest.mark.slow
def test_options_of_the_engine_are_a_mapping(lm: ByteLM) -> None:
    """No list of names; among the slow tests, where types are not checked before."""
    with pytest.raises(InvalidTypeError, match="engine_options"):
        lm.sample("a", level="token", engine_options=["typical_p"])  # type: ignore[call-overload]


def test_who_has_no_sampler(lm: ByteLM) -> None:
    """An engine without one, and an ensemble, say so by name; at the other level it is named."""
    plain = ByteLM(TableLM(default_tokenizer(), seed=3, order=2))
    with pytest.raises(InvalidArgumentError, match=r"TableLM has none \(engines with one: transformers"):
        plain.sample("a", level="token")
    for method in ("sample", "stream"):
        with pytest.raises(InvalidArgumentError, match="Ensemble"):
            getattr(Ensemble([lm, plain]), method)("a", level="token")
    with pytest.raises(InvalidTypeError, match="engine_options"):
        plain.sample("a", repetition_penalty=2)  # type: ignore[call-overload]
