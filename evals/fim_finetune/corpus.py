"""The functions that fill-in-the-middle is taught on: found, freed of the benchmark, and split in two.

Rules
    A function is the whole lines of a ``def`` with its decorators, without its indentation. Methods are functions; a
    function inside another is part of it.
    Out go: those outside the stated sizes; those with the name of a benchmark's function; those of which a line holds
    40 characters that occur in the benchmark (the first 40 of a line, indentation apart); and every repetition of one
    that is already there, white space apart. Held-out functions come first, so a copy of one is never trained on.
    No package gives more than a stated number: those with the smallest sha256.
Held out
    Whole packages, by name; or, if a share is stated, the functions whose sha256 is small enough. Either way a
    function's side depends on nothing else that is installed.
Repeatable
    The order is that of package, path and line. A corpus is known by the sha256 over its functions; `Corpus.record`
    says what each package gave.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import textwrap
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bytelm.errors import BytelmError
from evals.fim_finetune.settings import Choice
from evals.fim_finetune.sources import Source, find_sources, normal_name

WINDOW: Final = 40


class CorpusError(BytelmError):
    """There is nothing to train on or to compare with, or it is not what a manifest says."""


@dataclass(frozen=True)
class Function:
    """One function of a package."""

    package: str
    path: str
    line: int
    name: str
    text: str

    @cached_property
    def digest(self) -> str:
        """sha256 of the text, white space apart."""
        return hashlib.sha256(" ".join(self.text.split()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a corpus must not hold.

    Attributes:
        names: Of the functions that the benchmark asks for.
        windows: Every run of 40 characters in its texts.
        files: Name and sha256 of each file.
    """

    names: frozenset[str]
    windows: frozenset[str]
    files: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Benchmark:
        """Read benchmark files: JSON lines, packed or not, each with an ``entry_point``; every text counts.

        Raises:
            CorpusError: A file is missing, or is no such file.
        """
        names: set[str] = set()
        texts: set[str] = set()
        files: list[tuple[str, str]] = []
        for path in paths:
            try:
                data = path.read_bytes()
                lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().splitlines()
                rows = [json.loads(line) for line in lines if line.strip()]
                names |= {row["entry_point"] for row in rows}
            except FileNotFoundError:
                raise CorpusError(
                    f"there is no benchmark file {str(path)!r}; give the path of its JSON lines"
                ) from None
            except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
                raise CorpusError(
                    f"{str(path)!r} holds no benchmark (JSON lines, each with an entry_point): {error!r}; fetch it again"
                ) from error
            files.append((path.name, hashlib.sha256(data).hexdigest()))
            for row in rows:
                # Infilling rows hold a program in pieces: a line may cross their borders.
                texts.add("".join(str(row.get(key, "")) for key in ("prompt", "canonical_solution", "suffix")))
                texts |= {value for value in row.values() if isinstance(value, str)}
        windows = {text[i : i + WINDOW] for text in texts for i in range(len(text) - WINDOW + 1)}
        return cls(frozenset(names), frozenset(windows), tuple(sorted(files)))

    def meets(self, function: Function) -> bool:
        """Whether a function has a name or a line of the benchmark."""
        lines = (line.strip() for line in function.text.splitlines())
        return function.name in self.names or any(
            len(line) >= WINDOW and line[:WINDOW] in self.windows for line in lines
        )


@dataclass(frozen=True)
class Corpus:
    """Functions to train on, functions to compare with, and how they were found."""

    train: tuple[Function, ...]
    held_out: tuple[Function, ...]
    record: dict[str, Any] = field(repr=False)


def digest_of(functions: Iterable[Function]) -> str:
    """sha256 over the texts of some functions, in their order."""
    whole = hashlib.sha256()
    for function in functions:
        whole.update(hashlib.sha256(function.text.encode()).digest())
    return whole.hexdigest()


