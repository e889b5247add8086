"""The load, on a stand-in for the server: what it counts, and that it sees each fault."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from evals.serving import load, throughput
from evals.serving.client import agrees
from evals.serving.protocols import FormError, error_of, parsed, piece_of, whole_text
from evals.serving.requests import BAD, KINDS, Pool, alone, cancelling, distinct, pool_of
from evals.serving.server import started, words_for
from evals.serving.toy import toy_model
from evals.serving.watch import growth
from tests.evals.serving.standin import StandIn, asked_of, made_up, serving


def options_of(**more: Any) -> argparse.Namespace:
    given = {"clients": 4, "seconds": 1, "cancelled": 0.2, "bad": 0.1, "cancellations": 2, "seed": 0, "out": None}
    return argparse.Namespace(**given | more)


@pytest.fixture
def pool() -> Pool:
    return made_up(pool_of(20, seed=1))


def run_on(app: StandIn, pool: Pool, tmp_path: Path, **more: Any) -> dict[str, Any]:
    with serving(app, tmp_path / "log") as server:
        return asyncio.run(load.loaded(server, pool, options_of(**more), {}))


def test_a_right_server_has_no_faults(pool: Pool, tmp_path: Path) -> None:
    """Every kind of request is asked, complete or refused as it must be, and nothing is wrong."""
    result = run_on(StandIn(pool), pool, tmp_path)

    assert result["faults"] == []
    assert not load.failed(result)
    assert all(result["requests"][kind]["complete"] for kind in KINDS)
    assert result["requests"]["cancelled"]["cancelled"] > 0
    assert sum(result["refusals"].values()) == result["requests"]["bad"]["refused"] > 0
    assert result["first text"]["median"] <= result["whole answer"]["p99"]
    assert result["memory"]["largest"] > 1
    assert result["cancellations"]["kept"] == 0


@pytest.mark.parametrize(("fault", "outcome"), [("mixes up", "wrong"), ("stops", "broken"), ("bad form", "broken")])
def test_a_fault_of_the_server_is_counted(pool: Pool, tmp_path: Path, fault: str, outcome: str) -> None:
    """Two answers mixed up are wrong; a stream without its end, and an error in no form, are broken."""
    result = run_on(StandIn(pool, fault=fault), pool, tmp_path)

    assert load.failed(result)
    assert load.total(result, outcome) > 0
    assert [line for line in result["faults"] if line["outcome"] != outcome] == []
    assert load.total(result, "wrong") + load.total(result, "broken") == load.total(result, outcome)


def test_a_server_that_works_for_nobody_is_seen(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on after its client has gone is counted, and fails the run."""
    monkeypatch.setattr(load, "QUIET", 0.3)
    result = run_on(StandIn(pool, fault="works on"), pool, tmp_path, cancelled=0.5)

    assert result["left at the end"] > 0
    assert result["cancellations"]["kept"] == 2
    assert load.failed(result)


def test_a_refusal_of_a_good_request_is_wrong(pool: Pool, tmp_path: Path) -> None:
    """Only a busy server may refuse it."""
    other = made_up(pool_of(20, seed=2))
    result = run_on(StandIn(other), pool, tmp_path, cancelled=0)

    assert load.total(result, "wrong") > 0
    assert "refused with 400 InvalidRequest" in result["faults"][0]["why"]


