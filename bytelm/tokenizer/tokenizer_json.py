"""A tokenizer read into a `Vocab`, or refused by the name of the step that stands in the way.

Rules
    Read what really runs: the specification comes from ``backend_tokenizer.to_str()``, never from a file.
    Every step of the pipeline (normalizer, pre-tokenizer, model, decoder) is either understood to the letter
    or refused. Nothing here is guessed from a model's name.
    An added token is special if it is declared so, or is a control token by its name (control_tokens.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from bytelm.arguments import bytes_of, is_several, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError, UnsupportedTokenizerError
from bytelm.tokenizer.alphabet import spelled_with
from bytelm.tokenizer.control_tokens import CONTROL_TOKENS
from bytelm.tokenizer.vocab import (
    SPACE_MARK,
    AddedToken,
    Family,
    SplitStep,
    Vocab,
    decode_added,
    spell_byte_level,
    spell_sentencepiece,
)
from bytelm.tokenizer.vocab_cache import Tables, keep_tables, load_tables, path_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_MOST_IDS: Final = 1 << 21
_LONGEST: Final = 1 << 12  # characters of a token; published vocabularies have a few hundred at most

_LOSSY_NORMALIZERS: Final = {
    "NFKC": "it merges compatibility characters",
    "NFKD": "it splits compatibility characters",
    "Lowercase": "it drops letter case",
    "StripAccents": "it drops accents",
    "Strip": "it drops spaces at the ends of a text",
    "BertNormalizer": "it cleans, strips and lower-cases text",
    "Nmt": "it drops and merges control characters",
    "Precompiled": "its character map merges different characters (nmt_nfkc and its like)",
    "ByteLevel": "a byte-level normalizer is not implemented",
}

_LOSSY_PRE_TOKENIZERS: Final = {
    "Whitespace": "it drops white space",
    "WhitespaceSplit": "it drops white space",
    "BertPreTokenizer": "it drops white space",
    "CharDelimiterSplit": "it drops the delimiter",
    "UnicodeScripts": "its boundaries are not given by a pattern",
    "FixedLength": "its boundaries count characters from the start of the text",
}

# None of the characters that stand for bytes is white space, so after ByteLevel these drop nothing. (The word
# characters of Whitespace are those of another engine than Split's.)
_AFTER_BYTES: Final = {
    "Whitespace": (SplitStep(r"[\p{L}\p{Nd}_]+|[^\p{L}\p{Nd}_]+", after_bytes=True),),
    "WhitespaceSplit": (),
    "BertPreTokenizer": (SplitStep("", classes="punctuation", after_bytes=True),),
}

_SPACE: Final = "Ġ"  # as a byte-level piece spells it
_MODELS: Final = {
    "Unigram": "Unigram picks the best segmentation of the whole text at once, so what follows can change any token",
    "WordPiece": "WordPiece drops white space and spells unknown words as one token",
    "WordLevel": "WordLevel spells unknown words as one token",
}


def backend_of(tokenizer: Any) -> Tokenizer:
    """The ``tokenizers.Tokenizer`` beneath a tokenizer.

    Raises:
        UnsupportedTokenizerError: A slow tokenizer, which has no fast form beneath it.
        InvalidTypeError: Something that is no tokenizer at all.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        if hasattr(tokenizer, "encode") and hasattr(tokenizer, "convert_ids_to_tokens"):
            raise UnsupportedTokenizerError(
                f"{type(tokenizer).__name__} is a slow tokenizer: it has no fast form (tokenizer.json) whose rules can "
                "be read. Convert it with transformers' AutoTokenizer(use_fast=True), or load another tokenizer."
            )
        raise InvalidTypeError(
            f"expected a transformers fast tokenizer or a tokenizers.Tokenizer, got {type(tokenizer).__name__}"
        )
    return backend


def read_vocab(tokenizer: Any, *, text_tokens: Collection[str] = ()) -> Vocab:
    """Read a tokenizer into a `Vocab`, or refuse it.

    Args:
        tokenizer: A transformers fast tokenizer or a ``tokenizers.Tokenizer``.
        text_tokens: Added tokens that are text, though they are declared special or are control tokens.

    Raises:
        UnsupportedTokenizerError: Some step loses information or is not understood; the message names it.
        InvalidArgumentError: A text token is no added token.
    """
    backend = backend_of(tokenizer)
    _check_text_tokens(backend, text_tokens)
    check_ids(backend)
    specification = backend.to_str()
    path = path_of(specification, *sorted(CONTROL_TOKENS), "", *sorted(text_tokens))
    if (kept := load_tables(path)) is not None:
        return _vocab_of(kept, backend)
    tables = parse_tables(json.loads(specification), text_tokens, backend.normalizer)
    vocab = _vocab_of(tables, backend)
    keep_tables(path, tables)
    return vocab


