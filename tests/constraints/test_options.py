"""``constraint=`` in all that draws: what ends a text, what goes together, and what is refused before a model runs."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pydantic
import pytest

from bytelm import ByteLM, ByteModel, Completion, Ensemble, SamplingParams, TableLM, constraints
from bytelm.constraints import Constraint
from bytelm.errors import BytelmError, ConstraintError
from bytelm.symbols import EOT
from tests.byte_lm.test_public_face import CHAT, chatting
from tests.sampling.test_context_end import check_end, pair
from tests.support.languages import language
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

WORDS = constraints.regex(r"[a-z]{3} [0-9]{2}")


class Counting(TableLM):
    """An engine that counts its calls."""

    calls = 0

    def next_token_logprobs(self, sequences: Any) -> Any:
        type(self).calls += 1
        return super().next_token_logprobs(sequences)


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A byte model over a tiny tokenizer."""
    return ByteLM(Counting(default_tokenizer(), seed=5, order=2))


def models(lm: ByteLM) -> list[ByteModel[Any, Any]]:
    other = ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=290), seed=2, order=2))
    return [lm, Ensemble([lm, other]), Ensemble([lm, other], combine="bayes")]


def test_all_that_draws_takes_it(lm: ByteLM) -> None:
    """By keyword and in params: one text, several, batches, streams, holes; each item has a state of its own."""
    for model in models(lm):
        params = SamplingParams(constraint=WORDS, seed=2)
        whole = model.sample("the ", params=params)
        batch = model.sample_batch(["the ", "a", "the "], n=1, constraint=WORDS, seed=2)
        stream = model.stream("the ", constraint=WORDS, seed=2)

        assert whole.bytes == model.sample("the ", constraint=WORDS, seed=2).bytes
        assert "".join(stream) == whole.text
        assert stream.completion.finish_reason == "stop"
        assert [batch[0].bytes, batch[0].logprob] == [whole.bytes, whole.logprob]
        holes = model.infill_batch([("the ", "x"), ("a", "")], mode="left", constraint=WORDS, seed=2)
        pieces = model.infill_stream("the ", "x", mode="left", constraint=WORDS, seed=2)
        single = model.infill("the ", "x", mode="left", constraint=WORDS, seed=2)
        done = [*batch, *typing.cast("list[Completion]", holes), single]
        for text in (*(each.text for each in done), "".join(pieces)):
            assert re.fullmatch(r"[a-z]{3} [0-9]{2}", text)
        assert whole.logprob == pytest.approx(model.logprob(whole.bytes, prefix="the "), abs=1e-6)


def test_chats_take_it() -> None:
    """The answer, and the rest of one that is begun."""
    lm = chatting()
    begun = [*CHAT, {"role": "assistant", "content": "Yes"}]

    assert re.fullmatch(r"[a-z]{3} [0-9]{2}", lm.chat(CHAT, constraint=WORDS, seed=1).text)
    assert lm.chat(begun, continue_final_message=True, constraint=constraints.choice([", sir"]), seed=1).text == ", sir"


def test_a_pydantic_model_is_its_schema(lm: ByteLM) -> None:
    """As the constraint itself."""

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        good: bool

    done = lm.sample("the ", constraint=Answer, seed=1)

    assert isinstance(Answer.model_validate_json(done.text).good, bool)
    assert SamplingParams(constraint=Answer) == SamplingParams(constraint=constraints.json_schema(Answer))


# ---- how a text ends


def test_what_ends_a_text(lm: ByteLM) -> None:
    """Nothing more to write: stop. An end that was drawn: eot, with its probability. Bytes that ran out: length."""
    stopped = lm.sample("the ", constraint=constraints.choice(["fox"]))
    assert (stopped.text, stopped.finish_reason) == ("fox", "stop")
    assert stopped.logprob == pytest.approx(lm.logprob("fox", prefix="the "), abs=1e-9)
    assert lm.sample("the ", constraint=constraints.choice(["fox"]), max_bytes=3).finish_reason == "stop"
    assert lm.sample("the ", constraint=constraints.choice([""])).finish_reason == "stop"
    cut = lm.sample("the ", constraint=constraints.choice(["fox"]), max_bytes=2)
    assert (cut.text, cut.finish_reason) == ("fo", "length")
    assert lm.sample("the ", constraint=constraints.choice(["fox"]), max_bytes=0).finish_reason == "length"
    ended = [lm.sample("the ", constraint=constraints.regex("[a-z]*"), seed=seed, max_bytes=60) for seed in range(12)]
    drawn = [each for each in ended if each.finish_reason == "eot"]
    assert drawn
    for each in drawn:
        assert each.logprob == pytest.approx(lm.logprob(each.bytes, prefix="the ", eot=True), abs=1e-9)


