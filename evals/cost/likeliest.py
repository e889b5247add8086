"""What the likeliest endings of a word cost, beside one greedy completion: ``python -m evals.cost.likeliest``.

Cursors are seeded places inside words of the prompts of prompts.py. At each of them, from an empty cache,

*greedy*
    one completion at temperature 0 to the end of the word: to the first ASCII character that is no letter, digit or _;
*likeliest*
    the n likeliest completions to there, by `ByteLM.likeliest`.

*calls* are model calls, *fed* tokens run through the model, *seconds* the whole. Of each the median over the cursors of
likeliest / greedy is told, with the quartiles. *better* counts the cursors where the likeliest ending is not the greedy
one, *certified* those whose search came to its end within ``--max-calls``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any, Final

from evals.cost.prompts import PROMPTS
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

WORD_ENDS: Final = tuple(c for c in map(chr, range(128)) if not (c.isalnum() or c == "_"))
LEAST_BEFORE: Final = 8  # characters
COUNTS: Final = ("calls", "fed", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print a table."""
    parser = command("evals.cost.likeliest", __doc__)
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="number of cursors (default %(default)s)")
    parser.add_argument("-n", type=int, default=5, help="number of endings (default %(default)s)")
    parser.add_argument(
        "--bytes", type=int, default=32, metavar="N", help="most bytes of an ending (default %(default)s)"
    )
    parser.add_argument("--max-calls", type=int, default=256, help="most model calls of a search (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of cursors (default 0)")
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "limit", "n", "bytes", "max_calls", "threads")
    return answer(options, lambda: _measure(options, words), show=_show)


def cursors(count: int, *, seed: int = 0) -> list[str]:
    """Prompts, each cut at a seeded place inside a word.

    >>> all(text[-1].isalnum() for text in cursors(20))
    True
    """
    places = [
        prompt[:at]
        for prompt in PROMPTS
        for at in range(LEAST_BEFORE, len(prompt))
        if all(c.isascii() and c.isalnum() for c in prompt[at - 1 : at + 1])
    ]
    return random.Random(seed).sample(places, min(count, len(places)))


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    from bytelm import ByteLM

    set_threads(options.threads)
    lm = ByteLM.from_pretrained(options.model)
    lm.sample("a", max_bytes=4)  # what is loaded with the first text is no part of the cost
    lines = [_line(lm, text, options) for text in tracked(cursors(options.limit, seed=options.seed), "cursors")]
    return {
        "command": command_of("evals.cost.likeliest", words),
        "model": options.model,
        "machine": machine(options.threads),
        "versions": versions("torch", "transformers"),
        "n": options.n,
        "cursors": len(lines),
        "certified": sum(line["certified"] for line in lines),
        "better": sum(line["better"] for line in lines),
        "ratios": {name: quantiles([line[name][1] / line[name][0] for line in lines], n=4) for name in COUNTS},
        "lines": lines,
    }


def _line(lm: Any, text: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both at one cursor, with their counts in this order: greedy, likeliest."""
    ends: dict[str, Any] = {"stop": WORD_ENDS, "max_bytes": options.bytes}
    lm.clear_cache()
    start = time.perf_counter()
    one = lm.sample(text, temperature=0, **ends)
    between = time.perf_counter()
    lm.clear_cache()
    begun = time.perf_counter()
    several = lm.likeliest(text, n=options.n, max_calls=options.max_calls, **ends)
    seconds = between - start, time.perf_counter() - begun
    return {
        "prompt": text[-40:],
        "calls": [one.usage.calls, several.usage.calls],
        "fed": [one.usage.tokens_fed, several.usage.tokens_fed],
        "seconds": [round(value, 3) for value in seconds],
        "certified": several.certified,
        "better": bool(several.endings) and several[0].bytes != one.bytes,
        "greedy": one.text,
        "endings": [[ending.text, round(ending.logprob, 6)] for ending in several],
    }


def _show(result: dict[str, Any]) -> None:
    print_line(result["command"])
    made = table(f"the {result['n']} likeliest endings beside one greedy completion", ["", "median", "quartiles"])
    for name, (low, middle, high) in result["ratios"].items():
        made.add_row(f"{name}, likeliest / greedy", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    console().print(made)
    total = result["cursors"]
    print_line(f"Certified at {result['certified']} of {total} cursors.")
    print_line(f"The likeliest ending is not the greedy one at {result['better']} of {total}.")


if __name__ == "__main__":
    sys.exit(main())