def _check_text_tokens(backend: Tokenizer, text_tokens: Collection[str]) -> None:
    if not is_several(text_tokens):
        raise InvalidTypeError(
            f"text_tokens must be a collection of tokens, not {type(text_tokens).__name__}: {shown(text_tokens)}"
        )
    for token in text_tokens:
        bytes_of(token, "a text token")
    added = {token.content for token in backend.get_added_tokens_decoder().values()} if text_tokens else set()
    if missing := sorted(set(text_tokens) - added):
        raise InvalidArgumentError(f"text_tokens {missing} are not among the tokenizer's {len(added)} added tokens")


def check_ids(backend: Tokenizer) -> None:
    """Refuse an id that is far too large, before the library counts up to it, and one that several pieces share.

    Raises:
        UnsupportedTokenizerError: There is one.
    """
    size = backend.get_vocab_size(with_added_tokens=False)
    if None not in map(backend.model.id_to_token, range(size)):
        return  # as many ids as pieces, so all are below `size`; much faster than asking for all of them
    piece_of: dict[int, str] = {}
    for piece, i in backend.get_vocab(with_added_tokens=False).items():
        if i >= _MOST_IDS:
            raise UnsupportedTokenizerError(
                f"the piece {piece!r:.80} has the id {i}; ids of {_MOST_IDS} and more are not followed"
            )
        if (other := piece_of.setdefault(i, piece)) != piece:
            raise UnsupportedTokenizerError(
                f"the pieces {other!r:.80} and {piece!r:.80} share the id {i}: text with one is decoded to the other"
            )


def parse_tables(spec: dict[str, Any], text_tokens: Collection[str] = (), normalizer: Any = None) -> Tables:
    """The tables of a parsed ``tokenizer.json``, which is left without its pieces and merges.

    Args:
        spec: The parsed file.
        text_tokens: As `read_vocab`.
        normalizer: Its normalizer.

    Raises:
        UnsupportedTokenizerError: As `read_vocab`, where its model is at fault.
    """
    for token in spec["added_tokens"]:
        token["special"] |= token["content"] in CONTROL_TOKENS
        token["special"] &= token["content"] not in text_tokens
    model = spec["model"]
    _check_model(model)
    byte_level = _read_pre_tokenizer(spec["pre_tokenizer"])[1]
    pieces: dict[str, int] = model.pop("vocab")
    longest = max((*pieces, *(token["content"] for token in spec["added_tokens"])), key=len, default="")
    if len(longest) > _LONGEST:
        raise UnsupportedTokenizerError(
            f"the token {longest[:40]!r}… has {len(longest)} characters, and no more than {_LONGEST} are followed"
        )
    pairs = (m if isinstance(m, list) else m.split(" ", 1) for m in model.pop("merges"))
    merges = np.fromiter((pieces[part] for a, b in pairs for part in (a, b, a + b)), np.int32).reshape(-1, 3)
    added = spec["added_tokens"]
    token_bytes: list[bytes | None] = [None] * (max([-1, *pieces.values(), *(t["id"] for t in added)]) + 1)
    for piece, i in pieces.items():
        token_bytes[i] = spell_byte_level(piece) if byte_level else spell_sentencepiece(piece)
    for token in added:
        family: Family = "byte-level" if byte_level else "sentencepiece"
        content = normalizer.normalize_str(token["content"]) if normalizer and token["normalized"] else token["content"]
        marks = SPACE_MARK in pieces
        token_bytes[token["id"]] = None if token["special"] else decode_added(content, family, marks=marks)
    if (unknown := model.get("unk_token")) in pieces:
        token_bytes[pieces[unknown]] = None
    spelled = sorted((data, i) for i, data in enumerate(token_bytes) if data is not None)
    order = np.array([i for _, i in spelled], np.int32)
    return Tables(spec, pieces, merges, tuple(token_bytes), order)


def _check_alike(added: Collection[AddedToken], backend: Tokenizer) -> None:
    """Refuse added tokens that are one text once it is normalized: which of them is found is left to chance."""
    found: dict[str, str] = {}
    for content in (token.content for token in added if token.normalized):
        other = found.setdefault(backend.normalizer.normalize_str(content) if backend.normalizer else content, content)
        if other != content:
            raise UnsupportedTokenizerError(
                f"the added tokens {other!r} and {content!r} normalize to the same text, and the tokenizer finds one "
                "or the other from run to run; declare one of them normalized=False"
            )


