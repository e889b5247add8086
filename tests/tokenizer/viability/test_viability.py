"""Viability on real vocabularies: the known traps, each against the tokenizer's own encoding."""

from __future__ import annotations

import lzma
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.errors import UnreachablePrefixError, UnsupportedTokenizerError
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability

DATA = os.environ.get("BYTELM_TEST_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="BYTELM_TEST_DATA does not name the folder of real tokenizers")


@cache
def viability(name: str) -> Viability:
    packed = (Path(DATA or "") / "tokenizers" / f"{name}.json.xz").read_bytes()
    return Viability.from_tokenizer(Tokenizer.from_str(lzma.decompress(packed).decode()))


def follow(name: str, tokens: list[str]) -> Boundary | None:
    """The boundary after some tokens, given as the tokenizer writes them; None if they are not viable."""
    subject = viability(name)
    boundary: Boundary | None = subject.start()
    for token in tokens:
        if boundary is None:
            return None
        boundary = subject.extend(boundary, subject.vocab.pieces[token])
    return boundary


@pytest.mark.parametrize(
    ("name", "text", "tokens"),
    [
        ("gpt2", "a\n\nb", ["a", "Ċ", "Ċ", "b"]),
        ("gpt2", "a\n\n", ["a", "ĊĊ"]),
        ("gpt2", "x='mega'", ["x", "='", "mega", "'"]),
        ("gpt2", "'mega", ["'m", "ega"]),
        ("gpt2", "1234567", ["123", "45", "67"]),
        ("gpt2", "a   b", ["a", "Ġ", "Ġ", "Ġb"]),
        ("smollm2", "b\n\nprint(1)", ["b", "Ċ", "Ċ", "print", "(", "1", ")"]),
        ("llama2", "a\n\nb", ["▁a", "<0x0A>", "<0x0A>", "b"]),
        ("llama2", "1234567", ["▁", "1", "2", "3", "4", "5", "6", "7"]),
    ],
)
def test_the_known_traps_are_canonical(name: str, text: str, tokens: list[str]) -> None:
    """Each sequence read off the tokenizer is followed to its end, where the text may end."""
    boundary = follow(name, tokens)

    assert boundary is not None
    assert viability(name).ends_text(boundary)
    ends = Cover.empty(viability(name)).advance(text.encode()).ending
    assert [node.token_ids for node in ends] == [viability(name).vocab.encode(text)]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gpt2", ["a", "ĊĊ", "b"]),  # a line feed before a word stands alone
        ("gpt2", ["'", "mega"]),  # the contraction takes the m
        ("gpt2", ["x", "=", "'"]),  # one run of punctuation
        ("gpt2", ["th", "e"]),  # merged
        ("llama2", ["▁", "a"]),  # merged
        ("llama2", ["▁a", "<0x62>"]),  # b is a piece of the vocabulary
        ("llama2", ["▁a", "<0xC3>"]),  # and so is every character that begins with this byte
    ],
)
def test_what_the_tokenizer_never_emits_is_not_viable(name: str, tokens: list[str]) -> None:
    """A cut out of place, a pair that would have merged, a byte token where there is a piece."""
    boundary = follow(name, tokens)

    assert boundary is None


@pytest.mark.parametrize("name", ["smollm2", "llama2", "llama3", "qwen3"])
def test_all_neighbours_at_once_are_those_one_by_one(name: str) -> None:
    """`mask` over ranges of every width agrees with `extend` token by token."""
    subject = viability(name)
    rng = np.random.default_rng(0)
    for text in ("x = [1,  2]\n\n", "don't  naïve 漢字\t", "The quick"):
        boundary: Boundary | None = subject.start()
        for token in subject.vocab.encode(text):
            assert boundary is not None
            for width in (1, 12, 200, len(subject.prefix_index)):
                lo = int(rng.integers(0, len(subject.prefix_index) - width + 1))
                mask = subject.mask(boundary, lo, lo + width)
                for i in rng.choice(width, size=min(width, 40), replace=False).tolist():
                    token_there = int(subject.prefix_index.order[lo + i])
                    assert mask[i] == (subject.extend(boundary, token_there) is not None), (text, token_there)
            boundary = subject.extend(boundary, token)


