"""Segments: hard boundaries, canonical encoding, BOS, and where the hidden leading space applies."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.cover import Cover
from bytelm.cover.cover_cache import CoverCache
from bytelm.cover.nodes import common_ancestor
from bytelm.cover.prefix import Prefix, Prompt, PromptReader, bos_ids_of
from bytelm.errors import BytelmWarning, InvalidArgumentError, InvalidTypeError, UnreachablePrefixError
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.viability.viability import Viability
from tests.support.oracle import HashLM
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer


def with_template(tokenizer: Any, template: str) -> Any:
    """The tokenizer with a post-processor such as ``"<s> $A </s>"``."""
    from tokenizers.processors import TemplateProcessing

    names = [name for name in template.split() if not name.startswith("$")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    )
    return tokenizer


def reader(tokenizer: Any, *, bos: bool = True, openers: frozenset[int] = frozenset(), **options: Any) -> PromptReader:
    viability = Viability.from_tokenizer(tokenizer)
    before = bos_ids_of(viability.vocab)
    return PromptReader(
        viability,
        bos_ids=before if bos else (),
        openers=openers | frozenset(before),
        vocab_size=len(viability.vocab.token_bytes),
        **options,
    )


def toy_lm(tokenizer: Any, **options: Any) -> ByteLM:
    viability = Viability.from_tokenizer(tokenizer)
    size = len(viability.vocab)
    end = tokenizer.get_vocab()["</s>"]
    spelled = {token for token, data in enumerate(viability.vocab.token_bytes) if data is not None}
    return ByteLM(HashLM(tokenizer, size, frozenset({end}), frozenset(spelled | {end})), **options)


BYTES = byte_bpe_tokenizer(special=("<turn>",))
LLAMA = with_template(sentencepiece_bpe_tokenizer(prepend=True), "<s> $A")
TURN = BYTES.get_vocab()["<turn>"]
BOS = LLAMA.get_vocab()["<s>"]


def test_text_alone_is_the_byte_prefix() -> None:
    """Text and bytes are taken as they are; a tokenizer that puts nothing before a text gives no context."""
    prefixes: list[Prefix] = ["né", "né".encode(), ["né"], ["né".encode()], ("né",)]
    for prefix in prefixes:
        assert reader(BYTES).read(prefix) == Prompt((), "né".encode(), dummy_prefix=True)
    assert reader(BYTES).read([]) == reader(BYTES).read("") == Prompt((), b"", dummy_prefix=True)


def test_an_id_is_a_hard_boundary() -> None:
    """Text before an id is encoded by itself, and what follows is no longer the start of a text."""
    hello = tuple(BYTES("return x", add_special_tokens=False).input_ids)

    assert reader(BYTES).read([TURN, "return x", TURN, "ret"]) == Prompt(
        (TURN, *hello, TURN), b"ret", dummy_prefix=False
    )
    assert reader(BYTES).read(["return x", TURN]) == Prompt((*hello, TURN), b"", dummy_prefix=False)
    assert reader(BYTES).read(["return x", TURN, "ret"]) == Prompt((*hello, TURN), b"ret", dummy_prefix=False)


@pytest.mark.parametrize("prefix", [["return x", "ret"], [TURN, "a", b"b"], ["a", TURN, b"b", "c"]])
def test_two_texts_side_by_side_are_refused(prefix: Prefix) -> None:
    """They look like several prompts, and a list is one: the error quotes them and says what to call."""
    with pytest.raises(InvalidArgumentError, match=r"two texts side by side.*sample_batch"):
        reader(BYTES).read(prefix)


def test_text_never_becomes_a_special_token() -> None:
    """What spells a special token is text, in any segment."""
    prompt = reader(BYTES).read(["<turn>", TURN, "<turn>"])

    assert prompt.context[:-1] == reader(BYTES).viability.vocab.encode("<turn>")
    assert prompt.context.count(TURN) == 1
    assert prompt.text == b"<turn>"


def test_bos_is_what_the_post_processor_puts_in_front() -> None:
    """It is there unless it is turned off or the prefix begins with an id; what stands behind a text is none of it."""
    assert bos_ids_of(read_vocab(LLAMA)) == (BOS,)
    assert reader(LLAMA).read("a") == Prompt((BOS,), b"a", dummy_prefix=True)
    assert reader(LLAMA, bos=False).read("a") == Prompt((), b"a", dummy_prefix=True)
    both = with_template(sentencepiece_bpe_tokenizer(prepend=True), "<s> <s> $A </s>")
    assert bos_ids_of(read_vocab(both)) == (BOS, BOS)


def test_the_hidden_space_is_at_the_start_of_a_text_alone() -> None:
    """Only BOS, given or put there, may stand before it; after any other id, or after text and an id, there is none."""
    end = LLAMA.get_vocab()["</s>"]

    assert reader(LLAMA).read([BOS, "a"]) == Prompt((BOS,), b"a", dummy_prefix=True)
    assert reader(LLAMA).read([BOS, BOS, "a"]).dummy_prefix
    assert not reader(LLAMA).read([end, "a"]).dummy_prefix
    assert not reader(LLAMA).read([BOS, end, "a"]).dummy_prefix
    assert not reader(LLAMA).read(["the", BOS, "a"]).dummy_prefix
    assert reader(LLAMA, bos=False, openers=frozenset({BOS})).read([BOS, "a"]).dummy_prefix


def test_the_hidden_space_in_segments_before_the_last() -> None:
    """The first text is encoded with it, one after an id without."""
    end = LLAMA.get_vocab()["</s>"]
    with_space = tuple(LLAMA("the dog", add_special_tokens=False).input_ids)
    prompt = reader(LLAMA).read(["the dog", end, "the dog", end])
    after = prompt.context[2 + len(with_space) : -1]

    assert prompt.context[: 1 + len(with_space)] == (BOS, *with_space)
    assert reader(LLAMA).viability.vocab.spell(after) == b"the dog"


@pytest.mark.parametrize("prefix", [3, None, 1.5, ["a", None], [["a"]], {"a": 1}, [True, "a"]])
def test_what_is_no_prefix_is_a_type_error(prefix: Any) -> None:
    """A prefix is text or a list of ids and texts; a bool is no id."""
    with pytest.raises(TypeError):
        reader(BYTES).read(prefix)


def test_the_error_says_what_a_prefix_is() -> None:
    """Beneath the type checker of the tests the error is one of bytelm's own."""
    with pytest.raises(InvalidTypeError, match="segment 1 of the prefix must be str or bytes, not NoneType"):
        reader(BYTES).bytes_of(None, "segment 1 of the prefix")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_that_do_not_exist_are_refused(token: int) -> None:
    """An id is one of the model's."""
    with pytest.raises(InvalidArgumentError, match=f"segment 1 of the prefix is token {token}"):
        reader(BYTES).read(["a", token, "b"])


