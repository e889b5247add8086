"""The options that say what may be written, in each command that writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bytelm import ByteLM, constraints
from bytelm.cli import options
from bytelm.errors import InvalidArgumentError
from bytelm.serving.settings import ServerSettings
from tests.byte_lm.test_public_face import chatting
from tests.cli.test_main import Run, runner

SCHEMA = json.dumps({"type": "array", "items": {"enum": ["yes", "no"]}, "minItems": 2, "maxItems": 2})
LIST = r'\["(yes|no)","(yes|no)"\]'


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A toy that can chat."""
    return chatting()


@pytest.fixture
def run(lm: ByteLM, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run ``bytelm`` in this process, with the toy in place of any model."""
    monkeypatch.setattr(options, "load", lambda model, *_: lm)

    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "list.json").write_text(SCHEMA, encoding="utf-8")
    (tmp_path / "pair.lark").write_text('start: "(" /[a-z]/ ")"\n', encoding="utf-8")
    return {path.name: str(path) for path in tmp_path.iterdir()}


COMMANDS: dict[str, tuple[str, ...]] = {
    "sample": ("sample", "the "),
    "chat": ("chat", "the "),
    "infill": ("infill", "--prefix", "the ", "--suffix", "x", "--mode", "left"),
    "ensemble": ("ensemble", "-m", "a", "-m", "b", "the "),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_write_under_a_constraint(run: Run, files: dict[str, str], command: str) -> None:
    """Each of the options, and what it writes."""
    options_ = {
        ("--regex", "[ab]{3}c"): "[ab]{3}c",
        ("--json-schema", files["list.json"]): LIST,
        ("--lark", files["pair.lark"]): r"\([a-z]\)",
        ("--choice", "one", "--choice", r"tw\x6f"): "one|two",
    }
    for given, written in options_.items():
        done = run(*COMMANDS[command], *given, "--seed", "1")
        assert (done.code, done.err) == (0, "")
        assert re.fullmatch(written, done.out.strip())
    started = run(*COMMANDS[command], "--json-object", "--max-bytes", "20", "--seed", "1")
    assert started.out.startswith("{")


def test_a_schema_comes_on_standard_input(run: Run) -> None:
    """As any file does; and what is written is what the library writes."""
    done = run("sample", "the ", "--json-schema", "-", "--seed", "3", stdin=SCHEMA.encode())

    assert re.fullmatch(LIST, done.out.strip())


def test_the_likeliest_are_constrained_too(run: Run, lm: ByteLM) -> None:
    """With the endings that the library finds."""
    done = run("sample", "the ", "--choice", "one", "--choice", "two", "--likeliest", "-n", "2", "--json")
    found = lm.likeliest("the ", n=2, constraint=constraints.choice(["one", "two"]))

    assert [each["text"] for each in done.records] == [each.text for each in found]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--regex", "a", "--choice", "b"), 2, "--regex and --choice are each a constraint"),
        (("--regex", "["), 1, "unclosed character class"),
        (("--json-schema", "nowhere.json"), 2, "cannot read nowhere.json"),
        (("--regex", "a", "--level", "token"), 1, "leave level out"),
        (("--regex", "a", "--regex", "b"), 2, "takes one value"),
    ],
    ids=range(5),
)
def test_what_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, args: Any, code: int, said: str) -> None:
    """Before a model is loaded."""
    monkeypatch.setattr(options, "load", lambda model, *_: pytest.fail("it was loaded"))
    done = run("sample", "the ", *args)

    assert done.code == code
    assert said in " ".join(done.err.split())


def test_particles_are_told(run: Run) -> None:
    """As text the one that was picked, and on standard error what it stands for; as JSON all, with their weights."""
    given = ("the ", "--choice", "ab", "--choice", "xyz", "--particles", "5", "--seed", "2")
    for command in (("sample",), ("ensemble", "-m", "a", "-m", "b")):
        done = run(*command, *given)
        assert done.out in ("ab", "xyz")
        assert "picked from 5 particles" in done.err

        told = json.loads(run(*command, *given, "--json").out)
        assert told["text"] == done.out
        assert len(told["particles"]["texts"]) == 5
        assert sum(each["weight"] for each in told["particles"]["texts"]) == pytest.approx(1)
        assert 1 <= told["particles"]["effective_sample_size"] <= 5 + 1e-9


def test_whole_texts_are_combined(run: Run) -> None:
    """Each formula draws, and what cannot be is wrong usage."""
    given = ("ensemble", "-m", "a", "-m", "b", "the ", "--choice", "ab", "--choice", "xyz", "--seed", "2")
    level = ("--combine-level", "string")
    for formula in (("minimum",), ("product", "--weights", "1,0.5"), ("power", "--power", "-1")):
        assert run(*given, "--combine", *formula, *level, "--particles", "3").out in ("ab", "xyz")
    assert run(*given, "--combine", "minimum", *level, "--conditioning", "exact").out in ("ab", "xyz")

    for wrong, said in (
        (("--combine", "minimum"), "--combine-level string"),
        (("--combine", "minimum", *level), "--particles N or"),
        (("--combine", "power", *level, "--particles", "3"), "give power"),
        (("--combine", "product", *level, "--particles", "3", "--weights", "1,-1"), "negative"),
        (("--combine", "product", *level, "--particles", "3", "--show-members"), "leave out"),
    ):
        done = run(*given, *wrong)
        assert done.code == 2
        assert said in re.sub(r"[\s│]+", " ", done.err)


def test_another_model_drafts(run: Run) -> None:
    """Greedy texts are the same with a drafter, whichever command writes."""
    for command in COMMANDS.values():
        given = (*command, "--temperature", "0", "--max-bytes", "12")
        plain = run(*given)
        assert run(*given, "--draft", "small").out == plain.out
        assert run(*given, "--draft", "lookup").out == plain.out


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """What `bytelm serve` would serve by; it ends there."""
    given: list[ServerSettings] = []

    def created(_: ByteLM, settings: ServerSettings) -> None:
        given.append(settings)
        raise InvalidArgumentError("enough")

    monkeypatch.setattr("bytelm.serving.app.create_app", created)
    monkeypatch.setattr("bytelm.cli.serve.bound", lambda *_: None)
    return given


@pytest.mark.parametrize(("words", "draft"), [((), None), (("--draft", "lookup"), "lookup"), (("--draft", "a"), "lm")])
def test_a_server_is_given_what_drafts(
    run: Run, lm: ByteLM, given: list[ServerSettings], words: tuple[str, ...], draft: str | None
) -> None:
    """A loaded model, or lookup."""
    assert run("serve", "--port", "0", *words).code == 1

    assert given[0].draft is (lm if draft == "lm" else draft)


def test_a_server_has_the_limits_that_are_given(run: Run, given: list[ServerSettings]) -> None:
    """Each by its option; without any, what `ServerSettings` says."""
    limits = (
        "max_body",
        "max_prompt",
        "max_bytes",
        "max_n",
        "max_particles",
        "max_budget",
        "max_running",
        "max_waiting",
    )

    run("serve", "--port", "0")
    assert given[0] == ServerSettings(name=given[0].name, loopback=True)

    run("serve", *(f"--{name.replace('_', '-')}={at}" for at, name in enumerate(limits, start=7)))
    assert [getattr(given[1], name) for name in limits] == [*range(7, 7 + len(limits))]
