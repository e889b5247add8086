"""Forward passes of a transformers model, as the engine makes them: logits of chosen places, counted, left untouched.

Rules
    The model is used as it was loaded. Modules in training mode are switched to evaluation while it runs and switched
    back afterwards; nothing records gradients.
    Logits are computed only where they are asked for, if the model's ``forward`` can be told (``logits_to_keep``), so
    that a long prompt does not make a row of the vocabulary's size at every position.
    Positions are counted from the end: an adapter may put virtual tokens in front (adapters.py).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from bytelm.engines.device_rows import Shelf
from bytelm.engines.row_memo import Row
from bytelm.engines.rows import checked_rows
from bytelm.engines.transformers import traits
from bytelm.engines.transformers.heads import logits_of
from bytelm.engines.transformers.kv_cache import SlotStore
from bytelm.engines.transformers.plan import Pass, Plan
from bytelm.engines.transformers.uncompiled import uncompiled
from bytelm.errors import BytelmError, ModelError, OutOfMemoryError
from bytelm.token_lm import Usage

MEMORIES = ("past_key_values", "cache_params", "state")  # what models call their memory, in and out
FLAT_TOKENS = 16  # up to so many tokens go as a batch of single tokens


@contextlib.contextmanager
def failing(sequences: int, tokens: int) -> Iterator[None]:
    """Turn what a model raises on so many sequences of so many tokens into an error of bytelm's."""
    try:
        yield
    except (RuntimeError, MemoryError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BytelmError):
            raise
        message = f"the model failed on {sequences} x {tokens} tokens: {type(error).__name__}: {error}"
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error):
            advice = "ask for less at once, or set prefill_chunk, max_batch or cache_budget_bytes lower"
            raise OutOfMemoryError(f"{message}; {advice}") from error
        raise ModelError(message) from error


def input_device(model: Any) -> torch.device:
    """Where the model works on ids: the device of its input embeddings.

    Offloaded embeddings are on no device ("meta"). They are fetched when they are called, on ids from anywhere, and
    what they give is where the model works.
    """
    embedding = model.get_input_embeddings()
    device: torch.device = embedding.weight.device
    if device.type == "meta":
        with failing(1, 1), torch.inference_mode():
            device = embedding(torch.zeros((1, 1), dtype=torch.int64)).device
    return device


