"""Holes and the token sequences that teach a model to fill them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import bos_ids_of
from bytelm.errors import ContextOverflowError, NoInfillFormatError, UnsupportedTokenizerError
from evals.fim_finetune.corpus import functions_of
from evals.fim_finetune.samples import MODES, Batches, Encoder, Hole, Sample, cut, held_out_samples
from evals.fim_finetune.settings import Holes
from tests.cover.test_prefix import with_template
from tests.evals.fim_finetune.toy import (
    SENTINELS,
    module,
)
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer


def test_samples_are_the_format_token_by_token(tokenizer: Any) -> None:
    """PSM is 7 enc(P) 16 enc(S) 10 middle 0 and SPM 7 16 enc(S) 10 enc(P·middle) 0; the loss is on middle and end."""
    ids = dict(zip(SENTINELS, tokenizer.convert_tokens_to_ids(list(SENTINELS)), strict=True))
    begin, hole_id, middle_id, end = *ids.values(), tokenizer.eos_token_id
    encoder = Encoder(tokenizer)

    def enc(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    for p, m, s in [
        ("def a_add(items):\n    ret", "urn found", "\n"),
        ("", "a = 1\n", "b"),
        ("for item", " in x:", ""),
    ]:
        psm, spm = encoder.encode(Hole(p, m, s), "psm"), encoder.encode(Hole(p, m, s), "spm")

        assert [*psm.ids] == [begin, *enc(p), hole_id, *enc(s), middle_id, *enc(m), end]
        assert psm.first == len(psm.ids) - len(enc(m)) - 1
        assert [*spm.ids] == [begin, hole_id, *enc(s), middle_id, *enc(p + m), end]
        # The loss begins with the first token that spells more than the prefix has.
        kept = next(n for n in range(len(enc(p + m)) + 1) if len(tokenizer.decode(enc(p + m)[: n + 1])) > len(p))
        assert spm.first == 3 + len(enc(s)) + kept


def test_samples_agree_with_the_published_ids(test_data: Path, load_tokenizer: Callable[[str], Any]) -> None:
    """On the real tokenizer the sentinels are 7, 16 and 10, and the end is 0, as the given adapter was taught."""
    encoder = Encoder(load_tokenizer("smollm2"))

    psm = encoder.encode(Hole("def add(a, b):\n    ret", "urn a + b", "\n\nprint(add(1, 2))\n"), "psm")
    spm = encoder.encode(Hole("def add(a, b):\n    ret", "urn a + b", "\n\nprint(add(1, 2))\n"), "spm")

    prefix, suffix = (
        load_tokenizer("smollm2")(text, add_special_tokens=False).input_ids
        for text in ("def add(a, b):\n    ret", "\n\nprint(add(1, 2))\n")
    )
    assert [psm.ids[0], psm.ids[-1], spm.ids[0], spm.ids[1], spm.ids[-1]] == [7, 0, 7, 16, 0]
    assert [*spm.ids[2 : 2 + len(suffix)], spm.ids[2 + len(suffix)]] == [*suffix, 10]
    assert [place for place, token in enumerate(psm.ids) if token in (7, 16, 10)] == [
        *(0, len(prefix) + 1, len(prefix) + len(suffix) + 2)
    ]
    # " return" crosses the cursor: in SPM it is the first token of the loss.
    assert encoder.vocab.token_bytes[spm.ids[spm.first]] == b" return"


class Recorder:
    """A model that knows nothing, and notes what it is asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.vocab_size, self.eot_ids = tokenizer, 353, frozenset[int]()  # no text ends
        self.asked: set[tuple[int, ...]] = set()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        self.asked |= {tuple(sequence) for sequence in sequences}
        return np.full((len(sequences), self.vocab_size), -math.log(self.vocab_size))


@pytest.mark.parametrize("bos", [False, True])
def test_samples_are_what_infill_asks(tokenizer: Any, *, bos: bool) -> None:
    """Prompt and middle of a sample are the tokens that bytelm itself gives a model for its infilling prompt, BOS among them."""
    from bytelm.fim import infill_prompt

    if bos:
        tokenizer = with_template(copy.deepcopy(tokenizer), "<|endoftext|> $A")
    encoder, model = Encoder(tokenizer), Recorder(tokenizer)
    before = bos_ids_of(encoder.vocab)
    assert bool(before) == bos
    lm, (closing,) = ByteLM(model), tokenizer.convert_tokens_to_ids(["<gh_stars>"])
    text = module("a")[:101]
    for trial in range(7):
        hole = cut(text, Random(trial), Holes())
        for mode in MODES:
            sides = hole.prefix.encode(), hole.suffix.encode()
            prompt = infill_prompt(encoder.vocab, encoder.form, *sides, mode=mode, carry="none", before=before)
            sample = encoder.encode(hole, mode)
            last = prompt[-1]
            assert isinstance(last, bytes)
            # Closed by an id, the run of text is no longer open and is encoded as it would be by itself.
            lm.next_byte_logprobs([*prompt[:-1], last + hole.middle.encode(), closing])
            assert (*sample.ids[:-1], closing) in model.asked


