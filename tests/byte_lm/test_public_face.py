"""What a user meets: options and their names, several completions, streams, chats, and what can be imported."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import bytelm
from bytelm import ByteLM, ByteModel, Completion, Ensemble, SamplingOptions, SamplingParams, TableLM
from bytelm.errors import (
    BytelmError,
    BytelmWarning,
    InvalidArgumentError,
    InvalidTypeError,
    LeakWarning,
    NotFinishedError,
)
from bytelm.fim import InfillSettings
from bytelm.sampling.params import ELSEWHERE
from bytelm.sampling.steps import ByteSteps
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im|>{{ message['role'] }}\n{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)
CHAT = [{"role": "user", "content": "What is <|im|>?"}]


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A byte model over a tiny tokenizer."""
    return ByteLM(TableLM(default_tokenizer(), seed=5, order=2))


def chatting(template: str = TEMPLATE, **options: Any) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(special=("<|im|>",), **options)
    tokenizer.chat_template = template
    return ByteLM(TableLM(tokenizer, seed=1, order=2))


def models(lm: ByteLM) -> list[ByteModel[Any, Any]]:
    return [lm, Ensemble([lm, lm], combine="bayes"), Ensemble([lm, Ensemble([lm, lm])])]


# ---- options


def test_params_are_the_options(lm: ByteLM) -> None:
    """A `SamplingParams` says what its fields by keyword say, a keyword wins over it, and both may be given."""
    params = SamplingParams(max_bytes=9, seed=3, temperature=0.8, stop=["e"])
    for model in models(lm):
        whole = model.sample("the ", max_bytes=9, seed=3, temperature=0.8, stop="e")

        assert model.sample("the ", params=params).bytes == whole.bytes
        assert model.sample("the ", params=SamplingParams(seed=1), **_options(params)).bytes == whole.bytes
        assert model.sample("the ", params=params, max_bytes=0).bytes == b""
        assert "".join(model.stream("the ", params=params)) == whole.text
        assert model.sample_batch(["the "], params=params)[0].bytes == whole.bytes
        assert model.infill("the ", "", mode="left", params=params).finish_reason == whole.finish_reason


def _options(params: SamplingParams) -> Any:
    return {field.name: getattr(params, field.name) for field in fields(params)}


def test_options_and_params_have_the_same_names() -> None:
    """What type checkers are told of the keywords is what `SamplingParams` has."""
    assert SamplingOptions.__annotations__.keys() == {field.name for field in fields(SamplingParams)}


@pytest.mark.parametrize(("name", "hint"), [*ELSEWHERE.items()])
def test_words_of_other_libraries_are_named(lm: ByteLM, name: str, hint: str) -> None:
    """An option that other libraries have gets an error that names the word here; so does a slip."""
    with pytest.raises(InvalidTypeError, match=re.escape(hint)):
        lm.sample("the", **{name: 1})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.sample("the", temprature=0), "did you mean temperature"),
        (lambda lm: lm.stream("the", maximum=0), "there are max_bytes"),
        (lambda lm: lm.sample("the", params={"seed": 1}), "params must be a SamplingParams"),
        (lambda lm: lm.infill("the", "x", mode="left", do_sample=True), "temperature=0 is greedy"),
        (lambda lm: lm.infill_batch("the"), "list of pairs"),
        (lambda lm: lm.infill_batch([("a", "b", "c")]), "list of pairs"),
        (lambda lm: lm.infill_batch([]), "no pair"),
        (lambda lm: lm.sample("the", n=0), "n must be at least 1"),
        (lambda lm: lm.stream("the", engine_draws=True), "takes rows"),
    ],
    ids=range(9),
)
def test_bad_options(lm: ByteLM, call: Callable[[ByteLM], object], message: str) -> None:
    """What cannot be is refused before the model runs, and the message says what to do."""
    with pytest.raises(BytelmError, match=message):
        call(lm)


@pytest.mark.parametrize(
    "segments", [["the", "a"], [b"the", "a"], [1, "the", "a"], ["the", "a", 1], ["a", "b", 1, "c"]]
)
def test_two_texts_side_by_side_are_refused(lm: ByteLM, segments: Any) -> None:
    """A list is one prefix: the message names what takes several, and a token id between two texts makes it one."""
    for model in models(lm):
        for call in (model.sample, model.stream, model.state, model.next_byte_logprobs):
            with pytest.raises(InvalidArgumentError, match="sample_batch"):
                call(segments)
        with pytest.raises(InvalidArgumentError, match="sample_batch"):
            model.logprob("x", prefix=segments)
        assert model.sample(["the", 1, "a"], max_bytes=1, seed=0).finish_reason
        assert model.sample(["the"], max_bytes=4, seed=0).bytes == model.sample("the", max_bytes=4, seed=0).bytes


