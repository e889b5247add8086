"""What bytelm tells its users to install: it is on no index, so no word of it may be ``pip install bytelm``."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project() -> dict[str, Any]:
    """The contents of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def texts() -> dict[str, str]:
    """Every page, program and message, by path; the changelog tells of the past."""
    paths = [*ROOT.glob("*.md"), *(path for top in ("bytelm", "docs", "evals", "scripts") for path in (ROOT / top).rglob("*"))]  # fmt: skip
    kept = [path for path in paths if path.suffix in {".md", ".py", ".toml"} and path.name != "CHANGELOG.md"]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in kept}


def test_nothing_asks_an_index_for_bytelm() -> None:
    """Pip finds bytelm in a clone (``.``), and other packages by their own names."""
    wrong = [path for path, text in texts().items() if re.search(r"pip install[^\n`&]*\bbytelm(?![/.-])", text)]

    assert wrong == []


def test_extras_and_groups_that_are_named_exist(project: dict[str, Any]) -> None:
    """``pip install .[NAME]`` and ``pip install --group NAME``."""
    everything = "\n".join(texts().values())

    assert set(re.findall(r"pip install ['\"]?\.\[([\w-]+)\]", everything)) <= set(project["project"]["optional-dependencies"])  # fmt: skip
    assert set(re.findall(r"pip install --group ([\w-]+)", everything)) <= set(project["dependency-groups"])


def test_a_wheel_has_no_extra_for_a_folder_that_it_lacks(project: dict[str, Any]) -> None:
    """The needs of evals/, which is in no wheel, are a group of the checkout."""
    assert "evals" not in project["project"]["optional-dependencies"]
    assert "evals" in project["dependency-groups"]
