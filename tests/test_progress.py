from __future__ import annotations

import io
import sys
import time
from types import SimpleNamespace

import pytest

from bytelm.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, patience: float = 0.0) -> Terminal:
    """A terminal as standard error, and no patience."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("bytelm.progress.PATIENCE_S", patience)
    return screen


def wait_for(screen: io.StringIO, words: str) -> None:
    """Wait until these words are on the screen: the bar is drawn by a thread of its own."""
    end = time.monotonic() + 60
    while words not in screen.getvalue():
        assert time.monotonic() < end, screen.getvalue()
        time.sleep(0.01)


def test_a_bar_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that says nothing of itself has a bar too, which is gone afterwards."""
    screen = terminal(monkeypatch)
    with Bar("loading"):
        wait_for(screen, "loading")

    assert screen.getvalue().endswith("\x1b[2K"), "the line is wiped"


def test_a_bar_follows_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that ended count whole, those under way by their share; jobs that have not begun say nothing."""
    screen = terminal(monkeypatch)
    with Bar("working", 4) as bar:
        wait_for(screen, "0%")
        bar.show(3, [SimpleNamespace(done=0.5), None, SimpleNamespace(done=0.25)])
        wait_for(screen, "44%")


def test_steps_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of known length may be followed by one of unknown length, and that by another."""
    screen = terminal(monkeypatch)
    with Bar() as bar:
        bar.step("fetching", 30, 120)
        wait_for(screen, "25%")
        bar.step("converting")
        wait_for(screen, "converting")
        bar.step("writing", 1, 2)
        wait_for(screen, "50%")

    assert screen.getvalue().rindex("fetching") < screen.getvalue().index("converting")


def test_what_is_printed_meanwhile_stays_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the bar is there, standard output goes to its file, and a stand-in for standard error gets no bar."""
    screen = terminal(monkeypatch)
    file, stand_in = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    with Bar("loading"):
        wait_for(screen, "loading")
        print("result")  # noqa: T201
        monkeypatch.setattr(sys, "stderr", stand_in)

    assert file.getvalue() == "result\n"
    assert stand_in.getvalue() == ""


@pytest.mark.parametrize("reason", ["short", "no terminal", "not wanted"])
def test_no_bar(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is printed for work that is soon done, into a file, or where no bar is wanted."""
    screen = terminal(monkeypatch, 600.0 if reason == "short" else 0.0)
    if reason == "no terminal":
        screen.isatty = lambda: False  # type: ignore[method-assign]
    with Bar("loading", 3, shown=reason != "not wanted") as bar:
        bar.show(1)
        time.sleep(0.05)

    assert screen.getvalue() == ""
