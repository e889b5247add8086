"""What an ensemble costs beside its members: what is counted, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bytelm import Ensemble
from evals.cost import ensembles as ensemble_cost
from evals.cost.bench import Bench, Cost
from evals.cost.ensembles import row_of, written_by
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model

PROMPT = "def f(x):\n    ret"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tiny models with different vocabularies on disk."""
    place = tmp_path_factory.mktemp("models")
    for name, tokenizer in (("one", default_tokenizer()), ("two", byte_bpe_tokenizer(vocab_size=281))):
        tiny_model("llama", seed=len(tokenizer)).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    return [str(place / name) for name in ("one", "two")]


@pytest.fixture(scope="module")
def benches(folders: list[str]) -> list[Bench]:
    return [Bench(folder) for folder in folders]


@pytest.mark.parametrize("written", [b"urn x + 1\n", b"urn n - 1\n\n\nfor i in", "é und weiter".encode()])
def test_generation_is_made_to_write_a_text(benches: list[Bench], written: bytes) -> None:
    """A call for each canonical token behind those that the prompt has with and without the text, and each is fed once."""
    bench = benches[0]
    whole = bench.engine.tokenizer(PROMPT + written.decode()).input_ids
    prompt = bench.engine.tokenizer(PROMPT).input_ids
    same = next(i for i in range(len(whole)) if prompt[i : i + 1] != whole[i : i + 1])
    seen: list[int] = []
    handle = bench.engine.model.register_forward_pre_hook(
        lambda _model, _positional, named: seen.extend(named["input_ids"][0].tolist()), with_kwargs=True
    )
    cost = Cost("rewrite")
    bench.rewrite(PROMPT, written, cost)
    handle.remove()

    assert seen == whole[:-1]
    assert (cost.calls, cost.fed) == (len(whole) - same, len(whole) - 1)
    assert (cost.new_bytes, cost.new_tokens) == (len(written), len(whole) - same)


def test_an_ensembles_cost_is_counted_at_its_members(benches: list[Bench]) -> None:
    """Calls and tokens are those that the engines count; the bytes and the clock are counted once."""
    before = [bench.engine.usage.copy() for bench in benches]
    ensemble = Ensemble([bench.lm for bench in benches], combine="product")
    together, alone = written_by(benches, ensemble, PROMPT, 12, temperature=0.0, seed=0)
    used = [bench.engine.usage.since(earlier) for bench, earlier in zip(benches, before, strict=True)]

    assert [(cost.calls, cost.fed) for cost in together] == [(each.calls, each.tokens_fed) for each in used]
    assert [cost.new_bytes for cost in together] == [alone[0].new_bytes, 0]
    assert together[0].seconds > 0
    assert together[1].seconds == 0
    assert all(cost.calls > 0 and cost.seconds > 0 for cost in alone)


def test_the_row_by_hand() -> None:
    """Two completions of 10 bytes by two members: 12 calls beside 4 + 6."""
    together = [Cost("0", new_bytes=10, calls=4, fed=30, seconds=1.0), Cost("1", calls=2, fed=10)] * 2
    alone = [
        Cost("0", new_bytes=10, calls=2, fed=10, seconds=0.25),
        Cost("1", new_bytes=10, calls=3, fed=10, seconds=0.25),
    ]

    row = row_of("mixture", 1.0, together, alone * 2)

    assert row["calls"] == {"per_byte": 0.6, "members_per_byte": 0.5, "ratio": pytest.approx(1.2)}
    assert row["fed"] == {"per_byte": 4.0, "members_per_byte": 2.0, "ratio": 2.0}
    assert row["seconds"] == {"per_byte": 0.1, "members_per_byte": 0.05, "ratio": 2.0}


def test_the_table_is_written_read_and_drawn(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each formula and temperature; --out, --read and --plot."""
    out, plot = tmp_path / "cost.json", tmp_path / "cost.png"
    arguments = ["-m", folders[0], "-m", folders[1], "--limit", "2", "--bytes", "6", "--out", str(out)]

    assert ensemble_cost.main([*arguments, "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert ensemble_cost.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out == shown

    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    formulas = ["mixture", "bayes", "product"]
    assert [(row["combine"], row["temperature"]) for row in rows] == [(f, t) for f in formulas for t in (0.0, 1.0)]
    assert plot.stat().st_size > 1000
    assert max(map(len, shown.splitlines()[1:])) <= 120


@pytest.mark.parametrize("arguments", [["--combine", "sum"], ["--bytes", "0"], ["--temperatures", "warm"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """Exit code 2, before a model is loaded."""
    with pytest.raises(SystemExit):
        ensemble_cost.main(arguments)


def test_weights_that_cannot_be_are_an_error(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error."""
    assert ensemble_cost.main(["-m", folders[0], "-m", folders[1], "--weights", "1,2,3"]) == 1
    assert "weights" in capsys.readouterr().err
