"""Who said what about each byte of a text: an ensemble's rows beside those of its members.

Rules
    All numbers are of rows in full. What a member *drove* is a share in a mixture and in bayes, where the probability
    of a byte is a sum over members; in a product, where it is none, it is what the byte gained by the member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from bytelm.ensemble.combine import Combine, combined


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Who said what about each byte of a text.

    Attributes:
        text: The bytes.
        logprobs: Of each byte, under the ensemble.
        member_logprobs: Of each byte, under each member after its own prompt.
        rows: The ensemble's rows: of each byte all 257 log-probabilities.
        member_rows: The members' rows.
        weights: What each member's row counted for at each byte: its weight, in bayes its posterior weight.
        drive: Who drove each byte. In a mixture and in bayes the share of the byte's probability that came from each
            member, 1 in sum. In a product by how many nats each member raised the byte: ln of its probability over what
            the other members would have given it.
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
        """For each byte the member that drove it most."""
        return tuple(self.drive.argmax(axis=0).tolist())


def attribution(
    text: bytes,
    rows: Float64[np.ndarray, "n 257"],
    member_rows: Float64[np.ndarray, "members n 257"],
    weights: Float64[np.ndarray, "members n"],
    *,
    combine: Combine,
) -> Attribution:
    """Who drove each byte, from the rows of all."""
    places = np.arange(len(text))
    symbols = np.frombuffer(text, np.uint8).astype(np.int64)
    logprobs, member_logprobs = rows[places, symbols], member_rows[:, places, symbols]
    drive = np.zeros_like(member_logprobs)
    if combine == "product":
        silent = np.zeros(len(member_rows))
        for i in range(len(member_rows)):
            others = np.arange(len(member_rows)) != i
            for at in places:
                without = combined(combine, np.where(others, weights[:, at], 0.0), member_rows[:, at], silent)
                drive[i, at] = logprobs[at] - without[symbols[at]]
    else:
        with np.errstate(divide="ignore"):
            joint = np.log(weights) + member_logprobs
        drive = np.exp(joint - np.where(np.isneginf(logprobs), 0.0, logprobs))
    return Attribution(text, logprobs, member_logprobs, rows, member_rows, weights, drive)
