"""The lm-eval model on toy models: its numbers against their definitions, and what goes wrong. In lm-eval: cli/test_eval.py.

Tests that score many bytes are marked slow: the checks of every shape cost too much there.
"""

from __future__ import annotations

import codecs
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from bytelm import ByteLM, Ensemble, TableLM
from bytelm.ensemble.combine import Combine
from bytelm.errors import ContextOverflowError, InvalidArgumentError, ModelError, UnsupportedTokenizerError
from bytelm.harness.byte_requests import ByteRequests
from bytelm.harness.chat import Chat, packed
from bytelm.harness.model import HarnessLM
from bytelm.harness.token_requests import token_windows
from tests.support.oracle import Enumeration, HashLM
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, sentencepiece_bpe_tokenizer, tiny_model

ALPHABET = ["t", "h", " "]


def table(tokenizer: Any = None, **options: Any) -> TableLM:
    return TableLM(
        default_tokenizer() if tokenizer is None else tokenizer, **{"order": 2, "temperature": 2.0, **options}
    )


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def scores(lm: Any, *pairs: tuple[str, str], **options: Any) -> list[tuple[float, bool]]:
    model = HarnessLM(lm, **options)
    return model.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)


def written(lm: Any, context: str, repeats: int = 1, options: dict[str, Any] | None = None, **wanted: Any) -> list[str]:
    model = HarnessLM(lm, **(options or {}))
    asked = requests("generate_until", *[(context, {"until": [], **wanted})] * repeats)
    return model.generate_until(asked, disable_tqdm=True)


def shown(data: bytes) -> str:
    """The text of some bytes, without part of a character at the end."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


class Counting(TableLM):
    """A table that notes what is asked for, has a context, and may fail."""

    def __init__(self, *args: Any, context_length: int | None = None, calls: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.context_length = context_length
        self.calls = calls
        self.asked: list[tuple[int, ...]] = []

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise ModelError("the toy engine was told to fail")
        if self.context_length is not None and max(map(len, sequences)) > self.context_length:
            raise ContextOverflowError("a sequence is longer than the toy context")
        self.asked += [tuple(sequence) for sequence in sequences]
        return super().next_token_logprobs(sequences)


@pytest.fixture(scope="module")
def lms() -> list[ByteLM]:
    return [ByteLM(table(seed=1)), ByteLM(table(byte_bpe_tokenizer(vocab_size=277, pre_tokenizer="llama3"), seed=2))]


# ---- one model: numbers by definition


@pytest.mark.slow
def test_scores_are_those_of_the_enumeration() -> None:
    """Ln P(continuation | context) is a difference of sums over all token sequences; greedy is the greatest byte at each place."""
    tokenizer = default_tokenizer()
    oracle = Enumeration(tokenizer, ALPHABET, 7)  # tokens of these letters have four at most
    allowed = frozenset(itertools.chain.from_iterable(oracle.viable))
    model = HashLM(tokenizer, 311, frozenset({0}), allowed)
    pairs = [("t", "h "), ("th", "t"), (" ", "th"), ("h", " "), ("ht", ""), ("h ", "t"), ("t", "h"), ("h", "  ")]
    found = scores(ByteLM(model), *pairs)

    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        before, data = context.encode(), continuation.encode()
        expected = math.log(oracle.mass(before + data, model)) - math.log(oracle.mass(before, model))
        likeliest = [int(oracle.next_bytes(before + data[:i], model).argmax()) for i in range(len(data))]

        assert logprob == pytest.approx(expected, abs=1e-9)
        assert greedy == (likeliest == list(data))
    assert {greedy for _, greedy in found} == {True, False}


@pytest.mark.parametrize("level", ["byte", "token"])
def test_where_a_token_is_a_byte_both_levels_are_the_chain_of_rows(level: str) -> None:
    """Without merges no token spans a join: ln P is the sum over the model's own rows, and both levels say so."""
    model = table(byte_bpe_tokenizer(vocab_size=257), temperature=0.7)
    pairs = [("the", " fox"), ("naïve", " café"), ("Answer:", " B"), ("", "The dog"), ("x", "")]
    for (context, continuation), (logprob, greedy) in zip(
        pairs, scores(ByteLM(model), *pairs, level=level), strict=True
    ):
        encoded = [model.tokenizer.encode(text) for text in (context, continuation)]
        rows = model.next_token_logprobs([[*encoded[0], *encoded[1][:i]] for i in range(len(encoded[1]) + 1)])
        chain = [float(row[token]) for row, token in zip(rows, encoded[1], strict=False)]

        assert logprob == pytest.approx(math.fsum(chain), abs=1e-9)
        assert greedy == all(int(row.argmax()) == token for row, token in zip(rows, encoded[1], strict=False))


