"""`bytelm score` and what stands in front of a text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bytelm import ByteLM, TableLM
from bytelm.cli import options
from bytelm.cli.main import main
from tests.support.tiny import byte_bpe_tokenizer


def scored(capsys: Any, *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["score", "--json", *args])
    assert ended.value.code == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


def test_the_start_token_is_put_in_front_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Without --start the number is `logprob` without a prefix; with it, that after `start_prefix`."""
    lm = ByteLM(TableLM(byte_bpe_tokenizer(bos="<|bos|>"), order=3))
    monkeypatch.setattr(options, "load", lambda *_: lm)

    alone, started = (scored(capsys, *more, "the fox")["logprob"] for more in ([], ["--start"]))
    assert alone == pytest.approx(lm.logprob("the fox"), abs=1e-9)
    assert started == pytest.approx(lm.logprob("the fox", prefix=lm.start_prefix()), abs=1e-9)
    assert alone != pytest.approx(started, abs=1e-3)
    behind = scored(capsys, "--start", "--prefix", "the ", "fox")["logprob"]
    assert behind == pytest.approx(lm.logprob("fox", prefix=lm.start_prefix("the ")), abs=1e-9)
