"""Write docs/cli.md and docs/cli_COMMAND.md from the command's own help, so that the pages cannot say anything else.

python scripts/cli_docs.py --check     fail if the pages are not what the help says (tests/cli/test_main.py)
python scripts/cli_docs.py --write     write the pages
"""

from __future__ import annotations

import argparse
import io
import os
from contextlib import redirect_stdout, suppress
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = "100"
HEAD = """\
# The command line

Written by `python scripts/cli_docs.py --write` from `bytelm --help`; the tests compare the two.

| command | what it does |
|---|---|
{commands}

## Rules for all commands

Standard output holds the result and nothing else. Progress and errors go to standard error. Progress shows only on a
terminal, after two seconds. With `--json` the result is JSON, one object a line.

Texts are read byte for byte, and the output is UTF-8 whatever the locale. bytelm cuts one line end at the end of a
prompt from a file or a pipe, and says so. `--keep-newline` keeps it. `score` and `infill` cut nothing. An option that
takes one value is given once. On a narrow terminal tables shrink, then wrap, then stack.

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
| `BYTELM_ENGINE` | the engine where `--engine` is not given |
| `BYTELM_CACHE` | the folder for converted models and tokenizer tables, instead of the user's cache folder |
| `COLUMNS` | the width of tables and help, instead of the terminal's |

## Completion in the shell

`bytelm --install-completion` sets up completion for the shell that you use: bash, zsh or fish. It adds a few lines to
that shell's settings. Open a new shell, and the tab key completes commands, options and the names of packaged models.
`bytelm --show-completion` prints the lines and changes nothing.

## bytelm

```text
{help}
```
"""
PAGE = """\
# bytelm {name}

All commands: [command line](cli.md).

```text
{help}
```
"""


def help_of(*words: str) -> str:
    """What ``bytelm WORDS --help`` prints."""
    from bytelm.cli.main import main as bytelm

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        bytelm([*words, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    # typer reads the width from one variable, as it is imported, and the standard library from the other.
    os.environ.update(COLUMNS=WIDTH, TERMINAL_WIDTH=WIDTH)
    os.environ.pop("BYTELM_MODEL", None)
    os.environ.pop("BYTELM_ENGINE", None)
    from typer.main import get_command

    from bytelm.cli.main import app

    commands = getattr(get_command(app), "commands")  # noqa: B009 - typer's types do not say that this is a group
    rows = [
        f"| [`bytelm {name}`](cli_{name}.md) | {command.get_short_help_str(limit=200).rstrip('.')} |"
        for name, command in commands.items()
    ]
    written = {"cli.md": HEAD.format(commands="\n".join(rows), help=help_of())}
    for name in commands:
        written[f"cli_{name}.md"] = (
            f"# bytelm {name}\n\nAll commands: [command line](cli.md).\n\n```text\n{help_of(name)}\n```\n"
        )
    return written


def main() -> None:
    """Check or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="fail if the pages are not what the help says")
    mode.add_argument("--write", action="store_true", help="write the pages")
    write = parser.parse_args().write
    written = pages()
    there = {
        path.name: path.read_text(encoding="utf-8")
        for path in [DOCS / "cli.md", *DOCS.glob("cli_*.md")]
        if path.exists()
    }
    wrong = sorted(name for name in written.keys() | there.keys() if written.get(name) != there.get(name))
    if not write and wrong:
        raise SystemExit(f"{', '.join(wrong)}: not what the help says; run python scripts/cli_docs.py --write")
    for name in wrong:
        if name in written:
            (DOCS / name).write_text(written[name], encoding="utf-8")
        else:
            (DOCS / name).unlink()


if __name__ == "__main__":
    main()
