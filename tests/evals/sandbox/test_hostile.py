"""Hostile programs in the cell, behind each of the two kinds of walls: what they cannot reach, and cannot use up."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evals.sandbox.run import Walls
from tests.evals.sandbox.programs import Run, nothing_remains

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="programs are contained on Linux alone")


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


def test_no_pair_of_sockets(run: Run) -> None:
    """A socket is barred in pairs as well: its buffers are memory that no limit counts."""
    outcome = run("""
        import socket
        try:
            socket.socketpair()
        except PermissionError:
            pass
        else:
            raise AssertionError("a pair was made")
    """)

    assert (outcome.state, outcome.detail) == ("passed", "")
