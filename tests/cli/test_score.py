"""`bytelm score`: texts and files, models, units, and the table as text, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.cli import options
from tests.cli.test_main import Run, runner
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer

FILES = {"one.txt": "the cat\nsat ", "two.txt": "naïve 日本"}
COLUMNS = [
    "number",
    "text",
    "start",
    "end",
    "start_character",
    "end_character",
    "logprob",
    "surprisal_bits",
    "entropy_bits",
    "leak",
]


class Silent(TableLM):
    """A model that may not be run."""

    context_length = 16

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        pytest.fail("the model was run")


@pytest.fixture(scope="module")
def lms() -> dict[str, ByteLM]:
    """Two models with vocabularies of their own, and one that may not be run."""
    return {
        "demo": ByteLM(TableLM(byte_bpe_tokenizer(bos="<|bos|>"), seed=3, order=3)),
        "other": ByteLM(TableLM(sentencepiece_bpe_tokenizer(prepend=True), seed=4, order=2)),
        "silent": ByteLM(Silent(byte_bpe_tokenizer())),
    }


@pytest.fixture
def run(
    lms: dict[str, ByteLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Run ``bytelm score`` in a folder that holds `FILES`."""
    monkeypatch.setattr(options, "load", lambda model, *_: lms[model])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BYTELM_MODEL", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())

    return runner(monkeypatch, capsysbinary, "score")


# ---- what is scored


def test_a_name_of_a_file_is_read_and_said(run: Run, lms: dict[str, ByteLM]) -> None:
    """A lone argument is a file where there is one; the same name by --file needs no word, other words are the text."""
    named, given, text = run("one.txt", "--json"), run("-f", "one.txt", "--json"), run("one", "--json")
    total = lms["demo"].logprob(FILES["one.txt"])

    assert named.out == given.out
    assert "one.txt is a file here" in named.err
    assert (given.err, text.err) == ("", "")
    assert named.records == [
        {
            "file": "one.txt",
            "model": "demo",
            "bytes": 12,
            "logprob": total,
            "bits_per_byte": pytest.approx(-total / math.log(2) / 12),
            "eot": False,
        }
    ]
    assert (text.records[0]["file"], text.records[0]["logprob"]) == (None, lms["demo"].logprob("one"))


def test_standard_input_is_a_dash(run: Run) -> None:
    """It is read where nothing is named, by - as an argument or an option, and among files."""
    told = [run(*args, "--json", stdin=b"the cat\n") for args in ([], ["-"], ["-f", "-"], ["one.txt", "-"])]

    assert [each.records[-1]["file"] for each in told] == ["-"] * 4
    assert len({each.records[-1]["logprob"] for each in told}) == 1
    assert [each.err for each in told] == [""] * 4


def test_several_files_and_models_are_one_table(run: Run, lms: dict[str, ByteLM]) -> None:
    """A line for each text and model, which names both; a model that is named twice is one."""
    done = run("one.txt", "two.txt", "-m", "demo", "-m", "other", "-m", "demo")
    records = run("-f", "one.txt", "-f", "two.txt", "-m", "demo", "-m", "other", "--json").records
    pairs = [(file, model) for file in FILES for model in ("demo", "other")]

    head, *lines = [line.split() for line in done.out.splitlines()]
    assert head == ["file", "model", "bytes", "log", "P", "bits", "per", "byte"]
    assert [(line[0], line[1]) for line in lines] == pairs
    assert [(record["file"], record["model"]) for record in records] == pairs
    for (file, model), line, record in zip(pairs, lines, records, strict=True):
        expected = lms[model].logprob(FILES[file])
        assert record["logprob"] == expected
        assert line[2:4] == [str(len(FILES[file].encode())), f"{expected:.4f}"]


def test_one_text_and_one_model_are_not_named(run: Run) -> None:
    head, line = run("the cat").out.splitlines()

    assert head.split() == ["bytes", "log", "P", "bits", "per", "byte"]
    assert line.split()[0] == "7"


