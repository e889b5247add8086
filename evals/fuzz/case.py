"""A random tokenizer as a case: all that a comparison depends on, as plain JSON.

Rules
    The tokens of the 256 bytes are left out of the specification and filled in, so that a case can be read. Added
    tokens are added by the library, in order, as a user adds them; the last one ends a text.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

END: Final = "<end>"


def byte_characters() -> list[str]:
    """GPT-2's alphabet: the character that stands for each byte."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = itertools.count(0x100)
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


BYTES: Final = byte_characters()
FALLBACK: Final = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class Case:
    """A tokenizer, and what to try it on.

    Attributes:
        family: Which of the families it is of.
        spec: Its tokenizer.json, without added tokens and without the pieces that ``filled`` names.
        added: The added tokens, as the arguments of `tokenizers.AddedToken`.
        filled: Pieces of single bytes that the vocabulary has beside those of ``spec``: "bytes" (byte-level),
            "fallback", or none.
        alphabet: Characters that prefixes and goings-on are made of.
        goings: Characters that only go on.
        prefixes: What is asked about, each as Latin-1.
    """

    family: str
    spec: dict[str, Any]
    added: list[dict[str, Any]]
    filled: str
    alphabet: list[str]
    goings: list[str]
    prefixes: list[str] = field(default_factory=list)

    def build(self) -> Tokenizer:
        """The tokenizer; text never becomes a special token."""
        spec = copy.deepcopy(self.spec)
        vocabulary = spec["model"]["vocab"]
        for piece in {"bytes": BYTES, "fallback": FALLBACK, "": []}[self.filled]:
            vocabulary.setdefault(piece, 1 + max(vocabulary.values(), default=-1))
        # The library numbers a new token by the count of the others: where ids have holes, it has to be there already.
        vocabulary.setdefault(END, 1 + max(vocabulary.values(), default=-1))
        backend = Tokenizer.from_str(json.dumps(spec))
        for token in self.added:
            add = backend.add_special_tokens if token["special"] else backend.add_tokens
            add([AddedToken(**token)])
        backend.add_special_tokens([AddedToken(END, special=True, normalized=False)])
        backend.encode_special_tokens = True
        return backend

    def as_json(self) -> dict[str, Any]:
        """It as plain JSON; ``Case(**…)`` reads it."""
        return asdict(self)

    @property
    def hides_space(self) -> bool:
        """Whether the tokenizer puts a space in front of a text."""
        steps = [*steps_of(self.spec["normalizer"]), *steps_of(self.spec["pre_tokenizer"])]
        return any(
            step["type"] == "Prepend" or step.get("add_prefix_space") or step.get("prepend_scheme", "never") != "never"
            for step in steps
        )

    @property
    def prepends(self) -> bool:
        """Whether it is the normalizer that does so, for the added tokens too that are normalized."""
        return any(step["type"] == "Prepend" for step in steps_of(self.spec["normalizer"]))

    @property
    def asked(self) -> list[bytes]:
        """The prefixes as bytes."""
        return [prefix.encode("latin-1") for prefix in self.prefixes]


def steps_of(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The single steps of a normalizer or pre-tokenizer."""
    if step is not None and step["type"] == "Sequence":
        yield from itertools.chain(*map(steps_of, step.get("normalizers") or step.get("pretokenizers") or []))
    elif step is not None:
        yield step
