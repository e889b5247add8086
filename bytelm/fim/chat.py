"""A hole put to a chat model that has no tokens for it: a message that shows the hole, and an answer that is begun.

Theory of operation
    The user's message shows the text with a mark in the place of the hole. The assistant's answer begins with the line
    up to the cursor, and the middle is how it goes on: as in the carried line, the cursor is the end of a byte prefix,
    and exact. A begun line of code also keeps the model from explaining first.

Does not
    Keep a model from it at the start of a line, where there is nothing to begin with.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from bytelm.arguments import bytes_of
from bytelm.fim.files import OtherFiles, whole
from bytelm.fim.prompt import Carry, carried_from

TASK: Final = (
    "The text below has a gap, marked {mark}. Write the text that belongs in the gap. Write nothing else: no "
    "explanation, and no code fence."
)


def infill_messages(
    prefix: bytes, suffix: bytes, *, carry: Carry = "line", context: OtherFiles | None = None
) -> list[dict[str, Any]]:
    """The messages of a chat; the middle continues the last one, the assistant's.

    Args:
        prefix: The text before the cursor.
        suffix: The text after it.
        carry: What of the prefix the answer begins with.
        context: Other files, which are shown first.

    Raises:
        InvalidArgumentError: A text that is shown is not UTF-8.
    """
    start = carried_from(prefix, carry)
    before, behind = (
        whole(text, name).decode() for text, name in ((prefix[:start], "the prefix"), (suffix, "the suffix"))
    )
    others = [] if context is None else [(name, bytes_of(text).decode()) for name, text in context.files]
    texts = [before, behind, *(text for _, text in others)]
    marks = itertools.chain(["<GAP>"], (f"<GAP {number}>" for number in itertools.count(2)))
    mark = next(mark for mark in marks if not any(mark in text for text in texts))
    shown = "".join(f"{name}:\n\n{text}\n\n" for name, text in others)
    if context is not None:
        shown += f"{context.name}:\n\n"
    asked = f"{TASK.format(mark=mark)}\n\n{shown}{before}{mark}{behind}"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": prefix[start:]}]
