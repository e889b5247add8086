r"""Fill in the middle: the formats that models were trained with, as data, and the prompt that a format makes.

Rules
    A prompt is a list of token ids and texts (cover/prefix.py): sentinels are ids, so no text can spell one, and the
    text before the last is encoded by itself. Around them stands nothing that the format does not name; in front, BOS.
    Text that spells a sentinel stays text. The tokens of a format of your own may be neither declared special nor known
    as control tokens (tokenizer/control_tokens.py); `declared` then reads the tokenizer anew, with them special.
    All ids that end a middle end the text: those of the model, and those of the format that the tokenizer has. A format
    names what its maker ends a middle at, and the tokens that pad a hole or begin another file in the maker's training
    texts.

Two orders
    PSM: prefix, suffix, middle. The prefix is encoded by itself and the middle begins with a token of its own, so what
    would have been a token across the cursor cannot be, unless the line is carried.
    SPM: suffix, prefix, middle. Prefix and middle are one run of text, so the cursor is the end of a byte prefix like
    any other, and the cover takes it over: exact wherever it falls. ``mode="auto"`` takes SPM where the format has it.
    (Seed-Coder's SPM has a token between prefix and middle, as Bavarian's first variant has. It is trained on holes cut
    at any character, with the prefix encoded by itself.)

The carried line
    Where a sentinel stands between prefix and middle, the last line of the prefix is taken from it and put behind the
    sentinel. The model is told of a hole that begins with that line, and the line is the byte prefix: the middle is
    drawn from P(middle | prefix without the line, suffix, the hole's text begins with the line), exactly, and begins at
    the cursor. A model that was trained on holes that begin with a line has learned such prompts.
    Of a line longer than `CARRIED` bytes only the last word is carried, and of that no more than as many bytes.
    At the start of a line there is nothing to carry.

Hidden leading space
    A tokenizer that puts a space in front of a text does so before the prefix, and not before the suffix or, in PSM,
    the middle: so CodeLlama and Codestral were trained. Here that space is written out, as after a sentinel nothing is
    hidden. An empty prefix has no tokens in PSM; in SPM its space opens the middle.

Does not
    Know what a model was trained on. Tokenizers carry sentinels that their model has never seen (Mistral's and Qwen's
    general models, for two); `mode="left"` works for any model.

Sources
    Bavarian et al., arXiv:2207.14255 (PSM and SPM; this SPM is their second variant, the one that is in use); for each
    format what its maker, or the evaluation harness of its time, runs. Qwen2.5-Coder's ends are those of its model
    card; Seed-Coder's order is in arXiv:2506.03524, section 2.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError, NoInfillFormatError, UnreachablePrefixError
from bytelm.symbols import character_from
from bytelm.tokenizer.control_tokens import with_special

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bytelm.tokenizer.vocab import Vocab

Carry: TypeAlias = Literal["line", "word", "none"]
Mode: TypeAlias = Literal["auto", "spm", "psm", "left"]

CARRIED: Final = 256  # bytes
PREFIX: Final = "{prefix}"
SUFFIX: Final = "{suffix}"


@dataclass(frozen=True, slots=True)
class FIMFormat:
    """How a model was trained to fill in the middle.

    Attributes:
        name: What `format=` calls it.
        psm: The prompt in the order prefix, suffix, middle: sentinel tokens, and ``"{prefix}"`` and ``"{suffix}"``
            where the texts stand. Empty if the model knows no such order.
        spm: The prompt in the order suffix, prefix, middle; it ends with ``"{prefix}"``, or with a sentinel behind it
            (Seed-Coder's, which puts a boundary at the cursor as PSM does). Empty as well.
        ends: Tokens that end the middle, beside the model's own ends of text. Those that a tokenizer lacks are left
            out; of a format of your own it must have one.
        marks: Tokens by which the format is told from another with the same sentinels.
        space_before_prefix: Whether the tokenizer's hidden leading space, where it has one, stands before the prefix.
        space_before_suffix: The same before the suffix.

    Raises:
        InvalidArgumentError: An order without one of the texts, or an SPM order whose suffix does not come first.
        InvalidTypeError: A field of another type, such as one string where there are to be several.

    >>> mine = FIMFormat("mine", psm=("<PRE>", "{prefix}", "<SUF>", "{suffix}", "<MID>"), ends=("<EOT>",))
    >>> mine.sentinels
    ('<PRE>', '<SUF>', '<MID>')
    """

    name: str
    psm: tuple[str, ...] = ()
    spm: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    space_before_prefix: bool = True
    space_before_suffix: bool = False

    def __post_init__(self) -> None:
        for field in FIELDS:
            object.__setattr__(self, field, checked_field(self.name, field, getattr(self, field)))
        for order, parts in (("psm", self.psm), ("spm", self.spm)):
            if parts:
                once = (parts.count(PREFIX), parts.count(SUFFIX)) == (1, 1)
                self._demand(once, order, f"hold {PREFIX!r} and {SUFFIX!r} once each")
                self._demand(is_sentinel(parts[0]), order, "begin with a sentinel")
        if self.spm:
            in_order = self.spm.index(SUFFIX) < self.spm.index(PREFIX)
            self._demand(in_order, "spm", f"hold {SUFFIX!r} before {PREFIX!r}, behind which the middle begins")
        if self.psm:
            self._demand(is_sentinel(self.psm[-1]), "psm", "end with a sentinel, after which the middle begins")
        if not (self.psm or self.spm):
            raise InvalidArgumentError(f"the format {self.name!r} has neither a psm nor an spm order: give one of them")

    def _demand(self, met: object, order: str, what: str) -> None:
        if not met:
            raise InvalidArgumentError(f"{order} of the format {self.name!r} must {what}: {getattr(self, order)!r}")

    @property
    def sentinels(self) -> tuple[str, ...]:
        """The tokens of both orders, each once."""
        return tuple(dict.fromkeys(part for part in (*self.psm, *self.spm) if is_sentinel(part)))

    @property
    def exact_at_cursor(self) -> bool:
        """Whether prefix and middle are one run of text in the SPM order, so that the cursor may be anywhere."""
        return bool(self.spm) and self.spm[-1] == PREFIX

    def order(self, mode: Mode) -> tuple[str, ...]:
        """The prompt of a mode, as parts.

        Raises:
            InvalidArgumentError: The format has no such order.
        """
        parts = {"auto": self.spm or self.psm, "spm": self.spm, "psm": self.psm}.get(mode, ())
        if not parts:
            known = f"FORMATS[{self.name!r}]" if FORMATS.get(self.name) == self else "it"
            raise InvalidArgumentError(
                f"no {mode} order is known for the format {self.name!r}; use mode='auto', or give the order that the "
                f"model was trained with: format=dataclasses.replace({known}, {mode}=(...))"
            )
        return parts


# The fields of a format, and what each is if it is not given; a format must have a name.
FIELDS: Final[Mapping[str, str | bool | tuple[str, ...]]] = MappingProxyType(
    {field.name: "" if field.default is MISSING else field.default for field in fields(FIMFormat)}
)


def checked_field(name: str, field: str, given: object) -> str | bool | tuple[str, ...]:
    """The value of a format's field; strings as a tuple, as a list has no hash.

    Raises:
        InvalidTypeError: It is of another type.
    """
    default = FIELDS[field]
    if isinstance(default, tuple):
        if isinstance(given, list | tuple) and all(isinstance(part, str) for part in given):
            return tuple(given)
    elif isinstance(given, str | bool) and type(given) is type(default):
        return given
    kind = {str: "a string", bool: "true or false", tuple: "a list of strings"}[type(default)]
    raise InvalidTypeError(f"{field} of the format {name!r} must be {kind}; got {given!r}")


def is_sentinel(part: str) -> bool:
    """Whether a part of an order is a token, and not the place of a text."""
    return part not in (PREFIX, SUFFIX)


def _three(
    name: str,
    tokens: tuple[str, str, str],
    *,
    ends: tuple[str, ...],
    spm: bool = False,
    marks: tuple[str, ...] = (),
) -> FIMFormat:
    """A format of three sentinels: the prefix begins, the suffix begins, the middle begins."""
    begin, hole, middle = tokens
    suffix_first = (begin, hole, SUFFIX, middle, PREFIX) if spm else ()
    return FIMFormat(name, (begin, PREFIX, hole, SUFFIX, middle), suffix_first, ends, marks)


_BARS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_UNDERSCORES = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
_HYPHENS = ("<fim-prefix>", "<fim-suffix>", "<fim-middle>")
_DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")  # hole: the suffix begins; end: the middle begins

_STARCODER_FILES = ("<fim_pad>", "<reponame>", "<filename>", "<gh_stars>")

_KNOWN = (
    # In the order of detection: of two with the same sentinels, the one with marks first.
    _three("codellama", ("▁<PRE>", "▁<SUF>", "▁<MID>"), ends=("▁<EOT>", "</s>"), spm=True),
    _three("santacoder", _HYPHENS, ends=("<|endoftext|>", "<fim-pad>"), spm=True),
    _three(
        "starcoder2",
        _UNDERSCORES,
        ends=("<|endoftext|>", "<fim_pad>", "<repo_name>", "<file_sep>"),
        spm=True,
        marks=("<file_sep>",),
    ),
    _three("granite", _UNDERSCORES, ends=("<|end_of_text|>", *_STARCODER_FILES), marks=("<|end_of_text|>",)),
    _three("starcoder", _UNDERSCORES, ends=("<|endoftext|>", *_STARCODER_FILES), spm=True),
    _three("deepseek-coder", _DEEPSEEK, ends=("<｜end▁of▁sentence｜>", "<|EOT|>"), spm=True),
    _three(
        "codegemma",
        _BARS,
        ends=("<|file_separator|>", "<eos>", *_BARS),
        marks=("<|file_separator|>",),
    ),
    _three(
        "qwen2.5-coder",
        _BARS,
        ends=("<|endoftext|>", "<|im_end|>", *_BARS, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    ),
    # No middle token: the middle goes on from the prefix.
    FIMFormat("codestral", spm=("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX), ends=("</s>",)),
    # Suffix first, and yet the middle begins behind a token of its own.
    FIMFormat(
        "seed-coder",
        spm=("<[fim-suffix]>", SUFFIX, "<[fim-prefix]>", PREFIX, "<[fim-middle]>"),
        ends=("<[end▁of▁sentence]>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"),
    ),
)

FORMATS: Final[Mapping[str, FIMFormat]] = MappingProxyType({known.name: known for known in _KNOWN})


def find_format(vocab: Vocab, wanted: str | FIMFormat | None = None) -> FIMFormat:
    """The format that a user asked for, or the one that the tokenizer's added tokens speak of.

    Args:
        vocab: Of the tokenizer.
        wanted: A name in `FORMATS`, a format, or None: the first of `FORMATS` whose sentinels and marks are there.

    Raises:
        InvalidTypeError: It is neither.
        InvalidArgumentError: No format has this name.
        NoInfillFormatError: The tokenizer lacks the tokens of the format, or those of all of them.
    """
    present = {token.content for token in vocab.added}
    if wanted is None:
        for known in FORMATS.values():
            if present.issuperset((*known.sentinels, *known.marks)):
                return known
        raise NoInfillFormatError(
            "the tokenizer has the fill-in-the-middle tokens of no format known here "
            f"({', '.join(FORMATS)}), so the model cannot see the suffix; use mode='left', which completes the prefix "
            "alone and works for any model, or name the tokens with format=FIMFormat(...) (--format FILE.json)"
        )
    if isinstance(wanted, str):
        if wanted not in FORMATS:
            raise InvalidArgumentError(f"no fill-in-the-middle format is called {wanted!r}; there are {[*FORMATS]}")
        wanted = FORMATS[wanted]
    if not isinstance(wanted, FIMFormat):
        raise InvalidTypeError(f"format must be a name, a FIMFormat or None, not {type(wanted).__name__}: {wanted!r}")
    if missing := [token for token in wanted.sentinels if token not in present]:
        raise NoInfillFormatError(
            f"the tokenizer lacks the tokens {missing} of the format {wanted.name!r}; use mode='left', which completes "
            "the prefix alone and works for any model, or another format"
        )
    if wanted.name not in FORMATS and wanted.ends and present.isdisjoint(wanted.ends):
        raise NoInfillFormatError(
            f"the tokenizer has none of the tokens that end a middle in the format {wanted.name!r}: "
            f"{list(wanted.ends)}; use another format, or mode='left'"
        )
    return wanted


def read_format(path: str | os.PathLike[str]) -> FIMFormat:
    """A format of your own from a JSON file: one object, whose keys are the attributes of `FIMFormat`.

    Orders and ends are lists of strings. The name is that of the file, if none is given.

    Raises:
        InvalidArgumentError: The file cannot be read, is not such an object, or the format cannot be; the message names
            the field.
        InvalidTypeError: A field of another type.
    """
    file = Path(path)
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgumentError(f"cannot read the format {str(file)!r}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidArgumentError(f"the format {str(file)!r} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidArgumentError(f"the format {str(file)!r} must be a JSON object; got {shown(given)}")
    if unknown := sorted(given.keys() - FIELDS.keys()):
        raise InvalidArgumentError(f"the format {str(file)!r} has the unknown fields {unknown}; known are {[*FIELDS]}")
    given = {"name": file.stem, **given}
    read: dict[str, Any] = {field: checked_field(given["name"], field, value) for field, value in given.items()}
    return FIMFormat(**read)


def end_ids(vocab: Vocab, form: FIMFormat) -> frozenset[int]:
    """The ids of the tokens that end a middle, as far as the tokenizer has them."""
    return frozenset(token.id for token in vocab.added if token.content in form.ends)


def declared(vocab: Vocab, form: FIMFormat) -> Tokenizer | None:
    """The tokenizer with the format's tokens declared special; None where they are.

    Where they are not, the tokenizer turns text that spells a sentinel into the sentinel.
    """
    names, special = {*form.sentinels, *form.ends}, {token.content for token in vocab.added if token.special}
    if special.issuperset(names.intersection(token.content for token in vocab.added)):
        return None
    return with_special(vocab.source, special | names)


def carried_from(prefix: bytes, carry: Carry) -> int:
    """Where the part of a prefix begins that is carried behind the last sentinel.

    >>> text = b"x = 1\\ny = some_na"
    >>> [text[carried_from(text, carry) :] for carry in ("line", "word", "none")]
    [b'y = some_na', b' some_na', b'']
    """
    if carry == "none":
        return len(prefix)
    start = prefix.rfind(b"\n") + 1
    if carry == "word" or len(prefix) - start > CARRIED:
        spaced = max(prefix.rfind(b" ", start), prefix.rfind(b"\t", start)) + 1
        start += len(prefix[start:spaced].rstrip(b" \t"))  # the white space before a word is mostly of its first token
    return max(start, character_from(prefix, max(len(prefix) - CARRIED, 0)))


def infill_prompt(
    vocab: Vocab,
    form: FIMFormat,
    prefix: bytes,
    suffix: bytes,
    *,
    mode: Mode = "auto",
    carry: Carry = "line",
    before: Iterable[int] = (),
) -> list[int | str | bytes]:
    """The prompt after which the middle stands: token ids and texts, as `ByteLM.sample` takes them.

    Args:
        vocab: Of the tokenizer; it has the format's sentinels.
        form: The format.
        prefix: What stands before the cursor.
        suffix: What stands behind it.
        mode: Which order.
        carry: What of the prefix stands behind the last sentinel with the middle, in an order that ends with one.
        before: What stands in front of it all (BOS).

    Raises:
        InvalidArgumentError: The format has no such order.
        UnreachablePrefixError: A text that is encoded by itself is not UTF-8, so that it has no encoding.
    """
    parts = form.order(mode)
    carried = b""
    if is_sentinel(parts[-1]):
        start = carried_from(prefix, carry)
        prefix, carried = prefix[:start], prefix[start:]
    ids = {token.content: token.id for token in vocab.added}
    texts = {PREFIX: prefix, SUFFIX: suffix}
    leads = {PREFIX: form.space_before_prefix, SUFFIX: form.space_before_suffix}
    prompt: list[int | str | bytes] = [*before]
    for part in parts:
        if part in texts:
            last = part is parts[-1]
            if not last:
                hint = "" if part != PREFIX else "mode='spm'" if form.exact_at_cursor else "carry='line'"
                _check_whole(texts[part], part.strip("{}"), hint=hint)
            opens = leads[part] and (texts[part] or last)
            prompt.append((vocab.dummy_prefix if opens else b"") + texts[part])
        else:
            prompt.append(ids[part])
    if is_sentinel(parts[-1]):
        prompt.append(carried)
    return prompt


def _check_whole(text: bytes, name: str, *, hint: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise UnreachablePrefixError(
            f"the {name} is not UTF-8 at byte {error.start} (0x{text[error.start]:02X}), and it is encoded by itself; "
            f"move the cursor to where a character begins{' or use ' + hint if hint else ''}",
            prefix=text,
            position=error.start,
        ) from None
