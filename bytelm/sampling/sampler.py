"""Completions of any byte model: whole, in batches, and piece by piece.

Rules
    Arguments are checked before the model runs. Jobs that run together share model calls, and items with the same
    prompt share what is evaluated of it. Item i is a function of (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeVar, Unpack, overload

from bytelm.arguments import Text, integer, likely_meant, seed_of, switch
from bytelm.constraints import Constraint
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompt
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.inference.scheduler import Outcome, Step, blamed
from bytelm.sampling.completion import Completion, random_stream
from bytelm.sampling.completion_stream import CompletionStream, Drawn
from bytelm.sampling.endings import Endings
from bytelm.sampling.likeliest import Search, Searching
from bytelm.sampling.params import CallOptions, SamplingParams, binding_of, params_of
from bytelm.sampling.place import Place
from bytelm.sampling.steps import ByteSteps

_MOST: Final = 1 << 31  # completions of a call

T = TypeVar("T")
P = TypeVar("P", bound=Prompt | EnsemblePrompt)
L = TypeVar("L", bound=Place)


class Sampler(ByteSteps[P, L]):
    """A byte model that completes prefixes."""

    @overload
    def sample(self, prefix: Prefix, *, n: Literal[1] = 1, **options: Unpack[CallOptions]) -> Completion: ...

    @overload
    def sample(self, prefix: Prefix, *, n: int, **options: Unpack[CallOptions]) -> Completion | list[Completion]: ...

    def sample(self, prefix: Prefix, *, n: int = 1, **options: Unpack[CallOptions]) -> Completion | list[Completion]:
        r"""Complete a prefix.

        Args:
            prefix: Text, or a list of token ids and texts (cover/prefix.py). It may end anywhere, inside a character
                too.
            n: How many completions; above 1 a list of them.
            options: ``params``, a `SamplingParams`; its fields by keyword, which override it; and ``progress``: whether
                to show a bar on a terminal once it takes two seconds.

        Raises:
            InvalidArgumentError: An argument out of range, before the model runs.
            InvalidTypeError: An unknown option; the message gives the name here.
            UnreachablePrefixError: No token sequence spells the prefix.
            ContextOverflowError: The prefix alone does not fit in the model's context, before the model runs. If the
                context ends later, the completion ends there, and its ``finish_reason`` is ``"length"``.
            ModelError: The model could not be run.

        >>> lm.sample("The capital of Fra", temperature=0, max_bytes=3).text  # doctest: +SKIP
        'nce'
        """
        completions = self.completed([prefix], options, n=n)
        return completions[0] if n == 1 else completions

    @overload
    def sample_batch(
        self, prefixes: Sequence[Prefix], *, n: Literal[1] = 1, **options: Unpack[CallOptions]
    ) -> list[Completion]: ...

    @overload
    def sample_batch(
        self, prefixes: Sequence[Prefix], *, n: int, **options: Unpack[CallOptions]
    ) -> list[Completion] | list[list[Completion]]: ...

    def sample_batch(
        self, prefixes: Sequence[Prefix], *, n: int = 1, **options: Unpack[CallOptions]
    ) -> list[Completion] | list[list[Completion]]:
        """Complete several prefixes together, in batched model calls. It takes the arguments of `sample`.

        Each completion is the same as alone: number j of prefix i draws from the random numbers of (seed, i · n + j).
        If a model call fails, the error's attribute ``finished`` has the finished completions, a dict from that index
        to the completion.

        Returns:
            One completion for each prefix; with ``n`` above 1 a list of n for each.

        Raises:
            InvalidArgumentError: An argument out of range, or no prefix, before the model runs. An error about one of
                the prefixes begins with its place in the batch, here and for all other classes.
        """
        if isinstance(prefixes, str | bytes) or not isinstance(prefixes, Sequence):
            raise InvalidTypeError(
                f"prefixes must be a list of prefixes, not {type(prefixes).__name__}{likely_meant(prefixes)}"
            )
        if not prefixes:
            raise InvalidArgumentError("there is no prefix to complete; pass at least one")
        return grouped(self.completed(prefixes, options, n=n), n)

    def stream(self, prefix: Prefix, **options: Unpack[CallOptions]) -> CompletionStream:
        """Complete a prefix, piece by piece: an iterator of texts. It takes the arguments of `sample`.

        A piece never splits a character, and never holds a possible beginning of a stop string. Part of a character at
        the very end is in no piece: `Completion.bytes` has it. Joined, the pieces are the text that `sample` returns.
        Afterwards `CompletionStream.completion` has everything else.
        """
        chosen = params_of(options)
        if chosen.engine_draws:
            raise InvalidArgumentError("engine_draws=True is for sample and sample_batch: a stream takes rows")
        drawing = self.engine_drawing(chosen) if chosen.level == "token" else None
        if drawing is None:
            return CompletionStream(Drawn(self.begin(prefix, chosen), self.scheduler.run_one))
        prompt = self.prompt(prefix)
        place = self.place(prompt)
        self.check_room(prompt)
        return CompletionStream(drawing.written(place, random_stream(seed_of(chosen.seed), 0)))

    def likeliest(
        self,
        prefix: Prefix,
        *,
        n: int = 5,
        stop: Text | Sequence[Text] = "\n",
        max_bytes: int = 256,
        max_calls: int | None = 256,
        constraint: Constraint | type | None = None,
        progress: bool = False,
    ) -> Endings:
        r"""The n likeliest endings of a prefix, each with its exact probability, the likeliest first.

        An ending is a text that `sample` can return with the same ``stop`` and ``max_bytes``: up to a stop string, up
        to the end of text, or up to ``max_bytes``. Its probability counts all ways to end there. No missing ending is
        likelier than the last one returned (likeliest.py), unless ``max_calls`` ends the search. Then
        `Endings.missing_logprob` bounds the missing ones.

        Args:
            prefix: As for `sample`.
            n: How many.
            stop: One text or several, before which an ending ends.
            max_bytes: The most bytes of an ending.
            max_calls: The most model calls; None: no limit. With many endings, none of them likely, a search without a
                limit may not end.
            constraint: As for `sample`: the endings are then the likeliest of the allowed texts. Their probabilities
                are the model's own.
            progress: Whether to show a bar on a terminal once it takes two seconds.

        Raises:
            InvalidArgumentError: An argument out of range, before the model runs.
            UnreachablePrefixError: No token sequence spells the prefix.
            ContextOverflowError: The prefix does not fit in the model's context.
            ModelError: The model gives the prefix probability 0.

        >>> [ending.text for ending in lm.likeliest("The capital of Fra", n=3, stop=" ")]  # doctest: +SKIP
        ['nce', 'nce,', 'nce)']
        """
        self.check_rows()
        search = Search.of(n=n, stop=stop, max_bytes=max_bytes, max_calls=max_calls, constraint=constraint)
        prompt = self.prompt(prefix)
        place = self.place(prompt, keep=True)
        self.check_room(prompt)
        step = Searching(place, search).run()
        (outcome,) = self.scheduler.run([step], label="searching", progress=switch("progress", progress))
        return replace(outcome.result, usage=outcome.usage)

    def completed(
        self, prefixes: Sequence[Prefix], options: CallOptions, *, n: int, each: Sequence[SamplingParams] = ()
    ) -> list[Completion]:
        """N completions of each prefix, one after another in one list.

        Args:
            prefixes: As for `sample_batch`.
            options: As for `sample`.
            n: How many of each.
            each: The parameters of each, where they are not those of the options for all.
        """
        chosen, progress = params_of(options), options.get("progress", False)
        if not 1 <= integer("n", n) * len(prefixes) <= _MOST:
            raise InvalidArgumentError(
                f"n must be at least 1, and no list holds more than {_MOST} completions; got {n}"
            )
        self.check_law(chosen)
        key = seed_of(chosen.seed)
        drawing = self.engine_drawing(chosen)
        names = names_of(len(prefixes))
        prompts: list[P] = []
        places: dict[P, L] = {}  # items with the same prompt share what is evaluated of it, until the last has begun
        for name, prefix in zip(names, prefixes, strict=True):
            with blamed(name):
                prompt = self.prompt(prefix)
                places[prompt] = places.get(prompt) or self.place(prompt)
                self.check_room(prompt)
                binding_of(chosen, places[prompt].prefix)  # sees that the prefix can be
            prompts += [prompt] * n

        def job(index: int, prompt: P, place: L) -> Step[Completion]:
            own = each[index // n] if each else chosen
            generation = self.generation(place, prompt, own, random_stream(key, index))
            del place  # its rows: the generation goes on with a copy
            with blamed(names[index // n]):
                return (yield from generation.run())

        outcomes: Iterator[Outcome[Completion]]
        if drawing is None:
            jobs = [job(index, prompt, places[prompt]) for index, prompt in enumerate(prompts)]
            places.clear()
            outcomes = self.scheduler.run(jobs, label="sampling", progress=progress)
        else:
            drawn = [(places[prompt], random_stream(key, index)) for index, prompt in enumerate(prompts)]
            outcomes = drawing.run(drawn, progress=progress)
        return collected(outcomes, len(prompts))


def collected(outcomes: Iterator[Outcome[Completion]], count: int) -> list[Completion]:
    """The completions of all jobs in their order, each with what it cost."""
    finished: dict[int, Completion] = {}
    try:
        for outcome in outcomes:
            done = outcome.result
            finished[outcome.index] = replace(done, usage=outcome.usage.leaking(done.usage))
    except Exception as error:
        error.finished = finished  # type: ignore[attr-defined]
        if finished:
            error.add_note(f"{len(finished)} of {count} completions were finished: see the error's .finished")
        raise
    return [finished[index] for index in range(count)]


def names_of(count: int) -> list[str | None]:
    """What errors call the items of a batch: an item that is alone needs no name."""
    return [None] if count == 1 else [f"item {i} of the batch" for i in range(count)]


def grouped(items: list[T], n: int) -> list[T] | list[list[T]]:
    """The items by n, or as they are where n is 1."""
    return items if n == 1 else [items[start : start + n] for start in range(0, len(items), n)]
