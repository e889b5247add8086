r"""The shape of a split pattern: alternatives, repeats and look-around, as they are written.

Rules
    Only the shape is read here. An *atom* is one character class as it is written in the pattern (``\p{Lu}``,
    ``[^\r\n\p{L}]``, a letter under ``(?i:…)``); what it contains is asked of the tokenizer's own engine
    (char_classes.py).

Folded texts
    Under ``(?i:…)`` the engine also lets one character match several letters (``ß`` and ``ss``). Where it may, the
    pattern is refused: of texts here, of classes in char_classes.py.

Source
    The syntax is Oniguruma's, which `tokenizers` uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from bytelm.errors import UnsupportedTokenizerError

META: Final = r"\^$.|?*+()[]{}"
FOLDED: Final = "(?i:"  # how an atom begins whose letters are folded
_DEEPEST: Final = 64  # groups inside one another: each is a few calls of Python's stack


@cache
def folds_of_several() -> tuple[str, ...]:
    """What single characters fold to, where that is several characters."""
    points = (*range(0xDF, 0x588), *range(0x1E96, 0x1FFD), *range(0xFB00, 0xFB18))
    return tuple(sorted({folded for point in points if len(folded := chr(point).casefold()) > 1}))


def plain_character(atom: str) -> str | None:
    """The character that an atom means, if it is written as one."""
    if len(atom) == 1 and atom not in META:
        return atom
    if len(atom) == 2 and atom[0] == "\\" and not atom[1].isalnum():
        return atom[1]
    if code := re.fullmatch(r"\\(?:x([0-7][0-9A-Fa-f])|x\{([0-9A-Fa-f]+)\}|u([0-9A-Fa-f]{4}))", atom):
        return chr(int(code[code.lastindex or 0], 16))
    return {"\\r": "\r", "\\n": "\n", "\\t": "\t", "\\f": "\f", "\\v": "\v"}.get(atom)


def quoted(character: str) -> str:
    """One character as an atom that means just it."""
    return "\\" + character if character in META else character


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a pattern as it is written."""

    kind: Literal["atom", "cat", "alt", "repeat", "look", "behind", "begin", "end", "word"]
    parts: tuple[Node, ...] = ()
    text: str = ""
    low: int = 0
    high: int | None = None
    mode: Literal["greedy", "lazy", "possessive"] = "greedy"
    negated: bool = False


