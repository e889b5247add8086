"""What exact bytes cost beside plain token generation: ``python -m evals.cost``.

The methods, on the same prompts and model, one after the other at each prompt
    *generate*: ``model.generate``, greedy; *lazy*: greedy bytes; *drawn*: bytes at temperature 1; *full*: greedy bytes
    with every boundary node evaluated.
What is measured
    *calls*: forward passes a byte, and a token of the text that was written; *fed*: tokens run through the model a byte, the prompt included.
    *core*: milliseconds of CPU a byte outside the model (the whole step less what passes inside the engine).
    *time*: the ratio of wall time to that of ``model.generate`` for the same number of bytes.
    *memory*: peak resident memory of a process that runs the method alone.
Calls and tokens are deterministic. Times are of this machine on this day; only their ratios within one run mean
anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from evals.prompts import PROMPTS

METHODS = ("generate", "lazy", "drawn", "full")


class Clocked:
    """A TokenLM that notes the time spent inside another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids
        self.usage = inner.usage
        self.cpu_seconds = 0.0

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float[np.ndarray, "n vocab"]:
        """The rows of the inner model."""
        own = time.thread_time()
        rows: Float[np.ndarray, "n vocab"] = self.inner.next_token_logprobs(sequences)
        self.cpu_seconds += time.thread_time() - own
        return rows


@dataclass
class Cost:
    """The sums over all prompts of one method."""

    method: str
    new_bytes: int = 0
    new_tokens: int = 0
    calls: int = 0
    fed: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    peak_mib: float = 0.0

    def row(self, generate: Cost) -> dict[str, float | str]:
        """The figures of the table."""
        per_byte = self.seconds / self.new_bytes
        return {
            "method": self.method,
            "calls_per_byte": self.calls / self.new_bytes,
            "calls_per_token": self.calls / self.new_tokens,
            "fed_per_byte": self.fed / self.new_bytes,
            "core_ms_per_byte": 1000 * self.core_seconds / self.new_bytes,
            "ms_per_byte": 1000 * per_byte,
            "time_against_generate": per_byte / (generate.seconds / generate.new_bytes),
            "peak_mib": self.peak_mib,
        }


