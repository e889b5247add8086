"""The prompt that a format makes of a prefix and a suffix.

Rules
    A prompt is a list of token ids and texts (cover/prefix.py): sentinels are ids, so no text can spell one, and the
    text before the last is encoded by itself. Around them stands nothing that the format does not name; in front, BOS.

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

Sources
    Bavarian et al., arXiv:2207.14255 (PSM and SPM; this SPM is their second variant, the one that is in use).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from bytelm.arguments import one_of
from bytelm.errors import UnreachablePrefixError
from bytelm.fim.files import OtherFiles, in_front
from bytelm.fim.format import PREFIX, SUFFIX, FIMFormat, Mode, is_sentinel
from bytelm.symbols import character_from

if TYPE_CHECKING:
    from bytelm.tokenizer.vocab import Vocab

Carry: TypeAlias = Literal["line", "word", "none"]


@dataclass(frozen=True, slots=True)
class InfillSettings:
    """Options of an infill prompt.

    Attributes:
        mode: The order.
        format: A name in `FORMATS`, a format, or None: the one whose tokens the tokenizer has.
        carry: The part of the prefix that is moved after the last sentinel, in an order that ends with one.
        context: Other files in view.
        room: Tokens that are kept free for the middle when files are left out: no more than half of the context.

    Raises:
        InvalidArgumentError: An unknown mode or carry.
    """

    mode: Mode = "auto"
    format: str | FIMFormat | None = None
    carry: Carry = "line"
    context: OtherFiles | None = None
    room: int = 256

    def __post_init__(self) -> None:
        one_of("mode", self.mode, get_args(Mode))
        one_of("carry", self.carry, get_args(Carry))


CARRIED: Final = 256  # bytes


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
    context: OtherFiles | None = None,
    before: Iterable[int] = (),
) -> list[int | str | bytes]:
    """The prompt that the middle follows: token ids and texts, as `ByteLM.sample` takes them.

    Args:
        vocab: Of the tokenizer; it has the format's sentinels.
        form: The format.
        prefix: The text before the cursor.
        suffix: The text after it.
        mode: The order.
        carry: The part of the prefix that is moved after the last sentinel, in an order that ends with one.
        context: Other files in view.
        before: The tokens in front of it all (BOS).

    Raises:
        InvalidArgumentError: The format has no such order.
        UnreachablePrefixError: A text that is encoded by itself is not UTF-8, so that it has no encoding.
    """
    parts = form.order(mode)
    carried = b""
    if is_sentinel(parts[-1]):
        start = carried_from(prefix, carry)
        prefix, carried = prefix[:start], prefix[start:]
    front, head = ([], b"") if context is None else in_front(vocab, form, context)
    prefix = head + prefix
    ids = {token.content: token.id for token in vocab.added}
    texts = {PREFIX: prefix, SUFFIX: suffix}
    leads = {PREFIX: form.space_before_prefix, SUFFIX: form.space_before_suffix}
    prompt: list[int | str | bytes] = [*before, *front]
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