class Parser:
    """A recursive-descent reader of the part of Oniguruma's syntax that split patterns use."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.folded = False
        self._depth = 0

    def parse(self) -> Node:
        """The whole pattern."""
        node = self._alternatives()
        if self.at < len(self.source):
            self._refuse("an unbalanced parenthesis")
        return node

    def _refuse(self, what: str) -> None:
        raise UnsupportedTokenizerError(
            f"the split pattern {self.source!r:.200} has {what} at position {self.at}, "
            "which cannot be decided character by character"
        )

    def _peek(self, text: str) -> bool:
        return self.source.startswith(text, self.at)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self.at += len(text)
            return True
        return False

    def _alternatives(self) -> Node:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Node("alt", tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.source) and not self._peek("|") and not self._peek(")"):
            part = self._repeat(self._single())
            parts += part.parts if part.kind == "cat" else (part,)
        self._check_folds(parts)
        return parts[0] if len(parts) == 1 else Node("cat", tuple(parts))

    def _check_folds(self, parts: list[Node]) -> None:
        """Refuse a folded text that is what one character folds to."""
        run = ""
        for part in parts:
            folded = part.text.startswith(FOLDED) and plain_character(part.text[len(FOLDED) : -1])
            run = run + folded if folded else ""
            for several in folds_of_several():
                if run.casefold().endswith(several):
                    self._refuse(f"the text {several!r} under (?i:…), which a single character matches too")

    def _repeat(self, node: Node) -> Node:
        while self.at < len(self.source):
            if self._take("*"):
                low, high = 0, None
            elif self._take("+"):
                low, high = 1, None
            elif self._take("?"):
                low, high = 0, 1
            elif self._peek("{") and (bounds := self._bounds()) is not None:
                low, high = bounds
                if high is not None and low > high:  # written so, {3,1} is the possessive {1,3}
                    node = self._possessive(node, high, low)
                    continue
                # In this syntax {n,m}+ is not possessive and {n}? not lazy: they repeat the repeat.
                mode: Literal["greedy", "lazy", "possessive"] = "lazy" if low != high and self._take("?") else "greedy"
                node = Node("repeat", (node,), low=low, high=high, mode=mode)
                continue
            else:
                break
            mode = "lazy" if self._take("?") else "possessive" if self._take("+") else "greedy"
            if mode == "possessive":
                node = self._possessive(node, low, high)
            else:
                node = Node("repeat", (node,), low=low, high=high, mode=mode)
        return node

    def _possessive(self, node: Node, low: int, high: int | None) -> Node:
        if node.kind != "atom":
            self._refuse("a possessive repeat of more than one class")
        return Node("repeat", (node,), low=low, high=high, mode="possessive")

    def _bounds(self) -> tuple[int, int | None] | None:
        close = self.source.find("}", self.at)
        low, comma, high = self.source[self.at + 1 : close].partition(",")
        if close < 0 or not (low + high).isdigit() or (low and not low.isdigit()) or (high and not high.isdigit()):
            return None
        self.at = close + 1
        first = int(low or 0)
        last = (int(high) if high else None) if comma else first
        return first, last

    def _single(self) -> Node:
        char = self.source[self.at]
        if char == "(":
            return self._group()
        if char == "[":
            return self._atom(self._bracket())
        self.at += 1
        if char == ".":
            return self._atom(".")
        if char == "^":
            return Node("begin")
        if char == "$":
            return Node("end")
        if char == "\\":
            return self._escape()
        return self._atom(quoted(char))

    def _atom(self, text: str) -> Node:
        return Node("atom", text=f"{FOLDED}{text})" if self.folded else text)

    def _escape(self) -> Node:
        start = self.at - 1
        char = self.source[self.at]
        self.at += 1
        if char in "pPx" and self._peek("{"):
            self.at = self.source.index("}", self.at) + 1
        elif char == "x":
            self.at += 2
        elif char == "u":
            self.at += 4
        elif char in "bB":
            return Node("word", negated=char == "B")
        elif char == "A":
            return Node("begin", text="A")
        elif char in "zZ":
            return Node("end", text=char)
        elif char.isalnum() and char not in "sSdDwWhHrntfveaN":
            self._refuse(f"\\{char}")
        return self._atom(self.source[start : self.at])

    def _bracket(self) -> str:
        start, depth = self.at, 0
        while self.at < len(self.source):
            char = self.source[self.at]
            self.at += 1
            if char == "\\":
                self.at += 1
            elif char == "[":
                if self._peek(":"):
                    self.at = self.source.index(":]", self.at) + 2
                    continue
                depth += 1
                self._take("^")
                self._take("]")
            elif char == "]":
                depth -= 1
                if not depth:
                    return self.source[start : self.at]
        self._refuse("an unclosed bracket")
        return ""

    def _group(self) -> Node:
        self.at += 1
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} groups inside one another")
        folded = self.folded
        kind: Literal["look", "behind", ""] = ""
        negated = False
        if self._take("?=") or self._take("?!"):
            kind, negated = "look", self.source[self.at - 1] == "!"
        elif self._take("?<=") or self._take("?<!"):
            kind, negated = "behind", self.source[self.at - 1] == "!"
        elif self._take("?>"):
            self._refuse("an atomic group")
        elif self._take("?i)"):
            self.folded = True
            rest = self._alternatives()
            self.folded = folded
            self._depth -= 1
            return rest
        elif self._take("?i:"):
            self.folded = True
        elif not self._take("?:") and self._peek("?"):
            self._refuse(f"the group {self.source[self.at - 1 : self.at + 4]!r}")
        node = self._alternatives()
        if not self._take(")"):
            self._refuse("an unclosed group")
        self.folded = folded
        self._depth -= 1
        return Node(kind, (node,), negated=negated) if kind else node
