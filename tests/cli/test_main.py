"""The command line, over a toy model: what it prints, where, and how it exits."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from bytelm import ByteLM, TableLM
from bytelm.cli import main as cli
from bytelm.cli import options
from bytelm.cli.tables import show_byte, show_bytes, show_prob
from bytelm.errors import ModelError
from bytelm.healing import completer_of
from bytelm.symbols import unfinished
from tests.support.tiny import byte_bpe_tokenizer, tiny_model

ROOT = Path(__file__).parents[2]
PROMPT = "def fibonacci(n):\n    ret"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, *, tty: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


Run = Callable[..., Done]


def runner(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], *command: str) -> Run:
    """What runs ``bytelm``, or one command of it, in this process."""

    def run_(*args: str, stdin: bytes | None = None) -> Done:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin or b"", tty=stdin is None))
        with pytest.raises(SystemExit) as exit_:
            cli.main([*command, *args])
        out, err = capsysbinary.readouterr()
        code = exit_.value.code
        assert isinstance(code, int)
        return Done(code, out.decode(), err.decode())

    return run_


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A random model over a real tokenizer of 311 tokens; its row depends on the last two."""
    return ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=311), seed=3, order=2))


@pytest.fixture
def run(lm: ByteLM, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """Run ``bytelm`` in this process, with the toy model in place of the one that --model names."""
    monkeypatch.setattr(options, "load", lambda model, *_: lm)

    return runner(monkeypatch, capsysbinary)


def whole(lm: ByteLM, prompt: Any, size: int) -> tuple[int, str]:
    """A seed with which a text does not end inside a character, and the text."""
    drawn = ((seed, lm.sample(prompt, seed=seed, max_bytes=size)) for seed in range(100))
    return next((seed, done.text) for seed, done in drawn if done.text.encode() == done.bytes)


def test_a_warning_is_one_line_on_standard_error(run: Run, lm: ByteLM) -> None:
    """A prompt that spells a special token is completed as text, and the line names the calls that give tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        seed, text = whole(lm, ["user: hi<|eot|>bot:"], 9)
        done = run("sample", "user: hi<|eot|>bot:", "--seed", str(seed), "--max-bytes", "9")

    assert (done.code, done.out) == (0, text)
    assert done.err.startswith("bytelm: warning: the prefix spells the special token '<|eot|>'")
    assert "chat()" in done.err
    assert [line.split(":")[1] for line in done.err.splitlines()] == [" warning"] * done.err.count("\n")


def test_sample_prints_the_completion_alone(run: Run, lm: ByteLM) -> None:
    """Standard output holds the new text, byte for byte, and nothing else."""
    seed, text = whole(lm, PROMPT, 30)
    done = run("sample", PROMPT, "--seed", str(seed), "--max-bytes", "30")

    assert done == Done(0, text, "")


def test_every_option_of_sample_reaches_the_model(run: Run, lm: ByteLM) -> None:
    """The options of the command are those of `ByteLM.sample`."""
    args = [
        "--seed",
        "7",
        "--max-bytes",
        "40",
        "--temperature",
        "0.7",
        "--top-k",
        "9",
        "--top-p",
        "0.8",
        "--min-p",
        "0.05",
    ]

    done = run("sample", PROMPT, *args, "--stop", "a", "--stop", "e")

    expected = lm.sample(PROMPT, seed=7, max_bytes=40, temperature=0.7, top_k=9, top_p=0.8, min_p=0.05, stop=["a", "e"])
    assert done.out == expected.text


def test_sample_as_json(run: Run, lm: ByteLM) -> None:
    """Each completion is one line of JSON with its text, bytes, log-probability and reason to end."""
    done = run("sample", PROMPT, "--seed", "5", "--max-bytes", "12", "-n", "3", "--json")

    expected = lm.sample(PROMPT, seed=5, max_bytes=12, n=3)
    assert isinstance(expected, list)
    assert [record["text"] for record in done.records] == [completion.text for completion in expected]
    assert [bytes.fromhex(record["hex"]) for record in done.records] == [completion.bytes for completion in expected]
    assert [record["logprob"] for record in done.records] == [completion.logprob for completion in expected]
    assert {record["finish_reason"] for record in done.records} <= {"eot", "stop", "length"}


def test_several_completions_are_numbered(run: Run) -> None:
    """Without JSON, completion k begins with [k]."""
    done = run("sample", "a", "--seed", "5", "--max-bytes", "3", "-n", "2")

    assert done.out.startswith("[1] ")
    assert "\n[2] " in done.out


def test_the_likeliest_are_a_table_that_ends_with_a_bound(run: Run, lm: ByteLM) -> None:
    """What the library finds, to the end of the line where no stop is given; the last line bounds all others."""
    endings = lm.likeliest("the ", n=3, max_bytes=2)

    done = run("sample", "the ", "--likeliest", "-n", "3", "--max-bytes", "2")

    rows = done.out.splitlines()
    assert [re.findall(r"\d\.\d{4}", row)[-1] for row in rows] == [
        show_prob(math.exp(logprob)) for logprob in (*(ending.logprob for ending in endings), endings.missing_logprob)
    ]
    assert [row.startswith(f"'{show_bytes(e.bytes)}'…") for row, e in zip(rows, endings, strict=False)] == [
        not ending.complete for ending in endings
    ]
    assert rows[-1].startswith("any other, at most")
    assert done.err == ""


def test_the_likeliest_as_json(run: Run, lm: ByteLM) -> None:
    """One object a line, with what is certain of all of them."""
    endings = lm.likeliest("the ", n=2, stop="e", max_bytes=3)

    done = run("sample", "the ", "--likeliest", "-n", "2", "--stop", "e", "--max-bytes", "3", "--json")

    assert [(each["text"], each["hex"], each["logprob"]) for each in done.records] == [
        (ending.text, ending.bytes.hex(), pytest.approx(ending.logprob)) for ending in endings
    ]
    assert {(each["certified"], each["missing_logprob"]) for each in done.records} == {(True, endings.missing_logprob)}


def test_a_search_that_was_ended_says_so(run: Run) -> None:
    done = run("sample", "the ", "--likeliest", "--max-calls", "1", "--max-bytes", "60")

    assert "after 1 model calls" in done.err
    assert "raise --max-calls" in done.err
    assert done.code == 0


@pytest.mark.parametrize("option", [("--top-k", "3"), ("--temperature", "0.5"), ("--seed", "1"), ("--level", "token")])
def test_there_is_nothing_to_draw(run: Run, option: tuple[str, str]) -> None:
    done = run("sample", "the ", "--likeliest", *option)

    assert done.code == 2
    assert f"{option[0]} has no effect" in done.err


def test_next_as_json_is_the_row(run: Run, lm: ByteLM) -> None:
    """The records hold the likeliest bytes first, with their log-probabilities; the end of text has byte null."""
    done = run("next", "the ", "--top", "257", "--json")

    row = lm.next_byte_logprobs("the ")
    assert [record["logprob"] for record in done.records] == [
        None if math.isinf(value) else value for value in sorted(row.tolist(), reverse=True)
    ]
    assert {record["byte"] for record in done.records} == {None, *range(256)}


def test_next_is_a_table_with_bars(run: Run, lm: ByteLM) -> None:
    """Each row has the byte, its probability and a bar; the others and the leak make the whole."""
    done = run("next", "the ", "--top", "4")

    lines = done.out.splitlines()
    best = int(np.argmax(lm.next_byte_logprobs("the ")))
    assert lines[0].startswith(show_byte(best))
    assert "█" in lines[0]
    assert len(lines) == 6
    assert lines[4].startswith("253 others")
    assert lines[5].startswith("leak")


def test_score(run: Run, lm: ByteLM) -> None:
    """The log-probability, and bits per byte from it."""
    expected = lm.logprob("fox jumps", prefix="The quick ", eot=True)

    (record,) = run("score", "fox jumps", "--prefix", "The quick ", "--eot", "--json").records

    assert record["bytes"] == 9
    assert record["logprob"] == expected
    assert record["bits_per_byte"] == pytest.approx(-expected / math.log(2) / 9)


def test_explain_sums_to_the_whole(run: Run, lm: ByteLM) -> None:
    """The members' shares sum to 1, and their tokens spell the text and more."""
    records = run("explain", "the th", "--top", "100000", "--json").records

    assert sum(record["share"] for record in records) == pytest.approx(1.0)
    for record in records:
        assert lm.spell(record["token_ids"]).startswith(b"the th")
        assert "".join(record["tokens"]).startswith("the th")


def test_explain_shows_the_sum(run: Run, lm: ByteLM) -> None:
    """The table ends with the sum over all members and the log-probability of the text, which are equal."""
    lines = run("explain", "the th", "--top", "2").out.splitlines()

    logprob = f"{lm.logprob('the th'):.4f}"
    assert lines[0].split() == ["log", "P", "share", "tokens"]
    assert lines[-2].split()[0] == logprob
    assert lines[-1].split()[0] == logprob


def test_demo_shows_the_methods_side_by_side(run: Run, lm: ByteLM) -> None:
    """The table has a line for what each method writes, and a column for its next bytes."""
    done = run("demo", "the th", "--max-bytes", "9")
    records = run("demo", "the th", "--max-bytes", "9", "--json").records

    assert [record["method"] for record in records] == ["by tokens", "by token healing", "by bytes"]
    assert [sum(record["next_byte"].values()) for record in records[:2]] == pytest.approx([1.0, 1.0])
    healed = completer_of(lm).sample("the th", healing="many", max_bytes=9)
    assert records[1]["backed_up"].encode() == healed.backed_up
    for record in records:
        assert record["completion"] in done.out
    assert done.out.splitlines()[-9].split()[:2] == ["next", "byte"]


@pytest.mark.parametrize(
    ("args", "prompt", "suffix", "model"),
    [
        ([], b"def fibonacci(n):\n    ret", None, "demo"),
        (["--infill"], b"def add(a, b):\n    ret", b"\n\nprint(add(1, 2))\n", "demo-fim"),
        (["the th", "--infill"], b"the th", b"", "demo-fim"),
        (["-e", "the th", "--suffix", r"a\n"], b"the th", b"a\n", "demo-fim"),
        (["the th", "--suffix", "a", "-m", "mine"], b"the th", b"a", "mine"),
    ],
)
def test_demo_compares_at_a_cursor_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str], prompt: bytes, suffix: bytes | None, model: str
) -> None:
    """--infill takes the demo's own cursor, --suffix one of the user's; the model is then the one that fills in."""
    asked: list[tuple[Any, ...]] = []

    def compare(*given: Any, max_bytes: int) -> list[Any]:
        asked.append(given)
        return []

    monkeypatch.setattr(options, "load", lambda model, *_: model)
    monkeypatch.setattr(cli, "compare", compare)
    monkeypatch.setattr(cli, "show_comparison", lambda prompt, outcomes, *, suffix: f"{prompt!r} {suffix!r}")

    done = run("demo", *args)

    assert done == Done(0, f"{prompt!r} {suffix!r}\n", "")
    assert asked == [(model, prompt, suffix)]


