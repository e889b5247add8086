"""The latency of a keystroke, on a stand-in that asks a model in this process: what is counted, and what fails."""

from __future__ import annotations

import argparse
import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evals.serving import latency
from evals.serving.load import model_of
from evals.serving.server import ServingError
from tests.evals.serving.standin import StandIn, serving

KEYS = 6


def answers(*, fed: int = 0, text: str | None = None) -> Any:
    """What a right server says of a byte; ``fed``: tokens more, ``text``: another byte."""
    lm = model_of("toy")

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        done = lm.sample(body["prompt"], max_bytes=int(path == "/completion" or body["max_tokens"]), seed=body["seed"])
        usage = {"prompt_n": (done.usage.tokens_fed or 0) + fed, "calls": done.usage.calls}
        return {"content": text or done.text, "timings": usage, "choices": [{"text": text or done.text}]}

    return answer


def run_on(app: StandIn, tmp_path: Path) -> dict[str, Any]:
    options = argparse.Namespace(model="toy", pairs=10)
    texts = latency.typed("lemma.py", 60, KEYS)
    with serving(app, tmp_path / "log") as server:
        result = asyncio.run(latency.measured([server, server], texts, options))
    return {"command": "python -m …", "model": "toy", "prefix": 60, "keys": KEYS, **result}


def test_keys_are_typed_one_by_one() -> None:
    """Each text is the one before and a byte more."""
    texts = latency.typed("lemma.py", 60, KEYS)

    assert [len(text) for text in texts] == list(range(60, 60 + KEYS + 1))
    assert all(later.startswith(text) for text, later in pairwise(texts))
    with pytest.raises(ServingError, match="fewer than"):
        latency.typed("lemma.py", 10**6, KEYS)


def test_the_three_ways_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All write the same bytes; keystrokes are counted without the first reading of the prefix."""
    result = run_on(StandIn(answers=answers()), tmp_path)
    result["overhead"]["short"]["median"] = 1e-3  # a machine under load is no matter of this test

    assert result["different"] == 0
    assert len(result["lines"]) == KEYS + 1
    assert result["largest"]["in process"]["calls"] <= 2
    assert result["largest"]["in process"] == result["largest"]["/completion"]
    assert result["largest"]["/v1/completions"]["fed"] == 0, "the stand-in's counter counts other things"
    assert not latency.failed(result)
    latency.show(result)
    assert "Overhead of HTTP and the queue, short prefix: 1.00 ms" in capsys.readouterr().out


@pytest.mark.parametrize("fault", [{"fed": 100}, {"text": "another"}])
def test_a_dear_or_wrong_keystroke_fails(tmp_path: Path, fault: dict[str, Any]) -> None:
    """Tokens above the limit, or another byte than in process."""
    result = run_on(StandIn(answers=answers(**fault)), tmp_path)
    result["overhead"]["short"]["median"] = 1e-3

    assert latency.failed(result)


def test_too_much_overhead_fails(tmp_path: Path) -> None:
    """A server that takes its time."""
    app = StandIn(answers=answers())
    app.delay = 0.02
    result = run_on(app, tmp_path)

    assert result["overhead"]["short"]["median"] > 0.01
    assert latency.failed(result)


def test_a_refusal_ends_the_run(tmp_path: Path) -> None:
    """There is nothing to measure then."""
    with pytest.raises(ServingError, match="answers 400"):
        run_on(StandIn(), tmp_path)


@pytest.mark.slow
def test_the_real_server_is_measured(tmp_path: Path) -> None:
    """Two servers in processes of their own write the bytes of this process, and feed as little."""
    options = argparse.Namespace(model="toy", file="lemma.py", prefix=40, keys=3, pairs=3, threads=1)
    result = latency.measure(options, [])

    assert result["different"] == 0
    assert result["largest"]["/completion"] == result["largest"]["in process"] == result["largest"]["/v1/completions"]
