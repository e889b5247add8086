"""Added tokens as a pattern: matched in the text before anything else, the longest at the leftmost place.

Rules
    A special token's spelling is matched too, and stays text: it only keeps other added tokens from beginning inside
    it. A single-word token beside a word character stays text as well. A token that strips white space loses it, so
    next to white space its match is *lost*: such a text does not come back from decoding, and has no canonical
    sequence. A token whose bytes are not those of its spelling is lost wherever it matches.
    A normalizer that hides a space in front of a text (Prepend) does so before it looks for the tokens that are
    normalized. Their own spelling is normalized too, so the space is part of it: ``ab`` spells `` ab``, and stands
    behind a space or first in a text alone. In all other cases a text that begins with an added token gets no hidden
    space. With the space such a token has a second spelling, which stands first in a text alone
    (tokenizer/prefix_index.py): so all texts begin with the space, as bytelm reads them.
    Some pre-tokenizers hide a space in front of what follows an added token too. That is not part of the text, so what
    follows has to begin with a space of its own, or with another added token: the last level with added tokens sees to
    that, as it alone sees what is text.

Source
    The behaviour is that of `tokenizers`' added vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from bytelm.errors import InvalidArgumentError
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.split.automaton import LOST, SKIP
from bytelm.tokenizer.split.char_classes import WORD
from bytelm.tokenizer.split.regex import Compiler, Instruction, Pattern
from bytelm.tokenizer.split.syntax import Node, Parser, quoted
from bytelm.tokenizer.vocab import SPACE_MARK, AddedToken, Vocab

_NEVER: Final = r"[^\s\S]"  # a pattern that matches nothing


def added_pattern(
    vocab: Vocab, group: Sequence[AddedToken], *, normalized: bool, last: bool
) -> tuple[Pattern, frozenset[int]]:
    """The pattern of some added tokens, and the ids that its matches become.

    Args:
        vocab: The vocabulary they belong to.
        group: Those matched before normalization, or those matched after it.
        normalized: Which of the two.
        last: No other level of added tokens is below.
    """
    spellings: dict[str, Spelling] = {}
    for token in group:
        content = _matched(vocab, token)
        if token.special:
            spellings[content] = Spelling(SKIP)
        elif vocab.token_bytes[token.id] != spelled_in_text(vocab, token):
            spellings[content] = Spelling(LOST, token.single_word)
        else:
            spellings[content] = Spelling(token.id, token.single_word, token.lstrip, token.rstrip)
    emitted = frozenset(spelling.tag for spelling in spellings.values() if spelling.tag >= 0)
    opening, reopening = vocab.opening, vocab.reopening
    if vocab.prepends and not normalized:
        opening, reopening = SPACE_MARK, _NEVER  # the text after a token gets a space too, which is not hidden
    elif not last:
        opening, reopening = opening and SPACE_MARK, ""
    if not (normalized and vocab.marks):  # this level sees the text before spaces become ▁
        opening, reopening = opening.replace(SPACE_MARK, " "), reopening.replace(SPACE_MARK, " ")
    return literals_pattern(spellings, opening=opening, reopening=reopening), emitted


def check_text_tokens(vocab: Vocab, text_tokens: Collection[str], eot_ids: Collection[int]) -> None:
    """Refuse a text token that ends a text.

    Raises:
        InvalidArgumentError: There is one.
    """
    for token in vocab.added:
        if token.content in text_tokens and token.id in eot_ids:
            raise InvalidArgumentError(
                f"{token.content!r} cannot be a text token: its id {token.id} ends a text; give eot_ids= without it"
            )


def spelled_in_text(vocab: Vocab, token: AddedToken) -> bytes:
    """The bytes of a text in which an added token is found."""
    content = _matched(vocab, token)
    return (content.replace(SPACE_MARK, " ") if token.normalized and vocab.marks else content).encode()


def _matched(vocab: Vocab, token: AddedToken) -> str:
    """What is looked for, in a text that is normalized where the token is."""
    if token.normalized and vocab.source.normalizer is not None:
        return str(vocab.source.normalizer.normalize_str(token.content))
    return token.content


@dataclass(frozen=True)
class AddedTexts:
    """The bytes of added tokens, as texts that may or may not be such a token.

    Attributes:
        emitted: Of those that text becomes.
        special: Of the special ones, which stay text.
        single_words: Some are tokens only beside certain characters.
    """

    emitted: tuple[bytes, ...]
    special: PrefixIndex
    single_words: bool

    @cached_property
    def beginnings(self) -> frozenset[bytes]:
        """What those of `emitted` begin with, not the whole of them."""
        return frozenset(data[:end] for data in self.emitted for end in range(1, len(data)))


def added_texts(vocab: Vocab, emitted: Iterable[int]) -> AddedTexts:
    """The bytes of a tokenizer's added tokens, those among them that text becomes given by their ids."""
    special = [spelled_in_text(vocab, token) for token in vocab.added if token.special]
    texts = tuple(vocab.token_bytes[token] or b"" for token in emitted)
    return AddedTexts(texts, PrefixIndex(special), any(token.single_word for token in vocab.added))


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an added token is matched: the tag of its match, and the flags that depend on its neighbours."""

    tag: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


def literals_pattern(literals: dict[str, Spelling], *, opening: str = "", reopening: str = "") -> Pattern:
    """A program that matches the longest of some literal strings, as the matching of added tokens does.

    Args:
        literals: The spellings.
        opening: A pattern that a text has to begin with, where its first character is a space that the tokenizer hides.
        reopening: The same for the text after an added token.
    """
    compiler = Compiler("added tokens")
    word, space = Node("atom", text=WORD), Node("atom", text="\\s")

    def stop(spelling: Spelling, before: str) -> int:
        found = compiler.emit(Instruction("match", arg=spelling.tag))
        if spelling.lstrip and before == "space":
            found = compiler.emit(Instruction("match", arg=LOST))
        if spelling.rstrip:
            swallows = compiler.compile(Node("look", (space,)), compiler.emit(Instruction("match", arg=LOST)))
            found = compiler.emit(Instruction("split", (swallows, found)))
        if spelling.single_word:
            passed = compiler.emit(Instruction("match", arg=SKIP))
            if before == "word":
                return passed
            found = compiler.emit(Instruction("split", (compiler.compile(Node("look", (word,)), passed), found)))
        return found

    def build(group: dict[str, Spelling], before: str) -> int:
        ways: dict[str, list[int]] = {}  # where to go on after each beginning of a literal
        at = -1
        for begun in sorted({literal[:end] for literal in group for end in range(len(literal) + 1)}, key=len)[::-1]:
            found = ways.pop(begun, [])  # longer ones come first
            if begun in group:
                found.append(stop(group[begun], before))
            at = found[0] if len(found) == 1 else compiler.emit(Instruction("split", tuple(found)))
            if begun:
                ways.setdefault(begun[:-1], []).append(compiler.atom(quoted(begun[-1]), at))
        return at

    def entry(group: dict[str, Spelling]) -> int:
        if not any(s.single_word or s.lstrip for s in group.values()):
            return build(group, "") if group else compiler.emit(Instruction("split"))
        after_word = compiler.behind(word, build(group, "word"), negated=False)
        after_space = compiler.behind(space, build(group, "space"), negated=False)
        neither = compiler.behind(word, compiler.behind(space, build(group, ""), negated=True), negated=True)
        return compiler.emit(Instruction("split", (after_word, after_space, neither)))

    entries = [entry(literals)]
    entries += [entry({k: s for k, s in literals.items() if s.tag >= 0})]
    entries += [entry({k: s for k, s in literals.items() if s.tag == SKIP or s.single_word})]
    end = compiler.emit(Instruction("match"))
    entries += [compiler.compile(Parser(begun).parse(), end) if begun else -1 for begun in (opening, reopening)]
    start, *others = entries
    return Pattern("added tokens", tuple(compiler.code), start, tuple(compiler.atoms), compiler.looks_behind, *others)
