r"""One prompt, completed by tokens, by token healing and by bytes, side by side.

A prompt such as ``def fibonacci(n):\n    ret`` ends inside a word. The model never saw its text cut into tokens there,
so what it says after the prompt's own tokens is about a text that hardly exists. The comparison shows that twice for
each method: by what it writes, and by its distribution of the next byte. All methods use the same engine.

Source
    The prompt is the one of Phan et al., arXiv:2410.09303, in spirit: code that a cursor cuts in the middle of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.byte_lm import ByteLM
from bytelm.healing import Healing, completer_of
from bytelm.render import bar, columns, show_byte, show_bytes

PROMPT: Final = b"def fibonacci(n):\n    ret"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method makes of the prompt.

    Attributes:
        method: Its name.
        backed_up: What of the prompt it took away and wrote again.
        completion: The new bytes, greedily.
        next_byte_probs: Distribution of the first new byte; index 256 is end of text.
    """

    method: str
    backed_up: bytes
    completion: bytes
    next_byte_probs: Float64[np.ndarray, "257"]


def compare(lm: ByteLM, prompt: str | bytes = PROMPT, *, max_bytes: int = 43) -> list[Outcome]:
    """Complete a prompt by every method, greedily.

    Healing with one token and healing with as many as needed are told apart only where they differ.

    Args:
        lm: The model, whose engine serves every method.
        prompt: Text that may end anywhere.
        max_bytes: New bytes of each method, at most.
    """
    completer = completer_of(lm)
    healings: list[tuple[str, Healing]] = [("by tokens", "none"), ("by token healing", "many")]
    if completer.back_up(prompt, healing="one") != completer.back_up(prompt, healing="many"):
        healings.insert(1, ("by one-token healing", "one"))
    outcomes = []
    for method, healing in healings:
        done = completer.sample(prompt, healing=healing, max_bytes=max_bytes)
        probs = np.exp(completer.next_byte_logprobs(prompt, healing=healing))
        outcomes.append(Outcome(method, done.backed_up, done.bytes, probs))
    written = lm.sample(prompt, max_bytes=max_bytes, temperature=0.0).bytes
    outcomes.append(Outcome("by bytes", b"", written, np.exp(lm.next_byte_logprobs(prompt))))
    return outcomes


def show_comparison(prompt: bytes, outcomes: Sequence[Outcome], *, top: int = 8) -> str:
    """The comparison as text: what each method writes, then the likeliest next bytes of each.

    Args:
        prompt: What was completed.
        outcomes: From `compare`.
        top: Rows of the second table: the bytes that some method finds likeliest.
    """
    written = [["prompt", show_bytes(prompt)]]
    written += [[outcome.method, show_bytes(outcome.completion)] for outcome in outcomes]
    highest = np.max([outcome.next_byte_probs for outcome in outcomes], axis=0)
    rows = [["next byte", *(outcome.method for outcome in outcomes)]]
    for value in np.argsort(-highest, kind="stable")[:top].tolist():
        probs = [float(outcome.next_byte_probs[value]) for outcome in outcomes]
        rows.append([show_byte(value), *(f"{prob:.4f} {bar(prob, 12)}" for prob in probs)])
    return columns(written) + "\n\n" + columns(rows)
