r"""Repeats of parts that can match nothing: which of them the tokenizer's engine reads in one way only.

Rules
    The engine ends ``X*``, ``X+`` and the open end of ``X{n,}`` at the first turn that matches nothing, and goes on
    behind the repeat. For counts it has two ways. A small repeat is written out, and an empty turn counts like any
    other. In a larger one an empty turn ends the repeat, even before the n-th turn. What is small depends on the size
    of the engine's program: on "aa", ``(?:\ba?){2}`` matches "a", and ``(?:\b(?:a|cc|dd)?){2}`` matches "".
    Both ways choose the same match where X can match nothing at every place and prefers all else to that: the turns
    that are left can then be empty too. The first of the two is enough for a greedy ``X{n,}``, and the second for n up
    to 1. The other counts are refused.

Source
    Oniguruma 6.9.10: compile_quantifier_node and QUANTIFIER_EXPAND_LIMIT_SIZE in regcomp.c.
"""

from __future__ import annotations

from typing import NamedTuple

from bytelm.tokenizer.split.syntax import Node


class _Empty(NamedTuple):
    """How a part matches nothing: at every place, and as the last of its choices."""

    always: bool
    last: bool


def ways_agree(node: Node) -> bool:
    """Whether a repeat means the same whether its empty turns count or end it."""
    empty = _empty(node.parts[0])
    if empty is None or (node.low if node.high is None else node.high) < 2:
        return True
    if node.high is None and node.mode == "greedy":
        return empty.always
    return empty.last and (empty.always or node.low < 2)


def _empty(node: Node) -> _Empty | None:
    """How a part matches nothing, or None if it never does."""
    if node.kind == "atom":
        return None
    if node.kind == "repeat":
        return _empty_repeat(node)
    if node.kind not in ("cat", "alt"):
        return _Empty(always=False, last=True)
    parts = [_empty(part) for part in node.parts]
    found = [part for part in parts if part is not None]
    if node.kind == "alt":
        only_last = found == parts[-1:] and found[0].last
        return _Empty(any(part.always for part in found), only_last) if found else None
    if len(found) < len(parts):
        return None
    return _Empty(all(part.always for part in found), all(part.last for part in found))


def _empty_repeat(node: Node) -> _Empty | None:
    inner = _empty(node.parts[0])
    if node.mode == "possessive":  # of one class: nothing is matched where a character of it does not come next
        return None if node.low else _Empty(always=False, last=True)
    if node.low and (inner is None or node.mode == "greedy"):
        return inner
    always = node.low == 0 or (inner is not None and inner.always)
    return _Empty(always, node.mode == "greedy" and (inner is None or inner.last))
