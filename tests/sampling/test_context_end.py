"""Where a context ends: a completion with it, for its length; and what does not fit is refused before a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import pytest

from bytelm import ByteLM, Completion, Ensemble, TableLM
from bytelm.ensemble.combine import Combine
from bytelm.errors import ContextOverflowError
from tests.sampling.test_engine_draws import Drawing, by_hand
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer, tiny_model

COMBINES = get_args(Combine)
WAYS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "stop": "zzzz"},
    {},
    {"top_p": 0.9},
    {"temperature": 0.7, "top_k": 9},
    {"lazy": False},
    {"logits_processor": lambda so_far, row: row},
]


class Short(TableLM):
    """A table with a context, which refuses what does not fit there."""

    def __init__(self, tokenizer: Any, context_length: int | None = None, **options: Any) -> None:
        super().__init__(tokenizer, **{"order": 2, "temperature": 1.5, "eot_ids": (), **options})
        self.context_length = context_length

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        if self.context_length is not None and max(map(len, sequences)) > self.context_length:
            raise ContextOverflowError("the engine was asked for more than its context")
        return super().next_token_logprobs(sequences)


def pair(size: int = 12, *, tokenizer: Any = None, **options: Any) -> tuple[ByteLM, ByteLM]:
    """A model with a context of so many tokens, and the same one without."""
    tokenizer = tokenizer or default_tokenizer()
    return ByteLM(Short(tokenizer, size, **options)), ByteLM(Short(tokenizer, **options))


def longest(lm: ByteLM, text: bytes) -> int:
    """The most tokens of a sequence that may spell a text, or the beginning of it."""
    return lm.place(lm.prompt(text)).frontier.most_tokens


def check_end(lm: ByteLM, done: Completion, prefix: bytes, size: int) -> None:
    """It ends at the first byte after which a sequence no longer fits."""
    assert done.finish_reason == "length"
    text = prefix + done.bytes
    assert [longest(lm, text[:n]) > size for n in range(len(prefix), len(text) + 1)] == [False] * len(done.bytes) + [
        True
    ]


@pytest.mark.parametrize("options", WAYS, ids=range(len(WAYS)))
def test_a_completion_ends_with_the_context(options: dict[str, Any]) -> None:
    """What is written until then is what a model without an end writes there, and is scored as it scores it."""
    lm, endless = pair()
    whole = endless.sample("the q", max_bytes=80, seed=4, **options)
    done = lm.sample("the q", max_bytes=80, seed=4, **options)

    assert 0 < len(done.bytes) < 80
    assert whole.bytes.startswith(done.bytes)
    check_end(endless, done, b"the q", 12)
    assert done.logprob == pytest.approx(endless.logprob(done.bytes, prefix="the q"), abs=1e-9)


def test_every_way_to_complete_ends_so() -> None:
    """Streams, batches with their other items, several completions, infill and chat."""
    lm, endless = pair(tokenizer=byte_bpe_tokenizer())
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    alone = lm.sample("the q", max_bytes=80, seed=4)
    stream = lm.stream("the q", max_bytes=80, seed=4)

    assert "".join(stream) == stream.completion.text == alone.text
    assert stream.completion.finish_reason == "length"
    batch = lm.sample_batch(["the q", "a", "fox"], max_bytes=80, seed=4)
    assert batch[0].bytes == alone.bytes
    for prefix, done in zip((b"the q", b"a", b"fox"), batch, strict=True):
        check_end(endless, done, prefix, 12)
    several = lm.sample("the q", max_bytes=80, seed=4, n=2)
    assert isinstance(several, list)
    assert [done.bytes for done in several][:1] == [alone.bytes]
    assert lm.infill("the q", "x", mode="left", max_bytes=80, seed=4).bytes == alone.bytes
    assert lm.chat([{"role": "user", "content": "the q"}], max_bytes=80, seed=4).bytes == alone.bytes
    assert lm.sample("the q", max_bytes=3, seed=4).bytes == alone.bytes[:3]


@pytest.mark.parametrize("options", [{}, {"temperature": 0}], ids=["drawn", "greedy"])
@pytest.mark.parametrize("combine", COMBINES)
def test_an_ensemble_ends_with_the_smallest_context(combine: Combine, options: dict[str, Any]) -> None:
    """The text is that of members without an end; one whose weight is 0 is never asked, and ends nothing."""
    tokenizers = [default_tokenizer(), byte_bpe_tokenizer(vocab_size=277, pre_tokenizer="llama3")]
    endless = [ByteLM(Short(tokenizer, seed=i)) for i, tokenizer in enumerate(tokenizers)]
    short = [ByteLM(Short(tokenizer, 9 + i, seed=i)) for i, tokenizer in enumerate(tokenizers)]
    whole = Ensemble(endless, combine=combine).sample("the q", max_bytes=25, seed=1, **options)

    for members, ends in ((short, True), ([short[0], endless[1]], True), ([endless[0], short[1]], True)):
        done = Ensemble(members, combine=combine).sample("the q", max_bytes=25, seed=1, **options)
        assert (done.finish_reason == "length", len(done.bytes) < 25) == (ends, ends)
        assert whole.bytes.startswith(done.bytes)
        score = Ensemble(endless, combine=combine).logprob(done.bytes, prefix="the q")
        assert done.logprob == pytest.approx(score, abs=1e-9)
    unasked = Ensemble([short[0], endless[1]], weights=[0, 1], combine=combine)
    assert len(unasked.sample("the q", max_bytes=25, seed=1).bytes) == 25


@pytest.mark.parametrize("inner", COMBINES)
def test_an_ensemble_of_ensembles_ends_so(inner: Combine) -> None:
    """Bayes over members that are evaluated in full has its score at the end too."""
    short, endless = pair(9)
    both = [Ensemble([Ensemble([lm, endless], combine=inner), endless], combine="bayes") for lm in (short, endless)]
    done, whole = (lm.sample("the q", max_bytes=25, seed=1) for lm in both)

    assert 0 < len(done.bytes) < 25 == len(whole.bytes)
    assert whole.bytes.startswith(done.bytes)
    assert done.logprob == pytest.approx(both[1].logprob(done.bytes, prefix="the q"), abs=1e-9)


def test_tokens_that_the_engine_draws_end_where_the_sampler_ends() -> None:
    """The texts of both ways have one distribution, ends included, though the model leaks; each is scored."""
    from transformers import PreTrainedTokenizerFast

    def leaky(size: int | None) -> ByteLM:
        model = Drawing(PreTrainedTokenizerFast(tokenizer_object=by_hand()), 5, frozenset({3}))
        model.context_length = size  # type: ignore[attr-defined]
        return ByteLM(model)

    lm, endless = leaky(4), leaky(None)
    counts = []
    for engine_draws in (True, False):
        done = lm.sample_batch(["ba"] * 1500, max_bytes=30, seed=2, engine_draws=engine_draws)
        texts = [(item.bytes, item.finish_reason) for item in done]
        counts.append({text: texts.count(text) for text in dict.fromkeys(texts)})
        for (written, reason), item in dict(zip(texts, done, strict=True)).items():
            if reason == "length":
                check_end(endless, item, b"ba", 4)
            expected = endless.logprob(written, prefix="ba", eot=reason == "eot")
            assert item.logprob == pytest.approx(expected, abs=1e-9)
    everything = sorted(counts[0] | counts[1])
    first, second = (np.array([count.get(text, 0) for text in everything]) for count in counts)

    assert any(reason == "length" for _, reason in everything)
    assert any(reason == "eot" for _, reason in everything)
    distance = ((first - second) ** 2 / np.maximum(first + second, 1)).sum()
    assert distance < len(everything) + 5 * np.sqrt(2 * len(everything))  # five standard deviations of chi-square


def test_a_transformers_model_ends_so_by_bytes_and_by_its_own_draws() -> None:
    """A real engine of 24 positions writes up to its end in both ways, and loses nothing."""
    lm = ByteLM(tiny_model("llama", max_position_embeddings=24), default_tokenizer(), eot_ids=())
    for options in ({}, {"temperature": 0}, {"engine_draws": True}):
        for done in lm.sample_batch(["the quick"], max_bytes=300, seed=3, **options):
            assert done.finish_reason == "length"
            assert 12 <= len(done.bytes) < 300
            assert done.logprob is not None
            assert np.isfinite(done.logprob)


REFUSED: dict[str, Callable[[Any, str], object]] = {
    "sample": lambda lm, text: lm.sample(text),
    "engine draws": lambda lm, text: lm.sample(text, engine_draws=None),
    "stream": lambda lm, text: lm.stream(text),
    "batch": lambda lm, text: lm.sample_batch(["a", text]),
    "infill": lambda lm, text: lm.infill(text, "a", mode="left"),
    "logprob": lambda lm, text: lm.logprob(text),
    "logprob with its end": lambda lm, text: lm.logprob(text, eot=True),
    "logprob after a prefix": lambda lm, text: lm.logprob("a", prefix=text),
    "byte_logprobs": lambda lm, text: lm.byte_logprobs(text),
    "byte_logprobs after a prefix": lambda lm, text: lm.byte_logprobs("a", prefix=text),
    "row": lambda lm, text: lm.next_byte_logprobs(text),
}


def calls(lm: Any) -> int:
    return sum(engine.usage.calls for engine in lm.engines)


@pytest.mark.parametrize("way", REFUSED)
def test_what_does_not_fit_is_refused_before_the_model_runs(way: str) -> None:
    """No call is made, however long the text; the error tells its tokens and the context's."""
    text = "the quick brown fox. " * 300
    lm = ByteLM(Short(default_tokenizer(), 500))
    with pytest.raises(ContextOverflowError, match=r"6300 bytes .* take \d+ tokens.*context of 500|6301 bytes"):
        REFUSED[way](lm, text)
    assert calls(lm) == 0

    for combine in COMBINES:
        endless = ByteLM(Short(byte_bpe_tokenizer(vocab_size=290)))
        ensemble = Ensemble([endless, lm], combine=combine)
        with pytest.raises(ContextOverflowError, match=r"member 1 of the ensemble: 630\d bytes"):
            REFUSED[way](ensemble, text)
        assert calls(ensemble) == 0


