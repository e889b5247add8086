"""The prompt of a hole for one model, with as many of the other files as fit in its context.

Rules
    The text around the hole comes first: whole files are left out, from the first on, until the rest fits with some
    room for the middle. That is said in a `LeftOutWarning`. A text that does not fit by itself is the caller's to cut.
"""

from __future__ import annotations

import bisect
import warnings
from typing import TYPE_CHECKING

from bytelm.arguments import shown
from bytelm.cover.prefix import Prefix
from bytelm.errors import LeftOutWarning
from bytelm.fim import FIMFormat, InfillSettings, OtherFiles, infill_prompt
from bytelm.fim.chat import infill_messages
from bytelm.fim.files import as_text

if TYPE_CHECKING:
    from bytelm.byte_lm.model import ByteLM


def fitting_prompt(lm: ByteLM, form: FIMFormat | None, how: InfillSettings, prefix: bytes, suffix: bytes) -> Prefix:
    """The prompt that the middle follows.

    Args:
        lm: The model, which ends where a middle does.
        form: The format; None in the modes "left" and "chat".
        how: How the hole is put to it.
        prefix: The text before the cursor.
        suffix: The text after it.
    """
    files = () if how.context is None else how.context.files

    def with_nearest(count: int) -> Prefix:
        return _prompt(lm, form, how, prefix, suffix, how.context.nearest(count) if how.context and count else None)

    # The more files, the longer: the counts that do not fit are the last ones.
    fitting = bisect.bisect_left(
        range(1, len(files) + 1),
        x=True,
        key=lambda count: lm.overflow(lm.prompt(with_nearest(count)), b"", tokens=how.room) > 0,
    )
    if fitting < len(files):
        out = [name for name, _ in files[: len(files) - fitting]]
        warnings.warn(
            f"of {len(files)} other files, {len(out)} do not fit in the model's context of "
            f"{lm.abilities.context_length} tokens and are left out: {shown(', '.join(out))}",
            LeftOutWarning,
            stacklevel=2,
        )
    return with_nearest(fitting)


def _prompt(
    lm: ByteLM, form: FIMFormat | None, how: InfillSettings, prefix: bytes, suffix: bytes, context: OtherFiles | None
) -> Prefix:
    if how.mode == "chat":
        messages = infill_messages(prefix, suffix, carry=how.carry, context=context)
        return lm.chat_prefix(messages, continue_final_message=True)
    if form is None:
        return [prefix if context is None else as_text(context) + prefix]
    return infill_prompt(
        lm.viability.vocab,
        form,
        prefix,
        suffix,
        mode=how.mode,
        carry=how.carry,
        context=context,
        before=lm.prompts.bos_ids,
    )
