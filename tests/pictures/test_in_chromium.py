"""Documents of pictures as a person meets them: opened from a file, in a real Chromium."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bytelm.pictures.document import Section, document, framed
from bytelm.pictures.values import (
    Branch,
    CoverTree,
    CoverWalk,
    Driven,
    Method,
    Picture,
    Place,
    Strip,
    Sweep,
    Token,
    TreeStep,
    UnitStrip,
    Written,
    shown_text,
)

from tests.support.chromium import Watched, started  # isort: skip - before playwright, without which it skips them all

from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.slow

TEXT = "naïve <b>x</b>\n\t</script>".encode() + b"\xff"
QUICK = 2.0  # seconds


def strip(text: bytes = TEXT) -> Strip:
    draw = random.Random(1)
    places = [
        Place(-draw.expovariate(1), [(97, -0.5), (256, -1.0), (10, -2.5)], 0.125 if at else 0.0625, 2.5)
        for at in range(len(text))
    ]
    ends = [*range(3, len(text), 3), len(text)]
    return Strip(
        text,
        places,
        [
            Token(shown_text(text[start:end]), start, end, -draw.expovariate(0.3))
            for start, end in zip([0, *ends], ends, strict=False)
        ],
    )


def units() -> UnitStrip:
    words = [b"na\xc3\xafve ", b"<b>x</b>\n", b"\t", b"x" * 90]
    return UnitStrip(
        "word", [*((word, Place(-2.0, leak=0.5, entropy_bits=1.5)) for word in words), (None, Place(-1.0))]
    )


def walk() -> CoverWalk:
    steps = [TreeStep(0.0, [Branch((), (), 1.0)])]
    for at in range(1, len(TEXT) + 1):
        live = [Branch((1, 2, at), ("<b>", " a", "longer"), 0.75, 4), Branch((1, 3), ("<b>", "\n"), 0.25)]
        dead = [
            Branch((1, 9), ("<b>", "dead" * 12), 0.1, why="ruled out by 'x'"),
            Branch((1, -1), ("<b>", None), 0.01, why="3 tokens that no text has here"),
        ]
        steps.append(TreeStep(-float(at), live, dead, hidden=4, left_out=7))
    return CoverWalk(TEXT, steps)


def driven(text: bytes = TEXT) -> Driven:
    n = len(text)
    weights = [[at / n, 1 - at / n] for at in range(n)]
    drivers = [at % 2 for at in range(n)]
    return Driven(text, ["one", "a model with a long name"], [-1.0] * n, [[-1.0, -2.0]] * n, weights, drivers, "bayes")


def sweep(text: bytes = TEXT) -> Sweep:
    n = len(text)
    tokens: list[float | None] = [-10.0 - at % 3 for at in range(n)]
    tokens[3] = None
    tokens[5] = float("-inf")
    exact = Method("by bytes", [-4.0] * n, [-1.0] * n)
    return Sweep(
        text, ["word"] * n, [exact, Method("by tokens", tokens, tokens), Method("healed", [-5.0] * n, [-2.0] * n)]
    )


def tree() -> CoverTree:
    return CoverTree(TEXT, walk().steps[-1])


def written() -> Written:
    return Written(TEXT.decode(errors="replace") + "\n" + "long " * 90 + "x" * 400, ["23 bytes", "stopped"])


PICTURES: dict[str, Callable[[], Picture]] = {
    "surprisal": strip,
    "units": units,
    "cover": walk,
    "members": tree,
    "written": written,
    "driven": driven,
    "sweep": sweep,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as found:
        yield found


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """A function that opens pictures; afterwards the page must have been quiet, and have asked for itself alone."""
    contexts = []
    watched, expected = Watched(), []

    def open_(*pictures: Picture, width: int = 1000) -> Page:
        path = tmp_path / "page.html"
        path.write_text(
            document("Pictures", [Section(each.kind, each, "A note.") for each in pictures]), encoding="utf-8"
        )
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        page = contexts[-1].new_page()
        watched.watch(page)
        page.goto(path.as_uri())
        expected.append(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert watched.console == []
    assert list(dict.fromkeys(watched.addresses)) == list(dict.fromkeys(expected))


def bytes_in(page: Page, kind: str) -> Locator:
    return page.locator(f".{kind} .byte")


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("kind", PICTURES)
def test_each_picture_fits_and_is_quiet(kind: str, width: int, open_page: Callable[..., Page]) -> None:
    """From a file: nothing is fetched, nothing logged, nothing wider than the window, and every cell can be read."""
    page = open_page(PICTURES[kind](), width=width)

    expect(page.locator(f"section.{kind} h2")).to_have_text(kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for cell in page.locator(".cell, .token, .number, .hint").all()[:60]:
        size = cell.evaluate("cell => parseFloat(getComputedStyle(cell).fontSize)")
        assert size >= 12
    assert page.locator("b, main script").count() == 0
    assert page.locator(f"section.{kind}").evaluate("one => parseFloat(getComputedStyle(one).paddingLeft)") >= 8


def test_the_keyboard_goes_along_the_bytes(open_page: Callable[..., Page]) -> None:
    """Tab comes to the strip once; arrows, Home and End go along it, and what is told follows."""
    page = open_page(strip())
    cells, told, press = bytes_in(page, "surprisal"), page.locator(".readout"), page.keyboard.press

    press("Tab")
    expect(cells.nth(0)).to_be_focused()
    press("ArrowRight")
    expect(cells.nth(1)).to_be_focused()
    expect(told).to_contain_text(f"Byte 2 of {len(TEXT)}")
    expect(page.locator(".more h3")).to_have_text("The likeliest at byte 2")
    expect(page.locator(".more .hint")).to_contain_text("Leak 0.1250")
    expect(page.locator(".more tbody tr")).to_have_count(3)
    expect(page.locator(".more .own th")).to_have_text("a‘a’")
    press("ArrowUp")
    expect(page.locator(".head").nth(0)).to_be_focused()
    expect(told).to_contain_text("Token ‘na")
    press("End")
    expect(cells.last).to_be_focused()
    expect(cells.last).to_have_text("ff")
    press("Home")
    expect(cells.nth(0)).to_be_focused()
    expect(page.locator(".more .hint")).to_contain_text("Leak 0.0625")


def test_the_mouse_tells_of_a_byte(open_page: Callable[..., Page]) -> None:
    page = open_page(strip())

    bytes_in(page, "surprisal").nth(4).hover()

    expect(page.locator(".readout")).to_have_text(re.compile(r"‘v’: \d+\.\d\d bits, probability \S+\. Byte 5 of"))
    page.locator("h1").hover()
    expect(page.locator(".readout")).to_contain_text("By the canonical tokens")


def test_the_slider_steps_along_the_text(open_page: Callable[..., Page]) -> None:
    """It begins at the end; each key moves the cursor by a byte, and the tree with it. Dead branches are grey."""
    page = open_page(walk())
    slider, tree = page.locator("input[type=range]"), page.locator(".tree")
    expect(page.locator(".steps .ahead")).to_have_count(0)
    expect(tree.locator(".dead")).to_have_count(2)
    expect(tree.locator(".dead").nth(1)).to_contain_text("3 tokens that no text has here")
    alive = tree.locator("li:not(.dead) .leaf .token").nth(0)
    colour = "element => getComputedStyle(element).color"
    assert tree.locator(".dead .token").nth(0).evaluate(colour) != alive.evaluate(colour)
    widths = tree.locator("ul > li").evaluate_all(
        "all => all.map(li => parseFloat(getComputedStyle(li, '::before').borderBottomWidth))"
    )
    assert widths[0] > widths[1] > 1
    expect(tree).to_contain_text("4 tokens …")
    expect(tree.locator(".leaf i").nth(0)).to_have_text("nger")

    slider.focus()
    page.keyboard.press("ArrowLeft")

    expect(page.locator(".steps .ahead")).to_have_count(1)
    expect(page.locator(".cover-tree")).to_contain_text(f"Cursor after {len(TEXT) - 1} of {len(TEXT)} bytes")
    page.keyboard.press("Home")
    expect(page.locator(".cover-tree")).to_contain_text("no token yet")
    page.locator(".steps .cell").nth(5).click()
    expect(slider).to_have_value("6")


def test_a_cover_alone_and_a_completion_say_what_they_show(open_page: Callable[..., Page]) -> None:
    """The tree of one cursor with the text before it; a completion's text as it is, and its facts below."""
    page = open_page(tree(), written())

    expect(page.locator(".tree-alone .hint").first).to_contain_text(
        "Cursor after ‘naïve·<b>x</b>↵⇥</script>\\xff’, which"
    )
    expect(page.locator(".tree-alone .dead")).to_have_count(2)
    expect(page.locator(".tree-alone")).to_contain_text("7 other sequences")
    box = page.locator(".written-text")
    assert box.text_content() == written().text
    expect(page.locator(".written .hint").last).to_have_text("23 bytes · stopped")
    page.keyboard.press("Tab")
    expect(box).to_be_focused()


