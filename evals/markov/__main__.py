"""Tokenization bias where the truth is known: ``python -m evals.markov``.

A Markov chain writes texts: each symbol depends on the last few, with known probabilities. A BPE tokenizer is trained
on such texts. Then a model over its tokens is asked for the next symbol after prompts that begin such texts:
    *by tokens*: the prompt is encoded and the model asked for the next token; the probability of a symbol is the sum
    over the tokens that begin with it. *by bytes*: `ByteLM`.

Two models over tokens
    *trained*: a small Llama, trained on the encoded texts from random weights. The error of its byte model is what the
    Llama has not learned.
    *exact*: no training. P(next token | tokens before it) is computed from the chain and from which tokens can follow
    each other (`TokenChain`). Its byte model is the chain itself.

Result
    For each context (the symbols on which the next one depends) the estimate furthest from the truth, over the prompts
    that end in the context. The figure is the largest such error over all contexts: by bytes it measures the training
    only, by tokens it measures the bias.

Source
    Phan et al., arXiv:2410.09303, who show it on a chain of order 3; written from the definitions.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bytelm import ByteLM
from bytelm.healing import completer_of
from evals.markov.chains import Chain, TokenChain, exact_tokens, trained_tokenizer
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer, save_figure
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import versions
from evals.report.tables import console, print_line, table

LONGEST: Final = 9  # symbols of a prompt for the exact model, which is asked for all prompts
RATE: Final = 1e-2  # the greatest step of the training
PROMPT_SYMBOLS: Final = (3, 24)  # of the prompts for the trained model
ROW_TOKENS: Final = 32  # of a text, in training: a prompt never has more


def trained_model(
    chain: Chain, tokenizer: Any, *, steps: int = 500, batch: int = 32, seed: int = 0, progress: bool = False
) -> Any:
    """A Llama of two layers, trained from random weights on texts of the chain, each new and seen once.

    At each position the loss is the expectation over the next token (`TokenChain`), not the loss of the one token that
    comes: the average is the same, and fewer texts are needed.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4 * ROW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    random, truth = np.random.default_rng([seed, 1]), TokenChain.of(chain, tokenizer)
    for _ in tracked(range(steps), "training", hidden=not progress):
        encoded = tokenizer.backend_tokenizer.encode_batch(chain.write(batch, 3 * ROW_TOKENS, random))
        ids = np.zeros((batch, ROW_TOKENS), np.int64)
        for row, encoding in zip(ids, encoded, strict=True):
            row[: len(encoding.ids)] = encoding.ids[:ROW_TOKENS]
        there = torch.from_numpy((ids > 0) | (np.arange(ROW_TOKENS) == 0))
        expected = torch.from_numpy(truth.along(ids)).float()
        logprobs = model(torch.from_numpy(ids)).logits.log_softmax(-1)
        loss = -(expected * logprobs).sum(-1)[there].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def drawn_prompts(chain: Chain, count: int, *, seed: int = 0) -> dict[str, list[str]]:
    """For each context as many distinct prompts that end in it, of a length in `PROMPT_SYMBOLS`."""
    shortest, longest = PROMPT_SYMBOLS
    random = np.random.default_rng([seed, 2])
    found: dict[str, dict[str, None]] = {context: {} for context in chain.contexts}
    while any(len(own) < count for own in found.values()):
        for text in chain.write(256, longest, random):
            prompt = text[: random.integers(max(shortest, chain.order), longest + 1)]
            if len(own := found[prompt[-chain.order :]]) < count:
                own[prompt] = None
    return {context: list(own) for context, own in found.items()}


def all_prompts(chain: Chain, *, longest: int) -> dict[str, list[str]]:
    """For each context every text that ends in it and has at most ``longest`` symbols."""
    found: dict[str, list[str]] = {context: [] for context in chain.contexts}
    for before, context in itertools.product(range(longest - chain.order + 1), found):
        found[context] += ["".join(each) + context for each in itertools.product(chain.symbols, repeat=before)]
    return found