@pytest.mark.parametrize(
    "args",
    [
        ["next", "the th"],
        ["explain", "the th"],
        ["score", "the th"],
        ["score", "the th", "--by", "word"],
        ["score", "the th", "--by", "byte", "-m", "demo", "-m", "a/long/name"],
        ["demo", "the th"],
        ["ensemble", "-m", "demo", "-m", "demo-gemma", "the th", "--show-members", "--max-bytes", "6", "--seed", "3"],
        ["ensemble", *(["-m", "a/long/name"] * 5), "the th", "--show-members", "--max-bytes", "6", "--seed", "3"],
    ],
)
def test_tables_fit_in_40_columns(run: Run, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    """On a narrow terminal no line of a table is wider than that, and every number is still there in one piece."""
    monkeypatch.delenv("COLUMNS", raising=False)
    number = re.compile(r"-?\d+\.\d{4}(?!\d)")
    wide = run(*args).out

    monkeypatch.setenv("COLUMNS", "40")
    narrow = run(*args).out

    assert all(cell_len(line) <= 40 for line in narrow.splitlines() if not line.endswith("."))  # but for a sentence
    assert sorted(number.findall(narrow)) == sorted(number.findall(wide))


@pytest.mark.parametrize("command", ["sample", "next", "score", "explain"])
def test_the_text_is_taken_byte_for_byte(run: Run, tmp_path: Path, command: str) -> None:
    """An argument with escapes, a file, and standard input of the same bytes give the same output."""
    data = "caf\xe9\n\n".encode()[:-2]
    file = tmp_path / "text"
    file.write_bytes(data)
    rest = ["--json"] if command != "sample" else ["--json", "--seed", "1", "--max-bytes", "5"]

    outputs = {
        re.sub(r'"file": [^,]*, ', "", done.out)  # score names the file
        for done in (
            run(command, "-e", r"caf\xc3\xa9", *rest),
            run(command, "--file", str(file), *rest),
            run(command, "-f", "-", *rest, stdin=data),
            run(command, *rest, stdin=data),
        )
    }

    assert len(outputs) == 1


def test_a_newline_is_not_stripped(run: Run) -> None:
    """A trailing newline of standard input is part of the text."""
    assert run("score", "--json", stdin=b"the\n").records[0]["bytes"] == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["next"], "no text"),
        (["next", "a", "--file", "b"], "not both"),
        (["next", "--file", "there/is/none"], "cannot read"),
        (["next", "-e", r"\q"], "is not an escape"),
        (["next", "a", "--top", "0"], "--top"),
        (["sample", "a", "--temperature", "-1"], "--temperature"),
        (["sample", "a", "--max-bytes", "many"], "--max-bytes"),
        (["sample", "a", "--none-such"], "--none-such"),
        (["doctor"], "model"),
        (["nothing"], "nothing"),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, args: Sequence[str], message: str) -> None:
    """Wrong usage is told on standard error, with the name of what is wrong, and prints no result."""
    done = run(*args)

    assert (done.code, done.out) == (2, "")
    assert message.lower() in done.err.lower()