def test_the_result_is_written_and_read(pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--read shows the tables again, with the faults."""
    result = run_on(StandIn(pool, fault="mixes up"), pool, tmp_path) | {"command": "python -m …", "model": "none"}
    out = tmp_path / "load.json"
    out.write_text(json.dumps(result), encoding="utf-8")

    assert load.main(["--read", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "under load for" in shown
    assert "wrong (asked again:" in shown


def test_the_pool_is_a_function_of_its_seed() -> None:
    """The same seed gives the same requests, another one others; no two have one seed."""
    first, again, other = pool_of(50, seed=3), pool_of(50, seed=3), pool_of(50, seed=4)

    assert first.good == again.good != other.good
    seeds = [each.body["seed"] for each in first.good if isinstance(each.body, dict)]
    assert len(set(seeds)) == len(first.good)
    assert {each.kind for each in first.good} == set(KINDS)
    sizes = [each.call[2]["max_bytes"] for each in first.good if each.call]
    assert 8 <= min(sizes) <= max(sizes) <= 48


def test_right_answers_are_those_of_the_library() -> None:
    """A request is asked of the library with the same prompt, seed and options."""
    lm, pool = toy_model(), pool_of(10)
    chat, completion = asked_of(pool, "chat"), asked_of(pool, "completion")
    pool.answered(lm, [chat, completion])

    assert isinstance(completion.body, dict)
    assert completion.call is not None
    assert completion.call[1] == (completion.body["prompt"],)
    assert completion.call[2]["seed"] == completion.body["seed"]
    assert set(pool.right) == {chat.name, completion.name}
    assert pool.right[chat.name] == alone(lm, chat)


def test_a_cancelled_request_agrees_as_far_as_both_go() -> None:
    """A longer text may begin with the right one, or be a part of it."""
    longer = cancelling(asked_of(pool_of(10), "stream"), 3)

    assert isinstance(longer.body, dict)
    assert longer.body.get("max_tokens", longer.body.get("n_predict")) == 400
    assert agrees("ab", "abc", longer=True)
    assert agrees("abcd", "abc", longer=True)
    assert not agrees("ab", "abc", longer=False)
    assert not agrees("ax", "abc", longer=True)


def test_bad_requests_are_bad() -> None:
    """Each has statuses that it must be refused with, and none is refused because of its model."""
    assert all(each.refused and each.kind == "bad" for each in BAD)
    assert len({each.name for each in BAD}) == len(BAD)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v1/completions", 418, b'{"error": {"message": "no", "type": "a"}}'),
        ("/v1/completions", 400, b'{"error": "no"}'),
        ("/v1/completions", 400, b'{"detail": "no"}'),
        ("/api/generate", 400, b'{"error": {"message": "no", "type": "a"}}'),
        ("/bytelm/next", 400, b'{"error": {"message": "no"}}'),
        ("/bytelm/next", 400, b"no"),
    ],
)
def test_errors_have_their_protocols_form(path: str, status: int, body: bytes) -> None:
    """Another status or another shape is no stated error."""
    with pytest.raises(FormError):
        error_of(path, status, body)


def test_answers_are_strict_json() -> None:
    """NaN is no number, half of a surrogate pair is no text, and a text must be where the protocol has it."""
    for body in (b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b"", b"[" * 100_000):
        with pytest.raises(FormError):
            parsed(body)
    with pytest.raises(FormError):
        whole_text("/v1/completions", {"choices": []})
    with pytest.raises(FormError, match="ends with an error"):
        piece_of("/completion", b'data: {"error": {"message": "no"}}')
    assert piece_of("/completion", b"\n") is None


def test_growth_is_robust() -> None:
    """A minute of warming up and a single spike change nothing of it."""
    samples = [(2.0 * i, 10**8 + (10**7 if i == 100 else 0) + (5 * 10**7 if i < 29 else 0)) for i in range(200)]

    assert growth(samples)["growth"] == 0
    assert growth(samples)["largest"] == 150
    assert growth([]) == {}


def test_throughput_sees_overlap_and_different_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers many in the time of one gains as much; answers that differ between passes are wrong."""
    pool = distinct(6, most=8, seed=0)
    app = StandIn(answers=lambda path, body: {"choices": [{"text": "a"}]})
    app.delay = 0.03
    options = argparse.Namespace(requests=6, bytes=8, seed=0, together=6, rounds=1, model="none")
    with serving(app, tmp_path / "log") as server:
        monkeypatch.setattr(throughput, "started", lambda words: Same(server))
        right = throughput.measure_throughput(options)
        count = iter(range(1000))
        app.answers = lambda path, body: {"choices": [{"text": str(next(count))}]}
        other = throughput.measure_throughput(options)

    assert len(pool.good) == 6
    assert right["wrong"] == 0
    assert right["ratio"] > 2
    assert other["wrong"] == 6
    assert load.failed(other)


class Same:
    def __init__(self, server: Any) -> None:
        self.server = server

    def __enter__(self) -> Any:
        return self.server

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_a_server_that_dies_is_told(pool: Pool, tmp_path: Path) -> None:
    """The run ends with what there is, and with what the server printed."""
    with started(words_for("toy")) as server:
        end = threading.Timer(1.0, os.kill, (server.pid, signal.SIGKILL))
        end.start()
        result = asyncio.run(load.loaded(server, pool, options_of(seconds=3), {}))
        end.join()

    assert result["ended"]
    assert load.total(result, "broken") > 0
    assert load.failed(result)


@pytest.mark.slow
def test_the_real_server_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server in a process of its own gives every request what it gets alone, and the result is kept."""
    out = tmp_path / "load.json"
    words = ["--model", "toy", "--clients", "12", "--seconds", "4", "--pool", "40", "--cancellations", "2"]

    assert load.main([*words, "--out", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert load.total(result, "complete") > 20
    assert result["memory"]["largest"] > 50
    assert "under load for" in capsys.readouterr().out


@pytest.mark.slow
def test_the_real_server_runs_requests_together() -> None:
    """The throughput of a server in a process of its own; the toy's rows cost the same apart, so no ratio is asked."""
    options = argparse.Namespace(requests=4, bytes=4, seed=0, together=4, rounds=1, model="toy")
    result = throughput.measure_throughput(options)

    assert result["wrong"] == 0
    assert [each["together"] for each in result["passes"]] == [1, 4]
    assert len({each["bytes"] for each in result["passes"]}) == 1
