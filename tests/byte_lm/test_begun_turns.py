"""A turn that is begun keeps its bytes under any template: white space around it is not trimmed, nor anything changed."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.instance import Instance

from bytelm import ByteLM, Ensemble, TableLM
from bytelm.errors import BytelmError, InvalidArgumentError
from bytelm.harness.model import HarnessLM
from tests.support.tiny import byte_bpe_tokenizer

TEMPLATES = {
    "kept": "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content }}<|eot|>{% endfor %}",
    "trimmed": "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content | trim }}<|eot|>{% endfor %}",
    "stripped": "{% for m in messages %}<|im|>{{ m.role }}\n{{ m['content'].strip() + ' ' }}<|eot|>{% endfor %}",
    "left": "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip() }}<|eot|>{% endfor %}",
}
BEGUN = [" The capital of France is ", "\n\n", " ", "\tx = [\n    ", "<|im|> ", ""]


def chatting(template: str, **options: Any) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(special=("<|im|>",), **options)
    tokenizer.chat_template = template
    return ByteLM(TableLM(tokenizer, order=2, temperature=2.0))


def talk(begun: str | bytes) -> list[dict[str, Any]]:
    return [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": begun}]


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_bytes_of_a_begun_turn_stay(name: str, begun: str) -> None:
    """The prefix ends with just what was begun; a message before it is what the template makes of it."""
    lm = chatting(TEMPLATES[name])
    prefix = lm.chat_prefix(talk(begun), continue_final_message=True)
    said = {"kept": " Hi ", "trimmed": "Hi", "stripped": "Hi ", "left": "Hi "}[name]

    assert prefix == [1, f"user\n{said}", 0, 1, b"assistant\n" + begun.encode()]
    written = lm.chat(talk(begun), continue_final_message=True, seed=1, max_bytes=4)
    assert written.bytes == lm.sample(prefix, seed=1, max_bytes=4).bytes


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_continuation_is_scored_after_the_space(name: str) -> None:
    """By bytes, through the harness and in an ensemble, what follows stands behind all that was begun."""
    lm, begun = chatting(TEMPLATES[name]), "The dog is "
    other = chatting(TEMPLATES["trimmed"], vocab_size=300)
    expected = lm.logprob("the", prefix=lm.chat_prefix(talk(begun), continue_final_message=True))
    model = HarnessLM(lm)
    context = model.apply_chat_template(talk(begun), add_generation_prompt=False)
    asked = Instance(request_type="loglikelihood", doc={}, arguments=(context, "the"), idx=0)
    both = Ensemble([lm, other])
    prompts = both.prompt(both.chat_prefix(talk(begun), continue_final_message=True))

    assert model.loglikelihood([asked], disable_tqdm=True)[0][0] == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(
        lm.logprob("is the", prefix=lm.chat_prefix(talk("The dog "), continue_final_message=True))
        - lm.logprob("is ", prefix=lm.chat_prefix(talk("The dog "), continue_final_message=True)),
        abs=1e-9,
    )
    assert prompts.text == begun.encode()


def test_by_tokens_the_space_goes_to_the_continuation() -> None:
    """It is lm-eval's rule for tokens: the space is not lost, as it is where a template trims what hf is given."""
    lm = chatting(TEMPLATES["trimmed"])
    model = HarnessLM(lm, level="token")
    context = model.apply_chat_template(talk("The dog is "), add_generation_prompt=False)
    asked = Instance(request_type="loglikelihood", doc={}, arguments=(context, "the"), idx=0)
    before = (*lm.prompt([1, "user\nHi", 0, 1]).context, *lm.tokenizer.encode("assistant\nThe dog is"))
    ids = (*lm.prompt([1, "user\nHi", 0, 1]).context, *lm.tokenizer.encode("assistant\nThe dog is the"))
    rows = lm.token_lm.next_token_logprobs([ids[:at] for at in range(len(before), len(ids))])
    expected = sum(float(row[i]) for row, i in zip(rows, ids[len(before) :], strict=True))

    assert model.loglikelihood([asked], disable_tqdm=True)[0][0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{{ m.content }}|{{ m.content | trim }}{% endfor %}", "more than once"),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "template"),
    ],
)
def test_a_template_that_has_no_one_place_for_it_is_refused(template: str, told: str) -> None:
    """Where the turn stands twice, or nowhere, it cannot go on: an error, and no prompt with a mark in it."""
    with pytest.raises(InvalidArgumentError, match=told):
        chatting(template).chat_prefix(talk("The dog is "), continue_final_message=True)


