"""Holes in functions, as the token sequences that teach a model to fill them.

Rules
    A hole is a span between two random characters, or some whole lines. Its sample is the prompt that
    `bytelm.fim.infill_prompt` makes of prefix and suffix, the middle as it goes on from there, and one end token; so
    what is trained is what `ByteLM.infill` asks, by construction. In SPM prefix and middle are one run of text and
    encoded together: a token may cross the cursor.
    The loss is on the middle and the end alone: on every token that spells a byte of the middle, the one that crosses
    the cursor included, for it is what the model has to predict there.
Repeatable
    The hole of a function is a function of (seed, epoch, text); the order and the batches of an epoch are functions of
    (seed, epoch). A place in the data is therefore an epoch and a number of batches.
Batches
    Some hundreds of samples at a time are sorted by length and cut where rows times the longest row would pass the
    stated number of tokens, padding included.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from random import Random
from typing import Final, Literal, TypeAlias

from torch.utils.data import IterableDataset

from bytelm.cover.prefix import bos_ids_of
from bytelm.errors import ContextOverflowError, NoInfillFormatError, UnsupportedTokenizerError
from bytelm.fim import FIMFormat, declared, end_ids, find_format, infill_prompt
from bytelm.fim.format import PREFIX, SUFFIX
from bytelm.tokenizer.tokenizer_json import read_vocab
from bytelm.tokenizer.vocab import Vocab
from evals.fim_finetune.corpus import Function
from evals.fim_finetune.settings import Holes

Mode: TypeAlias = Literal["psm", "spm"]
MODES: Final[tuple[Mode, ...]] = ("psm", "spm")
_SORTED_TOGETHER: Final = 512

# StarCoder's layout on tokens that SmolLM2's vocabulary has, and that code never holds.
SMOLLM2: Final = FIMFormat(
    "smollm2",
    psm=("<gh_stars>", PREFIX, "<empty_output>", SUFFIX, "<issue_closed>"),
    spm=("<gh_stars>", "<empty_output>", SUFFIX, "<issue_closed>", PREFIX),
    ends=("<|endoftext|>",),
)


@dataclass(frozen=True, slots=True)
class Hole:
    """A text in three parts."""

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence of tokens; the loss is on those from `first` on."""

    ids: tuple[int, ...]
    first: int
    mode: Mode


def cut(text: str, random: Random, holes: Holes) -> Hole:
    """Cut a random hole into a text of two characters or more; its middle is never empty."""
    if random.random() < holes.lines:
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        begin = random.randrange(len(lines))
        # One line as often as several: cursors of people seldom have more than a line to fill.
        end = begin + random.choice((1, 1, 2, 3))
        return Hole("".join(lines[:begin]), "".join(lines[begin:end]), "".join(lines[end:]))
    while True:
        begin, end = sorted(random.sample(range(len(text) + 1), 2))
        if end - begin <= holes.max_span:
            return Hole(text[:begin], text[begin:end], text[end:])


