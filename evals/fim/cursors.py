"""Cursors in any files: ``--benchmark cursor --data PATH…``.

Rules
    A cursor is at a random byte of a random line: it may be inside a word, a character or an indentation. The middle is
    the rest of the line without the line end. It is never empty: lines of white space, and ends of lines, have no
    cursor.
    Each PATH has equally many cursors. Within a PATH all lines are equally likely, and within a line all its bytes.
    The prefix is the text before the cursor, at most ``before`` bytes. The suffix begins with the line end and has at
    most ``after`` bytes. Both are cut at the beginning of a line, or of a character if they are within one line.
    Files that are not UTF-8 text are left out and counted.
    With ``context`` a cursor has other files of its PATH in view: the beginnings of those next to its own by name. They
    are no file that it needs, but what an editor without an index would show.

Does not
    Know code from data, or what a model has seen in training: choose the files accordingly.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bytelm.errors import InvalidArgumentError
from bytelm.symbols import character_from, character_until
from evals.fim.problems import Benchmark, Problem
from evals.report.errors import DataError

DEFAULT_CURSORS: Final = 300
CONTEXT_BYTES: Final = 1024  # of each other file
MOST_BYTES: Final = 4 << 20  # of a file: larger ones are data


@dataclass(frozen=True, slots=True)
class Source:
    """A text file and its name in the results."""

    name: str
    text: bytes


def load_cursors(
    paths: Sequence[Path],
    *,
    glob: str = "*.py",
    limit: int | None = None,
    before: int = 1024,
    after: int = 512,
    context: int = 0,
    seed: int = 0,
) -> Benchmark:
    """Seeded cursors in files of the user.

    Args:
        paths: Files, or folders to be searched for ``glob`` at any depth.
        glob: Which files of a folder.
        limit: How many cursors in all; None for `DEFAULT_CURSORS`.
        before: Bytes of the prefix, at most.
        after: Bytes of the suffix, at most.
        context: Other files of the same PATH that a cursor has in view.
        seed: Of the cursors.

    Raises:
        InvalidArgumentError: A number is out of range.
        DataError: A path is not there or has no line to put a cursor in, or two have the same name.
    """
    limit = DEFAULT_CURSORS if limit is None else limit
    for name, value, least in (
        ("--limit", limit, 1),
        ("--before", before, 1),
        ("--after", after, 0),
        ("--context", context, 0),
    ):
        if value < least:
            raise InvalidArgumentError(f"{name} must be at least {least}; got {value}")
    if not paths:
        raise DataError("the benchmark cursor needs --data: files, or folders with source files")
    names = [path.resolve().name for path in paths]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(
            f"two paths of --data are called {twice[0]!r}, so their cursors would have the same names: give the "
            "folder above them, or rename a copy of one"
        )
    digest, left_out, files = hashlib.sha256(), 0, 0
    problems: dict[str, Problem] = {}
    for place, path in enumerate(paths):
        sources, unread = _sources(path, glob)
        left_out, files = left_out + unread, files + len(sources)
        for source in sources:
            digest.update(f"{source.name}\0{len(source.text)}\0".encode() + source.text)
        wanted = limit // len(paths) + (place < limit % len(paths))
        found = _cursors(sources, wanted, random.Random(f"{seed}/{place}"), before=before, after=after)
        if wanted and not found:
            raise DataError(f"{path} has no line of UTF-8 text for a cursor (--glob is {glob!r})")
        if context:
            found = [replace(problem, context=beside(sources, problem.group, context)) for problem in found]
        problems.update((problem.id, problem) for problem in found)
    data = {
        "paths": names,
        "glob": glob,
        "before": before,
        "after": after,
        "sha256": digest.hexdigest(),
        "files": files,
        "files_left_out": left_out,
        **({"context": context} if context else {}),
    }
    return Benchmark("cursor", tuple(problems.values()), data, stops=("\r\n", "\n"))


def beside(sources: Sequence[Source], name: str, count: int) -> tuple[tuple[str, bytes], ...]:
    """The beginnings of the files next to one by their names, the nearest last."""
    names = [source.name for source in sources]
    at = names.index(name)
    nearest = sorted((place for place in range(len(names)) if place != at), key=lambda place: (abs(place - at), place))
    return tuple((names[place], first_part(sources[place].text, CONTEXT_BYTES)) for place in reversed(nearest[:count]))


def _sources(path: Path, glob: str) -> tuple[list[Source], int]:
    """The texts of a path in the order of their names, and how many files are none."""
    if not path.exists():
        raise DataError(f"there is no {path}: --data of the benchmark cursor names files or folders")
    root = path.resolve()
    files = sorted(p for p in root.rglob(glob) if p.is_file()) if root.is_dir() else [root]
    sources, left_out = [], 0
    for file in files:
        try:
            text = file.read_bytes() if file.stat().st_size <= MOST_BYTES else b"\0"
            text.decode()
        except (OSError, UnicodeDecodeError):
            text = b"\0"
        if b"\0" in text:
            left_out += 1
            continue
        name = file.relative_to(root.parent).as_posix()
        sources.append(Source(name, text))
    return sources, left_out


def _cursors(
    sources: Sequence[Source], wanted: int, chance: random.Random, *, before: int, after: int
) -> list[Problem]:
    lines = [(source, *span) for source in sources for span in _lines(source.text)]
    places = sum(end - start for _, start, end in lines)
    found: dict[str, Problem] = {}
    while len(found) < min(wanted, places):
        source, start, end = chance.choice(lines)
        problem = _problem(source, chance.randrange(start, end), end, before=before, after=after)
        found.setdefault(problem.id, problem)
    return list(found.values())


def _lines(text: bytes) -> list[tuple[int, int]]:
    """Where the lines that are not blank begin and end, without their ends."""
    spans, start = [], 0
    for line in text.split(b"\n"):
        bare = line.removesuffix(b"\r")
        if bare.strip():
            spans.append((start, start + len(bare)))
        start += len(line) + 1
    return spans


def _problem(source: Source, cursor: int, end: int, *, before: int, after: int) -> Problem:
    text = source.text
    return Problem(
        id=f"{source.name}:{cursor}",
        group=source.name,
        prefix=last_part(text[:cursor], before),
        middle=text[cursor:end],
        suffix=first_part(text[end:], after),
    )


def last_part(text: bytes, size: int) -> bytes:
    r"""The last bytes of a text, from the beginning of a line or else of a character.

    >>> last_part(b"one\ntwo\nthr", 8), last_part("aéb".encode(), 2)
    (b'two\nthr', b'b')
    """
    if len(text) <= size:
        return text
    part = text[len(text) - size :]
    if text[len(text) - size - 1 : len(text) - size] == b"\n":
        return part
    if 0 <= (line := part.find(b"\n")) < size - 1:
        return part[line + 1 :]
    return part[character_from(part, 0) :]


def first_part(text: bytes, size: int) -> bytes:
    r"""The first bytes of a text, to the end of a line or else of a character.

    >>> first_part(b"\none\ntwo", 6), first_part("éa".encode(), 1)
    (b'\none\n', b'')
    """
    if len(text) <= size:
        return text
    part = text[:size]
    if (line := part.rfind(b"\n")) > 0:
        return part[: line + 1]
    return text[: character_until(text, size)]
