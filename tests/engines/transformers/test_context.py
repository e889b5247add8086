"""How long a sequence may be: what the configuration says, what rotary embeddings reach, what the caller says."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch

from bytelm import ByteLM
from bytelm.engines.choice import load_engine
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.engine import TransformersLM, load
from bytelm.errors import ContextOverflowError, InvalidArgumentError, InvalidTypeError
from bytelm.token_lm import Draw
from tests.support.tiny import default_tokenizer, tiny_model

SHORT = 23  # what the configurations below say of the context, and what their factors multiply
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": SHORT}
LINEAR = {"rope_type": "linear", "factor": 3.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


def model_of(rope: dict[str, Any] | None, kind: str = "llama", **overrides: Any) -> Any:
    sizes: dict[str, Any] = {"max_position_embeddings": SHORT} | overrides
    if rope is not None:
        sizes["rope_parameters"] = {"rope_theta": 1e4, **rope}
    return tiny_model(kind, **sizes)


def row_of_a_fresh_copy(model: Any, ids: tuple[int, ...]) -> np.ndarray:
    """The definition, by a model that has seen nothing else: some remember how long sequences were."""
    with torch.inference_mode():
        logits = copy.deepcopy(model)(torch.tensor([ids]), use_cache=False).logits[0, -1]
    row: np.ndarray = torch.log_softmax(logits, -1).numpy()
    return row


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 23),
        (YARN, 92),
        ({**YARN, "original_max_position_embeddings": 11}, 44),
        ({**YARN, "original_max_position_embeddings": 5, "factor": 2.0}, 23),  # what is declared is never cut
        (LINEAR, 69),
        (DYNAMIC, 46),
        ({"rope_type": "default"}, 23),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 5,
            },
            23,
        ),
    ],
    ids=str,
)
def test_stretched_positions_reach_further(rope: dict[str, Any] | None, expected: int) -> None:
    """Rotary embeddings that are stretched by a factor take sequences that are as many times longer, and no longer."""
    lm = TransformersLM(model_of(rope), default_tokenizer())
    longest = tuple(i * i % 311 for i in range(expected))

    row = lm.next_token_logprobs([longest])[0]

    assert lm.context_length == expected
    assert np.abs(row - row_of_a_fresh_copy(lm.model, longest)).max() <= 1e-5
    with pytest.raises(ContextOverflowError, match=f"context of {expected}.*larger context_length"):
        lm.next_token_logprobs([(*longest, 1)])


def test_layers_of_different_reach() -> None:
    """Where only some layers are stretched, as in Gemma 3, the context is what the configuration says."""
    ropes = {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default"}}

    lm = TransformersLM(model_of(ropes, kind="gemma3"), default_tokenizer())

    assert lm.context_length == SHORT


def test_dynamic_positions_do_not_remember() -> None:
    """Dynamic frequencies stay as the longest sequence made them; rows do not, in whatever order they are asked for."""
    lm = TransformersLM(model_of(DYNAMIC), default_tokenizer())
    ids = tuple(i * i % 311 for i in range(46))
    lengths = [46, 23, 24, 22, 31, 46, 5, 30, 23, 45]

    far = 0.0
    for n in lengths:
        lm.clear_cache()
        row = lm.next_token_logprobs([ids[:n]])[0]
        far = max(far, float(np.abs(row - row_of_a_fresh_copy(tiny_fresh(), ids[:n])).max()))

    together = lm.next_token_logprobs([ids[:n] for n in lengths])
    for n, row in zip(lengths, together, strict=True):
        far = max(far, float(np.abs(row - row_of_a_fresh_copy(tiny_fresh(), ids[:n])).max()))
    assert far <= 1e-5


def tiny_fresh() -> Any:
    return model_of(DYNAMIC)


def test_dynamic_positions_in_engine_draws() -> None:
    """Tokens that the engine draws beyond the trained length come from the rows that the engine gives."""
    lm = TransformersLM(model_of(DYNAMIC), default_tokenizer())
    ids = [*range(1, 20)]
    told: list[float] = []
    expected: list[float] = []

    def take(token: int, logprob: float) -> bool:
        told.append(logprob)
        expected.append(float(row_of_a_fresh_copy(tiny_fresh(), tuple(ids))[token]))
        ids.append(token)
        return True

    draws = [Draw(tuple(ids), seed=3, max_tokens=15, take=take)]
    lm.draw_tokens(lambda: [draws.pop()] if draws else [])

    assert len(ids) == 34
    assert np.abs(np.array(told) - expected).max() <= 1e-5


def test_a_context_given_by_hand() -> None:
    """A caller may say how long sequences may be, longer than the configuration has it or shorter."""
    long = ByteLM(model_of(None), default_tokenizer(), context_length=50)
    short = ByteLM(model_of(YARN), default_tokenizer(), context_length=7)

    assert long.abilities.context_length == 50
    assert long.token_lm.next_token_logprobs([tuple(range(50))]).shape == (1, 317)
    with pytest.raises(ContextOverflowError, match="context of 7"):
        short.token_lm.next_token_logprobs([tuple(range(8))])


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "opt", "gptj"])
def test_a_table_of_positions_is_the_limit(kind: str) -> None:
    """Where positions are rows of a table, learned or not, no context beyond it is taken."""
    model = tabled(kind)

    lm = TransformersLM(model, default_tokenizer(), context_length=31)

    assert lm.next_token_logprobs([tuple(range(31))]).shape == (1, 317)
    with pytest.raises(InvalidArgumentError, match="context_length=32 is beyond the 31 positions"):
        TransformersLM(model, default_tokenizer(), context_length=32)
    with pytest.raises(ContextOverflowError, match=r"context of 31; shorten the prompt, keep its last part, or give"):
        lm.next_token_logprobs([tuple(range(32))])


def tabled(kind: str) -> Any:
    import transformers

    if kind in ("gpt2", "gpt_neo"):
        return tiny_model(kind, **{"gpt2": {"n_positions": 31}, "gpt_neo": {"max_position_embeddings": 31}}[kind])
    if kind == "opt":
        sizes: dict[str, Any] = {"hidden_size": 24, "ffn_dim": 37, "num_hidden_layers": 1, "num_attention_heads": 3}
        config: Any = transformers.OPTConfig(
            vocab_size=317, max_position_embeddings=31, word_embed_proj_dim=24, bos_token_id=0, eos_token_id=0, **sizes
        )
        return transformers.OPTForCausalLM(config).eval()
    config = transformers.GPTJConfig(
        vocab_size=317, n_positions=31, n_embd=24, n_layer=1, n_head=3, rotary_dim=4, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPTJForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("length", "error"), [(0, InvalidArgumentError), (2.5, InvalidTypeError), (True, InvalidTypeError)]
)
def test_a_context_that_is_none(length: Any, error: type[Exception]) -> None:
    """What is no whole number of at least 1 is refused, with the value."""
    with pytest.raises(error, match=f"context_length.*{length}"):
        inspect.unwrap(traits.chosen_length)(model_of(None), length)


def test_a_context_for_an_engine_that_is_made() -> None:
    """An engine has its context already; a second one is refused rather than ignored."""
    engine = TransformersLM(model_of(None), default_tokenizer())

    with pytest.raises(InvalidArgumentError, match="no effect on a TransformersLM"):
        ByteLM(engine, context_length=9)


def test_a_context_by_name(tmp_path: Any) -> None:
    """From a folder too: by the engine's load, by from_pretrained and by ByteLM of a path."""
    model_of(None).save_pretrained(tmp_path)
    default_tokenizer().save_pretrained(tmp_path)

    lengths = [
        load(tmp_path, context_length=40).context_length,
        ByteLM.from_pretrained(tmp_path, context_length=40).abilities.context_length,
        ByteLM(tmp_path, context_length=40).abilities.context_length,
        ByteLM(tmp_path).abilities.context_length,
    ]

    assert lengths == [40, 40, 40, SHORT]


def test_a_server_has_its_context() -> None:
    """The one engine that cannot be told says so."""
    with pytest.raises(InvalidArgumentError, match="takes no context_length: the server was told"):
        load_engine("vllm-server", "http://localhost:1", context_length=9)