class Bench:
    """One model with every method ready to run."""

    def __init__(self, model: str) -> None:
        from bytelm import ByteLM
        from bytelm.engines.transformers import load
        from bytelm.packaged import is_packaged, packaged_directory

        self.engine = load(str(packaged_directory(model)) if is_packaged(model) else model)
        start = time.process_time()
        self.clocked = Clocked(self.engine)
        self.lm = ByteLM(self.clocked)
        self.structures_seconds = time.process_time() - start

    def run(self, method: str, prompt: str, size: int, cost: Cost) -> None:
        """Complete one prompt and add up what it took."""
        self.engine.clear_cache()
        if method == "generate":
            self._generate(prompt, size, cost)
        else:
            self._bytes(prompt, size, cost)

    def _generate(self, prompt: str, size: int, cost: Cost) -> None:
        import torch

        tokenizer = self.lm.tokenizer
        ids = tokenizer(prompt, return_tensors="pt").input_ids.to(self.engine.model.device)
        tokens = max(1, round(size / 3.3))
        start = time.perf_counter()
        with torch.inference_mode():
            out = self.engine.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None
            )
        cost.seconds += time.perf_counter() - start
        new = out[0, ids.shape[1] :].tolist()
        cost.new_bytes += len(self.lm.spell(new))
        cost.new_tokens += len(new)
        cost.calls += len(new)
        cost.fed += ids.shape[1] + len(new) - 1

    def _bytes(self, prompt: str, size: int, cost: Cost) -> None:
        before, inside = self.engine.usage.copy(), self.clocked.cpu_seconds
        start, own = time.perf_counter(), time.thread_time()
        # A processor that changes nothing asks for every row in full.
        processor = (lambda _, row: row) if cost.method == "full" else None
        warmth = 1.0 if cost.method == "drawn" else 0.0
        text = self.lm.sample(prompt, temperature=warmth, max_bytes=size, seed=0, logits_processor=processor).bytes
        seconds, own = time.perf_counter() - start, time.thread_time() - own
        used = self.engine.usage.since(before)
        cost.seconds += seconds
        cost.core_seconds += own - (self.clocked.cpu_seconds - inside)
        cost.new_bytes += len(text)
        whole = prompt.encode() + text
        cost.new_tokens += len(self.lm.tokenizer(whole.decode("utf-8", "ignore"), add_special_tokens=False).input_ids)
        cost.new_tokens -= len(self.lm.tokenizer(prompt, add_special_tokens=False).input_ids)
        cost.calls += used.calls
        cost.fed += used.tokens_fed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(prog="python -m evals.cost", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma")
    parser.add_argument("--bytes", type=int, default=100, metavar="N", help="bytes to write after each prompt")
    parser.add_argument(
        "--limit", type=int, default=5, metavar="N", help=f"prompts to use, of {len(PROMPTS)} (default 5)"
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods (default all: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--no-memory", action="store_true", help="leave out the runs that measure peak memory")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, help="write the result here too")
    parser.add_argument("--read", type=Path, help="print the table of such a file and do nothing else")
    parser.add_argument("--alone", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.bytes < 1 or options.limit < 1:
        parser.error("--bytes and --limit must be at least 1")
    if options.read is not None:
        _show(json.loads(options.read.read_text(encoding="utf-8")))
        return 0
    methods = list(dict.fromkeys(["generate", *options.methods.split(",")]))
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method is called {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")

    import torch
    from rich.console import Console
    from rich.progress import track

    torch.set_num_threads(options.threads)
    bench = Bench(options.model)
    prompts = PROMPTS[: options.limit]
    if options.alone:
        for prompt in prompts:
            bench.run(options.alone, prompt, options.bytes, Cost(options.alone))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    costs = {method: Cost(method) for method in methods}
    for method in methods:
        bench.run(method, prompts[0], 8, Cost(method))  # what is only done once
    for prompt in track(prompts, description="prompts", console=Console(stderr=True), transient=True):
        for method in methods:
            bench.run(method, prompt, options.bytes, costs[method])
    if not options.no_memory:
        for method, cost in costs.items():
            cost.peak_mib = _peak(method, options)
    result = {
        "command": "python -m evals.cost " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "model": options.model,
        "structures_cpu_seconds": bench.structures_seconds,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": options.threads,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        "rows": [cost.row(costs["generate"]) for cost in costs.values()],
        "sums": [asdict(cost) for cost in costs.values()],
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1)) if options.json else _show(result)
    return 0


def _peak(method: str, options: argparse.Namespace) -> float:
    """Peak memory, in MiB, of a process that runs one method."""
    command = [sys.executable, "-m", "evals.cost", "--alone", method, "--model", options.model]
    command += ["--bytes", str(options.bytes), "--limit", str(options.limit), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very module
    return float(done.stdout.split()[-1])


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['model']}: {result['command']}")
    columns: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("method", "", str),
        ("calls_per_byte", "calls / byte", "{:.2f}".format),
        ("calls_per_token", "calls / token", "{:.2f}".format),
        ("fed_per_byte", "tokens fed / byte", "{:.2f}".format),
        ("core_ms_per_byte", "core ms / byte", "{:.2f}".format),
        ("ms_per_byte", "ms / byte", "{:.1f}".format),
        ("time_against_generate", "time / generate", "{:.2f}".format),
        ("peak_mib", "peak MiB", lambda mib: f"{mib:.0f}" if mib else "-"),
    )
    for name, title, _ in columns:
        table.add_column(title or name, justify="left" if not title else "right")
    for row in result["rows"]:
        table.add_row(*(show(row[name]) for name, _, show in columns))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"tokenizer structures: {result['structures_cpu_seconds']:.2f} s of CPU time")


if __name__ == "__main__":
    sys.exit(main())
