r"""A chat as a prefix: what the tokenizer's own template makes of the messages, in token ids and text.

Rules
    A template's special tokens become ids. Text of a message never does, whatever it spells, alone or together with
    what the template writes beside it: where it could be a part of a special token, a character is disguised as one
    that neither the messages nor the template hold, until the template's own tokens are found. All texts of a message
    are treated so: its content, its name, the arguments of its calls.
    A turn that is begun is not shown to the template. A mark stands for it, and what the template writes before the
    mark is the prefix. So no template can trim or change what was begun, white space around it included, and it may
    end at any byte. All other messages are what the template makes of them.
    White space beside a special token goes where the tokenizer has the token take it (Phi-3's do), as in what
    transformers makes of the chat. A turn that is begun keeps its own.
    A template that refuses the role "system" gets that text in front of the first message of the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from bytelm.arguments import bytes_of, shown
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.tokenizer.vocab import Vocab

_NONE: Final = range(0xFDD0, 0x110000)  # code points that hardly any text holds: the first are no characters


def check_messages(messages: object) -> None:
    """See that an argument is a conversation.

    Raises:
        InvalidTypeError: It is no list of messages, each with a role and a content.
        InvalidArgumentError: It is empty.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidTypeError(
            'messages must be a list such as [{"role": "user", "content": "Hi"}], not '
            f"{type(messages).__name__}: {shown(messages)}"
        )
    if not messages:
        raise InvalidArgumentError("there is no message; give at least one")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidTypeError(f"message {place} must be a dict with a role and a content; got {shown(message)}")
        if not isinstance(message.get("content"), str if place < len(messages) - 1 else str | bytes):
            raise InvalidTypeError(f"the content of message {place} must be text; got {shown(message.get('content'))}")


def begun(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of the last message, which goes on."""
    return bytes_of(messages[-1]["content"], "the last message")


def chat_segments(
    tokenizer: Any, vocab: Vocab, messages: Sequence[Mapping[str, Any]], *, opens: bool, template: str | None = None
) -> list[int | str]:
    """The prefix that a tokenizer's template makes of a chat, up to where the assistant's text begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        vocab: Of it.
        messages: The conversation, each message with a ``role`` and a ``content``.
        opens: Whether a turn of the assistant begins behind it; otherwise the last message goes on, and what it holds
            so far comes behind the segments.
        template: The name of a template, or its text; the tokenizer's default if not given.

    Returns:
        Ids of special tokens and texts; the last one is a text.

    Raises:
        InvalidArgumentError: There is no template, or it does not take the chat.
    """
    if not opens:
        messages = [*messages[:-1], {**messages[-1], "content": ""}]  # not shown, whatever bytes it holds
    special = {token.content: token for token in vocab.added if token.special}
    taken = set("".join([*_texts(list(messages)), *_texts(template), *_texts(getattr(tokenizer, "chat_template", ""))]))
    free = (chr(point) for point in _NONE if chr(point) not in taken)
    mark = next(free)
    disguises = dict(zip(sorted(set("".join(special))), free, strict=False))
    shown: list[Any] = [_mapped(message, lambda text: _disguised(text, special, disguises)) for message in messages]
    if not opens:
        shown[-1] = {**shown[-1], "content": mark}
    rendered = _rendered(tokenizer, shown, opens=opens, template=template)
    if not opens:
        rendered, found_mark, _ = rendered.rpartition(mark)
        if not found_mark:
            raise InvalidArgumentError(
                "the tokenizer's chat template leaves out the last message, so it cannot be continued"
            )
        if mark in rendered:
            raise InvalidArgumentError(
                "the tokenizer's chat template shows the last message more than once, so there is no one place to "
                "continue it; pass another template="
            )
    parts: list[int | str] = []
    start, trims = 0, False
    longest_first = sorted(special, key=len, reverse=True)
    for found in re.finditer("|".join(map(re.escape, longest_first)) or "(?!)", rendered):
        token = special[found[0]]
        text = _trimmed(rendered[start : found.start()], left=trims, right=token.lstrip)
        parts += [text, token.id]
        start, trims = found.end(), token.rstrip
    parts.append(_trimmed(rendered[start:], left=trims))
    plain = str.maketrans({disguise: character for character, disguise in disguises.items()})
    texts = [part.translate(plain) if isinstance(part, str) else part for part in parts]
    return [part for part in texts[:-1] if part != ""] + texts[-1:]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a message, or in a template."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A message whose texts are what a function makes of them."""
    if isinstance(value, str | bytes):
        try:
            return change(value if isinstance(value, str) else value.decode())
        except UnicodeDecodeError:
            raise InvalidArgumentError(
                f"only the last message of continue_final_message=True may be other than UTF-8; got {value!r:.80}"
            ) from None
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    return [_mapped(each, change) for each in value] if isinstance(value, list | tuple) else value


def _disguised(text: str, special: Collection[str], disguises: Mapping[str, str]) -> str:
    """A text with a disguised character in all that is a special token, or may be a part of one."""
    at = {found.start() for token in special for found in re.finditer(f"(?={re.escape(token)})", text)}
    for token in special:
        at.update(len(text) - n for n in range(1, min(len(token), len(text) + 1)) if text.endswith(token[:n]))
        if text in token or any(text.startswith(token[n:]) for n in range(1, len(token))):
            at.add(0)
    return "".join(disguises[c] if i in at else c for i, c in enumerate(text))


def _trimmed(text: str, *, left: bool = False, right: bool = False) -> str:
    """A text beside special tokens that take the white space next to them, as the tokenizer has it."""
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, opens: bool, template: str | None) -> str:
    from jinja2.exceptions import TemplateError

    def render(these: Sequence[Mapping[str, str]]) -> str:
        made: str = tokenizer.apply_chat_template(
            list(these),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=opens,
            continue_final_message=not opens,
        )
        return made

    try:
        try:
            return render(messages)
        except TemplateError:
            return render(_without_system(messages))
    except Exception as error:  # a template is a program
        raise InvalidArgumentError(
            f"the tokenizer's chat template cannot be applied: {type(error).__name__}: {error}"
        ) from error


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    told = "".join(message["content"] + "\n\n" for message in messages if message["role"] == "system")
    rest = [message for message in messages if message["role"] != "system"]
    return [{**rest[0], "content": told + rest[0]["content"]}, *rest[1:]] if rest else []