def estimates(lm: ByteLM, chain: Chain, prompts: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The estimates by tokens and by bytes of the symbol after each prompt, with the truth.

    Args:
        lm: The byte model over a model of tokens.
        chain: The truth.
        prompts: By the context that they end in.
    """
    symbols = [ord(symbol) for symbol in chain.symbols]
    completer = completer_of(lm)
    rows = []
    for context, own in prompts.items():
        said = {
            "tokens": [np.exp(completer.next_byte_logprobs(prompt)[symbols]) for prompt in own],
            "bytes": [np.exp(lm.next_byte_logprobs(prompt)[symbols]) for prompt in own],
        }
        row: dict[str, Any] = {"after": context, "truth": chain.after(context).tolist(), "prompts": len(own)}
        for method, each in said.items():
            errors = np.abs(np.array(each) - chain.after(context))
            worst = int(errors.max(axis=1).argmax())
            row[method] = {
                "mean": np.mean(each, axis=0).tolist(),
                "worst": each[worst].tolist(),
                "prompt": own[worst],
                "error": float(errors.max()),
            }
        rows.append(row)
    return rows


def largest(rows: Sequence[dict[str, Any]], method: str) -> float:
    """The largest error over contexts, prompts and symbols."""
    return max(float(row[method]["error"]) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, ask and print one table."""
    parser = command("evals.markov", __doc__)
    parser.add_argument("--symbols", default="AB", help="two to four characters (default %(default)s)")
    parser.add_argument(
        "--order", type=int, default=3, help="number of symbols on which the next one depends (default 3)"
    )
    parser.add_argument("--vocabulary", type=int, default=12, metavar="N", help="size of the vocabulary (default 12)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="training batches (default 500)")
    parser.add_argument("--prompts", type=int, default=20, metavar="N", help="prompts for each context (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the chain, the weights and the texts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    add_output_options(parser)
    words = words_of(arguments)
    options = parser.parse_args(words)
    if not 2 <= len(set(options.symbols)) == len(options.symbols) <= 4:
        parser.error(f"--symbols must be two to four different characters; got {options.symbols!r}")
    if not all(" " < symbol < "\x7f" for symbol in options.symbols):
        parser.error(f"--symbols must be letters, digits or signs of ASCII; got {options.symbols!r}")
    if not 1 <= options.order <= 4:
        parser.error(f"--order must be 1 to 4; got {options.order}")
    if options.vocabulary <= len(options.symbols) + 1:
        parser.error(f"--vocabulary must leave room for merges: at least {len(options.symbols) + 2}")
    at_least(parser, options, "steps", "prompts")
    return answer(options, lambda: _measure(options, words), show=_show, plot=_plot)


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    set_threads(options.threads)
    chain = Chain.drawn(options.symbols, options.order, seed=options.seed)
    tokenizer = trained_tokenizer(chain, vocab_size=options.vocabulary, seed=options.seed)
    exact = ByteLM(exact_tokens(chain, tokenizer))
    start = time.perf_counter()
    model = trained_model(chain, tokenizer, steps=options.steps, seed=options.seed, progress=True)
    seconds = time.perf_counter() - start
    prompts = drawn_prompts(chain, options.prompts, seed=options.seed)
    models = {
        "trained": estimates(ByteLM(model, tokenizer), chain, prompts),
        "exact": estimates(
            exact, chain, all_prompts(chain, longest=min(LONGEST, 12 - 2 * len(options.symbols) + options.order))
        ),
    }
    return {
        "command": command_of("evals.markov", words),
        "symbols": options.symbols,
        "tokens": [tokenizer.decode([i]) for i in range(1, len(tokenizer))],
        "training_seconds": seconds,
        "versions": versions(),
        "largest": {
            name: {method: largest(rows, method) for method in ("tokens", "bytes")} for name, rows in models.items()
        },
        **models,
    }


def _show(result: dict[str, Any]) -> None:
    """A row for each context and symbol, except the last symbol: its probability is the rest."""
    symbols = result["symbols"]
    made = table(
        "P(next symbol): the estimate furthest from the truth",
        ["after", "symbol", "truth", "trained: by tokens", "by bytes", "exact: by tokens", "by bytes"],
        left=2,
    )
    for trained, exact in zip(result["trained"], result["exact"], strict=True):
        for i, symbol in enumerate(symbols[:-1]):
            said = [row[method]["worst"][i] for row in (trained, exact) for method in ("tokens", "bytes")]
            made.add_row("…" + trained["after"], symbol, *(f"{p:.4f}" for p in (trained["truth"][i], *said)))
    console().print(made)
    for name, errors in result["largest"].items():
        shown = f"{errors['bytes']:.4f}" if errors["bytes"] > 1e-4 else f"{errors['bytes']:.0e}"
        print_line(f"{name} model: largest error by tokens {errors['tokens']:.4f}, by bytes {shown}")
    print_line(f"tokens: {' '.join(result['tokens'])}")


def _plot(result: dict[str, Any], path: Path) -> None:
    """Estimates against the truth, for each context and symbol: the mean over prompts, and the furthest from the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("trained", "exact"), strict=True):
        axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
        for method, marker in (("tokens", "x"), ("bytes", "o")):
            points = [
                (truth, estimate)
                for row in result[name]
                for truth, estimate in zip(row["truth"], row[method]["worst"], strict=True)
            ]
            size, edge = (40, None) if marker == "x" else (22, "none")
            axes.scatter(*zip(*points, strict=True), s=size, marker=marker, edgecolors=edge, label=f"by {method}")
        errors = result["largest"][name]
        axes.set_title(f"{name} model\nlargest error {errors['tokens']:.2f} by tokens, {errors['bytes']:.1g} by bytes")
        axes.set_xlabel("true probability of the next symbol", fontsize=11)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("the worst estimate of it", fontsize=11)
    figure.axes[0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
