"""What lazy evaluation must not change, on a real model: ``python -m evals.cost.lazy``.

*greedy*
    At temperature 0 the lazy sampler writes the same bytes as a sampler that evaluates every boundary node. The prompts
    are English, code, CJK and white space, cut at a random byte.
*draws*
    Single bytes drawn lazily have the distribution of the full evaluation: Pearson's chi-square test against the exact
    row, with and without filters. Each draw starts from the rows of the prompt alone, some bytes further on, where
    about half of the mass is on nodes that are not evaluated. Cells with an expectation below 5 are merged. The
    smallest of m p-values must exceed ``P_LEAST`` / m.
*by the token*
    At temperature 1 a sampler draws tokens, with most filters too (sampling/token_draws.py, filtered_draws.py). At the
    same places completions of `DEEP` bytes are drawn: the first bytes are tested against the exact row there, filtered
    alike, and the last bytes of the completions that have their other bytes in common, the commonest ones, against the
    exact row behind these.

Rows are remembered between draws, so that each is computed once. The sampler does not know.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float64, Int64

from bytelm.symbols import EOT
from bytelm.tokenizer.hard_texts import fragment
from evals.cost.prompts import PROMPTS
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import versions
from evals.report.tables import console, print_line, table

P_LEAST: Final = 0.001
KINDS: Final = {"English": "prose", "code": "code", "CJK": "scripts", "white space": "spaces"}
CJK: Final = range(0x3000, 0xD7B0)
AHEAD: Final = 12  # bytes
DEEP: Final = 4
SETTINGS: Final[tuple[dict[str, float], ...]] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "min_p": 0.02},
)
BY_TOKEN: Final[tuple[dict[str, Any], ...]] = (
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.7, "top_p": 0.9},
)


class Remembering:
    """A TokenLM that keeps every row of another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids
        self.asked = 0
        self._rows: dict[tuple[int, ...], Float[np.ndarray, " vocab"]] = {}

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float[np.ndarray, "n vocab"]:
        """The rows of the inner model, from memory where they were asked for before."""
        keys = [tuple(sequence) for sequence in sequences]
        self.asked += len(keys)
        if fresh := [key for key in dict.fromkeys(keys) if key not in self._rows]:
            rows = self.inner.next_token_logprobs(fresh)
            self._rows.update(zip(fresh, rows, strict=True))
        return np.stack([self._rows[key] for key in keys])

    def forget(self) -> None:
        """Drop what is kept."""
        self._rows.clear()


def prompts_of(kind: str, count: int, *, seed: int = 0) -> list[bytes]:
    """Distinct texts of one kind, each cut at a random byte."""
    rng = random.Random(f"{seed} {kind}")
    found: dict[bytes, None] = {}
    while len(found) < count:
        whole = fragment(KINDS[kind], rng, [])
        if kind == "CJK" and not any(ord(c) in CJK for c in whole.decode(errors="ignore")):
            continue
        found.setdefault(whole[: rng.randint(1, len(whole))])
    return list(found)


def greedy(lm: Any, prompts: Sequence[bytes], *, size: int) -> tuple[int, list[str]]:
    """How many prompts the lazy and the full completion agree on, and those on which they do not."""
    options = {"temperature": 0.0, "max_bytes": size}
    lazy = lm.sample_batch(prompts, **options)
    # A processor that changes nothing asks for every row in full.
    full = lm.sample_batch(prompts, logits_processor=lambda _, row: row, **options)
    wrong = [repr(p) for p, a, b in zip(prompts, lazy, full, strict=True) if a.bytes != b.bytes]
    return len(prompts) - len(wrong), wrong


