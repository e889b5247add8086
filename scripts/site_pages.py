"""What the site adds to docs/: README.md, CHANGELOG.md and CONTRIBUTING.md as pages, and links that work there.

mkdocs calls these functions while it builds (mkdocs.yml, hooks). A page's links are written for GitHub. Those to
another page of the site become links to that page. Images become part of the site. Any other link to a file leads to
that file on GitHub.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Any, Final

from links import HOME, LINK, ROOT, in_repository
from mkdocs.structure.files import File

# The page of the site, and the file that it is, where that file is not docs/ and the page's name.
ELSEWHERE: Final = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
IMAGES: Final = frozenset({".png", ".svg"})
_PAGE_OF: Final = {source: page for page, source in ELSEWHERE.items()}


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page into the site's."""
    here = page.file.src_uri
    source = PurePosixPath(ELSEWHERE.get(here, f"docs/{here}"))

    def of_site(match: re.Match[str]) -> str:
        led = in_repository(match["url"], source) if match["url"] else None
        if led is None:
            return match[0]
        path, anchor = led
        target = _PAGE_OF.get(path, path.removeprefix("docs/"))
        image = PurePosixPath(path).suffix in IMAGES
        if image and files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / path)))
        if image or target != path:
            url = os.path.relpath(target, PurePosixPath(here).parent)
        else:
            url = f"{HOME}/blob/main/{path}"
        return match["before"] + url + (f"#{anchor}" if anchor else "")

    return LINK.sub(of_site, markdown)
