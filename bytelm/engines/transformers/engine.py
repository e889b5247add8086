"""Any causal language model of transformers as a `TokenLM`, with a key-value cache that branches.

Rules
    The model is the caller's: device, dtype, quantisation and attention are left as they are. The cache that it is
    configured for (static, quantised, hybrid, sliding) is never used: keys and values go to a `SlotStore` of our own,
    so nothing depends on whether that cache could be cropped. Recurrent states stay in an object that the model makes
    for them, of which copies are kept (states.py).
    The definition of a row is a plain forward pass over its sequence alone. At construction every shortcut is compared
    with it, and the fastest that is right is taken (modes.py); `TransformersLM.mode` says which.

    On a GPU the rows stay there, and the byte layer asks them for sums and draws (../device_rows.py).
    The model may be changed while the engine lives: other adapters, other weights. Before it answers, the engine looks
    whether it was (fingerprint.py). Then all that is kept is forgotten, and the mode is chosen anew.

Cost
    In *tree* mode every call is one forward pass (more where it feeds over ``prefill_chunk`` tokens), and a token is
    fed once, whatever branches come and go (plan.py). A row that was asked for lately costs nothing.

Memory
    ``cache_budget_bytes`` bounds what is kept from call to call, rows included. A single call may need more; what it
    does not need is forgotten first, least recently used first. After an error all keys and values are forgotten.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bytelm.engines import ids
from bytelm.engines.device_rows import Shelf
from bytelm.engines.row_engine import RowEngine, check_least
from bytelm.engines.row_memo import Row, Rows, Tokens
from bytelm.engines.transformers import adapters, traits
from bytelm.engines.transformers.fingerprint import Fingerprint
from bytelm.engines.transformers.forward import Forward
from bytelm.engines.transformers.generate import Generator, Line, generate
from bytelm.engines.transformers.heads import check_head
from bytelm.engines.transformers.kv_cache import SlotStore
from bytelm.engines.transformers.loading import load_model
from bytelm.engines.transformers.modes import Mode, choose_mode
from bytelm.engines.transformers.own_sampler import Kept, check_options, goes_together, sample
from bytelm.engines.transformers.plan import Plan
from bytelm.engines.transformers.prefix_tree import TWIG_AGE, PrefixTree
from bytelm.engines.transformers.states import Memories
from bytelm.errors import InvalidArgumentError, InvalidTypeError, ModelChangedError, ModelError
from bytelm.token_lm import More, TokenSampling

LEAST_BUDGET: Final = 128 << 20

log = logging.getLogger(__name__)


class TransformersLM(RowEngine):
    """A transformers causal language model that answers `TokenLM.next_token_logprobs`. Threads may share it.

    Args:
        model: Any ``AutoModelForCausalLM`` that has been loaded.
        tokenizer: Its fast tokenizer.
        eot_ids: Ids that end a text. None: every ``eos_token_id`` that the model's generation configuration, its
            configuration and its tokenizer name.
        start_id: The id to feed for an empty sequence. None: the tokenizer's ``bos_token_id``, else an EOT id, as
            lm-evaluation-harness does.
        max_batch: Most rows in a forward pass over unrelated sequences.
        cache_budget_bytes: What keys, values and rows may take from call to call. None: a quarter of the bytes of the
            model's parameters, at least 128 MiB.
        prefill_chunk: Most tokens in a forward pass.
        context_length: The longest sequence, at least 1. None: what the model's configuration says, rotary embeddings
            that are stretched by a factor (YaRN, linear, dynamic) included. Virtual tokens of an adapter take up a
            part of it.
        device_rows: Whether rows stay on the model's device, which is then asked for sums and draws instead of whole
            rows (../device_rows.py). None: where that is a GPU with float64.

    Attributes:
        usage: Forward passes made and tokens fed since the construction, padding excluded.
        tree: The sequences whose keys and values are kept (prefix_tree.py).
        mode: "tree", "chain", "states", "prefix" or "whole": see modes.py.
        mode_reason: Why no faster mode is taken; empty in *tree* mode.
        context_length: The longest sequence that the model takes, or None.
        draws_by_default: Whether completions are drawn by ``generate`` unless told otherwise: they are not, as that is
            no faster here.

    Raises:
        InvalidTypeError: ``model`` is no transformers model, or ``tokenizer`` no tokenizer.
        InvalidArgumentError: An argument is out of range.
        UnsupportedTokenizerError: The tokenizer is a slow one.
        VocabularyMismatchError: Text can become ids that the model has no column for.
        ModelError: The model cannot run, or is no causal language model.
    """

    draws_by_default = False
    normalises = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        eot_ids: Iterable[int] | None = None,
        start_id: int | None = None,
        max_batch: int = 64,
        cache_budget_bytes: int | None = None,
        prefill_chunk: int = 512,
        context_length: int | None = None,
        device_rows: bool | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
            raise InvalidTypeError(f"model must be a transformers model, not {type(model).__name__}; see load()")
        check_head(model)
        ids.check_tokenizer(tokenizer)
        check_least(
            max_batch=(max_batch, 1), prefill_chunk=(prefill_chunk, 1), cache_budget_bytes=(cache_budget_bytes, 0)
        )
        if cache_budget_bytes is None:
            cache_budget_bytes = max(sum(p.nbytes for p in model.parameters()) // 4, LEAST_BUDGET)
        self.model: Any = model
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk
        self.cache_budget_bytes = cache_budget_bytes
        self._chosen_length = context_length
        self._seen = Fingerprint(model)
        self._read_model()
        where = self._forward.device.type
        if device_rows and where == "mps":
            raise InvalidArgumentError("device_rows needs float64, which MPS has not; leave it out")
        self.device_rows = where not in ("cpu", "mps") if device_rows is None else device_rows
        super().__init__(
            tokenizer,
            self._forward.columns,
            model,
            eot_ids=eot_ids,
            start_id=start_id,
            context_length=None,
            larger=""
            if traits.has_position_table(model)
            else "give a larger context_length if the model is good at it",
            row_bytes=cache_budget_bytes // 8,
        )
        self._shelf = Shelf(self.eot_ids)
        self._adopt()

    def __repr__(self) -> str:
        return f"TransformersLM({type(self.model).__name__}, {self.vocab_size} columns, mode={self.mode!r})"

    @property
    def cache_bytes(self) -> int:
        """Bytes that keys, values, states and rows take now."""
        return self._store.nbytes + self._memories.nbytes + self._memo.nbytes

    def draw_tokens(self, more: More) -> None:
        """Draw tokens by the model's own ``generate``; see `TokenDrawer.draw_tokens`, generate.py and own_sampler.py.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context.
            ModelError: The model failed, or has no ``generate``.
        """
        cut = False
        with self._lock:
            while lines := [Line(draw, self._room(draw)) for draw in more()]:
                generator = Generator(self.model, self.usage, self.context_length, self._cacheable, self._settle)
                # Where a long sequence changes what positions are, it would do so for the others of its batch.
                padded, most, run = self.mode == "tree" and self._cacheable is None, self.max_batch, generator.draw
                if sampling := lines[0].draw.sampling:
                    alike, most = goes_together(sampling, max_batch=most)
                    padded, run = padded and alike, partial(sample, generator, self._kept)
                with self._running():
                    generate(self.model, lines, run, padded=padded, max_batch=most)
                cut |= any(line.cut for line in lines)
        if cut:
            raise self._context_full()

    def check_sampling(self, sampling: TokenSampling) -> None:
        """See that ``generate`` has these options; see `TokenSampler.check_sampling`."""
        check_options(sampling)

    def next_token_rows(self, sequences: Sequence[Sequence[int]]) -> list[Row]:
        """The rows of `next_token_logprobs`, with its errors, each where it is: see `bytelm.token_lm.RowKeeper`.

        They are the engine's own: not to be written to.
        """
        return self._answer(sequences)

    @property
    def moved_bytes(self) -> int:
        """Bytes that went to rows on the device and came from them; 0 without ``device_rows``."""
        return self._shelf.moved_bytes

    @property
    def row_questions(self) -> int:
        """How often rows on the device were asked; 0 without ``device_rows``."""
        return self._shelf.questions

    def clear_cache(self) -> None:
        """Forget all keys, values and rows."""
        with self._lock:
            super().clear_cache()
            self._forget()

    def refresh(self) -> None:
        """Look whether the model is the one that it was; if not, forget all, and raise the `revision`.

        Raises:
            ModelChangedError: The model scores another number of tokens than it did.
        """
        with self._lock:
            if self._seen.changed():
                self._current = False
            if not self._current:
                self._read_model()
                if self._forward.columns != self.vocab_size:
                    raise ModelChangedError(
                        f"{type(self.model).__name__} has {self._forward.columns} columns now, but had "
                        f"{self.vocab_size}; make a new ByteLM of it"
                    )
                self._adopt()
                self.clear_cache()

    def _read_model(self) -> None:
        """Take the model as it is now: how it is run, and in which mode."""
        self._cacheable = traits.cacheable_length(self.model)
        self._clinging = traits.outlasts_its_pass(self.model)
        self._forward = Forward(self.model, self._seen.modules)
        self.mode, self.mode_reason = self._choose_mode()
        self._seen.settle()

    def _adopt(self) -> None:
        """Answer by what was read."""
        self.context_length = self._room_for_text()
        self._inputs = min(self._forward.inputs, self.vocab_size)
        self._forward.usage = self.usage
        self._forward.shelf = self._shelf if self.device_rows else None
        self._current = True

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """The model in evaluation mode; what it then changes in itself is no change."""
        try:
            with self._forward.evaluating():
                yield
        finally:
            self._seen.settle()

    def _forget(self) -> None:
        self.tree = PrefixTree()
        self._store = SlotStore()
        self._memories = Memories(self._forward, self.cache_budget_bytes // 8 * 7)

    def _room_for_text(self) -> int | None:
        """The longest sequence that the model has positions for, beside virtual tokens."""
        length = traits.chosen_length(self.model, self._chosen_length)
        return None if length is None else max(length - adapters.virtual_tokens(self.model), 1)

    def _choose_mode(self) -> tuple[Mode, str]:
        def compute(calls: list[list[Tokens]], mode: Mode) -> list[Rows]:
            self._forget()
            if mode == "states":
                return [self._memories.rows(call, None) for call in calls]
            return [self._rows(call, mode) for call in calls]

        try:
            with self._forward.evaluating():
                mode, reason = choose_mode(self._forward, compute)
        except ModelError as error:
            if methods := adapters.methods(self.model):
                error.args = (f"with its adapter ({methods}): {error}",)
            raise
        self._forget()
        if reason:
            log.info("%s runs in %r mode (%s)", type(self.model).__name__, mode, reason)
        return mode, reason

    def _computed(self, sequences: list[Tokens]) -> Rows:
        with self._running():
            return self._rows(sequences, self.mode)

    def _rows(self, sequences: list[Tokens], mode: Mode) -> Rows:
        limit = self._cacheable
        long = [sequence for sequence in sequences if limit is not None and len(sequence) > limit]
        short = [sequence for sequence in sequences if limit is None or len(sequence) <= limit]
        compute = {"tree": self._cached, "chain": self._cached, "states": self._remembered}.get(mode, self._uncached)
        try:
            rows = compute(short, mode) if short else {}
            return rows | self._beyond(long) if long else rows
        except BaseException:
            self._forget()  # what was planned may not have been written
            raise

    def _cached(self, sequences: list[Tokens], mode: Mode) -> Rows:
        tree, store = self.tree, self._store
        tree.clock += 1
        if tree.clock % TWIG_AGE == 0:
            tree.trim()
        plan = Plan(tree, sequences, store.top)
        plan.place(tree, store, self.cache_budget_bytes // 8 * 7 // max(store.slot_bytes, 1))
        rows: Rows = {}
        for part in plan.passes(
            masks=mode == "tree", chunk=self.prefill_chunk, max_batch=self.max_batch, positions=store.positions
        ):
            wanted = [i for i in range(part.first, part.first + part.length) if i in plan.wanted]
            found = self._forward.cached(plan, part, [i - part.first for i in wanted], store)
            rows.update(zip((plan.wanted[i] for i in wanted), found, strict=True))
        return rows

    def _remembered(self, sequences: list[Tokens], _: Mode) -> Rows:
        return self._memories.rows(sequences, lambda some: self._uncached(some, "prefix"))

    def _beyond(self, sequences: list[Tokens]) -> Rows:
        """Rows of sequences beyond what can be cached, each by itself."""
        rows: Rows = {}
        for sequence in sequences:
            self._settle()
            rows |= self._uncached([sequence], "whole")
        return rows

    def _kept(self, sequences: Sequence[Sequence[int]]) -> Kept:
        """The keys and values that there are of sequences, which are padded on the left to one length."""
        if self.mode not in ("tree", "chain"):
            return Kept([], 0)
        paths = [self.tree.path(self.tree.find([*sequence])[0]) for sequence in sequences]
        pads = max(map(len, sequences)) - np.array([*map(len, sequences)])
        length = int(min(pads + np.array([*map(len, paths)]))) if any(map(len, paths)) else 0
        index = np.zeros((len(sequences), length), np.int64)  # of padding, any slot
        for row, path, pad in zip(index, paths, pads.tolist(), strict=True):
            row[pad:] = path[: max(length - pad, 0)]
        return Kept(self._store.gathered(index), length)

    def _settle(self) -> None:
        """Have the model forget how long sequences were, by the pass of a token."""
        if self._clinging:
            self._forward.plain([(0,)], [(0, 0)])

    def _uncached(self, sequences: list[Tokens], mode: Mode) -> Rows:
        """Rows by plain forward passes; in *prefix* mode batched, and prefixes read off their longest sequence."""
        hosts: dict[Tokens, list[Tokens]] = {}
        host: Tokens = ()
        for sequence in sorted(sequences, reverse=True):
            if mode == "whole" or host[: len(sequence)] != sequence:
                host = sequence
            hosts.setdefault(host, []).append(sequence)
        waiting = sorted(hosts, key=len, reverse=True)
        rows: Rows = {}
        while waiting:
            most = 1 if mode == "whole" else min(self.max_batch, max(self.prefill_chunk // len(waiting[0]), 1))
            batch, waiting = waiting[:most], waiting[most:]
            asked = [(i, sequence) for i, host in enumerate(batch) for sequence in hosts[host]]
            found = self._forward.plain(batch, [(i, len(sequence) - 1) for i, sequence in asked])
            rows.update(zip((sequence for _, sequence in asked), found, strict=True))
        return rows


def load(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: Any = None,
    gguf_file: str | None = None,
    progress: bool = False,
    **options: Any,
) -> TransformersLM:
    """Load a model and its tokenizer from a directory or a model hub.

    Args:
        name_or_path: A directory with ``config.json``, or a hub id such as ``HuggingFaceTB/SmolLM2-135M``.
        device: Where the model runs, such as "cpu" or "cuda:1". None: a GPU if there is one.
        dtype: A torch dtype of floating point, or its name. None: float32 on the CPU, elsewhere the checkpoint's own.
        gguf_file: Name of a GGUF file in that place, to take the weights from.
        progress: Whether transformers and its hub show their progress bars.
        options: Arguments of `TransformersLM`, and of transformers' ``from_pretrained``: see `loading.OPTIONS`.

    Raises:
        ModelError: There is no such place, or what is there is damaged or no causal language model.
        UnsupportedTokenizerError: The tokenizer has no fast form.
        InvalidArgumentError: An option is unknown, there is no such device, or the dtype cannot hold weights.
    """
    own = inspect.signature(TransformersLM).parameters.keys() - {"model", "tokenizer"}
    engine_options = {name: options.pop(name) for name in own & options.keys()}
    model, tokenizer = load_model(
        name_or_path,
        device=device,
        dtype=dtype,
        gguf_file=gguf_file,
        progress=progress,
        engine_options=sorted(own),
        **options,
    )
    return TransformersLM(model, tokenizer, **engine_options)
