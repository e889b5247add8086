"""The evaluation of drafts: its counts are those of the engines, and its tables say what they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.token_lm import Usage
from evals import speculation
from evals.cost.repeating import repeating_holes
from tests.support.tiny import byte_bpe_tokenizer

SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


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
        special = SENTINELS if name == "fim" else ()
        tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=special)
        return ByteLM(Counting(tokenizer, seed=seed, order=1, temperature=0.4))

    monkeypatch.setattr(ByteLM, "from_pretrained", staticmethod(loaded))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert speculation.main(["--bytes", "30", "--limit", "2", *words]) == 0
    return capsys.readouterr().out


TEXTS = ("--kinds", "English,Python")


def test_a_good_drafter_saves_calls_and_greedy_texts_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line has the counts of both ways."""
    good = json.loads(run(capsys, *TEXTS, "--model", "a", "--draft", "b", "--temperature", "0", "--json"))

    assert len(good["lines"]) == 4
    assert all(line["same"] for line in good["lines"])
    assert speculation.speed_up(good["lines"], 0.0) > 1.5
    assert speculation.speed_up(good["lines"], 1.0) < speculation.speed_up(good["lines"], 0.0)
    for line in good["lines"]:
        assert line["calls"][1] <= line["calls"][0]
        assert line["drafter calls"] > 0


def test_a_useless_drafter_costs_hardly_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is left out."""
    words = ("--model", "a", "--draft", "useless", "--temperature", "0", "--bytes", "200", "--json")
    told = json.loads(run(capsys, *TEXTS, *words))

    assert {line["accepted"] for line in told["lines"]} == {0}
    assert all(line["drafted"] > 0 for line in told["lines"])
    assert 1 / speculation.speed_up(told["lines"], 0.0) <= 1.02


def test_the_tables_are_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read again shows the same, and can be drawn. A run that was cut off goes on where it was."""
    kept, drawn = tmp_path / "kept.jsonl", tmp_path / "drawn.png"
    words = (*TEXTS, "--model", "a", "--draft", "wrong", "--temperature", "0", "--out", str(kept))
    told = run(capsys, *words, "--plot", str(drawn))

    assert "The same text at 4 of 4 prompts." in told
    assert drawn.stat().st_size > 1000
    assert run(capsys, "--read", str(kept)) == told
    whole = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(whole[:3]) + whole[3][:20])
    run(capsys, *words, "--resume")
    again = kept.read_text().splitlines(keepends=True)
    assert again[:3] == whole[:3]
    assert [json.loads(line).get("id") for line in again] == [json.loads(line).get("id") for line in whole]


def test_each_pair_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """But for a model with itself. A lookup makes no calls of its own."""
    told = json.loads(run(capsys, *TEXTS, "--limit", "1", "--model", "a,b", "--draft", "a,b,lookup", "--json"))

    pairs = [(line["target"], line["draft"]) for line in told["lines"]]
    assert list(dict.fromkeys(pairs)) == [("a", "b"), ("a", "lookup"), ("b", "a"), ("b", "lookup")]
    assert {line["drafter calls"] for line in told["lines"] if line["draft"] == "lookup"} == {0}


@pytest.mark.parametrize("model", ["fim", "a"])
def test_holes_are_filled(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a model that can, and by one that has no format."""
    for name in ("one", "two", "three"):
        body = "".join(f"def {name}_{number}():\n    return the_same_value({number})\n\n" for number in range(200))
        (tmp_path / f"{name}.py").write_text(body)

    told = json.loads(
        run(capsys, "--kinds", "infill", "--model", model, "--draft", "b", "--data", str(tmp_path), "--json")
    )

    assert len({line["id"].rsplit(":")[0] for line in told["lines"]}) == 2
    assert sum(line["drafted"] for line in told["lines"]) > 0


def test_the_files_that_repeat_themselves_come_first(tmp_path: Path) -> None:
    """Each with one hole."""
    random = np.random.default_rng(0)
    for place, words in enumerate((3, 3000)):
        lines = (f"{random.integers(words)} = {random.integers(words)}" for _ in range(2000))
        (tmp_path / f"{place}.py").write_text("\n".join(lines))

    holes = repeating_holes(5, [tmp_path])

    assert [Path(hole.group).name for hole in holes] == ["0.py", "1.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "a", "--draft", "a"), "does not draft for itself"),
        (("--kinds", "poems"), "no kind of prompts is called poems"),
        (("--temperature", "-1"), "0 or more"),
        (("--resume",), "name it with --out"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speculation.main(list(words))

    assert said in capsys.readouterr().err


def test_there_are_twenty_prompts_of_each_kind() -> None:
    assert [len({*prompts}) for prompts in speculation.PROMPTS.values()] == [20, 20]
