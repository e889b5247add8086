"""What can be said of a model before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.errors import ModelError
from bytelm.testing.doctor import Remark, examine, examine_model, verify
from bytelm.tokenizer.viability.viability import Viability
from tests.support.tiny import byte_bpe_tokenizer


def found(remarks: list[Remark], topic: str) -> list[tuple[str, str]]:
    return [(remark.level, remark.text) for remark in remarks if remark.topic == topic]


def test_a_supported_tokenizer_is_exact() -> None:
    """A byte-level BPE with all its parts is found to be fine, and the verdict says so last."""
    tokenizer = byte_bpe_tokenizer(vocab_size=311, bos="<|bos|>")
    remarks = examine(tokenizer, columns=311, eot_ids=[0])

    assert remarks[-1] == Remark("verdict", "ok", "exact: the tokenizer's rules are understood to the letter")
    assert found(remarks, "end of text") == [("ok", "0 <|eot|>")]
    assert found(remarks, "start of text") == [("ok", "the tokenizer puts nothing before a text")]
    assert found(remarks, "columns") == [("ok", "311")]
    assert [remark for remark in remarks if remark.level == "refused"] == []


def test_a_space_in_front_of_every_text_is_fine() -> None:
    """With ``add_prefix_space`` texts come back without it, and the verdict is that of the constructor: exact."""
    tokenizer = byte_bpe_tokenizer(vocab_size=311)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    remarks = examine(tokenizer, columns=311, eot_ids=[0])

    assert remarks[-1] == Remark("verdict", "ok", "exact: the tokenizer's rules are understood to the letter")
    assert found(remarks, "leading space") != []


def test_padding_is_named() -> None:
    """Columns beyond the vocabulary are worth knowing: they are part of the leak."""
    remarks = examine(byte_bpe_tokenizer(vocab_size=311), columns=320, eot_ids=[0])

    assert found(remarks, "columns") == [("note", "320: 9 are padding, whose mass is part of the leak")]


def test_a_tokenizer_of_another_model_is_refused() -> None:
    """Tokens and ends of text without a column are refused, and so is the model."""
    remarks = examine(byte_bpe_tokenizer(vocab_size=311), columns=300, eot_ids=[0, 307])

    assert found(remarks, "columns") == [
        ("refused", "the model has columns for ids below 300, and 11 tokens lie beyond")
    ]
    assert ("refused", "the model has no column for 307") in found(remarks, "end of text")
    assert remarks[-1].level == "refused"


def test_a_model_without_an_end_is_noted() -> None:
    """Where no id ends a text, completions end in other ways."""
    remarks = examine(byte_bpe_tokenizer(vocab_size=311), columns=None, eot_ids=[])

    assert found(remarks, "end of text")[0][0] == "note"


@pytest.mark.parametrize(
    ("tokenizer", "cause"),
    [
        (Tokenizer(models.Unigram([("a", -1.0)], None)), "Unigram"),
        (Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")), "WordPiece"),
        (Tokenizer(models.BPE({"a": 0}, [])), "no byte fallback"),
    ],
)
def test_an_unsupported_tokenizer_is_refused_by_name(tokenizer: Tokenizer, cause: str) -> None:
    """The report of a tokenizer that cannot be a byte model is its cause and the verdict."""
    remarks = examine(tokenizer, columns=None, eot_ids=[])

    assert [remark.level for remark in remarks] == ["refused", "refused"]
    assert cause in remarks[0].text


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    """A decoder and rules that look right do not help where a byte has no token: the round trip shows it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet) if c != "Ġ"}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    remarks = examine(tokenizer, columns=None, eot_ids=[])

    assert remarks[-1].level == "refused"


def test_the_normal_form_is_named() -> None:
    """A tokenizer that composes characters has no encoding for text that is not composed."""
    tokenizer = byte_bpe_tokenizer(vocab_size=311)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()

    remarks = examine(tokenizer, columns=None, eot_ids=[0])

    assert ("note", "text that is not in the normal form NFC") in found(remarks, "refused text")


@pytest.mark.parametrize(
    ("tokens", "level", "parts"),
    [
        (
            ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"),
            "ok",
            ["starcoder: SPM, exact at any cursor; PSM,", "<fim_prefix> <fim_suffix> <fim_middle>", "ends <fim_pad>"],
        ),
        (
            ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
            "ok",
            ["seed-coder: SPM, exact behind a carried line; sentinels <[fim-suffix]> <[fim-prefix]>"],
        ),
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "ok", ["qwen2.5-coder: PSM,"]),
        ((), "note", ["no known format", "mode='left'"]),
    ],
)
def test_the_format_of_filling_in_is_named(tokens: tuple[str, ...], level: str, parts: list[str]) -> None:
    """Its name, orders, sentinels and ends; or that there is none, and what works all the same."""
    remarks = examine(byte_bpe_tokenizer(special=tokens), columns=None, eot_ids=[0])

    ((found_level, text),) = found(remarks, "fill in the middle")
    assert found_level == level
    for part in parts:
        assert part in text


def test_control_tokens_that_are_not_declared_are_listed() -> None:
    """Which tokens are special here and not for the tokenizer; the tags that a model writes are none of them."""
    undeclared = ("<|fim_prefix|>", "<|repo_name|>", "<think>", "  ")
    remarks = examine(byte_bpe_tokenizer(added=undeclared, special=("<|im_end|>",)), columns=None, eot_ids=[0])

    ((level, text),) = found(remarks, "control tokens")
    assert level == "note"
    assert text.endswith(": <|fim_prefix|> <|repo_name|>")
    assert ("ok", "2 are text, and are matched before the merges run") in found(remarks, "added tokens")
    assert (
        found(examine(byte_bpe_tokenizer(special=("<|im_end|>",)), columns=None, eot_ids=[0]), "control tokens") == []
    )


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("gpt2", "ok"),
        ("smollm2", "ok"),
        ("llama2", "ok"),
        ("clip", "refused"),
        ("unigram_toy", "refused"),
    ],
)
def test_real_tokenizers(load_tokenizer: Callable[[str], Any], name: str, verdict: str) -> None:
    """The verdict on real tokenizers."""
    remarks = examine(load_tokenizer(name), columns=None, eot_ids=[0])

    assert remarks[-1].level == verdict


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Any) -> None:
    """There is nothing to examine in an empty folder."""
    with pytest.raises(ModelError, match=r"config\.json"):
        examine_model(str(tmp_path))


def test_what_is_verified_is_compared_with_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that is understood agrees with itself; a mistake of ours is found, and said as a refusal."""
    (remark,) = verify(byte_bpe_tokenizer(), prefixes=5)

    assert remark.level == "ok"
    assert "5 prefixes" in remark.text

    monkeypatch.setattr(Viability, "ends_text", lambda subject, boundary: False)
    remarks = verify(byte_bpe_tokenizer(), prefixes=5)

    assert {remark.level for remark in remarks} == {"refused"}