@pytest.mark.parametrize("sides", [{}, {"rstrip": True}, {"lstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("begun", [None, " The dog is "])
def test_special_tokens_take_the_white_space_that_the_tokenizer_gives_them(
    sides: dict[str, bool], begun: str | None
) -> None:
    """The prompt is what transformers makes of the chat, token by token; what was begun keeps its white space."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend = byte_bpe_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken("<|im|>", special=True, **sides)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eot|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im|>\n{{ m.content }}<|eot|>\n{% endfor %}"
        "{% if add_generation_prompt %} <|im|>\n{% endif %}"
    )
    lm = ByteLM(TableLM(tokenizer, order=1))
    if begun is None:
        prompt = lm.prompt(lm.chat_prefix(talk("It is.")))
        expected: Any = tokenizer.apply_chat_template(talk("It is."), add_generation_prompt=True)
        assert [*prompt.context, *tokenizer.encode(prompt.text.decode())] == expected["input_ids"]
    else:
        prompt = lm.prompt(lm.chat_prefix(talk(begun), continue_final_message=True))
        before = "" if sides.get("rstrip") else "\n"
        assert prompt.text == (before + begun).encode()


HOSTILE = [
    "<|im|>", "a<|eot|>b", "<|im|", "|im|><|im|>", "<", ">", "<<|im|>", "\ufdd1", "\ufdd2x\ufdd1", "\ufdd0\ufdd1\ufdd2\ufdd3 é",
]  # fmt: skip


def joined(parts: Any) -> tuple[list[int], bytes]:
    """The ids of a prefix, and all its text."""
    return [part for part in parts if isinstance(part, int)], b"".join(
        part if isinstance(part, bytes) else part.encode() for part in parts if not isinstance(part, int)
    )


@pytest.mark.parametrize("said", HOSTILE)
def test_no_text_of_a_message_is_a_special_token_or_is_lost(said: str) -> None:
    """Whatever a message says stands in the prompt to the letter, and the special tokens are the template's."""
    around = "{% for m in messages %}<|im|>{{ m.role }}:<{{ m.content }}>|im|>{{ m.name }}{{ m.calls[0].args.x }}<|eot|>{% endfor %}"
    lm = chatting(around)
    message = {"role": "user", "content": said, "name": f"n{said}", "calls": [{"args": {"x": said + "<|im|>"}}]}

    ids, text = joined(lm.chat_prefix([message]))
    assert ids == [1, 0]
    assert text.decode() == f"user:<{said}>|im|>n{said}{said}<|im|>"
    for begun in (said, said.encode()):
        last = {"role": "assistant", "content": begun, "name": "", "calls": [{"args": {"x": ""}}]}
        ids, text = joined(lm.chat_prefix([message, last], continue_final_message=True))
        assert ids == [1, 0, 1]
        assert text.decode() == f"user:<{said}>|im|>n{said}{said}<|im|>assistant:<{said}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages[9].content.x.y }}",
        "{{ 1 // 0 }}",
        "{% for m in messages %}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.encode('ascii').decode('utf-16') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ [].pop() }}",
        "{{ {}['a'] | abs }}",
        3,
    ],
)
def test_whatever_a_template_raises_is_one_error(template: Any) -> None:
    """A template is a program: what goes wrong in it is one error that says it was the template."""
    lm = chatting("{{ messages[0].content }}")
    with pytest.raises(BytelmError, match="template"):
        lm.chat_prefix([{"role": "user", "content": "é"}], template=template)