def test_no_white_space_is_moved() -> None:
    """By bytes, "the " and "dog" are not "the" and " dog"; by tokens they are, which is lm-eval's rule."""
    lm = ByteLM(table())
    pairs = ("the ", "dog"), ("the", " dog")
    by_bytes, by_tokens = scores(lm, *pairs), scores(lm, *pairs, level="token")

    assert by_bytes[0][0] == pytest.approx(lm.logprob("dog", prefix="the "), abs=1e-12)
    assert by_bytes[1][0] == pytest.approx(lm.logprob(" dog", prefix="the"), abs=1e-12)
    assert by_bytes[0][0] != pytest.approx(by_bytes[1][0], abs=1e-3)
    assert by_tokens[0] == by_tokens[1]


@pytest.mark.parametrize("level", ["byte", "token"])
def test_a_token_that_spans_the_join_stops_nothing(level: str) -> None:
    """lm-eval's issues 1053 (": C" is one token) and 1297 ("Ans" + "wer"): hf finds no token to score, and stops."""
    corpus = ["Question: C\nAnswer: C\n", "Answer: Answer hello world: C"] * 9
    tokenizer = byte_bpe_tokenizer(vocab_size=290, corpus=corpus, pre_tokenizer=None)
    lm = ByteLM(table(tokenizer))
    pairs = [("Question:", " C"), ("Ans", "wer"), ("hello wor", "ld"), ("Question: C\nAnswer:", " C")]
    spans = [len(tokenizer.encode(a)) >= len(tokenizer.encode(a + b)) for a, b in pairs]

    assert sum(spans) >= 2
    for (context, continuation), (logprob, _) in zip(pairs, scores(lm, *pairs, level=level), strict=True):
        assert -100 < logprob < 0
        if level == "byte":
            assert logprob == pytest.approx(lm.logprob(context + continuation) - lm.logprob(context), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "bos"])
def test_the_token_level_is_the_hf_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a model in a folder: the same numbers as lm-eval's own "hf", and by bytes too where a token is a byte."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.models.huggingface import HFLM

    if kind == "plain":
        tokenizer = byte_bpe_tokenizer(vocab_size=257)
    else:
        tokenizer = byte_bpe_tokenizer(vocab_size=311, bos="<|bos|>")
    tokenizer.save_pretrained(tmp_path)
    import torch

    tiny_model("llama", vocab_size=len(tokenizer), dtype=torch.float32).save_pretrained(tmp_path)
    pairs = [("The quick", " brown fox"), ("Answer: ", "the dog"), ("", "Once upon"), ("for i in", " range(10):")]
    asked, rolled = (
        requests("loglikelihood", *pairs),
        requests("loglikelihood_rolling", ("Once upon a time.",), ("x" * 400,)),
    )
    theirs = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=1, max_length=211)
    levels = ("byte", "token") if kind == "plain" else ("token",)
    for level in levels:
        ours = HarnessLM(str(tmp_path), device="cpu", dtype="float32", level=level, start=True)
        expected, actual = theirs.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked, disable_tqdm=True)

        if level == "byte":  # there white space stays where it is
            assert actual.pop(1)[0] != pytest.approx(expected.pop(1)[0], abs=0.1)
        assert [greedy for _, greedy in actual] == [greedy for _, greedy in expected]
        np.testing.assert_allclose([x for x, _ in actual], [x for x, _ in expected], atol=1e-3)
        # By bytes a text beyond the context is scored in other pieces.
        same = 2 if level == "token" else 1
        rolls = [m.loglikelihood_rolling(rolled, disable_tqdm=True)[:same] for m in (ours, theirs)]
        np.testing.assert_allclose(rolls[0], rolls[1], atol=2e-3)
        wanted = {"until": ["z"], "max_gen_toks": 6, "do_sample": False}
        asked_for = requests("generate_until", ("The quick", wanted), ("Once", wanted))
        if level == "token" and kind == "plain":
            ours.bytes_per_token = 1.0
            assert ours.generate_until(asked_for, True) == theirs.generate_until(asked_for, True)


