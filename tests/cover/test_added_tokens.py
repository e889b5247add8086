"""Added tokens, with a hidden leading space and without: covers against the tokenizer's own encodings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.errors import UnreachablePrefixError
from bytelm.testing.tokenizers.definition import Ids
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability
from tests.support.masks import one_by_one
from tests.support.oracle import Enumeration
from tests.support.strategies import SPELL

HIDING = ("prepend", "metaspace-first", "metaspace-always", "prefix-space")


def hiding(shape: str, added: Sequence[AddedToken]) -> Tokenizer:
    """A tokenizer over a, b and the space that puts a space in front of a text in one of the four ways."""
    space = "Ġ" if shape == "prefix-space" else "▁"
    base = (
        SPELL.values() if shape == "prefix-space" else ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "a", "b", "▁"]
    )
    merges = [(space, "a"), ("b", "b"), (space, space)]
    pieces = {piece: i for i, piece in enumerate([*base, *map("".join, merges)])}
    if shape == "prefix-space":
        tokenizer = Tokenizer(models.BPE(pieces, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True))
        if shape == "prepend":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            scheme = shape.removeprefix("metaspace-")
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def claimed(viability: Viability, tokens: Sequence[int], *, size: int) -> set[Ids]:
    """The sequences of some tokens, of at most so many bytes, that are said to be viable behind the hidden space."""
    found = set[Ids]()
    grown: list[tuple[Ids, bytes, Boundary]] = [((), b"", viability.start())]
    while grown:
        ids, data, end = grown.pop()
        found.add(ids)
        for token in tokens:
            longer = data + viability.spelled(end, token)
            if len(longer) <= size and longer.startswith(b" ") and (after := viability.extend(end, token)):
                grown.append(((*ids, token), longer, after))
    return found


ADDED = {
    "letters": [AddedToken("ab")],
    "letters, raw": [AddedToken("ab", normalized=False)],
    "a piece": [AddedToken("bb")],
    "a space before": [AddedToken(" b")],
    "a space before, raw": [AddedToken(" b", normalized=False)],
    "a space inside, raw": [AddedToken("b a", normalized=False)],
    "a space behind": [AddedToken("b ")],
    "spaces, raw": [AddedToken("  ", normalized=False)],
    "both kinds": [AddedToken("ab"), AddedToken("ba", normalized=False)],
    "one kind behind the other": [AddedToken("a", normalized=False), AddedToken("b")],
    "a single word": [AddedToken("ab", single_word=True)],
    "a single word, raw": [AddedToken("b", single_word=True, normalized=False)],
    "special": [AddedToken("ab", special=True, normalized=False), AddedToken("a", normalized=False)],
    "special behind another": [AddedToken("b"), AddedToken("aa", special=True, normalized=True)],
    "a single word behind another": [AddedToken("b"), AddedToken("a", single_word=True)],
    "a single word behind another, raw": [
        AddedToken("b", normalized=False),
        AddedToken("a", single_word=True, normalized=False),
    ],
    "special, normalized": [AddedToken("ab", special=True, normalized=True), AddedToken("b")],
    "special, over one of either kind": [
        AddedToken("bb", normalized=False),
        AddedToken("b"),
        AddedToken("bbb", special=True, normalized=False),
    ],
    "special, over two kinds of letters": [
        AddedToken("ab", normalized=False),
        AddedToken("b"),
        AddedToken("abb", special=True, normalized=False),
    ],
    "a single word before one of the other kind": [
        AddedToken("ab", single_word=True, normalized=False),
        AddedToken("b"),
    ],
}


@pytest.mark.parametrize("shape", HIDING)
@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_sequences_behind_a_hidden_space_are_those_of_all_texts(shape: str, added: list[AddedToken]) -> None:
    """Exactly the sequences that begin some text's encoding are viable, and each text has its own."""
    tokenizer = hiding(shape, added)
    everything = Enumeration(tokenizer, ["a", "b", "c", " "], 5)
    viability = Viability.from_tokenizer(tokenizer)
    spelled = everything.definition.token_bytes
    tokens = [t for t, data in spelled.items() if not data.strip(b"ab ") and t not in viability.vocab.byte_ids]

    letters = {t for t in spelled if not spelled[t].strip(b"ab ")}
    viable = (ids for ids, data in everything.viable.items() if len(data) <= 3 and letters.issuperset(ids))
    refused = spaces_first(shape, added, everything)
    assert claimed(viability, tokens, size=4) == {ids for ids in viable if refused.isdisjoint(ids[:1])}


def spaces_first(shape: str, added: list[AddedToken], everything: Enumeration) -> set[int]:
    """Added tokens that begin with a space, where none is hidden before them: first in a text they are refused."""
    names = {token.content for token in added if not (token.normalized and shape == "prepend")}
    return {i for i, content in everything.definition.added.items() if content in names and content.startswith(" ")}