class Encoder:
    """Makes samples of holes for one tokenizer.

    Args:
        tokenizer: Of transformers or tokenizers.
        form: The format to teach.

    Raises:
        NoInfillFormatError: The tokenizer lacks a token of the format.
        UnsupportedTokenizerError: It is no tokenizer of bytelm's, or hides a space in front of texts.
    """

    def __init__(self, tokenizer: object, form: FIMFormat = SMOLLM2) -> None:
        vocab = read_vocab(tokenizer)
        self.form = find_format(vocab, form)
        special = declared(vocab, form)
        self.vocab: Vocab = vocab if special is None else read_vocab(special)
        if self.vocab.dummy_prefix:
            raise UnsupportedTokenizerError(
                "the tokenizer hides a space in front of texts, so its pieces cannot be encoded one by one here; "
                "take a base model with another tokenizer"
            )
        ends = end_ids(self.vocab, form)
        if len(ends) != 1:
            raise NoInfillFormatError(
                f"the format needs one token that ends a middle, and has {len(ends)}: {form.ends}"
            )
        (self.end_id,) = ends
        self._bos_ids = bos_ids_of(self.vocab)

    def hole(self, function: Function, random: Random, holes: Holes) -> Hole:
        """A random hole in a function, in the tokenizer's normal form."""
        text = function.text
        return cut(unicodedata.normalize(self.vocab.form, text) if self.vocab.form else text, random, holes)

    def encode(self, hole: Hole, mode: Mode) -> Sample:
        """The tokens of a hole in one order, and where its middle begins."""
        sides = hole.prefix.encode(), hole.suffix.encode()
        prompt = infill_prompt(self.vocab, self.form, *sides, mode=mode, carry="none", before=self._bos_ids)
        *before, open_end = prompt
        ids: list[int] = []
        for segment in before:
            ids += [segment] if isinstance(segment, int) else self._encoded(segment)
        given = len(open_end) if isinstance(open_end, bytes) else 0
        run = self._encoded(open_end + hole.middle.encode() if isinstance(open_end, bytes) else b"")
        first, spelled = len(ids), 0
        for token in run:
            spelled += len(self.vocab.token_bytes[token] or b"")
            if spelled > given:
                break
            first += 1
        return Sample((*ids, *run, self.end_id), first, mode)

    def _encoded(self, segment: str | bytes) -> list[int]:
        text = segment if isinstance(segment, str) else segment.decode()
        ids: list[int] = self.vocab.backend.encode(text, add_special_tokens=False).ids
        return ids


class Batches(IterableDataset[list[Sample]]):
    """The batches to train on, without end: one epoch after another, each with every function once.

    Args:
        functions: What to cut holes into.
        encoder: Makes samples of them.
        holes: How they are cut.
        seed: Of order and holes.
        batch_tokens: The most tokens of a batch, padding included.
        limit: The model's context, in tokens.

    Raises:
        ContextOverflowError: A sample is longer than the context.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        encoder: Encoder,
        holes: Holes,
        seed: int,
        batch_tokens: int,
        limit: float = math.inf,
    ) -> None:
        self.functions, self.encoder, self.holes = functions, encoder, holes
        self.seed, self.batch_tokens, self.limit = seed, batch_tokens, limit

    def __iter__(self) -> Iterator[list[Sample]]:
        return chain.from_iterable(map(self.epoch, count()))

    def epoch(self, number: int) -> Iterator[list[Sample]]:
        """The batches of one epoch."""
        order = [*self.functions]
        shuffle = Random(f"{self.seed} order {number}")
        shuffle.shuffle(order)
        for begin in range(0, len(order), _SORTED_TOGETHER):
            some = order[begin : begin + _SORTED_TOGETHER]
            batches = packed([self._sample(function, number) for function in some], self.batch_tokens)
            shuffle.shuffle(batches)
            yield from batches

    def _sample(self, function: Function, epoch: int) -> Sample:
        random = Random(f"{self.seed} hole {epoch} {function.digest}")
        mode: Mode = "psm" if random.random() < self.holes.psm else "spm"
        sample = self.encoder.encode(self.encoder.hole(function, random, self.holes), mode)
        if len(sample.ids) > self.limit:
            raise ContextOverflowError(
                f"a sample has {len(sample.ids)} tokens, and the model's context {self.limit}: lower --max-chars"
            )
        return sample


def held_out_samples(
    functions: Sequence[Function], encoder: Encoder, holes: Holes, *, seed: int
) -> dict[Mode, list[Sample]]:
    """One hole of each function, the same in both modes, the same for every adapter."""
    cuts = [encoder.hole(function, Random(f"{seed} held out {function.digest}"), holes) for function in functions]
    return {mode: [encoder.encode(hole, mode) for hole in cuts] for mode in MODES}


def packed(samples: Sequence[Sample], batch_tokens: int) -> list[list[Sample]]:
    """Batches of samples of like length, of no more tokens than stated, padding included (one sample may have more)."""
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda each: len(each.ids)):
        if batches and (len(batches[-1]) + 1) * len(sample.ids) <= batch_tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches
