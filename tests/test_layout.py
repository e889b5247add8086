"""The shape of the package: what may import what, and what an import may cost."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bytelm

PACKAGE = Path(bytelm.__file__).parent
EVALS = Path(__file__).parent.parent / "evals"
# What everyone may use, and itself uses nothing of bytelm but what stands before it.
GROUND = ("errors", "arguments", "symbols", "progress", "lemma")
# The chain of chapters: each imports only from those before it.
CHAIN = (
    *GROUND,
    "pictures",
    "tokenizer",
    "cover",
    "token_lm",
    "packaged",
    "engines",
    "inference",
    "fim",
    "constraints",
    "sampling",
    "byte_lm",
    "ensemble",
    "healing",
    "harness",
    "testing",
    "serving",
    "cli",
)


def imported_modules(path: Path, package: str) -> Iterator[str]:
    """The modules of a package that a file imports, at the top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0, names=names):
                modules = [f"{module}.{alias.name}" for alias in names]
            case ast.ImportFrom():
                pytest.fail(f"{path.name} line {node.lineno}: imports are absolute")
            case _:
                continue
        for module in modules:
            if module.startswith(f"{package}.") and not module.startswith(f"{package}.__"):
                yield module


def part_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def modules_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if part_of(path, root) not in ("__init__", "__main__"))


def arrows(root: Path) -> dict[str, set[str]]:
    """For each chapter of a package the others that it imports from."""
    found: dict[str, set[str]] = {part_of(path, root): set() for path in modules_of(root)}
    for path in modules_of(root):
        part = part_of(path, root)
        found[part] |= {module.split(".")[1] for module in imported_modules(path, root.name)} - {part}
    return found


def beyond(arrows: dict[str, set[str]], part: str) -> set[str]:
    """All that a chapter imports from, by whatever way."""
    met: set[str] = set()
    ahead = [part]
    while ahead:
        for other in arrows.get(ahead.pop(), set()) - met:
            met.add(other)
            ahead.append(other)
    return met


MODULES = modules_of(PACKAGE)


def test_every_chapter_has_a_place_in_the_chain() -> None:
    """The chain names every chapter of the package, and no other."""
    assert {part_of(path, PACKAGE) for path in MODULES} == set(CHAIN)


def test_chapters_import_along_the_chain() -> None:
    """A chapter imports only from those before it in the chain: so there is no circle."""
    against = {
        (part, other)
        for part, others in arrows(PACKAGE).items()
        for other in others
        if CHAIN.index(other) > CHAIN.index(part)
    }

    assert against == set()


def test_few_arrows_are_left_between_chapters() -> None:
    """What follows from other arrows left out, and the ground files apart, no more than thirty remain."""
    drawn = {part: others - {*GROUND} for part, others in arrows(PACKAGE).items() if part not in GROUND}
    left = [
        (part, other)
        for part, others in drawn.items()
        for other in others
        if not any(other in beyond(drawn, via) for via in others - {other})
    ]

    assert len(left) <= 30


def test_the_page_of_the_architecture_shows_the_arrows() -> None:
    """From top to bottom the chapters in the order of the chain, each with those that it needs directly."""
    page = (EVALS.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^(\w+) +→  (.+)$", page, re.MULTILINE))
    drawn = {part: others - {*GROUND} for part, others in arrows(PACKAGE).items() if part not in GROUND}
    wanted = {
        part: [
            other
            for other in reversed(CHAIN)
            if other in drawn[part] and not any(other in beyond(drawn, via) for via in drawn[part] - {other})
        ]
        for part in reversed(CHAIN)
        if part in drawn
    }

    assert list(shown) == list(wanted)
    assert shown == {part: ", ".join(others) or "the ground" for part, others in wanted.items()}


def test_evaluations_import_without_circles() -> None:
    """No part of evals/ imports from one that imports from it."""
    drawn = arrows(EVALS)

    assert [part for part in drawn if part in beyond(drawn, part)] == []


@pytest.mark.parametrize(("root", "most"), [(PACKAGE, 23), (EVALS, 17)], ids=["bytelm", "evals"])
def test_a_reader_meets_few_doors(root: Path, most: int) -> None:
    """The top of a package has few entries."""
    doors = [path for path in root.iterdir() if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")]

    assert len(doors) <= most


@pytest.mark.parametrize("root", [PACKAGE, EVALS], ids=["bytelm", "evals"])
def test_each_chapter_says_what_it_is(root: Path) -> None:
    """A package opens with a paragraph of what it decides, takes, gives, and never does."""
    short = [
        str(path.relative_to(root))
        for path in root.rglob("__init__.py")
        if len((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split()) < 12
    ]

    assert short == []


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
