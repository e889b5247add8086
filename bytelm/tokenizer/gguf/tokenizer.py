"""The tokenizer of a GGUF file, rebuilt from the file's own lists of tokens, kinds, scores and merges.

Rules
    What comes out splits every text as llama.cpp does. The usual conversion, that of transformers 5, does not: it loses
    SmolLM2's step of single digits, Gemma's added tokens for runs of spaces, and the order of Gemma's merges; and a
    tokenizer that disagrees with its model makes every probability wrong without an error.
    A kind that is not known here is refused. engines/llama_cpp/ compares the result with llama.cpp's own tokenizer.

Byte-level BPE ("gpt2")
    The merges are in the file. What comes before them, it only names (``tokenizer.ggml.pre``): `STEPS`.

SentencePiece ("llama")
    The file has scores in place of merges. SentencePiece joins the neighbours whose piece has the highest score. As a
    list of merges: every cut of every piece into two pieces, by falling score of the whole, then by falling length of
    the left part. User-defined pieces (in Gemma runs of spaces, newlines and tabs, HTML tags) come first: their score
    is 0 in the original model, which the file does not keep. What comes out of Gemma's file equals Google's published
    list line by line.

Special tokens
    Those that the file calls control tokens: no text becomes one of them, as in llama.cpp.

Source
    Which steps go with which name: ``llm_tokenizer_bpe`` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

# Kinds of token in a GGUF file.
CONTROL: Final = 3
USER_DEFINED: Final = 4

_LLAMA3: Final = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2_BYTES: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES: Final = {**_GPT2_BYTES, "use_regex": False}
_DIGITS: Final = {"type": "Digits", "individual_digits": True}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT2_STEPS: Final = [_GPT2_BYTES]
_SMOLLM_STEPS: Final = [_DIGITS, _GPT2_BYTES]
_LLAMA3_STEPS: Final = [_split(_LLAMA3), _BYTES]
_QWEN2_STEPS: Final = [_split(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), _BYTES]
_NAMES: Final = (
    (("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4"), _GPT2_STEPS),
    (("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _SMOLLM_STEPS),
    (("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "dbrx", "smaug-bpe"), _LLAMA3_STEPS),
    (("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"), _QWEN2_STEPS),
)
STEPS: Final[Mapping[str, list[dict[str, Any]]]] = {name: steps for names, steps in _NAMES for name in names}
# A pre-token that is in the vocabulary is taken whole.
_IGNORE_MERGES: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"})


def tokenizer_json(
    metadata: Mapping[str, Any], *, special: AbstractSet[str] | None = None, published: bool = False
) -> dict[str, Any]:
    """The tokenizer.json of a GGUF file.

    Args:
        metadata: The pairs of the file that begin with ``tokenizer.``.
        special: The tokens that are never text; None for all that the file calls control tokens.
        published: Spell Gemma's runs of spaces with ▁, as Google's own tokenizer does, for which a ▁ in the text is one
            of a run. For llama.cpp it is none.

    Raises:
        ValueError: The file's tokenizer is of a kind that is not known here.
    """
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    model, pre = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre", "default")
    if model == "gpt2" and pre in STEPS:
        tokens = list(metadata["tokenizer.ggml.tokens"])
        steps = _byte_level_steps(metadata, tokens, pre)
    elif (model, pre) == ("llama", "default"):
        # The file spells user-defined runs of spaces as they look.
        pairs = zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True)
        tokens = [token.replace(" ", "▁") if published and kind == USER_DEFINED else token for token, kind in pairs]
        steps = _sentencepiece_steps(metadata, tokens)
    else:
        raise ValueError(f"the tokenizer is of the unknown kind {(model, pre)}")
    added = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL if special is None else token in special,
        }
        for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {CONTROL, USER_DEFINED}
    ]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **steps}


def named_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that the file gives a part to, as transformers calls them: ``bos_token`` and so on."""
    found: dict[str, str] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token_id = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if token_id is not None:
            found[f"{ours}_token"] = metadata["tokenizer.ggml.tokens"][token_id]
    return found


def _byte_level_steps(metadata: Mapping[str, Any], tokens: Sequence[str], pre: str) -> dict[str, Any]:
    """What happens to text between the added tokens of a byte-level tokenizer."""
    merges = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    steps = STEPS[pre]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": _start_of_text(metadata, tokens),
        "decoder": {**_GPT2_BYTES, "add_prefix_space": True},
        "model": {
            **_bpe(tokens, merges),
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "ignore_merges": pre in _IGNORE_MERGES,
        },
    }


def _sentencepiece_steps(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """What happens to text between the added tokens of a SentencePiece tokenizer."""
    kinds = metadata["tokenizer.ggml.token_type"]
    pairs = zip(metadata["tokenizer.ggml.scores"], kinds, strict=True)
    merges = merges_of_scores(tokens, [0.0 if kind == USER_DEFINED else score for score, kind in pairs])
    dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)  # the hidden space before a text
    underlined = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    to_space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if dummy_prefix else []
    # It never splits, as the normaliser leaves no space; it is part of Gemma's published tokenizer.
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, underlined]}
    return {
        "normalizer": prepend if dummy_prefix else underlined,
        "pre_tokenizer": None if dummy_prefix else split,
        "post_processor": _start_of_text(metadata, tokens),
        "decoder": {"type": "Sequence", "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            **_bpe(tokens, merges),
            "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _bpe(tokens: Sequence[str], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: token_id for token_id, token in enumerate(tokens)},
        "merges": merges,
    }


def _start_of_text(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """The step that puts the start symbol before a text, if the model has it so."""
    start: list[str] = []
    special: dict[str, Any] = {}
    if metadata.get("tokenizer.ggml.add_bos_token"):
        bos_id = metadata["tokenizer.ggml.bos_token_id"]
        start = [tokens[bos_id]]
        special = {tokens[bos_id]: {"id": tokens[bos_id], "ids": [bos_id], "tokens": start}}

    def text(name: str, type_id: int) -> list[dict[str, Any]]:
        symbols = [{"SpecialToken": {"id": token, "type_id": type_id}} for token in start]
        return [*symbols, {"Sequence": {"id": name, "type_id": type_id}}]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": special,
    }


def merges_of_scores(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """The merges by which BPE joins what SentencePiece joins by score, first merge first.

    >>> merges_of_scores(["a", "b", "ab", "aba"], [-9.0, -9.0, -2.0, -1.0])
    [['ab', 'a'], ['a', 'b']]
    """
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    cuts: list[tuple[float, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
        cuts += [(score, left, right) for left, right in pairs]
    cuts.sort(key=lambda cut: (cut[0], len(cut[1]), len(cut[2])), reverse=True)
    return [[left, right] for _, left, right in cuts]
