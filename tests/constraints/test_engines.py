r"""Masks and forced runs are those of the set of texts that a description means.

The oracle: all texts over a small alphabet up to a length, of which Python's `re` says which match; a byte is allowed
iff one of those begins with what was written and it. For JSON, `json` and jsonschema read what was written.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pydantic
import pytest

from bytelm import ByteLM, TableLM, constraints
from bytelm.constraints import Constraint, ConstraintState, Of
from bytelm.errors import BytelmError, ConstraintError, InvalidArgumentError, InvalidTypeError, MissingDependencyError
from bytelm.sampling.constrained import Binding
from bytelm.symbols import EOT, SYMBOLS
from tests.support.languages import LanguageState, forced_by
from tests.support.oracle import texts_of
from tests.support.tiny import default_tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A byte model over a tiny tokenizer."""
    return ByteLM(TableLM(default_tokenizer(), seed=5, order=2))


# ---- against a set of texts


def random_regex(random: np.random.Generator, depth: int = 3) -> str:
    """A regular expression over a, b and é, which both dialects read alike."""
    if depth == 0:
        return str(random.choice(["a", "b", "é", "[ab]", "[^a]", "."]))
    left, right = (random_regex(random, depth - 1) for _ in range(2))
    return str(random.choice([f"{left}{right}", f"({left}|{right})", f"({left})?{right}", f"({left}){{1,2}}", left]))


def reachable(texts: frozenset[bytes], longest: int) -> list[bytes]:
    """What may be written of texts, up to a length."""
    return sorted({text[:size] for text in texts for size in range(min(len(text), longest) + 1)})


def check_state(state: ConstraintState, texts: frozenset[bytes], written: bytes) -> None:
    expected = LanguageState(texts)
    expected.advance(written)
    forced = state.forced()
    np.testing.assert_array_equal(np.flatnonzero(state.allowed()), np.flatnonzero(expected.allowed()))
    assert forced_by(texts, written).startswith(forced)
    assert forced or not forced_by(texts, written)


def test_regular_expressions_are_what_they_match() -> None:
    """Forty random ones over a three-letter alphabet, one letter of which has two bytes: every mask on the way."""
    random = np.random.default_rng(0)
    every = texts_of("abé", 8)
    for _ in range(40):
        pattern = random_regex(random)
        compiled = re.compile(pattern.replace("[^a]", "[bé]").replace(".", "[abé]"))
        texts = frozenset(text.encode() for text in every if compiled.fullmatch(text))
        made = constraints.regex(pattern.replace("[^a]", "[bé]").replace(".", "[abé]"))
        for written in reachable(texts, 4):
            state = made.state()
            state.advance(written)
            check_state(state, texts, written)


def test_choices_are_themselves() -> None:
    """At every place of random lists, moved along in pieces of any size, and of a copy."""
    random = np.random.default_rng(1)
    for _ in range(60):
        options = random.choice(
            ["", "a", "ab", "abc", "b", "ba", "é", "è", "aé", "abcd", "bbbb"], random.integers(1, 6)
        )
        texts = frozenset(option.encode() for option in options.tolist())
        made = constraints.choice(options.tolist())
        for written in reachable(texts, 9):
            state, cut = made.state(), int(random.integers(0, len(written) + 1))
            state.advance(written[:cut])
            twin = state.copy()
            twin.advance(written[cut:])
            check_state(twin, texts, written)
            check_state(state, texts, written[:cut])


def test_a_grammar_nests() -> None:
    """Lark and GBNF describe the same language, which no regular expression does."""
    texts = frozenset(f"{'(' * size}{text}{')' * size}".encode() for size in range(6) for text in ("a", "b"))
    for made in (
        constraints.lark('start: "(" start ")" | /[ab]/'),
        constraints.gbnf('root ::= "(" root ")" | [ab]'),
    ):
        for written in reachable(texts, 5):
            state = made.state()
            state.advance(written)
            if written.count(b"(") < 5:
                check_state(state, texts, written)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"\d", "1٣", "a"),  # Unicode's digits
        (r"\w", "éя_", "-"),
        (r"\s", " \u2003", "a"),
        (r"(?i)é", "éÉ", "e"),
        (r"(?i)straße", ["STRAßE"], ["STRASSE"]),  # one letter folds to one
        (r"^ab$", ["ab"], ["abc"]),
        (r"a.b", ["axb", "aéb"], ["a\nb"]),
    ],
)
def test_the_dialect(pattern: str, yes: Any, no: Any) -> None:
    """What docs/constraints.md says of classes, folding and anchors."""

    def matches(text: str) -> bool:
        binding, data = Binding(constraints.regex(pattern), b""), text.encode()
        if binding.cut(data) != data:
            return False
        for byte in data:
            binding.advance(byte)
        return bool(binding.allowed()[EOT])

    assert all(matches(text) for text in yes)
    assert not any(matches(text) for text in no)


# ---- JSON


