"""The problems of the benchmarks: what is read, what is refused, which part is taken, and cursors in files."""

from __future__ import annotations

import gzip
import hashlib
import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest

from bytelm.errors import InvalidArgumentError
from evals.fim import problems
from evals.fim.cursors import first_part, last_part, load_cursors
from evals.fim.passing import BROKEN, program
from evals.fim.problems import CLASSES, PUBLISHED, Problem, Published, cursor_class, load_published, spread, with_middle
from evals.report.errors import DataError

ROWS = {"random-span": 1640, "single-line": 1033, "multi-line": 5815}


def raw_of(n: int) -> bytes:
    """A small file in the published form: n rows of two tasks."""
    rows = [
        {
            "task_id": f"Kind/HumanEval/{i % 2}/{i}",
            "entry_point": "f",
            "prompt": "def f():\n    ret",
            "canonical_solution": f"urn {i}\n",
            "suffix": "",
            "test": "def check(candidate):\n    candidate()",
        }
        for i in range(n)
    ]
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A published file of seven rows, and a cache of the test's own."""
    raw = raw_of(7)
    published = Published("small.jsonl.gz", hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(problems, "PUBLISHED", {"small": published})
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BYTELM_TEST_DATA", raising=False)
    return raw


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files(name: str, test_data: Path) -> None:
    """The files have as many rows as were counted, and every program comes apart into its three texts."""
    benchmark = load_published(name, test_data / "data")

    assert len(benchmark.problems) == ROWS[name]
    assert len({problem.id for problem in benchmark.problems}) == ROWS[name]
    assert len({problem.group for problem in benchmark.problems}) == 164
    assert sum(not problem.middle for problem in benchmark.problems) == (14 if name == "random-span" else 0)
    assert all(problem.middle for problem in with_middle(benchmark).problems)
    assert Counter(problem.cursor for problem in benchmark.problems).keys() <= set(CLASSES)
    if benchmark.left_end:
        assert all(problem.middle.find(b"\n") == len(problem.middle) - 1 for problem in benchmark.problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_broken_middle_is_no_python_anywhere(name: str, test_data: Path) -> None:
    """Every canonical program compiles, and with the broken middle none does."""
    for problem in load_published(name, test_data / "data").problems:
        compile(program(problem, problem.middle), problem.id, "exec")
        with pytest.raises(SyntaxError):
            compile(program(problem, BROKEN), problem.id, "exec")


@pytest.mark.parametrize("below", ["", "small.jsonl.gz", "humaneval_infilling"])
def test_data_by_path(small: bytes, tmp_path: Path, below: str) -> None:
    """A path is the file, its folder, or the folder of data that holds it."""
    folder = tmp_path / "data" / ("humaneval_infilling" if below == "humaneval_infilling" else "")
    folder.mkdir(parents=True)
    (folder / "small.jsonl.gz").write_bytes(small)
    path = tmp_path / "data" / (below if below.endswith("gz") else "")

    benchmark = load_published("small", path)

    assert [problem.id for problem in benchmark.problems] == [f"Kind/HumanEval/{i % 2}/{i}" for i in range(7)]
    assert benchmark.problems[3].group == "HumanEval/1"
    assert benchmark.data["sha256"] == hashlib.sha256(small).hexdigest()


def test_an_altered_file_is_refused(small: bytes, tmp_path: Path) -> None:
    """A file with one byte changed is refused with the sum that it has and the one that it should have."""
    altered = small[:-1] + bytes([small[-1] ^ 1])
    (tmp_path / "small.jsonl.gz").write_bytes(altered)

    with pytest.raises(DataError) as caught:
        load_published("small", tmp_path)

    assert hashlib.sha256(small).hexdigest() in str(caught.value)
    assert hashlib.sha256(altered).hexdigest() in str(caught.value)


def test_a_missing_file_is_named(small: bytes, tmp_path: Path) -> None:
    """A folder without the file: the error names the file, its sum and the folder."""
    with pytest.raises(DataError, match=r"small\.jsonl\.gz") as caught:
        load_published("small", tmp_path)

    assert hashlib.sha256(small).hexdigest() in str(caught.value)
    assert str(tmp_path) in str(caught.value)


class Answer:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> bytes:
        return self.raw


def test_what_is_fetched_is_kept(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is fetched from its address once, and read from the cache after that."""
    asked: list[str] = []

    def fetch(address: str, timeout: float) -> Answer:
        asked.append(address)
        return Answer(small)

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    first, second = load_published("small"), load_published("small")

    assert asked == [problems.ADDRESS + "small.jsonl.gz"]
    assert first == second


def test_what_is_fetched_and_wrong_is_not_kept(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that gives something else is an error, each time anew."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(b"a page that says hello"))
    with pytest.raises(DataError, match="changed or cut short"):
        load_published("small")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(small))

    assert len(load_published("small").problems) == 7


def test_no_network_says_what_to_do(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be fetched the error names the address and --data."""

    def fetch(*_: object, **__: object) -> Any:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    with pytest.raises(DataError, match="--data"):
        load_published("small")


def problem(i: int, group: str) -> Problem:
    return Problem(str(i), group, b"", b"x", b"")


def test_a_part_is_spread_over_the_groups() -> None:
    """Of nine problems in three groups six are two of each, in their order, and another seed takes others."""
    many = [problem(i, "abc"[i // 3]) for i in range(9)]
    parts = [spread(many, 6, seed=seed) for seed in range(8)]

    assert all(Counter(p.group for p in part) == {"a": 2, "b": 2, "c": 2} for part in parts)
    assert all([int(p.id) for p in part] == sorted(int(p.id) for p in part) for part in parts)
    assert len({tuple(p.id for p in part) for part in parts}) > 1
    assert spread(many, 6, seed=3) == parts[3]


def test_small_groups_are_used_up() -> None:
    """Where a group has too few the others give more; a limit beyond all takes all; none at all is refused."""
    many = [problem(i, "a" if i == 0 else "b") for i in range(5)]

    assert Counter(p.group for p in spread(many, 4, seed=0)) == {"a": 1, "b": 3}
    assert spread(many, 9, seed=0) == tuple(many)
    with pytest.raises(InvalidArgumentError, match="--limit"):
        spread(many, 0, seed=0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("def f", "oo():", "inside a word"),
        ("x_", "1 = 2", "inside a word"),
        ("naï", "ve", "inside a word"),
        ("return", " x", "after a word"),
        ("return", "", "after a word"),
        ("return ", "x", "after a space"),
        ("a\t", "b", "after a space"),
        ("f(", "x)", "after punctuation"),
        ("x\n    ", "    y", "inside an indentation"),
        ("    ", "y", "inside an indentation"),
        ("x\n", "y", "at the start of a line"),
        ("", "y", "at the start of a line"),
    ],
)
def test_classes_of_cursors(before: str, after: str, expected: str) -> None:
    """A cursor is classed by what stands on its line before it and right behind it."""
    assert cursor_class(before.encode(), after.encode()) == expected


def test_a_cursor_inside_a_character() -> None:
    """Between the bytes of é a cursor is inside a character, wherever that stands."""
    assert cursor_class("é".encode()[:1], "é".encode()[1:]) == "inside a character"


SOURCE = "def add(a, b):\n    return a + b\n\n\nnaïve = 'é'\r\n   \nlast = 1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "one.py").write_bytes(SOURCE.encode())
    (tmp_path / "pkg" / "sub" / "two.py").write_bytes(b"x = 1\ny = 22\n")
    (tmp_path / "pkg" / "binary.py").write_bytes(b"\0\xff")
    (tmp_path / "pkg" / "latin.py").write_bytes("é".encode("latin-1"))
    (tmp_path / "pkg" / "notes.txt").write_bytes(b"not asked for")
    return tmp_path / "pkg"


def test_cursors_stand_where_the_rest_of_a_line_follows(tree: Path) -> None:
    """Every byte of a line that is not blank can be a cursor; the answer is the rest of the line, the suffix its end."""
    benchmark = load_cursors([tree], limit=10**4, before=10**4, after=10**4)
    files = {"pkg/one.py": SOURCE.encode(), "pkg/sub/two.py": b"x = 1\ny = 22\n"}

    for cursor in benchmark.problems:
        name, at = cursor.id.rsplit(":", 1)
        assert cursor.prefix + cursor.middle + cursor.suffix == files[name]
        assert len(cursor.prefix) == int(at)
        assert cursor.middle
        assert not {*b"\r\n"} & {*cursor.middle}
        assert cursor.suffix[:1] in (b"\r", b"\n", b"")
    lines = [line for text in files.values() for line in text.splitlines() if line.strip()]
    assert len(benchmark.problems) == sum(map(len, lines))
    assert {cursor.cursor for cursor in benchmark.problems} == set(CLASSES)
    assert (benchmark.data["files"], benchmark.data["files_left_out"]) == (2, 2)


def test_cursors_are_a_function_of_the_seed(tree: Path) -> None:
    """The same seed gives the same cursors, another others, and the data are told by their sum."""
    first, again, other = (load_cursors([tree], limit=5, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert {p.id for p in first.problems} != {p.id for p in other.problems}
    assert first.data["sha256"] == other.data["sha256"]
    (tree / "one.py").write_bytes(SOURCE.encode() + b"\n")
    assert load_cursors([tree], limit=5, seed=1).data["sha256"] != first.data["sha256"]


def test_lines_are_as_likely_as_one_another_and_so_are_their_bytes(tmp_path: Path) -> None:
    """In a file of a short and a long line, one cursor stands in either half of the time, and at either byte."""
    (tmp_path / "a.py").write_bytes(b"ab\n" + b"c" * 600 + b"\n")
    drawn = [load_cursors([tmp_path / "a.py"], limit=1, seed=seed).problems[0].id for seed in range(1000)]
    places = Counter(int(cursor.rsplit(":", 1)[1]) for cursor in drawn)

    assert set(places) <= {0, 1, *range(3, 603)}
    assert abs(places[0] + places[1] - 500) < 60
    assert abs(places[0] - places[1]) < 70
    assert abs(sum(places[at] for at in range(3, 303)) - sum(places[at] for at in range(303, 603))) < 90


def test_paths_share_the_cursors(tree: Path, tmp_path: Path) -> None:
    """Each path has as many cursors as any other, whatever its size; a file is a path as well."""
    file = tmp_path / "big.txt"
    file.write_bytes(b"word word word word\n" * 500)
    benchmark = load_cursors([tree, file], limit=11)

    assert Counter(p.group.split("/")[0] for p in benchmark.problems) == {"pkg": 6, "big.txt": 5}
    assert benchmark.data["paths"] == ["pkg", "big.txt"]


def test_windows_are_cut_at_lines() -> None:
    """A window holds at most so many bytes, from the beginning of a line; a part of a line only where it must."""
    text = b"first\nsecond\nthird"

    assert last_part(text, 100) == text
    assert last_part(text, 14) == b"second\nthird"[-12:]
    assert last_part(text, 12) == b"second\nthird"
    assert last_part(text, 3) == b"ird"
    assert last_part(b"a long line\n", 5) == b"line\n"
    assert last_part("ééé".encode(), 3) == "é".encode()
    assert first_part(b"\nfirst\nsecond", 9) == b"\nfirst\n"
    assert first_part(b"\nfirst\nsecond", 4) == b"\nfir"
    assert first_part("ééé".encode(), 3) == "é".encode()
    assert first_part(text, 0) == b""


def test_windows_of_cursors(tree: Path) -> None:
    """No prefix and no suffix is larger than asked for."""
    benchmark = load_cursors([tree], limit=40, before=9, after=4)

    assert max(len(p.prefix) for p in benchmark.problems) <= 9
    assert max(len(p.suffix) for p in benchmark.problems) <= 4


def test_other_files_in_view(tmp_path: Path) -> None:
    """The beginnings of the files next to the cursor's by name, the nearest last, and never its own."""
    for name in "abcde":
        (tmp_path / f"{name}.py").write_text(f"{name} = 1\n" * 500)

    problems = load_cursors([tmp_path], limit=30, context=3).problems

    shown = {Path(problem.group).stem: problem.files for problem in problems}
    assert {name: [Path(other).stem for other, _ in files.files] for name, files in shown.items() if files} == {
        "a": ["d", "c", "b"],
        "b": ["d", "c", "a"],
        "c": ["a", "d", "b"],
        "d": ["b", "e", "c"],
        "e": ["b", "c", "d"],
    }
    texts = [text for problem in problems for _, text in problem.context]
    assert all(len(text) <= 1024 and text.endswith(b"\n") for text in texts)
    assert all(files.name.endswith(f"{name}.py") for name, files in shown.items() if files)
    assert load_cursors([tmp_path], limit=3).problems[0].files is None


def test_bad_cursors(tree: Path, tmp_path: Path) -> None:
    """No path, a path that is not there, one without text, and numbers out of range are refused."""
    with pytest.raises(DataError, match="--data"):
        load_cursors([])
    with pytest.raises(DataError, match="two paths of --data are called 'src'"):
        load_cursors([tmp_path / "a" / "src", tree, tmp_path / "b" / "src"])
    with pytest.raises(DataError, match="nowhere"):
        load_cursors([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no line of UTF-8 text"):
        load_cursors([tree / "binary.py"])
    wrong: list[dict[str, Any]] = [{"limit": 0}, {"before": 0}, {"after": -1}]
    for options in wrong:
        with pytest.raises(InvalidArgumentError):
            load_cursors([tree], **options)
