"""Check the links of README.md, CHANGELOG.md, CONTRIBUTING.md and docs/*.md, and what the built site loads.

    python scripts/links.py                    fail where a link or an anchor leads nowhere
    python scripts/links.py --site build/site  fail where a page of the site loads something from another host

Rules
    A link leads to a file of the repository or to another host. Links to this project's own home on GitHub
    (`HOME`) are links to files of the repository. Other hosts are not asked.
    An anchor is the name that GitHub gives a heading.
    README.md is read on a package index too, where only absolute links work: it has no other ones.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
HOME: Final = "https://github.com/bytelm/bytelm"
RAW: Final = HOME.replace("github.com", "raw.githubusercontent.com")
_OWN: Final = re.compile(rf"(?:{re.escape(HOME)}/(?:blob|tree)|{re.escape(RAW)})/main/")
# Code, in which nothing is a link, or a link.
LINK: Final = re.compile(
    r"^ *(?P<fence>```+|~~~+).*?^ *(?P=fence) *$"
    r"|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r'|(?P<before>\]\(|\b(?:href|src)=")(?P<url>[^()\s"]+(?:\([^()\s]*\)[^()\s"]*)*)',
    re.MULTILINE | re.DOTALL,
)
_FENCED: Final = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that have links."""
    return [*(root / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")), *sorted(root.glob("docs/*.md"))]


def targets(text: str) -> Iterator[tuple[int, str]]:
    """Each link of a page outside code: its line, and where it leads."""
    for match in LINK.finditer(text):
        if match["url"]:
            yield text.count("\n", 0, match.start()) + 1, match["url"]


def in_repository(url: str, page: PurePosixPath) -> tuple[str, str] | None:
    """The path in the repository and the anchor that a link leads to; None for another host.

    Args:
        url: The link.
        page: The path in the repository of the page that holds it.

    >>> in_repository("exactness.md#leak", PurePosixPath("docs/theory.md"))
    ('docs/exactness.md', 'leak')
    >>> in_repository("https://github.com/bytelm/bytelm/blob/main/docs/serve.md", PurePosixPath("README.md"))
    ('docs/serve.md', '')
    """
    if own := _OWN.match(url):
        url, page = "/" + url[own.end() :], PurePosixPath()
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    if not path:
        return str(page), unquote(parts.fragment)
    return os.path.normpath(path.removeprefix("/") if path.startswith("/") else page.parent / path), parts.fragment


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings of a page.

    >>> sorted(anchors("# What `P(x)` is\\n## Cost\\n## Cost"))
    ['cost', 'cost-1', 'what-px-is']
    """
    names: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = 0
        while (full := f"{name}-{again}" if again else name) in names:
            again += 1
        names.add(full)
    return names


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with the links of a page, one line for each."""
    here = PurePosixPath(page.relative_to(root).as_posix())
    faults = []
    for line, url in targets(page.read_text(encoding="utf-8")):
        place = f"{here}:{line}: {url}"
        led = in_repository(url, here)
        if led is None:
            if url.startswith(f"{HOME}/") and url.removeprefix(f"{HOME}/").split("/")[0] not in {"issues", "releases"}:
                faults.append(f"{place} is no page that the project has")
            continue
        path, anchor = led
        if str(here) == "README.md" and not _OWN.match(url) and not url.startswith("#"):
            faults.append(f"{place} is relative: a package index cannot follow it; write {HOME}/blob/main/{path}")
        elif not (root / path).exists():
            faults.append(f"{place} leads to {path}, which is not there")
        elif anchor and path.endswith(".md") and anchor not in anchors((root / path).read_text(encoding="utf-8")):
            faults.append(f"{place}: {path} has no heading #{anchor}")
    return faults


class Loaded(HTMLParser):
    """What a page of HTML loads from another host as it opens: all but the links that a reader follows."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag loads."""
        given = dict(attrs)
        loads = tag not in {"a", "area"} and given.get("rel") not in {"canonical", "next", "prev"}
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            url = given.get(name) or ""
            if loads and urlsplit(url).netloc:
                self.urls.append(f"<{tag} {name}={url}>")


def loaded_from_elsewhere(site: Path) -> list[str]:
    """What the pages and style sheets of a built site load from other hosts, one line for each."""
    faults = []
    for page in sorted(site.rglob("*.html")):
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        faults += [f"{page.relative_to(site)}: {url}" for url in parser.urls]
    for sheet in sorted(site.rglob("*.css")):
        found = re.findall(
            r"(?:url\(\s*|@import\s+)['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text(encoding="utf-8")
        )
        faults += [f"{sheet.relative_to(site)}: {url}" for url in found]
    return faults


def main() -> None:
    """Check the pages, or a built site."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="check what the pages of a built site load")
    site = parser.parse_args().site
    if site is not None and not list(site.rglob("*.html")):
        raise SystemExit(f"{site} holds no page: build it by mkdocs build --strict")
    faults = [fault for page in pages() for fault in broken(page)] if site is None else loaded_from_elsewhere(site)
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
