"""Which ids end a text: those that are given, and of those that are found only what no text becomes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig

from bytelm import ByteLM
from bytelm.engines.ids import end_ids, text_of, without_text
from bytelm.engines.llama_cpp.engine import gguf_tokenizer
from bytelm.engines.transformers.engine import TransformersLM
from bytelm.errors import BytelmWarning, InvalidArgumentError
from bytelm.testing.doctor import examine_model
from bytelm.tokenizer.gguf.metadata import read_metadata
from bytelm.tokenizer.gguf.tokenizer import tokenizer_json
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer, tiny_model
from tests.support.tiny_gguf import smollm_like

PLAIN = byte_bpe_tokenizer(eos=None)  # its id 2 is "#", as in GPT-2's vocabulary
HASH = 2


def model_of(*, config: Any, generation: Any = None) -> Any:
    """What names ends of text, and nothing else of a model."""
    return SimpleNamespace(
        config=SimpleNamespace(eos_token_id=config),
        generation_config=None if generation is None else SimpleNamespace(eos_token_id=generation),
    )


def test_the_default_of_a_configuration_ends_no_text_that_it_spells() -> None:
    """With the configuration's default, 2, "#" has a probability, there is a warning, and no start is made up."""
    model = tiny_model("llama", eos_token_id=LlamaConfig().eos_token_id)
    model.generation_config = GenerationConfig(eos_token_id=LlamaConfig().eos_token_id)

    with pytest.warns(BytelmWarning, match=r"token 2 ends a text, but it spells '#'.*eot_ids="):
        lm = ByteLM(TransformersLM(model, PLAIN))

    assert lm.eot_ids == frozenset()
    assert np.isfinite(lm.byte_logprobs("#b", prefix=[0, "a"])).all()
    with pytest.raises(InvalidArgumentError, match="start_id="):
        lm.token_lm.next_token_logprobs([[]])


def test_what_is_given_is_obeyed() -> None:
    """An end that the caller names may spell text, and nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm = ByteLM(TransformersLM(tiny_model("llama", eos_token_id=HASH), PLAIN, eot_ids=[HASH]))

    assert lm.eot_ids == {HASH}
    assert lm.logprob("#", prefix=[0, "a"]) == -np.inf


@pytest.mark.parametrize(
    ("config", "generation", "kept", "told"),
    [
        (HASH, None, {0}, ["'#'"]),
        (None, [HASH, 0], {0}, ["'#'"]),
        ([0, HASH], [260, HASH], {0}, ["'#'", r"'"]),
        (0, 0, {0}, []),
        (None, None, {0}, []),
    ],
)
def test_every_place_that_names_ends_is_read(
    config: Any, generation: Any, kept: set[int], told: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Single ids and lists, of the configuration and of generation; the tokenizer's own end stays."""
    tokenizer = byte_bpe_tokenizer()  # <|eot|> has id 0 and shifts the letters
    shifted = {HASH: tokenizer.get_vocab()["#"]}

    def named(value: Any) -> Any:
        return [shifted.get(i, i) for i in value] if isinstance(value, list) else shifted.get(value, value)

    model = model_of(config=named(config), generation=named(generation))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = end_ids(model, tokenizer, 311, None)

    assert found == kept
    assert len(caught) == len(told)
    for warning, part in zip(caught, told, strict=True):
        assert part in str(warning.message)


def test_text_is_what_the_tokenizer_makes_of_text() -> None:
    """Pieces, bytes of a character and added words are text; special, control and unreachable tokens are not."""
    byte_level = byte_bpe_tokenizer(bos="<|bos|>", added=("<|im_end|>", "word", "   "), vocab_size=330)
    llama = sentencepiece_bpe_tokenizer(prepend=True)
    for tokenizer, text, other in [
        (byte_level, ["#", "Ġthe", "word", "   ", "Ã"], ["<|bos|>", "<|eot|>", "<|im_end|>"]),
        (llama, ["▁the", "e", "<0xE2>", "▁"], ["<s>", "</s>", "<unk>"]),
    ]:
        ids, backend = tokenizer.get_vocab(), tokenizer.backend_tokenizer
        assert [token for token in text if text_of(backend, ids[token]) is None] == []
        assert [token for token in other if text_of(backend, ids[token]) is not None] == []
    assert text_of(byte_level.backend_tokenizer, 5000) is None


def test_a_token_of_the_vocabulary_that_no_text_becomes_is_an_end(load_tokenizer: Callable[[str], Any]) -> None:
    """GPT-2's <|endoftext|> is a piece that no merge makes: a configuration may name it."""
    tokenizer = load_tokenizer("gpt2")

    assert end_ids(model_of(config=50256), tokenizer, 50257, None) == {50256}


def test_a_gguf_file_may_name_text_as_its_end(tmp_path: Path) -> None:
    """The tokenizer that is rebuilt from it does not make that text special, and the id is left out."""
    path = tmp_path / "model.gguf"
    smollm_like(path, eos="#")
    backend = Tokenizer.from_str(json.dumps(tokenizer_json(read_metadata(path, "tokenizer."))))
    backend.encode_special_tokens = True
    context: Any = SimpleNamespace(  # llama.cpp, as far as it is asked
        adds_bos=False,
        columns=0,
        is_control=lambda _: False,
        tokenize=lambda text: backend.encode(text.decode(), add_special_tokens=False).ids,
    )

    tokenizer = gguf_tokenizer(path, context)

    found = tokenizer.get_vocab()["#"]
    assert tokenizer("a#b").input_ids.count(found) == 1
    assert tokenizer.eos_token_id is None
    assert tokenizer.bos_token_id == 0
    with pytest.warns(BytelmWarning, match=f"token {found} ends a text, but it spells '#'"):
        assert without_text({found, 1}, tokenizer) == {1}


def test_doctor_tells_of_an_end_that_is_text(tmp_path: Any) -> None:
    """The report has a note of it, and names no such end; nothing warns, as the report says it."""
    model = tiny_model("llama", eos_token_id=HASH)
    model.save_pretrained(tmp_path)
    PLAIN.save_pretrained(tmp_path)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"eos_token_id": HASH}))

    said = [(remark.level, remark.text) for remark in examine_model(str(tmp_path)) if remark.topic == "end of text"]

    assert [level for level, _ in said] == ["note", "note"]
    assert "token 2" in said[0][1]
    assert "'#'" in said[0][1]
    assert "no id ends a text" in said[1][1]
