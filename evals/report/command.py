"""The command line that evaluations share: how ``python -m evals.NAME`` reads its words and refuses wrong ones.

Rules
    The description of a command is the first line of its module's docstring.
    A choice of several is one word with commas in it. A wrong value ends the command with status 2 and a message that
    says which values there are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def words_of(arguments: Sequence[str] | None) -> list[str]:
    """The words of the command: those given, or those of this process."""
    return sys.argv[1:] if arguments is None else list(arguments)


def command(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser for ``python -m MODULE``, described by the first line of the docstring."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").split("\n")[0])


def set_threads(threads: int | None) -> None:
    """Have torch use so many CPU threads; None leaves the number to torch."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--dtype`` and ``--threads``."""
    parser.add_argument("--device", help="where the models run, cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--dtype", help="float32 or bfloat16 (default: float32 on a CPU)")
    parser.add_argument("--threads", type=int, help="CPU threads of each process (default: torch's own choice)")


def at_least(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str, least: int = 1) -> None:
    """Refuse a number below the least; one that was not given is none."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}; got {value}")


def chosen(
    parser: argparse.ArgumentParser, what: str, given: str, known: Sequence[str], *, comma: str = ",", hint: str = ""
) -> list[str]:
    """The values in a word, each once; a value that is not known is refused.

    Args:
        parser: That of the command.
        what: What a value is called in the message.
        given: The word.
        known: All values.
        comma: What stands between two.
        hint: What the message says in addition.
    """
    values = list(dict.fromkeys(value.strip() for value in given.split(comma)))
    if unknown := [value for value in values if value not in known]:
        parser.error(f"no {what} is called {', '.join(unknown)}; choose from {f'{comma} '.join(known)}{hint}")
    return values


def numbers(parser: argparse.ArgumentParser, option: str, given: str) -> list[float]:
    """The numbers in a word."""
    try:
        return [float(number) for number in given.split(",")]
    except ValueError:
        parser.error(f"{option} takes numbers separated by commas; got {given!r}")