def test_forced_bytes_have_no_leak(lm: ByteLM) -> None:
    """No row is drawn from where nothing is drawn."""
    assert lm.sample("the ", constraint=constraints.choice(["fox"])).usage.largest_leak_bound is None
    assert lm.sample("the ", constraint=constraints.choice(["fox", "dog"])).usage.largest_leak_bound is not None


@pytest.mark.parametrize("stop", [(), "zzz"])
def test_a_forced_run_ends_with_the_context(stop: Any) -> None:
    """As any text does, at the byte after which a sequence no longer fits."""
    short, whole = pair(12)
    run = "quick brown fox jumps over the lazy dog and the other dog"
    done = short.sample("the ", constraint=constraints.choice([run]), stop=stop)

    check_end(whole, done, b"the ", 12)
    assert run.encode().startswith(done.bytes)
    assert done.logprob == pytest.approx(whole.logprob(done.bytes, prefix="the "), abs=1e-9)


def test_stop_strings_end_a_text_under_a_constraint(lm: ByteLM) -> None:
    """Also where they begin or end within what is forced."""
    made = constraints.choice(["the quick brown", "the quack"])
    for stop, text in (("qu", "the "), ("e q", "th"), ("uick b", "the q"), ("zz", "the quick brown")):
        found = {lm.sample("a ", constraint=made, stop=stop, seed=seed, temperature=30).text for seed in range(12)}
        assert text in found
        assert found <= {text, "the quack"}
        assert "".join(lm.stream("a ", constraint=made, stop=stop, seed=0, temperature=30)) in found


@pytest.mark.parametrize(
    "logits_processor", [None, lambda written, row: np.where(np.arange(257) == ord("e"), -np.inf, row)]
)
def test_processors_come_first(lm: ByteLM, logits_processor: Any) -> None:
    """A processor changes the row, the constraint masks it, and what both leave is drawn."""
    texts = [
        lm.sample("th", constraint=constraints.regex("[aeiou]{4}"), logits_processor=logits_processor, seed=seed).text
        for seed in range(12)
    ]

    assert all(re.fullmatch("[aeiou]{4}", text) for text in texts)
    assert any("e" in text for text in texts) == (logits_processor is None)
    if logits_processor is not None:
        with pytest.raises(ConstraintError, match="forbids all that the constraint allows"):
            lm.sample(
                "th",
                constraint=constraints.regex("[ea]e"),
                logits_processor=lambda written, row: np.where(np.isin(np.arange(257), [*b"ea"]), -np.inf, row),
            )


# ---- the byte prefix


def test_a_constraint_on_the_text_counts_the_prefix(lm: ByteLM) -> None:
    """It goes on from where the prefix is; token ids in front do not count; a prefix that violates it is an error."""
    made = constraints.choice(["the fox", "the dog"], of="text")

    assert lm.sample("the f", constraint=made).text == "ox"
    assert lm.sample([5, "the d"], constraint=made).text == "og"
    assert lm.sample("the dog", constraint=made).bytes == b""
    with pytest.raises(ConstraintError, match=r"0x63 is not allowed as byte 4, after b'the '"):
        lm.sample("the cat", constraint=made)
    with pytest.raises(ConstraintError, match="item 1 of the batch"):
        lm.sample_batch(["the ", "a"], constraint=made)
    with pytest.raises(ConstraintError, match="not allowed as byte 0"):
        lm.stream("x", constraint=made)
    with pytest.raises(ConstraintError, match="not allowed as byte 0"):
        lm.likeliest("x", constraint=made)


