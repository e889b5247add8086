"""A document of pictures: one HTML file that holds its style, its script and its data, and fetches nothing.

Rules
    The template (page/document.html.j2) escapes all text but the style, the script and the data. The data is JSON in
    which no ``<`` is left, so that no text can end the element it stands in. The browser puts texts into text nodes,
    and never reads them as HTML.
    The document forbids itself everything but its own style and script, which it names by their hashes
    (Content-Security-Policy). So it works from a file and offline, and what someone slips into a text does not run.

Cost
    Some 30 kB, and for each byte of a text what is shown of it: some 150 bytes for a strip.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from bytelm.pictures.modules import bundled
from bytelm.pictures.values import Picture

PAGE: Final = files("bytelm.pictures") / "page"
FRAME_HEIGHT: Final = 420  # CSS pixels of a picture in a notebook


@dataclass(frozen=True)
class Section:
    """A part of a document.

    Attributes:
        heading: Its heading.
        picture: What it shows.
        note: A sentence that says what is to be seen.
    """

    heading: str
    picture: Picture
    note: str = ""


def document(title: str, sections: Sequence[Section]) -> str:
    """Some pictures as the text of an HTML document.

    Args:
        title: What it is called.
        sections: Its parts.
    """
    style, script = _style(), _script()
    data = [
        {"kind": each.picture.kind, "heading": each.heading, "note": each.note, "data": each.picture.data()}
        for each in sections
    ]
    own = {"style": style, "style_hash": _hash(style), "script": script, "script_hash": _hash(script)}
    return str(_template().render(title=title, data=as_json(data), **own))


def framed(page: str, *, height: int = FRAME_HEIGHT) -> str:
    """A document as an element of a notebook's page, which it cannot reach.

    Args:
        page: The document.
        height: In CSS pixels.
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0" title="bytelm"></iframe>'
    )


def as_json(value: Any) -> str:
    """JSON that can stand inside a script element of HTML.

    >>> print(as_json("</script><!-- é"))
    "\\u003c/script>\\u003c!-- \\u00e9"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


@cache
def _style() -> str:
    return "\n".join(_read(name) for name in ("look.css", "document.css"))


@cache
def _script() -> str:
    return bundled("pictures", lambda name: _read(f"{name}.js"))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_read("document.html.j2"))


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What Content-Security-Policy calls an inline element that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
