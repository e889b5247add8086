"""What a tokenizer says of texts, by the definition.

Rules
    enc(w) is what the tokenizer emits for w with no special token added and none parsed out of the text. A token spells
    its bytes: through the byte-level alphabet, or ▁ as a space and <0xXX> as a byte. Special tokens and the unknown
    token spell nothing. A space that the tokenizer puts in front of a text is not part of the text.
    w is *canonical* if the tokens of enc(w) spell w. A sequence u is *viable* if enc(w) begins with u for a canonical w,
    which is its *witness*. cover(x) holds the viable sequences whose bytes begin with x and whose last token holds the
    last byte of x.
    `Witnessed` reads many texts and keeps what they witness. It finds no sequence that is not viable. A viable sequence
    that it lacks may have a witness elsewhere: `Definition.witness` looks for one.
Cost
    One encoding a text, and a few dictionary entries for each.
"""

from __future__ import annotations

import itertools
import time
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Final

from evals.fuzz.case import BYTES, END, FALLBACK, Case, steps_of
from evals.fuzz.characters import EVERY, KINDS, closed, completions, unfinished
from evals.fuzz.examples import example
from evals.fuzz.kept import corners_of
from evals.fuzz.model import Ids

SEARCHED: Final = 20_000
RUNS: Final = (10, 16, 20, 24, 50, 100, 200, 400)
RUN_SECONDS: Final = 0.05
MATCHES: Final = 1_000  # of each split pattern
BEGUN: Final = 50  # of each split pattern, for each end of a text that one may have begun in
BEGUN_SIZE: Final = 8  # characters
SEARCHED_BYTES: Final = 400_000  # about so many characters, where prefixes are long


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens of one canonical text, and how many of its bytes the first 1, 2, … of them spell."""

    ids: Ids
    ends: tuple[int, ...]


class Definition:
    """What one tokenizer says of texts.

    Args:
        case: The tokenizer.
        searched: Texts by chance for a sequence without a witness.

    Attributes:
        token_bytes: The bytes of each id that spells any.
        hidden: The space that it puts in front of a text, or nothing.
    """

    def __init__(self, case: Case, *, searched: int = SEARCHED) -> None:
        self.case = case
        self.searched = searched
        self.backend = case.build()
        self._refuse_slow()
        self.byte_level = any(step["type"] == "ByteLevel" for step in steps_of(case.spec["pre_tokenizer"]))
        self.hidden = b" " if case.hides_space else b""
        self.token_bytes: dict[int, bytes] = {}
        special = {END, *(token["content"] for token in case.added if token["special"])}
        added = {token["content"]: token for token in case.added if not token["special"]}
        for content, token_id in self.backend.get_vocab(with_added_tokens=True).items():
            if content not in special and content != case.spec["model"].get("unk_token"):
                self.token_bytes[token_id] = self._spelled(content, added.get(content))

    def _refuse_slow(self) -> None:
        """See that the library is done with long runs in time.

        Raises:
            TimeoutError: A split pattern goes back too often: by the cube of a run's length, or worse.
        """
        units = [*self.case.alphabet, "".join(self.case.alphabet)]
        for size, unit in itertools.product(RUNS, units):
            start = time.process_time()
            self.backend.encode(unit * size)
            if time.process_time() - start > RUN_SECONDS:
                raise TimeoutError(f"{size} times {unit!r} takes more than {RUN_SECONDS} s")

    def _spelled(self, content: str, token: dict[str, Any] | None) -> bytes:
        if token is not None and token["normalized"]:  # it is found in normalized text, and stands for it
            for step in steps_of(self.case.spec["normalizer"]):
                if step["type"] in ("NFC", "NFD"):
                    content = unicodedata.normalize(step["type"], content)
        if self.byte_level:
            known = all(c in _BYTE_OF for c in content)
            return bytes(_BYTE_OF[c] for c in content) if known else content.encode()
        if token is None and content in _FALLBACK_OF:
            return bytes([_FALLBACK_OF[content]])
        if token is not None and token["normalized"] and self.case.prepends:
            content = "▁" + content  # it is found with the ▁ that the normalizer puts in front of it too
        return content.replace("▁", " ").encode()

    @property
    def end_id(self) -> int:
        """The id that ends a text."""
        return self.backend.get_vocab()[END]

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def spelled(self, ids: Ids) -> bytes:
        """The text that ids spell, without the hidden space."""
        return b"".join(self.token_bytes[i] for i in ids).removeprefix(self.hidden)

    def readings(self, texts: Sequence[str]) -> list[Reading | None]:
        """The tokens of each text that is canonical."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self._reading(text.encode(), encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]

    def _reading(self, data: bytes, ids: list[int]) -> Reading | None:
        try:
            pieces = [self.token_bytes[i] for i in ids]
        except KeyError:
            return None
        whole = b"".join(pieces)
        before = len(self.hidden) if self.hidden and whole.startswith(self.hidden) else 0
        if whole[before:] != data:
            return None
        return Reading(tuple(ids), tuple(end - before for end in itertools.accumulate(map(len, pieces))))

    @cached_property
    def alphabet(self) -> list[str]:
        """All characters that are tried, closed."""
        asked = "".join(prefix.decode(errors="ignore") for prefix in self.case.asked)
        return closed([*self.case.alphabet, *self.case.goings, *asked])

    @cached_property
    def allowed(self) -> frozenset[int]:
        """The ids that spell nothing but bytes of the alphabet; what special tokens get is leak."""
        data = {byte for c in (*self.alphabet, self.hidden.decode()) for byte in c.encode()}
        ids = {i for i, spelled in self.token_bytes.items() if data.issuperset(spelled)}
        return frozenset(ids | {i for i in range(self.vocab_size) if i not in self.token_bytes})

    @cached_property
    def goings_on(self) -> list[str]:
        """What is put behind a prefix: nothing, pairs and triples of characters, and runs."""
        own, every = self.case.alphabet, self.alphabet
        near = list(dict.fromkeys([*own, *self.case.goings]))
        # A character beside another begins with the same bytes, and is no piece where that one is.
        beside = [chr(ord(c) ^ 1) for c in near if ord(c) >= 0x80]
        tokens = [
            data.decode(errors="ignore") for i, data in self.token_bytes.items() if len(data) > 2 and i in self.allowed
        ]
        found = [
            "",
            *every,
            *beside,
            *tokens,
            *(token + own[0] for token in tokens),
            *map("".join, itertools.product(near[:5], repeat=2)),
        ]
        found += map("".join, itertools.product(own[:2], repeat=3))
        found += (c * size + after for c in own[:2] for size in (3, 5) for after in ("", *near[:4]))
        return list(dict.fromkeys(found))

    def texts(self, prefixes: Iterable[bytes]) -> list[str]:
        """The prefixes, made whole where they stop inside a character, each with every going-on."""
        found: dict[str, None] = {}
        for prefix in prefixes:
            beside = [chr(ord(c) ^ 1) for c in self.alphabet if ord(c) >= 0x80]
            for head in self._heads(prefix, [*self.alphabet, *beside]):
                found |= dict.fromkeys(head + going for going in self.goings_on)
        return list(found)

    @staticmethod
    def _heads(prefix: bytes, characters: Collection[str]) -> list[str]:
        cut = unfinished(prefix)
        try:
            before = prefix[: len(prefix) - len(cut)].decode()
        except UnicodeDecodeError:
            return []
        return [before + c for c in characters if c.encode().startswith(cut)] if cut else [before]

    def witness(self, ids: Ids) -> str | None:
        """A text that shows a sequence to be viable, looked for at length; None if none is found."""
        spelled = self.spelled(ids)
        cut = unfinished(spelled)
        heads = self._heads(spelled, dict.fromkeys([*self.alphabet, *completions(cut)]) if cut else ())
        most = SEARCHED_BYTES // (1 + sum(map(len, heads)))
        for goings in self._searched():
            texts = [
                head + going
                for head in heads
                for going in itertools.islice(self._rests(head) if goings is None else goings, most)
            ]
            # A token may begin inside the character that another one ends inside.
            if cut:
                texts += [
                    head for piece in self.token_bytes.values() for head in self._heads(spelled + piece, self.alphabet)
                ]
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
            for text, encoding in zip(texts, encodings, strict=True):
                found = encoding.ids
                if tuple(found[: len(ids)]) == ids and self._reading(text.encode(), found) is not None:
                    return text
        return None

    def _rests(self, head: str) -> Iterator[str]:
        """What special tokens and matches of the split patterns go on with that may have begun in a text."""
        rng = Random(0)
        for rest in itertools.chain(self._begun(head, rng), self._joined(head)):
            yield rest
            yield rest + "".join(rng.choices(self.alphabet, k=2))  # another match looks at it

    def _begun(self, head: str, rng: Random) -> Iterator[str]:
        """What goes on with a match that began at one of the last characters of a text."""
        sizes = range(1, min(len(head), BEGUN_SIZE) + 1)
        for regex, size, _ in itertools.product(self._regexes, sizes, range(BEGUN)):
            whole = example(regex, rng, self._characters, begun=head[-size:])
            if whole is not None:
                yield whole[size:]

    def _joined(self, head: str) -> Iterator[str]:
        """What goes on with one of the matches that a text ends inside of, or stands before."""
        for whole in self._matches:
            yield from (whole[size:] for size in range(len(whole)) if head.endswith(whole[:size]))

    @cached_property
    def _matches(self) -> list[str]:
        """Added tokens, and texts that match the split patterns."""
        rng = Random(0)
        found = [END, *(token["content"] for token in self.case.added)]
        for regex in self._regexes:
            found += (example(regex, rng, self._characters) or "" for _ in range(MATCHES))
        return list(dict.fromkeys(found))

    @cached_property
    def _regexes(self) -> list[str]:
        steps = steps_of(self.case.spec["pre_tokenizer"])
        return [step["pattern"]["Regex"] for step in steps if "Regex" in step.get("pattern", {})]

    @cached_property
    def _characters(self) -> list[str]:
        """Those that tokens can spell: a witness has no others."""
        data = {byte for spelled in self.token_bytes.values() for byte in spelled}
        return [c for c in dict.fromkeys([*self.alphabet, *EVERY]) if data.issuperset(c.encode())]

    def _searched(self) -> Iterator[list[str] | None]:
        """Ever more goings-on: what is likely to show something, (None) `_rests`, other pairs, and what chance finds."""
        own = [*self.case.alphabet, *self.case.goings]
        tokens = [data.decode(errors="ignore") for data in self.token_bytes.values() if len(data) > 1]
        yield [
            *self.goings_on,
            *EVERY,
            *(c + going for c in (*own, *EVERY) for going in own),
            *map("".join, itertools.product(self.case.alphabet, repeat=4)),
            *(token + after for token in tokens for after in ("", *own)),
            *(c * size + after for c in own for size in range(2, 10) for after in ("", *own)),
        ]
        yield None
        # Where a pattern counts digits, what stands behind the last of them decides.
        runs = [run for size in (1, 2) for run in map("".join, itertools.product(self.case.alphabet, repeat=size))]
        yield [run + after for run in runs for after in self._characters]
        rng = Random(0)
        pool = [*own * (1 + 16 // len(own)), *(kind[0] for kind in KINDS.values()), *"12. \n'sA_\u0301"]
        yield ["".join(rng.choices(pool, k=rng.randint(2, 8))) for _ in range(self.searched)]
        yield ["".join(rng.choices(self.alphabet, k=rng.randint(2, 6))) for _ in range(self.searched)]


class Witnessed:
    """What many texts witness, for some prefixes.

    Attributes:
        cover: For each prefix, and each with one more byte, the sequences that have a witness, with it.
        kept: The same of witnesses that bytelm may refuse (kept.py).
        canonical: The tokens of each prefix that is a canonical text, and whether bytelm may refuse it.
    """

    def __init__(self, definition: Definition, prefixes: Collection[bytes]) -> None:
        wanted = set(prefixes)
        lengths = {size for prefix in wanted for size in (len(prefix), len(prefix) + 1)}
        self.cover: dict[bytes, dict[Ids, str]] = {}
        self.kept: dict[bytes, dict[Ids, str]] = {}
        self.canonical: dict[bytes, tuple[Ids, bool]] = {}
        texts, corners = definition.texts(wanted), corners_of(definition.case)
        for text, reading in zip(texts, definition.readings(texts), strict=True):
            if reading is None:
                continue
            data = text.encode()
            corner = bool(corners) and any(is_in(definition.case, text) for is_in in corners)
            table = self.kept if corner else self.cover
            if data in wanted:
                self.canonical[data] = reading.ids, corner
            begin = 0
            for k, end in enumerate(reading.ends, start=1):
                for size in range(begin + 1, end + 1):
                    if size in lengths:
                        prefix = data[:size]
                        if prefix in wanted or prefix[:-1] in wanted:
                            table.setdefault(prefix, {}).setdefault(reading.ids[:k], text)
                begin = end


_BYTE_OF: Final = {c: byte for byte, c in enumerate(BYTES)}
_FALLBACK_OF: Final = {piece: byte for byte, piece in enumerate(FALLBACK)}
