"""What travels between a model's device and memory: ``python -m evals.cost.moved``.

A GPU has the rows where it computed them. Their likely tokens come to memory; what these do not answer the rows are
asked there (bytelm/engines/device_rows.py), and whole rows stay there. Bytes that travel are counted, both ways, and are
the same on every device: on the CPU device too, where nothing has to travel.

Columns
    *rows*: rows of the model for each token of the text. *whole*: bytes a token if all of them travelled. *moved*:
    those that do. *questions*: how often rows are asked for each token; a question is some kernels and a wait. *time*:
    wall time of the texts, the model's passes included, against that with rows in memory. *same*: how many texts are,
    byte for byte, those that rows in memory give.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from evals.cost.core import CASES, ENSEMBLES
from evals.cost.prompts import PROMPTS, add_prompt_options
from evals.report.command import add_engine_options, at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import machine, versions
from evals.report.tables import console, print_line, table

ALONE: Final = [case for case in CASES if case not in (*ENSEMBLES, "infill")]  # one prompt, one model


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the texts and print a table."""
    parser = command("evals.cost.moved", __doc__)
    parser.add_argument(
        "--models", default="demo,demo-gemma", help="folders, hub ids, packaged models (default %(default)s)"
    )
    parser.add_argument("--cases", default=",".join(ALONE), help="which cases to run (default: all)")
    parser.add_argument(
        "--engine", choices=("transformers", "vllm"), default="transformers", help="default %(default)s"
    )
    parser.add_argument("--block-size", type=int, metavar="N", help="tokens of a block of vLLM's prefix cache")
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
        lms = {device_rows: _loaded(model, options, device_rows=device_rows) for device_rows in (False, True)}
        for case in cases:
            here, there = (_written(lm, case, options, f"{model}, {case}") for lm in lms.values())
            same = sum(one == other for one, other in zip(here.pop("texts"), there.pop("texts"), strict=True))
            ratio = there.pop("seconds") / here.pop("seconds")
            rows.append({"model": model, "case": case, **there, "time_against_memory": ratio, "same": same})
        for lm in lms.values():
            if options.engine == "vllm":
                lm.token_lm.close()  # with its processes
    return {
        "command": command_of("evals.cost.moved", words),
        "machine": machine(options.threads),
        "versions": versions("torch", "transformers"),
        "engine": options.engine,
        "prompts": len(PROMPTS[: options.limit]),
        "rows": rows,
    }


def _loaded(model: str, options: argparse.Namespace, *, device_rows: bool) -> Any:
    from bytelm import ByteLM

    where: dict[str, Any] = {"device": options.device}
    if options.engine == "vllm":
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output has the result
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB; else nearly all memory, which may not be free
        where = {"max_model_len": 1024, "enforce_eager": True}
        where |= {"block_size": options.block_size} if options.block_size else {}
    lm = ByteLM.from_pretrained(model, engine=options.engine, dtype=options.dtype, device_rows=device_rows, **where)
    lm.sample(PROMPTS[0], max_bytes=1, temperature=0)  # the tokens in byte order are sent once
    return lm


def _written(lm: Any, case: str, options: argparse.Namespace, what: str) -> dict[str, Any]:
    engine, tokens, asked, seconds = lm.token_lm, 0, 0, 0.0
    texts, moved, questions = [], engine.moved_bytes, engine.row_questions
    for prompt in tracked(PROMPTS[: options.limit], what):
        lm.clear_cache()
        start = time.perf_counter()
        done = lm.sample(prompt, max_bytes=options.bytes, seed=0, engine_draws=False, **CASES[case])
        seconds += time.perf_counter() - start
        tokens += max(len(lm.token_ends(lm.prompt(prompt), done.bytes)), 1)
        asked += done.usage.rows
        texts.append(done.bytes.hex())
    return {
        "tokens": tokens,
        "rows": asked,
        "row_bytes": 4 * lm.token_lm.vocab_size,
        "moved_bytes": engine.moved_bytes - moved,
        "questions": engine.row_questions - questions,
        "texts": texts,
        "seconds": seconds,
    }


def _show(result: dict[str, Any]) -> None:
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        shown = table(
            f"{model}: bytes a token", ["case", "rows", "whole", "moved", "share", "questions", "time", "same"]
        )
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
                f"{row['time_against_memory']:.2f}",
                f"{row['same']} of {result['prompts']}",
            )
        console().print(shown)
    print_line(result["command"])


if __name__ == "__main__":
    sys.exit(main())
