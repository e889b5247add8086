"""Token ids and the bytes they spell, for every tokenizer family that can be a byte model.

Rules
    A special token spells nothing: text never becomes one, so its id is outside every cover.

Two families
    *byte-level*: a token's characters stand for bytes through the GPT-2 alphabet.
    *sentencepiece*: a token's characters are text, ``▁`` stands for a space, and ``<0xXX>`` tokens spell the bytes of
    characters that the vocabulary lacks.

Hidden leading space
    Some tokenizers put a space in front of a text and take it away when they decode. Inside bytelm that space is
    real: the *internal* text is ``dummy_prefix + x``, and only the outside never sees ``dummy_prefix``.

Does not
    Read a tokenizer (tokenizer_json.py), nor decide which sequences it can emit (tokenizer/viability/viability.py).
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Int32

from bytelm.tokenizer.control_tokens import with_special

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Family = Literal["byte-level", "sentencepiece"]

SPACE_MARK: Final = "\u2581"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token matched in the text before the merges run (special ones only consume their spelling).

    ``special`` is true of control tokens too, which the tokenizer may not declare so (control_tokens.py).
    """

    id: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


@dataclass(frozen=True, slots=True)
class SplitStep:
    """One step of the pre-tokenizer: where a pattern cuts the text.

    Attributes:
        pattern: A regular expression, or the empty string for the digit and punctuation classes in ``classes``.
        behavior: What becomes of the matches: Isolated, Contiguous, MergedWithPrevious, MergedWithNext or Removed.
        invert: Matches and gaps change places.
        classes: ``digits`` or ``punctuation``: one character of a class the tokenizer library defines itself.
        after_bytes: It runs after ByteLevel: it sees one character of the byte alphabet for each byte, and may cut
            inside a character of the text.
    """

    pattern: str
    behavior: str = "Isolated"
    invert: bool = False
    classes: str = ""
    after_bytes: bool = False


