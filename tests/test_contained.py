"""Hostile programs in the cell, behind each of the two kinds of walls, and the canonical programs of the benchmarks."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from bytelm.errors import InvalidArgumentError
from evals import contained
from evals.contained import Containment, Limits, Outcome, Walls, run_all, run_contained

Run = Callable[..., Outcome]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are contained on Linux alone")

FOREVER = "import time\nwhile True: time.sleep(1)"


@pytest.fixture(params=get_args(Walls))
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Walls:
    """Each kind of walls in turn, if this system has it."""
    kind: Walls = request.param
    trial = contained._trial(kind)
    if trial.state == "not run":
        pytest.skip(f"this system does not allow {kind}: {trial.detail}")
    assert trial == Outcome("passed", "", trial.seconds)  # walls that stand and do not hold are no reason to skip
    monkeypatch.setattr(contained, "containment", lambda: Containment(kind, kind))
    return kind


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the cells have theirs; its path is on the command line of all of their processes."""
    folder = tmp_path / "cells"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def remains(folder: Path) -> list[object]:
    """What is there of the cells in a folder: processes that name it, and folders within."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()) and process.pid != os.getpid():
                processes.append(process)
    return [*processes, *folder.iterdir()]


def nothing_remains(folder: Path, *, within: float = 5.0) -> bool:
    """Whether nothing is left of the cells in a folder, after a while."""
    end = time.monotonic() + within
    while remains(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def looking(cells: Path) -> Run:
    def run_and_look(program: str, **limits: Any) -> Outcome:
        outcome = run_contained(textwrap.dedent(program), limits=Limits(**limits))
        assert remains(cells) == []
        return outcome

    return run_and_look


@pytest.fixture
def run(walls: Walls, cells: Path) -> Run:
    """Run a program behind each kind of walls, and see that nothing of it remains."""
    return looking(cells)


@pytest.fixture
def run_once(cells: Path) -> Run:
    """The same behind the walls that this system prefers, for what does not depend on them."""
    if contained.containment().walls is None:
        pytest.skip(str(contained.containment()))
    return looking(cells)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that must not be touched, with a secret in its environment and its memory.

    It ends with status 7 when it gets SIGURG, which leaves everybody else alone.
    """
    code = "import os, signal, sys, time; signal.signal(signal.SIGURG, lambda *_: os._exit(7)); print(flush=True)\n"
    code += "time.sleep(120)"
    environment = os.environ | {"SECRET": "hidden-in-plain-sight"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


# States and details


def test_a_program_that_comes_to_its_end_has_passed(run: Run) -> None:
    """Definitions, imports of the standard library and true assertions pass, with nothing to say."""
    outcome = run("""
        import collections, dataclasses, hashlib, heapq, itertools, math, random, re, string, typing

        @dataclasses.dataclass
        class Point:
            x: int

        assert Point(1) == Point(1)
        print("printed")
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")
    assert 0 < outcome.seconds < 30


ENDS = {
    "assert 1 == 2": ("failed", "AssertionError"),
    "assert False, 'first\\nlast'": ("failed", "AssertionError: last"),
    "1 / 0": ("failed", "ZeroDivisionError: division by zero"),
    "x = (": ("failed", "SyntaxError: '(' was never closed (<program>, line 1)"),
    "x = '\0'": ("failed", ""),
    "'\udce9'": ("failed", "UnicodeEncodeError"),
    "import numpy": ("failed", "ModuleNotFoundError: No module named 'numpy'"),
    "raise KeyError('\\x1b[31mred\\n')": ("failed", "KeyError: '\\x1b[31mred\\n'"),
    "raise ValueError('\\x1b[31mred')": ("failed", "ValueError:  [31mred"),
    "raise ValueError('long' * 10**6)": ("failed", ("ValueError: " + "long" * 100)[:200]),
    "raise KeyboardInterrupt": ("failed", "KeyboardInterrupt"),
    "import sys; sys.exit()": ("failed", "SystemExit"),
    "import sys; sys.exit(0)": ("failed", "SystemExit: 0"),
    "raise SystemExit('fine')": ("failed", "SystemExit: fine"),
    "import os; os._exit(0)": ("failed", "exited with status 0 before its end"),
    "import os; os._exit(3)": ("failed", "exited with status 3 before its end"),
    "import os; os.execv('/usr/bin/env', ['env'])": ("failed", "closed the pipe of its report"),
    "import ctypes; ctypes.string_at(0)": ("failed", "killed by SIGSEGV"),
    "input()": ("failed", "EOFError: EOF when reading a line"),
    "import sys; assert sys.stdin.read() == ''": ("passed", ""),
    "def f(): f()\nf()": ("failed", "RecursionError: maximum recursion depth exceeded"),
    "print('annotations' if False else 1); x: undefined = 1": ("failed", "NameError: name 'undefined' is not defined"),
    "assert list({'b', 'a', 'd', 'c'}) == ['c', 'b', 'a', 'd'] or True": ("passed", ""),
    "if __name__ == '__main__': raise ValueError": ("passed", ""),
}


@pytest.mark.parametrize("program", ENDS, ids=ascii)
def test_states_and_details(program: str, run_once: Run) -> None:
    """Each way to end has its state, and the last line of the error."""
    state, detail = ENDS[program]

    outcome = run_once(program)

    assert outcome.state == state
    assert outcome.detail.startswith(detail)
    assert outcome.detail.isprintable()
    assert len(outcome.detail) <= 200


def test_a_set_of_strings_has_one_order(run_once: Run) -> None:
    """Hashes are the same in all runs, so that a program that depends on them ends alike."""
    details = {run_once("raise ValueError(list({'ab', 'cd', 'ef', 'gh', 'ij', 'kl'}))").detail for _ in range(3)}

    assert len(details) == 1


def test_deep_recursion_without_the_guard_ends_in_the_cell(run_once: Run) -> None:
    """With Python's own guard off, the stack or the memory runs out for the program alone."""
    outcome = run_once("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)")

    assert outcome.state == "failed"


# Passes that are none

FORGERIES = {
    "prints": "print('passed'); print('RP'); raise ValueError",
    "writes to every descriptor": """
        import os
        for text in (b"P", b"RP", b"passed", b"RP" + bytes(16)):
            for file in range(64):
                try:
                    os.write(file, text)
                except OSError:
                    pass
        os._exit(0)
    """,
    "gives back what it can read": """
        import os
        for file in range(3, 64):
            try:
                os.set_blocking(file, False)
                text = os.read(file, 64)
            except OSError:
                continue
            for other in range(3, 64):
                for answer in (text, b"P" + text, b"RP" + text):
                    try:
                        os.write(other, answer)
                    except OSError:
                        pass
        raise ValueError
    """,
    "claims not to have run": """
        import os
        for file in range(3, 64):
            try:
                os.write(file, b"Nothing to see")
            except OSError:
                pass
        os._exit(0)
    """,
    "closes every descriptor": "import os; os.closerange(0, 64); assert False",
    "closes every descriptor and goes on": "import os, time; os.closerange(0, 64); time.sleep(60)",
    "replaces what ends a process": """
        import builtins, os, sys
        os._exit = sys.exit = lambda *_: None
        os.write = lambda file, text: len(text)
        builtins.BaseException = builtins.Exception = builtins.AssertionError = type("Quiet", (), {})
        builtins.str = builtins.type = lambda *_: "passed"
        assert False
    """,
    "replaces the interpreter's modules": "import sys; sys.modules.clear(); assert False",
    "raises what cannot be printed": """
        class Mute(BaseException):
            def __str__(self): raise SystemExit(0)
        raise Mute
    """,
    "raises what has no name": """
        class Nameless(type):
            @property
            def __name__(self): raise SystemExit(0)
        class Mute(BaseException, metaclass=Nameless): pass
        raise Mute
    """,
    "leaves it to atexit": "import atexit, os; atexit.register(lambda: os.write(1, b'passed')); raise SystemExit",
    "leaves it to a thread": """
        import os, threading
        try: threading.Thread(target=lambda: print("passed"), daemon=True).start()
        except RuntimeError: pass
        raise ValueError
    """,
    "ends itself with a signal": "import os, signal; signal.raise_signal(signal.SIGKILL); os.abort()",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_is_not_forged(name: str, run_once: Run) -> None:
    """A program that did not come to its end has failed, whatever it prints, writes or replaces."""
    assert run_once(FORGERIES[name]).state == "failed"


# Time


def test_wall_time_is_limited(run: Run) -> None:
    """A program that sleeps for ever, or computes what Python cannot interrupt, is killed at the limit on wall time."""
    assert run("x = 10 ** 10 ** 10", wall_seconds=0.5).state == "timed out"

    outcome = run(FOREVER, wall_seconds=0.5)

    assert (outcome.state, outcome.detail) == ("timed out", "wall time: 0.5 s")
    assert 0.5 <= outcome.seconds < 5


@pytest.mark.parametrize(("work", "limit"), [("pass", "CPU time: 1 s"), ("time.sleep(1)", "wall time: 0.5 s")])
def test_caught_signals_change_nothing(work: str, limit: str, run: Run) -> None:
    """A loop without end that catches or ignores every signal is killed at the limit on CPU time, or else on wall time."""
    outcome = run(
        f"""
        import contextlib, signal, time
        for number in signal.valid_signals():
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, (lambda *_: None) if number % 2 else signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        while True:
            try:
                while True: {work}
            except BaseException: pass
        """,
        cpu_seconds=1,
        wall_seconds=0.5 if "wall" in limit else 60,
    )

    assert (outcome.state, outcome.detail) == ("timed out", limit)


# Processes


def test_a_fork_bomb_starts_nothing(run: Run) -> None:
    """No fork works, by any of the ways; a bomb that goes on trying meets the limit on time."""
    outcome = run(
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        ways = [os.fork, os.forkpty, libc.vfork, lambda: libc.syscall(57), lambda: libc.syscall(56, 17, 0, 0, 0, 0),
                lambda: os.posix_spawn("/bin/true", ["true"], {}), lambda: os.system("true")]
        def bomb():
            while True:
                for way in ways:
                    try:
                        if way() == 0:
                            bomb()
                    except OSError:
                        pass
        bomb()
        """,
        wall_seconds=0.5,
    )

    assert outcome.state == "timed out"


@pytest.mark.parametrize("start", ["os.fork()", "subprocess.run('true')", "multiprocessing.Process().start()"])
def test_a_process_is_refused(start: str, run: Run) -> None:
    """Whoever starts a process gets the system's error."""
    outcome = run(f"import multiprocessing, os, subprocess\n{start}")

    assert outcome.state == "failed"
    assert "[Errno 1] Operation not permitted" in outcome.detail


def test_threads_are_counted(run: Run, walls: Walls) -> None:
    """A bomb of threads comes to the limit, or to none where there are no namespaces."""
    outcome = run(
        """
        import threading, time
        for count in range(1000):
            try:
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            except RuntimeError:
                raise ValueError(f"{count} beside the first")
        """,
        memory_mib=8192,
        processes=6,
    )

    assert outcome.detail == f"ValueError: {5 if walls == 'namespaces' else 0} beside the first"


def test_no_child_is_left_behind(run: Run, cells: Path) -> None:
    """A daemon that leaves session and group, forks twice and ignores signals is not there afterwards."""
    run(
        f"""
        import os, signal, subprocess
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            subprocess.Popen(["/bin/sh", "-c", "sleep 60; : {cells}"], start_new_session=True)
        except OSError: pass
        try:
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv("/bin/sh", ["sh", "-c", "sleep 60; : {cells}"])
        except OSError: pass
        """
    )

    assert nothing_remains(cells, within=0)


def test_the_group_cannot_be_left(run: Run) -> None:
    """The program stays in the group by which all of it is killed."""
    outcome = run("""
        import os
        for leave in (os.setsid, lambda: os.setpgid(0, 0)):
            try:
                leave()
            except PermissionError:
                continue
            assert False
    """)

    assert outcome.state == "passed"


def test_other_processes_are_out_of_reach(run: Run, victim: subprocess.Popen[bytes]) -> None:
    """No signal, debugger, limit or priority reaches a process of the same user; the tester and the cell live too."""
    before = psutil.Process(victim.pid)
    state = (before.nice(), before.rlimit(psutil.RLIMIT_NOFILE), before.cpu_affinity())
    outcome = run(f"""
        import contextlib, ctypes, fcntl, os, resource, signal, socket
        libc = ctypes.CDLL(None)
        mine, tester, victim = os.getppid(), {os.getpid()}, {victim.pid}
        def owned(pid):
            end, _ = os.pipe()
            fcntl.fcntl(end, fcntl.F_SETOWN, pid)
            fcntl.fcntl(end, 10, signal.SIGURG)
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
            os.write(_, b"x")
        for attempt in (
            lambda: os.kill(victim, signal.SIGKILL),
            lambda: os.kill(-1, signal.SIGURG),
            lambda: os.kill(0, signal.SIGKILL),
            lambda: os.killpg(0, signal.SIGKILL),
            lambda: mine and os.kill(mine, signal.SIGKILL),
            lambda: os.kill(tester, signal.SIGURG),
            lambda: signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGKILL),
            lambda: owned(victim),
            lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
            lambda: os.setpriority(os.PRIO_USER, 0, 19),
            lambda: os.sched_setaffinity(victim, [0]),
            lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (9, 9)),
            lambda: open(f"/proc/{{victim}}/mem", "r+b"),
        ):
            with contextlib.suppress(OSError):
                attempt()
        for pid in (mine, tester, victim):
            assert libc.ptrace(16, pid, 0, 0) == -1
            assert libc.process_vm_readv(pid, 0, 0, 0, 0, 0) == -1
    """)

    assert outcome.state == "passed"
    assert victim.poll() is None
    assert (before.nice(), before.rlimit(psutil.RLIMIT_NOFILE), before.cpu_affinity()) == state


# Memory and disk


@pytest.mark.parametrize(
    "bomb",
    [
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'x'\nwhile True: x += x",
        "import mmap\nx = [mmap.mmap(-1, 1 << 24) for _ in range(10**6)]",
        "import os\nfor _ in range(40): os.write(os.memfd_create('x'), bytes(8 << 20))",
        "import ctypes, os\nassert ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) != -1",
    ],
)
def test_memory_is_limited(bomb: str, run: Run) -> None:
    """A program that takes all memory gets an error at its limit, by whatever way it takes it."""
    outcome = run(bomb, memory_mib=256)

    assert outcome.state == "failed"


def test_endless_output_is_kept_nowhere(run: Run) -> None:
    """A program that prints for ever fills neither memory nor disk; one that fills the pipe of its report is killed."""
    before = psutil.Process().memory_info().rss

    printed = run("import sys\nwhile True:\n  for f in sys.stdout, sys.stderr: f.write('x' * 65536)", wall_seconds=0.5)
    reported = run("""
        import os
        while True:
            for file in range(3, 64):
                try:
                    os.write(file, bytes(65536))
                except OSError: pass
    """)

    assert printed.state == "timed out"
    assert (reported.state, reported.detail) == ("failed", "reported more than 64 KiB")
    assert psutil.Process().memory_info().rss - before < 32 << 20


def test_disk_space_is_limited(run: Run, walls: Walls) -> None:
    """A huge file, many files together and a file of holes end at the limit; without namespaces nothing is written."""
    for program in (
        "f = open('huge', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "for n in range(20): open(str(n), 'wb').write(bytes(1 << 18))",
        "open('holes', 'wb').truncate(1 << 30)",
        "import itertools\nfor n in itertools.count(): open(str(n), 'wb').close()",
    ):
        outcome = run(program, file_mib=2)

        assert outcome.state == "failed"
        assert outcome.detail.startswith("OSError" if walls == "namespaces" else "PermissionError")


def test_the_folder_is_empty_and_goes_with_the_program(run: Run, walls: Walls) -> None:
    """The program starts in an empty folder; what it puts there, sealed or not, is gone afterwards."""
    writes = """
        os.makedirs("a/b")
        with open("a/b/c", "w") as file:
            file.write("text")
        assert open("a/b/c").read() == "text"
        assert tempfile.TemporaryFile()
        os.chmod("a/b", 0)
        os.chmod("a", 0)
    """
    outcome = run(f"""
        import os, tempfile
        assert os.listdir(os.getcwd()) == []
        {writes if walls == "namespaces" else ""}
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")


# Files, the environment, the network


def test_the_files_of_the_user_are_out_of_reach(run: Run, tmp_path: Path) -> None:
    """Nothing outside the folder can be read, changed, moved, deleted or added."""
    home = tmp_path / "home"
    home.mkdir()
    sentinel = home / "sentinel"
    sentinel.write_text("secret", encoding="utf-8")
    os.utime(sentinel, (1, 1))
    sentinel.chmod(0o640)
    before = sentinel.stat()

    outcome = run(f"""
        import contextlib, os, pathlib, shutil
        home, sentinel = pathlib.Path({str(home)!r}), pathlib.Path({str(sentinel)!r})
        for attempt in (
            lambda: sentinel.write_text("changed"),
            lambda: sentinel.open("a").write("changed"),
            lambda: os.open(sentinel, os.O_RDONLY | os.O_TRUNC),
            lambda: os.truncate(sentinel, 0),
            lambda: sentinel.chmod(0),
            lambda: os.chown(sentinel, 1, 1),
            lambda: os.utime(sentinel),
            lambda: os.setxattr(sentinel, "user.changed", b"yes"),
            lambda: sentinel.rename(home / "moved"),
            lambda: os.link(sentinel, home / "linked"),
            lambda: os.symlink(sentinel, home / "linked"),
            lambda: sentinel.unlink(),
            lambda: shutil.rmtree(home),
            lambda: (home / "new").write_text("new"),
            lambda: (home / "new").mkdir(),
            lambda: os.mknod(home / "new"),
            lambda: os.mkfifo(home / "new"),
        ):
            with contextlib.suppress(OSError):
                attempt()
        for secret in (lambda: sentinel.read_text(), lambda: os.listdir(home)):
            try:
                print(secret())
            except OSError:
                continue
            assert False, "read"
    """)

    after = sentinel.stat()
    assert (outcome.state, outcome.detail) == ("passed", "")
    assert [path.name for path in home.iterdir()] == ["sentinel"]
    assert sentinel.read_text(encoding="utf-8") == "secret"
    assert (after.st_mode, after.st_mtime, after.st_uid) == (before.st_mode, before.st_mtime, before.st_uid)
    assert os.listxattr(sentinel) == []


def test_no_folder_of_the_system_can_be_written(run: Run) -> None:
    """Neither the folders that all may write, nor those of Python, nor the root."""
    folders = [*("/", "/etc", "/home", str(Path.home()), "/usr", "/usr/lib", sys.base_prefix), "/dev/shm", "/var/tmp"]  # noqa: S108  # the question
    outcome = run(f"""
        import os, sys
        for folder in {folders!r} + sys.path:
            try:
                open(os.path.join(folder, "bytelm-was-here"), "w")
            except OSError:
                continue
            assert False, folder
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")
    assert not any((Path(folder) / "bytelm-was-here").exists() for folder in folders)


def test_no_environment_is_inherited(
    run: Run, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret is in no environment that the program can read: its own, its parent's, or that of another process."""
    monkeypatch.setenv("SECRET", "hidden-in-plain-sight")
    assert b"hidden-in-plain-sight" in Path(f"/proc/{victim.pid}/environ").read_bytes()

    outcome = run(f"""
        import ctypes, os
        read = repr(dict(os.environ)).encode()
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        read += libc.getenv(b"SECRET") or b""
        for pid in [*range(1, 500), os.getpid(), os.getppid(), {os.getpid()}, {victim.pid}, "self"]:
            try:
                with open(f"/proc/{{pid}}/environ", "rb") as file:
                    read += file.read()
            except OSError: pass
        assert b"hidden" not in read
        assert set(os.environ) <= {{"LC_CTYPE"}}, os.environ
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")


def test_no_descriptor_is_inherited(run: Run, tmp_path: Path) -> None:
    """A file that the tester holds open, to be inherited by every child, is not open in the program."""
    with (tmp_path / "held").open("wb") as held:
        os.set_inheritable(held.fileno(), True)
        outcome = run("""
            import os, stat
            kinds = []
            for file in range(4096):
                try:
                    kinds.append(stat.S_IFMT(os.fstat(file).st_mode))
                except OSError: pass
            assert kinds == [stat.S_IFCHR] * 3 + [stat.S_IFIFO] * 2, kinds
        """)

    assert (outcome.state, outcome.detail) == ("passed", "")


def test_no_socket_reaches_the_tester(run: Run, tmp_path: Path) -> None:
    """Neither TCP on the loopback, nor UDP, nor a Unix socket by path or by name can be reached."""
    with contextlib.ExitStack() as stack:
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        path, name = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        unix = str(tmp_path / "socket")[-100:]
        monkey = f"\0bytelm-{os.getpid()}"
        for listener, address in ((tcp, ("127.0.0.1", 0)), (udp, ("127.0.0.1", 0)), (name, monkey)):
            stack.enter_context(listener).bind(address)
        with contextlib.chdir(tmp_path):
            stack.enter_context(path).bind("socket")
        for listener in (tcp, path, name):
            listener.listen()
        for listener in (tcp, udp, path, name):
            listener.settimeout(0.05)
        outcome = run(f"""
            import contextlib, socket
            for family, kind, address in (
                (socket.AF_INET, socket.SOCK_STREAM, {tcp.getsockname()!r}),
                (socket.AF_INET, socket.SOCK_DGRAM, {udp.getsockname()!r}),
                (socket.AF_INET6, socket.SOCK_STREAM, ("::1", {tcp.getsockname()[1]})),
                (socket.AF_UNIX, socket.SOCK_STREAM, {unix!r}),
                (socket.AF_UNIX, socket.SOCK_STREAM, {monkey!r}),
            ):
                try:
                    end = socket.socket(family, kind)
                    end.connect(address)
                    end.send(b"hello")
                except OSError:
                    continue
                assert False, address
        """)

        assert (outcome.state, outcome.detail) == ("passed", "")
        for listener in (tcp, path, name):
            with pytest.raises(TimeoutError):
                listener.accept()
        with pytest.raises(TimeoutError):
            udp.recv(16)


# Many programs


def test_outcomes_come_in_the_order_of_the_programs(walls: Walls, cells: Path) -> None:
    """A program that takes long does not come after those that end before it."""
    programs = ["import time; time.sleep(0.5)", "1 / 0", "", "x = 1", "assert False"]

    states = [outcome.state for outcome in run_all(programs, workers=2)]

    assert states == ["passed", "failed", "not run", "passed", "failed"]
    assert remains(cells) == []


def test_programs_are_asked_for_as_they_are_needed(walls: Walls, cells: Path) -> None:
    """Of a series without end, a few programs are taken and run; closing the iterator kills those that run."""
    asked = []

    def programs() -> Iterator[str]:
        for number in itertools.count():
            asked.append(number)
            yield FOREVER if number else "x = 1"

    outcomes = run_all(programs(), workers=2)
    state = next(outcomes).state  # two were begun before the first was waited for
    running = remains(cells)
    outcomes.close()

    assert state == "passed"
    assert len(asked) <= 3
    assert running
    assert remains(cells) == []


def test_an_error_in_the_series_kills_what_runs(walls: Walls, cells: Path) -> None:
    """When the series of programs raises, nothing of those before is left."""

    def programs() -> Iterator[str]:
        yield FOREVER
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(run_all(programs(), workers=2))

    assert remains(cells) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_programs_end_with_the_runner(number: signal.Signals, walls: Walls, cells: Path) -> None:
    """Ctrl-C, and whatever else ends the runner, ends all that it runs; after Ctrl-C no folder is left either."""
    code = f"""
        import signal, sys, tempfile
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit that it is ignored
        sys.path.append({str(Path(contained.__file__).parents[1])!r})
        tempfile.tempdir = {str(cells)!r}
        from evals import contained
        contained.containment = lambda: contained.Containment({walls!r}, "")
        print("ready", flush=True)
        list(contained.run_all([{FOREVER!r}] * 3, workers=2))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        while len(remains(cells)) < 7:  # the runner, and of each of two programs the cell, the program and the folder
            time.sleep(0.05)
        runner.send_signal(number)
        _, errors = runner.communicate(timeout=20)

    folders = list(cells.iterdir())
    for folder in folders:
        folder.rmdir()  # they are empty
    assert (b"KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert len(folders) == (0 if number == signal.SIGINT else 2)
    assert nothing_remains(cells)


def test_a_cell_that_is_killed_takes_its_program_along(walls: Walls, cells: Path) -> None:
    """When something kills the process that waits, its program is killed too, though it asked not to be."""
    stay = "import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"  # PR_SET_PDEATHSIG
    job = contained._Job(stay + FOREVER, Limits(), walls)
    while len(remains(cells)) < 3:
        time.sleep(0.02)
    time.sleep(0.2)
    psutil.Process(job._cell.pid).kill()
    job.finish()

    assert job.outcome == Outcome("not run", "the cell failed: no answer", 0.0)
    assert nothing_remains(cells)


# What is not run


@pytest.mark.parametrize("program", ["", " \n\t\n"])
def test_an_empty_program_is_not_run(program: str) -> None:
    """A program without a word in it has no state of success."""
    assert run_contained(program) == Outcome("not run", "the program is empty", 0.0)


def test_other_systems_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to contain them, programs are not run, and the cause is said."""
    monkeypatch.setattr(sys, "platform", "darwin")
    said = contained.containment.__wrapped__()
    monkeypatch.setattr(contained, "containment", lambda: said)

    outcome = run_contained("x = 1")

    assert said.walls is None
    assert str(said) == "nothing contains programs on this system: that needs Linux, and this is darwin"
    assert outcome == Outcome("not run", str(said), 0.0)


def test_walls_that_do_not_stand_are_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that refuses namespaces is left with Landlock; one that refuses both, with nothing."""
    refused = Outcome("not run", "unshare: Operation not permitted", 0.0)
    trials: dict[str, Outcome] = {"namespaces": refused, "landlock": Outcome("passed", "", 0.1)}
    monkeypatch.setattr(contained, "_trial", trials.__getitem__)

    second = contained.containment.__wrapped__()
    trials["landlock"] = Outcome("failed", "RuntimeError: a wall does not hold", 0.1)
    none = contained.containment.__wrapped__()

    assert second.walls == "landlock"
    assert "no namespaces: unshare: Operation not permitted" in str(second)
    assert none.walls is None
    assert "a wall does not hold" in str(none)


def test_a_cell_that_fails_runs_nothing(
    walls: Walls, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that cannot start, cannot put up its walls, or says what is no answer: not run, with the cause."""
    source = contained.CELL.read_text(encoding="utf-8")
    broken = tmp_path / "cell.py"
    details = []
    for text in (
        "raise SystemExit('no cell')",
        source.replace("PR_SET_NO_NEW_PRIVS, 1, 0", "PR_SET_NO_NEW_PRIVS, 2, 0"),
        source.replace('limits["memory_mib"] * MIB', "1 << 70"),
    ):
        broken.write_text(text, encoding="utf-8")
        monkeypatch.setattr(contained, "CELL", broken)
        outcome = run_contained("x = 1")
        assert outcome.state == "not run"
        details.append(outcome.detail)

    assert "no cell" in details[0]
    assert "prctl: Invalid argument" in details[1]
    assert details[2] == "the child ended while its walls went up"
    assert remains(cells) == []


def test_this_system_contains_programs() -> None:
    """What this system allows is said in one line, and skipped here where it is nothing."""
    found = contained.containment()
    if found.walls is None:
        pytest.skip(str(found))

    assert str(found).splitlines() == [str(found)]
    assert run_contained("x = 1").state == "passed"


@pytest.mark.parametrize("name", ["wall_seconds", "cpu_seconds", "memory_mib", "file_mib", "processes", "output_kib"])
def test_limits_are_above_zero(name: str) -> None:
    """A limit of nothing is an error that names it, as is no worker."""
    with pytest.raises(InvalidArgumentError, match=f"{name} must be above 0: 0"):
        Limits(**{name: 0})
    with pytest.raises(InvalidArgumentError, match="workers must be at least 1: 0"):
        run_all([], workers=0)


# The benchmarks

SETS = {"RandomSpan": 1640, "SingleLine": 1033, "MultiLine": 5815}


def rows_of(name: str, test_data: Path) -> list[dict[str, str]]:
    path = test_data / "data" / "humaneval_infilling" / f"HumanEval-{name}Infilling.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def program_of(row: dict[str, str], middle: str) -> str:
    return f"{row['prompt']}{middle}{row['suffix']}\n{row['test']}\ncheck({row['entry_point']})"


def require_containment() -> None:
    if contained.containment().walls is None:
        pytest.skip(str(contained.containment()))


def test_canonical_middles_pass_and_wrong_ones_fail(test_data: Path) -> None:
    """Twelve rows or so of each set, spread evenly: the canonical middle passes; in a third of them, a wrong one fails."""
    require_containment()
    rows = [row for name in SETS for row in rows_of(name, test_data)[:: SETS[name] // 12]]
    assert 36 <= len(rows) <= 42

    right = [
        outcome.state for outcome in run_all((program_of(row, row["canonical_solution"]) for row in rows), workers=2)
    ]
    wrong = [outcome.state for outcome in run_all((program_of(row, "\n)\n") for row in rows[::3]), workers=2)]

    assert right == ["passed"] * len(rows)
    assert wrong == ["failed"] * len(rows[::3])


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_all_canonical_middles_pass(name: str, test_data: Path) -> None:
    """Every row of a set; rows whose whole programs are the same text are run once."""
    require_containment()
    rows = rows_of(name, test_data)
    programs = list(dict.fromkeys(program_of(row, row["canonical_solution"]) for row in rows))

    states = [outcome.state for outcome in run_all(programs, workers=2)]

    assert len(rows) == SETS[name]
    assert states == ["passed"] * len(programs)
