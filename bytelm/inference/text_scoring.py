"""Rows and log-probabilities along a known text, in few requests.

Rules
    A text is scored a window at a time: memory does not grow with the text. All rows of a window are known to be needed
    before any of them is there: they are one tree of tokens (scoring.py).
    At each place P(x₁…xᵢ) is taken from the nodes that end there or before; ln P(xᵢ | before) is the difference of two
    logarithms.
    The entropy of the next byte is that of the row divided by its sum: what leaks is no byte, and is left out. Where
    the row has no mass there is no entropy and no leak: both are NaN.
    What is asked at some places alone needs the covers of those places alone.

Cost
    Log-probabilities of all bytes: the nodes whose tokens may go on as the text does, three to four rows a token
    (counted on English and Python). Rows at all bytes: every node, and so at least a row a byte, as the tokens of each
    byte prefix are a node. At the ends of words: little more than the tokens of the text.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from bytelm.cover.nodes import Cover, common_ancestor
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Step, on
from bytelm.inference.scoring import Ledger, Span, difference
from bytelm.symbols import EOT, SYMBOLS
from bytelm.token_lm import TokenLM

WINDOW: Final = 1024  # bytes whose covers are kept at a time
LN2: Final = math.log(2.0)


class Readings(NamedTuple):
    """What the rows at some places of a text say; each array has an entry for a byte, and for the end if asked for.

    Attributes:
        logprobs: Their sum from one place to the next is the log-probability of the bytes between.
        entropies: At a place, of the next byte, in bits.
        leaks: At a place, what the row lacks of 1.
    """

    logprobs: Float64[np.ndarray, " n"]
    entropies: Float64[np.ndarray, " n"]
    leaks: Float64[np.ndarray, " n"]


def entropies_and_leaks(
    rows: Float64[np.ndarray, "n 257"],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The entropy of the next byte in bits, and the leak, of rows of log-probabilities."""
    probs = np.exp(rows)
    totals = probs.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropies = np.log(totals) - np.where(probs > 0, probs * rows, 0.0).sum(axis=1) / totals
    leaks = np.where(totals > 0, np.maximum(1.0 - totals, 0.0), np.nan)
    return np.maximum(entropies, 0.0) / LN2, leaks


class TextScoring(ABC):
    """A byte model along a known text; each call goes on where the last one ended."""

    @abstractmethod
    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:
        """The log-probabilities before each of these bytes, given all before it, and with ``end`` after the last."""

    @abstractmethod
    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each of these bytes, given all before it, and with ``end`` of the end after them."""

    def readings(self, data: bytes, places: Bool[np.ndarray, " bytes"], *, end: bool = False) -> Step[Readings]:
        """What the rows at some of these bytes say, and with ``end`` the row after the last."""
        del places  # all of them are had here
        rows = yield from self.rows(data, end=end)
        return Readings(rows[np.arange(len(rows)), [*data, EOT][: len(rows)]], *entropies_and_leaks(rows))

    def all_logprobs(self, text: bytes, *, eot: bool = False, window: int = WINDOW) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each byte of a whole text, window by window, and with ``eot`` of its end."""
        parts = []
        for _, data, end in windows(text, end=eot, size=window):
            parts.append((yield from self.logprobs(data, end=end)))
        return np.concatenate(parts)

    def all_rows(self, text: bytes, *, window: int = WINDOW) -> Step[Float64[np.ndarray, "n 257"]]:
        """The row before each byte of a whole text, and the row at its end."""
        parts = []
        for _, data, end in windows(text, end=True, size=window):
            parts.append((yield from self.rows(data, end=end)))
        return np.concatenate(parts)

    def all_readings(
        self, text: bytes, places: Bool[np.ndarray, " bytes"], *, eot: bool = False, window: int = WINDOW
    ) -> Step[Readings]:
        """What the rows at some bytes of a whole text say, window by window, and with ``eot`` the row at its end."""
        parts = []
        for start, data, end in windows(text, end=eot, size=window):
            parts.append((yield from self.readings(data, places[start : start + window], end=end)))
        return Readings(*map(np.concatenate, zip(*parts, strict=True)))


def windows(text: bytes, *, end: bool = False, size: int = WINDOW) -> Iterator[tuple[int, bytes, bool]]:
    """The parts that a long text is asked about in, each with where it starts; with ``end`` the last one is marked.

    >>> list(windows(b"abc", end=True, size=2))
    [(0, b'ab', False), (2, b'c', True)]
    """
    for start in range(0, max(len(text), 1), size):
        yield start, text[start : start + size], end and start + size >= len(text)


