"""Results files: what a kill leaves, what going on asks for, and what happens where nothing can be written."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from evals.report.records import Records, RecordsError, command_of, read_records

HEADER: dict[str, Any] = {
    "command": "python -m evals.fim",
    "settings": {"seed": 1, "methods": ("byte",)},
    "versions": {"numpy": "2"},
}
LINES: list[dict[str, Any]] = [
    {"kind": "sample", "id": "é\n", "method": "byte", "sample": i, "completion": "\udcff"} for i in range(3)
]


def write(path: Path, lines: list[dict[str, Any]] = LINES, **options: Any) -> None:
    with Records(path, HEADER, **{"resume": False, **options}) as file:
        for line in lines:
            file.add(line)


def test_a_command_is_told_as_a_shell_takes_it(tmp_path: Path) -> None:
    """But for folders of this machine, and for --resume, which changes no result."""
    words = ["--data", str(tmp_path / "src"), "--out", "results/a.jsonl", "--resume", "--limit", "3"]

    assert command_of("evals.fim", words) == "python -m evals.fim --data src --out results/a.jsonl --limit 3"
    joined = [f"--data={tmp_path}/src", "--out", "../b/a.jsonl", "--glob=*.py"]
    assert command_of("evals.fim", joined) == "python -m evals.fim --data=src --out a.jsonl '--glob=*.py'"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Lines come back as they were, bytes that are no UTF-8 among them; a compressed file reads the same."""
    path = tmp_path / "new" / "run.jsonl"
    write(path)
    (tmp_path / "run.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    header, lines = read_records(path)

    assert lines == LINES
    assert header == json.loads(json.dumps({"kind": "header", **HEADER}))
    assert read_records(tmp_path / "run.jsonl.gz") == (header, lines)


def test_each_line_is_in_the_file_when_add_returns(tmp_path: Path) -> None:
    """A reader sees every line that was added, while the file is open."""
    path = tmp_path / "run.jsonl"
    with Records(path, HEADER, resume=False) as file:
        for n, line in enumerate(LINES, start=1):
            file.add(line)
            assert len(read_records(path)[1]) == n


def test_a_kill_after_any_byte_loses_no_whole_line(tmp_path: Path) -> None:
    """Cut after any byte, the file is gone on with: whole lines stay, the rest is cut off, and the end is the same."""
    path = tmp_path / "run.jsonl"
    write(path)
    whole = path.read_bytes()

    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with Records(path, HEADER, resume=True) as file:
            kept = list(file.lines)
            assert path.read_bytes() == (whole[: whole.rfind(b"\n", 0, size) + 1] or whole[: whole.find(b"\n") + 1])
            for line in LINES[len(kept) :]:
                file.add(line)
        assert path.read_bytes() == whole
        assert len(kept) == max(whole[:size].count(b"\n") - 1, 0)


def test_a_half_written_line_is_passed_over_by_a_reader(tmp_path: Path) -> None:
    """A file that is being written is read up to its last whole line."""
    path = tmp_path / "run.jsonl"
    write(path)
    path.write_bytes(path.read_bytes()[:-5])

    assert read_records(path)[1] == LINES[:-1]


@pytest.mark.parametrize("wrong", ["", "[]", "{", '{"kind": "header"}', "{}"])
def test_a_line_that_is_none_is_named(tmp_path: Path, wrong: str) -> None:
    """A whole line that is no record of the run is an error with its number, and the file stays as it is."""
    path = tmp_path / "run.jsonl"
    write(path)
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], wrong, *lines[2:]]))
    before = path.read_bytes()

    with pytest.raises(RecordsError, match="line 3"):
        read_records(path)
    with pytest.raises(RecordsError, match="line 3"):
        write(path, resume=True)
    assert path.read_bytes() == before