def _vocab_of(tables: Tables, backend: Tokenizer) -> Vocab:
    spec = tables.spec
    model = spec["model"]
    _check_model(model)
    form, marks, prepend = _read_normalizer(spec["normalizer"])
    steps, byte_level, prefix_space, metaspace = _read_pre_tokenizer(spec["pre_tokenizer"])
    added = tuple(
        AddedToken(**{k: t[k] for k in ("id", "content", "special", "normalized", "lstrip", "rstrip", "single_word")})
        for t in spec["added_tokens"]
    )
    _check_alike(added, backend)
    fallback = bool(model.get("byte_fallback"))
    if byte_level and (marks or metaspace):
        raise UnsupportedTokenizerError(
            "the tokenizer both maps bytes to characters (ByteLevel) and spaces to ▁ (Metaspace or Replace): "
            "decoding does not give back its spaces. Load it with the class its maker names."
        )
    if not byte_level:
        _check_sentencepiece(tables.pieces, fallback=fallback, marks=marks or bool(metaspace))
    opening, reopening = _openings(prepend=prepend, prefix_space=prefix_space, metaspace=metaspace)
    dummy_prefix = b" " if prepend or opening else b""
    if byte_level and dummy_prefix and _SPACE not in tables.pieces:
        raise UnsupportedTokenizerError(
            f"a space is put in front of every text (add_prefix_space), and {_SPACE} is no token: the space is lost"
        )
    return Vocab(
        family="byte-level" if byte_level else "sentencepiece",
        token_bytes=tables.token_bytes,
        order=tables.order,
        added=tuple(sorted(added, key=lambda t: t.id)),
        steps=tuple(steps),
        form=form,
        dummy_prefix=dummy_prefix,
        opening=opening,
        reopening=reopening,
        prepends=prepend,
        pieces=tables.pieces,
        merges=tables.merges,
        ignore_merges=bool(model.get("ignore_merges")),
        byte_fallback=fallback,
        marks=marks,
        source=backend,
    )


