"""What drafts save: target calls with another model's drafts beside those without, ``python -m evals.speculation``.

Each prompt is completed twice by the target, with a draft and alone, by the same seeds. Counts begin when the prompt,
and nothing else, is in the cache. English and Python are prompts of evals/cost/prompts.py. An *infill* is a hole in a
file that repeats itself (evals/cost/repeating.py). Of several targets and drafters each pair is measured, but for a
model with itself.

*calls* are calls of the target, *drafter calls* those of the drafter. *fed* are tokens run through the target.
*accepted* is the share of what was drafted that was accepted. At temperature 0 both texts must be the same; how many
are is told. The drafter *lookup* takes n-grams of the text. The drafter *useless* proposes text of another kind.

*computed*: were a call's time the same however many tokens it has, as it nearly is on a GPU with room, and were a
drafter's call c times a target's, then a byte's time would fall by

    calls alone / (calls with a draft + c · drafter calls),    each a byte.

That is a figure of counts, for several c, and no measurement. The measured ratio of seconds is of this machine, where a
token more in a call is not free.

With ``--out`` each line is kept when it is done, and ``--resume`` goes on with such a file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bytelm import ByteLM
from bytelm.byte_lm.fingerprint import digest_of_model
from bytelm.errors import NoInfillFormatError
from bytelm.inference.scheduler import Step
from bytelm.sampling.drafter import Drafter, Drafting, Proposal, certain
from evals.cost.prompts import TWENTY_ENGLISH, TWENTY_PYTHON
from evals.cost.repeating import repeating_holes
from evals.report.command import at_least, chosen, command, set_threads, words_of
from evals.report.output import draw_bars, nothing_to_draw
from evals.report.progress import tracked
from evals.report.records import Line, command_of, exit_status, kept_lines, read_records
from evals.report.statistics import Mean, ratio_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

PROMPTS: Final = {"English": TWENTY_ENGLISH, "Python": TWENTY_PYTHON}
KINDS: Final = (*PROMPTS, "infill")
COSTS: Final = (0.0, 0.05, 0.1, 0.25, 0.5)  # of a drafter's call, in a target's
COUNTS: Final = ("calls", "fed", "seconds")
OTHER_KIND: Final = "Столица России — Москва, крупнейший по численности населения город страны. ".encode()


class Useless(Drafter, Drafting):
    """Proposes the same text everywhere, and is certain of it."""

    def drafting(self, *_: Any) -> Drafting:  # noqa: D102
        return self

    def propose(self, text: bytes, length: int, binding: Any, known: Any) -> Step[list[Proposal]]:  # noqa: D102
        del text, binding, known
        yield from ()
        return [Proposal(byte, certain(byte)) for byte in itertools.islice(itertools.cycle(OTHER_KIND), length)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the tables."""
    words = words_of(arguments)
    options = _parsed(words)
    return exit_status(lambda: _main(options, words), options.out)


def _main(options: argparse.Namespace, words: Sequence[str]) -> int:
    header, lines = read_records(options.read) if options.read else _measured(options, words)
    result = {**header, "lines": lines}
    print(json.dumps(result, indent=1, ensure_ascii=False)) if options.json else _show(result)
    if options.plot:
        _plot(result, options.plot)
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = command("evals.speculation", __doc__)
    parser.add_argument("--model", default="demo-gemma", help="targets, with commas (default %(default)s)")
    parser.add_argument(
        "--draft", default="demo", help="drafters, with commas: models, lookup, useless (default %(default)s)"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="of the prompts (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of both (default 1)")
    parser.add_argument("--bytes", type=int, default=120, metavar="N", help="after each prompt (default %(default)s)")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="prompts of a kind (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="files and folders for the holes (default: of four packages)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the models (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    parser.add_argument("--out", type=Path, help="write a line for each prompt here, when it is done")
    parser.add_argument("--resume", action="store_true", help="go on with --out")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    parser.add_argument("--plot", type=Path, help="draw the computed speed-ups to this file")
    parser.add_argument("--read", type=Path, help="show such a file and run nothing")
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "threads")
    options.kinds = chosen(parser, "kind of prompts", options.kinds, KINDS)
    if options.temperature < 0:
        parser.error(f"--temperature must be 0 or more; got {options.temperature}")
    if options.resume and options.out is None:
        parser.error("--resume goes on with a file: name it with --out")
    targets, drafters = ([name.strip() for name in each.split(",")] for each in (options.model, options.draft))
    options.pairs = [pair for pair in itertools.product(targets, drafters) if pair[0] != pair[1]]
    if not options.pairs:
        parser.error("a model does not draft for itself: name another with --draft")
    return options


