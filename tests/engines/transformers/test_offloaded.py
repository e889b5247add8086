"""Models whose weights lie elsewhere until they are needed: on the CPU, on the disk, or partly there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest

from bytelm import ByteLM
from bytelm.engines.transformers.engine import TransformersLM, load
from tests.support.tiny import default_tokenizer, tiny_model

SEQUENCES = [(1, 2, 3), (1, 2, 4, 5, 6), (1, 2), (9,)]


def on_the_cpu(model: Any, folder: Path) -> Any:
    del folder
    return accelerate.cpu_offload(model, execution_device="cpu")


def on_the_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, folder, execution_device="cpu")


def embedding_on_the_disk(model: Any, folder: Path) -> Any:
    modules = {name: "cpu" for name, _ in model.named_modules() if name.count(".") == 1} | {"lm_head": "cpu"}
    layers = {name: "cpu" for name, _ in model.named_modules() if name.startswith("model.layers.")}
    places = {**modules, **layers, "model.embed_tokens": "disk"}
    places.pop("model.layers")
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("offload", [on_the_cpu, on_the_disk, embedding_on_the_disk])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_an_offloaded_model_runs(offload: Callable[[Any, Path], Any], kind: str, tmp_path: Path) -> None:
    """Rows, completions and engine draws are those of the model in memory, by the same way, and weights stay away."""
    plain = ByteLM(tiny_model(kind), default_tokenizer())
    model = offload(tiny_model(kind), tmp_path)

    lm = ByteLM(model, default_tokenizer())

    rows = lm.token_lm.next_token_logprobs(SEQUENCES)
    assert np.abs(rows - plain.token_lm.next_token_logprobs(SEQUENCES)).max() <= 1e-9
    assert getattr(lm.token_lm, "mode", "") == "tree"
    for engine_draws in (False, True):
        options: dict[str, Any] = {"max_bytes": 12, "seed": 5, "engine_draws": engine_draws}
        assert lm.sample("The qui", **options).bytes == plain.sample("The qui", **options).bytes
    assert model.get_input_embeddings().weight.is_meta


def test_a_description_of_an_offloaded_model(tmp_path: Path) -> None:
    """What tells one model from another needs no weights: two offloaded ones are told apart, and one is itself."""
    one, same, other = (
        ByteLM(on_the_disk(tiny_model("llama", seed=seed), tmp_path / str(i)), default_tokenizer()).description()
        for i, seed in enumerate((0, 0, 1))
    )

    assert one == same != other


def test_an_embedding_on_the_disk_by_name(tmp_path: Path) -> None:
    """A device map with the embedding on the disk is loaded and run from a folder."""
    model = tiny_model("llama", tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "model")
    default_tokenizer().save_pretrained(tmp_path / "model")
    places = {
        "model.embed_tokens": "disk",
        "model.layers": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }

    lm = load(tmp_path / "model", dtype="float64", device_map=places, offload_folder=str(tmp_path / "away"))

    expected = TransformersLM(load(tmp_path / "model", dtype="float64", device="cpu").model, default_tokenizer())
    assert lm.model.get_input_embeddings().weight.is_meta
    assert np.abs(lm.next_token_logprobs(SEQUENCES) - expected.next_token_logprobs(SEQUENCES)).max() <= 1e-9
