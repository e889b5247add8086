"""The tokenizer itself as the judge: enc, dec and the boundary nodes, by definition and nothing else.

Rules
    Nothing here is derived from ``bytelm`` but which names are control tokens: those are special, as declared ones are.
    Text goes through the ``tokenizers`` engine, and what comes out is read off. enc(w) is what the engine emits for w
    with no special tokens added and none parsed out of the text. dec(u) is the bytes of the ids: the byte-level
    alphabet, or ▁ for a space and <0xXX> for a byte; an added token spells what the decoder makes of its content, which
    is normalized where the token is (so `tokenizers` decodes from 0.23 on; so every version finds it in text).
    Special tokens spell nothing. A space that the pipeline puts in front of a text is no part of the text, whether or
    not the decoder takes it away again. A text is canonical iff dec(enc(w)) == w. Text that a normalizer changes, or
    that holds U+2581 in a tokenizer that writes spaces with it, has no canonical sequence.
Consequence
    u is viable iff for some y the text w = dec(u)·y is canonical and enc(w) begins with u. So one canonical w is a
    witness for every prefix x of w at once: the tokens that end within x are a boundary node of x, the token after
    them its leaf.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import Tokenizer

from bytelm.tokenizer.control_tokens import CONTROL_TOKENS

Ids: TypeAlias = tuple[int, ...]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet, character to byte: printable Latin-1 stands for itself, the rest counts up from U+0100.

    >>> byte_alphabet()["Ġ"], byte_alphabet()["a"]
    (32, 97)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def parts_of(step: Any) -> list[dict[str, Any]]:
    """The atomic steps of a normalizer, pre-tokenizer or decoder, in order, with every Sequence unrolled."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        inner = step.get("normalizers") or step.get("pretokenizers") or step.get("decoders") or []
        return [part for each in inner for part in parts_of(each)]
    return [step]


