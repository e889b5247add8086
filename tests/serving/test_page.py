"""The page of `bytelm serve`, as a person meets it: a real Chromium, the real command, real models."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bytelm import ByteLM, SamplingParams

from tests.support.chromium import Watched, started  # isort: skip - before playwright, without which it skips them all

from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SLOW = 60_000  # milliseconds: two cores, shared with other tests
PROMPT = "def fibonacci(n):\n    ret"
KEY = "the key"
expect.set_options(timeout=SLOW)


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of the command `bytelm serve` with these options, once it listens."""
    command = [sys.executable, "-c", "from bytelm.cli.main import main; main()", "serve", "--port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        rest = threading.Thread(target=process.stderr.read)  # a full pipe would stop the server
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://\S+/", line):
                    break
            else:
                pytest.fail("the server ended before it listened:\n" + "".join(said))
            rest.start()
            yield found[0]
        finally:
            process.terminate()
            process.wait(SLOW / 1000)
            if rest.ident is not None:
                rest.join()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("-m", "demo-fim") as found:
        yield found


@pytest.fixture(scope="module")
def ensemble_address() -> Iterator[str]:
    with served("-m", "demo", "-m", "demo-fim", "--api-key", KEY) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as found:
        yield found


Open = Callable[..., Page]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def open_page(browser: Browser, watched: Watched) -> Iterator[Open]:
    """A function that opens an address in a fresh browser window; afterwards the page must have been quiet."""
    contexts = []
    expected = set()

    def open_(address: str, width: int = 1200) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        page = contexts[-1].new_page()
        watched.watch(page)
        page.goto(address)
        expected.add(urlsplit(address).netloc)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert watched.console == []
    assert watched.hosts <= expected


@pytest.fixture
def page(open_page: Open, address: str) -> Page:
    return open_page(address)


def numbers(page: Page) -> Locator:
    """The panels that follow the prefix; none is busy once all are of the text in the field."""
    return page.locator("#next, #cover, #surprisal")


def type_prefix(page: Page, text: str) -> None:
    """Put a text into the prefix and wait for its numbers."""
    expect(page.locator("#surprisal .byte").nth(0)).to_be_visible()  # those of the page's example
    page.locator("#prefix").fill(text)
    expect(page.locator("#surprisal .byte")).to_have_count(len(text.encode()))
    expect(page.locator("[aria-busy]")).to_have_count(0)


def set_options(page: Page, **options: str) -> None:
    details = page.locator("details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    for name, value in options.items():
        page.locator(f"[name={name}]").fill(value)


def written(page: Page) -> str:
    """The new text, once it is complete."""
    expect(page.locator("#keep")).to_be_visible()
    return page.locator("#new").text_content() or ""


def shares(rows: Locator) -> list[float]:
    return [float(text) for text in rows.locator(".number").all_text_contents()]


def test_the_bars_are_the_models_next_bytes(page: Page, fim: ByteLM) -> None:
    """The twelve likeliest symbols in their order, with their probabilities, and the others in one row."""
    type_prefix(page, PROMPT)

    rows = page.locator("#next tbody tr")
    probs = [math.exp(logprob) for logprob in fim.next_byte_logprobs(PROMPT).tolist()]
    likeliest = sorted(probs, reverse=True)[:12]
    expect(rows).to_have_count(13)
    assert shares(rows) == pytest.approx([*likeliest, sum(probs) - sum(likeliest)], rel=0.06, abs=1.5e-4)
    expect(rows.nth(0).locator("th")).to_have_text("u‘u’")
    expect(rows.nth(1).locator("th")).to_have_text("end of text")
    bar = rows.nth(0).locator(".bar").evaluate("bar => Number(bar.style.getPropertyValue('--share'))")
    assert bar == pytest.approx(probs[ord("u")], abs=1e-3)


def test_the_tree_holds_the_token_sequences_of_the_prefix(page: Page, fim: ByteLM) -> None:
    """A leaf for each of the likeliest members of the cover, with its share, below the tokens that they have in common."""
    type_prefix(page, PROMPT)

    cover = fim.cover(PROMPT)
    total = fim.logprob(PROMPT)
    leaves = page.locator("#cover .leaf")
    expect(leaves).to_have_count(12)
    expected = [math.exp(item.logprob - total) for item in cover[:12]]
    assert shares(leaves) == pytest.approx(expected, rel=0.06, abs=1.5e-4)
    assert leaves.locator(".token").all_text_contents()[:2] == ["·return", "·ret"]
    expect(leaves.nth(0).locator(".token i")).to_have_text("urn")
    expect(page.locator("#cover .tree > li")).to_have_count(1)
    expect(page.locator("#cover")).to_contain_text(f"{len(cover) - 12} other sequences")


def test_the_strip_has_a_cell_for_each_byte_and_each_token(page: Page, fim: ByteLM) -> None:
    """Bytes of characters, of white space and of what looks like HTML: each has its surprisal, and its token spans it."""
    text = "naïve <b>x</b>\n\tno"
    type_prefix(page, text)

    cells = page.locator("#surprisal .byte")
    logprobs = fim.byte_logprobs(text).tolist()
    bits = [float((label or "").split(": ")[1].split()[0]) for label in labels(cells)]
    tokens = fim.tokenizer.encode(text, add_special_tokens=False)
    assert bits == pytest.approx([-logprob / math.log(2) for logprob in logprobs], abs=0.02)
    assert "".join(cells.all_text_contents()) == "nac3afve·<b>x</b>↵⇥no"
    expect(page.locator("#surprisal .head")).to_have_count(len(tokens))
    spans = page.locator("#surprisal .group:has(.head)").evaluate_all(
        "groups => groups.map(group => group.querySelectorAll('.byte').length)"
    )
    assert spans == [len(fim.spell([token])) for token in tokens]
    expect(page.locator("#surprisal b")).to_have_count(0)


def labels(cells: Locator) -> list[str]:
    found: list[str] = cells.evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
    return found


def test_the_numbers_of_a_cell_are_shown_under_the_mouse(page: Page) -> None:
    """The line below the strip tells of the cell, and goes back to the sums."""
    type_prefix(page, "the end")
    line = page.locator("#surprisal .readout")
    sums = line.text_content()

    page.locator("#surprisal .byte").nth(3).hover()

    expect(line).to_have_text(re.compile(r"space: \d+\.\d\d bits, probability \S+\. Byte 4 of 7"))
    page.locator("#surprisal .head").nth(0).hover()
    expect(line).to_have_text(re.compile(r"Token ‘the’: \d+\.\d\d bits, probability \S+"))
    page.locator("h1").hover()
    expect(line).to_have_text(sums or "")


def test_a_long_text_is_asked_about_on_demand(page: Page) -> None:
    """Beyond 500 bytes the bars come by themselves, the tree and the strip with a button."""
    page.locator("#prefix").fill("The end. " * 60)
    expect(page.get_by_role("button", name="Show its tokens")).to_be_visible()
    expect(page.locator("#next tbody tr")).to_have_count(13)

    page.get_by_role("button", name="Show its surprisal").press("Enter")

    expect(page.locator("#surprisal .byte")).to_have_count(540)
    expect(page.locator("#surprisal")).to_be_focused()
    expect(page.get_by_role("button", name="Show its tokens")).to_be_visible()


def test_the_numbers_are_those_of_the_last_text(page: Page) -> None:
    """Whoever types fast sees the numbers of what is typed, not of what was there before."""
    page.locator("#prefix").fill("")

    page.locator("#prefix").press_sequentially("The capital of Fra", delay=20)

    expect(page.locator("#surprisal .byte")).to_have_count(18)
    expect(page.locator("#next tbody tr").nth(0).locator("th")).to_have_text("n‘n’")
    expect(page.locator("#cover .leaf").nth(0)).to_contain_text("·France")


def test_what_is_written_is_the_models_greedy_text(page: Page, fim: ByteLM) -> None:
    """At temperature 0 the new text is that of `sample`, it is marked, and "Keep" puts it behind the prefix."""
    type_prefix(page, PROMPT)
    set_options(page, temperature="0", max_bytes="30")

    page.get_by_role("button", name="Write").click()

    expected = fim.sample(PROMPT, temperature=0, max_bytes=30).text
    assert written(page) == expected
    expect(page.locator("#written-note")).to_contain_text("30 bytes")
    assert page.locator("#written-text").text_content() == PROMPT + expected
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.locator("#prefix")).to_have_value(PROMPT + expected)
    expect(page.locator("#prefix")).to_be_focused()
    expect(page.locator("#surprisal .byte")).to_have_count(len(PROMPT + expected))


def test_half_a_character_is_not_kept(page: Page, fim: ByteLM) -> None:
    """Where the bytes end inside a character, "Keep" leaves its beginning out and says so."""
    prompt = "Zwölf naïve Boxkämpfer\njagen <b>Viktor</b> quer über den gro"
    assert fim.sample(prompt, temperature=0, max_bytes=1).bytes == "ß".encode()[:1]
    type_prefix(page, prompt)
    set_options(page, temperature="0", max_bytes="1")
    page.get_by_role("button", name="Write").click()

    page.get_by_role("button", name="Keep", exact=True).click()

    expect(page.locator("#written-note")).to_contain_text("Kept without 1 byte at the end")
    expect(page.locator("#prefix")).to_have_value(prompt)


def test_the_options_reach_the_model(page: Page, fim: ByteLM) -> None:
    """A seed, filters and a stop string that is written as an escape give the text that they give in Python."""
    type_prefix(page, "Once upon a ti")
    set_options(page, temperature="0.9", top_k="40", top_p="0.9", min_p="0.01", seed="5", max_bytes="40", stop="\\n\n.")

    page.get_by_role("button", name="Write").click()

    params = SamplingParams(temperature=0.9, top_k=40, top_p=0.9, min_p=0.01, seed=5, max_bytes=40, stop=["\n", "."])
    assert written(page) == fim.sample("Once upon a ti", params=params).text


def test_with_a_suffix_the_middle_is_written(page: Page, fim: ByteLM) -> None:
    """The new text is that of `infill`, and it is shown between the two others."""
    prefix, suffix = "def add(a, b):\n    ret", "\n\nprint(add(1, 2))\n"
    type_prefix(page, prefix)
    page.locator("#suffix").fill(suffix)
    set_options(page, temperature="0", max_bytes="30")

    page.get_by_role("button", name="Write").click()

    expected = fim.infill(prefix, suffix, temperature=0, max_bytes=30).text
    assert written(page) == expected
    expect(page.get_by_role("heading", name="Infill")).to_be_visible()
    assert page.locator("#written-text").text_content() == prefix + expected + suffix


def test_escape_stops_the_writing(page: Page) -> None:
    """What was written until then stays and can be kept."""
    type_prefix(page, "1, 2, 3, 4, 5, 6, 7, 8, 9, 1")
    set_options(page, temperature="0", max_bytes="4000")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#new")).to_have_text(re.compile(".{5}"))

    page.keyboard.press("Escape")

    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    text = written(page)
    assert 0 < len(text.encode()) < 4000
    expect(page.locator("#written-note")).to_have_text(f"Stopped after {len(text.encode())} bytes.")
    expect(page.locator("#errors")).to_be_empty()


def test_an_edit_stops_the_writing(page: Page) -> None:
    """A completion of another text is none: it ends, and it cannot be kept."""
    type_prefix(page, "1, 2, 3, 4, 5, 6, 7, 8, 9, 1")
    set_options(page, temperature="0", max_bytes="4000")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("#new")).not_to_be_empty()

    type_prefix(page, "The capital")

    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    expect(page.locator("#keep")).to_be_hidden()


