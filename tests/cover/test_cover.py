"""bytelm/cover/cover.py against the enumeration of every text: boundary nodes, endings and masses of random small tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.cover.nodes import RankedArray
from bytelm.errors import UnreachablePrefixError, UnsupportedTokenizerError
from bytelm.testing.tokenizers.definition import Ids
from bytelm.tokenizer.prefix_index import Branch
from bytelm.tokenizer.split.vocab_walk import ProductAutomaton
from bytelm.tokenizer.viability.viability import Viability
from tests.support.hostile import NOT_UTF8
from tests.support.oracle import Enumeration, depth_for
from tests.support.strategies import Toy, byte_level, sentencepiece

# Building one tokenizer and encoding all its texts takes a good part of a second.
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
# How many characters a split or a whole-word rule may have to see after a token before it is settled.
AHEAD = 4
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def viability_of(toy: Toy) -> Viability | None:
    """The tokenizer, read; None where it is refused, which is always allowed and counted."""
    try:
        return Viability.from_tokenizer(toy.backend)
    except UnsupportedTokenizerError as refusal:
        event(f"refused: {str(refusal)[:60]}")
        return None


def enumerated(toy: Toy, most: int = 6000) -> tuple[Enumeration, list[bytes]]:
    """All texts of a tokenizer, and the prefixes for which they are enough."""
    depth = depth_for(toy.alphabet, most)
    everything = Enumeration(toy.backend, toy.alphabet, depth)
    room = depth - AHEAD - toy.longest
    prefixes = [p for p in everything.prefixes(3) if len(p.decode(errors="replace")) <= max(room, 1)]
    return everything, prefixes[:60]


def ids_of(nodes: Any) -> set[Ids]:
    return {tuple(node.token_ids) for node in nodes}


def check_nodes(toy: Toy) -> None:
    viability = viability_of(toy)
    if viability is None:
        return
    everything, prefixes = enumerated(toy)
    for prefix in prefixes:
        cover = Cover.empty(viability).advance(prefix)
        endings = everything.ending(prefix)

        assert ids_of(cover.nodes) - endings == everything.nodes(prefix) - endings, (prefix, toy.what)
        assert ids_of(cover.ending) == endings, (prefix, toy.what)


@few
@given(byte_level(plain=True))
def test_nodes_of_merges_are_those_of_all_texts(toy: Toy) -> None:
    """With merges alone, the nodes and the endings at every prefix are those that the encodings of all texts show."""
    check_nodes(toy)


@few
@given(byte_level())
def test_nodes_of_splits_and_added_tokens_are_those_of_all_texts(toy: Toy) -> None:
    """Splits that look ahead and behind, normal forms and added tokens change which nodes there are, and they are the same."""
    check_nodes(toy)


@few
@given(sentencepiece())
def test_nodes_of_sentencepiece_hold_those_of_all_texts(toy: Toy) -> None:
    """Every node that the encodings of all texts over the alphabet show is a node, hidden leading space or not."""
    viability = viability_of(toy)
    if viability is None:
        return
    everything, prefixes = enumerated(toy)
    for prefix in prefixes:
        cover = Cover.empty(viability).advance(prefix)

        assert everything.nodes(prefix) <= ids_of(cover.nodes), (prefix, toy.what)
        assert ids_of(cover.ending) == everything.ending(prefix), (prefix, toy.what)


@few
@given(byte_level())
def test_unreachable_prefixes_are_those_of_no_text(toy: Toy) -> None:
    """A prefix raises `UnreachablePrefixError`, at its first byte too many, exactly if no text that encodes begins so."""
    viability = viability_of(toy)
    if viability is None:
        return
    everything, prefixes = enumerated(toy)
    reachable = set(everything.prefixes(4))
    for prefix in prefixes:
        for byte in sorted({b for c in toy.alphabet for b in c.encode()} | {0x00, 0xFF}):
            longer = prefix + bytes([byte])
            if len(longer) > 3:
                continue
            if longer in reachable:
                Cover.empty(viability).advance(longer)
            else:
                with pytest.raises(UnreachablePrefixError) as caught:
                    Cover.empty(viability).advance(longer + b"a")

                assert caught.value.position == len(prefix)


def masses_of(cover: Cover, probs: np.ndarray) -> dict[int, float]:
    """Mass of each next byte from uniform weights of nodes, by the cover."""
    total: dict[int, float] = {}
    for node in cover.nodes:
        for byte, mass in enumerate(cover.masses(node, RankedArray(probs))):
            total[byte] = total.get(byte, 0.0) + float(mass)
    return {byte: mass for byte, mass in total.items() if mass}


@few
@given(byte_level(), st.integers(0, 2**32 - 1))
def test_masses_are_sums_over_the_cover(toy: Toy, seed: int) -> None:
    """A node's masses by next byte are the sums of its viable tokens' probabilities, the tokens spelled in full apart."""
    viability = viability_of(toy)
    if viability is None:
        return
    everything, prefixes = enumerated(toy)
    order = viability.prefix_index.order
    prob_of = np.random.default_rng(seed).random(int(order.max(initial=0)) + 1)
    probs = prob_of[order]  # a token may have two ranks
    for prefix in prefixes:
        cover = Cover.empty(viability).advance(prefix)
        expected: dict[int, float] = {}
        for byte in range(256):
            ends = [ids for ids in everything.cover(prefix + bytes([byte])) if ids[:-1] in everything.nodes(prefix)]
            if ends:
                expected[byte] = sum(prob_of[ids[-1]] for ids in ends)

        assert masses_of(cover, probs) == pytest.approx(expected, rel=1e-12), (prefix, toy.what)


@few
@given(byte_level(), st.randoms(use_true_random=False))
def test_advancing_in_pieces_is_advancing_at_once(toy: Toy, random: Any) -> None:
    """A cover does not depend on how its bytes came, and a cover that was advanced is as it was."""
    viability = viability_of(toy)
    if viability is None:
        return
    _, prefixes = enumerated(toy, most=1000)
    empty = Cover.empty(viability)
    before = ids_of(empty.nodes)
    for prefix in random.sample(prefixes, min(len(prefixes), 8)):
        stepwise = empty
        for byte in prefix:
            stepwise = stepwise.advance(bytes([byte]))

        assert ids_of(stepwise.nodes) == ids_of(empty.advance(prefix).nodes)
        assert stepwise.prefix == prefix
    assert ids_of(empty.nodes) == before


def by_hand(ignore_merges: bool = False) -> Viability:
    """Tokens a, b, ab, abb and a space; a·b and ab·b merge; words and spaces are split."""
    pieces = {"a": 0, "b": 1, "ab": 2, "abb": 3, "Ġ": 4}
    backend = Tokenizer(models.BPE(pieces, [("a", "b"), ("ab", "b")], ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return Viability.from_tokenizer(backend)


@pytest.mark.parametrize(
    ("prefix", "nodes", "ending"),
    [
        (b"", {()}, {()}),
        # a alone may end or be followed by a or a space, and ab and abb begin with it.
        (b"a", {(), (0,)}, {(0,)}),
        # ab is never a·b, so the node (a) is dead.
        (b"ab", {(), (2,)}, {(2,)}),
        # abb is one token: not ab·b.
        (b"abb", {(3,)}, {(3,)}),
        (b"a a", {(0, 4), (0, 4, 0)}, {(0, 4, 0)}),
        (b"b", {(1,)}, {(1,)}),
    ],
)
def test_nodes_by_hand(prefix: bytes, nodes: set[Ids], ending: set[Ids]) -> None:
    """The nodes of a vocabulary small enough to think through."""
    cover = Cover.empty(by_hand()).advance(prefix)

    assert (ids_of(cover.nodes), ids_of(cover.ending)) == (nodes, ending)


@pytest.mark.parametrize(
    "contents",
    [
        # A single word that stays text because a word follows at once, and that word is an added token.
        pytest.param(["a  "], id="before itself"),
        pytest.param([" ", "a "], id="before another"),
    ],
)
def test_nodes_where_a_single_word_waits_for_an_added_token(contents: list[str]) -> None:
    """A single-word token may stay text only because an added token comes next, and then the text cannot end between them."""
    backend = Tokenizer(models.BPE({"Ġ": 0, "a": 1, "ĠĠ": 2}, [("Ġ", "Ġ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(content, single_word=True, normalized=False) for content in contents])

    check_nodes(Toy(backend, ("a", " "), total=True, longest=3, what={"added": contents}))


def test_nodes_where_a_single_word_waits_for_an_added_token_before_splits_of_bytes() -> None:
    """The same where a pre-tokenizer runs after ByteLevel, which has the search for what may follow read bytes."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "aa": 2, "aaa": 3}, [("a", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.Digits()]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("aaa", single_word=True, normalized=False), AddedToken("b", normalized=False)])

    check_nodes(Toy(backend, ("a", "b"), total=True, longest=3, what={}))


