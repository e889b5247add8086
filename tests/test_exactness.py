"""Four answers to one question, equal to 1e-9: all texts enumerated, the lemma term by term, the cover, and `ByteLM`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm import lemma
from bytelm.byte_lm.model import ByteLM
from bytelm.engines.table import TableLM
from bytelm.errors import UnsupportedTokenizerError
from bytelm.testing.tokenizers.definition import Ids
from tests.support.oracle import Enumeration, HashLM, depth_for
from tests.support.strategies import Toy, byte_level, sentencepiece

few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
AHEAD = 4


class Case:
    """A small tokenizer, a toy model of it, all of its texts, and the byte model under test."""

    def __init__(self, toy: Toy, byte_lm: ByteLM, model: HashLM, *, most: int = 4000) -> None:
        self.toy = toy
        self.byte_lm = byte_lm
        self.model = model
        depth = depth_for(toy.alphabet, most)
        self.everything = Enumeration(toy.backend, toy.alphabet, depth)
        room = max(1, depth - AHEAD - toy.longest)
        self.prefixes = [
            p for p in self.everything.prefixes(3) if len(p.decode(errors="replace")) <= room and self.mass(p) > 0
        ][:30]

    def mass(self, prefix: bytes) -> float:
        return self.everything.mass(prefix, self.model)

    def row(self, prefix: bytes) -> np.ndarray:
        """P(b | x) of every byte and of the end of text, from the enumeration."""
        return self.everything.next_bytes(prefix, self.model) / self.mass(prefix)


def case_of(toy: Toy, seed: int) -> Case | None:
    """A case; None where the tokenizer is refused."""
    ids = toy.backend.get_vocab()
    end = ids["<end>"]
    size = max(ids.values()) + 1 + seed % 3  # a model may have more columns than its tokenizer has ids
    try:
        # Where the alphabet is not all that can be spelled, the other tokens have no mass.
        allowed = None if toy.total else allowed_ids(toy)
        model = HashLM(toy.fast, size, frozenset({end}), allowed)
        return Case(toy, ByteLM(model), model)
    except UnsupportedTokenizerError as refusal:
        event(f"refused: {str(refusal)[:60]}")
        return None


def allowed_ids(toy: Toy) -> frozenset[int]:
    """The tokens that spell nothing but characters of the alphabet; byte tokens those that have no other token."""
    vocabulary = toy.backend.get_vocab()
    spelled = Enumeration(toy.backend, toy.alphabet[:1], 1).definition.token_bytes
    data = {byte for c in (*toy.alphabet, " ") for byte in c.encode()}
    fallen = {f"<0x{byte:02X}>" for c in toy.alphabet if c.replace(" ", "▁") not in vocabulary for byte in c.encode()}
    unused = {i for name, i in vocabulary.items() if name.startswith("<0x") and name not in fallen}
    return frozenset(i for i, b in spelled.items() if data.issuperset(b)) - unused


def check(toy: Toy, seed: int) -> None:
    case = case_of(toy, seed)
    if case is None:
        return
    for prefix in case.prefixes:
        expected = case.row(prefix)
        actual = np.exp(case.byte_lm.next_byte_logprobs(prefix))

        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12, err_msg=f"{prefix!r} {toy.what}")


@few
@given(byte_level(plain=True), st.integers(0, 2))
def test_rows_over_merges_are_the_enumeration(toy: Toy, seed: int) -> None:
    """With merges alone, the next byte's probabilities are the sums over all token strings of the tokenizer."""
    check(toy, seed)


@few
@given(byte_level(), st.integers(0, 2))
def test_rows_over_splits_are_the_enumeration(toy: Toy, seed: int) -> None:
    """So they are with splits that look ahead, normal forms and added tokens."""
    check(toy, seed)


@few
@given(sentencepiece(), st.integers(0, 2))
def test_rows_of_sentencepiece_are_the_enumeration(toy: Toy, seed: int) -> None:
    """So they are with ▁ for spaces, byte fallback and a hidden leading space."""
    check(toy, seed)


@pytest.mark.parametrize("marks", ["normalizer", "pre-tokenizer"])
@pytest.mark.parametrize("content", [" é ", "▁é▁", "é ", "é▁", "é"])
@pytest.mark.parametrize("normalized", [True, False])
def test_spaces_in_added_tokens(content: str, *, normalized: bool, marks: str) -> None:
    """A normalizer makes ▁ of the spaces that `normalized` added tokens see; a pre-tokenizer comes after them all."""
    spelled = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "é", "▁", "▁▁", "é▁▁"]
    merges = [("▁", "▁"), ("é", "▁▁")]
    ids = {token: i for i, token in enumerate(spelled)}
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    if marks == "normalizer":
        backend.normalizer = normalizers.Replace(" ", "▁")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_tokens([AddedToken(content, normalized=normalized)])
    backend.add_special_tokens([AddedToken("<end>", special=True)])

    check(Toy(backend, ("é", " "), False, 3, {"content": content}), 0)


