r"""Prompts in which a client has written a format's sentinels as text.

Some editors know the format of one model and write its sentinels into the prompt. In bytelm no text becomes a token,
so such a prompt would be a text about sentinels. What is meant is known all the same where the *whole* prompt is
written in an order of one known format, each sentinel once and in its place: then it is a prefix and a suffix, and the
model is asked in its own format, whichever that is. Everything else stays text, and so does what is between the parts.

Rules
    A prompt begins with the first sentinel. Text behind the last one is the beginning of the middle: it belongs to the
    prefix, as the middle goes on from it.
    CodeLlama's sentinels are written with a space in front, and one behind the first, as its makers do.

Cost
    Linear in the prompt: each sentinel is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bytelm.fim import FORMATS, is_sentinel
from bytelm.fim.format import PREFIX, SUFFIX

_METASPACE: Final = "▁"
_ORDERS: Final = tuple(dict.fromkeys(order for form in FORMATS.values() for order in (form.psm, form.spm) if order))


def parts_of(prompt: str) -> tuple[str, str | None]:
    """The prefix and the suffix of a prompt in a known format; of any other prompt itself, and None.

    >>> parts_of("<|fim_prefix|>def f(<|fim_suffix|>):<|fim_middle|>x")
    ('def f(x', '):')
    >>> parts_of("about <|fim_prefix|>")
    ('about <|fim_prefix|>', None)
    """
    for order in _ORDERS:
        texts = _texts(prompt, order)
        if texts is not None:
            return texts[PREFIX] + texts[""], texts[SUFFIX]
    return prompt, None


def _texts(prompt: str, order: Sequence[str]) -> dict[str, str] | None:
    """The text in each place of an order, and by the empty name that behind its last sentinel; None if it is none."""
    spaced = order[0].startswith(_METASPACE)
    sentinels = [part.removeprefix(_METASPACE) for part in order if is_sentinel(part)]
    if not prompt.startswith(sentinels[0]) or any(prompt.count(sentinel) != 1 for sentinel in sentinels):
        return None
    starts = [prompt.find(sentinel) for sentinel in sentinels]
    if starts != sorted(starts):
        return None
    texts = {"": ""}
    ends = [*starts[1:], len(prompt)]
    for place, (sentinel, start, end) in enumerate(zip(sentinels, starts, ends, strict=True)):
        text = prompt[start + len(sentinel) : end]
        if spaced:
            text = text.removeprefix(" ") if place == 0 else text
            text = text.removesuffix(" ") if place < len(sentinels) - 1 else text
        at = order.index(_named(sentinel, order)) + 1
        name = order[at] if at < len(order) and not is_sentinel(order[at]) else ""
        if name == "" and at < len(order) and text:
            return None  # between two sentinels that stand side by side
        texts[name] = text
    return texts


def _named(sentinel: str, order: Sequence[str]) -> str:
    return next(part for part in order if part.removeprefix(_METASPACE) == sentinel)