def test_prefixes_of_scores_are_keywords(lm: ByteLM) -> None:
    """A text and its prefix are easily swapped, so the prefix has to be named."""
    for call in (lm.logprob, lm.byte_logprobs, Ensemble([lm]).explain):
        with pytest.raises(TypeError, match="positional"):
            call("a", "b")  # type: ignore[call-arg]


# ---- several completions


def test_n_of_a_batch(lm: ByteLM) -> None:
    """With n each prefix has a list of n, number j of prefix i being what it is alone with its own random numbers."""
    for model in models(lm):
        several = typing.cast("list[list[Completion]]", model.sample_batch(["the ", "a"], n=3, max_bytes=5, seed=4))
        flat = [c.bytes for c in model.sample_batch(["the "] * 3 + ["a"] * 3, max_bytes=5, seed=4)]

        assert [[c.bytes for c in each] for each in several] == [flat[:3], flat[3:]]
        three = typing.cast("list[Completion]", model.sample("the ", n=3, max_bytes=5, seed=4))
        assert [c.bytes for c in three] == flat[:3]


def test_infill_batch_is_infill_of_each(lm: ByteLM) -> None:
    """Several pairs of texts together: item i is its middle, with the random numbers of (seed, i)."""
    sides: list[tuple[str, str]] = [("the ", "x"), ("a", "")]
    for model in models(lm):
        inside, prompts = model.infilling(sides, InfillSettings("left"))
        done = model.infill_batch(sides, mode="left", max_bytes=5, seed=4)
        first = model.infill(*sides[0], mode="left", max_bytes=5, seed=4)

        assert done == inside.sample_batch(prompts, max_bytes=5, seed=4)
        assert isinstance(first, Completion)
        assert isinstance(done[0], Completion)
        assert done[0].bytes == first.bytes


def test_a_stream_is_asked_for_its_completion(lm: ByteLM) -> None:
    """After its end it has all that `sample` returns; before, that is an error that says how much there is."""
    for model in models(lm):
        stream = model.stream("the ", max_bytes=12, seed=2)
        first = next(stream)
        with pytest.raises(NotFinishedError, match="bytes are written so far"):
            _ = stream.completion
        text = first + "".join(stream)
        whole = model.sample("the ", max_bytes=12, seed=2)

        assert isinstance(whole, Completion)
        assert (text, stream.completion.bytes, stream.completion.finish_reason) == (
            whole.text,
            whole.bytes,
            whole.finish_reason,
        )
        assert stream.completion.logprob == pytest.approx(whole.logprob, abs=1e-9)
        # What bayes remembers of a text is asked for once: by the first of the two.
        assert stream.completion.usage.rows >= whole.usage.rows > 0
        assert stream.completion is stream.completion


# ---- chats


def test_an_answer_is_begun_at_any_byte() -> None:
    """Its bytes are the byte prefix behind the template's own, whatever the template trims or the text spells."""
    lm = chatting()
    for begun in ("", " The qu", "x <|im|> ", "é".encode()[:1]):
        messages: list[dict[str, Any]] = [*CHAT, {"role": "assistant", "content": begun}]
        data = begun if isinstance(begun, bytes) else begun.encode()
        header = lm.chat_prefix(CHAT)
        assert isinstance(header, list)
        prefix = [*header[:-1], b"assistant\n" + data]

        assert lm.chat_prefix(messages, continue_final_message=True) == prefix
        done = lm.chat(messages, continue_final_message=True, max_bytes=6, seed=1)
        assert done == lm.sample(prefix, max_bytes=6, seed=1)


def test_a_rendered_template_given_as_text_warns() -> None:
    """Each call that takes a prefix tells of the calls that take messages, and goes on with text."""
    lm = chatting()
    rendered = lm.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    as_text = lm.sample([rendered], max_bytes=3, seed=1)
    calls: list[Callable[[ByteModel[Any, Any]], Any]] = [
        lambda model: model.sample(rendered, max_bytes=3, seed=1),
        lambda model: model.sample_batch(["a", rendered], max_bytes=3, seed=1),
        lambda model: list(model.stream(rendered, max_bytes=3, seed=1)),
        lambda model: model.next_byte_logprobs(rendered),
        lambda model: model.logprob("x", prefix=rendered),
        lambda model: model.state(rendered),
    ]
    for model in models(lm):
        for call in calls:
            with pytest.warns(BytelmWarning, match=r"special token '<\|im\|>'.*chat\(\)"):
                call(model)
    with pytest.warns(BytelmWarning):
        assert lm.sample(rendered, max_bytes=3, seed=1).bytes == as_text.bytes


