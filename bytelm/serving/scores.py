"""Log-probabilities byte by byte, as the protocols put them: each byte a token, with the likeliest others.

Rules
    They are the model's own, before temperature and filters.
    A byte that is no ASCII character is written as OpenAI's protocol writes a part of a character: ``bytes:\\xc3``.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bytelm.byte_lm.canonical import canonical_tokens
from bytelm.byte_lm.model import ByteLM
from bytelm.inference.scheduler import Step
from bytelm.inference.text_scoring import windows
from bytelm.pictures.values import shown_text
from bytelm.sampling.byte_model import ByteModel
from bytelm.serving.asks import Prompting
from bytelm.serving.exchange import finite
from bytelm.symbols import EOT

END: Final = "<|bytelm-end-of-text|>"
"""The end of text, where a protocol wants a token's text."""

MOST_TOKENS: Final = 4096  # bytes of a text whose canonical tokens are scored

_PRINTED: Final = frozenset(string.printable)


@dataclass(frozen=True, slots=True)
class Scored:
    """One byte, or the end of text.

    Attributes:
        symbol: The byte, or 256.
        logprob: Given all before it.
        top: The likeliest symbols there with their log-probabilities, the likeliest first, and this one.
    """

    symbol: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def scored(
    prompt: Prompting, text: bytes, *, top: int, end: bool = False
) -> Callable[[ByteModel[Any, Any]], Step[list[Scored]]]:
    """What a model says of each byte of a text after a prompt, and with ``end`` of the end behind them."""

    def steps(lm: ByteModel[Any, Any]) -> Step[list[Scored]]:
        model, prefix = prompt(lm)
        read = model.prompt(prefix)
        model.check_room(read, text, asked="rows")
        scoring = yield from model.along(read, text)
        found: list[Scored] = []
        for _, piece, last in windows(text, end=end):
            rows = yield from scoring.rows(piece, end=last)
            for symbol, row in zip([*piece, *[EOT] * last], rows, strict=True):
                likeliest = np.argsort(-row, kind="stable")[:top].tolist()
                shown = [*likeliest, *([] if symbol in likeliest else [symbol])]
                found.append(Scored(symbol, float(row[symbol]), tuple((each, float(row[each])) for each in shown)))
        return found

    return steps


def spelled(symbol: int) -> str:
    r"""A byte as OpenAI's protocol spells a token.

    >>> spelled(0x6E), spelled(0xC3)
    ('n', 'bytes:\\xc3')
    """
    if symbol == EOT:
        return END
    return chr(symbol) if chr(symbol) in _PRINTED else f"bytes:\\x{symbol:02x}"


def tokens_of(lm: ByteModel[Any, Any], prefix: bytes, text: bytes) -> Step[list[dict[str, Any]] | None]:
    """The canonical tokens of a text by itself, with their log-probabilities; None for an ensemble.

    Where a prefix stands before it, or the text ends inside a character, or is long, there are none either.
    """
    if not isinstance(lm, ByteLM) or prefix or len(text) > MOST_TOKENS:
        return None
    read = lm.prompt([text])
    found = yield from canonical_tokens(lm, read.cut(0), read.text)
    if found is None:
        return None
    return [
        {
            "id": each.token_id,
            "shown": shown_text(each.bytes),
            "start": each.start,
            "end": each.end,
            "logprob": finite(each.logprob),
        }
        for each in found
    ]
