"""A Markov chain over symbols, a tokenizer trained on its texts, and the same chain over tokens.

Rules
    A text has no end. Its first symbols have the stationary distribution, as at any place in an endless text.
    The tokenizer is a BPE without a pre-tokenizer: merges run over the whole text, so whether tokens can follow each
    other depends on pairs only.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int64

from bytelm.engines.table import TableLM

LEAST: Final = 0.1  # the smallest probability of a symbol after any context
ROUNDS: Final = 1000  # of the fixed-point iteration


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A Markov chain over symbols.

    Attributes:
        symbols: One character each.
        order: How many symbols the next one depends on.
        probs: P(next symbol | the last ``order``), a row for each context in alphabetical order.
    """

    symbols: str
    order: int
    probs: Float64[np.ndarray, "contexts symbols"]

    @classmethod
    def drawn(cls, symbols: str = "AB", order: int = 3, *, seed: int = 0) -> Chain:
        """A chain with random probabilities, each at least `LEAST`."""
        rows = np.random.default_rng(seed).dirichlet([1.0] * len(symbols), size=len(symbols) ** order)
        return cls(symbols, order, LEAST + (1 - LEAST * len(symbols)) * rows)

    @property
    def contexts(self) -> list[str]:
        """All sequences of symbols on which the next one can depend."""
        return ["".join(each) for each in itertools.product(self.symbols, repeat=self.order)]

    def beginnings(self) -> Float64[np.ndarray, " contexts"]:
        """The probabilities of a text's first symbols: the stationary distribution."""
        size = len(self.probs)
        step = np.zeros((size, size))
        for context, symbol in itertools.product(range(size), range(len(self.symbols))):
            step[context, (context * len(self.symbols) + symbol) % size] += self.probs[context, symbol]
        # The stationary distribution: p · step = p, and the sum is 1.
        system = np.vstack([step.T - np.eye(size), np.ones(size)])
        found: Float64[np.ndarray, " contexts"] = np.linalg.lstsq(system, np.eye(size + 1)[size], rcond=None)[0]
        return found

    def after(self, text: str) -> Float64[np.ndarray, " symbols"]:
        """P(next symbol | text)."""
        places = tuple(self.symbols.index(symbol) for symbol in text[-self.order :])
        if len(places) < self.order:
            begun = self.beginnings().reshape([len(self.symbols)] * self.order)[places]
            row = begun.reshape(len(self.symbols), -1).sum(axis=1) / begun.sum()
        else:
            row = self.probs.reshape([len(self.symbols)] * (self.order + 1))[places]
        return np.asarray(row)

    def probability(self, text: str, before: str = "") -> float:
        """P(the symbols that follow begin with this text | the symbols before it)."""
        steps = (self.after(before + text[:at])[self.symbols.index(symbol)] for at, symbol in enumerate(text))
        return math.prod(float(p) for p in steps)

    def write(self, count: int, length: int, random: np.random.Generator) -> list[str]:
        """Draw ``count`` texts of ``length`` symbols."""
        edges = self.probs.cumsum(axis=1)[:, :-1]
        state: Int64[np.ndarray, " count"] = random.choice(len(self.probs), size=count, p=self.beginnings())
        written = np.zeros((length, count), np.int64)
        for at in range(self.order):
            written[at] = state // len(self.symbols) ** (self.order - 1 - at) % len(self.symbols)
        for at in range(self.order, length):
            written[at] = (random.random(count)[:, None] >= edges[state]).sum(axis=1)
            state = (state * len(self.symbols) + written[at]) % len(self.probs)
        letters = np.array(list(self.symbols))
        return ["".join(letters[row]) for row in written.T]


def trained_tokenizer(chain: Chain, *, vocab_size: int = 12, seed: int = 0) -> Any:
    """A BPE tokenizer trained on texts of the chain; id 0 begins and ends a text.

    Merges run over the whole text: there are no words at which to split it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    mark = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[mark], initial_alphabet=list(chain.symbols), show_progress=False
    )
    tokenizer.train_from_iterator(chain.write(100, 200, np.random.default_rng(seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{mark} $A", special_tokens=[(mark, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=mark, eos_token=mark)


@dataclass(frozen=True, slots=True, eq=False)
class TokenChain:
    """The chain as a distribution over tokens: P(next token | the last token, the last symbols).

    An encoded text begins with the tokens u if the text begins with the symbols of u and no merge joins the end of the
    last token to the symbols after it. The tokenizer shows, pair by pair, which tokens can follow each other. With a the
    last token and s the last symbols, let g(a, s) be the probability that a stays a token, so that

        g(a, s) = Σ P(t | s) · g(t, s·t)   over the tokens t that can follow a
        P(next token t | a, s) = P(t | s) · g(t, s·t) / g(a, s)

    Attributes:
        rows: By last token (0 where a text begins), last symbols and next token.
        steps: The index of the last symbols after a token, by the symbols before it and the token.
    """

    rows: Float64[np.ndarray, "tokens states tokens"]
    steps: Int64[np.ndarray, "states tokens"]

    @classmethod
    def of(cls, chain: Chain, tokenizer: Any) -> TokenChain:
        """Compute the rows from a chain and a tokenizer."""
        count, encode = len(tokenizer), tokenizer.backend_tokenizer.encode
        texts = ["", *(tokenizer.decode([i]) for i in range(1, count))]
        lengths = range(chain.order + 1)
        states = ["".join(each) for n in lengths for each in itertools.product(chain.symbols, repeat=n)]
        probs = np.array([[0.0, *(chain.probability(text, state) for text in texts[1:])] for state in states])
        steps = np.array([[states.index((state + text)[-chain.order :]) for text in texts] for state in states])
        beside = np.zeros((count, count))
        for a, t in itertools.product(range(count), range(1, count)):
            beside[a, t] = encode(texts[a] + texts[t], add_special_tokens=False).ids == [a, t][a == 0 :]
        stays = np.ones((count, len(states)))
        for _ in range(ROUNDS):
            stays = np.einsum("at,st->as", beside, probs * stays[np.arange(count), steps])
            stays /= stays.max()
        rows = beside[:, None] * (probs * stays[np.arange(count), steps])
        return cls(rows / rows.sum(axis=2, keepdims=True), steps)

    def row(self, ids: tuple[int, ...]) -> Float64[np.ndarray, " tokens"]:
        """P(next token | these)."""
        state = last = 0
        for last in ids:
            state = 0 if last == 0 else int(self.steps[state, last])
        found: Float64[np.ndarray, " tokens"] = self.rows[last, state]
        return found

    def along(self, ids: Int64[np.ndarray, "texts n"]) -> Float64[np.ndarray, "texts n tokens"]:
        """P(next token | all tokens so far) at each position of encoded texts, which begin with id 0."""
        state = np.zeros(len(ids), np.int64)
        found = np.zeros((*ids.shape, len(self.rows)))
        for at, last in enumerate(ids.T):
            state = np.where(last == 0, 0, self.steps[state, last])
            found[:, at] = self.rows[last, state]
        return found


def exact_tokens(chain: Chain, tokenizer: Any) -> TableLM:
    """The exact token-level model of the chain."""
    return TableLM(tokenizer, table=TokenChain.of(chain, tokenizer).row)