def p_value(symbols: Int64[np.ndarray, " n"], probs: Float64[np.ndarray, " cells"]) -> float:
    """Chi-square of draws against probabilities, the cells with an expectation below 5 taken together.

    Where these together expect less than 5 too, the smallest of the others joins them.
    """
    from scipy.stats import chisquare

    counts = np.bincount(symbols, minlength=len(probs)).astype(float)
    expected = probs / probs.sum() * len(symbols)
    if counts[expected == 0].any():
        return 0.0
    order = np.argsort(expected)
    count = int((expected < 5).sum())
    while 0 < count < len(order) and expected[order[:count]].sum() < 5:
        count += 1
    small = np.isin(np.arange(len(order)), order[:count])
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    return float(chisquare(observed, expected).pvalue) if len(expected) > 1 else 1.0


def lazy_place(lm: Any, prompt: str) -> tuple[bytes, Any]:
    """The place in the next bytes of greedy text where what is unknown, given the prompt's rows alone, is nearest half.

    There a sampler that mixes up what it knew before and what it learned is seen best.

    Returns:
        The text up to there, and its frontier, which keeps no row for others.
    """
    state = lm.state(prompt)
    state.next_byte_logprobs()
    frontier, text = state.place.frontier, prompt.encode()
    frontier.store = None
    found, nearest = (text, frontier), 1.0
    for byte in lm.sample(prompt, temperature=0.0, max_bytes=AHEAD).bytes:
        frontier, text = frontier.advance(bytes([byte])), text + bytes([byte])
        if (off := abs(_unknown(frontier) - 0.5)) < nearest:
            found, nearest = (text, frontier), off
    return found


def _unknown(frontier: Any) -> float:
    """The share of what can flow on that is not evaluated."""
    _, envelope = frontier.envelope()
    return float(envelope.unknown / (envelope.known.sum() + envelope.unknown))


def draws(lm: Any, prompt: str, *, count: int) -> list[dict[str, Any]]:
    """Draws at one place under each of the settings: their p-values, and how many rows a draw asked for."""
    from bytelm import ByteLM
    from bytelm.inference.scheduler import Scheduler
    from bytelm.sampling.filters import Filters
    from bytelm.sampling.place import ModelPlace

    text, frontier = lazy_place(lm, prompt)
    exact = np.exp(ByteLM(lm.token_lm).next_byte_logprobs(text))
    scheduler = Scheduler(lm.token_lm)
    unknown = _unknown(frontier)
    found = []
    for number, settings in enumerate(SETTINGS):
        filters = Filters(**settings)  # type: ignore[arg-type]
        random = np.random.default_rng([number, *text])
        uniforms = random.random(count)
        asked, symbols = lm.token_lm.asked, np.empty(count, np.int64)
        for i in range(count):
            place = ModelPlace(frontier.copy(), lm.token_lm)
            (symbols[i],) = scheduler.run_one(place.draw(filters, uniforms[i : i + 1], random)).result
        where = {"text": text.decode(errors="replace"), "settings": settings, "unknown": round(unknown, 4)}
        p = p_value(symbols, filters.apply(exact))
        found.append(where | {"p": p, "rows_per_draw": (lm.token_lm.asked - asked) / count})
    for settings in BY_TOKEN:
        found += [{"unknown": round(unknown, 4), **row} for row in token_draws(lm, text, settings, count=count)]
    return found


