"""Errors travel between processes, and what cannot travel says so."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, errors
from bytelm.cli.atomic_edit import writable
from bytelm.engines.table import TableLM
from bytelm.errors import BytelmError, InvalidTypeError, UnreachablePrefixError
from bytelm.testing import check_engine
from bytelm.tokenizer.disk_cache import writing
from tests.support.tiny import default_tokenizer, tiny_model

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),  # noqa: S301 - it is ours
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def table(**options: Any) -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), seed=1), **options)


class Broken(TableLM):
    """An engine whose rows are NaN."""

    def next_token_logprobs(self, sequences: Any) -> Any:
        return np.full((len(sequences), self.vocab_size), np.nan)


RAISING: dict[str, Callable[[], object]] = {
    "InvalidArgumentError": lambda: table().sample("a", top_p=3),
    "InvalidTypeError": lambda: table().sample(3),  # type: ignore[call-overload]
    "UnreachablePrefixError": lambda: table(text_tokens=()).next_byte_logprobs(b"caf\xff\xff"),
    "NotFinishedError": lambda: table().stream("a").completion,
    "NoInfillFormatError": lambda: table().infill("a", "b", mode="psm"),
    "InvalidLogitsError": lambda: ByteLM(Broken(default_tokenizer())).sample_batch(["a", "b"]),
    "ContextOverflowError": lambda: ByteLM(tiny_model("llama"), default_tokenizer()).logprob("ab" * 999),
    "VocabularyMismatchError": lambda: ByteLM(tiny_model("llama", vocab_size=100), default_tokenizer()),
    "ModelError": lambda: ByteLM.from_pretrained("no/such/place/at/all"),
    "FileWriteError": lambda: writable(Path("no-such-file")),
    "CacheWriteError": lambda: writing(Path("no-such-folder/file")).__enter__(),
    "ContractError": lambda: check_engine(lambda: Broken(default_tokenizer())),
    "ServerError": lambda: ByteLM.from_pretrained("http://127.0.0.1:9", engine="vllm-server"),
}


def classes(parent: type[BaseException]) -> Iterator[type[BaseException]]:
    yield parent
    for child in parent.__subclasses__():
        yield from classes(child)


def told(error: BaseException) -> tuple[Any, ...]:
    """All that a caller can read of an error."""
    return type(error), str(error), error.args, vars(error), getattr(error, "errno", None)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", RAISING)
def test_errors_that_calls_raise_travel(name: str, way: str) -> None:
    """An error is the same in another process: its class, message, attributes and notes."""
    with pytest.raises(BytelmError) as caught:
        RAISING[name]()
    assert type(caught.value).__name__ == name
    caught.value.add_note("told on the way")

    assert told(COPIES[way](caught.value)) == told(caught.value)


@pytest.mark.parametrize("way", COPIES)
def test_every_class_travels(way: str) -> None:
    """The same of each class of ours, with the number that the system gave and what a batch had finished."""
    ours = {*classes(errors.BytelmError), *classes(errors.BytelmWarning)}
    assert {*RAISING} <= {each.__name__ for each in ours}
    for each in ours:
        more: dict[str, Any] = {"prefix": b"a\xff", "position": 1} if each is UnreachablePrefixError else {}
        made: Any = each("what was wrong", **more)
        if isinstance(made, OSError):
            made.errno = errno.ENOSPC
        if isinstance(made, ImportError):
            made.name = "vllm"
        made.finished = {0: "a completion"}

        assert told(COPIES[way](made)) == told(made)
        assert getattr(COPIES[way](made), "name", None) == getattr(made, "name", None)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_what_runs_a_model_does_not_travel(way: str) -> None:
    """Models, engines, states and streams say why they cannot be copied, and what to do; what they give can be."""
    model = ByteLM(tiny_model("llama"), default_tokenizer())
    both = Ensemble([model, table()])
    for each in (model, table(), both, model.token_lm, model.state("a"), both.state("a"), model.stream("a")):
        with pytest.raises(InvalidTypeError, match=f"{type(each).__name__} cannot be .*from_pretrained"):
            COPIES[way](each)

    for result in (model.sample("a", max_bytes=2, seed=1), model.cover("ab")):
        assert COPIES[way](result) == result


def test_a_shallow_copy_shares_the_model() -> None:
    """copy.copy of a model is the same model."""
    model = table()

    assert copy.copy(model).token_lm is model.token_lm
    assert np.array_equal(copy.copy(model).next_byte_logprobs("a"), model.next_byte_logprobs("a"))