# ---- ensembles


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_is_scored_by_its_formula(lms: list[ByteLM], combine: Combine) -> None:
    """The chain of what the formula makes of the members' rows; in bayes the context counts."""
    weights, context, continuation = np.array([0.7, 0.3]), b"the qui", b"ck br"
    expected = 0.0
    for i, byte in enumerate(continuation):
        so_far = context + continuation[:i]
        rows = np.exp([lm.next_byte_logprobs(so_far) for lm in lms])
        shares = weights.copy()
        if combine == "bayes":
            shares *= np.exp([lm.logprob(so_far) for lm in lms])
        row = np.prod(rows ** weights[:, None], axis=0) if combine == "product" else shares @ rows / shares.sum()
        expected += math.log(row[byte] / (row.sum() if combine == "product" else 1))
    ((logprob, greedy),) = scores(Ensemble(lms, weights=weights.tolist(), combine=combine), (context.decode(), "ck br"))

    assert logprob == pytest.approx(expected, abs=1e-9)
    assert not greedy


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_an_ensemble_writes_and_rolls(lms: list[ByteLM], combine: Combine) -> None:
    """What it writes greedily is what it finds greedy, and a text is scored behind each member's own beginning."""
    ensemble = Ensemble(lms, combine=combine)
    (text,) = written(ensemble, "the qui", max_gen_toks=2)
    rolled = HarnessLM(ensemble).loglikelihood_rolling(requests("r", ("the fox",)), disable_tqdm=True)

    assert len(text.encode()) >= 1
    assert scores(ensemble, ("the qui", text), ("the qui", text + "~"))[0][1]
    assert not scores(ensemble, ("the qui", "~" + text))[0][1]
    assert scores(ensemble, ("", "the fox"))[0][0] == pytest.approx(rolled[0], abs=1e-12)


@pytest.mark.slow
def test_members_are_named_in_the_arguments(tmp_path: Path) -> None:
    """Members, weights and options with ; between; one that is named twice is loaded once."""
    for name, seed in (("a", 1), ("b", 2)):
        default_tokenizer().save_pretrained(tmp_path / name)
        tiny_model("llama", seed=seed).save_pretrained(tmp_path / name)
    a, b = (str(tmp_path / name) for name in "ab")
    options = f"members={a};{b};{a},weights=0.5;0.2;0.3,combine=product,dtype=float64;float32;float64,device=cpu"
    ensemble = HarnessLM.create_from_arg_string(options).lm

    assert isinstance(ensemble, Ensemble)
    assert ensemble.members[0] is ensemble.members[2]
    dtypes = [str(leaf.token_lm.model.dtype) for leaf in ensemble.models]
    assert dtypes == ["torch.float64", "torch.float32", "torch.float64"]
    assert "weights=[0.5, 0.2, 0.3], combine='product'" in repr(ensemble)


# ---- how it works


