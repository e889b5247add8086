"""The kernels of evals.cost.kernels, as Python, against what they stand for; the evaluation itself where numba is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm.cover.nodes import RankedArray
from bytelm.engines.rows import drawn_token, least_likely
from evals.cost import kernels
from tests.support.tiny import default_tokenizer, tiny_model


def row_of(size: int) -> Any:
    logits = np.random.default_rng(size).normal(0, 4, size)
    return logits - np.logaddexp.reduce(logits)


def test_the_sums_are_those_of_numpy() -> None:
    """Of parts of a range, under a mask, in another order of the tokens."""
    row, random = row_of(60), np.random.default_rng(0)
    order, mask, starts = random.permutation(60), random.random(30) < 0.6, np.array([0, 4, 11, 29])
    expected = RankedArray(np.exp(row)[order]).sums(20, 50, mask, starts)

    np.testing.assert_allclose(kernels.sums(row, order, 20, 50, mask, starts), expected, rtol=1e-12)


def test_the_token_is_that_of_the_package() -> None:
    """Wherever a number falls on a likely token."""
    row = row_of(300)
    least = least_likely(300)
    likely = float(np.exp(row[row > least]).sum())

    for uniform in np.random.default_rng(1).random(100).tolist():
        found = kernels.likely_token(uniform, row, least)
        assert found == (drawn_token(uniform, row) if uniform < likely else -1)


@pytest.mark.skipif(find_spec("numba") is not None, reason="numba is installed")
def test_without_numba_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """As a wrong option: with what to install."""
    with pytest.raises(SystemExit):
        kernels.main([])

    assert "pip install numba" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_both_ways_are_measured(tmp_path: Path) -> None:
    """On a tiny model, and what a second process pays."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    default_tokenizer().save_pretrained(tmp_path / "model")
    out = tmp_path / "kernels.json"
    words = ["--models", str(tmp_path / "model"), "--batch", "2", "--bytes", "12", "--rounds", "1", "--out", str(out)]

    assert kernels.main(words) == 0

    told = json.loads(out.read_text(encoding="utf-8"))
    assert [row["case"] for row in told["rows"]] == list(kernels.CASES)
    assert min(min(row["numpy"], row["numba"]) for row in told["rows"]) > 0
    assert min(told["start"].values()) > 0
