"""The problems of a fill-in-the-middle benchmark: prefix, middle and suffix of each.

Rules
    Texts are bytes: a cursor may be inside a character.
    A benchmark records the source of its data, with a sha256. A published file with another sha256 is an error,
    wherever it was found.
    A part of a benchmark is drawn with a seed and spread over the groups (tasks, files); it is never the first rows.

Sources
    Bavarian et al., arXiv:2207.14255, and openai/human-eval-infilling (MIT): single-line, multi-line and random-span.
    cursors.py makes problems from your own files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bytelm.errors import InvalidArgumentError
from bytelm.fim import OtherFiles
from bytelm.symbols import is_continuation
from bytelm.tokenizer.disk_cache import cache_folder, read_bytes, write_bytes
from evals.report.errors import DataError

INSIDE_WORD: Final = "inside a word"
CLASSES: Final = (
    INSIDE_WORD,
    "inside a character",
    "after a space",
    "inside an indentation",
    "after punctuation",
    "after a word",
    "at the start of a line",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A cursor, and the text that belongs there.

    Attributes:
        id: Its name, unique in its benchmark.
        group: Its task or file. Problems of one group are alike, so intervals resample whole groups.
        prefix: The text before the cursor.
        middle: The text that belongs at the cursor.
        suffix: The text after the middle.
        test: Program text to append to the three, which fails unless the middle is right; or None.
        entry: The name of the function that the test calls.
        context: Other files in view: names and texts, the nearest last.
    """

    id: str
    group: str
    prefix: bytes
    middle: bytes
    suffix: bytes
    test: str | None = None
    entry: str = ""
    context: tuple[tuple[str, bytes], ...] = ()

    @property
    def files(self) -> OtherFiles | None:
        """The other files, as `infill` takes them."""
        return OtherFiles(self.context, name=self.group) if self.context else None

    @property
    def cursor(self) -> str:
        """The class of the cursor, one of `CLASSES`."""
        return cursor_class(self.prefix, self.middle + self.suffix)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Problems and their source.

    Attributes:
        name: Its name for `--benchmark`.
        problems: In the order in which they are run.
        data: The source of the data for the results file, with its sha256.
        stops: Texts that end a middle in every mode; no middle contains one.
        left_end: A text that ends a middle in left mode and is part of it, or nothing.
    """

    name: str
    problems: tuple[Problem, ...]
    data: dict[str, Any]
    stops: tuple[str, ...] = ()
    left_end: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """A published file of problems.

    Attributes:
        file: Its name.
        sha256: Of the file as it is published.
        left_end: As in `Benchmark`.
    """

    file: str
    sha256: str
    left_end: str = ""


ADDRESS: Final = (
    "https://raw.githubusercontent.com/openai/human-eval-infilling/88062ff9859c875d04db115b698ed4b0f0395170/data/"
)
PUBLISHED: Final = {
    "random-span": Published(
        "HumanEval-RandomSpanInfilling.jsonl.gz", "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d"
    ),
    "single-line": Published(
        "HumanEval-SingleLineInfilling.jsonl.gz",
        "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
        left_end="\n",
    ),
    "multi-line": Published(
        "HumanEval-MultiLineInfilling.jsonl.gz", "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349"
    ),
}


def load_published(name: str, path: Path | None = None, *, limit: int | None = None, seed: int = 0) -> Benchmark:
    """A published benchmark.

    Args:
        name: A key of `PUBLISHED`.
        path: Its file, or a folder that holds it. None: below the folder that BYTELM_TEST_DATA names, else in the
            cache, else from its official address into the cache.
        limit: How many problems, spread over the tasks; None for all.
        seed: Of the spread.

    Raises:
        DataError: There is no such file, it cannot be fetched, or it is not the published one.
    """
    published = PUBLISHED[name]
    raw, where = _found(published, path)
    if (found := hashlib.sha256(raw).hexdigest()) != published.sha256:
        raise DataError(
            f"{where} has sha256 {found}, and the published {published.file} has {published.sha256}: it was changed or "
            f"cut short; fetch it again from {ADDRESS}{published.file}"
        )
    rows = [json.loads(line) for line in gzip.decompress(raw).decode().splitlines() if line]
    problems = tuple(_problem(row) for row in rows)
    data = {"file": published.file, "sha256": published.sha256, "rows": len(problems)}
    return Benchmark(name, spread(problems, limit, seed=seed), data, left_end=published.left_end)


def _found(published: Published, path: Path | None) -> tuple[bytes, str]:
    """The file's bytes, and where they were found."""
    folder = os.environ.get("BYTELM_TEST_DATA")
    if path is None and folder and (Path(folder) / "data").is_dir():
        path = Path(folder) / "data"
    if path is not None:
        candidates = [path, path / published.file, path / "humaneval_infilling" / published.file]
        file = next((p for p in candidates if p.is_file()), None)
        if file is None:
            raise DataError(
                f"there is no {published.file} (sha256 {published.sha256}) at {path}; give its path or its folder with "
                f"--data, or leave out --data and BYTELM_TEST_DATA to fetch it from {ADDRESS}"
            )
        try:
            return file.read_bytes(), str(file)
        except OSError as error:
            raise DataError(f"cannot read {file} (sha256 {published.sha256}): {error}") from error
    kept = cache_folder("benchmarks")
    place = None if kept is None else kept / published.file
    if (raw := read_bytes(place)) is not None:
        return raw, str(place)
    address = ADDRESS + published.file
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - a fixed https address
            raw = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise DataError(
            f"cannot fetch {address} (sha256 {published.sha256}): {error}; fetch it elsewhere and give its path with "
            "--data"
        ) from error
    if hashlib.sha256(raw).hexdigest() == published.sha256:
        write_bytes(place, raw)
    return raw, address