def test_a_context_is_evaluated_once_for_all_that_follow_it() -> None:
    """Four continuations, asked for twice: no sequence is fed twice, and the order of the answers is that of the requests."""
    engine = Counting(default_tokenizer(), order=2, temperature=2.0)
    lm = ByteLM(engine)
    pairs = [("the quick brown", word) for word in (" fox", " dog", " the", " function")] * 2 + [("once", " upon")]
    found = scores(lm, *pairs, batch_size=1)

    assert len(engine.asked) == len(set(engine.asked))
    assert [logprob for logprob, _ in found] == pytest.approx([lm.logprob(b, prefix=a) for a, b in pairs], abs=1e-9)
    assert found[:4] == found[4:8]


@pytest.mark.slow
def test_generation_stops_and_is_the_same_in_any_company(lms: list[ByteLM]) -> None:
    """A stop string ends a text and is no part of it; max_gen_toks is a budget in bytes; draws are a function of place and seed."""
    lm = lms[0]
    whole = lm.sample("the qui", temperature=0, max_bytes=24).bytes
    stop = whole[5:7].decode(errors="ignore") or "zz"
    alone = written(lm, "the qui", max_gen_toks=6)

    assert alone == [shown(whole)]
    assert written(lm, "the qui", max_gen_toks=6, until=[stop]) == [shown(whole[: whole.find(stop.encode())])]
    assert len(written(lm, "the qui", max_gen_toks=5, options={"bytes_per_token": 2})[0].encode()) <= 10
    sampled: dict[str, Any] = {"max_gen_toks": 4, "do_sample": True, "temperature": 1.0}
    draws = written(lm, "the qui", 5, **sampled)
    assert len(set(draws)) > 1
    assert written(lm, "the qui", 5, {"batch_size": 1}, **sampled) == draws
    assert written(lm, "the qui", 5, {"seed": 1}, **sampled) != draws


def test_what_generation_cannot_do_is_said() -> None:
    """An option that would change the text is refused; one that asks for nothing is not."""
    lm = ByteLM(table())

    assert written(lm, "a", max_gen_toks=1, num_beams=1, temperature=0.0, do_sample=False)
    with pytest.raises(InvalidArgumentError, match="num_beams"):
        written(lm, "a", num_beams=4)
    with pytest.raises(InvalidArgumentError, match="top_k"):
        written(lm, "a", options={"level": "token"}, do_sample=True, temperature=1.0, top_k=5)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["byte", "token"])
def test_long_contexts_lose_their_beginning(level: str) -> None:
    """What fits is asked after, whatever stood before; a text ends where the context does, and nothing overflows."""
    engine = Counting(default_tokenizer(), temperature=2.0, context_length=40)
    lm = ByteLM(engine)
    long = "Once upon a time there was a fox. " * 9
    found = scores(lm, (long, " The"), ("He said: " + long, " The"), level=level)
    options = {"level": level}

    assert found[0] == found[1]
    assert 0 < max(map(len, engine.asked)) <= 40
    text = written(lm, "naïve " * 20, max_gen_toks=20, options={**options, "bytes_per_token": 9})[0]
    assert 0 < len(text.encode()) <= 180
    assert max(map(len, engine.asked)) <= 40


@pytest.mark.slow
def test_ensembles_ask_all_members_after_the_same_text(lms: list[ByteLM]) -> None:
    """The member with the least room decides where a context is cut."""
    small = Counting(default_tokenizer(), temperature=2.0, context_length=20)
    large = Counting(byte_bpe_tokenizer(vocab_size=277), temperature=2.0, context_length=99)
    ensemble = Ensemble([ByteLM(small), ByteLM(large)])
    prompt = ByteRequests(ensemble).prompt("the quick brown fox jumps " * 3, b" over")

    assert 0 < len(prompt.text) < 26 * 3
    assert ("the quick brown fox jumps " * 3).encode().endswith(prompt.text)
    (scored,) = scores(ensemble, ("the quick brown fox jumps " * 3, " over"))
    assert scored[0] == pytest.approx(ensemble.logprob(" over", prefix=prompt.text), abs=1e-9)


