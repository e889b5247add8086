"""bytelm/cover/sure_cuts.py against the cover: behind a sure cut the whole cover begins with one sequence, and is the cover begun there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.cover.nodes import common_ancestor
from bytelm.cover.sure_cuts import sure_cut
from bytelm.errors import UnreachablePrefixError
from bytelm.tokenizer.viability.viability import Viability
from tests.cover.test_cover import ids_of, viability_of
from tests.support.strategies import Toy, byte_level, sentencepiece
from tests.support.tiny import default_tokenizer

TEXT = (
    "def fibonacci(n):\n    if n < 2:\n        return n   # it's 1,234.5 \r\n\n\n  x = 'naïve café — 漢字 🙂'\t\t;  "
    "don't  WE'LL\u00a0go<|im_start|>user\n<|im_end|> "
)


def checked(viability: Viability, before: bytes, data: bytes) -> int:
    """How many bytes of the cover a sure cut saves; what it says is compared with the whole cover."""
    whole = Cover.empty(viability).advance(before)
    start: Any = common_ancestor((*whole.nodes, *whole.ending))
    rest = whole.leftover(start) + data
    cut = sure_cut(viability, start.boundary, rest)
    if cut is None:
        return 0
    whole = whole.advance(data)
    end = start.end + cut
    met = {node for each in (*whole.nodes, *whole.ending) for node in each.path() if node.end == end}
    assert {node.token_ids for node in met} == {next(iter(met)).token_ids}, (before, data, cut)
    for each in (*whole.nodes, *whole.ending):
        assert any(node in met for node in each.path()), (before, data, cut, each)
    begun = Cover.empty(viability).advance(before).beyond(next(iter(met)), data)
    assert begun.prefix == whole.prefix
    assert ids_of(begun.nodes) == ids_of(whole.nodes)
    assert ids_of(begun.ending) == ids_of(whole.ending)
    assert {n.token_ids: begun.leftover(n) for n in begun.nodes} == {
        n.token_ids: whole.leftover(n) for n in whole.nodes
    }
    return cut


def check(viability: Viability, alphabet: list[str], *, seed: int, texts: int, length: int) -> int:
    """The same for random texts; the bytes saved in all."""
    pick, saved = random.Random(seed), 0
    for _ in range(texts):
        text = "".join(pick.choices(alphabet, k=length)).encode()
        place = pick.randrange(len(text))
        try:
            saved += checked(viability, text[:place], text[place:])
        except UnreachablePrefixError:
            event("a text that no sequence spells")
    return saved


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.one_of(byte_level(), sentencepiece()), st.integers(0, 3))
def test_any_tokenizer(toy: Toy, seed: int) -> None:
    """Whatever the splits, merges, added tokens and normal forms."""
    viability = viability_of(toy)
    if viability is not None:
        saved = check(viability, list(toy.alphabet), seed=seed, texts=30, length=9)
        event("saved something" if saved else "saved nothing")


def test_splits_of_a_real_kind() -> None:
    """The pattern of GPT-2: nearly all of a text lies before its last sure cut."""
    viability = Viability.from_tokenizer(default_tokenizer())
    pieces = [TEXT[i : i + 3] for i in range(0, len(TEXT), 3)]
    saved = check(viability, pieces, seed=1, texts=200, length=12)

    assert saved > 200 * 8


def test_where_nothing_is_sure() -> None:
    """No cut is sure that the next byte can undo, nor in a text that no claim survives."""
    viability = Viability.from_tokenizer(default_tokenizer())
    start = viability.start()

    assert sure_cut(viability, start, b"") is None
    assert sure_cut(viability, start, b"returns") is None
    assert sure_cut(viability, start, b"return n") == 6
    assert sure_cut(viability, start, b"return  ") == 6
    assert sure_cut(viability, start, b"return  n") == 7
    assert sure_cut(viability, start, b"\xff\xff") is None


def uncut(added: list[AddedToken], merges: list[tuple[str, str]]) -> Viability:
    """A sentencepiece tokenizer of a few letters, whose pre-tokenizer cuts nothing."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcxy▁", *(a + b for a, b in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # as Gemma's: it finds no space any more
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for token in added:
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    return Viability.from_tokenizer(backend)


def test_where_nothing_cuts() -> None:
    """A place that no token can lie across is as good as a cut; of a token that may still come, too."""
    viability = uncut([AddedToken("a  b", normalized=False)], [("a", "b"), ("▁", "▁"), ("b", "▁")])
    start = viability.start()

    assert not viability.steps
    assert sure_cut(viability, start, b"cab") == 1  # where no more comes, all of "ab" is there
    assert sure_cut(viability, start, b"caba") == 3
    assert sure_cut(viability, start, b"cba  c") == 5
    assert sure_cut(viability, start, b"cba  ") == 2
    assert sure_cut(viability, start, b"cba  b") == 2
    assert sure_cut(viability, start, b"cca  b     ") == 2  # one token after the other lies across all later places
    assert sure_cut(viability, start, b"ab") is None
    assert sure_cut(viability, start, "cé".encode()) == 1
    assert sure_cut(viability, start, "cé".encode() + b"\xc3") == 3  # not inside a character that is spelled by bytes
    for text in (
        b"cab",
        b"cba  c",
        b"cba  ",
        b"cba  b",
        b"cca  b     ",
        b"c" * 40,
        b"a  b" * 20 + b"a",
        "cé".encode() + b"\xc3",
    ):
        for place in range(len(text)):
            checked(viability, text[:place], text[place:])


def test_added_tokens_where_nothing_cuts() -> None:
    """Where it is still open whether an added token is found, no place beyond it is sure."""
    inside = uncut([AddedToken("ab", normalized=False), AddedToken("xab yyy", special=True, normalized=False)], [])
    text = b"ccccccccxab yy"  # with one more y, "ab" is no token

    assert checked(inside, b"", text) == 8
    for place in range(len(text)):
        checked(inside, text[:place], text[place:])
    assert checked(inside, b"", text + b"c") == len(text)

    beside = uncut([AddedToken("ab", normalized=False, single_word=True)], [])
    assert checked(beside, b"", b"ccc ab\xc3") == 0  # of é, beside which "ab" is no word; or of ×


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "cl100k",
        "deepseek_v3",
        "gpt2",
        "llama3",
        "o200k",
        "qwen3",
        "smollm2",
        "tekken",
        "gemma3",
        "llama2",
        "mistral_v3",
    ],
)
def test_real_tokenizers(load_tokenizer: Callable[[str], Any], name: str) -> None:
    """With digits, contractions, letters of other scripts and runs of white space, for patterns that split and for none."""
    viability = Viability.from_tokenizer(load_tokenizer(name))
    pieces = [TEXT[i : i + 3] for i in range(0, len(TEXT), 3)] + list("  \n\t'0129aZé漢🙂.,(-")
    pieces += ["<start_of_turn>", "</s>", "[INST]", "\n\n", "    ", "<td>"]

    assert check(viability, pieces, seed=2, texts=150, length=14) > 150 * 8
