"""Engines by name: what each is given, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from bytelm import ByteLM, TableLM
from bytelm.engines import choice
from bytelm.engines.choice import ENGINES, load_engine
from bytelm.errors import InvalidArgumentError, MissingDependencyError, ModelError
from tests.support.tiny import byte_bpe_tokenizer


def test_an_engine_that_is_none() -> None:
    """The name of an engine that there is not is refused with those that there are."""
    with pytest.raises(InvalidArgumentError, match=r"engine is one of transformers, llama-cpp, .*'ggml'"):
        ByteLM.from_pretrained("demo", engine="ggml")
    assert get_args(choice.Engine) == ENGINES


@pytest.mark.parametrize("name", ["demo", "model.gguf"])
def test_an_engine_that_is_not_installed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without llama-cpp-python the error names the extra to install, before anything is fetched."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(choice, "packaged_gguf", lambda _: pytest.fail("fetched"))

    with pytest.raises(MissingDependencyError, match=r"pip install 'llama-cpp-python>=0\.3\.36,<0\.4'"):
        ByteLM.from_pretrained(name, engine="llama-cpp")


def test_a_gguf_file_without_the_engine(tmp_path: Path) -> None:
    """The transformers engine, given a GGUF file, names the engine that takes one."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")

    with pytest.raises(ModelError, match=r"gguf_file=.*engine='llama-cpp'"):
        ByteLM.from_pretrained(path)


@pytest.mark.parametrize("given", [{"device": "cpu"}, {"dtype": "float32"}])
def test_options_of_the_other_engine(given: dict[str, Any]) -> None:
    """What only transformers takes is refused by llama.cpp, with what stands for it."""
    with pytest.raises(InvalidArgumentError, match=f"no {next(iter(given))}.*n_gpu_layers"):
        load_engine("llama-cpp", "model.gguf", **given)


def test_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each engine's load has the place and the options; a packaged model's ends come with it."""
    from bytelm.engines.llama_cpp import engine as llama_cpp
    from bytelm.engines.transformers import engine as transformers

    asked: list[tuple[str, dict[str, Any]]] = []
    made = TableLM(byte_bpe_tokenizer())

    def load(name: Any, **options: Any) -> TableLM:
        asked.append((str(name), options))
        return made

    for module in (llama_cpp, transformers):
        monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(choice, "packaged_gguf", lambda name: tmp_path / f"{name}.gguf")
    monkeypatch.setattr(choice, "packaged_directory", lambda name: tmp_path / name)
    monkeypatch.setattr("bytelm.engines.llama_cpp.context.library", lambda: None)

    load_engine("llama-cpp", "folder", gguf_file="a.gguf", n_ctx=512)
    load_engine("llama-cpp", "folder", context_length=77)
    load_engine("llama-cpp", "demo")
    load_engine("transformers", "demo", device="cpu", max_batch=3)

    assert asked == [
        ("folder", {"gguf_file": "a.gguf", "n_ctx": 512}),
        ("folder", {"n_ctx": 77}),
        (str(tmp_path / "demo.gguf"), {"eot_ids": (0, 2)}),
        (str(tmp_path / "demo"), {"device": "cpu", "max_batch": 3, "progress": False}),
    ]
