"""The levels at which a text is cut: added tokens before all else, then the steps of the pre-tokenizer in their order.

Rules
    Added tokens that match the text as it is are one level, those that match its normalized form another below it.
    Each step of the pre-tokenizer is one more. What a level is: tokenizer/split/automaton.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from bytelm.tokenizer.added_tokens import added_pattern
from bytelm.tokenizer.split.automaton import Level
from bytelm.tokenizer.split.regex import compile_pattern
from bytelm.tokenizer.vocab import SPACE_MARK, SplitStep, Vocab, byte_alphabet


def levels_of(
    vocab: Vocab, steps: Sequence[SplitStep], *, forbidden: Bool[np.ndarray, " points"]
) -> tuple[list[Level], dict[int, int]]:
    """The levels of a tokenizer, from the first to the last; and for each added token the one that matches it.

    Args:
        vocab: The tokenizer, read.
        steps: Those of its pre-tokenizer that find something.
        forbidden: Which code points no text has.
    """
    alias = {0x20: ord(SPACE_MARK)} if SPACE_MARK in vocab.pieces and vocab.family == "sentencepiece" else {}
    alphabet = [ord(c) for c, _ in sorted(byte_alphabet().items(), key=lambda each: each[1])]
    groups = [[t for t in vocab.added if not t.normalized], [t for t in vocab.added if t.normalized]]
    levels: list[Level] = []
    level_of_added: dict[int, int] = {}
    for normalized, group in enumerate(groups):
        if normalized and not group:
            continue
        last = bool(normalized) or not groups[1]
        pattern, emitted = added_pattern(vocab, group, normalized=bool(normalized), last=last)
        level_of_added |= dict.fromkeys(emitted, len(levels))
        seen_as = alias if normalized and vocab.marks else {}
        levels.append(Level(pattern, behavior="Added", invert=False, alias=seen_as, forbidden=forbidden))
    for step in steps:
        levels.append(
            Level(
                compile_pattern(step.pattern, classes=step.classes),
                behavior=step.behavior,
                invert=step.invert,
                alias=alias,
                forbidden=forbidden,
                alphabet=alphabet if step.after_bytes else None,
            )
        )
    return levels, level_of_added
