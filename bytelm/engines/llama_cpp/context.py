"""llama.cpp through its low-level interface: a model, a context, a cache of sequences, rows of logits as an array.

Rules
    Nothing of the high-level class of llama-cpp-python is used: it keeps one sequence, and copies logits in Python.
    What llama.cpp would answer by ending the process (a batch beyond ``n_batch``) is not sent. What it answers with a
    status becomes a `ModelError` with the last lines that it wrote to its log.
    All of its log goes to this module's logger at the level of debug: nothing is printed.

Traps
    Pointers into numpy arrays are valid as long as the arrays are: `decode` holds them until llama.cpp has returned.
    The rows that `decode` returns are llama.cpp's own memory, and are overwritten by the next call.
    llama.cpp rounds what it multiplies with quantised weights to 8 bits. Sums that are taken in another order differ in
    their last bit, now and then fall on the other side of that rounding, and after some layers the row is another one
    by as much as the rounding itself changes it: a hundredth in total variation. So the order is kept the same, whoever
    asks for what beside it. With flash attention each token sums over the cells of its own past alone, in their order,
    and cells are taken in order as none is ever given back: what is dropped is buried, until everything is forgotten.
    From 64 tokens on, and for a single one where threads share many cells, other kernels run. Weights are not packed
    anew (``use_extra_bufts``), for which there are other kernels from 4 tokens on. For some formats they differ by the
    number of tokens anyhow, for most of these from 8 on. Where they differ from two on, every call is of two tokens and
    two rows (`pair`, ``n_batch`` 2), and a lone token has a dummy beside it, in a sequence of dummies, for which the
    cache has cells to spare.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from bytelm.engines.llama_cpp.sampler import Sampler
from bytelm.errors import InvalidArgumentError, MissingDependencyError, ModelError, OutOfMemoryError
from bytelm.token_lm import TokenSampling

log = logging.getLogger(__name__)

MAX_IDS: Final = 254  # LLAMA_MAX_SEQ, less the two of our own
SPARE: Final = 64  # cells beyond the longest sequence, for dummies
SHARED_CELLS: Final = 256  # with more, llama.cpp may share the cells that a lone token attends to among threads
NO_MEMORY: Final = -2  # what llama_decode returns
_ERROR: Final = 4  # ggml's level
# Set here, or not to be set, as the rows would no longer be what they are.
_OURS: Final = frozenset(
    {
        *("n_ctx", "n_batch", "n_seq_max", "n_threads", "n_threads_batch", "n_outputs_max", "n_outputs_max_per_seq"),
        *("kv_unified", "embeddings", "pooling_type", "attention_type", "ctx_type", "ctx_other"),
        *("samplers", "n_samplers", "vocab_only", "no_alloc"),
    }
)

_said: deque[str] = deque(maxlen=8)
_callbacks: list[Any] = []  # ctypes does not keep what C keeps


def library() -> Any:
    """The module `llama_cpp`, silenced.

    Raises:
        MissingDependencyError: It is not installed, or cannot be loaded.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"the engine 'llama-cpp' needs llama-cpp-python ({error}): pip install 'llama-cpp-python>=0.3.36,<0.4' "
            "builds llama.cpp, which takes a C++ compiler and about a quarter of an hour"
        ) from error
    if not _callbacks:

        def heard(level: int, text: bytes, _: Any) -> None:
            line = text.decode("utf-8", "replace").strip()
            if level == _ERROR and line:
                _said.append(line)
            log.debug("%s", line)

        _callbacks.append(llama_cpp.llama_log_callback(heard))
        llama_cpp.llama_log_set(_callbacks[0], ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp


class Context:
    """A model in memory, and a cache for its sequences.

    Args:
        path: A GGUF file.
        n_ctx: Cells of the cache, which all sequences share. None: the context that the model was trained with, at most
            8192.
        n_seq: Sequence ids.
        n_batch: Most tokens of a call.
        n_threads: Threads. None: the processors that this process may use.
        options: Fields of ``llama_model_params`` and ``llama_context_params``, by name.

    Attributes:
        columns: Tokens of the vocabulary.
        context_length: The longest sequence.
        window: Tokens that a sliding layer sees, or None where no layer slides.
        stateful: Why a sequence cannot be stepped back, or an empty string where it can.
        n_seq: Sequence ids; no more than there are cells.
        n_batch: Most tokens of a call.
        cells: Cells of the cache.
        used: Cells that were taken since the cache was empty.
        pair: Whether each call is of two tokens and two rows at least.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        InvalidArgumentError: An option is unknown or out of range.
        ModelError: The file cannot be loaded.
        OutOfMemoryError: There is not enough memory for its cache.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int | None,
        n_seq: int,
        n_batch: int,
        n_threads: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self._lib = lib = library()
        threads = n_threads or _processors()
        model_params, context_params = lib.llama_model_default_params(), lib.llama_context_default_params()
        context_params.flash_attn_type = 1
        model_params.use_extra_bufts = False
        for name, value in options.items():
            _set(name, value, model_params, context_params)
        _said.clear()
        self._model = lib.llama_model_load_from_file(os.fsencode(path), model_params)
        if not self._model:
            raise ModelError(
                f"llama.cpp cannot load {str(path)!r}: {_reason('the file is damaged, or memory is short')}"
            )
        self._freed: Any = weakref.finalize(self, lib.llama_model_free, self._model)
        self._vocab = lib.llama_model_get_vocab(self._model)
        trained = int(lib.llama_model_n_ctx_train(self._model))
        cells = min(trained, 8192) if n_ctx is None else n_ctx
        # It makes room for a row of each sequence id, and ends the process where n_batch, which it keeps within n_ctx,
        # is below their number.
        self.n_seq = max(1, min(n_seq, cells - 2))
        self._dummies, self._grave = self.n_seq, self.n_seq + 1
        # With n_batch=1 each token may have a dummy beside it.
        context_params.n_ctx, context_params.n_seq_max = (1 + (n_batch == 1)) * cells + SPARE, self.n_seq + 2
        context_params.n_batch, context_params.n_ubatch = max(n_batch, 2, self.n_seq + 2), max(n_batch, 2)
        context_params.n_threads = context_params.n_threads_batch = threads
        context_params.kv_unified = context_params.no_perf = True
        self._context = lib.llama_init_from_model(self._model, context_params)
        if not self._context:
            raise OutOfMemoryError(
                f"llama.cpp cannot make a cache of {cells} tokens for {str(path)!r}: {_reason('memory is short')}; "
                "give a smaller n_ctx"
            )
        self._freed.detach()
        self._freed = weakref.finalize(self, _free, lib, self._context, self._model)
        self._memory = lib.llama_get_memory(self._context)
        self.columns = int(lib.llama_vocab_n_tokens(self._vocab))
        self.context_length = min(cells, trained)
        self.window = int(lib.llama_model_n_swa(self._model)) or None
        state = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        self.stateful = "it keeps a recurrent state, which cannot be stepped back" if state else ""
        self.n_batch = min(n_batch, int(lib.llama_n_batch(self._context)) - 1)
        self.cells = int(lib.llama_n_ctx(self._context))
        self.used = self._dummy = 0
        self.pair, self._threads = False, threads

    def close(self) -> None:
        """Give the memory back, as happens by itself when nothing refers to this any more."""
        self._freed()

    def _check_open(self) -> None:
        """Refuse what would read memory that was given back."""
        if not self._freed.alive:
            raise ModelError("the model was closed, and its memory freed: load it again")

    # ---- running

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], ids: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> Float32[np.ndarray, "wanted columns"]:
        """Feed tokens for sequence ids, and return the logits after those whose indices are ``wanted``, ascending.

        Returns:
            llama.cpp's own memory, valid until the next call.

        Raises:
            ModelError: llama.cpp failed; what the cache then holds is not known.
        """
        self._check_open()
        lib = self._lib
        pair = self.pair or (self._threads > 1 and self.used >= SHARED_CELLS)
        if len(tokens) == 1 and pair:
            tokens, positions, ids = [*tokens, tokens[0]], [*positions, self._dummy], [*ids, [self._dummies]]
        n = len(tokens)
        token, position = np.array(tokens, np.int32), np.array(positions, np.int32)
        counts = np.array([len(some) for some in ids], np.int32)
        flat = np.array([i for some in ids for i in some], np.int32)
        addresses = (flat.ctypes.data + 4 * (np.cumsum(counts) - counts)).astype(np.uintp)
        flags = np.zeros(n, np.int8)
        flags[list(wanted)] = 1
        other = (wanted[0] + 1) % n if len(wanted) == 1 and self.pair else None
        if other is not None:
            flags[other] = 1
        batch = lib.llama_batch(
            n_tokens=n,
            token=_pointer(token, ctypes.c_int32),
            embd=None,
            pos=_pointer(position, ctypes.c_int32),
            n_seq_id=_pointer(counts, ctypes.c_int32),
            seq_id=_pointer(addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(flags, ctypes.c_int8),
        )
        _said.clear()
        status = lib.llama_decode(self._context, batch)
        if status != 0:
            kind = OutOfMemoryError if status == NO_MEMORY else ModelError
            raise kind(f"llama.cpp failed on {n} tokens (status {status}): {_reason('memory is short')}")
        self.used += n
        self._dummy += n > 1 and ids[-1][0] == self._dummies
        if not len(wanted):
            return np.empty((0, self.columns), np.float32)
        pointer: Any = lib.llama_get_logits(self._context)
        rows = np.ctypeslib.as_array(pointer, shape=(int(flags.sum()), self.columns))
        return rows if other is None else rows[[int(other < wanted[0])]]

    # ---- the cache, as `lines.Memory`

    def copy(self, source: int, target: int, length: int) -> None:
        """Let ``target`` own the first ``length`` cells of ``source`` as well."""
        self._check_open()
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def drop(self, line: int, start: int) -> None:
        """Let an id no longer own its cells from position ``start`` on. They are buried, and not free."""
        self._check_open()
        self._lib.llama_memory_seq_cp(self._memory, line, self._grave, start, -1)
        if not self._lib.llama_memory_seq_rm(self._memory, line, start, -1):
            raise ModelError(f"llama.cpp cannot drop positions {start} and on of a sequence of this model")

    def has_room(self, count: int) -> bool:
        """Whether so many tokens, and the dummies beside them, fit in cells not used since the last `clear`."""
        return self.used + count + (count if self.n_batch == 1 else 1) <= self.cells

    def first(self, line: int) -> int:
        """The first position that is still there for an id."""
        self._check_open()
        return int(self._lib.llama_memory_seq_pos_min(self._memory, line))

    def clear(self) -> None:
        """Forget every sequence."""
        self._check_open()
        self._lib.llama_memory_clear(self._memory, False)  # noqa: FBT003 - a C function
        self.used = self._dummy = 0

    # ---- drawing

    def new_sampler(self, sampling: TokenSampling, seed: int, before: Sequence[int] = ()) -> Sampler:
        """llama.cpp's own sampler for a sequence; see `Sampler`."""
        self._check_open()
        return Sampler(self._lib, self._vocab, self.columns, self.context_length, sampling, seed, before)

    # ---- the vocabulary

    def tokenize(self, text: bytes) -> list[int]:
        """llama.cpp's own tokens of a text; special tokens in it are text."""
        size = len(text) + 8
        while True:
            buffer = (ctypes.c_int32 * size)()
            count = self._lib.llama_tokenize(self._vocab, text, len(text), buffer, size, False, False)  # noqa: FBT003
            if count >= 0:
                return list(buffer[:count])
            size = -count

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts BOS before a text."""
        return bool(self._lib.llama_vocab_get_add_bos(self._vocab))

    def is_control(self, token_id: int) -> bool:
        """Whether llama.cpp never takes text for this token."""
        return bool(self._lib.llama_vocab_is_control(self._vocab, token_id))

    def ends(self) -> frozenset[int]:
        """The tokens at which llama.cpp ends a text, less those that end a file of a prompt with several."""
        lib = self._lib
        names = ("pad", "rep", "sep")
        fim = {int(getattr(lib, f"llama_vocab_fim_{name}")(self._vocab)) for name in names}
        ids = range(self.columns)
        named = {int(lib.llama_vocab_eos(self._vocab)), int(lib.llama_vocab_eot(self._vocab))}
        return frozenset(i for i in ids if i in named or (i not in fim and lib.llama_vocab_is_eog(self._vocab, i)))


def _free(lib: Any, context: Any, model: Any) -> None:
    lib.llama_free(context)
    lib.llama_model_free(model)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pointer(array: np.ndarray, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def _set(name: str, value: Any, *params: Any) -> None:
    known = sorted({field[0] for param in params for field in param._fields_} - _OURS)
    if name not in known:
        raise InvalidArgumentError(f"unknown option {name!r} of llama.cpp; there are {', '.join(known)}")
    for param in params:
        if hasattr(param, name):
            try:
                setattr(param, name, value)
            except TypeError as error:
                raise InvalidArgumentError(f"llama.cpp does not take {value!r} for {name}: {error}") from error


def _reason(otherwise: str) -> str:
    return "; ".join(_said) or otherwise
