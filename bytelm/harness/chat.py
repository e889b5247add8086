r"""A chat as a context: the messages travel as text, and each model makes its own prompt of them.

Rules
    An evaluation harness hands out contexts as strings, and members of an ensemble have chat templates of their own. So
    what stands in the string is the messages (`packed`), and not what a template makes of them (cover/chat.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_FENCE: Final = "\ufdd0"  # a code point that is no character and that no text may hold


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
