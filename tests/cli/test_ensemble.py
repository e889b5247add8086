"""``bytelm ensemble``: its options, what it prints, and what it refuses, over toy models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bytelm import ByteLM, Ensemble, TableLM
from bytelm.cli import options
from tests.cli.test_main import Done, Run, runner
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

PROMPT = "def f(n):\n    ret"


@pytest.fixture(scope="module")
def lms() -> dict[str, ByteLM]:
    tokenizers = {"a": default_tokenizer(), "b": byte_bpe_tokenizer(vocab_size=277)}
    return {name: ByteLM(TableLM(tokenizer, seed=3, order=2)) for name, tokenizer in tokenizers.items()}


@pytest.fixture
def loaded() -> list[str]:
    """The models that were loaded, in order."""
    return []


@pytest.fixture
def run(
    lms: dict[str, ByteLM],
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Run:
    """Run ``bytelm ensemble`` in this process, with toy models a and b."""

    def load(name: str, *_: Any) -> ByteLM:
        loaded.append(name)
        return lms[name]

    monkeypatch.setattr(options, "load", load)

    return runner(monkeypatch, capsysbinary, "ensemble")


BOTH = ("-m", "a", "-m", "b", "--max-bytes", "9", "--seed", "1")


@pytest.mark.slow
def test_it_prints_what_the_ensemble_samples(run: Run, lms: dict[str, ByteLM], tmp_path: Path) -> None:
    """The text comes by argument, --prompt, --file or standard input; every option reaches the ensemble."""
    expected = Ensemble(list(lms.values())).sample(PROMPT, max_bytes=9, seed=1)
    file = tmp_path / "prompt"
    file.write_text(PROMPT)
    ways = [
        run(PROMPT, *BOTH),
        run("--prompt", PROMPT, *BOTH),
        run("--file", str(file), *BOTH),
        run(*BOTH, stdin=PROMPT.encode()),
        run(PROMPT, *BOTH, "--stream"),
    ]

    assert ways == [Done(0, expected.text, "")] * len(ways)
    drawing: dict[str, Any] = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "stop": ["e", "zz"]}
    ensemble = Ensemble(list(lms.values()), weights=[1.5, -0.5], combine="product")
    words = "--temperature 0.7 --top-k 20 --top-p 0.9 --min-p 0.01 --stop e --stop zz --combine product --json -n 2"
    done = run(PROMPT, *BOTH, *words.split(), "--weights", "1.5,-0.5")
    for record, completion in zip(
        done.records, ensemble.sample_batch([PROMPT] * 2, max_bytes=9, seed=1, **drawing), strict=True
    ):
        assert (bytes.fromhex(record["hex"]), record["finish_reason"]) == (completion.bytes, completion.finish_reason)
        assert record["logprob"] == pytest.approx(completion.logprob, abs=1e-12)


def test_a_stream_as_json(run: Run) -> None:
    """One object for each piece."""
    done = run(PROMPT, *BOTH, "--stream", "--json")

    assert "".join(record["text"] for record in done.records) == run(PROMPT, *BOTH).out


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mixture", "bayes", "product"])
def test_the_members_beside_the_ensemble(run: Run, lms: dict[str, ByteLM], combine: str) -> None:
    """Each alone with the same options, for each byte what each gave it and who drove it, and what that comes to."""
    words = (PROMPT, *BOTH, "--weights", "0.2,0.8", "--combine", combine, "--show-members")
    records = run(*words, "--json").records
    ensemble = Ensemble(list(lms.values()), weights=[0.2, 0.8], combine=combine)  # type: ignore[arg-type]
    written = ensemble.sample(PROMPT, max_bytes=9, seed=1)
    told = ensemble.explain(written.bytes, prefix=PROMPT)

    assert [record["model"] for record in records[:3]] == ["ensemble", "a", "b"]
    assert [record["text"] for record in records[:3]] == [
        written.text,
        *(lm.sample(PROMPT, max_bytes=9, seed=1).text for lm in lms.values()),
    ]
    count, drove = len(written.bytes), [told.drivers.count(i) for i in range(2)]
    assert records[-1]["member_logprobs"] == pytest.approx(told.member_logprobs.sum(axis=1).tolist())
    assert (records[-1]["bytes"], records[-1]["drove"]) == (count, drove)
    assert [record["byte"] for record in records[3:-1]] == list(written.bytes)
    for at, record in enumerate(records[3:-1]):
        assert record["member_logprobs"] == pytest.approx(told.member_logprobs[:, at].tolist())
        assert record["driver"] == told.drivers[at]
        assert sum(record["weights"]) == pytest.approx(1)
    table = run(*words).out.splitlines()
    assert table[0].split()[0] == "ensemble"
    assert table[4].split() == [
        "byte",
        "ensemble",
        "a",
        "b",
        "driven",
        "by",
        *(["nats"] if combine == "product" else []),
    ]
    assert f"{math.exp(told.logprobs[0]):.4f}"[:4] in table[5]
    members = [line.split() for line in table[6 + count : 10 + count]]
    assert members[0] == ["weight", "log", "P", "drove"]
    assert members[1] == ["ensemble", f"{told.logprobs.sum():.2f}"]
    for name, each, weights, logprobs, number in zip(
        "ab", members[2:], told.weights, told.member_logprobs, drove, strict=True
    ):
        first, last = f"{weights[0]:.4g}", f"{weights[-1]:.4g}"
        weight = [first] if first == last else [first, "to", last]
        assert each == [name, *weight, f"{logprobs.sum():.2f}", str(number), "of", str(count)]
    assert table[11 + count].startswith(f"Bytes driven, of {count}: a {drove[0]}, b {drove[1]}. The driver of a byte ")
    assert len(table) == 12 + count


def test_the_likeliest_of_an_ensemble(run: Run, lms: dict[str, ByteLM]) -> None:
    endings = Ensemble(list(lms.values())).likeliest("the ", n=2, stop="e", max_bytes=2)

    done = run("-m", "a", "-m", "b", "the ", "--likeliest", "-n", "2", "--stop", "e", "--max-bytes", "2", "--json")

    assert [(each["text"], each["logprob"]) for each in done.records] == [
        (ending.text, pytest.approx(ending.logprob)) for ending in endings
    ]
    assert run("-m", "a", "the ", "--likeliest", "--stream").code == 2


def test_alpha_is_the_ensembles(run: Run, lms: dict[str, ByteLM]) -> None:
    """A contrast writes what is plausible, and with --alpha 0 whatever the ratio prefers."""
    words = (PROMPT, *BOTH, "--weights", "1,-1", "--combine", "product", "--temperature", "0")
    written = []
    for options_, alpha in (((), 0.1), (("--alpha", "0.5"), 0.5), (("--alpha", "0"), 0)):
        ensemble = Ensemble(list(lms.values()), weights=[1, -1], combine="product", alpha=alpha)
        written.append(run(*words, *options_).out)
        assert written[-1] == ensemble.sample(PROMPT, max_bytes=9, temperature=0, seed=1).text
    assert written[0] != written[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((PROMPT,), "no model"),
        ((PROMPT, "-m", "a", "--weights", "0.5,0.5"), "2 numbers, and there are 1 members"),
        ((PROMPT, *BOTH, "--weights", "a,b"), "numbers with commas"),
        ((PROMPT, *BOTH, "--weights", "0,0"), "not all be 0"),
        ((PROMPT, *BOTH, "--alpha", "1.5"), "--alpha"),
        ((PROMPT, *BOTH, "--weights", "1,-1"), "must not be negative"),
        ((PROMPT, *BOTH, "--combine", "sum"), "'sum' is not one of"),
        ((PROMPT, *BOTH, "--prompt", PROMPT), "not both"),
        ((PROMPT, *BOTH, "--stream", "-n", "2"), "--stream"),
        ((PROMPT, *BOTH, "--show-members", "-n", "2"), "--show-members"),
        (BOTH, "no text"),
    ],
)
def test_wrong_usage_is_said_before_a_model_is_loaded(
    run: Run, loaded: list[str], args: tuple[str, ...], message: str
) -> None:
    """Exit code 2, the cause on standard error, and nothing loaded."""
    done = run(*args)

    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.replace("│", " ").split())
    assert loaded == []


def test_a_model_named_twice_is_loaded_once(run: Run, loaded: list[str]) -> None:
    """The same model twice is that model."""
    done = run(PROMPT, "-m", "a", "-m", "a", "-m", "b", "--weights", "1,1,0", "--max-bytes", "4", "--temperature", "0")

    assert loaded == ["a", "b"]
    assert done.out == run(PROMPT, "-m", "a", "--max-bytes", "4", "--temperature", "0").out
