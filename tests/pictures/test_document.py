"""Documents: one file, nothing fetched, and no text that can be anything but text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from bytelm.pictures.document import Section, as_json, document, framed
from bytelm.pictures.values import Place, Strip, UnitStrip

HOSTILE = "</script><script>alert(1)</script><!--<script> --> ]]> & \u2028 <img src=x onerror=alert(1)> {{ 7 * 7 }}"


class Elements(HTMLParser):
    """The elements of a document, each with its attributes and the text inside."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside = False  # what comes is the text of the last element
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(texts) for name, _, texts in self.found if name == tag]

    def tags(self) -> list[str]:
        return [name for name, _, _ in self.found]


def hostile_page() -> str:
    data = HOSTILE.encode()
    strip = Strip(data, [Place(-1.0)] * len(data))
    units = UnitStrip(HOSTILE, [(data, Place(-1.0))])
    return document(HOSTILE, [Section(HOSTILE, strip, HOSTILE), Section(HOSTILE, units)])


def test_a_hostile_text_is_text() -> None:
    """Markup in a title, a heading, a note, a text and a unit adds no element, and comes back whole from the data."""
    plain = Elements(document("x", [Section("x", UnitStrip("word", []))]))
    page = Elements(hostile_page())

    assert page.tags() == plain.tags()
    assert page.texts("title") == [HOSTILE]
    data = json.loads(page.texts("script")[0])
    assert [section["heading"] for section in data] == [HOSTILE, HOSTILE]
    assert data[0]["note"] == HOSTILE
    assert bytes(each["byte"] for each in data[0]["data"]["bytes"]) == HOSTILE.encode()
    assert data[1]["data"]["units"][0]["text"] == HOSTILE


@pytest.mark.parametrize("value", ["</script>", "<!--", "\ud800", "\u2028", {"<": ["<", 1.5, None]}])
def test_json_has_no_less_than_sign(value: Any) -> None:
    """It reads back as it was, and is ASCII in which no element can begin or end."""
    text = as_json(value)

    assert json.loads(text) == value
    assert text.isascii()
    assert "<" not in text


def test_nothing_is_fetched() -> None:
    """No address in an element; and the policy forbids all but the document's own style and script, by their hashes."""
    page = Elements(hostile_page())

    for tag, attributes, _ in page.found:
        assert not {"src", "action", "srcdoc"} & set(attributes), tag
        assert attributes.get("href", "data:,") == "data:,"
    (policy,) = (attributes["content"] for _, attributes, _ in page.found if "http-equiv" in attributes)
    directives = dict(part.split(" ", 1) for part in (policy or "").split("; "))
    assert directives["default-src"] == "'none'"
    for directive, text in (("style-src", page.texts("style")[0]), ("script-src", page.texts("script")[1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"
    assert "unsafe" not in (policy or "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", hostile_page())


def test_the_script_is_all_of_the_modules() -> None:
    """No import or export is left, and each function that a kind names is there."""
    (_, script) = Elements(hostile_page()).texts("script")

    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    for name in ("surprisal", "units", "coverSteps", "driven", "sweep"):
        assert f"function {name}(" in script


def test_a_frame_holds_the_document() -> None:
    """In a notebook the document is in a frame of its own, without the notebook's origin."""
    page = hostile_page()
    (frame,) = Elements(framed(page)).found

    assert frame[0] == "iframe"
    assert frame[1]["srcdoc"] == page
    assert frame[1]["sandbox"] == "allow-scripts"
    assert html.escape(page) in framed(page)
