"""A results file: JSON lines, appended as work is done; it can be read after a kill at any moment.

Rules
    The first line is the header: the settings, and the versions and machine of the run. Every other line has a
    ``kind``, and is complete by itself. Lines come in any order (workers); a reader sorts them.
    A line ends with its newline. Bytes after the last newline were being written when the process died: a reader
    ignores them, and a resumed run cuts them off.
    If a line cannot be written (a full disk), the file is cut back to its last whole line before the error is raised.
    A resumed run must have the same settings and versions; if not, the error names the difference. Only one run at a
    time adds to a file.
    A finished file may be compressed: ``.gz`` is read, not written.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bytelm.errors import BytelmError

Line = dict[str, Any]

_BEGINNING: Final = b'{"kind": "header"'


class RecordsError(BytelmError):
    """A results file cannot be read or written, or is not of this run."""


def read_records(path: Path) -> tuple[Line, list[Line]]:
    """The header and the other lines of a file.

    Raises:
        RecordsError: There is no such file, or a whole line of it is no record.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordsError(f"cannot read the results file {path}: {error}") from error
    lines = _parsed(raw, path)
    if not lines:
        raise RecordsError(f"the results file {path} is empty: it does not even have a header")
    return lines[0], lines[1:]


def _parsed(raw: bytes, path: Path) -> list[Line]:
    whole = raw[: raw.rfind(b"\n") + 1]
    lines: list[Line] = []
    for number, text in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        kind = line.get("kind") if isinstance(line, dict) else None
        if kind is None or (kind == "header") != (number == 1):
            raise RecordsError(
                f"line {number} of {path} is not a record of a run: {text[:60]!r}; the file was changed: use another file"
            )
        lines.append(line)
    return lines


def command_of(module: str, words: Sequence[str]) -> str:
    """A command for a record: as a shell takes it, without --resume and without folders of this machine.

    >>> command_of("evals.fim", ["--out", "results/a.jsonl", "--data", "/home/me/src", "--resume"])
    'python -m evals.fim --out results/a.jsonl --data src'
    >>> command_of("evals.cost.moved", ["--cases", "greedy,top-p 0.9"])
    "python -m evals.cost.moved --cases 'greedy,top-p 0.9'"
    """
    kept = (word for word in words if word != "--resume")
    return " ".join(["python -m", module, *(shlex.quote(shortened(word, _elsewhere)) for word in kept)])


def shortened(word: str, elsewhere: Callable[[str], bool]) -> str:
    """A word of a command, where a path elsewhere is only its last name; ``--option=path`` keeps the option."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (Path(value).name if elsewhere(value) else value)


def _elsewhere(value: str) -> bool:
    path = Path(value)
    return path.is_absolute() or ".." in path.parts


def exit_status(run: Callable[[], int], out: Path | None) -> int:
    """The exit status of a command: what ``run`` returns, 1 after an error, 130 after Ctrl-C.

    Args:
        run: The command.
        out: The results file that keeps the lines written so far, if there is one.
    """
    try:
        return run()
    except BytelmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = f"; {out} holds what was done; continue with --resume" if out else ""
        print(f"stopped{kept}", file=sys.stderr)
        return 130


def key_of(line: Line) -> tuple[str, str, int]:
    """The key of a line: problem, method, sample."""
    return line["id"], line["method"], line["sample"]


class Lines:
    """Lines that are kept in memory.

    Attributes:
        lines: All of them.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def add(self, line: Line) -> None:
        """Append a line."""
        self.lines.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def kept_lines(path: Path | None, header: Line, *, resume: bool) -> Lines:
    """The lines of a results file, open for more; lines in memory alone, if there is no path.

    Raises:
        RecordsError: As for `Records`.
    """
    return Lines() if path is None else Records(path, header, resume=resume)


class Records(Lines):
    """A results file that is open for more lines.

    Args:
        path: The file, which need not exist.
        header: Its entries ``settings`` and ``versions`` must be equal to those of an existing file.
        resume: Whether to continue an existing file.

    Attributes:
        lines: Those of the file when it was opened, and those added since.

    Raises:
        RecordsError: The file exists without ``resume``, has other settings, or is no results file; another run adds to
            it; or it cannot be opened.
    """

    def __init__(self, path: Path, header: Line, *, resume: bool) -> None:
        super().__init__()
        self.path = path
        if path.suffix == ".gz":
            raise RecordsError(f"{path} is compressed, and a run cannot add to it: unpack it, or name it .jsonl")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RecordsError(f"cannot write {path}: {error}; give another file with --out") from error
        try:
            self._open(header, resume=resume)
        except BaseException:
            os.close(self._handle)
            raise

    def _open(self, header: Line, *, resume: bool) -> None:
        """Lock the file, as two runs would overwrite each other's lines; then take its lines."""
        path = self.path
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        except BlockingIOError:
            raise RecordsError(
                f"another run is writing to {path}: wait for it, end it, or give another file with --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            kept = path.read_bytes()
        except OSError as error:
            raise RecordsError(f"cannot read {path}: {error}; give another file with --out") from error
        if kept and not resume:
            raise RecordsError(f"{path} exists already: continue it with --resume, or give another file with --out")
        lines = _parsed(kept, path)
        if lines:
            _check_same(lines[0], header, path)
        elif not (kept.startswith(_BEGINNING) or _BEGINNING.startswith(kept)):
            raise RecordsError(
                f"{path} is not a results file: it begins with {kept[:60]!r}; give another file with --out"
            )
        self._size = kept.rfind(b"\n") + 1
        try:
            os.ftruncate(self._handle, self._size)
            os.lseek(self._handle, self._size, os.SEEK_SET)
        except OSError as error:
            raise RecordsError(f"cannot write {path}: {error}; give another file with --out") from error
        self.lines = lines[1:]
        if not lines:
            self._write({"kind": "header", **header})

    def add(self, line: Line) -> None:
        """Append a line; it is in the file when this returns.

        Raises:
            RecordsError: It cannot be written; the file is as before.
        """
        self._write(line)
        self.lines.append(line)

    def _write(self, line: Line) -> None:
        data = memoryview(json.dumps(line).encode() + b"\n")
        try:
            while data:
                data = data[os.write(self._handle, data) :]
            self._size = os.lseek(self._handle, 0, os.SEEK_CUR)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
                os.lseek(self._handle, self._size, os.SEEK_SET)
            raise RecordsError(
                f"cannot write to {self.path}: {error}. What was written is kept. Free some space and continue with --resume"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)


def _check_same(found: Line, wanted: Line, path: Path) -> None:
    """Refuse a file of another run, and name the differences."""
    differing = [
        f"{name} is {ours!r} and was {theirs!r}"
        for part in ("settings", "versions")
        for name, ours, theirs in _differing(wanted.get(part, {}), found.get(part, {}))
    ]
    if differing:
        raise RecordsError(
            f"{path} is from another run: {'; '.join(differing)}. Use the same settings, or give another file with --out"
        )


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    # Through JSON, where a tuple becomes a list.
    ours = json.loads(json.dumps(ours))
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            yield name, ours.get(name), theirs.get(name)
