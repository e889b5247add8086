"""The tokenizer of a GGUF file, rebuilt from the file's own lists of tokens, kinds, scores and merges.

Rules
    What comes out splits every text as llama.cpp does. The usual conversion, that of transformers 5, does not: it loses
    SmolLM2's step of single digits, Gemma's added tokens for runs of spaces, and the order of Gemma's merges; and a
    tokenizer that disagrees with its model makes every probability wrong without an error.
    A kind that is not known here is refused. engines/llama_cpp/ compares the result with llama.cpp's own tokenizer.

Byte-level BPE ("gpt2")
    The merges are in the file. What comes before them, it only names (``tokenizer.ggml.pre``): pre_tokenizers.py.

BPE over characters ("gemma4", and some names of "gpt2")
    As byte-level BPE, but with ▁ for a space and byte tokens for characters that the vocabulary lacks.

SentencePiece ("llama")
    The file has scores in place of merges. SentencePiece joins the neighbours whose piece has the highest score. As a
    list of merges: every cut of every piece into two pieces, by falling score of the whole, then by falling length of
    the left part. User-defined pieces (in Gemma runs of spaces, newlines and tabs, HTML tags) come first: their score
    is 0 in the original model, which the file does not keep. What comes out of Gemma's file equals Google's published
    list line by line.

Special tokens
    Those that the file calls control tokens: no text becomes one of them, as in llama.cpp.

Source
    ``llama_vocab::impl::load`` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any, Final

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.gguf.pre_tokenizers import BY_LINE, GPT2_BYTES, IGNORE_MERGES, STEPS, WHOLE_LINE_ENDS, line_steps

# Kinds of token in a GGUF file.
NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4

# Ids that llama.cpp has where the file names none.
_DEFAULT_IDS: Final = {"llama": {"unknown": 0, "bos": 1, "eos": 2}}
_REFUSED: Final = {
    "bert": "WordPiece drops white space and spells unknown words as one token",
    "t5": "Unigram picks the best segmentation of the whole text at once, so what follows can change any token",
    "rwkv": "RWKV takes the longest token at each place, without merges",
    "plamo2": "PLaMo 2 picks the best segmentation of the whole text at once, so what follows can change any token",
    "hybriddna": "it spells DNA apart from other text",
    "whitespace": "it loses what its vocabulary lacks",
}


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
        UnsupportedTokenizerError: It is of a kind that cannot be exact.
        ValueError: It is of a kind that is not known here.
        KeyError: The file lacks a part of it.
    """
    model, pre = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre", "default")
    tokens, kinds = _tokens(metadata)
    name = f"pre-tokenizer {pre!r}" if model == "gpt2" else f"kind {model!r}"
    if why := _REFUSED.get(pre if model == "gpt2" else model):
        raise UnsupportedTokenizerError(f"it is of the {name}, which bytelm cannot support: {why}")
    if model == "llama":  # which has no pre-tokenizer, whatever the file says
        # The file spells user-defined runs of spaces as they look.
        pairs = zip(tokens, kinds, strict=True)
        tokens = [token.replace(" ", "▁") if published and kind == USER_DEFINED else token for token, kind in pairs]
        steps = _sentencepiece_steps(metadata, tokens, kinds)
    elif model == "gemma4" or (model == "gpt2" and pre in BY_LINE):
        steps = _line_steps(metadata, tokens, whole=model == "gemma4" or pre in WHOLE_LINE_ENDS)
    elif model == "gpt2" and pre in STEPS:
        steps = _byte_level_steps(metadata, tokens, pre)
    else:
        raise ValueError(f"bytelm does not know its {name}")
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
    tokens = metadata["tokenizer.ggml.tokens"]
    found: dict[str, str] = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token_id = _named_id(metadata, theirs)
        if token_id is not None and token_id < len(tokens):
            found[f"{ours}_token"] = tokens[token_id]
    return found


def _named_id(metadata: Mapping[str, Any], name: str) -> int | None:
    default = _DEFAULT_IDS.get(metadata["tokenizer.ggml.model"], {}).get(name)
    found: int | None = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    return found


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """The tokens and their kinds: all normal where the file does not say."""
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(metadata["tokenizer.ggml.tokens"])]
    return tokens, metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))


def _merges(metadata: Mapping[str, Any]) -> list[list[str]]:
    """The merges of a file: of one that is there twice the first counts."""
    merges: dict[str, None] = dict.fromkeys(metadata["tokenizer.ggml.merges"])
    cuts = ((merge, merge.find(" ", 1)) for merge in merges)
    return [[merge[:cut], merge[cut + 1 :]] for merge, cut in cuts if cut > 0]


def _byte_level_steps(metadata: Mapping[str, Any], tokens: Sequence[str], pre: str) -> dict[str, Any]:
    """What happens to text between the added tokens of a byte-level tokenizer."""
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": STEPS[pre]},
        "post_processor": _start_of_text(metadata, tokens),
        "decoder": {**GPT2_BYTES, "add_prefix_space": True},
        "model": {
            **_bpe(tokens, _merges(metadata)),
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "ignore_merges": pre in IGNORE_MERGES,
        },
    }


def _line_steps(metadata: Mapping[str, Any], tokens: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """What happens to text between the added tokens of a tokenizer that merges characters, line by line.

    With `whole` a run of line ends that is in the vocabulary is one token, whatever the merges say. Where the file's
    merges do not make it one, merges are added that do, and longer runs are split beforehand.
    """
    merges = _merges(metadata)
    runs = {len(token) for token in tokens if token and not token.strip("\n")} if whole else set()
    longest = 0
    if not all(_is_merged("\n" * n, merges) for n in runs):
        longest = max(runs)
        if any("\n" in left + right for left, right in merges) or len(runs) < longest:
            raise ValueError("its merges do not make the tokens of several line ends")
        merges += [["\n" * a, "\n" * (n - a)] for n in range(2, longest + 1) for a in range(1, n)]
    steps = _sentencepiece(metadata, tokens, merges, dummy_prefix=False)
    return {**steps, "pre_tokenizer": {"type": "Sequence", "pretokenizers": line_steps(longest)}}


def _is_merged(text: str, merges: Sequence[Sequence[str]]) -> bool:
    """Whether the merges make one token of a text."""
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges) if left + right in text}
    parts = list(text)
    while found := [(ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks]:
        i = min(found)[1]
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
    return len(parts) == 1


def _sentencepiece_steps(metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    """What happens to text between the added tokens of a SentencePiece tokenizer."""
    pairs = zip(metadata["tokenizer.ggml.scores"], kinds, strict=True)
    merges = merges_of_scores(tokens, [0.0 if kind == USER_DEFINED else score for score, kind in pairs])
    dummy_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)  # the hidden space before a text
    return _sentencepiece(metadata, tokens, merges, dummy_prefix=dummy_prefix)


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], merges: list[list[str]], *, dummy_prefix: bool
) -> dict[str, Any]:
    """BPE over characters with byte fallback, spaces as ▁."""
    unknown = _named_id(metadata, "unknown")
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
            "unk_token": None if unknown is None else tokens[unknown],
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
        bos_id = _named_id(metadata, "bos")
        if bos_id is None:
            raise ValueError("the file puts a start symbol before a text, and does not say which")
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
