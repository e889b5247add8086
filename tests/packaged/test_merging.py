"""Packaged adapters: what is merged is what peft merges, under the names that the format is found by, or is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from bytelm import ByteLM, packaged
from bytelm.errors import CacheWriteError, DownloadError, MissingDependencyError, ModelError
from bytelm.fim import FORMATS, find_format
from bytelm.packaged import PACKAGED, PackagedAdapter, PackagedModel, merging, packaged_directory
from tests.packaged.test_packaged import folders_in_cache, load
from tests.support.tiny_gguf import smollm_like

NAMES = {"<|reserved_1|>": "<fim_prefix>", "<|reserved_2|>": "<fim_suffix>", "<|reserved_3|>": "<fim_middle>"}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapter_of(model: Any, folder: Path, **changes: Any) -> Any:
    """A low-rank adapter with random numbers on every linear layer, written by peft; the model that peft makes of it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, TaskType, get_peft_model

        options = {"r": 3, "lora_alpha": 5, "target_modules": LINEAR, "task_type": TaskType.CAUSAL_LM, **changes}
        adapted = get_peft_model(model, LoraConfig(**options))
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0.0, 0.3)
        adapted.peft_config["default"].base_model_name_or_path = "Tiny"
        adapted.save_pretrained(str(folder))
    (folder / "NOTICE.md").write_text("Mine.\n")
    return adapted


def described(folder: Path, base: PackagedModel, **changes: Any) -> PackagedAdapter:
    """What the table would say of an adapter."""
    files = ("adapter_model.safetensors", "adapter_config.json")
    settings: dict[str, Any] = {
        "title": "Tiny-FIM",
        "licence": "CC0-1.0",
        "base": "tiny",
        "base_sha256": base.sha256,
        "folder": folder,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "names": NAMES,
        "vocabulary": 300,
        "disk_bytes": 1_000_000,
    }
    return PackagedAdapter(**{**settings, **changes})


@dataclasses.dataclass
class Tiny:
    """A base, its adapter, and the table that holds both."""

    folder: Path
    base: PackagedModel
    adapter: PackagedAdapter
    table: dict[str, Any]
    fetched: list[str]

    def set(self, **changes: Any) -> None:
        """Describe the adapter anew, as its files are, with these changes."""
        self.adapter = self.table["tiny-fim"] = described(self.folder, self.base, **changes)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A small model like SmolLM2 that needs no pip, an adapter for it, and an empty cache."""
    monkeypatch.setenv("BYTELM_CACHE", str(tmp_path / "cache"))
    content, model = smollm_like(tmp_path / "model.gguf", reserved=[*NAMES])
    base = PackagedModel(
        title="Tiny",
        licence="CC0-1.0",
        parts=(),
        notices=(),
        sha256=hashlib.sha256(content).hexdigest(),
        vocabulary=300,
        file_bytes=len(content),
        download_bytes=len(content),
        disk_bytes=1_000_000,
        eos_ids=(0, 1),
    )
    fetched: list[str] = []

    def fetch(model: PackagedModel, work: Path, notices: Path, report: Callable[..., None]) -> Path:
        fetched.append(model.title)
        (notices / "LICENSE").write_text("Do as you please.\n")
        return Path(shutil.copyfile(tmp_path / "model.gguf", work / "model.gguf"))

    folder = tmp_path / "adapter"
    adapter_of(model, folder)
    table: dict[str, Any] = {"tiny": base, "tiny-fim": described(folder, base)}
    monkeypatch.setattr(packaged, "fetch", fetch)
    monkeypatch.setattr(packaged, "PACKAGED", table)
    return Tiny(folder, base, table["tiny-fim"], table, fetched)


def test_the_merged_weights_are_those_of_peft(tiny: Tiny) -> None:
    """Every weight is what `merge_and_unload` makes of it, in float32; the adapted matrices have changed."""
    import torch

    before, _ = load(packaged_directory("tiny"))
    after, _ = load(packaged_directory("tiny-fim"))

    expected = merged_by_peft(packaged_directory("tiny"), tiny.folder)
    weights, original = after.state_dict(), before.state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], original[name]) is not any(part in name for part in LINEAR)


def merged_by_peft(base: Path, adapter: Path) -> dict[str, Any]:
    """The weights that peft makes of a base and an adapter."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        adapted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
        weights: dict[str, Any] = adapted.merge_and_unload().state_dict()
    return weights


