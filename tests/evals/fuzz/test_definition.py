"""The definition against examples worked out by hand, and against the tokenizers' own decoders."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

import evals.fuzz
from evals.fuzz.case import BYTES, Case
from evals.fuzz.characters import closed, completions, unfinished
from evals.fuzz.definition import Definition, Witnessed
from evals.fuzz.examples import example
from evals.fuzz.families import FAMILIES, drawn
from evals.fuzz.kept import corners_of
from evals.fuzz.model import HashLM, log_sum

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def spec_of(pieces: list[str], merges: list[list[str]], steps: list[dict[str, Any]], **model: Any) -> dict[str, Any]:
    """A tokenizer.json of some pieces and merges; byte-level where a step is."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": merges, "ignore_merges": False, **model
        },
    }  # fmt: skip


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An added token."""
    names = ("special", "normalized", "single_word", "lstrip", "rstrip")
    return {"content": content} | {name: flags.get(name, False) for name in names}


def ab_case(*prefixes: str, added: tuple[dict[str, Any], ...] = ()) -> Case:
    """Tokens a, b and ab, with one merge: what is written ab is never a and b."""
    spec = spec_of(["a", "b", "ab"], [["a", "b"]], [BYTE_LEVEL])
    return Case("by hand", spec, list(added), "", ["a", "b"], [], list(prefixes))


def test_the_three_tokens_by_hand() -> None:
    """P(a) is P([a]) + P([ab]), aa begins with [a, a] or [a, ab], ab is [ab] alone, and only whole texts end."""
    definition = Definition(ab_case())
    seen = Witnessed(definition, [b"", b"a", b"aa"])

    assert set(seen.cover[b"a"]) == {(0,), (2,)}
    assert set(seen.cover[b"aa"]) == {(0, 0), (0, 2)}
    assert set(seen.cover[b"ab"]) == {(2,)}
    assert seen.cover[b"aab"].keys() == {(0, 2)}
    assert seen.canonical == {b"": ((), False), b"a": ((0,), False), b"aa": ((0, 0), False)}
    assert not seen.kept


def test_what_is_never_emitted_has_no_witness() -> None:
    """[a, b] is written ab, which is encoded otherwise; [a, a] is found at once."""
    definition = Definition(ab_case())

    assert definition.witness((0, 1)) is None
    assert (definition.witness((0, 0)) or "").startswith("aa")


def test_a_split_that_looks_ahead() -> None:
    r"""GPT-2's \s+(?!\S): two spaces before a letter are two tokens, at the end they are one."""
    split = {"type": "Split", "pattern": {"Regex": r"\s+(?!\S)|\s|a"}, "behavior": "Isolated", "invert": False}
    spec = spec_of(["a", "Ġ", "ĠĠ"], [["Ġ", "Ġ"]], [split, BYTE_LEVEL])
    seen = Witnessed(Definition(Case("by hand", spec, [], "", ["a", " "], [])), [b" "])

    assert set(seen.cover[b" "]) == {(1,), (2,)}
    assert set(seen.cover[b" a"]) == {(1, 0)}
    assert set(seen.cover[b"  "]) == {(2,), (1, 1)}


def test_a_digit_of_four_bytes_is_thought_of() -> None:
    """A space and F0 are merged, but for a digit: Digits cuts before it."""
    digits = {"type": "Digits", "individual_digits": True}
    pieces = ["Ġ", BYTES[0xF0], "Ġ" + BYTES[0xF0]]
    definition = Definition(
        Case("by hand", spec_of(pieces, [pieces[:2]], [digits, BYTE_LEVEL]), [], "bytes", [" "], [])
    )
    letter, digit = definition.readings([" 𐌰", " 𝟎"])

    assert letter is not None
    assert digit is not None
    assert (letter.ids[0], digit.ids[:2]) == (2, (0, 1))
    assert definition.witness((0, 1)) is not None


def test_a_letter_whose_first_byte_is_shown_as_a_sign_is_thought_of() -> None:
    """Digits before a Hebrew letter are kept, as no word ends there. Of its bytes the first is shown as ×, and there one does."""
    steps = [
        {"type": "Split", "pattern": {"Regex": r"\d\b"}, "behavior": "Removed", "invert": False},
        BYTE_LEVEL,
        {"type": "Split", "pattern": {"Regex": r"\d{3}\b"}, "behavior": "Isolated", "invert": False},
    ]
    spec = spec_of(["1", "2", "22", "122"], [["2", "2"], ["1", "22"]], steps)
    definition = Definition(Case("by hand", spec, [], "bytes", ["1", "2"], []))
    (reading,) = definition.readings(["1222א"])

    assert reading is not None
    assert reading.ids[:3] == (0, 2, 1)
    assert definition.witness((0, 2)) is not None


def test_a_match_that_began_inside_a_text_is_ended() -> None:
    """The text "a  a" is cut behind its first a where AB$+1 follows, or the like, and else never."""
    step = {"type": "Split", "behavior": "Isolated", "invert": False}
    split = step | {"pattern": {"Regex": r"[^a]{2}a\p{Lu}{2}\p{S}{2}\p{N}"}}
    spec = spec_of(["a", "Ġ", "Ġa", "aĠ"], [["Ġ", "a"], ["a", "Ġ"]], [split, BYTE_LEVEL])
    definition = Definition(Case("by hand", spec, [], "bytes", ["a", " "], []))
    (reading,) = definition.readings(["a  aAB$+1"])

    assert reading is not None
    assert reading.ids[:3] == (0, 1, 2)
    assert definition.witness((0, 1, 2)) is not None
    assert definition.witness((3, 0)) is None


