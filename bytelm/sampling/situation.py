"""What surrounds a text whose prompt a format or a template makes: a hole in a file, a turn of a chat.

Rules
    The target's prompt has its own sentinels or turn markers. A drafter cannot read those of another model, so each
    drafter is asked in its own way: a byte model by its own format or template, a lookup by the texts themselves.
    A byte model that has no format reads the plain prefix. One that has no template reads the messages, a blank line
    behind each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from bytelm.arguments import Text, bytes_of
from bytelm.cover.prefix import Prefix
from bytelm.errors import InvalidArgumentError, NoInfillFormatError
from bytelm.fim import InfillSettings
from bytelm.sampling.drafter import Surroundings, drafter_of
from bytelm.sampling.params import SamplingParams

Prompted: TypeAlias = tuple[Any, Prefix]
"""A byte model, and the prefix that it goes on from."""


class Situation(Surroundings, ABC):
    """What surrounds a text."""

    @abstractmethod
    def __call__(self, lm: Any) -> Prompted:
        """The prompt of the model that writes the text, as it was asked for."""

    def drafted(self, params: SamplingParams) -> SamplingParams:
        """The same parameters, whose drafter knows what surrounds the text."""
        drafter = drafter_of(params.draft)
        return params if drafter is None else replace(params, draft=drafter.within(self))


@dataclass(frozen=True, slots=True)
class Hole(Situation):
    """A hole between two texts.

    Attributes:
        prefix: The text before it.
        suffix: The text after it.
        how: How it is put to the model that fills it.
    """

    prefix: Text
    suffix: Text
    how: InfillSettings

    def __call__(self, lm: Any) -> Prompted:  # noqa: D102 - as in `Situation`
        model, (prompt,) = lm.infilling([(self.prefix, self.suffix)], self.how)
        return model, prompt

    def own(self, lm: Any) -> Prompted:  # noqa: D102
        mode = self.how.mode if self.how.mode in ("left", "chat") else "auto"
        try:
            return replace(self, how=replace(self.how, format=None, mode=mode))(lm)
        except NoInfillFormatError:
            return replace(self, how=replace(self.how, format=None, mode="left"))(lm)

    @property
    def before(self) -> bytes:  # noqa: D102
        return bytes_of(self.prefix, "prefix")

    @property
    def around(self) -> tuple[bytes, ...]:  # noqa: D102
        files = () if self.how.context is None else self.how.context.files
        return (*(bytes_of(text, "a file") for _, text in files), bytes_of(self.suffix, "suffix"))


@dataclass(frozen=True, slots=True)
class Turn(Situation):
    """A turn of a chat.

    Attributes:
        messages: The chat so far.
        goes_on: Whether the last message goes on; otherwise a turn begins.
        template: As for `ByteModel.chat_prefix`, of the model that writes it.
    """

    messages: Sequence[Mapping[str, Any]]
    goes_on: bool = False
    template: str | None = None

    def __call__(self, lm: Any) -> Prompted:  # noqa: D102
        return lm, lm.chat_prefix(self.messages, continue_final_message=self.goes_on, template=self.template)

    def own(self, lm: Any) -> Prompted:  # noqa: D102
        try:
            return replace(self, template=None)(lm)
        except InvalidArgumentError:
            return lm, b"\n\n".join([*self.around, self.before])

    @property
    def before(self) -> bytes:  # noqa: D102
        return bytes_of(self.messages[-1]["content"], "a message") if self.goes_on else b""

    @property
    def around(self) -> tuple[bytes, ...]:  # noqa: D102
        said = self.messages[:-1] if self.goes_on else self.messages
        return tuple(bytes_of(message["content"], "a message") for message in said)
