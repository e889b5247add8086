"""What each kind of byte model says of itself: how it reads a prefix, where that leads, what is likely.

Rules
    A *step* is a generator that asks for rows (inference/scheduler.py); `answer` runs one. To use a model nobody has to
    call these methods. They are for those who combine models, or evaluate them: an ensemble asks its members by them,
    and by nothing else, so whatever has them can be a member.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

import numpy as np

from bytelm.arguments import seed_of
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompt
from bytelm.errors import InvalidArgumentError
from bytelm.inference.room import Asked
from bytelm.inference.scheduler import Scheduler, Step
from bytelm.inference.text_scoring import TextScoring
from bytelm.inference.turns import turn_at
from bytelm.sampling.completion import random_stream
from bytelm.sampling.conditioned import ConditionedGeneration
from bytelm.sampling.drafter import Drafter, Drafting, Surroundings
from bytelm.sampling.drafts import AskedDrafter, ModelDrafting
from bytelm.sampling.engine_batch import EngineDrawing
from bytelm.sampling.filtered_draws import FilteredDraws
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.particles import ParticleGeneration
from bytelm.sampling.place import ModelPlace, Place
from bytelm.sampling.row_draws import RowDraws
from bytelm.sampling.speculation import SpeculativeGeneration
from bytelm.sampling.writing import Generation, PlacedGeneration
from bytelm.token_lm import OneProcess, TokenLM, abilities_of

T = TypeVar("T")
P = TypeVar("P", bound=Prompt | EnsemblePrompt)
L = TypeVar("L", bound=Place)


class ByteSteps(OneProcess, Drafter, Generic[P, L]):
    """A byte model as those see it who combine it with others.

    `P` is what it makes of a prefix, `L` its place at the end of one.
    """

    scheduler: Scheduler
    """Runs steps on the engines."""

    # ---- what a kind of model says of itself

    @property
    @abstractmethod
    def engines(self) -> tuple[TokenLM, ...]:
        """The engines that it runs on."""

    @property
    @abstractmethod
    def models(self) -> tuple[Any, ...]:
        """The `ByteLM` s that it consists of."""

    @abstractmethod
    def description(self) -> list[Any]:
        """What its numbers depend on, in terms that JSON has; `fingerprint` is a digest of it."""

    @abstractmethod
    def bytes_of(self, text: object, name: str = "a text") -> bytes:
        """The bytes of a text argument, brought to the tokenizer's normal form where that was asked for."""

    @abstractmethod
    def prompt(self, prefix: Prefix) -> P:
        """A prefix, read. It can be hashed.

        Raises:
            InvalidTypeError: It is neither text nor a list of token ids and texts.
            InvalidArgumentError: A token id that there is not, or two texts side by side.
        """

    @abstractmethod
    def prefix_with(self, start: Callable[[Any], Sequence[int | str | bytes]], text: bytes) -> Prefix:
        """A prefix with a beginning for each `ByteLM`, which a function makes, and a text for all of them.

        Args:
            start: From a `ByteLM` to segments, the last of which is a text.
            text: The text after them.
        """

    @abstractmethod
    def place(self, prompt: P, *, keep: bool = False) -> L:
        """The place at the end of a prompt, of which nothing is evaluated yet. No model is run.

        Args:
            prompt: Read by this model.
            keep: Whether rows are kept for other places too, in a bounded store.

        Raises:
            UnreachablePrefixError: No token sequence spells the prompt.
        """

    @abstractmethod
    def scored(
        self, prompt: P, text: bytes, *, eot: bool = False, stride: int | None = None, strict: bool = True
    ) -> Step[float]:
        """Ln P(text | prompt), with ``eot`` of its end too.

        Args:
            prompt: Read by this model.
            text: The text to score.
            eot: Whether the text ends there.
            stride: Bytes of a piece, for a text that is longer than the context.
            strict: Whether text that the model cannot spell is an error; otherwise it has probability 0.
        """

    @abstractmethod
    def along(self, prompt: P, text: bytes, *, stride: int | None = None, strict: bool = True) -> Step[TextScoring]:
        """This model along a text after a prompt, for rows and log-probabilities byte by byte. Arguments as above."""

    @abstractmethod
    def warmed(self, prompt: P) -> Step[None]:
        """Evaluate what several scores after a prompt have in common, where that is not shared anyhow."""

    @abstractmethod
    def overflow(self, prompt: P, extra: bytes, *, tokens: int = 0) -> int:
        """How many bytes at the beginning of a prompt's text have to go for the rest to fit in the context.

        Args:
            prompt: Read by this model.
            extra: Text that follows.
            tokens: Tokens that follow it.
        """

    def token_ends(self, prompt: P, text: bytes) -> list[int]:
        """Where the canonical tokens of a text after a prompt end, in bytes of the text; the last is its own end."""
        del prompt, text
        raise InvalidArgumentError(
            f"by='token' is for one model: the members of {type(self).__name__} have tokens of their own; score each "
            "member, or take another unit"
        )

    def check_room(self, prompt: P, text: bytes = b"", *, asked: Asked = "rows", end: bool = True) -> None:
        """Refuse a text that does not fit in a context, before a model runs. Without an answer here, its engine does.

        Args:
            prompt: Read by this model.
            text: What follows it.
            asked: The numbers asked for along the text: its log-probability, each byte's, or the row at each byte.
            end: Whether also the row at its end.

        Raises:
            ContextOverflowError: A token sequence that would be asked for does not fit.
        """

    def engine_drawing(self, params: SamplingParams) -> EngineDrawing | None:
        """What runs completions whose tokens an engine draws, if these are to be drawn so."""
        if params.level == "token":
            raise InvalidArgumentError(
                f"level='token' is for one model: the members of a {type(self).__name__} have no engine in common; "
                "leave it out"
            )
        if params.engine_draws:
            raise InvalidArgumentError("engine_draws=True is for one model: no engine draws an ensemble's tokens")
        return None

    # ---- running

    def check_rows(self) -> None:
        """See that rows and log-probabilities can be told, before the model runs.

        Raises:
            InvalidArgumentError: They cannot.
        """

    def check_law(self, params: SamplingParams) -> None:
        """See that texts can be drawn so, before the model runs.

        Raises:
            InvalidArgumentError: They cannot.
        """
        if isinstance(params.draft, ByteSteps):
            params.draft.check_rows()
        if params.of_texts and params.constraint is None:
            raise InvalidArgumentError(f"{params.of_texts} is on a constraint: give one, or leave it out")

    def within(self, surroundings: Surroundings) -> Drafter:  # noqa: D102 - as in `Drafter`
        self.check_rows()
        return AskedDrafter(self, surroundings)

    def drafting(self, prefix: bytes, filters: Filters, random: np.random.Generator) -> Drafting:  # noqa: D102 - as in `Drafter`
        self.check_rows()
        return ModelDrafting(self.place(self.prompt(prefix)), filters, random)

    def generation(self, place: L, prompt: P, params: SamplingParams, random: np.random.Generator) -> Generation:
        """A completion from a place on, of which nothing is drawn yet.

        Args:
            place: At the end of the prompt.
            prompt: Read by this model.
            params: How to draw, and when to end.
            random: The item's random numbers.
        """
        if params.by_token and isinstance(place, ModelPlace):
            if params.plain:
                return RowDraws(place, params, random)
            return FilteredDraws(place, params, random, lambda text, eot: self.scored(prompt, text, eot=eot))
        kind: type[PlacedGeneration] = ByteGeneration if params.draft is None else SpeculativeGeneration
        if params.of_texts:
            kind = ConditionedGeneration if params.particles is None else ParticleGeneration
        return kind(place, params, random, lambda text, eot: self.scored(prompt, text, eot=eot))

    def begin(self, prefix: Prefix, params: SamplingParams, *, index: int = 0) -> Generation:
        """A completion before its first byte is drawn, for callers that run its steps themselves.

        Args:
            prefix: As for `sample`.
            params: How to draw, and when to end.
            index: Its place among several with one seed, as in `sample` with ``n``.

        Raises:
            UnreachablePrefixError: No token sequence spells the prefix.
            ContextOverflowError: It does not fit in the model's context.
        """
        self.check_law(params)
        prompt = self.prompt(prefix)
        place = self.place(prompt)
        self.check_room(prompt)
        return self.generation(place, prompt, params, random_stream(seed_of(params.seed), index))

    def answer(self, step: Step[T], *, label: str = "evaluating", progress: bool = False) -> T:
        """Run a step of this model, and return its result."""
        (outcome,) = self.scheduler.run([step], label=label, progress=progress)
        return outcome.result

    def fingerprint(self) -> str:
        """A sha256 of all that the numbers depend on: weights, tokenizers, ends of text, members and their weights.

        Raises:
            InvalidArgumentError: The weights of an ensemble are a function, which cannot be told from another.
        """
        return hashlib.sha256(json.dumps(self.description()).encode()).hexdigest()

    def clear_cache(self) -> None:
        """Drop everything that is cached about texts: keys, values and rows, here and in the engines.

        You need not call this after a change of the model (weights, adapters, dtype): a transformers engine checks for
        changes at each call. Call it for changes that the engine cannot see, such as a write to parameters through
        numpy, for engines of your own without ``revision`` (`bytelm.token_lm.revision_of`), and to free memory. Streams
        that were begun before end with a `ModelChangedError`, on engines that have a revision.
        """
        for engine in dict.fromkeys(self.engines):
            with turn_at(engine):
                abilities_of(engine).clear_cache()

    def close(self) -> None:
        """Free what the engines hold: processes, memory. A closed model can no longer be used."""
        for engine in dict.fromkeys(self.engines):
            abilities_of(engine).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