def test_a_match_is_ended_with_what_tokens_spell() -> None:
    """Five times the one mark that this vocabulary has, each with a hyphen."""
    step = {"type": "Split", "behavior": "Isolated", "invert": False}
    split = step | {"pattern": {"Regex": r"[^a]{2}a(?:\p{M}-){5}"}}
    bytes_ = [BYTES[byte] for byte in "-\u0327".encode()]
    spec = spec_of(["a", "Ġ", "Ġa", "aĠ", *bytes_], [["Ġ", "a"], ["a", "Ġ"]], [split, BYTE_LEVEL])

    text = Definition(Case("by hand", spec, [], "", ["a", " "], ["-", "\u0327"])).witness((0, 1, 2))
    assert (text or "").startswith("a  a" + "\u0327-" * 5)


def test_an_example_begins_as_it_is_asked_to() -> None:
    """With any of the ways that a pattern begins, and None where there is no such way."""
    pattern = r"(?:ab|a\s{1,2}|x)c|b(?=\d)"
    begun = {(example(pattern, Random(seed), "1 ", begun="a") or "").lower() for seed in range(30)}

    assert begun == {"abc", "a c", "a  c"}
    assert example(r"(?<=b)(?!c)a{2,}?b", Random(0), "", begun="aab") == "aab"
    assert example("ab|ac", Random(0), "", begun="b") is None
    assert example("ab|ac", Random(0), "", begun="abc") is None


def test_the_hidden_space_is_no_part_of_a_text() -> None:
    """Metaspace puts ▁ in front of a: its tokens are ▁ and a, and a text that begins with a space has none."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    spec = spec_of(["<unk>", "a", "▁"], [], [metaspace], unk_token="<unk>", byte_fallback=True)
    seen = Witnessed(Definition(Case("by hand", spec, [], "fallback", ["a", " "], [])), [b"a", b" a"])

    assert set(seen.cover[b"a"]) == {(2, 1)}
    assert b" a" not in seen.cover
    assert seen.canonical.keys() == {b"a"}


def test_text_that_is_lost_is_no_witness() -> None:
    """A partial vocabulary drops c without a word, so no text with a c shows anything."""
    case = ab_case()

    assert Definition(case).readings(["ab", "abc", "c"])[1:] == [None, None]


def test_special_tokens_stay_text() -> None:
    """A special token's spelling is read as text, and the token spells nothing."""
    definition = Definition(ab_case(added=(token("ba", special=True),)))
    (reading,) = definition.readings(["ba"])

    assert reading is not None
    assert reading.ids == (1, 0)
    assert definition.backend.token_to_id("ba") not in definition.token_bytes


def test_kept_corners_are_as_narrow_as_their_rows() -> None:
    """Beside white space a token with lstrip may be refused, and nowhere else."""
    case = ab_case(added=(token("b", lstrip=True),))

    def kept(text: str) -> bool:
        return any(corner(case, text) for corner in corners_of(case))

    assert kept("a b")
    assert not kept("a a")
    assert not kept("ab")


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_texts_decode_to_themselves(family: str) -> None:
    """What the definition calls canonical, the tokenizer's own decoder gives back (a prefix space of ByteLevel aside)."""
    checked = 0
    for definition in (Definition(drawn(family, 1, number)) for number in range(1, 6)):
        if definition.case.prepends and any(each["normalized"] for each in definition.case.added):
            continue  # the decoder leaves out the space that such a token is found with
        texts = definition.texts([prefix for prefix in definition.case.asked[:10] if len(prefix) < 20])
        for text, reading in list(zip(texts, definition.readings(texts), strict=True))[::7]:
            if reading is not None:
                decoded = definition.backend.decode(list(reading.ids), skip_special_tokens=False)
                assert decoded in ({text, " " + text} if family == "prefix-space" else {text})
                checked += 1

    assert checked > 50


def test_alphabets_are_closed() -> None:
    """é and è share their first byte, and the second bytes of both; a character of three bytes brings all its kin."""
    assert closed("aé") == ["a", "é"]
    assert set(closed("é\u0300")) == {"é", "\u0300", "À", "\u0329"}
    assert completions(b"\xc3")[0] in "Ãéèß"
    assert {c.encode()[:1] for c in completions(b"\xf0")} == {b"\xf0"}
    assert [unfinished(data) for data in (b"a", b"a\xe2\x80", "é".encode(), b"\xc3")] == [
        b"",
        b"\xe2\x80",
        b"",
        b"\xc3",
    ]
    assert BYTES[32] == "Ġ"
    assert BYTES[ord("a")] == "a"


def test_rows_of_the_model_are_rows() -> None:
    """They sum to 1, hold nothing for what is not allowed, and depend on every token before."""
    model = HashLM(None, 5, frozenset({4}), {0, 1, 2})

    assert math.isclose(log_sum(model.row((1, 2)).tolist()), 0, abs_tol=1e-12)
    assert model.row((1, 2))[3] == -math.inf
    assert len({float(model.row(ids)[0]) for ids in ((), (0,), (0, 0), (1, 0), (0, 1), (1, 0, 0))}) == 6
    assert math.isclose(model.logprob((1, 2)), model.row(())[1] + model.row((1,))[2])


def test_the_fuzzer_shares_nothing_with_the_verification() -> None:
    """It imports the public face of bytelm, and its errors, alone."""
    found = set()
    for path in Path(evals.fuzz.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module)

    assert {name for name in found if name and name.split(".")[0] in ("bytelm", "tests")} == {"bytelm", "bytelm.errors"}