def test_an_error_of_bytelm_is_one_line(run: Run) -> None:
    """What cannot be spelled is one line on standard error, exit code 1, and no traceback."""
    done = run("next", "-e", r"a\xff")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("bytelm: ")
    assert done.err.count("\n") == 1


def test_an_unknown_model_is_an_error_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is named."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["next", "a", "--model", "./no/such/model"])

    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("bytelm: there is no directory './no/such/model'")


@pytest.mark.parametrize("command", [["next", "a", "-m"], ["doctor"]])
def test_a_misspelt_model_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """The packaged model that a name may mean is said before the name is looked for elsewhere; others are not."""

    def nowhere(name: str, **_: Any) -> ByteLM:
        raise ModelError(f"no {name} anywhere")

    monkeypatch.setattr(ByteLM, "from_pretrained", nowhere)
    monkeypatch.setattr(cli, "examine_model", nowhere)
    for name, told in [("dmeo", "demo"), ("demo-fmi", "demo-fim"), ("gpt2", ""), ("someone/demo", "")]:
        with pytest.raises(SystemExit):
            cli.main([*command, name])

        near = f"bytelm: no packaged model is called {name}; did you mean {told}?\n" if told else ""
        assert capsys.readouterr().err == f"{near}bytelm: no {name} anywhere\n"


