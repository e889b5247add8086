"""Arguments that nobody means: each is one error of bytelm's, whatever public call it is given to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bytelm import ByteLM, Ensemble, Prompts, SamplingParams
from bytelm.cli.atomic_edit import replace
from bytelm.engines.choice import load_engine
from bytelm.engines.ids import start_id
from bytelm.engines.row_engine import check_least
from bytelm.engines.table import TableLM
from bytelm.errors import BytelmError, UnsupportedTokenizerError
from bytelm.healing import TokenCompleter, completer_of
from tests.support.tiny import default_tokenizer

HUGE = 10**400  # no float; and Python does not write a number ten times as long
HOSTILE: dict[str, Any] = {
    "None": None,
    "a huge number": HUGE,
    "an unprintable number": 10**5000,
    "NaN": float("nan"),
    "half a character": "\ud800",
    "bytes": b"x",
    "an array": np.zeros(3),
    "an array of no dimension": np.array(3),
    "an object": object(),
    "a list in a list": [[1]],
    "a list of None": [None],
    "a name too long": "a" * 5000,
    "NUL": "a\0b",
}


@cache
def lm() -> ByteLM:
    return ByteLM(TableLM(default_tokenizer(), seed=1))


@cache
def both() -> Ensemble:
    return Ensemble([lm(), ByteLM(TableLM(default_tokenizer(), seed=2))])


def table(**options: Any) -> Any:
    return ByteLM(TableLM(default_tokenizer(), **options)).next_byte_logprobs("a")


def byte_lm(**options: Any) -> Any:
    return ByteLM(TableLM(default_tokenizer()), **options).next_byte_logprobs("a")


CALLS: dict[str, Callable[[Any], object]] = {
    "prefix": lambda value: lm().next_byte_logprobs(value),
    "text": lambda value: lm().logprob(value),
    "tol": lambda value: lm().next_byte_logprobs("a", tol=value),
    "stride": lambda value: lm().logprob("abc", stride=value),
    "by": lambda value: lm().score("abc", by=value),
    "regions": lambda value: lm().score("abc", by=["a", value]),
    "offsets": lambda value: lm().score("abc", by=[(0, value)]),
    "space": lambda value: lm().score("abc", by="word", space=value),
    "stride of a score": lambda value: lm().score("abc", stride=value),
    "text of rows": lambda value: lm().next_byte_rows(value),
    "token_ids": lambda value: lm().byte_spans(value),
    "path": lambda value: lm().score("abc").to_csv(value) if not isinstance(value, str | bytes) else None,
    "n": lambda value: lm().sample("a", n=value, max_bytes=1),
    "top_p": lambda value: lm().sample("a", top_p=value, max_bytes=1),
    "top_k": lambda value: lm().sample("a", top_k=value, max_bytes=1),
    "temperature": lambda value: SamplingParams(temperature=value),
    "seed": lambda value: lm().sample("a", seed=value, max_bytes=1),
    "lazy": lambda value: lm().sample("a", lazy=value, max_bytes=1),
    "engine_draws": lambda value: lm().sample("a", engine_draws=value, max_bytes=1),
    "progress": lambda value: lm().sample("a", progress=value, max_bytes=1),
    "prefixes": lambda value: lm().sample_batch(value, max_bytes=1),
    "mode": lambda value: lm().infill("a", "b", mode=value, max_bytes=1),
    "carry": lambda value: lm().infill("a", "b", carry=value, max_bytes=1),
    "messages": lambda value: lm().chat(value, max_bytes=1),
    "spell": lambda value: lm().spell(value),
    "advance": lambda value: lm().state("a").advance(value),
    "rollback": lambda value: lm().state("a").rollback(value),
    "eot_ids": lambda value: byte_lm(eot_ids=value),
    "bos": lambda value: byte_lm(bos=value),
    "normalize": lambda value: byte_lm(normalize=value),
    "text_tokens": lambda value: byte_lm(text_tokens=value),
    "name": ByteLM.from_pretrained,
    "model": ByteLM,
    "engine": lambda value: load_engine(value, "demo"),
    "gguf_file": lambda value: ByteLM.from_pretrained(str(Path(__file__).parent), gguf_file=value),
    "max_batch": lambda value: check_least(max_batch=(value, 1)),
    "start_id": lambda value: start_id(SimpleNamespace(bos_token_id=1, eos_token_id=2), 9, frozenset(), value),
    "sequences": lambda value: lm().token_lm.next_token_logprobs(value),  # noqa: PLW0108 - made when it is needed
    "tokenizer of a table": TableLM,
    "table": lambda value: table(table=value),
    "seed of a table": lambda value: table(seed=value),
    "temperature of a table": lambda value: table(temperature=value),
    "order": lambda value: table(order=value),
    "vocab_size": lambda value: table(vocab_size=value),
    "weights": lambda value: Ensemble([lm(), lm()], weights=value),
    "combine": lambda value: Ensemble([lm(), lm()], combine=value),
    "prompts": lambda value: both().next_byte_logprobs(Prompts(value)),
    "prompt of tokens": lambda value: completer_of(lm()).sample(value, max_bytes=1),
    "healing": lambda value: completer_of(lm()).back_up("abc", healing=value),
    "context": lambda value: TokenCompleter(lm().token_lm, context=value).sample("a", max_bytes=1),
    "ends of a completer": lambda value: TokenCompleter(lm().token_lm, eot_ids=value).sample("a", max_bytes=1),
}


@pytest.mark.slow  # so that it runs without the checks of shapes, which refuse some of these values themselves
@pytest.mark.filterwarnings("ignore::bytelm.errors.BytelmWarning")
@pytest.mark.parametrize("argument", CALLS)
def test_a_hostile_argument_is_one_error(argument: str) -> None:
    """Whatever is no value of an argument is an error of bytelm's; what is one is taken."""
    for name, value in HOSTILE.items():
        try:
            CALLS[argument](value)
        except BytelmError:
            pass
        except Exception as error:  # noqa: BLE001 - it is told which value it was
            pytest.fail(f"{argument} given {name}: {type(error).__name__}: {error}")


def test_ids_are_not_counted_from_the_end() -> None:
    """A negative id spells nothing: it is an error."""
    with pytest.raises(BytelmError, match="-1"):
        lm().spell([5, -1])
    ids: Any = np.array([5, 9])
    assert lm().spell(ids) == lm().spell([5, 9])


def test_a_loop_of_links_is_no_file(tmp_path: Path) -> None:
    """A symbolic link to itself is an error as a model, as a cache and as a file to edit."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)

    with pytest.raises(BytelmError, match="loop"):
        replace(loop, b"", b"x")
    for name in (loop, loop / "file.gguf", "~no-such-user-here/model"):
        with pytest.raises(BytelmError):
            ByteLM.from_pretrained(name)


def test_a_hidden_space_without_a_token_is_refused() -> None:
    """The tokenizer puts a space in front and loses it: said when it is read, and not in the middle of a text."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    assert tokenizer.encode("ab").ids == [2]

    with pytest.raises(UnsupportedTokenizerError, match=r"add_prefix_space.*is lost"):
        ByteLM(TableLM(None, vocab_size=3, eot_ids=()), tokenizer).next_byte_logprobs("a")