def test_the_model_of_the_environment(run: Run, lms: dict[str, ByteLM], monkeypatch: pytest.MonkeyPatch) -> None:
    """BYTELM_MODEL names the model where --model does not."""
    monkeypatch.setenv("BYTELM_MODEL", "other")

    assert run("the cat", "--json").records[0]["model"] == "other"
    assert run("the cat", "--json", "-m", "demo").records[0]["model"] == "demo"


def test_the_start_token_is_put_in_front_where_it_is_asked_for(run: Run, lms: dict[str, ByteLM]) -> None:
    """Without --start the number is `logprob` without a prefix; with it, that after each model's `start_prefix`."""
    lm = ByteLM(TableLM(byte_bpe_tokenizer(bos="<|bos|>"), order=3))
    lms["bos"] = lm
    alone, started, behind = (
        run("-m", "bos", "--json", *more, "fox").records[0]["logprob"]
        for more in ([], ["--start"], ["--start", "--prefix", "the "])
    )

    assert alone == pytest.approx(lm.logprob("fox"), abs=1e-9)
    assert started == pytest.approx(lm.logprob("fox", prefix=lm.start_prefix()), abs=1e-9)
    assert alone != pytest.approx(started, abs=1e-3)
    assert behind == pytest.approx(lm.logprob("fox", prefix=lm.start_prefix("the ")), abs=1e-9)
    words = run("-m", "bos", "--json", "--by", "word", "--start", "the fox").records
    assert words[0]["logprob"] == pytest.approx(lm.logprob("the ", prefix=lm.start_prefix()), abs=1e-9)


# ---- by units


@pytest.mark.parametrize("by", ["byte", "character", "token", "word", "line"])
def test_units_are_those_of_the_library(run: Run, lms: dict[str, ByteLM], by: Any) -> None:
    """A JSON line for each row of `ByteModel.score`, with the names of the text and the model."""
    score = lms["demo"].score(FILES["two.txt"], prefix="so ", by=by, eot=True)

    records = run("-f", "two.txt", "--by", by, "--prefix", "so ", "--eot", "--json").records

    assert records == [{"file": "two.txt", "model": "demo", **record} for record in score.records()]
    assert sum(record["logprob"] for record in records) == pytest.approx(score.logprob)


@pytest.mark.parametrize("space", ["before", "after", "none"])
def test_whose_the_space_is(run: Run, space: str) -> None:
    expected = {"before": ["the", " cat", "\nsat", " "], "after": ["the ", "cat\n", "sat "], "none": None}[space]
    records = run("-f", "one.txt", "--by", "word", "--space", space, "--json").records

    assert [record["text"] for record in records] == (expected or ["the", " ", "cat", "\n", "sat", " "])


def test_a_table_of_units_ends_with_their_sum(run: Run, lms: dict[str, ByteLM]) -> None:
    """In a terminal white space is seen, and each text's units are followed by their sum."""
    done = run("one.txt", "two.txt", "--by", "word", "--space", "before", "--eot")
    lines = done.out.splitlines()
    scores = [lms["demo"].score(text, by="word", space="before", eot=True) for text in FILES.values()]

    assert lines[0].split() == ["file", "unit", "start", "log", "P", "bits", "entropy", "leak"]
    assert len(lines) == 1 + sum(len(score) + 1 for score in scores)
    assert re.match(r"one\.txt +'\\nsat' +7 ", lines[3])
    assert "end of text" in lines[5]
    sums = [line for line in lines if "sum of all" in line]
    for line, score in zip(sums, scores, strict=True):
        assert line.split()[-2:] == [f"{score.logprob:.4f}", f"{score.surprisal_bits:.4f}"]


# ---- CSV


def test_csv_is_the_table_of_the_library(run: Run, lms: dict[str, ByteLM], tmp_path: Path) -> None:
    """In a file or on standard output: the same rows as JSON has, under their names."""
    args = ["one.txt", "two.txt", "--by", "word", "-m", "demo", "-m", "other"]
    done = run(*args, "--csv", "table.csv")
    printed = run(*args, "--csv", "-")
    records = run(*args, "--json").records
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_bytes().decode(), newline="")))

    assert (done.code, done.out) == (0, "")
    assert printed.out.encode() == (tmp_path / "table.csv").read_bytes()
    assert list(rows[0]) == ["file", "model", *COLUMNS]
    for row, record in zip(rows, records, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in record.items()}


