"""What exact bytes cost on llama.cpp: ``python -m evals.cost.llama_cpp``.

The methods run on the same prompts, one after the other at each prompt, each with a cache of its own that is empty at
every prompt.
    *tokens*: llama.cpp's own generation: its decode and its sampler, greedy, with its own defaults, in the smallest
    loop that drives them.
    *lazy*: greedy bytes on the engine "llama-cpp". *drawn*: bytes at temperature 1.
    *transformers*: greedy bytes on the transformers engine, which runs the same file unpacked to float32.
Times are wall times a byte of new text, of this machine on this day; only their ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from evals.cost.prompts import BYTES_PER_TOKEN, PROMPTS
from evals.report.output import add_output_options, put_out, read_result
from evals.report.records import command_of

METHODS: Final = ("tokens", "lazy", "drawn", "transformers")


@dataclass
class Cost:
    """The sums over all prompts of one method."""

    method: str
    new_bytes: int = 0
    seconds: float = 0.0
    calls: int = 0
    fed: int = 0


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
    parser = argparse.ArgumentParser(prog="python -m evals.cost.llama_cpp", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="demo or demo-gemma (default demo)")
    parser.add_argument("--bytes", type=int, default=100, metavar="N", help="bytes to write after each prompt")
    parser.add_argument("--limit", type=int, default=5, metavar="N", help=f"prompts, of {len(PROMPTS)} (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each engine (default 1)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often all is run (default 1)")
    parser.add_argument("--methods", default=",".join(METHODS), help="of %(default)s")
    add_output_options(parser, plot=None)
    options = parser.parse_args(arguments)
    if options.read is not None:
        result = read_result(options)
    else:
        if min(options.bytes, options.limit, options.threads, options.rounds) < 1:
            parser.error("--bytes, --limit, --threads and --rounds must be at least 1")
        methods = list(dict.fromkeys(["tokens", *options.methods.split(",")]))
        if unknown := set(methods) - set(METHODS):
            parser.error(f"no method is called {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
        result = _measure(options, methods, sys.argv[1:] if arguments is None else list(arguments))
    put_out(result, options, show=_show)
    return 0


def _measure(options: argparse.Namespace, methods: Sequence[str], arguments: Sequence[str]) -> dict[str, Any]:
    import torch
    from rich.console import Console
    from rich.progress import track

    from bytelm import ByteLM
    from bytelm.engines.llama_cpp.context import library
    from bytelm.packaged import packaged_gguf

    library()  # silences llama.cpp
    torch.set_num_threads(options.threads)
    loop = TokenLoop(packaged_gguf(options.model), threads=options.threads, n_ctx=2048)
    small = ByteLM.from_pretrained(options.model, engine="llama-cpp", n_threads=options.threads, n_ctx=2048)
    large = ByteLM.from_pretrained(options.model) if "transformers" in methods else small
    costs = {method: Cost(method) for method in methods}

    def run(method: str, prompt: str, size: int, cost: Cost) -> None:
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
        run(method, prompts[0], 8, Cost(method))  # what is only done once
    for prompt in track(prompts * options.rounds, description="prompts", console=Console(stderr=True), transient=True):
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
        "command": command_of("evals.cost.llama_cpp", arguments),
        "model": options.model,
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": {name: version(name) for name in ("llama-cpp-python", "torch", "transformers", "numpy")},
        "rows": rows,
        "sums": [asdict(cost) for cost in costs.values()],
    }


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['model']}: {result['command']}")
    for name in result["rows"][0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "method" else "right")
    for row in result["rows"]:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
