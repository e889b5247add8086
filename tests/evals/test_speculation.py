"""The evaluation of drafts: its counts are those of the engines, and its tables say what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bytelm import ByteLM, TableLM
from bytelm.token_lm import Usage
from evals import speculation
from tests.support.tiny import byte_bpe_tokenizer


class Counting(TableLM):
    """Counts its calls as engines do."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.usage = Usage()

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.usage.calls += 1
        self.usage.tokens_fed += len(sequences)
        return super().next_token_logprobs(sequences)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys in the place of models: the one named wrong drafts badly."""

    def loaded(name: str) -> ByteLM:
        seed = 9 if name == "wrong" else 2
        return ByteLM(Counting(byte_bpe_tokenizer(eos="<|endoftext|>"), seed=seed, order=1, temperature=0.4))

    monkeypatch.setattr(ByteLM, "from_pretrained", staticmethod(loaded))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert speculation.main(["--bytes", "30", "--limit", "2", *words]) == 0
    return capsys.readouterr().out


def test_a_good_drafter_saves_calls_and_greedy_texts_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line has the counts of both ways."""
    good = json.loads(run(capsys, "--model", "a", "--draft", "a", "--temperature", "0", "--json"))

    assert len(good["lines"]) == 4
    assert all(line["same"] for line in good["lines"])
    assert speculation.speed_up(good["lines"], 0.0) > 1.5
    assert speculation.speed_up(good["lines"], 1.0) < speculation.speed_up(good["lines"], 0.0)
    for line in good["lines"]:
        assert line["calls"][1] <= line["calls"][0]
        assert line["drafter calls"] > 0


def test_the_tables_are_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read again shows the same, and can be drawn."""
    kept, drawn = tmp_path / "kept.json", tmp_path / "drawn.png"
    told = run(
        capsys, "--model", "a", "--draft", "wrong", "--temperature", "0", "--out", str(kept), "--plot", str(drawn)
    )

    assert "The same text at 4 of 4 prompts." in told
    assert drawn.stat().st_size > 1000
    assert run(capsys, "--read", str(kept)) == told


def test_a_lookup_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    """It makes no calls of its own."""
    told = json.loads(run(capsys, "--model", "a", "--draft", "lookup", "--json"))

    assert {line["drafter calls"] for line in told["lines"]} == {0}