def test_an_added_token_with_the_name_of_a_byte_is_the_byte() -> None:
    """It is that byte's token, and is decoded to the byte: text with the byte comes back, text with the name does not."""
    tokenizer = hiding("prepend", [AddedToken("<0x63>", normalized=False)])
    viability = Viability.from_tokenizer(tokenizer)

    assert tokenizer.decode(tokenizer.encode("ac").ids) == "ac"
    assert [node.token_ids for node in Cover.empty(viability).advance(b"ac").ending] == [
        tuple(tokenizer.encode("ac").ids)
    ]
    assert tokenizer.decode(tokenizer.encode("a<0x63>").ids) == "ac"
    with pytest.raises(UnreachablePrefixError):
        Cover.empty(viability).advance(b"a<0x63>")


def plain(*added: AddedToken, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """A byte-level tokenizer that merges nothing."""
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(SPELL.values())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens([*added])
    return tokenizer


@pytest.mark.parametrize("character", "²³¹¼½¾\u200c\u200d_é1-\u0301")
def test_a_single_word_stands_beside_what_the_library_takes_for_none(character: str) -> None:
    """Some digits and joiners are word characters to the engine of split patterns and none to added tokens, or the reverse."""
    tokenizer = plain(AddedToken("ab", single_word=True))
    viability = Viability.from_tokenizer(tokenizer)

    for text in (f"ab{character}", f"{character}ab", f"{character}ab{character}"):
        ends = Cover.empty(viability).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [tuple(tokenizer.encode(text).ids)]


@pytest.mark.parametrize(("content", "normalized"), [("\u0338", True), ("a\u0338", True), ("\u0301\u0301", False)])
def test_an_added_token_may_not_be_composed_with_what_stands_before_it(content: str, normalized: bool) -> None:
    """Under NFC every sequence is viable by `mask` exactly if it is by `extend`, and each text has the tokenizer's own."""
    tokenizer = plain(AddedToken(content, normalized=normalized), normalizer=normalizers.NFC())
    viability = Viability.from_tokenizer(tokenizer)

    for text in ("a", "=", "a\u0338", ""):
        (node,) = (node for node in Cover.empty(viability).advance(text.encode()).ending)
        assert node.token_ids == tuple(tokenizer.encode(text).ids)
        mask = viability.mask(node.boundary, 0, len(viability.prefix_index))
        assert mask.tolist() == one_by_one(viability, node.boundary), text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2", "mistral_v3"])
def test_a_word_is_added_to_a_real_tokenizer(name: str, load_tokenizer: Callable[[str], Any]) -> None:
    """A token that is added by its name stands behind a space or at the start, and every such text has its sequence."""
    backend = Tokenizer.from_str(load_tokenizer(name).backend_tokenizer.to_str())
    backend.add_tokens(["foo", "quux"])  # the first is a piece too
    viability = Viability.from_tokenizer(backend)

    for text in ("foo", "x foo", "foo foo, foo", " foo", "x foolish", "  quux", "quux\n", "xquux quux", "foo 日 foo"):
        ends = Cover.empty(viability).advance(text.encode()).ending
        assert [node.token_ids for node in ends] == [tuple(backend.encode(text, add_special_tokens=False).ids)], text


@pytest.mark.parametrize("shape", HIDING)
@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_covers_of_texts_that_begin_with_an_added_token(shape: str, added: list[AddedToken]) -> None:
    """Cover, row and end of every prefix are those of the enumerated texts, `mask` is `extend` at the start too."""
    tokenizer = hiding(shape, added)
    everything = Enumeration(tokenizer, ["a", "b", " "], 6)
    viability = Viability.from_tokenizer(tokenizer)

    start = viability.start()
    assert viability.mask(start, 0, len(viability.prefix_index)).tolist() == one_by_one(viability, start)
    refused = spaces_first(shape, added, everything)
    for prefix in everything.prefixes(3):
        own = {ids for ids in everything.cover(prefix) if refused.isdisjoint(ids[:1])}
        if prefix and not own:
            continue
        cover = Cover.empty(viability).advance(prefix)
        ends = {ids for ids in everything.ending(prefix) if refused.isdisjoint(ids[:1])}
        assert {node.token_ids for node in cover.ending} == ends, prefix
        if prefix:
            assert leaves(cover, over=b"ab ") == own, prefix


def leaves(cover: Cover, *, over: bytes) -> set[Ids]:
    """The sequences of a cover whose tokens hold some bytes alone."""
    found = set[Ids]()
    for node in cover.nodes:
        lo, _, mask = cover.viable(node)
        for rank in (lo + mask.nonzero()[0]).tolist() if cover.leftover(node) else ():
            if not cover.viability.prefix_index.spelled[rank].strip(over):
                found.add((*node.token_ids, int(cover.viability.prefix_index.order[rank])))
    return found | {node.token_ids for node in cover.nodes if not cover.leftover(node)}
