"""What a prefix argument means: tokens that are fixed, then bytes that the cover takes over.

Rules
    A prefix is text, or a list of segments: an int is one token and a hard boundary (BOS, a sentinel, a turn marker), a
    ``str`` is UTF-8, ``bytes`` are themselves. Text never becomes a special token; only an int does. Of a bare text
    that spells one a warning tells, as it is mostly a chat template that was rendered to text. In a list it is meant.
    The last segment, if it is text, is the *byte prefix*: tokens may span its end. A text segment before the last is
    encoded canonically, by itself. Two texts side by side are refused: what looks like several prompts is one prefix.
    In front of everything stand the tokens that the tokenizer's own post-processor puts before a text (BOS), unless the
    prefix begins with an int: then the caller says what stands there.
    A tokenizer's hidden leading space belongs to the start of a text: to a text segment that is first, or that has only
    BOS before it. After any other token there is none.
"""

from __future__ import annotations

import itertools
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from bytelm.arguments import bytes_of, likely_meant, shown
from bytelm.cover.cover import Cover
from bytelm.errors import BytelmWarning, InvalidArgumentError, InvalidTypeError, UnreachablePrefixError
from bytelm.tokenizer.added_tokens import spelled_in_text
from bytelm.tokenizer.viability.viability import Viability
from bytelm.tokenizer.vocab import Vocab


@dataclass(frozen=True)
class Prompts:
    r"""A prefix for each member of an ensemble, such as a chat template with its own tokens.

    Attributes:
        prefixes: One for each member; for a member that is an ensemble it may be `Prompts` in turn.
        text: The beginning of the shared text, after each of the prefixes.

    >>> Prompts([[1, "user: hi", 2], "Q: hi\nA: "], text="Hel")  # doctest: +SKIP
    """

    prefixes: Sequence[Prefix]
    text: str | bytes = b""


