"""One format of filling in the middle: the tokens and orders that a model was trained with, as a value.

Rules
    A format is data. It is checked when it is made, so that whatever has one can rely on its orders.
    An order is a list of parts: tokens, and ``"{prefix}"`` and ``"{suffix}"`` in the places of the texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from bytelm.arguments import shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError

Mode: TypeAlias = Literal["auto", "spm", "psm", "left", "chat"]

PREFIX: Final = "{prefix}"
SUFFIX: Final = "{suffix}"


@dataclass(frozen=True, slots=True)
class FIMFormat:
    """A prompt format for filling in the middle.

    Attributes:
        name: Its name for `format=`.
        psm: The prompt in the order prefix, suffix, middle: sentinel tokens, and ``"{prefix}"`` and ``"{suffix}"``
            in the places of the texts. Empty if the model was not trained with this order.
        spm: The prompt in the order suffix, prefix, middle; it ends with ``"{prefix}"``, or with a sentinel behind it
            (Seed-Coder's, which puts a boundary at the cursor as PSM does). Empty as well.
        ends: Tokens that end the middle, beside the model's own ends of text. Tokens that a tokenizer lacks are left
            out; with a format of your own the tokenizer must have at least one.
        marks: Tokens that distinguish the format from another with the same sentinels.
        space_before_prefix: Whether the prefix has the tokenizer's hidden leading space, if there is one.
        space_before_suffix: The same before the suffix.
        repository: If other files are shown, the head in front of them all: tokens, and texts with places
            ``{repository}`` and ``{name}``. A part with a place or a line end in it is a text.
        file: Each of the other files: tokens, and texts with places ``{name}``, ``{text}``, ``{comment}``. Empty: they
            stand at the head of the prefix, behind comments with their names.
        this_file: The part after the last of them: tokens, and texts with the place ``{name}``.
        prefix_head: If other files are shown, a text with the place ``{name}`` in front of the prefix.

    Raises:
        InvalidArgumentError: An order without one of the texts, an SPM order whose suffix does not come first, or a
            file without its text.
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
    repository: tuple[str, ...] = ()
    file: tuple[str, ...] = ()
    this_file: tuple[str, ...] = ()
    prefix_head: str = ""

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
        if self.file:
            self._demand(any("{text}" in part for part in self.file), "file", "hold '{text}' where the text stands")
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
    def file_tokens(self) -> tuple[str, ...]:
        """The tokens that other files stand between."""
        parts = (*self.repository, *self.file, *self.this_file)
        return tuple(dict.fromkeys(part for part in parts if not is_text(part)))

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
            raise InvalidArgumentError(
                f"no {mode} order is known for the format {self.name!r}; use mode='auto', or give the order that the "
                f"model was trained with: format=dataclasses.replace(form, {mode}=(...)), where form is your own or of "
                "bytelm.fim.FORMATS"
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


def is_text(part: str) -> bool:
    """Whether a part that writes a file is text, and not a token."""
    return "\n" in part or any(place in part for place in ("{name}", "{text}", "{repository}", "{comment}"))


def read_format(path: str | os.PathLike[str]) -> FIMFormat:
    """A format of your own from a JSON file: one object, whose keys are the attributes of `FIMFormat`.

    Orders and ends are lists of strings. By default the file gives the name.

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
        raise InvalidArgumentError(f"the format {str(file)!r} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidArgumentError(f"the format {str(file)!r} must be a JSON object; got {shown(given)}")
    if unknown := sorted(given.keys() - FIELDS.keys()):
        raise InvalidArgumentError(f"the format {str(file)!r} has the unknown fields {unknown}; known are {[*FIELDS]}")
    given = {"name": file.stem, **given}
    read: dict[str, Any] = {field: checked_field(given["name"], field, value) for field, value in given.items()}
    return FIMFormat(**read)
