"""Models that were given to ``torch.compile``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bytelm import ByteLM
from bytelm.engines.transformers.uncompiled import uncompiled
from tests.support.tiny import default_tokenizer, tiny_model

SEQUENCES = [(1, 2, 3), (1, 2, 4, 5, 6), (1, 2), (9,)]


class Compiler:
    """A backend that counts what it is asked to compile."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


def whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend)
    return model


def layer_by_layer(model: Any, backend: Any) -> Any:
    for i, layer in enumerate(model.model.layers):
        model.model.layers[i] = torch.compile(layer, backend=backend)
    return model


@pytest.mark.parametrize("how", [whole, in_place, layer_by_layer])
def test_a_compiled_model_runs_at_once(how: Callable[[Any, Any], Any]) -> None:
    """Rows, completions and engine draws are those of the model itself, to the last bit, and nothing is compiled."""
    plain, compiler = ByteLM(tiny_model("llama"), default_tokenizer()), Compiler()

    lm = ByteLM(how(tiny_model("llama"), compiler), default_tokenizer())

    rows = lm.token_lm.next_token_logprobs(SEQUENCES)
    assert np.array_equal(rows, plain.token_lm.next_token_logprobs(SEQUENCES))
    assert getattr(lm.token_lm, "mode", "") == "tree"
    for engine_draws in (False, True):
        options: dict[str, Any] = {"max_bytes": 12, "seed": 5, "engine_draws": engine_draws}
        assert lm.sample("The qui", **options).bytes == plain.sample("The qui", **options).bytes
    assert compiler.count == 0


def test_the_model_is_still_compiled_afterwards() -> None:
    """What the caller does with the model outside of bytelm runs compiled."""
    compiler = Compiler()
    model = whole(tiny_model("llama"), compiler)
    ByteLM(model, default_tokenizer()).sample("The", max_bytes=3, seed=1)
    before = compiler.count

    with torch.inference_mode():
        model(torch.tensor([[1, 2]]), use_cache=False)

    assert (before, compiler.count) == (0, 1)


def test_threads_leave_it_as_it_was() -> None:
    """Whoever of several threads leaves last puts torch's stance back, and none before."""
    compiler, inside, leave = Compiler(), threading.Barrier(2, timeout=60), threading.Event()
    double = torch.compile(torch.nn.ReLU(), backend=compiler)

    def other() -> None:
        with uncompiled():
            inside.wait()
            leave.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    with uncompiled():
        inside.wait()
    double(torch.ones(3))
    while_the_other_is_inside = compiler.count
    leave.set()
    thread.join()
    double(torch.ones(3))

    assert (while_the_other_is_inside, compiler.count) == (0, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, of its parts that it compiles with
def test_against_code_that_inductor_compiled() -> None:
    """Rows are those of the model as inductor compiles it, within its rounding: part of it is in float32."""
    model: Any = torch.compile(tiny_model("llama"))
    lm = ByteLM(model, default_tokenizer())

    rows = lm.token_lm.next_token_logprobs(SEQUENCES[:2])

    for ids, row in zip(SEQUENCES, rows, strict=False):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        assert np.abs(row - torch.log_softmax(logits, -1).numpy()).max() <= 1e-5
