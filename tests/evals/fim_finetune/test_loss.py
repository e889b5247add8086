"""What is taught in a step and what is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evals.fim_finetune.corpus import functions_of
from evals.fim_finetune.samples import Encoder, held_out_samples, packed
from evals.fim_finetune.settings import Holes
from evals.fim_finetune.training import collate, held_out_loss, summed_loss
from tests.evals.fim_finetune.toy import (
    module,
)
from tests.support.tiny import tiny_model


def test_the_loss_is_that_of_middles_and_ends(tokenizer: Any) -> None:
    """A batch of unequal rows has the loss of its rows one by one, by the definition: −log p of the labelled tokens."""
    model = tiny_model("llama", vocab_size=353)
    encoder = Encoder(tokenizer)
    samples = [
        *held_out_samples(list(functions_of(module("a")))[:3], encoder, Holes(), seed=1)["psm"],
        *held_out_samples(list(functions_of(module("b")))[:4], encoder, Holes(), seed=2)["spm"],
    ]

    expected, first, count = 0.0, 0.0, 0
    for sample in samples:
        rows = torch.log_softmax(model(torch.tensor([sample.ids])).logits[0], -1)
        first -= float(rows[sample.first - 1, sample.ids[sample.first]].detach())
        for place in range(sample.first, len(sample.ids)):
            expected -= float(rows[place - 1, sample.ids[place]].detach())
            count += 1
    inputs = collate(samples)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    total, tokens = summed_loss(logits, labels)
    stressed, weight = summed_loss(logits, labels, first_weight=4.0)

    assert (int(tokens), int(weight)) == (count, count + 3 * len(samples))
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(stressed.detach()) == pytest.approx(expected + 3 * first, rel=1e-5)


def test_what_stands_before_the_middle_is_not_in_the_loss(tokenizer: Any) -> None:
    """Only the rows of labelled tokens have a gradient."""
    model = tiny_model("llama", vocab_size=353)
    (sample,) = held_out_samples(list(functions_of(module("a")))[:1], Encoder(tokenizer), Holes(), seed=1)["psm"]
    seen: list[torch.Tensor] = []
    head = model.get_output_embeddings()

    def note(_module: Any, _inputs: Any, logits: torch.Tensor) -> None:
        logits.retain_grad()
        seen.append(logits)

    hook = head.register_forward_hook(note)

    inputs = collate([sample])
    labels = inputs.pop("labels")
    summed_loss(model(**inputs).logits, labels)[0].backward()
    hook.remove()

    assert seen[0].grad is not None
    assert seen[0].shape[1] == len(sample.ids) - sample.first + 1  # what comes after the end is predicted too
    assert bool((seen[0].grad.abs().sum(-1)[0, :-1] > 0).all())
    assert not seen[0].grad[0, -1].any()


def test_packing_does_not_change_the_held_out_loss(tokenizer: Any) -> None:
    """Held-out losses are means over tokens, however the samples are packed."""
    model = tiny_model("llama", vocab_size=353)
    samples = held_out_samples(list(functions_of(module("a")))[:6], Encoder(tokenizer), Holes(), seed=1)

    one, many = (held_out_loss(model, samples, dtype="float32", batch_tokens=size) for size in (1, 5000))

    assert len(packed(samples["psm"], 1)) == 6
    assert one == pytest.approx(many, rel=1e-5)
    assert {*one} == {"psm", "spm"}


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast")
def test_bfloat16_is_near(tokenizer: Any) -> None:
    """Autocast changes the loss in the third digit at most."""
    model = tiny_model("llama", vocab_size=353, dtype=torch.float32)
    samples = held_out_samples(list(functions_of(module("a")))[:6], Encoder(tokenizer), Holes(), seed=1)

    wide, narrow = (held_out_loss(model, samples, dtype=name, batch_tokens=900) for name in ("float32", "bfloat16"))

    assert wide != narrow
    assert narrow == pytest.approx(wide, rel=0.01)
