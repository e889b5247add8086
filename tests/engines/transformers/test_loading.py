from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bytelm.engines.transformers.engine import load
from bytelm.errors import InvalidArgumentError, ModelError, UnsupportedTokenizerError
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a tiny bfloat16 Llama and its tokenizer, as save_pretrained leaves them."""
    place = tmp_path / "model"
    tiny_model("llama", dtype=torch.bfloat16).save_pretrained(place)
    default_tokenizer().save_pretrained(place)
    return place


def edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


def test_a_directory(folder: Path) -> None:
    """A model directory is loaded in float32 on the CPU, in evaluation mode, with its tokenizer."""
    lm = load(str(folder))

    parameter = next(lm.model.parameters())
    assert parameter.dtype is (torch.float32 if parameter.device.type == "cpu" else torch.bfloat16)
    assert not lm.model.training
    assert lm.tokenizer.backend_tokenizer.to_str() == default_tokenizer().backend_tokenizer.to_str()
    assert lm.next_token_logprobs([(1, 2)]).shape == (1, 317)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "auto"])
def test_dtype_and_device(folder: Path, dtype: Any) -> None:
    """The dtype may be given by name, as torch's, or be the checkpoint's own."""
    lm = load(str(folder), dtype=dtype, device="cpu")

    assert next(lm.model.parameters()).dtype is torch.bfloat16


def test_options_reach_the_engine_and_transformers(folder: Path) -> None:
    """Options of the engine and of from_pretrained may be mixed."""
    lm = load(str(folder), prefill_chunk=7, eot_ids=[5], attn_implementation="eager", local_files_only=True)

    assert (lm.prefill_chunk, lm.eot_ids) == (7, frozenset({5}))
    assert lm.model.config._attn_implementation == "eager"


def test_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory may be given as a Path, and from the home folder."""
    monkeypatch.setenv("HOME", str(folder.parent))

    assert load(folder).vocab_size == load("~/model").vocab_size == 317


def test_an_unknown_option(folder: Path) -> None:
    """An option that nothing knows is refused, with those there are, before anything is loaded."""
    with pytest.raises(InvalidArgumentError, match=r"unknown option.*temprature.*device_map.*prefill_chunk"):
        load(str(folder), temprature=1)


def test_an_unknown_dtype(folder: Path) -> None:
    """A dtype that torch does not have is refused by name."""
    with pytest.raises(InvalidArgumentError, match="'float7'"):
        load(str(folder), dtype="float7")


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "~/nowhere", "a/b/c", " "])
def test_no_directory(name: str) -> None:
    """A path that does not exist is said not to, and is not taken for a hub id."""
    with pytest.raises(ModelError, match="there is no directory"):
        load(name)


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub id that is not at hand without a network is one clear error."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(ModelError, match="'nobody/nothing' could not be loaded"):
        load("nobody/nothing", cache_dir=str(tmp_path), local_files_only=True)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    """A directory without config.json is said to be none of a model."""
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(str(tmp_path))


def test_a_file(folder: Path) -> None:
    """A file in place of a directory is said to be one."""
    with pytest.raises(ModelError, match="is a file"):
        load(str(folder / "config.json"))


def test_a_missing_gguf_file(folder: Path) -> None:
    """A GGUF file that is not there is named."""
    with pytest.raises(ModelError, match=r"has no small\.gguf"):
        load(str(folder), gguf_file="small.gguf")


def test_a_corrupt_gguf_file(folder: Path) -> None:
    """A GGUF file that is none is one clear error."""
    (folder / "small.gguf").write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder), gguf_file="small.gguf")


@pytest.mark.parametrize("damage", ["cut", "zeroed", "gone"])
def test_damaged_weights(folder: Path, damage: str) -> None:
    """Weights that were cut short, overwritten or removed are one clear error, that says to fetch them again."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "zeroed":
            file.write_bytes(bytes(len(content)))
        case _:
            file.unlink()

    with pytest.raises(ModelError, match=r"could not be loaded.*incomplete or damaged"):
        load(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_damaged_json(folder: Path, name: str) -> None:
    """A configuration or a tokenizer that is no JSON is one clear error."""
    (folder / name).write_text('{"model_type": "llama"')

    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder))


def test_an_id_that_would_take_all_of_the_memory(folder: Path) -> None:
    """An id of 2³¹ in the tokenizer's file is refused before anything of that size is made."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["zzz"] = 2**31
    file.write_text(json.dumps(content))

    with pytest.raises(UnsupportedTokenizerError, match="2147483648"):
        load(str(folder))


def test_another_kind_of_model(folder: Path) -> None:
    """A model that is no causal language model is one clear error."""
    edit(folder / "config.json", model_type="vit", architectures=["ViTModel"])

    with pytest.raises(ModelError, match="could not be loaded"):
        load(str(folder))


def test_missing_parameters_are_not_made_up(folder: Path) -> None:
    """Weights that lack some of the model's parameters are an error: transformers would draw them at random."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"down_proj"):
        load(str(folder))


def test_a_slow_tokenizer(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that has no fast form is refused by its class."""
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    (folder / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\na\n")

    with pytest.raises(UnsupportedTokenizerError, match="BertJapaneseTokenizer is a slow tokenizer"):
        load(str(folder))


def test_the_tokenizer_of_the_file_is_the_one_that_runs(folder: Path) -> None:
    """Where transformers would replace the pre-tokenizer of the file, the file's is used, with a warning."""
    tokenizer = byte_bpe_tokenizer(pre_tokenizer="smollm2")
    tokenizer.save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    text = "a  1 22\n\n 333"

    with pytest.warns(UserWarning, match="replaces the pre_tokenizer"):
        lm = load(str(folder))

    assert lm.tokenizer(text).input_ids == tokenizer(text).input_ids


def test_a_tokenizer_that_is_kept_gives_no_warning(folder: Path) -> None:
    """Loading what transformers does not change warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm = load(str(folder))

    expected = load(str(folder)).next_token_logprobs([()])
    assert np.array_equal(lm.next_token_logprobs([()]), expected)


@pytest.mark.parametrize("what", ["config", "tokenizer_config"])
def test_code_of_a_model_is_not_run_nor_asked_for(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that brings code of its own is an error: nothing of it runs, and nobody is asked on standard input."""
    asked: list[str] = []

    def answered(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answered)
    ran = folder / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')")
    own = {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own", "AutoTokenizer": [None, "code.Own"]}
    edit(folder / f"{what}.json", model_type="of-its-own", tokenizer_class="Own", auto_map=own)

    with pytest.raises(ModelError, match="trust_remote_code"):
        load(folder)

    assert not asked
    assert not ran.exists()
