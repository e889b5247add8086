"""Files changed in place: the new text whole, or the old one, whatever happens between."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bytelm.cli import atomic_edit as in_place
from bytelm.cli.atomic_edit import replace, writable
from bytelm.errors import BytelmError, FileWriteError

OLD, NEW = b"\xef\xbb\xbfa\r\n\tb", b"\xef\xbb\xbfa\r\n\tb and more"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.py"
    path.write_bytes(OLD)
    return path


def test_the_new_text_stands_in_its_place(file: Path) -> None:
    """Byte for byte, with the mode of the old file, and nothing beside it."""
    file.chmod(0o751)

    replace(file, OLD, NEW)

    assert file.read_bytes() == NEW
    assert stat.S_IMODE(file.stat().st_mode) == (0o751 if os.name != "nt" else 0o666)
    assert [path.name for path in file.parent.iterdir()] == ["text.py"]


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege there")
def test_a_link_stays_a_link(file: Path) -> None:
    """What a symbolic link leads to is replaced, in the folder where that is."""
    (file.parent / "below").mkdir()
    link = file.parent / "below" / "link.py"
    link.symlink_to(Path("..") / "text.py")

    replace(link, OLD, NEW)

    assert link.is_symlink()
    assert file.read_bytes() == NEW
    assert not file.is_symlink()


@pytest.mark.skipif(not hasattr(os, "chown"), reason="files have no owner there")
def test_the_owner_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is given the owner and group of the old one, before its mode; where that is forbidden, no harm."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, user, group: given.append((user, group)))
    replace(file, OLD, NEW)
    assert given == [(-1, file.stat().st_gid), (file.stat().st_uid, -1)]

    def forbidden(*_: Any) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", forbidden)
    replace(file, NEW, OLD)
    assert file.read_bytes() == OLD


@pytest.mark.skipif(not hasattr(os, "chown"), reason="files have no owner there")
@pytest.mark.parametrize(("refused", "mode"), [("neither", 0o4675), ("owner", 0o675), ("group", 0o4605)])
def test_rights_of_another_owner_or_group_are_not_given_to_ours(
    refused: str, mode: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given by itself; where that is forbidden, what the old one might do with the file, ours may not."""

    def chown(path: Any, user: int, group: int) -> None:
        if refused == ("owner" if group == -1 else "group"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    file.chmod(0o4675)
    monkeypatch.setattr(os, "chown", chown)

    replace(file, OLD, NEW)

    assert stat.S_IMODE(file.stat().st_mode) == mode


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: Any, **__: Any) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["os.open", "os.fdopen", "os.fsync", "_dress", "Path.replace"])
@pytest.mark.parametrize("failure", [full, interrupted])
def test_whatever_fails_leaves_the_old_text(
    step: str, failure: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or Ctrl-C at any step: the file is as it was, nothing lies beside it, and the error says so."""
    before = file.stat()
    owner, _, name = step.rpartition(".")
    monkeypatch.setattr({"os": os, "": in_place, "Path": Path}[owner], name, failure)

    with pytest.raises(FileWriteError if failure is full else KeyboardInterrupt) as caught:
        replace(file, OLD, NEW)

    monkeypatch.undo()
    assert file.read_bytes() == OLD
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [path.name for path in file.parent.iterdir()] == ["text.py"]
    if failure is full:
        assert "it is unchanged" in str(caught.value)
        assert isinstance(caught.value, FileWriteError)
        assert caught.value.errno == errno.ENOSPC


def test_a_read_only_file_is_refused(file: Path) -> None:
    """Nobody may write it, so it is not replaced, though renaming over it would succeed, and though we be root."""
    file.chmod(0o444)

    for attempt in (lambda: writable(file), lambda: replace(file, OLD, NEW)):
        with pytest.raises(FileWriteError, match="read-only"):
            attempt()

    assert file.read_bytes() == OLD
    file.chmod(0o644)


def test_a_read_only_folder_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new text is written beside the old one, which needs the folder."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file.parent)

    with pytest.raises(FileWriteError, match=r"folder .* is read-only"):
        writable(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder and a name that is nobody's."""
    with pytest.raises(FileWriteError, match="not a regular file"):
        writable(tmp_path)
    with pytest.raises(FileWriteError, match="No such file"):
        writable(tmp_path / "none")
    assert issubclass(FileWriteError, BytelmError)


def test_what_another_wrote_meanwhile_is_not_lost(file: Path) -> None:
    """A file that changed since it was read keeps the change."""
    file.write_bytes(b"theirs")

    with pytest.raises(FileWriteError, match="changed while"):
        replace(file, OLD, NEW)

    assert file.read_bytes() == b"theirs"
    assert [path.name for path in file.parent.iterdir()] == ["text.py"]


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="this system has no extended attributes, or other calls")
def test_extended_attributes_are_kept(file: Path) -> None:
    """What else the file system keeps of the file stays, and the time of the change is new."""
    try:
        os.setxattr(file, "user.origin", b"here")
    except OSError as error:
        pytest.skip(f"the file system takes no extended attributes: {error}")
    os.utime(file, (1, 1))

    replace(file, file.read_bytes(), b"new")

    assert os.getxattr(file, "user.origin") == b"here"
    assert file.stat().st_mtime > 1
