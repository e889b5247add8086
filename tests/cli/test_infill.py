"""``bytelm infill``: cursors in files, in standard input and between arguments, over a toy model."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bytelm import ByteLM, Completion, Ending, Endings, SamplingParams, TableLM
from bytelm.cli import options
from bytelm.fim import FIMFormat, OtherFiles
from bytelm.inference.job_usage import JobUsage
from tests.cli.test_main import Done, Run, runner
from tests.support.tiny import byte_bpe_tokenizer

CODE = b"if x:\n    ret\n\nprint(3)\n"
BEFORE, AFTER = CODE[:13], CODE[13:]
UNITS = {"character": 8, "utf-16": 9, "byte": 11}  # the column after s = '🙂'


@dataclass
class Pieces:
    """What a stream is to the command: pieces, and then the completion."""

    pieces: Iterator[str]
    completion: Completion

    def __iter__(self) -> Iterator[str]:
        return self.pieces


class Writer:
    """A model that writes what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.middle: bytes = b"urn x\n"
        self.asked: list[dict[str, Any]] = []
        self.breaks = False
        self.abilities = SimpleNamespace(context_length=None)

    def infill(self, prefix: bytes, suffix: bytes, *, n: int, **options: Any) -> Completion | list[Completion]:
        self.asked.append({"prefix": prefix, "suffix": suffix, **options})
        if self.breaks:
            raise KeyboardInterrupt
        done = Completion(self.middle.decode(errors="replace"), self.middle, -1.5, "eot", JobUsage())
        return done if n == 1 else [done] * n

    def infill_likeliest(self, prefix: bytes, suffix: bytes, **options: Any) -> Endings:
        self.asked.append({"prefix": prefix, "suffix": suffix, **options})
        ending = Ending(self.middle.decode(errors="replace"), self.middle, -1.5, complete=True)
        return Endings((ending,), -2.0, certified=True, usage=JobUsage())

    def infill_stream(self, prefix: bytes, suffix: bytes, **options: Any) -> Pieces:
        self.asked.append({"prefix": prefix, "suffix": suffix, **options})

        def pieces() -> Iterator[str]:
            for number, character in enumerate(self.middle.decode(errors="ignore")):
                if self.breaks and number == 3:
                    raise KeyboardInterrupt
                yield character

        return Pieces(pieces(), Completion("", self.middle, -1.5, "eot", JobUsage()))


@pytest.fixture
def lm() -> Writer:
    return Writer()


