"""Reading a tokenizer: what is understood, and what is refused by the name of the step."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.errors import BytelmError, InvalidTypeError, UnreachablePrefixError, UnsupportedTokenizerError
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.viability.viability import Viability
from bytelm.tokenizer.vocab import byte_alphabet
from tests.support.tiny import sentencepiece_bpe_tokenizer


def byte_level(**parts: Any) -> Tokenizer:
    vocab = {c: i for i, c in enumerate(sorted(byte_alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def sentencepiece(*, fallback: bool = True, lacking: Collection[int] = (), **parts: Any) -> Tokenizer:
    vocab = {f"<0x{b:02X}>": b for b in range(256) if b not in lacking} | {"▁": 256, "a": 257, "▁a": 258}
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


def test_byte_tokens_that_no_text_needs_may_be_missing() -> None:
    """A byte of a character that is a piece needs no token, and neither does one that UTF-8 has no use for."""
    subject = Viability.from_tokenizer(sentencepiece(lacking=[0x20, ord("a"), 0xC0, 0xC1, *range(0xF5, 0x100)]))

    for text in ("a é😀", "\tb a"):
        ends = Cover.empty(subject).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [subject.vocab.encode(text)]


@pytest.mark.parametrize(("byte", "character"), [(0x62, "b"), (0xC2, "\x80"), (0xF4, "\U00100000")])
def test_a_byte_token_that_some_text_needs_is_missed_by_name(byte: int, character: str) -> None:
    """Without it the tokenizer spells a character as unknown: the byte and the first such character are named."""
    tokenizer = sentencepiece(lacking=[byte])

    assert bytes([byte]) not in [bytes([i]) for i in tokenizer.encode(character).ids if i < 256]
    with pytest.raises(UnsupportedTokenizerError, match=f"<0x{byte:02X}>.*{re.escape(repr(character))}"):
        read_vocab(tokenizer)


def test_spaces_may_be_pieces_themselves() -> None:
    """A vocabulary over characters that writes spaces as spaces is read so; where ▁ is no token, spaces are lost."""
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {" ": 256, "a": 257, " a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[(" ", "a")], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    subject = Viability.from_tokenizer(tokenizer)

    ends = Cover.empty(subject).advance(b"a a  b").ending
    assert [node.token_ids for node in ends] == [tuple(tokenizer.encode("a a  b").ids)]
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    with pytest.raises(UnsupportedTokenizerError, match="spaces are lost"):
        read_vocab(tokenizer)


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_piece_with_a_space_is_never_a_part_of_text_where_spaces_are_marked(ignore_merges: bool) -> None:
    """The space is ▁ before the text is split, so `` a`` with a raw space is no token of it, nor taken whole."""
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {"▁": 256, " ": 257, "a": 258, " a": 259}
    model = models.BPE(vocab=vocab, merges=[], byte_fallback=True, ignore_merges=ignore_merges)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    subject = Viability.from_tokenizer(tokenizer)

    ends = Cover.empty(subject).advance(b" a a").ending
    assert [node.token_ids for node in ends] == [tuple(tokenizer.encode(" a a").ids)] == [(256, 258, 256, 258)]


def test_a_hidden_space_that_may_be_dropped_is_refused() -> None:
    """A split that removes the space in front of a text leaves nothing to tell it by; one that removes others is read."""
    backend = sentencepiece(normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "removed")
    with pytest.raises(UnsupportedTokenizerError, match="may drop that space"):
        Viability.from_tokenizer(backend)
    backend.pre_tokenizer = pre_tokenizers.Split("-", "removed")
    Viability.from_tokenizer(backend)


def test_where_spaces_are_pieces_the_mark_is_a_character() -> None:
    """▁ is spelled by bytes there, as any character that is no piece, and stands for itself in an added token."""
    vocab = {f"<0x{b:02X}>": b for b in range(256)} | {" ": 256, "a": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens(["▁x"])
    subject = Viability.from_tokenizer(tokenizer)

    for text in ("a▁b ▁", "a▁x▁"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
        ends = Cover.empty(subject).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [tuple(tokenizer.encode(text).ids)]


def test_two_pieces_with_one_id_are_refused_by_name() -> None:
    """Either is encoded to it, and it is decoded to one of them: the other's text is lost."""
    tokenizer = byte_level()
    tokenizer.model = models.BPE({**tokenizer.get_vocab(), "ab": 7, "ac": 7}, [])

    with pytest.raises(UnsupportedTokenizerError, match=r"'a[bc]'.*id 7|id 7.*'a[bc]'"):
        read_vocab(tokenizer)


