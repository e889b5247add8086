"""A random Llama, a tiny tokenizer, made-up packages, and a run that nothing interrupted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evals.fim_finetune.toy import (
    SENTINELS,
    install,
    module,
    run,
)
from tests.support.tiny import byte_bpe_tokenizer, tiny_model


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_bpe_tokenizer(
        vocab_size=353, corpus=[module("a")], eos="<|endoftext|>", special=SENTINELS, pre_tokenizer="smollm2"
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a model, packages and a benchmark."""
    root = tmp_path_factory.mktemp("world")
    install(root / "site", "alpha", files={"a.py": module("a"), "tests/t.py": module("t")})
    install(root / "site", "beta", files={"b.py": module("b")})
    install(root / "site", "gamma", files={"c.py": module("c")})
    install(root / "site", "closed", licence="License-Expression: GPL-3.0-only", files={"d.py": module("d")})
    row = {"task_id": "0", "entry_point": "b_add_apple", "prompt": "def b_add_apple():", "canonical_solution": "\n"}
    (root / "bench.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    model = tiny_model("llama", vocab_size=353, dtype=torch.float32, max_position_embeddings=503)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return root


@pytest.fixture(scope="session")
def whole(world: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    out = world / "whole"
    assert run(world, "--out", str(out)) == 0
    return out


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Makes something happen in the middle of a step."""

    def arrange(step: int, happens: Callable[[], None]) -> None:
        numbers, original = count(1), torch.optim.AdamW.step

        def stepped(self: Any, *args: Any, **options: Any) -> Any:
            if next(numbers) == step:
                happens()
            return original(self, *args, **options)

        monkeypatch.setattr(torch.optim.AdamW, "step", stepped)

    return arrange