def test_covers_and_explanations_are_refused_so() -> None:
    """The cover of a long prefix, and what members say along a text."""
    lm = ByteLM(Short(default_tokenizer(), 500))
    with pytest.raises(ContextOverflowError, match="context of 500"):
        lm.cover("the quick brown fox. " * 300)
    with pytest.raises(ContextOverflowError, match="context of 500"):
        Ensemble([lm, lm]).explain("the quick brown fox. " * 300)
    assert calls(lm) == 0


@pytest.mark.parametrize("way", REFUSED)
def test_what_fits_is_never_refused_and_what_does_not_never_runs(way: str) -> None:
    """At every size of the context: an error and no call, or an answer and nothing beyond the context asked for."""
    text = "the fox  \n\n returned 1234 naïve café"
    verdicts = []
    for size in range(9, 31, 3):
        lm = ByteLM(Short(default_tokenizer(), size))
        try:
            REFUSED[way](lm, text)
            verdicts.append(True)
        except ContextOverflowError:
            verdicts.append(False)
            assert calls(lm) == 0
    assert verdicts == sorted(verdicts)
    assert {*verdicts} == {False, True}


def test_a_long_text_is_scored_with_a_stride() -> None:
    """Then only the pieces have to fit, and a prefix may be longer than the context."""
    lm = ByteLM(Short(default_tokenizer(), 60))
    text = "the quick brown fox. " * 20

    assert lm.logprob(text, prefix=text, stride=20) == pytest.approx(
        lm.byte_logprobs(text, prefix=text, stride=20).sum(), abs=1e-9
    )
