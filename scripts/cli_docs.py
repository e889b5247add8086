"""Write docs/cli.md from the command's own help, so that the page cannot say anything else.

python scripts/cli_docs.py --check     fail if the page is not what the help says (tests/cli/test_main.py)
python scripts/cli_docs.py --write     write the page
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
COMMANDS = ("sample", "chat", "infill", "ensemble", "next", "score", "explain", "doctor", "demo", "eval")
HEAD = """\
# The command line

Written by `python scripts/cli_docs.py --write` from `bytelm --help`; the tests compare the two.

Standard output holds the result and nothing else. Progress and errors go to standard error, progress only where that
is a terminal and the work takes over two seconds. With `--json` the result is JSON, one object a line.

Texts are read byte for byte, and the output is UTF-8, whatever the locale. One line end at the end of a prompt from a
file or a pipe is cut, and that is said; `--keep-newline` keeps it. `score` and `infill` cut nothing. An option that
takes one value is given once. On a narrow terminal tables shrink, wrap, and at last stack.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | an error of bytelm: one line on standard error that says what, which value, and what to try |
| 2 | wrong usage |
| 130 | interrupted |
| 141 | nobody reads the output: a closed pipe, as in `bytelm … \\| head -1` |

| variable | meaning |
|---|---|
| `BYTELM_MODEL` | the model where `--model` is not given |
| `BYTELM_CACHE` | the folder for converted models and tokenizer tables, instead of the user's cache folder |
| `COLUMNS` | the width of tables and help, instead of the terminal's |
"""


def help_of(*words: str) -> str:
    """What ``bytelm WORDS --help`` prints, 100 columns wide."""
    code = "import sys; from bytelm.cli.main import main; main(sys.argv[1:])"
    # typer reads the width from one variable, the standard library from the other.
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100"}
    environment.pop("BYTELM_MODEL", None)
    command = [sys.executable, "-c", code, *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The whole page."""
    parts = [HEAD, f"## bytelm\n\n```text\n{help_of()}\n```\n"]
    parts += [f"## bytelm {command}\n\n```text\n{help_of(command)}\n```\n" for command in COMMANDS]
    return "\n".join(parts)


def main() -> None:
    """Check or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="fail if the page is not what the help says")
    mode.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit("docs/cli.md is not what the help says: run python scripts/cli_docs.py --write")


if __name__ == "__main__":
    main()
