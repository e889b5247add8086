"""Run the console examples of README.md and docs/, and compare or rewrite their output.

A fenced ``console`` block holds lines that begin with ``$ bytelm`` or ``$ python -m evals.…`` and, under each, what the
command prints. Outputs
are equal if their words are, and if each number differs by at most two in its last digit: float32 differs so much from
one processor to another. Bars are not compared, the numbers beside them are.

    python scripts/console_blocks.py --check     fail where an output has changed (tox -e docs)
    python scripts/console_blocks.py --write     put the outputs of today into the pages
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
BAR = re.compile(r"[▏▎▍▌▋▊▉█ ]+")


def pages() -> list[Path]:
    """The pages with console examples, in reading order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def run(command: str) -> str:
    """What a command prints, with the interpreter that runs this script."""
    match shlex.split(command):
        case ["bytelm", *words]:
            words = ["-c", "import sys; from bytelm.cli.main import main; main(sys.argv[1:])", *words]
        case ["python", "-m", str(module), *words] if module.startswith("evals."):
            words = ["-m", module, *words]
        case _:
            raise SystemExit(f"a console example runs bytelm or an evaluation, and nothing else: {command}")
    done = subprocess.run([sys.executable, *words], capture_output=True, cwd=ROOT, check=False)
    printed = (done.stdout + done.stderr).decode().rstrip("\n")
    return re.sub(r" +$", "", printed, flags=re.MULTILINE) + "\n"  # tables are padded to the width of the screen


def alike(expected: str, actual: str) -> bool:
    """Whether two outputs say the same."""
    words = [BAR.sub(" ", NUMBER.sub("#", text)).split() for text in (expected, actual)]
    if words[0] != words[1]:
        return False
    numbers = zip(NUMBER.findall(expected), NUMBER.findall(actual), strict=True)
    return all(close(Decimal(a), Decimal(b)) for a, b in numbers)


def close(a: Decimal, b: Decimal) -> bool:
    """Whether two numbers as printed differ by at most two in the last digit; whole numbers not at all."""
    exponents = [number.as_tuple().exponent for number in (a, b)]
    digits = max(exponent for exponent in exponents if isinstance(exponent, int))
    return a == b if digits >= 0 else abs(a - b) <= 2 * Decimal(1).scaleb(digits)


def rerun(block: str) -> str:
    """A block with its commands' outputs of today."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "\n".join(f"$ {command}\n{run(command)}" for command in commands)


def main() -> None:
    """Check or rewrite every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="fail where an output has changed")
    mode.add_argument("--write", action="store_true", help="rewrite the outputs")
    arguments = parser.parse_args()
    changed = blocks = 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            blocks += 1
            expected, actual = match[1], rerun(match[1])
            if alike(expected, actual):
                continue
            changed += 1
            if arguments.write:
                text = text.replace(f"```console\n{expected}```", f"```console\n{actual}```")
            else:
                print(f"{page.relative_to(ROOT)}: expected\n{expected}\nbut it prints\n{actual}", file=sys.stderr)
        if arguments.write:
            page.write_text(text, encoding="utf-8")
    print(f"{blocks} console blocks, {changed} changed")
    raise SystemExit(1 if changed and arguments.check else 0)


if __name__ == "__main__":
    main()
