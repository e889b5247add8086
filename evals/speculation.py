"""What drafts save: target calls with another model's drafts beside those without, ``python -m evals.speculation``.

Each prompt of evals/cost/prompts.py is completed twice by the target, with a draft and alone, by the same seeds and from
an empty cache. *calls* are calls of the target, *drafter calls* those of the drafter. *fed* are tokens run through the
target. *accepted* is the share of what was drafted that was accepted. At temperature 0 both texts must be the same; how
many are is told.

*computed*: were a call's time the same however many tokens it has, as it nearly is on a GPU with room, and were a
drafter's call c times a target's, then a byte's time would fall by

    calls alone / (calls with a draft + c · drafter calls),    each a byte.

That is a figure of counts, for several c, and no measurement. The measured ratio of seconds is of this machine, where a
token more in a call is not free.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from evals.cost.prompts import CODE, ENGLISH
from evals.report.command import at_least, command, set_threads, words_of
from evals.report.output import add_output_options, answer, draw_bars
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.statistics import Mean, ratio_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

KINDS: Final = {"English": ENGLISH, "code": CODE}
COSTS: Final = (0.0, 0.05, 0.1, 0.25, 0.5)  # of a drafter's call, in a target's
COUNTS: Final = ("calls", "fed", "seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its tables."""
    parser = command("evals.speculation", __doc__)
    parser.add_argument("--model", default="demo-gemma", help="the target (default %(default)s)")
    parser.add_argument("--draft", default="demo", help="the drafter: a model, or lookup (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of both (default 1)")
    parser.add_argument("--bytes", type=int, default=120, metavar="N", help="after each prompt (default %(default)s)")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="prompts of each kind (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the models (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    add_output_options(parser, plot="draw the computed speed-ups to this file")
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "threads")
    if options.temperature < 0:
        parser.error(f"--temperature must be 0 or more; got {options.temperature}")
    return answer(options, lambda: _measure(options, words), show=_show, plot=_plot)


def _measure(options: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    from bytelm import ByteLM

    set_threads(options.threads)
    target = ByteLM.from_pretrained(options.model)
    draft: Any = "lookup" if options.draft == "lookup" else ByteLM.from_pretrained(options.draft)
    for lm in (target, draft):
        if lm != "lookup":
            lm.sample("a", max_bytes=4)  # what is loaded with the first text is no part of the cost
    prompts = [(kind, prompt) for kind, all_ in KINDS.items() for prompt in all_[: options.limit]]
    lines = [line_of(target, draft, kind, prompt, options) for kind, prompt in tracked(prompts, "prompts")]
    return {
        "command": command_of("evals.speculation", words),
        "target": options.model,
        "draft": options.draft,
        "temperature": options.temperature,
        "machine": machine(options.threads),
        "versions": versions("torch", "transformers"),
        "lines": lines,
    }


def line_of(target: Any, draft: Any, kind: str, prompt: str, options: argparse.Namespace) -> dict[str, Any]:
    """One prompt, both ways: each count in this order: alone, with the draft."""
    found: dict[str, Any] = {"kind": kind, "prompt": prompt[-40:], **{name: [] for name in ("bytes", *COUNTS)}}
    texts = []
    for drafter in (None, draft):
        engines = [lm.engines[0] for lm in (target, draft) if lm != "lookup"]
        for lm in (target, draft):
            if lm != "lookup":
                lm.clear_cache()
        before = [engine.usage.copy() for engine in engines]
        begun = time.perf_counter()
        done = target.sample(
            prompt, temperature=options.temperature, max_bytes=options.bytes, seed=options.seed, draft=drafter
        )
        seconds = time.perf_counter() - begun
        spent = [engine.usage.since(start) for engine, start in zip(engines, before, strict=True)]
        texts.append(done.bytes)
        for name, value in zip(
            ("bytes", *COUNTS), (len(done.bytes), spent[0].calls, spent[0].tokens_fed, round(seconds, 3)), strict=True
        ):
            found[name].append(value)
        if drafter is not None:
            found |= {"drafted": done.usage.drafted, "accepted": done.usage.accepted, "error": done.usage.draft_error}
            found["drafter calls"] = spent[1].calls if len(spent) > 1 else 0
    return {**found, "same": texts[0] == texts[1]}


def _rates(lines: Sequence[dict[str, Any]], name: str) -> tuple[Mean, Mean]:
    """A count for each byte, alone and with the draft."""
    alone, drafted = (
        ratio_of([line[name][at] for line in lines], [line["bytes"][at] for line in lines]) for at in (0, 1)
    )
    return alone, drafted


def speed_up(lines: Sequence[dict[str, Any]], cost: float) -> float:
    """By how much a byte's time falls, computed from counts, where a drafter's call costs so much of a target's."""
    alone, drafted = _rates(lines, "calls")
    drafter = sum(line["drafter calls"] for line in lines) / max(sum(line["bytes"][1] for line in lines), 1)
    return float(alone.mean / (drafted.mean + cost * drafter))


def _groups(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    lines = result["lines"]
    kinds = dict.fromkeys(line["kind"] for line in lines)
    return {kind: [line for line in lines if line["kind"] == kind] for kind in kinds} | {"all": lines}


def _show(result: dict[str, Any]) -> None:
    print_line(result["command"])
    title = f"{result['target']} with drafts of {result['draft']}, temperature {result['temperature']:g}"
    heads = [
        "",
        "calls a byte, alone",
        "drafted",
        "ratio",
        "fed, ratio",
        "seconds, ratio",
        "accepted",
        "drafter calls a byte",
    ]
    made = table(title, heads)
    for kind, lines in _groups(result).items():
        ratios = {name: _rates(lines, name) for name in COUNTS}
        drafted = sum(line["drafted"] for line in lines)
        written = sum(line["bytes"][1] for line in lines)
        made.add_row(
            kind,
            *(f"{rate.mean:.3f}" for rate in ratios["calls"]),
            *(f"{ratios[name][1].mean / ratios[name][0].mean:.2f}" for name in COUNTS),
            f"{sum(line['accepted'] for line in lines) / max(drafted, 1):.2f}",
            f"{sum(line['drafter calls'] for line in lines) / max(written, 1):.3f}",
        )
    console().print(made)
    made = table("computed: a byte's time alone over that with drafts", ["", *(f"c = {cost:g}" for cost in COSTS)])
    for kind, lines in _groups(result).items():
        made.add_row(kind, *(f"{speed_up(lines, cost):.2f}" for cost in COSTS))
    console().print(made)
    if result["temperature"] == 0:
        print_line(
            f"The same text at {sum(line['same'] for line in result['lines'])} of {len(result['lines'])} prompts."
        )


def _plot(result: dict[str, Any], path: Any) -> None:
    groups = _groups(result)
    draw_bars(
        path,
        list(groups),
        {
            f"drafter costs {cost:g} of the target": [speed_up(lines, cost) for lines in groups.values()]
            for cost in COSTS
        },
        title=f"computed speed-up of {result['target']} by drafts of {result['draft']}",
        line=1.0,
    )


if __name__ == "__main__":
    sys.exit(main())
