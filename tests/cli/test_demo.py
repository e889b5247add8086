"""The comparison of the methods, on a toy model."""

from __future__ import annotations

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.cli.demo import Outcome, compare, show_comparison
from bytelm.healing import TokenCompleter, completer_of
from tests.support.tiny import byte_bpe_tokenizer


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    return ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=311), seed=3, order=2))


def test_each_method_writes_what_it_writes_alone(lm: ByteLM) -> None:
    """The outcomes are the greedy completions and the next-byte distributions of the methods themselves."""
    by_tokens, healed, by_bytes = compare(lm, "the th", max_bytes=9)

    completer = completer_of(lm)
    assert by_tokens.completion == completer.sample("the th", healing="none", max_bytes=9).bytes
    assert healed.completion == completer.sample("the th", healing="many", max_bytes=9).bytes
    assert by_bytes.completion == lm.sample("the th", temperature=0, max_bytes=9).bytes
    np.testing.assert_array_equal(by_bytes.next_byte_probs, np.exp(lm.next_byte_logprobs("the th")))
    np.testing.assert_array_equal(
        by_tokens.next_byte_probs, np.exp(completer.next_byte_logprobs("the th", healing="none"))
    )


def test_one_token_and_many_are_told_apart_where_they_differ(lm: ByteLM) -> None:
    """Healing with one token has a line of its own where it takes another part of the prompt back."""
    completer = completer_of(lm)
    prompts = ("the th", "return", "retur", "impor", "fibon", "the qu", "    ", "ther")
    differ = [
        prompt
        for prompt in prompts
        if completer.back_up(prompt, healing="one") != completer.back_up(prompt, healing="many")
    ]

    assert 0 < len(differ) < len(prompts)
    for prompt in prompts:
        methods = [outcome.method for outcome in compare(lm, prompt, max_bytes=1)]
        assert ("by one-token healing" in methods) is (prompt in differ)


def test_with_a_suffix_each_method_fills_in() -> None:
    """By bytes it is `infill`; the others complete the same tokens, spelled out here for a format of three sentinels."""
    names = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=names)
    lm = ByteLM(TableLM(tokenizer, seed=3, order=2))

    by_tokens, *_, by_bytes = compare(lm, "the th", "ed fox", max_bytes=5)

    ids: dict[str, int] = tokenizer.get_vocab()
    begin, hole, middle = (ids[name] for name in names)
    suffix = tokenizer("ed fox", add_special_tokens=False).input_ids
    completer = TokenCompleter(lm.token_lm, context=[begin, hole, *suffix, middle])
    assert by_tokens.completion == completer.sample("the th", max_bytes=5).bytes
    np.testing.assert_allclose(by_tokens.next_byte_probs, np.exp(completer.next_byte_logprobs("the th")))
    assert by_bytes.completion == lm.infill("the th", "ed fox", temperature=0, max_bytes=5).bytes
    prompt: list[int | str | bytes] = [begin, hole, "ed fox", middle, "the th"]
    np.testing.assert_allclose(by_bytes.next_byte_probs, np.exp(lm.next_byte_logprobs(prompt)))
    assert show_comparison(b"a", [by_bytes], suffix=b"b\n").splitlines()[:2] == ["prefix    a", r"suffix    b\n"]


def test_the_likeliest_bytes_of_every_method_are_shown() -> None:
    """The rows are the bytes that some method finds likeliest, with the probability under each."""
    first, second = np.zeros(257), np.zeros(257)
    first[[ord("a"), 256]] = 0.75, 0.25
    second[[ord("b"), ord("\n")]] = 0.875, 0.125

    shown = show_comparison(b"x\n", [Outcome("one", b"", b"a", first), Outcome("two", b"", b"b\n", second)], top=3)

    assert [line.split() for line in shown.splitlines()] == [
        ["prompt", r"x\n"],
        ["one", "a"],
        ["two", r"b\n"],
        [],
        ["next", "byte", "one", "two"],
        ["'b'", "0.0000", "0.8750", "██████████▌"],
        ["'a'", "0.7500", "█████████", "0.0000"],
        ["end", "of", "text", "0.2500", "███", "0.0000"],
    ]


def test_a_method_that_writes_nothing_is_said_to() -> None:
    """A completion without a byte is the end of the text, not a line that lacks its end."""
    probs = np.zeros(257)
    probs[256] = 1.0

    shown = show_comparison(b"x", [Outcome("by tokens", b"", b"", probs)])

    assert shown.splitlines()[1] == "by tokens  (nothing: it ends the text at once)"
