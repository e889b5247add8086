r"""Split patterns: a regular expression read into a small program over character classes.

Rules
    Only the *shape* of the pattern is read here: alternatives, repeats, look-around. An *atom* is one character class
    as it is written in the pattern (``\p{Lu}``, ``[^\r\n\p{L}]``, a letter under ``(?i:…)``); what it contains is
    asked of the tokenizer's own engine (char_classes.py).

Possessive and atomic parts
    A possessive repeat of one atom, ``X?+`` or ``X++``, takes what it can and gives nothing back: it is the greedy
    repeat with "and no X follows" after each shorter choice, which is how it is compiled. Other atomic parts are
    refused.

Source
    The priority-ordered program is Pike's (as in RE2); the syntax is Oniguruma's, which `tokenizers` uses.

Does not
    Run anything: see derivatives.py and automaton.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from bytelm.errors import UnsupportedTokenizerError

_PROGRAM_LIMIT: Final = 1 << 15  # instructions: a repeat is written out
_DEEPEST: Final = 64  # groups inside one another: each is a few calls of Python's stack

Op = Literal["atom", "split", "look", "behind", "begin", "end", "match"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step of a program.

    Attributes:
        op: What it does.
        to: Where to go on; several places in order of preference for ``split``.
        arg: Index of an atom, entry of a look-ahead's own program, or tag of a match.
        negated: Of a look-around.
    """

    op: Op
    to: tuple[int, ...] = ()
    arg: int = -1
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled split pattern.

    Attributes:
        source: The pattern, for messages.
        code: Instructions; ``start`` is the entry.
        atoms: The source text of each atom.
        looks_behind: The program asks for the character before.
        emits: Of added tokens: entry of those that become tokens, or -1.
        skips: Entry of those whose match stays text.
        opening: Entry of what a text with a hidden leading space has to begin with, or -1.
        reopening: The same after an added token.
    """

    source: str
    code: tuple[Instruction, ...]
    start: int
    atoms: tuple[str, ...]
    looks_behind: bool
    emits: int = -1
    skips: int = -1
    opening: int = -1
    reopening: int = -1


def compile_pattern(source: str, *, classes: str = "") -> Pattern:
    """Compile a split pattern.

    Args:
        source: The regular expression as the tokenizer has it.
        classes: ``digits`` or ``punctuation`` for the library's own one-character classes (then ``source`` is ignored).

    Raises:
        UnsupportedTokenizerError: A construct that cannot be decided character by character; the message names it.
    """
    compiler = Compiler(source)
    end = compiler.emit(Instruction("match", arg=0))
    start = compiler.atom(f"\0{classes}", end) if classes else compiler.compile(Parser(source).parse(), end)
    return Pattern(source or classes, tuple(compiler.code), start, tuple(compiler.atoms), compiler.looks_behind)


META: Final = r"\^$.|?*+()[]{}"


def quoted(character: str) -> str:
    """One character as an atom that means just it."""
    return "\\" + character if character in META else character


# --- the shape of a pattern ------------------------------------------------------------------------------------------


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
            parts.append(self._repeat(self._single()))
        return parts[0] if len(parts) == 1 else Node("cat", tuple(parts))

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
                # In this syntax {n,m}+ is not possessive and {n}? not lazy: they repeat the repeat.
                mode: Literal["greedy", "lazy", "possessive"] = "lazy" if low != high and self._take("?") else "greedy"
                node = Node("repeat", (node,), low=low, high=high, mode=mode)
                continue
            else:
                break
            mode = "lazy" if self._take("?") else "possessive" if self._take("+") else "greedy"
            if mode == "possessive" and node.kind != "atom":
                self._refuse("a possessive repeat of more than one class")
            node = Node("repeat", (node,), low=low, high=high, mode=mode)
        return node

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
        return Node("atom", text=f"(?i:{text})" if self.folded else text)

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


@dataclass
class Compiler:
    """Emits a program backwards: each part is compiled towards the place where it goes on."""

    source: str
    code: list[Instruction] = field(default_factory=list)
    atoms: list[str] = field(default_factory=list)
    looks_behind: bool = False

    def emit(self, instruction: Instruction) -> int:
        """Append an instruction; its number."""
        self.code.append(instruction)
        return len(self.code) - 1

    def atom(self, text: str, then: int) -> int:
        """Read one character of an atom."""
        if text not in self.atoms:
            self.atoms.append(text)
        return self.emit(Instruction("atom", (then,), self.atoms.index(text)))

    def compile(self, node: Node, then: int) -> int:
        """A part of a pattern, going on at ``then``; the number where it begins."""
        match node.kind:
            case "atom":
                return self.atom(node.text, then)
            case "cat":
                for part in reversed(node.parts):
                    then = self.compile(part, then)
                return then
            case "alt":
                return self.emit(Instruction("split", tuple(self.compile(part, then) for part in node.parts)))
            case "repeat":
                return self._repeat(node, then)
            case "look":
                inner = self.compile(node.parts[0], self.emit(Instruction("match")))
                return self.emit(Instruction("look", (then,), inner, negated=node.negated))
            case "behind":
                return self.behind(node.parts[0], then, negated=node.negated)
            case "word":
                return self._word(then, negated=node.negated)
            case "begin" if node.text != "A":
                first = self.emit(Instruction("begin", (then,)))
                after_line = self.behind(Node("atom", text="\\n"), then, negated=False)
                return self.emit(Instruction("split", (first, after_line)))
            case "begin":
                return self.emit(Instruction("begin", (then,)))
            case _:
                stop = self.emit(Instruction("end", (then,)))
                if node.text == "z":
                    return stop
                line = self.compile(Node("look", (Node("atom", text="\\n"),)), then)
                return self.emit(Instruction("split", (stop, line)))

    def _repeat(self, node: Node, then: int) -> int:
        part = node.parts[0]
        if max(node.low, node.high or 0) + len(self.code) > _PROGRAM_LIMIT:
            raise UnsupportedTokenizerError(
                f"the split pattern {self.source!r:.200} has repeats of more than {_PROGRAM_LIMIT} characters in all, "
                "which are not followed"
            )
        after = then
        if node.mode == "possessive":
            # Fewer repeats than possible are only right where no further one could follow.
            after = self.compile(Node("look", (part,), negated=True), then)
        prefer_more = node.mode != "lazy"
        if node.high is None:
            loop = self.emit(Instruction("split"))
            body = self.compile(part, loop)
            self.code[loop] = Instruction("split", (body, after) if prefer_more else (after, body))
            entry = loop
        else:
            entry = then
            for _ in range(node.high - node.low):
                body = self.compile(part, entry)
                entry = self.emit(Instruction("split", (body, after) if prefer_more else (after, body)))
        for _ in range(node.low):
            entry = self.compile(part, entry)
        return entry

    def behind(self, node: Node, then: int, *, negated: bool) -> int:
        """Look at the character before."""
        self.looks_behind = True
        if node.kind == "alt" and all(part.kind == "atom" for part in node.parts):
            if not negated:
                return self.emit(Instruction("split", tuple(self.behind(p, then, negated=False) for p in node.parts)))
            for part in node.parts:
                then = self.behind(part, then, negated=True)
            return then
        if node.kind == "begin":
            return self.emit(Instruction("begin", (then,), negated=negated))
        if node.kind != "atom":
            raise UnsupportedTokenizerError(
                f"the split pattern {self.source!r} looks behind by more than one character, which is not understood"
            )
        if node.text not in self.atoms:
            self.atoms.append(node.text)
        return self.emit(Instruction("behind", (then,), self.atoms.index(node.text), negated=negated))

    def _word(self, then: int, *, negated: bool) -> int:
        word = Node("atom", text="\\w")
        stays = self.behind(word, self.compile(Node("look", (word,), negated=not negated), then), negated=False)
        leaves = self.behind(word, self.compile(Node("look", (word,), negated=negated), then), negated=True)
        return self.emit(Instruction("split", (stays, leaves)))