def test_an_id_far_beyond_the_number_of_pieces_is_refused() -> None:
    """Tables have a row for each id, so one of 2³¹ would take all of the memory; holes among the ids are allowed."""
    tokenizer = byte_level()
    pieces = tokenizer.get_vocab()
    tokenizer.model = models.BPE({**pieces, "ab": 300}, [])

    assert len(read_vocab(tokenizer)) == 301
    tokenizer.model = models.BPE({**pieces, "ab": 2**31}, [])
    with pytest.raises(UnsupportedTokenizerError, match=r"'ab'.* 2147483648"):
        read_vocab(tokenizer)


@pytest.mark.parametrize("where", ["a piece", "an added token", "a special token"])
def test_a_token_of_a_megabyte_is_refused(where: str) -> None:
    """What is built of a token grows with the square of its length, so a file could stop a program with one."""
    tokenizer, long = byte_level(), "ab" * (1 << 19)
    if where == "a piece":
        tokenizer.model = models.BPE({**tokenizer.get_vocab(), long: 256}, [])
    else:
        tokenizer.add_tokens([AddedToken(long, special=where == "a special token")])

    with pytest.raises(UnsupportedTokenizerError, match="1048576 characters"):
        read_vocab(tokenizer)


def test_a_long_added_token_is_found() -> None:
    """One of a thousand characters, beside a shorter one that it begins with."""
    tokenizer = byte_level()
    long = "".join(random.Random(1).choices("abcdefgh ", k=1000))
    tokenizer.add_tokens([long, long[:2]])
    subject = Viability.from_tokenizer(tokenizer)

    for text in ("x" + long + "y", long[:-1]):
        ends = Cover.empty(subject).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [tuple(tokenizer.encode(text).ids)]


def test_a_space_that_the_tokenizer_puts_in_front_is_hidden() -> None:
    """With ``add_prefix_space`` a text has one sequence, that of the tokenizer, and none begins with a space."""
    subject = Viability.from_tokenizer(byte_level(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)))

    (end,) = Cover.empty(subject).advance(b"ab c").ending
    assert end.token_ids == subject.vocab.encode("ab c") == subject.vocab.encode(" ab c")
    with pytest.raises(UnreachablePrefixError, match="puts a space in front of every text itself") as caught:
        Cover.empty(subject).advance(b" ab")
    assert caught.value.position == 0


@pytest.mark.parametrize("last", ["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Digits", "Punctuation"])
def test_pre_tokenizers_after_byte_level_see_bytes(last: str) -> None:
    """They may cut a character apart: ü ends with the byte of ¼, a number, and § has two bytes that are punctuation."""
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False), getattr(pre_tokenizers, last)()]
    tokenizer = byte_level(pre_tokenizer=pre_tokenizers.Sequence(steps))
    letter = {byte: c for c, byte in byte_alphabet().items()}
    merged = ["".join(letter[b] for b in pair) for pair in (b"\xc3\xbc", b"\xc2\xa7", b"\xbcb", b"\xa9a", b" a", b"a!")]
    pieces = {c: i for i, c in enumerate([*sorted(byte_alphabet()), *merged])}
    tokenizer.model = models.BPE(pieces, [(m[0], m[1]) for m in merged])
    subject = Viability.from_tokenizer(tokenizer)

    for text in ("ü§ a!", "übé a1 §!", "bü ¼ü§"):
        ends = Cover.empty(subject).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [tuple(tokenizer.encode(text).ids)], text


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
        (byte_level(pre_tokenizer=pre_tokenizers.Whitespace()), "Whitespace stands.* drops white space"),
        (byte_level(pre_tokenizer=pre_tokenizers.CharDelimiterSplit("-")), "CharDelimiterSplit"),
        (
            byte_level(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), pre_tokenizers.ByteLevel()])),
            "second ByteLevel",
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


def test_added_tokens_that_are_one_text_are_refused() -> None:
    """Which of them the tokenizer finds changes from one process to the next, so there is nothing to be exact about."""
    tokenizer = sentencepiece_bpe_tokenizer(prepend=False)
    tokenizer.add_tokens([AddedToken("  ", normalized=True), AddedToken("▁▁", normalized=True)])

    with pytest.raises(UnsupportedTokenizerError, match="'  ' and '▁▁' normalize to the same text"):
        read_vocab(tokenizer)
    other = sentencepiece_bpe_tokenizer(prepend=False)
    other.add_tokens([AddedToken("  ", normalized=True), AddedToken("▁▁", normalized=False)])
    read_vocab(other)
