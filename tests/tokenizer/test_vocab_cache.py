"""What is kept of a tokenizer on disk: it reads back as it was, and nothing else is taken for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm.tokenizer import tokenizer_json, vocab_cache
from bytelm.tokenizer.disk_cache import read_arrays, write_arrays
from bytelm.tokenizer.viability.viability import Viability
from tests.support.tiny import byte_bpe_tokenizer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path))
    return tmp_path / "tokenizers"


def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a specification was parsed."""
    times: list[int] = []
    parse = tokenizer_json.parse_tables

    def counted(*arguments: Any) -> vocab_cache.Tables:
        times.append(1)
        return parse(*arguments)

    monkeypatch.setattr(tokenizer_json, "parse_tables", counted)
    return times


def test_what_is_kept_is_what_was_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading parses nothing, and the vocabulary is the same in every field."""
    times = parsed(monkeypatch)
    tokenizer = byte_bpe_tokenizer()
    first, second = tokenizer_json.read_vocab(tokenizer), tokenizer_json.read_vocab(tokenizer)

    assert len(times) == 1
    assert len(list(folder.iterdir())) == 1
    for name in (
        "family",
        "token_bytes",
        "added",
        "steps",
        "form",
        "dummy_prefix",
        "pieces",
        "ignore_merges",
        "byte_fallback",
    ):
        assert getattr(first, name) == getattr(second, name)
    assert np.array_equal(first.merges, second.merges)
    assert np.array_equal(first.order, second.order)
    assert [*first.pieces] == [*second.pieces]


def test_a_tokenizer_that_was_changed_is_another(folder: Path) -> None:
    """The key is all that a tokenizer says of itself."""
    tokenizer = byte_bpe_tokenizer()
    before = tokenizer_json.read_vocab(tokenizer)
    tokenizer.add_tokens(["xyzzy"])
    after = tokenizer_json.read_vocab(tokenizer)

    assert len(after.added) == len(before.added) + 1
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_file_is_read_anew(damage: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, a wrong beginning, and half a file: the tokenizer is parsed again, and the file is whole afterwards."""
    tokenizer = byte_bpe_tokenizer()
    expected = tokenizer_json.read_vocab(tokenizer)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    times = parsed(monkeypatch)

    assert tokenizer_json.read_vocab(tokenizer).token_bytes == expected.token_bytes
    assert len(times) == 1
    assert tokenizer_json.read_vocab(tokenizer).token_bytes == expected.token_bytes
    assert len(times) == 1


def test_arrays_that_do_not_fit_are_no_tables(folder: Path) -> None:
    """A file that is a whole archive, with names that end where no name does, is not believed."""
    tokenizer = byte_bpe_tokenizer()
    tokenizer_json.read_vocab(tokenizer)
    (file,) = folder.iterdir()
    arrays = read_arrays(file)
    assert arrays is not None
    write_arrays(file, **(arrays | {"name_ends": arrays["name_ends"] + 1}))

    assert vocab_cache.load_tables(file) is None


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both read the same tokenizer, and what is kept in the end is whole."""
    file = tmp_path / "tokenizer.json"
    file.write_text(byte_bpe_tokenizer().backend_tokenizer.to_str())
    code = (
        "import sys; from tokenizers import Tokenizer; from bytelm.tokenizer.tokenizer_json import read_vocab; "
        "print(len(read_vocab(Tokenizer.from_file(sys.argv[1]))))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]

    assert said == [f"{len(tokenizer_json.read_vocab(byte_bpe_tokenizer()))}\n"] * 2
    assert [path.suffix for path in (tmp_path / "tokenizers").iterdir()] == [".npz"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every reading parses."""
    tokenizer = byte_bpe_tokenizer()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "file"))
    times = parsed(monkeypatch)
    for _ in range(2):
        Viability.from_tokenizer(tokenizer)

    assert len(times) == 2


def test_the_specification_that_is_kept_holds_no_tables(folder: Path) -> None:
    """Pieces and merges are arrays, not JSON."""
    tokenizer_json.read_vocab(byte_bpe_tokenizer())
    (file,) = folder.iterdir()
    kept = vocab_cache.load_tables(file)

    assert kept is not None
    assert json.loads(json.dumps(kept.spec))["model"].keys().isdisjoint({"vocab", "merges"})
