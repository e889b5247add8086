"""Members and ensembles on published tasks, by bytes and by tokens: ``python -m evals.ensembles``.

The runs are each member by bytes, each member by tokens (lm-eval's own rule, on the same engine), and the ensembles
"mixture", "bayes" and "product" of all members. Every run answers the same items of the same tasks; the items are drawn
with a seed. The tasks are lm-eval's, run by lm-eval's own code (bytelm/harness/model.py), or the offline ones of
evals/tasks. The file format: report/records.py. The tables: summary.py.

Resuming
    Each item of each run is a line of ``--out``, written when its task is done. lm-eval's cache beside that file
    (``FILE.answers_rank0.db``) keeps the answers of an unfinished task. After a kill at any moment, or a failed run,
    the same command with ``--resume`` runs what is missing. It also accepts more tasks, more runs and more items.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bytelm import ByteLM, Ensemble
from bytelm.ensemble.combine import weights_of
from bytelm.errors import InvalidArgumentError, MissingDependencyError
from evals.report.clocked import metered
from evals.report.command import add_engine_options, chosen, command, numbers, set_threads, words_of
from evals.report.records import Line, RecordsError, command_of, exit_status, kept_lines, read_records
from evals.report.surroundings import processor, versions

TASKS: Final = Path(__file__).parent.parent / "tasks"
# A few hours on two cores; a share over 200 items has an interval of ±7 points.
DEFAULT: Final = (
    *(f"bytelm_{name}:200" for name in ("lambada", "piqa", "boolq", "hellaswag", "mmlu")),
    "bytelm_triviaqa:100",
    "bytelm_gsm8k:20",
)
COMBINES: Final = ("mixture", "bayes", "product")
FEWSHOT_SEED: Final = 1234  # lm-eval's own
PLAIN: Final = ("none", "remove_whitespace")  # filters that need no name: a task has one of them and no other


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options, checked as far as they can be without data or model."""
    parser = command("evals.ensembles", __doc__)
    add = parser.add_argument
    add(
        "--members",
        nargs="+",
        default=["demo", "demo-gemma"],
        metavar="MODEL",
        help="the models to combine (default demo demo-gemma)",
    )
    add("--weights", metavar="W,W,…", help="weights of the members in the ensembles (default: equal)")
    add(
        "--tasks",
        nargs="+",
        metavar="TASK[:ITEMS]",
        help=f"(default {' '.join(DEFAULT)}); with --read, the tasks to show (default all of the file)",
    )
    add(
        "--limit",
        type=int,
        default=200,
        metavar="N",
        help="items of each task, unless TASK:N says otherwise (default 200)",
    )
    add(
        "--runs",
        metavar="RUN,RUN,…",
        help="which runs (default: all, that is the members, MEMBER/tokens, and the ensembles)",
    )
    add("--seed", type=int, default=0, help="seed of the choice of items")
    add("--bytes-per-token", type=float, default=4, help="bytes for each token that a task allows (default 4)")
    add("--batch", default="auto", metavar="N", help="contexts that run together (default auto)")
    add_engine_options(parser)
    add("--out", type=Path, metavar="FILE", help="the results file: one line for each item")
    add("--resume", action="store_true", help="continue the file of --out")
    add("--read", type=Path, metavar="FILE", help="show this results file; run nothing")
    add("--plot", type=Path, metavar="FILE", help="draw the summary (.png, .svg, .pdf)")
    add("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    try:
        options.items = dict(_task(text, options.limit) for text in options.tasks or DEFAULT)
        options.weights = None if options.weights is None else numbers(parser, "--weights", options.weights)
        if options.weights is not None:
            for combine in COMBINES:
                weights_of(options.weights, len(options.members), combine, "--weights")
    except ValueError as error:
        parser.error(str(error))
    names = [Path(member).name for member in options.members]
    if len(set(names)) < len(names):
        parser.error(f"two members have the same name: {', '.join(names)}")
    options.known = [*names, *(f"{name}/tokens" for name in names), *COMBINES]
    options.runs = options.known if options.runs is None else chosen(parser, "run", options.runs, options.known)
    return options


def _task(text: str, limit: int) -> tuple[str, int]:
    name, _, items = text.partition(":")
    count = int(items) if items else limit
    if not name or count < 1:
        raise InvalidArgumentError(f"a task is a name, or NAME:ITEMS with at least one item; got {text!r}")
    return name, count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tasks, or show what was run; 1 when something failed."""
    words = words_of(arguments)
    options = parsed(words)
    return exit_status(lambda: _main(options, words), options.out)


def _main(options: argparse.Namespace, words: Sequence[str]) -> int:
    from evals.ensembles import summary as ensemble_summary

    header, lines = read(options) if options.read else run(options, words)
    summary = ensemble_summary.of(header, lines)
    print(json.dumps(summary, indent=1)) if options.json else ensemble_summary.show(summary)
    if options.plot:
        ensemble_summary.plot(summary, options.plot)
    return 1 if summary["failed"] else 0


def read(options: argparse.Namespace) -> tuple[Line, list[Line]]:
    """The header of a results file, and the lines of the tasks to show.

    Raises:
        RecordsError: The file cannot be read, or has nothing of such a task.
    """
    header, lines = read_records(options.read)
    if options.tasks is None:
        return header, lines
    there = dict.fromkeys(line["task"] for line in lines)
    if missing := [name for name in options.items if name not in there]:
        raise RecordsError(f"{options.read} has no results of {', '.join(missing)}: it has {', '.join(there)}")
    return header, [line for line in lines if line["task"] in options.items]


def run(options: argparse.Namespace, words: Sequence[str]) -> tuple[Line, list[Line]]:
    """Run what is missing; the header and all lines.

    Raises:
        BytelmError: A task that there is not, or a member that cannot be loaded.
    """
    tasks = Tasks(list(options.items))
    chosen = {name: tasks.choose(name, items, options.seed) for name, items in options.items.items()}
    set_threads(options.threads)
    members = {
        Path(name).name: ByteLM.from_pretrained(name, device=options.device, dtype=options.dtype, normalize=True)
        for name in options.members
    }
    models = {which: model_of(which, members, options.weights) for which in options.runs}
    header = header_of(options, members, words)
    with kept_lines(options.out, header, resume=options.resume) as records:
        for name, items in chosen.items():
            for which, (model, level) in models.items():
                there = {
                    line["item"]
                    for line in records.lines
                    if line["kind"] == "item" and (line["task"], line["run"]) == (name, which)
                }
                if missing := [item for item in items if item not in there]:
                    print(f"{name}: {which}, {len(missing)} items", file=sys.stderr)
                    for line in attempt(tasks, name, missing, which, model, level, options):
                        records.add(line)
    return {"kind": "header", **header}, records.lines


def model_of(
    which: str, members: Mapping[str, ByteLM], weights: Sequence[float] | None
) -> tuple[ByteLM | Ensemble, str]:
    """The model and the level of a run."""
    name, _, level = which.partition("/")
    if name in members:
        return members[name], "token" if level else "byte"
    combine: Any = which
    return Ensemble(list(members.values()), weights=weights, combine=combine), "byte"


def header_of(options: argparse.Namespace, members: Mapping[str, ByteLM], words: Sequence[str]) -> Line:
    """What a results file says of its run. No path of the machine is in it."""
    models = [getattr(lm.token_lm, "model", None) for lm in members.values()]
    return {
        "command": command_of("evals.ensembles", words),
        "settings": {
            "members": {name: lm.fingerprint() for name, lm in members.items()},
            "weights": options.weights,
            "seed": options.seed,
            "bytes_per_token": options.bytes_per_token,
            "dtypes": [str(getattr(model, "dtype", None)) for model in models],
        },
        "versions": versions("lm_eval", python=True),
        "devices": [str(getattr(model, "device", None)) for model in models],
        "machine": processor(),
        "cores": os.cpu_count(),
    }


class Tasks:
    """Tasks of lm-eval, and those of evals/tasks.

    Args:
        names: Of all tasks that will be run.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        InvalidArgumentError: There is no task of a name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from lm_eval.tasks import TaskManager
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{error.name} is missing: pip install --group evals, in the checkout"
            ) from error
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        own = {path.stem for path in TASKS.glob("*.yaml")}
        self._manager = TaskManager(include_path=str(TASKS), include_defaults=not own.issuperset(names))
        if unknown := [name for name in names if name not in self._manager.all_subtasks]:
            raise InvalidArgumentError(
                f"no task is called {', '.join(unknown)}; offline there are {', '.join(sorted(own))}, and "
                "`bytelm eval ls tasks` lists lm-eval's own (of a group, name the tasks)"
            )
        self._tasks = {name: self._manager.load([name])["tasks"][name] for name in names}

    def choose(self, name: str, items: int, seed: int) -> list[int]:
        """Some items of a task, drawn with a seed; a larger choice includes a smaller one."""
        whole = len(self._tasks[name].eval_docs)
        drawn: list[int] = np.random.default_rng([seed, whole]).permutation(whole)[:items].tolist()
        return sorted(drawn)

    def run(self, name: str, lm: Any, items: Sequence[int], cache: str | None) -> tuple[dict[int, Line], Line]:
        """A model's line for each item, and what the record says of the task."""
        from lm_eval.api.model import CachingLM
        from lm_eval.evaluator import evaluate

        # Not lm-eval's simple_evaluate, which lists all installed packages each time.
        loaded = self._manager.load([name])
        task = loaded["tasks"][name]
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
        model = lm if cache is None else CachingLM(lm, f"{cache}_rank0.db")
        found = evaluate(model, loaded, samples={name: list(items)}, bootstrap_iters=0)
        lines: dict[int, Line] = {}
        for sample in found["samples"][name]:
            line = lines.setdefault(int(sample["doc_id"]), {"figures": {}})
            suffix = "" if sample["filter"] in PLAIN else f" ({sample['filter']})"
            # lm-eval's perplexity of an item is a log-likelihood; nats has it already.
            line["figures"] |= {
                metric + suffix: sample[metric]
                for metric in sample["metrics"]
                if metric != "perplexity" and isinstance(sample[metric], int | float)
            }
            answers = [response[0] for response in sample["resps"]]
            if isinstance(answers[0], str):
                line["answer"] = answers[0]
            else:
                target = sample["target"]
                right = int(target) if len(answers) > 1 and str(target).isdigit() else 0
                line["figures"]["nats"] = float(answers[right][0])
        whole, fewshot = len(task.eval_docs), task.get_config("num_fewshot")
        return lines, {"whole": whole, "fewshot": fewshot, "version": found["versions"].get(name)}


def attempt(
    tasks: Tasks,
    task: str,
    items: Sequence[int],
    which: str,
    model: ByteLM | Ensemble,
    level: str,
    options: argparse.Namespace,
) -> Iterator[Line]:
    """The lines of one task and run: its items and their cost, or why it failed."""
    from bytelm.harness.model import HarnessLM

    about = {"task": task, "run": which}
    try:
        with metered(model.engines) as used:
            lm = HarnessLM(model, level=level, batch_size=options.batch, bytes_per_token=options.bytes_per_token)
            lines, told = tasks.run(task, lm, items, None if options.out is None else f"{options.out}.answers")
    except Exception as error:  # noqa: BLE001 - an error of one run must not end the others
        why = " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        print(f"{task}: {which} failed: {why}", file=sys.stderr)
        yield {"kind": "failed", **about, "error": why}
        return
    for item, line in lines.items():
        yield {"kind": "item", **about, "item": item, **line}
    yield {
        "kind": "done",
        **about,
        **told,
        "items": len(lines),
        "seconds": round(used.seconds, 2),
        "calls": used.calls,
        "fed": used.fed,
    }


if __name__ == "__main__":
    sys.exit(main())