def functions_of(source: str, *, package: str = "", path: str = "") -> Iterator[Function]:
    r"""The functions of a Python file, in order; none if it is not Python of this version.

    >>> [f.text for f in functions_of("class A:\n    def b(self):\n        return 1\n")]
    ['def b(self):\n    return 1\n']
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = source.split("\n")  # as Python counts them: a form feed ends no line
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]) + "\n")
            yield Function(package, path, first, node.name, text)
        else:
            waiting += reversed(list(ast.iter_child_nodes(node)))


def build(
    choice: Choice,
    benchmark: Benchmark | None,
    *,
    folders: Sequence[Path] = (),
    held_out_only: bool = False,
    track: Any = None,
) -> Corpus:
    """Find, filter and split the functions of what is installed.

    Args:
        choice: Which functions.
        benchmark: What must not be among them; None for no such check.
        folders: Look for packages here instead of on this Python's path.
        held_out_only: Leave out what is needed for training alone, where packages are held out.
        track: Wraps the packages, to show progress.

    Raises:
        CorpusError: Nothing is left on a side that is needed.
    """
    names, held = ({*map(normal_name, each)} for each in (choice.packages, choice.held_out_packages))
    if not choice.held_out_share:
        names = held if held_out_only else names and names | held
    sources, left_out = find_sources(names, folders)
    # Held-out packages first: of two copies, the one that is held out stays.
    first = sorted(sources, key=lambda source: (source.package not in held, source.package))
    dropped = {"benchmark": 0, "repeated": 0}
    seen: set[str] = set()
    kept = {each.package: _kept(each, choice, benchmark, seen, dropped) for each in (track(first) if track else first)}

    def is_held_out(function: Function) -> bool:
        if choice.held_out_share:
            return int(function.digest[:8], 16) < choice.held_out_share * 2**32
        return function.package in held

    both = [function for functions in kept.values() for function in functions]
    held_out = sorted(filter(is_held_out, both), key=_digest)[: choice.held_out_functions]
    train = [function for function in both if not is_held_out(function)]
    split = f"held out by package: {', '.join(sorted(held))}"
    if choice.held_out_share:
        split = f"held out by sha256 of the function: {choice.held_out_share:.2%} of all"
    if not held_out:
        raise CorpusError(
            f"no function is {split}: install one of these packages, name others with --held-out-packages, or hold out "
            "a share with --held-out-share"
        )
    if not (train or held_out_only):
        told = "; ".join(f"{name} ({why})" for name, why in left_out.items()) or "none is installed"
        raise CorpusError(f"no package gives a function to train on: {told}")
    packages = [
        {"package": source.package, "version": source.version, "licence": source.licence, **_told(functions)}
        for source in sources
        if (functions := kept[source.package])
    ]
    record = {
        "choice": asdict(choice),
        "split": split,
        "packages": packages,
        "left_out": left_out,
        "deduplicated_against": None if benchmark is None else dict(benchmark.files),
        "dropped": dropped,
        "train": _told(train),
        "held_out": _told(held_out),
    }
    return Corpus(tuple(train), tuple(held_out), record)


def _kept(
    source: Source, choice: Choice, benchmark: Benchmark | None, seen: set[str], dropped: dict[str, int]
) -> list[Function]:
    """The functions that one package gives."""
    kept = []
    for name, path in source.files:
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (OSError, SyntaxError, UnicodeError):  # missing, or in no encoding that Python reads
            continue
        for function in functions_of(text, package=source.package, path=name):
            if not choice.min_chars <= len(function.text) <= choice.max_chars:
                continue
            if benchmark is not None and benchmark.meets(function):
                dropped["benchmark"] += 1
            elif function.digest in seen:
                dropped["repeated"] += 1
            else:
                seen.add(function.digest)
                kept.append(function)
    few = {*sorted(map(_digest, kept))[: choice.per_package]}
    return [function for function in kept if function.digest in few]


def _digest(function: Function) -> str:
    return function.digest


def _told(functions: Sequence[Function]) -> dict[str, Any]:
    characters = sum(len(function.text) for function in functions)
    return {"functions": len(functions), "characters": characters, "sha256": digest_of(functions)}
