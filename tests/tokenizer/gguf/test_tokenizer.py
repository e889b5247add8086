"""Tokenizers rebuilt from GGUF files, without llama.cpp: tests/engines/llama_cpp compares with its own."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from tokenizers import Tokenizer

from bytelm.errors import UnsupportedTokenizerError
from bytelm.testing.tokenizers.trial import TokenizerTrial
from bytelm.tokenizer.gguf.tokenizer import named_tokens, tokenizer_json
from bytelm.tokenizer.hard_texts import documents
from tests.support.tiny_gguf import bytes_as_letters, gguf_pairs

TEXT = "I'm  12345 ÀbC日本!?\n\n x²\t "
# What llama.cpp splits TEXT into.
PARTS = {
    "gpt-2": "I|'m| | 12345| ÀbC日本|!?|\n\n| x|²|\t ",
    "smollm": "I|'m|  |1|2|3|4|5| ÀbC日本|!?|\n\n| x|²|\t ",
    "llama-bpe": "I|'m| | |123|45| ÀbC日本|!?\n\n| x|²|\t ",
    "qwen2": "I|'m| | |1|2|3|4|5| ÀbC日本|!?\n\n| x|²|\t ",
    "qwen35": "I|'m| | |1|2|3|4|5| ÀbC日本|!?\n\n| x|²|\t ",
    "ufakzeka": "I|'m| | |1|2|3|4|5| ÀbC日本|!?\n\n| x|²|\t ",
    "laguna": "I|'m| | |1|2|3|4|5| ÀbC日本|!?|\n\n| x|²|\t ",
    "seed-coder": "I|'m| | |1|2|3|4|5| ÀbC日本|!?|\n\n| x|²|\t ",
    "bailingmoe": "I|'m| | |1|2|3|4|5| ÀbC日本|!?\n\n| x|²|\t ",
    "exaone-moe": "I|'m| | |1|2|3|4|5| ÀbC日本|!?\n|\n| x|²|\t ",
    "minicpm5": "I|'m|  |123|45| ÀbC日本|!?\n\n| x|²|\t ",
    "jais-2": "I|'m| | |123|45| ÀbC日本|!?\n\n| x|²|\t ",
    "deepseek-v3": "I|'m|  |123|45| ÀbC|日本|!?\n\n| x|²|\t ",
    "spark2_5": "I|'m|  |1|2|3|4|5| ÀbC|日本|!?|\n|\n| x|²|\t ",
    "afmoe": "I|'m| | |12|345| ÀbC|日本|!?\n\n| x|²|\t ",
    "deepseek-coder": "I|'|m|  |1|2|3|4|5| ÀbC|日本|!?|\n|\n| x|²|\t ",
    "deepseek-llm": "I|'|m|  |12345| À|bC|日本|!?|\n|\n| x|²|\t ",
    "falcon": "I|'|m| | |123|45| ÀbC日本|!?|\n\n| x|²|\t ",
    "default": "I|'|m| | |123|45| ÀbC日本|!?|\n\n| x|²|\t ",
    "tekken": "I|'m| | |1|2|3|4|5| Àb|C日本|!?\n\n| x|²|\t ",
    "gpt-4o": "I'm| | |123|45| Àb|C日本|!?\n\n| x|²|\t ",
    "granite-embed-multi-97m": "I'm| | |123|45| Àb|C日本|!?\n\n| x|²|\t ",
    "tiny_aya": "I'm| | |12|345| ÀbC日本|!?\n\n| x|²|\t ",
    "youtu": "I'm| | |1|2|3|4|5| ÀbC|日本|!?\n\n| x|²|\t ",
    "kimi-k2": "I'm| | |123|45| ÀbC|日本|!?\n\n| x|²|\t ",
    "superbpe": "I'm  |12|345| ÀbC日本!?\n\n x|²|\t ",
    "bloom": "I'm| | 12345| ÀbC日本|!?\n\n| x²|\t ",
    "viking": "I'm| | |1|2|3|4|5| ÀbC日本|!?\n\n| x|²|\t ",
    "chameleon": "I|'|m|  |1|2|3|4|5| ÀbC日本|!|?|\n|\n| x|²|\t| ",
}


def base(**changed: Any) -> dict[str, Any]:
    """What a small byte-level file says; None leaves a field out."""
    letters = bytes_as_letters()
    tokens = ["<s>", *letters, "ab"]
    pairs = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3, *[1] * 257],
        "merges": ["a b"],
        **changed,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in pairs.items() if value is not None}


def rebuilt(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json(metadata)))


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_llama_cpps(name: str) -> None:
    """Text is split where llama.cpp was seen to split it."""
    splitter = rebuilt(base(pre=name)).pre_tokenizer

    parts = "|".join(TEXT[start:end] for _, (start, end) in splitter.pre_tokenize_str(TEXT))

    assert parts == PARTS[name]


@pytest.mark.parametrize(
    ("pre", "vocabulary", "kept"),
    [
        ("gpt-2", "gpt2", ""),
        ("smollm", "smollm2", ""),
        ("llama-bpe", "llama3", ""),
        ("qwen2", "qwen3", ""),
        ("deepseek-v3", "deepseek_v3", ""),
        # For llama.cpp letters beyond ASCII have no case.
        ("tekken", "tekken", "[^\x00-\x7f]"),
        ("gpt-4o", "o200k", "[^\x00-\x7f]"),
    ],
)
def test_the_published_tokenizer(pre: str, vocabulary: str, kept: str, load_tokenizer: Callable[[str], Any]) -> None:
    """A file with the lists of a published tokenizer.json splits text as that does."""
    published = load_tokenizer(vocabulary).backend_tokenizer
    spec = json.loads(published.to_str())
    ours = rebuilt(gguf_pairs(spec, pre))

    found = (document.decode("utf-8", "ignore") for document in documents(5))
    texts = [unicodedata.normalize("NFC", re.sub(kept, "", text) if kept else text) for text in islice(found, 300)]
    wrong = [t for t in texts if ours.encode(t, add_special_tokens=False).ids != published.encode(t, add_special_tokens=False).ids]  # fmt: skip

    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pre", "vocabulary"),
    [
        *(("deepseek-coder", "deepseek_v3"), ("deepseek-llm", "deepseek_v3"), ("falcon", "gpt2"), ("default", "gpt2")),
        *(("tekken", "tekken"), ("gpt-4o", "o200k"), ("glm4", "cl100k"), ("qwen35", "qwen3"), ("kimi-k2", "o200k")),
    ],
)
def test_a_sample_of_the_conformance_run(pre: str, vocabulary: str, load_tokenizer: Callable[[str], Any]) -> None:
    """What bytelm says of viability is what the rebuilt encoder does, at as many prefixes as BYTELM_PREFIXES says."""
    spec = json.loads(load_tokenizer(vocabulary).backend_tokenizer.to_str())
    count = int(os.environ.get("BYTELM_PREFIXES", "40"))

    report = TokenizerTrial(rebuilt(gguf_pairs(spec, pre)), pre, leaves=20, effort=0.1).run(count)

    assert (report.refused, report.prefixes, report.disagreements) == (None, count, [])


LINE_ENDS = ["\n" * n for n in range(1, 4)]


def lines(merges: list[str], **changed: Any) -> dict[str, Any]:
    tokens = ["<bos>", "<unk>", *LINE_ENDS, *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "ab", "▁a"]
    kinds = [3, 2, *[1] * 3, *[6] * 256, *[1] * 5]
    return base(model="gemma4", pre="gemma4", tokens=tokens, token_type=kinds, merges=merges, **changed)


@pytest.mark.parametrize("merges", [[], ["\n \n", "\n\n \n"]], ids=["without merges", "with merges"])
@pytest.mark.parametrize("count", range(1, 8))
def test_runs_of_line_ends(merges: list[str], count: int) -> None:
    """A run that is a token is taken whole; of a longer one only the merges make more than single line ends."""
    tokenizer = rebuilt(lines(["a b", "▁ a", *merges]))

    sizes = [len(token) for token in tokenizer.encode("ab" + "\n" * count + " a").tokens[1:-1]]

    longer = [1] * count if not merges else {4: [2, 2], 5: [2, 3], 6: [2, 2, 2], 7: [2, 2, 3]}.get(count)
    assert sizes == ([count] if count <= 3 else longer)


def test_line_ends_that_cannot_be_told() -> None:
    """Merges that make some runs and not others are refused."""
    with pytest.raises(ValueError, match="do not make the tokens of several line ends"):
        tokenizer_json(lines(["\n \n"]))


def test_defaults_of_sentencepiece() -> None:
    """A file without an unknown token, as Baichuan's, has llama.cpp's: ids 0, 1 and 2."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    metadata = base(model="llama", pre=None, tokens=tokens, token_type=None, scores=[0.0] * 262, merges=None)

    assert rebuilt(metadata | {"tokenizer.ggml.add_bos_token": True}).encode("a").tokens == ["<s>", "▁a"]
    assert named_tokens(metadata) == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def test_details_of_lists() -> None:
    """An empty token has a name, of a merge that is there twice the first counts, an id out of range names nothing."""
    metadata = base(merges=["a b", "b c", "a b"], padding_token_id=10**6)
    metadata["tokenizer.ggml.tokens"][1:2] = [""]
    metadata["tokenizer.ggml.tokens"].append("bc")
    metadata["tokenizer.ggml.token_type"].append(1)

    tokenizer = rebuilt(metadata)

    assert tokenizer.id_to_token(1) == "[EMPTY_1]"
    assert tokenizer.encode("abc").tokens == ["ab", "c"]
    assert named_tokens(metadata) == {}


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"model": "bert"}, UnsupportedTokenizerError, "kind 'bert', which bytelm cannot support: WordPiece drops"),
        ({"model": "t5"}, UnsupportedTokenizerError, "kind 't5', which bytelm cannot support: Unigram picks"),
        ({"model": "rwkv"}, UnsupportedTokenizerError, "kind 'rwkv', which bytelm cannot support: RWKV takes"),
        ({"model": "plamo2"}, UnsupportedTokenizerError, "kind 'plamo2', which bytelm cannot support"),
        ({"model": "hybriddna"}, UnsupportedTokenizerError, "kind 'hybriddna', which bytelm cannot support"),
        ({"pre": "whitespace"}, UnsupportedTokenizerError, "pre-tokenizer 'whitespace', which bytelm cannot support"),
        ({"pre": "of-tomorrow"}, ValueError, "does not know its pre-tokenizer 'of-tomorrow'"),
        ({"model": "of-tomorrow"}, ValueError, "does not know its kind 'of-tomorrow'"),
        ({"merges": None}, KeyError, r"tokenizer\.ggml\.merges"),
        ({"add_bos_token": True}, ValueError, "puts a start symbol before a text, and does not say which"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    """Every kind that cannot be read is refused by its name."""
    with pytest.raises(error, match=words):
        tokenizer_json(base(**changed))
