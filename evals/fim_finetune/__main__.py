"""Teach a small base model to fill in the middle: ``python -m evals.fim_finetune --out FOLDER``.

What it does
    Functions are taken from installed packages whose licence permits it (sources.py), freed of the benchmark and
    split in two (corpus.py); holes are cut into them and encoded as `ByteLM.infill` asks (samples.py); transformers'
    Trainer trains a low-rank adapter of peft on the middles (training.py, adapter.py).
The folder
    ``adapter_model.safetensors`` and ``adapter_config.json``: the best adapter, once the run has ended;
    ``manifest.json``: what it was trained on and how; ``trainer_state.json``: Trainer's log, with a record for each
    step and each held-out loss; ``checkpoint-N``: Trainer's checkpoints, the last and the best; ``start``: the adapter
    that training began with.
Three ways to begin
    Without ``--resume``: a new adapter. ``--resume`` with the folder of ``--out``, or with a checkpoint in it: that run
    goes on exactly where it was, with its options. ``--resume`` with another folder, an adapter: a new schedule that
    begins with its weights.
``--repeat MANIFEST`` trains again what a manifest says, and compares. ``--evaluate ADAPTER…`` prints held-out losses
and trains nothing; the same options, the same holes. Losses are means in nats over the tokens of the middles and
their ends; those of PSM and of SPM are over different tokens.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from transformers import TrainerState

from bytelm.errors import BytelmError, InvalidArgumentError
from evals.fim_finetune import adapter, manifest, training
from evals.fim_finetune.corpus import Benchmark, Corpus, build
from evals.fim_finetune.samples import MODES, SMOLLM2, Batches, Encoder, held_out_samples
from evals.fim_finetune.settings import Choice, Command, parse
from evals.report.tables import console, print_line, table

_STATE = "trainer_state.json"  # what Trainer writes last of a checkpoint


class CheckpointError(BytelmError):
    """A checkpoint is missing or damaged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, repeat or evaluate; 130 when interrupted, 2 when something is wrong."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except (BytelmError, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted in the middle of a step; the last checkpoint is whole", file=sys.stderr)
        return 130


def run(given: Sequence[str]) -> int:
    """Do what the options ask for.

    Raises:
        BytelmError: Something is wrong; the message says what.
    """
    command, _ = parse(given)
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    if command.no_dedup:
        print("the training data were not deduplicated against a benchmark", file=sys.stderr)
    device = command.device or ("cuda" if torch.cuda.is_available() else "cpu")
    result = _train(command, given, device) if command.evaluate is None else _evaluate(command, given, device)
    if result is None:
        return 130
    if command.json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)
    return 0


def _train(command: Command, given: Sequence[str], device: str) -> dict[str, Any] | None:
    """The manifest of a run that has ended; None if it was interrupted."""
    assert command.out is not None  # noqa: S101 - it trains nothing without
    out, checkpoint = command.out, _checkpoint(command.resume, command.out)
    repeated = None if command.repeat is None else manifest.read_manifest(command.repeat, ended=True)
    known, start = repeated, command.resume
    if checkpoint is not None:
        known, start = manifest.read_manifest(out / "manifest.json", ended=False), None
    elif (out / adapter.WEIGHTS).exists() or any(out.glob("checkpoint*")):
        raise InvalidArgumentError(
            f"{str(out)!r} holds a run already: continue it with --resume {out}, or choose another --out"
        )
    saved: dict[str, Any] = {}
    began = None
    if start is not None:
        config, began = adapter.read_config(start), adapter.file_sha256(start / adapter.WEIGHTS)
        saved = {"rank": config["r"], "alpha": config["lora_alpha"]}
    for part in known["settings"].values() if known else ():
        saved |= part
    settings = training.settled(parse(given, saved)[1], device)
    recipe, holes = settings.recipe, settings.holes

    base = adapter.load_base(command.model)
    if known is not None:
        manifest.check_beginning(known, base.told, known["start"] if checkpoint else began)
    corpus = _corpus(command, settings.choice, known)
    model = adapter.trainable(base, start, settings.shape, seed=recipe.seed, max_mib=command.max_mib)
    until = repeated["steps_done"] if repeated else None
    watch = training.Watch(recipe, until=until, minutes=command.minutes)
    encoder = Encoder(base.tokenizer, SMOLLM2)
    limit = getattr(base.model.config, "max_position_embeddings", None) or math.inf
    batches = Batches(corpus.train, encoder, holes, recipe.seed, recipe.batch_tokens, limit)
    held_out = held_out_samples(corpus.held_out, encoder, holes, seed=recipe.seed)
    how = training.arguments(recipe, out, cpu=device == "cpu", resumed=checkpoint is not None)
    trainer = training.AdapterTrainer(model, how, watch, batches, held_out)
    told = {
        **manifest.surroundings(device, given),
        "base": base.told,
        "start": began,
        "format": {"psm": SMOLLM2.psm, "spm": SMOLLM2.spm, "ends": SMOLLM2.ends},
        "settings": asdict(settings),
        "corpus": corpus.record,
        "seconds": 0.0,
    }
    if checkpoint and known:
        told |= {key: known[key] for key in ("start", "corpus", "seconds")}
    manifest.write_manifest(out / "manifest.json", told)
    clock = time.monotonic()
    _run(trainer, watch, checkpoint)
    told["seconds"] = round(told["seconds"] + time.monotonic() - clock, 1)
    if watch.ended != "interrupted":
        trainer.save_state()
        step, losses, found = trainer.best()
        told |= {
            "ended": watch.ended,
            "steps_done": trainer.state.global_step,
            "tokens": trainer.state.num_input_tokens_seen,
            "held_out": {"before": training.measured(trainer.state)[0][1], "best": losses, "best_step": step},
            "adapter": adapter.write_adapter(found, out),
        }
        told |= {"repeated": manifest.compared(repeated, told)} if repeated else {}
    manifest.write_manifest(out / "manifest.json", told)
    if watch.ended == "interrupted":
        step = trainer.state.global_step
        print(f"interrupted after step {step}; continue with --resume {out} --out {out}", file=sys.stderr)
        return None
    return told


