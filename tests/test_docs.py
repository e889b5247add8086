"""The pages: their links, their place on the site, and that the reference names everything that is public."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

import bytelm
from bytelm import constraints, errors
from tests.support.scripts import FOLDER, loaded
from tests.test_layout import CHAIN

ROOT = Path(__file__).parents[1]
SCRIPT = FOLDER / "links.py"


links = loaded("links")
PAGES = links.pages()
HOME = links.HOME


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_link_is_broken(page: Path) -> None:
    """Every link of a page leads to a file that is there, and to a heading that it has."""
    assert links.broken(page) == []


def test_the_project_is_where_the_links_say() -> None:
    """pyproject.toml names the same home."""
    assert f'Homepage = "{HOME}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with two pages to link to."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "there.md").write_text(
        "# There\n\n## What `f(x)` is: a [link](x.md)\n\n```text\n# no heading\n```\n"
    )
    (tmp_path / "docs" / "image.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("docs/a.md", "[there](there.md)", ""),
        ("docs/a.md", "[there](there.md#what-fx-is-a-link)", ""),
        ("docs/a.md", "# Here\n[here](#here) [there](../docs/there.md#there)", ""),
        ("docs/a.md", "[`code`](gone.md)", "docs/a.md:1: gone.md leads to docs/gone.md, which is not there"),
        ("docs/a.md", "x\n\n[gone](there.md#gone)", "docs/a.md:3: there.md#gone: docs/there.md has no heading #gone"),
        ("docs/a.md", "[no heading](there.md#no-heading)", "docs/a.md:1: there.md#no-heading: docs/there.md has no heading #no-heading"),
        ("docs/a.md", "[gone](#gone)", "docs/a.md:1: #gone: docs/a.md has no heading #gone"),
        ("docs/a.md", "![picture](image.png) ![gone](gone.png)", "docs/a.md:1: gone.png leads to docs/gone.png, which is not there"),
        ("docs/a.md", '<img src="gone.png">', "docs/a.md:1: gone.png leads to docs/gone.png, which is not there"),
        ("docs/a.md", "`[code](gone.md)` ``[code](gone.md)`` [elsewhere](https://example.org/gone.md)", ""),
        ("docs/a.md", "1. item\n\n   ```md\n   [code](gone.md)\n   ```\n\n~~~\n[code](gone.md)\n~~~\n", ""),
        ("docs/a.md", f"[home]({HOME}) [issues]({HOME}/issues/3)", ""),
        ("docs/a.md", f"[wiki]({HOME}/wiki)", f"docs/a.md:1: {HOME}/wiki is no page that the project has"),
        ("README.md", f"[there]({HOME}/blob/main/docs/there.md#there) [docs]({HOME}/tree/main/docs)", ""),
        ("README.md", f"![there]({links.RAW}/main/docs/image.png)", ""),
        ("README.md", f"[gone]({HOME}/blob/main/docs/gone.md)", f"README.md:1: {HOME}/blob/main/docs/gone.md leads to docs/gone.md, which is not there"),
        ("README.md", f"[gone]({HOME}/blob/main/docs/there.md#gone)", f"README.md:1: {HOME}/blob/main/docs/there.md#gone: docs/there.md has no heading #gone"),
        ("README.md", "[there](docs/there.md)", f"README.md:1: docs/there.md is relative: a package index cannot follow it; write {HOME}/blob/main/docs/there.md"),
        ("README.md", "# Here\n[here](#here)", ""),
        ("CONTRIBUTING.md", "[there](docs/there.md) [gone](docs/gone.md)", "CONTRIBUTING.md:1: docs/gone.md leads to docs/gone.md, which is not there"),
    ],
)  # fmt: skip
def test_a_broken_link_is_found(tree: Path, name: str, text: str, fault: str) -> None:
    """What leads nowhere is named with its line; code and other hosts are left alone."""
    (tree / name).write_text(text)

    assert links.broken(tree / name, tree) == ([fault] if fault else [])


def test_the_examples_of_the_script_are_right() -> None:
    """Its docstrings run here, as those of the package do."""
    assert doctest.testmod(links).failed == 0
    assert doctest.testmod(links).attempted > 0


def test_anchors_are_githubs() -> None:
    """Lower case, without what is no word, a hyphen for each space; of equal ones each later one has a number."""
    page = "# A — b, *c* & `d_e`\n## É (f)\n## Cost\n### Cost ##\n# Cost\n```\n# code\n```\n"

    assert links.anchors(page) == {"a--b-c--d_e", "é-f", "cost", "cost-1", "cost-2"}


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        ("a/index.html", '<link rel="stylesheet" href="../x.css"><script src="/x.js"></script><img src="data:,x">', 0),
        (
            "a/index.html",
            '<a href="https://example.org">there</a> <link rel="canonical" href="https://example.org">',
            0,
        ),
        ("a/index.html", '<script src="https://unpkg.com/x.js"></script>', 1),
        (
            "a/index.html",
            '<link rel="stylesheet" href="//fonts.example.org/x"> <img src="http://example.org/x.png">',
            2,
        ),
        ("x.css", "@font-face { src: url('https://fonts.example.org/x.woff2') } a { background: url(x.png) }", 1),
        ("x.css", '@import "https://example.org/x.css";', 1),
    ],
)
def test_what_a_site_loads_from_elsewhere_is_found(tmp_path: Path, name: str, text: str, faults: int) -> None:
    """Scripts, styles, pictures and fonts of other hosts are; links that a reader follows are not."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)

    assert len(links.loaded_from_elsewhere(tmp_path)) == faults