def test_the_likeliest_endings_are_listed(page: Page, fim: ByteLM) -> None:
    """Each with its probability, the largest first; the button beside one puts it behind the prefix."""
    type_prefix(page, PROMPT)
    set_options(page, endings_n="3", endings_max_bytes="40")

    page.get_by_role("button", name="Likeliest endings").click()

    rows = page.locator("#endings tbody tr:not(.rest)")
    expect(rows).to_have_count(3)
    endings = fim.likeliest(PROMPT, n=3, stop="\n", max_bytes=40)
    assert shares(rows) == pytest.approx([math.exp(ending.logprob) for ending in endings], abs=1.5e-4)
    rows.nth(1).get_by_role("button").click()
    expect(page.locator("#prefix")).to_have_value(PROMPT + endings[1].text)
    expect(page.locator("#endings")).to_be_hidden()


def test_what_the_server_refuses_is_said(page: Page, watched: Watched) -> None:
    """The server's own message comes as an alert, and goes with the next attempt."""
    type_prefix(page, PROMPT)
    set_options(page, temperature="-1", max_bytes="5")

    page.get_by_role("button", name="Write").click()

    expect(page.get_by_role("alert")).to_contain_text("temperature")
    assert len(watched.console) == 1  # Chromium itself logs the status 400
    watched.console.clear()
    set_options(page, temperature="0")
    page.get_by_role("button", name="Write").click()
    written(page)
    expect(page.get_by_role("alert")).to_be_empty()


