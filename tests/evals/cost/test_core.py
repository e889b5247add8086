"""The evaluation of what a byte costs outside the model: what is replayed, what is counted, and both environments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.engines.table import TableLM
from evals.cost import core
from evals.cost.peers import installed_peers
from evals.cost.replay import Replayed
from tests.support.tiny import default_tokenizer, tiny_model


class Counting(TableLM):
    """A table that counts the rows that it computes."""

    rows = 0

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.rows += len(sequences)
        return super().next_token_logprobs(sequences)


def test_what_was_asked_for_once_is_never_computed_again(tmp_path: Path) -> None:
    """The rows of the engine itself; in another process too, from the folder."""
    inner = Counting(default_tokenizer(), temperature=2.0)
    sequences = [(), (5,), (5, 6), (5,)]
    replayed = Replayed(inner)
    rows = replayed.next_token_logprobs(sequences)

    assert inner.rows == 3
    assert np.array_equal(rows, np.asarray(inner.next_token_logprobs(sequences), np.float32))
    computed = inner.rows
    replayed.write(tmp_path)
    later = Replayed(inner)
    later.read(tmp_path)
    assert np.array_equal(later.next_token_logprobs(sequences[::-1]), rows[::-1])
    assert np.array_equal(replayed.next_token_logprobs(sequences), rows)
    assert inner.rows == computed
    assert (replayed.calls, replayed.asked) == (2, 8)


def test_another_model_is_made_of_the_same_rows() -> None:
    """A warmth divides the logits; rows stay normalised."""
    inner = TableLM(default_tokenizer(), temperature=2.0)
    ((row,), (warm,)) = (Replayed(inner, warmth=w).next_token_logprobs([(5,)]) for w in (1.0, 2.0))

    assert np.exp(warm.astype(float)).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(warm) == pytest.approx(np.ptp(row) / 2, rel=1e-5)


@pytest.mark.parametrize("case", core.CASES)
def test_a_case_writes_what_the_model_writes(case: str) -> None:
    """Each case runs on the rows that its first run recorded: a round asks the engine for none."""
    inner = Counting(default_tokenizer(), temperature=2.0)
    engines, run = core.work_of(case, inner, 2, 6)
    written, computed = run(), inner.rows

    assert run() == written
    assert inner.rows == computed
    assert all(engine.asked > 0 for engine in engines)


def test_another_program_runs_on_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer gets a function from ids to a row; a round asks the engine for none, and the replaying is counted apart."""

    class Greedy:
        """The likeliest token, again and again."""

        def __init__(self, row: Callable[[Sequence[int]], np.ndarray], tokenizer: Any) -> None:
            self.row, self.tokenizer = row, tokenizer

        def complete(self, prompt: bytes, size: int) -> bytes:
            ids = self.tokenizer.encode(prompt.decode())
            for _ in range(size):
                ids.append(int(self.row(ids).argmax()))
            return bytes(size)

    monkeypatch.setattr(core, "installed_peers", lambda: {"greedy tokens": Greedy})
    inner = Counting(default_tokenizer(), temperature=2.0)
    (engine,), run = core.work_of("greedy tokens", inner, 2, 6)
    assert run() == 12
    computed = inner.rows

    assert run() == 12
    assert inner.rows == computed
    assert engine.asked == 24
    assert engine.cpu_seconds > 0


@pytest.mark.filterwarnings("ignore")  # its own
def test_genlm_bytes_writes_likely_bytes_of_these_rows() -> None:
    """Where it is installed: its row after a prompt, from the rows of a table, is near the exact one."""
    pytest.importorskip("genlm.bytes", reason="genlm-bytes is not installed")
    lm = ByteLM.from_pretrained("demo")
    peer = installed_peers()["genlm-bytes-unpruned"](
        lambda ids: lm.token_lm.next_token_logprobs([ids])[0], lm.tokenizer
    )
    exact = np.exp(lm.next_byte_logprobs(lm.start_prefix("The capital of Fra")))

    assert np.abs(np.exp(peer.next_byte_logprobs(b"The capital of Fra")) - exact).sum() < 0.1


def test_what_a_case_tells(tmp_path: Path) -> None:
    """Bytes, time in seconds and in R, and the parts of the package that took it, the replaying left out."""
    row = core.measured("greedy", Counting(default_tokenizer(), temperature=2.0), 2, 6, 2, tmp_path, stages=True)

    assert row["bytes"] == 12
    assert row["seconds_per_byte"] > 0
    assert row["r_per_byte"] == pytest.approx(row["seconds_per_byte"] / row["r_seconds"], rel=0.5)
    assert sum(row["stages"].values()) == pytest.approx(1)
    assert any(part.startswith("cover.") for part in row["stages"])
    assert not any("replay" in part for part in row["stages"])


def test_no_two_prompts_are_alike() -> None:
    """Or jobs of one batch would share rows."""
    assert len(set(core.prompts_of(256))) == 256


@pytest.mark.slow
def test_the_command_compares_two_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here the other environment is this one: the same bytes, the same calls, a ratio of about 1."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    default_tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "core.json"
    arguments = ["--models", str(tmp_path / "model"), "--cases", "drawn", "--batches", "2", "--bytes", "40"]

    assert (
        core.main([*arguments, "--against", sys.executable, "--out", str(out), "--plot", str(tmp_path / "a.png")]) == 0
    )
    shown = capsys.readouterr().out
    assert core.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out == shown
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {key: row["against"][key] for key in ("bytes", "calls", "rows")} == {
        key: row[key] for key in ("bytes", "calls", "rows")
    }
    assert 0.3 < row["against"]["r_per_byte"] / row["r_per_byte"] < 3


def test_bytes_are_written_by_a_byte_model_of_the_rows() -> None:
    """A replayed engine is an engine: the same text and log-probability as on the engine itself."""
    inner = TableLM(default_tokenizer(), temperature=2.0)
    alone, replayed = (ByteLM(engine).sample("the qui", max_bytes=8, seed=3) for engine in (inner, Replayed(inner)))

    assert replayed.bytes == alone.bytes
    assert replayed.logprob == pytest.approx(alone.logprob, abs=1e-5)
