"""A model on a vLLM server that runs already, here or on another machine, as a `TokenLM`.

Rules
    Requests are token ids, all that a call asks for in one request or a few. Each row is the whole row: a server that
    gives a part of it is refused at the construction, with what it has to be started with.
    Nothing is known of the model but what the server says and what its tokenizer's folder holds.

Cost
    A row of a vocabulary is a megabyte of JSON and more, and the server writes it token by token. The server draws the
    tokens of completions (sampling/token_draws.py): each is a request of its own, as a request has one seed, and all
    run side by side.

Does not
    Start a server, nor install vLLM: ``vllm serve MODEL --max-logprobs -1`` does the one, anywhere.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from bytelm.arguments import Number
from bytelm.engines.row_engine import Room
from bytelm.engines.row_memo import ROW_BYTES, Rows, Tokens
from bytelm.engines.vllm.vllm_model import VllmModel, tokenizer_of
from bytelm.engines.vllm_server.completions_api import Server, drawn_of
from bytelm.errors import InvalidArgumentError, ModelError, ServerError
from bytelm.token_lm import Draw, More, TokenSampling

ANSWER_ENTRIES: Final = 1 << 21  # numbers of one answer: some 64 MB of JSON


class VllmServerLM(VllmModel):
    """A model on a vLLM server that answers `TokenLM.next_token_logprobs` and draws tokens. Threads may share it.

    Args:
        address: Of the server, such as ``http://127.0.0.1:8000``.
        model: Which of the server's models; needed where it has several.
        tokenizer: The model's tokenizer, a transformers fast tokenizer or where one is. None: from where the server
            says that it has the model from, which has to be there on this machine too, or on the hub.
        eot_ids: Ids that end a text. None: all that the configurations beside the tokenizer and the tokenizer name;
            for a tokenizer that is given as an object, those where the server says, if that is on this machine.
        start_id: The id to feed for an empty sequence. None: BOS, else an EOT id.
        api_key: What the server was started with, if anything.
        timeout_s: Seconds to wait for an answer, or for its next part.
        connections: Completions that are asked for side by side, at most.
        row_bytes: What remembered rows may take.

    Attributes:
        usage: Requests, and tokens that the server was sent or drew.
        context_length: The longest sequence that it takes; None where the server does not say.
        draws_by_default: Completions are drawn by the server where they may be (sampling/token_draws.py).

    Raises:
        ServerError: The server cannot be reached, or gives only a part of a row.
        InvalidArgumentError: The server has no such model, or several and none is named.
        ModelError: The tokenizer cannot be loaded.
        VocabularyMismatchError: The tokenizer is not the model's.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str | None = None,
        tokenizer: Any = None,
        eot_ids: Iterable[int] | None = None,
        start_id: int | None = None,
        api_key: str | None = None,
        timeout_s: Number = 600,
        connections: int = 64,
        row_bytes: int = ROW_BYTES,
    ) -> None:
        if connections < 1:
            raise InvalidArgumentError(f"connections must be at least 1, not {connections!r}")
        self._server = Server(address, api_key=api_key, timeout_s=timeout_s)
        self.address = self._server.address
        entry = _chosen(self._server.models(), model, self.address)
        self.model = str(entry["id"])
        longest = entry.get("max_model_len")
        place = tokenizer if isinstance(tokenizer, str | Path) else entry.get("root")
        found = _tokenizer(tokenizer, place, self.address)
        super().__init__(
            found,
            _columns(self._server, self.model),
            _configurations(place, near=found is tokenizer) if eot_ids is None else SimpleNamespace(),
            eot_ids=eot_ids,
            start_id=start_id,
            context_length=longest - 1 if isinstance(longest, int) else None,
            larger="start the server with a larger --max-model-len",
            row_bytes=row_bytes,
        )
        self._connections = connections
        self._counting = threading.Lock()

    def __repr__(self) -> str:
        return f"VllmServerLM({self.address!r}, {self.model!r}, {self.vocab_size} columns)"

    def draw_tokens(self, more: More) -> None:
        """Draw tokens by the server's own sampler, each sequence over a connection; see `TokenDrawer.draw_tokens`.

        Raises:
            ContextOverflowError: A sequence has come to the end of the model's context.
            ServerError: The server was lost, or answers with an error; what was drawn by then was taken.
        """
        waiting: deque[tuple[Draw, Room]] = deque()
        ended: queue.SimpleQueue[bool | BaseException] = queue.SimpleQueue()
        stopped = _Stopped()
        running, full = 0, False

        def draw_one(draw: Draw, room: Room) -> None:
            try:
                ended.put(self._drawn(draw, room, stopped))
            except BaseException as error:  # noqa: BLE001 - which is raised where it is waited for
                ended.put(error)

        def start() -> None:
            nonlocal running
            while waiting and running < self._connections:
                # Nobody waits for a thread whose server says nothing: neither this call nor the program's end.
                threading.Thread(target=draw_one, args=waiting.popleft(), daemon=True).start()
                running += 1

        with self._lock:
            try:
                while True:
                    for draw in more():
                        waiting.append((draw, self._room(draw)))
                        start()
                    if not running:
                        break
                    outcome = ended.get()
                    running -= 1
                    if isinstance(outcome, BaseException):
                        raise outcome
                    full |= outcome
                    start()
            finally:
                stopped.set()
        if full:
            raise self._context_full()

    def _drawn(self, draw: Draw, room: Room, stopped: _Stopped) -> bool:
        """Let the server go on from one sequence until it is done with; whether it came to the end of the context."""
        sequence, most = room.sequence, room.tokens
        if not most:
            return True
        self._count(calls=1, fed=len(sequence))
        request = {"model": self.model, "prompt": sequence, "max_tokens": most, "seed": draw.seed, **_DRAWING}
        if draw.sampling is not None:
            request |= _asked_of(draw.sampling)
        with contextlib.closing(self._server.stream(request)) as parts:
            for token, logprob in (drawn for part in parts for drawn in drawn_of(part, self.address)):
                most -= 1
                self._count(fed=1)
                if not stopped.take(draw, token, logprob):
                    return False
        if most > 0 and draw.sampling is None:
            raise ServerError(f"the server {self.address} ended a completion {most} tokens too early")
        return room.cut

    def check_sampling(self, sampling: TokenSampling) -> None:
        """See that the options can be sent. The server alone knows what they mean."""
        if ours := sorted(_OURS_OF_SAMPLING & sampling.options.keys()):
            raise InvalidArgumentError(
                f"{ours[0]} is set by the engine 'vllm-server', and cannot be given in engine_options"
            )
        try:
            json.dumps(_asked_of(sampling))
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"engine_options go to the server as JSON, which has no {error}") from error

    def _count(self, *, calls: int = 0, fed: int = 0) -> None:
        with self._counting:
            self.usage.calls += calls
            self.usage.tokens_fed += fed

    def _computed(self, sequences: list[Tokens]) -> Rows:
        size = max(1, ANSWER_ENTRIES // self.vocab_size)
        rows: Rows = {}
        for start in range(0, len(sequences), size):
            part = sequences[start : start + size]
            self._count(calls=1, fed=sum(map(len, part)))
            for sequence, (tokens, logprobs) in zip(part, self._server.rows(self.model, part), strict=True):
                if len(tokens) and tokens.max() >= self.vocab_size:
                    raise ServerError(f"the server {self.address} names id {tokens.max()}, of {self.vocab_size}")
                rows[sequence] = self._row(tokens, logprobs)
        return rows


class _Stopped:
    """Whether a call is over, so that no token is taken any more; threads of it may still be reading."""

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()

    def set(self) -> None:
        """Take no more tokens."""
        with self._lock:
            self._over = True

    def take(self, draw: Draw, token: int, logprob: float) -> bool:
        """Hand a token on, if the call is not over; whether more are wanted."""
        with self._lock:
            return not self._over and draw.take(token, logprob) is True


# How tokens are drawn. What a request leaves out a server takes from the model's generation_config.
_DRAWING: Final = {
    "return_tokens_as_token_ids": True,
    "logprobs": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}


_OURS_OF_SAMPLING: Final = frozenset(
    ("model", "prompt", "prompt_embeds", "stream", "stream_options", "echo", "suffix", "use_beam_search")
) | (_DRAWING.keys() - {"repetition_penalty", "presence_penalty", "frequency_penalty"})


def _asked_of(sampling: TokenSampling) -> dict[str, Any]:
    """How the server's own sampler is to draw, as a request says it."""
    ends = sorted(sampling.eot_ids)
    return {"temperature": sampling.temperature, "stop_token_ids": ends, **sampling.filters, **sampling.options}


def _chosen(models: list[dict[str, Any]], name: str | None, address: str) -> dict[str, Any]:
    names = [str(model["id"]) for model in models]
    if not models:
        raise ServerError(f"the server {address} has no model")
    if name is None and len(models) > 1:
        raise InvalidArgumentError(f"the server {address} has the models {', '.join(names)}; say which by model=")
    if name is not None and name not in names:
        raise InvalidArgumentError(f"the server {address} has no model {name!r}, but {', '.join(names)}")
    return models[0 if name is None else names.index(name)]


def _columns(server: Server, model: str) -> int:
    """The columns of a row, from one row. Refuse a server that gives only a part of it."""
    whole = (
        "Exact bytes need whole rows: start the server with `vllm serve MODEL --max-logprobs -1`. A server that "
        "cannot give them, such as a hosted API, cannot be used"
    )
    try:
        ((tokens, logprobs),) = server.rows(model, [(0,)])
    except ServerError as error:
        if "logprobs" not in str(error):
            raise
        raise ServerError(f"{error}. {whole}") from error
    columns = int(tokens.max(initial=-1)) + 1
    if len(set(tokens.tolist())) != columns or abs(float(np.exp(logprobs, dtype=np.float64).sum()) - 1) > 1e-2:
        raise ServerError(
            f"the server {server.address} gives the log-probabilities of {len(tokens)} tokens, which is not all of "
            f"the model's tokens. {whole}"
        )
    return columns


def _tokenizer(given: Any, place: Any, address: str) -> Any:
    if given is None and place is None:
        raise ModelError(
            f"the server {address} does not say where its model is from; give tokenizer=, a folder or hub id"
        )
    try:
        return tokenizer_of(given, place)
    except ModelError as error:
        if given is None:
            error.add_note(
                f"the server {address} says that its model is {place!r}; give tokenizer=, a folder or hub id"
            )
        raise


def _configurations(place: Any, *, near: bool) -> Any:
    """What stands beside a tokenizer about the ends of a text.

    Args:
        place: A folder or hub id.
        near: Whether to look on this machine alone, and do without: the tokenizer did not come from there.

    Raises:
        ModelError: It is there, and cannot be read.
    """
    from transformers import AutoConfig, GenerationConfig
    from transformers.utils.hub import cached_file

    found = SimpleNamespace(config=SimpleNamespace(), generation_config=None)
    kinds: tuple[tuple[str, Any, dict[str, bool]], ...] = (
        ("config", AutoConfig, {"trust_remote_code": False}),  # else transformers asks on standard input
        ("generation_config", GenerationConfig, {}),
    )
    for name, kind, code in kinds:
        file = f"{name}.json"
        try:
            if cached_file(place, file, local_files_only=near, _raise_exceptions_for_missing_entries=False) is not None:
                setattr(found, name, kind.from_pretrained(place, local_files_only=near, **code))
        except Exception as error:  # transformers, the hub and the disk each have their own
            if near:
                continue
            raise ModelError(
                f"cannot read {file} of {str(place)!r}, which may say what ends a text: {error}; give eot_ids="
            ) from error
    return found
