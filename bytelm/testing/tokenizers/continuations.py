"""What may follow a prefix: one continuation for every difference that the tokenizer can see.

Rules
    A continuation is text: where a prefix stops inside a character, the first thing that follows completes it, once in
    each class (classes.py) that the bytes so far allow.
What is tried
    every string of one or two representatives, strings of three at random, runs of one representative up to nine long
    (look-ahead can count), the rest of vocabulary tokens and of added tokens that the end of the prefix begins, and
    random widenings.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from bytelm.testing.tokenizers.classes import Classes, code_range, split_cut
from bytelm.testing.tokenizers.definition import Definition


class Continuations:
    """Continuations of byte prefixes, for one tokenizer."""

    def __init__(self, definition: Definition, *, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.classes = Classes.of(definition, rng)
        self.sorted_tokens = sorted({b for b in definition.token_bytes.values() if b})
        self.longest = max(map(len, self.sorted_tokens), default=0)
        self.added = [c.encode() for c in (*definition.added.values(), *definition.special.values())]
        if definition.spaced:
            self.added += [c.replace("▁".encode(), b" ") for c in self.added if "▁".encode() in c]
        core, reps = self.classes.core, self.classes.reps
        self.singles: list[str] = list(dict.fromkeys([*core, *reps]))
        self.pairs: list[str] = [a + b for a in core for b in core]
        self._rng = rng
        self._completions: dict[bytes, list[str]] = {}

    def completions(self, cut: bytes) -> list[str]:
        """Characters whose UTF-8 begins with these bytes, from every class."""
        if cut not in self._completions:
            self._completions[cut] = self.classes.completions(cut, self._rng)
        return self._completions[cut]

    def every_completion(self, cut: bytes, most: int) -> list[str]:
        """All characters whose UTF-8 begins with these bytes; those of every class a sample where they are more."""
        points = code_range(cut)
        if len(points) <= most:
            return [chr(point) for point in points]
        return self.completions(cut) + [chr(point) for point in self._rng.sample(points, most)]

    def beginning(self, start: bytes) -> tuple[int, int]:
        """The range of `sorted_tokens` that begin with these bytes."""
        beyond = start + b"\xff" * (self.longest + 1)
        return bisect_left(self.sorted_tokens, start), bisect_left(self.sorted_tokens, beyond)

    def tails(self, rng: random.Random, *, pairs: int, wide: int) -> list[str]:
        """Text that may follow whole characters: nothing, every representative, then pairs, triples and runs at random.

        Args:
            rng: The source of what is drawn.
            pairs: How many pairs of classes; all of them when there are no more.
            wide: How many triples, and how many random strings.
        """
        core, reps = self.classes.core, self.classes.reps
        chosen = ["", *self.singles]
        chosen += self.pairs if pairs >= len(self.pairs) else rng.sample(self.pairs, pairs)
        chosen += ["".join(rng.choices(core, k=3)) for _ in range(wide)]
        chosen += ["".join(rng.choices(reps, k=rng.randint(2, 3))) for _ in range(wide)]
        chosen += [rng.choice(core) * rng.randint(2, 9) + rng.choice(("", *core)) for _ in range(wide)]
        chosen += [rng.choice(reps) + rng.choice(core) * rng.randint(2, 9) for _ in range(wide // 4)]
        for _ in range(wide):
            text = "".join(self._token_text(rng) for _ in range(rng.randint(1, 3)))
            chosen.append(rng.choice(("", *reps)) + text)
        for _ in range(wide // 8 if self.added else 0):
            chosen.append(rng.choice(("", *reps)) + rng.choice(self.added).decode() + rng.choice(("", *reps)))
        return chosen

    def _token_text(self, rng: random.Random) -> str:
        return rng.choice(self.sorted_tokens).decode(errors="ignore")

    def endings(self, prefix: bytes, internal: bytes, rng: random.Random, *, each: int) -> Iterator[str]:
        """Texts that finish a token, or an added token, which the end of the prefix begins.

        Args:
            prefix: The text so far.
            internal: The same with its hidden leading space, which a token may spell.
            rng: The source of what is drawn.
            each: How many tokens for each place where one may begin.
        """
        closing = ("", *self.classes.core)
        for size in range(1, min(self.longest, len(internal)) + 1):
            start = internal[len(internal) - size :]
            low, high = self.beginning(start)
            picked = range(low, high) if high - low <= each else [rng.randrange(low, high) for _ in range(each)]
            for i in picked:
                token = self.sorted_tokens[i]
                yield from self._finish(prefix + token[size:], rng, closing)
        for content in self.added:
            for size in range(1, min(len(content), len(prefix)) + 1):
                if prefix.endswith(content[:size]):
                    yield from self._finish(prefix + content[size:], rng, closing)

    def next_tokens(self, text: bytes) -> Iterator[str]:
        """Texts that go on with any one token of those that begin inside the character that the text stops inside.

        A token that stops inside the next character in turn is followed by the rest of one of each class.
        """
        low, high = self.beginning(b"\x80")[0], self.beginning(b"\xbf")[1]
        for token in self.sorted_tokens[low:high]:
            if (parts := split_cut(text + token)) is not None:
                head, cut = parts
                yield from (head + stem for stem in self.completions(cut)) if cut else (head,)

    def _finish(self, text: bytes, rng: random.Random, closing: Sequence[str]) -> Iterator[str]:
        parts = split_cut(text)
        if parts is None:
            return
        head, cut = parts
        if not cut:
            yield head
            yield head + rng.choice(closing)
            return
        for point in rng.sample(code_range(cut), 2):
            yield head + chr(point) + rng.choice(closing)

    def texts(self, prefix: bytes, tails: Sequence[str], rng: random.Random) -> list[str]:
        """The whole texts prefix·y: the prefix itself, its cut character completed in every class, then each tail.

        Where a character is cut, every completion is tried alone and with some tails, and every tail with some
        completion.
        """
        parts = split_cut(prefix)
        if parts is None:
            return []
        head, cut = parts
        if not cut:
            return [head + tail for tail in tails]
        stems = self.completions(cut)
        texts = [head + stem for stem in stems]
        texts += [head + stem + rng.choice(tails) for stem in stems for _ in range(8)]
        texts += [head + rng.choice(stems) + tail for tail in tails]
        return texts