def test_a_segment_before_the_last_must_have_an_encoding() -> None:
    """One that stops inside a character has none; the last one may stop there."""
    half = "é".encode()[:1]

    assert reader(BYTES).read(["a", TURN, half]).text == half
    with pytest.raises(UnreachablePrefixError, match="segment 0"):
        reader(BYTES).read([half, TURN, "a"])


@pytest.mark.parametrize("text", ["<turn>user\nHi", b"a\xff<|eot|>", "Hi<|eot|><turn>"])
def test_a_bare_text_that_spells_a_special_token_warns(text: str | bytes) -> None:
    """It is read as text all the same, once with a warning, and the warning names the calls that give the token."""
    with pytest.warns(BytelmWarning, match=r"spells the special token '<.*chat\(\).*infill\(\).*\[text\]") as caught:
        read = reader(BYTES).read(text)

    assert len(caught) == 1
    assert read == reader(BYTES).read([text])
    assert read.context == ()


def test_a_text_in_a_list_is_meant(recwarn: pytest.WarningsRecorder) -> None:
    """Nothing warns of what a list holds, nor of a text that spells no special token, or one of a character or two."""
    short = byte_bpe_tokenizer(special=("\n", "<>"))

    reader(BYTES).read(["<turn>"])
    reader(BYTES).read([TURN, "<turn>", TURN, "<|eot|>"])
    reader(BYTES).read("<turn <|eot| >")
    reader(short).read("a <> b\n")

    assert recwarn.list == []


def test_covers_go_on_from_the_nearest_that_is_kept() -> None:
    """A longer prompt shares the nodes of a shorter one, never those of another context, and few are kept."""
    viability = Viability.from_tokenizer(BYTES)
    covers = CoverCache(viability, size=3)
    short = covers.cover(Prompt((), b"the qu", dummy_prefix=True))
    longer, other = (
        covers.cover(Prompt((), b"the quick", dummy_prefix=True)),
        covers.cover(Prompt((TURN,), b"the qu", dummy_prefix=True)),
    )
    ids = [node.token_ids for node in Cover.empty(viability).advance(b"the quick").nodes]

    assert [node.token_ids for node in longer.nodes] == ids
    assert {node for one in longer.nodes for node in one.path()} & set(short.nodes)
    assert not {node for one in other.nodes for node in one.path()} & set(short.nodes)
    prompts = [Prompt((), b"a" * n, dummy_prefix=True) for n in range(5)]
    made = [covers.cover(prompt) for prompt in prompts]
    assert [covers.cover(prompt) is cover for prompt, cover in zip(prompts[2:], made[2:], strict=True)] == [True] * 3
    assert covers.cover(prompts[1]) is not made[1]