@pytest.fixture
def run(lm: Writer, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run ``bytelm infill`` in this process, with the writer in place of the model that --model names."""
    monkeypatch.setattr(options, "load", lambda model, *_: lm)

    return runner(monkeypatch, capsysbinary, "infill")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "code.py"
    path.write_bytes(CODE)
    return path


def test_a_character_that_is_cut_is_said(run: Run, lm: Writer, file: Path) -> None:
    """The bytes that only begin a character are in no text, on a line of standard error, and in the JSON."""
    lm.middle = "a🙂".encode()[:4]
    told = "bytelm: the completion ends inside a character, and its last bytes are left out: f0 9f 99, 3 of 4\n"

    assert run(str(file), "--at", "2:8") == Done(0, "a", told)
    assert run(str(file), "--at", "2:8", "-n", "2").err == 2 * told
    assert run(str(file), "--at", "2:8", "--json").records[0]["hex"] == lm.middle.hex()
    assert run(str(file), "--at", "2:8", "--in-place").err == told
    assert file.read_bytes() == BEFORE + b"a" + AFTER


def test_the_likeliest_middles(run: Run, lm: Writer, file: Path) -> None:
    """They are listed, or the likeliest of all goes into the file; what ends a line is what --stop-at says."""
    lm.middle = b"urn x"

    done = run(str(file), "--at", "2:8", "--likeliest", "-n", "2", "--carry", "word")

    assert done.out.splitlines()[0].split()[:3] == ["'urn", "x'", "0.2231"]
    asked = {
        "context": None,
        "n": 2,
        "stop": "\n",
        "max_bytes": 256,
        "max_calls": 256,
        "constraint": None,
        "progress": True,
    }
    assert lm.asked == [{"prefix": BEFORE, "suffix": AFTER, "mode": "auto", "format": None, "carry": "word", **asked}]
    run(str(file), "--at", "2:8", "--likeliest", "--stop-at", "newline", "--in-place")
    assert lm.asked[-1]["stop"] == [b"\n", b"\r\n"]
    assert file.read_bytes() == BEFORE + b"urn x" + AFTER


def test_other_files_in_view(run: Run, lm: Writer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names from the folder where the command runs, byte for byte, in the order given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_bytes(b"A = 1\r\n")
    (tmp_path / "b.py").write_bytes("# é".encode())

    assert run("code.py", "--at", "2:8", "--context", "lib/a.py", "--context", str(tmp_path / "b.py")).code == 0

    shown = lm.asked[-1]["context"]
    assert shown == OtherFiles([("lib/a.py", b"A = 1\r\n"), ("b.py", "# é".encode())], name="code.py")
    run("--prefix", "a", "--context", "b.py")
    assert lm.asked[-1]["context"].name == "untitled"


@pytest.mark.parametrize(
    ("data", "said"), [(b"caf\xe9", "is not text"), (b"a\0b", "is not text"), (None, "No such file")]
)
def test_a_context_that_is_no_text(run: Run, file: Path, tmp_path: Path, data: bytes | None, said: str) -> None:
    other = tmp_path / "other.bin"
    if data is not None:
        other.write_bytes(data)

    done = run(str(file), "--at", "2:8", "--context", str(other))

    assert done.code in (1, 2)
    assert said in done.err.replace("\n", " ")
    assert run(str(file), "--at", "2:8", "--context", "-").code == 2


# ---- where the cursor is


def test_every_way_to_a_cursor_is_the_same_cursor(run: Run, lm: Writer, file: Path) -> None:
    """A file, standard input and two arguments with the same bytes on both sides are the same question."""
    ways = [
        run(str(file), "--at", "2:8"),
        run(str(file), "--offset", "13"),
        run("--file", str(file), "--offset", "13"),
        run("-", "--at", "2:8", stdin=CODE),
        run("--stdin", "--at", "2:8", stdin=CODE),
        run("-f", "-", "--offset", "13", stdin=CODE),
        run("--stdin", "-e", "--suffix", r"\n\nprint(3)\n", stdin=BEFORE),
        run("--stdin", "-e", "--prefix", r"if x:\n    ret", stdin=AFTER),
        run("-e", "--prefix", r"if x:\n    ret", "--suffix", r"\n\nprint(3)\n"),
    ]

    assert ways == [Done(0, "urn x\n", "")] * len(ways)
    assert [(asked["prefix"], asked["suffix"]) for asked in lm.asked] == [(BEFORE, AFTER)] * len(ways)


def test_a_column_counts_as_the_editor_does(run: Run, lm: Writer, tmp_path: Path) -> None:
    """After an emoji the same place has three columns; one inside the character is refused, in the unit's name."""
    file = tmp_path / "smile.py"
    file.write_text("s = '\U0001f642' + x\n", encoding="utf-8")

    ways = [run(str(file), "--at", f"1:{column}", "--unit", unit) for unit, column in UNITS.items()]
    wrong = run(str(file), "--at", "1:8", "--unit", "byte")
    beyond = run(str(file), "--at", "1:14", "--unit", "utf-16")

    assert ways == [Done(0, "urn x\n", "")] * 3
    assert {asked["prefix"] for asked in lm.asked} == {"s = '\U0001f642'".encode()}
    assert run(str(file), "--at", f"1:{UNITS['character']}") == ways[0]
    assert (wrong.code, beyond.code) == (2, 2)
    assert "column 8, counted in bytes (--unit), is inside a character" in " ".join(wrong.err.split())
    assert "column 14, counted in UTF-16 units (--unit), is beyond" in " ".join(beyond.err.split())


def test_a_format_of_ones_own_is_a_file(run: Run, lm: Writer, file: Path, tmp_path: Path) -> None:
    """--format takes FILE.json; what is wrong with it is wrong usage, said before the model is loaded."""
    form = tmp_path / "mine.json"
    form.write_text('{"spm": ["<s>", "{suffix}", "<p>", "{prefix}"], "ends": ["<e>"]}')
    broken = tmp_path / "broken.json"
    broken.write_text('{"spm": "<s>"}')

    assert run(str(file), "--at", "2:8", "--format", str(form)).code == 0
    assert lm.asked[0]["format"] == FIMFormat("mine", spm=("<s>", "{suffix}", "<p>", "{prefix}"), ends=("<e>",))
    done = run(str(file), "--at", "2:8", "--format", str(broken))
    assert (done.code, done.out, len(lm.asked)) == (2, "", 1)
    assert "spm" in done.err
    assert run(str(file), "--at", "2:8", "--format", str(tmp_path / "none.json")).code == 2


def test_every_option_reaches_the_model(run: Run, lm: Writer, file: Path) -> None:
    """The options of the command are those of `ByteLM.infill`; --stop-at adds to --stop."""
    words = "--seed 7 --max-bytes 40 --temperature 0.7 --top-k 9 --top-p 0.8 --min-p 0.05 --mode psm --carry word --format starcoder"
    run(str(file), "--at", "2:8", *words.split(), "--stop", "a", "--stop", "e", "--stop-at", "newline")
    run(str(file), "--at", "2:8", "--stop-at", "blank-line")
    run(str(file), "--at", "2:8")

    params = SamplingParams(
        seed=7, max_bytes=40, temperature=0.7, top_k=9, top_p=0.8, min_p=0.05, stop=[b"a", b"e", b"\n", b"\r\n"]
    )
    sides = {"prefix": BEFORE, "suffix": AFTER, "context": None}
    assert lm.asked[0] == {**sides, "mode": "psm", "format": "starcoder", "carry": "word", "params": params}
    assert {b"\n\n", b"\r\n\r\n"} <= set(lm.asked[1]["params"].stops)
    assert lm.asked[2] == {**sides, "mode": "auto", "format": None, "carry": "line", "params": SamplingParams()}


def test_as_json_and_several(run: Run, file: Path) -> None:
    """Each completion is a record, or has a number."""
    (record,) = run(str(file), "--at", "2:8", "--json").records
    several = run(str(file), "--at", "2:8", "-n", "2")

    assert (record["text"], bytes.fromhex(record["hex"])) == ("urn x\n", b"urn x\n")
    assert (record["logprob"], record["finish_reason"]) == (-1.5, "eot")
    assert several.out == "[1] urn x\n\n[2] urn x\n\n"


def test_a_model_is_asked_as_by_the_library(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a random model with the sentinels, what is printed is `infill`, piece by piece or whole."""
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"))
    toy = ByteLM(TableLM(tokenizer, seed=3, order=2))
    monkeypatch.setattr(options, "load", lambda model, *_: toy)
    rest = ["--seed", "5", "--max-bytes", "6"]
    expected = toy.infill(BEFORE, AFTER, seed=5, max_bytes=6)
    assert isinstance(expected, Completion)

    streamed = run(str(file), "--at", "2:8", *rest)
    (record,) = run(str(file), "--at", "2:8", *rest, "--json").records

    assert streamed == Done(0, expected.text, "")
    assert (record["text"], record["logprob"]) == (expected.text, expected.logprob)


def test_pieces_are_shown_as_they_come(lm: Writer, run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece is on the screen before the next one is written."""
    shown: list[str] = []
    seen: list[int] = []
    stream = lm.infill_stream

    def watched(*args: Any, **options: Any) -> Pieces:
        given = stream(*args, **options)

        def pieces() -> Iterator[str]:
            for piece in given:
                seen.append(len(shown))
                yield piece

        return Pieces(pieces(), given.completion)

    monkeypatch.setattr(lm, "infill_stream", watched)
    monkeypatch.setattr("typer.echo", lambda text="", **_: shown.append(text))
    run(str(file), "--at", "2:8")

    assert shown == list("urn x\n")
    assert seen == list(range(len(shown)))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--prefix"),
        (["--offset", "3"], "--file"),
        (["--at", "1:1"], "--file"),
        (["FILE"], "--at line:column"),
        (["FILE", "--at", "1:1", "--offset", "1"], "--at and --offset"),
        (["FILE", "--offset", "1", "--suffix", "a"], "not both"),
        (["FILE", "--suffix", "a"], "not both"),
        (["FILE", "--offset", "25"], "beyond the end of FILE, which has 24 bytes"),
        (["FILE", "--at", "6:1"], "line 6 is beyond the end of FILE, which has 5 lines (24 bytes)"),
        (
            ["FILE", "--at", "2:9"],
            "column 9, counted in characters (--unit), is beyond the end of line 2 of FILE, which has 7",
        ),
        (["FILE", "--at", "2"], "line:column"),
        (["FILE", "--file", "FILE", "--at", "1:1"], "not by two"),
        (["FILE", "--stdin", "--at", "1:1"], "not by two"),
        (["--stdin", "--prefix", "a", "--suffix", "b"], "not both"),
        (["--stdin"], "standard input"),
        (["none/there", "--at", "1:1"], "cannot read none/there"),
        (["FOLDER", "--at", "1:1"], "cannot read"),
        (["FILE", "--at", "1:1", "--mode", "up"], "--mode"),
        (["FILE", "--at", "1:1", "--stop-at", "noon"], "--stop-at"),
        (["FILE", "--at", "1:1", "--window", "0"], "--window"),
        (["--prefix", "a", "--in-place"], "--in-place"),
        (["-", "--at", "1:1", "--in-place"], "--in-place"),
        (["FILE", "--at", "1:1", "--in-place", "-n", "2"], "-n 2"),
        (["-e", "--prefix", r"\xE9e"], "--prefix is not text: byte 0"),
        (["-e", "--prefix", "a", "--suffix", r"b\xE9"], "--suffix is not text: byte 1"),
        (["-e", "--prefix", "a", "--suffix", r"\xA9"], "inside a character"),
    ],
)
def test_wrong_usage_exits_with_2(
    run: Run, file: Path, args: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the place or the options is told before the model is loaded, and changes nothing."""
    monkeypatch.setattr(options, "load", lambda *_: pytest.fail("loaded"))
    names = {"FILE": str(file), "FOLDER": str(file.parent)}

    done = run(*(names.get(arg, arg) for arg in args), stdin=b"")

    assert (done.code, done.out) == (2, "")
    assert message.replace("FILE", str(file)).lower() in " ".join(done.err.split()).lower().replace("code.py', '", "")
    assert file.read_bytes() == CODE


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a\0b\n", "byte 1 of its 4 is NUL"), ("é\n".encode("latin-1"), "byte 0 of its 2 is 0xE9, which is no UTF-8")],
)
def test_what_is_not_text_is_refused(run: Run, file: Path, content: bytes, message: str) -> None:
    """A binary file, or text in another encoding, is told as such with the place, whoever reads it."""
    file.write_bytes(content)

    for done in (run(str(file), "--at", "1:1"), run("--stdin", "--prefix", "a", stdin=content)):
        assert (done.code, done.out) == (2, "")
        assert message in " ".join(done.err.split())


def test_a_cursor_inside_a_character(run: Run, lm: Writer, file: Path) -> None:
    """Only an offset can be there; what is inserted would break the character."""
    file.write_bytes("né".encode())

    run(str(file), "--offset", "2", "--mode", "left")
    in_place = run(str(file), "--offset", "2", "--mode", "left", "--in-place")

    run("--stdin", "--suffix", "", stdin="né".encode()[:2])

    assert [asked["prefix"] for asked in lm.asked] == ["né".encode()[:2]] * 2
    assert in_place.code == 2
    assert "inside a character" in in_place.err
    seen = run(str(file), "--offset", "2")
    assert seen.code == 2
    assert "--mode left" in seen.err


def test_an_empty_stop_string_is_told_before_the_model_is_loaded(run: Run, file: Path, lm: Writer) -> None:
    """It is the library's error, and no model has been asked."""
    done = run(str(file), "--at", "2:8", "--stop", "")

    assert done.code == 1
    assert "empty stop string" in done.err
    assert not lm.asked


# ---- the window


def test_a_text_too_long_is_shown_in_part(run: Run, lm: Writer, file: Path) -> None:
    """What the model is shown is cut at lines around the cursor, by default to what its context holds, and told."""
    file.write_bytes(b"one = 1\n" * 50 + CODE + b"two = 2\n" * 50)
    part = {"prefix": b"one = 1\n" + BEFORE, "suffix": AFTER + b"two = 2\n"}
    rest = ["--at", "52:8", "--max-bytes", "6"]

    given = run(str(file), *rest, "--window", "45")
    whole = run(str(file), *rest, "--window", "10000")
    lm.abilities.context_length = 45 + 6 + 32
    default = run(str(file), *rest)
    left = run(str(file), *rest, "--window", "21", "--mode", "left")

    notice = "bytelm: of the 413 bytes before the cursor the model is shown 21, of the 411 behind it 19 (--window 45)\n"
    assert given == default == Done(0, "urn x\n", notice)
    asked = [{"prefix": asked["prefix"], "suffix": asked["suffix"]} for asked in lm.asked]
    assert asked[0] == asked[2] == part
    assert (whole.err, len(asked[1]["prefix"] + asked[1]["suffix"])) == ("", 824)
    assert asked[3] == {"prefix": part["prefix"], "suffix": b""}
    assert "shown 21" in left.err


# ---- in place


@pytest.mark.parametrize(
    ("content", "at", "cursor"),
    [
        (CODE, "2:8", 13),
        (b"if x:\r\n\tret\r\n\r\nprint(3)", "2:5", 11),
        (codecs.BOM_UTF8 + b"ret", "1:1", 3),
        (codecs.BOM_UTF8 + b"a\r\n\r\n\tret", "3:5", 12),
        (b"", "1:1", 0),
    ],
)
def test_in_place_keeps_every_byte(run: Run, lm: Writer, file: Path, content: bytes, at: str, cursor: int) -> None:
    """Windows line ends, tabs, a BOM and a missing last newline stay; the middle stands between, and is not printed."""
    file.write_bytes(content)
    lm.middle = "é\r\n\t".encode()

    done = run(str(file), "--at", at, "--in-place")

    assert done == Done(0, "", "")
    assert file.read_bytes() == content[:cursor] + lm.middle + content[cursor:]


def test_in_place_keeps_windows_line_ends(run: Run, lm: Writer, file: Path) -> None:
    """A model that writes LF leaves no LF alone in a file that has none; what it wrote is printed as it is."""
    file.write_bytes(CODE.replace(b"\n", b"\r\n"))

    printed = run(str(file), "--at", "2:8")
    run(str(file), "--at", "2:8", "-i")

    assert printed.out == "urn x\n"
    assert file.read_bytes() == (BEFORE + b"urn x\n" + AFTER).replace(b"\n", b"\r\n")


def test_a_line_end_cut_short_is_not_inserted(run: Run, lm: Writer, file: Path) -> None:
    """Where --max-bytes ends between CR and LF, a file of CRLF gets neither."""
    file.write_bytes(CODE.replace(b"\n", b"\r\n"))
    lm.middle = b"urn x\r"

    run(str(file), "--at", "2:8", "-i")

    assert file.read_bytes() == (BEFORE + b"urn x" + AFTER).replace(b"\n", b"\r\n")


@pytest.mark.parametrize(
    ("content", "offset", "message"),
    [(b"a\r\nb\r\n", 2, "between CR and LF"), (codecs.BOM_UTF8 + b"a\n", 0, "before the byte order mark")],
)
def test_in_place_nothing_is_torn_apart(run: Run, file: Path, content: bytes, offset: int, message: str) -> None:
    """A line end stays one, and a byte order mark stays first."""
    file.write_bytes(content)

    done = run(str(file), "--offset", str(offset), "-i")

    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert file.read_bytes() == content


def test_in_place_with_a_window_changes_nothing_else(run: Run, lm: Writer, file: Path) -> None:
    """What the model was not shown is in the file all the same; with JSON it is told what was inserted."""
    (record,) = run(str(file), "--at", "2:8", "--window", "8", "-i", "--json").records

    assert (lm.asked[0]["prefix"], lm.asked[0]["suffix"]) == (b" ret", b"\n\n")
    assert file.read_bytes() == BEFORE + b"urn x\n" + AFTER
    assert record["text"] == "urn x\n"


def test_a_character_cut_short_is_not_inserted(run: Run, lm: Writer, file: Path) -> None:
    """A file of text stays one: where --max-bytes ends inside a character, that character stays out."""
    lm.middle = "aé".encode()[:2]
    run(str(file), "--at", "2:8", "-i")

    assert file.read_bytes() == BEFORE + b"a" + AFTER


def test_a_read_only_file_is_told_before_the_model_runs(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of error, exit code 1, and the file is as it was."""
    file.chmod(0o444)
    monkeypatch.setattr(options, "load", lambda *_: pytest.fail("loaded"))

    done = run(str(file), "--at", "2:8", "--in-place")

    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "read-only" in done.err
    assert file.read_bytes() == CODE
    file.chmod(0o644)


def test_a_change_of_the_file_meanwhile_is_kept(
    run: Run, lm: Writer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an editor saved while the model ran is not overwritten."""
    infill = lm.infill

    def slow(*args: Any, **options: Any) -> Any:
        file.write_bytes(b"saved")
        return infill(*args, **options)

    monkeypatch.setattr(lm, "infill", slow)
    done = run(str(file), "--at", "2:8", "-i")

    assert (done.code, done.out, file.read_bytes()) == (1, "", b"saved")
    assert "changed while the model ran" in done.err


@pytest.mark.parametrize("more", [[], ["--in-place"]])
def test_an_interruption_leaves_the_file(more: list[str], run: Run, lm: Writer, file: Path) -> None:
    """Ctrl-C while the model writes: exit code 130, what was written so far on standard output, the file as it was."""
    lm.breaks = True

    done = run(str(file), "--at", "2:8", *more)

    assert done == Done(130, "" if more else "urn", "")
    assert file.read_bytes() == CODE
    assert [path.name for path in file.parent.iterdir()] == ["code.py"]


# ---- a model without the tokens


def test_a_model_without_the_tokens_offers_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was not made for it is one line of error that says what works."""
    plain = ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=311), seed=3, order=2))
    monkeypatch.setattr(options, "load", lambda model, *_: plain)

    done = run("--prefix", "the ", "--suffix", "b")
    left = run("--prefix", "the ", "--suffix", "b", "--mode", "left", "--seed", "1", "--max-bytes", "4")

    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "mode='left'" in done.err
    assert left.out == plain.sample("the ", seed=1, max_bytes=4).text


@pytest.mark.slow
def test_the_real_model_completes_a_file(fim: ByteLM, run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On demo-fim the word at the cursor is completed in place; with CRLF nothing else of the file changes."""
    monkeypatch.setattr(options, "load", lambda model, *_: fim)
    content = b"def add(a, b):\r\n    ret\r\n\r\nprint(add(1, 2))"
    file.write_bytes(content)

    done = run(str(file), "--at", "2:8", "--temperature", "0", "--stop-at", "newline", "-i")

    assert done == Done(0, "", "")
    assert file.read_bytes() == content.replace(b"ret", b"return a + b")
