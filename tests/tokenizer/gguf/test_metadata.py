from __future__ import annotations

from pathlib import Path

import pytest

from bytelm.tokenizer.gguf.metadata import read_metadata
from tests.support.tiny_gguf import gemma_like, smollm_like


@pytest.mark.parametrize("make", [smollm_like, gemma_like])
def test_the_pairs_are_those_that_gguf_reads(make: object, tmp_path: Path) -> None:
    """Every key has the value that the reader of the package gguf gives it; a prefix leaves the others out."""
    from gguf import GGUFReader

    path = tmp_path / "model.gguf"
    make(path)  # type: ignore[operator]
    expected = {key: field.contents() for key, field in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}

    actual = read_metadata(path)

    assert actual == expected
    assert read_metadata(path, "tokenizer.") == {k: v for k, v in expected.items() if k.startswith("tokenizer.")}


def test_every_kind_of_value(tmp_path: Path) -> None:
    """Numbers of every width, truth values, strings, and lists of them, nested ones too, come back as they were."""
    from gguf import GGUFWriter

    path = tmp_path / "kinds.gguf"
    writer = GGUFWriter(path, "none")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "é▁\n")
    writer.add_array("strings", ["", "a b", "🙂"])
    writer.add_array("numbers", [-1, 2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    actual = read_metadata(path)

    assert actual == {
        "general.architecture": "none",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -32768,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 0.1,
        "yes": True,
        "text": "é▁\n",
        "strings": ["", "a b", "🙂"],
        "numbers": [-1, 2, 3],
    }


def test_a_damaged_file(tmp_path: Path) -> None:
    """What is no GGUF file, or is cut off anywhere among its pairs, is a ValueError that says so."""
    path = tmp_path / "model.gguf"
    whole, _ = smollm_like(path)
    end = whole.index(b"token_embd.weight")

    for size in [*range(0, 64, 7), *range(64, end, 997)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"GGUF|damaged"):
            read_metadata(path)
    path.write_bytes(b"GGUF" + (1).to_bytes(4, "little") + whole[8:])
    with pytest.raises(ValueError, match="version 1"):
        read_metadata(path)