def test_text_that_a_normal_form_changes_is_unreachable_and_named() -> None:
    """Decomposed é under NFC: the error says where, and gives the normalised text."""
    with pytest.raises(UnreachablePrefixError, match="NFC") as caught:
        Cover.empty(viability("qwen3")).advance("cafe\u0301s".encode())

    assert caught.value.position == 5
    assert "café" in str(caught.value)


def test_text_that_is_not_utf8_is_unreachable_and_named() -> None:
    """The first byte that cannot stand is the position."""
    with pytest.raises(UnreachablePrefixError, match="not UTF-8") as caught:
        Cover.empty(viability("gpt2")).advance(b"ab\xffcd")

    assert caught.value.position == 2


@pytest.mark.parametrize(("name", "culprit"), [("clip", "end_of_word_suffix"), ("unigram_toy", "Unigram")])
def test_lossy_tokenizers_are_refused(name: str, culprit: str) -> None:
    """A vocabulary that loses information is refused by the step that loses it."""
    with pytest.raises(UnsupportedTokenizerError, match=culprit):
        viability(name)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "qwen3"])
def test_all_tokens_at_once_are_the_tokens_one_by_one(name: str) -> None:
    """`mask` says of every token what `extend` says, after whole and unfinished characters, spaces and contractions."""
    subject = viability(name)
    rng = np.random.default_rng(0)
    inside = subject.prefix_index.range(b"\x80")[0], subject.prefix_index.range(b"\xc0")[0]
    for text in (b"a  b\n", b"it's 12", "e ᄒ".encode(), "ᄒ".encode() + b"\xe1\x85", b" \xe2\x80", b"a\xf0\x9f"):
        for node in Cover.empty(subject).advance(text).nodes[:3]:
            lo, hi = inside if node.boundary.partial else (0, len(subject.prefix_index))
            mask = subject.mask(node.boundary, lo, hi)
            ranks = rng.choice(np.arange(lo, hi), 50)
            tokens = subject.prefix_index.order[ranks].tolist()
            one_by_one = [subject.extend(node.boundary, token) is not None for token in tokens]
            assert mask[ranks - lo].tolist() == one_by_one


@pytest.mark.parametrize(
    ("name", "tokens", "viable"),
    [
        ("gpt2", [")", "{", "Ġ", "â"], False),  # E2 80 and E2 81 merge, and only they begin a space
        ("gpt2", ["'", "r"], True),  # a cut between them
        ("llama3", ["Ġ", "à¥"], False),  # cut apart only before a digit, whose byte merges with these
        ("llama3", ["!", "Â"], True),  # C2 85 6E: the next token is 85 6E
        ("qwen3", ["áĦĴ", "áħ"], True),  # some vowels of Hangul do not compose
        ("qwen3", ["áĦĴ", "áħ", "«"], False),  # this one does
    ],
)
def test_what_follows_is_asked_of_pairs_and_forms(name: str, tokens: list[str], viable: bool) -> None:
    """Sequences that only the tokens to come decide about."""
    assert (follow(name, tokens) is not None) == viable


def test_a_pre_token_that_cannot_be_taken_apart_has_to_grow() -> None:
    """With ``ignore_merges``, aa is one token though no merge makes it, so a·a has to go on, and nothing lets it."""
    pieces = {"a": 0, "b": 1, "aa": 2, "ab": 3}
    shut = Tokenizer(models.BPE(pieces, [("a", "b")], ignore_merges=True))
    shut.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("a{2}|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    shut.decoder = decoders.ByteLevel()
    open_ = Tokenizer(models.BPE(pieces, [("a", "b")], ignore_merges=True))
    open_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    open_.decoder = decoders.ByteLevel()
    for tokenizer, viable in ((shut, False), (open_, True)):
        subject = Viability.from_tokenizer(tokenizer)
        boundary = subject.extend(subject.start(), 0)
        assert boundary is not None
        assert (subject.extend(boundary, 0) is not None) == viable
    assert open_.encode("aaa").ids == [0, 0, 0]
    assert shut.encode("aaaa").ids == [2, 2]
