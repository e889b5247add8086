r"""ByteLM: a tokenized language model as a language model over bytes.

    >>> from bytelm import ByteLM
    >>> lm = ByteLM.from_pretrained("demo")  # doctest: +SKIP
    >>> lm.sample("def fibonacci(n):\n    ret", temperature=0, max_bytes=7).text  # doctest: +SKIP
    'urn n *'

Rules
    This file puts the parts together and holds no mathematics: cover/prefix.py reads prefixes, cover/cover.py has the
    boundary nodes, sampling/ and inference/ ask for rows, and inference/scheduler.py gets them from the engine in
    batches.
    Probabilities are the lemma's values, natural logs, never renormalised: a row sums to 1 less the leak.
    Threads may share a model: see inference/turns.py.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bytelm.arguments import Text, eot_ids_of, fspath, switch, token_ids_of
from bytelm.byte_lm.fingerprint import digest_of_model, digest_of_vocab
from bytelm.byte_lm.infilling import fitting_prompt
from bytelm.cover.chat import chat_segments
from bytelm.cover.cover import Cover
from bytelm.cover.cover_cache import CoverCache
from bytelm.cover.prefix import Prefix, Prompt, PromptReader, bos_ids_of
from bytelm.errors import UnreachablePrefixError
from bytelm.fim import FIMFormat, InfillSettings, declared, end_ids, find_format
from bytelm.inference.cover_list import CoverList
from bytelm.inference.frontier import Frontier
from bytelm.inference.revisions import present_revision
from bytelm.inference.room import Asked, left_out, refuse_overflow, token_ends, windows
from bytelm.inference.rows import RowReader, RowStore
from bytelm.inference.scheduler import Scheduler, Step, blamed, on
from bytelm.inference.scoring import CoverItem, cover_items, in_turn, text_logprob
from bytelm.inference.text_scoring import ModelScoring, Piece
from bytelm.inference.turns import in_its_turn, turn_at
from bytelm.sampling.byte_model import ByteModel
from bytelm.sampling.engine_batch import EngineDrawing, drawing_of
from bytelm.sampling.params import SamplingParams
from bytelm.sampling.place import ModelPlace
from bytelm.sampling.sampler import names_of
from bytelm.token_lm import Abilities, TokenLM, abilities_of, revision_of
from bytelm.tokenizer.added_tokens import check_text_tokens
from bytelm.tokenizer.viability.viability import Viability


class ByteLM(ByteModel[Prompt, ModelPlace]):
    """An exact language model over bytes, from any tokenized causal language model.

    Threads may share it and its engine. They take turns, one step of one text at a time, so streams and samples of
    several threads interleave. Each call returns the same as if it ran alone. The model may be changed between calls
    (weights, adapters, dtype), but not while one runs: see `clear_cache`.

    Args:
        model: A transformers model (left as it is: device, dtype, quantisation), a `TokenLM`, or a path or hub id.
        tokenizer: Its fast tokenizer. Needed for a transformers model that does not say where it came from.
        eot_ids: The ids that end a text; by default the ids that the model and its tokenizer name.
        bos: Whether each prefix begins with the tokens that the tokenizer puts before a text (BOS).
        normalize: Whether text is brought to the tokenizer's normal form. Without it, text that the tokenizer would
            change is an error, because no token sequence spells it.
        text_tokens: Added tokens to treat as text, even if the tokenizer declares them special or they are control
            tokens by convention (docs/tokenizers.md).
        replace: A text to read instead of a character that the tokenizer cannot spell (▁ if it means a space), such
            as "?", or a function of the character. Without it, such text is an error. Offsets and lengths then count
            in the changed text, which `bytes_of` returns.
        context_length: The longest token sequence; by default the model's own. For a transformers model or a path. An
            engine takes it where it is made.

    Attributes:
        tokenizer: The tokenizer.
        token_lm: The engine.
        eot_ids: The ids that end a text.
        viability: Which token sequences the tokenizer can emit; ``viability.vocab`` has the bytes of its tokens.
        prompts: Reads prefixes.

    Raises:
        UnsupportedTokenizerError: The tokenizer cannot be a model over bytes.
        VocabularyMismatchError: The tokenizer does not match the model.
        InvalidArgumentError: An end-of-text id that the model has no column for, or a text token that is no added token
            or ends a text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        eot_ids: Iterable[int] | None = None,
        bos: bool = True,
        normalize: bool = False,
        text_tokens: Collection[str] = (),
        replace: str | Callable[[str], str] | None = None,
        context_length: int | None = None,
    ) -> None:
        from bytelm.engines.choice import engine_of

        self.token_lm = engine_of(model, tokenizer, context_length=context_length)
        self.tokenizer: Any = self.token_lm.tokenizer if tokenizer is None else tokenizer
        self.eot_ids = eot_ids_of(self.token_lm.eot_ids if eot_ids is None else eot_ids, self.token_lm.vocab_size)
        self.scheduler = Scheduler(self.token_lm)
        self._infillers: dict[FIMFormat, ByteLM] = {}
        viability = Viability.from_tokenizer(self.tokenizer, text_tokens=text_tokens)
        self._text_tokens = frozenset(text_tokens)
        check_text_tokens(viability.vocab, self._text_tokens, self.eot_ids)
        before = bos_ids_of(viability.vocab)
        named = getattr(self.tokenizer, "bos_token_id", None)
        prompts = PromptReader(
            viability,
            bos_ids=before if switch("bos", bos) else (),
            openers=frozenset(before) | (frozenset() if named is None else {named}),
            vocab_size=self.token_lm.vocab_size,
            normalize=switch("normalize", normalize),
            replace=replace,
        )
        self._read_by(prompts)

    def _read_by(self, prompts: PromptReader) -> None:
        """Take another view of the tokenizer, or of the ends of text: with caches of its own."""
        self.viability, self.prompts = prompts.viability, prompts
        self._store, self._covers = RowStore(), CoverCache(self.viability)
        self._stored = revision_of(self.token_lm)  # of the rows in the store
        self._reader = RowReader(
            self.viability.prefix_index,
            vocab_size=self.token_lm.vocab_size,
            eot_ids=self.eot_ids,
            extra_token_cost=self.abilities.extra_token_cost,
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
        text_tokens: Collection[str] = (),
        replace: str | Callable[[str], str] | None = None,
        progress: bool = False,
        **engine_options: Any,
    ) -> ByteLM:
        """Load a model by name.

        Args:
            name_or_path: A folder, a hub id, a GGUF file for "llama-cpp", the address of a server for "vllm-server", or
                a packaged model: "demo" (SmolLM2-135M), "demo-gemma" (Gemma-3-270m), "demo-fim" (SmolLM2-135M with an
                adapter for `infill`).
            engine: What runs the model: "transformers"; "llama-cpp" for a GGUF file; "vllm", or "vllm-server" for a
                vLLM that runs already (docs/engines.md).
            device: As transformers takes it, such as "cpu" or "cuda".
            dtype: As transformers takes it, such as "float32" or "bfloat16".
            gguf_file: The file to load, if the folder holds GGUF files.
            eot_ids: As for `ByteLM`.
            bos: As for `ByteLM`.
            normalize: As for `ByteLM`.
            text_tokens: As for `ByteLM`.
            replace: As for `ByteLM`.
            progress: Whether transformers and its hub show their progress bars.
            engine_options: More options of the engine's ``load``, such as ``context_length``.

        Raises:
            ModelError: The model cannot be loaded.
            DownloadError: A packaged model cannot be fetched.
            MissingDependencyError: The engine is not installed.
        """
        from bytelm.engines.choice import load_engine

        name = fspath("name_or_path", name_or_path)
        where = {"device": device, "dtype": dtype, "gguf_file": gguf_file}
        token_lm = load_engine(engine, name, **where, progress=progress, **engine_options)
        texts: dict[str, Any] = {"normalize": normalize, "text_tokens": text_tokens, "replace": replace}
        return cls(token_lm, eot_ids=eot_ids, bos=bos, **texts)

    # ---- what only a tokenized model has

    @property
    def start_id(self) -> int | None:
        """The token of `start_prefix`, as lm-evaluation-harness chooses it: BOS, or else the end of text."""
        named = (getattr(self.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
        ids = [i for i in (*named, *sorted(self.eot_ids)) if i is not None and i < self.token_lm.vocab_size]
        return next(iter(ids), None)

    @property
    def abilities(self) -> Abilities:
        """What the engine has on top of `TokenLM`."""
        return abilities_of(self.token_lm)

    def cover(self, prefix: Prefix) -> list[CoverItem]:
        """The cover of a prefix: every token sequence that may spell it, with its probability, the largest first.

        Their probabilities sum to P(prefix | context). The cover of the empty prefix is the empty sequence.
        """
        return self.answer(self.covered(prefix))

    def covered(self, prefix: Prefix) -> Step[list[CoverItem]]:
        """The step of `cover`, to run beside others."""
        prompt = self.prompt(prefix)
        self.check_room(prompt, asked="text", end=False)
        step = cover_items(self._cover(prompt), context=prompt.context, reader=self._reader)
        items = yield from on(self.token_lm, step)
        hidden = len(self.viability.vocab.dummy_prefix) if prompt.dummy_prefix else 0
        return CoverList(items, prefix=prompt.text, spell=self.spell, hidden=hidden)

    def spell(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that tokens spell, a hidden leading space included.

        Special tokens spell nothing, and so do columns of the model that no token has.
        """
        vocab = self.viability.vocab
        return vocab.spell(tuple(i for i in token_ids_of(token_ids, "token_ids") if i < len(vocab)))

    def byte_spans(self, token_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Which bytes of ``spell(token_ids)`` each token spells, as (start, end); empty if it spells nothing."""
        ends = itertools.accumulate((len(self.spell([i])) for i in token_ids_of(token_ids, "token_ids")), initial=0)
        return list(itertools.pairwise(ends))

    @in_its_turn
    def pieces(self, prompt: Prompt, data: bytes, stride: int | None) -> list[tuple[Prompt, bytes]]:
        """What is scored after which prompt: one piece, or with a stride as many as the context makes necessary."""
        size = self.abilities.context_length
        if stride is None or size is None:
            return [(prompt, data)]
        whole = prompt.text + data
        cover, room = self._cover(replace(prompt, text=whole)), size - len(prompt.context)
        cuts = windows(cover, first=len(prompt.text), stride=stride, room=room)
        return [(replace(prompt, text=whole[history:start]), whole[start:end]) for history, start, end in cuts]

    def chat_segments(
        self, messages: Sequence[Mapping[str, Any]], *, opens: bool, template: str | None = None
    ) -> list[int | str]:
        """What the tokenizer's chat template makes of messages; see `bytelm.cover.chat.chat_segments`."""
        return chat_segments(self.tokenizer, self.viability.vocab, messages, opens=opens, template=template)

    # ---- steps, as `ByteSteps` describes them

    @property
    def engines(self) -> tuple[TokenLM, ...]:  # noqa: D102
        return (self.token_lm,)

    @property
    def models(self) -> tuple[ByteLM, ...]:  # noqa: D102
        return (self,)

    def description(self) -> list[Any]:
        """As in `ByteSteps`. An engine without tensors to read is known by what it says after one token."""
        known = digest_of_model(self.abilities.model)
        if known is None:
            with turn_at(self.token_lm):
                row = self.token_lm.next_token_logprobs([(int(self._reader.order[0]),)])[0]
            known = hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()
        spelled = digest_of_vocab(self.viability.vocab)
        told = [known, spelled, sorted(self.eot_ids), list(self.prompts.bos_ids), self.prompts.normalize]
        instead = self.prompts.replace
        return told if instead is None else [*told, instead if isinstance(instead, str) else repr(instead)]

    @in_its_turn
    def bytes_of(self, text: object, name: str = "a text") -> bytes:  # noqa: D102
        return self.prompts.bytes_of(text, name)

    @in_its_turn
    def prompt(self, prefix: Prefix) -> Prompt:  # noqa: D102
        return self.prompts.read(prefix)

    def prefix_with(self, start: Callable[[ByteLM], Sequence[int | str | bytes]], text: bytes) -> Prefix:  # noqa: D102
        *before, last = start(self)
        return [*before, self.bytes_of(last) + text]

    @in_its_turn
    def clear_cache(self) -> None:  # noqa: D102
        super().clear_cache()
        self._store = RowStore()
        self._infillers.clear()

    @in_its_turn
    def place(self, prompt: Prompt, *, keep: bool = False) -> ModelPlace:  # noqa: D102
        revision = present_revision(self.token_lm)
        if revision != self._stored:
            self._store, self._stored = RowStore(), revision
        store = self._store if keep else None
        frontier = Frontier(self._cover(prompt), context=prompt.context, reader=self._reader, store=store)
        return ModelPlace(frontier, self.token_lm, revision)

    def scored(  # noqa: D102
        self, prompt: Prompt, text: bytes, *, eot: bool = False, stride: int | None = None, strict: bool = True
    ) -> Step[float]:
        if not text and not eot:
            return 0.0
        try:
            pieces = self.pieces(prompt, text, stride)
            steps = (
                text_logprob(
                    self._cover(own), piece, context=own.context, reader=self._reader, eot=eot and at == len(pieces)
                )
                for at, (own, piece) in enumerate(pieces, start=1)
            )
            return math.fsum((yield from on(self.token_lm, in_turn(steps, count=len(pieces)))))
        except UnreachablePrefixError:
            if strict:
                raise
            return -math.inf

    def along(  # noqa: D102
        self, prompt: Prompt, text: bytes, *, stride: int | None = None, strict: bool = True
    ) -> Step[ModelScoring]:
        yield from ()  # nothing has to be asked
        if strict:
            self._cover(prompt.extended(text))  # says what cannot be spelled before the model runs
        pieces = [
            Piece(functools.partial(self._cover, own), own.context, len(piece))
            for own, piece in self.pieces(prompt, text, stride)
        ]
        return ModelScoring(pieces, self._reader, self.token_lm, strict=strict)

    def warmed(self, prompt: Prompt) -> Step[None]:  # noqa: D102
        del prompt
        yield from ()

    @in_its_turn
    def overflow(self, prompt: Prompt, extra: bytes, *, tokens: int = 0) -> int:  # noqa: D102
        size, whole = self.abilities.context_length, prompt.text + extra
        if size is None:
            return 0
        tokens = min(tokens, size // 2)
        if len(prompt.context) + len(whole) + tokens <= size:
            return 0
        cover = self._cover(replace(prompt, text=whole))
        return left_out(cover, len(prompt.text), room=size - len(prompt.context) - tokens)

    @in_its_turn
    def token_ends(self, prompt: Prompt, text: bytes) -> list[int]:  # noqa: D102
        first = len(prompt.text)
        return [end - first for end in token_ends(self._cover(prompt.extended(text))) if end > first]

    @in_its_turn
    def check_room(self, prompt: Prompt, text: bytes = b"", *, asked: Asked = "rows", end: bool = True) -> None:  # noqa: D102
        size = self.abilities.context_length
        if size is not None and prompt.most_tokens + len(text) >= size:
            whole, first = prompt.text + text, len(prompt.text)
            refuse_overflow(
                lambda n: self._cover(replace(prompt, text=whole[: first + n])),
                len(text),
                asked=asked,
                end=end,
                before=len(prompt.context),
                size=size,
            )

    @in_its_turn
    def infilling(self, sides: Sequence[tuple[Text, Text]], how: InfillSettings) -> tuple[ByteLM, list[Prefix]]:  # noqa: D102
        form = None if how.mode in ("left", "chat") else find_format(self.viability.vocab, how.format)
        lm = self if form is None else self._infiller(form)
        if form is not None:
            form.order(how.mode)  # says of all pairs alike what cannot be
        prompts: list[Prefix] = []
        for name, (before, behind) in zip(names_of(len(sides)), sides, strict=True):
            with blamed(name):
                texts = self.bytes_of(before, "prefix"), self.bytes_of(behind, "suffix")
                prompts.append(fitting_prompt(lm, form, how, *texts))
        return lm, prompts

    def engine_drawing(self, params: SamplingParams) -> EngineDrawing | None:  # noqa: D102
        return drawing_of(params, self.token_lm, self.viability, self.eot_ids, self.scheduler)

    # ---- inside

    @in_its_turn
    def _cover(self, prompt: Prompt) -> Cover:
        return self._covers.cover(prompt)

    def _infiller(self, form: FIMFormat) -> ByteLM:
        """This model where a format's ends end a text, and no text becomes one of its sentinels."""
        if form not in self._infillers:
            lm = self._infillers[form] = copy.copy(self)
            lm.eot_ids = eot_ids_of(self.eot_ids | end_ids(self.viability.vocab, form), self.token_lm.vocab_size)
            tokenizer = declared(self.viability.vocab, form)
            viability = self.viability
            if tokenizer is not None:
                kept = self._text_tokens.difference(form.sentinels, form.ends)
                viability = Viability.from_tokenizer(tokenizer, text_tokens=kept)
            ByteLM._read_by(lm, replace(self.prompts, viability=viability))
        return self._infillers[form]

    def __repr__(self) -> str:
        return f"ByteLM({self.token_lm!r})"