def test_the_merged_tokenizer_differs_in_the_names_alone(tiny: Tiny) -> None:
    """Three ids have another name, text is encoded as before, and the format is found by the ordinary rule."""
    base, merged = packaged_directory("tiny"), packaged_directory("tiny-fim")
    (_, before), (_, after) = load(base), load(merged)

    lm = ByteLM.from_pretrained(merged)

    assert find_format(lm.viability.vocab) is FORMATS["starcoder"]
    for old, new in NAMES.items():
        assert after.convert_tokens_to_ids(new) == before.convert_tokens_to_ids(old)
    text = "ab a 11é<|im_end|><fim_prefix>"
    plain = text.replace("<fim_prefix>", "<|reserved_1|>")
    assert after(text).input_ids == before(plain).input_ids
    others = {path.name for path in base.iterdir()} - {"model.safetensors", "tokenizer.json", "manifest.json"}
    assert {name: (merged / name).read_bytes() for name in others} == {n: (base / n).read_bytes() for n in others}
    assert (merged / "NOTICE.md").read_text() == "Mine.\n"


def test_the_merged_model_fills_in(tiny: Tiny) -> None:
    """The name goes through `ByteLM.from_pretrained`, and `infill` needs to be told nothing."""
    done = ByteLM.from_pretrained("tiny-fim").infill("ab a", "ab", max_bytes=4, seed=1)

    assert len(done.bytes) <= 4
    assert done.usage.calls > 0


def test_it_is_merged_once_and_the_base_fetched_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call finds the folder whole, and asks nothing of the base; the manifest says what it was made of."""
    folder = packaged_directory("tiny-fim")
    shutil.rmtree(packaged_directory("tiny"))
    monkeypatch.setattr(packaged, "merge", lambda *_: pytest.fail("merged again"))

    assert packaged_directory("tiny-fim", verify=True) == folder
    assert tiny.fetched == ["Tiny"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["model"], manifest["licence"]) == ("Tiny-FIM", "CC0-1.0")
    assert manifest["source"] == ["tiny", "adapter_config.json", "adapter_model.safetensors"]


def test_what_it_is_made_of_is_in_its_name(tiny: Tiny) -> None:
    """Another base, another adapter or other names are another folder; the order of a table is not."""
    changes: list[dict[str, Any]] = [
        {"base_sha256": "0" * 64},
        {"sha256": {**tiny.adapter.sha256, "adapter_config.json": "0" * 64}},
        {"names": {}},
    ]

    keys = {dataclasses.replace(tiny.adapter, **change).source_sha256 for change in changes}

    assert len(keys | {tiny.adapter.source_sha256}) == 4
    turned = dataclasses.replace(tiny.adapter, names=dict(reversed(NAMES.items())))
    assert turned.source_sha256 == tiny.adapter.source_sha256


# ---- what does not belong together


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_another_adapter_is_refused(name: str, tiny: Tiny) -> None:
    """A file with another sha256 is named with both sums, before the base is fetched."""
    path = tiny.folder / name
    path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(DownloadError, match=f"{name}.*{hashlib.sha256(path.read_bytes()).hexdigest()}") as caught:
        packaged_directory("tiny-fim")

    assert tiny.adapter.sha256[name] in str(caught.value)
    assert tiny.fetched == []


def test_a_missing_adapter_is_named(tiny: Tiny) -> None:
    """A file that is not there is no crash."""
    (tiny.folder / "adapter_model.safetensors").unlink()

    with pytest.raises(DownloadError, match=r"adapter_model\.safetensors.*reinstall"):
        packaged_directory("tiny-fim")


def test_another_base_is_refused(tiny: Tiny) -> None:
    """An adapter that was made for other weights is not merged; the error says which were meant and which are there."""
    tiny.set(base_sha256="0" * 64)

    with pytest.raises(
        ModelError, match=f"made for Tiny with sha256 {'0' * 64}.*is Tiny with sha256 {tiny.base.sha256}"
    ):
        packaged_directory("tiny-fim")

    assert folders_in_cache() == [packaged_directory("tiny").name]


def rewrite_config(tiny: Tiny, **changes: Any) -> None:
    path = tiny.folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    tiny.set()


def test_a_base_of_another_name_is_refused(tiny: Tiny) -> None:
    """The base that the adapter's own configuration names has to be the one."""
    rewrite_config(tiny, base_model_name_or_path="Large")

    with pytest.raises(ModelError, match="made for Large"):
        packaged_directory("tiny-fim")


@pytest.mark.parametrize("setting", ["use_dora", "use_rslora", "fan_in_fan_out"])
def test_an_adapter_of_another_kind_is_refused(setting: str, tiny: Tiny) -> None:
    """What is no plain low-rank sum is not taken for one."""
    rewrite_config(tiny, **{setting: True})

    with pytest.raises(ModelError, match=setting):
        packaged_directory("tiny-fim")


@pytest.mark.parametrize("drop", ["model.layers.1.mlp.up_proj.weight", "lora_B"])
def test_an_adapter_that_does_not_fit_is_refused(drop: str) -> None:
    """A pair without its other half, or for a matrix that is not there, is no part of a sum."""
    import torch

    name = "model.layers.1.mlp.up_proj.weight"
    weights = {name: torch.zeros(5, 7)}
    adapter = {
        "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight": torch.ones(2, 7),
        "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight": torch.ones(5, 2),
    }
    weights = {key: value for key, value in weights.items() if drop not in key}
    adapter = {key: value for key, value in adapter.items() if drop not in key}

    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        merging.add_low_rank(weights, adapter, scale=1.0)