def test_csv_of_whole_texts(run: Run, lms: dict[str, ByteLM]) -> None:
    (row,) = csv.DictReader(io.StringIO(run("the cat", "--csv", "-").out))

    assert (row["file"], row["model"], row["bytes"], row["eot"]) == ("", "demo", "7", "False")
    assert float(row["logprob"]) == lms["demo"].logprob("the cat")


# ---- what is refused


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["one.txt", "none.txt"], 2, "there is no file none.txt"),
        (["one.txt", "-f", "two.txt"], 2, "not both"),
        (["-f", "none.txt"], 2, "cannot read none.txt"),
        (["-", "-"], 2, "read once"),
        (["binary"], 2, "binary is not text: byte 3 of its 5 is 0xFF"),
        (["one.txt", "empty"], 2, "empty is empty"),
        ([""], 2, "the text is empty"),
        (["-e", r"a\xffb"], 2, "the text is not text: byte 1 of its 3 is 0xFF"),
        (["-e", "--prefix", r"a\xff", "b"], 2, "--prefix is not text: byte 1 of its 2 is 0xFF"),
        (["-e", "--prefix", r"a\xc3", "b"], 2, "--prefix is not text: byte 1 of its 2 is 0xC3"),
        (["one.txt", "--by", "sentence"], 2, "sentence"),
        (["one.txt", "--space", "before"], 2, "--by word"),
        (["one.txt", "--csv", "a.csv", "--json"], 2, "not both"),
        (["one.txt", "--csv", "one.txt"], 2, "is one of the files that are scored"),
        (["one.txt", "--csv", "none/a.csv"], 1, "cannot write none/a.csv: there is no folder none"),
        (["one.txt", "--csv", "."], 1, "cannot write .: it is a folder"),
        (["one.txt", "--csv", "x" * 300], 1, "cannot write"),
        (["one.txt", "long.txt"], 1, "long.txt by silent: 44 bytes of text take"),
        (["one.txt", "long.txt", "--by", "word"], 1, "long.txt by silent"),
        (["one.txt", "long.txt", "--stride", "40"], 1, "a stride of 40 bytes"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_runs(run: Run, args: list[str], code: int, message: str) -> None:
    """Exit code 2 for a wrong command, 1 for what a model or the system refuses; nothing is printed or written."""
    Path("binary").write_bytes(b"abc\xff\n")
    Path("empty").write_bytes(b"")
    Path("long.txt").write_bytes(b"z7 " * 14 + b"z7")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}

    done = run(*args, "-m", "silent", stdin=b"the cat")

    assert (done.code, done.out) == (code, "")
    assert message in " ".join(done.err.split())
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_a_folder_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of a path counts, whoever asks."""
    monkeypatch.setattr("os.access", lambda *_: False)

    done = run("one.txt", "--csv", "a.csv", "-m", "silent")

    assert (done.code, "cannot write a.csv: permission denied" in done.err) == (1, True)


def test_texts_may_begin_and_end_inside_a_character(run: Run, lms: dict[str, ByteLM]) -> None:
    """The prefix and the text together are text; what is cut at the end has its bytes scored."""
    (record,) = run("-e", "--prefix", r"caf\xc3", r"\xa9 \xe6\x97", "--json").records

    expected = lms["demo"].logprob(b"\xa9 \xe6\x97", prefix=b"caf\xc3")
    assert (record["bytes"], record["logprob"]) == (4, pytest.approx(expected))


def test_only_the_end_is_scored_of_an_empty_text(run: Run, lms: dict[str, ByteLM]) -> None:
    (record,) = run("--eot", "--json", stdin=b"").records

    assert record["logprob"] == pytest.approx(lms["demo"].logprob("", eot=True))
    assert record["bits_per_byte"] is None
    assert json.loads(run("--eot", "--json", "--by", "byte", stdin=b"").out)["text"] == ""
