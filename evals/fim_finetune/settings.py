"""The options of ``python -m evals.fim_finetune``, and which of them make up a run.

Rules
    The settings of a run are the fields of four classes, each an option of the same name. A checkpoint and a manifest
    keep them all; a run that goes on or is repeated takes its own, and an option that says otherwise is refused.
    ``--dtype auto`` is settled when a run begins, so that it goes on in the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from bytelm.errors import InvalidArgumentError
from evals.fim_finetune.adapter import Shape
from evals.fim_finetune.corpus import Choice
from evals.fim_finetune.samples import Holes
from evals.fim_finetune.training import Recipe, fitting_dtype


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes up a run."""

    recipe: Recipe
    choice: Choice
    holes: Holes
    shape: Shape


KINDS: Final[dict[str, Any]] = {"recipe": Recipe, "choice": Choice, "holes": Holes, "shape": Shape}
HELP: Final = {
    "seed": "of weights, order and holes",
    "steps": "length of the schedule",
    "learning_rate": "the highest",
    "warmup": "share of the steps until it is reached",
    "weight_decay": "of AdamW",
    "clip": "largest norm of a gradient",
    "batch_tokens": "tokens of a step, padding included",
    "first_weight": "how much the first token of a middle weighs in training, beside 1 of each other",
    "evaluate_every": "steps between held-out losses",
    "patience": "held-out losses without a better one, after which training ends",
    "checkpoint_every": "steps between checkpoints",
    "dtype": "float32, bfloat16, or auto: bfloat16 where the machine has it",
    "packages": "train on these packages alone ('python' is the standard library; default: all installed)",
    "held_out_packages": "packages to compare on, and never to train on",
    "held_out_share": "hold out this share of all functions instead, by sha256",
    "held_out_functions": "functions to compare on, at most",
    "min_chars": "shortest function",
    "max_chars": "longest function",
    "per_package": "functions of one package, at most",
    "lines": "share of holes that are whole lines",
    "max_span": "longest of the other holes, in characters",
    "psm": "share of samples in PSM, the others in SPM",
    "rank": "of the adapter",
    "alpha": "its scale is alpha / rank",
    "dropout": "of the adapter's input",
}


def parser() -> argparse.ArgumentParser:
    """The options; those of a run have no default here, so that given ones can be told from the others."""
    made = argparse.ArgumentParser(
        prog="python -m evals.fim_finetune", description="Teach a small base model to fill in the middle."
    )
    made.add_argument("--model", default="demo", help="a packaged model, or a model folder (default %(default)s)")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="where adapter, manifest, log and checkpoint go")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--resume", type=Path, metavar="PATH", help="a checkpoint file, or the folder of an adapter")
    what.add_argument("--evaluate", nargs="+", metavar="ADAPTER", help="print held-out losses; 'base' is no adapter")
    made.add_argument("--repeat", type=Path, metavar="MANIFEST", help="train what a manifest says, and compare")
    made.add_argument("--benchmark", type=Path, nargs="+", metavar="FILE", help="what training must not see")
    made.add_argument("--no-dedup", action="store_true", help="do without --benchmark")
    made.add_argument("--site-packages", type=Path, nargs="+", default=[], metavar="FOLDER", help="look there instead")
    made.add_argument("--minutes", type=float, help="end after so long (the schedule stays; go on with --resume)")
    made.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    made.add_argument("--threads", type=int, help="CPU threads (default: torch's own)")
    made.add_argument("--max-mib", type=float, default=12.0, help="largest adapter on disk (default %(default)s)")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    group = made.add_argument_group("what makes up the run, and is kept in checkpoint and manifest")
    for kind in KINDS.values():
        for each in fields(kind):
            several = isinstance(each.default, tuple)
            group.add_argument(
                f"--{each.name.replace('_', '-')}",
                type=str if several else type(each.default),
                nargs="+" if several else None,
                default=argparse.SUPPRESS,
                metavar={int: "N", float: "X"}.get(type(each.default), "NAME"),
                help=HELP[each.name]
                + ("" if each.name in ("packages", "dtype") else f" (default {_shown(each.default)})"),
            )
    return made


def settings_of(
    options: argparse.Namespace, *, saved: Mapping[str, Any] | None, fixed: Mapping[str, Any], device: str
) -> Settings:
    """The settings of a run.

    Args:
        options: What was given; the defaults stand for the rest.
        saved: The settings of a checkpoint or manifest, by class and name, in place of the defaults.
        fixed: What else is settled, by name: the rank of an adapter that training begins with.
        device: Where the run is.

    Raises:
        InvalidArgumentError: An option contradicts what is settled, or has a value that cannot be.
    """
    given = {name: _value(value) for name, value in vars(options).items() if name in HELP}
    settled = dict(fixed)
    if saved is not None:
        settled |= {name: _value(value) for part in KINDS for name, value in saved[part].items()}
    if given.get("dtype", "auto") == "auto":
        given["dtype"] = settled.get("dtype") or fitting_dtype(device)
    for name, value in given.items():
        if name in settled and settled[name] != value:
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')} of what is gone on from is {_shown(settled[name])}, not {_shown(value)}: "
                "leave the option out, or begin anew"
            )
    if given.get("held_out_share") and "held_out_packages" in given:
        raise InvalidArgumentError("hold out packages or a share: --held-out-packages or --held-out-share, not both")
    values = given | settled
    return Settings(
        **{
            part: kind(**{each.name: values[each.name] for each in fields(kind) if each.name in values})
            for part, kind in KINDS.items()
        }
    )


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