def test_a_constraint_on_an_answer_counts_what_has_begun_of_it() -> None:
    """And nothing that the template writes before it; for one model, and for several with templates of their own."""
    made = constraints.regex(r'\{"a":"é[a-z]{2}"\}', of="text")
    lm, other = chatting(), chatting("{% for m in messages %}<|im|>{{ m.role }}: {{ m.content }}{% endfor %}")
    for model in (lm, Ensemble([lm, other])):
        for begun in ("", '{"a"', '{"a":"éx', b'{"a":"\xc3'):
            chat: list[dict[str, Any]] = [*CHAT, {"role": "assistant", "content": begun}]
            raw = begun.encode() if isinstance(begun, str) else begun
            for seed in range(2):
                done = model.chat(chat, continue_final_message=True, constraint=made, seed=seed)
                assert re.fullmatch(r'\{"a":"é[a-z]{2}"\}', (raw + done.bytes).decode())
                prefix = model.chat_prefix(chat, continue_final_message=True)
                assert done.logprob == pytest.approx(model.logprob(done.bytes, prefix=prefix), abs=1e-6)
        new = constraints.regex(r'\{"a":"é[a-z]{2}"\}')
        assert model.chat(CHAT, constraint=made, seed=1).bytes == model.chat(CHAT, constraint=new, seed=1).bytes


def test_an_answer_that_has_begun_may_violate_the_constraint(caller_errs: None) -> None:
    """The error counts the bytes of the answer; by default what has begun does not count."""
    lm = chatting()
    chat = [*CHAT, {"role": "assistant", "content": "no way"}]

    with pytest.raises(ConstraintError, match="0x20 is not allowed as byte 2, after b'no'"):
        lm.chat(chat, continue_final_message=True, constraint=constraints.choice(["yes", "no"], of="text"))
    assert lm.chat(chat, continue_final_message=True, constraint=constraints.choice([", sir"])).text == ", sir"


def test_what_has_begun_may_be_all() -> None:
    """Nothing is written then; and an exact law is that of the answer."""
    lm = chatting()
    made = constraints.choice(["ab", "ac", "b"], of="text")
    chat = [*CHAT, {"role": "assistant", "content": "b"}]
    done = lm.chat(chat, continue_final_message=True, constraint=made)
    assert (done.bytes, done.finish_reason) == (b"", "stop")
    chat[-1]["content"] = "a"
    exact = lm.chat(chat, continue_final_message=True, constraint=made, conditioning="exact", seed=1)
    assert exact.text in ("b", "c")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm, made: lm.infill("the ", "x", mode="left", constraint=made), "of='new'"),
        (lambda lm, made: lm.infill_batch([("the ", "x")], mode="left", constraint=made), "of='new'"),
        (lambda lm, made: lm.infill_stream("the ", "x", mode="left", constraint=made), "of='new'"),
        (lambda lm, made: lm.infill_likeliest("the ", "x", mode="left", constraint=made), "of='new'"),
        (lambda lm, made: lm.sample("the ", constraint=made, level="token"), "leave level out"),
        (lambda lm, made: lm.sample("the ", constraint=made, engine_draws=True), "nor constraint"),
        (lambda lm, made: lm.sample("the ", constraint="[a-z]"), r"regex\(...\), json_schema"),
        (lambda lm, made: lm.sample("the ", constraint=int), "pydantic model"),
        (lambda lm, made: lm.likeliest("the ", constraint="[a-z]"), "constraint must be"),
        (lambda lm, made: lm.sample("the ", response_format=made), "constraint"),
    ],
    ids=range(10),
)
def test_what_is_refused(
    lm: ByteLM, call: Callable[[ByteLM, Constraint], Any], message: str, caller_errs: None
) -> None:
    """Before the model runs, with what to do."""
    before = Counting.calls
    with pytest.raises(BytelmError, match=message):
        call(lm, constraints.choice(["the fox"], of="text"))
    assert Counting.calls == before


# ---- dead ends


def test_a_dead_end_says_where(lm: ByteLM) -> None:
    """Where the engine, the tokenizer or the model leaves nothing."""

    class Blocked(Constraint):
        def state(self) -> Any:
            return language(["ab", "ac"]).state()

    state = type(language(["a"]).state())

    class DeadState(state):  # type: ignore[misc, valid-type] # a class of the moment
        def allowed(self) -> Any:
            return super().allowed() & (len(self.written) < 1)

    class Dead(Constraint):
        def state(self) -> Any:
            return DeadState(frozenset([b"ab", b"ac"]))

    with pytest.raises(ConstraintError, match=r"at byte 1 of the completion, after b'the a', the constraint allows no"):
        lm.sample("the ", constraint=Dead())
    assert lm.sample("the ", constraint=Dead(), max_bytes=1).text == "a"  # it does not come there
    assert lm.sample("the ", constraint=Blocked()).text in {"ab", "ac"}
    with pytest.raises(ConstraintError, match="allows no continuation"):
        lm.sample(
            "the ", constraint=constraints.lark('start: /[ab]/ x\nx: "(" x ")" | "(" x "]"'), max_bytes=90_000, seed=1
        )


