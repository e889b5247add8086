"""Rebuilt tokenizers against llama.cpp's own, for every name that a GGUF file can have for its pre-tokenizer."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.gguf.metadata import read_metadata
from bytelm.tokenizer.gguf.pre_tokenizers import BY_LINE, STEPS
from bytelm.tokenizer.gguf.tokenizer import tokenizer_json
from bytelm.tokenizer.hard_texts import documents
from tests.support.tiny_gguf import bytes_as_letters, gemma_like, gguf_pairs, smollm_like, write_gguf

if importlib.util.find_spec("llama_cpp") is None and not os.environ.get("BYTELM_EXPECT_LLAMA_CPP"):
    pytest.skip(
        "llama-cpp-python is not installed (it compiles for a quarter of an hour): tox -e llama-cpp runs these",
        allow_module_level=True,
    )

# Letters, digits and spaces of many kinds, and what some pattern names.
CHARACTERS = [
    *"aAbZzsStTrReEvVmMlLdD'’ \t\n\r0123456789.,!?/-_$+<=>^~|`@#%&*()[]{}\\\"éÉßſKäÄжЖ日本語ひカ한ㄱ中　\u2028\x85\x0b\x1c\xa0",
    *"€©™½²٣Ⅷ①…。，、।۔،“”‘’—：；！？～／\u0301\u200d😀ǅʰª𐐀𝐀\u0378\U00020000\U0002fa1f\ue000\uffff\ufeff豈ﬀΑςﾟｱกໆကꩠ〇〡ㅎ︰ㄅ",
    *("IMGIMG", "IMGIMGABZ", "<sentinel:12>", "    ", "  ", "\n\n", "\r\n", " 's", "'LL", "12345678"),
]
# Unicode 16, which llama.cpp does not know.
NEW = re.compile(
    "[\u0897\u1b4e\u1b4f\u1b7f\u1c89\u1c8a\u2427-\u2429\u31e4\u31e5\ua7cb-\ua7cd\ua7da-\ua7dc\U000105c0-\U000105f3"
    "\U00010d40-\U00010d8f\U00010ec2-\U00010ec4\U00010efc\U00011380-\U000113e2\U000116d0-\U000116e3\U00011bc0-\U00011bf9"
    "\U00011f5a\U00013460-\U000143fa\U00016100-\U00016139\U00016d40-\U00016d79\U00018cff\U0001cc00-\U0001ceb3"
    "\U0001e5d0-\U0001e5ff\U0001f8b2-\U0001f8c1\U0001fa89\U0001fa8f\U0001fabe\U0001fac6\U0001fadc\U0001fadf\U0001fae9"
    "\U0001fbcb-\U0001fbef]"
)


@contextmanager
def llama_cpp(path: Path) -> Iterator[Callable[[str], list[int]]]:
    """llama.cpp's own tokenizer of a file, without its weights."""
    from bytelm.engines.llama_cpp.context import library

    lib = library()
    options = lib.llama_model_default_params()
    options.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), options)
    assert model, f"llama.cpp does not load {path.name}"
    room = (lib.llama_token * 10_000)()

    def tokenize(text: str) -> list[int]:
        data = text.encode()
        count = lib.llama_tokenize(
            lib.llama_model_get_vocab(model), ctypes.c_char_p(data), len(data), room, len(room), False, False
        )
        return list(room[:count])

    yield tokenize
    lib.llama_model_free(model)


