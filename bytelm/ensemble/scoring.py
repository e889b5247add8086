"""Rows and log-probabilities along a known text, for one byte model or for an ensemble of them, in few requests.

Rules
    A passage goes along a text, a window at a time: memory does not grow with the text. The rows of one window are one
    tree of tokens (inference/scoring.py), and members of an ensemble are asked side by side.
    A member that cannot spell the text gives it probability 0 from there on: its rows are −∞ throughout.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.nodes import Cover, common_ancestor
from bytelm.cover.prefix import Prompt
from bytelm.ensemble.combine import Combine, WeightsAt, combined, log_shares, log_sums, weights_at
from bytelm.errors import UnreachablePrefixError
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import Step, on, together
from bytelm.inference.scoring import WINDOW, Ledger, difference
from bytelm.symbols import EOT, SYMBOLS
from bytelm.token_lm import TokenLM


class ModelScoring:
    """One byte model along a text.

    Args:
        pieces: What the text is cut into: for each piece where it starts, the tokens in front, and how many bytes it
            has; one, unless the text is longer than the model's context.
        reader: Reads rows.
        token_lm: The engine.
    """

    def __init__(
        self, pieces: Sequence[tuple[Callable[[], Cover], tuple[int, ...], int]], reader: RowReader, token_lm: TokenLM
    ) -> None:
        self._pieces = deque(pieces)
        self._reader = reader
        self._token_lm = token_lm
        self._left = 0
        self._cover: Cover | None = None
        self._ledger: Ledger | None = None

    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:
        """The log-probabilities before each of these bytes, given all before it, and with ``end`` after the last."""
        rows = np.full((len(data) + end, SYMBOLS), -np.inf)
        yield from self._along(data, rows, self._fill_rows)
        return rows

    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each of these bytes, given all before it, and with ``end`` of the end after them."""
        logprobs = np.full(len(data) + end, -np.inf)
        yield from self._along(data, logprobs, self._fill_logprobs)
        return logprobs

    def _along(
        self, data: bytes, found: Float64[np.ndarray, "n ..."], fill: Callable[[Any, bytes, list[Cover]], Step[None]]
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
                yield from on(self._token_lm, fill(found[at : at + take], part, covers))
                self._cover = covers[-1] if len(covers) > len(part) else None
                if self._cover is not None and self._ledger is not None:
                    self._ledger.forget(self._cover)
            self._left -= min(take, self._left)
            at += take

    def _next_piece(self) -> None:
        start, context, self._left = self._pieces.popleft()
        try:
            self._cover = start()
        except UnreachablePrefixError:
            self._cover = self._ledger = None
        else:
            anchor = common_ancestor((*self._cover.nodes, *self._cover.ending))
            self._ledger = Ledger(context, self._reader, anchor)

    @staticmethod
    def _covers(cover: Cover, data: bytes) -> list[Cover]:
        """This cover and that after each byte, as far as the text can be spelled."""
        covers = [cover]
        for byte in data:
            try:
                covers.append(covers[-1].advance(bytes([byte])))
            except UnreachablePrefixError:
                break
        return covers

    def _fill_rows(self, rows: Float64[np.ndarray, "n 257"], data: bytes, covers: list[Cover]) -> Step[None]:
        if self._ledger is None:
            return
        log_mass, log_rows = yield from self._ledger.log_rows(covers[: len(rows)])
        for i, log_row in enumerate(log_rows):
            if log_mass == -math.inf:
                break
            rows[i] = log_row - log_mass
            if i < len(data):
                log_mass = float(log_row[data[i]])

    def _fill_logprobs(self, logprobs: Float64[np.ndarray, " n"], data: bytes, covers: list[Cover]) -> Step[None]:
        if self._ledger is None:
            return
        end = len(logprobs) > len(data) and len(covers) > len(data)
        masses = yield from self._ledger.log_masses([*covers, covers[-1]] if end else covers, ends=end)
        for i, (before, after) in enumerate(itertools.pairwise(masses)):
            logprobs[i] = difference(before, after)


class EnsembleScoring:
    """An ensemble along a text.

    Args:
        members: Their passages.
        combine: The formula.
        weights: Of the members after a text, or after any.
        text: What stands before, and counts as theirs.
        likelihoods: Of it, for each member.

    Attributes:
        member_rows: The members' rows of the last window.
        shares: What each counted for there: the weights, or in bayes the posterior weights.
    """

    def __init__(
        self,
        members: Sequence[ModelScoring | EnsembleScoring],
        combine: Combine,
        weights: WeightsAt,
        text: bytes,
        likelihoods: Float64[np.ndarray, " members"],
    ) -> None:
        self.members = tuple(members)
        self.combine = combine
        self.weights = weights
        self.text = bytearray(text)
        self.likelihoods = likelihoods
        self.member_rows = np.zeros((len(members), 0, SYMBOLS))
        self.shares = np.zeros((len(members), 0))

    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:
        """The log-probabilities before each of these bytes, given all before it, and with ``end`` after the last."""
        found = yield from together([member.rows(data, end=end) for member in self.members])
        self.member_rows = np.stack(found)
        rows = np.zeros(self.member_rows.shape[1:])
        self.shares = np.zeros(self.member_rows.shape[:2])
        for i in range(len(rows)):
            weights = weights_at(self.weights, self.text)
            rows[i] = combined(self.combine, weights, self.member_rows[:, i], self.likelihoods)
            product = self.combine == "product"
            self.shares[:, i] = weights if product else np.exp(log_shares(self.combine, weights, self.likelihoods))
            if i < len(data):
                self.text.append(data[i])
                self.likelihoods = self.likelihoods + self.member_rows[:, i, data[i]]
        return rows

    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:
        """The log-probability of each of these bytes, given all before it, and with ``end`` of the end after them.

        A product needs whole rows; in a mixture and in bayes the members' log-probabilities are enough.
        """
        if self.combine == "product":
            rows = yield from self.rows(data, end=end)
            return rows[np.arange(len(rows)), [*data, EOT][: len(rows)]]
        found = np.stack((yield from together([member.logprobs(data, end=end) for member in self.members])))
        logprobs = np.zeros(len(data) + end)
        for i in range(len(logprobs)):
            shares = log_shares(self.combine, weights_at(self.weights, self.text), self.likelihoods)
            logprobs[i] = log_sums((shares + found[:, i])[:, None])[0]
            if i < len(data):
                self.text.append(data[i])
                self.likelihoods = self.likelihoods + found[:, i]
        return logprobs


def logprobs_along(
    passage: ModelScoring | EnsembleScoring, text: bytes, *, eot: bool = False, window: int = WINDOW
) -> Step[Float64[np.ndarray, " n"]]:
    """Log-probability of each byte of a text, and with ``eot`` of its end."""
    parts = []
    for start in range(0, max(len(text), 1), window):
        end = eot and start + window >= len(text)
        parts.append((yield from passage.logprobs(text[start : start + window], end=end)))
    return np.concatenate(parts)


def model_scoring(member: ByteLM, prompt: Prompt, text: bytes, stride: int | None) -> ModelScoring:
    """One byte model along a text after its prompt."""
    pieces = member._cut(prompt, text, stride) if stride else [(prompt, text)]  # noqa: SLF001 - one with byte_lm/model.py
    starts = [(functools.partial(member._cover, own), own.context, len(piece)) for own, piece in pieces]  # noqa: SLF001
    return ModelScoring(starts, member._reader, member.token_lm)  # noqa: SLF001


def model_logprob(
    member: ByteLM, prompt: Prompt, text: bytes, *, eot: bool = False, stride: int | None = None
) -> Step[float]:
    """Ln P(text | prompt) under one byte model; −∞ if it cannot spell it."""
    if not text and not eot:
        return 0.0
    try:
        step = member._scored(prompt, text, eot=eot, stride=stride)  # noqa: SLF001 - one with byte_lm/model.py
        return (yield from on(member.token_lm, step))
    except UnreachablePrefixError:
        return -math.inf