def token_draws(lm: Any, text: bytes, settings: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """Completions at one place that are drawn by the token: the p-values of their first bytes, and of their last ones."""
    from bytelm import ByteLM, SamplingParams

    params = SamplingParams(max_bytes=DEEP, seed=len(text), **settings)
    if not params.by_token:
        raise ValueError(f"with {settings} bytes are drawn, not tokens")
    exact = ByteLM(lm.token_lm)
    asked = lm.token_lm.asked
    done = lm.sample_batch([text], n=count, params=params)[0]
    rows_per_draw = (lm.token_lm.asked - asked) / count
    written = [(*completion.bytes, EOT)[:DEEP] for completion in done]
    (common, _), *_ = Counter(symbols[:-1] for symbols in written if len(symbols) == DEEP).most_common(1)
    found = []
    for before in ((), common):
        at = len(before)
        symbols = np.array([each[at] for each in written if each[:at] == before and len(each) > at])
        row = np.exp(exact.next_byte_logprobs(text + bytes(before)))
        p = p_value(symbols, params.filters.apply(row))
        where = {"text": text.decode(errors="replace"), "settings": settings, "byte": at + 1}
        found.append(where | {"p": p, "rows_per_draw": rows_per_draw})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print a table; 1 where anything differs."""
    parser = command("evals.cost.lazy", __doc__)
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    parser.add_argument(
        "--prompts", type=int, default=200, help="prompts to complete greedily, of four kinds (default 200)"
    )
    parser.add_argument("--bytes", type=int, default=32, help="bytes to write after each (default 32)")
    parser.add_argument("--places", type=int, default=20, help="prompts to draw after (default 20)")
    parser.add_argument("--draws", type=int, default=2000, help="draws at each prompt, for each setting (default 2000)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "prompts", "bytes", "draws")
    if not 0 <= options.places <= len(PROMPTS):
        parser.error(f"--places must be 0 to {len(PROMPTS)}; got {options.places}")
    return answer(options, lambda: _measured(options, words), show=_show, failed=_differs)


def _differs(result: dict[str, Any]) -> bool:
    return bool(result["different"]) or _bonferroni(result["places"]) < P_LEAST


def _measured(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    from bytelm import ByteLM

    set_threads(options.threads)
    lm = ByteLM.from_pretrained(options.model)
    share = -(-options.prompts // len(KINDS))
    parts = [(kind, prompts_of(kind, share, seed=options.seed)) for kind in KINDS]
    step = 10
    cuts = [(kind, prompts[i : i + step]) for kind, prompts in parts for i in range(0, len(prompts), step)]
    same = dict.fromkeys(KINDS, 0)
    different: list[str] = []
    for kind, prompts in tracked(cuts, "greedy"):
        agreed, wrong = greedy(lm, prompts, size=options.bytes)
        same[kind] += agreed
        different += wrong
    remembering = Remembering(lm.token_lm)
    lm = ByteLM(remembering)
    places: list[dict[str, Any]] = []
    for prompt in tracked(PROMPTS[: options.places], "draws"):
        places += draws(lm, prompt, count=options.draws)
        remembering.forget()
    return {
        "command": command_of("evals.cost.lazy", words),
        "model": options.model,
        "bytes": options.bytes,
        "draws": options.draws,
        "versions": versions(),
        "greedy": {kind: {"prompts": len(prompts), "same": same[kind]} for kind, prompts in parts},
        "different": different,
        "places": places,
    }


def _show(result: dict[str, Any]) -> None:
    """Print the two tables."""
    places = result["places"]
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        name = ", ".join(f"{key} {value:g}" for key, value in place["settings"].items())
        if "byte" in place:
            name += f", by the token: byte {place['byte']}"
        by_setting.setdefault(name, []).append(place)
    prompts = table(
        f"{result['model']}: greedy, {result['bytes']} bytes, lazy against full", ["prompts", "number", "the same"]
    )
    for kind, counts in result["greedy"].items():
        prompts.add_row(kind, str(counts["prompts"]), str(counts["same"]))
    drawn = table(
        f"{result['model']}: {result['draws']} draws at each prompt, against the exact row",
        ["settings", "places", "unknown", "rows / draw", "least p", "p < 0.05"],
    )
    for name, rows in by_setting.items():
        ps = np.array([row["p"] for row in rows])
        asked = np.mean([row["rows_per_draw"] for row in rows])
        unknown = np.mean([row["unknown"] for row in rows])
        drawn.add_row(
            name, str(len(rows)), f"{unknown:.0%}", f"{asked:.2f}", f"{ps.min():.4f}", str(int((ps < 0.05).sum()))
        )
    console().print(prompts, drawn)
    print_line(f"all tests together: least p times their number {_bonferroni(places):.2f}")


def _bonferroni(places: Sequence[dict[str, Any]]) -> float:
    return min(1.0, min((place["p"] for place in places), default=1.0) * len(places))


if __name__ == "__main__":
    sys.exit(main())
