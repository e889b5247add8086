"""Rows and log-probabilities of an ensemble along a known text, from those of its members.

Rules
    Members are asked side by side: what they need in a round is one request.
    A member that cannot spell the text gives it probability 0 from there on: its rows are −∞ throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from bytelm.ensemble.combine import AnyCombine, WeightsAt, combined, log_shares, weights_at
from bytelm.inference.scheduler import Step, together
from bytelm.inference.text_scoring import TextScoring
from bytelm.symbols import EOT, SYMBOLS


@dataclass
class EnsembleScoring(TextScoring):
    """An ensemble along a text.

    Args:
        members: The members along the text.
        combine: The formula.
        weights: Of the members after a text, or after any.
        alpha: What a symbol needs to be plausible, in a product with a weight below 0.
        text: The text before, which counts as theirs.
        likelihoods: Of it, for each member.

    Attributes:
        member_rows: The members' rows of the last window.
        shares: What each counted for there: the weights, or in bayes the posterior weights.
    """

    members: Sequence[TextScoring]
    combine: AnyCombine
    weights: WeightsAt
    alpha: float
    text: bytearray
    likelihoods: Float64[np.ndarray, " members"]

    def __post_init__(self) -> None:
        self.member_rows = np.zeros((len(self.members), 0, SYMBOLS))
        self.shares = np.zeros((len(self.members), 0))

    def rows(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, "n 257"]]:  # noqa: D102 - as in `TextScoring`
        found = yield from together([member.rows(data, end=end) for member in self.members])
        self.member_rows = np.stack(found)
        rows = np.zeros(self.member_rows.shape[1:])
        self.shares = np.zeros(self.member_rows.shape[:2])
        for i in range(len(rows)):
            weights = weights_at(self.weights, self.text)
            rows[i] = combined(self.combine, weights, self.member_rows[:, i], self.likelihoods, alpha=self.alpha)
            product = self.combine == "product"
            self.shares[:, i] = weights if product else np.exp(log_shares(self.combine, weights, self.likelihoods))
            if i < len(data):
                self.text.append(data[i])
                self.likelihoods = self.likelihoods + self.member_rows[:, i, data[i]]
        return rows

    def logprobs(self, data: bytes, *, end: bool = False) -> Step[Float64[np.ndarray, " n"]]:
        """As in `TextScoring`. A product needs whole rows; elsewhere the members' log-probabilities are enough."""
        if self.combine == "product":
            rows = yield from self.rows(data, end=end)
            return rows[np.arange(len(rows)), [*data, EOT][: len(rows)]]
        found = np.stack((yield from together([member.logprobs(data, end=end) for member in self.members])))
        logprobs = np.zeros(len(data) + end)
        for i in range(len(logprobs)):
            shares = log_shares(self.combine, weights_at(self.weights, self.text), self.likelihoods)
            logprobs[i] = np.logaddexp.reduce(shares + found[:, i])
            if i < len(data):
                self.text.append(data[i])
                self.likelihoods = self.likelihoods + found[:, i]
        return logprobs