def _measured(options: argparse.Namespace, words: Sequence[str]) -> tuple[Line, list[Line]]:
    """The header and all lines of a run, those of an earlier one included."""
    set_threads(options.threads)
    tasks = [task for kind in options.kinds for task in tasks_of(kind, options)]
    names = sorted({name for pair in options.pairs for name in pair} - {"lookup", "useless"})
    loaded = {name: ByteLM.from_pretrained(name) for name in names}
    for lm in loaded.values():
        lm.sample("a", max_bytes=4)  # what is loaded with the first text is no part of the cost
    header = {
        "command": command_of("evals.speculation", words),
        "settings": {
            "pairs": [list(pair) for pair in options.pairs],
            "models": {name: digest_of_model(lm.abilities.model) for name, lm in loaded.items()},
            "tasks": [(task["kind"], task["id"]) for task in tasks],
            **{name: getattr(options, name) for name in ("temperature", "bytes", "seed")},
        },
        "versions": versions(),
        "machine": machine(options.threads),
    }
    drafters = {**loaded, "lookup": "lookup", "useless": Useless()}
    with kept_lines(options.out, header, resume=options.resume) as records:
        done = {(line["target"], line["draft"], line["task"], line["id"]) for line in records.lines}
        work = [(*pair, task) for pair in options.pairs for task in tasks]
        for target, draft, task in tracked(work, "prompts"):
            if (target, draft, task["kind"], task["id"]) not in done:
                found = line_of(loaded[target], drafters[draft], task, options)
                records.add({"kind": "prompt", "target": target, "draft": draft, **found})
    return {"kind": "header", **header}, records.lines


