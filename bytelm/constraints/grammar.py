r"""Regular expressions, JSON schemas and grammars, by llguidance's matcher over single bytes.

Setting
    llguidance matches a grammar against the tokens of a vocabulary. Here the vocabulary is its own of bytes: token i
    is the byte i for i below 256, a few special tokens follow, and the last ends a text.

Rules
    A grammar is compiled once and kept; each text has a copy of the matcher.
    Regular expressions are those of Rust's crate ``regex``, without look-around and word boundaries. They match the
    whole text, so ``^`` and ``$`` at its ends say nothing. ``\d``, ``\w`` and ``\s`` are Unicode's, ``.`` is any
    character but a line end, and ``(?i)`` folds case by Unicode. They match characters, so no match ends inside one.
    JSON has no white space between its tokens but what ``separators`` says, so no run of it is without an end.
    Properties come in the order of the schema. What llguidance does not know of JSON schema is an error.
    A special token in a grammar has no bytes: what needs one cannot be written.

Failure
    What is no grammar, and what matches no text at all, is an error where the constraint is made. What turns out to
    lead nowhere, or exceeds llguidance's limits, is a `ConstraintError` at that place of a text.

Cost
    About 10 µs a mask; compiling a schema takes milliseconds.

Source
    https://github.com/guidance-ai/llguidance, whose docs/syntax.md and docs/json_schema.md describe the languages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool

from bytelm.arguments import Text, bytes_of, shown
from bytelm.constraints.constraint import Constraint, Of, checked_of, is_model
from bytelm.errors import ConstraintError, InvalidArgumentError, InvalidTypeError, MissingDependencyError
from bytelm.symbols import EOT, SYMBOLS

if TYPE_CHECKING:
    from llguidance import LLMatcher

KEPT: Final = 64  # compiled grammars
SHOWN: Final = 400  # characters of a message of llguidance's
COMPACT: Final = (",", ":")


@dataclass(frozen=True)
class Grammar(Constraint):
    """A constraint by llguidance. `regex`, `json_schema`, `json_object`, `lark` and `gbnf` make them.

    Attributes:
        grammar: In llguidance's own form.
        of: As in `Constraint`.
        said: Its name in errors.
    """

    grammar: str
    of: Of = "new"
    said: str = field(default="the grammar", compare=False)

    def state(self) -> GrammarState:
        """As in `Constraint`."""
        return GrammarState(_matcher(self.grammar).deep_copy(), self.said)


class GrammarState:
    """A text in a grammar, as `ConstraintState` has it.

    Args:
        matcher: Of llguidance; this state's own.
        said: What errors call the grammar.
    """

    def __init__(self, matcher: LLMatcher, said: str) -> None:
        self._matcher = matcher
        self._said = said

    def allowed(self) -> Bool[np.ndarray, "257"]:
        """As in `ConstraintState`.

        Raises:
            ConstraintError: The grammar leads nowhere, or exceeds a limit of llguidance's.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask = np.unpackbits(bits, count=SYMBOLS, bitorder="little").view(np.bool_)
        mask[EOT] = self._matcher.is_accepting()  # the bit there is of a special token
        return mask

    def advance(self, data: bytes) -> None:
        """As in `ConstraintState`."""
        if not self._matcher.consume_tokens([*data]):
            self._check()

    def copy(self) -> GrammarState:
        """As in `ConstraintState`."""
        return GrammarState(self._matcher.deep_copy(), self._said)

    def forced(self) -> bytes:
        """As in `ConstraintState`."""
        tokens = self._matcher.compute_ff_tokens()
        special = next((at for at, token in enumerate(tokens) if token >= EOT), len(tokens))
        return bytes(tokens[:special])

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"{self._said} allows no continuation there: {_message(self._matcher)}")


def regex(pattern: Text, *, of: Of = "new") -> Grammar:
    r"""Text that matches a regular expression as a whole.

    Args:
        pattern: In the syntax of Rust's crate ``regex``, without look-around.
        of: As in `Constraint`.

    Raises:
        InvalidArgumentError: It is not a regular expression, or it matches no text.
        MissingDependencyError: llguidance is not installed.

    >>> regex(r"[a-z]+@example\.org").state().forced()
    b''
    """
    text = _text(pattern, "pattern")
    return _made(lambda matcher: matcher.grammar_from_regex(text), f"the regular expression {shown(text)}", of)