def test_text_that_spells_a_sentinel_stays_text(tokenizer: Any) -> None:
    """A function that holds the words of the sentinels has none of their ids."""
    sample = Encoder(tokenizer).encode(Hole("# <issue_closed>", "<|endoftext|>", "<gh_stars>"), "spm")
    specials = {*tokenizer.convert_tokens_to_ids(list(SENTINELS)), tokenizer.eos_token_id}

    assert len([token for token in sample.ids if token in specials]) == 4


def test_tokenizers_that_cannot_be_taught_are_refused(tokenizer: Any) -> None:
    """One without the sentinels, and one that hides a leading space, cannot make samples."""
    with pytest.raises(NoInfillFormatError, match="smollm2"):
        Encoder(byte_bpe_tokenizer())
    hiding = sentencepiece_bpe_tokenizer(prepend=True, added=(*SENTINELS, "<|endoftext|>"))
    with pytest.raises(UnsupportedTokenizerError, match="hides a space"):
        Encoder(hiding)


def test_holes_are_cut_as_stated() -> None:
    """Parts join to the text, middles are never empty, and spans and whole lines come in the stated shares."""
    text = module("a")[:700]
    holes = [cut(text, Random(seed), Holes()) for seed in range(1000)]
    lines = [cut(text, Random(seed), Holes(lines=1.0)) for seed in range(200)]
    spans = [cut(text, Random(seed), Holes(lines=0.0, max_span=50)) for seed in range(200)]

    assert {h.prefix + h.middle + h.suffix for h in (*holes, *lines, *spans)} == {text}
    assert all(h.middle for h in (*holes, *lines, *spans))
    assert all((not h.prefix or h.prefix[-1] == "\n") and (h.middle[-1] == "\n" or not h.suffix) for h in lines)
    assert max(len(h.middle) for h in spans) == 50
    whole = sum((not h.prefix or h.prefix[-1] == "\n") and h.middle[-1] == "\n" for h in holes)
    # 300 are expected with a standard deviation of 14.5, and one span in some hundreds looks like lines.
    assert 240 <= whole <= 370


def test_batches_hold_every_function_once_and_stay_small(tokenizer: Any) -> None:
    """An epoch is a rearrangement of all functions, in both modes; another epoch is another, the same one is the same."""
    functions = list(functions_of(module("a")))
    encoder = Encoder(tokenizer)

    def epoch(number: int) -> list[list[Sample]]:
        return list(Batches(functions, encoder, Holes(), seed=3, batch_tokens=900).epoch(number))

    batches = epoch(0)
    modes = [sample.mode for batch in batches for sample in batch]
    assert len(modes) == len(functions)
    assert 25 <= modes.count("psm") <= 71  # of 96, with a standard deviation of 4.9
    assert all(len(b) == 1 or len(b) * max(len(s.ids) for s in b) <= 900 for b in batches)
    assert epoch(0) == batches
    assert epoch(1) != batches
    endless = Batches(functions, encoder, Holes(), seed=3, batch_tokens=900)
    assert list(islice(endless, len(batches) + len(epoch(1)))) == [*batches, *epoch(1)]


def test_held_out_holes_are_the_same_in_both_modes(tokenizer: Any) -> None:
    """PSM and SPM are measured on one hole of each function, whatever was trained."""
    functions = list(functions_of(module("c")))[:5]
    encoder = Encoder(tokenizer)

    samples = held_out_samples(functions, encoder, Holes(), seed=0)

    assert samples == held_out_samples(functions, encoder, Holes(), seed=0)
    for psm, spm in zip(samples["psm"], samples["spm"], strict=True):
        spelled = [tokenizer.decode(s.ids[s.first :], skip_special_tokens=True) for s in (psm, spm)]
        assert spelled[1].endswith(spelled[0])


def test_samples_longer_than_the_context_are_refused(tokenizer: Any) -> None:
    """They would be read beyond what the model knows: the message says which option makes them shorter."""
    batches = Batches(list(functions_of(module("a"))), Encoder(tokenizer), Holes(), seed=0, batch_tokens=900, limit=20)

    with pytest.raises(ContextOverflowError, match="lower --max-chars"):
        next(iter(batches))