def test_a_model_without_an_end_of_text() -> None:
    """A text that may only end there, and may go on nowhere, ends; one that may do both goes on."""
    lm = ByteLM(TableLM(byte_bpe_tokenizer(eos=None), seed=1, order=2))

    assert lm.sample("the ", constraint=constraints.choice(["fox"])).text == "fox"
    assert lm.sample("the ", constraint=constraints.regex("[a-z]*"), max_bytes=30, seed=1).finish_reason == "length"


# ---- the likeliest


@pytest.mark.parametrize("stop", [(), "b"])
def test_the_likeliest_are_those_of_enumeration(lm: ByteLM, stop: Any) -> None:
    """Of all that a constraint allows, with the model's own probabilities; a text is an ending where nothing follows."""
    texts = ["the fox", "the dog", "then", "thin", "a b", "a", "", "fox", "quick brown", "é"]
    for model in models(lm):
        for made in (constraints.choice(texts), language(texts)):
            found = model.likeliest("the ", n=6, stop=stop, constraint=made, max_calls=None)
            expected: dict[bytes, list[float]] = {}
            for text in texts:
                data = text.encode()
                final = not any(other != text and other.startswith(text) for other in texts)
                if stop and stop in text:
                    cut = text[: text.index(stop)].encode()
                    expected.setdefault(cut, []).append(model.logprob(cut + b"b", prefix="the "))
                    continue
                expected.setdefault(data, []).append(model.logprob(data, prefix="the ", eot=not final))
            best = sorted((float(np.logaddexp.reduce(each)) for each in expected.values()), reverse=True)

            assert found.certified
            np.testing.assert_allclose([each.logprob for each in found], best[:6], atol=1e-7)
            for each in found:
                assert each.logprob == pytest.approx(float(np.logaddexp.reduce(expected[each.bytes])), abs=1e-7)
                assert each.complete


def test_forced_bytes_are_not_evaluated_by_a_search(lm: ByteLM) -> None:
    """Two endings behind a long common run take few calls."""
    made = constraints.choice(["the quick brown fox jumps over the dog", "the quick brown fox jumps over the fox"])

    assert lm.likeliest("Now ", n=2, constraint=made).usage.calls <= 6


# ---- exactness with a real model


@pytest.mark.slow
def test_json_takes_few_calls(smollm2: ByteLM) -> None:
    """The schema {name, age, city}: forty bytes in at most twelve calls, and fewer than without it."""
    from tests.constraints.test_engines import PERSON

    prompt = "Anna is 34 years old and lives in Paris. As JSON: "
    smollm2.clear_cache()
    done = smollm2.sample(prompt, constraint=constraints.json_schema(PERSON), temperature=0)
    smollm2.clear_cache()
    free = smollm2.sample(prompt, temperature=0, max_bytes=len(done.bytes))

    assert done.finish_reason == "stop"
    assert len(done.bytes) >= 40
    assert done.usage.calls <= min(12, free.usage.calls)


@pytest.mark.slow
def test_the_mass_is_that_of_the_rows(smollm2: ByteLM) -> None:
    """Π Sₜ of a real model, by `next_byte_logprobs` at each byte."""
    made = constraints.regex("[A-Z][a-z]{1,6}, (yes|no)")
    done = smollm2.sample("Are you there? ", constraint=made, seed=1, lazy=False)
    state, total, text = made.state(), 0.0, b""
    for byte in done.bytes:
        row = smollm2.next_byte_logprobs(b"Are you there? " + text)
        total += math.log(np.exp(row[state.allowed()]).sum())
        state.advance(bytes([byte]))
        text += bytes([byte])

    assert done.log_constraint_mass == pytest.approx(total, abs=1e-3)
    assert not state.allowed()[:EOT].any()