@pytest.mark.slow
def test_rolling_goes_beyond_the_context() -> None:
    """By bytes in pieces of the stride, by tokens in windows as long as the context; every byte and token counts once."""
    engine = Counting(default_tokenizer(), temperature=2.0, context_length=40)
    lm, text = ByteLM(engine), "the quick brown fox jumps over the lazy dog. " * 4
    asked = requests("loglikelihood_rolling", (text,))
    ids = [0, *engine.tokenizer.encode(text)]

    by_bytes = HarnessLM(lm, stride=30, start=True).loglikelihood_rolling(asked, disable_tqdm=True)
    assert by_bytes == pytest.approx([lm.logprob(text, prefix=[0, b""], stride=30)], abs=1e-9)
    assert HarnessLM(lm).loglikelihood_rolling(asked, disable_tqdm=True)[0] < 0
    rows = {at: engine.next_token_logprobs([ids[start:at]])[0] for start, at in token_windows(len(ids), 1, 40)}
    by_tokens = HarnessLM(lm, level="token", start=True).loglikelihood_rolling(asked, disable_tqdm=True)
    assert by_tokens == pytest.approx([math.fsum(float(row[ids[at]]) for at, row in rows.items())], abs=1e-9)
    assert sorted(rows) == list(range(1, len(ids)))


# ---- chat

TEMPLATE = (
    "{% for message in messages %}<|im|>{{ message['role'] }}\n{{ message['content'] }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is <|im|> and é?"}]


def chatting(template: str = TEMPLATE, **options: Any) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(special=("<|im|>",), **options)
    tokenizer.chat_template = template
    return ByteLM(table(tokenizer, order=None))


def test_a_chat_is_ids_and_texts() -> None:
    """The template's special tokens are ids; those that a message spells stay text."""
    lm = chatting()
    parts = lm.chat_segments(CHAT, opens=True)

    assert parts == [1, "system\nBe brief.", 0, 1, "user\nWhat is <|im|> and é?", 0, 1, "assistant\n"]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["byte", "token"])
def test_a_chat_goes_through_lm_eval_as_a_context(level: str) -> None:
    """An answer is scored and written behind the chat; the same chat without a mark in it is what hf feeds."""
    lm = chatting()
    model = HarnessLM(lm, level=level)
    context = model.apply_chat_template([{"role": "user", "content": "Hi"}])
    prompt: list[int | str] = [1, "user\nHi", 0, 1, "assistant\n"]
    ((logprob, _),) = model.loglikelihood(requests("loglikelihood", (context, "the fox")), disable_tqdm=True)

    if level == "byte":
        assert logprob == pytest.approx(lm.logprob("the fox", prefix=prompt), abs=1e-12)
    else:
        ids = lm.tokenizer.encode("<|im|>user\nHi<|eot|><|im|>assistant\nthe fox")
        first = len(lm.tokenizer.encode("<|im|>user\nHi<|eot|><|im|>assistant"))
        rows = lm.token_lm.next_token_logprobs([ids[:at] for at in range(first, len(ids))])
        assert logprob == pytest.approx(sum(row[i] for row, i in zip(rows, ids[first:], strict=True)), abs=1e-9)
    assert model.generate_until(requests("generate_until", (context, {"until": ["e"], "max_gen_toks": 3})), True)
    assert model.tokenizer_name == "bytelm"
    assert "im" in model.chat_template(chat_template=True)


