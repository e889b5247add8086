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

from bytelm.errors import BytelmError, InvalidArgumentError
from evals.fim_finetune.sources import Source, find_sources, normal_name

WINDOW: Final = 40
# None of them is in the corpus of the adapter that comes with the project: see `held_out_packages`.
NEVER_TRAINED_ON: Final = ("filelock", "gguf", "huggingface-hub", "idna", "packaging", "pyyaml", "typer", "urllib3")


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
class Choice:
    """Which functions make a corpus.

    Attributes:
        packages: Of these alone; empty for all that are installed, and the standard library.
        held_out_packages: Functions of these are held out, and never trained on.
        held_out_share: If above 0, this share of all functions is held out instead, by sha256.
        held_out_functions: How many are held out at most: those with the smallest sha256.
        min_chars: The shortest, in characters.
        max_chars: The longest.
        per_package: The most that one package gives.

    Raises:
        InvalidArgumentError: A value that cannot be.
    """

    packages: tuple[str, ...] = ()
    held_out_packages: tuple[str, ...] = NEVER_TRAINED_ON
    held_out_share: float = 0.0
    held_out_functions: int = 200
    min_chars: int = 150
    max_chars: int = 850
    per_package: int = 3000

    def __post_init__(self) -> None:
        if not 2 <= self.min_chars <= self.max_chars:
            raise InvalidArgumentError(
                f"--min-chars must be at least 2 and --max-chars no less; got {self.min_chars} and {self.max_chars}"
            )
        if not 0 <= self.held_out_share < 1:
            raise InvalidArgumentError(f"--held-out-share is 0 or more and below 1; got {self.held_out_share}")
        if min(self.held_out_functions, self.per_package) < 1:
            raise InvalidArgumentError("--held-out-functions and --per-package must be at least 1")

    def holds_out(self, function: Function) -> bool:
        """Whether a function is on the held-out side."""
        if self.held_out_share:
            return int(function.digest[:8], 16) < self.held_out_share * 2**32
        return function.package in map(normal_name, self.held_out_packages)

    @property
    def split(self) -> str:
        """The rule, in words."""
        if self.held_out_share:
            return f"held out by sha256 of the function: {self.held_out_share:.2%} of all"
        return "held out by package: " + ", ".join(sorted(map(normal_name, self.held_out_packages)))


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
                files.append((path.name, hashlib.sha256(data).hexdigest()))
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
            for row in rows:
                # Infilling rows hold a program in pieces: a line may cross their borders.
                whole = "".join(str(row.get(key, "")) for key in ("prompt", "canonical_solution", "suffix"))
                texts |= {whole, *(value for value in row.values() if isinstance(value, str))}
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

    @cached_property
    def sha256(self) -> str:
        """Of all functions on both sides, in order."""
        return digest_of([*self.train, *self.held_out])


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
    names = {normal_name(name) for name in choice.packages}
    held = {normal_name(name) for name in choice.held_out_packages}
    if held_out_only and not choice.held_out_share:
        names = held
    elif names and not choice.held_out_share:
        names |= held
    sources, left_out = find_sources(names, folders)
    # Held-out packages first: of two copies, the one that is held out stays.
    sources = tuple(sorted(sources, key=lambda source: (source.package not in held, source.package)))
    seen: set[str] = set()
    kept: dict[str, list[Function]] = {}
    dropped = {"benchmark": 0, "repeated": 0}
    for source in track(sources) if track else sources:
        kept[source.package] = _kept(source, choice, benchmark, seen, dropped)
    both = [function for functions in kept.values() for function in functions]
    held_out = sorted(filter(choice.holds_out, both), key=lambda function: function.digest)[: choice.held_out_functions]
    train = [function for function in both if not choice.holds_out(function)]
    if not held_out:
        raise CorpusError(
            f"no function is {choice.split}: install one of these packages, name others with --held-out-packages, or "
            "hold out a share with --held-out-share"
        )
    if not (train or held_out_only):
        raise CorpusError("no package gives a function to train on: " + _told(left_out))
    packages = [
        {
            "package": source.package,
            "version": source.version,
            "licence": source.licence,
            "functions": len(kept[source.package]),
            "sha256": digest_of(kept[source.package]),
        }
        for source in sorted(sources, key=lambda source: source.package)
        if kept[source.package]
    ]
    record = {
        "choice": asdict(choice),
        "split": choice.split,
        "packages": packages,
        "left_out": left_out,
        "deduplicated_against": None if benchmark is None else dict(benchmark.files),
        "dropped": dropped,
        "train": _side(train),
        "held_out": _side(held_out),
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
    few = {function.digest for function in sorted(kept, key=lambda each: each.digest)[: choice.per_package]}
    return [function for function in kept if function.digest in few]


def _side(functions: Sequence[Function]) -> dict[str, Any]:
    return {
        "functions": len(functions),
        "characters": sum(len(function.text) for function in functions),
        "sha256": digest_of(functions),
    }


def _told(left_out: dict[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in left_out.items()) or "none is installed"
