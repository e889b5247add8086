r"""One prompt, or one cursor, completed by tokens, by token healing and by bytes, side by side.

A prompt such as ``def fibonacci(n):\n    ret`` ends inside a word. The model never saw its text cut into tokens there,
so what it says after the prompt's own tokens is about a text that hardly exists. The comparison shows that twice for
each method: by what it writes, and by its distribution of the next byte. All methods use the same engine.
With a text behind the cursor all of them read the same infill prompt.

Source
    The prompt is the one of Phan et al., arXiv:2410.09303, in spirit: code that a cursor cuts in the middle of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from bytelm.byte_lm.model import ByteLM
from bytelm.cli.tables import Bar, bar, columns, show_byte, show_bytes
from bytelm.fim import InfillSettings, Mode
from bytelm.healing import Healing, infill_completer

PROMPT: Final = b"def fibonacci(n):\n    ret"
CURSOR: Final = b"def add(a, b):\n    ret", b"\n\nprint(add(1, 2))\n"


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


def compare(
    lm: ByteLM, prompt: str | bytes = PROMPT, suffix: str | bytes | None = None, *, max_bytes: int = 43
) -> list[Outcome]:
    """Complete a prompt by every method, greedily.

    Healing with one token and healing with as many as needed are told apart only where they differ.

    Args:
        lm: The model, whose engine serves every method.
        prompt: Text that may end anywhere.
        suffix: The text after the cursor; with it the methods fill in the middle, as `ByteLM.infill` does.
        max_bytes: New bytes of each method, at most.

    Raises:
        NoInfillFormatError: There is a suffix, and the model cannot be shown it.
    """
    mode: Mode = "left" if suffix is None else "auto"
    completer, text = infill_completer(lm, prompt, suffix or b"", mode=mode)
    how = InfillSettings(mode)
    inside, (asked,) = lm.infilling([(prompt, suffix or b"")], how)  # the prompt that the others complete
    healings: list[tuple[str, Healing]] = [("by tokens", "none"), ("by token healing", "many")]
    if completer.back_up(text, healing="one") != completer.back_up(text, healing="many"):
        healings.insert(1, ("by one-token healing", "one"))
    outcomes = []
    for method, healing in healings:
        done = completer.sample(text, healing=healing, max_bytes=max_bytes)
        probs = np.exp(completer.next_byte_logprobs(text, healing=healing))
        outcomes.append(Outcome(method, done.backed_up, done.bytes, probs))
    written = inside.sample(asked, max_bytes=max_bytes, temperature=0.0).bytes
    outcomes.append(Outcome("by bytes", b"", written, np.exp(inside.next_byte_logprobs(asked))))
    return outcomes


def show_comparison(prompt: bytes, outcomes: Sequence[Outcome], *, suffix: bytes | None = None, top: int = 8) -> str:
    """The comparison as text: what each method writes, then the likeliest next bytes of each.

    Args:
        prompt: What was completed.
        outcomes: From `compare`.
        suffix: What stood behind, if anything did.
        top: Rows of the second table: the bytes that some method finds likeliest.
    """
    written = [["prompt", show_bytes(prompt)]]
    if suffix is not None:
        written = [["prefix", show_bytes(prompt)], ["suffix", show_bytes(suffix)]]
    nothing = "(nothing: it ends the text at once)"
    written += [[outcome.method, show_bytes(outcome.completion) or nothing] for outcome in outcomes]
    highest = np.max([outcome.next_byte_probs for outcome in outcomes], axis=0)
    rows = [["next byte", *(outcome.method for outcome in outcomes)]]
    for value in np.argsort(-highest, kind="stable")[:top].tolist():
        probs = [float(outcome.next_byte_probs[value]) for outcome in outcomes]
        rows.append([show_byte(value), *(Bar(f"{prob:.4f} {bar(prob, 12)}") for prob in probs)])
    return columns(written) + "\n\n" + columns(rows)
