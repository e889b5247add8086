"""The shape of the package: what may import what, and what an import may cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bytelm

PACKAGE = Path(bytelm.__file__).parent
# The reading order: a file imports only from those before it.
ORDER = (
    "errors",
    "cache",
    "arguments",
    "cursor",
    "in_place",
    "lemma",
    "vocab",
    "tables",
    "pipeline",
    "trie",
    "patterns",
    "letters",
    "formulas",
    "normal",
    "characters",
    "merges",
    "splits",
    "added_tokens",
    "walks",
    "wholes",
    "readings",
    "futures",
    "fits",
    "viability",
    "cover",
    "sure_cuts",
    "verification",
    "token_lm",
    "gguf_metadata",
    "gguf_tokenizer",
    "packaged",
    "engines",
    "testing",
    "filters",
    "certificate",
    "rows",
    "scheduler",
    "frontier",
    "evaluation",
    "leaps",
    "members",
    "stream",
    "sampler",
    "scoring",
    "prompts",
    "byte_state",
    "fim",
    "handover",
    "handing",
    "completing",
    "byte_lm",
    "combination",
    "joint",
    "joint_sampler",
    "passage",
    "explanation",
    "ensemble_state",
    "ensemble",
    "healing",
    "chat",
    "answers",
    "identity",
    "harness",
    "render",
    "compare",
    "doctor",
    "terminal",
    "options",
    "infill_command",
    "ensemble_command",
    "eval_command",
    "cli",
)


def imported_parts(path: Path) -> Iterator[str]:
    """The parts of bytelm that a file imports, at the top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module="bytelm", level=0, names=names):
                modules = [f"bytelm.{alias.name}" for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case ast.ImportFrom(level=1 | 2):
                pytest.fail(f"{path.name} line {node.lineno}: imports are absolute")
            case _:
                continue
        for module in modules:
            if module.startswith("bytelm.") and not module.startswith("bytelm._"):
                yield module.split(".")[1]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path) not in ("__init__", "__main__"))


def test_every_module_has_a_place_in_the_order() -> None:
    """The reading order names every module of the package, and no other."""
    actual = {part_of(path) for path in MODULES}

    assert actual == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_order(path: Path) -> None:
    """A module imports only from those before it in the reading order, or from its own folder."""
    part = part_of(path)
    allowed = set(ORDER[: ORDER.index(part)])
    if path.parent != PACKAGE:
        allowed.add(part)

    imported = set(imported_parts(path))

    assert imported <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_open_with_a_docstring_and_stay_short(path: Path) -> None:
    """A module says at its head what it does, and holds no more than 400 lines."""
    text = path.read_text(encoding="utf-8")

    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("bytelm", {"torch", "transformers", "typer", "rich"}),
        ("bytelm.lemma", {"torch", "transformers"}),
        ("bytelm.tokenizer.vocab", {"torch", "transformers"}),
        ("bytelm.cover.cover", {"torch", "transformers"}),
        ("bytelm.sampling.generation", {"torch", "transformers"}),
        ("bytelm.inference.scheduler", {"torch", "transformers"}),
        ("bytelm.byte_lm.model", {"torch", "transformers"}),
        ("bytelm.cli.main", {"torch", "transformers"}),
    ],
)
def test_import_is_light(module: str, absent: set[str]) -> None:
    """Importing this module brings in none of the heavy packages."""
    code = f"import sys, {module}; print(*(set({sorted(absent)}) & set(sys.modules)))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.split() == []


def test_the_tests_run_on_the_installed_package() -> None:
    """Under tox the package under test is the installed wheel, not the checkout beside the tests."""
    if not os.environ.get("BYTELM_EXPECT_INSTALLED"):
        pytest.skip("only tox, which sets BYTELM_EXPECT_INSTALLED, installs the wheel first")

    assert "site-packages" in PACKAGE.parts


def test_the_package_is_typed() -> None:
    """The wheel carries py.typed, so that type checkers read the annotations."""
    assert (PACKAGE / "py.typed").is_file()


def test_no_machine_is_named() -> None:
    """No source file names a path of the machine that it was written on."""
    machine_paths = ("/" + "work/", "/" + "opt/", "/" + "tmp/")
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]

    actual = [str(path) for path in files if any(name in path.read_text(encoding="utf-8") for name in machine_paths)]

    assert actual == []
