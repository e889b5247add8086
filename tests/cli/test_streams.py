"""The streams of the commands, in processes of their own: encodings, full disks, closed pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bytelm import __version__
from bytelm.cli.main import main

ROOT = Path(__file__).parents[2]

# Runs each list of words that standard input brings as a command, over a toy model, with file descriptor 1 as it says.
CHILD = r"""
import json, os, sys
from pathlib import Path
from bytelm import ByteLM, TableLM
from bytelm.cli import main as cli, options
from bytelm.testing.doctor import Remark
from tests.support.tiny import byte_bpe_tokenizer

tokenizer = byte_bpe_tokenizer(vocab_size=311, special=["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
lm = ByteLM(TableLM(tokenizer, seed=3, order=2))
options.load = lambda *_: lm
cli.examine_model = lambda model: [Remark("model", "note", f"{model} \u00e9\u2588")]
jobs, folder = json.load(sys.stdin.buffer), Path(sys.argv[1])
saved = os.dup(1), os.dup(2)
for number, (where, words) in enumerate(jobs):
    if where == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif where == "closed":
        reader, out = os.pipe()
        os.close(reader)
    else:
        out = os.open(folder / f"{number}.out", os.O_WRONLY | os.O_CREAT)
    err = os.open(folder / f"{number}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1), os.dup2(err, 2)
    try:
        cli.main([os.fsdecode(bytes.fromhex(word)) for word in words])
    except SystemExit as done:
        (folder / f"{number}.code").write_text(str(done.code))
    except BaseException as error:  # what an interpreter would print
        (folder / f"{number}.code").write_text(repr(error)[:200])
    os.dup2(saved[0], 1), os.dup2(saved[1], 2)
"""


@dataclass(frozen=True)
class Ended:
    code: str
    out: bytes
    err: str


def run(folder: Path, jobs: list[tuple[str, list[str | bytes]]], **environment: str) -> list[Ended]:
    """Run commands one after the other in one process with this environment."""
    folder.mkdir()
    hexes = [[where, [os.fsencode(word).hex() for word in words]] for where, words in jobs]
    subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        input=json.dumps(hexes).encode(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        check=True,
    )
    ended = []
    for number in range(len(jobs)):
        code, out, err = (folder / f"{number}.{name}" for name in ("code", "out", "err"))
        ended.append(Ended(code.read_text(), out.read_bytes() if out.exists() else b"", err.read_text("utf-8")))
    return ended


SAMPLING = ["--seed", "1", "--max-bytes", "9"]
COMMANDS: list[list[str | bytes]] = [
    ["--help"],
    ["--version"],
    ["sample", "caf\xe9", *SAMPLING],
    ["sample", "caf\xe9", "-n", "2", *SAMPLING],
    ["sample", "caf\xe9", "--json", *SAMPLING],
    ["chat", "caf\xe9", "--system", "\xe9", "--begin", "\xe9", *SAMPLING],
    ["infill", "--prefix", "caf\xe9", "--suffix", "\xe9", *SAMPLING],
    ["ensemble", "-m", "a", "-m", "b", "caf\xe9", *SAMPLING],
    ["ensemble", "-m", "a", "-m", b"not-utf8\xe9", "caf\xe9", "--show-members", *SAMPLING],
    ["ensemble", "-m", "a", "-m", b"not-utf8\xe9", "caf\xe9", "--show-members", "--json", *SAMPLING],
    ["ensemble", "-m", "a", "-m", "b", "caf\xe9", "--stream", "--json", *SAMPLING],
    ["next", "caf\xe9", "--top", "257"],
    ["next", b"caf\xc3", "--top", "1", "--json"],
    ["score", "--prefix", "caf\xe9", "\xe9"],
    ["score", "--prefix", "caf\xe9", "\xe9", "--by", "byte", "--json"],
    ["score", "--prefix", "caf\xe9", "\xe9", "--by", "word", "--csv", "-"],
    ["explain", "caf\xe9", "--top", "3"],
    ["explain", "caf\xe9", "--top", "3", "--json"],
    ["demo", "caf\xe9", "--max-bytes", "5"],
    ["demo", "caf\xe9", "--max-bytes", "5", "--json"],
    ["doctor", b"not-utf8\xe9"],
    ["doctor", b"not-utf8\xe9", "--json"],
    ["next", "caf\xe9", "--top", "x"],
    ["next", b"caf\xff"],
]
LOCALES = [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """How the commands end where everything is UTF-8: into a file, on a full disk, and into a closed pipe."""
    places = ["file", "closed", *(["full"] if Path("/dev/full").exists() else [])]
    jobs = [(place, words) for place in places for words in COMMANDS]
    ended = run(tmp_path_factory.mktemp("plain") / "out", jobs, LC_ALL="C.utf8", PYTHONIOENCODING="")
    return {place: ended[number * len(COMMANDS) :][: len(COMMANDS)] for number, place in enumerate(places)}


@pytest.fixture(scope="module")
def plain(ends: dict[str, list[Ended]]) -> list[Ended]:
    """What they print where it is read."""
    return ends["file"]


@pytest.mark.parametrize("locale", LOCALES, ids=["cp1252", "C"])
def test_a_locale_changes_no_byte(tmp_path: Path, plain: list[Ended], locale: dict[str, str]) -> None:
    """Every command prints the same bytes, and exits alike, whatever the locale and the streams' encoding."""
    assert run(tmp_path / "out", [("file", words) for words in COMMANDS], **locale) == plain


def test_what_is_printed_is_utf8(plain: list[Ended]) -> None:
    """All commands but the two wrong ones succeed, their output is UTF-8, and JSON is JSON even of names that are not."""
    assert [ended.code for ended in plain] == ["0"] * (len(COMMANDS) - 2) + ["2", "1"], plain
    for words, ended in zip(COMMANDS, plain, strict=True):
        printed = ended.out.decode()
        if "--json" in words:
            records: list[Any] = [json.loads(line) for line in printed.splitlines()]
            assert records
    named = [json.loads(line) for line in plain[9].out.splitlines()]
    assert os.fsencode(named[2]["model"]) == b"not-utf8\xe9"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(ends: dict[str, list[Ended]]) -> None:
    """Every command that cannot write its output says so in one line and exits with 1."""
    for ended in ends["full"][:-2]:
        assert ended == Ended("1", b"", "bytelm: cannot write to standard output: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
def test_a_closed_pipe_is_silent(ends: dict[str, list[Ended]]) -> None:
    """Every command whose output nobody reads ends in silence, with the code that a shell gives for the signal."""
    for ended in ends["closed"][:-2]:
        assert ended == Ended("141", b"", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        ("> /dev/full", 1, "bytelm: cannot write to standard output: No space left on device\n"),
        (">&-", 1, "bytelm: standard output is closed\n"),
        ("2>&-", 0, ""),
    ],
)
def test_the_interpreter_adds_nothing_at_exit(redirection: str, code: int, error: str) -> None:
    """A process of its own says no more when the interpreter ends."""
    command = f"{sys.executable} -c 'from bytelm.cli.main import main; main()' --version {redirection}"

    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (code, error)


def test_a_closed_standard_input_is_no_text() -> None:
    """A command that would read its text from there says that there is none."""
    command = f"{sys.executable} -c 'from bytelm.cli.main import main; main()' next <&-"

    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "no text" in done.stderr


def test_a_stand_in_for_standard_output_gets_the_text() -> None:
    """Called from Python, a command writes where standard output leads, as a notebook has it."""
    with redirect_stdout(io.StringIO()) as caught, pytest.raises(SystemExit) as exit_:
        main(["--version"])

    assert (exit_.value.code, caught.getvalue()) == (0, f"bytelm {__version__}\n")