def test_an_empty_site_is_no_site(tmp_path: Path) -> None:
    """A folder without a page has not been built, and the check says so."""
    command = [sys.executable, str(SCRIPT), "--site", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, "holds no page" in done.stderr) == (1, True)


# ---- the site

NAV = re.findall(r"^( *)- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1], re.MULTILINE)  # fmt: skip


def test_every_page_has_one_place_on_the_site() -> None:
    """The navigation has every page of docs/, and the three of the root, once."""
    pages = sorted([*(path.name for path in ROOT.glob("docs/*.md")), "index.md", "changelog.md", "contributing.md"])

    assert sorted(page for _, page in NAV) == pages


def test_every_page_is_two_clicks_away() -> None:
    """A tab shows all its pages: at most two levels under it, which the site shows open."""
    assert {len(indent) for indent, _ in NAV} <= {6, 10}
    assert "    - navigation.expand\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


REFERENCE = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/python*.md"))}
SHOWN = {name for text in REFERENCE.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}


def test_the_reference_has_every_public_name() -> None:
    """What bytelm exports, its errors and the functions of constraints each have a place in the reference."""
    public = {f"bytelm.{name}" for name in bytelm.__all__ if name not in vars(errors)}
    public |= {f"bytelm.errors.{name}" for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__}  # fmt: skip
    public |= {f"bytelm.constraints.{name}" for name in {*constraints.__all__} - {*bytelm.__all__, "choice"}}

    assert public - SHOWN == set()
    assert "bytelm.constraints.choice.choice" in SHOWN  # `choice` alone is the module


def test_the_reference_shows_every_method_of_a_byte_model() -> None:
    """The page lists them by idea; each public method is in one list, and none that is gone."""
    listed = re.findall(r"^        - (\w+)$", REFERENCE["python_models.md"], re.MULTILINE)
    public = {name for name in dir(bytelm.ByteLM) if not name.startswith("_")}

    assert sorted(listed) == sorted(public)


def test_contributing_has_the_chain_of_the_chapters() -> None:
    """The chain in CONTRIBUTING.md is the one that tests/test_layout.py checks."""
    quoted = " ".join(re.findall(r"^> (.*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE))

    assert tuple(re.split(r", | → ", quoted.replace("→  ", "→ "))) == CHAIN


def test_paths_in_contributing_are_there() -> None:
    """Each file that CONTRIBUTING.md names in code is there; NAME stands for an engine's."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {path for path in re.findall(r"`((?:bytelm|tests|scripts)/[\w./]+)`", text) if "NAME" not in path}

    assert [path for path in sorted(named) if not (ROOT / PurePosixPath(path)).exists()] == []
    assert len(named) > 4
