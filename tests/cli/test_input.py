"""What the commands read: line ends of files and pipes, escapes in arguments, options that are given twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_main import Done, Run, lm, run

__all__ = ["lm", "run"]  # fixtures

CUT = "bytelm: the line end at the end of the text is removed; --keep-newline keeps it\n"
PROMPTED = {
    "sample": ["--seed", "1", "--max-bytes", "5"],
    "ensemble": ["-m", "a", "-m", "b", "--seed", "1", "--max-bytes", "5"],
    "next": [],
    "explain": [],
    "demo": ["--max-bytes", "3"],
}


@pytest.mark.parametrize("command", PROMPTED)
def test_one_line_end_of_a_prompt_is_cut_and_said(run: Run, tmp_path: Path, command: str) -> None:
    """A file or a pipe with one line end more is the same prompt; --keep-newline, and a second one, are not."""
    rest = [*PROMPTED[command], "--json"]
    file = tmp_path / "text"
    file.write_bytes(b"the th\r\n")
    read = ["-f", "-"] if command == "demo" else []  # without a text it has one of its own

    argument = run(command, "the th", *rest)
    longer = run(command, "-e", r"the th\n", *rest)

    assert (argument.code, argument.err) == (0, "")
    assert longer.out != argument.out
    assert run(command, *read, *rest, stdin=b"the th\n") == Done(0, argument.out, CUT)
    assert run(command, "--file", str(file), *rest) == Done(0, argument.out, CUT)
    assert run(command, *read, *rest, stdin=b"the th") == argument
    assert run(command, *read, *rest, stdin=b"the th\n\n") == Done(0, longer.out, CUT)
    assert run(command, *read, *rest, "--keep-newline", stdin=b"the th\n") == longer


def test_the_line_end_of_an_argument_stays(run: Run) -> None:
    """Only a file or a pipe ends with one that nobody typed."""
    assert run("next", "the\n", "--json") == run("next", "-e", r"the\n", "--json")


def test_a_text_that_is_measured_keeps_its_line_end(run: Run, tmp_path: Path) -> None:
    """All bytes of a file are scored, the last line end too."""
    file = tmp_path / "text"
    file.write_bytes(b"the\n")

    done = run("score", "--json", "--file", str(file))

    assert (done.records[0]["bytes"], done.err) == (4, "")


HINT = r"bytelm: {} in an argument is {} characters here; --escapes (-e) reads it as one" + "\n"


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        (r"def f(n):\n    ret", r"\n"),
        (r"a\tb\n", r"\t"),
        (r"caf\xc3", r"\xc3"),
        (r"\u00e9", r"\u00e9"),
        (r"C:\\ \n", r"\n"),
        (r"\alpha \\ \q", ""),
        ("a\n", ""),
    ],
)
def test_an_escape_that_is_not_read_is_told(run: Run, text: str, escape: str) -> None:
    """Without --escapes a backslash escape is its characters, and a line on standard error says so."""
    done = run("score", text, "--json")

    assert done.records[0]["bytes"] == len(text)
    assert done.err == (HINT.format(escape, len(escape)) if escape else "")


def test_an_escape_in_a_file_is_not_told(run: Run, tmp_path: Path) -> None:
    """Files and pipes hold source code, in which escapes are what they are."""
    assert run("next", "--json", stdin=rb"print('\n')").err == ""


def test_stop_reads_escapes(run: Run) -> None:
    r"""The option --stop "\n" stops before a line end, with --escapes and without; a backslash is doubled there."""
    seeds = (["--seed", str(seed), "--max-bytes", "60"] for seed in range(100))
    rest = next(rest for rest in seeds if "\n" in run("sample", "the th", *rest).out)
    before = run("sample", "the th", *rest).out.partition("\n")[0]

    assert run("sample", "the th", "--stop", r"\n", *rest) == Done(0, before, "")
    assert run("sample", "-e", "the th", "--stop", r"\n", *rest) == Done(0, before, "")
    assert "is not an escape" in run("sample", "the th", "--stop", r"\q").err


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["next", "a", "-m", "a", "-m", "b"], "--model"),
        (["next", "-f", "a", "--file", "b"], "--file"),
        (["sample", "a", "--seed", "1", "--seed=1"], "--seed"),
        (["sample", "a", "-n", "1", "-n2"], "-n"),
        (["chat", "a", "--system", "a", "--system", "b"], "--system"),
        (["infill", "--prefix", "a", "--prefix", "b"], "--prefix"),
        (["infill", "a", "--at", "1:1", "--at", "1:1"], "--at"),
        (["ensemble", "a", "-m", "a", "-m", "b", "--weights", "1,2", "--weights", "1,2"], "--weights"),
        (["score", "a", "--stride", "3", "--stride", "4"], "--stride"),
        (["explain", "a", "--top", "3", "--top", "4"], "--top"),
        (["doctor", "a", "--prefixes", "3", "--prefixes", "4"], "--prefixes"),
        (["demo", "--suffix", "3", "--suffix", "4"], "--suffix"),
    ],
)
def test_what_takes_one_value_is_given_once(run: Run, args: list[str], name: str) -> None:
    """An option of one value that is given twice is wrong usage, in every command: neither value wins unseen."""
    done = run(*args)

    assert (done.code, done.out) == (2, "")
    assert f"{name} takes one value, and is given 2 times" in " ".join(done.err.split())


def test_what_may_be_given_again(run: Run) -> None:
    """Flags and the options that take several values may be repeated."""
    done = run("next", "a", "--json", "--json", "-e", "-e")

    assert (done.code, done.err) == (0, "")
    assert run("sample", "a", "--stop", "a", "--stop", "b", "--max-bytes", "2").code == 0
