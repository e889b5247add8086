"""Who said what about each byte of a text: an ensemble's rows beside those of its members.

Rules
    All numbers are of rows in full.
    In a mixture and in bayes the probability of a byte is a sum over members, and a member *drives* the byte by its
    share of the sum. A product has no such shares. There a byte b is compared with its rival c, the other symbol that
    the members of positive weight together find likeliest (and no member rules out). The byte's lead is a sum over
    members, from which the product's own sum cancels, and a member drives the byte by its term:

        ln Π pᵢ(b)^wᵢ − ln Π pᵢ(c)^wᵢ = Σ wᵢ ln(pᵢ(b) / pᵢ(c))

    So a member of negative weight drives a byte which it finds less likely, next to the rival, than the others do.
    To leave a member out instead says little: without its positive side a contrastive product is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import shown
from bytelm.ensemble.combine import AnyCombine, powered
from bytelm.pictures.document import Section, document, framed
from bytelm.pictures.values import Driven, shown_text


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What each member gave to each byte of a text.

    Attributes:
        text: The bytes.
        logprobs: Of each byte, under the ensemble.
        member_logprobs: Of each byte, under each member after its own prompt.
        rows: The ensemble's rows: of each byte all 257 log-probabilities.
        member_rows: The members' rows.
        weights: The weight of each member's row at each byte; in bayes its posterior weight.
        drive: Who drove each byte. In a mixture and in bayes the share of the byte's probability that came from each
            member, 1 in sum. In a product how many nats each member gave to the byte's lead over its rival, the
            likeliest other symbol on the positive side; below 0 from a member that spoke for the rival. A member that
            gives the byte probability 0 has −∞. All are 0 where no other symbol is possible.
    """

    text: bytes
    logprobs: Float64[np.ndarray, " n"]
    member_logprobs: Float64[np.ndarray, "members n"]
    rows: Float64[np.ndarray, "n 257"]
    member_rows: Float64[np.ndarray, "members n 257"]
    weights: Float64[np.ndarray, "members n"]
    drive: Float64[np.ndarray, "members n"]

    @property
    def drivers(self) -> tuple[int, ...]:
        """For each byte, the member that drove it most."""
        return tuple(self.drive.argmax(axis=0).tolist())

    def _repr_html_(self) -> str:
        return framed(document("bytelm: ensemble", [Section("Who drove each byte", picture_of(self))]))

    def __repr__(self) -> str:
        members = len(self.weights)
        return f"Attribution({shown(shown_text(self.text))}, {members} members, log P {float(self.logprobs.sum()):.4f})"


def picture_of(told: Attribution, members: Sequence[str] | None = None, combine: AnyCombine | None = None) -> Driven:
    """Who drove each byte, as a picture shows it.

    Args:
        told: Who drove it.
        members: The members' names; their numbers if not given.
        combine: How they are combined, if that is to be said.
    """
    names = [f"member {i}" for i in range(len(told.weights))] if members is None else members
    said, weights = told.member_logprobs.T.tolist(), told.weights.T.tolist()
    return Driven(told.text, names, told.logprobs.tolist(), said, weights, told.drivers, combine)


def attribution(
    text: bytes,
    rows: Float64[np.ndarray, "n 257"],
    member_rows: Float64[np.ndarray, "members n 257"],
    weights: Float64[np.ndarray, "members n"],
    *,
    combine: AnyCombine,
) -> Attribution:
    """Who drove each byte, from the rows of all."""
    places = np.arange(len(text))
    symbols = np.frombuffer(text, np.uint8).astype(np.int64)
    logprobs, member_logprobs = rows[places, symbols], member_rows[:, places, symbols]
    drive = np.zeros_like(member_logprobs)
    if combine == "product":
        for at, symbol in enumerate(symbols):
            drive[:, at] = _leads(weights[:, at], member_rows[:, at], int(symbol))
    else:
        with np.errstate(divide="ignore"):
            joint = np.log(weights) + member_logprobs
        drive = np.exp(joint - np.where(np.isneginf(logprobs), 0.0, logprobs))
    return Attribution(text, logprobs, member_logprobs, rows, member_rows, weights, drive)


def _leads(
    weights: Float64[np.ndarray, " members"], rows: Float64[np.ndarray, "members 257"], symbol: int
) -> Float64[np.ndarray, " members"]:
    """What each member gives to a symbol's lead over its rival in a product, in nats."""
    positive = np.maximum(weights, 0.0)
    scores = powered(positive if positive.any() else weights, rows)
    scores[np.isneginf(powered(weights, rows))] = -np.inf
    scores[symbol] = -np.inf
    rival = int(scores.argmax())
    leads = np.zeros(len(weights))
    if scores[rival] > -np.inf:
        asked = weights != 0  # the others may give the rival 0
        leads[asked] = weights[asked] * (rows[asked, symbol] - rows[asked, rival])
        leads[asked & np.isneginf(rows[:, symbol])] = -np.inf
    return leads