class Piece(NamedTuple):
    """A piece of a text that is scored with a history of its own.

    Attributes:
        start: Makes the cover of the text before it.
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

    def readings(self, data: bytes, places: Bool[np.ndarray, " bytes"], *, end: bool = False) -> Step[Readings]:  # noqa: D102 - as in `TextScoring`
        found = np.full((len(data) + end, 3), [-np.inf, np.nan, np.nan])
        yield from self._along(data, found, self._fill_readings, places)
        return Readings(*found.T)

    def _along(
        self,
        data: bytes,
        found: Float64[np.ndarray, "n ..."],
        fill: Callable[[Any, bytes, list[int], list[Cover], Span], Step[None]],
        places: Bool[np.ndarray, " bytes"] | None = None,
    ) -> Step[None]:
        """Fill in an array that has an entry for each byte, piece by piece; with one entry more, for the end too.

        Args:
            data: The bytes.
            found: The array.
            fill: Fills in a part of it, given the part's bytes, some places in it, and the covers there.
            places: At which bytes something is asked; None: at all.
        """
        places = np.ones(len(data), np.bool_) if places is None else places
        at = 0
        while at < len(found):
            if self._left == 0 and self._pieces:
                self._next_piece()
            # The last piece has what comes after the text too.
            take = len(found) - at if not self._pieces else min(self._left, len(found) - at)
            if self._cover is not None:
                part = data[at : at + take]
                stops = sorted({0, len(part), *np.flatnonzero(places[at : at + take]).tolist()})
                covers = self._covers(self._cover, part, stops)
                span = (self._scored / self._whole, min((self._scored + take) / self._whole, 1.0))
                yield from on(self._token_lm, fill(found[at : at + take], part, stops, covers, span))
                self._cover = covers[-1] if len(covers) == len(stops) else None
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

    def _covers(self, cover: Cover, data: bytes, stops: Sequence[int]) -> list[Cover]:
        """This cover and those at some places behind it, as far as the text can be spelled."""
        covers = [cover]
        for start, end in itertools.pairwise(stops):
            try:
                covers.append(covers[-1].advance(data[start:end]))
            except UnreachablePrefixError:
                if self._strict:
                    raise
                break
        return covers

    def _fill_rows(
        self, rows: Float64[np.ndarray, "n 257"], data: bytes, stops: list[int], covers: list[Cover], span: Span
    ) -> Step[None]:
        del data, stops
        if self._ledger is None:
            return
        covers = covers[: len(rows)]
        masses, log_rows = yield from self._ledger.log_rows(covers, rows=len(covers), span=span)
        for row, log_row, log_mass in zip(rows, log_rows, masses, strict=False):
            if log_mass > -math.inf:
                row[:] = log_row - log_mass

    def _fill_readings(
        self, found: Float64[np.ndarray, "n 3"], data: bytes, stops: list[int], covers: list[Cover], span: Span
    ) -> Step[None]:
        if self._ledger is None:
            return
        count = len(stops) - 1 + (len(found) > len(data))
        masses, log_rows = yield from self._ledger.log_rows(covers, rows=min(count, len(covers)), span=span)
        # −∞ from the place where the text cannot be spelled any more.
        masses += [-math.inf] * (len(stops) - len(masses))
        found[:, 0] = 0.0
        for stop, (before, after) in zip(stops, itertools.pairwise(masses), strict=False):
            found[stop, 0] = difference(before, after)
        for stop, log_row, log_mass in zip(stops, log_rows, masses, strict=False):
            if log_mass > -math.inf:
                row = log_row - log_mass
                (found[stop, 1],), (found[stop, 2],) = entropies_and_leaks(row[None])
                if stop == len(data):
                    found[stop, 0] = row[EOT]

    def _fill_logprobs(
        self, logprobs: Float64[np.ndarray, " n"], data: bytes, stops: list[int], covers: list[Cover], span: Span
    ) -> Step[None]:
        del stops
        if self._ledger is None:
            return
        end = len(logprobs) > len(data) and len(covers) > len(data)
        masses = yield from self._ledger.log_masses([*covers, covers[-1]] if end else covers, ends=end, span=span)
        for i, (before, after) in enumerate(itertools.pairwise(masses)):
            logprobs[i] = difference(before, after)