def read_backend(source: Any) -> Tokenizer:
    """A backend from a transformers tokenizer, a ``tokenizers.Tokenizer``, a tokenizer.json[.xz] or a model folder."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            from transformers import AutoTokenizer

            return read_backend(AutoTokenizer.from_pretrained(path, trust_remote_code=False))
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
        return Tokenizer.from_str(text)
    return Tokenizer.from_str(getattr(source, "backend_tokenizer", source).to_str())


@dataclass(frozen=True, slots=True)
class Reading:
    """What the engine makes of one canonical text."""

    ids: Ids
    ends: tuple[int, ...]  # bytes of the text spelled by the first 1, 2, … tokens


class Definition:
    """enc and dec of one tokenizer.

    Args:
        source: Anything that `read_backend` takes.
        dummy_prefix: Whether the hidden leading space applies, where the tokenizer has one (after a sentinel it does
            not).

    """

    def __init__(self, source: Any, *, dummy_prefix: bool = True) -> None:
        self.config: dict[str, Any] = json.loads(read_backend(source).to_str())
        for token in self.config["added_tokens"]:
            token["special"] |= token["content"] in CONTROL_TOKENS
        if not dummy_prefix:
            self.config = _without_dummy_prefix(self.config)
        backend = Tokenizer.from_str(json.dumps(self.config))
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self.backend = backend
        model, decoders = self.config["model"], parts_of(self.config["decoder"])
        kinds = {step["type"] for step in [*decoders, *parts_of(self.config["pre_tokenizer"])]}
        self.byte_level = "ByteLevel" in kinds
        self.added: dict[int, str] = {a["id"]: a["content"] for a in self.config["added_tokens"] if not a["special"]}
        self.special: dict[int, str] = {a["id"]: a["content"] for a in self.config["added_tokens"] if a["special"]}
        self.spaced = not self.byte_level and any(
            step["type"] == "Metaspace" or "▁" in json.dumps(step, ensure_ascii=False)
            for step in [*decoders, *parts_of(self.config["normalizer"]), *parts_of(self.config["pre_tokenizer"])]
        )
        alphabet = byte_alphabet()
        vocabulary = model["vocab"]
        spelled = (
            vocabulary.items() if isinstance(vocabulary, dict) else ((p, i) for i, (p, _) in enumerate(vocabulary))
        )
        self.token_bytes: dict[int, bytes] = {
            index: self._spell(token, alphabet, fallback=bool(model.get("byte_fallback"))) for token, index in spelled
        }
        for added in self.config["added_tokens"]:
            content = added["content"]
            if backend.normalizer is not None and added["normalized"]:
                content = backend.normalizer.normalize_str(content)
            self.token_bytes[added["id"]] = self._spell(content, alphabet, fallback=bool(model.get("byte_fallback")))
        for index in self.special:
            self.token_bytes.pop(index, None)
        # An unknown token stands for many texts, so it spells none.
        if isinstance(vocabulary, dict) and model.get("unk_token") is not None:
            self.token_bytes.pop(vocabulary.get(model["unk_token"], -1), None)
        before = [*parts_of(self.config["normalizer"]), *parts_of(self.config["pre_tokenizer"])]
        added_space = any(
            step["type"] == "Prepend" or step.get("add_prefix_space") or step.get("prepend_scheme", "never") != "never"
            for step in before
        )
        self.dummy_prefix = b" " if added_space else b""

    def _spell(self, token: str, alphabet: dict[str, int], *, fallback: bool) -> bytes:
        if self.byte_level:
            if all(c in alphabet for c in token):
                return bytes(alphabet[c] for c in token)
            return token.encode()
        if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return self._content(token)

    def _content(self, token: str) -> bytes:
        return (token.replace("▁", " ") if self.spaced else token).encode()

    def spelled(self, ids: Iterable[int]) -> bytes | None:
        """The text that some ids spell, None when one of them spells nothing."""
        pieces = [self.token_bytes.get(i) for i in ids]
        if any(piece is None for piece in pieces):
            return None
        return b"".join(piece for piece in pieces if piece is not None).removeprefix(self.dummy_prefix)

    def readings(self, texts: Sequence[str]) -> list[Reading | None]:
        """Enc of each text with the end of each token, None where a text is not canonical."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self._read(text, encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]

    def _read(self, text: str, ids: list[int]) -> Reading | None:
        pieces = [self.token_bytes.get(i, b"") for i in ids]
        whole = b"".join(pieces)
        end = -1 if self.dummy_prefix and whole.startswith(self.dummy_prefix) else 0
        if (whole if end == 0 else whole[1:]) != text.encode() or b"" in pieces:
            return None
        return Reading(tuple(ids), tuple(end + length for length in accumulate(map(len, pieces))))

    def begin_with(self, sequences: Sequence[Ids], texts: Sequence[str]) -> list[bool]:
        """Whether each text is canonical and its enc begins with its sequence."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [
            tuple(encoding.ids[: len(sequence)]) == sequence and self._read(text, encoding.ids) is not None
            for sequence, text, encoding in zip(sequences, texts, encodings, strict=True)
        ]

    def enc(self, text: bytes) -> Ids | None:
        """The canonical sequence of a text, None where it has none (not UTF-8, or it does not round-trip)."""
        try:
            reading = self.readings([text.decode()])[0]
        except UnicodeDecodeError:
            return None
        return reading.ids if reading is not None else None


def _without_dummy_prefix(config: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer as it behaves after a sentinel: nothing is prepended, and nothing stripped."""

    def cleared(step: Any) -> Any:
        if step is None:
            return None
        for key in ("normalizers", "pretokenizers", "decoders"):
            if key in step:
                return step | {key: [kept for each in step[key] if (kept := cleared(each)) is not None]}
        if step["type"] == "Prepend" or (step["type"] == "Strip" and step.get("content") == " "):
            return None
        if step["type"] == "Metaspace":
            return step | {"prepend_scheme": "never"}
        if step["type"] == "ByteLevel":
            return step | {"add_prefix_space": False}
        return step

    return config | {key: cleared(config[key]) for key in ("normalizer", "pre_tokenizer", "decoder")}
