"""Completions, whole, in batches and piece by piece: what anything offers that has a frontier for a prompt.

Rules
    Arguments are checked before the model runs. Jobs that run together share model calls (inference/scheduler.py), and
    items with the same prompt share what is evaluated of it. Item i is a function of (seed, i) alone.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import numpy as np

from bytelm.arguments import Number, Text, integer, seed_of, stops_of
from bytelm.cover.prefix import Prefix
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.fim import FIMFormat, Mode
from bytelm.inference.scheduler import Scheduler, Step
from bytelm.sampling.completion import (
    Completion,
    LogitsProcessor,
    SampleOptions,
    Settings,
    StreamOptions,
    random_stream,
)
from bytelm.sampling.engine_draws import EngineDrawing
from bytelm.sampling.filters import Filters
from bytelm.sampling.generation import ByteGeneration
from bytelm.sampling.text_stream import TextStream

if TYPE_CHECKING:
    pass


class InfillOptions(SampleOptions, total=False):
    """The options of `ByteLM.infill`, for type checkers."""

    mode: Mode
    format: str | FIMFormat | None


T = TypeVar("T")


class ByteModel(ABC):
    """The completions of a model over bytes, which says how prompts are read and steps are run."""

    @abstractmethod
    def _read(self, prefix: Prefix) -> Any:
        """A prefix, read: something that can be hashed."""

    @abstractmethod
    def _spelled(self, prompt: Any) -> Any:
        """What spells it: no model is run."""

    @abstractmethod
    def _placed(self, prompt: Any, spelled: Any) -> Any:
        """The place at its end, of which nothing is evaluated yet."""

    @abstractmethod
    def _writing(self, place: Any, prompt: Any, settings: Settings, random: np.random.Generator) -> ByteGeneration[Any]:
        """A completion from there."""

    @abstractmethod
    def _infilling(
        self, prefix: Text, suffix: Text, mode: Mode, wanted: str | FIMFormat | None
    ) -> tuple[ByteModel, Prefix]:
        """What `infill` samples: a model that ends where a middle does, and its prompt."""

    @abstractmethod
    def _running(self) -> Scheduler: ...

    @abstractmethod
    def _answer(self, step: Step[T], *, label: str = "evaluating") -> T: ...

    def _engine_drawing(self, settings: Settings, *, engine_draws: bool | None) -> EngineDrawing | None:
        """What runs completions whose tokens an engine draws, if these are handed over."""
        del settings
        if engine_draws:
            raise InvalidArgumentError(
                "engine_draws=True is for one model: an ensemble's tokens are those of no engine"
            )
        return None

    @overload
    def sample(self, prefix: Prefix, *, n: Literal[1] = 1, **options: Unpack[SampleOptions]) -> Completion: ...

    @overload
    def sample(self, prefix: Prefix, *, n: int, **options: Unpack[SampleOptions]) -> Completion | list[Completion]: ...

    def sample(
        self,
        prefix: Prefix,
        *,
        max_bytes: int = 256,
        temperature: Number = 1.0,
        top_k: int | None = None,
        top_p: Number | None = None,
        min_p: Number | None = None,
        stop: Text | Sequence[Text] = (),
        seed: int | None = None,
        n: int = 1,
        logits_processor: LogitsProcessor | None = None,
        engine_draws: bool | None = None,
    ) -> Completion | list[Completion]:
        r"""Complete a prefix.

        Args:
            prefix: Text, or a list of token ids and texts (cover/prefix.py). It may end anywhere, inside a character
                too.
            max_bytes: New bytes, at most.
            temperature: Of the byte distribution; 0 is greedy.
            top_k: Keep the k likeliest of the 257 symbols.
            top_p: Keep the fewest likeliest symbols that hold so much.
            min_p: Keep the symbols at least so likely, as a share of the likeliest.
            stop: Texts that end the completion and are no part of it. One that begins inside the prefix is none.
            seed: Of the draws. Item i of a batch or of n is a function of (seed, i) alone.
            n: How many completions; above 1 a list of them.
            logits_processor: A function of the bytes written so far and of the row of 257 log-probabilities, which
                returns 257 numbers to draw from in its place (−inf forbids a symbol), before temperature and filters.
            engine_draws: Whether the engine draws the tokens after the prompt itself, at its own full speed. The text
                has the same distribution, leak and all (engine_draws.py says why); with the same seed it is another
                draw from it. It needs temperature 1, no other change of the distribution, one model, and an engine that
                can. If not given, the engines "vllm" and "vllm-server" do so where they may, since there a row for each
                token costs many times the token; on transformers it is no faster, and is done only if asked for.

        Raises:
            InvalidArgumentError: An argument out of range, before the model runs.
            UnreachablePrefixError: No token sequence spells the prefix.
            ModelError: The model could not be run.
        """
        if integer("n", n) < 1:
            raise InvalidArgumentError(f"n must be at least 1; got {n}")
        completions = self.sample_batch(
            [prefix] * n,
            max_bytes=max_bytes,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop=stop,
            seed=seed,
            logits_processor=logits_processor,
            engine_draws=engine_draws,
        )
        return completions[0] if n == 1 else completions

    def sample_batch(
        self,
        prefixes: Sequence[Prefix],
        *,
        max_bytes: int = 256,
        temperature: Number = 1.0,
        top_k: int | None = None,
        top_p: Number | None = None,
        min_p: Number | None = None,
        stop: Text | Sequence[Text] = (),
        seed: int | None = None,
        logits_processor: LogitsProcessor | None = None,
        engine_draws: bool | None = None,
    ) -> list[Completion]:
        """Complete several prefixes together, in batched model calls. The arguments are those of `sample`.

        Completion i is what it would be alone: its random numbers are a function of (seed, i). Where a model call
        fails, the error carries what was finished by then: its attribute ``finished``, a dict from index to completion.

        Raises:
            InvalidArgumentError: An argument out of range, or no prefix, before the model runs.
        """
        settings = self._settings(max_bytes, temperature, top_k, top_p, min_p, stop, logits_processor)
        if isinstance(prefixes, str | bytes) or not isinstance(prefixes, Sequence):
            raise InvalidTypeError(f"prefixes must be a list of prefixes, not {type(prefixes).__name__}")
        if not prefixes:
            raise InvalidArgumentError("there is no prefix to complete; pass at least one")
        key = seed_of(seed)
        engine_drawing = self._engine_drawing(settings, engine_draws=engine_draws)
        prompts = [self._read(prefix) for prefix in prefixes]
        spelled = {prompt: self._spelled(prompt) for prompt in dict.fromkeys(prompts)}
        # Items with the same prompt share what is evaluated of it, for as long as one of them runs.
        shared: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

        def placed(prompt: Any) -> Any:
            place = shared.get(prompt)
            if place is None:
                place = shared[prompt] = self._placed(prompt, spelled[prompt])
            return place

        def job(index: int, prompt: Any) -> Step[Completion]:
            writing = self._writing(placed(prompt), prompt, settings, random_stream(key, index))
            completion = yield from writing.run()
            return completion

        if engine_drawing is None:
            jobs = [job(index, prompt) for index, prompt in enumerate(prompts)]
            outcomes = self._running().run(jobs, label="sampling")
        else:
            outcomes = engine_drawing([(placed(p), random_stream(key, index)) for index, p in enumerate(prompts)])
        finished: dict[int, Completion] = {}
        try:
            for outcome in outcomes:
                own = outcome.result.usage
                usage = replace(outcome.usage, largest_leak=own.largest_leak, redrawn=own.redrawn)
                finished[outcome.index] = replace(outcome.result, usage=usage)
        except Exception as error:
            error.finished = finished  # type: ignore[attr-defined]
            if finished:
                error.add_note(
                    f"{len(finished)} of {len(prompts)} completions were finished: see the error's .finished"
                )
            raise
        return [finished[index] for index in range(len(prompts))]

    def stream(
        self,
        prefix: Prefix,
        *,
        max_bytes: int = 256,
        temperature: Number = 1.0,
        top_k: int | None = None,
        top_p: Number | None = None,
        min_p: Number | None = None,
        stop: Text | Sequence[Text] = (),
        seed: int | None = None,
        logits_processor: LogitsProcessor | None = None,
    ) -> Iterator[str]:
        """Complete a prefix, piece by piece. The arguments are those of `sample`, and so is the text in all.

        A piece never splits a character, and never holds what may turn out to be the beginning of a stop string.
        """
        settings = self._settings(max_bytes, temperature, top_k, top_p, min_p, stop, logits_processor)
        prompt = self._read(prefix)
        place = self._placed(prompt, self._spelled(prompt))
        return self._pieces(self._writing(place, prompt, settings, random_stream(seed_of(seed), 0)))

    @overload
    def infill(
        self, prefix: Text, suffix: Text, *, n: Literal[1] = 1, **options: Unpack[InfillOptions]
    ) -> Completion: ...

    @overload
    def infill(
        self, prefix: Text, suffix: Text, *, n: int, **options: Unpack[InfillOptions]
    ) -> Completion | list[Completion]: ...

    def infill(
        self,
        prefix: Text,
        suffix: Text,
        *,
        mode: Mode = "auto",
        format: str | FIMFormat | None = None,  # noqa: A002 - as the contract names it
        n: int = 1,
        **options: Unpack[SampleOptions],
    ) -> Completion | list[Completion]:
        """Complete what stands between two texts: the middle alone, up to an end that the model gives it.

        Args:
            prefix: What stands before the cursor, which may be anywhere. Text never becomes a special token.
            suffix: What stands behind it. Either may be empty.
            mode: ``"spm"`` (suffix first; the cursor's boundary is exact), ``"psm"`` (prefix first, encoded by
                itself), ``"auto"`` (SPM where the format has it, else PSM), or ``"left"``: the prefix alone, for any
                model.
            format: A name in `bytelm.fim.FORMATS` or a `FIMFormat`; by default found by the tokenizer's tokens, in an
                ensemble by those of each member.
            n: As for `sample`.
            options: As for `sample`.

        Raises:
            NoInfillFormatError: The tokenizer has no fill-in-the-middle tokens, or lacks those of the format.
            InvalidArgumentError: An argument out of range, or an order that the format does not have.
            UnreachablePrefixError: No token sequence spells one of the texts.
        """
        lm, prompt = self._infilling(prefix, suffix, mode, format)
        return lm.sample(prompt, n=n, **options)

    def infill_stream(
        self,
        prefix: Text,
        suffix: Text,
        *,
        mode: Mode = "auto",
        format: str | FIMFormat | None = None,  # noqa: A002 - as in `infill`
        **options: Unpack[StreamOptions],
    ) -> Iterator[str]:
        """Complete what stands between two texts, piece by piece: `stream` with the arguments of `infill`."""
        lm, prompt = self._infilling(prefix, suffix, mode, format)
        return lm.stream(prompt, **options)

    def _pieces(self, generation: ByteGeneration[Any]) -> Iterator[str]:
        text, shown = TextStream(generation.prompt), 0
        while generation.finish_reason is None:
            self._answer(generation.step())
            ready = len(generation.bytes) - generation.held
            if ready > shown and (piece := text.show(bytes(generation.bytes[shown:ready]))):
                yield piece
            shown = max(shown, ready)
        if piece := text.end():
            yield piece

    @staticmethod
    def _settings(
        max_bytes: int,
        temperature: Number,
        top_k: int | None,
        top_p: Number | None,
        min_p: Number | None,
        stop: Text | Sequence[Text],
        logits_processor: LogitsProcessor | None,
    ) -> Settings:
        filters = Filters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        return Settings(filters, max_bytes, stops_of(stop), logits_processor)