def test_messages_and_sides_of_an_infill_may_spell_anything(recwarn: pytest.WarningsRecorder) -> None:
    """What a message, a begun answer or code around a cursor spells is text that is meant: nothing warns."""
    lm = chatting()
    for model in models(lm):
        model.chat([*CHAT, {"role": "assistant", "content": "<|im|>"}], continue_final_message=True, max_bytes=2)
        model.infill("a <|im|>", "<|eot|>", mode="left", max_bytes=2, seed=1)

    assert [warning for warning in recwarn.list if warning.category is not LeakWarning] == []


def test_members_have_their_own_templates_and_share_the_answer() -> None:
    """What stands in front is each member's; the begun answer is the ensemble's text."""
    members = [chatting(), chatting(TEMPLATE.replace("assistant", "bot"), vocab_size=300)]
    ensemble = Ensemble(members)
    messages = [*CHAT, {"role": "assistant", "content": "the qu"}]
    row = ensemble.next_byte_logprobs(ensemble.chat_prefix(messages, continue_final_message=True))
    rows = [m.next_byte_logprobs(m.chat_prefix(messages, continue_final_message=True)) for m in members]

    np.testing.assert_allclose(np.exp(row), np.exp(rows).mean(axis=0), atol=1e-12)
    assert len(ensemble.chat(CHAT, max_bytes=4, seed=1).bytes) <= 4


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "must be a list"),
        ([], "no message"),
        (["Hi"], "message 0 must be a dict"),
        ([{"role": "user"}], "content of message 0"),
        ([{"role": "user", "content": b"Hi"}, *CHAT], "content of message 0"),
    ],
)
def test_what_is_no_chat(messages: Any, message: str) -> None:
    """Says which message, and what a message is."""
    with pytest.raises(BytelmError, match=message):
        chatting().chat(messages)
    with pytest.raises(InvalidArgumentError, match="template"):
        ByteLM(TableLM(default_tokenizer())).chat(CHAT)


# ---- the whole


def test_a_model_lets_go_of_its_engines() -> None:
    """At the end of a with-block each engine is closed once; an engine that has nothing to close is left alone."""
    closed: list[TableLM] = []

    class Closing(TableLM):
        def close(self) -> None:
            closed.append(self)

    engines = [Closing(default_tokenizer()), TableLM(default_tokenizer()), Closing(default_tokenizer(), seed=1)]
    with Ensemble([ByteLM(engine) for engine in (engines[0], *engines)]) as model:
        assert model.next_byte_logprobs("the").shape == (257,)
        assert not closed

    assert closed == [engines[0], engines[2]]


@pytest.mark.parametrize("name", bytelm.__all__)
def test_all_that_signatures_name_can_be_imported(name: str) -> None:
    """Every class of bytelm that the methods of an exported one name in their signatures is exported too."""
    cls = getattr(bytelm, name)
    methods = inspect.getmembers(cls, inspect.isfunction) if inspect.isclass(cls) else []
    steps = {*dir(ByteSteps)} - {"close", "fingerprint"}  # for those who combine models, with names of their own
    signatures = [
        str(annotation)
        for method, function in methods
        if method not in steps and (method == "__init__" or not method.startswith("_"))
        for annotation in function.__annotations__.values()
    ]
    named = {word for signature in signatures for word in re.findall(r"(?<![\w.\"'])[A-Z]\w+", signature)}
    ours = {word for word in named if word in OURS}

    assert ours <= {*bytelm.__all__}


OURS = {
    name
    for module in list(sys.modules.values())
    if module.__name__.startswith("bytelm.")
    for name, value in vars(module).items()
    if getattr(value, "__module__", "").startswith("bytelm.") and inspect.isclass(value)
}


def test_fingerprints_tell_models_apart(lm: ByteLM) -> None:
    """The same model has the same one; another seed, other weights or another formula give another."""
    other = ByteLM(TableLM(default_tokenizer(), seed=6, order=2))
    made: list[ByteModel[Any, Any]] = [
        lm,
        other,
        Ensemble([lm, other]),
        Ensemble([other, lm]),
        Ensemble([lm, other], weights=[1, 2]),
        Ensemble([lm, other], combine="bayes"),
    ]

    assert len({model.fingerprint() for model in made}) == len(made)
    assert ByteLM(TableLM(default_tokenizer(), seed=5, order=2)).fingerprint() == lm.fingerprint()
    with pytest.raises(InvalidArgumentError, match="function"):
        Ensemble([lm], weights=lambda text: [1.0]).fingerprint()
