"""Reading a tokenizer: what is understood, and what is refused by the name of the step."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.errors import BytelmError, InvalidTypeError, UnsupportedTokenizerError
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.vocab import byte_alphabet


def byte_level(**parts: Any) -> Tokenizer:
    vocab = {c: i for i, c in enumerate(sorted(byte_alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def sentencepiece(*, fallback: bool = True, **parts: Any) -> Tokenizer:
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {"▁": 256, "a": 257, "▁a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], byte_fallback=fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def test_byte_level_tokens_spell_through_the_alphabet() -> None:
    """Every byte has its character, and no token spells a special one's text."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|end|>"])
    vocab = read_vocab(tokenizer)

    assert {vocab.token_bytes[i] for i in range(256)} == {bytes([b]) for b in range(256)}
    assert vocab.token_bytes[256] is None
    assert vocab.special_ids == {256}


def test_sentencepiece_tokens_spell_spaces_and_bytes() -> None:
    """``▁`` is a space, ``<0x0A>`` a line feed, and the hidden leading space is found."""
    vocab = read_vocab(sentencepiece())

    assert (vocab.token_bytes[258], vocab.token_bytes[10], vocab.dummy_prefix) == (b" a", b"\n", b" ")


def test_text_never_becomes_a_special_token() -> None:
    """The private copy encodes the spelling of a special token as text, and the user's tokenizer is not touched."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|end|>"])
    vocab = read_vocab(tokenizer)

    assert 256 not in vocab.encode("<|end|>")
    assert tokenizer.encode("<|end|>").ids == [256]


@pytest.mark.parametrize(
    ("tokenizer", "culprit"),
    [
        (byte_level(normalizer=normalizers.NFKC()), "NFKC"),
        (byte_level(normalizer=normalizers.Lowercase()), "Lowercase"),
        (byte_level(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])), "StripAccents"),
        (byte_level(normalizer=normalizers.Replace("``", '"')), "Replace"),
        (byte_level(pre_tokenizer=pre_tokenizers.BertPreTokenizer()), "BertPreTokenizer"),
        (byte_level(pre_tokenizer=pre_tokenizers.WhitespaceSplit()), "WhitespaceSplit"),
        (
            byte_level(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), pre_tokenizers.Digits()])),
            "ByteLevel",
        ),
        (sentencepiece(fallback=False), "byte_fallback"),
        (sentencepiece(normalizer=normalizers.Prepend("▁")), "Prepend"),
        (Tokenizer(models.WordPiece({"[UNK]": 0})), "WordPiece"),
        (Tokenizer(models.WordLevel({"[UNK]": 0})), "WordLevel"),
        (Tokenizer(models.Unigram([("<unk>", 0.0)], unk_id=0)), "Unigram without byte fallback"),
        (Tokenizer(models.BPE({"a": 0}, [], end_of_word_suffix="</w>")), "end_of_word_suffix"),
        (Tokenizer(models.BPE({"a": 0}, [], dropout=0.1)), "dropout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lossy_step_is_refused_by_name(tokenizer: Tokenizer, culprit: str) -> None:
    """What cannot be a byte model is refused, and the message says which step stands in the way."""
    with pytest.raises(UnsupportedTokenizerError, match=culprit):
        read_vocab(tokenizer)


def test_a_split_pattern_that_is_not_understood_is_refused() -> None:
    """A construct outside the syntax is refused when the automaton is built."""
    from bytelm.tokenizer.viability.viability import Viability

    split = pre_tokenizers.Split(Regex(r"(?>ab|a)b"), "isolated")
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with pytest.raises(UnsupportedTokenizerError, match="atomic group"):
        Viability.from_tokenizer(byte_level(pre_tokenizer=pre_tokenizers.Sequence([split, byte])))


def test_what_is_no_tokenizer_is_a_type_error() -> None:
    """A wrong argument is said to be one, and a slow tokenizer is refused as such."""

    class Slow:
        def encode(self) -> None: ...

        def convert_ids_to_tokens(self) -> None: ...

    with pytest.raises(InvalidTypeError, match="got int"):
        read_vocab(3)
    with pytest.raises(UnsupportedTokenizerError, match="slow tokenizer"):
        read_vocab(Slow())
    assert issubclass(InvalidTypeError, TypeError)
    assert issubclass(InvalidTypeError, BytelmError)
