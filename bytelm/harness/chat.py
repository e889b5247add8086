r"""A chat as a context: the messages travel as text, and each model makes its own prompt of them.

Rules
    An evaluation harness hands out contexts as strings, and members of an ensemble have chat templates of their own. So
    what stands in the string is the messages (`packed`), and not what a template makes of them.
    A template's special tokens become ids. Text of a message never does, whatever it spells: the special tokens that it
    spells are broken up by a mark that no text has, until the template's own are found.
    A template that refuses the role "system" gets that text in front of the first message of the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bytelm.errors import InvalidArgumentError
from bytelm.tokenizer.vocab import Vocab

# Two code points that are no characters and that no text may hold.
_FENCE: Final = "\ufdd0"
_BREAK: Final = "\ufdd1"


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation.

    Attributes:
        messages: Each with a ``role`` and a ``content``.
        opens: Whether an answer of the assistant begins behind it; otherwise its last message goes on.
    """

    messages: tuple[Mapping[str, str], ...]
    opens: bool


def packed(chat: Chat) -> str:
    """The chat as a context.

    >>> context = packed(Chat(({"role": "user", "content": "Hi"},), opens=True)) + " more"
    >>> unpacked(context)
    (Chat(messages=({'role': 'user', 'content': 'Hi'},), opens=True), ' more')
    """
    body = json.dumps({"messages": list(chat.messages), "opens": chat.opens}, ensure_ascii=False)
    return _FENCE + body + _FENCE


def unpacked(context: str) -> tuple[Chat | None, str]:
    """The chat of a context, if it begins with one, and the text behind it."""
    if not context.startswith(_FENCE):
        return None, context
    body, _, text = context[1:].partition(_FENCE)
    read = json.loads(body)
    return Chat(tuple(read["messages"]), read["opens"]), text


def segments(tokenizer: Any, vocab: Vocab, chat: Chat, template: str | None = None) -> list[int | str]:
    """The prompt that a tokenizer's template makes of a chat: ids of special tokens and texts.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        vocab: Of it.
        chat: The conversation.
        template: The name of a template, or one; the tokenizer's default if not given.

    Raises:
        InvalidArgumentError: There is no template, or it does not take the chat.
    """
    special = {token.content: token.id for token in vocab.added if token.special}
    longest_first = sorted(special, key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    messages = [
        {**message, "content": spelled.sub(lambda found: found[0][0] + _BREAK + found[0][1:], message["content"])}
        for message in chat.messages
    ]
    rendered = _rendered(tokenizer, messages, opens=chat.opens, template=template)
    parts: list[int | str] = []
    start = 0
    for found in spelled.finditer(rendered):
        parts += [rendered[start : found.start()], special[found[0]]]
        start = found.end()
    parts.append(rendered[start:])
    texts = [part.replace(_BREAK, "") if isinstance(part, str) else part for part in parts]
    return [part for part in texts[:-1] if part != ""] + texts[-1:]


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
    except (TemplateError, ValueError) as error:
        raise InvalidArgumentError(f"the tokenizer's chat template cannot be applied: {error}") from error


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    told = "".join(message["content"] + "\n\n" for message in messages if message["role"] == "system")
    rest = [message for message in messages if message["role"] != "system"]
    return [{**rest[0], "content": told + rest[0]["content"]}, *rest[1:]] if rest else []
