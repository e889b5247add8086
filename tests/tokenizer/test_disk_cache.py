"""The cache folder: whole files or none, and never an error."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from bytelm.errors import CacheWriteError
from bytelm.tokenizer.disk_cache import (
    cache_folder,
    read_arrays,
    read_bytes,
    write_arrays,
    write_bytes,
    writing,
)
from bytelm.tokenizer.split.char_classes import atom_members


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path))
    return tmp_path


def test_what_is_written_is_read_and_nothing_else_stays(folder: Path) -> None:
    """A value comes back, and no temporary file is left beside it."""
    place = cache_folder("kind")
    assert place is not None
    write_bytes(place / "value", b"42")

    assert read_bytes(place / "value") == b"42"
    assert [path.name for path in (folder / "kind").iterdir()] == ["value"]


def test_a_cache_that_cannot_be_used_is_passed_over(folder: Path) -> None:
    """A folder that cannot be made, a file that cannot be written or read: the value is computed again."""
    (folder / "kind").write_text("a file where the folder should be")

    assert cache_folder("kind") is None
    write_bytes(folder / "missing" / "value", b"42")
    assert read_bytes(folder / "missing" / "value") is None
    write_bytes(None, b"42")
    assert read_bytes(None) is None


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("no")]
)
def test_a_file_is_written_whole_or_not_at_all(error: BaseException, tmp_path: Path) -> None:
    """Any error while writing leaves the file that was there and no other; a full disk says so, with its number."""
    path = tmp_path / "file"
    with writing(path) as file:
        file.write(b"whole")
    raised = CacheWriteError if isinstance(error, OSError) else type(error)

    with pytest.raises(raised) as caught, writing(path) as file:
        file.write(b"ha")
        raise error

    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"whole")]
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, str(path) in str(caught.value)) == (errno.ENOSPC, True)


def test_a_folder_that_is_not_there_is_a_write_error(tmp_path: Path) -> None:
    """Before the block as in it."""
    with pytest.raises(CacheWriteError, match="missing"), writing(tmp_path / "missing" / "file"):
        pass


def test_a_corrupt_file_is_ignored(folder: Path) -> None:
    """The members of an atom are asked again when what is on disk is not of their size."""
    atom_members.cache_clear()
    members = atom_members(r"\p{Lt}").copy()
    (file,) = (folder / "char-classes").iterdir()
    file.write_bytes(b"short")
    atom_members.cache_clear()

    assert (atom_members(r"\p{Lt}") == members).all()
    assert file.stat().st_size > 1000


@pytest.mark.parametrize("kind", ["zeros", "a bit", "the end"])
def test_damage_of_any_kind_is_noticed(kind: str, folder: Path) -> None:
    """A file of the right size that holds something else is asked anew and written anew, of classes and of arrays."""

    def damaged(file: Path) -> None:
        whole = file.read_bytes()
        middle = len(whole) // 2
        changed = bytes([whole[middle] ^ 1])
        file.write_bytes(
            {
                "zeros": bytes(len(whole)),
                "a bit": whole[:middle] + changed + whole[middle + 1 :],
                "the end": whole[:-64] + bytes(64),
            }[kind]
        )

    atom_members.cache_clear()
    members = atom_members(r"\p{Lt}").copy()
    (file,) = (folder / "char-classes").iterdir()
    whole = file.read_bytes()
    damaged(file)
    atom_members.cache_clear()
    arrays = folder / "arrays"
    write_arrays(arrays, numbers=np.arange(1000))
    kept = read_arrays(arrays)
    damaged(arrays)

    assert (atom_members(r"\p{Lt}") == members).all()
    assert file.read_bytes() == whole
    assert kept is not None
    assert kept["numbers"].tolist() == [*range(1000)]
    assert read_arrays(arrays) is None