@pytest.mark.parametrize("name", ["smollm2", "llama3", "gemma3", "gpt2"])
def test_a_long_prompt_begins_at_its_last_sure_cut(load_tokenizer: Callable[[str], Any], name: str) -> None:
    """Its cover is the one that is taken along the text; so is that of a longer one, which shares the nodes."""
    viability = Viability.from_tokenizer(load_tokenizer(name))
    pick = random.Random(4)
    pieces = ["def f(", "x", "):\n    ", "return", "  ", "\n", "é", "漢字", "it's ", "12,345", "\t", " the quick", "…"]
    for _ in range(12):
        text = "".join(pick.choices(pieces, k=40)).encode()
        texts = [text[: pick.randrange(40, 70)], text[: pick.randrange(71, len(text))], text]
        covers = CoverCache(viability)
        for part in texts:
            mine, whole = covers.cover(Prompt((), part, dummy_prefix=True)), Cover.empty(viability).advance(part)
            assert mine.prefix == whole.prefix
            assert [n.token_ids for n in mine.nodes] == [n.token_ids for n in whole.nodes]
            assert [n.token_ids for n in mine.ending] == [n.token_ids for n in whole.ending]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_long_prompt_takes_few_steps(
    load_tokenizer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The cover is not taken along 8,000 bytes, and nodes are shared with the prompt that it begins with."""
    viability = Viability.from_tokenizer(load_tokenizer(name))
    covers, text = CoverCache(viability), b"the quick brown fox jumps over it, " * 230
    steps, plain = 0, Cover.advance

    def counted(self: Cover, data: bytes) -> Cover:
        nonlocal steps
        steps += len(data)
        return plain(self, data)

    monkeypatch.setattr(Cover, "advance", counted)
    short = covers.cover(Prompt((), text[:4000], dummy_prefix=True))
    longer = covers.cover(Prompt((), text, dummy_prefix=True))

    assert steps < 150
    start: Any = common_ancestor((*short.nodes, *short.ending))
    assert all(start in node.path() for node in longer.nodes)


def test_a_long_prompt_that_nothing_spells_says_where(load_tokenizer: Callable[[str], Any]) -> None:
    """As a short one does."""
    viability = Viability.from_tokenizer(load_tokenizer("smollm2"))
    with pytest.raises(UnreachablePrefixError) as caught:
        CoverCache(viability).cover(
            Prompt((), b"the quick brown fox " * 5 + b"\xff and so on, and on and on", dummy_prefix=True)
        )

    assert caught.value.position == 100


def test_a_character_that_the_tokenizer_lacks_is_named_with_its_place() -> None:
    """▁ stands for a space: the error names it, its offset and its line, in long text and at the end of a short one."""
    window = "a = 1\n" * 200 + "bar = '█▁█'\n" + "b = 2\n" * 100
    viability = Viability.from_tokenizer(LLAMA)

    for text in (window, "é\n▁"):
        with pytest.raises(UnreachablePrefixError) as caught:
            CoverCache(viability).cover(Prompt((), text.encode(), dummy_prefix=True))
        at = text.encode().index("▁".encode())
        line = text[: text.index("▁")].count("\n") + 1
        assert f"cannot spell '▁' (U+2581) at byte {at}, line {line}:" in str(caught.value)
        assert "replace='?'" in str(caught.value)


def test_a_character_that_the_tokenizer_lacks_can_be_replaced() -> None:
    """A string or what a function makes of the character is read in its place; all other bytes stay, text or not."""
    data = "█▁█".encode() + b"\xe2\x96"

    assert reader(LLAMA).read(data).text == data
    assert reader(LLAMA, replace="?").read(data).text == "█?█".encode() + b"\xe2\x96"
    assert reader(LLAMA, replace=lambda c: f"<{ord(c):x}>").bytes_of("a▁") == b"a<2581>"
    assert reader(LLAMA, replace="?").bytes_of(b"\xff") == b"\xff"
    context = reader(LLAMA, replace="_").read(["a▁b", BOS, "c"]).context
    assert context == reader(LLAMA).read(["a_b", BOS, "c"]).context


def test_a_model_reads_texts_without_what_it_cannot_spell() -> None:
    """All that takes text goes by the one reader: scores and samples of a text are those of the replaced text."""
    plain, lenient = (toy_lm(LLAMA, replace=replace) for replace in (None, "?"))

    with pytest.raises(UnreachablePrefixError, match="cannot spell '▁'"):
        plain.logprob("a▁b")
    assert lenient.logprob("▁b", prefix="a▁") == plain.logprob("?b", prefix="a?")
    assert lenient.sample("a▁", max_bytes=4, seed=0) == plain.sample("a?", max_bytes=4, seed=0)
    assert lenient.byte_logprobs("▁").shape == (1,)
