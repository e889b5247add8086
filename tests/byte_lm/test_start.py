"""What stands in front of a text that is scored as a whole: one rule for every number, and a prefix for the other one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance

from bytelm import ByteLM, Ensemble
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.harness.model import HarnessLM
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer, tiny_model

TEXT = "the fox"


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A model whose tokenizer has a BOS and puts none in front of a text."""
    return ByteLM(TransformersLM(tiny_model("llama", vocab_size=320), byte_bpe_tokenizer(bos="<|bos|>")))


def by_the_model(lm: ByteLM, start: int, *, kept: bool) -> float:
    """Return ln P of the text, summed over its cover: each sequence by uncached passes of the model itself.

    The first token is judged after the start token; the others after the tokens alone, or where that is ``kept`` in
    front, after it and the tokens.
    """
    model: Any = lm.token_lm
    total = []
    for item in lm.cover(TEXT):
        ids = [start, *item.token_ids]
        with torch.no_grad():
            first = model.model(torch.tensor([ids[:1]])).logits[0].log_softmax(-1)[-1, ids[1]]
            rest = model.model(torch.tensor([ids if kept else ids[1:]])).logits[0].log_softmax(-1)
        rows = rest[1:-1] if kept else rest[:-1]
        total.append(float(first + rows.gather(1, torch.tensor([ids[2:]]).T).sum()))
    return float(np.logaddexp.reduce(total))


def rolled(lm: Any, **options: Any) -> float:
    asked = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(TEXT,), idx=0)
    return HarnessLM(lm, **options).loglikelihood_rolling([asked], disable_tqdm=True)[0]


def test_what_each_number_is(lm: ByteLM) -> None:
    """Without a prefix the first token alone sees the start token; after `start_prefix` all of them do."""
    start = lm.tokenizer.bos_token_id
    assert (lm.start_id, lm.prompt(b"").context) == (start, ())

    alone, kept = (by_the_model(lm, start, kept=kept) for kept in (False, True))
    assert abs(alone - kept) > 0.1
    assert lm.logprob(TEXT) == pytest.approx(alone, abs=1e-9)
    assert lm.logprob(TEXT, prefix=lm.start_prefix()) == pytest.approx(kept, abs=1e-9)
    assert lm.byte_logprobs(TEXT, prefix=lm.start_prefix()).sum() == pytest.approx(kept, abs=1e-9)
    assert lm.logprob("fox", prefix=lm.start_prefix("the ")) == pytest.approx(
        kept - lm.logprob("the ", prefix=lm.start_prefix()), abs=1e-9
    )
    assert lm.logprob(TEXT) == pytest.approx(lm.logprob("the ") + lm.logprob("fox", prefix="the "), abs=1e-9)


def test_the_harness_has_the_same_two_numbers(lm: ByteLM) -> None:
    """Rolling is what `logprob` says, at both levels; with ``start`` it is lm-eval's rule, `start_prefix`."""
    ids = lm.tokenizer.encode(TEXT)

    assert rolled(lm) == pytest.approx(lm.logprob(TEXT), abs=1e-9)
    assert rolled(lm, start=True) == pytest.approx(lm.logprob(TEXT, prefix=lm.start_prefix()), abs=1e-9)
    for start, context in ((True, (lm.start_id,)), (False, ())):
        rows = lm.token_lm.next_token_logprobs([(*context, *ids[:at]) for at in range(len(ids))])
        expected = math.fsum(float(row[i]) for row, i in zip(rows, ids, strict=True))
        assert rolled(lm, level="token", start=start) == pytest.approx(expected, abs=1e-9)
    assert HarnessLM(lm).digest() != HarnessLM(lm, start=True).digest()


def test_an_ensemble_starts_each_member_by_its_own_token(lm: ByteLM) -> None:
    """Each member has its start token in front of the shared text."""
    other = ByteLM(TransformersLM(tiny_model("llama", vocab_size=320, seed=1), byte_bpe_tokenizer(vocab_size=290)))
    both = Ensemble([lm, other], combine="bayes")
    each = [member.logprob(TEXT, prefix=member.start_prefix()) for member in (lm, other)]

    assert other.start_id == other.tokenizer.eos_token_id != lm.start_id
    assert both.logprob(TEXT, prefix=both.start_prefix()) == pytest.approx(
        np.logaddexp(each[0], each[1]) - math.log(2), abs=1e-9
    )
    assert rolled(both, start=True) == pytest.approx(both.logprob(TEXT, prefix=both.start_prefix()), abs=1e-9)


def test_with_bos_in_front_nothing_changes() -> None:
    """A tokenizer that puts BOS before a text has its start token there, and its hidden space behind it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = sentencepiece_bpe_tokenizer(prepend=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    lm = ByteLM(TransformersLM(tiny_model("llama", vocab_size=440), tokenizer))

    assert lm.prompt(lm.start_prefix("the")) == lm.prompt("the")