def test_what_is_no_number_is_said(page: Page) -> None:
    """A field that no number can be read from is named, and the server is not asked."""
    set_options(page, top_p="half")

    page.get_by_role("button", name="Write").click()

    expect(page.get_by_role("alert")).to_have_text("top_p must be a number; got half")


def test_a_server_that_is_gone_is_said(page: Page, watched: Watched) -> None:
    """Without an answer the page says so, and no older numbers stay beside the new text."""
    type_prefix(page, PROMPT)
    page.route("**/bytelm/*", lambda route: route.abort())

    page.locator("#prefix").press("End")
    page.locator("#prefix").press_sequentially("x")

    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    expect(numbers(page).locator("*")).to_have_count(0)
    watched.console.clear()  # Chromium logs each request that failed


def test_the_keyboard_is_enough(page: Page, fim: ByteLM) -> None:
    """Tab comes to everything in order, Ctrl+Enter writes, and the arrow keys go along the cells of the strip."""
    expect(page.locator("#suffix")).to_be_visible()
    press = page.keyboard.press

    for place in ("#prefix", "#suffix", "#write", "#likeliest", "summary"):
        press("Tab")
        expect(page.locator(place)).to_be_focused()
    press("Enter")  # opens the options
    for name in ("max_bytes", "temperature"):
        press("Tab")
        expect(page.locator(f"[name={name}]")).to_be_focused()
        page.keyboard.type("20" if name == "max_bytes" else "0")
    for _ in range(6):
        press("Shift+Tab")
    expect(page.locator("#prefix")).to_be_focused()
    press("Control+A")
    page.keyboard.type("The capital of Fra")
    expect(page.locator("#surprisal .byte")).to_have_count(18)
    press("Control+Enter")

    expected = fim.sample("The capital of Fra", temperature=0, max_bytes=20).text
    assert written(page) == expected
    page.locator("[name=endings_stop]").focus()
    press("Tab")
    expect(page.locator("#keep")).to_be_focused()
    outline = page.locator("#keep").evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline == "solid"
    press("Enter")
    expect(page.locator("#prefix")).to_have_value("The capital of Fra" + expected)
    cells = page.locator("#surprisal .byte")
    expect(cells).to_have_count(18 + len(expected))
    cells.nth(0).focus()
    for key, goal in (("ArrowRight", cells.nth(1)), ("ArrowUp", page.locator("#surprisal .head").nth(0))):
        press(key)
        expect(goal).to_be_focused()
    press("End")
    expect(cells.last).to_be_focused()
    expect(page.locator("#surprisal .readout")).to_contain_text(f"Byte {18 + len(expected)} of")