def rebuilt(path: Path) -> Any:
    """Our tokenizer of a file, in which no text is a special token."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(read_metadata(path, "tokenizer."))))
    tokenizer.encode_special_tokens = True
    return tokenizer


def disagreements(path: Path, texts: list[str]) -> list[str]:
    """The texts of which llama.cpp makes other tokens."""
    tokenizer = rebuilt(path)
    with llama_cpp(path) as theirs:
        ours = (tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        return [text for text, ids in zip(texts, ours, strict=True) if ids != theirs(text)]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    found = ["".join(rng.choices(CHARACTERS, k=rng.randint(1, 12))) for _ in range(count)]
    points = [c for c in range(0x20, 0x20000) if not 0xD800 <= c < 0xE000]
    around = ["a", "1", " ", "!", "'", "日", "", "\n"]
    found += [f"{rng.choice(around)}{chr(c)}{rng.choice(around)}{chr(c)}" for c in rng.sample(points, count)]
    found += [document.decode("utf-8", "ignore") for document in islice(documents(seed), count)]
    return [text for text in found if not NEW.search(text)]


@pytest.fixture(scope="module")
def vocabularies() -> list[tuple[list[str], list[str]]]:
    """Tokens and merges that show the splits: pairs of bytes, joined by random rank."""
    letters = bytes_as_letters()
    common = [letters[byte] for byte in {*b" \t\n\r'\"!.,-/0123456789aAbBsStTlLmMdDrRzZIMG<>|$\xc3\xe2\xe3\xe6\xf0\xcc\xd8\x80\x81\xa8\xa9"}]  # fmt: skip
    pairs = [(a, b) for a in common for b in common]
    found = []
    for seed in range(2):
        random.Random(seed).shuffle(pairs)
        found.append(([*letters, *(a + b for a, b in pairs), "aAb"], [f"{a} {b}" for a, b in pairs]))
    return found


@pytest.mark.parametrize("name", STEPS)
def test_text_is_split_as_llama_cpp_does(
    name: str, vocabularies: list[tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    """Of every text llama.cpp makes the same tokens, of "aAb" too, which no merge makes."""
    path = tmp_path / "vocabulary.gguf"
    wrong = []
    for seed, (tokens, merges) in enumerate(vocabularies):
        kinds = [1] * len(tokens)
        pairs = {"model": "gpt2", "pre": name, "tokens": tokens, "merges": merges, "token_type": kinds}
        write_gguf(path, "llama", {f"tokenizer.ggml.{key}": value for key, value in pairs.items()}, {})
        wrong += disagreements(path, ["aAb", "x aAb aAb", *texts(100, seed)])

    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "vocabulary"),
    [
        *(("deepseek-coder", "deepseek_v3"), ("deepseek-llm", "deepseek_v3"), ("deepseek-v3", "deepseek_v3")),
        *(("falcon", "gpt2"), ("default", "gpt2"), ("tekken", "tekken"), ("gpt-4o", "o200k"), ("kimi-k2", "o200k")),
        *(("glm4", "cl100k"), ("qwen35", "qwen3"), ("tiny_aya", "o200k"), ("superbpe", "cl100k")),
    ],
)
def test_real_vocabularies(name: str, vocabulary: str, load_tokenizer: Callable[[str], Any], tmp_path: Path) -> None:
    """With the merges of a real tokenizer too."""
    path = tmp_path / "real.gguf"
    spec = json.loads(load_tokenizer(vocabulary).backend_tokenizer.to_str())
    spec["added_tokens"] = []
    write_gguf(path, "llama", gguf_pairs(spec, name), {})

    assert disagreements(path, texts(300)) == []


LINE_ENDS = ["\n" * n for n in range(1, 5)]
LINES = [f"{a}{end}{b}" for end in (*LINE_ENDS, "\n" * 5, "\n" * 9) for a in ("", "ab", " a") for b in ("", "b a", " ")]


@pytest.mark.parametrize("name", sorted(BY_LINE))
@pytest.mark.parametrize("merged", [False, True], ids=["line ends without merges", "line ends with merges"])
def test_text_is_split_line_by_line(name: str, merged: bool, tmp_path: Path) -> None:
    """Merges of characters, whole runs of line ends, longer runs, and bytes of what the vocabulary lacks."""
    path = tmp_path / "lines.gguf"
    tokens = ["<bos>", *LINE_ENDS, *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "ab", "▁a"]
    merges = ["a b", "▁ a", *(["\n \n", "\n\n \n\n", "\n\n \n"] if merged else [])]
    kinds = [3, *[1] * 4, *[6] * 256, *[1] * 5]
    model = "gemma4" if name == "gemma4" else "gpt2"
    pairs = {"model": model, "pre": name, "tokens": tokens, "merges": merges, "token_type": kinds, "bos_token_id": 0}
    write_gguf(path, "llama", {f"tokenizer.ggml.{key}": value for key, value in pairs.items()}, {})

    assert disagreements(path, [*LINES, *texts(200)]) == []


def test_a_baichuan_like_file(tmp_path: Path) -> None:
    """A file that names no unknown token has the one that llama.cpp takes: the first."""
    from bytelm.engines.llama_cpp.engine import LlamaCppLM

    path = tmp_path / "baichuan.gguf"
    gemma_like(path, unknown_token_id=None)

    lm = LlamaCppLM(path, n_threads=1)

    assert lm.tokenizer("ab").input_ids == [2, *lm.context.tokenize(b"ab")]
    lm.close()


def test_control_tokens_that_llama_cpp_reads_in_text_stay_special(tmp_path: Path) -> None:
    """llama.cpp takes the text <|start|> for gpt-oss's control token. For bytelm no text is one."""
    from bytelm import ByteLM
    from bytelm.engines.llama_cpp.engine import LlamaCppLM

    path = tmp_path / "gpt-oss.gguf"
    smollm_like(path, ["<|start|>", "<|message|>"], pre="gpt-4o")

    lm = LlamaCppLM(path, n_threads=1)

    assert lm.context.tokenize(b"<|start|>") == [2]
    assert ByteLM(lm).byte_logprobs("<|start|>").shape == (9,), "it is spelled byte by byte"
    lm.close()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pre": "whitespace"}, r"pre-tokenizer 'whitespace', which bytelm cannot support: it loses"),
        ({"merges": None, "pre": "kimi-k2"}, r"lacks 'tokenizer\.ggml\.merges'; give the model's own as tokenizer="),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The message says what is wrong with the file."""
    from bytelm.engines.llama_cpp.engine import LlamaCppLM

    path = tmp_path / "odd.gguf"
    smollm_like(path, **changed)

    with pytest.raises(UnsupportedTokenizerError, match=rf"odd\.gguf cannot be rebuilt: .*{words}"):
        LlamaCppLM(path, n_threads=1)