def test_who_drove_has_colours_and_weights(open_page: Callable[..., Page]) -> None:
    page = open_page(driven())
    cells = bytes_in(page, "driven")

    for member in (0, 1):
        expect(page.locator(f".byte.member-{member}")).to_have_count(len(TEXT[member::2]))
    cells.nth(1).focus()
    expect(page.locator(".more tbody tr")).to_have_count(2)
    expect(page.locator(".more tbody tr").nth(1)).to_contain_text(f"weight {1 - 1 / len(TEXT):.2f}")
    backgrounds = page.locator(".weights").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundImage)")
    assert len(set(backgrounds)) == len(TEXT)
    assert all("linear-gradient" in each for each in backgrounds)


def test_a_sweep_has_a_column_for_each_cursor(open_page: Callable[..., Page]) -> None:
    """By bytes the line is level; a method without a number has no mark, and an impossible one reaches the top."""
    page = open_page(sweep())
    columns = page.locator(".column-plot")
    expect(columns).to_have_count(len(TEXT))

    levels = page.locator("line.line-0").evaluate_all("all => all.map(line => line.getAttribute('y1'))")
    assert len(set(levels)) == 1
    marks = columns.evaluate_all("all => all.map(one => one.querySelectorAll('path').length)")
    assert marks == [2] * 3 + [1] + [2] * (len(TEXT) - 4)
    expect(columns.nth(5).locator(".line-1")).to_have_attribute("d", re.compile(r"V2M"))
    bytes_in(page, "sweep").nth(3).focus()
    expect(page.locator(".readout")).to_contain_text("by tokens none")
    expect(page.locator(".more")).to_contain_text("0.3679")