def written_by(made: Constraint, random: np.random.Generator, most: int = 400) -> bytes | None:
    """A text that goes on by chance, each allowed symbol as likely as any; None where it is not over in time."""
    binding = Binding(made, b"")
    data = b""
    while len(data) < most:
        mask = binding.allowed()
        symbol = int(random.choice(np.flatnonzero(mask)))
        if symbol == EOT:
            return data
        binding.advance(symbol)
        data += bytes([symbol])
        if binding.done:
            return data
    return None


def test_what_is_written_is_json_of_the_schema() -> None:
    """Random walks through schemas, read by jsonschema; no white space but that of the separators."""

    class Point(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        x: int
        label: str = pydantic.Field(max_length=3)
        kind: list[bool]

    schemas: list[Any] = [
        PERSON,
        json.dumps({"type": "array", "items": {"type": ["number", "null"]}, "maxItems": 3}),
        {"enum": ["a", 1, None, "é"]},
        Point,
    ]
    random = np.random.default_rng(0)
    for schema in schemas:
        plain = (
            Point.model_json_schema() if schema is Point else json.loads(schema) if isinstance(schema, str) else schema
        )
        for separators in ((",", ":"), (", ", ": ")):
            made = constraints.json_schema(schema, separators=separators)
            texts = [text for _ in range(30) if (text := written_by(made, random)) is not None]
            for text in texts:
                value = json.loads(text)
                jsonschema.validate(value, plain)
                tokens = re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', text)
                assert (b" " in tokens.replace(b", ", b"").replace(b": ", b"")) is False
                assert b"\n" not in tokens
            assert len(texts) > 5


def test_a_schema_forces_what_it_says() -> None:
    """Names of properties, quotes and separators come without a choice."""
    state = constraints.json_schema(PERSON).state()
    runs = []
    for value in (b'Ann"', b"3,", b'Oslo"'):
        runs.append(state.forced())
        state.advance(runs[-1] + value)

    assert runs == [b'{"name":"', b',"age":', b'"city":"']
    assert state.forced() == b"}"
    assert constraints.json_schema(PERSON, separators=(", ", ": ")).state().forced() == b'{"name": "'
    assert constraints.json_object().state().forced() == b"{"


# ---- characters


class Anything(Constraint):
    """All bytes, and an end anywhere: the loosest engine of a user's own."""

    def state(self) -> Any:
        return LanguageState.__new__(AnyState)


class AnyState(LanguageState):
    def allowed(self) -> np.ndarray:
        return np.ones(SYMBOLS, np.bool_)

    def advance(self, data: bytes) -> None:
        pass


def test_no_text_ends_inside_a_character() -> None:
    """Whatever an engine says: at each byte of characters of two to four, and of those that the prefix begins."""
    for text in ("é", "€", "😀"):
        data = text.encode()
        for cut in range(1, len(data) + 1):
            inside = cut < len(data)
            begun = Binding(Anything(), data[:cut])
            drawn = Binding(Anything(), b"x")
            for byte in data[:cut]:
                drawn.advance(byte)
            assert begun.allowed()[EOT] == drawn.allowed()[EOT] == (not inside)


def test_a_character_that_the_prefix_begins_is_the_first() -> None:
    """A constraint is on `Completion.text`, which begins with it; one that cannot begin so is violated."""
    begun = Binding(constraints.regex("é[a-z]"), "café".encode()[:-1])

    assert begun.forced() == "é".encode()[1:]
    with pytest.raises(ConstraintError, match="ends inside a character"):
        Binding(constraints.regex("[a-z]+"), "é".encode()[:1])


# ---- other engines


def test_a_users_own_engine(lm: ByteLM) -> None:
    """Four methods are an engine: the one in the module's own documentation."""
    from bytelm.constraints import constraint

    assert "class DigitsState" in str(constraint.__doc__)

    class Even(Constraint):
        def state(self) -> Any:
            return EvenState()

    class EvenState:
        length = 0

        def allowed(self) -> Any:
            return [
                48 <= symbol <= 57 or (symbol == EOT and self.length % 2 == 0 and self.length > 0)
                for symbol in range(SYMBOLS)
            ]

        def advance(self, data: bytes) -> None:
            self.length += len(data)

        def copy(self) -> Any:
            twin = EvenState()
            twin.length = self.length
            return twin

        def forced(self) -> bytes:
            return b""

    done = lm.sample("the ", constraint=Even(), max_bytes=9, seed=1, n=8)
    assert isinstance(done, list)
    for each in done:
        assert re.fullmatch(rb"\d+", each.bytes)
        assert len(each.bytes) % 2 == 0 or each.finish_reason == "length"


def test_outlines_core_is_an_engine(lm: ByteLM) -> None:
    """Its index over the 256 bytes and an end, behind the four methods, allows what llguidance allows."""
    outlines = pytest.importorskip("outlines_core")
    vocabulary = outlines.Vocabulary(EOT, {bytes([byte]): [byte] for byte in range(256)})

    class Indexed(Constraint):
        def __init__(self, pattern: str) -> None:
            self.index = outlines.Index(pattern, vocabulary)

        def state(self) -> Any:
            return IndexedState(self.index, self.index.get_initial_state())

    class IndexedState:
        def __init__(self, index: Any, at: int) -> None:
            self.index, self.at = index, at

        def allowed(self) -> Any:
            mask = np.zeros(SYMBOLS, np.bool_)
            mask[[symbol for symbol in self.index.get_allowed_tokens(self.at) or [] if symbol < EOT]] = True
            mask[EOT] = self.index.is_final_state(self.at)
            return mask

        def advance(self, data: bytes) -> None:
            for byte in data:
                self.at = self.index.get_next_state(self.at, byte)

        def copy(self) -> Any:
            return IndexedState(self.index, self.at)

        def forced(self) -> bytes:
            return b""

    pattern = r"(the|fox)-[0-9]{2}(a|é)"
    for seed in range(6):
        texts = {
            lm.sample("a ", constraint=made, seed=seed).text for made in (Indexed(pattern), constraints.regex(pattern))
        }
        assert len(texts) == 1
        assert re.fullmatch(pattern, texts.pop())


# ---- descriptions


def described() -> Iterator[Constraint]:
    ofs: tuple[Of, ...] = ("new", "text")
    for of in ofs:
        yield constraints.regex("a+", of=of)
        yield constraints.json_schema(PERSON, of=of)
        yield constraints.choice(["a", "b"], of=of)


def test_the_chapter_is_there_without_a_further_import() -> None:
    """After ``import bytelm`` alone."""
    code = "import bytelm; print(bytelm.constraints.choice(['a']).options)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout == "(b'a',)\n"


def test_constraints_are_values() -> None:
    """Equal where they say the same, found in sets, and the same behind a process."""
    for one, two in zip(described(), described(), strict=True):
        assert one == two
        sent = pickle.loads(pickle.dumps(one))  # noqa: S301 - by ourselves
        assert sent == one
        assert sent.state().forced() == one.state().forced()
    assert len({*described()}) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constraints.regex("["), "unclosed character class"),
        (lambda: constraints.regex("a(?=b)"), "look-around"),
        (lambda: constraints.regex(r"\bfoo"), "lookarounds not supported"),
        (lambda: constraints.regex(r"[a&&b]"), "describes no text"),
        (lambda: constraints.regex(typing.cast("Any", 3)), "pattern must be str"),
        (lambda: constraints.regex("a", of=typing.cast("Any", "old")), "of is one of new, text"),
        (lambda: constraints.json_schema({"type": "strin"}), "Invalid type: strin"),
        (lambda: constraints.json_schema("{"), "schema is not JSON"),
        (lambda: constraints.json_schema("[]"), "schema must be a dict"),
        (lambda: constraints.json_schema(PERSON, separators=(";", ":")), "separators must be a comma and a colon"),
        (lambda: constraints.json_schema({"type": "string", "minLength": 3, "maxLength": 2}), "Unsatisfiable"),
        (lambda: constraints.json_schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "Unsatisfiable"),
        (lambda: constraints.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: constraints.json_schema({"enum": [{1}]}), "cannot be used"),
        (lambda: constraints.lark('start: "a" b'), "unknown name"),
        (lambda: constraints.lark("start: <|user|>"), "describes no text"),
        (lambda: constraints.gbnf("root = x"), "Expected ::="),
        (lambda: constraints.choice([]), "nothing to choose from"),
        (lambda: constraints.choice("yes"), "list of texts"),
        (lambda: constraints.choice([b"\xc3"]), "UTF-8"),
    ],
    ids=range(20),
)
def test_what_is_no_constraint(make: Any, message: str, caller_errs: None) -> None:
    """Says so where it is made, with what was given and what the engine says, and names no state of the engine's."""
    with pytest.raises((InvalidArgumentError, InvalidTypeError), match=re.escape(message)) as error:
        make()
    assert "<state>" not in str(error.value)


def test_without_llguidance(monkeypatch: pytest.MonkeyPatch, lm: ByteLM) -> None:
    """The error names what to install; choices and engines of one's own need none."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    makers: list[Any] = [
        lambda: constraints.regex("a"),
        constraints.json_object,
        lambda: constraints.lark("start: /a/"),
    ]
    for make in makers:
        with pytest.raises(MissingDependencyError, match=r"pip install '\.\[constraints\]'") as error:
            make()
        assert error.value.name == "llguidance"
    assert lm.sample("the ", constraint=constraints.choice(["fox"])).text == "fox"


def test_an_engine_with_masks_of_another_size(lm: ByteLM) -> None:
    """Is told how many symbols there are."""

    class Short(AnyState):
        def allowed(self) -> Any:
            return np.ones(256, np.bool_)

    class Made(Constraint):
        def state(self) -> Any:
            return Short.__new__(Short)

    with pytest.raises(BytelmError, match="257 symbols"):
        lm.sample("the ", constraint=Made(), seed=1)