def test_a_phone_shows_all_of_it(open_page: Open, address: str) -> None:
    """At 360 px nothing is wider than the screen, with long words, options, endings and a completion in view."""
    page = open_page(address, width=360)
    type_prefix(page, PROMPT + "x" * 80 + " " * 40)
    set_options(page, max_bytes="20", endings_max_bytes="20", endings_n="2")
    page.get_by_role("button", name="Write").click()
    written(page)
    page.get_by_role("button", name="Likeliest endings").click()
    expect(page.locator("#endings tbody tr").nth(0)).to_be_visible()

    wide = page.evaluate("document.documentElement.scrollWidth")

    assert wide <= 360


def test_every_field_and_button_has_a_name(page: Page) -> None:
    """A screen reader has a name for each thing that can be operated."""
    type_prefix(page, PROMPT)
    set_options(page)

    things = page.locator("input, textarea, button, summary, [role=option], [role=listbox], section").all()

    assert len(things) > 30
    for thing in things:
        if thing.is_visible():
            expect(thing).to_have_accessible_name(re.compile(r"\S"))


def test_an_ensemble_shows_who_drove_each_byte(open_page: Open, ensemble_address: str, watched: Watched) -> None:
    """The page asks for the API key; then each byte of a completion has the colour of a member, with a legend."""
    page = open_page(ensemble_address)
    expect(page.get_by_label("API key")).to_be_focused()
    watched.console.clear()  # Chromium itself logs the status 401
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    type_prefix(page, "The capital of Fra")
    expect(page.locator("#cover h3")).to_have_text(["demo", "demo-fim"])
    set_options(page, temperature="0", max_bytes="6")

    page.get_by_role("button", name="Write").click()

    written(page)
    cells = page.locator("#driven .byte")
    expect(cells).to_have_count(6)
    drove = [sum(f"driven by {name}." in label for label in labels(cells)) for name in ("demo", "demo-fim")]
    assert sum(drove) == 6
    expect(page.locator("#driven .legend li")).to_have_text(
        [re.compile(rf"^{name} drove {count} bytes?$") for name, count in zip(("demo", "demo-fim"), drove, strict=True)]
    )
    for member, count in enumerate(drove):
        expect(page.locator(f"#driven .byte.member-{member}")).to_have_count(count)
