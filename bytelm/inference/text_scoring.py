"""Rows and log-probabilities along a known text, in few requests.

Rules
    A text is scored a window at a time: memory does not grow with the text. All rows of a window are known to be needed
    before any of them is there: they are one tree of tokens (scoring.py).
    At each place P(x₁…xᵢ) is taken from the nodes that end there or before; ln P(xᵢ | before) is the difference of two
    logarithms.

Cost
    Three to four rows a token of the text (counted on English and Python).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float64

from bytelm.cover.nodes import Cover, common_ancestor
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Step, on
from bytelm.inference.scoring import Ledger, Span, difference
from bytelm.symbols import SYMBOLS
from bytelm.token_lm import TokenLM

WINDOW: Final = 1024  # bytes whose covers are kept at a time


class TextScoring(ABC):
    """A byte model along a known text; each call goes on where the last one ended."""

    @abstractmethod
    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:
        """The log-probabilities before each of these bytes, given all before it, and with ``end`` after the last."""

    @abstractmethod
    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each of these bytes, given all before it, and with ``end`` of the end after them."""

    def all_logprobs(self, text: bytes, *, eot: bool = False, window: int = WINDOW) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each byte of a whole text, window by window, and with ``eot`` of its end."""
        parts = []
        for start in range(0, max(len(text), 1), window):
            end = eot and start + window >= len(text)
            parts.append((yield from self.logprobs(text[start : start + window], end=end)))
        return np.concatenate(parts)


class Piece(NamedTuple):
    """A piece of a text that is scored with a history of its own.

    Attributes:
        start: Makes the cover of what stands before it.
        context: Token ids in front of that.
        length: Its bytes.
    """

    start: Callable[[], Cover]
    context: tuple[int, ...]
    length: int


class ModelScoring(TextScoring):
    """One byte model along a text.

    Args:
        pieces: What the text is cut into: for each piece where it starts, the tokens in front, and how many bytes it
            has; one, unless the text is longer than the model's context.
        reader: Reads rows.
        token_lm: The engine.
        strict: Whether text that the tokenizer cannot spell is an error. Otherwise its log-probability is −∞, and so
            is that of all that follows.
    """

    def __init__(self, pieces: Sequence[Piece], reader: RowReader, token_lm: TokenLM, *, strict: bool = True) -> None:
        self._pieces = deque(pieces)
        self._reader = reader
        self._token_lm = token_lm
        self._strict = strict
        self._whole = max(sum(piece.length for piece in pieces), 1)
        self._scored = 0
        self._left = 0
        self._cover: Cover | None = None
        self._ledger: Ledger | None = None

    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:  # noqa: D102 - as in `TextScoring`
        rows = np.full((len(data) + end, SYMBOLS), -np.inf)
        yield from self._along(data, rows, self._fill_rows)
        return rows

    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:  # noqa: D102 - as in `TextScoring`
        logprobs = np.full(len(data) + end, -np.inf)
        yield from self._along(data, logprobs, self._fill_logprobs)
        return logprobs

    def _along(
        self,
        data: bytes,
        found: Float64[np.ndarray, "n ..."],
        fill: Callable[[Any, bytes, list[Cover], Span], Step[None]],
    ) -> Step[None]:
        """Fill in an array that has a place for each byte, piece by piece; with one place more, for the end too."""
        at = 0
        while at < len(found):
            if self._left == 0 and self._pieces:
                self._next_piece()
            # The last piece has what comes after the text too.
            take = len(found) - at if not self._pieces else min(self._left, len(found) - at)
            if self._cover is not None:
                part = data[at : at + take]
                covers = self._covers(self._cover, part)
                span = (self._scored / self._whole, min((self._scored + take) / self._whole, 1.0))
                yield from on(self._token_lm, fill(found[at : at + take], part, covers, span))
                self._cover = covers[-1] if len(covers) > len(part) else None
                if self._cover is not None and self._ledger is not None:
                    self._ledger.forget(self._cover)
            self._left -= min(take, self._left)
            self._scored += take
            at += take

    def _next_piece(self) -> None:
        piece = self._pieces.popleft()
        self._left = piece.length
        try:
            self._cover = piece.start()
        except UnreachablePrefixError:
            if self._strict:
                raise
            self._cover = self._ledger = None
        else:
            anchor = common_ancestor((*self._cover.nodes, *self._cover.ending))
            self._ledger = Ledger(piece.context, self._reader, anchor)

    def _covers(self, cover: Cover, data: bytes) -> list[Cover]:
        """This cover and that after each byte, as far as the text can be spelled."""
        covers = [cover]
        for byte in data:
            try:
                covers.append(covers[-1].advance(bytes([byte])))
            except UnreachablePrefixError:
                if self._strict:
                    raise
                break
        return covers

    def _fill_rows(
        self, rows: Float64[np.ndarray, "n 257"], data: bytes, covers: list[Cover], span: Span
    ) -> Step[None]:
        if self._ledger is None:
            return
        log_mass, log_rows = yield from self._ledger.log_rows(covers[: len(rows)], span=span)
        for i, log_row in enumerate(log_rows):
            if log_mass == -math.inf:
                break
            rows[i] = log_row - log_mass
            if i < len(data):
                log_mass = float(log_row[data[i]])

    def _fill_logprobs(
        self, logprobs: Float64[np.ndarray, " n"], data: bytes, covers: list[Cover], span: Span
    ) -> Step[None]:
        if self._ledger is None:
            return
        end = len(logprobs) > len(data) and len(covers) > len(data)
        masses = yield from self._ledger.log_masses([*covers, covers[-1]] if end else covers, ends=end, span=span)
        for i, (before, after) in enumerate(itertools.pairwise(masses)):
            logprobs[i] = difference(before, after)