def tasks_of(kind: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The prompts of a kind: each with what it is known by, and the texts before and behind the cursor."""
    if kind == "infill":
        for hole in repeating_holes(options.limit, options.data):
            yield {"kind": kind, "id": hole.id, "before": hole.prefix, "behind": hole.suffix}
        return
    for prompt in PROMPTS[kind][: options.limit]:
        yield {"kind": kind, "id": prompt, "before": prompt.encode(), "behind": None}


def completed(target: ByteLM, task: dict[str, Any], **how: Any) -> Any:
    """A completion of a prompt. Of a target that cannot fill in, a hole's prefix is the prompt."""
    if task["behind"] is None:
        return target.sample(task["before"], **how)
    try:
        return target.infill(task["before"], task["behind"], **how)
    except NoInfillFormatError:
        return target.infill(task["before"], task["behind"], mode="left", **how)


def line_of(target: ByteLM, draft: Any, task: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One prompt, both ways: each count in this order: alone, with the draft."""
    found: dict[str, Any] = {"task": task["kind"], "id": task["id"], **{name: [] for name in ("bytes", *COUNTS)}}
    models = [lm for lm in (target, draft) if isinstance(lm, ByteLM)]
    texts = []
    for drafter in (None, draft):
        for lm in models:
            lm.clear_cache()
        completed(target, task, temperature=0, max_bytes=1, draft=drafter)
        used: list[Any] = [lm.abilities.usage for lm in models]
        before = [usage.copy() for usage in used]
        begun = time.perf_counter()
        how = {"temperature": options.temperature, "max_bytes": options.bytes, "seed": options.seed}
        done = completed(target, task, **how, draft=drafter)
        seconds = time.perf_counter() - begun
        spent = [lm.abilities.usage.since(start) for lm, start in zip(models, before, strict=True)]  # type: ignore[union-attr]
        texts.append(done.bytes)
        for name, value in zip(
            ("bytes", *COUNTS), (len(done.bytes), spent[0].calls, spent[0].tokens_fed, round(seconds, 3)), strict=True
        ):
            found[name].append(value)
        if drafter is not None:
            found |= {"drafted": done.usage.drafted, "accepted": done.usage.accepted, "error": done.usage.draft_error}
            found["drafter calls"] = spent[1].calls if len(spent) > 1 else 0
    return {**found, "same": texts[0] == texts[1]}


def _rates(lines: Sequence[Line], name: str) -> tuple[Mean, Mean]:
    """A count for each byte, alone and with the draft."""
    alone, drafted = (
        ratio_of([line[name][at] for line in lines], [line["bytes"][at] for line in lines]) for at in (0, 1)
    )
    return alone, drafted


def speed_up(lines: Sequence[Line], cost: float) -> float:
    """By how much a byte's time falls, computed from counts, where a drafter's call costs so much of a target's."""
    alone, drafted = _rates(lines, "calls")
    drafter = sum(line["drafter calls"] for line in lines) / max(sum(line["bytes"][1] for line in lines), 1)
    return float(alone.mean / (drafted.mean + cost * drafter))


def groups_of(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each kind of prompts, and where there are several, of all together; texts that are empty are none."""
    written = [line for line in lines if min(line["bytes"])]
    kinds = dict.fromkeys(line["task"] for line in written)
    groups = {kind: [line for line in written if line["task"] == kind] for kind in kinds}
    return groups | ({"all": written} if len(groups) > 1 else {})


def pairs_of(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[Line]]]:
    """The lines of each target and drafter, by kinds."""
    pairs = dict.fromkeys((line["target"], line["draft"]) for line in result["lines"])
    return {
        pair: groups_of([line for line in result["lines"] if (line["target"], line["draft"]) == pair]) for pair in pairs
    }


def _show(result: dict[str, Any]) -> None:
    print_line(result["command"])
    temperature = result["settings"]["temperature"]
    heads = ["", "calls a byte, alone", "drafted", "ratio", "fed, ratio", "seconds, ratio", "accepted"]
    for (target, draft), groups in pairs_of(result).items():
        made = table(f"{target} with drafts of {draft}, temperature {temperature:g}", [*heads, "drafter calls a byte"])
        computed = table(
            "computed: a byte's time alone over that with drafts", ["", *(f"c = {cost:g}" for cost in COSTS)]
        )
        for kind, lines in groups.items():
            ratios = {name: _rates(lines, name) for name in COUNTS}
            drafted, written = sum(line["drafted"] for line in lines), sum(line["bytes"][1] for line in lines)
            made.add_row(
                kind,
                *(f"{rate.mean:.3f}" for rate in ratios["calls"]),
                *(f"{ratios[name][1].mean / ratios[name][0].mean:.2f}" for name in COUNTS),
                f"{sum(line['accepted'] for line in lines) / max(drafted, 1):.2f}",
                f"{sum(line['drafter calls'] for line in lines) / max(written, 1):.3f}",
            )
            computed.add_row(kind, *(f"{speed_up(lines, cost):.2f}" for cost in COSTS))
        console().print(made)
        console().print(computed)
        own = [line for line in result["lines"] if (line["target"], line["draft"]) == (target, draft)]
        if temperature == 0:
            print_line(f"The same text at {sum(line['same'] for line in own)} of {len(own)} prompts.")
        for error in dict.fromkeys(line["error"] for line in own if line["error"]):
            print_line(f"The drafter failed: {error}")


def _plot(result: dict[str, Any], path: Path) -> None:
    bars = {
        f"{target} ← {draft}, {kind}": lines
        for (target, draft), groups in pairs_of(result).items()
        for kind, lines in groups.items()
    }
    if not bars:
        raise nothing_to_draw(path)
    columns = {f"c = {cost:g}": [speed_up(lines, cost) for lines in bars.values()] for cost in COSTS}
    draw_bars(path, list(bars), columns, title="computed speed-up by drafts; c: a drafter's call in a target's", line=1)


if __name__ == "__main__":
    sys.exit(main())
