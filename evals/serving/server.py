"""A server in a process of its own: started, found by the line that it prints, measured from outside, and stopped.

Rules
    The system chooses the port. What the server prints goes to a log file, which the caller may read.
    It is stopped as a user stops it, by a signal; one that does not end within `PATIENCE` is killed, and that is told.
    Its memory is the resident set of its process and of that one's children.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bytelm.errors import BytelmError

ROOT: Final = Path(__file__).parents[2]
READY: Final = re.compile(r"^bytelm serves (.+) at (http://\S+)$", re.MULTILINE)
STARTS_WITHIN: Final = 300.0  # seconds; a model may have to be loaded
PATIENCE: Final = 30.0  # seconds until it has stopped
COMMAND: Final = (sys.executable, "-c", "from bytelm.cli.main import main; main()", "serve")
TOY: Final = (sys.executable, "-m", "evals.serving.toy")


class ServingError(BytelmError):
    """A server did not start, or does not answer as a server must to be measured."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens.

    Attributes:
        url: Its address, without a slash at the end.
        pid: Its process.
        log: What it prints.
    """

    url: str
    pid: int
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def printed(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def memory(self) -> int:
        """Bytes of memory that its process holds now; 0 where there is none any more."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return sum(int(each.memory_info().rss) for each in (process, *process.children(recursive=True)))
        except psutil.Error:
            return 0

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.memory() > 0


def words_for(model: str, *more: str) -> list[str]:
    """The command that serves a model; "toy" is that of toy.py."""
    return [*TOY, *more] if model == "toy" else [*COMMAND, "-m", model, "--port", "0", "--quiet", *more]


@contextmanager
def started(words: Sequence[str]) -> Iterator[Server]:
    """A server that listens within the context.

    Args:
        words: The command, with port 0.

    Raises:
        ServingError: It ended, or printed no address in time.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        with log.open("wb") as printed:
            process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)  # noqa: S603 - bytelm's own command
        try:
            yield Server(_url(process, log), process.pid, log)
        finally:
            _stop(process)


def _url(process: subprocess.Popen[Any], log: Path) -> str:
    ends, text = time.monotonic() + STARTS_WITHIN, ""
    while time.monotonic() < ends:
        ended = process.poll() is not None  # asked first: what it printed before is then there to read
        text = log.read_text(encoding="utf-8", errors="replace")
        if found := READY.search(text):
            return found[2].rstrip("/")
        if ended:
            raise ServingError(f"the server ended with status {process.returncode}; it printed: {text[-2000:]}")
        time.sleep(0.05)
    raise ServingError(f"the server printed no address within {STARTS_WITHIN:.0f} s: {text[-2000:]}")


def _stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        print(f"the server did not stop within {PATIENCE:.0f} s of its signal: it was killed", file=sys.stderr)
        process.kill()
        process.wait()