def test_a_completion_that_ends_inside_a_character_says_so(run: Run, lm: ByteLM) -> None:
    """The command prints what the library's text is, and names the bytes that are not in it."""
    lengths = [n for n in range(1, 30) if unfinished(lm.sample("the th", seed=5, max_bytes=n).bytes)]

    assert lengths
    for length in lengths[:3]:
        done = run("sample", "the th", "--seed", "5", "--max-bytes", str(length))
        expected = lm.sample("the th", seed=5, max_bytes=length)
        assert done.out == expected.text
        assert f"left out: {unfinished(expected.bytes).hex(' ')}, " in done.err


def test_an_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C while the model runs is no error and no traceback."""

    def interrupted(*args: Any) -> ByteLM:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "load", interrupted)

    assert run("next", "a").code == 130


def test_doctor_exits_with_1_for_a_refused_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The findings are printed in either form, and the exit code is the verdict."""
    from bytelm.testing.doctor import Remark

    findings = [Remark("tokenizer", "ok", "fine"), Remark("verdict", "ok", "exact")]
    monkeypatch.setattr(cli, "examine_model", lambda model: findings)
    assert run("doctor", "m") == Done(0, "  tokenizer  fine\n  verdict    exact\n", "")

    findings.append(Remark("columns", "refused", "too few"))
    done = run("doctor", "m", "--json")
    assert done.code == 1
    assert done.records[-1] == {"topic": "columns", "level": "refused", "text": "too few"}


def test_doctor_of_what_is_no_model(run: Run, tmp_path: Path) -> None:
    """An empty folder is an error, not a finding."""
    done = run("doctor", str(tmp_path))

    assert done.code == 1
    assert "config.json" in done.err


def test_version(run: Run) -> None:
    """--version names the command and its version."""
    from bytelm import __version__

    assert run("--version") == Done(0, f"bytelm {__version__}\n", "")