def json_schema(
    schema: Mapping[str, Any] | Text | type, *, separators: tuple[str, str] = COMPACT, of: Of = "new"
) -> Grammar:
    """JSON that follows a schema.

    Args:
        schema: A schema, as a dict or as JSON; or a pydantic model.
        separators: The texts between two items and after a key, as for `json.dumps`. No other white space is written
            between tokens.
        of: As in `Constraint`.

    Raises:
        InvalidArgumentError: It is not a schema, no JSON can follow it, or llguidance does not know a keyword of it.
        InvalidTypeError: It is neither of these types.
        MissingDependencyError: llguidance is not installed.

    >>> whole = {"type": "integer", "minimum": 10, "maximum": 19}
    >>> json_schema({"properties": {"n": whole}, "required": ["n"], "type": "object"}).state().forced()
    b'{"n":1'
    """
    if is_model(schema):
        schema = schema.model_json_schema()  # type: ignore[union-attr] # as pydantic has it
    if isinstance(schema, str | bytes):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise InvalidArgumentError(f"schema is not JSON: {error}; got {shown(schema)}") from None
    if not isinstance(schema, Mapping):
        raise InvalidTypeError(f"schema must be a dict, JSON of one, or a pydantic model; got {shown(schema)}")
    given = dict(schema)
    item, key = _separators(separators)

    def compiled(matcher: type[LLMatcher]) -> str:
        return matcher.grammar_from_json_schema(
            given, overrides={"whitespace_flexible": False, "item_separator": item, "key_separator": key}
        )

    return _made(compiled, f"the schema {shown(given)}", of)


def json_object(*, separators: tuple[str, str] = COMPACT, of: Of = "new") -> Grammar:
    """Any JSON object.

    Args:
        separators: As for `json_schema`.
        of: As in `Constraint`.

    >>> json_object().state().forced()
    b'{'
    """
    return json_schema({"type": "object"}, separators=separators, of=of)


def lark(grammar: Text, *, of: Of = "new") -> Grammar:
    """Text of a grammar in llguidance's dialect of Lark.

    Args:
        grammar: The rules; the first is ``start``.
        of: As in `Constraint`.

    Raises:
        InvalidArgumentError: It is not such a grammar, or it describes no text.
        MissingDependencyError: llguidance is not installed.

    >>> int(lark('start: "(" start ")" | /[a-z]/').state().allowed().sum())
    27
    """
    text = _text(grammar, "grammar")
    return _made(lambda matcher: matcher.grammar_from_lark(text), f"the grammar {shown(text)}", of)


def gbnf(grammar: Text, *, of: Of = "new") -> Grammar:
    """Text of a grammar in llama.cpp's GBNF. llguidance converts it to Lark.

    It has the arguments and errors of `lark`.

    >>> int(gbnf('root ::= "yes" | "no"').state().allowed().sum())
    2
    """
    text = _text(grammar, "grammar")

    def compiled(matcher: type[LLMatcher]) -> str:
        del matcher
        from llguidance import grammar_from

        return grammar_from("gbnf", text)

    return _made(compiled, f"the grammar {shown(text)}", of)


def _text(given: object, name: str) -> str:
    """An argument that is text."""
    try:
        return bytes_of(given, name).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{name} must be UTF-8: {error}") from None


def _separators(given: object) -> tuple[str, str]:
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(each, str) for each in given):
        item, key = given
        if item.strip(" ") == "," and key.strip(" ") == ":":
            return item, key
    raise InvalidArgumentError(
        f"separators must be a comma and a colon, with or without spaces, such as (', ', ': '); got {shown(given)}"
    )


def _made(compiled: Callable[[type[LLMatcher]], str], said: str, of: Of) -> Grammar:
    """A grammar that was seen to describe some text."""
    checked_of(of)
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise MissingDependencyError(
            f"constraints need llguidance ({error}): pip install 'llguidance>=1.9,<2', or in the checkout "
            "pip install '.[constraints]'; bytelm.constraints.choice needs none",
            name="llguidance",
        ) from error
    try:
        grammar = Grammar(compiled(LLMatcher), of, said)
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(f"{said} cannot be used: {error}") from None
    matcher = _matcher(grammar.grammar)
    if matcher.is_error():
        raise InvalidArgumentError(f"{said} cannot be used: {_message(matcher)}")
    try:
        possible = grammar.state().allowed().any()
    except ConstraintError as error:
        raise InvalidArgumentError(f"{said} describes no text, or none within llguidance's limits: {error}") from None
    if not possible:
        raise InvalidArgumentError(f"{said} describes no text")
    return grammar


@lru_cache(KEPT)
def _matcher(grammar: str) -> LLMatcher:
    """A matcher at the beginning of a text, to be copied."""
    from llguidance import LLMatcher

    return LLMatcher(_tokenizer(), grammar, log_level=0)


@lru_cache(1)
def _tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _message(matcher: LLMatcher) -> str:
    """What llguidance says of an error, without the state that it appends."""
    return " ".join(matcher.get_error().partition("<state>")[0].split())[:SHOWN]
