"""`ByteModel`: what every model over bytes offers, made of the steps that each kind of model has.

Rules
    The steps are in steps.py, completions in sampler.py, scores in scorer.py. What is here is made of them, once for
    all kinds: so an ensemble of ensembles, and whatever comes later, offers what one model does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, shown
from bytelm.cover.chat import begun, check_messages
from bytelm.cover.prefix import EnsemblePrompt, Prefix, Prompt
from bytelm.errors import InvalidArgumentError, InvalidTypeError
from bytelm.fim import Carry, Context, FIMFormat, InfillSettings, Mode
from bytelm.fim.files import context_of
from bytelm.sampling.completion import Completion
from bytelm.sampling.completion_stream import CompletionStream
from bytelm.sampling.endings import Endings
from bytelm.sampling.likeliest import LikeliestOptions
from bytelm.sampling.params import CallOptions, check_on_new, params_of, params_on_answer, params_on_new
from bytelm.sampling.place import Place
from bytelm.sampling.sampler import Sampler, grouped
from bytelm.sampling.scorer import Scorer
from bytelm.sampling.situation import Hole, Situation, Turn
from bytelm.sampling.state import ByteState
from bytelm.symbols import leak_of

P = TypeVar("P", bound=Prompt | EnsemblePrompt)
L = TypeVar("L", bound=Place)


class InfillOptions(CallOptions, total=False):
    """What `ByteModel.infill` takes by keyword, for type checkers."""

    mode: Mode
    format: str | FIMFormat | None
    carry: Carry
    context: Context | None


class ChatOptions(CallOptions, total=False):
    """What `ByteModel.chat` takes by keyword, for type checkers."""

    continue_final_message: bool
    template: str | None


class ByteModel(Sampler[P, L], Scorer[P, L]):
    """A language model over bytes. `ByteLM` is one tokenized model, `Ensemble` several byte models."""

    # ---- distributions

    def next_byte_logprobs(self, prefix: Prefix, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of each byte b after a prefix, and at index 256 of the end of text.

        The row sums to 1 less the *leak*: the probability of tokens that the tokenizer would not put there, and of
        special tokens that do not end the text. (The row of a product sums to 1.)

        Args:
            prefix: Text, or a list of token ids and texts (cover/prefix.py); for an ensemble `Prompts` too.
            tol: 0 evaluates everything. Above 0, evaluation may stop at this total variation from the exact row.
                `ByteState.total_variation_bound` has the bound that was reached.

        Returns:
            Natural logs, float64.

        Raises:
            UnreachablePrefixError: No token sequence spells the prefix.
            ModelError: The model gives it probability 0, or the members of an ensemble rule out all that could follow.

        >>> lm.next_byte_logprobs("The capital of Fra")[ord("n")]  # doctest: +SKIP
        -0.0003
        """
        self.check_room(self.prompt(prefix))
        return self.state(prefix).next_byte_logprobs(tol=tol)

    def leak(self, prefix: Prefix) -> float:
        """1 less the sum of the row after a prefix: the probability of tokens that are no text there."""
        return leak_of(self.next_byte_logprobs(prefix))

    def state(self, prefix: Prefix) -> ByteState[L]:
        """A place in a text that can be moved byte by byte: see `ByteState`."""
        prompt = self.prompt(prefix)
        return ByteState(self, prompt, self.place(prompt, keep=True))

    # ---- in the middle

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
        carry: Carry = "line",
        context: Context | None = None,
        n: int = 1,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """Fill in the middle between two texts, and return the middle alone. The model ends it.

        Args:
            prefix: The text before the cursor, which may be anywhere. Text never becomes a special token.
            suffix: The text after the cursor. Either may be empty.
            mode: ``"spm"`` (suffix first; the cursor's boundary is exact), ``"psm"`` (prefix first), ``"auto"`` (SPM
                where the format has it, else PSM), ``"left"``: the prefix alone, for any model, or ``"chat"``: a
                message with the hole and an answer that begins with the last line, for chat models without sentinels.
            format: A name in `bytelm.fim.FORMATS` or a `FIMFormat`; by default found by the tokenizer's tokens, for
                each member of an ensemble.
            carry: In PSM, the part of the prefix that is moved after the last sentinel, so that the middle continues it
                exactly: the last ``"line"``, the last ``"word"``, or ``"none"`` (bytelm/fim/prompt.py).
            context: Other files that the model reads: pairs of a name and a text, the nearest last, or an
                `OtherFiles`, which also names this file. If they do not fit, the first ones are left out, with a
                `LeftOutWarning`.
            n: As for `sample`.
            options: As for `sample`.

        Raises:
            NoInfillFormatError: The tokenizer has no fill-in-the-middle tokens, or lacks tokens of the format.
            InvalidArgumentError: An argument out of range, or an order that the format does not have.
            UnreachablePrefixError: No token sequence spells one of the texts.
        """
        how = InfillSettings(mode, format, carry, context_of(context), params_on_new(options).max_bytes)
        lm, prompts = self.infilling([(prefix, suffix)], how)
        return lm.sample(prompts[0], n=n, **drafted(options, Hole(prefix, suffix, how)))

    def infill_batch(
        self,
        sides: Sequence[tuple[Text, Text]],
        *,
        mode: Mode = "auto",
        format: str | FIMFormat | None = None,  # noqa: A002 - as in `infill`
        carry: Carry = "line",
        context: Context | None = None,
        n: int = 1,
        **options: Unpack[CallOptions],
    ) -> list[Completion] | list[list[Completion]]:
        """Fill in the middle between several pairs of texts together: `sample_batch` with the arguments of `infill`.

        Args:
            sides: Pairs of prefix and suffix.
            mode: As for `infill`.
            format: As for `infill`.
            carry: As for `infill`.
            context: As for `infill`.
            n: As for `sample_batch`.
            options: As for `sample`.
        """
        how = InfillSettings(mode, format, carry, context_of(context), params_on_new(options).max_bytes)
        pairs = pairs_of(sides)
        lm, prompts = self.infilling(pairs, how)
        params = params_of(options)
        each = [Hole(*pair, how).drafted(params) for pair in pairs]
        return grouped(lm.completed(prompts, options, n=n, each=each), n)

    def infill_stream(
        self,
        prefix: Text,
        suffix: Text,
        *,
        mode: Mode = "auto",
        format: str | FIMFormat | None = None,  # noqa: A002 - as in `infill`
        carry: Carry = "line",
        context: Context | None = None,
        **options: Unpack[CallOptions],
    ) -> CompletionStream:
        """Fill in the middle between two texts, piece by piece: `stream` with the arguments of `infill`."""
        how = InfillSettings(mode, format, carry, context_of(context), params_on_new(options).max_bytes)
        lm, prompts = self.infilling([(prefix, suffix)], how)
        return lm.stream(prompts[0], **drafted(options, Hole(prefix, suffix, how)))

    def infill_likeliest(
        self,
        prefix: Text,
        suffix: Text,
        *,
        mode: Mode = "auto",
        format: str | FIMFormat | None = None,  # noqa: A002 - as in `infill`
        carry: Carry = "line",
        context: Context | None = None,
        **options: Unpack[LikeliestOptions],
    ) -> Endings:
        """The likeliest texts between two texts: `likeliest` with the arguments of `infill`."""
        check_on_new(options.get("constraint"))
        how = InfillSettings(mode, format, carry, context_of(context), options.get("max_bytes", 256))
        lm, prompts = self.infilling([(prefix, suffix)], how)
        return lm.likeliest(prompts[0], **options)

    @abstractmethod
    def infilling(
        self, sides: Sequence[tuple[Text, Text]], how: InfillSettings
    ) -> tuple[ByteModel[Any, Any], list[Prefix]]:
        """What `infill` samples: a model that ends where a middle does, and a prompt for each pair of texts."""

    # ---- chat

    def chat_prefix(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool = False,
        template: str | None = None,
    ) -> Prefix:
        """The prefix that each tokenizer's own chat template makes of messages, for `sample`, `stream` and `state`.

        Args:
            messages: Each with a ``role`` and a ``content``. Text never becomes a special token.
            continue_final_message: Whether to continue the last message where it ends, at any byte (its content may be
                ``bytes``); otherwise a turn of the assistant begins after it.
            template: The name of a template, or its text; the tokenizer's default if not given.

        Raises:
            InvalidTypeError: It is not a list of messages.
            InvalidArgumentError: There is no template, or it does not take the messages.
        """
        check_messages(messages)
        text = begun(messages) if continue_final_message else b""
        return self.prefix_with(
            lambda lm: lm.chat_segments(messages, opens=not continue_final_message, template=template), text
        )

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, n: Literal[1] = 1, **options: Unpack[ChatOptions]
    ) -> Completion: ...

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, n: int, **options: Unpack[ChatOptions]
    ) -> Completion | list[Completion]: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool = False,
        template: str | None = None,
        n: int = 1,
        **options: Unpack[CallOptions],
    ) -> Completion | list[Completion]:
        """Write the assistant's turn of a chat, or the rest of a turn that is begun at any byte.

        Args:
            messages: As for `chat_prefix`.
            continue_final_message: As for `chat_prefix`.
            template: As for `chat_prefix`.
            n: As for `sample`.
            options: As for `sample`. A constraint with ``of="text"`` is on the whole answer, with what has begun of it.

        >>> lm.chat([{"role": "user", "content": "Name a color."}], temperature=0, max_bytes=4)  # doctest: +SKIP
        """
        prefix = self.chat_prefix(messages, continue_final_message=continue_final_message, template=template)
        params = params_on_answer(options, begun(messages) if continue_final_message else b"")
        turn = Turn(messages, continue_final_message, template)
        return self.sample(prefix, n=n, params=turn.drafted(params), progress=options.get("progress", False))


def drafted(options: CallOptions, situation: Situation) -> CallOptions:
    """The options of a call, whose drafter knows what surrounds the text."""
    return {"params": situation.drafted(params_of(options)), "progress": options.get("progress", False)}


def pairs_of(sides: object) -> list[tuple[Text, Text]]:
    """The pairs of texts of an argument.

    Raises:
        InvalidTypeError: It is no list of pairs.
        InvalidArgumentError: There is none.
    """
    if not isinstance(sides, list | tuple):
        raise InvalidTypeError(f"sides must be a list of pairs (prefix, suffix); got {shown(sides)}")
    for i, pair in enumerate(sides):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidTypeError(
                f"sides must be a list of pairs (prefix, suffix); item {i} of the batch is {shown(pair)}"
            )
    if not sides:
        raise InvalidArgumentError("there is no pair of texts to fill in between; pass at least one")
    return [(prefix, suffix) for prefix, suffix in sides]