def _check_model(model: dict[str, Any]) -> None:
    kind = model.setdefault("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        why = _MODELS.get(kind, "only BPE models are understood")
        if kind == "Unigram" and not model.get("byte_fallback"):
            why = "Unigram without byte fallback replaces characters outside its vocabulary with one unknown token"
        raise UnsupportedTokenizerError(f"the {kind} model cannot be a byte model: {why}")
    if model.get("dropout"):
        raise UnsupportedTokenizerError(
            f"BPE dropout ({model['dropout']}) makes encoding random: no text has one canonical sequence; turn it off"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedTokenizerError(
                f"the model marks words with {key}={model[key]!r}, which loses the spaces between them"
            )


def _flatten(step: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for inner in step[key]:
            yield from _flatten(inner, key)
    else:
        yield step


def _read_normalizer(normalizer: dict[str, Any] | None) -> tuple[Literal["NFC", "NFD"] | None, bool, bool]:
    """The normal form, whether spaces become ▁, and whether a ▁ is put in front."""
    form: Literal["NFC", "NFD"] | None = None
    marks = prepend = False
    for step in _flatten(normalizer, "normalizers"):
        kind = step["type"]
        if kind in ("NFC", "NFD"):
            form = kind
        elif kind == "Prepend" and step["prepend"] == SPACE_MARK and not marks:
            prepend = True
        elif kind == "Replace" and step["pattern"] == {"String": " "} and step["content"] == SPACE_MARK:
            marks = True
        elif kind in ("Replace", "Prepend"):
            detail = step.get("pattern", step.get("prepend"))
            raise UnsupportedTokenizerError(
                f"the normalizer {kind}({detail!r} → {step.get('content', '')!r}) changes the text, "
                "and decoding does not undo it"
            )
        else:
            why = _LOSSY_NORMALIZERS.get(kind, "it is not understood")
            raise UnsupportedTokenizerError(f"the normalizer {kind} stands in the way of exact bytes: {why}")
    if prepend and not marks:
        raise UnsupportedTokenizerError("the normalizer Prepend(▁) without Replace(' ' → ▁) is not understood")
    return form, marks, prepend


def _read_pre_tokenizer(
    pre_tokenizer: dict[str, Any] | None,
) -> tuple[list[SplitStep], bool, bool, dict[str, Any] | None]:
    """The steps, whether the vocabulary is byte-level, whether ByteLevel adds a space, and the Metaspace step."""
    steps: list[SplitStep] = []
    byte_level = prefix_space = False
    metaspace: dict[str, Any] | None = None
    for position, step in enumerate(_flatten(pre_tokenizer, "pretokenizers")):
        kind = step["type"]
        if kind == "Split":
            ((syntax, pattern),) = step["pattern"].items()
            pattern = pattern if syntax == "Regex" else _escape(pattern)
            steps.append(SplitStep(pattern, step["behavior"], bool(step["invert"]), after_bytes=byte_level))
        elif kind == "Digits":
            behavior = "Isolated" if step["individual_digits"] else "Contiguous"
            steps.append(SplitStep("", behavior, classes="digits", after_bytes=byte_level))
        elif kind == "Punctuation":
            steps.append(SplitStep("", step["behavior"], classes="punctuation", after_bytes=byte_level))
        elif byte_level and kind in _AFTER_BYTES:
            steps += _AFTER_BYTES[kind]
        elif kind == "ByteLevel":
            if byte_level:
                raise UnsupportedTokenizerError("a second ByteLevel spells the bytes of the first one's characters")
            byte_level = True
            if step["add_prefix_space"]:
                if position:
                    raise UnsupportedTokenizerError(
                        "ByteLevel(add_prefix_space=True) after another pre-tokenizer puts spaces inside the text"
                    )
                prefix_space = True
            if step["use_regex"]:
                steps.append(SplitStep(GPT2_PATTERN))
        elif kind == "Metaspace":
            if position or step["replacement"] != SPACE_MARK:
                raise UnsupportedTokenizerError(
                    f"a Metaspace step after another, or with {step['replacement']!r}, is not understood"
                )
            metaspace = step
            if step.get("split", True):
                steps.append(SplitStep(SPACE_MARK, "MergedWithNext"))
        else:
            why = _LOSSY_PRE_TOKENIZERS.get(kind, "it is not understood")
            raise UnsupportedTokenizerError(f"the pre-tokenizer {kind} stands in the way of exact bytes: {why}")
    for step_ in steps:
        if step_.classes and step_.behavior == "Removed":
            raise UnsupportedTokenizerError(f"the pre-tokenizer drops {step_.classes}")
    return steps, byte_level, prefix_space, metaspace


def _escape(literal: str) -> str:
    return "".join("\\" + c if c in r"\^$.|?*+()[]{}/-#&~ " else c for c in literal)


def _check_sentencepiece(pieces: dict[str, int], *, fallback: bool, marks: bool) -> None:
    if not fallback:
        raise UnsupportedTokenizerError(
            "this BPE vocabulary is over characters and has no byte fallback: "
            "text with a character outside the vocabulary is lost (no ByteLevel step, byte_fallback is false)"
        )
    if missing := frozenset(b for b in range(256) if f"<0x{b:02X}>" not in pieces):
        lost = spelled_with(missing)
        lost[[ord(piece.replace(SPACE_MARK, " ")) for piece in pieces if len(piece) == 1]] = False
        lost[0xD800:0xE000] = False
        lost[ord(SPACE_MARK)] &= SPACE_MARK not in pieces
        if lost.any():
            character = chr(int(np.flatnonzero(lost)[0]))
            byte = next(b for b in character.encode() if b in missing)
            raise UnsupportedTokenizerError(
                f"byte fallback lacks the token <0x{byte:02X}>, so text with {character!r}, which is no token of its "
                "own, is lost"
            )
    if marks and SPACE_MARK not in pieces:
        raise UnsupportedTokenizerError("spaces become ▁, and ▁ is no token: spaces are lost")
    if not marks and any(SPACE_MARK in piece for piece in pieces):
        raise UnsupportedTokenizerError("tokens spell spaces as ▁ but no step turns spaces into ▁")


def _openings(*, prepend: bool, prefix_space: bool, metaspace: dict[str, Any] | None) -> tuple[str, str]:
    """What a text and a later piece have to begin with, where a pre-tokenizer hides a space in front of them."""
    scheme = metaspace.get("prepend_scheme", "always") if metaspace else "never"
    if not prefix_space and scheme == "never":
        return "", ""
    # These add the space only where the text does not begin with one, so a text with it and one without it
    # encode alike, and only the one without it is a text. After a normalizer that adds one, every text begins with it.
    space = SPACE_MARK if metaspace else " "
    return "" if prepend else f"{space}(?=[^{space}])", space if prefix_space or scheme == "always" else ""
