"""Cursors all over a text that has everything: nothing crashes, and the text around them stays as it was.

Every fifth byte in PSM and every seventh in SPM, which falls on each kind of place; with ``every`` at 1, on each byte.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bytelm import ByteLM, TableLM
from bytelm.cli import main as cli
from bytelm.cli import options
from bytelm.symbols import is_continuation
from tests.cli.test_main import Stdin
from tests.support.tiny import byte_bpe_tokenizer

LINES = (
    "def f(x):\n",
    "\treturn\tx  \r\n",
    "\r\n",
    "s = '🙂👩‍👩‍👧'  # é and e\u0301, ñ\u0323\n",
    "日本語の文には空白がない\n",
    "    \n",
    "a\rb\u2028c\n",
    "\u202eעברית \u200d\n",
    "x = {1: '''\n",
    "last",
)
SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def lines(count: int) -> str:
    """So many lines, each kind of them, and none twice."""
    return "".join(f"{number}{LINES[number % len(LINES)]}" for number in range(count - 1)).replace("last", "last\n")


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS)
    return ByteLM(TableLM(tokenizer, seed=3, order=2, temperature=1.5))


TEXTS = {
    "two hundred lines": (lines(200), 1),
    "CRLF alone": (lines(20).replace("\r\n", "\n").replace("\n", "\r\n"), 1),
    "an empty file": ("", 1),
    "one line of 20 kB": ("print('x', " + "word é日 " * 2200 + ")", 61),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "every"), [("psm", 5), ("spm", 7)])
@pytest.mark.parametrize("name", TEXTS)
def test_the_text_around_the_cursor_stays(
    lm: ByteLM,
    name: str,
    mode: str,
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At each place between two characters something goes into the file, and at no other place."""
    text, stride = TEXTS[name]
    data = text.encode()
    file = tmp_path / "code.py"
    file.write_bytes(data)
    monkeypatch.setattr(options, "load", lambda *_: lm)
    monkeypatch.setattr(sys, "stdin", Stdin(b"", tty=True))

    def run(at: int) -> Any:
        with pytest.raises(SystemExit) as exit_:
            cli.main(
                [
                    "infill",
                    str(file),
                    "--offset",
                    str(at),
                    "--mode",
                    mode,
                    "--in-place",
                    "--max-bytes",
                    "3",
                    "--seed",
                    "1",
                ]
            )
        capsys.readouterr()
        return exit_.value.code

    for at in range(0, len(data) + 1, stride * every):
        before, after = data[:at], data[at:]
        between = not (after and is_continuation(after[0])) and not (before.endswith(b"\r") and after.startswith(b"\n"))

        code = run(at)

        found = file.read_bytes()
        assert code == (0 if between else 2), at
        assert found.startswith(before), at
        assert found.endswith(after), at
        if between:
            middle = found[at : len(found) - len(after)]
            middle.decode()
            assert len(middle) <= 6
            file.write_bytes(data)
        else:
            assert found == data