@dataclass(frozen=True)
class Vocab:
    """The parts of a tokenizer, in the terms that the byte layer needs.

    Attributes:
        family: How tokens spell bytes.
        token_bytes: The bytes of each id; None for special tokens, holes and ids that text never becomes.
        order: The ids that have bytes, in the order of their bytes.
        added: Added tokens, special ones too, in id order.
        steps: The pre-tokenizer, step by step.
        form: The Unicode normal form that text has to be in, or None.
        dummy_prefix: What the tokenizer hides in front of a text: ``b" "`` or ``b""``.
        opening: A pattern that internal text has to begin with, where the pre-tokenizer hides a space in front of it.
        reopening: The same for the text after an added token.
        prepends: The normalizer hides the space in front, so added tokens that are normalized see it.
        pieces: Token string to id, as the merges see them.
        merges: For each merge, in rank order, the ids of its left part, its right part and its result.
        ignore_merges: A whole pre-token that is in the vocabulary is taken whole.
        byte_fallback: Characters outside the vocabulary are spelled by byte tokens.
        marks: The normalizer turns spaces into ▁, and not the pre-tokenizer, which runs after all added tokens.
        source: The tokenizer that was read; nothing here changes it.
    """

    family: Family
    token_bytes: tuple[bytes | None, ...]
    order: Int32[np.ndarray, " tokens"]
    added: tuple[AddedToken, ...]
    steps: tuple[SplitStep, ...]
    form: Literal["NFC", "NFD"] | None
    dummy_prefix: bytes
    opening: str
    reopening: str
    prepends: bool
    pieces: dict[str, int]
    merges: Int32[np.ndarray, "merges 3"]
    ignore_merges: bool
    byte_fallback: bool
    marks: bool
    source: Tokenizer

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def backend(self) -> Tokenizer:
        """A private copy of the tokenizer, for which text never spells a special token; made when first asked for."""
        copy = with_special(self.source, {token.content for token in self.added if token.special})
        copy.no_padding()
        copy.no_truncation()
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens."""
        return frozenset(token.id for token in self.added if token.special)

    def is_like(self, other: Vocab) -> bool:
        """Whether another tokenizer was read as the same, and neither was changed since."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name != "source")
        alike = all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)
        return alike and (self.source is other.source or _parts(self.source) == _parts(other.source))

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        """The canonical ids of a text: no special token added, none parsed out of it.

        >>> vocab.encode("ab")  # doctest: +SKIP
        (64, 65)
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return tuple(self.backend.encode(text, add_special_tokens=False).ids)

    def spell_piece(self, piece: str) -> bytes | None:
        """What a token string spells, whether or not its id may come out of text; None where no text is split so."""
        if self.family == "byte-level":
            return spell_byte_level(piece)
        marked = SPACE_MARK in self.pieces  # spaces are ▁ before a text is split
        return None if marked and " " in piece else spell_sentencepiece(piece)

    @cached_property
    def merged(self) -> Bool[np.ndarray, " ids"]:
        """Which ids spell what their piece does: one that is an added token too may spell another text."""
        found = np.zeros(len(self), np.bool_)
        found[[i for piece, i in self.pieces.items() if self.token_bytes[i] == (self.spell_piece(piece) or b"")]] = True
        return found

    @cached_property
    def byte_ids(self) -> tuple[int, ...]:
        """Sentencepiece: the ids of the byte tokens."""
        if self.family != "sentencepiece":
            return ()
        names = (f"<0x{byte:02X}>" for byte in range(256))
        return tuple(self.pieces[name] for name in names if name in self.pieces)

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """Byte-level: bytes without a piece of their own. The library drops them, so text cannot contain them."""
        if self.family != "byte-level":
            return frozenset()
        return frozenset(b for c, b in byte_alphabet().items() if c not in self.pieces)

    def spell(self, ids: tuple[int, ...]) -> bytes:
        """The internal bytes of a sequence, the hidden leading space included."""
        return b"".join(self.token_bytes[i] or b"" for i in ids)


def _parts(tokenizer: Tokenizer) -> list[Any]:
    """What can be changed in a tokenizer; all of it as JSON would take seconds."""
    steps = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor, tokenizer.decoder)
    model: Any = tokenizer.model
    flags = [getattr(model, name, None) for name in ("dropout", "unk_token", "byte_fallback", "ignore_merges")]
    added = [(i, str(token)) for i, token in tokenizer.get_added_tokens_decoder().items()]
    return [pickle.dumps(steps), flags, added, tokenizer.get_vocab_size()]


@cache
def byte_alphabet() -> dict[str, int]:
    """The GPT-2 alphabet: the printable character that stands for each byte, and the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    hidden = (b for b in range(256) if b not in set(printable))
    table.update({chr(0x100 + i): b for i, b in enumerate(hidden)})
    return table


def decode_added(content: str, family: Family, *, marks: bool) -> bytes:
    """What the decoder makes of an added token's content, normalized where the token is; it maps it where it can.

    ``marks``: spaces are written as ▁, where the family is sentencepiece.
    """
    if family == "byte-level":
        spelled = spell_byte_level(content)
    else:
        spelled = spell_sentencepiece(content) if marks or SPACE_MARK not in content else None
    return content.encode() if spelled is None else spelled


def spell_byte_level(piece: str) -> bytes | None:
    """The bytes of a byte-level token string; None where a character stands for no byte."""
    alphabet = byte_alphabet()
    try:
        return bytes([alphabet[c] for c in piece]) or None
    except KeyError:
        return None


def spell_sentencepiece(piece: str) -> bytes | None:
    """The bytes of a sentencepiece token string; None for the empty one."""
    if (value := byte_token(piece)) is not None:
        return bytes([value])
    return piece.replace(SPACE_MARK, " ").encode() or None


def byte_token(piece: str) -> int | None:
    """The byte that a fallback token such as ``<0x0A>`` stands for, or None for any other token."""
    found = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return int(found[1], 16) if found else None