def _checkpoint(resume: Path | None, out: Path) -> Path | None:
    """The checkpoint to go on from, if that is what ``--resume`` names; else it names an adapter."""
    if resume is not None and resume.resolve() == out.resolve():
        whole = [path.parent for path in out.glob(f"checkpoint-*/{_STATE}")]
        if not whole:
            raise CheckpointError(f"{str(out)!r} holds no checkpoint to continue from: start again in another --out")
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    if resume is None or not resume.resolve().name.startswith("checkpoint"):
        return None
    if not (resume / _STATE).exists():
        raise CheckpointError(f"{str(resume)!r} is not a whole checkpoint: continue from the one before it")
    if resume.resolve().parent != out.resolve():
        raise InvalidArgumentError(f"a checkpoint can be continued only in its own folder: give --out {resume.parent}")
    return resume


def _run(trainer: training.AdapterTrainer, watch: training.Watch, checkpoint: Path | None) -> None:
    """Train to an end. Ctrl-C and a request to terminate end the run after the step; a second one ends it at once."""
    before = {number: signal.signal(number, watch.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if checkpoint is None:
            trainer.train()
        elif watch.over(state := TrainerState.load_from_json(str(checkpoint / _STATE))):
            trainer.state = state
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except Exception as error:  # torch, safetensors and pickle have errors of their own
        if checkpoint is None or watch.began:
            raise
        raise CheckpointError(
            f"the checkpoint {str(checkpoint)!r} is damaged: {str(error)[:200] or type(error).__name__}; continue from "
            "another one, or start again"
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _corpus(command: Command, choice: Choice, known: Mapping[str, Any] | None = None) -> Corpus:
    """The functions, and that they are those of the manifest, if there is one."""
    if known is not None:
        # What has been installed since is no part of the run.
        choice = replace(choice, packages=[row["package"] for row in known["corpus"]["packages"]])
    corpus = build(
        choice,
        Benchmark.read(command.benchmark) if command.benchmark else None,
        folders=command.site_packages,
        held_out_only=command.evaluate is not None,
        track=partial(track, description="packages", console=Console(stderr=True), transient=True),
    )
    if known is not None:
        manifest.check_corpus(known["corpus"], corpus.record)
    return corpus


def _evaluate(command: Command, given: Sequence[str], device: str) -> dict[str, Any]:
    """The held-out losses of some adapters."""
    settings = training.settled(parse(given)[1], device)
    corpus, base = _corpus(command, settings.choice), adapter.load_base(command.model)
    seed, size, dtype = settings.recipe.seed, settings.recipe.batch_tokens, settings.recipe.dtype
    samples = held_out_samples(corpus.held_out, Encoder(base.tokenizer, SMOLLM2), settings.holes, seed=seed)
    rows = []
    for name in command.evaluate or ():
        taught = name != "base"
        model = adapter.load_adapter(adapter.load_base(command.model), Path(name)) if taught else base.model
        bar = partial(track, description=Path(name).name, console=Console(stderr=True), transient=True)
        losses = training.held_out_loss(model.to(device), samples, dtype=dtype, batch_tokens=size, track=bar)
        sha256 = adapter.file_sha256(Path(name, adapter.WEIGHTS)) if taught else None
        rows.append({"adapter": Path(name).resolve().name if taught else name, "sha256": sha256, "held_out": losses})
    return {
        **manifest.surroundings(device, given),
        "base": base.told,
        "settings": {"seed": seed, "dtype": dtype, "holes": asdict(settings.holes)},
        "corpus": corpus.record,
        "tokens": {mode: sum(len(s.ids) - s.first for s in of_mode) for mode, of_mode in samples.items()},
        "adapters": rows,
    }


def _show(result: Mapping[str, Any]) -> None:
    side, held_out = result["corpus"]["held_out"], result.get("held_out")
    rows = {row["adapter"]: row["held_out"] for row in result.get("adapters", ())}
    if held_out:
        rows |= {"before": held_out["before"], f"after step {held_out['best_step']}": held_out["best"]}
    title = f"Held-out loss, nats a token, over {side['functions']} functions ({side['sha256'][:12]})"
    shown = table(title, ("adapter", "PSM", "SPM"))
    for name, loss in rows.items():
        shown.add_row(name, *(f"{loss[mode]:.4f}" for mode in MODES))
    console().print(shown)
    if "ended" in result:
        print_line(f"ended by {result['ended']} after step {result['steps_done']}; {result['adapter']}")
    if "repeated" in result:
        print_line(f"repeated: {result['repeated']}")


if __name__ == "__main__":
    sys.exit(main())
