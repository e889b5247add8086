r"""The command ``bytelm eval``: lm-evaluation-harness on any byte model, with lm-eval's own arguments.

Rules
    All that follows ``eval`` is lm-eval's. Where it says neither which model nor how large a batch, and names no
    configuration file, they are ``--model bytelm --batch_size auto``.
    What lm-eval prints stands where lm-eval puts it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Final
from unittest.mock import patch

import typer

from bytelm.errors import BytelmError, MissingDependencyError

DEFAULTS: Final = ((("--model", "-M"), "bytelm"), (("--batch_size", "-b"), "auto"))
SUBCOMMANDS: Final = ("run", "ls", "validate")
SETTINGS: Final = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": ["-h", "--help"],
}


def evaluate(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENT", help="As lm-eval takes them.")] = None,
) -> None:
    """Run lm-evaluation-harness on a byte model or an ensemble.

    \b
    The arguments are lm-eval's own, with --model bytelm. --model_args takes:
      pretrained=MODEL                  a folder, a hub id, or a packaged model
      members=MODEL;MODEL               an ensemble, with combine=mixture|bayes|product, weights=W;W and alpha=
      level=token                       the token-level baseline on the same engine
      bytes_per_token=4                 how many bytes a token of max_gen_toks counts
      dtype=, engine=, gguf_file=, …    as for the library

    \b
    Examples:
      bytelm eval --tasks piqa --model_args pretrained=demo --limit 100
      bytelm eval --tasks piqa --model_args "members=demo;demo-gemma,combine=bayes" --use_cache answers
      bytelm eval run --help
      bytelm eval ls tasks

    It needs lm-evaluation-harness: pip install "lm-eval>=0.4.13".
    """
    words = list(arguments or [])
    if not words:
        raise typer.BadParameter("no task: name one with --tasks; bytelm eval run --help lists lm-eval's arguments")
    with patch.object(sys, "argv", ["lm-eval", *completed(words)]):
        _run()


def completed(words: Sequence[str]) -> list[str]:
    """Lm-eval's arguments with what bytelm adds.

    >>> completed(["--tasks", "piqa"])
    ['run', '--tasks', 'piqa', '--model', 'bytelm', '--batch_size', 'auto']
    """
    full = list(words) if words[0] in SUBCOMMANDS else ["run", *words]
    names = {word.split("=")[0] for word in full}
    if full[0] != "run" or names & {"--config", "-C", "--help", "-h"}:
        return full
    for options, value in DEFAULTS:
        if not names.intersection(options):
            full += [options[0], value]
    return full


def _run() -> None:
    try:
        from lm_eval.__main__ import cli_evaluate

        import bytelm.harness.model  # noqa: F401 - registers the model
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f'bytelm eval needs lm-evaluation-harness ({error.name} is missing): pip install "lm-eval>=0.4.13"'
        ) from error
    try:
        with _headings():
            cli_evaluate()
    except BytelmError:
        raise
    except ValueError as error:
        if re.match("Tasks not found|No tasks specified", str(error)):
            raise BytelmError(f"{error}; bytelm eval ls tasks lists them, --include_path adds a folder") from error
        raise


def _headings() -> AbstractContextManager[object]:
    """Lm-eval names the columns of its table as ``headers``, which old releases of pytablewriter call ``header_list``.

    They take the unknown attribute without a word, and call the columns A, B, C.
    """
    from pytablewriter import MarkdownTableWriter

    if hasattr(MarkdownTableWriter, "headers"):
        return nullcontext()

    def name(table: MarkdownTableWriter, names: Sequence[str]) -> None:
        table.header_list = names

    return patch.object(MarkdownTableWriter, "headers", property(None, name), create=True)
