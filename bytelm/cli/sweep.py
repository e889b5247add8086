"""A cursor that is swept through a text: what the word under it costs when the prompt ends there, method by method.

Theory
    A cursor cuts a word into a head, which the prompt gives, and a rest, which has to be written. By bytes
    P(head) · P(rest | head) = P(word), wherever the cursor is: the chain rule. By tokens the prompt's own encoding is
    fixed, and the rest is written in tokens behind it. The head's tokens are seldom those that the word begins with, so
    the same product jumps from cursor to cursor. Healing takes tokens of the prompt back, and mends most of it.
    All methods are given the head's probability by bytes, so what differs is the rest.

    What a token-level method writes begins with the rest by one of many spellings. They are followed the likeliest
    first, until those that are left cannot add more than a share of `TOLERANCE`. The whole sum can never exceed what is
    found and what is left together, so it is known early which spellings have to be followed: those without which
    more than this share of both is left. They are all asked about at once.

Rules
    A word begins with the white space in front of it, as tokens do, so that a cursor between words is in front of one.
    A method that cannot go on (by tokens, inside a character) has no number there. Nor has one whose spellings are too
    many to follow (`MOST`).

Cost
    All cursors and methods run together. Most of their sequences are the same: a row is asked for once.

Source
    The methods are those of healing.py.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from cachetools import LRUCache
from jaxtyping import Float

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import bos_ids_of
from bytelm.errors import InvalidArgumentError
from bytelm.healing import Healing, TokenCompleter
from bytelm.inference.rows import STORE_BYTES
from bytelm.inference.scheduler import Request, Scheduler, Step, together
from bytelm.inference.units import Characters, words
from bytelm.pictures.values import Method, Sweep, shown_text

T = TypeVar("T")

CURSORS: Final = 64  # at the end of a text
TOLERANCE: Final = 1e-2  # 0.014 bits
MOST: Final = 512  # spellings of one rest
METHODS: Final[tuple[tuple[str, Healing], ...]] = (("by tokens", "none"), ("by tokens, healed", "many"))


class Spellings(TokenCompleter):
    """Completion by tokens, asked how likely it writes a text."""

    def begins_with(self, text: bytes, prompt: bytes, *, healing: Healing) -> Step[float | None]:
        """The log-probability that what is drawn after a prompt begins with a text.

        None where the method cannot go on, or where it would take more than `MOST` rows to say.

        Args:
            text: The text.
            prompt: The text before it.
            healing: How much of the prompt is taken back.
        """
        try:
            kept, backed_up = self._back_up(prompt, healing)
        except InvalidArgumentError:  # the prompt ends inside a character
            return None
        found, followed = 0.0, 0
        ahead: list[tuple[float, tuple[int, ...], int]] = [(-1.0, (), 0)]  # −mass, tokens, bytes that they spell
        goal = backed_up + text
        while (left := math.fsum(-minus for minus, _, _ in ahead)) > TOLERANCE * found:
            some: list[tuple[float, tuple[int, ...], int]] = []
            least = TOLERANCE * (found + left)
            while not some or left > least:
                some.append(heapq.heappop(ahead))
                left += some[-1][0]
            followed += len(some)
            if followed > MOST:
                return None
            rows = yield Request(tuple(self.context + kept + drawn for _, drawn, _ in some))
            for (minus, drawn, spelled), row in zip(some, rows, strict=True):
                ids, probs = self._choices(row, backed_up[spelled:], healing)
                opens = not (kept or backed_up or drawn)
                rest = goal[spelled:]
                towards = np.array(sorted(self._towards(rest, opens=opens) - self.eot_ids), np.int64)
                places = np.searchsorted(ids, towards)
                among = ids.take(places, mode="clip") == towards
                for token, prob in zip(towards[among].tolist(), probs[places[among]].tolist(), strict=True):
                    mass, data = -minus * prob, self._spell(token, opens=opens)
                    if data.startswith(rest):
                        found += mass
                    elif mass > 0 and rest.startswith(data):
                        heapq.heappush(ahead, (-mass, (*drawn, token), spelled + len(data)))
        return math.log(found) if found > 0 else -math.inf

    def _towards(self, rest: bytes, *, opens: bool) -> set[int]:
        """The tokens that begin with some bytes, or that these bytes begin with, and perhaps others."""
        index, found = self.prefix_index, set[int]()
        for wanted in {rest, self.dummy_prefix + rest} if opens else {rest}:
            lo, hi = index.range(wanted)
            found |= set(index.order[lo:hi].tolist())
            for end in range(1, len(wanted)):
                lo, hi = index.range(wanted[:end])
                found |= set(index.order[lo : index.equal_to(wanted[:end], lo, hi)].tolist())
        return found


def remembering(step: Step[T]) -> Step[T]:
    """The same step, which asks for no row twice, as long as the rows fit in a store. It asks one engine."""
    known: LRUCache[tuple[int, ...], Float[np.ndarray, " vocab"]] = LRUCache(STORE_BYTES, lambda row: row.nbytes)
    given = None
    while True:
        try:
            request = step.send(given)
        except StopIteration as end:
            result: T = end.value
            return result
        sequences = dict.fromkeys(request.sequences)
        rows = {sequence: known[sequence] for sequence in sequences if sequence in known}
        wanted = tuple(sequence for sequence in sequences if sequence not in rows)
        for sequence, row in zip(wanted, (yield Request(wanted, request.done)), strict=True):
            rows[sequence] = row.copy()  # and let go of the whole call
            if row.nbytes <= known.maxsize:
                known[sequence] = rows[sequence]
        given = [rows[sequence] for sequence in request.sequences]


def sweep_of(lm: ByteLM, text: bytes, exact: Sequence[float] | None = None) -> Sweep:
    """Every cursor of a text, or of the end of a long one.

    Args:
        lm: The model, whose engine serves every method.
        text: The text.
        exact: The log-probability of each byte, if it is known already.
    """
    data = lm.prompt(text).text
    exact = lm.byte_logprobs(data, progress=True).tolist() if exact is None else exact
    first = max(len(data) - CURSORS, 0)
    spans = [unit for unit in words(Characters(data), "before") for _ in range(unit.start, unit.end)][first:]
    cursors = list(zip(range(first, len(data)), spans, strict=True))
    vocab = lm.viability.vocab
    completer = Spellings(lm.token_lm, vocab=vocab, eot_ids=lm.eot_ids, context=bos_ids_of(vocab))
    head = [math.fsum(exact[unit.start : at]) for at, unit in cursors]
    rest = [math.fsum(exact[at : unit.end]) for at, unit in cursors]
    methods = [Method("by bytes", [a + b for a, b in zip(head, rest, strict=True)], list(rest))]
    steps = [
        completer.begins_with(data[at : unit.end], data[:at], healing=healing)
        for _, healing in METHODS
        for at, unit in cursors
    ]
    (outcome,) = Scheduler(lm.token_lm).run([remembering(together(steps))], label="cursors", progress=True)
    for number, (name, _) in enumerate(METHODS):
        found = outcome.result[number * len(cursors) : (number + 1) * len(cursors)]
        whole = [None if value is None else value + before for value, before in zip(found, head, strict=True)]
        methods.append(Method(name, whole, found))
    return Sweep(data[first:], [shown_text(data[unit.start : unit.end]) for _, unit in cursors], methods)
