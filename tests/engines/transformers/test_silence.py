"""Progress bars of transformers: none, unless they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from bytelm import ByteLM
from bytelm.engines.transformers.silence import without_bars
from tests.support.tiny import default_tokenizer, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model."""
    place = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(place)
    default_tokenizer().save_pretrained(place)
    return place


@pytest.mark.parametrize("progress", [False, True])
def test_loading_is_silent_unless_asked(progress: bool, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A library call writes nothing; with progress=True the bar of transformers is there."""
    ByteLM.from_pretrained(folder, device="cpu", progress=progress)

    out, err = capfd.readouterr()
    assert ("Loading weights" in err) == progress
    assert (out, progress or err) == ("", progress or "")


def test_a_path_is_silent_too(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A ByteLM of a path loads in silence."""
    ByteLM(folder)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("before", ["all", "none", "some"])
def test_the_switches_are_left_as_they_were(before: str, folder: Path) -> None:
    """Whatever the caller had set for transformers and its hub is set afterwards, after an error as well."""
    try:
        if before == "none":
            logging.disable_progress_bar()
        else:
            logging.enable_progress_bar()
        if before == "some":
            disable_progress_bars("one.group")
        expected = state()

        ByteLM.from_pretrained(folder, device="cpu")
        after = state()
        with pytest.raises(ZeroDivisionError), without_bars():
            raise ZeroDivisionError

        assert after == state() == expected
    finally:
        logging.enable_progress_bar()
        enable_progress_bars()


def state() -> tuple[bool, ...]:
    groups = [None, "one", "one.group", "one.group.more"]
    return (logging.is_progress_bar_enabled(), *map(are_progress_bars_disabled, groups))


def test_threads_that_load_leave_them_too() -> None:
    """Two loads at the same time do not take each other's silence for the caller's."""
    expected = state()
    inside = threading.Event()

    def other() -> None:
        inside.wait(60)
        with without_bars():
            pass

    thread = threading.Thread(target=other)
    thread.start()
    with without_bars():
        inside.set()
        thread.join(0.2)  # it waits for its turn
        silent = not logging.is_progress_bar_enabled()
    thread.join()

    assert silent
    assert state() == expected
