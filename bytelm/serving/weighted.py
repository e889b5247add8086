"""The weighted texts of a completion that was drawn with ``particles``, as every protocol has them.

Rules
    They are told where a request asks for particles, and nowhere else: no client finds a field that it does not know.
    The field is ``particles``, beside the completion's finish reason. A text is new bytes alone: a string, or
    ``{"base64": …}`` where it is no UTF-8, as a text may be that ``max_tokens`` cuts.
"""

from __future__ import annotations

import base64
from typing import Any

from bytelm.serving.asks import Answer


def weighted(answer: Answer) -> dict[str, Any]:
    """The field of an answer that has them; of any other nothing."""
    told = answer.particles
    if told is None:
        return {}
    return {
        "particles": {
            "texts": [_text(text) for text in told.texts],
            "weights": told.weights.tolist(),
            "effective_sample_size": told.effective_sample_size,
            "log_mass": told.log_mass,
            "resamplings": told.resamplings,
        }
    }


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