def test_a_base_without_the_tokens_is_refused(tiny: Tiny) -> None:
    """A token that the adapter uses and the base lacks is named; a token of text is no special one."""
    tiny.set(names={"<|none|>": "<fim_prefix>", "ab": "<fim_suffix>"})

    with pytest.raises(ModelError, match=r"\['<\|none\|>', 'ab'\]"):
        packaged_directory("tiny-fim")


# ---- the disk


def test_a_damaged_base_is_mended_first(tiny: Tiny) -> None:
    """A base that changed without changing its size is not what is merged: its sums are compared."""
    weights = packaged_directory("tiny") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    packaged_directory("tiny-fim")

    assert tiny.fetched == ["Tiny", "Tiny"]
    assert weights.read_bytes() != content


def test_a_damaged_model_is_merged_again(tiny: Tiny) -> None:
    """A merged folder that lost a file is replaced from the base, which is not fetched again."""
    folder = packaged_directory("tiny-fim")
    (folder / "model.safetensors").unlink()

    assert packaged_directory("tiny-fim") == folder

    assert (folder / "model.safetensors").is_file()
    assert tiny.fetched == ["Tiny"]


def test_a_disk_that_fills_up_leaves_the_base_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the merged weights are written is a full disk, and nothing of them stays."""
    import safetensors.torch

    def full(*_: Any, **__: Any) -> NoReturn:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    base = packaged_directory("tiny")
    monkeypatch.setattr(safetensors.torch, "save_file", full)

    with pytest.raises(CacheWriteError, match=r"cannot write Tiny-FIM.*BYTELM_CACHE"):
        packaged_directory("tiny-fim")

    assert folders_in_cache() == [base.name]


def test_too_little_room_is_seen_before(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the base fits and the merged model does not, the error names the latter."""
    packaged_directory("tiny")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=250_000))

    with pytest.raises(CacheWriteError, match=r"Tiny-FIM needs 1\.00 MB"):
        packaged_directory("tiny-fim")


def test_an_interrupted_merge_leaves_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle removes what was written, and the next call succeeds."""

    def interrupted(base: Path, folder: Path, adapter: PackagedAdapter) -> NoReturn:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packaged, "merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            packaged_directory("tiny-fim")
    assert folders_in_cache() == [packaged_directory("tiny").name]

    assert (packaged_directory("tiny-fim") / "model.safetensors").stat().st_size > 1000


def test_merging_needs_less_than_converting(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the base in the cache, gguf may be missing; safetensors may not."""
    packaged_directory("tiny")
    real = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda m: None if m == "safetensors" else real(m))
        with pytest.raises(MissingDependencyError, match="safetensors"):
            packaged_directory("tiny-fim")
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == "gguf" else real(m))

    assert packaged_directory("tiny-fim").is_dir()


# ---- the real one


def shipped() -> PackagedAdapter:
    model = PACKAGED["demo-fim"]
    assert isinstance(model, PackagedAdapter)
    return model


def test_the_adapter_ships_with_the_package() -> None:
    """Its files are there, the expected ones, under 12 MiB, with a note of origin and licence, made for the demo model."""
    adapter = shipped()

    merging.check_adapter(adapter)

    assert sum(path.stat().st_size for path in adapter.folder.iterdir()) < 12 * 2**20
    assert adapter.base_sha256 == PACKAGED[adapter.base].source_sha256
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == PACKAGED[adapter.base].title
    notice = (adapter.folder / "NOTICE.md").read_text(encoding="utf-8")
    assert adapter.licence in notice
    assert all(f"`{old}`" in notice and f"`{new}`" in notice for old, new in adapter.names.items())


@pytest.mark.slow
def test_the_shipped_adapter_is_merged_as_by_peft() -> None:
    """Every weight of demo-fim is what peft makes of the demo model and the shipped files."""
    import torch

    merged, tokenizer = load(packaged_directory("demo-fim"))

    expected = merged_by_peft(packaged_directory("demo"), shipped().folder)
    weights = merged.state_dict()
    assert weights.keys() == expected.keys()
    # Weights are below 20 in size, and peft adds up the same products: what differs is the last bit.
    assert max((weights[name] - weight).abs().max().item() for name, weight in expected.items()) < 1e-5
    assert tokenizer.convert_tokens_to_ids(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]) == [7, 16, 10]
    assert not any(torch.isnan(weight).any() for weight in weights.values())


@pytest.mark.slow
def test_the_shipped_model_fills_in_where_tokens_do_not(fim: ByteLM) -> None:
    """The example of the README: by bytes the word goes on across the cursor."""
    done = fim.infill("def add(a, b):\n    ret", "\n\nprint(add(1, 2))\n", temperature=0, max_bytes=43)

    assert done.text.startswith("urn a + b")
    assert done.finish_reason == "eot"