@few
@given(byte_level())
def test_covers_are_the_enumeration(toy: Toy) -> None:
    """`ByteLM.cover` lists exactly the viable sequences whose last token holds the last byte, each with its probability."""
    case = case_of(toy, 0)
    if case is None:
        return
    for prefix in case.prefixes:
        items = case.byte_lm.cover(prefix)
        expected = {ids: case.everything.weight(ids, case.model) for ids in case.everything.cover(prefix)}

        assert len(items) == len(expected), (prefix, toy.what)
        assert {tuple(i.token_ids): math.exp(i.logprob) for i in items} == pytest.approx(expected, rel=1e-9)


@few
@given(byte_level(plain=True), st.integers(0, 2))
def test_the_lemma_term_by_term_is_the_enumeration(toy: Toy, seed: int) -> None:
    """lemma.py, told by the enumeration which sequences are viable, gives the enumeration's rows and covers."""
    case = case_of(toy, seed)
    if case is None or case.everything.definition.dummy_prefix:  # lemma.py is told bytes, and no space is hidden
        return
    everything = case.everything
    spelled = everything.definition.token_bytes
    token_bytes: list[bytes | None] = [spelled.get(i) for i in range(case.model.vocab_size)]

    def viable(ids: Ids) -> bool:
        return ids in everything.viable

    def canonical(ids: Ids) -> bool:
        return ids in set(everything.canonical.values())

    def row(ids: Ids) -> Sequence[float]:
        return [float(x) for x in case.model.row(ids)]

    for prefix in case.prefixes[:8]:
        expected = case.row(prefix)
        logprobs = lemma.next_byte_logprobs(
            prefix, token_bytes, viable, row, canonical=canonical, eot_ids=case.model.eot_ids
        )

        np.testing.assert_allclose(np.exp(logprobs), expected, rtol=1e-9, atol=1e-12)
        assert set(lemma.cover(prefix, token_bytes, viable)) == (everything.cover(prefix) if prefix else {()})


@few
@given(byte_level(), st.integers(0, 2))
def test_scores_are_ratios_of_masses(toy: Toy, seed: int) -> None:
    """Log P(text | prefix) is the logarithm of P(prefix·text) / P(prefix), and the scores of its bytes sum to it."""
    case = case_of(toy, seed)
    if case is None:
        return
    for text in case.prefixes:
        for cut in range(len(text) + 1):
            prefix, rest = text[:cut], text[cut:]
            expected = math.log(case.mass(text) / case.mass(prefix))

            assert case.byte_lm.logprob(rest, prefix=prefix) == pytest.approx(expected, abs=1e-9)
            assert float(case.byte_lm.byte_logprobs(rest, prefix=prefix).sum()) == pytest.approx(expected, abs=1e-9)


@few
@given(byte_level())
def test_states_move_as_prefixes_do(toy: Toy) -> None:
    """A state that was advanced byte by byte has the row of its prefix, and `rollback` brings back the rows before."""
    case = case_of(toy, 0)
    if case is None:
        return
    for text in case.prefixes[:6]:
        state: Any = case.byte_lm.state(b"")
        rows = [state.next_byte_logprobs()]
        for byte in text:
            state = state.advance(bytes([byte]))
            rows.append(state.next_byte_logprobs())
        for n in range(len(text) + 1):
            back = state.rollback(n)

            assert back.prefix == text[: len(text) - n]
            np.testing.assert_allclose(np.exp(back.next_byte_logprobs()), np.exp(rows[len(text) - n]), atol=1e-12)
            np.testing.assert_allclose(np.exp(rows[n]), case.row(text[:n]), rtol=1e-9, atol=1e-12)


def test_a_table_by_hand() -> None:
    """The three-token example of lemma.py, with the numbers worked out on paper, by `ByteLM`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("e", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    table = TableLM(tokenizer, table=lambda _: [0.3, 0.2, 0.4, 0.1], eot_ids={3})
    probs = np.exp(ByteLM(table).next_byte_logprobs("a"))

    # P("a") = 0.3 + 0.4; then aa = 0.3·(0.3 + 0.4), ab = 0.4, the end 0.3·0.1, and the leak 0.3·0.2.
    assert probs[[ord("a"), ord("b"), 256]] == pytest.approx([0.21 / 0.7, 0.4 / 0.7, 0.03 / 0.7])
    assert 1 - probs.sum() == pytest.approx(0.06 / 0.7)
