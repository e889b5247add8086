"""Normal forms, merges and splits together: sequences against the tokenizer's own encodings of all short texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bytelm.cover.cover import Cover
from bytelm.testing.tokenizers.definition import Ids
from bytelm.tokenizer.viability.boundary import Boundary
from bytelm.tokenizer.viability.viability import Viability
from tests.support.masks import one_by_one
from tests.support.oracle import Enumeration
from tests.support.strategies import SPELL

ACUTE, GRAVE, BELOW, RING = "\u0301", "\u0300", "\u0329", "\u0325"  # of class 230, 230, 220 and 220
LATER = b"\x84\x85\x92\xa1"
JAMO = "".join(bytes([0xE1, one, other]).decode() for one in LATER for other in LATER)
BYTES = "\0bytes"

# The alphabet (all that its bytes can spell), merges over it, and the pre-tokenizer's steps.
TOYS: dict[str, tuple[str, str, Sequence[tuple[bytes, bytes]], Sequence[str]]] = {
    # A lone CC needs a mark that is not merged; behind an acute accent the form allows only that one, which is.
    "a mark that is merged": ("NFC", f"e{ACUTE}{BELOW}", [(b"\xcc", b"\x81")], [BYTES]),
    "the same, decomposed": ("NFD", f"e{ACUTE}{BELOW}", [(b"\xcc", b"\x81")], [BYTES]),
    "a mark of another class": ("NFD", f"e{ACUTE}{BELOW}{RING}", [(b"\xcc", b"\xa9"), (b"\xa5", b"\xcc")], [BYTES]),
    # "ae" is cut where an accent follows, and e with an accent is composed.
    "an accent ahead": ("NFC", f"ae{ACUTE}", [(b"a", b"e")], [rf"a(?=e\x{{{ord(ACUTE):x}}})", BYTES]),
    "an accent ahead, decomposed": ("NFD", f"ae{ACUTE}", [(b"a", b"e")], [rf"a(?=e\x{{{ord(ACUTE):x}}})", BYTES]),
    "a mark ahead, of any kind": ("NFC", f"ae{ACUTE}{BELOW}", [(b"a", b"e")], [r"a(?=e\p{M})", BYTES]),
    "cuts inside characters": (
        "NFC",
        f"e{ACUTE}{BELOW}",
        [(b"\x81", b"\xcc")],
        [BYTES, f"{SPELL[0xCC]}(?={SPELL[0x81]})"],
    ),
    "a vowel in two parts": (
        "NFC",
        "\u09c7\u09d7\u09e7",
        [(b"\xe0", b"\xa7"), (b"\xe0\xa7", b"\x97"), (b"\xe0\xa7", b"\x87")],
        [BYTES],
    ),
    "jamo": ("NFC", JAMO, [(b"\xe1\x84", b"\x92"), (b"\xe1", b"\x84")], [BYTES]),
}


def toy(form: str, alphabet: str, merges: Sequence[tuple[bytes, bytes]], steps: Sequence[str]) -> Tokenizer:
    """A byte-level tokenizer over the bytes of an alphabet."""

    def spelled(data: bytes) -> str:
        return "".join(SPELL[byte] for byte in data)

    pieces = [SPELL[byte] for byte in sorted(set(alphabet.encode()))] + [spelled(a + b) for a, b in merges]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [(spelled(a), spelled(b)) for a, b in merges]))
    bytes_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made: list[Any] = [bytes_step if step == BYTES else pre_tokenizers.Split(Regex(step), "isolated") for step in steps]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(made)
    tokenizer.normalizer = normalizers.NFC() if form == "NFC" else normalizers.NFD()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def claimed(viability: Viability, *, size: int) -> set[Ids]:
    """The sequences of at most so many bytes that are said to be viable, by `extend`; `mask` has to say the same."""
    found = set[Ids]()
    order, spelled = viability.prefix_index.order.tolist(), viability.prefix_index.spelled
    grown: list[tuple[Ids, int, Boundary]] = [((), 0, viability.start())]
    while grown:
        ids, length, end = grown.pop()
        found.add(ids)
        assert viability.mask(end, 0, len(order)).tolist() == one_by_one(viability, end), ids
        for token, data in zip(order, spelled, strict=True):
            if (boundary := viability.extend(end, token)) is not None and length + len(data) <= size:
                grown.append(((*ids, token), length + len(data), boundary))
    return found


@pytest.mark.parametrize("name", TOYS)
def test_exactly_the_sequences_of_some_text_are_viable(name: str) -> None:
    """What merges and splits ask for and what the form allows have to go together."""
    form, alphabet, merges, steps = TOYS[name]
    tokenizer = toy(form, alphabet, merges, steps)
    everything = Enumeration(tokenizer, list(alphabet), 7 if len(alphabet) < 8 else 3)

    viable = {ids for ids, data in everything.viable.items() if len(data) <= 6}
    assert claimed(Viability.from_tokenizer(tokenizer), size=6) == viable


def test_many_marks_cost_as_much_as_they_are() -> None:
    """Thousands of one mark, and of two in turn: the boundaries come again."""
    viability = Viability.from_tokenizer(toy("NFD", f"a{ACUTE}{GRAVE}", [], [BYTES]))
    for run in (ACUTE, ACUTE + GRAVE):
        cover, seen = Cover.empty(viability), set[Boundary]()
        for byte in (run * 500).encode():
            cover = cover.advance(bytes([byte]))
            seen |= {node.boundary for node in cover.nodes}
        assert len(seen) < 12
