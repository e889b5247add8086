"""What travels between a model's device and memory: ``python -m evals.cost.moved``.

A GPU has the rows where it computed them. Their likely tokens come to memory; what these do not answer the rows are
asked there (bytelm/engines/device_rows.py), and whole rows stay there. Bytes that travel are counted, both ways, and are
the same on every device: on the CPU device too, where nothing has to travel.

Columns
    *rows*: rows of the model for each token of the text. *whole*: bytes a token if all of them travelled. *moved*:
    those that do. *questions*: how often rows are asked for each token; a question is some kernels and a wait. *same*:
    how many texts are, byte for byte, those that rows in memory give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from evals.cost.core import CASES
from evals.cost.prompts import PROMPTS, add_prompt_options
from evals.report.command import add_engine_options, at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

ALONE: Final = [case for case in CASES if case not in ("mixture", "product", "infill")]  # one prompt, one model


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the texts and print a table."""
    parser = command("evals.cost.moved", __doc__)
    parser.add_argument(
        "--models", default="demo,demo-gemma", help="folders, hub ids, packaged models (default %(default)s)"
    )
    parser.add_argument("--cases", default=",".join(ALONE), help="which cases to run (default: all)")
    add_prompt_options(parser)
    add_engine_options(parser)
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "threads")
    cases = chosen(parser, "case", options.cases, ALONE)
    return answer(options, lambda: _measure(options, cases, words), show=_show)


def _measure(options: argparse.Namespace, cases: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    set_threads(options.threads)
    rows = []
    for model in options.models.split(","):
        told: dict[bool, list[dict[str, Any]]] = {}
        for device_rows in (False, True):
            told[device_rows] = _written(model, cases, options, device_rows=device_rows)
        for here, there in zip(told[False], told[True], strict=True):
            same = sum(one == other for one, other in zip(here.pop("texts"), there.pop("texts"), strict=True))
            rows.append({"model": model, **there, "same": same})
    return {
        "command": command_of("evals.cost.moved", words),
        "machine": machine(options.threads),
        "versions": versions("torch", "transformers"),
        "prompts": len(PROMPTS[: options.limit]),
        "rows": rows,
    }


def _written(
    model: str, cases: Sequence[str], options: argparse.Namespace, *, device_rows: bool
) -> list[dict[str, Any]]:
    from bytelm import ByteLM

    lm = ByteLM.from_pretrained(model, device=options.device, dtype=options.dtype, device_rows=device_rows)
    engine: Any = lm.token_lm
    lm.sample(PROMPTS[0], max_bytes=1)  # the tokens in byte order are sent once
    found = []
    for case in cases:
        tokens = asked = 0
        texts, moved, questions = [], engine.moved_bytes, engine.row_questions
        for prompt in tracked(PROMPTS[: options.limit], f"{model}, {case}"):
            lm.clear_cache()
            done = lm.sample(prompt, max_bytes=options.bytes, seed=0, **CASES[case])
            tokens += max(len(lm.token_ends(lm.prompt(prompt), done.bytes)), 1)
            asked += done.usage.rows
            texts.append(done.bytes.hex())
        moved, questions = engine.moved_bytes - moved, engine.row_questions - questions
        row = engine.next_token_rows([(int(lm.viability.prefix_index.order[0]),)])[0]
        found.append(
            {
                "case": case,
                "tokens": tokens,
                "rows": asked,
                "row_bytes": row.nbytes,
                "moved_bytes": moved,
                "questions": questions,
                "texts": texts,
            }
        )
    return found


def _show(result: dict[str, Any]) -> None:
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        shown = table(f"{model}: bytes a token", ["case", "rows", "whole", "moved", "share", "questions", "same"])
        for row in (row for row in result["rows"] if row["model"] == model):
            whole = row["rows"] * row["row_bytes"] / row["tokens"]
            moved = row["moved_bytes"] / row["tokens"]
            shown.add_row(
                row["case"],
                f"{row['rows'] / row['tokens']:.2f}",
                f"{whole:,.0f}",
                f"{moved:,.0f}",
                f"{moved / whole:.2%}",
                f"{row['questions'] / row['tokens']:.2f}",
                f"{row['same']} of {result['prompts']}",
            )
        console().print(shown)
    print_line(result["command"])


if __name__ == "__main__":
    sys.exit(main())
