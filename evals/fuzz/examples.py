"""Texts that a split pattern is likely to match, drawn by walking through it.

Rules
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


def example(regex: str, rng: Random, characters: Sequence[str]) -> str:
    """A text that a pattern is likely to match, of some characters and those that it names itself.

    >>> example(r"a{2}(?:b|b)(?=c)", Random(0), "x")
    'aabc'
    """
    return _Walk(regex, rng, "".join(characters)).alternatives()


class _Walk:
    """One way through a pattern."""

    def __init__(self, regex: str, rng: Random, characters: str) -> None:
        self.regex = regex
        self.rng = rng
        self.characters = characters
        self.at = 0

    def alternatives(self) -> str:
        """One of the alternatives from here on, up to the end of the group."""
        found = [self._sequence()]
        while self.regex.startswith("|", self.at):
            self.at += 1
            found.append(self._sequence())
        return self.rng.choice(found)

    def _sequence(self) -> str:
        parts = []
        while self.at < len(self.regex) and self.regex[self.at] not in "|)":
            begin = self.at
            self._atom()
            count = self._count()
            after = self.at
            for _ in range(count):
                self.at = begin
                parts.append(self._atom())  # another one each time
            self.at = after
        return "".join(parts)

    def _atom(self) -> str:
        if opening := _OPENING.match(self.regex, self.at):
            self.at = opening.end()
            inner = self.alternatives()
            self.at += 1
            return "" if opening.group().endswith("!") or "<" in opening.group() else inner
        found = _ATOM.match(self.regex, self.at)
        if found is None:
            return ""
        self.at = found.end()
        if code := found.group("code"):
            return chr(int(code, 16))
        atom = found.group()
        if atom in _NOTHING:
            return ""
        if len(atom) == 1 and atom != ".":
            return self.rng.choice((atom, atom, atom.swapcase()))
        held = _members(atom, self.characters)
        return self.rng.choice(held) if held else ""

    def _count(self) -> int:
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
        return self.rng.randint(min(least, most), most)


@cache
def _members(atom: str, characters: str) -> str:
    """Those of some characters that a class holds."""
    split = pre_tokenizers.Split(Regex(f"(?:{atom})"), "removed")
    return "".join(c for c in characters if not split.pre_tokenize_str(c))
