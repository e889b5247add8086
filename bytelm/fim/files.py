r"""Other files that a model is shown before the text with the hole.

Rules
    The order of the files is the user's: the last one stands nearest to the hole. What does not fit is left out from
    the first on, whole files at a time.
    A format says how a file is written: by tokens of its own in front of the prompt, or as text at the head of the
    prefix. A format that says nothing, a tokenizer without the tokens, and ``mode="left"`` have files as text, each
    behind a comment with its name, and the text with the hole behind a comment with its own.
    Names and texts never become special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from bytelm.arguments import Text, bytes_of, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.fim.format import FIMFormat, is_text

if TYPE_CHECKING:
    from bytelm.tokenizer.vocab import Vocab

UNNAMED: Final = "untitled"
PLAIN: Final = ("{comment} {name}\n{text}\n",)
PLAIN_HEAD: Final = "{comment} {name}\n"

_COMMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        suffix: mark
        for mark, suffixes in {
            "//": "c cc cpp cs cxx dart fs go groovy h hpp java js jsx kt m mjs mm php rs scala swift ts tsx v zig",
            "--": "ada adb ads elm hs lua sql vhd vhdl",
            ";": "asm clj el lisp rkt s scm",
            "%": "bib cls erl pro sty tex",
        }.items()
        for suffix in suffixes.split()
    }
)


@dataclass(frozen=True, slots=True)
class OtherFiles:
    r"""Other files in view.

    Attributes:
        files: Pairs of a name and a text, the nearest last.
        name: The name of the text with the hole.
        repository: The name of their repository, if a format has a place for it.

    Raises:
        InvalidTypeError: It is not a list of pairs, or a name or a text has another type.
        InvalidArgumentError: A name that is empty or holds a line end; a text that is not UTF-8.

    >>> OtherFiles([("utils.py", "def double(x):\n    return 2 * x\n")], name="main.py").files
    (('utils.py', b'def double(x):\n    return 2 * x\n'),)
    """

    files: Sequence[tuple[str, Text]]
    name: str = UNNAMED
    repository: str = "project"

    def __post_init__(self) -> None:
        files: object = self.files
        if not isinstance(files, list | tuple):
            raise InvalidTypeError(f"context must be a list of pairs (name, text); got {shown(files)}")
        pairs = []
        for place, pair in enumerate(files):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise InvalidTypeError(
                    f"context must be a list of pairs (name, text); its item {place} is {shown(pair)}"
                )
            name, text = pair
            check_name(name, f"the name of item {place} of context")
            pairs.append((name, whole(text, f"the text of {name!r} in context")))
        object.__setattr__(self, "files", tuple(pairs))
        check_name(self.name, "the name of the file")
        check_name(self.repository, "the name of the repository")

    def nearest(self, count: int) -> OtherFiles:
        """Only the last of the files."""
        return replace(self, files=self.files[len(self.files) - count :])


Context: TypeAlias = OtherFiles | Sequence[tuple[str, Text]]


def context_of(given: Context | None) -> OtherFiles | None:
    """The other files that an argument names; None if there is none."""
    found = given if given is None or isinstance(given, OtherFiles) else OtherFiles(given)
    return None if found is None or not found.files else found


def check_name(name: object, what: str) -> None:
    """See that a name can stand on a line.

    Raises:
        InvalidTypeError: It is no ``str``.
        InvalidArgumentError: It is empty, holds a line end, or has no bytes.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} must be a str, not {type(name).__name__}: {shown(name)}")
    if not name or len(name.splitlines()) > 1 or name[-1:].splitlines() == [""]:
        raise InvalidArgumentError(f"{what} must be one line that is not empty; got {shown(name)}")
    bytes_of(name, what)


def whole(text: object, what: str) -> bytes:
    """The bytes of a text that is encoded by itself.

    Raises:
        InvalidArgumentError: They are not UTF-8.
    """
    data = bytes_of(text, what)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{what} is not UTF-8 at byte {error.start} (0x{data[error.start]:02X}): pass text"
        ) from None
    return data


def comment_of(name: str) -> str:
    """What begins a comment in a file of this name, by its ending; ``#`` where that says nothing.

    >>> comment_of("src/main.rs"), comment_of("Makefile")
    ('//', '#')
    """
    return _COMMENTS.get(PurePath(name).suffix.lstrip(".").lower(), "#")


def in_front(vocab: Vocab, form: FIMFormat, context: OtherFiles) -> tuple[list[int | bytes], bytes]:
    """The files as a format writes them.

    Args:
        vocab: Of the tokenizer.
        form: The format.
        context: The files.

    Returns:
        Ids and texts in front of the prompt, and text at the head of the prefix.
    """
    ids = {token.content: token.id for token in vocab.added}
    needed = [part for part in (*form.file, *form.this_file) if not is_text(part)]
    if not form.file or not ids.keys() >= set(needed):
        return [], as_text(context)
    mine = values(context.name, b"", context.repository)
    parts: list[int | bytes] = []
    if ids.keys() >= {part for part in form.repository if not is_text(part)}:
        parts += rendered(form.repository, mine, ids)
    for name, text in context.files:
        parts += rendered(form.file, values(name, bytes_of(text), context.repository), ids)
    parts += rendered(form.this_file, mine, ids)
    head = filled(form.prefix_head, mine)
    if not needed:  # all of it is text
        return [], b"".join(part for part in parts if isinstance(part, bytes)) + head
    return joined(parts), head


def as_text(context: OtherFiles) -> bytes:
    """The files at the head of a prefix, each behind a comment with its name."""
    others = [filled(PLAIN[0], values(name, bytes_of(text), "")) for name, text in context.files]
    return b"".join(others) + filled(PLAIN_HEAD, values(context.name, b"", ""))


def values(name: str, text: bytes, repository: str) -> dict[str, bytes]:
    """What stands for the places in the parts of a format."""
    return {
        "{name}": name.encode(),
        "{text}": text,
        "{repository}": repository.encode(),
        "{comment}": comment_of(name).encode(),
    }


def rendered(parts: Sequence[str], places: Mapping[str, bytes], ids: Mapping[str, int]) -> list[int | bytes]:
    """Parts of a format as ids and texts."""
    return [filled(part, places) if is_text(part) else ids[part] for part in parts]


def filled(part: str, places: Mapping[str, bytes]) -> bytes:
    """A text of a format with its places filled in, once: what is filled in is not read again."""
    pieces = re.split(r"(\{(?:name|text|repository|comment)\})", part)
    return b"".join(places.get(piece, piece.encode()) for piece in pieces)


def joined(parts: Sequence[int | bytes]) -> list[int | bytes]:
    """The same with texts that stand side by side as one."""
    found: list[int | bytes] = []
    for part in parts:
        if isinstance(part, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += part
        elif part != b"":
            found.append(part)
    return found
