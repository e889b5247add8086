"""What evals.cost.moved counts, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.cost import moved
from tests.support.tiny import default_tokenizer, tiny_model


def test_what_travels_is_counted_and_texts_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the CPU device, with rows on it and in memory, for a greedy text and a drawn one."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    default_tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "moved.json"
    words = ["--models", str(tmp_path / "model"), "--cases", "greedy,drawn", "--limit", "2", "--bytes", "12"]

    assert moved.main([*words, "--device", "cpu", "--out", str(out)]) == 0

    greedy, drawn = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert (greedy["case"], drawn["case"]) == ("greedy", "drawn")
    for row in (greedy, drawn):
        assert row["same"] == 2
        assert row["row_bytes"] == 4 * 317
        assert row["rows"] > 0
        assert row["moved_bytes"] > 0
        assert row["questions"] > 0
        assert row["time_against_memory"] > 0
    assert "2 of 2" in capsys.readouterr().out
