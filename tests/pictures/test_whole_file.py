"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from bytelm.errors import FileWriteError
from bytelm.pictures.whole_file import write_file


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    """Text as UTF-8 with its line ends as they are; a file that is there keeps its mode; nothing else is left."""
    path = tmp_path / "page.html"
    mask = os.umask(0o027)
    try:
        write_file(path, "é\r\n")
    finally:
        os.umask(mask)

    assert path.read_bytes() == "é\r\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write_file(str(path), b"\xff")
    assert path.read_bytes() == b"\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert os.listdir(tmp_path) == ["page.html"]  # noqa: PTH208 - hidden ones too


@pytest.mark.parametrize("step", ["open", "fdopen", "fsync", "replace"])
def test_whatever_fails_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any step: the old text is there, and nothing beside it."""
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if step == "replace" else os, step, full)
    with pytest.raises(FileWriteError, match=r"cannot write .*page\.html: No space left"):
        write_file(path, "new")
    monkeypatch.undo()

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]  # noqa: PTH208 - hidden ones too


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    real, link, pipe = tmp_path / "folder" / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    os.mkfifo(pipe)

    write_file(link, "new")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "through")

    assert link.is_symlink()
    assert real.read_text() == "new"
    assert os.read(reader, 100) == b"through"
    os.close(reader)


@pytest.mark.parametrize("path", ["none/page.html", "a\0b", ".", "x" * 300])
def test_what_cannot_be_written_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(FileWriteError, match="cannot write"):
        write_file(tmp_path / path, "x")
