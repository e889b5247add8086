"""The evaluations of cost and of laziness, on a tiny model: what they count, and that they see what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.sampling.filters import Filters
from evals.cost import __main__ as cost
from evals.cost import growth, lazy
from evals.cost.bench import Bench, Cost
from tests.support.tiny import default_tokenizer, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model on disk."""
    place = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(place)
    default_tokenizer().save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def bench(folder: str) -> Bench:
    return Bench(folder)


def test_the_hook_counts_what_the_engine_counts(bench: Bench) -> None:
    """Calls and tokens fed, seen at the model, are those of the engine's own counters."""
    before = bench.engine.usage.copy()
    found = Cost("lazy")
    bench.run("lazy", ["def f(x):\n    ret", "the "], 20, found)
    used = bench.engine.usage.since(before)

    assert (found.calls, found.fed) == (used.calls, used.tokens_fed)
    assert found.new_bytes >= 20
    assert found.core_seconds is not None


def test_a_ragged_batch_of_generate_is_what_each_prompt_gives_alone(bench: Bench) -> None:
    """Padding changes no token; each row has its bytes, and a row that is done waits for the last one."""
    prompts = ["def f(x):\n    ret", "the "]
    together, apart = Cost("generate"), Cost("generate")
    tokens = bench.generate(prompts, 20, together)

    assert tokens == [bench.generate([prompt], 20, apart)[0] for prompt in prompts]
    assert all(len(bench.lm.spell(row)) >= 20 > len(bench.lm.spell(row[:-1])) for row in tokens)
    assert len({len(row) for row in tokens}) == 2, "rows of one length do not wait for each other"
    assert together.calls == max(map(len, tokens))
    read = sum(len(bench.engine.tokenizer(prompt).input_ids) for prompt in prompts)
    assert together.fed == read + 2 * (together.calls - 1)


def test_the_first_byte_by_tokens_is_off_and_bytes_are_not_measured(bench: Bench) -> None:
    """Total variation from the exact row; the exact methods have none to tell."""
    variation = bench.total_variation("generate", "retur")

    assert variation is not None
    assert 0.01 < variation <= 1
    assert bench.total_variation("lazy", "retur") is None


def test_the_table_is_written_read_and_drawn(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out, --read and --plot, and the memory of a process of its own."""
    out, plot = tmp_path / "cost.json", tmp_path / "cost.png"
    arguments = ["--model", folder, "--limit", "2", "--bytes", "8", "--methods", "lazy", "--out", str(out)]

    assert cost.main([*arguments, "--plot", str(plot)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    shown = capsys.readouterr().out
    assert cost.main(["--read", str(out)]) == 0

    assert capsys.readouterr().out == shown
    assert [row["method"] for row in result["rows"]] == ["generate", "lazy"]
    assert all(row["peak_mib"] > 10 for row in result["rows"])
    assert plot.stat().st_size > 1000
    with pytest.raises(SystemExit):
        cost.main(["--methods", "none"])


def test_growth_tells_every_axis(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for each axis, and the same again from the file."""
    out, plot = tmp_path / "growth.json", tmp_path / "growth.png"
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(growth, "AXES", {"prompt": (20, 10**6), "output": (10,), "batch": (2,), "score": (40,)})
        assert growth.main(["--model", folder, "--out", str(out), "--plot", str(plot)]) == 0
        shown = capsys.readouterr().out
        assert growth.main(["--read", str(out)]) == 0
        assert capsys.readouterr().out == shown

    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["axis"], row["size"]) for row in rows] == [("prompt", 20), ("output", 10), ("batch", 2), ("score", 40)]
    assert rows[0]["first"]["calls"] >= 1
    assert rows[3]["logprob"]["value"] == pytest.approx(rows[3]["byte_logprobs"]["value"], abs=1e-3)
    assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_lazy_is_full_on_a_tiny_model(folder: str, tmp_path: Path) -> None:
    """The whole command: nothing differs, and draws are lazy where they are made."""
    out = tmp_path / "lazy.json"
    arguments = ["--prompts", "8", "--bytes", "6", "--places", "2", "--draws", "400", "--out", str(out)]

    assert lazy.main(["--model", folder, *arguments]) == 0
    assert lazy.main(["--read", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))

    assert result["different"] == []
    assert [counts["same"] for counts in result["greedy"].values()] == [2, 2, 2, 2]
    assert max(place["unknown"] for place in result["places"]) > 0.2
    assert max(place["rows_per_draw"] for place in result["places"]) > 0.2


@pytest.mark.slow
def test_a_sampler_that_draws_afresh_is_seen(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that is repeated with a new number once more is known does not have the distribution."""
    from bytelm.sampling.place import ModelPlace

    lm = ByteLM(lazy.Remembering(ByteLM.from_pretrained(folder).token_lm))
    right, fresh = ModelPlace.draw, np.random.default_rng(5)

    def afresh(place: ModelPlace, filters: Filters, uniforms: Any, random: Any, **allowed: Any) -> Any:
        steps, waited = right(place, filters, uniforms, random, **allowed), False
        try:
            request = next(steps)
            while True:
                waited = True
                request = steps.send((yield request))
        except StopIteration as end:
            if not waited:
                return end.value
        return (yield from right(place, filters, fresh.random(len(uniforms)), random, **allowed))

    assert min(place["p"] for place in lazy.draws(lm, "x = [1, ", count=600)) > 1e-3
    monkeypatch.setattr(ModelPlace, "draw", afresh)
    assert min(place["p"] for place in lazy.draws(lm, "x = [1, ", count=600)) < 1e-8


def test_prompts_are_of_their_kind() -> None:
    """Fifty distinct ones of each kind, the same for a seed."""
    for kind in lazy.KINDS:
        prompts = lazy.prompts_of(kind, 50)
        assert len(set(prompts)) == 50
        assert prompts == lazy.prompts_of(kind, 50)
        assert prompts != lazy.prompts_of(kind, 50, seed=1)