class Forward:
    """A model and what has been spent on it.

    Args:
        model: The model.
        modules: All of its modules: listing them takes as long as a small step.

    Attributes:
        usage: Passes and tokens so far.
        inputs: Ids that the model can be fed.
        columns: Ids that it scores; known after the first pass.
        masking: How it takes a tree mask, or why it does not.
        device: Where the model works on ids.
        shelf: Where rows are to stay on their device, what they share there; None: they come to memory.
    """

    def __init__(self, model: Any, modules: Sequence[torch.nn.Module]) -> None:
        self.model = model
        self.usage = Usage()
        self.inputs = int(model.get_input_embeddings().weight.shape[0])
        self.columns = 0
        self.masking = traits.masking(model)
        self.device = input_device(model)
        self.shelf: Shelf | None = None
        self._modules = modules
        self._compiled = any(map(traits.compiled, modules))
        self._accepts = frozenset(inspect.signature(traits.unwrapped(model).forward).parameters)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, and as it is without ``torch.compile``."""
        training = [module for module in self._modules if module.training]
        for module in training:
            module.training = False
        try:
            with uncompiled() if self._compiled else contextlib.nullcontext():
                yield
        finally:
            for module in training:
                module.training = True

    def plain(self, batch: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Sequence[Row]:
        """Rows at ``places`` (sequence, position), without a cache; shorter sequences are padded on the right.

        To a model that does not look ahead, padding on the right is nothing.
        """
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        for row, sequence in zip(ids, batch, strict=True):
            row[: len(sequence)] = sequence
        width = ids.shape[1]
        keep = sorted({position for _, position in places})
        logits, kept = self._run(ids, keep, use_cache=False)
        self.usage.tokens_fed += sum(map(len, batch))
        columns = [keep.index(position) if kept else position - width for _, position in places]
        return self._rows(logits[[i for i, _ in places], columns])

    def cached(self, plan: Plan, part: Pass, wanted: Sequence[int], store: SlotStore) -> Sequence[Row]:
        """Rows of the pass's items ``wanted``; its keys and values go to the store."""
        items = slice(part.first, part.first + part.length)
        by_row = part.read.index is not None and part.read.index.ndim == 2
        # A few tokens go as a batch of single tokens, all of which read the same slots: the numbers are the same, and
        # transformers need not copy the keys for every query head. Attention that copies them anyway gains nothing.
        flat = by_row or (part.seen is not None and part.length <= FLAT_TOKENS and not self._additive)
        shape = (part.length, 1) if flat else (1, part.length)
        positions = np.array(plan.positions[items], np.int64)
        store.read, store.past = part.read, part.past
        logits, kept = self._run(
            np.array(plan.tokens[items], np.int64).reshape(shape),
            None if flat else [*wanted] or [part.length - 1],
            position_ids=torch.from_numpy(positions.reshape(shape)).to(self.device),
            attention_mask=self._masks(part, positions, flat=flat),
            past_key_values=store.cache,
            use_cache=True,
        )
        self.usage.tokens_fed += part.length
        if not wanted:
            return ()
        return self._rows(logits[[*wanted], 0] if flat else logits[0] if kept else logits[0, [*wanted]])

    def remembering(
        self, ids: Sequence[int], places: Sequence[int], memory: dict[str, Any], *, past: int = 0
    ) -> tuple[Sequence[Row], str, Any]:
        """Rows at ``places`` of what follows a memory of the model's own, and its name and object afterwards.

        Args:
            ids: Tokens.
            places: Positions among them.
            memory: The object by its name, which is changed; empty: there is none yet.
            past: Tokens that it is of.
        """
        positions = torch.arange(past, past + len(ids), device=self.device)[None]  # Bamba does not count by itself
        output, kept = self._output(np.array([ids], np.int64), places, **memory, position_ids=positions, use_cache=True)
        self.usage.tokens_fed += len(ids)
        for name in MEMORIES:
            if (content := getattr(output, name, None)) is not None:
                rows = self._rows(output.logits[0] if kept else output.logits[0, [*places]])
                return rows, name, content
        raise ModelError(f"{type(self.model).__name__} returns no cache and no logits to continue from")

    def _rows(self, logits: Float[torch.Tensor, "n vocab"]) -> Sequence[Row]:
        rows = log_softmax(logits)
        return [*rows.cpu().numpy()] if self.shelf is None else self.shelf.rows(rows)

    @property
    def _additive(self) -> bool:
        return isinstance(self.masking, traits.Masking) and self.masking.additive

    def _masks(self, part: Pass, positions: Int64[np.ndarray, " items"], *, flat: bool) -> Any:
        """The pass's mask, or one for each attention type of the model's layers."""
        masking = self.masking
        if part.seen is None or part.places is None or isinstance(masking, str):
            return None
        made = {traits.FULL: self._mask(part.seen, flat=flat)}
        if masking.window is not None:
            inside = part.places > positions[:, None] - masking.window
            all_inside = bool((inside | ~part.seen).all())
            made[traits.SLIDING] = made[traits.FULL] if all_inside else self._mask(part.seen & inside, flat=flat)
        return made if len(masking.kinds) > 1 else made[next(iter(masking.kinds))]

    def _mask(self, seen: Bool[np.ndarray, "items width"], *, flat: bool) -> torch.Tensor:
        mask = torch.from_numpy(seen).to(self.device)
        mask = mask[:, None, None] if flat else mask[None, None]
        if self._additive:
            dtype = self.model.dtype
            return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        return mask

    def _run(self, ids: Int64[np.ndarray, "batch new"], keep: Sequence[int] | None, **options: Any) -> tuple[Any, bool]:
        """Logits of a pass, and whether they are of the positions ``keep`` only."""
        output, kept = self._output(ids, keep, **options)
        return output.logits, kept

    def _output(
        self, ids: Int64[np.ndarray, "batch new"], keep: Sequence[int] | None, **options: Any
    ) -> tuple[Any, bool]:
        kept = keep is not None and "logits_to_keep" in self._accepts
        if kept:
            options["logits_to_keep"] = torch.tensor(keep, device=self.device) - ids.shape[1]
        if "position_ids" not in self._accepts:
            options.pop("position_ids", None)
        self.usage.calls += 1
        with failing(*ids.shape), torch.inference_mode():
            output = self.model(input_ids=torch.from_numpy(ids).to(self.device), **options)
            logits = logits_of(self.model, output, len(keep) if kept and keep is not None else ids.shape[1])
        self.columns = int(logits.shape[-1])
        return output, kept


def log_softmax(logits: Float[torch.Tensor, "n vocab"]) -> Float[torch.Tensor, "n vocab"]:
    """Normalised rows, float32 or wider, on the device of the logits.

    Raises:
        InvalidLogitsError: A row holds NaN or +inf, or nothing but -inf.
    """
    logits = logits if logits.dtype is torch.float64 else logits.float()
    with torch.inference_mode():
        # torch's own adds up in an order in which the sum of 262,144 columns is off by up to 1e-4.
        normal = logits - logits.amax(dim=-1, keepdim=True)
        for part in normal.split(8):
            part.sub_(part.exp().sum(dim=-1, keepdim=True).log_())
        fine = bool(normal.amax(dim=-1).isfinite().all())
    if not fine:
        checked_rows(normal.cpu().numpy(), *normal.shape)  # says what is wrong
    return normal
