"""Real tokenizers with one rule changed to what other published tokenizers have: their shapes without their files.

Each variant names the tokenizer that it comes from (in BYTELM_TEST_DATA) and changes its specification.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

JAIS_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    + "|".join(rf"\s{{{2**k}}}(?!\S)" for k in range(9, 1, -1))
    + r"|\s{1,2}(?!\S)|\s{1}"
)


def tab_is_a_piece(spec: dict[str, Any]) -> None:
    """Gemma 1 and 2, CodeGemma: a tab is a piece, and there is no byte token for it."""
    vocab = spec["model"]["vocab"]
    vocab["\t"] = vocab.pop("<0x09>")


def prefix_space(spec: dict[str, Any]) -> None:
    """RoBERTa's habit: a space in front of every text that begins with none."""
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def falcon(spec: dict[str, Any]) -> None:
    """Falcon: digits are split after the bytes have become characters, so inside characters too."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level,
            {"type": "Digits", "individual_digits": False},
            {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated", "invert": False},
        ],
    }
    spec["model"]["ignore_merges"] = False


def jais_2(spec: dict[str, Any]) -> None:
    """Jais 2: runs of white space in powers of two, up to 512."""
    (split,) = (step for step in spec["pre_tokenizer"]["pretokenizers"] if step["type"] == "Split")
    split["pattern"] = {"Regex": JAIS_2}


VARIANTS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a tab is a piece": ("llama2", tab_is_a_piece),
    "prefix space": ("gpt2", prefix_space),
    "falcon": ("gpt2", falcon),
    "jais 2": ("llama3", jais_2),
}


def variant(name: str, test_data: Path) -> Tokenizer:
    """One of `VARIANTS`."""
    base, change = VARIANTS[name]
    spec = json.loads(lzma.decompress((test_data / "tokenizers" / f"{base}.json.xz").read_bytes()))
    change(spec)
    return Tokenizer.from_str(json.dumps(spec))
