r"""Split patterns: a regular expression read into a small program over character classes.

Rules
    The shape of the pattern is read by syntax.py. Here each part becomes instructions that lead to those of the part
    after it.

Possessive and atomic parts
    A possessive repeat of one atom, ``X?+`` or ``X++``, takes what it can and gives nothing back: it is the greedy
    repeat with "and no X follows" after each shorter choice, which is how it is compiled. Other atomic parts are
    refused.

Source
    The priority-ordered program is Pike's (as in RE2).

Does not
    Run anything: see derivatives.py and automaton.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from bytelm.errors import UnsupportedTokenizerError
from bytelm.tokenizer.split.empty_turns import ways_agree
from bytelm.tokenizer.split.syntax import Node, Parser

_PROGRAM_LIMIT: Final = 1 << 15  # instructions: a repeat is written out

Op = Literal["atom", "split", "look", "behind", "begin", "end", "match"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step of a program.

    Attributes:
        op: What it does.
        to: Where to go on; several places in order of preference for ``split``.
        arg: Index of an atom, entry of a look-ahead's own program, tag of a match, or of a ``split`` that begins a
            loop, where to go on behind it.
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
            case "begin":
                self.looks_behind = True
                first = self.emit(Instruction("begin", (then,)))
                if node.text == "A":
                    return first
                # No line begins where the text ends.
                goes_on = self.compile(Node("look", (Node("end", text="z"),), negated=True), then)
                after_line = self.behind(Node("atom", text="\\n"), goes_on, negated=False)
                return self.emit(Instruction("split", (first, after_line)))
            case _:
                stop = self.emit(Instruction("end", (then,)))
                if node.text == "z":
                    return stop
                last = (Node("end", text="z"),) if node.text == "Z" else ()
                line = self.compile(Node("look", (Node("cat", (Node("atom", text="\\n"), *last)),)), then)
                return self.emit(Instruction("split", (stop, line)))

    def _repeat(self, node: Node, then: int) -> int:
        part = node.parts[0]
        if max(node.low, node.high or 0) + len(self.code) > _PROGRAM_LIMIT:
            raise UnsupportedTokenizerError(
                f"the split pattern {self.source!r:.200} has repeats of more than {_PROGRAM_LIMIT} characters in all, "
                "which are not followed"
            )
        if not ways_agree(node):
            most = "any number of" if node.high is None else node.high
            raise UnsupportedTokenizerError(
                f"the split pattern {self.source!r:.200} has a part that can match nothing, repeated {node.low} to "
                f"{most} times: whether an empty turn counts or ends the repeat depends on the size of the compiled "
                "pattern, which is not followed"
            )
        after = then
        if node.mode == "possessive":
            # Fewer repeats than possible are only right where no further one could follow.
            after = self.compile(Node("look", (part,), negated=True), then)
        prefer_more = node.mode != "lazy"
        if node.high is None:
            loop = self.emit(Instruction("split"))
            body = self.compile(part, loop)
            self.code[loop] = Instruction("split", (body, after) if prefer_more else (after, body), after)
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
        if node.kind == "begin":  # no character is read: what holds behind this place holds at it
            return self.compile(Node("look", (node,), negated=negated), then)
        if node.kind != "atom":
            raise UnsupportedTokenizerError(
                f"the split pattern {self.source!r:.200} looks behind by more than one character, which is not "
                "supported"
            )
        if node.text not in self.atoms:
            self.atoms.append(node.text)
        return self.emit(Instruction("behind", (then,), self.atoms.index(node.text), negated=negated))

    def _word(self, then: int, *, negated: bool) -> int:
        word = Node("atom", text="\\w")
        stays = self.behind(word, self.compile(Node("look", (word,), negated=not negated), then), negated=False)
        leaves = self.behind(word, self.compile(Node("look", (word,), negated=negated), then), negated=True)
        return self.emit(Instruction("split", (stays, leaves)))
