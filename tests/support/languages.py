"""Constraints by their definition: a finite set of texts, asked text by text. What the fast engines are tested on."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bytelm.constraints import Constraint, Of
from bytelm.symbols import EOT, SYMBOLS


@dataclass(frozen=True)
class Language(Constraint):
    """The texts of a set, and no others. Nothing is forced but by the mask."""

    texts: frozenset[bytes]
    of: Of = "new"

    def state(self) -> LanguageState:
        return LanguageState(self.texts)


class LanguageState:
    def __init__(self, texts: frozenset[bytes]) -> None:
        self.texts = texts
        self.written = b""

    def allowed(self) -> np.ndarray:
        mask = np.zeros(SYMBOLS, np.bool_)
        for text in self.texts:
            if text.startswith(self.written):
                mask[[*text[len(self.written) :], EOT][0]] = True
        return mask

    def advance(self, data: bytes) -> None:
        self.written += data

    def copy(self) -> LanguageState:
        return copy.copy(self)

    def forced(self) -> bytes:
        return b""


def language(texts: Iterable[str], *, of: Of = "new") -> Language:
    return Language(frozenset(text.encode() for text in texts), of)


def forced_by(texts: frozenset[bytes], written: bytes) -> bytes:
    """The bytes that are the only way on in a set of texts, by definition."""
    state = LanguageState(texts)
    state.advance(written)
    run = b""
    while (mask := state.allowed()).sum() == 1 and not mask[EOT]:
        run += bytes([int(mask.argmax())])
        state.advance(run[-1:])
    return run
