"""Merge trees against the library's own BPE: derivations, neighbours, and sequences."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from bytelm.tokenizer.bpe import Merges, read_merges
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.vocab import byte_token

HEAVY = ("smollm2", "llama3", "gemma3", "tekken", "cl100k", "o200k", "qwen3", "deepseek_v3", "mistral_v3")


def rows(merges: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(merges, np.int32).reshape(-1, 3)


class Table:
    """A random merge list over a small alphabet; ``shuffled``: merges stand in any order, some splits added."""

    def __init__(self, seed: int, *, shuffled: bool) -> None:
        self.rng = rng = random.Random(seed)
        self.alphabet = rng.choice(["ab", "abc"])
        tokens, merges = list(self.alphabet), []
        for _ in range(rng.randrange(1, 14)):
            a, b = rng.choice(tokens), rng.choice(tokens)
            if len(a + b) <= 6 and (a, b) not in merges:
                merges.append((a, b))
                tokens += [a + b] if a + b not in tokens else []
        if shuffled:
            rng.shuffle(merges)
            for token in tokens:
                for at in range(1, len(token)):
                    split = (token[:at], token[at:])
                    if set(split) <= set(tokens) and split not in merges and rng.random() < 0.5:
                        merges.insert(rng.randrange(len(merges) + 1), split)
        self.tokens, self.listed = tokens, merges
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.real = Tokenizer(models.BPE(vocab=self.ids, merges=merges))
        self.prefix_index = PrefixIndex([token.encode() for token in tokens])
        self.merges = Merges(
            size=len(tokens),
            base=range(len(self.alphabet)),
            merges=rows([(self.ids[a], self.ids[b], self.ids[a + b]) for a, b in merges]),
            lengths=[len(token) for token in tokens],
            prefix_index=self.prefix_index,
        )

    def encode(self, text: str) -> list[int]:
        return list(self.real.encode(text).ids)


@pytest.mark.parametrize("shuffled", [False, True])
def test_random_merge_lists_agree_with_the_library(shuffled: bool) -> None:
    """Reachability, every pair (one by one and all at once), and every text's sequence are the library's."""
    for seed in range(250):
        table = Table(seed, shuffled=shuffled)
        merges = table.merges
        reached = [t for t in table.tokens if table.encode(t) == [table.ids[t]]]

        assert [t for t in table.tokens if merges.reachable[table.ids[t]]] == reached, seed
        for a in reached:
            at_once = merges.unbroken_range(table.ids[a], 0, len(table.prefix_index))
            merges.unbroken_bits(table.ids[a])
            cached = merges.unbroken_range(table.ids[a], 0, len(table.prefix_index))
            for b in reached:
                expected = table.encode(a + b) == [table.ids[a], table.ids[b]]
                rank = table.prefix_index.rank[table.ids[b]]
                assert merges.unbroken(table.ids[a], table.ids[b]) == expected, (seed, a, b)
                assert at_once[rank] == cached[rank] == expected, (seed, a, b)
        for _ in range(20):
            ids = table.encode("".join(table.rng.choices(table.alphabet, k=table.rng.randrange(1, 14))))
            assert all(merges.reachable[i] for i in ids)
            assert all(merges.unbroken(a, b) for a, b in pairwise(ids)), seed


def test_known_trees_are_taken_as_they_are() -> None:
    """Trees read back from disk answer as those that were derived."""
    table = Table(7, shuffled=True)
    kept = Merges(
        size=len(table.tokens),
        base=range(len(table.alphabet)),
        merges=rows([(table.ids[a], table.ids[b], table.ids[a + b]) for a, b in table.listed]),
        lengths=[len(token) for token in table.tokens],
        prefix_index=table.prefix_index,
        trees=table.merges.trees.astype(np.int32).astype(np.int64),
    )

    pairs = [(a, b) for a in range(kept.size) for b in range(kept.size) if kept.reachable[a] and kept.reachable[b]]
    assert [kept.unbroken(a, b) for a, b in pairs] == [table.merges.unbroken(a, b) for a, b in pairs]


def test_a_run_that_merges_from_the_left_stops_at_the_longest_token() -> None:
    """Gemma's runs: every split listed, the longest first, all after (a, a) has appeared."""
    runs = ["a" * n for n in range(1, 6)]
    splits = [(runs[n - k - 1], runs[k - 1]) for n in range(5, 1, -1) for k in range(n - 1, 0, -1)]
    ids = {token: i for i, token in enumerate(runs)}
    merges = Merges(
        size=5,
        base=[0],
        merges=rows([(ids[a], ids[b], ids[a + b]) for a, b in splits]),
        lengths=[1, 2, 3, 4, 5],
        prefix_index=PrefixIndex([run.encode() for run in runs]),
    )

    assert merges.reachable.all()
    assert [[merges.unbroken(a, b) for b in range(5)] for a in range(5)] == [[False] * 5] * 4 + [[True] * 5]


def merging_alone(tokenizer: Any) -> Tokenizer:
    """The BPE of a tokenizer without anything around it, on its own token strings."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec |= {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, "added_tokens": []}
    spec["model"]["ignore_merges"] = False
    return Tokenizer.from_str(json.dumps(spec))


@pytest.mark.parametrize("name", ["gpt2", "llama2", *(pytest.param(n, marks=pytest.mark.slow) for n in HEAVY)])
def test_real_merge_lists_agree_with_the_library(name: str, load_tokenizer: Callable[[str], Any]) -> None:
    """Of 4,000 tokens which are reachable, and of 4,000 pairs, some of them neighbours in the alphabet, which may stand together."""
    real = merging_alone(load_tokenizer(name))
    vocab = read_vocab(load_tokenizer(name))
    prefix_index = PrefixIndex(vocab.token_bytes, vocab.order)
    merges = read_merges(vocab, prefix_index)
    rng = np.random.default_rng(0)
    texts = [piece for piece in vocab.pieces if byte_token(piece) is None and vocab.spell_piece(piece)]

    def encoded(parts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in real.encode_batch_fast(parts, add_special_tokens=False)]

    drawn = [texts[i] for i in rng.integers(len(texts), size=4000).tolist()]
    assert [ids == [vocab.pieces[text]] for text, ids in zip(drawn, encoded(drawn), strict=True)] == [
        bool(merges.reachable[vocab.pieces[text]]) for text in drawn
    ]
    lefts = [text for text in drawn if merges.reachable[vocab.pieces[text]]]
    rights = lefts[1:] + lefts[:1]
    near = sorted(lefts)
    pairs = [*zip(lefts, rights, strict=True), *pairwise(near), *((a[:1], a) for a in lefts)]
    pairs = [(a, b) for a, b in pairs if a in vocab.pieces and merges.reachable[vocab.pieces[a]]]
    together = [
        ids == [vocab.pieces[a], vocab.pieces[b]]
        for (a, b), ids in zip(pairs, encoded([a + b for a, b in pairs]), strict=True)
    ]

    assert [merges.unbroken(vocab.pieces[a], vocab.pieces[b]) for a, b in pairs] == together
    assert 0.02 < np.mean(together) < 0.98