def test_a_text_of_nothing_is_said(open_page: Callable[..., Page]) -> None:
    """An ensemble may write nothing, and a file may be empty: the document says so, and draws the others."""
    page = open_page(driven(b""), strip(b""), CoverWalk(b"", walk().steps[:1]), Written("", ["0 bytes"]))

    expect(page.locator(".driven")).to_contain_text("Nothing was written.")
    expect(page.locator(".surprisal")).to_contain_text("Nothing is written yet.")
    expect(page.locator(".cover")).to_contain_text("no token yet")
    expect(page.locator(".written")).to_contain_text("Nothing was written.")


@pytest.mark.parametrize("ends", [b"\n", b" "], ids=["lines", "one line"])
@pytest.mark.parametrize("kind", ["surprisal", "driven"])
def test_ten_kilobytes_are_there_in_two_seconds(
    kind: str, ends: bytes, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    """The page's own processor time up to the first frame, at the width of a telephone; and the last byte is reached."""
    text = (b"some words of a long text, up to the end of the line" + ends) * 200
    picture: Picture = strip(text[:10_000]) if kind == "surprisal" else driven(text[:10_000])
    page = open_page(UnitStrip("word", [(b"x", Place(-1.0))]), width=400)
    timed = page.context.new_cdp_session(page)
    timed.send("Performance.enable", {"timeDomain": "threadTicks"})  # other work on the machine is no fault of the page
    path = tmp_path / "page.html"
    path.write_text(document("Pictures", [Section(kind, picture)]), encoding="utf-8")
    page.reload()
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    metrics = {each["name"]: each["value"] for each in timed.send("Performance.getMetrics")["metrics"]}

    expect(bytes_in(page, kind)).to_have_count(10_000)
    assert 0.05 < metrics["TaskDuration"] < QUICK
    bytes_in(page, kind).nth(0).focus()
    page.keyboard.press("End")
    expect(bytes_in(page, kind).last).to_be_focused()
    expect(bytes_in(page, kind).last).to_be_in_viewport()


def test_a_frame_in_a_notebook_draws(browser: Browser) -> None:
    """In a page of another origin the document draws inside its frame, and reaches nothing outside."""
    watched = Watched()
    page = browser.new_page()
    watched.watch(page)
    page.set_content(f"<h1>Notebook</h1>{framed(document('x', [Section('x', strip())]))}")

    expect(page.frame_locator("iframe").locator(".byte")).to_have_count(len(TEXT))
    assert watched.console == []
    assert [address for address in watched.addresses if not address.startswith("about:")] == []
    page.close()
