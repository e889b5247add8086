from __future__ import annotations

import pytest
import torch

from bytelm.engines.transformers import thin_linear
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.engines.transformers.thin_linear import ThinLinear, gaining_sizes
from tests.support.tiny import default_tokenizer, tiny_model


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_the_product_is_the_same(rows: int, bias: bool) -> None:
    """Rerouted, a linear layer gives what it gives, in the same shape."""
    layer, x = torch.nn.Linear(7, 5, bias=bias), torch.randn(rows, 1, 7)

    with torch.inference_mode(), ThinLinear({rows}):
        actual = layer(x)

    assert actual.shape == (rows, 1, 5)
    assert torch.allclose(actual, layer(x), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_let_be(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only float32 is rerouted, and only the sizes that were named."""
    monkeypatch.setattr(thin_linear, "_thin", pytest.fail)
    layer = torch.nn.Linear(7, 5)

    with torch.inference_mode(), ThinLinear({2}):
        layer(torch.randn(3, 7))
        layer.to(dtype)(torch.randn(2, 7, dtype=dtype))


def test_it_is_in_force_only_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the mode nothing is rerouted."""
    calls: list[tuple[int, ...]] = []

    def recorded(x: torch.Tensor, *_: object) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return x

    monkeypatch.setattr(thin_linear, "_thin", recorded)
    layer, x = torch.nn.Linear(7, 5), torch.randn(2, 7)

    with torch.inference_mode():
        with ThinLinear({2}):
            layer(x)
        layer(x)

    assert calls == [(2, 7)]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_an_engine_with_it(kind: str) -> None:
    """An engine told to reroute gives the rows that it gives otherwise, within rounding."""
    model = tiny_model(kind, dtype=torch.float32)
    plain, thin = (TransformersLM(model, default_tokenizer(), thin_linear=choice) for choice in (False, True))
    calls: list[list[tuple[int, ...]]] = [[(1, 2, 3)], [(1, 2, 3, 4), (1, 2, 5)], [(1, 2, 3, 4, 5)]]

    far = max(abs(plain.next_token_logprobs(call) - thin.next_token_logprobs(call)).max() for call in calls)

    assert 0 < far <= 1e-4


def test_measuring() -> None:
    """A model too small to gain is not measured; of a larger one the sizes found are among those that exist."""
    large = torch.nn.Sequential(*(torch.nn.Linear(1031, 1033) for _ in range(13)))

    assert gaining_sizes(tiny_model("llama", dtype=torch.float32)) == frozenset()
    assert gaining_sizes(large) <= set(range(1, 9))