@pytest.mark.slow
def test_members_have_their_own_templates() -> None:
    """The messages are one, the prompts are each member's, and the answer's bytes are shared."""
    other = chatting(TEMPLATE.replace("assistant", "bot"), vocab_size=300)
    members = [chatting(), other]
    model = HarnessLM(Ensemble(members))
    context = model.apply_chat_template([{"role": "user", "content": "Hi"}])
    ((logprob, _),) = model.loglikelihood(requests("loglikelihood", (context, "t")), disable_tqdm=True)
    prompts: list[list[int | str]] = [[1, "user\nHi", 0, 1, f"{name}\n"] for name in ("assistant", "bot")]
    each = [math.exp(lm.logprob("t", prefix=prompt)) for lm, prompt in zip(members, prompts, strict=True)]

    assert logprob == pytest.approx(math.log(sum(each) / 2), abs=1e-9)


def test_templates_that_refuse() -> None:
    """Without a system role its text goes to the user; without a template it is said."""
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    lm = chatting(refusing)
    parts = lm.chat_segments(CHAT, opens=True)

    assert parts[:2] == [1, "user\nBe brief.\n\nWhat is <|im|> and é?"]
    with pytest.raises(InvalidArgumentError, match="template"):
        HarnessLM(ByteLM(table())).chat_template(chat_template=True)
    with pytest.raises(InvalidArgumentError, match="template"):
        scores(ByteLM(table()), (packed(Chat(tuple(CHAT), opens=True)), "x"))


# ---- lm-eval's cache


def cached(model: HarnessLM, path: Path) -> Any:
    return CachingLM(model, str(path))


@pytest.mark.slow
def test_models_share_a_cache_file_and_no_answer(lms: list[ByteLM], tmp_path: Path) -> None:
    """Each model, level, ensemble and setting has a place of its own in the file, and finds it again."""
    path, asked = tmp_path / "cache.db", requests("loglikelihood", ("the qui", "ck"), ("the", " fox"))
    engine = Counting(default_tokenizer(), order=2, temperature=2.0, seed=1)
    makers: list[Callable[[], HarnessLM]] = [
        lambda: HarnessLM(ByteLM(engine)),
        lambda: HarnessLM(ByteLM(engine), level="token"),
        lambda: HarnessLM(lms[1]),
        lambda: HarnessLM(Ensemble(lms)),
        lambda: HarnessLM(Ensemble(lms, combine="product")),
        lambda: HarnessLM(Ensemble(lms, weights=[0.9, 0.1])),
    ]
    first = [cached(make(), path).loglikelihood(asked) for make in makers]
    asked_before = len(engine.asked)
    again = [cached(make(), path).loglikelihood(asked) for make in makers]

    assert again == first
    assert len({tuple(answers) for answers in first}) == len(makers)
    assert len(engine.asked) <= asked_before + 2  # what tells the engine from another
    digests = {HarnessLM(lms[1], bytes_per_token=5).digest(), *(make().digest() for make in makers)}
    assert len(digests) == len(makers) + 1


def test_another_template_has_other_answers(tmp_path: Path) -> None:
    """lm-eval chooses the template after it has opened its cache, and the messages are the same."""
    lm = chatting()
    lm.tokenizer.chat_template = {"default": TEMPLATE, "bot": TEMPLATE.replace("assistant", "bot")}
    found = []
    for name in ("default", "bot", "default"):
        model = cached(HarnessLM(lm), tmp_path / "cache.db")
        model.chat_template(name)
        context = model.apply_chat_template([{"role": "user", "content": "Hi"}])
        found += model.loglikelihood(requests("loglikelihood", (context, "t")))

    assert found[0] == found[2] != found[1]


