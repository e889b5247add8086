"""What ``level="token"`` costs, and how far its law is from the bytes': ``python -m evals.cost.token_level``.

Cost
    *token level*: a greedy completion with ``level="token"``, from an empty cache. *generate*: the model's own
    ``generate``, greedy, of as many tokens after the same tokens of the prompt: the likeliest member of its cover. Both
    write the same text, one right after the other, in turns first. Prompts are ordinary ones, which stop anywhere, and
    one of 4 kB. *time* is the median over rounds of the ratio of their times.
Law
    The distribution of the next byte under some filters, at both levels, both computed: at "byte" the filtered row, at
    "token" the members of the cover at the temperature and the filtered rows of tokens. *variation* is the total
    variation between them, averaged over the prompts; *greatest* is that of the worst prompt. What the second has on
    special tokens counts as far.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from bytelm.sampling.filters import Filters
from bytelm.symbols import EOT, SYMBOLS
from evals.cost.prompts import LONG, PROMPTS, add_prompt_options
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

LAWS: Final[tuple[Mapping[str, float], ...]] = (
    {},
    {"temperature": 0.7},
    {"top_p": 0.9},
    {"temperature": 0.7, "top_p": 0.9},
    {"top_k": 40},
    {"min_p": 0.05},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print two tables."""
    parser = command("evals.cost.token_level", __doc__)
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    add_prompt_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to run each prompt (default 3)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "threads", "rounds")
    return answer(options, lambda: _measure(options, words), show=_show)


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    from bytelm import ByteLM

    set_threads(options.threads)
    lm = ByteLM.from_pretrained(options.model)
    prompts = PROMPTS[: options.limit]
    costs: list[dict[str, Any]] = []
    for name, some in (("ordinary", prompts), ("4 kB", (LONG,))):
        pairs = [
            _pair(lm, prompt, options.bytes, first=bool(turn % 2))
            for turn in range(options.rounds)
            for prompt in tracked(some, f"{name} prompts")
        ]
        mine, theirs = (sum(pair[i] for pair in pairs) for i in (0, 1))
        ratios = [one / other for one, other, _ in pairs]
        tokens = sum(pair[2] for pair in pairs)
        costs.append(
            {
                "prompts": name,
                "tokens": tokens,
                "token_level_seconds": mine,
                "generate_seconds": theirs,
                "time": median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    laws = []
    for law in LAWS:
        far = [_distance(lm, prompt, law) for prompt in tracked(prompts, f"law {dict(law) or 'plain'}")]
        laws.append({"filters": dict(law), "variation": float(np.mean(far)), "greatest": max(far)})
    return {
        "command": command_of("evals.cost.token_level", words),
        "model": options.model,
        "machine": machine(options.threads),
        "versions": versions("torch", "transformers"),
        "costs": costs,
        "laws": laws,
    }


def likeliest_member(lm: Any, prompt: str) -> list[int]:
    """The token ids from which a greedy completion with ``level="token"`` goes on."""
    return [*lm.prompt(prompt).context, *lm.cover(prompt)[0].token_ids]


def needed(lm: Any, tokens: Sequence[int], size: int) -> int:
    """How many of the tokens a completion of so many bytes takes."""
    return min(int(np.searchsorted(np.cumsum([len(lm.spell([i])) for i in tokens]), size)) + 1, len(tokens))


def _pair(lm: Any, prompt: str, size: int, *, first: bool) -> tuple[float, float, int]:
    """Seconds of a completion and of ``generate``, and tokens; ``first``: which of them is."""
    member = likeliest_member(lm, prompt)
    tokens = _generated(lm, member, size)
    count = needed(lm, tokens, size)
    seconds, done = [0.0, 0.0], b""
    for method in (0, 1) if first else (1, 0):
        lm.clear_cache()
        start = time.perf_counter()
        if method:
            _generated(lm, member, count)
        else:
            done = lm.sample(prompt, level="token", temperature=0, max_bytes=size).bytes
        seconds[method] = time.perf_counter() - start
    written = lm.spell([*member, *tokens[:count]])[len(prompt.encode()) :]
    if not written.startswith(done):
        print_line(f"after {prompt[-20:]!r} the two write different texts: {done[:40]!r}, {written[:40]!r}")
    return seconds[0], seconds[1], count


def _generated(lm: Any, ids: Sequence[int], count: int) -> list[int]:
    """What the model's own ``generate`` writes, greedily, up to an end of text."""
    import torch

    one = torch.tensor([list(ids)])
    ends = sorted(lm.eot_ids)
    options = {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": next(iter(ends), 0)}
    with torch.inference_mode():
        made = lm.token_lm.model.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=count, **options)
    return [int(i) for i in made[0, len(ids) :]]


def _distance(lm: Any, prompt: str, law: Mapping[str, Any]) -> float:
    """Total variation of the next byte's law at level "token" from that at level "byte"."""
    bytes_ = Filters(**law).apply(np.exp(lm.next_byte_logprobs(prompt)))
    tokens = _next_byte(lm, prompt, law)
    lost = max(0.0, 1.0 - float(tokens.sum()))
    return 0.5 * (float(np.abs(bytes_ - tokens).sum()) + lost)


def _next_byte(lm: Any, prompt: str, law: Mapping[str, Any]) -> Float64[np.ndarray, "257"]:
    """The law of the next byte at level "token"; what is on special tokens is left out."""
    power = 1.0 / law.get("temperature", 1.0)
    vocab, read = lm.viability.vocab, lm.prompt(prompt)
    length = len(read.text) + len(vocab.dummy_prefix if read.dummy_prefix else b"")
    items = lm.cover(prompt)
    top = items[0].logprob
    found, whole = np.zeros(SYMBOLS), 0.0
    for item in items:
        weight = float(np.exp((item.logprob - top) * power))
        whole += weight
        if len(beyond := lm.spell(item.token_ids)[length:]):
            found[beyond[0]] += weight
            continue
        row = lm.token_lm.next_token_logprobs([(*read.context, *item.token_ids)])[0]
        for token, prob in _filtered(row.astype(np.float64), law):
            data = (vocab.token_bytes[token] if token < len(vocab) else None) or b""
            if token in lm.eot_ids:
                found[EOT] += weight * prob
            elif data:
                found[data[0]] += weight * prob
    return found / whole


def _filtered(row: Float64[np.ndarray, " vocab"], law: Mapping[str, Any]) -> list[tuple[int, float]]:
    """The tokens that transformers' warpers leave of a row, and their probabilities."""
    scaled = row / law.get("temperature", 1.0)
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    if "top_k" in law:
        order = order[: law["top_k"]]
    kept = probs[order] / probs[order].sum()
    if "top_p" in law:
        order = order[np.cumsum(kept) - kept < law["top_p"]]
        kept = kept[: len(order)]
    if "min_p" in law:
        order = order[kept >= law["min_p"] * kept[0]]
        kept = kept[: len(order)]
    return list(zip(order.tolist(), (kept / kept.sum()).tolist(), strict=True))


def _show(result: dict[str, Any]) -> None:
    print_line(result["command"])
    cost = table("cost", ["prompts", "tokens", "ms / token", "generate", "time", "least", "most"])
    for row in result["costs"]:
        each = (1000 * row[name] / row["tokens"] for name in ("token_level_seconds", "generate_seconds"))
        ratios = (f"{row[name]:.3f}" for name in ("time", "least", "most"))
        cost.add_row(row["prompts"], str(row["tokens"]), *(f"{ms:.1f}" for ms in each), *ratios)
    law = table("law", ["filters", "variation", "greatest"])
    for row in result["laws"]:
        told = ", ".join(f"{name}={value:g}" for name, value in row["filters"].items()) or "none"
        law.add_row(told, f"{row['variation']:.4f}", f"{row['greatest']:.4f}")
    console().print(cost)
    console().print(law)


if __name__ == "__main__":
    sys.exit(main())