def _problem(row: dict[str, str]) -> Problem:
    return Problem(
        id=row["task_id"],
        group="/".join(row["task_id"].split("/")[1:3]),
        prefix=row["prompt"].encode(),
        middle=row["canonical_solution"].encode(),
        suffix=row["suffix"].encode(),
        test=f"\n{row['test']}\ncheck({row['entry_point']})\n",
        entry=row["entry_point"],
    )


def spread(problems: Sequence[Problem], limit: int | None, *, seed: int) -> tuple[Problem, ...]:
    """A part of the problems, in their own order: equally many of each group, as far as there are enough.

    Raises:
        InvalidArgumentError: ``limit`` is below 1.
    """
    if limit is None or limit >= len(problems):
        return tuple(problems)
    if limit < 1:
        raise InvalidArgumentError(f"--limit must be at least 1; got {limit}")
    shuffled = list(range(len(problems)))
    random.Random(seed).shuffle(shuffled)
    seen: dict[str, int] = {}
    rounds: list[tuple[int, int]] = []
    for place, index in enumerate(shuffled):
        group = problems[index].group
        rounds.append((seen.setdefault(group, 0), place))
        seen[group] += 1
    chosen = sorted(shuffled[place] for _, place in sorted(rounds)[:limit])
    return tuple(problems[index] for index in chosen)


def with_middle(benchmark: Benchmark) -> Benchmark:
    """A benchmark without the problems whose middle is empty; its data records how many there were."""
    kept = tuple(problem for problem in benchmark.problems if problem.middle)
    data = {**benchmark.data, "empty_left_out": len(benchmark.problems) - len(kept)}
    return replace(benchmark, problems=kept, data=data)


def cursor_class(before: bytes, after: bytes) -> str:
    r"""The class of a cursor: the first of `CLASSES` that applies.

    >>> cursor_class(b"x = re", b"turn"), cursor_class(b"x =", b" 1"), cursor_class(b"\n  ", b"  x")
    ('inside a word', 'after punctuation', 'inside an indentation')
    """
    line = before[before.rfind(b"\n") + 1 :]
    if after and is_continuation(after[0]):
        return "inside a character"
    if not line:
        return "at the start of a line"
    if not line.strip():
        return "inside an indentation"
    last, following = line.decode("utf-8", "replace")[-1], after[:4].decode("utf-8", "ignore")[:1]
    if _of_word(last):
        return INSIDE_WORD if _of_word(following) else "after a word"
    return "after a space" if last.isspace() else "after punctuation"


def _of_word(character: str) -> bool:
    return character.isalnum() or character == "_"
