"""Texts of an ensemble in bayes that one member draws: against all texts enumerated, on toy models that leak; and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, SamplingParams, TableLM
from bytelm.ensemble.member_draws import MemberDraws
from bytelm.ensemble.place import EnsemblePlace
from bytelm.sampling.completion import Completion
from tests.sampling.test_engine_draws import by_hand, fit, texts_of
from tests.sampling.test_generation import P_THRESHOLD
from tests.support.oracle import Enumeration, HashLM
from tests.support.tiny import default_tokenizer

WEIGHTS = (0.7, 0.3)
END = 3  # among five ids


class Salted(HashLM):
    """A toy model like no other of its kind."""

    def __init__(self, tokenizer: Any, salt: int) -> None:
        super().__init__(tokenizer, 5, frozenset({END}))
        self.salt = salt
        self._rows: dict[tuple[int, ...], np.ndarray] = {}

    def row(self, ids: Sequence[int]) -> np.ndarray:
        if tuple(ids) not in self._rows:
            self._rows[tuple(ids)] = super().row((self.salt, *ids))
        return self._rows[tuple(ids)]


class Members:
    """Two byte models that leak a third of their mass each, and all of their texts."""

    def __init__(self) -> None:
        from transformers import PreTrainedTokenizerFast

        backends = [by_hand(("a", "b")), by_hand(("b", "a"))]
        self.models = [
            Salted(PreTrainedTokenizerFast(tokenizer_object=each), salt)
            for salt, each in zip((4, 5), backends, strict=True)
        ]
        self.texts = [Enumeration(each, ("a", "b"), 9) for each in backends]
        self.ensemble = Ensemble([ByteLM(model) for model in self.models], weights=WEIGHTS, combine="bayes")

    def masses(self, text: bytes) -> np.ndarray:
        """P of a text with each symbol behind it: in bayes, the sum of the members'."""
        parts = zip(WEIGHTS, self.texts, self.models, strict=True)
        return np.asarray(sum(weight * texts.next_bytes(text, model) for weight, texts, model in parts))

    def law(self, prefix: bytes, length: int) -> dict[tuple[int, ...], float]:
        """The probability of each text of so many symbols after a prefix, each symbol's row without its leak."""
        return texts_of(lambda text: self.masses(prefix + text), length)

    def drawn(self, prefix: bytes, count: int, **options: Any) -> list[Completion]:
        done: Any = self.ensemble.sample_batch([prefix] * count, **{"max_bytes": 3, "seed": 1, **options})
        return [*done]


@pytest.fixture(scope="module")
def members() -> Members:
    return Members()


@pytest.mark.parametrize("prefix", [b"", b"a", b"ba"])
def test_texts_are_distributed_as_the_enumeration_says(members: Members, prefix: bytes) -> None:
    """Chi-square of 1,000 completions against all texts of three bytes; each has the log-probability of its text."""
    completions = members.drawn(prefix, 1000)

    assert fit(completions, members.law(prefix, 3)) > P_THRESHOLD
    assert sum(c.usage.redrawn > 0 for c in completions) > 100
    for done in completions[:40]:
        score = members.ensemble.logprob(done.bytes, prefix=prefix, eot=done.finish_reason == "eot")
        assert done.logprob == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(("mistake", "prefix"), [("prior", b"a"), ("own leak", b"ba")])
def test_the_chi_square_sees_a_wrong_law(
    members: Members, mistake: str, prefix: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To draw the member by its weight, or to let it draw what is leak anew by itself, gives another distribution."""
    shares = EnsemblePlace.log_shares

    def weights(self: Any) -> Any:
        return np.where(np.isneginf(shares(self)), -np.inf, np.log(WEIGHTS))

    def by_itself(self: Any) -> Any:
        yield from ()
        self._drawer.redrawn, self._taken = 0, len(self._drawer.bytes)
        self.finish_reason = self._drawer.finish_reason

    if mistake == "prior":
        monkeypatch.setattr(EnsemblePlace, "log_shares", weights)
    else:
        monkeypatch.setattr(MemberDraws, "_redraw", by_itself)

    assert fit(members.drawn(prefix, 1000), members.law(prefix, 3)) < P_THRESHOLD


def test_one_member_is_asked_for_a_text_in_all_company() -> None:
    """Between the prompt and the score; the same text alone, in a batch and in pieces, stop strings taken off."""
    lms = [ByteLM(TableLM(default_tokenizer(), seed=seed, order=2, eot_ids=[])) for seed in (1, 2)]
    ensemble = Ensemble(lms, combine="bayes")
    asked: list[int] = []
    for number, lm in enumerate(lms):
        plain = lm.token_lm.next_token_logprobs

        def counted(sequences: Any, number: int = number, plain: Any = plain) -> Any:
            asked.append(number)
            return plain(sequences)

        lm.token_lm.next_token_logprobs = counted  # type: ignore[method-assign]
    done = ensemble.sample("the ", max_bytes=200, seed=3)
    tokens = [len(lm.token_ends(lm.prompt("the "), done.bytes)) for lm in lms]

    assert done.usage.calls == len(asked)
    assert min(asked.count(0), asked.count(1)) <= 8 + 8 * done.usage.redrawn
    assert max(asked.count(0), asked.count(1)) <= 1.2 * max(tokens) + 8 + 8 * done.usage.redrawn
    assert ensemble.sample_batch(["the ", "x"], max_bytes=200, seed=3)[0].bytes == done.bytes
    assert "".join(ensemble.stream("the ", max_bytes=200, seed=3)) == done.text
    stop = done.bytes[60:62]
    stopped = ensemble.sample("the ", max_bytes=200, seed=3, stop=stop)
    assert stopped.finish_reason == "stop"
    assert done.bytes.startswith(stopped.bytes + stop)


def test_when_one_member_draws(members: Members) -> None:
    """Where nothing is done to the distribution, the weights stay the same, and each member is one model."""
    lm = ByteLM(TableLM(default_tokenizer(), seed=1, order=2, eot_ids=[]))

    def kind(ensemble: Ensemble, size: int, **options: Any) -> str:
        return type(ensemble.begin("ab", SamplingParams(max_bytes=size, **options))).__name__

    assert kind(members.ensemble, 10) == "MemberDraws"
    for options in ({"temperature": 0.9}, {"top_p": 0.9}, {"lazy": False}, {"temperature": 0}):
        assert kind(members.ensemble, 10, **options) == "ByteGeneration"
    for combine in ("mixture", "product"):
        assert kind(Ensemble([lm, lm], combine=combine), 10) == "ByteGeneration"
    assert kind(Ensemble([lm, lm], combine="bayes", weights=lambda text: [1, 1]), 10) == "ByteGeneration"
    assert kind(Ensemble([Ensemble([lm, lm]), lm], combine="bayes"), 10) == "ByteGeneration"
