"""Tokenizers that are alike share what is worked out of them; others never do."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from bytelm import ByteLM, Ensemble
from bytelm.engines.table import TableLM
from bytelm.tokenizer.viability.viability import Viability
from tests.support.tiny import byte_bpe_tokenizer

TEXT = byte_bpe_tokenizer(vocab_size=290).backend_tokenizer.to_str()


def changed(change: Callable[[Any], object]) -> Tokenizer:
    """The tokenizer, its JSON changed."""
    data = json.loads(TEXT)
    change(data)
    return Tokenizer.from_str(json.dumps(data))


def test_tokenizers_that_are_alike_share_one_as_long_as_it_is_in_use() -> None:
    """Read twice they are one; when nobody has it, it is gone."""
    one = Viability.from_tokenizer(changed(_ids))
    assert Viability.from_tokenizer(changed(_ids)) is one

    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def _merges(data: Any) -> None:
    data["model"]["merges"][:2] = data["model"]["merges"][1::-1]


def _ids(data: Any) -> None:
    vocab = data["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


CHANGES: dict[str, Callable[[Any], object]] = {
    "merges in another order": _merges,
    "two ids exchanged": _ids,
    "ignore_merges": lambda data: data["model"].update(ignore_merges=True),
    "another split": lambda data: data.update(
        pre_tokenizer=json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).__getstate__())
    ),
    "a hidden space": lambda data: data.update(
        pre_tokenizer=json.loads(pre_tokenizers.ByteLevel(add_prefix_space=True).__getstate__())
    ),
    "another beginning": lambda data: data.update(
        post_processor=json.loads(
            processors.TemplateProcessing(single="<|eot|> $A", special_tokens=[("<|eot|>", 0)]).__getstate__()
        )
    ),
    "a normal form": lambda data: data.update(normalizer=json.loads(normalizers.NFC().__getstate__())),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_others_have_their_own(change: Callable[[Any], object]) -> None:
    """Whatever a tokenizer does otherwise, its viability is another."""
    one = Viability.from_tokenizer(Tokenizer.from_str(TEXT))

    assert Viability.from_tokenizer(changed(change)) is not one


@pytest.mark.parametrize("changes_the_other", [False, True])
def test_a_tokenizer_that_is_changed_in_place_is_shared_no_more(*, changes_the_other: bool) -> None:
    """What was read before a tokenizer got another normalizer does not serve one that has it, nor the other way round."""
    one, other = changed(_ids), changed(_ids)
    before = Viability.from_tokenizer(one)
    (other if changes_the_other else one).normalizer = normalizers.NFC()
    after = Viability.from_tokenizer(other)

    assert after is not before
    assert (after.form is not None) == changes_the_other
    assert after.vocab.encode("e\u0301") == tuple(other.encode("e\u0301").ids)


def test_a_token_that_is_added_later_is_seen() -> None:
    """A byte model made after `add_tokens` has the token; the one made before goes on without."""
    tokenizer = byte_bpe_tokenizer(vocab_size=290)
    before = ByteLM(TableLM(tokenizer, temperature=2.0))
    row = before.next_byte_logprobs("zo")
    tokenizer.add_tokens([AddedToken("zoo")])
    after = ByteLM(TableLM(tokenizer, temperature=2.0))

    assert [item.token_ids[-1] for item in after.cover("zo")] != [item.token_ids[-1] for item in before.cover("zo")]
    assert before.next_byte_logprobs("zo").tolist() == row.tolist()


def test_members_on_one_tokenizer_take_no_more_memory_for_it() -> None:
    """The members of an ensemble, each with a tokenizer read on its own, work with the same tables."""
    members = [ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=290), temperature=t)) for t in (1.0, 2.0)]
    both = Ensemble(members)

    assert members[0].viability is members[1].viability
    assert both.logprob("the fox") < 0
