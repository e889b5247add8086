"""minicons' surprisal by words, in an environment that has it: a job as JSON on standard input, its numbers on the output.

Rules
    This file is run by the other environment's Python, as a script: it imports minicons and the standard library alone.
    Each sentence is a batch of its own, so no padding enters its numbers.
    The numbers are those of `word_score_tokenized`, the one method of minicons that takes the words from its caller.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from typing import Any


def answers(job: dict[str, Any]) -> dict[str, Any]:
    """The words of each sentence with their log-probabilities, for each way of asking.

    Args:
        job: ``folder`` of the model; ``sentences``; and ``asked``, each with ``name``, ``pattern`` (of a word; null for
            the text between white space), ``corrected`` and ``start``.
    """
    from minicons import scorer

    model = scorer.IncrementalLMScorer(job["folder"], "cpu")
    found: dict[str, Any] = {"versions": {name: version(name) for name in ("minicons", "torch", "transformers")}}
    for asked in job["asked"]:
        split = re.compile(asked["pattern"]).findall if asked["pattern"] else str.split
        options = {"bow_correction": asked["corrected"], "bos_token": asked["start"]}
        found[asked["name"]] = [
            model.word_score_tokenized([sentence], split, **options)[0] for sentence in job["sentences"]
        ]
    return found


if __name__ == "__main__":
    print(json.dumps(answers(json.load(sys.stdin))))
