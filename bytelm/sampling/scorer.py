"""Scores of any byte model: of a text as a whole, byte by byte, by any units, and the rows along it.

Rules
    What can be wrong with a text is found before the model runs: what its model cannot spell, what does not fit in its
    context, units that are not the text's.
    A text beyond the context is scored in strides, if the caller gives one.

Cost
    All that is needed is known beforehand, and asked for in few calls. `logprob` needs the rows along the tokens of the
    text, and a few at its ends; `score` a few at the ends of each unit; `byte_logprobs` three to four rows a token;
    `next_byte_rows` and a score by bytes at least a row a byte. An ensemble scores units by the rows of all bytes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Text, stride_of
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompt
from bytelm.errors import InvalidArgumentError
from bytelm.inference.room import Asked
from bytelm.inference.scheduler import Step
from bytelm.inference.score import Score, score_of
from bytelm.inference.text_scoring import Readings
from bytelm.inference.units import Characters, ScoreBy, Unit, WordSpace, lines, parts, regions, unit_name, words
from bytelm.sampling.place import Place
from bytelm.sampling.steps import ByteSteps

P = TypeVar("P", bound=Prompt | EnsemblePrompt)
L = TypeVar("L", bound=Place)


class Scorer(ByteSteps[P, L]):
    """A byte model that scores texts."""

    def logprob(
        self,
        text: Text,
        *,
        prefix: Prefix = b"",
        eot: bool = False,
        stride: int | None = None,
        progress: bool = False,
    ) -> float:
        """Log-probability of a text after a prefix, a natural log: ln P(prefix + text) - ln P(prefix).

        If the tokenizer puts nothing (no BOS) in front of a text, the first token is scored after the model's start
        token (BOS, or else an end of text), and later tokens after the text alone. With ``prefix=lm.start_prefix()``
        the start token stays in front of all of them, as in lm-evaluation-harness (docs/exactness.md).

        Args:
            text: The text to score.
            prefix: The text before it.
            eot: Whether the text ends there: then the end is scored too.
            stride: For a text that is longer than the model's context: score it in pieces of this many bytes, each
                after as much text as the context holds, and return the sum. A text that fits is scored as a whole.
            progress: Whether to show a bar on a terminal once it takes two seconds.

        Raises:
            UnreachablePrefixError: No token sequence spells them. (In an ensemble a member that cannot spell the text
                gives it probability 0.)
            ContextOverflowError: They do not fit in the model's context, and no stride was given; before the model
                runs.
        """
        prompt, data = self._scoring(text, prefix, asked="text" if stride is None else None, end=eot)
        step = self.scored(prompt, data, eot=eot, stride=stride_of(stride))
        return self.answer(step, label="scoring", progress=progress)

    def byte_logprobs(
        self, text: Text, *, prefix: Prefix = b"", stride: int | None = None, progress: bool = False
    ) -> Float64[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prefix and the bytes before it. Their sum is `logprob`.

        It has the arguments and errors of `logprob`, and the same rule for the start of a text.
        """
        prompt, data = self._scoring(text, prefix, asked="bytes" if stride is None else None)
        stride = stride_of(stride)

        def steps() -> Step[Float64[np.ndarray, " n"]]:
            scoring = yield from self.along(prompt, data, stride=stride)
            return (yield from scoring.all_logprobs(data))

        return self.answer(steps(), label="scoring", progress=progress)

    def next_byte_rows(
        self, text: Text, *, prefix: Prefix = b"", stride: int | None = None, progress: bool = False
    ) -> Float64[np.ndarray, "n 257"]:
        """Every row along a text: row i is `next_byte_logprobs` after the prefix and ``text[:i]``, the last after all.

        They are one tree of tokens, in which each sequence is evaluated once, in few batched calls. A row takes 2 kB.
        After a byte of probability 0 all of a row is −∞.

        It has the arguments and errors of `logprob`, and the same rule for the start of a text.

        Returns:
            Natural logs, float64[bytes + 1, 257]; column 256 is the end of text.

        >>> rows = lm.next_byte_rows("France", prefix="The capital of ")  # doctest: +SKIP
        >>> rows.shape, round(float(rows[0, ord("F")]), 2)  # doctest: +SKIP
        ((7, 257), -2.35)
        """
        prompt, data = self._scoring(text, prefix, asked="rows" if stride is None else None, end=True)
        stride = stride_of(stride)

        def steps() -> Step[Float64[np.ndarray, "n 257"]]:
            scoring = yield from self.along(prompt, data, stride=stride)
            return (yield from scoring.all_rows(data))

        return self.answer(steps(), label="scoring", progress=progress)

    def score(
        self,
        text: Text,
        *,
        prefix: Prefix = b"",
        by: ScoreBy = "byte",
        space: WordSpace = "after",
        eot: bool = False,
        stride: int | None = None,
        progress: bool = False,
    ) -> Score:
        """Score a text unit by unit: log-probability, surprisal, entropy and leak, each with its place in the text.

        The units cover the whole text, so their log-probabilities add up to `logprob`.

        Args:
            text: The text to score.
            prefix: The text before it.
            by: The units: ``"byte"``; ``"character"``, a code point; ``"word"``, as ``str.split`` finds it, with its
                punctuation; ``"line"``; ``"token"``, the bytes of a canonical token of one model; or a list of
                regions: the texts that join to the whole text, or pairs (start, end) of character offsets. A token has
                the probability of its *bytes*, which other tokens may begin with too.
            space: Which word the white space belongs to: the word before it (``"after"``: a word's end is scored with
                the word), the word after it (``"before"``), or none, as a unit of its own (``"none"``).
                docs/surprisal.md says which to take.
            eot: Whether the text ends there: then there is one more row, for the end.
            stride: As for `logprob`.
            progress: As for `logprob`.

        Raises:
            InvalidArgumentError: The text is empty, there are no such units, or regions overlap or are not the text's;
                before the model runs.
            InvalidTypeError: Regions that are neither texts nor pairs of whole numbers; before the model runs.
            UnreachablePrefixError: No token sequence spells the text; before the model runs.
            ContextOverflowError: As for `logprob`.

        >>> for row in lm.score("The cat sat.", by="word"):  # doctest: +SKIP
        ...     print(repr(row.text), round(row.surprisal_bits, 2))
        'The ' 13.62
        'cat ' 19.06
        'sat.' 24.47
        """
        name = unit_name(by, space)
        prompt, data = self._scoring(text, prefix, asked="rows" if stride is None else None, end=eot)
        stride = stride_of(stride)
        if not (data or eot):
            raise InvalidArgumentError("the text is empty: there is nothing to score; eot=True scores the end alone")
        characters = Characters(data)
        units: list[Unit]
        match name:
            case "byte":
                units = parts(range(1, len(data) + 1))
            case "character":
                units = parts(characters.ends[1:])
            case "token":
                units = parts(self.token_ends(prompt, data))
            case "line":
                units = lines(characters)
            case "word":
                units = words(characters, space)
            case _:
                each = [self.bytes_of(part) if isinstance(part, str | bytes) else part for part in by]
                units = regions(characters, each)

        places = np.zeros(len(data), np.bool_)
        places[[unit.start for unit in units]] = True

        def steps() -> Step[Readings]:
            scoring = yield from self.along(prompt, data, stride=stride)
            return (yield from scoring.all_readings(data, places, eot=eot))

        return score_of(characters, name, units, self.answer(steps(), label="scoring", progress=progress))

    def _scoring(self, text: Text, prefix: Prefix, *, asked: Asked | None, end: bool = False) -> tuple[P, bytes]:
        prompt, data = self.prompt(prefix), self.bytes_of(text)
        self.place(prompt)  # says what cannot be spelled of it before the model runs
        if asked is not None:
            self.check_room(prompt, data, asked=asked, end=end)
        return prompt, data

    def start_prefix(self, text: Text = b"") -> Prefix:
        """The prefix that begins with each model's start token, for texts that are scored as a whole.

        This is lm-evaluation-harness's rule for them. It changes nothing for a model whose tokenizer puts BOS in front
        of a text.

        Args:
            text: The text after the token.

        >>> lm.logprob("The capital"), lm.logprob("The capital", prefix=lm.start_prefix())  # doctest: +SKIP
        (-19.58958776758551, -23.668751272605693)
        """

        def start(lm: Any) -> list[int | str | bytes]:
            return [b""] if lm.start_id is None else [lm.start_id, b""]

        return self.prefix_with(start, self.bytes_of(text))