def test_a_file_that_is_there_is_not_begun_anew(tmp_path: Path) -> None:
    """Without --resume a file that holds anything is left alone."""
    path = tmp_path / "run.jsonl"
    write(path)
    before = path.read_bytes()

    with pytest.raises(RecordsError, match="--resume"):
        write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b'{"my": "results"}', b"text", b'{"kind": "line"', b"\xff"])
def test_what_is_no_results_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file without a line end is gone on with only if it is the beginning of a header."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)

    with pytest.raises(RecordsError, match="not a results file"):
        write(path, resume=True)
    assert path.read_bytes() == content


def test_one_run_at_a_time_adds_to_a_file(tmp_path: Path) -> None:
    """A second run would write over the lines of the first; once that has ended, it may."""
    path = tmp_path / "run.jsonl"
    with Records(path, HEADER, resume=False) as file:
        file.add(LINES[0])
        with pytest.raises(RecordsError, match="another run is writing"):
            write(path, LINES[1:], resume=True)
        file.add(LINES[1])
    write(path, LINES[2:], resume=True)

    assert read_records(path)[1] == LINES


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("settings", {"seed": 2, "methods": ["byte"]}, "seed is 2 and was 1"),
        ("settings", {"seed": 1}, "methods is None"),
        ("versions", {"numpy": "3"}, "numpy is '3' and was '2'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, part: str, value: dict[str, Any], named: str) -> None:
    """A file of another run is not gone on with; what differs is named, and the file stays as it is."""
    path = tmp_path / "run.jsonl"
    write(path)
    before = path.read_bytes()

    with pytest.raises(RecordsError, match=named):
        Records(path, {**HEADER, part: value}, resume=True)
    assert path.read_bytes() == before


def test_another_command_is_no_other_setting(tmp_path: Path) -> None:
    """How it was asked for may differ, --workers for one."""
    path = tmp_path / "run.jsonl"
    write(path)

    with Records(path, {**HEADER, "command": "python -m evals.fim --workers 2"}, resume=True) as file:
        assert len(file.lines) == len(LINES)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line can be written in part only, it is cut off, the error says so, and the run can go on later."""
    path = tmp_path / "run.jsonl"
    write(path, LINES[:1])
    before = path.read_bytes()
    real, room = os.write, [len(json.dumps(LINES[1])) // 2]

    def full(handle: int, data: Any) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        size, room[0] = room[0], 0
        return real(handle, bytes(data)[:size])

    monkeypatch.setattr(os, "write", full)
    with Records(path, HEADER, resume=True) as file, pytest.raises(RecordsError, match=r"No space left .* --resume"):
        file.add(LINES[1])
    assert path.read_bytes() == before

    monkeypatch.undo()
    write(path, LINES[1:], resume=True)
    assert read_records(path)[1] == LINES


def test_a_limit_of_the_system_is_a_full_disk(tmp_path: Path) -> None:
    """The system's own refusal, by a limit on the size of files: the same."""
    path = tmp_path / "run.jsonl"
    write(path, LINES[:1])
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Records(path, HEADER, resume=True) as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
            with pytest.raises(RecordsError, match="What was written is kept"):
                file.add(LINES[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert path.read_bytes() == before


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A file where a folder should be, a folder where the file should be, a compressed file: errors with the path."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run.jsonl", tmp_path):
        with pytest.raises(RecordsError, match=str(path)):
            Records(path, HEADER, resume=False)
    write(tmp_path / "run.jsonl")
    (tmp_path / "run.gz").write_bytes(gzip.compress((tmp_path / "run.jsonl").read_bytes()))
    with pytest.raises(RecordsError, match="unpack it"):
        Records(tmp_path / "run.gz", HEADER, resume=True)
    with pytest.raises(RecordsError, match=r"name it \.jsonl"):
        Records(tmp_path / "new.gz", HEADER, resume=False)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, an empty one and one that is not compressed though it says so are errors."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "plain.gz").write_text("plain")
    for name in ("none.jsonl", "empty.jsonl", "plain.gz"):
        with pytest.raises(RecordsError, match=name):
            read_records(tmp_path / name)
