"""Texts that a split pattern is likely to match, drawn by walking through it.

Rules
    An example may have to begin with some text, as a match does that began inside a prefix. Then an alternative or a
    repeat is taken only where its characters agree with it.
    What patterns.py draws and publishes is read; of anything else the rest is left out. What stands in a look-ahead is
    put there as text, and what may not follow is nothing. So an example need not match: it is a guess at a text that
    shows something, and is judged by the tokenizers library, as all texts are.
    Which characters a class holds the library itself is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from tokenizers import Regex, pre_tokenizers

MORE: Final = 3  # repeats of what may be repeated without end
_ATOM: Final = re.compile(
    r"\\x\{(?P<code>[0-9a-fA-F]+)\}|\\[pP]\{[^}]*\}|\\.|\[(?:\[[^\]]*\]|\\.|[^\[\]])*\]|.", re.DOTALL
)
_COUNT: Final = re.compile(r"(?P<sign>[*+?])[?+]?|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\}\??")
_OPENING: Final = re.compile(r"\((?:\?(?:<?[=!]|[:>]|i:))?")
_NOTHING: Final = ("^", "$", "\\b", "\\B", "\\z", "\\Z", "\\A", "\\G")


def example(regex: str, rng: Random, characters: Sequence[str], *, begun: str = "") -> str | None:
    """A text that a pattern is likely to match, of some characters and those that it names itself.

    Args:
        regex: The pattern.
        rng: What to draw with.
        characters: What classes are drawn from.
        begun: What the text begins with; None is the answer where this walk leads elsewhere.

    >>> example(r"a{2}(?:b|b)(?=c)", Random(0), "x")
    'aabc'
    >>> example(r"x|[^a]{2}1|z", Random(0), "ab", begun="b-")
    'b-1'
    """
    walk = _Walk(regex, rng, "".join(characters), begun)
    found = walk.alternatives()
    return found if walk.due == "" else None


class _Walk:
    """One way through a pattern; ``due`` has to come next, and None is due once something else came."""

    def __init__(self, regex: str, rng: Random, characters: str, begun: str) -> None:
        self.regex = regex
        self.rng = rng
        self.characters = characters
        self.due: str | None = begun
        self.at = 0

    def alternatives(self) -> str:
        """One of the alternatives from here on, up to the end of the group."""
        due = self.due
        found = [(self._sequence(), self.due)]
        while self.regex.startswith("|", self.at):
            self.at += 1
            self.due = due
            found.append((self._sequence(), self.due))
        text, self.due = self.rng.choice([each for each in found if each[1] is not None] or found)
        return text

    def _sequence(self) -> str:
        parts = []
        while self.at < len(self.regex) and self.regex[self.at] not in "|)":
            begin, due = self.at, self.due
            self._atom()
            least, most = self._count()
            after, self.due = self.at, due
            for turn in range(self.rng.randint(least, most)):
                self.at, due = begin, self.due
                part = self._atom()  # another one each time
                if self.due is None and turn >= least:
                    self.due = due
                    break
                parts.append(part)
            self.at = after
        return "".join(parts)

    def _atom(self) -> str:
        if opening := _OPENING.match(self.regex, self.at):
            self.at, due = opening.end(), self.due
            inner = self.alternatives()
            self.at += 1
            if opening.group().endswith("!") or "<" in opening.group():
                inner, self.due = "", due
            return inner
        found = _ATOM.match(self.regex, self.at)
        if found is None:
            return ""
        self.at = found.end()
        if code := found.group("code"):
            return self._one_of(chr(int(code, 16)))
        atom = found.group()
        if atom in _NOTHING:
            return ""
        if len(atom) == 1 and atom != ".":
            return self._one_of((atom, atom, atom.swapcase()))
        if self.due:
            return self._one_of(_members(atom, self.due[0]))
        return self._one_of(_members(atom, self.characters))

    def _one_of(self, held: Sequence[str]) -> str:
        if not self.due:
            return self.rng.choice(held) if held else ""
        due = self.due[0]
        self.due = self.due[1:] if due in held else None
        return due

    def _count(self) -> tuple[int, int]:
        least, most = 1, 1
        while found := _COUNT.match(self.regex, self.at):
            self.at = found.end()
            sign = found.group("sign")
            fewest = 0 if sign in ("*", "?") else int(found.group("least") or 0) if not sign else 1
            if sign:
                greatest = 1 if sign == "?" else fewest + MORE
            else:
                greatest = int(found.group("most") or (fewest + MORE if found.group("comma") else fewest))
            least, most = least * fewest, most * greatest
        return min(least, most), most


@cache
def _members(atom: str, characters: str) -> str:
    """Those of some characters that a class holds."""
    split = pre_tokenizers.Split(Regex(f"(?:{atom})"), "removed")
    return "".join(c for c in characters if not split.pre_tokenize_str(c))
