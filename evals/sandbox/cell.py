"""The cell: a script that walls itself in, runs one program inside, and says how it ended. run.py starts it.

Order
    The argument is an empty folder. One line of JSON comes in: the program, the limits, the walls to put up. They go up
    around this process as far as they can be shared; a child gives up what rights it still has, says that it is ready,
    and runs the program. This process waits with a clock, kills the child, and answers with one line of JSON. When the
    runner is gone, its pipe hangs up, and the child is killed too.

Always
    The child is one process: seccomp bars every way to start another, to make a socket, and to leave something in the
    kernel. What the program started is therefore threads, and one SIGKILL, which nothing can catch, ends all of them.
    The kernel's limits on CPU, address space, files and descriptors; no capabilities, and none to be had; standard
    input, output and error are /dev/null.

With "namespaces"
    Own users, processes, network, IPC and mounts. The root is a new one, in memory: Python and the system's libraries,
    read-only, four devices, and an empty folder of bounded size, which vanish with the child. There is no /proc.
    Started by root, the child is `nobody`, since root is above the limit on processes.

With "landlock"
    For systems without the above. Landlock leaves it the same files to read, and none to write; seccomp bars signals,
    changes of other processes and of files' attributes, and threads. It can still ask whether a path exists.

A pass
    A random token waits in a pipe that only this process fills; the child reads it when the program has come to its
    end, and sends it back reversed. Text printed, an early exit, another `os._exit` do not know it. It is no secret
    from a program that knows this file: what is done at its end, it can do before.

Does not
    Hide what lies under the folders of `readable`, the time, or the kernel. Run elsewhere than on x86_64 and aarch64.

Sources
    namespaces(7), user_namespaces(7), pivot_root(2), mount_setattr(2), landlock(7), seccomp(2), and the kernel's tables
    of system calls.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

NOBODY = 65534
WORK = "/tmp"  # in a root of its own
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
MIB = 1 << 20

# Names as in the kernel's headers.
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (1 << bit for bit in (17, 27, 28, 29, 30))
CLONE_THREAD = 1 << 16
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = (1 << bit for bit in (1, 2, 12, 14, 18))
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_RECURSIVE = 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
MOUNT_SETATTR = 442  # from here on a system call has one number on all machines
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

# The audit name of a machine, and the place of its numbers in the tables below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CAPSET, PIVOT_ROOT, CLONE, KILL, FCNTL, IOCTL = (126, 91), (155, 41), (56, 220), (62, 129), (72, 25), (16, 29)
# Barred always: other processes, namespaces, sockets, the memory of others, what outlives a process or escapes the limits
# on its memory. Each with its number on x86_64 and on aarch64.
BARRED = """
fork 57 -             vfork 58 -              unshare 272 97        setns 308 268      setsid 112 157
setpgid 109 154       ptrace 101 117          process_vm_readv 310 270                 process_vm_writev 311 271
pidfd_getfd 438 438   socket 41 198           socketpair 53 199       io_uring_setup 425 425  memfd_create 319 279
shmget 29 194         semget 64 190           msgget 68 186         mq_open 240 180    add_key 248 217
request_key 249 218   keyctl 250 219          bpf 321 280           perf_event_open 298 241
userfaultfd 323 282   setpriority 141 140     ioprio_set 251 30
"""
# Barred too where no namespace stands between the program and other processes, and files could be changed past Landlock.
BARRED_OUTSIDE = """
clone 56 220          kill 62 129             tkill 200 130         tgkill 234 131     pidfd_send_signal 424 424
rt_sigqueueinfo 129 138                       rt_tgsigqueueinfo 297 240                pidfd_open 434 434
prlimit64 302 261     sched_setattr 314 274   sched_setparam 142 118                   sched_setscheduler 144 119
sched_setaffinity 203 122                     migrate_pages 256 238 move_pages 279 239 utime 132 -
chmod 90 -            fchmod 91 52            fchmodat 268 53       chown 92 -         utimes 235 -
lchown 94 -           fchown 93 55            fchownat 260 54       futimesat 261 -    utimensat 280 88
setxattr 188 5        lsetxattr 189 6         fsetxattr 190 7       removexattr 197 14
lremovexattr 198 15   fremovexattr 199 16
"""

LIBC = ctypes.CDLL(None, use_errno=True)


class WallError(Exception):
    """A wall could not be put up; the message names it."""


def call(name: str, *arguments: int | bytes | str | None) -> int:
    """Call a function of the C library; of its error, the name."""
    values = [
        ctypes.c_long(value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
        for value in arguments
    ]
    result = int(getattr(LIBC, name)(*values))
    if result == -1:
        raise WallError(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def readable() -> Iterator[str]:
    """What Python needs to run: files and folders, none inside another."""
    taken: list[str] = []
    for path in (
        "/usr",
        "/lib",
        "/lib64",
        "/nix/store",
        sys.base_prefix,
        sys.base_exec_prefix,
        os.path.dirname(os.__file__),
    ):
        if path != "/" and os.path.isdir(path) and not any(f"{path}/".startswith(f"{other}/") for other in taken):
            taken.append(path)
            yield path
    if os.path.isfile("/etc/ld.so.cache"):
        yield "/etc/ld.so.cache"


def own_users(uid: int, gid: int, proc: int) -> None:
    """Enter a user namespace that knows one user; `proc` is an open /proc/self."""
    call("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            file = os.open(name, os.O_WRONLY, dir_fd=proc)
            os.write(file, text.encode())
            os.close(file)
        except OSError as error:
            raise WallError(f"{name}: {error.strerror}") from error


def seal(path: str, attributes: int, *, flags: int = 0) -> None:
    """Add attributes to the mount at a path."""
    call("syscall", MOUNT_SETATTR, -100, path, flags, struct.pack("4Q", attributes, 0, 0, 0), 32)


def new_root(folder: str, file_mib: int, place: int) -> None:
    """Make `folder` the root, with what Python needs and an empty folder to work in; go there."""
    call("mount", "none", "/", None, MS_REC | MS_PRIVATE, None)
    call("mount", "tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for path in (*readable(), *DEVICES):
        target = folder + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)  # /lib is one, to usr/lib
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        call("mount", path, target, None, MS_BIND | MS_REC, None)
        seal(target, ATTR_NOSUID | ATTR_RDONLY | (0 if path in DEVICES else ATTR_NODEV), flags=AT_RECURSIVE)
    os.mkdir(folder + WORK)
    call("mount", "tmpfs", folder + WORK, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,nr_inodes=1k,size={file_mib}m")
    os.chdir(folder)
    call("syscall", PIVOT_ROOT[place], b".", b".")
    call("umount2", ".", MNT_DETACH)
    seal("/", ATTR_NOSUID | ATTR_NODEV | ATTR_RDONLY)
    os.chdir(WORK)


def enter_namespaces(folder: str, file_mib: int, place: int) -> None:
    """Users, processes, network, IPC and mounts of its own; the next child is the first process."""
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    root = os.geteuid() == 0
    if not root:
        own_users(os.geteuid(), os.getegid(), proc)
    call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC)
    new_root(folder, file_mib, place)
    if root:
        # After the mounts: nobody may not so much as pass through the home that Python is installed in.
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # without it, /proc/self is still root's
        own_users(NOBODY, NOBODY, proc)
    os.close(proc)


def landlock(folder: str) -> None:
    """Leave the files that Python needs to be read, and an empty folder; nothing to be written."""
    abi = call("syscall", LANDLOCK_CREATE_RULESET, None, 0, 1)
    if abi < 3:
        raise WallError(f"Landlock is of version {abi}, and truncates files before version 3")
    execute, write, read, read_folder = (1 << bit for bit in range(4))
    rights = (1 << (16 if abi >= 5 else 15)) - 1
    network, scopes = 3, 3  # binding and connecting TCP; abstract sockets and signals
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = call("syscall", LANDLOCK_CREATE_RULESET, struct.pack("3Q", rights, network, scopes)[:size], size, 0)
    allowed = {path: execute | read | (read_folder if os.path.isdir(path) else 0) for path in readable()}
    allowed |= dict.fromkeys(DEVICES, read | write) | {folder: read_folder}
    for path, right in allowed.items():
        file = os.open(path, os.O_PATH)
        call("syscall", LANDLOCK_ADD_RULE, rules, 1, struct.pack("<Qi", right, file), 0)
        os.close(file)
    call("syscall", LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def bar(names: str, machine: str) -> None:
    """Make system calls fail from here on; new processes, and calls that this file does not know, always."""
    architecture, place = MACHINES[machine]
    load, equal, from_, any_of, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    words = names.split()
    numbers = [int(number) for number in words[1 + place :: 3] if number != "-"]
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, kill), (load, 0, 0, 0)]
    code += [(from_, 0, 1, LANDLOCK_RESTRICT_SELF + 1), (answer, 0, 0, unknown)]
    code += [(equal, 0, 1, 435), (answer, 0, 0, unknown)]  # clone3, whose flags cannot be read: clone is used instead
    for number in numbers:
        code += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    # kill(0) would reach the process that waits; F_SETOWN and its like have the kernel send signals to anyone of the user.
    for call_, argument, value in ((KILL, 0, 0), (FCNTL, 1, 8), (FCNTL, 1, 15), (IOCTL, 1, 0x8901), (IOCTL, 1, 0x8902)):
        code += [(equal, 0, 4, call_[place]), (load, 0, 0, 16 + 8 * argument), (equal, 0, 1, value)]
        code += [(answer, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(equal, 0, 3, CLONE[place]), (load, 0, 0, 16), (any_of, 1, 0, CLONE_THREAD), (answer, 0, 0, refuse)]
    code += [(answer, 0, 0, allow)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    call("prctl", PR_SET_SECCOMP, 2, struct.pack("HP", len(code), ctypes.addressof(packed)), 0, 0)


def give_up_rights(request: dict[str, Any], place: int) -> None:
    """What only the child itself can put up."""
    limits = request["limits"]
    inside = request["walls"] == "namespaces"
    for kind, value in {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory_mib"] * MIB,
        resource.RLIMIT_FSIZE: limits["file_mib"] * MIB,
        resource.RLIMIT_NPROC: limits["processes"] + 1,  # and the process that waits
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_CORE: 0,
    }.items():
        resource.setrlimit(kind, (value, value))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # a limit on core files is not one where they go to a program
    call("syscall", CAPSET[place], struct.pack("Ii", 0x20080522, 0), bytes(24))
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not inside:
        os.chdir(request["folder"])
        landlock(request["folder"])
    bar(BARRED + ("" if inside else BARRED_OUTSIDE), os.uname().machine)


def described(error: BaseException) -> bytes:
    """The last line that Python would print."""
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except BaseException:  # noqa: BLE001  # the program wrote this __str__
        lines = []
    return (f"{name}: {lines[-1]}" if lines else name)[:400].encode("utf-8", "replace")


def child(request: dict[str, Any], token: int, report: int, place: int) -> NoReturn:
    """Run the program, and report."""
    # By these names, as the program may put others in the places of the originals.
    read, write, leave, say, every = os.read, os.write, os._exit, described, BaseException
    try:
        null = os.open("/dev/null", os.O_RDWR)
        for file in range(3):
            os.dup2(null, file)
        low, high = sorted((token, report))
        for first, last in ((3, low), (low + 1, high), (high + 1, 1 << 20)):
            os.closerange(first, last)
        give_up_rights(request, place)
    except (WallError, OSError) as error:
        write(report, b"N" + say(error))
        leave(1)
    main = type(sys)("program")  # no "__main__", as where HumanEval runs its programs
    sys.modules["program"] = sys.modules["__main__"] = main
    sys.argv = ["program"]
    write(report, b"R")
    try:
        # This file's own __future__ is not the program's.
        exec(compile(request["program"], "<program>", "exec", dont_inherit=True), main.__dict__)  # noqa: S102  # what this is for
        write(report, b"P" + read(token, 64)[::-1])
    except every as error:  # SystemExit too is no pass
        write(report, b"F" + say(error))
    finally:
        leave(0)


def judged(pid: int, report: bytes, token: bytes, limits: dict[str, Any], *, late: bool) -> tuple[str, str]:
    """The state and its detail, of a child that has been killed or has ended."""
    _, status, usage = os.wait4(pid, 0)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    ended = os.waitstatus_to_exitcode(status)
    if not report.startswith(b"R"):
        return "not run", report[1:].decode() or "the child ended while its walls went up"
    if report == b"RP" + token[::-1]:
        return "passed", ""
    if late:
        return "timed out", f"wall time: {limits['wall_seconds']:g} s"
    if len(report) == limits["output_kib"] * 1024:
        return "failed", f"reported more than {limits['output_kib']} KiB"
    # The limit counts ticks of the clock, and usage is measured: they differ, most of all on a busy machine.
    if ended == -signal.SIGKILL and cpu_seconds > limits["cpu_seconds"] / 2:
        return "timed out", f"CPU time: {limits['cpu_seconds']} s"
    if report[1:2] == b"F":
        return "failed", report[2:].decode("utf-8", "replace")
    if ended == -signal.SIGKILL:
        return "failed", "closed the pipe of its report, or was killed by the system"
    if ended < 0:
        return "failed", f"killed by {signal.Signals(-ended).name}"
    return "failed", f"exited with status {ended} before its end"


def run(request: dict[str, Any]) -> tuple[str, str, float]:
    """State, detail and seconds of one program."""
    limits = request["limits"]
    if os.uname().machine not in MACHINES:
        raise WallError(f"cell.py has no table of the system calls of {os.uname().machine}")
    place = MACHINES[os.uname().machine][1]
    if request["walls"] == "namespaces":
        enter_namespaces(request["folder"], limits["file_mib"], place)
    token_out, token_in = os.pipe()
    report_out, report_in = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(request, token_out, report_in, place)
    os.close(report_in)
    token = os.urandom(16)  # after the fork: it is not in the child's memory
    os.write(token_in, token)
    poll = select.poll()
    poll.register(report_out, select.POLLIN)
    poll.register(0, 0)  # hangs up when the runner is gone, however it went
    report = b""
    deadline = start + limits["wall_seconds"]
    late = left = False
    while not (late or left):
        events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        late, left = not events, 0 in events
        if report_out in events:
            piece = os.read(report_out, limits["output_kib"] * 1024 - len(report))
            report += piece
            if not piece:
                break
    os.kill(pid, signal.SIGKILL)
    state, detail = judged(pid, report, token, limits, late=late)
    return ("not run", "interrupted", 0.0) if left else (state, detail, time.monotonic() - start)


def main() -> None:
    """Read a request, run it, answer."""
    os.environ.clear()
    os.umask(0o022)
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            return
        line += piece
    try:
        state, detail, seconds = run(json.loads(line) | {"folder": sys.argv[1]})
    except (WallError, OSError) as error:
        state, detail, seconds = "not run", described(error).decode(), 0.0
    os.write(1, json.dumps({"state": state, "detail": detail, "seconds": seconds}).encode())


if __name__ == "__main__":
    main()
