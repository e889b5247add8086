"""The sentences of README.md, CONTRIBUTING.md and docs/ are short, and no page is long: scripts/sentences.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scripts import FOLDER, loaded

SCRIPT = FOLDER / "sentences.py"


sentences = loaded("sentences")
PAGES = sentences.pages()
LONG = " ".join(["word"] * 36) + "."
SHORT = " ".join(["word"] * 18) + "."


def checked(page: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--check", str(page)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_reads_in_one_go(page: Path) -> None:
    assert sentences.faults(page) == []


def test_all_pages_are_looked_at() -> None:
    names = {page.name for page in PAGES}

    assert {"README.md", "start.md", "theory.md", "cli.md"} <= names
    for page in PAGES:  # a page of code alone, or one whose every line is taken for a table, would pass unread
        assert page.name.startswith(("cli", "python", "CONTR")) or len(sentences.sentences(page.read_text("utf-8"))) > 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SHORT}\n{LONG}\n{SHORT}\n", "2: 36 words"),
        (f"- {SHORT}\n- {SHORT}\n- {LONG}\n", "3: 36 words"),
        (f"> {SHORT}\n\n> {LONG}\n\n{SHORT}\n", "3: 36 words"),
        ("One. Two.\n\n" + LONG.replace(" ", "\n"), "3: 36 words"),
        (f"One. Two.\n\n{LONG.replace('word', '`some code. Here`')}\n", "3: 36 words"),
        (" ".join(["word"] * 19) + ".\n", "median sentence has 19 words"),
        ("A line.\n" * 251, "251 lines"),
    ],
)
def test_a_bad_page_fails(tmp_path: Path, text: str, expected: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    done = checked(page)

    assert done.returncode == 1
    assert expected in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        f"{SHORT} {SHORT}\n" + "A line.\n" * 249,
        f"---\ntitle: {LONG}\n---\n\nOne. Two.\n",
        f"One. Two.\n\n```text\n{LONG}\n```\n\n    {LONG}\n\n~~~\n{LONG}\n~~~\n",
        f"# {LONG}\n\nOne. Two.\n\n| {LONG} |\n|---|\n\n<!-- {LONG} -->\n\n![{LONG}](a.png)\n",
        f"One `{LONG}`. [Two](a.md#{'x' * 300}).\n",
        " ".join(["e.g. [a](b.md)"] * 9) + "\n",
    ],
)
def test_code_tables_and_heads_are_no_prose(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    done = checked(page)

    assert (done.stdout, done.returncode) == ("all within the limits\n", 0)


def test_only_the_length_of_generated_pages_is_checked(tmp_path: Path) -> None:
    page = tmp_path / "cli_sample.md"
    page.write_text(f"{LONG}\n", encoding="utf-8")

    assert sentences.faults(page) == []
    page.write_text("A line.\n" * 251, encoding="utf-8")
    assert len(sentences.faults(page)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One, two.\nThree `four. five` six! See [seven](eight.md).\n", [("One, two.", 1, 2), ("Three `four. five` six!", 2, 3), ("See [seven](eight.md).", 2, 2)]),
        ("- One\n  two.\n- Three\n\n  four\n\nfive", [("One two.", 1, 2), ("Three", 3, 1), ("four", 5, 1), ("five", 7, 1)]),
        ("Phan et al. and 0.5 of it, 1 – 2.\n", [("Phan et al. and 0.5 of it, 1 – 2.", 1, 9)]),
        ("It is (as shown.) Next “one.” Last\n\n1. A\n", [("It is (as shown.)", 1, 4), ("Next “one.”", 1, 2), ("Last", 1, 1), ("A", 3, 1)]),
    ],
)  # fmt: skip
def test_sentences_are_found(text: str, expected: list[tuple[str, int, int]]) -> None:
    assert [(s.text, s.line, s.words) for s in sentences.sentences(text)] == expected