@pytest.mark.slow
def test_what_was_answered_before_an_error_is_kept(tmp_path: Path) -> None:
    """A member fails in the middle; the error says how far it came, and a second run asks only for the rest."""
    pairs = [(f"{word} ", other) for word in ("the", "dog", "fox", "once", "time") for other in ("the", "quick")]
    asked = requests("loglikelihood", *pairs)
    engine = Counting(default_tokenizer(), order=2, temperature=2.0)
    ensemble = Ensemble([ByteLM(table(byte_bpe_tokenizer(vocab_size=277))), ByteLM(engine)])
    whole = HarnessLM(ensemble, batch_size=1).loglikelihood(asked, disable_tqdm=True)
    needed = len(engine.asked)
    broken = cached(HarnessLM(ensemble, batch_size=1), tmp_path / "cache.db")
    engine.calls = 3
    with pytest.raises(ModelError, match="member 1 of the ensemble: the toy engine") as caught:
        broken.loglikelihood(asked)
    engine.calls, engine.asked = None, []

    assert "of 10 loglikelihood requests were answered" in caught.value.__notes__[0]
    again = cached(HarnessLM(ensemble, batch_size=1), tmp_path / "cache.db").loglikelihood(asked)
    assert [logprob for logprob, _ in again] == pytest.approx([logprob for logprob, _ in whole])
    assert 0 < len(engine.asked) < needed


# ---- arguments


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "pretrained=MODEL or members"),
        ({"pretrained": "a", "members": "a;b"}, "pretrained=MODEL or members"),
        ({"level": "char"}, "level is one of byte, token"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"bytes_per_token": 0}, "bytes_per_token"),
        ({"stride": 0}, "stride"),
        ({"members": "a;b", "weights": "1;x"}, "weights takes numbers"),
        ({"members": "a;b", "dtype": "float32;float32;float32"}, "dtype has 3 values for 2 members"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], told: str) -> None:
    """Said before a model is loaded, with the value and what is accepted."""
    if not {"pretrained", "members"} & set(options) and options:
        options = {"pretrained": ByteLM(table()), **options}
    with pytest.raises(InvalidArgumentError, match=told):
        HarnessLM(**options)


def test_wrong_weights_and_tokenless_ensembles(lms: list[ByteLM]) -> None:
    """Weights of the wrong length or all zero; an ensemble has no tokens."""
    for weights in ("1", "0;0", "1;2;3"):
        with pytest.raises(InvalidArgumentError, match="weights"):
            HarnessLM(members=lms, weights=weights)
    with pytest.raises(InvalidArgumentError, match="single model"):
        HarnessLM(members=lms, level="token")


@pytest.mark.slow
def test_a_member_that_is_no_byte_model(tmp_path: Path) -> None:
    """A tokenizer that cannot be a model over bytes is refused by name."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    tiny_model("llama", eos_token_id=316).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedTokenizerError):
        HarnessLM(members=[ByteLM(table()), str(tmp_path)], device="cpu")


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lm-eval asks for cuda:0 unless told otherwise."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default_tokenizer().save_pretrained(tmp_path)
    tiny_model("llama").save_pretrained(tmp_path)
    model = HarnessLM(str(tmp_path), device="cuda:0", batch_size=1, max_batch_size=None, dtype="float64")

    (leaf,) = model.lm.models
    assert str(leaf.token_lm.model.device) == "cpu"
    assert model.get_model_info()["bytelm_level"] == "byte"


def test_sentencepiece_has_its_hidden_space_and_its_bos() -> None:
    """At an empty context, with BOS or without, a text opens as the tokenizer opens it."""
    lm = ByteLM(table(sentencepiece_bpe_tokenizer(prepend=True)))
    ((logprob, _), (behind, _)) = scores(lm, ("", "the fox"), ("the", " fox"))

    assert logprob == pytest.approx(lm.logprob("the fox"), abs=1e-12)
    started = lm.logprob("the fox", prefix=[lm.tokenizer.bos_token_id, b""])
    assert HarnessLM(lm, start=True).loglikelihood(requests("l", ("", "the fox")))[0][0] == pytest.approx(
        started, abs=1e-12
    )
    assert behind == pytest.approx(lm.logprob(" fox", prefix="the"), abs=1e-12)
    assert scores(lm, ("", "the fox"), level="token")[0][0] < 0
