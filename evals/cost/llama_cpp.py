"""What exact bytes cost on llama.cpp: ``python -m evals.cost.llama_cpp``.

The methods run on the same prompts, one after the other at each prompt. Each has its own cache, empty at every prompt.
    *tokens*: llama.cpp's own generation: its decode and its sampler, greedy, with its own defaults, in the smallest
    loop that drives them.
    *lazy*: greedy bytes on the engine "llama-cpp". *drawn*: bytes at temperature 1.
    *transformers*: greedy bytes on the transformers engine, which runs the same file unpacked to float32.
Times are wall times per byte of new text. They depend on the machine and the day; compare only ratios within one run.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evals.cost.bench import Sums
from evals.cost.prompts import BYTES_PER_TOKEN, PROMPTS, add_prompt_options
from evals.report.command import at_least, chosen, command, set_threads, words_of
from evals.report.output import add_output_options, answer
from evals.report.progress import tracked
from evals.report.records import command_of
from evals.report.surroundings import versions
from evals.report.tables import console, print_line, table

METHODS: Final = ("tokens", "lazy", "drawn", "transformers")


class TokenLoop:
    """llama.cpp's own greedy generation."""

    def __init__(self, path: Path, *, threads: int, n_ctx: int) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        params: Any = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = n_ctx, threads, threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._sampler = llama_cpp.llama_sampler_init_greedy()

    def run(self, prompt: Sequence[int], count: int) -> list[int]:
        """The tokens that follow a prompt."""
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)  # noqa: FBT003 - a C function
        fed = (ctypes.c_int32 * len(prompt))(*prompt)
        written: list[int] = []
        while len(written) < count:
            if lib.llama_decode(self._context, lib.llama_batch_get_one(fed, len(fed))) != 0:
                raise RuntimeError("llama_decode failed")
            written.append(int(lib.llama_sampler_sample(self._sampler, self._context, -1)))
            fed = (ctypes.c_int32 * 1)(written[-1])
        return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print one table."""
    parser = command("evals.cost.llama_cpp", __doc__)
    parser.add_argument("--model", default="demo", help="demo or demo-gemma (default demo)")
    add_prompt_options(parser)
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often to repeat everything (default 1)")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="methods to run, out of %(default)s (default: all)"
    )
    add_output_options(parser, plot=None)
    words = words_of(arguments)
    options = parser.parse_args(words)
    at_least(parser, options, "bytes", "limit", "threads", "rounds")
    methods = chosen(parser, "method", f"tokens,{options.methods}", METHODS)
    return answer(options, lambda: _measure(options, methods, words), show=_show)


def _measure(options: argparse.Namespace, methods: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
    from bytelm import ByteLM
    from bytelm.engines.llama_cpp.context import library
    from bytelm.packaged import packaged_gguf

    library()  # silences llama.cpp
    set_threads(options.threads)
    loop = TokenLoop(packaged_gguf(options.model), threads=options.threads, n_ctx=2048)
    small = ByteLM.from_pretrained(options.model, engine="llama-cpp", n_threads=options.threads, n_ctx=2048)
    large = ByteLM.from_pretrained(options.model) if "transformers" in methods else small
    costs = {method: Sums(method) for method in methods}

    def run(method: str, prompt: str, size: int, cost: Sums) -> None:
        lm = large if method == "transformers" else small
        engine: Any = lm.token_lm
        if method == "tokens":
            ids = lm.tokenizer(prompt).input_ids
            start = time.perf_counter()
            tokens = loop.run(ids, max(1, round(size / BYTES_PER_TOKEN)))
            cost.seconds += time.perf_counter() - start
            cost.new_bytes += len(lm.spell(tokens))
            cost.calls, cost.fed = cost.calls + len(tokens), cost.fed + len(ids) + len(tokens) - 1
            return
        engine.clear_cache()
        before, start = engine.usage.copy(), time.perf_counter()
        written = lm.sample(prompt, max_bytes=size, temperature=1.0 if method == "drawn" else 0.0, seed=0, n=1)
        cost.seconds += time.perf_counter() - start
        spent = engine.usage.since(before)
        cost.new_bytes += len(written.bytes)
        cost.calls, cost.fed = cost.calls + spent.calls, cost.fed + spent.tokens_fed

    prompts = PROMPTS[: options.limit]
    for method in methods:
        run(method, prompts[0], 8, Sums(method))  # warm up: some work is done only once
    for prompt in tracked(prompts * options.rounds, "prompts"):
        for method in methods:
            run(method, prompt, options.bytes, costs[method])
    rows = []
    against = costs["tokens"].seconds / costs["tokens"].new_bytes
    for cost in costs.values():
        each = cost.seconds / max(cost.new_bytes, 1)
        rows.append(
            {
                "method": cost.method,
                "ms_per_byte": 1000 * each,
                "time_against_tokens": each / against,
                "calls_per_byte": cost.calls / max(cost.new_bytes, 1),
                "fed_per_byte": cost.fed / max(cost.new_bytes, 1),
            }
        )
    return {
        "command": command_of("evals.cost.llama_cpp", words),
        "model": options.model,
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": versions("llama-cpp-python"),
        "rows": rows,
        "sums": [asdict(cost) for cost in costs.values()],
    }


def _show(result: dict[str, Any]) -> None:
    made = table(result["model"], [name.replace("_", " ") for name in result["rows"][0]])
    for row in result["rows"]:
        made.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    print_line(result["command"])
    console().print(made)


if __name__ == "__main__":
    sys.exit(main())
