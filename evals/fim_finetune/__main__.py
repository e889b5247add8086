"""Teach a small base model to fill in the middle: ``python -m evals.fim_finetune --out FOLDER``.

What it does
    Functions are taken from installed packages whose licence permits it (sources.py), freed of the benchmark and
    split in two (corpus.py); holes are cut into them and encoded as `ByteLM.infill` asks (samples.py); a
    low-rank adapter is trained on the middles (training.py) and written in PEFT's layout (adapter.py).
The folder
    ``adapter_model.safetensors`` and ``adapter_config.json``: the best adapter, once the run has ended;
    ``manifest.json``: what it was trained on and how; ``train.jsonl``: one line a step and a held-out loss;
    ``checkpoint.pt``: all that is needed to go on.
Three ways to begin
    Without ``--resume``: a new adapter. ``--resume FILE``, a checkpoint: that run goes on exactly where it ended, with
    its options. ``--resume FOLDER``, an adapter: a new schedule that begins with its weights.
``--repeat MANIFEST`` trains again what a manifest says, and compares. ``--evaluate ADAPTER…`` prints held-out losses
and trains nothing; the same options, the same holes. Losses are means in nats over the tokens of the middles and
their ends; those of PSM and of SPM are over different tokens.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, TextIO

from bytelm.errors import BytelmError, InvalidArgumentError
from evals.fim_finetune.adapter import (
    WEIGHTS,
    Base,
    check_size,
    file_sha256,
    fresh_adapter,
    load_adapter,
    load_base,
    read_config,
    write_adapter,
    write_whole,
)
from evals.fim_finetune.corpus import Benchmark, Corpus, build
from evals.fim_finetune.manifest import check_corpus, compared, manifest_of, read_manifest, surroundings
from evals.fim_finetune.samples import SMOLLM2, Encoder, held_out_samples
from evals.fim_finetune.settings import KINDS, parser, settings_of
from evals.fim_finetune.training import Trainer, held_out_loss, read_checkpoint

CHECKPOINT: Final = "checkpoint.pt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, repeat or evaluate; 130 when interrupted, 2 when something is wrong."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    made = parser()
    options = made.parse_args(given)
    if (options.evaluate is None) == (options.out is None):
        made.error("--out FOLDER says where the adapter goes; --evaluate ADAPTER trains nothing and needs none")
    if options.minutes is not None and options.minutes < 0:
        made.error(f"--minutes must be at least 0; got {options.minutes}")
    if options.benchmark is None and not options.no_dedup:
        made.error(
            "--benchmark FILE… names what training must not see, such as HumanEval.jsonl.gz; to do without it on "
            "purpose, say --no-dedup"
        )
    if options.benchmark is not None and options.no_dedup:
        made.error("--benchmark and --no-dedup contradict one another")
    try:
        return Session(options, given).run()
    except (BytelmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted at once; what was written before is whole", file=sys.stderr)
        return 130


class Session:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace, given: Sequence[str]) -> None:
        import torch

        self.options, self.given = options, given
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.start: Path | None = None
        self.checkpoint: dict[str, Any] | None = None
        fixed: dict[str, Any] = {}
        if options.resume is not None and options.resume.is_dir():
            self.start = options.resume
            config = read_config(options.resume)
            fixed = {"rank": config["r"], "alpha": config["lora_alpha"]}
        elif options.resume is not None:
            self.checkpoint = read_checkpoint(options.resume)
        self.manifest = None if options.repeat is None else read_manifest(options.repeat)
        saved: dict[str, Any] | None = None
        if self.checkpoint is not None:
            saved = {**self.checkpoint["identity"]["settings"], "recipe": self.checkpoint["recipe"]}
        elif self.manifest is not None:
            saved = self.manifest["settings"]
        self.settings = settings_of(options, saved=saved, fixed=fixed, device=self.device)
        self.benchmark = Benchmark.read(options.benchmark) if options.benchmark else None
        if self.benchmark is None:
            print("no deduplication against a benchmark was done", file=sys.stderr)

    def run(self) -> int:
        """Do what the options ask for."""
        if self.options.evaluate is not None:
            return self._evaluate()
        out: Path = self.options.out
        goes_on = self.checkpoint is not None and self.options.resume.resolve() == (out / CHECKPOINT).resolve()
        if not goes_on and any((out / name).exists() for name in (CHECKPOINT, "manifest.json", WEIGHTS)):
            hint = f"go on with --resume {out / CHECKPOINT}, or " if (out / CHECKPOINT).exists() else ""
            raise InvalidArgumentError(f"{str(out)!r} holds a run: {hint}choose another --out")
        base = load_base(self.options.model)
        encoder = Encoder(base.tokenizer, SMOLLM2)
        corpus = self._corpus()
        trainer = self._trainer(base, encoder, corpus)
        with _interrupts() as stopped, self._log(out, trainer) as report:
            ended = trainer.run(
                until=None if self.manifest is None else self.manifest["steps_done"],
                minutes=self.options.minutes,
                stopped=stopped,
                report=report,
                save=lambda: trainer.checkpoint(out / CHECKPOINT),
            )
        if ended == "interrupted":
            print(f"interrupted after step {trainer.step}; go on with --resume {out / CHECKPOINT}", file=sys.stderr)
            return 130
        best = trainer.result()
        written = write_adapter(out, trainer.model, best["adapter"], base)
        manifest = surroundings(self.device, self.given)
        manifest |= manifest_of(trainer, self.settings, best=best, written=written, ended=ended)
        if self.manifest is not None:
            manifest["repeated"] = compared(self.manifest, manifest)
        write_whole(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
        self._print(manifest)
        return 0

    def _corpus(self) -> Corpus:
        """The functions, and that they are those of the manifest, if there is one."""
        from rich.console import Console
        from rich.progress import track

        choice = self.settings.choice
        if self.manifest is not None:
            # What has been installed since is no part of the run.
            choice = replace(choice, packages=tuple(row["package"] for row in self.manifest["corpus"]["packages"]))
        corpus = build(
            choice,
            self.benchmark,
            folders=self.options.site_packages,
            held_out_only=self.options.evaluate is not None,
            track=lambda items: track(items, "packages", console=Console(stderr=True), transient=True),
        )
        if self.manifest is not None:
            check_corpus(self.manifest["corpus"], corpus.record)
        return corpus

    def _trainer(self, base: Base, encoder: Encoder, corpus: Corpus) -> Trainer:
        settings = self.settings
        ours = {"name": base.name, "sha256": base.sha256}
        start = None if self.start is None else file_sha256(self.start / WEIGHTS)
        known = self.checkpoint["identity"] if self.checkpoint else self.manifest
        if known is not None and known["base"] != ours:
            raise InvalidArgumentError(f"the run is of the base {known['base']}, and --model is {ours}")
        if self.checkpoint is not None:
            start = self.checkpoint["identity"]["start"]
        elif self.manifest is not None and self.manifest["start"] != start:
            raise InvalidArgumentError(
                f"the run of the manifest began with {_adapter_told(self.manifest['start'])}, and this one does with "
                f"{_adapter_told(start)}; --resume FOLDER names an adapter to begin with"
            )
        if self.start is not None:
            model = load_adapter(base, self.start, trainable=True, dropout=settings.shape.dropout)
        else:
            model = fresh_adapter(base, settings.shape, seed=settings.recipe.seed)
        check_size(model, self.options.max_mib)
        identity = {
            "base": ours,
            "start": start,
            "corpus": corpus.sha256,
            "settings": {part: asdict(getattr(settings, part)) for part in KINDS if part != "recipe"},
        }
        trainer = Trainer(model.to(self.device), corpus, encoder, settings.holes, settings.recipe, identity)
        if self.checkpoint is not None:
            trainer.restore(self.checkpoint)
        return trainer

    @contextmanager
    def _log(self, out: Path, trainer: Trainer) -> Iterator[Any]:
        """Records go to ``train.jsonl`` and to a progress bar; a log that went further than the checkpoint is cut."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        lines = "".join(json.dumps(record) + "\n" for record in trainer.records)
        write_whole(out / "train.jsonl", lines.encode())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        clocks = (TimeElapsedColumn(), TimeRemainingColumn())
        bar = Progress(*columns, *clocks, console=Console(stderr=True), transient=True)
        task = bar.add_task("held-out loss", total=trainer.recipe.steps, completed=trainer.step)
        began, tokens = time.monotonic(), trainer.tokens

        def report(record: dict[str, Any]) -> None:
            _append(log, record)
            if "held_out" in record:
                told = ", ".join(f"{mode.upper()} {loss:.3f}" for mode, loss in record["held_out"].items())
                bar.console.print(f"step {record['step']}: held-out loss {told}")
            else:
                speed = (record["tokens"] - tokens) / (time.monotonic() - began)
                bar.update(
                    task, completed=record["step"], description=f"loss {record['loss']:.3f}, {speed:.0f} tokens/s"
                )

        with (out / "train.jsonl").open("a", encoding="utf-8") as log, bar:
            yield report

    def _evaluate(self) -> int:
        """Print the held-out losses of some adapters."""
        from rich.console import Console
        from rich.progress import Progress

        recipe = self.settings.recipe
        corpus = self._corpus()
        base = load_base(self.options.model)
        encoder = Encoder(base.tokenizer, SMOLLM2)
        samples = held_out_samples(corpus.held_out, encoder, self.settings.holes, seed=recipe.seed)
        rows = []
        with Progress(console=Console(stderr=True), transient=True) as bar:
            for name in self.options.evaluate:
                folder = Path(name)
                model = base.model if name == "base" else load_adapter(load_base(self.options.model), folder)
                task = bar.add_task(folder.name)
                losses = held_out_loss(
                    model.to(self.device),
                    samples,
                    dtype=recipe.dtype,
                    batch_tokens=recipe.batch_tokens,
                    tick=lambda task=task: bar.advance(task),  # type: ignore[misc] # mypy infers no default argument
                )
                sha256 = None if name == "base" else file_sha256(folder / WEIGHTS)
                rows.append(
                    {"adapter": folder.resolve().name if sha256 else name, "sha256": sha256, "held_out": losses}
                )
        self._print(
            {
                **surroundings(self.device, self.given),
                "base": {"name": base.name, "sha256": base.sha256},
                "settings": {"seed": recipe.seed, "dtype": recipe.dtype, "holes": asdict(self.settings.holes)},
                "corpus": corpus.record,
                "tokens": {mode: sum(len(s.ids) - s.first for s in of_mode) for mode, of_mode in samples.items()},
                "adapters": rows,
            }
        )
        return 0

    def _print(self, result: dict[str, Any]) -> None:
        if self.options.json:
            print(json.dumps(result, indent=1))
            return
        from rich.console import Console
        from rich.table import Table

        side = result["corpus"]["held_out"]
        table = Table(title=f"Held-out loss, nats a token, over {side['functions']} functions ({side['sha256'][:12]})")
        for column in ("adapter", "PSM", "SPM"):
            table.add_column(column, justify="left" if column == "adapter" else "right")
        if "adapters" in result:
            rows = [(row["adapter"], row["held_out"]) for row in result["adapters"]]
        else:
            held_out = result["held_out"]
            rows = [("before", held_out["before"]), (f"after step {held_out['best_step']}", held_out["best"])]
        for name, loss in rows:
            table.add_row(name, *(f"{loss[mode]:.4f}" for mode in ("psm", "spm")))
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table)
        if "ended" in result:
            console.print(f"ended by {result['ended']} after step {result['steps_done']}; {result['adapter']}")
        if "repeated" in result:
            console.print(f"repeated: {result['repeated']}")


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Ctrl-C and a request to terminate end the run after the step; a second one ends it at once."""
    asked: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("ending after this step; once more to end at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _append(log: TextIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


def _adapter_told(sha256: str | None) -> str:
    return "a new adapter" if sha256 is None else f"the adapter of sha256 {sha256}"


if __name__ == "__main__":
    sys.exit(main())