def test_load_asks_for_what_the_options_say(monkeypatch: pytest.MonkeyPatch, lm: ByteLM) -> None:
    """The options that name a model reach `ByteLM.from_pretrained`; a packaged model is looked up first."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def from_pretrained(name: str, **options: Any) -> ByteLM:
        asked.append((name, options))
        return lm

    monkeypatch.setattr(ByteLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(options, "packaged_directory", lambda name: Path("cache") / name)
    options.load("folder", "cpu", "bfloat16")
    options.load("demo")
    options.load("demo", engine="llama-cpp", more={"context_length": 9})
    options.Model("folder", normalize=True, replace="?", context_length=9).load()

    plain = {"engine": "transformers", "device": None, "dtype": None, "progress": False}
    assert asked == [
        ("folder", plain | {"device": "cpu", "dtype": "bfloat16"}),
        (str(Path("cache") / "demo"), plain),
        ("demo", plain | {"engine": "llama-cpp", "context_length": 9}),
        ("folder", plain | {"normalize": True, "replace": "?", "context_length": 9}),
    ]


def test_a_model_error_names_its_cause(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of several lines is put into one."""

    def broken(*args: Any) -> ByteLM:
        raise ModelError("the file is damaged:\n  fetch it again")

    monkeypatch.setattr(options, "load", broken)

    assert run("next", "a") == Done(1, "", "bytelm: the file is damaged: fetch it again\n")


@pytest.mark.parametrize(
    "command",
    ["sample", "chat", "infill", "ensemble", "next", "score", "explain", "doctor", "demo", "models", "cache"],
)
def test_help_ends_its_description_with_examples(run: Run, command: str) -> None:
    """The help of every command shows how it is used, one example a line."""
    done = run(command, "--help")

    assert done.code == 0
    assert f"\n  Examples:\n    bytelm {command} " in done.out or f"\n  Examples:\n    bytelm {command}\n" in done.out


def test_the_page_of_the_commands_is_their_help() -> None:
    """docs/cli.md and docs/cli_*.md are what scripts/cli_docs.py writes from --help."""
    script = ROOT / "scripts" / "cli_docs.py"

    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_command_completes_the_word(smollm2: ByteLM, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On the real model the main job's bytes are "urn n" and its tokens' are not."""
    monkeypatch.setattr(options, "load", lambda model, *_: smollm2)
    with pytest.raises(SystemExit):
        cli.main(["demo", "--max-bytes", "5", "--json"])

    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = {record["method"]: record["completion"] for record in records}
    assert written["by bytes"] == "urn n"
    assert written["by token healing"] == "urn n"
    assert written["by tokens"] != "urn n"
    assert records[-1]["next_byte"]["'u'"] > 0.9
    assert records[0]["next_byte"]["'u'"] < 0.1


def test_the_engine_s_own_sampler(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Done]) -> None:
    """--level token writes what the library does, whole, piece by piece and in a chat, with --engine-option."""
    from bytelm.engines.transformers.engine import TransformersLM

    tokenizer = byte_bpe_tokenizer(vocab_size=311)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = ByteLM(TransformersLM(tiny_model("llama"), tokenizer))
    monkeypatch.setattr(options, "load", lambda *_: model)
    told: dict[str, Any] = {"level": "token", "temperature": 0, "max_bytes": 20}
    words = ["--level", "token", "--temperature", "0", "--max-bytes", "20"]
    plain = model.sample(PROMPT, **told)
    changed = model.sample(PROMPT, **told, engine_options={"repetition_penalty": 5.0, "no_repeat_ngram_size": 1})

    assert run("sample", PROMPT, *words).out == plain.text
    (record,) = run("sample", PROMPT, *words, "--json").records
    assert (record["hex"], record["logprob"]) == (plain.bytes.hex(), None)
    more = ["--engine-option", "repetition_penalty=5.0", "--engine-option", "no_repeat_ngram_size=1"]
    assert run("sample", PROMPT, *words, *more).out == changed.text != plain.text
    assert run("chat", PROMPT, *words).out == plain.text
    for wrong in ("repetition_penalty", "=3"):
        done = run("sample", PROMPT, *words, "--engine-option", wrong)
        assert (done.code, "NAME=VALUE" in done.err) == (2, True)
    done = run("sample", PROMPT, "--engine-option", "a=3")
    assert (done.code, "level='token'" in done.err) == (1, True)


def test_level_token_needs_a_sampler(run: Callable[..., Done]) -> None:
    """The toy engine has none, and the error says who has."""
    done = run("sample", "--level", "token", PROMPT)

    assert (done.code, "TableLM has none" in done.err) == (1, True)