def with_runs(longest: int = 64) -> Viability:
    """Llama 3's split, and a token for every number of spaces and of equals signs up to ``longest``."""
    names, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    for char in "Ġ=":
        for size in range(2, longest + 1):
            names.append(char * size)
            left = 1 << (size - 1).bit_length() - 1
            merges.append((char * left, char * (size - left)))
    merges.sort(key=lambda pair: (len(pair[0]) != len(pair[1]), len(pair[0])))  # the powers of two come first
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return Viability.from_tokenizer(backend)


@pytest.mark.parametrize("run", [b" ", b"="])
def test_a_long_run_costs_what_ordinary_text_does(run: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up what begins so, and reading tokens, are as many for a run as for words, up to a small factor, and linear."""
    asked = 0

    def counted(of: type, name: str) -> None:
        method = getattr(of, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            nonlocal asked
            asked += 1
            return method(*arguments, **named)

        monkeypatch.setattr(of, name, counting)

    counted(Branch, "below")
    counted(ProductAutomaton, "read")

    def cost(text: bytes) -> int:
        nonlocal asked
        subject, asked = with_runs(), 0
        Cover.empty(subject).advance(text)
        return asked

    words, once, twice = cost(b"The cat sat there, " * 20), cost(run * 380), cost(run * 760)

    assert once < 8 * words
    assert twice < 2.2 * once


def test_the_nodes_of_a_run_are_those_of_its_bytes_one_by_one() -> None:
    """Where many nodes wait, asking about them early changes none."""
    subject = with_runs()
    stepwise = Cover.empty(subject)
    for size in range(1, 150):
        stepwise = stepwise.advance(b" ")
        if size % 37 == 0:
            assert ids_of(Cover.empty(subject).advance(b" " * size).nodes) == ids_of(stepwise.nodes)
            assert [node.token_ids for node in stepwise.ending] == [tuple(subject.vocab.encode(" " * size))]


@pytest.mark.parametrize(("data", "position"), NOT_UTF8.items(), ids=repr)
def test_bytes_that_are_no_text_say_where(data: bytes, position: int, load_tokenizer: Callable[[str], Any]) -> None:
    """Bytes that cannot be part of UTF-8 are unreachable from the first that cannot stand there."""
    viability = Viability.from_tokenizer(load_tokenizer("smollm2"))

    with pytest.raises(UnreachablePrefixError) as caught:
        Cover.empty(viability).advance(data)

    assert caught.value.position == position
