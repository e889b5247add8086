"""The options of ``python -m evals.fim_finetune``, as dataclasses that transformers' `HfArgumentParser` reads.

Rules
    `Command` says what to do in this call. The other four make up a run: its manifest keeps them, and a run that goes
    on or is repeated takes them from there. An option that says otherwise is refused.
    ``--dtype auto`` is settled when a run begins, so that it goes on in the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import transformers

from bytelm.errors import InvalidArgumentError

# None of them is in the corpus of the adapter that comes with the project.
NEVER_TRAINED_ON: Final = ("filelock", "gguf", "huggingface-hub", "idna", "packaging", "pyyaml", "typer", "urllib3")
_LIMITS: Final = {
    **dict.fromkeys(("steps", "batch_tokens", "evaluate_every", "patience", "checkpoint_every"), (1, math.inf)),
    **dict.fromkeys(("held_out_functions", "per_package", "max_span", "rank", "alpha"), (1, math.inf)),
    **dict.fromkeys(("learning_rate", "clip", "first_weight"), (1e-12, 1e12)),
    **dict.fromkeys(("warmup", "lines", "psm"), (0, 1)),
    **dict.fromkeys(("held_out_share", "dropout"), (0, 0.999)),
    **dict.fromkeys(("weight_decay", "minutes"), (0, math.inf)),
    "min_chars": (2, math.inf),
}


def _help(about: str) -> dict[str, str]:
    return {"help": about}


@dataclass(frozen=True)
class Command:
    """What to do, where, and with what."""

    model: str = field(default="demo", metadata=_help("a packaged model, or a model folder"))
    out: Path | None = field(default=None, metadata=_help("the folder for adapter, manifest and checkpoints"))
    resume: Path | None = field(default=None, metadata=_help("what to go on from (--out: this run) or to begin with"))
    evaluate: list[str] | None = field(
        default=None, metadata=_help("adapters to measure, and no more ('base' is none)")
    )
    repeat: Path | None = field(default=None, metadata=_help("train what this manifest says, and compare"))
    benchmark: list[Path] | None = field(default=None, metadata=_help("files of what training must not see"))
    no_dedup: bool = field(default=False, metadata=_help("do without --benchmark"))
    site_packages: list[Path] = field(default_factory=list, metadata=_help("look for packages in these folders"))
    minutes: float | None = field(default=None, metadata=_help("end after so long (go on with --resume)"))
    device: Literal["cpu", "cuda"] | None = field(default=None, metadata=_help("default: cuda, if there is one"))
    threads: int | None = field(default=None, metadata=_help("CPU threads (default: torch's own)"))
    max_mib: float = field(default=12.0, metadata=_help("largest adapter on disk"))
    json: bool = field(default=False, metadata=_help("print the result as JSON"))


@dataclass(frozen=True)
class Recipe:
    """How training goes."""

    seed: int = field(default=0, metadata=_help("of weights, order and holes"))
    steps: int = field(default=600, metadata=_help("length of the schedule"))
    learning_rate: float = field(default=1e-3, metadata=_help("the highest"))
    warmup: float = field(default=0.05, metadata=_help("share of the steps until it is reached"))
    weight_decay: float = field(default=0.0, metadata=_help("of AdamW"))
    clip: float = field(default=1.0, metadata=_help("largest norm of a gradient"))
    batch_tokens: int = field(default=2600, metadata=_help("tokens of a step, padding included"))
    first_weight: float = field(default=1.0, metadata=_help("weight of a middle's first token in training (others: 1)"))
    evaluate_every: int = field(default=100, metadata=_help("steps between held-out losses"))
    patience: int = field(default=4, metadata=_help("held-out losses without a better one, after which training ends"))
    checkpoint_every: int = field(default=50, metadata=_help("steps between checkpoints"))
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata=_help("auto: bfloat16 if it is fast")
    )


@dataclass(frozen=True)
class Choice:
    """Which functions make a corpus."""

    packages: list[str] = field(default_factory=list, metadata=_help("train on these ('python': standard library)"))
    held_out_packages: list[str] = field(
        default_factory=lambda: [*NEVER_TRAINED_ON], metadata=_help("packages to compare on, and never to train on")
    )
    held_out_share: float = field(default=0.0, metadata=_help("share of all functions to hold out instead, by sha256"))
    held_out_functions: int = field(default=200, metadata=_help("functions to compare on, at most"))
    min_chars: int = field(default=150, metadata=_help("shortest function"))
    max_chars: int = field(default=850, metadata=_help("longest function"))
    per_package: int = field(default=3000, metadata=_help("functions of one package, at most"))


@dataclass(frozen=True)
class Holes:
    """How holes are cut."""

    lines: float = field(default=0.3, metadata=_help("share of holes that are whole lines"))
    max_span: int = field(default=260, metadata=_help("longest of the other holes, in characters"))
    psm: float = field(default=0.5, metadata=_help("share of samples in PSM, the others in SPM"))


@dataclass(frozen=True)
class Shape:
    """How large an adapter is."""

    rank: int = field(default=16, metadata=_help("of the adapter"))
    alpha: int = field(default=32, metadata=_help("the adapter's scale is alpha / rank"))
    dropout: float = field(default=0.0, metadata=_help("of the adapter's input, in training"))


@dataclass(frozen=True)
class Settings:
    """What makes up a run."""

    recipe: Recipe
    choice: Choice
    holes: Holes
    shape: Shape


def parse(arguments: Sequence[str], saved: Mapping[str, Any] | None = None) -> tuple[Command, Settings]:
    """What the options say.

    Args:
        arguments: Of the command line.
        saved: Settings that are settled already, by name; in place of the defaults.

    Raises:
        InvalidArgumentError: An option contradicts what is settled, or has a value that cannot be.
        SystemExit: An option is unknown, or help was asked for.
    """
    kinds: Any = (Command, Recipe, Choice, Holes, Shape)
    parser = transformers.HfArgumentParser(
        kinds, prog="python -m evals.fim_finetune", description="Teach a small base model to fill in the middle."
    )
    parser.set_defaults(**(saved or {}))
    given = vars(parser.parse_args(arguments))
    for name, value in (saved or {}).items():
        if given[name] != value:
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')} of the run to continue is {value}, not {given[name]}: leave the option "
                "out, or start again"
            )
    for name, (low, high) in (_LIMITS | {"max_chars": (given["min_chars"], math.inf)}).items():
        if given[name] is not None and not low <= given[name] <= high:
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')} must be at least {low} and at most {high}; got {given[name]}"
            )
    if (given["out"] is None) == (given["evaluate"] is None) or (given["evaluate"] and given["resume"]):
        raise InvalidArgumentError(
            "give --out FOLDER to train, and --resume to continue; or --evaluate ADAPTER to measure; not both"
        )
    if (given["benchmark"] is None) != given["no_dedup"]:
        raise InvalidArgumentError(
            "give --benchmark FILE (such as HumanEval.jsonl.gz), which names what training must not see, or --no-dedup "
            "to train without this check; not both"
        )
    if given["held_out_share"] and tuple(given["held_out_packages"]) != NEVER_TRAINED_ON:
        raise InvalidArgumentError("hold out packages or a share: --held-out-packages or --held-out-share, not both")
    command, *parts = parser.parse_dict(given)
    return command, Settings(*parts)