Prefix: TypeAlias = str | bytes | Sequence[int | str | bytes] | Prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prefix, read.

    Attributes:
        context: Token ids before the byte prefix.
        text: The byte prefix.
        dummy_prefix: Whether the tokenizer's hidden leading space applies to it.
    """

    context: tuple[int, ...]
    text: bytes
    dummy_prefix: bool

    def cut(self, length: int) -> Prompt:
        """The same prompt with so many bytes of its text alone."""
        return replace(self, text=self.text[:length])

    def extended(self, text: bytes) -> Prompt:
        """The same prompt with more text after it."""
        return replace(self, text=self.text + text)

    @property
    def most_tokens(self) -> int:
        """The most tokens that it can have: one for each byte, and the tokens in front of it."""
        return len(self.context) + len(self.text)


@dataclass(frozen=True, slots=True)
class EnsemblePrompt:
    """A prefix, read by every member of an ensemble.

    Attributes:
        members: What each has to itself.
        text: The bytes that they share.
    """

    members: tuple[Prompt | EnsemblePrompt, ...]
    text: bytes

    def cut(self, length: int) -> EnsemblePrompt:
        """The same prompt with so many bytes of its text alone."""
        return replace(self, text=self.text[:length])

    def extended(self, text: bytes) -> EnsemblePrompt:
        """The same prompt with more text behind it, which the members share."""
        return replace(self, text=self.text + text)

    @property
    def most_tokens(self) -> int:
        """Tokens that a member has of it at most."""
        return max(member.most_tokens for member in self.members) + len(self.text)


@dataclass(frozen=True)
class PromptReader:
    """Reads prefixes for one tokenizer.

    Args:
        viability: Of the tokenizer.
        bos_ids: What is put before a text.
        openers: Ids after which a text still begins, beside those: whatever this tokenizer's texts may begin with.
        vocab_size: Ids have to be below it.
        normalize: Whether text is brought to the tokenizer's normal form, where it has one.
        replace: What is read in place of a character that the tokenizer cannot spell, or a function of it.
    """

    viability: Viability
    _: KW_ONLY
    bos_ids: tuple[int, ...]
    openers: frozenset[int]
    vocab_size: int
    normalize: bool = False
    replace: str | Callable[[str], str] | None = None

    def read(self, prefix: Prefix) -> Prompt:
        """Read a prefix.

        Raises:
            InvalidTypeError: It is neither text nor a list of ints and texts.
            InvalidArgumentError: An id that the model has no column for, or two texts side by side.
            UnreachablePrefixError: A text segment before the last has no encoding.
        """
        if isinstance(prefix, str | bytes):
            self.warn_of_special(bytes_of(prefix, "a prefix"))
        if isinstance(prefix, Prompts):
            raise InvalidTypeError("Prompts hold one prefix for each member of an ensemble, and this is a single model")
        segments = [prefix] if isinstance(prefix, str | bytes) else prefix
        if not isinstance(segments, list | tuple):
            raise InvalidTypeError(
                f"a prefix is str, bytes, or a list of token ids and texts; got {type(prefix).__name__}: "
                f"{shown(prefix)}{likely_meant(prefix)}"
            )
        check_neighbours(segments)
        context: tuple[int, ...] = ()
        if not (segments and _is_id(segments[0])):
            context = self.bos_ids
        text = b""
        for place, segment in enumerate(segments):
            if _is_id(segment):
                context = (*context, self._id(segment, place))
            elif place == len(segments) - 1:
                text = self.bytes_of(segment, f"segment {place} of the prefix")
            else:
                data = self.bytes_of(segment, f"segment {place} of the prefix")
                context = (
                    *context,
                    *self.encoded(data, dummy_prefix=self._opens(context), name=f"segment {place} of the prefix"),
                )
        return Prompt(context, text, self._opens(context))

    def bytes_of(self, text: object, name: str = "a text") -> bytes:
        """The bytes of a text argument: in the normal form and without what cannot be spelled, if that is asked for."""
        return self._spellable(self._normal(bytes_of(text, name)))

    def _spellable(self, data: bytes) -> bytes:
        if self.replace is None:
            return data
        text = data.decode("utf-8", "surrogateescape")  # bytes that are no text stay as they are
        lacking = [c for c in set(text) if self.viability.lacks(c)]
        instead = {ord(c): self.replace(c) if callable(self.replace) else self.replace for c in lacking}
        return text.translate(instead).encode("utf-8", "surrogateescape")

    def _normal(self, data: bytes) -> bytes:
        form = self.viability.form
        if not (self.normalize and form is not None):
            return data
        try:
            return form.apply(data.decode()).encode()
        except UnicodeDecodeError as error:
            # A character that is cut short at the end stays as it is.
            return form.apply(data[: error.start].decode()).encode() + data[error.start :]

    def warn_of_special(self, text: bytes) -> None:
        """Tell of a special token that a bare text spells: mostly it is a chat template that was rendered to text."""
        if found := self._special.search(text):
            warnings.warn(
                f"the prefix spells the special token {found[0].decode()!r}. It stays text: the model is not given the "
                "token, and may never end its answer. For a chat call chat() or chat_prefix() with the messages, for a "
                "fill in the middle infill(); in a list a token is given by its id. If text is meant, give [text]",
                BytelmWarning,
                stacklevel=4,
            )

    @cached_property
    def _special(self) -> re.Pattern[bytes]:
        """Finds what spells a special token; of one or two characters, as a line end, any text may hold it."""
        vocab = self.viability.vocab
        names = {spelled_in_text(vocab, token) for token in vocab.added if token.special and len(token.content) > 2}
        return re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))) or b"(?!)")

    def _opens(self, context: tuple[int, ...]) -> bool:
        return self.openers.union(self.bos_ids).issuperset(context)

    def _id(self, segment: Any, place: int) -> int:
        if not 0 <= segment < self.vocab_size:
            raise InvalidArgumentError(
                f"segment {place} of the prefix is token {segment}, and the model knows ids from 0 to "
                f"{self.vocab_size - 1}"
            )
        return int(segment)

    def encoded(self, data: bytes, *, dummy_prefix: bool, name: str = "a text") -> tuple[int, ...]:
        """The canonical ids of a text by itself; ``dummy_prefix``: the hidden leading space applies to it.

        Raises:
            UnreachablePrefixError: It has none.
        """
        if not data:
            return ()
        ending = Cover.empty(self.viability, dummy_prefix=dummy_prefix).advance(data).ending
        if not ending:
            raise UnreachablePrefixError(
                f"{name} ends with {data[-20:]!r}, where no encoding can end (inside a "
                "character?); only the last segment may stop anywhere",
                prefix=data,
                position=len(data),
            )
        return ending[0].token_ids


def check_neighbours(segments: Sequence[Any]) -> None:
    """Refuse two texts side by side in a list of segments.

    Raises:
        InvalidArgumentError: There are such.
    """
    for place, (left, right) in enumerate(itertools.pairwise(segments)):
        if isinstance(left, str | bytes) and isinstance(right, str | bytes):
            raise InvalidArgumentError(
                f"a list is one prefix, and its segments {place} and {place + 1} are two texts side by side: "
                f"{left!r:.40} and {right!r:.40}. For several prompts call sample_batch; for one, join the texts, or "
                "put a token id between them"
            )


def _is_id(segment: object) -> bool:
    if isinstance(segment, bool):
        return False
    try:
        operator.index(segment)  # type: ignore[arg-type]
    except TypeError:
        return False  # of arrays too, which have the method and are no integers
    return True


def bos_ids_of(vocab: Vocab) -> tuple[int, ...]:
    """What the tokenizer's own post-processor puts in front of a text."""
    encoding = vocab.source.encode("a", add_special_tokens=True)
    marked = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return tuple(token for token, special in itertools.takewhile(lambda each: each[1], marked))
