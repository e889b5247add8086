r"""ByteLM: a tokenized language model as a language model over bytes.

    >>> from bytelm import ByteLM
    >>> lm = ByteLM.from_pretrained("demo")  # doctest: +SKIP
    >>> lm.sample("def fibonacci(n):\n    ret", temperature=0, max_bytes=7).text  # doctest: +SKIP
    'urn n *'

Rules
    This file puts the parts together and holds no mathematics: cover/prefix.py reads prefixes, cover/cover.py has the
    boundary nodes, sampling/generation.py and inference/scoring.py ask for rows, inference/scheduler.py gets them from
    the engine in batches. Arguments are checked at the call, before any model runs.
    Probabilities are the lemma's values, natural logs, never renormalised: a row sums to 1 less the leak.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64

from bytelm.arguments import Number, Text, eot_ids_of, stride_of, tolerance_of
from bytelm.byte_lm.state import ByteState
from bytelm.cover.cover_cache import CoverCache
from bytelm.cover.nodes import Cover
from bytelm.cover.prefix import Prefix, Prompt, PromptReader, bos_ids_of
from bytelm.errors import InvalidArgumentError
from bytelm.fim import FIMFormat, Mode, check_mode, declared, end_ids, find_format, infill_prompt
from bytelm.inference.frontier import Frontier
from bytelm.inference.lazy import full_row
from bytelm.inference.rows import RowReader, RowStore
from bytelm.inference.scheduler import Outcome, Scheduler, Step
from bytelm.inference.scoring import CoverItem, byte_logprobs, in_turn, members, text_logprob, windows
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.completion import Completion, Settings
from bytelm.sampling.engine_batch import completions
from bytelm.sampling.engine_draws import EngineDrawing, EngineDraws, can_engine_draw
from bytelm.sampling.generation import ModelGeneration
from bytelm.token_lm import EXTRA_TOKEN_COST, TokenDrawer, TokenLM
from bytelm.tokenizer.viability.viability import Viability

T = TypeVar("T")


class ByteLM(ByteModel):
    """An exact language model over bytes, from any tokenized causal language model.

    Args:
        model: A transformers model (left as it is: device, dtype, quantisation), a `TokenLM`, or a path or hub id.
        tokenizer: Its fast tokenizer. Needed for a transformers model that does not say where it came from.
        eot_ids: The ids that end a text; those of the model and its tokenizer if not given.
        bos: Whether what the tokenizer puts before a text (BOS) stands before each prefix.
        normalize: Whether text is brought to the tokenizer's normal form. Without it, text that the tokenizer would
            change is an error, as no token sequence spells it.

    Attributes:
        tokenizer: The tokenizer.
        token_lm: The engine.
        eot_ids: The ids that end a text.
        viability: What the tokenizer can emit; ``viability.vocab`` holds the bytes of its tokens.
        progress: Set it to True to see a bar on a terminal's standard error while a long job runs.

    Raises:
        UnsupportedTokenizerError: The tokenizer cannot be a model over bytes.
        VocabularyMismatchError: The tokenizer and the model do not belong together.
        InvalidArgumentError: An end-of-text id that the model has no column for.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        eot_ids: Iterable[int] | None = None,
        bos: bool = True,
        normalize: bool = False,
    ) -> None:
        self.token_lm = token_lm_of(model, tokenizer)
        self.tokenizer: Any = self.token_lm.tokenizer if tokenizer is None else tokenizer
        self.viability = Viability.from_tokenizer(self.tokenizer)
        self.eot_ids = eot_ids_of(self.token_lm.eot_ids if eot_ids is None else eot_ids, self.token_lm.vocab_size)
        self.progress = False
        self._scheduler = Scheduler(self.token_lm)
        self._infillers: dict[FIMFormat, ByteLM] = {}
        before = bos_ids_of(self.viability.vocab)
        named = getattr(self.tokenizer, "bos_token_id", None)
        prompts = PromptReader(
            self.viability,
            bos_ids=before if bos else (),
            openers=frozenset(before) | (frozenset() if named is None else {named}),
            vocab_size=self.token_lm.vocab_size,
            normalize=normalize,
        )
        self._read_as(self.viability, prompts)

    def _read_as(self, viability: Viability, prompts: PromptReader) -> None:
        self.viability, self._prompts = viability, prompts
        self._store, self._covers = RowStore(), CoverCache(viability)
        self._reader = RowReader(
            viability.prefix_index,
            vocab_size=self.token_lm.vocab_size,
            eot_ids=self.eot_ids,
            extra_token_cost=getattr(self.token_lm, "extra_token_cost", EXTRA_TOKEN_COST),
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        engine: str = "transformers",
        device: Any = None,
        dtype: Any = None,
        gguf_file: str | None = None,
        eot_ids: Iterable[int] | None = None,
        bos: bool = True,
        normalize: bool = False,
        **engine_options: Any,
    ) -> ByteLM:
        """Load a model by name.

        Args:
            name_or_path: A folder, a hub id, a GGUF file for "llama-cpp", the address of a server for "vllm-server", or
                a packaged model: "demo" (SmolLM2-135M), "demo-gemma" (Gemma-3-270m), "demo-fim" (SmolLM2-135M with an
                adapter for `infill`).
            engine: What runs the model: "transformers"; "llama-cpp" for a GGUF file; "vllm", or "vllm-server" for a
                vLLM that runs already (docs/engines.md).
            device: As transformers takes it, "cpu" or "cuda" for one.
            dtype: The same, "float32" or "bfloat16" for one.
            gguf_file: The file to load from the folder, where it holds GGUF files.
            eot_ids: As for `ByteLM`.
            bos: As for `ByteLM`.
            normalize: As for `ByteLM`.
            engine_options: What else the engine's ``load`` takes.

        Raises:
            ModelError: The model cannot be loaded.
            DownloadError: A packaged model cannot be fetched.
            MissingDependencyError: The engine is not installed.
        """
        from bytelm.engines.choice import load_engine

        name = os.fspath(name_or_path)
        token_lm = load_engine(engine, name, device=device, dtype=dtype, gguf_file=gguf_file, **engine_options)
        return cls(token_lm, eot_ids=eot_ids, bos=bos, normalize=normalize)

    # ---- distributions

    def next_byte_logprobs(self, prefix: Prefix, *, tol: Number = 0.0) -> Float64[np.ndarray, "257"]:
        """Log-probabilities of each byte b after a prefix, and at index 256 of the end of text.

        The row sums to 1 less the leak: the mass that the model puts on tokens that its tokenizer would not put there,
        and on special tokens that do not end the text.

        Args:
            prefix: Text, or a list of token ids and texts (cover/prefix.py).
            tol: 0 evaluates all; above it, a bound on the total variation from the exact row, at which evaluation may
                stop. `ByteState.total_variation_bound` tells what was reached.

        Raises:
            UnreachablePrefixError: No token sequence spells the prefix.
        """
        row: Float64[np.ndarray, "257"]
        frontier = self._frontier(self._prompts.read(prefix), store=self._store)
        row, _ = self._answer(full_row(frontier, tol=tolerance_of(tol)))
        return row

    def leak(self, prefix: Prefix) -> float:
        """The mass that neither a byte nor the end of text has after a prefix."""
        return max(0.0, 1.0 - float(np.exp(self.next_byte_logprobs(prefix)).sum()))

    def logprob(self, text: Text, prefix: Prefix = b"", *, eot: bool = False, stride: int | None = None) -> float:
        """Log-probability of a text after a prefix, with ``eot`` of the text and of its end there.

        Args:
            text: What is scored.
            prefix: What stands before it.
            eot: Whether the text ends there.
            stride: For a text that is longer than the model's context: it is scored in pieces of this many bytes, each
                given as much before it as the context holds, and the sum is returned. A text that fits is scored as a
                whole.

        Raises:
            UnreachablePrefixError: No token sequence spells them.
            ContextOverflowError: They do not fit in the model's context, and no stride was given.
        """
        prompt, data = self._prompts.read(prefix), self._prompts.bytes_of(text)
        return self._answer(self._scored(prompt, data, eot=eot, stride=stride_of(stride)), label="scoring")

    def _scored(self, prompt: Prompt, data: bytes, *, eot: bool, stride: int | None) -> Step[float]:
        pieces = self._cut(prompt, data, stride)
        steps = (
            text_logprob(
                self._cover(own), piece, context=own.context, reader=self._reader, eot=eot and at == len(pieces)
            )
            for at, (own, piece) in enumerate(pieces, start=1)
        )
        return math.fsum((yield from in_turn(steps, count=len(pieces))))

    def byte_logprobs(
        self, text: Text, prefix: Prefix = b"", *, stride: int | None = None
    ) -> Float64[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prefix and the bytes before it. Their sum is `logprob`.

        Args:
            text: What is scored.
            prefix: What stands before it.
            stride: As for `logprob`.

        Raises:
            UnreachablePrefixError: No token sequence spells them.
            ContextOverflowError: They do not fit in the model's context, and no stride was given.
        """
        pieces = self._windows(text, prefix, stride)
        steps = (
            byte_logprobs(self._cover(prompt), piece, context=prompt.context, reader=self._reader)
            for prompt, piece in pieces
        )
        return np.concatenate(self._answer(in_turn(steps, count=len(pieces)), label="scoring"))

    def _windows(self, text: Text, prefix: Prefix, stride: int | None) -> list[tuple[Prompt, bytes]]:
        return self._cut(self._prompts.read(prefix), self._prompts.bytes_of(text), stride_of(stride))

    def _cut(self, prompt: Prompt, data: bytes, stride: int | None) -> list[tuple[Prompt, bytes]]:
        """What is scored, after which prompt: one piece, or with a stride as many as the context makes necessary."""
        size = getattr(self.token_lm, "context_length", None)
        if stride is None or size is None:
            return [(prompt, data)]
        whole = prompt.text + data
        cover, room = self._cover(replace(prompt, text=whole)), size - len(prompt.context)
        cuts = windows(cover, first=len(prompt.text), stride=stride, room=room)
        return [(replace(prompt, text=whole[history:start]), whole[start:end]) for history, start, end in cuts]

    def cover(self, prefix: Prefix) -> list[CoverItem]:
        """The cover of a prefix: every token sequence that may spell it, with its probability, the largest first.

        Their probabilities sum to P(prefix | context). The cover of the empty prefix is the empty sequence.
        """
        prompt = self._prompts.read(prefix)
        step = members(self._cover(prompt), context=prompt.context, reader=self._reader)
        return sorted(self._answer(step), key=lambda item: (-item.logprob, item.token_ids))

    def state(self, prefix: Prefix) -> ByteState:
        """A place in a text that can be moved about byte by byte: see `ByteState`."""
        prompt = self._prompts.read(prefix)

        def fresh(text: bytes) -> Frontier:
            return self._frontier(replace(prompt, text=text), store=self._store)

        return ByteState(fresh(prompt.text), answer=self._answer, fresh=fresh, bytes_of=self._prompts.bytes_of)

    # ---- in the middle

    def _infilling(
        self, prefix: Text, suffix: Text, mode: Mode, wanted: str | FIMFormat | None
    ) -> tuple[ByteLM, Prefix]:
        """This model with the ends of the format, and the prompt."""
        check_mode(mode)
        before, after = self._prompts.bytes_of(prefix, "prefix"), self._prompts.bytes_of(suffix, "suffix")
        if mode == "left":
            return self, before
        form = find_format(self.viability.vocab, wanted)
        lm = self._infiller(form)
        return lm, infill_prompt(lm.viability.vocab, form, before, after, mode=mode, before=self._prompts.bos_ids)

    def _infiller(self, form: FIMFormat) -> ByteLM:
        """This model where a format's ends end a text, and no text becomes one of its sentinels."""
        if form not in self._infillers:
            lm = self._infillers[form] = copy.copy(self)
            lm.eot_ids = eot_ids_of(self.eot_ids | end_ids(self.viability.vocab, form), self.token_lm.vocab_size)
            tokenizer = declared(self.viability.vocab, form)
            viability = self.viability if tokenizer is None else Viability.from_tokenizer(tokenizer)
            lm._read_as(viability, self._prompts.over(viability))  # noqa: SLF001 - a copy of this very object
        self._infillers[form].progress = self.progress
        return self._infillers[form]

    # ---- inside

    def spell(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that tokens spell, a hidden leading space included.

        Special tokens spell nothing, and so do columns of the model that no token has.
        """
        vocab = self.viability.vocab
        return vocab.spell(tuple(i for i in token_ids if i < len(vocab)))

    def _cover(self, prompt: Prompt) -> Cover:
        return self._covers.cover(prompt)

    def _frontier(self, prompt: Prompt, store: RowStore | None = None) -> Frontier:
        return Frontier(self._cover(prompt), context=prompt.context, reader=self._reader, store=store)

    def _read(self, prefix: Prefix) -> Prompt:
        return self._prompts.read(prefix)

    def _spelled(self, prompt: Prompt) -> Cover:
        return self._cover(prompt)

    def _placed(self, prompt: Prompt, spelled: Cover) -> Frontier:
        return Frontier(spelled, context=prompt.context, reader=self._reader)

    def _writing(
        self, place: Frontier, prompt: Prompt, settings: Settings, random: np.random.Generator
    ) -> ModelGeneration:
        del prompt
        return ModelGeneration(place, settings, random)

    def _engine_drawing(self, settings: Settings, *, engine_draws: bool | None) -> EngineDrawing | None:
        engine = self.token_lm
        if engine_draws is None:
            engine_draws = isinstance(engine, TokenDrawer) and engine.draws_by_default and can_engine_draw(settings)
        if not engine_draws:
            return None
        if not can_engine_draw(settings):
            raise InvalidArgumentError(
                "engine_draws=True needs temperature=1, and neither top_k, top_p, min_p nor logits_processor: an "
                "engine draws tokens, and these are of bytes"
            )
        if not isinstance(engine, TokenDrawer):
            raise InvalidArgumentError(
                f"engine_draws=True needs an engine that draws tokens; {type(engine).__name__} has no draw_tokens"
            )

        at_once = bool(getattr(engine, "asks_each_step", False))  # others wait for a call to end

        def run(places: Sequence[tuple[Frontier, np.random.Generator]]) -> Iterator[Outcome[Completion]]:
            items = [EngineDraws(place, self.viability, settings, random, at_once=at_once) for place, random in places]
            return completions(items, engine, self._running())

        return run

    def _running(self) -> Scheduler:
        self._scheduler.progress = self.progress
        return self._scheduler

    def _answer(self, step: Step[T], *, label: str = "evaluating") -> T:
        (outcome,) = self._running().run([step], label=label)
        return outcome.result

    def __repr__(self) -> str:
        return f"ByteLM({self.token_lm!r})"


def token_lm_of(model: Any, tokenizer: Any) -> TokenLM:
    """The engine that an argument names, wraps or is."""
    if isinstance(model, TokenLM):
        return model
    from bytelm.engines.transformers import engine as transformers

    if isinstance(model, str | os.PathLike):
        return transformers.load(os.fspath(model))
    return transformers.TransformersLM(model, tokenizer)
